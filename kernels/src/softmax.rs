//! Softmax over the last axis: `yᵢ = e^(xᵢ − max) / Σ e^(xⱼ − max)`.
//!
//! One polynomial exponential (`math::exp_not_positive`), one order of summation ([`Reduce`](crate::float::Reduce)'s)
//! and one true division per element: the same bits on every ISA. The 8-bit forms dequantize, take this
//! f32 softmax and quantize, so that they equal the three separate steps bit for bit.

use crate::cpu::Cpu;
use crate::error::{KernelError, check_at_least, check_len, checked_product};
use crate::float::fold;
use crate::math;
use crate::numeric::widen;
use crate::par::Parallel;
use crate::quantize::{Quantize, check_code, check_scale};
use crate::sign::Sign;
use crate::simd::{MAX_LANES, Quad, blocks, quads};
use crate::split;

/// The work of an element, in bytes written that take as long.
const COST: usize = 4 * 4;

/// Softmax of rows of `axis` elements.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    cpu: Cpu,
    axis: usize,
}

impl Softmax {
    /// Rows of `axis` elements.
    ///
    /// # Errors
    /// If `axis` is 0, or a row larger than memory.
    pub fn new(cpu: Cpu, axis: usize) -> Result<Self, KernelError> {
        if axis == 0 {
            return Err(KernelError::invalid(
                "the softmax axis",
                axis,
                "at least one element long",
            ));
        }
        checked_product("a row of the softmax", &[axis, COST])?;
        Ok(Self { cpu, axis })
    }

    /// f32 in, f32 out; both have the same length, a multiple of the axis.
    ///
    /// # Errors
    /// If the lengths do not fit.
    pub fn run(&self, par: &dyn Parallel, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        self.check_rows(x.len(), y.len())?;
        let rows = split::rows_per_task(self.axis * COST);
        split::chunks(par, y, rows * self.axis, |i, y| {
            let x = &x[i * rows * self.axis..][..y.len()];
            let group = group(self.axis) * self.axis;
            for (x, y) in x.chunks(group).zip(y.chunks_mut(group)) {
                y.copy_from_slice(x);
                softmax(self.cpu, y, self.axis);
            }
        });
        Ok(())
    }

    fn check_rows(&self, x: usize, y: usize) -> Result<(), KernelError> {
        check_len("y", y, x)?;
        if x.is_multiple_of(self.axis) {
            Ok(())
        } else {
            Err(KernelError::invalid("the length", x, "a multiple of the softmax axis"))
        }
    }
}

/// Softmax of 8-bit codes.
#[derive(Clone, Copy, Debug)]
pub struct Softmax8 {
    softmax: Softmax,
    sign: Sign,
    scale: f32,
    zero_point: i32,
}

impl Softmax8 {
    /// Rows of `axis` codes of type `sign` with the given scale and zero point.
    ///
    /// # Errors
    /// If `axis` is 0, a row larger than memory, or the scale or zero point out of range.
    pub fn new(
        cpu: Cpu,
        axis: usize,
        sign: Sign,
        scale: f32,
        zero_point: i32,
    ) -> Result<Self, KernelError> {
        check_scale("the scale of x", scale)?;
        check_code("the zero point of x", zero_point, (sign.min(), sign.max()))?;
        Ok(Self { softmax: Softmax::new(cpu, axis)?, sign, scale, zero_point })
    }

    /// 8-bit codes in, f32 out; both have the same length, a multiple of the axis.
    ///
    /// # Errors
    /// If the lengths do not fit.
    pub fn run_f32(&self, par: &dyn Parallel, x: &[u8], y: &mut [f32]) -> Result<(), KernelError> {
        self.softmax.check_rows(x.len(), y.len())?;
        let axis = self.softmax.axis;
        let rows = split::rows_per_task(axis * COST);
        split::chunks(par, y, rows * axis, |i, y| {
            let (x, group) = (&x[i * rows * axis..][..y.len()], group(axis) * axis);
            for (x, y) in x.chunks(group).zip(y.chunks_mut(group)) {
                self.rows(x, y);
            }
        });
        Ok(())
    }

    /// Elements of scratch that [`run`](Self::run) takes for `threads` workers; those for one are the least.
    pub fn scratch_len(&self, threads: usize) -> usize {
        let axis = self.softmax.axis;
        (group(axis) * axis).saturating_mul(threads.max(1))
    }

    /// 8-bit codes in and out, the result quantized by `quantize`; both have the same length, a multiple of
    /// the axis. `scratch` is for [`scratch_len`](Self::scratch_len) elements.
    ///
    /// # Errors
    /// If the lengths do not fit, `scratch` is too short for one worker, or `quantize` is not for 8 bits.
    pub fn run(
        &self,
        par: &dyn Parallel,
        quantize: &Quantize,
        x: &[u8],
        y: &mut [u8],
        scratch: &mut [f32],
    ) -> Result<(), KernelError> {
        self.softmax.check_rows(x.len(), y.len())?;
        quantize.check_8_bit()?;
        let (axis, group) = (self.softmax.axis, self.scratch_len(1));
        check_at_least("scratch", scratch.len(), group)?;
        let rows = split::rows_per_task(axis * COST);
        split::chunks_with(par, y, rows * axis, scratch, group, |i, y, real| {
            let x = &x[i * rows * axis..][..y.len()];
            for (x, y) in x.chunks(group).zip(y.chunks_mut(group)) {
                let real = &mut real[..y.len()];
                self.rows(x, real);
                quantize.slice(real, y);
            }
        });
        Ok(())
    }

    fn rows(&self, x: &[u8], y: &mut [f32]) {
        let Self { softmax: Softmax { cpu, axis }, scale, zero_point, .. } = *self;
        match self.sign {
            Sign::U8 => softmax8::<false>(cpu, x, y, axis, scale, zero_point),
            Sign::S8 => softmax8::<true>(cpu, x, y, axis, scale, zero_point),
        }
    }
}

quads!(fn softmax[][] = softmax_quads, softmax_body(y: &mut [f32], axis: usize), axis);
quads!(fn softmax8[const S: bool][S] = softmax8_quads, softmax8_body(x: &[u8], y: &mut [f32], axis: usize, scale: f32, zero_point: i32), axis);

/// Rows that a kernel takes at a time, each of its passes over all of them: what waits for the end of one row's
/// pass leaves the others' to be computed meanwhile.
fn group(axis: usize) -> usize {
    const ELEMENTS: usize = 2048;
    (ELEMENTS / axis).clamp(1, GROUP)
}

/// The largest group.
const GROUP: usize = 16;

#[inline(always)]
fn softmax8_quads<Q: Quad, const S: bool>(
    x: &[u8],
    y: &mut [f32],
    axis: usize,
    scale: f32,
    zero_point: i32,
) {
    dequantize::<S>(x, y, scale, zero_point);
    softmax_quads::<Q>(y, axis);
}

#[inline(always)]
fn softmax8_body<const S: bool>(x: &[u8], y: &mut [f32], axis: usize, scale: f32, zero_point: i32) {
    dequantize::<S>(x, y, scale, zero_point);
    softmax_body(y, axis);
}

#[inline(always)]
fn dequantize<const S: bool>(x: &[u8], y: &mut [f32], scale: f32, zero_point: i32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = (widen::<S>(x) - zero_point) as f32 * scale;
    }
}

#[inline(always)]
fn softmax_quads<Q: Quad>(y: &mut [f32], axis: usize) {
    let mut maxima = [0.0; GROUP];
    for (max, row) in maxima.iter_mut().zip(y.chunks_exact(axis)) {
        *max = largest::<Q>(row);
    }
    softmax_below(maxima, y, axis);
}

#[inline(always)]
fn softmax_body(y: &mut [f32], axis: usize) {
    let mut maxima = [0.0; GROUP];
    for (max, row) in maxima.iter_mut().zip(y.chunks_exact(axis)) {
        *max = fold(row, f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    }
    softmax_below(maxima, y, axis);
}

/// A group of rows in place, given the largest element of each.
#[inline(always)]
fn softmax_below(maxima: [f32; GROUP], y: &mut [f32], axis: usize) {
    for (max, row) in maxima.into_iter().zip(y.chunks_exact_mut(axis)) {
        for y in row {
            *y = math::exp_not_positive(*y - max);
        }
    }
    let mut sums = [0.0; GROUP];
    for (sum, row) in sums.iter_mut().zip(y.chunks_exact(axis)) {
        *sum = fold(row, 0.0, |a, b| a + b);
    }
    for (sum, row) in sums.into_iter().zip(y.chunks_exact_mut(axis)) {
        for y in row {
            *y /= sum;
        }
    }
}

/// The largest element, NaN ignored. No order of comparisons changes it, except in the sign of a zero, which no
/// difference from it depends on.
#[inline(always)]
fn largest<Q: Quad>(row: &[f32]) -> f32 {
    let mut max = Q::splat(f32::NEG_INFINITY);
    for at in blocks(row.len(), Q::N) {
        max = max.max(Q::load(&row[at..]));
    }
    let mut lanes = [0.0; MAX_LANES];
    max.store(&mut lanes);
    fold(&lanes[..Q::N], f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::par::Serial;
    use crate::quantize::{Codes, Dequantize};
    use crate::split::testing::{cpus, pool};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_are_exponentials_over_their_sum_with_the_same_bits_everywhere(
            axis in 1usize..80, rows in 0usize..5, seed: u32, spread in 0.0f32..60.0,
        ) {
            let noise = |i: usize| ((i as u32 ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
            let x: Vec<f32> = (0..axis * rows).map(|i| noise(i) * spread).collect();
            let mut first: Option<Vec<f32>> = None;
            for cpu in cpus() {
                let (mut y, mut z) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                Softmax::new(cpu, axis).unwrap().run(&Serial, &x, &mut y).unwrap();
                Softmax::new(cpu, axis).unwrap().run(&pool(), &x, &mut z).unwrap();
                prop_assert_eq!(&y, &z);
                prop_assert_eq!(first.get_or_insert(y.clone()), &y, "{}", cpu.isa());
                for (x, y) in x.chunks(axis).zip(y.chunks(axis)) {
                    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let e: Vec<f64> = x.iter().map(|&x| f64::from(x - max).exp()).collect();
                    let sum: f64 = e.iter().sum();
                    for (y, e) in y.iter().zip(e) {
                        prop_assert!((f64::from(*y) - e / sum).abs() <= 1e-6 * (e / sum) + 1e-30);
                    }
                }
            }
        }

        #[test]
        fn eight_bit_forms_are_dequantize_softmax_quantize(
            x in prop::collection::vec(any::<u8>(), 0..400), axis in 1usize..50, s in 0.001f32..0.5, z: u8, signed: bool,
        ) {
            let x = &x[..x.len() / axis * axis];
            let sign = if signed { Sign::S8 } else { Sign::U8 };
            let (z, codes) = (sign.value(z), if signed { Codes::S8(x) } else { Codes::U8(x) });
            for cpu in cpus() {
                let (mut real, mut want_f32, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0; x.len()]);
                let quantize = Quantize::new(cpu, 1.0 / 256.0, sign.min(), sign).unwrap();
                Dequantize::per_tensor(cpu, s, z).unwrap().run(&Serial, codes, &mut real).unwrap();
                Softmax::new(cpu, axis).unwrap().run(&Serial, &real, &mut want_f32).unwrap();
                quantize.run(&Serial, &want_f32, &mut want).unwrap();

                let softmax = Softmax8::new(cpu, axis, sign, s, z).unwrap();
                let (mut y_f32, mut y) = (vec![0.0; x.len()], vec![0; x.len()]);
                softmax.run_f32(&pool(), x, &mut y_f32).unwrap();
                prop_assert_eq!(&y_f32, &want_f32);
                for threads in [1, 3] {
                    let mut scratch = vec![9.0; softmax.scratch_len(threads)];
                    softmax.run(&pool(), &quantize, x, &mut y, &mut scratch).unwrap();
                    prop_assert_eq!(&y, &want);
                }
            }
        }
    }

    #[test]
    fn lengths_are_checked() {
        let cpu = Cpu::detect();
        assert!(Softmax::new(cpu, 0).is_err());
        assert!(Softmax::new(cpu, 3).unwrap().run(&Serial, &[0.0; 4], &mut [0.0; 4]).is_err());
        let softmax = Softmax8::new(cpu, 2, Sign::U8, 0.1, 0).unwrap();
        let quantize = Quantize::new(cpu, 1.0, 0, Sign::U8).unwrap();
        assert!(softmax.run(&Serial, &quantize, &[0; 2], &mut [0; 2], &mut [0.0; 1]).is_err());
        let s16 = Quantize::new_s16(cpu, 1.0, 0).unwrap();
        assert!(softmax.run(&Serial, &s16, &[0; 2], &mut [0; 2], &mut [0.0; 2]).is_err());
    }
}
