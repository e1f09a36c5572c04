//! int16×int8 micro-kernel in plain Rust: runs anywhere, and is what other ISAs are compared with.

use super::kernel::{Dot16, KR, Quant16, tiles16};
use crate::epilogue::NR;

pub(super) struct Scalar;

impl Dot16 for Scalar {
    type Splat = [i32; KR];
    type B = [[i8; KR]; NR];
    type Acc = [i32; NR];

    #[inline(always)]
    unsafe fn zero() -> Self::Acc {
        [0; NR]
    }

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 32 bytes.
        unsafe { b.cast::<Self::B>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn splat(pair: i32) -> Self::Splat {
        let bytes = pair.to_ne_bytes();
        [[bytes[0], bytes[1]], [bytes[2], bytes[3]]].map(|b| i32::from(i16::from_ne_bytes(b)))
    }

    #[inline(always)]
    unsafe fn dot(mut acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        for (acc, b) in acc.iter_mut().zip(b) {
            *acc += a[0] * i32::from(b[0]) + a[1] * i32::from(b[1]);
        }
        acc
    }

    #[inline(always)]
    unsafe fn flush(acc: Self::Acc, from: *const i64, to: *mut i64) {
        // SAFETY: the caller grants 16 values each.
        let mut sums = unsafe { from.cast::<[i64; NR]>().read() };
        sums.iter_mut().zip(acc).for_each(|(sum, acc)| *sum += i64::from(acc));
        // SAFETY: as above.
        unsafe { to.cast::<[i64; NR]>().write(sums) }
    }

    #[inline(never)]
    unsafe fn finish(quant: &Quant16, sums: &[i64], col: usize, c: &mut [i16]) {
        quant.row(sums, col, c);
    }
}

tiles16!(SCALAR, #[inline(never)] Scalar, [2 x [1], 1 x [1]]);
