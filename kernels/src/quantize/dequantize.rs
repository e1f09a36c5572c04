//! Codes → f32.

use super::check_scale;
use crate::cpu::Cpu;
use crate::error::{KernelError, check_len, checked_product};
use crate::multiversion::multiversion;
use crate::numeric::widen;
use crate::par::Parallel;
use crate::simd::{AlignedF32, Quad, blocks, quads};
use crate::split::{self, TASK_BYTES};

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
    pub(super) fn len(&self) -> usize {
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
    scales: AlignedF32,
    zero_points: Vec<i32>,
    /// The zero points in f32, a single one if they are equal, provided that every difference of an 8-bit code and one
    /// is exact there.
    exact: Option<AlignedF32>,
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
    /// If a scale is not finite and positive, `inner` is 0, the two lists differ in length, or a size overflows.
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
        checked_product("the quantized axis", &[scales.len(), inner])?;
        let small = zero_points.iter().all(|z| z.unsigned_abs() < 1 << 20);
        let equal = zero_points.iter().all(|z| *z == zero_points[0]);
        let different = if equal { &zero_points[..1] } else { &zero_points[..] };
        let values = || different.iter().map(|&z| z as f32).collect::<Vec<f32>>();
        let exact = small.then(|| AlignedF32::from(&values()[..]));
        Ok(Self { cpu, scales: scales[..].into(), zero_points, exact, inner })
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
                self.slice(q, start, y);
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
                self.rows(q, i * rows * axis, y);
            });
        } else {
            split::chunks(par, y, self.inner, |i, y| {
                let c = i % axis;
                self.span(q, i * self.inner, y, self.scales[c], self.zero_points[c]);
            });
        }
        Ok(())
    }

    /// Whether there is one scale for all.
    pub(super) fn is_per_tensor(&self) -> bool {
        self.scales.len() == 1
    }

    /// Dequantizes the codes from `start` on, as many as `y` has, on the calling thread; one scale for all.
    pub(super) fn slice(&self, q: Codes<'_>, start: usize, y: &mut [f32]) {
        self.span(q, start, y, self.scales[0], self.zero_points[0]);
    }

    fn span(&self, q: Codes<'_>, start: usize, y: &mut [f32], scale: f32, zero_point: i32) {
        match q {
            Codes::U8(q) => self.span8::<false>(&q[start..][..y.len()], y, scale, zero_point),
            Codes::S8(q) => self.span8::<true>(&q[start..][..y.len()], y, scale, zero_point),
            Codes::S16(q) => dequantize16(self.cpu, &q[start..][..y.len()], y, scale, zero_point),
            Codes::S32(q) => dequantize32(self.cpu, &q[start..][..y.len()], y, scale, zero_point),
        }
    }

    fn span8<const S: bool>(&self, q: &[u8], y: &mut [f32], scale: f32, zero_point: i32) {
        if self.exact.is_some() {
            dequantize8::<S>(self.cpu, q, y, scale, zero_point);
        } else {
            dequantize8_any::<S>(self.cpu, q, y, scale, zero_point);
        }
    }

    fn rows8<const S: bool>(&self, q: &[u8], y: &mut [f32]) {
        let (scales, zero_points) = (&self.scales[..], &self.zero_points[..]);
        match &self.exact {
            Some(exact) => dequantize8_rows::<S>(self.cpu, q, y, scales, zero_points, exact),
            None => dequantize8_rows_any::<S>(self.cpu, q, y, scales, zero_points, &[]),
        }
    }

    fn rows(&self, q: Codes<'_>, start: usize, y: &mut [f32]) {
        let (s, z) = (&self.scales[..], &self.zero_points[..]);
        match q {
            Codes::U8(q) => self.rows8::<false>(&q[start..][..y.len()], y),
            Codes::S8(q) => self.rows8::<true>(&q[start..][..y.len()], y),
            Codes::S16(q) => dequantize16_rows(self.cpu, &q[start..][..y.len()], y, s, z),
            Codes::S32(q) => dequantize32_rows(self.cpu, &q[start..][..y.len()], y, s, z),
        }
    }
}

/// The definition of dequantization. The subtraction wraps, which only s32 codes near the type's ends can meet.
#[inline(always)]
pub(crate) fn value(q: i32, scale: f32, zero_point: i32) -> f32 {
    q.wrapping_sub(zero_point) as f32 * scale
}

quads!(fn dequantize8[const S: bool][S] = dequantize8_quads, dequantize8_body(q: &[u8], y: &mut [f32], scale: f32, zero_point: i32), y.len());
quads!(fn dequantize8_rows[const S: bool][S] = dequantize8_rows_quads, dequantize8_rows_body(q: &[u8], y: &mut [f32], scales: &[f32], zero_points: &[i32], exact: &[f32]), scales.len());
multiversion!(fn dequantize8_any[const S: bool][S] = dequantize8_body(q: &[u8], y: &mut [f32], scale: f32, zero_point: i32));
multiversion!(fn dequantize16 = dequantize16_body(q: &[i16], y: &mut [f32], scale: f32, zero_point: i32));
multiversion!(fn dequantize32 = dequantize32_body(q: &[i32], y: &mut [f32], scale: f32, zero_point: i32));
multiversion!(fn dequantize8_rows_any[const S: bool][S] = dequantize8_rows_body(q: &[u8], y: &mut [f32], scales: &[f32], zero_points: &[i32], exact: &[f32]));
multiversion!(fn dequantize16_rows = dequantize16_rows_body(q: &[i16], y: &mut [f32], scales: &[f32], zero_points: &[i32]));
multiversion!(fn dequantize32_rows = dequantize32_rows_body(q: &[i32], y: &mut [f32], scales: &[f32], zero_points: &[i32]));

#[inline(always)]
fn dequantize8_quads<Q: Quad, const S: bool>(q: &[u8], y: &mut [f32], scale: f32, zero_point: i32) {
    let (scale, zero_point) = (Q::splat(scale), Q::splat(zero_point as f32));
    for at in blocks(y.len(), Q::N) {
        Q::codes::<S>(&q[at..]).sub(zero_point).mul(scale).store(&mut y[at..]);
    }
}

#[inline(always)]
fn dequantize8_rows_quads<Q: Quad, const S: bool>(
    q: &[u8],
    y: &mut [f32],
    scales: &[f32],
    _zero_points: &[i32],
    exact: &[f32],
) {
    let rows = q.chunks_exact(scales.len()).zip(y.chunks_exact_mut(scales.len()));
    if let [zero_point] = *exact {
        let zero_point = Q::splat(zero_point);
        for (q, y) in rows {
            for at in blocks(scales.len(), Q::N) {
                let v = Q::codes::<S>(&q[at..]).sub(zero_point);
                v.mul(Q::load(&scales[at..])).store(&mut y[at..]);
            }
        }
    } else {
        let exact = &exact[..scales.len()];
        for (q, y) in rows {
            for at in blocks(scales.len(), Q::N) {
                let v = Q::codes::<S>(&q[at..]).sub(Q::load(&exact[at..]));
                v.mul(Q::load(&scales[at..])).store(&mut y[at..]);
            }
        }
    }
}

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
fn dequantize8_rows_body<const S: bool>(
    q: &[u8],
    y: &mut [f32],
    scales: &[f32],
    zero_points: &[i32],
    _exact: &[f32],
) {
    dequantize_rows(q, y, scales, zero_points, widen::<S>);
}

#[inline(always)]
fn dequantize16_rows_body(q: &[i16], y: &mut [f32], scales: &[f32], zero_points: &[i32]) {
    dequantize_rows(q, y, scales, zero_points, i32::from);
}

#[inline(always)]
fn dequantize32_rows_body(q: &[i32], y: &mut [f32], scales: &[f32], zero_points: &[i32]) {
    dequantize_rows(q, y, scales, zero_points, |q| q);
}

#[inline(always)]
fn dequantize_rows<T: Copy>(
    q: &[T],
    y: &mut [f32],
    scales: &[f32],
    zero_points: &[i32],
    code: impl Fn(T) -> i32,
) {
    for (q, y) in q.chunks(scales.len()).zip(y.chunks_mut(scales.len())) {
        for (((y, &q), &s), &z) in y.iter_mut().zip(q).zip(scales).zip(zero_points) {
            *y = value(code(q), s, z);
        }
    }
}
