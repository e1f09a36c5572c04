//! GEMM micro-kernel, AVX-512 VNNI: `vpdpbusd`, tiles 12×32, 8×48, 6×64 and 16×16, KR = 4.
//!
//! u8 activations are read in place and broadcast four at a time; s8 ones are staged with their sign bit flipped.
//! `vpdpbusd` (not `vpdpbusds`) adds four products modulo 2³²; a sum of four stays below 2¹⁸.
//! The plain `HalfEven` epilogue stays in registers.

use std::arch::x86_64::*;

use super::kernel::{Dot, Spill, kernel_set, stage_bytes};
use crate::epilogue::{
    Quant, Sign,
    x86_avx512::{Zmm, requantize_tile},
    x86_rows::finish_rows,
};

pub(crate) struct Avx512Vnni;

impl Dot for Avx512Vnni {
    const KR: usize = 4;
    const IN_PLACE: Option<Sign> = Some(Sign::U8);
    type A = u8;
    type Splat = __m512i;
    type B = __m512i;
    type Acc = __m512i;

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> Self::Acc {
        // SAFETY: the caller grants 16 values and the features.
        unsafe { _mm512_loadu_si512(bias.cast()) }
    }

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
    unsafe fn store(acc: Self::Acc, out: *mut i32) {
        // SAFETY: the caller grants room for 16 values and the features.
        unsafe { _mm512_storeu_si512(out.cast(), acc) }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut u8) {
        let mask = if sign == Sign::S8 { 0x80 } else { 0 };
        // SAFETY: same contract.
        unsafe { stage_bytes(src, len, mask, dst, Self::KR) }
    }

    #[inline(always)]
    unsafe fn add(acc: Self::Acc, other: Self::Acc) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_add_epi32(acc, other) }
    }

    #[inline(always)]
    unsafe fn sub_zeros(acc: Self::Acc, sum: i32, zeros: *const i32) -> Self::Acc {
        // SAFETY: the caller grants 16 values and the features.
        unsafe {
            let zeros = _mm512_loadu_si512(zeros.cast());
            _mm512_sub_epi32(acc, _mm512_mullo_epi32(_mm512_set1_epi32(sum), zeros))
        }
    }

    #[inline(always)]
    unsafe fn store_scaled(acc: Self::Acc, scales: *const f32, out: *mut f32) {
        // SAFETY: the caller grants 16 values at either pointer and the features.
        unsafe {
            _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_loadu_ps(scales)))
        }
    }

    #[inline(always)]
    unsafe fn requantize<const MR: usize, const NV: usize>(
        acc: &[[Self::Acc; NV]; MR],
        quant: &Quant,
        multiplier: *const f32,
        cols: usize,
        out: *mut u8,
        ldc: usize,
    ) -> bool {
        // SAFETY: same contract; multipliers are padded to whole panels.
        unsafe { requantize_tile(acc, quant, multiplier, cols, out, ldc) };
        true
    }

    #[inline(always)]
    unsafe fn finish(spill: Spill<'_>) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn finish(spill: Spill<'_>) {
            let Spill { epilogue, acc, width, columns, to } = spill;
            // SAFETY: same contract; the features are enabled here.
            unsafe { finish_rows::<Zmm>(epilogue, acc, width, columns, to) }
        }
        // SAFETY: same contract; the caller grants the features.
        unsafe { finish(spill) }
    }
}

kernel_set!(
    staged #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    Avx512Vnni, Avx512Vnni,
    [16 x 1, 8 x 1, 4 x 1 x 2, 2 x 1 x 4, 1 x 1 x 8],
    [12 x 2, 8 x 2, 4 x 2, 2 x 2 x 2, 1 x 2 x 4],
    [8 x 3, 4 x 3, 2 x 3, 1 x 3 x 2],
    [6 x 4, 4 x 4, 2 x 4, 1 x 4 x 2]
);
