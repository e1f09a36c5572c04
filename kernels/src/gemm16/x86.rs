//! int16×int8 micro-kernels of x86: weights are widened on load, activations broadcast in place.
//!
//! | ISA | products | tiles |
//! | --- | --- | --- |
//! | AVX2 | `vpmaddwd` and `vpaddd` | 6×16 |
//! | AVX-VNNI | `vpdpwssd` in its VEX form | 6×16 |
//! | AVX-512 BW | `vpmaddwd` and `vpaddd` | 6×64, 1×128 |
//! | AVX-512 VNNI | `vpdpwssd`, not the saturating `vpdpwssds` | 6×64, 1×128 |
//!
//! No pair of products can wrap: only −2¹⁵·−2¹⁵ twice would, and weights are s8.

use std::arch::x86_64::*;

use super::kernel::{Dot16, Quant16, tiles16};

/// What the 256-bit tiers do alike with two registers of 8 sums.
macro_rules! ymms {
    () => {
        type Splat = __m256i;
        type B = [__m256i; 2];
        type Acc = [__m256i; 2];

        #[inline(always)]
        unsafe fn zero() -> Self::Acc {
            // SAFETY: the caller grants the features.
            unsafe { [_mm256_setzero_si256(); 2] }
        }

        #[inline(always)]
        unsafe fn load_b(b: *const i8) -> Self::B {
            // SAFETY: the caller grants 32 bytes and the features.
            unsafe {
                [
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(b.cast())),
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(b.add(16).cast())),
                ]
            }
        }

        #[inline(always)]
        unsafe fn splat(pair: i32) -> Self::Splat {
            // SAFETY: the caller grants the features.
            unsafe { _mm256_set1_epi32(pair) }
        }

        #[inline(always)]
        unsafe fn flush(acc: Self::Acc, from: *const i64, to: *mut i64) {
            // SAFETY: the caller grants 16 values and the features.
            unsafe {
                for (half, acc) in acc.into_iter().enumerate() {
                    let parts = [_mm256_castsi256_si128(acc), _mm256_extracti128_si256::<1>(acc)];
                    for (quarter, part) in parts.into_iter().enumerate() {
                        let (at, wide) = (half * 8 + quarter * 4, _mm256_cvtepi32_epi64(part));
                        let sum = _mm256_add_epi64(_mm256_loadu_si256(from.add(at).cast()), wide);
                        _mm256_storeu_si256(to.add(at).cast(), sum);
                    }
                }
            }
        }

        #[inline(always)]
        unsafe fn finish(quant: &Quant16, sums: &[i64], col: usize, c: &mut [i16]) {
            #[target_feature(enable = "avx2,fma")]
            fn finish(quant: &Quant16, sums: &[i64], col: usize, c: &mut [i16]) {
                quant.row(sums, col, c);
            }
            // SAFETY: the caller grants the features.
            unsafe { finish(quant, sums, col, c) }
        }
    };
}

/// What the AVX-512 tiers do alike with a register of 16 sums.
macro_rules! zmms {
    () => {
        type Splat = __m512i;
        type B = __m512i;
        type Acc = __m512i;

        #[inline(always)]
        unsafe fn zero() -> Self::Acc {
            // SAFETY: the caller grants the features.
            unsafe { _mm512_setzero_si512() }
        }

        #[inline(always)]
        unsafe fn load_b(b: *const i8) -> Self::B {
            // SAFETY: the caller grants 32 bytes and the features.
            unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(b.cast())) }
        }

        #[inline(always)]
        unsafe fn splat(pair: i32) -> Self::Splat {
            // SAFETY: the caller grants the features.
            unsafe { _mm512_set1_epi32(pair) }
        }

        #[inline(always)]
        unsafe fn flush(acc: Self::Acc, from: *const i64, to: *mut i64) {
            // SAFETY: the caller grants 16 values and the features.
            unsafe {
                let parts = [_mm512_castsi512_si256(acc), _mm512_extracti64x4_epi64::<1>(acc)];
                for (half, part) in parts.into_iter().enumerate() {
                    let (at, wide) = (half * 8, _mm512_cvtepi32_epi64(part));
                    let sum = _mm512_add_epi64(_mm512_loadu_si512(from.add(at).cast()), wide);
                    _mm512_storeu_si512(to.add(at).cast(), sum);
                }
            }
        }

        #[inline(always)]
        unsafe fn finish(quant: &Quant16, sums: &[i64], col: usize, c: &mut [i16]) {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn finish(quant: &Quant16, sums: &[i64], col: usize, c: &mut [i16]) {
                quant.row(sums, col, c);
            }
            // SAFETY: the caller grants the features.
            unsafe { finish(quant, sums, col, c) }
        }
    };
}

struct Avx2;

impl Dot16 for Avx2 {
    ymms!();

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe {
            [
                _mm256_add_epi32(acc[0], _mm256_madd_epi16(a, b[0])),
                _mm256_add_epi32(acc[1], _mm256_madd_epi16(a, b[1])),
            ]
        }
    }
}

struct AvxVnni;

impl Dot16 for AvxVnni {
    ymms!();

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe {
            [_mm256_dpwssd_avx_epi32(acc[0], a, b[0]), _mm256_dpwssd_avx_epi32(acc[1], a, b[1])]
        }
    }
}

struct Avx512Bw;

impl Dot16 for Avx512Bw {
    zmms!();

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)) }
    }
}

struct Avx512Vnni;

impl Dot16 for Avx512Vnni {
    zmms!();

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_dpwssd_epi32(acc, a, b) }
    }
}

tiles16!(AVX2, #[target_feature(enable = "avx2,fma")] Avx2, [6 x [1], 4 x [1], 2 x [2 1], 1 x [4 2 1]]);
tiles16!(
    AVXVNNI, #[target_feature(enable = "avxvnni,avx2,fma")] AvxVnni,
    [6 x [1], 4 x [1], 2 x [2 1], 1 x [4 2 1]]
);
tiles16!(
    AVX512BW, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")] Avx512Bw,
    [6 x [4 2 1], 4 x [4 1], 2 x [4 1], 1 x [8 4 2 1]]
);
tiles16!(
    AVX512_VNNI, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")] Avx512Vnni,
    [6 x [4 2 1], 4 x [4 1], 2 x [4 1], 1 x [8 4 2 1]]
);
