//! Gathering along an axis by index.

use crate::error::{KernelError, check_len, checked_product};
use crate::par::Parallel;
use crate::split;

/// `y[o, k, …] = x[o, indices[k], …]`: ONNX `Gather`, with the data as `[outer, axis, inner bytes]`.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    outer: usize,
    axis: usize,
    inner: usize,
    count: usize,
}

impl Gather {
    /// Takes `count` entries of `inner` bytes along an axis of length `axis`, for each of `outer` blocks.
    ///
    /// # Errors
    /// If a size overflows.
    pub fn new(outer: usize, axis: usize, inner: usize, count: usize) -> Result<Self, KernelError> {
        checked_product("the gathered tensor", &[outer, axis, inner])?;
        checked_product("the gathered output", &[outer, count, inner])?;
        Ok(Self { outer, axis, inner, count })
    }

    /// Gathers `x` into `y`; a negative index counts from the end of the axis.
    ///
    /// # Errors
    /// If a length does not fit or an index is outside of the axis.
    pub fn run(
        &self,
        par: &dyn Parallel,
        x: &[u8],
        indices: &[i64],
        y: &mut [u8],
    ) -> Result<(), KernelError> {
        check_len("x", x.len(), self.outer * self.axis * self.inner)?;
        check_len("the indices", indices.len(), self.count)?;
        check_len("y", y.len(), self.outer * self.count * self.inner)?;
        if let Some(&index) = indices.iter().find(|&&i| self.resolve(i).is_none()) {
            return Err(KernelError::Value {
                what: "a gather index",
                value: index,
                rule: "inside the axis",
            });
        }
        if y.is_empty() {
            return Ok(());
        }
        let rows = split::rows_per_task(self.inner);
        split::chunks(par, y, rows * self.inner, |i, y| {
            for (r, y) in y.chunks_mut(self.inner).enumerate() {
                let row = i * rows + r;
                let (block, k) = (row / self.count, row % self.count);
                if let Some(index) = self.resolve(indices[k]) {
                    y.copy_from_slice(&x[(block * self.axis + index) * self.inner..][..self.inner]);
                }
            }
        });
        Ok(())
    }

    fn resolve(&self, index: i64) -> Option<usize> {
        let axis = i64::try_from(self.axis).ok()?;
        let index = if index < 0 { index.checked_add(axis)? } else { index };
        usize::try_from(index).ok().filter(|&i| i < self.axis)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::split::testing::pool;

    #[test]
    fn takes_entries_of_the_axis() {
        let x: Vec<u8> = (0..12).collect();
        let gather = Gather::new(2, 3, 2, 4).unwrap();
        let mut y = [0; 16];
        gather.run(&pool(), &x, &[2, 0, -1, -3], &mut y).unwrap();
        assert_eq!(y, [4, 5, 0, 1, 4, 5, 0, 1, 10, 11, 6, 7, 10, 11, 6, 7]);
        for bad in [3, -4, i64::MAX, i64::MIN] {
            assert!(gather.run(&pool(), &x, &[0, 0, 0, bad], &mut y).is_err());
        }
        assert!(gather.run(&pool(), &x[1..], &[0; 4], &mut y).is_err());
        assert!(Gather::new(usize::MAX, 2, 1, 0).is_err());
    }
}
