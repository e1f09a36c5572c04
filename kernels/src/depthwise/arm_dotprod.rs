//! Depthwise kernel, `sdot`: quads of taps, 16 channels of two pixels at a time.
//!
//! The bytes of four taps are interleaved by `zip1` and `zip2`, first bytes, then pairs of them, so that each 32-bit
//! lane holds the four taps of one channel, and channels keep their order. Weights are packed the same way:
//!
//! ```text
//! [C/16] blocks × [⌈taps/4⌉] quads × [16] channels × [4] taps      zeros beyond C and the last tap
//! ```

use std::arch::aarch64::*;

use super::{
    arm_neon::{Channels, Sums, as_s8, block_bytes, load, offset, row},
    table::{Kernel, Row},
};
use crate::{
    KernelError,
    epilogue::{NR, Sign},
    gemm::arm_asm::sdot,
};

struct TapQuads<const SIGNED: bool>;

impl<const SIGNED: bool> Channels for TapQuads<SIGNED> {
    const TAPS: usize = 4;
    const WEIGHT: usize = 1;

    #[inline(always)]
    unsafe fn accumulate<const READ: u8>(
        tables: [*const *const u8; 2],
        taps: &[usize],
        at: usize,
        lanes: usize,
        weights: *const i8,
        mut acc: [Sums; 2],
    ) -> [Sums; 2] {
        // SAFETY: the caller's contract, quad by quad, and the features.
        unsafe {
            for (quad, taps) in taps.chunks_exact(4).enumerate() {
                let w = |v: usize| vld1q_s8(weights.add((quad * 4 + v) * NR));
                let w = [w(0), w(1), w(2), w(3)];
                for (acc, table) in acc.iter_mut().zip(tables) {
                    let x = |t: usize| {
                        as_s8::<SIGNED>(load::<READ>((*table.add(taps[t])).add(at), lanes))
                    };
                    let [x0, x1, x2, x3] = [x(0), x(1), x(2), x(3)];
                    let low01 = vreinterpretq_s16_s8(vzip1q_s8(x0, x1));
                    let low23 = vreinterpretq_s16_s8(vzip1q_s8(x2, x3));
                    let high01 = vreinterpretq_s16_s8(vzip2q_s8(x0, x1));
                    let high23 = vreinterpretq_s16_s8(vzip2q_s8(x2, x3));
                    let quads = [
                        vzip1q_s16(low01, low23),
                        vzip2q_s16(low01, low23),
                        vzip1q_s16(high01, high23),
                        vzip2q_s16(high01, high23),
                    ];
                    for ((acc, x), w) in acc.iter_mut().zip(quads).zip(w) {
                        *acc = sdot(*acc, vreinterpretq_s8_s16(x), w);
                    }
                }
            }
        }
        acc
    }
}

fn packed_bytes(channels: usize, taps: usize) -> Result<usize, KernelError> {
    block_bytes(channels, taps, 4, 1)
}

fn pack(packed: &mut [i8], channels: usize, taps: usize, at: &dyn Fn(usize, usize) -> i16) {
    let padded = taps.next_multiple_of(4);
    let values = packed.iter_mut().take(channels.div_ceil(NR) * padded * NR);
    for (i, value) in values.enumerate() {
        let (block, rest) = (i / (padded * NR), i % (padded * NR));
        let (tap, c) = (rest / (4 * NR) * 4 + rest % 4, block * NR + rest / 4 % NR);
        *value = if tap < taps && c < channels { at(c, tap) as i8 } else { 0 };
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn dotprod_row<const SIGNED: bool>(r: &Row<'_>) {
    // SAFETY: same contract, the features are enabled here.
    unsafe { row::<TapQuads<SIGNED>>(r) }
}

static DOTPROD_U8: Kernel =
    Kernel { packed_bytes, pack, offset: offset(false), row: dotprod_row::<false> };
static DOTPROD_S8: Kernel =
    Kernel { packed_bytes, pack, offset: offset(true), row: dotprod_row::<true> };

/// The kernel for machines with `sdot`; weights must fit into s8.
pub(super) fn kernel(sign: Sign) -> &'static Kernel {
    match sign {
        Sign::U8 => &DOTPROD_U8,
        Sign::S8 => &DOTPROD_S8,
    }
}
