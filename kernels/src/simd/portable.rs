//! The registers of the baseline tier, through `wide`: SSE2 on x86-64, NEON on aarch64, what the target has elsewhere.
//!
//! `wide` knows features at compile time only, so that these types serve the tier that needs no detection.

use wide::{bytemuck::cast, f32x4, i8x16, i16x8, i16x16, i32x4, i32x8, u8x16};

/// Codes to s16, two's complement if `S`.
#[inline(always)]
pub(crate) fn widen16<const S: bool>(x: u8x16) -> [i16x8; 2] {
    if S {
        cast(i16x16::from(cast::<u8x16, i8x16>(x)))
    } else {
        [i16x8::from_u8x16_low(x), i16x8::from_u8x16_high(x)]
    }
}

/// s16 to s32.
#[inline(always)]
pub(crate) fn widen32(x: i16x8) -> [i32x4; 2] {
    cast(i32x8::from(x))
}

/// s32 to s16, saturated.
#[inline(always)]
pub(crate) fn pack32(low: i32x4, high: i32x4) -> i16x8 {
    i16x8::from_i32x8_saturate(cast([low, high]))
}

/// s16 to codes, saturated to two's complement if `S`, else to unsigned ones.
#[inline(always)]
pub(crate) fn pack16<const S: bool>(low: i16x8, high: i16x8) -> u8x16 {
    if S {
        cast(i8x16::from_i16x16_saturate(cast([low, high])))
    } else {
        u8x16::narrow_i16x8(low, high)
    }
}

/// The nearest integers, half to even, of values below 2³¹. Those of −2³¹ and less give −2³¹.
#[inline(always)]
pub(crate) fn round(v: f32x4) -> i32x4 {
    v.fast_round_int()
}
