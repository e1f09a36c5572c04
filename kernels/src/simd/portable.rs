//! The registers of the baseline tier, through `wide`: SSE2 on x86-64, NEON on aarch64, what the target has elsewhere.
//!
//! `wide` knows features at compile time only, so that these types serve the tier that needs no detection.

use wide::{bytemuck::cast, f32x4, i8x16, i16x8, i32x4, u8x16};

use super::{Bytes, Codes, Quad, Real, fold_lanes};
use crate::numeric::fused;

/// Codes to s16, two's complement if `S`.
#[inline(always)]
pub(crate) fn widen16<const S: bool>(x: u8x16) -> [i16x8; 2] {
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    return super::arm::widen16::<S>(x);
    #[cfg(not(all(target_arch = "aarch64", target_endian = "little")))]
    if S {
        cast(wide::i16x16::from(cast::<u8x16, i8x16>(x)))
    } else {
        [i16x8::from_u8x16_low(x), i16x8::from_u8x16_high(x)]
    }
}

/// s16 to s32.
#[inline(always)]
pub(crate) fn widen32(x: i16x8) -> [i32x4; 2] {
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    return super::arm::widen32(x);
    #[cfg(not(all(target_arch = "aarch64", target_endian = "little")))]
    cast(wide::i32x8::from(x))
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

/// The nearest integers, half to even, of values below 2³¹. NaN and values of −2³¹ and less give −2³¹.
#[inline(always)]
pub(crate) fn round(v: f32x4) -> i32x4 {
    if cfg!(target_feature = "sse2") {
        v.fast_round_int()
    } else {
        // `max` gives the bound for NaN.
        v.max(f32x4::splat(i32::MIN as f32)).round_int()
    }
}

/// 16 values in four registers.
#[derive(Clone, Copy)]
pub(crate) struct BaselineQuad([f32x4; 4]);

impl BaselineQuad {
    /// `f` of each two registers.
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32x4, f32x4) -> f32x4) -> Self {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, b.0);
        Self([f(a0, b0), f(a1, b1), f(a2, b2), f(a3, b3)])
    }

    /// The values of four registers of s32.
    #[inline(always)]
    fn from_i32(v: [i32x4; 4]) -> Self {
        Self(v.map(f32x4::from_i32x4))
    }
}

impl Real for BaselineQuad {
    #[inline(always)]
    fn splat(v: f32) -> Self {
        Self([f32x4::splat(v); 4])
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self.zip(b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self.zip(b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        let (a, b, mut c) = (self.0, b.0, c.0);
        c.iter_mut().zip(a).zip(b).for_each(|((c, a), b)| *c = mul_add(a, b, *c));
        Self(c)
    }

    #[inline(always)]
    fn min(self, b: Self) -> Self {
        self.zip(b, |a, b| lesser(b, a))
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.zip(b, |a, b| greater(b, a))
    }
}

/// `a·b + c`, rounded once.
#[inline(always)]
fn mul_add(a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
    // `wide` rounds twice where it has no instruction.
    if BaselineQuad::FUSES {
        return a.mul_add(b, c);
    }
    let (a, b, mut c) = (a.to_array(), b.to_array(), c.to_array());
    c.iter_mut().zip(a).zip(b).for_each(|((c, a), b)| *c = fused(a, b, *c));
    f32x4::new(c)
}

/// `a` where that is less, else `b`.
#[inline(always)]
fn lesser(a: f32x4, b: f32x4) -> f32x4 {
    if cfg!(target_feature = "sse") { a.fast_min(b) } else { a.simd_lt(b).select(a, b) }
}

/// `a` where that is greater, else `b`.
#[inline(always)]
fn greater(a: f32x4, b: f32x4) -> f32x4 {
    if cfg!(target_feature = "sse") { a.fast_max(b) } else { a.simd_gt(b).select(a, b) }
}

impl Quad for BaselineQuad {
    const N: usize = 16;
    const FUSES: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    type Bytes = BaselineBytes;
    type Sums = [i16x8; 2];

    #[inline(always)]
    fn codes<const S: bool>(x: &[u8]) -> Self {
        Self::from_sums(widen16::<S>(BaselineBytes::load(x).0))
    }

    #[inline(always)]
    fn lane_codes<const S: bool, const F: bool>(x: &[u8]) -> Self {
        Self::from_sums(widen16::<S>(BaselineBytes::load(x).flipped::<F>()))
    }

    #[inline(always)]
    fn lane_unit<const S: bool>() -> f32 {
        1.0
    }

    #[inline(always)]
    fn lane_products<const S: bool, const F: bool>(a: &[u8], b: &[u8], z: [i32; 2]) -> Self {
        let [za, zb] = z.map(|z| i16x8::splat(z as i16));
        let [a0, a1] = widen16::<S>(BaselineBytes::load(a).flipped::<F>()).map(|a| a - za);
        let [b0, b1] = widen16::<S>(BaselineBytes::load(b).flipped::<F>()).map(|b| b - zb);
        let ([p0, p1], [p2, p3]) = (cast(a0.widening_mul(b0)), cast(a1.widening_mul(b1)));
        Self::from_i32([p0, p1, p2, p3])
    }

    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        let (parts, _) = x[..16].as_chunks::<4>();
        Self([0, 1, 2, 3].map(|i| f32x4::new(parts[i])))
    }

    #[inline(always)]
    fn load_rows(x: &[f32], _stride: usize) -> Self {
        Self::load(x)
    }

    #[inline(always)]
    fn load_i32(x: &[i32]) -> Self {
        let (parts, _) = x[..16].as_chunks::<4>();
        Self::from_i32([0, 1, 2, 3].map(|i| i32x4::new(parts[i])))
    }

    #[inline(always)]
    fn store(self, y: &mut [f32]) {
        let (parts, _) = y[..16].as_chunks_mut::<4>();
        parts.iter_mut().zip(self.0).for_each(|(part, v)| *part = v.to_array());
    }

    #[inline(always)]
    fn store_codes<const S: bool>(self, codes: Codes, y: &mut [u8]) {
        self.store_lanes::<S, false>(codes, y);
    }

    #[inline(always)]
    fn store_lanes<const S: bool, const F: bool>(self, codes: Codes, y: &mut [u8]) {
        let [v0, v1, v2, v3] = self.0.map(round);
        let zero_point = i16x8::splat(codes.zero_point as i16);
        let low = pack32(v0, v1).saturating_add(zero_point);
        let high = pack32(v2, v3).saturating_add(zero_point);
        let bytes = if codes.whole_type::<S>() {
            pack16::<S>(low, high)
        } else if S {
            // s16 has the bounds in one instruction, s8 may not
            let (min, max) = (i16x8::splat(codes.min as i16), i16x8::splat(codes.max as i16));
            pack16::<S>(low.max(min).min(max), high.max(min).min(max))
        } else {
            let (min, max) = (u8x16::splat(codes.min as u8), u8x16::splat(codes.max as u8));
            pack16::<S>(low, high).max(min).min(max)
        };
        BaselineBytes(BaselineBytes(bytes).flipped::<F>()).store(y);
    }

    #[inline(always)]
    fn no_sums() -> Self::Sums {
        [i16x8::ZERO; 2]
    }

    #[inline(always)]
    fn add_codes<const S: bool>([a, b]: Self::Sums, x: &[u8]) -> Self::Sums {
        let [low, high] = widen16::<S>(BaselineBytes::load(x).0);
        [a + low, b + high]
    }

    #[inline(always)]
    fn from_sums([a, b]: Self::Sums) -> Self {
        let ([a, b], [c, d]) = (widen32(a), widen32(b));
        Self::from_i32([a, b, c, d])
    }

    #[inline(always)]
    fn least(self) -> f32 {
        let [a, b, c, d] = self.0;
        fold_lanes(lesser(lesser(a, b), lesser(c, d)).to_array(), Real::min)
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        let [a, b, c, d] = self.0;
        fold_lanes(greater(greater(a, b), greater(c, d)).to_array(), Real::max)
    }

    #[inline(always)]
    fn total(self) -> f32 {
        let [a, b, c, d] = self.0;
        fold_lanes(((a + b) + (c + d)).to_array(), Real::add)
    }
}

/// 16 bytes.
#[derive(Clone, Copy)]
pub(crate) struct BaselineBytes(u8x16);

impl BaselineBytes {
    /// The bytes, of the other signedness if `F`.
    #[inline(always)]
    fn flipped<const F: bool>(self) -> u8x16 {
        if F { self.0 ^ u8x16::splat(0x80) } else { self.0 }
    }
}

impl Bytes for BaselineBytes {
    const N: usize = 16;

    #[inline(always)]
    fn load(x: &[u8]) -> Self {
        Self(u8x16::new(x.as_chunks::<16>().0[0]))
    }

    #[inline(always)]
    fn store(self, y: &mut [u8]) {
        y.as_chunks_mut::<16>().0[0] = self.0.to_array();
    }

    #[inline(always)]
    unsafe fn load_lanes<const B: usize>(x: *const u8, _stride: usize) -> Self {
        // SAFETY: the caller's promise; bytes are aligned anywhere.
        Self(u8x16::new(unsafe { x.cast::<[u8; 16]>().read() }))
    }

    #[inline(always)]
    unsafe fn store_lanes<const B: usize>(self, y: *mut u8, _stride: usize) {
        // SAFETY: as above.
        unsafe { y.cast::<[u8; 16]>().write(self.0.to_array()) }
    }

    #[inline(always)]
    fn max<const S: bool>(self, b: Self) -> Self {
        if S {
            let max = cast::<u8x16, i8x16>(self.0).max(cast(b.0));
            Self(cast(max))
        } else {
            Self(self.0.max(b.0))
        }
    }

    #[inline(always)]
    fn unpack_low<const E: usize>(self, b: Self) -> Self {
        Self(match E {
            1 => u8x16::unpack_low(self.0, b.0),
            2 => unpack_pairs::<false>(self.0, b.0),
            _ => cast(cast::<u8x16, f32x4>(self.0).unpack_lo(cast(b.0))),
        })
    }

    #[inline(always)]
    fn unpack_high<const E: usize>(self, b: Self) -> Self {
        Self(match E {
            1 => u8x16::unpack_high(self.0, b.0),
            2 => unpack_pairs::<true>(self.0, b.0),
            _ => cast(cast::<u8x16, f32x4>(self.0).unpack_hi(cast(b.0))),
        })
    }
}

/// Pairs of bytes from `a` and `b` in turn, those of the first or the last eight bytes. `wide` has it for 8 and 32 bits
/// only, and LLVM makes scalar code of arrays.
#[inline(always)]
fn unpack_pairs<const HIGH: bool>(a: u8x16, b: u8x16) -> u8x16 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        let (a, b) = (cast::<u8x16, __m128i>(a), cast(b));
        // SAFETY: SSE2 is part of the target.
        cast(unsafe { if HIGH { _mm_unpackhi_epi16(a, b) } else { _mm_unpacklo_epi16(a, b) } })
    }
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    return super::arm::unpack_pairs::<HIGH>(a, b);
    #[cfg(not(any(
        target_arch = "x86_64",
        all(target_arch = "aarch64", target_endian = "little")
    )))]
    {
        let (a, b): ([u16; 8], [u16; 8]) = (cast(a), cast(b));
        let first = if HIGH { 4 } else { 0 };
        cast(std::array::from_fn::<_, 8, _>(|i| {
            if i % 2 == 0 { a[first + i / 2] } else { b[first + i / 2] }
        }))
    }
}
