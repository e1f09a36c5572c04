//! Weight-only micro-kernel in plain Rust: runs anywhere, and is what other ISAs are compared with.

use super::kernel::{Columns, weight_only_tiles};
use crate::{epilogue::NR, numeric::fused};

pub(super) struct Scalar;

impl Columns for Scalar {
    const UNROLL: [usize; 2] = [1, 1];
    type V = [f32; NR];
    type Words = [i32; NR];

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::V {
        [v; NR]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller grants 16 values.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(v: Self::V, to: *mut f32) {
        // SAFETY: the caller grants room for 16 values.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, mut c: Self::V) -> Self::V {
        c.iter_mut().zip(a).zip(b).for_each(|((c, a), b)| *c = fused(a, b, *c));
        c
    }

    #[inline(always)]
    unsafe fn sub(mut a: Self::V, b: Self::V) -> Self::V {
        a.iter_mut().zip(b).for_each(|(a, b)| *a -= b);
        a
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const i8) {}

    #[inline(always)]
    unsafe fn load_s8(codes: *const i8) -> Self::V {
        // SAFETY: the caller grants 16 bytes.
        unsafe { codes.cast::<[i8; NR]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_words(words: *const i8) -> Self::Words {
        // SAFETY: the caller grants 64 bytes.
        unsafe { words.cast::<Self::Words>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn no_words() -> Self::Words {
        [0; NR]
    }

    #[inline(always)]
    unsafe fn next(words: &mut Self::Words) -> Self::V {
        let codes = words.map(|word| (word >> 28) as f32);
        words.iter_mut().for_each(|word| *word <<= 4);
        codes
    }
}

weight_only_tiles!(S8, #[inline(never)] Scalar, false, [2 x [1], 1 x [1]]);
weight_only_tiles!(S4, #[inline(never)] Scalar, true, [2 x [1], 1 x [1]]);
