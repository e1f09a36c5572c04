//! What `wide` has not for NEON: it widens lane by lane there, and LLVM leaves it so.

use std::{arch::aarch64::*, mem::transmute};

use wide::{i16x8, i32x4, u8x16};

/// [`super::portable::widen16`].
#[inline(always)]
pub(super) fn widen16<const S: bool>(x: u8x16) -> [i16x8; 2] {
    // SAFETY: registers of 16 bytes, of which any are a value; NEON is part of the target.
    unsafe {
        if S {
            let x: int8x16_t = transmute(x);
            transmute([vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)])
        } else {
            let x: uint8x16_t = transmute(x);
            transmute([vmovl_u8(vget_low_u8(x)), vmovl_high_u8(x)])
        }
    }
}

/// [`super::portable::widen32`].
#[inline(always)]
pub(super) fn widen32(x: i16x8) -> [i32x4; 2] {
    // SAFETY: as above.
    unsafe {
        let x: int16x8_t = transmute(x);
        transmute([vmovl_s16(vget_low_s16(x)), vmovl_high_s16(x)])
    }
}

/// [`super::portable::unpack_pairs`].
#[inline(always)]
pub(super) fn unpack_pairs<const HIGH: bool>(a: u8x16, b: u8x16) -> u8x16 {
    // SAFETY: as above.
    unsafe {
        let (a, b): (uint16x8_t, uint16x8_t) = (transmute(a), transmute(b));
        transmute(if HIGH { vzip2q_u16(a, b) } else { vzip1q_u16(a, b) })
    }
}
