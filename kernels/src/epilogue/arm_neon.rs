//! The plain `HalfEven` requantization on NEON registers.
//!
//! ```text
//! i32 ─scvtf─▶ f32 ─·m─▶ ─fcvtns, half to even─▶ i32 ─sqxtn─▶ i16 ─sqadd zero─▶ ─sqxtun─▶ u8 ─clamp─▶
//! ```
//! Everything happens in the u8 domain; s8 outputs are shifted by 128 and flipped back by the last XOR.
//! `fcvtns` and the narrowings saturate, so a value out of range stays on its side of the bounds up to the clamp.

use std::arch::aarch64::*;

use super::{NR, Stored};

/// [`Stored`] in registers.
#[derive(Clone, Copy)]
pub(crate) struct Requantizer {
    zero_point: int16x8_t,
    low: uint8x16_t,
    high: uint8x16_t,
    flip: uint8x16_t,
}

impl Requantizer {
    #[inline(always)]
    pub(crate) fn new(stored: Stored) -> Self {
        let Stored { zero_point, low, high, flip } = stored;
        // SAFETY: NEON is part of the target.
        unsafe {
            Self {
                zero_point: vdupq_n_s16(zero_point),
                low: vdupq_n_u8(low),
                high: vdupq_n_u8(high),
                flip: vdupq_n_u8(flip),
            }
        }
    }

    /// 16 accumulators as bytes.
    #[inline(always)]
    pub(crate) fn bytes(self, acc: [int32x4_t; 4], m: [float32x4_t; 4]) -> uint8x16_t {
        // SAFETY: NEON is part of the target.
        unsafe {
            let round = |v: usize| vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(acc[v]), m[v]));
            let first = vqmovn_high_s32(vqmovn_s32(round(0)), round(1));
            let second = vqmovn_high_s32(vqmovn_s32(round(2)), round(3));
            let first = vqaddq_s16(first, self.zero_point);
            let second = vqaddq_s16(second, self.zero_point);
            let bytes = vqmovun_high_s16(vqmovun_s16(first), second);
            veorq_u8(vminq_u8(vmaxq_u8(bytes, self.low), self.high), self.flip)
        }
    }

    /// Writes the first `cols` of 16 accumulators, whose multipliers are at `multiplier`.
    ///
    /// # Safety
    /// `cols ≤ 16` bytes at `out` may be written; 16 multipliers are readable.
    #[inline(always)]
    pub(crate) unsafe fn store(
        self,
        acc: [int32x4_t; 4],
        multiplier: *const f32,
        cols: usize,
        out: *mut u8,
    ) {
        // SAFETY: the caller's contract; NEON is part of the target.
        unsafe {
            let m = [
                vld1q_f32(multiplier),
                vld1q_f32(multiplier.add(4)),
                vld1q_f32(multiplier.add(8)),
                vld1q_f32(multiplier.add(12)),
            ];
            let bytes = self.bytes(acc, m);
            if cols == NR {
                vst1q_u8(out, bytes);
            } else {
                store_partial(bytes, cols, out);
            }
        }
    }
}

/// Writes the first `cols < 16` bytes, in the powers of two that make up `cols`.
///
/// # Safety
/// `cols` bytes at `out` may be written.
#[inline(always)]
unsafe fn store_partial(bytes: uint8x16_t, cols: usize, mut out: *mut u8) {
    // SAFETY: each store is of the bytes that its bit of `cols` stands for; NEON is part of the target.
    unsafe {
        let mut left = bytes;
        if cols & 8 != 0 {
            vst1_u8(out, vget_low_u8(left));
            left = vextq_u8::<8>(left, left);
            out = out.add(8);
        }
        if cols & 4 != 0 {
            out.cast::<u32>().write_unaligned(vgetq_lane_u32::<0>(vreinterpretq_u32_u8(left)));
            left = vextq_u8::<4>(left, left);
            out = out.add(4);
        }
        if cols & 2 != 0 {
            out.cast::<u16>().write_unaligned(vgetq_lane_u16::<0>(vreinterpretq_u16_u8(left)));
            left = vextq_u8::<2>(left, left);
            out = out.add(2);
        }
        if cols & 1 != 0 {
            out.write(vgetq_lane_u8::<0>(left));
        }
    }
}
