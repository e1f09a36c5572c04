//! Max pooling. Padding never wins; a window that holds nothing but padding gives the smallest value.

use super::PoolShape;
use super::window::{Run, codes_at};
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::multiversion::multiversion;
use crate::par::Parallel;
use crate::sign::Sign;
use crate::simd::{Bytes, Quad, blocks, quads};

/// Max pooling of 8-bit codes; scale and zero point pass through.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool8 {
    cpu: Cpu,
    shape: PoolShape,
    sign: Sign,
}

impl MaxPool8 {
    /// Pools codes of type `sign`.
    ///
    /// # Errors
    /// If a kernel size, stride or dilation is 0, or a size overflows.
    pub fn new(cpu: Cpu, shape: PoolShape, sign: Sign) -> Result<Self, KernelError> {
        shape.check()?;
        Ok(Self { cpu, shape, sign })
    }

    /// Pools `x` into `y`.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says.
    pub fn run(&self, par: &dyn Parallel, x: &[u8], y: &mut [u8]) -> Result<(), KernelError> {
        let Self { cpu, shape, sign } = self;
        shape.run(par, x, y, |row, y| match (shape.is_small(), sign) {
            (true, Sign::U8) => max8::<false>(*cpu, shape, row, x, y),
            (true, Sign::S8) => max8::<true>(*cpu, shape, row, x, y),
            (false, Sign::U8) => max8_large::<false>(*cpu, shape, row, x, y),
            (false, Sign::S8) => max8_large::<true>(*cpu, shape, row, x, y),
        })
    }
}

/// Max pooling of f32; NaN is ignored.
#[derive(Clone, Copy, Debug)]
pub struct MaxPoolF32 {
    cpu: Cpu,
    shape: PoolShape,
}

impl MaxPoolF32 {
    /// Pools f32 values.
    ///
    /// # Errors
    /// As [`MaxPool8::new`].
    pub fn new(cpu: Cpu, shape: PoolShape) -> Result<Self, KernelError> {
        shape.check()?;
        Ok(Self { cpu, shape })
    }

    /// Pools `x` into `y`.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says.
    pub fn run(&self, par: &dyn Parallel, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        self.shape.run(par, x, y, |row, y| max_f32(self.cpu, &self.shape, row, x, y))
    }
}

quads!(fn max8[const S: bool][S] = max8_quads, max8_body(shape: &PoolShape, row: usize, x: &[u8], y: &mut [u8]), shape.channels);
multiversion!(fn max8_large[const S: bool][S] = max8_body(shape: &PoolShape, row: usize, x: &[u8], y: &mut [u8]));
multiversion!(fn max_f32 = max_f32_body(shape: &PoolShape, row: usize, x: &[f32], y: &mut [f32]));

#[inline(always)]
fn max8_quads<Q: Quad, const S: bool>(shape: &PoolShape, row: usize, x: &[u8], y: &mut [u8]) {
    let (channels, mut runs) = (shape.channels, shape.runs(row));
    while let Some(run) = runs.next() {
        let y = &mut y[run.columns.start * channels..run.columns.end * channels];
        match run.taps.len() {
            0 => y.fill(if S { i8::MIN as u8 } else { 0 }),
            // Taps of a number known to the compiler cost no loop.
            4 => max_run::<Q::Bytes, S>(&run, &run.taps[..4], channels, x, y),
            9 => max_run::<Q::Bytes, S>(&run, &run.taps[..9], channels, x, y),
            _ => max_run::<Q::Bytes, S>(&run, run.taps, channels, x, y),
        }
    }
}

/// The greatest codes of the taps of every window of a run; `taps` are the run's, at least one.
#[inline(always)]
fn max_run<B: Bytes, const S: bool>(
    run: &Run<'_>,
    taps: &[usize],
    channels: usize,
    x: &[u8],
    y: &mut [u8],
) {
    assert!(run.reach(channels) <= x.len());
    for (i, y) in y.chunks_exact_mut(channels).enumerate() {
        let base = i * run.step;
        for c in blocks(channels, B::N) {
            // SAFETY: `base + tap + channels` is at most the run's reach, and `c + N` at most `channels`.
            let mut max = B::load(unsafe { codes_at(x, base + taps[0] + c, B::N) });
            for &tap in &taps[1..] {
                // SAFETY: as above.
                max = max.max::<S>(B::load(unsafe { codes_at(x, base + tap + c, B::N) }));
            }
            max.store(&mut y[c..]);
        }
    }
}

#[inline(always)]
fn max8_body<const S: bool>(shape: &PoolShape, row: usize, x: &[u8], y: &mut [u8]) {
    if S {
        max_row::<64, u8>(shape, row, x, y, i8::MIN as u8, |a, x| {
            if (x as i8) > (a as i8) { x } else { a }
        });
    } else {
        max_row::<64, u8>(shape, row, x, y, 0, |a, x| if x > a { x } else { a });
    }
}

#[inline(always)]
fn max_f32_body(shape: &PoolShape, row: usize, x: &[f32], y: &mut [f32]) {
    max_row::<32, f32>(shape, row, x, y, f32::NEG_INFINITY, |a, x| if x > a { x } else { a });
}

#[inline(always)]
fn max_row<const B: usize, T: Copy>(
    shape: &PoolShape,
    row: usize,
    x: &[T],
    y: &mut [T],
    lowest: T,
    max: impl Fn(T, T) -> T + Copy,
) {
    for (ox, y) in y.chunks_mut(shape.channels).enumerate() {
        let window = shape.window(row, ox);
        shape.fold::<B, T, T>(&window, x, lowest, max, |c, acc| {
            y[c..][..acc.len()].copy_from_slice(acc)
        });
    }
}
