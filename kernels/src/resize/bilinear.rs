//! Bilinear resize.
//!
//! With the pixels a, b above and c, d below a position at fractions f (columns) and g (rows):
//! `v = (a·(1 − f) + b·f)·(1 − g) + (c·(1 − f) + d·f)·g`, every step rounded to f32. 8-bit codes are resized as they
//! are, the weights summing to one, and `y = rne(v)`; scale and zero point pass through.

use super::{Coordinates, ResizeShape};
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::numeric::widen;
use crate::par::Parallel;
use crate::sign::Sign;
use crate::simd::{Codes, Quad, Real, blocks, quads};

/// The two pixels, or rows, that a position lies between, and their weights.
#[derive(Clone, Copy, Debug)]
struct Between {
    at: [usize; 2],
    weight: [f32; 2],
}

/// Where every output row and column lies.
#[derive(Clone, Debug)]
struct Plan {
    cpu: Cpu,
    shape: ResizeShape,
    rows: Vec<Between>,
    columns: Vec<Between>,
}

impl Plan {
    fn new(cpu: Cpu, shape: ResizeShape, coordinates: Coordinates) -> Result<Self, KernelError> {
        shape.check()?;
        let between = |at: f32, size: usize, unit: usize| {
            let low = at as usize;
            let f = at - low as f32;
            Between { at: [low * unit, (low + 1).min(size - 1) * unit], weight: [1.0 - f, f] }
        };
        let [rows, columns] = shape.positions(coordinates);
        let row = shape.width * shape.channels;
        let rows = rows.into_iter().map(|at| between(at, shape.height, row)).collect();
        let columns =
            columns.into_iter().map(|at| between(at, shape.width, shape.channels)).collect();
        Ok(Self { cpu, shape, rows, columns })
    }

    /// The input rows that output row `row` (of all images) lies between, and their weights.
    #[inline(always)]
    fn row<'a, T>(&self, row: usize, x: &'a [T]) -> ([&'a [T]; 2], [f32; 2]) {
        let ResizeShape { height, width, channels, out, .. } = self.shape;
        let Between { at, weight } = self.rows[row % out[0]];
        let x = &x[row / out[0] * height * width * channels..];
        (at.map(|at| &x[at..][..width * channels]), weight)
    }
}

/// The value between four others: the definition.
#[inline(always)]
fn blend<R: Real>([a, b, c, d]: [R; 4], [f0, f1]: [f32; 2], [g0, g1]: [f32; 2]) -> R {
    let (f0, f1) = (R::splat(f0), R::splat(f1));
    let top = a.mul(f0).add(b.mul(f1));
    let bottom = c.mul(f0).add(d.mul(f1));
    top.mul(R::splat(g0)).add(bottom.mul(R::splat(g1)))
}

/// Bilinear resize of 8-bit codes; the head of its module has the arithmetic.
#[derive(Clone, Debug)]
pub struct Bilinear8 {
    plan: Plan,
    sign: Sign,
}

impl Bilinear8 {
    /// Resizes codes of type `sign`.
    ///
    /// # Errors
    /// If a scale is not finite and positive, the input is empty but not the output, or a size is too large.
    pub fn new(
        cpu: Cpu,
        shape: ResizeShape,
        coordinates: Coordinates,
        sign: Sign,
    ) -> Result<Self, KernelError> {
        Ok(Self { plan: Plan::new(cpu, shape, coordinates)?, sign })
    }

    /// Resizes `x` into `y`.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says.
    pub fn run(&self, par: &dyn Parallel, x: &[u8], y: &mut [u8]) -> Result<(), KernelError> {
        let plan = &self.plan;
        let codes = Codes { zero_point: 0, min: self.sign.min(), max: self.sign.max() };
        plan.shape.run(par, x, y, 1, |first, y| match self.sign {
            Sign::U8 => rows8::<false>(plan.cpu, plan, first, x, y, codes),
            Sign::S8 => rows8::<true>(plan.cpu, plan, first, x, y, codes),
        })
    }
}

/// Bilinear resize of f32; the head of its module has the arithmetic.
#[derive(Clone, Debug)]
pub struct BilinearF32 {
    plan: Plan,
}

impl BilinearF32 {
    /// Resizes f32 values.
    ///
    /// # Errors
    /// As [`Bilinear8::new`].
    pub fn new(
        cpu: Cpu,
        shape: ResizeShape,
        coordinates: Coordinates,
    ) -> Result<Self, KernelError> {
        Ok(Self { plan: Plan::new(cpu, shape, coordinates)? })
    }

    /// Resizes `x` into `y`.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says.
    pub fn run(&self, par: &dyn Parallel, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        let plan = &self.plan;
        plan.shape.run(par, x, y, 1, |first, y| rows_f32(plan.cpu, plan, first, x, y))
    }
}

quads!(fn rows8[const S: bool][S] = rows8_quads, rows8_body(plan: &Plan, first: usize, x: &[u8], y: &mut [u8], codes: Codes), plan.shape.channels);
quads!(fn rows_f32[][] = rows_f32_quads, rows_f32_body(plan: &Plan, first: usize, x: &[f32], y: &mut [f32]), plan.shape.channels);

#[inline(always)]
fn rows8_body<const S: bool>(plan: &Plan, first: usize, x: &[u8], y: &mut [u8], codes: Codes) {
    let channels = plan.shape.channels;
    for (r, y) in y.chunks_mut(plan.shape.out[1] * channels).enumerate() {
        let ([top, bottom], g) = plan.row(first + r, x);
        for (y, column) in y.chunks_mut(channels).zip(&plan.columns) {
            let [l, r] = column.at;
            for (c, y) in y.iter_mut().enumerate() {
                let v = [top[l + c], top[r + c], bottom[l + c], bottom[r + c]];
                *y = codes.of(blend(v.map(|v| widen::<S>(v) as f32), column.weight, g)) as u8;
            }
        }
    }
}

#[inline(always)]
fn rows_f32_body(plan: &Plan, first: usize, x: &[f32], y: &mut [f32]) {
    let channels = plan.shape.channels;
    for (r, y) in y.chunks_mut(plan.shape.out[1] * channels).enumerate() {
        let ([top, bottom], g) = plan.row(first + r, x);
        for (y, column) in y.chunks_mut(channels).zip(&plan.columns) {
            let [l, r] = column.at;
            for (c, y) in y.iter_mut().enumerate() {
                let v = [top[l + c], top[r + c], bottom[l + c], bottom[r + c]];
                *y = blend(v, column.weight, g);
            }
        }
    }
}

#[inline(always)]
fn rows8_quads<Q: Quad, const S: bool>(
    plan: &Plan,
    first: usize,
    x: &[u8],
    y: &mut [u8],
    codes: Codes,
) {
    let channels = plan.shape.channels;
    for (r, y) in y.chunks_mut(plan.shape.out[1] * channels).enumerate() {
        let ([top, bottom], g) = plan.row(first + r, x);
        for (y, column) in y.chunks_mut(channels).zip(&plan.columns) {
            let [l, r] = column.at;
            for c in blocks(channels, Q::N) {
                let (a, b) = (Q::codes::<S>(&top[l + c..]), Q::codes::<S>(&top[r + c..]));
                let (c_, d) = (Q::codes::<S>(&bottom[l + c..]), Q::codes::<S>(&bottom[r + c..]));
                blend([a, b, c_, d], column.weight, g).store_codes::<S>(codes, &mut y[c..]);
            }
        }
    }
}

#[inline(always)]
fn rows_f32_quads<Q: Quad>(plan: &Plan, first: usize, x: &[f32], y: &mut [f32]) {
    let channels = plan.shape.channels;
    for (r, y) in y.chunks_mut(plan.shape.out[1] * channels).enumerate() {
        let ([top, bottom], g) = plan.row(first + r, x);
        for (y, column) in y.chunks_mut(channels).zip(&plan.columns) {
            let [l, r] = column.at;
            for c in blocks(channels, Q::N) {
                let (a, b) = (Q::load(&top[l + c..]), Q::load(&top[r + c..]));
                let (c_, d) = (Q::load(&bottom[l + c..]), Q::load(&bottom[r + c..]));
                blend([a, b, c_, d], column.weight, g).store(&mut y[c..]);
            }
        }
    }
}
