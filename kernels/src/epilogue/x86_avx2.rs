//! Epilogues on AVX2: the plain `HalfEven` requantization in registers, and the operations of the others.
//!
//! The requantization is that of `x86_avx512`.

use std::arch::x86_64::*;

use super::{Keep, NR, Refill, Sign, Stored, TileOut, x86_fused::Scale, x86_rows::Lanes};
use crate::gemm::kernel::for_each_row;

/// [`Stored`] in registers.
#[derive(Clone, Copy)]
struct Requantizer {
    zero_point: __m256i,
    low: __m256i,
    high: __m256i,
    flip: __m256i,
}

impl Requantizer {
    #[inline(always)]
    unsafe fn new(stored: Stored) -> Self {
        let Stored { zero_point, low, high, flip } = stored;
        // SAFETY: the caller grants the features.
        unsafe {
            Self {
                zero_point: _mm256_set1_epi16(zero_point),
                low: _mm256_set1_epi8(low as i8),
                high: _mm256_set1_epi8(high as i8),
                flip: _mm256_set1_epi8(flip as i8),
            }
        }
    }

    /// Two rows of 16 integers before the zero point as two rows of bytes.
    #[inline(always)]
    unsafe fn pack(self, a: Ymms, b: Ymms) -> __m256i {
        // SAFETY: the caller grants the features.
        unsafe {
            let a = _mm256_adds_epi16(_mm256_packs_epi32(a.0, a.1), self.zero_point);
            let b = _mm256_adds_epi16(_mm256_packs_epi32(b.0, b.1), self.zero_point);
            let bytes = _mm256_max_epu8(_mm256_packus_epi16(a, b), self.low);
            let bytes = _mm256_min_epu8(bytes, self.high);
            // Each half holds columns 0 … 3 or 4 … 7 of: a's first and second vector, b's first and second.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            _mm256_permutevar8x32_epi32(_mm256_xor_si256(bytes, self.flip), order)
        }
    }
}

/// Writes a tile of 8-bit outputs, whose first column is `col`; `cols` of its 16 columns exist. Rows that are written are
/// refilled if all do.
///
/// # Safety
/// - AVX2 and FMA are supported.
/// - `scale` has columns `col` and following; `cols ≤ 16` bytes of MR rows may be written, and if all columns exist read
///   from the residual that `scale` wants.
#[inline(always)]
pub(crate) unsafe fn requantize_tile<const MR: usize, const NV: usize>(
    acc: &mut [[[__m256i; 2]; NV]; MR],
    stored: Stored,
    scale: impl Scale<Ymms>,
    (col, cols): (usize, usize),
    to: TileOut,
    refill: &impl Refill<[__m256i; 2]>,
) {
    const { assert!(NV == 1, "256-bit tiles are one panel wide") };
    // SAFETY: same contract.
    unsafe {
        if cols == NR {
            requantize_columns::<MR, NV, true>(acc, stored, scale, (col, cols), to, refill);
        } else {
            requantize_columns::<MR, NV, false>(acc, stored, scale, (col, cols), to, &Keep);
        }
    }
}

/// The same of all columns, or some if not `FULL`.
#[inline(always)]
unsafe fn requantize_columns<const MR: usize, const NV: usize, const FULL: bool>(
    acc: &mut [[[__m256i; 2]; NV]; MR],
    stored: Stored,
    scale: impl Scale<Ymms>,
    (col, cols): (usize, usize),
    to: TileOut,
    refill: &impl Refill<[__m256i; 2]>,
) {
    // SAFETY: as granted; rows beyond the tile are not stored.
    unsafe {
        let requantizer = Requantizer::new(stored);
        let columns = scale.columns(col);
        for_each_row!(r < MR {
            if r.is_multiple_of(2) {
                let next = if r + 1 < MR { r + 1 } else { r };
                let (first, second) = (to.at_row(r), to.at_row(next));
                let a = scale.apply(Ymms::of(acc[r][0]), columns, first.residual);
                let b = scale.apply(Ymms::of(acc[next][0]), columns, second.residual);
                let bytes = requantizer.pack(a, b);
                store16(first.out, _mm256_castsi256_si128(bytes), FULL, cols);
                if next != r {
                    store16(second.out, _mm256_extracti128_si256::<1>(bytes), FULL, cols);
                }
                refill.rows(acc, r, next + 1 - r);
            }
        });
    }
}

/// Writes the first `cols` of 16 bytes, all of them if `full`.
#[inline(always)]
unsafe fn store16(out: *mut u8, bytes: __m128i, full: bool, cols: usize) {
    // SAFETY: the caller grants `cols` bytes and the features.
    unsafe {
        if full {
            _mm_storeu_si128(out.cast(), bytes);
        } else {
            let mut whole = [0u8; NR];
            _mm_storeu_si128(whole.as_mut_ptr().cast(), bytes);
            std::ptr::copy_nonoverlapping(whole.as_ptr(), out, cols);
        }
    }
}

/// 16 accumulators in two registers.
#[derive(Clone, Copy)]
pub(crate) struct Ymms(__m256i, __m256i);

impl Lanes for Ymms {
    type Floats = (__m256, __m256);
    type Acc = [__m256i; 2];

    #[inline(always)]
    fn of(acc: [__m256i; 2]) -> Self {
        Self(acc[0], acc[1])
    }

    #[inline(always)]
    fn acc(self) -> [__m256i; 2] {
        [self.0, self.1]
    }

    #[inline(always)]
    unsafe fn load(from: *const i32) -> Self {
        // SAFETY: the caller grants 16 values and the features; so in every method.
        unsafe { Self(_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(8).cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_si256(to.cast(), self.0);
            _mm256_storeu_si256(to.add(8).cast(), self.1);
        }
    }

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm256_set1_epi32(value), _mm256_set1_epi32(value)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm256_add_epi32(self.0, other.0), _mm256_add_epi32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn clamp(self, low: Self, high: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            Self(
                _mm256_min_epi32(_mm256_max_epi32(self.0, low.0), high.0),
                _mm256_min_epi32(_mm256_max_epi32(self.1, low.1), high.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn double(self, m0: Self, shift: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(double(self.0, m0.0, shift.0), double(self.1, m0.1, shift.1)) }
    }

    #[inline(always)]
    unsafe fn single(self, m0: Self, shift: Self, low: Self, high: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            Self(
                single(self.0, m0.0, shift.0, low.0, high.0),
                single(self.1, m0.1, shift.1, low.1, high.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        // SAFETY: as above.
        unsafe { (_mm256_cvtepi32_ps(self.0), _mm256_cvtepi32_ps(self.1)) }
    }

    #[inline(always)]
    unsafe fn load_floats(from: *const f32) -> Self::Floats {
        // SAFETY: as above.
        unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn store_floats(x: Self::Floats, to: *mut f32) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(to, x.0);
            _mm256_storeu_ps(to.add(8), x.1);
        }
    }

    #[inline(always)]
    unsafe fn splat_float(value: f32) -> Self::Floats {
        // SAFETY: as above.
        unsafe { (_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: as above.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn fused(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: as above.
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    unsafe fn round(x: Self::Floats, low: Self::Floats, high: Self::Floats) -> Self {
        // SAFETY: as above.
        unsafe {
            Self(
                _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(x.0, low.0), high.0)),
                _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(x.1, low.1), high.1)),
            )
        }
    }

    #[inline(always)]
    unsafe fn nearest(x: Self::Floats) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm256_cvtps_epi32(x.0), _mm256_cvtps_epi32(x.1)) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, sign: Sign) -> Self {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            let upper = _mm_srli_si128::<8>(bytes);
            match sign {
                Sign::U8 => Self(_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(upper)),
                Sign::S8 => Self(_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(upper)),
            }
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8) {
        // SAFETY: as above.
        unsafe {
            let low_byte = _mm256_set1_epi32(0xff);
            let pairs = _mm256_packus_epi32(
                _mm256_and_si256(self.0, low_byte),
                _mm256_and_si256(self.1, low_byte),
            );
            let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
            let bytes = _mm_packus_epi16(
                _mm256_castsi256_si128(pairs),
                _mm256_extracti128_si256::<1>(pairs),
            );
            _mm_storeu_si128(to.cast(), bytes);
        }
    }
}

/// [`super::FixedPoint::apply_double`].
#[inline(always)]
unsafe fn double(acc: __m256i, m0: __m256i, shift: __m256i) -> __m256i {
    // SAFETY: the caller grants the features.
    unsafe {
        let zero = _mm256_setzero_si256();
        let x = _mm256_sllv_epi32(acc, _mm256_max_epi32(shift, zero));
        let right = _mm256_max_epi32(_mm256_sub_epi32(zero, shift), zero);
        // Only bits 31 … 62 of the 64-bit sums are kept.
        let half = _mm256_set1_epi64x(1 << 30);
        let even = _mm256_add_epi64(_mm256_mul_epi32(x, m0), half);
        let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(x), _mm256_srli_epi64::<32>(m0));
        let odd = _mm256_add_epi64(odd, half);
        let high =
            _mm256_blend_epi32::<0xaa>(_mm256_srli_epi64::<31>(even), _mm256_slli_epi64::<1>(odd));
        let one = _mm256_set1_epi32(1);
        let mask = _mm256_sub_epi32(_mm256_sllv_epi32(one, right), one);
        let negative = _mm256_srli_epi32::<31>(high);
        let threshold = _mm256_add_epi32(_mm256_srli_epi32::<1>(mask), negative);
        // All ones, which is −1, where the quotient is rounded up.
        let up = _mm256_cmpgt_epi32(_mm256_and_si256(high, mask), threshold);
        _mm256_sub_epi32(_mm256_srav_epi32(high, right), up)
    }
}

/// [`super::FixedPoint::apply_single`], clamped.
#[inline(always)]
unsafe fn single(
    acc: __m256i,
    m0: __m256i,
    shift: __m256i,
    low: __m256i,
    high: __m256i,
) -> __m256i {
    // SAFETY: the caller grants the features.
    unsafe {
        let total = _mm256_sub_epi32(_mm256_set1_epi32(31), shift);
        let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(low));
        let high = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(high));
        let low_half = _mm256_set1_epi64x(0xffff_ffff);
        let even = scale_single(acc, m0, _mm256_and_si256(total, low_half), low, high);
        let odd = scale_single(
            _mm256_srli_epi64::<32>(acc),
            _mm256_srli_epi64::<32>(m0),
            _mm256_srli_epi64::<32>(total),
            low,
            high,
        );
        _mm256_blend_epi32::<0xaa>(even, _mm256_slli_epi64::<32>(odd))
    }
}

/// `clamp((x · m0 + 2^(total − 1)) >> total)` of the low halves of 64-bit lanes.
#[inline(always)]
unsafe fn scale_single(
    x: __m256i,
    m0: __m256i,
    total: __m256i,
    low: __m256i,
    high: __m256i,
) -> __m256i {
    // SAFETY: the caller grants the features.
    unsafe {
        let half = _mm256_srli_epi64::<1>(_mm256_sllv_epi64(_mm256_set1_epi64x(1), total));
        let sum = _mm256_add_epi64(_mm256_mul_epi32(x, m0), half);
        // AVX2 has no arithmetic shift of 64 bits: shift sum + 2^63, and subtract what that added.
        let bias = _mm256_set1_epi64x(i64::MIN);
        let shifted = _mm256_sub_epi64(
            _mm256_srlv_epi64(_mm256_xor_si256(sum, bias), total),
            _mm256_srlv_epi64(bias, total),
        );
        let y = _mm256_blendv_epi8(shifted, low, _mm256_cmpgt_epi64(low, shifted));
        _mm256_blendv_epi8(y, high, _mm256_cmpgt_epi64(y, high))
    }
}
