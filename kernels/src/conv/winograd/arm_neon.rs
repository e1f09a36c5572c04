//! Winograd on NEON: `smlal` of a channel of a tile by 8 columns, tile 5×16, KR = 1.

use std::arch::aarch64::*;

use super::kernel::{Acc, Winograd, WinogradSet, winograd_set};
use crate::{
    epilogue::{
        NR, Quant, Refill, Sign, Stored, TileOut,
        arm_neon::{HalfEven, quantize_tile, requantize_tile},
    },
    gemm::{
        arm_epilogues::epilogues,
        kernel::{Dot, Spill, Strided, for_each_row, stage_i16},
    },
};

/// Products of i16 by i16.
struct Smlal;

impl Dot for Smlal {
    const KR: usize = 1;
    const IN_PLACE: Option<Sign> = None;
    type A = i16;
    type Splat = int16x8_t;
    type B = [int16x8_t; 2];
    type Acc = [int32x4_t; 4];

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> Self::Acc {
        // SAFETY: the caller grants 16 values; NEON is part of the target.
        unsafe { std::array::from_fn(|v| vld1q_s32(bias.add(4 * v))) }
    }

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 16 bytes; NEON is part of the target.
        unsafe { [vmovl_s8(vld1_s8(b)), vmovl_s8(vld1_s8(b.add(8)))] }
    }

    #[inline(always)]
    unsafe fn splat(a: *const i16) -> Self::Splat {
        // SAFETY: the caller grants a value; NEON is part of the target.
        unsafe { vld1q_dup_s16(a) }
    }

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        lane::<0>(acc, a, b)
    }

    #[inline(always)]
    unsafe fn store(acc: Self::Acc, out: *mut i32) {
        for (v, acc) in acc.into_iter().enumerate() {
            // SAFETY: the caller grants room for 16 values; NEON is part of the target.
            unsafe { vst1q_s32(out.add(4 * v), acc) }
        }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut i16) {
        // SAFETY: same contract.
        unsafe { stage_i16(src, len, sign, dst, Self::KR) }
    }

    epilogues!(|row| row);
}

/// `acc[j] += a[LANE]·b[j]`
#[inline(always)]
fn lane<const LANE: i32>(acc: [int32x4_t; 4], a: int16x8_t, b: [int16x8_t; 2]) -> [int32x4_t; 4] {
    // SAFETY: NEON is part of the target.
    unsafe {
        [
            vmlal_laneq_s16::<LANE>(acc[0], vget_low_s16(b[0]), a),
            vmlal_high_laneq_s16::<LANE>(acc[1], b[0], a),
            vmlal_laneq_s16::<LANE>(acc[2], vget_low_s16(b[1]), a),
            vmlal_high_laneq_s16::<LANE>(acc[3], b[1], a),
        ]
    }
}

/// [`lane`] of every row, by the weights of that channel.
#[inline(always)]
unsafe fn channel<const LANE: i32, const MR: usize>(
    acc: &mut [[int32x4_t; 4]; MR],
    a: &[int16x8_t; MR],
    b: *const i16,
) {
    // SAFETY: the caller grants the weights of 8 channels.
    let b = unsafe { Smlal::weights(b.add(LANE as usize * NR)) };
    for_each_row!(r < MR { acc[r] = lane::<LANE>(acc[r], a[r], b); });
}

impl Winograd for Smlal {
    type Dot = Self;
    type Values = int16x8_t;
    const LANES: usize = 8;
    const MR: usize = 5;

    #[inline(always)]
    unsafe fn widen<const S8: bool>(bytes: *const u8) -> int16x8_t {
        // SAFETY: the caller grants 8 bytes; NEON is part of the target.
        unsafe {
            if S8 {
                vmovl_s8(vld1_s8(bytes.cast()))
            } else {
                vreinterpretq_s16_u16(vmovl_u8(vld1_u8(bytes)))
            }
        }
    }

    #[inline(always)]
    unsafe fn add(a: int16x8_t, b: int16x8_t) -> int16x8_t {
        // SAFETY: NEON is part of the target.
        unsafe { vaddq_s16(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: int16x8_t, b: int16x8_t) -> int16x8_t {
        // SAFETY: NEON is part of the target.
        unsafe { vsubq_s16(a, b) }
    }

    #[inline(always)]
    unsafe fn store(values: int16x8_t, to: *mut i16) {
        // SAFETY: the caller grants room for 8 values; NEON is part of the target.
        unsafe { vst1q_s16(to, values) }
    }

    #[inline(always)]
    unsafe fn weights(b: *const i16) -> [int16x8_t; 2] {
        // SAFETY: the caller grants 16 values; NEON is part of the target.
        unsafe { [vld1q_s16(b), vld1q_s16(b.add(8))] }
    }

    #[inline(always)]
    unsafe fn accumulate<const MR: usize>(
        acc: &mut [Acc<Self>; MR],
        a: Strided<i16>,
        b: *const i16,
        groups: usize,
    ) {
        // SAFETY: the caller grants `groups` channels of MR rows and of the panel; NEON is part of the target.
        unsafe {
            for k in (0..groups / 8 * 8).step_by(8) {
                let mut av = [vld1q_s16(a.at(0, k)); MR];
                for_each_row!(r < MR { av[r] = vld1q_s16(a.at(r, k)); });
                let b = b.add(k * NR);
                channel::<0, MR>(acc, &av, b);
                channel::<1, MR>(acc, &av, b);
                channel::<2, MR>(acc, &av, b);
                channel::<3, MR>(acc, &av, b);
                channel::<4, MR>(acc, &av, b);
                channel::<5, MR>(acc, &av, b);
                channel::<6, MR>(acc, &av, b);
                channel::<7, MR>(acc, &av, b);
            }
            for k in groups / 8 * 8..groups {
                let b = Self::weights(b.add(k * NR));
                for_each_row!(r < MR { acc[r] = Self::dot(acc[r], Self::splat(a.at(r, k)), b); });
            }
        }
    }

    #[inline(always)]
    unsafe fn add_sums(a: [int32x4_t; 4], b: [int32x4_t; 4]) -> [int32x4_t; 4] {
        // SAFETY: NEON is part of the target.
        std::array::from_fn(|v| unsafe { vaddq_s32(a[v], b[v]) })
    }

    #[inline(always)]
    unsafe fn sub_sums(a: [int32x4_t; 4], b: [int32x4_t; 4]) -> [int32x4_t; 4] {
        // SAFETY: NEON is part of the target.
        std::array::from_fn(|v| unsafe { vsubq_s32(a[v], b[v]) })
    }

    #[inline(always)]
    unsafe fn quarter(sums: [int32x4_t; 4], bias: [int32x4_t; 4]) -> [int32x4_t; 4] {
        // SAFETY: NEON is part of the target.
        std::array::from_fn(|v| unsafe { vsraq_n_s32::<2>(bias[v], sums[v]) })
    }
}

pub(super) static SET: WinogradSet = winograd_set!(
    #[target_feature(enable = "neon")]
    Smlal
);
