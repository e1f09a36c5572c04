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
