//! f32 matrix product through `gemm-f32`, the part of the `gemm` crate for it.
//!
//! The output is cut into blocks whose size follows from the shape alone, so that results do not depend on
//! the number of threads. The crate picks its instruction set itself and packs into memory of its own.
//! What it adds in an order that depends on the machine it does not get to see: K beyond what it blocks by
//! cache size, matrices of one row or column, and dot products along a transposed operand (see `thin.rs`).

use super::{Activation, thin};
use crate::cpu::Cpu;
use crate::error::{KernelError, check_len, checked_product};
use crate::par::Parallel;
use crate::split::{self, Rect};

/// `y = clamp(alpha·a·b + bias)` with row-major `a` `[m, k]`, `b` `[k, n]` and `y` `[m, n]`, `batch` times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GemmF32 {
    /// What thin products are computed by; the crate detects for itself.
    pub cpu: Cpu,
    /// Rows of `a` and `y`.
    pub m: usize,
    /// Columns of `b` and `y`.
    pub n: usize,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
    /// Whether `a` is stored transposed, as `[k, m]`.
    pub a_transposed: bool,
    /// Whether `b` is stored transposed, as `[n, k]`.
    pub b_transposed: bool,
    /// Products; `y` holds this many matrices.
    pub batch: usize,
    /// Whether `a` is one matrix for the whole batch.
    pub a_shared: bool,
    /// Whether `b` is one matrix for the whole batch.
    pub b_shared: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Limits of the result.
    pub activation: Activation,
}

/// A matrix operand: data and the distance between columns and rows.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

impl<'a> Matrix<'a> {
    /// A stored matrix of `columns` columns, or its transpose with `columns` rows.
    fn stored(data: &'a [f32], rows: usize, columns: usize, transposed: bool) -> Self {
        if transposed {
            Self { data, row: 1, column: rows }
        } else {
            Self { data, row: columns, column: 1 }
        }
    }

    /// The matrix from row `r` on.
    pub(super) fn below(self, r: usize) -> Self {
        Self { data: &self.data[r * self.row..], ..self }
    }

    /// The matrix from column `c` on.
    pub(super) fn right_of(self, c: usize) -> Self {
        Self { data: &self.data[c * self.column..], ..self }
    }

    /// Panics unless the first `rows` × `columns` elements exist.
    fn check(self, rows: usize, columns: usize) {
        assert!(
            rows == 0
                || columns == 0
                || (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
        );
    }
}

impl GemmF32 {
    /// A single product of row-major matrices without activation.
    pub fn new(cpu: Cpu, m: usize, n: usize, k: usize) -> Self {
        Self {
            cpu,
            m,
            n,
            k,
            a_transposed: false,
            b_transposed: false,
            batch: 1,
            a_shared: false,
            b_shared: false,
            alpha: 1.0,
            activation: Activation::NONE,
        }
    }

    /// Computes `y`. `bias` has one value per column, or none.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says, or a size overflows.
    pub fn run(
        &self,
        par: &dyn Parallel,
        a: &[f32],
        b: &[f32],
        bias: &[f32],
        y: &mut [f32],
    ) -> Result<(), KernelError> {
        let Self { m, n, k, batch, .. } = *self;
        let count = |shared: bool| if shared { 1 } else { batch };
        check_len("a", a.len(), checked_product("a", &[count(self.a_shared), m, k])?)?;
        check_len("b", b.len(), checked_product("b", &[count(self.b_shared), k, n])?)?;
        check_len("y", y.len(), checked_product("y", &[batch, m, n])?)?;
        if !bias.is_empty() {
            check_len("bias", bias.len(), n)?;
        }
        if y.is_empty() {
            return Ok(());
        }
        let operands = |i: usize| {
            let a = if self.a_shared { a } else { &a[i * m * k..][..m * k] };
            let b = if self.b_shared { b } else { &b[i * k * n..][..k * n] };
            (Matrix::stored(a, m, k, self.a_transposed), Matrix::stored(b, k, n, self.b_transposed))
        };
        let block = |mut rect: Rect<'_, f32>, (a, b): (Matrix<'_>, Matrix<'_>)| {
            let bias = if bias.is_empty() { bias } else { &bias[rect.cols.clone()] };
            let (a, b) = (a.below(rect.rows.start), b.right_of(rect.cols.start));
            product(self.cpu, &mut rect, a, b, k, self.alpha);
            self.activation.finish(&mut rect, bias);
        };
        if batch > 1 {
            split::chunks(par, y, m * n, |i, y| {
                split::rects_with::<_, u8>(
                    &crate::par::Serial,
                    y,
                    n,
                    blocks(m, n, k),
                    &mut [],
                    0,
                    |rect, _| {
                        block(rect, operands(i));
                    },
                );
            });
        } else {
            split::rects_with::<_, u8>(par, y, n, blocks(m, n, k), &mut [], 0, |rect, _| {
                block(rect, operands(0))
            });
        }
        Ok(())
    }
}

/// Rows and columns of the blocks that one output is cut into.
///
/// Each block packs what it reads of `b`, so rows are not cut below 64; a product with few rows is cut by
/// columns instead. Small products stay whole.
pub(super) fn blocks(m: usize, n: usize, k: usize) -> [usize; 2] {
    if m.saturating_mul(n).saturating_mul(k) < 1 << 20 {
        [m.max(1), n.max(1)]
    } else if m >= 128 {
        [m.div_ceil(8).next_multiple_of(16).clamp(64, 512), n]
    } else {
        [m, n.div_ceil(8).next_multiple_of(64).clamp(64, 1024)]
    }
}

/// Slice of K that the crate adds up at a time. It never cuts one of this length, whatever the caches.
pub(super) const KC: usize = 512;

/// `rect = alpha·a·b`, `a` and `b` beginning at the block's first row and column.
pub(super) fn product(
    cpu: Cpu,
    rect: &mut Rect<'_, f32>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    k: usize,
    alpha: f32,
) {
    let (m, n, ld) = (rect.rows.len(), rect.cols.len(), rect.ld());
    a.check(m, k);
    b.check(k, n);
    if thin::takes(m, n, k, b) {
        return thin::product(cpu, rect, a, b, k, alpha);
    }
    for from in (0..k).step_by(KC) {
        let (a, b) = (a.right_of(from), b.below(from));
        // The crate wants its output column by column: the transposed product of the operands transposed and exchanged.
        // SAFETY: `check` proved that every element of both operands exists; `rect` owns m×n elements in rows `ld`
        // apart; the output overlaps neither operand, being exclusively borrowed.
        unsafe {
            gemm_f32::gemm::f32::get_gemm_fn()(
                n,
                m,
                (k - from).min(KC),
                rect.as_mut_ptr(),
                ld as isize,
                1,
                from > 0,
                b.data.as_ptr(),
                b.row as isize,
                b.column as isize,
                a.data.as_ptr(),
                a.row as isize,
                a.column as isize,
                1.0,
                alpha,
                false,
                false,
                false,
                gemm_common::Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::par::Serial;
    use crate::split::testing::{cpus, pool};
    use proptest::prelude::*;

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let step = |i: usize| (i as u32).wrapping_add(seed).wrapping_mul(2_654_435_761);
        (0..n).map(|i| (step(i) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    fn check(g: GemmF32, with_bias: bool, seed: u32) {
        let y = check_on(g, with_bias, seed);
        for cpu in cpus() {
            assert_eq!(y, check_on(GemmF32 { cpu, ..g }, with_bias, seed), "{}", cpu.isa());
        }
    }

    fn check_on(g: GemmF32, with_bias: bool, seed: u32) -> Vec<f32> {
        let GemmF32 { m, n, k, batch, .. } = g;
        let a = noise(m * k * if g.a_shared { 1 } else { batch }, seed);
        let b = noise(n * k * if g.b_shared { 1 } else { batch }, seed ^ 5);
        let bias = noise(if with_bias { n } else { 0 }, seed ^ 9);
        let (mut y, mut z) = (vec![7.0; batch * m * n], vec![7.0; batch * m * n]);
        g.run(&Serial, &a, &b, &bias, &mut y).unwrap();
        g.run(&pool(), &a, &b, &bias, &mut z).unwrap();
        assert_eq!(y, z, "threads");
        for (i, &y) in y.iter().enumerate() {
            let (t, r, c) = (i / (m * n), i / n % m, i % n);
            let a = if g.a_shared { &a[..] } else { &a[t * m * k..][..m * k] };
            let b = if g.b_shared { &b[..] } else { &b[t * n * k..][..n * k] };
            let sum: f64 = (0..k)
                .map(|j| {
                    let a = if g.a_transposed { a[j * m + r] } else { a[r * k + j] };
                    let b = if g.b_transposed { b[c * k + j] } else { b[j * n + c] };
                    f64::from(a) * f64::from(b)
                })
                .sum();
            let v = sum * f64::from(g.alpha) + bias.get(c).map_or(0.0, |&b| f64::from(b));
            let want = v.clamp(f64::from(g.activation.lo), f64::from(g.activation.hi));
            assert!((f64::from(y) - want).abs() < 1e-3, "{y} {want} {g:?}");
        }
        y
    }

    fn gemm(m: usize, n: usize, k: usize) -> GemmF32 {
        GemmF32::new(Cpu::detect(), m, n, k)
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            (m, n, k) in (0usize..20, 0usize..40, 0usize..40), batch in 1usize..4, flags: [bool; 5], relu: bool, seed: u32,
        ) {
            let [a_transposed, b_transposed, a_shared, b_shared, bias] = flags;
            let activation = if relu { Activation { lo: 0.0, hi: 2.0 } } else { Activation::NONE };
            let g = gemm(m, n, k);
            check(GemmF32 { a_transposed, b_transposed, batch, a_shared, b_shared, alpha: 0.5, activation, ..g }, bias, seed);
        }
    }

    #[test]
    fn large_products_are_cut_alike_for_any_number_of_threads() {
        check(gemm(300, 70, 90), true, 1);
        check(gemm(30, 17, 1300), true, 1);
        check(GemmF32 { b_transposed: true, ..gemm(3, 1100, 400) }, true, 2);
    }

    #[test]
    fn lengths_are_checked() {
        let g = gemm(2, 3, 4);
        let mut y = [0.0; 6];
        assert!(g.run(&Serial, &[0.0; 7], &[0.0; 12], &[], &mut y).is_err());
        assert!(g.run(&Serial, &[0.0; 8], &[0.0; 11], &[], &mut y).is_err());
        assert!(g.run(&Serial, &[0.0; 8], &[0.0; 12], &[0.0; 2], &mut y).is_err());
        assert!(g.run(&Serial, &[0.0; 8], &[0.0; 12], &[], &mut y[1..]).is_err());
        assert!(gemm(usize::MAX, 2, 2).run(&Serial, &[], &[], &[], &mut []).is_err());
    }
}
