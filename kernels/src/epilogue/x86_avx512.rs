//! Epilogues on AVX-512: the plain `HalfEven` requantization in registers, and the operations of the others.
//!
//! ```text
//! i32 ─cvt─▶ f32 ─·m─▶ ─cvt, half to even─▶ i32 ─packs─▶ i16 ─adds zero─▶ ─packus─▶ u8 ─max low, min high─▶
//! ```
//! Everything happens in the u8 domain; s8 outputs are shifted by 128 and flipped back by the last XOR.
//! Products fit an i32 (`Epilogue::plain_half_even`); every step after the conversion saturates towards the bounds.

use std::arch::x86_64::*;

use super::{Keep, NR, Refill, Sign, Stored, TileOut, x86_fused::Scale, x86_rows::Lanes};
use crate::{gemm::kernel::for_each_row, unroll::unrolled};

/// [`Stored`] in registers.
#[derive(Clone, Copy)]
pub(crate) struct Requantizer {
    zero_point: __m512i,
    low: __m512i,
    high: __m512i,
    flip: __m512i,
}

impl Requantizer {
    /// # Safety
    /// AVX-512 F and BW are supported.
    #[inline(always)]
    pub(crate) unsafe fn new(stored: Stored) -> Self {
        let Stored { zero_point, low, high, flip } = stored;
        // SAFETY: the caller grants the features.
        unsafe {
            Self {
                zero_point: _mm512_set1_epi16(zero_point),
                low: _mm512_set1_epi8(low as i8),
                high: _mm512_set1_epi8(high as i8),
                flip: _mm512_set1_epi8(flip as i8),
            }
        }
    }

    /// 64 accumulators as bytes: 128-bit lane b of the result holds lanes b of the four vectors one after the other.
    ///
    /// # Safety
    /// AVX-512 F and BW are supported.
    #[inline(always)]
    pub(crate) unsafe fn bytes(self, acc: [__m512i; 4], m: [__m512; 4]) -> __m512i {
        // SAFETY: the caller grants the features.
        unsafe {
            self.pack([
                round(acc[0], m[0]),
                round(acc[1], m[1]),
                round(acc[2], m[2]),
                round(acc[3], m[3]),
            ])
        }
    }

    /// The same of integers before the zero point.
    #[inline(always)]
    unsafe fn pack(self, x: [__m512i; 4]) -> __m512i {
        // SAFETY: the caller grants the features.
        unsafe {
            let low = _mm512_packs_epi32(x[0], x[1]);
            let high = _mm512_packs_epi32(x[2], x[3]);
            let low = _mm512_adds_epi16(low, self.zero_point);
            let high = _mm512_adds_epi16(high, self.zero_point);
            let bytes = _mm512_max_epu8(_mm512_packus_epi16(low, high), self.low);
            _mm512_xor_si512(_mm512_min_epu8(bytes, self.high), self.flip)
        }
    }
}

/// 16 accumulators as rounded integers before the zero point.
#[inline(always)]
unsafe fn round(acc: __m512i, m: __m512) -> __m512i {
    // SAFETY: the caller grants the features.
    unsafe { _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(acc), m)) }
}

/// Writes a tile of 8-bit outputs, whose first column is `col`; `cols` of its NV·16 columns exist. Rows that are written
/// are refilled if all do.
///
/// # Safety
/// - AVX-512 F, BW, DQ and VL are supported.
/// - `scale` has columns `col` and following in so many panels; `cols ≤ NV·16` bytes of MR rows may be written, and if all
///   columns exist read from the residual that `scale` wants.
#[inline(always)]
pub(crate) unsafe fn requantize_tile<const MR: usize, const NV: usize>(
    acc: &mut [[__m512i; NV]; MR],
    stored: Stored,
    scale: impl Scale<Zmm>,
    (col, cols): (usize, usize),
    to: TileOut,
    refill: &impl Refill<__m512i>,
) {
    // SAFETY: same contract.
    unsafe {
        if cols == NV * NR {
            requantize_columns::<MR, NV, true>(acc, stored, scale, (col, cols), to, refill);
        } else {
            requantize_columns::<MR, NV, false>(acc, stored, scale, (col, cols), to, &Keep);
        }
    }
}

/// The same of all columns, or some if not `FULL`.
#[inline(always)]
unsafe fn requantize_columns<const MR: usize, const NV: usize, const FULL: bool>(
    acc: &mut [[__m512i; NV]; MR],
    stored: Stored,
    scale: impl Scale<Zmm>,
    (col, cols): (usize, usize),
    to: TileOut,
    refill: &impl Refill<__m512i>,
) {
    let ldc = to.ldc;
    // SAFETY: as granted; rows beyond the tile are not stored.
    unsafe {
        let requantizer = Requantizer::new(stored);
        let mut columns = [scale.columns(col); NV];
        for (v, columns) in columns.iter_mut().enumerate().skip(1) {
            *columns = scale.columns(col + v * NR);
        }
        // Four vectors are packed at a time: of as many rows as there are in narrow tiles.
        let rows = if NV > 2 { 1 } else { 4 / NV };
        for_each_row!(r < MR {
            if r.is_multiple_of(rows) {
                let at = |i: usize| if NV > 2 { (r, i % NV) } else { ((r + i / NV).min(MR - 1), i % NV) };
                let mut x = [_mm512_setzero_si512(); 4];
                unrolled!(i in [0 1 2 3] {
                    let (r, v) = at(i);
                    let residual = to.residual.wrapping_add(r * to.ldr + v * NR);
                    x[i] = scale.apply(Zmm(acc[r][v]), columns[v], residual).0;
                });
                let lanes = requantizer.pack(x);
                // Lane b holds 4 bytes of each vector: collect the vectors.
                let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
                let bytes = _mm512_permutexvar_epi32(order, lanes);
                let out = to.out.add(r * ldc);
                if NV > 2 {
                    if FULL && NV == 4 {
                        _mm512_storeu_si512(out.cast(), bytes);
                    } else {
                        _mm512_mask_storeu_epi8(out.cast(), u64::MAX >> (64 - cols), bytes);
                    }
                } else if NV == 2 {
                    store32(out, _mm512_castsi512_si256(bytes), FULL, cols);
                    if r + 1 < MR {
                        store32(out.add(ldc), _mm512_extracti64x4_epi64::<1>(bytes), FULL, cols);
                    }
                } else {
                    store16(out, _mm512_castsi512_si128(bytes), FULL, cols);
                    if r + 1 < MR {
                        store16(out.add(ldc), _mm512_extracti32x4_epi32::<1>(bytes), FULL, cols);
                    }
                    if r + 2 < MR {
                        store16(out.add(2 * ldc), _mm512_extracti32x4_epi32::<2>(bytes), FULL, cols);
                        store16(out.add(3 * ldc), _mm512_extracti32x4_epi32::<3>(bytes), FULL, cols);
                    }
                }
                refill.rows(acc, r, rows.min(MR - r));
            }
        });
    }
}

/// Writes the first `cols` of 32 bytes, all of them if `full`.
#[inline(always)]
unsafe fn store32(out: *mut u8, bytes: __m256i, full: bool, cols: usize) {
    // SAFETY: the caller grants `cols` bytes and the features; the mask keeps stores to them.
    unsafe {
        if full {
            _mm256_storeu_si256(out.cast(), bytes);
        } else {
            _mm256_mask_storeu_epi8(out.cast(), u32::MAX >> (32 - cols), bytes);
        }
    }
}

/// Writes the first `cols` of 16 bytes, all of them if `full`.
#[inline(always)]
unsafe fn store16(out: *mut u8, bytes: __m128i, full: bool, cols: usize) {
    // SAFETY: as above.
    unsafe {
        if full {
            _mm_storeu_si128(out.cast(), bytes);
        } else {
            _mm_mask_storeu_epi8(out.cast(), u16::MAX >> (16 - cols), bytes);
        }
    }
}

/// `(x · m0 + 2^(total − 1)) >> total` of the low halves of 64-bit lanes.
#[inline(always)]
unsafe fn scale_single(x: __m512i, m0: __m512i, total: __m512i) -> __m512i {
    // SAFETY: the caller grants the features.
    unsafe {
        let half = _mm512_srli_epi64::<1>(_mm512_sllv_epi64(_mm512_set1_epi64(1), total));
        _mm512_srav_epi64(_mm512_add_epi64(_mm512_mul_epi32(x, m0), half), total)
    }
}

/// 16 accumulators in one register.
#[derive(Clone, Copy)]
pub(crate) struct Zmm(__m512i);

impl Lanes for Zmm {
    type Floats = __m512;
    type Acc = __m512i;

    #[inline(always)]
    fn of(acc: __m512i) -> Self {
        Self(acc)
    }

    #[inline(always)]
    fn acc(self) -> __m512i {
        self.0
    }

    #[inline(always)]
    unsafe fn load(from: *const i32) -> Self {
        // SAFETY: the caller grants 16 values and the features; so in every method.
        unsafe { Self(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_set1_epi32(value)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn clamp(self, low: Self, high: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_min_epi32(_mm512_max_epi32(self.0, low.0), high.0)) }
    }

    #[inline(always)]
    unsafe fn double(self, m0: Self, shift: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let zero = _mm512_setzero_si512();
            let x = _mm512_sllv_epi32(self.0, _mm512_max_epi32(shift.0, zero));
            let right = _mm512_max_epi32(_mm512_sub_epi32(zero, shift.0), zero);
            // Only bits 31 … 62 of the 64-bit sums are kept.
            let half = _mm512_set1_epi64(1 << 30);
            let even = _mm512_add_epi64(_mm512_mul_epi32(x, m0.0), half);
            let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(x), _mm512_srli_epi64::<32>(m0.0));
            let odd = _mm512_add_epi64(odd, half);
            let high = _mm512_mask_blend_epi32(
                0xaaaa,
                _mm512_srli_epi64::<31>(even),
                _mm512_slli_epi64::<1>(odd),
            );
            let one = _mm512_set1_epi32(1);
            let mask = _mm512_sub_epi32(_mm512_sllv_epi32(one, right), one);
            let negative = _mm512_srli_epi32::<31>(high);
            let threshold = _mm512_add_epi32(_mm512_srli_epi32::<1>(mask), negative);
            let up = _mm512_cmpgt_epi32_mask(_mm512_and_si512(high, mask), threshold);
            let quotient = _mm512_srav_epi32(high, right);
            Self(_mm512_mask_add_epi32(quotient, up, quotient, one))
        }
    }

    #[inline(always)]
    unsafe fn single(self, m0: Self, shift: Self, low: Self, high: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let total = _mm512_sub_epi32(_mm512_set1_epi32(31), shift.0);
            let low_half = _mm512_set1_epi64(0xffff_ffff);
            let even = scale_single(self.0, m0.0, _mm512_and_si512(total, low_half));
            let odd = scale_single(
                _mm512_srli_epi64::<32>(self.0),
                _mm512_srli_epi64::<32>(m0.0),
                _mm512_srli_epi64::<32>(total),
            );
            // Bounds are the same in every lane, so their pairs are what a 64-bit clamp needs once extended.
            let low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(low.0));
            let high = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(high.0));
            let even = _mm512_min_epi64(_mm512_max_epi64(even, low), high);
            let odd = _mm512_min_epi64(_mm512_max_epi64(odd, low), high);
            Self(_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64::<32>(odd)))
        }
    }

    #[inline(always)]
    unsafe fn floats(self) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn load_floats(from: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_floats(x: __m512, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn splat_float(value: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fused(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn round(x: __m512, low: __m512, high: __m512) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(x, low), high))) }
    }

    #[inline(always)]
    unsafe fn nearest(x: __m512) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_cvtps_epi32(x)) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, sign: Sign) -> Self {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            Self(match sign {
                Sign::U8 => _mm512_cvtepu8_epi32(bytes),
                Sign::S8 => _mm512_cvtepi8_epi32(bytes),
            })
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(self.0)) }
    }
}
