//! GEMM micro-kernel, AVX2: `vpmaddwd` on i16 operands, tile 6×16, KR = 2.
//!
//! Activations are staged as i16, weights are K2N16 s8 and widened on load. Two products of i16 fit an i32, so unlike
//! `vpmaddubsw` nothing can saturate. The epilogue is the portable one, vectorized for AVX2.

use std::arch::x86_64::*;

use super::kernel::{Dot, Spill, kernel_set, stage_i16};
use crate::epilogue::Sign;

pub(crate) struct Avx2;

impl Dot for Avx2 {
    const KR: usize = 2;
    const IN_PLACE: Option<Sign> = None;
    type A = i16;
    type Splat = __m256i;
    type B = [__m256i; 2];
    type Acc = [__m256i; 2];

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> Self::Acc {
        // SAFETY: the caller grants 16 values and the features.
        unsafe { [_mm256_loadu_si256(bias.cast()), _mm256_loadu_si256(bias.add(8).cast())] }
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
    unsafe fn splat(a: *const i16) -> Self::Splat {
        // SAFETY: the caller grants 2 values and the features.
        unsafe { _mm256_set1_epi32(a.cast::<i32>().read_unaligned()) }
    }

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

    #[inline(always)]
    unsafe fn store(acc: Self::Acc, out: *mut i32) {
        // SAFETY: the caller grants room for 16 values and the features.
        unsafe {
            _mm256_storeu_si256(out.cast(), acc[0]);
            _mm256_storeu_si256(out.add(8).cast(), acc[1]);
        }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut i16) {
        // SAFETY: same contract.
        unsafe { stage_i16(src, len, sign, dst, Self::KR) }
    }

    #[inline(always)]
    unsafe fn finish(spill: Spill<'_>) {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn finish(spill: Spill<'_>) {
            // SAFETY: same contract.
            unsafe { spill.finish() }
        }
        // SAFETY: same contract; the caller grants the features.
        unsafe { finish(spill) }
    }
}

kernel_set!(#[target_feature(enable = "avx2,fma")] Avx2, Avx2, [6 x 1, 4 x 1, 2 x 1, 1 x 1]);
