//! GEMM micro-kernel, AVX-512 without VNNI: `vpmaddwd` on i16 operands, KR = 2.
//!
//! Activations are staged as i16. Weights are K2N16 s8: few rows, in tiles as those of AVX-512 VNNI, widen them on load; more
//! rows take crossed products. Two products of i16 fit an i32, so nothing can saturate.

use std::arch::x86_64::*;

use super::{
    crossed::{Crossed, crossed_set},
    kernel::{Dot, KernelSet, Spill, kernel_set},
};
use crate::epilogue::{
    NR, Quant, Refill, Sign, Stored, TileOut,
    x86_avx512::{Zmm, requantize_tile},
    x86_fused::{HalfEven, scaled},
    x86_rows::finish_rows,
};

pub(crate) struct Avx512Bw;

impl Dot for Avx512Bw {
    const KR: usize = 2;
    const IN_PLACE: Option<Sign> = None;
    const WHOLE_ROWS: bool = true;
    const RING_K: usize = 0;
    type A = i16;
    type Splat = __m512i;
    type B = __m512i;
    type Acc = __m512i;

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 32 bytes and the features.
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(b.cast())) }
    }

    #[inline(always)]
    unsafe fn splat(a: *const i16) -> Self::Splat {
        // SAFETY: the caller grants 2 values and the features.
        unsafe { _mm512_set1_epi32(a.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut i16) {
        // SAFETY: `len` readable bytes, and as many writable values, rounded up to KR; the caller grants the features.
        unsafe {
            let widen = |bytes| match sign {
                Sign::U8 => _mm512_cvtepu8_epi16(bytes),
                Sign::S8 => _mm512_cvtepi8_epi16(bytes),
            };
            let whole = len / 32 * 32;
            for at in (0..whole).step_by(32) {
                let bytes = _mm256_loadu_si256(src.add(at).cast());
                _mm512_storeu_si512(dst.add(at).cast(), widen(bytes));
            }
            if whole < len {
                let left = len - whole;
                let bytes = _mm256_maskz_loadu_epi8(u32::MAX >> (32 - left), src.add(whole).cast());
                let write = u32::MAX >> (32 - left.next_multiple_of(Self::KR));
                _mm512_mask_storeu_epi16(dst.add(whole).cast(), write, widen(bytes));
            }
        }
    }

    super::x86_zmm::accumulators!();
}

impl Crossed for Avx512Bw {
    #[inline(always)]
    unsafe fn load_wide(b: *const i16) -> Self::B {
        // SAFETY: the caller grants 32 values and the features.
        unsafe { _mm512_load_si512(b.cast()) }
    }

    #[inline(always)]
    unsafe fn store_wide(b: Self::B, to: *mut i16) {
        // SAFETY: the caller grants room for 32 values and the features.
        unsafe { _mm512_store_si512(to.cast(), b) }
    }

    #[inline(always)]
    unsafe fn cross(
        acc: Self::Acc,
        x: Self::Splat,
        y: Self::Splat,
        b: [Self::B; 2],
        _at: *const i16,
    ) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe {
            let (x, y) = (_mm512_add_epi16(x, b[1]), _mm512_add_epi16(y, b[0]));
            _mm512_add_epi32(acc, _mm512_madd_epi16(x, y))
        }
    }

    #[inline(always)]
    unsafe fn less_own(acc: Self::Acc, b: [Self::B; 2]) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_sub_epi32(acc, _mm512_madd_epi16(b[0], b[1])) }
    }

    #[inline(always)]
    unsafe fn plus(acc: Self::Acc, term: i32) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_add_epi32(acc, _mm512_set1_epi32(term)) }
    }

    #[inline(always)]
    unsafe fn stage_crossed(src: *const u8, len: usize, sign: Sign, dst: *mut i16) -> i32 {
        // SAFETY: `len` readable bytes, and as many writable values, rounded up to whole vectors; the caller grants the
        // features.
        unsafe {
            let mut term = _mm512_setzero_si512();
            for at in (0..len).step_by(32) {
                let bytes = match len - at {
                    left @ ..32 => {
                        _mm256_maskz_loadu_epi8(u32::MAX >> (32 - left), src.add(at).cast())
                    }
                    _ => _mm256_loadu_si256(src.add(at).cast()),
                };
                let values = match sign {
                    Sign::U8 => _mm512_cvtepu8_epi16(bytes),
                    Sign::S8 => _mm512_cvtepi8_epi16(bytes),
                };
                _mm512_store_si512(dst.add(at).cast(), values);
                let own = _mm512_madd_epi16(values, _mm512_srli_epi64::<32>(values));
                term = _mm512_sub_epi32(term, own);
            }
            _mm512_reduce_add_epi32(term)
        }
    }
}

pub(crate) static SET: KernelSet = {
    kernel_set!(
        staged #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        Avx512Bw, Avx512Bw,
        [16 x 1, 8 x 1, 4 x 1 x 2, 2 x 1 x 4, 1 x 1 x 8],
        [12 x 2, 8 x 2, 4 x 2, 2 x 2 x 2, 1 x 2 x 8],
        [8 x 3, 4 x 3, 2 x 3, 1 x 3 x 8],
        [6 x 4, 4 x 4, 2 x 4, 1 x 4 x 8]
    );
    KernelSet {
        crossed: Some(&crossed_set!(
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")] Avx512Bw, 512, 16,
            8, [12, 8, 4, 2, 1] x 2; 8, [12, 8, 4, 2, 1] x 1
        )),
        ..SET
    }
};
