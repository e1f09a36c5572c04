//! Sums, means and maxima of f32 over chosen axes, in one fixed order.
//!
//! Order: what is reduced is walked in memory order. Where the innermost axis is reduced, its elements are
//! added into 16 running values (element `i` to value `i mod 16`), which are then added pairwise, 8 + 8,
//! 4 + 4, 2 + 2, 1 + 1. Elsewhere whole inner rows are added one after the other.

use crate::broadcast::MAX_RANK;
use crate::cpu::Cpu;
use crate::error::{KernelError, check_len, checked_product};
use crate::multiversion::multiversion;
use crate::par::Parallel;
use crate::simd::fold_lanes;
use crate::split;

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// The sum; 0 of nothing.
    Sum,
    /// The sum divided by the number of elements (one true division).
    Mean,
    /// The largest element, NaN ignored; −∞ of nothing.
    Max,
    /// The smallest element, NaN ignored; ∞ of nothing.
    Min,
}

/// A reduction of a shape over some of its axes.
#[derive(Clone, Debug)]
pub struct Reduce {
    cpu: Cpu,
    op: ReduceOp,
    in_len: usize,
    out_len: usize,
    count: usize,
    /// Kept dimensions outside of the row: (length, stride), outermost first.
    kept: Vec<(usize, usize)>,
    /// Reduced dimensions outside of the row: (length, stride), outermost first.
    reduced: Vec<(usize, usize)>,
    /// Length of the innermost run of adjacent dimensions that are all kept or all reduced.
    row: usize,
    row_reduced: bool,
}

impl Reduce {
    /// Reduces `dims` over `axes` (in any order, duplicates allowed). The output has the kept dimensions in
    /// order; whether reduced ones stay as 1 makes no difference to its elements.
    ///
    /// # Errors
    /// If an axis or the rank is out of range, or a size overflows.
    pub fn new(
        cpu: Cpu,
        op: ReduceOp,
        dims: &[usize],
        axes: &[usize],
    ) -> Result<Self, KernelError> {
        if dims.len() > MAX_RANK {
            return Err(KernelError::invalid("the rank of a reduction", dims.len(), "at most 8"));
        }
        if let Some(&axis) = axes.iter().find(|&&axis| axis >= dims.len()) {
            return Err(KernelError::invalid("a reduced axis", axis, "less than the rank"));
        }
        let in_len = checked_product("the reduced shape", dims)?;
        // Runs of adjacent dimensions of one kind, innermost first.
        let mut runs: Vec<(usize, bool)> = Vec::new();
        for (i, &d) in dims.iter().enumerate().rev() {
            let reduced = axes.contains(&i);
            match runs.last_mut() {
                _ if d == 1 => {}
                Some(last) if last.1 == reduced => last.0 *= d,
                _ => runs.push((d, reduced)),
            }
        }
        let (row, row_reduced) = if runs.is_empty() { (1, true) } else { runs.remove(0) };
        let (mut kept, mut reduced, mut stride) = (Vec::new(), Vec::new(), row);
        for (len, is_reduced) in runs {
            if is_reduced { &mut reduced } else { &mut kept }.insert(0, (len, stride));
            stride *= len;
        }
        let product = |list: &[(usize, usize)]| list.iter().map(|&(len, _)| len).product::<usize>();
        let out_len = product(&kept) * if row_reduced { 1 } else { row };
        let count = product(&reduced) * if row_reduced { row } else { 1 };
        Ok(Self { cpu, op, in_len, out_len, count, kept, reduced, row, row_reduced })
    }

    /// Number of output elements.
    pub fn out_len(&self) -> usize {
        self.out_len
    }

    /// Reduces `x` into `y`.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says.
    pub fn run(&self, par: &dyn Parallel, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        check_len("x", x.len(), self.in_len)?;
        check_len("y", y.len(), self.out_len)?;
        if y.is_empty() {
            return Ok(());
        }
        let group = if self.row_reduced { 1 } else { self.row };
        let groups = split::rows_per_task(group * self.count * 4);
        split::chunks(par, y, groups * group, |i, y| reduce(self.cpu, self, i * groups, x, y));
        Ok(())
    }

    /// Where group `i` of kept indices begins in the input.
    fn offset(loops: &[(usize, usize)], mut i: usize) -> usize {
        let mut at = 0;
        for &(len, stride) in loops.iter().rev() {
            at += i % len * stride;
            i /= len;
        }
        at
    }
}

multiversion!(fn reduce = reduce_body(r: &Reduce, first: usize, x: &[f32], y: &mut [f32]));

#[inline(always)]
fn reduce_body(r: &Reduce, first: usize, x: &[f32], y: &mut [f32]) {
    match r.op {
        ReduceOp::Sum | ReduceOp::Mean => reduce_by(r, first, x, y, 0.0, |a, b| a + b),
        ReduceOp::Max => {
            reduce_by(r, first, x, y, f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
        }
        ReduceOp::Min => reduce_by(r, first, x, y, f32::INFINITY, |a, b| if b < a { b } else { a }),
    }
    if r.op == ReduceOp::Mean {
        let n = r.count as f32;
        y.iter_mut().for_each(|y| *y /= n);
    }
}

#[inline(always)]
fn reduce_by(
    r: &Reduce,
    first: usize,
    x: &[f32],
    y: &mut [f32],
    start: f32,
    f: impl Fn(f32, f32) -> f32 + Copy,
) {
    // Nothing may be any number of times nothing.
    let steps = if x.is_empty() { 0 } else { r.reduced.iter().map(|&(len, _)| len).product() };
    y.fill(start);
    let group = if r.row_reduced { 1 } else { r.row };
    for (g, y) in y.chunks_mut(group).enumerate() {
        let base = Reduce::offset(&r.kept, first + g);
        for step in 0..steps {
            let row = &x[base + Reduce::offset(&r.reduced, step)..][..r.row];
            if r.row_reduced {
                y[0] = f(y[0], fold(row, start, f));
            } else {
                for (y, &x) in y.iter_mut().zip(row) {
                    *y = f(*y, x);
                }
            }
        }
    }
}

/// Folds a row in the order that the module describes.
#[inline(always)]
pub(crate) fn fold(row: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut acc = [start; LANES];
    let (blocks, tail) = row.as_chunks::<LANES>();
    for block in blocks {
        for (a, &x) in acc.iter_mut().zip(block) {
            *a = f(*a, x);
        }
    }
    // In memory, or LLVM takes the pairs that are folded below for the vectors of the loop above.
    let mut acc = std::hint::black_box(acc);
    for (a, &x) in acc.iter_mut().zip(tail) {
        *a = f(*a, x);
    }
    fold_lanes(acc, f)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::par::Serial;
    use crate::split::testing::{cpus, pool};
    use proptest::prelude::*;

    /// Sums over `axes` in f64, index by index.
    fn naive(dims: &[usize], axes: &[usize], x: &[f32]) -> Vec<(f64, f32, usize)> {
        let kept: Vec<usize> = (0..dims.len()).filter(|i| !axes.contains(i)).collect();
        let out: usize = kept.iter().map(|&i| dims[i]).product();
        let mut y = vec![(0.0, f32::NEG_INFINITY, 0); out];
        for (flat, &v) in x.iter().enumerate() {
            let (mut rest, mut index) = (flat, vec![0; dims.len()]);
            for (i, &d) in dims.iter().enumerate().rev() {
                index[i] = rest % d;
                rest /= d;
            }
            let at = kept.iter().fold(0, |at, &i| at * dims[i] + index[i]);
            y[at] = (y[at].0 + f64::from(v), y[at].1.max(v), y[at].2 + 1);
        }
        y
    }

    proptest! {
        #[test]
        fn every_isa_reduces_any_axes(
            dims in prop::collection::vec(1usize..7, 0..5), mask in 0usize..32, seed in any::<u32>(),
        ) {
            let axes: Vec<usize> = (0..dims.len()).filter(|i| mask >> i & 1 == 1).collect();
            let len = dims.iter().product::<usize>() as u32;
            let x: Vec<f32> = (0..len).map(|i| (i.wrapping_mul(2_654_435_761) ^ seed) as i32 as f32 * 1e-8).collect();
            let want = naive(&dims, &axes, &x);
            let mut first: Option<[Vec<f32>; 2]> = None;
            for cpu in cpus() {
                let run = |op| {
                    let reduce = Reduce::new(cpu, op, &dims, &axes).unwrap();
                    let (mut y, mut z) = (vec![9.0; reduce.out_len()], vec![0.0; reduce.out_len()]);
                    reduce.run(&Serial, &x, &mut y).unwrap();
                    reduce.run(&pool(), &x, &mut z).unwrap();
                    assert_eq!(y, z);
                    y
                };
                let (sum, mean, max) = (run(ReduceOp::Sum), run(ReduceOp::Mean), run(ReduceOp::Max));
                prop_assert_eq!(sum.len(), want.len());
                for (i, w) in want.iter().enumerate() {
                    prop_assert!((f64::from(sum[i]) - w.0).abs() < 1e-3);
                    prop_assert_eq!(mean[i], sum[i] / w.2 as f32);
                    prop_assert_eq!(max[i], w.1);
                }
                let bits = [sum, mean];
                prop_assert_eq!(first.get_or_insert(bits.clone()), &bits, "same bits on {}", cpu.isa());
            }
        }
    }

    #[test]
    fn empty_and_bad_shapes() {
        let cpu = Cpu::detect();
        assert!(Reduce::new(cpu, ReduceOp::Sum, &[2, 3], &[2]).is_err());
        let mut y = [1.0; 2];
        Reduce::new(cpu, ReduceOp::Sum, &[2, 0], &[1]).unwrap().run(&Serial, &[], &mut y).unwrap();
        assert_eq!(y, [0.0; 2]);
        Reduce::new(cpu, ReduceOp::Max, &[0, 2], &[0]).unwrap().run(&Serial, &[], &mut y).unwrap();
        assert_eq!(y, [f32::NEG_INFINITY; 2]);
    }
}
