//! GEMM micro-kernel, AVX2: `vpmaddwd` on i16 operands, KR = 2.
//!
//! Activations are staged as i16. Weights are K2N16 s8: few rows, tile 6×16, widen them on load; more rows take crossed
//! products, tile 4×16. Two products of i16 fit an i32, so unlike `vpmaddubsw` nothing can saturate.

use std::arch::{asm, x86_64::*};

use super::{
    crossed::{Crossed, crossed_set},
    kernel::{Dot, KernelSet, Spill, kernel_set, stage_i16},
};
use crate::epilogue::{
    NR, Quant, Refill, Sign, Stored, TileOut,
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

    super::x86_ymms::accumulators!(4 | 6);
}

impl Crossed for Avx2 {
    #[inline(always)]
    unsafe fn load_wide(b: *const i16) -> Self::B {
        // SAFETY: the caller grants 32 values and the features.
        unsafe { [_mm256_load_si256(b.cast()), _mm256_load_si256(b.add(16).cast())] }
    }

    #[inline(always)]
    unsafe fn store_wide(b: Self::B, to: *mut i16) {
        // SAFETY: the caller grants room for 32 values and the features.
        unsafe {
            _mm256_store_si256(to.cast(), b[0]);
            _mm256_store_si256(to.add(16).cast(), b[1]);
        }
    }

    #[inline(always)]
    unsafe fn cross(
        acc: Self::Acc,
        x: Self::Splat,
        y: Self::Splat,
        b: [Self::B; 2],
        at: *const i16,
    ) -> Self::Acc {
        // SAFETY: the caller grants the features, and two lines at `at`.
        unsafe {
            let low = _mm256_madd_epi16(_mm256_add_epi16(x, b[1][0]), _mm256_add_epi16(y, b[0][0]));
            let high = _mm256_madd_epi16(add_fourth(x, at), _mm256_add_epi16(y, b[0][1]));
            [_mm256_add_epi32(acc[0], low), _mm256_add_epi32(acc[1], high)]
        }
    }

    #[inline(always)]
    unsafe fn less_own(acc: Self::Acc, b: [Self::B; 2]) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe {
            [
                _mm256_sub_epi32(acc[0], _mm256_madd_epi16(b[0][0], b[1][0])),
                _mm256_sub_epi32(acc[1], _mm256_madd_epi16(b[0][1], b[1][1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn plus(acc: Self::Acc, term: i32) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe {
            let term = _mm256_set1_epi32(term);
            [_mm256_add_epi32(acc[0], term), _mm256_add_epi32(acc[1], term)]
        }
    }

    #[inline(always)]
    unsafe fn stage_crossed(src: *const u8, len: usize, sign: Sign, dst: *mut i16) -> i32 {
        /// After so many bytes begins the order that moves the others to the front, before zeros.
        const ORDER: [i8; 32] = {
            let mut order = [-1; 32];
            let mut i = 0;
            while i < 16 {
                order[i] = i as i8;
                i += 1;
            }
            order
        };
        // SAFETY: `len` readable bytes, and as many writable values, rounded up to whole vectors; the caller grants the
        // features.
        unsafe {
            let mut term = _mm256_setzero_si256();
            let mut put = |bytes: __m128i, at: usize| {
                let values = match sign {
                    Sign::U8 => _mm256_cvtepu8_epi16(bytes),
                    Sign::S8 => _mm256_cvtepi8_epi16(bytes),
                };
                _mm256_store_si256(dst.add(at).cast(), values);
                let own = _mm256_madd_epi16(values, _mm256_srli_epi64::<32>(values));
                term = _mm256_sub_epi32(term, own);
            };
            let whole = len / 16 * 16;
            for at in (0..whole).step_by(16) {
                put(_mm_loadu_si128(src.add(at).cast()), at);
            }
            if whole < len {
                let bytes = if len >= 16 {
                    let order = _mm_loadu_si128(ORDER.as_ptr().add(16 - (len - whole)).cast());
                    _mm_shuffle_epi8(_mm_loadu_si128(src.add(len - 16).cast()), order)
                } else {
                    let mut bytes = [0u8; 16];
                    std::ptr::copy_nonoverlapping(src, bytes.as_mut_ptr(), len);
                    _mm_loadu_si128(bytes.as_ptr().cast())
                };
                put(bytes, whole);
            }
            let term =
                _mm_add_epi32(_mm256_castsi256_si128(term), _mm256_extracti128_si256::<1>(term));
            let term = _mm_add_epi32(term, _mm_unpackhi_epi64(term, term));
            _mm_cvtsi128_si32(_mm_add_epi32(term, _mm_shuffle_epi32::<1>(term)))
        }
    }
}

/// `x` plus the last of the four vectors at `at`, from memory: as operands of their own all four would leave too few
/// registers, and take longer.
///
/// # Safety
/// `at` has two lines.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_fourth(x: __m256i, at: *const i16) -> __m256i {
    let sum;
    // SAFETY: the last 32 of 128 readable bytes.
    unsafe {
        asm!("vpaddw {sum}, {x}, [{at} + 96]", sum = out(ymm_reg) sum, x = in(ymm_reg) x, at = in(reg) at,
             options(pure, readonly, nostack, preserves_flags));
    }
    sum
}

pub(crate) static SET: KernelSet = {
    kernel_set!(
        staged #[target_feature(enable = "avx2,fma")] Avx2, Avx2,
        [6 x 1, 4 x 1, 2 x 1 x 2, 1 x 1 x 4]
    );
    KernelSet {
        crossed: Some(&crossed_set!(
            #[target_feature(enable = "avx2,fma")] Avx2, 1024, 12, 4, [4, 3, 2, 1] x 1
        )),
        ..SET
    }
};
