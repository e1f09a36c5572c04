//! GEMM micro-kernel, `sdot` by element: tile 6×16, KR = 4.
//!
//! s8 activations are read in place, 16 of a row at a time: each of the four lanes is one group of KR values, which
//! `sdot` broadcasts by itself. u8 ones are staged with their sign bit flipped.

use std::arch::aarch64::*;

use super::{
    arm_asm::sdot_lane,
    arm_epilogues::epilogues,
    kernel::{Dot, Spill, Strided, for_each_row, group, kernel_set, stage_bytes},
};
use crate::epilogue::{
    NR, Quant, Refill, Sign, Stored, TileOut,
    arm_neon::{HalfEven, quantize_tile, requantize_tile},
};

pub(crate) struct Dotprod;

/// Groups of KR values that one vector of A holds.
const LANES: usize = 4;

/// One group of all rows: lane LANE of the vectors `a` times the 64 weights of each panel at `b`.
///
/// # Safety
/// `sdot` is supported; `b` points to a group in each of NV panels, `panel` bytes apart.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "v and q are later indices of acc")]
unsafe fn lane<const LANE: u32, const MR: usize, const NV: usize>(
    acc: &mut [[[int32x4_t; 4]; NV]; MR],
    a: &[int8x16_t; MR],
    b: *const i8,
    panel: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        for v in 0..NV {
            for q in 0..4 {
                let b = vld1q_s8(b.add(v * panel + q * 16));
                for_each_row!(r < MR {
                    acc[r][v][q] = sdot_lane::<LANE>(acc[r][v][q], b, a[r]);
                });
            }
        }
    }
}

impl Dot for Dotprod {
    const KR: usize = 4;
    const IN_PLACE: Option<Sign> = Some(Sign::S8);
    type A = u8;
    type Splat = int8x16_t;
    /// Vector v holds columns 4·v … 4·v + 3.
    type B = [int8x16_t; 4];
    type Acc = [int32x4_t; 4];

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> Self::Acc {
        // SAFETY: the caller grants 16 values; NEON is part of the target.
        unsafe {
            [
                vld1q_s32(bias),
                vld1q_s32(bias.add(4)),
                vld1q_s32(bias.add(8)),
                vld1q_s32(bias.add(12)),
            ]
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
        for (acc, b) in acc.iter_mut().zip(b) {
            // SAFETY: the caller grants the features.
            *acc = unsafe { sdot_lane::<0>(*acc, b, a) };
        }
        acc
    }

    #[inline(always)]
    unsafe fn accumulate<const MR: usize, const NV: usize>(
        acc: &mut [[Self::Acc; NV]; MR],
        a: Strided<u8>,
        b: Strided<i8>,
        groups: usize,
    ) {
        // SAFETY: the caller grants `groups` groups of MR rows and NV panels, and the features.
        unsafe {
            // One row has too few accumulators to wait for each other: odd groups get their own.
            let mut odd = [[[vdupq_n_s32(0); 4]; NV]; MR];
            let whole = groups / LANES * LANES;
            for g in (0..whole).step_by(LANES) {
                let mut av = [vld1q_s8(a.at(0, g * Self::KR).cast()); MR];
                for_each_row!(r < MR {
                    av[r] = vld1q_s8(a.at(r, g * Self::KR).cast());
                });
                let weights = b.at(0, g * NR * Self::KR);
                let nth = |g: usize| weights.add(g * NR * Self::KR);
                lane::<0, MR, NV>(acc, &av, nth(0), b.stride);
                lane::<1, MR, NV>(if MR == 1 { &mut odd } else { acc }, &av, nth(1), b.stride);
                lane::<2, MR, NV>(acc, &av, nth(2), b.stride);
                lane::<3, MR, NV>(if MR == 1 { &mut odd } else { acc }, &av, nth(3), b.stride);
            }
            if MR == 1 {
                for (acc, odd) in acc[0].iter_mut().flatten().zip(odd[0].into_iter().flatten()) {
                    *acc = vaddq_s32(*acc, odd);
                }
            }
            for g in whole..groups {
                let (a, b) = (a.skip(g * Self::KR), b.skip(g * NR * Self::KR));
                group::<Self, MR, NV>(acc, |r| a.at(r, 0), b);
            }
        }
    }

    #[inline(always)]
    unsafe fn store(acc: Self::Acc, out: *mut i32) {
        for (v, acc) in acc.into_iter().enumerate() {
            // SAFETY: the caller grants room for 16 values; NEON is part of the target.
            unsafe { vst1q_s32(out.add(4 * v), acc) }
        }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut u8) {
        let mask = if sign == Sign::U8 { 0x80 } else { 0 };
        // SAFETY: same contract.
        unsafe { stage_bytes(src, len, mask, dst, Self::KR) }
    }

    const REQUANTIZES: bool = true;

    epilogues!(|row| row);
}

kernel_set!(
    staged #[target_feature(enable = "neon,dotprod")] NeonDotprod, Dotprod,
    [6 x 1, 4 x 1, 2 x 1, 1 x 1]
);
