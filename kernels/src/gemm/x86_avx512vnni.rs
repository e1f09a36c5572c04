//! GEMM micro-kernel, AVX-512 VNNI: `vpdpbusd`, tiles 12×32, 8×48, 6×64 and 16×16, KR = 4.
//!
//! u8 activations are read in place and broadcast four at a time; s8 ones are staged with their sign bit flipped.
//! `vpdpbusd` (not `vpdpbusds`) adds four products modulo 2³²; a sum of four stays below 2¹⁸.
//! The plain `HalfEven` epilogue stays in registers.

use std::arch::x86_64::*;

use super::kernel::{Dot, Spill, for_each_row, kernel_set, stage_bytes};
use crate::epilogue::{NR, Quant, Sign, x86_avx512::Requantizer};

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
    unsafe fn requantize<const MR: usize, const NV: usize>(
        acc: &[[Self::Acc; NV]; MR],
        quant: &Quant,
        multiplier: *const f32,
        cols: usize,
        out: *mut u8,
        ldc: usize,
    ) -> bool {
        // SAFETY: multipliers are padded to whole panels, so NV·16 are readable; the caller grants `cols` bytes of
        // each of the MR rows, and the features.
        unsafe {
            let requantizer = Requantizer::new(quant);
            let mut m = [_mm512_loadu_ps(multiplier); NV];
            for (v, m) in m.iter_mut().enumerate() {
                *m = _mm512_loadu_ps(multiplier.add(v * NR));
            }
            for_each_row!(r < MR {
                requantizer.store_row(&acc[r], &m, cols, out.add(r * ldc));
            });
        }
        true
    }

    #[inline(always)]
    unsafe fn finish(spill: Spill<'_>) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn finish(spill: Spill<'_>) {
            // SAFETY: same contract.
            unsafe { spill.finish() }
        }
        // SAFETY: same contract; the caller grants the features.
        unsafe { finish(spill) }
    }
}

kernel_set!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")] Avx512Vnni, Avx512Vnni,
    [16 x 1, 8 x 1, 4 x 1, 2 x 1, 1 x 1],
    [12 x 2, 8 x 2, 4 x 2, 2 x 2, 1 x 2],
    [8 x 3, 4 x 3, 2 x 3, 1 x 3],
    [6 x 4, 4 x 4, 2 x 4, 1 x 4]
);
