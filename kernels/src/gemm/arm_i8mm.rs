//! GEMM micro-kernel, `smmla`: tile 6×16, KR = 8.
//!
//! `smmla` multiplies two rows of A by two columns of B, eight values each, so A is staged in pairs of rows:
//!
//! ```text
//! [rows/2] pairs × [⌈K/8⌉] groups × [2] rows × [8]      a last odd row: [⌈K/8⌉] × [8]
//! accumulator j of a pair:   (row 0, col 2j)  (row 0, col 2j + 1)  (row 1, col 2j)  (row 1, col 2j + 1)
//! ```
//! The sign of u8 activations is flipped in passing.

use std::arch::aarch64::*;

use super::{
    arm_asm::smmla,
    arm_epilogues::epilogues,
    kernel::{Dot, Rows, Spill, Strided, for_each_row, kernel_set, stage_bytes},
};
use crate::epilogue::{
    NR, Quant, Refill, Sign, Stored, TileOut,
    arm_neon::{HalfEven, quantize_tile, requantize_tile},
};

pub(crate) struct I8mm;

impl Dot for I8mm {
    const KR: usize = 8;
    const IN_PLACE: Option<Sign> = None;
    const STAGED_AS: Option<Sign> = Some(Sign::S8);
    const ROW_BY_ROW: bool = false;
    type A = u8;
    type Splat = int8x16_t;
    /// Vector v holds columns 2·v and 2·v + 1.
    type B = [int8x16_t; 8];
    /// A row is in the first four; while a tile accumulates, the first row of a pair holds all eight of the pair.
    type Acc = [int32x4_t; 8];

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> Self::Acc {
        // SAFETY: the caller grants 16 values; NEON is part of the target.
        unsafe {
            let mut acc = [vdupq_n_s32(0); 8];
            for (v, acc) in acc[..4].iter_mut().enumerate() {
                *acc = vld1q_s32(bias.add(4 * v));
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 128 bytes; NEON is part of the target.
        unsafe { std::array::from_fn(|v| vld1q_s8(b.add(16 * v))) }
    }

    /// Both rows are the one at `a`.
    #[inline(always)]
    unsafe fn splat(a: *const u8) -> Self::Splat {
        // SAFETY: the caller grants 8 bytes; NEON is part of the target.
        unsafe { vreinterpretq_s8_s64(vdupq_n_s64(a.cast::<i64>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn dot(mut acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        for (acc, b) in acc.iter_mut().zip(b) {
            // SAFETY: the caller grants the features.
            *acc = unsafe { smmla(*acc, a, b) };
        }
        acc
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "v and q are later indices of acc")]
    unsafe fn accumulate<const MR: usize, const NV: usize>(
        acc: &mut [[Self::Acc; NV]; MR],
        a: Strided<u8>,
        b: Strided<i8>,
        groups: usize,
    ) {
        for g in 0..groups {
            // SAFETY: the caller grants `groups` groups of MR rows, staged in pairs, and of NV panels, and the features.
            unsafe {
                let mut av = [vdupq_n_s8(0); MR];
                for_each_row!(r < MR {
                    if r + 1 < MR && r.is_multiple_of(2) {
                        av[r] = vld1q_s8(a.at(r, g * 2 * Self::KR).cast());
                    } else if r.is_multiple_of(2) {
                        av[r] = Self::splat(a.at(r, g * Self::KR));
                    }
                });
                // Column by column: all of a group would not fit into the registers beside 24 accumulators.
                for v in 0..NV {
                    for q in 0..8 {
                        let b = vld1q_s8(b.at(v, g * NR * Self::KR + q * 16));
                        for_each_row!(r < MR {
                            if r.is_multiple_of(2) {
                                acc[r][v][q] = smmla(acc[r][v][q], av[r], b);
                            }
                        });
                    }
                }
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "v and q are later indices of acc")]
    unsafe fn pair_rows<const MR: usize, const NV: usize>(acc: &mut [[Self::Acc; NV]; MR]) {
        for_each_row!(r < MR {
            if r.is_multiple_of(2) {
                for v in 0..NV {
                    // The row beyond an odd last one is not looked at again.
                    let (first, second) = (acc[r][v], acc[if r + 1 < MR { r + 1 } else { r }][v]);
                    for q in 0..4 {
                        acc[r][v][2 * q] = zip_low(first[q], second[q]);
                        acc[r][v][2 * q + 1] = zip_high(first[q], second[q]);
                    }
                }
            }
        });
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "v and q are later indices of acc")]
    unsafe fn unpair_rows<const MR: usize, const NV: usize>(acc: &mut [[Self::Acc; NV]; MR]) {
        for_each_row!(r < MR {
            if r.is_multiple_of(2) {
                for v in 0..NV {
                    let both = acc[r][v];
                    for q in 0..4 {
                        acc[r][v][q] = zip_low(both[2 * q], both[2 * q + 1]);
                        if r + 1 < MR {
                            acc[r + 1][v][q] = zip_high(both[2 * q], both[2 * q + 1]);
                        }
                    }
                }
            }
        });
    }

    #[inline(always)]
    unsafe fn store(acc: Self::Acc, out: *mut i32) {
        for (v, acc) in acc.into_iter().take(4).enumerate() {
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

    #[inline(always)]
    unsafe fn stage_rows(rows: &Rows, to: *mut u8, ld: usize) {
        let Rows { k, count, sign, .. } = *rows;
        let mask = if sign == Sign::U8 { 0x80 } else { 0 };
        // SAFETY: the caller grants `k` bytes of every row, and room for as many rows of `ld ≥ k` rounded up to KR.
        unsafe {
            let row = |r: usize| rows.a.add(r * rows.lda);
            for r in (0..count).step_by(2) {
                if r + 1 < count {
                    stage_pair(row(r), row(r + 1), k, mask, to.add(r * ld));
                } else {
                    stage_bytes(row(r), k, mask, to.add(r * ld), Self::KR);
                }
            }
        }
    }

    epilogues!(|[a, b, c, d, ..]| [a, b, c, d]);
}

/// The low halves of two vectors.
#[inline(always)]
fn zip_low(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is part of the target.
    unsafe { vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b))) }
}

/// The high halves of two vectors.
#[inline(always)]
fn zip_high(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is part of the target.
    unsafe { vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b))) }
}

/// Writes the groups of two rows alternately, XOR `mask`, with zeros up to whole groups.
///
/// # Safety
/// `len` bytes of both rows are readable; there is room for twice `len` rounded up to 8 at `dst`.
#[inline(always)]
unsafe fn stage_pair(first: *const u8, second: *const u8, len: usize, mask: u8, dst: *mut u8) {
    const KR: usize = I8mm::KR;
    // SAFETY: whole groups, two at a time and then one, lie within `len`; a last partial one is read byte by byte.
    unsafe {
        let flip = vdupq_n_u8(mask);
        let mut k = 0;
        while k + 2 * KR <= len {
            let (a, b) = (vld1q_u8(first.add(k)), vld1q_u8(second.add(k)));
            let (a, b) =
                (vreinterpretq_u64_u8(veorq_u8(a, flip)), vreinterpretq_u64_u8(veorq_u8(b, flip)));
            vst1q_u8(dst.add(2 * k), vreinterpretq_u8_u64(vzip1q_u64(a, b)));
            vst1q_u8(dst.add(2 * k + 2 * KR), vreinterpretq_u8_u64(vzip2q_u64(a, b)));
            k += 2 * KR;
        }
        while k < len {
            let depth = (len - k).min(KR);
            stage_bytes(first.add(k), depth, mask, dst.add(2 * k), KR);
            stage_bytes(second.add(k), depth, mask, dst.add(2 * k + KR), KR);
            k += KR;
        }
    }
}

kernel_set!(
    staged #[target_feature(enable = "neon,i8mm")] NeonI8mm, I8mm,
    [6 x 1, 4 x 1, 2 x 1, 1 x 1]
);
