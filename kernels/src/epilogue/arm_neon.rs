//! The requantizations on NEON registers: what makes integers of 16 accumulators of a row ([`Scale`]), and what packs them.
//!
//! ```text
//! i32 ─scvtf─▶ f32 ─·m─▶ ─fcvtns, half to even─▶ i32 ─sqxtn─▶ i16 ─sqadd zero─▶ ─sqxtun─▶ u8 ─clamp─▶
//! ```
//! Packing happens in the u8 domain; s8 outputs are shifted by 128 and flipped back by the last XOR.
//! `fcvtns` and the narrowings saturate, so a value out of range stays on its side of the bounds up to the clamp.

use std::arch::aarch64::*;

use super::{Multiplier, NR, Quant, Residual, Sign, Stored, TileOut};
use crate::gemm::kernel::for_each_row;

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

    /// 16 integers, before the zero point, as bytes.
    #[inline(always)]
    fn bytes(self, x: [int32x4_t; 4]) -> uint8x16_t {
        // SAFETY: NEON is part of the target.
        unsafe {
            let first = vqmovn_high_s32(vqmovn_s32(x[0]), x[1]);
            let second = vqmovn_high_s32(vqmovn_s32(x[2]), x[3]);
            let first = vqaddq_s16(first, self.zero_point);
            let second = vqaddq_s16(second, self.zero_point);
            let bytes = vqmovun_high_s16(vqmovun_s16(first), second);
            veorq_u8(vminq_u8(vmaxq_u8(bytes, self.low), self.high), self.flip)
        }
    }

    /// Writes the first `cols` of 16 integers.
    ///
    /// # Safety
    /// `cols ≤ 16` bytes at `out` may be written.
    #[inline(always)]
    pub(crate) unsafe fn store(self, x: [int32x4_t; 4], cols: usize, out: *mut u8) {
        let bytes = self.bytes(x);
        // SAFETY: the caller's contract; NEON is part of the target.
        unsafe {
            if cols == NR {
                vst1q_u8(out, bytes);
            } else {
                store_partial(bytes, cols, out);
            }
        }
    }
}

/// What makes integers of accumulators, before the zero point of [`Quant::stored`]. Constants of columns are loaded for
/// every row: beside the accumulators of a tile there is no room for them.
pub(crate) trait Scale: Copy {
    /// The integers of 16 accumulators of the columns from `col` on, the first of a panel.
    ///
    /// # Safety
    /// There are constants for these columns, and 16 bytes at `residual` if one is added.
    unsafe fn apply(self, acc: [int32x4_t; 4], col: usize, residual: *const u8) -> [int32x4_t; 4];
}

/// [`super::Requantize::HalfEven`].
#[derive(Clone, Copy)]
pub(crate) struct HalfEven {
    pub(crate) m: *const f32,
}

impl HalfEven {
    /// The products with the multipliers, not yet rounded.
    ///
    /// # Safety
    /// There are multipliers for 16 columns from `col` on.
    #[inline(always)]
    unsafe fn products(self, acc: [int32x4_t; 4], col: usize) -> [float32x4_t; 4] {
        // SAFETY: the caller's contract; NEON is part of the target.
        let product = |v: usize| unsafe {
            vmulq_f32(vcvtq_f32_s32(acc[v]), vld1q_f32(self.m.add(col + 4 * v)))
        };
        [product(0), product(1), product(2), product(3)]
    }
}

impl Scale for HalfEven {
    #[inline(always)]
    unsafe fn apply(self, acc: [int32x4_t; 4], col: usize, _: *const u8) -> [int32x4_t; 4] {
        // SAFETY: same contract; NEON is part of the target.
        unsafe { self.products(acc, col).map(|x| vcvtnq_s32_f32(x)) }
    }
}

/// The same, clamped, and a residual added. Own values stay in f32, in which integers of 9 bits are exact.
#[derive(Clone, Copy)]
struct Sum {
    own: HalfEven,
    low: float32x4_t,
    high: float32x4_t,
    zero_point: float32x4_t,
    /// Makes unsigned bytes of the residual's.
    flip: uint8x16_t,
    /// What unsigned bytes are more than what is added.
    less: uint8x16_t,
    conv_is_lhs: bool,
    scale_a: float32x4_t,
    scale_b: float32x4_t,
    offset: float32x4_t,
}

impl Sum {
    #[inline(always)]
    fn new(m: &[f32], quant: &Quant, residual: &Residual) -> Self {
        let Residual { sign, domain, conv_is_lhs, scale_a, scale_b, offset, .. } = *residual;
        // SAFETY: NEON is part of the target.
        unsafe {
            Self {
                own: HalfEven { m: m.as_ptr() },
                low: vdupq_n_f32(quant.low as f32),
                high: vdupq_n_f32(quant.high as f32),
                zero_point: vdupq_n_f32(quant.zero_point as f32),
                flip: vdupq_n_u8(if sign == Sign::S8 { 0x80 } else { 0 }),
                less: vdupq_n_u8(if domain == Sign::S8 { 128 } else { 0 }),
                conv_is_lhs,
                scale_a: vdupq_n_f32(scale_a),
                scale_b: vdupq_n_f32(scale_b),
                offset: vdupq_n_f32(offset),
            }
        }
    }
}

impl Scale for Sum {
    #[inline(always)]
    unsafe fn apply(self, acc: [int32x4_t; 4], col: usize, residual: *const u8) -> [int32x4_t; 4] {
        // SAFETY: the caller grants 16 multipliers and 16 bytes; NEON is part of the target.
        unsafe {
            let own = self.own.products(acc, col).map(|x| {
                let clamped = vminq_f32(vmaxq_f32(vrndnq_f32(x), self.low), self.high);
                vaddq_f32(clamped, self.zero_point)
            });
            let bytes = veorq_u8(vld1q_u8(residual), self.flip);
            let low = vsubl_u8(vget_low_u8(bytes), vget_low_u8(self.less));
            let low = vreinterpretq_s16_u16(low);
            let high = vreinterpretq_s16_u16(vsubl_high_u8(bytes, self.less));
            let theirs = [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
            .map(|x| vcvtq_f32_s32(x));
            let (a, b) = if self.conv_is_lhs { (own, theirs) } else { (theirs, own) };
            let sum = |v: usize| {
                let inner = vfmaq_f32(self.offset, b[v], self.scale_b);
                vcvtnq_s32_f32(vfmaq_f32(inner, a[v], self.scale_a))
            };
            [sum(0), sum(1), sum(2), sum(3)]
        }
    }
}

/// The fixed-point roundings: [`super::FixedPoint::apply_double`] if `DOUBLE`, else [`super::FixedPoint::apply_single`].
#[derive(Clone, Copy)]
struct Fixed<'a, const DOUBLE: bool> {
    m0: &'a [i32],
    shift: &'a [i32],
}

impl<const DOUBLE: bool> Scale for Fixed<'_, DOUBLE> {
    #[inline(always)]
    unsafe fn apply(self, acc: [int32x4_t; 4], col: usize, _: *const u8) -> [int32x4_t; 4] {
        // SAFETY: the caller grants 16 columns; NEON is part of the target.
        let one = |v: usize| unsafe {
            let m0 = vld1q_s32(self.m0.as_ptr().add(col + 4 * v));
            let shift = vld1q_s32(self.shift.as_ptr().add(col + 4 * v));
            if DOUBLE { double(acc[v], m0, shift) } else { single(acc[v], m0, shift) }
        };
        [one(0), one(1), one(2), one(3)]
    }
}

#[inline(always)]
fn double(acc: int32x4_t, m0: int32x4_t, shift: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is part of the target.
    unsafe {
        let zero = vdupq_n_s32(0);
        // Saturates for −2³¹ twice only, and m0 is not negative.
        let high = vqrdmulhq_s32(vshlq_s32(acc, vmaxq_s32(shift, zero)), m0);
        let right = vminq_s32(shift, zero);
        // `srshl` rounds halves up: what is negative and will be shifted is made one less, which cannot wrap, as `high`
        // is more than −2³¹.
        let high = vsraq_n_s32::<31>(high, vandq_s32(high, right));
        vrshlq_s32(high, right)
    }
}

#[inline(always)]
fn single(acc: int32x4_t, m0: int32x4_t, shift: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is part of the target.
    unsafe {
        let total = vsubq_s32(shift, vdupq_n_s32(31));
        let low = vmull_s32(vget_low_s32(acc), vget_low_s32(m0));
        let low = vrshlq_s64(low, vmovl_s32(vget_low_s32(total)));
        let high = vrshlq_s64(vmull_high_s32(acc, m0), vmovl_high_s32(total));
        vqmovn_high_s64(vqmovn_s64(low), high)
    }
}

/// Writes a tile of 8-bit outputs, whose first column is `col`; `cols` of its NV·16 columns exist.
///
/// # Safety
/// - `scale` has constants for columns `col` and following in so many panels.
/// - `cols ≤ NV·16` bytes of MR rows may be written, and if all columns exist read from the residual that `scale` wants.
#[inline(always)]
pub(crate) unsafe fn requantize_tile<const MR: usize, const NV: usize>(
    acc: &[[[int32x4_t; 4]; NV]; MR],
    stored: Stored,
    scale: impl Scale,
    (col, cols): (usize, usize),
    to: TileOut,
) {
    let requantizer = Requantizer::new(stored);
    for_each_row!(r < MR {
        for (v, acc) in acc[r].iter().enumerate() {
            let residual = to.residual.wrapping_add(r * to.ldr + v * NR);
            // SAFETY: columns `v·16` to `cols` of row `r` of what the caller grants; only the last panel is partial.
            unsafe {
                let x = scale.apply(*acc, col + v * NR, residual);
                requantizer.store(x, (cols - v * NR).min(NR), to.out.add(r * to.ldc + v * NR));
            }
        }
    });
}

/// Writes a whole tile whose epilogue is not a plain `HalfEven`. Answers false, having done nothing, where its form is left
/// to [`super::finish_tile`].
///
/// # Safety
/// As [`requantize_tile`], of all columns.
#[inline(always)]
pub(crate) unsafe fn quantize_tile<const MR: usize, const NV: usize>(
    acc: &[[[int32x4_t; 4]; NV]; MR],
    quant: &Quant,
    col: usize,
    to: TileOut,
) -> bool {
    let (stored, columns) = (quant.stored(), (col, NV * NR));
    // SAFETY: same contract; constants are padded to whole panels.
    unsafe {
        match (&quant.multiplier, &quant.residual) {
            (Multiplier::HalfEven { m, .. }, Some(residual)) => {
                requantize_tile(acc, stored, Sum::new(m, quant, residual), columns, to);
            }
            (Multiplier::Double { m0, shift }, None) => {
                requantize_tile(acc, stored, Fixed::<true> { m0, shift }, columns, to);
            }
            (Multiplier::Single { m0, shift }, None) => {
                requantize_tile(acc, stored, Fixed::<false> { m0, shift }, columns, to);
            }
            _ => return false,
        }
    }
    true
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::{
        super::{Epilogue, FixedPoint, Kind, Output, Requantize, finish_tile},
        *,
    };

    /// Accumulators of all magnitudes, the ends and what is around zero first.
    fn accumulators() -> Vec<[i32; 16]> {
        let mut values = vec![i32::MIN, i32::MIN + 1, i32::MAX, i32::MAX - 1, -(1 << 30), 1 << 30];
        values.extend(-13..=13);
        let mut state = 1u32;
        while values.len() < 2048 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            values.push(state as i32 >> (values.len() % 30));
        }
        values.chunks_exact(16).map(|chunk| chunk.try_into().unwrap()).collect()
    }

    fn load(acc: &[i32; 16]) -> [int32x4_t; 4] {
        // SAFETY: 16 values are readable; NEON is part of the target.
        std::array::from_fn(|v| unsafe { vld1q_s32(acc[4 * v..].as_ptr()) })
    }

    fn applied(scale: impl Scale, acc: &[i32; 16]) -> [i32; 16] {
        let mut out = [0; 16];
        // SAFETY: both have 16 columns; NEON is part of the target.
        unsafe {
            for (v, x) in scale.apply(load(acc), 0, std::ptr::null()).into_iter().enumerate() {
                vst1q_s32(out[4 * v..].as_mut_ptr(), x);
            }
        }
        out
    }

    #[test]
    fn fixed_point_roundings_are_the_scalar_ones_for_every_shift() {
        let mantissas = [0, 1 << 30, (1 << 30) + 1, 0x5555_5555, 0x6000_0000, i32::MAX];
        for shift in -31..=30 {
            // Every lane has another multiplier.
            let m: [FixedPoint; 16] =
                std::array::from_fn(|i| FixedPoint::new(mantissas[i % 6], shift).unwrap());
            let (m0, shift) = (&m.map(FixedPoint::m0)[..], &m.map(FixedPoint::shift)[..]);
            for acc in accumulators() {
                let of = |f: fn(FixedPoint, i32) -> i32| std::array::from_fn(|i| f(m[i], acc[i]));
                let double = applied(Fixed::<true> { m0, shift }, &acc);
                assert_eq!(double, of(FixedPoint::apply_double), "{acc:?}, {m:?}");
                let single = applied(Fixed::<false> { m0, shift }, &acc);
                assert_eq!(single, of(FixedPoint::apply_single), "{acc:?}, {m:?}");
            }
        }
    }

    #[test]
    fn residuals_are_added_as_in_memory() {
        let signs = [Sign::U8, Sign::S8];
        let scales =
            [(0.5, 0.25, 0.5), (1.7, -0.3, -100.25), (3e7, 1e-3, 0.0), (3e38, -3e38, 3e38)];
        let choices = || signs.into_iter().flat_map(|a| signs.map(|b| (a, b)));
        for ((sign, own), (stored, domain)) in
            choices().flat_map(|a| choices().map(move |b| (a, b)))
        {
            for (conv_is_lhs, (scale_a, scale_b, offset)) in
                [false, true].into_iter().flat_map(|lhs| scales.map(|s| (lhs, s)))
            {
                for m in [vec![0.0071f32], vec![-0.5], vec![3e38], vec![0.0]] {
                    let (min, max) = (sign.min() + 3, sign.max());
                    let residual = Residual {
                        sign: stored,
                        domain,
                        conv_is_lhs,
                        scale_a,
                        scale_b,
                        offset,
                        min,
                        max,
                    };
                    let output = Output::Quant8 {
                        sign,
                        requantize: Requantize::HalfEven(m),
                        zero_point: own.min() + 77,
                        min: own.min() + 5,
                        max: own.max(),
                        residual: Some(residual),
                    };
                    let epilogue = Epilogue::new(16, vec![0; 16], None, &output).unwrap();
                    for (i, mut acc) in accumulators().into_iter().enumerate() {
                        check_row(&epilogue, &mut acc, std::array::from_fn(|j| (16 * i + j) as u8));
                    }
                }
            }
        }
    }

    fn check_row(epilogue: &Epilogue, acc: &mut [i32; 16], residual: [u8; 16]) {
        let Kind::Quant8(quant) = &epilogue.kind else { panic!("no 8-bit output") };
        let (mut got, mut expected) = ([0u8; 16], [0u8; 16]);
        let to = |out: &mut [u8; 16]| TileOut {
            out: out.as_mut_ptr(),
            ldc: 16,
            residual: residual.as_ptr(),
            ldr: 16,
        };
        // SAFETY: one row of 16 columns each.
        unsafe {
            assert!(quantize_tile(&[[load(acc)]], quant, 0, to(&mut got)));
            finish_tile(epilogue, acc, 16, (0, 16), to(&mut expected));
        }
        assert_eq!(got, expected, "{epilogue:?}, {residual:?}");
    }
}
