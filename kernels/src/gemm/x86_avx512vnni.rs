//! GEMM micro-kernel, AVX-512 VNNI: `vpdpbusd`, tiles 12×32, 8×48, 6×64 and 16×16, KR = 4.
//!
//! u8 activations are read in place and broadcast four at a time; s8 ones are staged with their sign bit flipped.
//! `vpdpbusd` (not `vpdpbusds`) adds four products modulo 2³²; a sum of four stays below 2¹⁸.
//! The plain `HalfEven` epilogue stays in registers.

use std::arch::x86_64::*;

use super::kernel::{Dot, Spill, kernel_set};
use crate::epilogue::{
    NR, Quant, Refill, Sign, Stored, TileOut,
    x86_avx512::{Zmm, requantize_tile},
    x86_fused::{HalfEven, scaled},
    x86_rows::finish_rows,
};

pub(crate) struct Avx512Vnni;

impl Dot for Avx512Vnni {
    const KR: usize = 4;
    const IN_PLACE: Option<Sign> = Some(Sign::U8);
    const WHOLE_ROWS: bool = true;
    const RING_K: usize = 0;
    type A = u8;
    type Splat = __m512i;
    type B = __m512i;
    type Acc = __m512i;

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 64 bytes and the features.
        unsafe { _mm512_loadu_si512(b.cast()) }
    }

    #[inline(always)]
    unsafe fn splat(a: *const u8) -> Self::Splat {
        // SAFETY: the caller grants 4 bytes and the features.
        unsafe { _mm512_set1_epi32(a.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_dpbusd_epi32(acc, a, b) }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut u8) {
        let mask = if sign == Sign::S8 { 0x80u8 as i8 } else { 0 };
        // SAFETY: `len` readable bytes, and as many writable ones, rounded up to KR; the caller grants the features.
        unsafe {
            let mask = _mm512_set1_epi8(mask);
            let whole = len / 64 * 64;
            for at in (0..whole).step_by(64) {
                let bytes = _mm512_loadu_si512(src.add(at).cast());
                _mm512_storeu_si512(dst.add(at).cast(), _mm512_xor_si512(bytes, mask));
            }
            if whole < len {
                let left = len - whole;
                let bytes = _mm512_maskz_loadu_epi8(u64::MAX >> (64 - left), src.add(whole).cast());
                let write = u64::MAX >> (64 - left.next_multiple_of(Self::KR));
                let bytes = _mm512_xor_si512(bytes, mask);
                _mm512_mask_storeu_epi8(dst.add(whole).cast(), write, bytes);
            }
        }
    }

    super::x86_zmm::accumulators!();
}

kernel_set!(
    staged #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    Avx512Vnni, Avx512Vnni,
    [16 x 1, 8 x 1, 4 x 1 x 2, 2 x 1 x 4, 1 x 1 x 8],
    [12 x 2, 8 x 2, 4 x 2, 2 x 2 x 2, 1 x 2 x 8],
    [8 x 3, 4 x 3, 2 x 3, 1 x 3 x 8],
    [6 x 4, 4 x 4, 2 x 4, 1 x 4 x 8]
);
