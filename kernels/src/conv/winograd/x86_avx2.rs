//! Winograd on AVX2: `vpmaddwd` of pairs of channels, tile 6×16.

use std::arch::x86_64::*;

use super::kernel::{Winograd, WinogradSet, winograd_set};
use crate::gemm::x86_avx2::Avx2;

impl Winograd for Avx2 {
    type Dot = Self;
    type Values = __m256i;
    const LANES: usize = 16;
    const MR: usize = 6;

    #[inline(always)]
    unsafe fn widen<const S8: bool>(bytes: *const u8) -> __m256i {
        // SAFETY: the caller grants 16 bytes and the features.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.cast());
            if S8 { _mm256_cvtepi8_epi16(bytes) } else { _mm256_cvtepu8_epi16(bytes) }
        }
    }

    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller grants the features.
        unsafe { _mm256_add_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller grants the features.
        unsafe { _mm256_sub_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn store(values: __m256i, to: *mut i16) {
        // SAFETY: the caller grants room for 16 values and the features.
        unsafe { _mm256_storeu_si256(to.cast(), values) }
    }

    #[inline(always)]
    unsafe fn weights(b: *const i16) -> [__m256i; 2] {
        // SAFETY: the caller grants 32 values and the features.
        unsafe { [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(16).cast())] }
    }

    #[inline(always)]
    unsafe fn add_sums(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the caller grants the features.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn sub_sums(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the caller grants the features.
        unsafe { [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn quarter(sums: [__m256i; 2], bias: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the caller grants the features.
        unsafe {
            [
                _mm256_add_epi32(_mm256_srai_epi32::<2>(sums[0]), bias[0]),
                _mm256_add_epi32(_mm256_srai_epi32::<2>(sums[1]), bias[1]),
            ]
        }
    }
}

pub(super) static SET: WinogradSet = winograd_set!(
    #[target_feature(enable = "avx2,fma")]
    Avx2
);
