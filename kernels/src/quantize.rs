//! Quantize (f32 → integer), dequantize (integer → f32) and requantize (s32 → 8 bit).
//!
//! Rounding is half to even throughout, and a value is clamped *before* it becomes an integer, so that
//! infinities saturate and NaN gives the smallest code. This is what ONNX Runtime computes
//! (`MlasQuantizeLinear`: `maxps`, `minps`, `cvtps2dq`, add the zero point), checked against it.

use crate::cpu::Cpu;
use crate::error::{KernelError, check_at_least, check_len};
use crate::multiversion::multiversion;
use crate::numeric::{clamp, rne, widen};
use crate::par::Parallel;
use crate::sign::Sign;
use crate::split::{self, TASK_BYTES};

/// Fails unless `scale` is finite and positive.
pub(crate) fn check_scale(what: &'static str, scale: f32) -> Result<(), KernelError> {
    if scale.is_finite() && scale > 0.0 {
        Ok(())
    } else {
        Err(KernelError::invalid(what, scale, "finite and positive"))
    }
}

/// Fails unless `code` is in `min..=max`.
pub(crate) fn check_code(
    what: &'static str,
    code: i32,
    (min, max): (i32, i32),
) -> Result<(), KernelError> {
    if (min..=max).contains(&code) {
        Ok(())
    } else {
        Err(KernelError::invalid(what, code, "a value of the quantized type"))
    }
}

/// Fails unless `min` and `max` are ordered values of a type.
pub(crate) fn check_bounds(min: i32, max: i32, of: (i32, i32)) -> Result<(), KernelError> {
    check_code("the lower clamp bound", min, of)?;
    check_code("the upper clamp bound", max, of)?;
    if min <= max {
        Ok(())
    } else {
        Err(KernelError::invalid("the lower clamp bound", min, "at most the upper one"))
    }
}

fn type_range(sign: Sign) -> (i32, i32) {
    (sign.min(), sign.max())
}

/// `y = clamp(rne(x / scale) + zero_point, min, max)`: the division is a true f32 division.
#[derive(Clone, Copy, Debug)]
pub struct Quantize {
    cpu: Cpu,
    scale: f32,
    zero_point: i32,
    type_range: (i32, i32),
    min: i32,
    max: i32,
}

impl Quantize {
    /// Quantization to `sign`'s 8-bit type.
    ///
    /// # Errors
    /// If `scale` is not finite and positive, or `zero_point` is outside the type.
    pub fn new(cpu: Cpu, scale: f32, zero_point: i32, sign: Sign) -> Result<Self, KernelError> {
        Self::with_range(cpu, scale, zero_point, type_range(sign))
    }

    /// Quantization to s16; see [`run_s16`](Self::run_s16).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_s16(cpu: Cpu, scale: f32, zero_point: i32) -> Result<Self, KernelError> {
        Self::with_range(cpu, scale, zero_point, (i32::from(i16::MIN), i32::from(i16::MAX)))
    }

    fn with_range(
        cpu: Cpu,
        scale: f32,
        zero_point: i32,
        type_range: (i32, i32),
    ) -> Result<Self, KernelError> {
        check_scale("the scale", scale)?;
        check_code("the zero point", zero_point, type_range)?;
        let (min, max) = type_range;
        Ok(Self { cpu, scale, zero_point, type_range, min, max })
    }

    /// Limits the result to the codes `[min, max]` (a relu or clip that follows, rounded by this quantization).
    ///
    /// # Errors
    /// If `min > max` or a bound is outside the type.
    pub fn bounds(mut self, min: i32, max: i32) -> Result<Self, KernelError> {
        check_bounds(min, max, self.type_range)?;
        (self.min, self.max) = (min, max);
        Ok(self)
    }

    /// Quantizes `x` to 8-bit codes in `y`; both have the same length.
    ///
    /// # Errors
    /// If the lengths differ or `self` was made for s16.
    pub fn run(&self, par: &dyn Parallel, x: &[f32], y: &mut [u8]) -> Result<(), KernelError> {
        self.check_8_bit()?;
        check_len("y", y.len(), x.len())?;
        split::chunks(par, y, TASK_BYTES, |i, y| {
            let x = &x[i * TASK_BYTES..][..y.len()];
            self.slice(x, y);
        });
        Ok(())
    }

    /// Quantizes on the calling thread, after [`check_8_bit`](Self::check_8_bit).
    pub(crate) fn slice(&self, x: &[f32], y: &mut [u8]) {
        quantize8(self.cpu, x, y, self);
    }

    /// Fails if `self` was made for s16.
    pub(crate) fn check_8_bit(&self) -> Result<(), KernelError> {
        if self.type_range.1 > 255 {
            return Err(KernelError::invalid(
                "the output",
                "8 bits wide",
                "s16, as this quantization was made for",
            ));
        }
        Ok(())
    }

    /// Quantizes `x` to s16; both have the same length.
    ///
    /// # Errors
    /// If the lengths differ or `self` was made for 8 bits.
    pub fn run_s16(&self, par: &dyn Parallel, x: &[f32], y: &mut [i16]) -> Result<(), KernelError> {
        if self.type_range.1 <= 255 {
            return Err(KernelError::invalid(
                "the output",
                "s16",
                "8 bits wide, as this quantization was made for",
            ));
        }
        check_len("y", y.len(), x.len())?;
        split::chunks(par, y, TASK_BYTES, |i, y| {
            let x = &x[i * TASK_BYTES..][..y.len()];
            quantize16(self.cpu, x, y, self);
        });
        Ok(())
    }

    /// The code of one value: the definition, which the slice forms follow bit for bit.
    #[inline(always)]
    pub fn code(&self, x: f32) -> i32 {
        let lo = (self.min - self.zero_point) as f32;
        let hi = (self.max - self.zero_point) as f32;
        rne(clamp(x / self.scale, lo, hi)) + self.zero_point
    }
}

multiversion!(fn quantize8 = quantize8_body(x: &[f32], y: &mut [u8], q: &Quantize));
multiversion!(fn quantize16 = quantize16_body(x: &[f32], y: &mut [i16], q: &Quantize));

#[inline(always)]
fn quantize8_body(x: &[f32], y: &mut [u8], q: &Quantize) {
    let q = *q;
    for (y, &x) in y.iter_mut().zip(x) {
        *y = q.code(x) as u8;
    }
}

#[inline(always)]
fn quantize16_body(x: &[f32], y: &mut [i16], q: &Quantize) {
    let q = *q;
    for (y, &x) in y.iter_mut().zip(x) {
        *y = q.code(x) as i16;
    }
}

/// Integer codes to dequantize.
#[derive(Clone, Copy, Debug)]
pub enum Codes<'a> {
    /// Unsigned bytes.
    U8(&'a [u8]),
    /// Bytes holding two's complement.
    S8(&'a [u8]),
    /// 16-bit codes.
    S16(&'a [i16]),
    /// 32-bit codes (biases, accumulators).
    S32(&'a [i32]),
}

impl Codes<'_> {
    fn len(&self) -> usize {
        match self {
            Self::U8(q) | Self::S8(q) => q.len(),
            Self::S16(q) => q.len(),
            Self::S32(q) => q.len(),
        }
    }
}

/// `y = f32(q − zero_point) · scale`, per tensor or per index of one axis.
#[derive(Clone, Debug)]
pub struct Dequantize {
    cpu: Cpu,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
    inner: usize,
}

impl Dequantize {
    /// One scale and zero point for the whole tensor.
    ///
    /// # Errors
    /// If `scale` is not finite and positive.
    pub fn per_tensor(cpu: Cpu, scale: f32, zero_point: i32) -> Result<Self, KernelError> {
        Self::per_axis(cpu, vec![scale], vec![zero_point], 1)
    }

    /// One scale and zero point per index of an axis; `inner` is the product of the dimensions after that
    /// axis. `zero_points` may be empty, which means all zero.
    ///
    /// # Errors
    /// If a scale is not finite and positive, `inner` is 0, or the two lists differ in length.
    pub fn per_axis(
        cpu: Cpu,
        scales: Vec<f32>,
        zero_points: Vec<i32>,
        inner: usize,
    ) -> Result<Self, KernelError> {
        scales.iter().try_for_each(|&s| check_scale("a scale", s))?;
        let zero_points = if zero_points.is_empty() { vec![0; scales.len()] } else { zero_points };
        check_len("zero_points", zero_points.len(), scales.len())?;
        if scales.is_empty() || inner == 0 {
            return Err(KernelError::invalid(
                "the quantized axis",
                "empty",
                "at least one index long",
            ));
        }
        Ok(Self { cpu, scales, zero_points, inner })
    }

    /// Dequantizes `q` to `y`; both have the same length, a multiple of axis length · `inner` if per axis.
    ///
    /// # Errors
    /// If the lengths do not fit.
    pub fn run(&self, par: &dyn Parallel, q: Codes<'_>, y: &mut [f32]) -> Result<(), KernelError> {
        check_len("y", y.len(), q.len())?;
        let axis = self.scales.len();
        if axis == 1 {
            split::chunks(par, y, TASK_BYTES / 4, |i, y| {
                let start = i * (TASK_BYTES / 4);
                self.span(q, start, y, self.scales[0], self.zero_points[0]);
            });
            return Ok(());
        }
        if !y.len().is_multiple_of(axis * self.inner) {
            let rule = "a multiple of the quantized axis and what follows it";
            return Err(KernelError::invalid("the length", y.len(), rule));
        }
        if self.inner == 1 {
            let rows = split::rows_per_task(axis * 4);
            split::chunks(par, y, rows * axis, |i, y| {
                for (r, y) in y.chunks_mut(axis).enumerate() {
                    self.row(q, (i * rows + r) * axis, y);
                }
            });
        } else {
            split::chunks(par, y, self.inner, |i, y| {
                let c = i % axis;
                self.span(q, i * self.inner, y, self.scales[c], self.zero_points[c]);
            });
        }
        Ok(())
    }

    fn span(&self, q: Codes<'_>, start: usize, y: &mut [f32], scale: f32, zero_point: i32) {
        match q {
            Codes::U8(q) => {
                dequantize8::<false>(self.cpu, &q[start..][..y.len()], y, scale, zero_point)
            }
            Codes::S8(q) => {
                dequantize8::<true>(self.cpu, &q[start..][..y.len()], y, scale, zero_point)
            }
            Codes::S16(q) => dequantize16(self.cpu, &q[start..][..y.len()], y, scale, zero_point),
            Codes::S32(q) => dequantize32(self.cpu, &q[start..][..y.len()], y, scale, zero_point),
        }
    }

    fn row(&self, q: Codes<'_>, start: usize, y: &mut [f32]) {
        let (s, z) = (&self.scales[..], &self.zero_points[..]);
        match q {
            Codes::U8(q) => dequantize8_row::<false>(self.cpu, &q[start..][..y.len()], y, s, z),
            Codes::S8(q) => dequantize8_row::<true>(self.cpu, &q[start..][..y.len()], y, s, z),
            Codes::S16(q) => dequantize16_row(self.cpu, &q[start..][..y.len()], y, s, z),
            Codes::S32(q) => dequantize32_row(self.cpu, &q[start..][..y.len()], y, s, z),
        }
    }
}

/// The definition of dequantization. The subtraction wraps, which only s32 codes near the type's ends can meet.
#[inline(always)]
fn value(q: i32, scale: f32, zero_point: i32) -> f32 {
    q.wrapping_sub(zero_point) as f32 * scale
}

multiversion!(fn dequantize8[const S: bool][S] = dequantize8_body(q: &[u8], y: &mut [f32], scale: f32, zero_point: i32));
multiversion!(fn dequantize16 = dequantize16_body(q: &[i16], y: &mut [f32], scale: f32, zero_point: i32));
multiversion!(fn dequantize32 = dequantize32_body(q: &[i32], y: &mut [f32], scale: f32, zero_point: i32));
multiversion!(fn dequantize8_row[const S: bool][S] = dequantize8_row_body(q: &[u8], y: &mut [f32], scales: &[f32], zero_points: &[i32]));
multiversion!(fn dequantize16_row = dequantize16_row_body(q: &[i16], y: &mut [f32], scales: &[f32], zero_points: &[i32]));
multiversion!(fn dequantize32_row = dequantize32_row_body(q: &[i32], y: &mut [f32], scales: &[f32], zero_points: &[i32]));

#[inline(always)]
fn dequantize8_body<const S: bool>(q: &[u8], y: &mut [f32], scale: f32, zero_point: i32) {
    dequantize_span(q, y, scale, zero_point, widen::<S>);
}

#[inline(always)]
fn dequantize16_body(q: &[i16], y: &mut [f32], scale: f32, zero_point: i32) {
    dequantize_span(q, y, scale, zero_point, i32::from);
}

#[inline(always)]
fn dequantize32_body(q: &[i32], y: &mut [f32], scale: f32, zero_point: i32) {
    dequantize_span(q, y, scale, zero_point, |q| q);
}

#[inline(always)]
fn dequantize_span<T: Copy>(
    q: &[T],
    y: &mut [f32],
    scale: f32,
    zero_point: i32,
    code: impl Fn(T) -> i32,
) {
    for (y, &q) in y.iter_mut().zip(q) {
        *y = value(code(q), scale, zero_point);
    }
}

#[inline(always)]
fn dequantize8_row_body<const S: bool>(
    q: &[u8],
    y: &mut [f32],
    scales: &[f32],
    zero_points: &[i32],
) {
    dequantize_row(q, y, scales, zero_points, widen::<S>);
}

#[inline(always)]
fn dequantize16_row_body(q: &[i16], y: &mut [f32], scales: &[f32], zero_points: &[i32]) {
    dequantize_row(q, y, scales, zero_points, i32::from);
}

#[inline(always)]
fn dequantize32_row_body(q: &[i32], y: &mut [f32], scales: &[f32], zero_points: &[i32]) {
    dequantize_row(q, y, scales, zero_points, |q| q);
}

#[inline(always)]
fn dequantize_row<T: Copy>(
    q: &[T],
    y: &mut [f32],
    scales: &[f32],
    zero_points: &[i32],
    code: impl Fn(T) -> i32,
) {
    for (((y, &q), &s), &z) in y.iter_mut().zip(q).zip(scales).zip(zero_points) {
        *y = value(code(q), s, z);
    }
}

/// `y = clamp(rne(f32(acc) · m) + zero_point, min, max)`, s32 accumulators to 8 bits in `HalfEven` rounding
/// (numerics.md; `MlasRequantizeOutput`). `m` is one value or one per index of the last axis.
#[derive(Clone, Debug)]
pub struct Requantize {
    cpu: Cpu,
    multipliers: Vec<f32>,
    zero_point: i32,
    min: i32,
    max: i32,
}

impl Requantize {
    /// Output to `sign`'s type, limited to `[min, max]`.
    ///
    /// # Errors
    /// If there is no multiplier, one is not finite, or `zero_point`, `min`, `max` do not fit the type.
    pub fn new(
        cpu: Cpu,
        multipliers: Vec<f32>,
        zero_point: i32,
        sign: Sign,
        (min, max): (i32, i32),
    ) -> Result<Self, KernelError> {
        check_at_least("multipliers", multipliers.len(), 1)?;
        if let Some(m) = multipliers.iter().find(|m| !m.is_finite()) {
            return Err(KernelError::invalid("a multiplier", m, "finite"));
        }
        check_code("the zero point", zero_point, type_range(sign))?;
        check_bounds(min, max, type_range(sign))?;
        Ok(Self { cpu, multipliers, zero_point, min, max })
    }

    /// Requantizes `acc` to `y`; both have the same length, a multiple of the number of multipliers.
    ///
    /// # Errors
    /// If the lengths do not fit.
    pub fn run(&self, par: &dyn Parallel, acc: &[i32], y: &mut [u8]) -> Result<(), KernelError> {
        check_len("y", y.len(), acc.len())?;
        let axis = self.multipliers.len();
        let offset = (self.min - self.zero_point, self.max - self.zero_point);
        let (lo, hi) = (offset.0 as f32, offset.1 as f32);
        if axis == 1 {
            split::chunks(par, y, TASK_BYTES, |i, y| {
                let acc = &acc[i * TASK_BYTES..][..y.len()];
                requantize_span(self.cpu, acc, y, self.multipliers[0], self.zero_point, lo, hi);
            });
            return Ok(());
        }
        if !y.len().is_multiple_of(axis) {
            return Err(KernelError::invalid(
                "the length",
                y.len(),
                "a multiple of the number of multipliers",
            ));
        }
        let rows = split::rows_per_task(axis);
        split::chunks(par, y, rows * axis, |i, y| {
            for (r, y) in y.chunks_mut(axis).enumerate() {
                let acc = &acc[(i * rows + r) * axis..][..axis];
                requantize_row(self.cpu, acc, y, &self.multipliers, self.zero_point, lo, hi);
            }
        });
        Ok(())
    }
}

multiversion!(fn requantize_span = requantize_span_body(acc: &[i32], y: &mut [u8], m: f32, zero_point: i32, lo: f32, hi: f32));
multiversion!(fn requantize_row = requantize_row_body(acc: &[i32], y: &mut [u8], m: &[f32], zero_point: i32, lo: f32, hi: f32));

/// One requantized value; `lo` and `hi` are the bounds less the zero point.
#[inline(always)]
pub(crate) fn requantized(acc: i32, m: f32, zero_point: i32, lo: f32, hi: f32) -> u8 {
    (rne(clamp(acc as f32 * m, lo, hi)) + zero_point) as u8
}

#[inline(always)]
fn requantize_span_body(acc: &[i32], y: &mut [u8], m: f32, zero_point: i32, lo: f32, hi: f32) {
    for (y, &acc) in y.iter_mut().zip(acc) {
        *y = requantized(acc, m, zero_point, lo, hi);
    }
}

#[inline(always)]
fn requantize_row_body(acc: &[i32], y: &mut [u8], m: &[f32], zero_point: i32, lo: f32, hi: f32) {
    for ((y, &acc), &m) in y.iter_mut().zip(acc).zip(m) {
        *y = requantized(acc, m, zero_point, lo, hi);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::par::Serial;
    use crate::split::testing::{cpus, pool};
    use proptest::prelude::*;

    fn sign() -> impl Strategy<Value = Sign> {
        any::<bool>().prop_map(|s| if s { Sign::S8 } else { Sign::U8 })
    }

    fn scale() -> impl Strategy<Value = f32> {
        prop_oneof![
            1e-4f32..10.0,
            Just(0.5),
            Just(1.0),
            Just(f32::MIN_POSITIVE),
            Just(1e-45),
            Just(f32::MAX)
        ]
    }

    /// Values around the codes, ties included, and everything else a float can be.
    fn values() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(
            prop_oneof![any::<f32>(), -300f32..300.0, (-600i32..600).prop_map(|i| i as f32 / 2.0)],
            0..200,
        )
    }

    /// The formula in its own words: divide, saturate, round half to even.
    fn naive(x: f32, scale: f32, zero_point: i32, (min, max): (i32, i32)) -> i32 {
        let v = x / scale;
        if v.is_nan() {
            return min;
        }
        v.clamp((min - zero_point) as f32, (max - zero_point) as f32).round_ties_even() as i32
            + zero_point
    }

    proptest! {
        #[test]
        fn every_isa_quantizes_as_defined(x in values(), s in scale(), sign in sign(), z: u8, narrow: [u8; 2]) {
            let z = sign.value(z);
            let n = narrow.map(|b| sign.value(b));
            for bounds in [(sign.min(), sign.max()), (n[0].min(n[1]), n[0].max(n[1]))] {
                for cpu in cpus() {
                    let q = Quantize::new(cpu, s, z, sign).unwrap().bounds(bounds.0, bounds.1).unwrap();
                    let mut y = vec![0; x.len()];
                    q.run(&Serial, &x, &mut y).unwrap();
                    for (&y, &x) in y.iter().zip(&x) {
                        prop_assert_eq!(sign.value(y), naive(x, s, z, bounds), "{} {}", x, cpu.isa());
                        prop_assert_eq!(q.code(x), sign.value(y));
                    }
                }
            }
        }

        #[test]
        fn every_isa_quantizes_to_16_bits(x in values(), s in scale(), z: i16) {
            for cpu in cpus() {
                let mut y = vec![0; x.len()];
                Quantize::new_s16(cpu, s, i32::from(z)).unwrap().run_s16(&Serial, &x, &mut y).unwrap();
                for (&y, &x) in y.iter().zip(&x) {
                    prop_assert_eq!(i32::from(y), naive(x, s, i32::from(z), (-32768, 32767)), "{} {}", x, cpu.isa());
                }
            }
        }

        #[test]
        fn every_isa_dequantizes_and_requantizes_as_defined(
            q in prop::collection::vec(any::<i32>(), 0..150), s in prop::collection::vec(1e-6f32..10.0, 1..4), z: u8,
            inner in 1usize..4, sign in sign(), narrow: [u8; 2],
        ) {
            let axis = s.len();
            let len = q.len() / (axis * inner) * (axis * inner);
            let q = &q[..len];
            let bytes: Vec<u8> = q.iter().map(|&q| q as u8).collect();
            let words: Vec<i16> = q.iter().map(|&q| q as i16).collect();
            let zs: Vec<i32> = (0..axis).map(|i| i32::from(z) + i as i32).collect();
            let at = |i: usize| i / inner % axis;
            for cpu in cpus() {
                let d = Dequantize::per_axis(cpu, s.clone(), zs.clone(), inner).unwrap();
                for (codes, value) in [
                    (Codes::U8(&bytes), &(|i: usize| i32::from(bytes[i])) as &dyn Fn(usize) -> i32),
                    (Codes::S8(&bytes), &|i| i32::from(bytes[i] as i8)),
                    (Codes::S16(&words), &|i| i32::from(words[i])),
                    (Codes::S32(q), &|i| q[i]),
                ] {
                    let mut y = vec![0.0; len];
                    d.run(&Serial, codes, &mut y).unwrap();
                    for (i, &y) in y.iter().enumerate() {
                        prop_assert_eq!(y, value(i).wrapping_sub(zs[at(i)]) as f32 * s[at(i)]);
                    }
                }
                let (z, n) = (sign.value(z), narrow.map(|b| sign.value(b)));
                let bounds = (n[0].min(n[1]), n[0].max(n[1]));
                let r = Requantize::new(cpu, s.clone(), z, sign, bounds).unwrap();
                let mut y = vec![0; len];
                r.run(&Serial, q, &mut y).unwrap();
                for (i, &y) in y.iter().enumerate() {
                    prop_assert_eq!(sign.value(y), naive(q[i] as f32 * s[i % axis], 1.0, z, bounds));
                }
            }
        }
    }

    #[test]
    fn every_8_bit_code_survives_dequantize_and_quantize() {
        let q: Vec<u8> = (0..=255).collect();
        for cpu in cpus() {
            for (sign, z, codes) in [(Sign::U8, 7, Codes::U8(&q)), (Sign::S8, -3, Codes::S8(&q))] {
                for s in [0.1f32, 1.0 / 3.0, 1e-3, 123.456] {
                    let (mut x, mut back) = (vec![0.0; 256], vec![0; 256]);
                    Dequantize::per_tensor(cpu, s, z).unwrap().run(&Serial, codes, &mut x).unwrap();
                    Quantize::new(cpu, s, z, sign).unwrap().run(&Serial, &x, &mut back).unwrap();
                    assert_eq!(q, back);
                }
            }
        }
    }

    #[test]
    fn long_slices_are_split_without_a_seam() {
        let x: Vec<f32> = (0..200_000).map(|i| i as f32 * 0.001 - 50.0).collect();
        let q = Quantize::new(Cpu::detect(), 0.3, 100, Sign::U8).unwrap();
        let (mut y, mut z) = (vec![0; x.len()], vec![0; x.len()]);
        q.run(&Serial, &x, &mut y).unwrap();
        q.run(&pool(), &x, &mut z).unwrap();
        assert_eq!(y, z);
        assert!(y.iter().zip(&x).all(|(&y, &x)| i32::from(y) == naive(x, 0.3, 100, (0, 255))));
        let d = Dequantize::per_axis(Cpu::detect(), vec![0.5, 0.25], vec![], 1000).unwrap();
        let (mut a, mut b) = (vec![0.0; y.len()], vec![0.0; y.len()]);
        d.run(&Serial, Codes::U8(&y), &mut a).unwrap();
        d.run(&pool(), Codes::U8(&y), &mut b).unwrap();
        assert_eq!(a, b);
        assert_eq!((a[999], a[1000]), (f32::from(y[999]) * 0.5, f32::from(y[1000]) * 0.25));
    }

    #[test]
    fn bad_parameters_are_refused() {
        let cpu = Cpu::detect();
        for s in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(Quantize::new(cpu, s, 0, Sign::U8).is_err());
            assert!(Dequantize::per_tensor(cpu, s, 0).is_err());
        }
        assert!(Quantize::new(cpu, 1.0, 256, Sign::U8).is_err());
        assert!(Quantize::new(cpu, 1.0, 0, Sign::U8).unwrap().bounds(5, 4).is_err());
        let s16 = Quantize::new_s16(cpu, 1.0, 0).unwrap();
        assert!(s16.run(&Serial, &[], &mut []).is_err());
        assert!(
            Quantize::new(cpu, 1.0, 0, Sign::U8).unwrap().run_s16(&Serial, &[], &mut []).is_err()
        );
        assert!(s16.run_s16(&Serial, &[1.0], &mut []).is_err());
        assert!(Dequantize::per_axis(cpu, vec![1.0; 3], vec![0; 2], 1).is_err());
        let three = Dequantize::per_axis(cpu, vec![1.0; 3], vec![], 2).unwrap();
        assert!(three.run(&Serial, Codes::U8(&[0; 9]), &mut [0.0; 9]).is_err());
        assert!(Requantize::new(cpu, vec![], 0, Sign::U8, (0, 255)).is_err());
        assert!(Requantize::new(cpu, vec![f32::NAN], 0, Sign::U8, (0, 255)).is_err());
    }
}
