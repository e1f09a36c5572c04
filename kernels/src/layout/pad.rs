//! Padding with a constant.

use super::tensor_bytes;
use crate::error::{KernelError, check_len};
use crate::par::Parallel;
use crate::split;

/// Surrounds a tensor with a constant element.
#[derive(Clone, Debug)]
pub struct Pad {
    element: usize,
    in_bytes: usize,
    out_bytes: usize,
    /// Dimensions before the row: (input length, elements before, output length), outermost first.
    outer: Vec<(usize, usize, usize)>,
    /// The row in bytes: input, before, output. Trailing dimensions without padding are part of it.
    row: (usize, usize, usize),
}

impl Pad {
    /// Pads axis `i` of `dims` with `before[i]` elements in front and `after[i]` behind.
    ///
    /// # Errors
    /// If the lists differ in length, the rank is above 8, or a size overflows.
    pub fn new(
        dims: &[usize],
        before: &[usize],
        after: &[usize],
        element: usize,
    ) -> Result<Self, KernelError> {
        const WHAT: &str = "the padded tensor";
        check_len("the padding before", before.len(), dims.len())?;
        check_len("the padding after", after.len(), dims.len())?;
        let mut axes = Vec::with_capacity(dims.len());
        for ((&d, &b), &a) in dims.iter().zip(before).zip(after) {
            let out = d
                .checked_add(b)
                .and_then(|n| n.checked_add(a))
                .ok_or(KernelError::Overflow { what: WHAT })?;
            axes.push((d, b, out));
        }
        let in_bytes = tensor_bytes(WHAT, dims, element)?;
        let out_dims: Vec<usize> = axes.iter().map(|a| a.2).collect();
        let out_bytes = tensor_bytes(WHAT, &out_dims, element)?;
        let mut row = (element, 0, element);
        while let Some((d, b, out)) = axes.pop() {
            row = (row.0 * d, row.2 * b, row.2 * out);
            if d != out {
                break;
            }
        }
        Ok(Self { element, in_bytes, out_bytes, outer: axes, row })
    }

    /// Bytes of the output.
    pub fn out_bytes(&self) -> usize {
        self.out_bytes
    }

    /// Copies `x` into `y` and fills the rest with `value`, the bytes of one element.
    ///
    /// # Errors
    /// If a length does not fit.
    pub fn run(
        &self,
        par: &dyn Parallel,
        x: &[u8],
        value: &[u8],
        y: &mut [u8],
    ) -> Result<(), KernelError> {
        check_len("x", x.len(), self.in_bytes)?;
        check_len("the padding value", value.len(), self.element)?;
        check_len("y", y.len(), self.out_bytes)?;
        if y.is_empty() {
            return Ok(());
        }
        let (x_row, left, y_row) = self.row;
        let rows = split::rows_per_task(y_row);
        split::chunks(par, y, rows * y_row, |i, y| {
            for (r, y) in y.chunks_mut(y_row).enumerate() {
                match self.source_row(i * rows + r) {
                    Some(row) => {
                        fill(&mut y[..left], value);
                        y[left..left + x_row].copy_from_slice(&x[row * x_row..][..x_row]);
                        fill(&mut y[left + x_row..], value);
                    }
                    None => fill(y, value),
                }
            }
        });
        Ok(())
    }

    /// The input row that output row `row` holds, if any.
    fn source_row(&self, mut row: usize) -> Option<usize> {
        let (mut at, mut step) = (0, 1);
        for &(d, before, out) in self.outer.iter().rev() {
            let i = (row % out).checked_sub(before).filter(|&i| i < d)?;
            row /= out;
            (at, step) = (at + i * step, step * d);
        }
        Some(at)
    }
}

/// Repeats `value` over `y`, whose length is a multiple of its.
fn fill(y: &mut [u8], value: &[u8]) {
    if let [byte] = value {
        y.fill(*byte);
    } else {
        y.chunks_exact_mut(value.len()).for_each(|y| y.copy_from_slice(value));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::split::testing::pool;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pads_every_axis(
            axes in prop::collection::vec((0usize..5, 0usize..3, 0usize..3), 0..5),
            element in prop::sample::select(vec![1usize, 2, 4]),
        ) {
            let (dims, before): (Vec<usize>, Vec<usize>) = axes.iter().map(|a| (a.0, a.1)).unzip();
            let after: Vec<usize> = axes.iter().map(|a| a.2).collect();
            let out: Vec<usize> = axes.iter().map(|a| a.0 + a.1 + a.2).collect();
            let pad = Pad::new(&dims, &before, &after, element).unwrap();
            let x: Vec<u8> = (0..dims.iter().product::<usize>() * element).map(|i| (i as u8).wrapping_add(1)).collect();
            let value: Vec<u8> = (0..element).map(|i| 200 + i as u8).collect();
            let mut want = Vec::new();
            for flat in 0..out.iter().product() {
                let (mut rest, mut source, mut step) = (flat, Some(0), 1);
                for i in (0..dims.len()).rev() {
                    let c = (rest % out[i]).checked_sub(before[i]).filter(|&c| c < dims[i]);
                    source = source.and_then(|s| Some(s + c? * step));
                    rest /= out[i];
                    step *= dims[i];
                }
                want.extend_from_slice(source.map_or(&value[..], |s| &x[s * element..][..element]));
            }
            let mut y = vec![0; pad.out_bytes()];
            pad.run(&pool(), &x, &value, &mut y).unwrap();
            prop_assert_eq!(y, want);
        }
    }

    #[test]
    fn bad_sizes_are_refused() {
        assert!(Pad::new(&[2], &[usize::MAX], &[0], 1).is_err());
        assert!(Pad::new(&[2], &[1, 1], &[0], 1).is_err());
        let pad = Pad::new(&[2], &[1], &[0], 4).unwrap();
        assert!(pad.run(&pool(), &[0; 8], &[0; 3], &mut [0; 12]).is_err());
    }
}
