//! f32 rows → 8 bit, with scale and zero point found at run time.
//!
//! ONNX' `DynamicQuantizeLinear` for each row (one row makes it the operator itself), every step in f32:
//! `lo = min(0, min xᵢ)`, `hi = max(0, max xᵢ)`, `scale = (hi − lo) / 255`, or 1 where that is 0,
//! `z = rne(clamp(−lo / scale, 0, 255))`, `yᵢ = clamp(rne(xᵢ / scale) + z, 0, 255)`. NaN does not count in `lo`
//! and `hi`, and becomes code 0. s8 codes are the u8 codes less 128.

use super::from_f32::Quantize;
use super::type_range;
use crate::cpu::Cpu;
use crate::error::{KernelError, check_len, checked_product};
use crate::numeric::{clamp, rne, widen};
use crate::par::{DisjointMut, Parallel};
use crate::sign::Sign;
use crate::simd::{MAX_SUM, Quad, Real, blocks, quads};
use crate::split;

/// What quantizing a row found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowQuantization {
    /// The scale.
    pub scale: f32,
    /// The zero point, a code of the output's type.
    pub zero_point: i32,
    /// The sum of the row's codes.
    pub sum: i32,
}

/// Quantization of rows whose range is not known before the run.
#[derive(Clone, Copy, Debug)]
pub struct DynamicQuantize {
    cpu: Cpu,
    sign: Sign,
    columns: usize,
}

impl DynamicQuantize {
    /// Rows of `columns` values to codes of type `sign`.
    ///
    /// # Errors
    /// If a row is empty or so long that the sum of its codes could overflow.
    pub fn new(cpu: Cpu, sign: Sign, columns: usize) -> Result<Self, KernelError> {
        const LIMIT: usize = i32::MAX as usize / 255;
        if columns == 0 {
            return Err(KernelError::invalid("a quantized row", columns, "not empty"));
        }
        if columns > LIMIT {
            return Err(KernelError::KTooLarge { k: columns, limit: LIMIT });
        }
        Ok(Self { cpu, sign, columns })
    }

    /// Quantizes each row of `x` to `y` and says how in `rows`. Each row is read from memory once: its second
    /// reading finds it in the cache, if it fits there.
    ///
    /// # Errors
    /// If a slice is not `rows.len()` rows long.
    pub fn run(
        &self,
        par: &dyn Parallel,
        x: &[f32],
        y: &mut [u8],
        rows: &mut [RowQuantization],
    ) -> Result<(), KernelError> {
        let len = checked_product("the quantized rows", &[rows.len(), self.columns])?;
        check_len("x", x.len(), len)?;
        check_len("y", y.len(), len)?;
        let (per_task, columns) = (split::rows_per_task(4 * self.columns), self.columns);
        let count = rows.len();
        let rows = DisjointMut::new(rows);
        split::chunks(par, y, per_task * columns, |i, y| {
            let first = i * per_task;
            // SAFETY: `chunks` gives each `i` to one task, so that these ranges are disjoint.
            let rows = unsafe { rows.slice(first..count.min(first + per_task)) };
            // The range of the next row is found before a row is quantized: what follows from it takes long, but few
            // instructions.
            let mut ranges =
                x[first * columns..][..y.len()].chunks(columns).map(|x| (x, self.quantize(x)));
            let mut next = ranges.next();
            for (y, row) in y.chunks_mut(columns).zip(rows) {
                if let Some((x, quantize)) = std::mem::replace(&mut next, ranges.next()) {
                    *row = self.row(x, quantize, y);
                }
            }
        });
        Ok(())
    }

    /// The quantization of the row `x`.
    fn quantize(&self, x: &[f32]) -> Quantize {
        let mut ends = (0.0, 0.0);
        range(self.cpu, x, &mut ends);
        let (lo, hi) = ends;
        let scale = (hi - lo) / 255.0;
        let scale = if scale == 0.0 { 1.0 } else { scale };
        let zero_point = rne(clamp(-lo / scale, 0.0, 255.0)) + self.sign.min();
        Quantize::unchecked(self.cpu, scale, zero_point, type_range(self.sign))
    }

    fn row(&self, x: &[f32], quantize: Quantize, y: &mut [u8]) -> RowQuantization {
        quantize.slice(x, y);
        let mut sum = 0;
        match self.sign {
            Sign::U8 => codes_sum::<false>(self.cpu, y, &mut sum),
            Sign::S8 => codes_sum::<true>(self.cpu, y, &mut sum),
        }
        let (scale, zero_point) = quantize.parameters();
        RowQuantization { scale, zero_point, sum }
    }
}

quads!(fn codes_sum[const S: bool][S] = codes_sum_quads, codes_sum_body(codes: &[u8], sum: &mut i32), codes.len());
quads!(fn range[][] = range_quads, range_body(x: &[f32], range: &mut (f32, f32)), x.len());

/// Extends `range` to the elements that are not NaN. No order of comparisons changes the result, except in the sign
/// of a zero, which no code depends on.
#[inline(always)]
fn range_body(x: &[f32], range: &mut (f32, f32)) {
    let (lo, hi) = x.iter().fold(*range, |(lo, hi), &x| (Real::min(lo, x), Real::max(hi, x)));
    *range = (lo, hi);
}

#[inline(always)]
fn range_quads<Q: Quad>(x: &[f32], range: &mut (f32, f32)) {
    let (mut lo, mut hi) = (Q::splat(range.0), Q::splat(range.1));
    for at in blocks(x.len(), Q::N) {
        let v = Q::load(&x[at..]);
        (lo, hi) = (lo.min(v), hi.max(v));
    }
    *range = (lo.least(), hi.greatest());
}

/// Adds the codes to `sum`.
#[inline(always)]
fn codes_sum_body<const S: bool>(codes: &[u8], sum: &mut i32) {
    *sum += codes.iter().map(|&code| widen::<S>(code)).sum::<i32>();
}

#[inline(always)]
fn codes_sum_quads<Q: Quad, const S: bool>(codes: &[u8], sum: &mut i32) {
    for codes in codes.chunks(MAX_SUM * Q::N) {
        let (whole, tail) = codes.split_at(codes.len() - codes.len() % Q::N);
        let mut sums = Q::no_sums();
        for codes in whole.chunks_exact(Q::N) {
            sums = Q::add_codes::<S>(sums, codes);
        }
        // Integers below 2¹⁵, and so few that all their sums are exact.
        *sum += Q::from_sums(sums).total() as i32;
        codes_sum_body::<S>(tail, sum);
    }
}
