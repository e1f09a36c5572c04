//! Concatenation along an axis.

use super::run::Runs;
use crate::cpu::Cpu;
use crate::error::{KernelError, check_len, checked_product};
use crate::par::Parallel;
use crate::split;

/// Bytes of the output that are written at a time.
const BLOCK: usize = 16 * 1024;

/// Concatenates tensors seen as `outer` rows of bytes: row `i` of the output is row `i` of every input, one
/// after the other.
#[derive(Clone, Debug)]
pub struct Concat {
    cpu: Cpu,
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
    pub fn new(cpu: Cpu, outer: usize, rows: Vec<usize>) -> Result<Self, KernelError> {
        const WHAT: &str = "the concatenation";
        let row = rows.iter().try_fold(0usize, |sum, &r| sum.checked_add(r));
        let row = row.ok_or(KernelError::Overflow { what: WHAT })?;
        checked_product(WHAT, &[outer, row])?;
        Ok(Self { cpu, outer, rows, row })
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
            // Blocks that stay in the first cache until all inputs have been copied.
            let block = (BLOCK / self.row).max(1);
            for (b, y) in y.chunks_mut(block * self.row).enumerate() {
                let (first, count, mut y) = (i * rows + b * block, y.len() / self.row, y);
                for (x, &len) in inputs.iter().zip(&self.rows) {
                    let runs = Runs { count, len, steps: [len, self.row] };
                    runs.copy(self.cpu, &x[first * len..], y);
                    y = &mut y[len..];
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
    use crate::split::testing::{cpus, pool};
    use crate::testing::{Flush, Guarded};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_of_any_length(outer in 0usize..50, rows in prop::collection::vec(0usize..140, 0..4)) {
            let byte = |k: usize, i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8 ^ k as u8;
            let mut want = Vec::new();
            for o in 0..outer {
                for (k, &row) in rows.iter().enumerate() {
                    want.extend((o * row..(o + 1) * row).map(|i| byte(k, i)));
                }
            }
            for (cpu, flush) in cpus().into_iter().flat_map(|cpu| [Flush::Start, Flush::End].map(|f| (cpu, f))) {
                let concat = Concat::new(cpu, outer, rows.clone()).unwrap();
                let guarded = |(k, &row): (usize, &usize)| {
                    Guarded::new(&(0..outer * row).map(|i| byte(k, i)).collect::<Vec<_>>(), flush)
                };
                let inputs: Vec<Guarded> = rows.iter().enumerate().map(guarded).collect();
                let inputs: Vec<&[u8]> = inputs.iter().map(|x| &**x).collect();
                let mut y = Guarded::new(&vec![0; want.len()], flush);
                concat.run(&pool(), &inputs, &mut y).unwrap();
                prop_assert!(*y == *want);
            }
        }
    }

    #[test]
    fn rows_follow_each_other() {
        let concat = Concat::new(Cpu::detect(), 2, vec![1, 0, 3]).unwrap();
        let mut y = [0; 8];
        concat.run(&pool(), &[&[1, 2], &[], &[3, 4, 5, 6, 7, 8]], &mut y).unwrap();
        assert_eq!(y, [1, 3, 4, 5, 2, 6, 7, 8]);
        assert!(concat.run(&pool(), &[&[1, 2], &[]], &mut y).is_err());
        assert!(concat.run(&pool(), &[&[1], &[], &[3, 4, 5, 6, 7, 8]], &mut y).is_err());
        assert!(Concat::new(Cpu::detect(), 2, vec![usize::MAX, 1]).is_err());
    }

    #[test]
    fn large_rows_in_parallel() {
        let (a, b): (Vec<u8>, Vec<u8>) =
            ((0..300_000).map(|i| i as u8).collect(), vec![7; 150_000]);
        let concat = Concat::new(Cpu::detect(), 3, vec![100_000, 50_000]).unwrap();
        let mut y = vec![0; 450_000];
        concat.run(&pool(), &[&a, &b], &mut y).unwrap();
        for (i, row) in y.chunks(150_000).enumerate() {
            assert_eq!(row[..100_000], a[i * 100_000..][..100_000]);
            assert!(row[100_000..].iter().all(|&v| v == 7));
        }
    }
}
