//! Weight-only micro-kernels of x86.
//!
//! AVX2: tiles 6×16 (s8) and 4×16 (4-bit), codes by shifts. AVX-512: tiles 12×32 (s8), 4×64 and 1×128, 4-bit codes by
//! `vpermps`, which looks the low four bits of each word up in a table of the sixteen values.

use std::arch::x86_64::*;

use super::kernel::{Columns, weight_only_tiles};

pub(super) struct Avx2;

impl Columns for Avx2 {
    const UNROLL: [usize; 2] = [16, 2];
    type V = [__m256; 2];
    type Words = [__m256i; 2];

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::V {
        // SAFETY: the caller grants the features.
        unsafe { [_mm256_set1_ps(v); 2] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller grants 16 values and the features.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(v: Self::V, to: *mut f32) {
        // SAFETY: the caller grants room for 16 values and the features.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the caller grants the features.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller grants the features.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const i8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) }
    }

    #[inline(always)]
    unsafe fn load_s8(codes: *const i8) -> Self::V {
        // SAFETY: the caller grants 16 bytes and the features.
        unsafe {
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(codes.cast()))),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(codes.add(8).cast()))),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_words(words: *const i8) -> Self::Words {
        // SAFETY: the caller grants 64 bytes and the features.
        unsafe { [_mm256_loadu_si256(words.cast()), _mm256_loadu_si256(words.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn no_words() -> Self::Words {
        // SAFETY: the caller grants the features.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    unsafe fn next(words: &mut Self::Words) -> Self::V {
        // SAFETY: the caller grants the features.
        unsafe {
            let [a, b] = *words;
            *words = [_mm256_slli_epi32::<4>(a), _mm256_slli_epi32::<4>(b)];
            [
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<28>(a)),
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<28>(b)),
            ]
        }
    }
}

pub(super) struct Avx512;

impl Columns for Avx512 {
    const UNROLL: [usize; 2] = [16, 16];
    type V = __m512;
    type Words = __m512i;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::V {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_set1_ps(v) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller grants 16 values and the features.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(v: Self::V, to: *mut f32) {
        // SAFETY: the caller grants room for 16 values and the features.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const i8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) }
    }

    #[inline(always)]
    unsafe fn load_s8(codes: *const i8) -> Self::V {
        // SAFETY: the caller grants 16 bytes and the features.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_words(words: *const i8) -> Self::Words {
        // SAFETY: the caller grants 64 bytes and the features.
        unsafe { _mm512_loadu_si512(words.cast()) }
    }

    #[inline(always)]
    unsafe fn no_words() -> Self::Words {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn next(words: &mut Self::Words) -> Self::V {
        // SAFETY: the caller grants the features.
        unsafe {
            let values = _mm512_setr_ps(
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0,
                -1.0,
            );
            *words = _mm512_rol_epi32::<4>(*words);
            _mm512_permutexvar_ps(*words, values)
        }
    }
}

weight_only_tiles!(
    AVX2_S8, #[target_feature(enable = "avx2,fma")] Avx2, false, [6 x [1], 4 x [1], 3 x [1], 2 x [2 1], 1 x [4 2 1]]
);
weight_only_tiles!(
    AVX2_S4, #[target_feature(enable = "avx2,fma")] Avx2, true, [4 x [1], 3 x [1], 2 x [1], 1 x [2 1]]
);
weight_only_tiles!(
    AVX512_S8, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")] Avx512, false,
    [12 x [2 1], 4 x [4 1], 3 x [4 1], 2 x [4 1], 1 x [8 4 2 1]]
);
weight_only_tiles!(
    AVX512_S4, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")] Avx512, true,
    [4 x [4 1], 3 x [4 1], 2 x [4 1], 1 x [8 4 2 1]]
);
