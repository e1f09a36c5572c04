//! Bilinear resize.
//!
//! With the pixels a, b above and c, d below a position at fractions f (columns) and g (rows):
//! `v = (a·(1 − f) + b·f)·(1 − g) + (c·(1 − f) + d·f)·g`, every step rounded to f32. 8-bit codes are resized as they
//! are, the weights summing to one, and `y = rne(v)`; scale and zero point pass through.
//!
//! The values along an input row, which are the terms in parentheses, serve all output rows between it and its
//! neighbours: they are computed once and stay in L1, a span of the row at a time.

use super::{Coordinates, ResizeShape};
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::numeric::widen;
use crate::par::Parallel;
use crate::sign::Sign;
use crate::simd::{Codes, Quad, Real, blocks, quads};

/// Values of a row that are computed at a time, unless a single pixel has more.
const SPAN: usize = 1024;

/// The two pixels, or rows, that a position lies between, and their weights.
#[derive(Clone, Copy, Debug)]
struct Between {
    at: [usize; 2],
    weight: [f32; 2],
}

/// Values of two rows.
#[repr(align(64))]
struct Rows([[f32; SPAN]; 2]);

/// Where every output row and column lies: rows by number, columns by the element that they begin with.
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
        let rows = rows.into_iter().map(|at| between(at, shape.height, 1)).collect();
        let columns =
            columns.into_iter().map(|at| between(at, shape.width, shape.channels)).collect();
        Ok(Self { cpu, shape, rows, columns })
    }

    /// Output rows of a task: so many that few of the input rows between them serve two tasks, unless these are large.
    fn rows_per_task<Y>(&self) -> usize {
        const MOST_BYTES: usize = 512 * 1024;
        let ResizeShape { height, channels, out, .. } = self.shape;
        let row = out[1].saturating_mul(channels).saturating_mul(size_of::<Y>());
        let shared = out[0].div_ceil(height.max(1)).saturating_mul(4);
        shared.min(MOST_BYTES / row.max(1)).max(1)
    }

    /// Computes the output rows from `first` on. `along(x, columns, channels, v)` computes the values at `columns` of
    /// the first `channels` channels of an input row, and `across(v, weight, y)` results from those of two rows.
    fn run<T, Y>(
        &self,
        first: usize,
        x: &[T],
        y: &mut [Y],
        along: impl Fn(&[T], &[Between], usize, &mut [f32]),
        across: impl Fn([&[f32]; 2], [f32; 2], &mut [Y]),
    ) {
        let ResizeShape { height, width, channels, out, .. } = self.shape;
        let (in_row, out_row) = (width * channels, out[1] * channels);
        let columns = (SPAN / channels).max(1);
        let Rows(values) = &mut Rows([[0.0; SPAN]; 2]);
        for column in (0..out[1]).step_by(columns) {
            let between = &self.columns[column..out[1].min(column + columns)];
            for channel in (0..channels).step_by(SPAN) {
                let n = SPAN.min(channels - channel);
                let (at, len) = (column * channels + channel, between.len() * n);
                let mut held = [None; 2];
                for (r, y) in y.chunks_exact_mut(out_row).enumerate() {
                    let (image, Between { at: rows, weight }) =
                        ((first + r) / out[0], self.rows[(first + r) % out[0]]);
                    let rows = rows.map(|row| image * height + row);
                    // The rows are one, or neighbours.
                    for row in rows {
                        if held[row % 2] != Some(row) {
                            held[row % 2] = Some(row);
                            let x = &x[row * in_row..][..in_row];
                            along(&x[channel..], between, n, &mut values[row % 2][..len]);
                        }
                    }
                    let rows = rows.map(|row| &values[row % 2][..len]);
                    across(rows, weight, &mut y[at..][..len]);
                }
            }
        }
    }
}

/// The value between two others: the definition, first along rows, then across.
#[inline(always)]
fn blend<R: Real>([a, b]: [R; 2], [f0, f1]: [f32; 2]) -> R {
    a.mul(R::splat(f0)).add(b.mul(R::splat(f1)))
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
        plan.shape.run(par, x, y, (1, plan.rows_per_task::<u8>()), |first, y| match self.sign {
            Sign::U8 => run8::<false>(plan, first, x, y),
            Sign::S8 => run8::<true>(plan, first, x, y),
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
        let along = |x: &_, between: &_, n, v: &mut _| along_f32(plan.cpu, x, between, n, v);
        let across = |v: [&[f32]; 2], weight, y: &mut _| across_f32(plan.cpu, v, weight, y);
        plan.shape.run(par, x, y, (1, plan.rows_per_task::<f32>()), |first, y| {
            plan.run(first, x, y, along, across);
        })
    }
}

fn run8<const S: bool>(plan: &Plan, first: usize, x: &[u8], y: &mut [u8]) {
    let along = |x: &_, between: &_, n, v: &mut _| along8::<S>(plan.cpu, x, between, n, v);
    let across = |v: [&[f32]; 2], weight, y: &mut _| across8::<S>(plan.cpu, v, weight, y);
    plan.run(first, x, y, along, across);
}

quads!(fn along8[const S: bool][S] = along8_quads, along8_body(x: &[u8], between: &[Between], channels: usize, v: &mut [f32]), channels);
quads!(fn along_f32[][] = along_f32_quads, along_f32_body(x: &[f32], between: &[Between], channels: usize, v: &mut [f32]), channels);
quads!(fn across8[const S: bool][S] = across8_quads, across8_body(v: [&[f32]; 2], weight: [f32; 2], y: &mut [u8]), y.len());
quads!(fn across_f32[][] = across_f32_quads, across_f32_body(v: [&[f32]; 2], weight: [f32; 2], y: &mut [f32]), y.len());

/// Values are codes as they are.
#[inline(always)]
fn codes<const S: bool>() -> Codes {
    Codes { zero_point: 0, min: 0, max: 0 }.of_whole_type::<S>()
}

/// Columns that lie between the same pixels.
fn runs(between: &[Between]) -> impl Iterator<Item = &[Between]> {
    between.chunk_by(|a, b| a.at == b.at)
}

#[inline(always)]
fn along8_quads<Q: Quad, const S: bool>(
    x: &[u8],
    between: &[Between],
    channels: usize,
    mut v: &mut [f32],
) {
    for run in runs(between) {
        let (values, rest) = v.split_at_mut(run.len() * channels);
        v = rest;
        let [l, r] = run[0].at;
        for c in blocks(channels, Q::N) {
            let pixels = [Q::codes::<S>(&x[l + c..]), Q::codes::<S>(&x[r + c..])];
            for (v, column) in values.chunks_exact_mut(channels).zip(run) {
                blend(pixels, column.weight).store(&mut v[c..]);
            }
        }
    }
}

#[inline(always)]
fn along8_body<const S: bool>(x: &[u8], between: &[Between], channels: usize, v: &mut [f32]) {
    for (v, Between { at, weight }) in v.chunks_exact_mut(channels).zip(between) {
        let [l, r] = at.map(|at| &x[at..][..channels]);
        for (v, (&l, &r)) in v.iter_mut().zip(l.iter().zip(r)) {
            *v = blend([widen::<S>(l) as f32, widen::<S>(r) as f32], *weight);
        }
    }
}

#[inline(always)]
fn along_f32_quads<Q: Quad>(x: &[f32], between: &[Between], channels: usize, mut v: &mut [f32]) {
    for run in runs(between) {
        let (values, rest) = v.split_at_mut(run.len() * channels);
        v = rest;
        let [l, r] = run[0].at;
        for c in blocks(channels, Q::N) {
            let pixels = [Q::load(&x[l + c..]), Q::load(&x[r + c..])];
            for (v, column) in values.chunks_exact_mut(channels).zip(run) {
                blend(pixels, column.weight).store(&mut v[c..]);
            }
        }
    }
}

#[inline(always)]
fn along_f32_body(x: &[f32], between: &[Between], channels: usize, v: &mut [f32]) {
    for (v, Between { at, weight }) in v.chunks_exact_mut(channels).zip(between) {
        let [l, r] = at.map(|at| &x[at..][..channels]);
        for (v, (&l, &r)) in v.iter_mut().zip(l.iter().zip(r)) {
            *v = blend([l, r], *weight);
        }
    }
}

#[inline(always)]
fn across8_quads<Q: Quad, const S: bool>(
    [top, bottom]: [&[f32]; 2],
    weight: [f32; 2],
    y: &mut [u8],
) {
    for at in blocks(y.len(), Q::N) {
        blend([Q::load(&top[at..]), Q::load(&bottom[at..])], weight)
            .store_codes::<S>(codes::<S>(), &mut y[at..]);
    }
}

#[inline(always)]
fn across8_body<const S: bool>([top, bottom]: [&[f32]; 2], weight: [f32; 2], y: &mut [u8]) {
    for (y, (&top, &bottom)) in y.iter_mut().zip(top.iter().zip(bottom)) {
        *y = codes::<S>().of(blend([top, bottom], weight)) as u8;
    }
}

#[inline(always)]
fn across_f32_quads<Q: Quad>([top, bottom]: [&[f32]; 2], weight: [f32; 2], y: &mut [f32]) {
    for at in blocks(y.len(), Q::N) {
        blend([Q::load(&top[at..]), Q::load(&bottom[at..])], weight).store(&mut y[at..]);
    }
}

#[inline(always)]
fn across_f32_body([top, bottom]: [&[f32]; 2], weight: [f32; 2], y: &mut [f32]) {
    for (y, (&top, &bottom)) in y.iter_mut().zip(top.iter().zip(bottom)) {
        *y = blend([top, bottom], weight);
    }
}
