//! GEMM micro-kernel, NEON without `sdot`: tile 2×16, KR = 4.
//!
//! s8 activations are read in place and broadcast four at a time; u8 ones are staged with their sign bit flipped.
//! An accumulator holds two partial sums per column, which are added when the tile is finished.
//!
//! | weights | of eight values of K per two columns | instructions |
//! | --- | --- | --- |
//! | any | each product is added to i32 sums of pairs at once | 2 `smull`, 2 `sadalp` |
//! | ≥ −127 | two products are added in i16 first: at most 2·128·127 | `smull`, `smlal`, `sadalp` |
//!
//! The second form is wrong by 2¹⁶ for twice −128·−128, and only for that, hence the two sets.

use std::arch::{aarch64::*, asm};

use super::{
    arm_epilogues::epilogues,
    kernel::{Dot, Spill, Strided, group, kernel_set, stage_bytes},
};
use crate::epilogue::{
    NR, Quant, Refill, Sign, Stored, TileOut,
    arm_neon::{HalfEven, quantize_tile, requantize_tile},
};

/// `SYMMETRIC`: no weight is −128.
pub(crate) struct Neon<const SYMMETRIC: bool>;

impl<const SYMMETRIC: bool> Dot for Neon<SYMMETRIC> {
    const KR: usize = 4;
    const IN_PLACE: Option<Sign> = Some(Sign::S8);
    type A = u8;
    type Splat = int8x16_t;
    /// Vector v holds columns 2·v and 2·v + 1.
    type B = [int8x8_t; 8];
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
        unsafe { std::array::from_fn(|v| vld1_s8(b.add(8 * v))) }
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
            for (acc, b) in acc.iter_mut().zip(b) {
                *acc = vpadalq_s16(*acc, vmull_s8(b, vget_low_s8(a)));
            }
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
        // SAFETY: the caller grants `groups` groups of MR rows and NV panels; NEON is part of the target.
        unsafe {
            let pairs = if MR == 2 { groups / 2 } else { 0 };
            for v in 0..NV {
                if let ([first], [second]) = acc.split_at_mut(MR / 2)
                    && pairs > 0
                {
                    let (rows, b) = ([a.at(0, 0), a.at(1, 0)], b.at(v, 0));
                    if SYMMETRIC {
                        two_rows_symmetric(&mut first[v], &mut second[v], rows, b, pairs);
                    } else {
                        two_rows(&mut first[v], &mut second[v], rows, b, pairs);
                    }
                }
            }
            for g in 2 * pairs..groups {
                let (a, b) = (a.skip(g * Self::KR), b.skip(g * NR * Self::KR));
                group::<Self, MR, NV>(acc, |r| a.at(r, 0), b);
            }
        }
    }

    #[inline(always)]
    unsafe fn store(acc: Self::Acc, out: *mut i32) {
        for (v, acc) in add_partial(acc).into_iter().enumerate() {
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

    epilogues!(add_partial);
}

/// A vector of B by both rows: products of row 0 to v24 and v25, of row 1 to v26 and v27. Other instructions may go
/// after the first, the third and the last.
macro_rules! products {
    ($multiply:literal, $b:literal, [$row0:literal, $row1:literal], [$one:literal, $three:literal, $four:literal]) => {
        concat!(
            $multiply,
            "  v24.8h, ",
            $b,
            ".8b,  ",
            $row0,
            ".8b\n",
            $one,
            $multiply,
            "2 v25.8h, ",
            $b,
            ".16b, ",
            $row0,
            ".16b\n",
            $multiply,
            "  v26.8h, ",
            $b,
            ".8b,  ",
            $row1,
            ".8b\n",
            $three,
            $multiply,
            "2 v27.8h, ",
            $b,
            ".16b, ",
            $row1,
            ".16b\n",
            $four,
        )
    };
}

/// Adds neighbouring products to the accumulators `acc0` to `acc3`.
macro_rules! sums {
    ([$acc0:literal, $acc1:literal, $acc2:literal, $acc3:literal], $one:literal) => {
        concat!(
            "sadalp ",
            $acc0,
            ".4s, v24.8h\n",
            $one,
            "sadalp ",
            $acc1,
            ".4s, v25.8h\n",
            "sadalp ",
            $acc2,
            ".4s, v26.8h\n",
            "sadalp ",
            $acc3,
            ".4s, v27.8h\n",
        )
    };
}

/// Four columns by two groups of K: v20 and v21 of B, v16 and v18 of row 0, v17 and v19 of row 1. What is loaded next
/// goes in between.
macro_rules! columns {
    (any, $acc:tt, [$first:tt, $second:tt, $last:literal]) => {
        concat!(
            products!("smull", "v20", ["v16", "v17"], $first),
            sums!($acc, ""),
            products!("smull", "v21", ["v18", "v19"], $second),
            sums!($acc, $last),
        )
    };
    (symmetric, $acc:tt, [$first:tt, $second:tt, $last:literal]) => {
        concat!(
            products!("smull", "v20", ["v16", "v17"], $first),
            products!("smlal", "v21", ["v18", "v19"], $second),
            sums!($acc, $last),
        )
    };
}

/// The k loop of a tile of two rows, two groups of K at a time. It is written out because LLVM turns long multiplies by
/// a broadcast value into more instructions and registers than there are, and because cores that run in order need
/// four chains side by side, loads well before their use, and one instruction of another kind after a multiply.
macro_rules! k_loop {
    ($name:ident, $weights:ident) => {
        /// # Safety
        /// `pairs > 0` pairs of groups are readable in both rows and at `b`.
        #[inline(always)]
        unsafe fn $name(
            acc0: &mut [int32x4_t; 8],
            acc1: &mut [int32x4_t; 8],
            [row0, row1]: [*const u8; 2],
            b: *const i8,
            pairs: usize,
        ) {
            // SAFETY: every load is of a pair of groups that the caller grants: at the last one the pointers stay.
            unsafe {
                asm!(
                    "ld1r {{v16.4s}}, [{a0}]",
                    "ld1r {{v17.4s}}, [{a1}]",
                    "add {t0}, {a0}, #4",
                    "add {t1}, {a1}, #4",
                    "ld1r {{v18.4s}}, [{t0}]",
                    "ld1r {{v19.4s}}, [{t1}]",
                    "ldr q20, [{b}]",
                    "ldr q21, [{b}, #64]",
                    "2:",
                    columns!($weights, ["v0", "v1", "v8", "v9"], [
                        ["", "", "ldr q20, [{b}, #16]\nsubs {pairs}, {pairs}, #1\n"],
                        ["", "", "ldr q21, [{b}, #80]\ncset {more}, ne\n"],
                        ""
                    ]),
                    columns!($weights, ["v2", "v3", "v10", "v11"], [
                        ["", "", "ldr q20, [{b}, #32]\nadd {a0}, {a0}, {more}, lsl #3\n"],
                        ["", "", "ldr q21, [{b}, #96]\nadd {a1}, {a1}, {more}, lsl #3\n"],
                        ""
                    ]),
                    columns!($weights, ["v4", "v5", "v12", "v13"], [
                        ["", "", "ldr q20, [{b}, #48]\nadd {t0}, {a0}, #4\n"],
                        ["", "", "ldr q21, [{b}, #112]\nadd {b}, {b}, {more}, lsl #7\n"],
                        ""
                    ]),
                    columns!($weights, ["v6", "v7", "v14", "v15"], [
                        ["", "ld1r {{v16.4s}}, [{a0}]\n", "ldr q20, [{b}]\nadd {t1}, {a1}, #4\n"],
                        ["ld1r {{v17.4s}}, [{a1}]\n", "ld1r {{v18.4s}}, [{t0}]\n", "ldr q21, [{b}, #64]\n"],
                        "ld1r {{v19.4s}}, [{t1}]\n"
                    ]),
                    "b.ne 2b",
                    a0 = inout(reg) row0 => _, a1 = inout(reg) row1 => _, b = inout(reg) b => _,
                    pairs = inout(reg) pairs => _, more = out(reg) _, t0 = out(reg) _, t1 = out(reg) _,
                    inout("v0") acc0[0], inout("v1") acc0[1], inout("v2") acc0[2], inout("v3") acc0[3],
                    inout("v4") acc0[4], inout("v5") acc0[5], inout("v6") acc0[6], inout("v7") acc0[7],
                    inout("v8") acc1[0], inout("v9") acc1[1], inout("v10") acc1[2], inout("v11") acc1[3],
                    inout("v12") acc1[4], inout("v13") acc1[5], inout("v14") acc1[6], inout("v15") acc1[7],
                    out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _,
                    out("v24") _, out("v25") _, out("v26") _, out("v27") _,
                    options(pure, readonly, nostack)
                );
            }
        }
    };
}

k_loop!(two_rows, any);
k_loop!(two_rows_symmetric, symmetric);

/// Adds the two partial sums of each column.
#[inline(always)]
fn add_partial(acc: [int32x4_t; 8]) -> [int32x4_t; 4] {
    // SAFETY: NEON is part of the target.
    let add = |v: usize| unsafe { vpaddq_s32(acc[2 * v], acc[2 * v + 1]) };
    [add(0), add(1), add(2), add(3)]
}

kernel_set!(staged #[target_feature(enable = "neon")] Neon, Neon<false>, [2 x 1, 1 x 1]);

/// The kernels for weights of which none is −128.
pub(super) mod symmetric {
    use super::Neon;
    use crate::gemm::kernel::kernel_set;

    kernel_set!(staged #[target_feature(enable = "neon")] Neon, Neon<true>, [2 x 1, 1 x 1]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use crate::{
        Cpu, Isa,
        epilogue::{OutSlice, Output, Sign},
        gemm::{Gemm, PackedB},
        par::Serial,
    };
    use std::sync::Arc;

    /// The sums of a 5 × `k` matrix of `a` by a `k` × 17 matrix of `b`.
    fn product(isa: Isa, k: usize, a: i8, b: i8) -> (bool, Vec<i32>) {
        let cpu = Cpu::with_isa(isa).unwrap();
        let packed = PackedB::pack(cpu, &vec![b; k * 17], k, 17, false, None, Sign::S8).unwrap();
        let symmetric = std::ptr::eq(packed.set, &super::symmetric::SET);
        let gemm = Gemm::new(Arc::new(packed), &[0; 17], &Output::I32).unwrap();
        let mut out = vec![0; 5 * 17];
        gemm.run(&Serial, 5, &vec![a as u8; 5 * k], k, None, OutSlice::I32(&mut out), 17).unwrap();
        (symmetric, out)
    }

    #[test]
    fn two_products_are_added_in_i16_only_where_they_fit() {
        for k in [1, 4, 8, 9, 63, 300] {
            for a in [-128, 127] {
                for b in [-128, -127, 127] {
                    let (symmetric, sums) = product(Isa::Neon, k, a, b);
                    assert_eq!(symmetric, b != -128);
                    assert_eq!(sums, vec![k as i32 * i32::from(a) * i32::from(b); 5 * 17]);
                }
            }
        }
    }
}
