//! f32 products that `gemm-f32` would add up in an order of the machine's vector width: of one row or
//! column, and small ones along a transposed operand. Here the order follows from the shape.

use super::gemm::Matrix;
use crate::cpu::Cpu;
use crate::multiversion::{Tier, multiversion, tier};
use crate::numeric::fused;
use crate::simd::fold_lanes;
use crate::split::Rect;

/// Columns of the result that are summed together.
const COLUMNS: usize = 64;

/// Running sums of a dot product along K: element `i` is added to sum `i mod 16`, the sums pairwise at the end.
const SUMS: usize = 16;

/// Results up to this size go through dot products in the crate where B is transposed.
const SMALL: usize = 16 * 16;

/// Whether [`product`] has to compute `rows × columns` results with this `b`.
pub(super) fn takes(rows: usize, columns: usize, k: usize, b: Matrix<'_>) -> bool {
    k == 0
        || rows == 1
        || columns == 1
        || (b.row == 1 && rows.checked_mul(columns).is_some_and(|count| count <= SMALL))
}

/// `rect = alpha·a·b`, as [`super::gemm::product`].
pub(super) fn product(
    cpu: Cpu,
    rect: &mut Rect<'_, f32>,
    a: Matrix<'_>,
    b: Matrix<'_>,
    k: usize,
    alpha: f32,
) {
    for r in 0..rect.rows.len() {
        let a = if k == 0 { a } else { a.below(r) };
        match tier(cpu) {
            Tier::Baseline => row::<false>(cpu, rect.row(r), a, b, k, alpha),
            #[cfg(target_arch = "x86_64")]
            _ => row::<true>(cpu, rect.row(r), a, b, k, alpha),
        }
    }
}

multiversion!(fn row[const FMA: bool][FMA] = row_body(y: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, k: usize, alpha: f32));

/// `a·b + c`, rounded once; `FMA` says that the tier has an instruction for it.
#[inline(always)]
fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { fused(a, b, c) }
}

#[inline(always)]
fn row_body<const FMA: bool>(y: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, k: usize, alpha: f32) {
    if k > 0 && b.row == 1 && a.column == 1 {
        for (c, y) in y.iter_mut().enumerate() {
            *y = alpha * dot::<FMA>(&a.data[..k], &b.data[c * b.column..][..k]);
        }
        return;
    }
    for (block, y) in y.chunks_mut(COLUMNS).enumerate() {
        let first = block * COLUMNS;
        let mut sums = [0.0f32; COLUMNS];
        for i in 0..k {
            let a = a.data[i * a.column];
            let b_row = &b.data[i * b.row + first * b.column..];
            if b.column == 1 && y.len() == COLUMNS {
                for (sum, b) in sums.iter_mut().zip(&b_row[..COLUMNS]) {
                    *sum = mul_add::<FMA>(a, *b, *sum);
                }
            } else if b.column == 1 {
                for (sum, b) in sums.iter_mut().zip(&b_row[..y.len()]) {
                    *sum = mul_add::<FMA>(a, *b, *sum);
                }
            } else {
                for (sum, b) in sums[..y.len()].iter_mut().zip(b_row.iter().step_by(b.column)) {
                    *sum = mul_add::<FMA>(a, *b, *sum);
                }
            }
        }
        y.iter_mut().zip(sums).for_each(|(y, sum)| *y = alpha * sum);
    }
}

/// `Σ a·b` in the order that [`SUMS`] says.
#[inline(always)]
fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; SUMS];
    let (a, a_rest) = a.as_chunks::<SUMS>();
    let (b, b_rest) = b.as_chunks::<SUMS>();
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = mul_add::<FMA>(*a, *b, *sum);
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = mul_add::<FMA>(*a, *b, *sum);
    }
    fold_lanes(sums, |a, b| a + b)
}
