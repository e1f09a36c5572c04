//! GEMM micro-kernel of the portable tier, on `wide`'s registers: `pmaddwd` on SSE2, `smull` on NEON, whatever the
//! target has. Tile 2×16, KR = 2, which fits 16 registers of 128 bits.
//!
//! Activations are staged as i16. Weights are K2N16 s8, widened on load; of many rows the first leave what they
//! widened for the others. Two products of i16 fit an i32, so nothing saturates.

use wide::{bytemuck::cast, f32x4, i16x8, i32x4, u8x16};

use super::kernel::{Dot, KernelSet, Spill, for_each_row, kernel_set, stage_i16, wide_tiles};
use crate::{
    epilogue::{NR, Refill, Sign, Stored},
    simd::portable::{pack16, pack32, round, widen16},
};

/// What A and B hold: `i16` is a value of A beside weights of 8 bits; `u8` half of one beside widened weights, whose K
/// counts bytes.
pub(crate) trait Operand: Copy + Into<i32> {
    /// Of them, a pair of values of K.
    const PAIR: usize = 2 * size_of::<i16>() / size_of::<Self>();
    /// The pairs of 16 columns.
    ///
    /// # Safety
    /// Those are readable: 32 bytes, or 64 of widened weights.
    unsafe fn load_b(b: *const i8) -> [i16x8; 4];
    /// [`Dot::stage`].
    ///
    /// # Safety
    /// As there.
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut Self);
}

impl Operand for i16 {
    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> [i16x8; 4] {
        // SAFETY: the caller grants 32 bytes.
        let [low, high] = unsafe { b.cast::<[u8x16; 2]>().read_unaligned() };
        let ([b0, b1], [b2, b3]) = (widen16::<true>(low), widen16::<true>(high));
        [b0, b1, b2, b3]
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut i16) {
        // SAFETY: same contract.
        unsafe { stage_i16(src, len, sign, dst, Self::PAIR) }
    }
}

impl Operand for u8 {
    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> [i16x8; 4] {
        // SAFETY: the caller grants 64 bytes.
        unsafe { b.cast::<[i16x8; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut u8) {
        // SAFETY: same contract.
        unsafe { <i16 as Operand>::stage(src, len, sign, dst.cast()) }
    }
}

/// The kernels for either operands.
pub(crate) struct Portable<T>(T);

impl<T: Operand> Dot for Portable<T> {
    const KR: usize = T::PAIR;
    const IN_PLACE: Option<Sign> = None;
    const WHOLE_ROWS: bool = true;
    const RING_K: usize = 64;
    const PARTIAL: bool = size_of::<T>() == 1;
    const A_PER_VALUE: usize = size_of::<i16>() / size_of::<T>();
    type A = T;
    type Splat = i16x8;
    type B = [i16x8; 4];
    type Acc = [i32x4; 4];

    #[inline(always)]
    unsafe fn start(bias: *const i32) -> Self::Acc {
        // SAFETY: the caller grants 16 values.
        unsafe { bias.cast::<Self::Acc>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: same contract.
        unsafe { T::load_b(b) }
    }

    #[inline(always)]
    unsafe fn splat(a: *const T) -> Self::Splat {
        // SAFETY: the caller grants a pair of values of K.
        cast(i32x4::splat(unsafe { a.cast::<i32>().read_unaligned() }))
    }

    #[inline(always)]
    unsafe fn dot(mut acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        for (acc, b) in acc.iter_mut().zip(b) {
            *acc += a.dot(b);
        }
        acc
    }

    #[inline(always)]
    unsafe fn store(acc: Self::Acc, out: *mut i32) {
        // SAFETY: the caller grants room for 16 values.
        unsafe { out.cast::<Self::Acc>().write_unaligned(acc) }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut T) {
        // SAFETY: same contract.
        unsafe { T::stage(src, len, sign, dst) }
    }

    #[inline(always)]
    unsafe fn requantize<const MR: usize, const NV: usize>(
        acc: &mut [[Self::Acc; NV]; MR],
        stored: Stored,
        multiplier: *const f32,
        cols: usize,
        out: *mut u8,
        ldc: usize,
        refill: &impl Refill<Self::Acc>,
    ) -> bool {
        // The set's own tiles are one panel wide.
        if NV != 1 {
            return false;
        }
        // The upper bound is applied before the conversion, which saturates on the other side; the rest happens in the
        // u8 domain.
        let Stored { zero_point, low, high, flip } = stored;
        let high = f32x4::splat(f32::from(i16::from(high) - zero_point));
        let (low, zero_point) = (u8x16::splat(low), i16x8::splat(zero_point));
        // SAFETY: multipliers are padded to whole panels.
        let m = unsafe { multiplier.cast::<[f32x4; 4]>().read_unaligned() };
        for_each_row!(r < MR {
            let scaled = |v: usize| round((f32x4::from_i32x4(acc[r][0][v]) * m[v]).fast_min(high));
            let first = pack32(scaled(0), scaled(1)).saturating_add(zero_point);
            let second = pack32(scaled(2), scaled(3)).saturating_add(zero_point);
            let bytes = pack16::<false>(first, second).max(low) ^ u8x16::splat(flip);
            // SAFETY: `cols` bytes of row `r` may be written.
            unsafe {
                let out = out.add(r * ldc);
                if cols == NR {
                    out.cast::<u8x16>().write_unaligned(bytes);
                } else {
                    std::ptr::copy_nonoverlapping(bytes.as_array().as_ptr(), out, cols);
                }
            }
        });
        // SAFETY: all rows are written.
        unsafe { refill.rows(acc, 0, MR) };
        true
    }

    #[inline(never)]
    unsafe fn finish(spill: Spill<'_>) {
        // SAFETY: same contract.
        unsafe { spill.finish() }
    }
}

pub(crate) static SET: KernelSet = {
    kernel_set!(staged #[inline(never)] Scalar, Portable<i16>, [2 x 1, 1 x 1]);
    KernelSet {
        wide: Some(wide_tiles!(#[inline(never)] Portable<i16>, 2, Portable<u8>, [2 x 1, 1 x 1])),
        ..SET
    }
};
