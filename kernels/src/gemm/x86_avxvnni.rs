//! GEMM micro-kernel, AVX-VNNI: the 256-bit VEX form of `vpdpbusd`, tile 6×16, KR = 4.
//!
//! Operands, packing and arithmetic are those of AVX-512 VNNI; a panel takes two registers.

use std::arch::x86_64::*;

use super::kernel::{Dot, Spill, kernel_set, stage_bytes};
use crate::epilogue::{
    Quant, Sign,
    x86_avx2::{Ymms, requantize_tile},
    x86_rows::finish_rows,
};

pub(crate) struct AvxVnni;

impl Dot for AvxVnni {
    const KR: usize = 4;
    const IN_PLACE: Option<Sign> = Some(Sign::U8);
    type A = u8;
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
        // SAFETY: the caller grants 64 bytes and the features.
        unsafe { [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn splat(a: *const u8) -> Self::Splat {
        // SAFETY: the caller grants 4 bytes and the features.
        unsafe { _mm256_set1_epi32(a.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe {
            [_mm256_dpbusd_avx_epi32(acc[0], a, b[0]), _mm256_dpbusd_avx_epi32(acc[1], a, b[1])]
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
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut u8) {
        let mask = if sign == Sign::S8 { 0x80 } else { 0 };
        // SAFETY: same contract.
        unsafe { stage_bytes(src, len, mask, dst, Self::KR) }
    }

    #[inline(always)]
    unsafe fn add(acc: Self::Acc, other: Self::Acc) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe { [_mm256_add_epi32(acc[0], other[0]), _mm256_add_epi32(acc[1], other[1])] }
    }

    #[inline(always)]
    unsafe fn sub_zeros(acc: Self::Acc, sum: i32, zeros: *const i32) -> Self::Acc {
        // SAFETY: the caller grants 16 values and the features.
        unsafe {
            let sum = _mm256_set1_epi32(sum);
            let z = [_mm256_loadu_si256(zeros.cast()), _mm256_loadu_si256(zeros.add(8).cast())];
            [
                _mm256_sub_epi32(acc[0], _mm256_mullo_epi32(sum, z[0])),
                _mm256_sub_epi32(acc[1], _mm256_mullo_epi32(sum, z[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store_scaled(acc: Self::Acc, scales: *const f32, out: *mut f32) {
        // SAFETY: the caller grants 16 values at either pointer and the features.
        unsafe {
            let (a, b) = (_mm256_cvtepi32_ps(acc[0]), _mm256_cvtepi32_ps(acc[1]));
            _mm256_storeu_ps(out, _mm256_mul_ps(a, _mm256_loadu_ps(scales)));
            _mm256_storeu_ps(out.add(8), _mm256_mul_ps(b, _mm256_loadu_ps(scales.add(8))));
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
        #[target_feature(enable = "avx2,fma")]
        unsafe fn finish(spill: Spill<'_>) {
            let Spill { epilogue, acc, width, columns, to } = spill;
            // SAFETY: same contract; the features are enabled here.
            unsafe { finish_rows::<Ymms>(epilogue, acc, width, columns, to) }
        }
        // SAFETY: same contract; the caller grants the features.
        unsafe { finish(spill) }
    }
}

kernel_set!(
    staged #[target_feature(enable = "avxvnni,avx2,fma")] AvxVnni, AvxVnni,
    [6 x 1, 4 x 1, 2 x 1 x 2, 1 x 1 x 4]
);
