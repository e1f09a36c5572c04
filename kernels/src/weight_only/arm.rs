//! Weight-only micro-kernels of NEON: tiles 6×16 (s8) and 4×16 (4-bit).
//!
//! `scvtf` divides by a power of two in passing, so codes are converted from the upper end of their words: bytes get there
//! by `tbl`, four bits are there and others are masked.

use std::arch::{aarch64::*, asm};

use super::kernel::{Columns, weight_only_tiles};
use crate::epilogue::NR;

pub(super) struct Neon;

/// For `tbl`: bytes 4·v … 4·v + 3 at the upper ends of words. What is beyond the table becomes 0.
const UPPER: [[u8; 16]; 4] = {
    let mut upper = [[u8::MAX; 16]; 4];
    let mut code = 0;
    while code < NR {
        upper[code / 4][code % 4 * 4 + 3] = code as u8;
        code += 1;
    }
    upper
};

impl Columns for Neon {
    const UNROLL: [usize; 2] = [3, 3];
    type V = [float32x4_t; 4];
    type Words = [int32x4_t; 4];

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::V {
        // SAFETY: NEON is part of the target.
        unsafe { [vdupq_n_f32(v); 4] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller grants 16 values; NEON is part of the target.
        [0, 4, 8, 12].map(|at| unsafe { vld1q_f32(from.add(at)) })
    }

    #[inline(always)]
    unsafe fn store(v: Self::V, to: *mut f32) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: the caller grants room for 16 values; NEON is part of the target.
            unsafe { vst1q_f32(to.add(4 * i), v) }
        }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: NEON is part of the target.
        [0, 1, 2, 3].map(|v| unsafe { vfmaq_f32(c[v], a[v], b[v]) })
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: NEON is part of the target.
        [0, 1, 2, 3].map(|v| unsafe { vsubq_f32(a[v], b[v]) })
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const i8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags))
        }
    }

    #[inline(always)]
    unsafe fn load_s8(codes: *const i8) -> Self::V {
        // SAFETY: the caller grants 16 bytes; NEON is part of the target.
        unsafe {
            let codes = vld1q_s8(codes);
            let convert = |v: usize| {
                let words = vqtbl1q_s8(codes, vld1q_u8(UPPER[v].as_ptr()));
                vcvtq_n_f32_s32::<24>(vreinterpretq_s32_s8(words))
            };
            [convert(0), convert(1), convert(2), convert(3)]
        }
    }

    #[inline(always)]
    unsafe fn load_words(words: *const i8) -> Self::Words {
        // SAFETY: the caller grants 64 bytes; NEON is part of the target.
        [0, 4, 8, 12].map(|at| unsafe { vld1q_s32(words.cast::<i32>().add(at)) })
    }

    #[inline(always)]
    unsafe fn no_words() -> Self::Words {
        // SAFETY: NEON is part of the target.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    unsafe fn next(words: &mut Self::Words) -> Self::V {
        // SAFETY: NEON is part of the target.
        unsafe {
            let code = words.map(|word| vandq_s32(word, vdupq_n_s32(15 << 28)));
            *words = words.map(|word| vshlq_n_s32::<4>(word));
            code.map(|code| vcvtq_n_f32_s32::<28>(code))
        }
    }
}

weight_only_tiles!(
    S8, #[target_feature(enable = "neon")] Neon, false, [6 x [1], 4 x [1], 3 x [1], 2 x [1], 1 x [1]]
);
weight_only_tiles!(
    S4, #[target_feature(enable = "neon")] Neon, true, [4 x [1], 3 x [1], 2 x [1], 1 x [1]]
);
