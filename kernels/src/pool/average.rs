//! Average pooling.
//!
//! 8 bit: `y = clamp(rne(f32(Σ(x − z_x)) · m) + z_y)` with an exact s32 sum and `m = s_x / (s_y·f32(n))`,
//! the form of ONNX Runtime's global pool, which its windowed one (computed in f32) agrees with except at
//! ties its own roundings make. `n` counts the window's elements in the input, or in the padded input if
//! padding is to be included.

use super::PoolShape;
use super::window::{Run, codes_at};
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::multiversion::multiversion;
use crate::numeric::widen;
use crate::par::Parallel;
use crate::quantize::{check_code, check_scale, requantized};
use crate::sign::Sign;
use crate::simd::{Codes, Quad, blocks, quads};

/// Scale and zero point of an 8-bit pool's two sides, and the type both have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides {
    pub(super) sign: Sign,
    pub(super) x: (f32, i32),
    pub(super) y: (f32, i32),
}

impl Sides {
    pub(super) fn check(&self) -> Result<(), KernelError> {
        let of = (self.sign.min(), self.sign.max());
        check_scale("the scale of x", self.x.0)?;
        check_scale("the scale of y", self.y.0)?;
        check_code("the zero point of x", self.x.1, of)?;
        check_code("the zero point of y", self.y.1, of)
    }

    /// The multiplier for `n` elements; 0 for none, which makes the result real 0.
    #[inline(always)]
    pub(super) fn multiplier(&self, n: usize) -> f32 {
        if n == 0 { 0.0 } else { self.x.0 / (self.y.0 * n as f32) }
    }

    /// How results become codes.
    #[inline(always)]
    pub(super) fn codes(&self) -> Codes {
        Codes { zero_point: self.y.1, min: self.sign.min(), max: self.sign.max() }
    }

    /// The clamp bounds less the zero point.
    pub(super) fn bounds(&self) -> (f32, f32) {
        ((self.sign.min() - self.y.1) as f32, (self.sign.max() - self.y.1) as f32)
    }
}

/// Fails if a sum of `count` 8-bit values less a zero point might leave s32.
pub(super) fn check_count(count: usize) -> Result<(), KernelError> {
    const LIMIT: usize = i32::MAX as usize / 255;
    if count <= LIMIT { Ok(()) } else { Err(KernelError::KTooLarge { k: count, limit: LIMIT }) }
}

/// Average pooling of 8-bit codes.
#[derive(Clone, Copy, Debug)]
pub struct AveragePool8 {
    cpu: Cpu,
    shape: PoolShape,
    sides: Sides,
    include_pad: bool,
}

impl AveragePool8 {
    /// `x` and `y` are (scale, zero point) of input and output, both of type `sign`.
    ///
    /// # Errors
    /// If the shape is not usable, a scale or zero point is out of range, or the window is so large that its
    /// sum could overflow.
    pub fn new(
        cpu: Cpu,
        shape: PoolShape,
        sign: Sign,
        x: (f32, i32),
        y: (f32, i32),
        include_pad: bool,
    ) -> Result<Self, KernelError> {
        shape.check()?;
        let sides = Sides { sign, x, y };
        sides.check()?;
        check_count(shape.kernel[0] * shape.kernel[1])?;
        Ok(Self { cpu, shape, sides, include_pad })
    }

    /// Pools `x` into `y`.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says.
    pub fn run(&self, par: &dyn Parallel, x: &[u8], y: &mut [u8]) -> Result<(), KernelError> {
        let (cpu, small) = (self.cpu, self.shape.is_small());
        self.shape.run(par, x, y, |row, y| match (small, self.sides.sign) {
            (true, Sign::U8) => average8::<false>(cpu, self, row, x, y),
            (true, Sign::S8) => average8::<true>(cpu, self, row, x, y),
            (false, Sign::U8) => average8_large::<false>(cpu, self, row, x, y),
            (false, Sign::S8) => average8_large::<true>(cpu, self, row, x, y),
        })
    }
}

/// Average pooling of f32: the window is added row by row, then divided once.
#[derive(Clone, Copy, Debug)]
pub struct AveragePoolF32 {
    cpu: Cpu,
    shape: PoolShape,
    include_pad: bool,
}

impl AveragePoolF32 {
    /// Pools f32 values.
    ///
    /// # Errors
    /// If the shape is not usable.
    pub fn new(cpu: Cpu, shape: PoolShape, include_pad: bool) -> Result<Self, KernelError> {
        shape.check()?;
        Ok(Self { cpu, shape, include_pad })
    }

    /// Pools `x` into `y`.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says.
    pub fn run(&self, par: &dyn Parallel, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        self.shape.run(par, x, y, |row, y| average_f32(self.cpu, self, row, x, y))
    }
}

quads!(fn average8[const S: bool][S] = average8_quads, average8_body(pool: &AveragePool8, row: usize, x: &[u8], y: &mut [u8]), pool.shape.channels);
multiversion!(fn average8_large[const S: bool][S] = average8_body(pool: &AveragePool8, row: usize, x: &[u8], y: &mut [u8]));
multiversion!(fn average_f32 = average_f32_body(pool: &AveragePoolF32, row: usize, x: &[f32], y: &mut [f32]));

#[inline(always)]
fn average8_quads<Q: Quad, const S: bool>(pool: &AveragePool8, row: usize, x: &[u8], y: &mut [u8]) {
    let AveragePool8 { shape, sides, include_pad, .. } = pool;
    let (channels, codes, mut runs) = (shape.channels, sides.codes(), shape.runs(row));
    while let Some(run) = runs.next() {
        let y = &mut y[run.columns.start * channels..run.columns.end * channels];
        let (taps, n) =
            (run.taps, if *include_pad { run.window.padded_count } else { run.taps.len() });
        // A window of this size has a sum that f32 holds exactly, before and after the zero points.
        let m = sides.multiplier(n);
        let start = -(taps.len() as i32 * sides.x.1) as f32;
        match taps.len() {
            // Taps of a number known to the compiler cost no loop.
            4 => average_run::<Q, S>(&run, &taps[..4], channels, x, y, (start, m), codes),
            9 => average_run::<Q, S>(&run, &taps[..9], channels, x, y, (start, m), codes),
            _ => average_run::<Q, S>(&run, taps, channels, x, y, (start, m), codes),
        }
    }
}

/// The codes of `(start + Σ taps) · m` of every window of a run; `taps` are the run's.
#[inline(always)]
fn average_run<Q: Quad, const S: bool>(
    run: &Run<'_>,
    taps: &[usize],
    channels: usize,
    x: &[u8],
    y: &mut [u8],
    (start, m): (f32, f32),
    codes: Codes,
) {
    assert!(run.reach(channels) <= x.len());
    let (start, m, hi) = (Q::splat(start), Q::splat(m), Q::splat(codes.offsets().1));
    for (i, y) in y.chunks_exact_mut(channels).enumerate() {
        let base = i * run.step;
        for c in blocks(channels, Q::N) {
            let mut sums = Q::no_sums();
            for &tap in taps {
                // SAFETY: `base + tap + channels` is at most the run's reach, and `c + N` at most `channels`.
                sums = Q::add_codes::<S>(sums, unsafe { codes_at(x, base + tap + c, Q::N) });
            }
            let v = Q::from_sums(sums).add(start).mul(m).min(hi);
            v.store_codes::<S>(codes, &mut y[c..]);
        }
    }
}

#[inline(always)]
fn average8_body<const S: bool>(pool: &AveragePool8, row: usize, x: &[u8], y: &mut [u8]) {
    let AveragePool8 { shape, sides, include_pad, .. } = pool;
    let (lo, hi) = sides.bounds();
    for (ox, y) in y.chunks_mut(shape.channels).enumerate() {
        let window = shape.window(row, ox);
        let m = sides.multiplier(if *include_pad { window.padded_count } else { window.count() });
        let start = -(window.count() as i32 * sides.x.1);
        shape.fold::<64, u8, i32>(
            &window,
            x,
            start,
            |a, x| a + widen::<S>(x),
            |c, acc| {
                for (y, &a) in y[c..].iter_mut().zip(acc) {
                    *y = requantized(a, m, sides.y.1, lo, hi);
                }
            },
        );
    }
}

#[inline(always)]
fn average_f32_body(pool: &AveragePoolF32, row: usize, x: &[f32], y: &mut [f32]) {
    let AveragePoolF32 { shape, include_pad, .. } = pool;
    for (ox, y) in y.chunks_mut(shape.channels).enumerate() {
        let window = shape.window(row, ox);
        let n = if *include_pad { window.padded_count } else { window.count() }.max(1) as f32;
        shape.fold::<32, f32, f32>(
            &window,
            x,
            0.0,
            |a, x| a + x,
            |c, acc| {
                for (y, &a) in y[c..].iter_mut().zip(acc) {
                    *y = a / n;
                }
            },
        );
    }
}
