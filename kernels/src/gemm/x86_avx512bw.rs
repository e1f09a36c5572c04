//! GEMM micro-kernel, AVX-512 without VNNI: `vpmaddwd` on i16 operands, tiles as those of AVX-512 VNNI, KR = 2.
//!
//! Activations are staged as i16, weights are K2N16 s8 and widened on load, once for up to 16 rows. Two products of
//! i16 fit an i32, so nothing can saturate.

use std::arch::x86_64::*;

use super::kernel::{Dot, Spill, kernel_set};
use crate::epilogue::{
    NR, Quant, Refill, Sign, TileOut,
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

kernel_set!(
    staged #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    Avx512Bw, Avx512Bw,
    [16 x 1, 8 x 1, 4 x 1 x 2, 2 x 1 x 4, 1 x 1 x 8],
    [12 x 2, 8 x 2, 4 x 2, 2 x 2 x 2, 1 x 2 x 8],
    [8 x 3, 4 x 3, 2 x 3, 1 x 3 x 8],
    [6 x 4, 4 x 4, 2 x 4, 1 x 4 x 8]
);
