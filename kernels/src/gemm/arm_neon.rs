//! GEMM micro-kernel, NEON: `smull`, `smull2` and `sadalp`, tile 2×16, KR = 4.
//!
//! s8 activations are read in place and broadcast four at a time; u8 ones are staged with their sign bit flipped.
//! A product of two s8 fits an i16 even for −128·−128, and each is added to i32 sums of pairs at once, so unlike
//! with `smlal2` on i16 sums nothing can overflow. An accumulator holds two partial sums per column, which are added
//! when the tile is finished.

use std::arch::aarch64::*;

use super::kernel::{Dot, Spill, kernel_set, stage_bytes};
use crate::epilogue::Sign;

pub(crate) struct Neon;

impl Dot for Neon {
    const KR: usize = 4;
    const IN_PLACE: Option<Sign> = Some(Sign::S8);
    type A = u8;
    type Splat = int8x16_t;
    /// Vector v holds columns 4·v … 4·v + 3.
    type B = [int8x16_t; 4];
    /// Vector v holds the sums of taps (0, 1) and (2, 3) of columns 2·v and 2·v + 1.
    type Acc = [int32x4_t; 8];

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> Self::Acc {
        // SAFETY: the caller grants 16 values; NEON is part of the target.
        unsafe {
            let mut acc = [vdupq_n_s32(0); 8];
            for (v, acc) in acc.iter_mut().enumerate() {
                // (b0, b1) → (b0, 0, b1, 0)
                *acc = vreinterpretq_s32_u64(vmovl_u32(vld1_u32(bias.add(2 * v).cast())));
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 64 bytes; NEON is part of the target.
        unsafe { [vld1q_s8(b), vld1q_s8(b.add(16)), vld1q_s8(b.add(32)), vld1q_s8(b.add(48))] }
    }

    #[inline(always)]
    unsafe fn splat(a: *const u8) -> Self::Splat {
        // SAFETY: the caller grants 4 bytes; NEON is part of the target.
        unsafe { vreinterpretq_s8_s32(vdupq_n_s32(a.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn dot(mut acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        // SAFETY: NEON is part of the target.
        unsafe {
            for (v, b) in b.into_iter().enumerate() {
                acc[2 * v] = vpadalq_s16(acc[2 * v], vmull_s8(vget_low_s8(a), vget_low_s8(b)));
                acc[2 * v + 1] = vpadalq_s16(acc[2 * v + 1], vmull_high_s8(a, b));
            }
        }
        acc
    }

    #[inline(always)]
    unsafe fn store(acc: Self::Acc, out: *mut i32) {
        // SAFETY: the caller grants room for 16 values; NEON is part of the target.
        unsafe {
            for v in 0..4 {
                vst1q_s32(out.add(4 * v), vpaddq_s32(acc[2 * v], acc[2 * v + 1]));
            }
        }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut u8) {
        let mask = if sign == Sign::U8 { 0x80 } else { 0 };
        // SAFETY: same contract.
        unsafe { stage_bytes(src, len, mask, dst, Self::KR) }
    }

    #[inline(never)]
    unsafe fn finish(spill: Spill<'_>) {
        // SAFETY: same contract; NEON is part of the target, so LLVM uses it here too.
        unsafe { spill.finish() }
    }
}

kernel_set!(#[target_feature(enable = "neon")] Neon, Neon, [2 x 1, 1 x 1]);
