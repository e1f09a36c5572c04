//! Concatenation along an axis.

use crate::error::{KernelError, check_len, checked_product};
use crate::par::Parallel;
use crate::split;

/// Concatenates tensors seen as `outer` rows of bytes: row `i` of the output is row `i` of every input, one
/// after the other.
#[derive(Clone, Debug)]
pub struct Concat {
    outer: usize,
    rows: Vec<usize>,
    row: usize,
}

impl Concat {
    /// `outer` is the product of the dimensions before the axis; `rows[k]` is the size of input `k` from the
    /// axis on, in bytes.
    ///
    /// # Errors
    /// If a size overflows.
    pub fn new(outer: usize, rows: Vec<usize>) -> Result<Self, KernelError> {
        const WHAT: &str = "the concatenation";
        let row = rows.iter().try_fold(0usize, |sum, &r| sum.checked_add(r));
        let row = row.ok_or(KernelError::Overflow { what: WHAT })?;
        checked_product(WHAT, &[outer, row])?;
        Ok(Self { outer, rows, row })
    }

    /// Copies the inputs to `y`.
    ///
    /// # Errors
    /// If the number of inputs or a length does not fit.
    pub fn run(
        &self,
        par: &dyn Parallel,
        inputs: &[&[u8]],
        y: &mut [u8],
    ) -> Result<(), KernelError> {
        check_len("the list of inputs", inputs.len(), self.rows.len())?;
        for (x, &row) in inputs.iter().zip(&self.rows) {
            check_len("an input", x.len(), self.outer * row)?;
        }
        check_len("y", y.len(), self.outer * self.row)?;
        if y.is_empty() {
            return Ok(());
        }
        let rows = split::rows_per_task(self.row);
        split::chunks(par, y, rows * self.row, |i, y| {
            for (r, mut y) in y.chunks_mut(self.row).enumerate() {
                for (x, &len) in inputs.iter().zip(&self.rows) {
                    let (part, rest) = y.split_at_mut(len);
                    part.copy_from_slice(&x[(i * rows + r) * len..][..len]);
                    y = rest;
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::split::testing::pool;

    #[test]
    fn rows_follow_each_other() {
        let concat = Concat::new(2, vec![1, 0, 3]).unwrap();
        let mut y = [0; 8];
        concat.run(&pool(), &[&[1, 2], &[], &[3, 4, 5, 6, 7, 8]], &mut y).unwrap();
        assert_eq!(y, [1, 3, 4, 5, 2, 6, 7, 8]);
        assert!(concat.run(&pool(), &[&[1, 2], &[]], &mut y).is_err());
        assert!(concat.run(&pool(), &[&[1], &[], &[3, 4, 5, 6, 7, 8]], &mut y).is_err());
        assert!(Concat::new(2, vec![usize::MAX, 1]).is_err());
    }

    #[test]
    fn large_rows_in_parallel() {
        let (a, b): (Vec<u8>, Vec<u8>) =
            ((0..300_000).map(|i| i as u8).collect(), vec![7; 150_000]);
        let concat = Concat::new(3, vec![100_000, 50_000]).unwrap();
        let mut y = vec![0; 450_000];
        concat.run(&pool(), &[&a, &b], &mut y).unwrap();
        for (i, row) in y.chunks(150_000).enumerate() {
            assert_eq!(row[..100_000], a[i * 100_000..][..100_000]);
            assert!(row[100_000..].iter().all(|&v| v == 7));
        }
    }
}
