//! GEMM micro-kernel in plain Rust: runs anywhere, and is what other ISAs are compared with.
//! Weights K2N16, activations staged as i16.

use super::kernel::{Dot, Spill, kernel_set, stage_i16};
use crate::epilogue::{NR, Sign};

pub(crate) struct Scalar;

impl Dot for Scalar {
    const KR: usize = 2;
    const IN_PLACE: Option<Sign> = None;
    type A = i16;
    type Splat = [i16; 2];
    type B = [[i8; 2]; NR];
    type Acc = [i32; NR];

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> Self::Acc {
        // SAFETY: the caller grants 16 values.
        unsafe { bias.cast::<Self::Acc>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 32 bytes.
        unsafe { b.cast::<Self::B>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn splat(a: *const i16) -> Self::Splat {
        // SAFETY: the caller grants 2 values.
        unsafe { a.cast::<Self::Splat>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn dot(mut acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        for (acc, b) in acc.iter_mut().zip(b) {
            let sum = i32::from(a[0]) * i32::from(b[0]) + i32::from(a[1]) * i32::from(b[1]);
            *acc = acc.wrapping_add(sum);
        }
        acc
    }

    #[inline(always)]
    unsafe fn store(acc: Self::Acc, out: *mut i32) {
        // SAFETY: the caller grants room for 16 values.
        unsafe { out.cast::<Self::Acc>().write_unaligned(acc) }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut i16) {
        // SAFETY: same contract.
        unsafe { stage_i16(src, len, sign, dst, Self::KR) }
    }

    unsafe fn finish(spill: Spill<'_>) {
        // SAFETY: same contract.
        unsafe { spill.finish() }
    }
}

kernel_set!(#[inline(never)] Scalar, Scalar, [2 x 1, 1 x 1]);
