//! GEMM micro-kernel, AVX2: `vpmaddwd` on i16 operands, tile 6×16, KR = 2.
//!
//! Activations are staged as i16. Weights are K2N16 s8, widened on load; of many rows the first leave what they
//! widened for the others. Two products of i16 fit an i32, so unlike `vpmaddubsw` nothing can saturate.

use std::arch::x86_64::*;

use super::kernel::{Dot, KernelSet, Spill, kernel_set, stage_i16, wide_tiles};
use crate::epilogue::{
    NR, Quant, Refill, Sign, TileOut,
    x86_avx2::{Ymms, requantize_tile},
    x86_fused::{HalfEven, scaled},
    x86_rows::finish_rows,
};

pub(crate) struct Avx2;

impl Dot for Avx2 {
    const KR: usize = 2;
    const IN_PLACE: Option<Sign> = None;
    const WHOLE_ROWS: bool = true;
    const RING_K: usize = 64;
    type A = i16;
    type Splat = __m256i;
    type B = [__m256i; 2];
    type Acc = [__m256i; 2];

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
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut i16) {
        // SAFETY: `len` readable bytes, and as many writable values, rounded up to KR; the caller grants the features.
        unsafe {
            if len < 16 {
                return stage_i16(src, len, sign, dst, Self::KR);
            }
            for at in (0..len).step_by(16) {
                // The last vector ends with the row.
                let at = at.min(len - 16);
                let bytes = _mm_loadu_si128(src.add(at).cast());
                let values = match sign {
                    Sign::U8 => _mm256_cvtepu8_epi16(bytes),
                    Sign::S8 => _mm256_cvtepi8_epi16(bytes),
                };
                _mm256_storeu_si256(dst.add(at).cast(), values);
            }
            for at in len..len.next_multiple_of(Self::KR) {
                dst.add(at).write(0);
            }
        }
    }

    super::x86_ymms::accumulators!();
}

/// The same on panels that were widened before: K counts bytes, 4 are a pair of i16.
struct Widened;

impl Dot for Widened {
    const KR: usize = 4;
    const IN_PLACE: Option<Sign> = None;
    const WHOLE_ROWS: bool = true;
    const PARTIAL: bool = true;
    const A_PER_VALUE: usize = 2;
    type A = u8;
    type Splat = __m256i;
    type B = [__m256i; 2];
    type Acc = [__m256i; 2];

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 64 bytes and the features.
        unsafe { [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn splat(a: *const u8) -> Self::Splat {
        // SAFETY: same contract.
        unsafe { Avx2::splat(a.cast()) }
    }

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        // SAFETY: same contract.
        unsafe { Avx2::dot(acc, a, b) }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut u8) {
        // SAFETY: same contract.
        unsafe { Avx2::stage(src, len, sign, dst.cast()) }
    }

    super::x86_ymms::accumulators!();
}

pub(crate) static SET: KernelSet = {
    kernel_set!(
        staged #[target_feature(enable = "avx2,fma")] Avx2, Avx2,
        [6 x 1, 4 x 1, 2 x 1 x 2, 1 x 1 x 4]
    );
    KernelSet {
        wide: Some(wide_tiles!(
            #[target_feature(enable = "avx2,fma")] Avx2, 6, Widened, [6 x 1, 4 x 1, 2 x 1, 1 x 1]
        )),
        ..SET
    }
};
