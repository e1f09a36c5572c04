//! int16×int8 micro-kernel of the portable tier, on `wide`'s registers: runs anywhere.

use wide::{bytemuck::cast, i16x8, i32x4, u8x16};

use super::kernel::{Dot16, Quant16, tiles16};
use crate::{epilogue::NR, simd::portable::widen16};

pub(super) struct Scalar;

impl Dot16 for Scalar {
    type Splat = i16x8;
    type B = [i16x8; 4];
    type Acc = [i32x4; 4];

    #[inline(always)]
    unsafe fn zero() -> Self::Acc {
        [i32x4::ZERO; 4]
    }

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 32 bytes.
        let [low, high] = unsafe { b.cast::<[u8x16; 2]>().read_unaligned() };
        let ([b0, b1], [b2, b3]) = (widen16::<true>(low), widen16::<true>(high));
        [b0, b1, b2, b3]
    }

    #[inline(always)]
    unsafe fn splat(pair: i32) -> Self::Splat {
        cast(i32x4::splat(pair))
    }

    #[inline(always)]
    unsafe fn dot(mut acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        for (acc, b) in acc.iter_mut().zip(b) {
            *acc += a.dot(b);
        }
        acc
    }

    #[inline(always)]
    unsafe fn flush(acc: Self::Acc, from: *const i64, to: *mut i64) {
        // SAFETY: the caller grants 16 values each.
        let mut sums = unsafe { from.cast::<[i64; NR]>().read() };
        let acc: [i32; NR] = cast(acc);
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
