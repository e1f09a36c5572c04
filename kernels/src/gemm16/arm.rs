//! int16×int8 micro-kernel of NEON: weights are widened on load, activations read in place. Tile 5×16.
//!
//! `smlal` by element: an accumulator is four columns of a row, to which each of the two values of K is added by itself.

use std::arch::{aarch64::*, asm};

use super::kernel::{Dot16, Quant16, tiles16};

pub(super) struct Neon;

impl Dot16 for Neon {
    /// The pair is in the first two lanes.
    type Splat = int16x4_t;
    /// The first value of K of all columns, then the second.
    type B = [[int16x8_t; 2]; 2];
    type Acc = [int32x4_t; 4];

    #[inline(always)]
    unsafe fn zero() -> Self::Acc {
        // SAFETY: NEON is part of the target.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 32 bytes; NEON is part of the target.
        unsafe {
            let int8x16x2_t(first, second) = vld2q_s8(b);
            [first, second].map(|x| [vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)])
        }
    }

    #[inline(always)]
    unsafe fn splat(pair: i32) -> Self::Splat {
        // SAFETY: NEON is part of the target.
        unsafe { vreinterpret_s16_s32(vdup_n_s32(pair)) }
    }

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        lane::<1>(lane::<0>(acc, a, b[0]), a, b[1])
    }

    #[inline(always)]
    unsafe fn flush(acc: Self::Acc, from: *const i64, to: *mut i64) {
        for (v, acc) in acc.into_iter().enumerate() {
            // SAFETY: the caller grants 16 values each; NEON is part of the target.
            unsafe {
                let (low, high) = (vld1q_s64(from.add(4 * v)), vld1q_s64(from.add(4 * v + 2)));
                vst1q_s64(to.add(4 * v), vaddw_s32(low, vget_low_s32(acc)));
                vst1q_s64(to.add(4 * v + 2), vaddw_high_s32(high, acc));
            }
        }
    }

    #[inline(never)]
    unsafe fn finish(quant: &Quant16, sums: &[i64], col: usize, c: &mut [i16]) {
        quant.row(sums, col, c);
    }
}

/// `acc[j] += a[LANE]·b[j]`, two times two instructions: of intrinsics LLVM would add both values of K to each other first,
/// which takes more instructions and registers.
#[inline(always)]
fn lane<const LANE: u32>(
    mut acc: [int32x4_t; 4],
    a: int16x4_t,
    b: [int16x8_t; 2],
) -> [int32x4_t; 4] {
    for (acc, b) in acc.as_chunks_mut::<2>().0.iter_mut().zip(b) {
        // SAFETY: reads and writes registers only; NEON is part of the target.
        unsafe {
            asm!(
                "smlal  {low:v}.4s,  {b:v}.4h, {a:v}.h[{lane}]",
                "smlal2 {high:v}.4s, {b:v}.8h, {a:v}.h[{lane}]",
                low = inout(vreg) acc[0], high = inout(vreg) acc[1], b = in(vreg) b, a = in(vreg_low16) a,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }
    acc
}

tiles16!(NEON, #[target_feature(enable = "neon")] Neon, [5 x [1], 4 x [1], 2 x [2 1], 1 x [2 1]]);
