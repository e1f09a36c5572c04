//! Layer normalization over the last axis.
//!
//! Per row of n elements: `m = Σ xᵢ / n`, `v = Σ (xᵢ − m)² / n`, `r = 1 / sqrt(v + ε)` and
//! `yᵢ = (xᵢ − m)·r·scaleᵢ + biasᵢ`, from left to right, every step rounded to f32. Both sums take the order of
//! [`Reduce`](super::Reduce), so that the bits are the same on every ISA.

use super::fold;
use crate::cpu::Cpu;
use crate::error::{KernelError, check_len};
use crate::par::Parallel;
use crate::simd::{AlignedF32, MAX_LANES, Quad, Real, blocks, fold_lanes, quads};
use crate::split;

/// Layer normalization with its parameters; the head of its module has the arithmetic.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    cpu: Cpu,
    epsilon: f32,
    scale: AlignedF32,
    bias: AlignedF32,
}

impl LayerNorm {
    /// Normalizes rows of `scale.len()` elements; `bias` is as long, or empty for none.
    ///
    /// # Errors
    /// If `scale` is empty, `bias` is of another length, or `epsilon` is negative or not finite.
    pub fn new(
        cpu: Cpu,
        epsilon: f32,
        scale: Vec<f32>,
        bias: Vec<f32>,
    ) -> Result<Self, KernelError> {
        if scale.is_empty() {
            return Err(KernelError::invalid(
                "the normalized axis",
                0,
                "at least one element long",
            ));
        }
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            return Err(KernelError::invalid("epsilon", epsilon, "finite and not negative"));
        }
        let bias = if bias.is_empty() { vec![0.0; scale.len()] } else { bias };
        check_len("bias", bias.len(), scale.len())?;
        Ok(Self { cpu, epsilon, scale: scale[..].into(), bias: bias[..].into() })
    }

    /// Normalizes the rows of `x` to `y`; both have the same length, a multiple of a row's.
    ///
    /// # Errors
    /// If the lengths do not fit.
    pub fn run(&self, par: &dyn Parallel, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        check_len("y", y.len(), x.len())?;
        let columns = self.scale.len();
        if !x.len().is_multiple_of(columns) {
            return Err(KernelError::invalid(
                "the length",
                x.len(),
                "a multiple of the normalized axis",
            ));
        }
        let rows = split::rows_per_task(columns * 4 * 4);
        split::chunks(par, y, rows * columns, |i, y| {
            let x = &x[i * rows * columns..][..y.len()];
            normalize(self.cpu, self, x, y);
        });
        Ok(())
    }
}

quads!(fn normalize[][] = normalize_quads, normalize_plain(norm: &LayerNorm, x: &[f32], y: &mut [f32]), SUMS * (x.len() / norm.scale.len()));

/// The running sums of a row.
const SUMS: usize = 16;

/// The definition.
fn normalize_plain(norm: &LayerNorm, x: &[f32], y: &mut [f32]) {
    let columns = norm.scale.len();
    for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)) {
        let mean = fold(x, 0.0, |a, b| a + b) / columns as f32;
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x - mean) * (x - mean);
        }
        let variance = fold(y, 0.0, |a, b| a + b) / columns as f32;
        scale(norm, x, y, (mean, 1.0 / (variance + norm.epsilon).sqrt()));
    }
}

/// `(x − mean)·factor·scale + bias`.
#[inline(always)]
fn scale(norm: &LayerNorm, x: &[f32], y: &mut [f32], (mean, factor): (f32, f32)) {
    for (((y, &x), &scale), &bias) in y.iter_mut().zip(x).zip(&*norm.scale).zip(&*norm.bias) {
        *y = (x - mean) * factor * scale + bias;
    }
}

/// The sums of as many rows as a quad has room for go side by side: an addition takes longer than the next one of
/// another row.
#[inline(always)]
fn normalize_quads<Q: Quad>(norm: &LayerNorm, x: &[f32], y: &mut [f32]) {
    let (columns, n) = (norm.scale.len(), norm.scale.len() as f32);
    let rows = Q::N / SUMS;
    for first in blocks(x.len() / columns, rows) {
        let x = &x[first * columns..][..rows * columns];
        let means = row_sums::<Q, false>(x, columns, [0.0; MAX_ROWS]).map(|sum| sum / n);
        let variances = row_sums::<Q, true>(x, columns, means).map(|sum| sum / n);
        let y = &mut y[first * columns..][..rows * columns];
        let of_rows = means.into_iter().zip(variances);
        for ((x, y), (mean, variance)) in x.chunks(columns).zip(y.chunks_mut(columns)).zip(of_rows)
        {
            scale(norm, x, y, (mean, 1.0 / (variance + norm.epsilon).sqrt()));
        }
    }
}

/// The rows of the largest quad.
const MAX_ROWS: usize = MAX_LANES / SUMS;

/// The sums of rows of `x`, as many as a quad has room for, less `mean`, and squared if `SQUARED`. The order is that of
/// [`fold`].
#[inline(always)]
fn row_sums<Q: Quad, const SQUARED: bool>(
    x: &[f32],
    columns: usize,
    mean: [f32; MAX_ROWS],
) -> [f32; MAX_ROWS] {
    let means = mean.map(|mean| [mean; SUMS]);
    let (means, mut sums) = (Q::load(means.as_flattened()), Q::splat(0.0));
    let whole = columns - columns % SUMS;
    for at in (0..whole).step_by(SUMS) {
        let mut v = Q::load_rows(&x[at..], columns);
        if SQUARED {
            v = v.sub(means);
            v = v.mul(v);
        }
        sums = sums.add(v);
    }
    let mut lanes = [[0.0; SUMS]; MAX_ROWS];
    sums.store(lanes.as_flattened_mut());
    for ((x, lanes), mean) in x.chunks(columns).zip(&mut lanes).zip(mean) {
        for (sum, &x) in lanes.iter_mut().zip(&x[whole..]) {
            *sum += if SQUARED { (x - mean) * (x - mean) } else { x };
        }
    }
    lanes.map(|lanes| fold_lanes(lanes, Real::add))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::par::Serial;
    use crate::split::testing::{cpus, pool};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn normalizes_with_the_same_bits_everywhere(
            columns in 1usize..200, rows in 0usize..8, seed: u32, epsilon in 1e-6f32..1e-2, biased: bool,
        ) {
            let value = |i: usize, k: u32| {
                ((i as u32 ^ seed).wrapping_mul(2_654_435_761).wrapping_add(k) >> 8) as f32 / 4e6 - 2.0
            };
            let x: Vec<f32> = (0..rows * columns).map(|i| value(i, 0)).collect();
            let scale: Vec<f32> = (0..columns).map(|i| value(i, 1)).collect();
            let bias: Vec<f32> = (0..if biased { columns } else { 0 }).map(|i| value(i, 2)).collect();
            let norm = LayerNorm::new(Cpu::detect(), epsilon, scale.clone(), bias.clone()).unwrap();
            let mut want = vec![0.0; x.len()];
            normalize_plain(&norm, &x, &mut want);
            let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            for cpu in cpus() {
                let norm = LayerNorm::new(cpu, epsilon, scale.clone(), bias.clone()).unwrap();
                let (mut y, mut z) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                norm.run(&Serial, &x, &mut y).unwrap();
                norm.run(&pool(), &x, &mut z).unwrap();
                prop_assert_eq!(&y, &z);
                prop_assert_eq!(bits(&y), bits(&want), "{}", cpu.isa());
                for (x, y) in x.chunks(columns).zip(y.chunks(columns)) {
                    let n = columns as f64;
                    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
                    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
                    for (i, (&x, &y)) in x.iter().zip(y).enumerate() {
                        let v = (f64::from(x) - mean) / (variance + f64::from(epsilon)).sqrt();
                        let bias = bias.get(i).copied().unwrap_or(0.0);
                        let want = v * f64::from(scale[i]) + f64::from(bias);
                        prop_assert!((f64::from(y) - want).abs() < 1e-3, "{y} {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn bad_parameters_are_refused() {
        let cpu = Cpu::detect();
        assert!(LayerNorm::new(cpu, 1e-5, vec![], vec![]).is_err());
        assert!(LayerNorm::new(cpu, -1.0, vec![1.0], vec![]).is_err());
        assert!(LayerNorm::new(cpu, 1e-5, vec![1.0; 2], vec![0.0; 3]).is_err());
        let norm = LayerNorm::new(cpu, 1e-5, vec![1.0; 2], vec![]).unwrap();
        assert!(norm.run(&Serial, &[0.0; 3], &mut [0.0; 3]).is_err());
        assert!(norm.run(&Serial, &[0.0; 2], &mut [0.0; 4]).is_err());
    }
}
