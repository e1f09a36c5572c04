//! `sdot` and `smmla`, whose intrinsics are not stable: one instruction each.

use std::arch::{aarch64::*, asm};

/// `acc[j] += Σ_r a[4·LANE + r]·b[4·j + r]`: four columns of B by one group of four values of A.
///
/// # Safety
/// `sdot` is supported.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn sdot_lane<const LANE: u32>(
    mut acc: int32x4_t,
    b: int8x16_t,
    a: int8x16_t,
) -> int32x4_t {
    // SAFETY: reads and writes registers only; the feature is enabled here.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]",
            acc = inout(vreg) acc, b = in(vreg) b, a = in(vreg) a, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// `acc[j] += Σ_r a[4·j + r]·b[4·j + r]`.
///
/// # Safety
/// `sdot` is supported.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) unsafe fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as in `sdot_lane`.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// `acc[2·i + j] += Σ_r a[8·i + r]·b[8·j + r]`: two rows of A by two columns of B, eight values each.
///
/// # Safety
/// `smmla` is supported.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(crate) unsafe fn smmla(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as in `sdot_lane`.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}
