//! The plain `HalfEven` requantization on AVX-512 registers.
//!
//! ```text
//! i32 ─cvt─▶ f32 ─·m─▶ ─min high─▶ ─cvt, half to even─▶ i32 ─packs─▶ i16 ─adds zero─▶ ─packus─▶ u8 ─max low─▶
//! ```
//! Everything happens in the u8 domain; s8 outputs are shifted by 128 and flipped back by the last XOR.
//! A product below −2³¹ converts to `i32::MIN`, which saturates on to the lower bound; one above is caught by the
//! minimum before, so every step is the clamp of the definition.

use std::arch::x86_64::*;

use super::{Quant, Sign};

/// The constants of one [`Quant`], in registers.
#[derive(Clone, Copy)]
pub(crate) struct Requantizer {
    high: __m512,
    zero_point: __m512i,
    low: __m512i,
    flip: __m512i,
}

impl Requantizer {
    /// # Safety
    /// AVX-512 F and BW are supported.
    #[inline(always)]
    pub(crate) unsafe fn new(quant: &Quant) -> Self {
        let (shift, flip) = match quant.sign {
            Sign::U8 => (0, 0),
            Sign::S8 => (128, 0x80u8 as i8),
        };
        // SAFETY: the caller grants the features.
        unsafe {
            Self {
                high: _mm512_set1_ps(quant.high as f32),
                zero_point: _mm512_set1_epi16((quant.zero_point + shift) as i16),
                low: _mm512_set1_epi8((quant.low + quant.zero_point + shift) as u8 as i8),
                flip: _mm512_set1_epi8(flip),
            }
        }
    }

    /// 16 accumulators as rounded integers before the zero point, at most the upper bound.
    #[inline(always)]
    unsafe fn round(self, acc: __m512i, m: __m512) -> __m512i {
        // SAFETY: the caller grants the features.
        unsafe {
            _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc), m), self.high))
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
            let low = _mm512_packs_epi32(self.round(acc[0], m[0]), self.round(acc[1], m[1]));
            let high = _mm512_packs_epi32(self.round(acc[2], m[2]), self.round(acc[3], m[3]));
            let low = _mm512_adds_epi16(low, self.zero_point);
            let high = _mm512_adds_epi16(high, self.zero_point);
            _mm512_xor_si512(_mm512_max_epu8(_mm512_packus_epi16(low, high), self.low), self.flip)
        }
    }

    /// Writes the first `cols` of a row of NV·16 accumulators.
    ///
    /// # Safety
    /// AVX-512 F, BW and VL are supported; `cols ≤ NV·16 ≤ 64` bytes at `out` may be written.
    #[inline(always)]
    pub(crate) unsafe fn store_row<const NV: usize>(
        self,
        acc: &[__m512i; NV],
        m: &[__m512; NV],
        cols: usize,
        out: *mut u8,
    ) {
        // Vectors beyond the row repeat its first one; their bytes are not stored.
        let pick = |v: usize| if v < NV { v } else { 0 };
        // SAFETY: the caller grants the features, and `cols` bytes; the mask keeps stores to them.
        unsafe {
            let lanes = self.bytes(
                [acc[0], acc[pick(1)], acc[pick(2)], acc[pick(3)]],
                [m[0], m[pick(1)], m[pick(2)], m[pick(3)]],
            );
            // Lane b holds 4 bytes of each vector: collect the vectors.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let row = _mm512_permutexvar_epi32(order, lanes);
            if cols == 64 {
                _mm512_storeu_si512(out.cast(), row);
            } else if cols == 32 {
                _mm256_storeu_si256(out.cast(), _mm512_castsi512_si256(row));
            } else if cols == 16 {
                _mm_storeu_si128(out.cast(), _mm512_castsi512_si128(row));
            } else {
                _mm512_mask_storeu_epi8(out.cast(), u64::MAX >> (64 - cols), row);
            }
        }
    }
}
