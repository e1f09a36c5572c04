//! Copies into a contiguous output from an input walked with any strides: transpose, slice, expand, tile.

use super::run::Runs;
use super::tensor_bytes;
use super::tile::Transpose;
use crate::cpu::Cpu;
use crate::error::{KernelError, check_len};
use crate::par::Parallel;
use crate::split::{self, TASK_BYTES};

/// `y[i0, i1, …] = x[offset + i0·s0 + i1·s1 + …]`, strides in elements, of either sign or 0.
///
/// Dimensions that continue each other are merged. If the innermost one is contiguous in the input its rows
/// are copied whole; if another one is, the two are transposed in tiles; otherwise element by element.
#[derive(Clone, Debug)]
pub struct StridedCopy {
    cpu: Cpu,
    element: usize,
    in_bytes: usize,
    out_bytes: usize,
    offset: usize,
    /// Merged (length, stride), outermost first; never empty unless the output is.
    loops: Vec<(usize, isize)>,
}

impl StridedCopy {
    /// Transposes `dims`: output dimension `i` is input dimension `perm[i]`.
    ///
    /// # Errors
    /// If `perm` is not a permutation of the axes, the rank is above 8, or a size overflows.
    pub fn transpose(
        cpu: Cpu,
        dims: &[usize],
        perm: &[usize],
        element: usize,
    ) -> Result<Self, KernelError> {
        let mut seen = vec![false; dims.len()];
        for &p in perm {
            match seen.get_mut(p) {
                Some(seen) if !*seen => *seen = true,
                _ => {
                    return Err(KernelError::invalid(
                        "the permutation",
                        format!("{perm:?}"),
                        "one of the input's axes",
                    ));
                }
            }
        }
        check_len("the permutation", perm.len(), dims.len())?;
        let strides = contiguous(dims, element)?;
        let loops = perm.iter().map(|&p| (dims[p], strides[p])).collect();
        Self::new(cpu, dims, element, 0, loops)
    }

    /// Takes `len[i]` elements of axis `i` from `start[i]` on in steps of `step[i]`, which may be negative.
    ///
    /// # Errors
    /// If an element taken lies outside of `dims`, a step is 0, the lists differ in length, the rank is above
    /// 8, or a size overflows.
    pub fn slice(
        cpu: Cpu,
        dims: &[usize],
        start: &[usize],
        len: &[usize],
        step: &[isize],
        element: usize,
    ) -> Result<Self, KernelError> {
        check_len("the slice's starts", start.len(), dims.len())?;
        check_len("the slice's lengths", len.len(), dims.len())?;
        check_len("the slice's steps", step.len(), dims.len())?;
        let strides = contiguous(dims, element)?;
        let (mut loops, mut offset) = (Vec::with_capacity(dims.len()), 0);
        let empty = len.contains(&0);
        for i in 0..dims.len() {
            let last = len[i]
                .checked_sub(1)
                .and_then(|n| isize::try_from(n).ok()?.checked_mul(step[i]))
                .and_then(|move_| start[i].checked_add_signed(move_));
            let inside =
                start[i] < dims[i] && last.is_some_and(|last| last < dims[i]) && step[i] != 0;
            if !empty && !inside {
                let value =
                    format!("{} of {} in steps of {} from {}", len[i], dims[i], step[i], start[i]);
                return Err(KernelError::invalid("a slice", value, "inside the input"));
            }
            if !empty {
                offset += start[i] * strides[i] as usize;
            }
            // A step that is never taken may be any number.
            loops.push((len[i], strides[i] * if empty || len[i] == 1 { 1 } else { step[i] }));
        }
        Self::new(cpu, dims, element, offset, loops)
    }

    /// Repeats axes of length 1 of `dims` until the shape is `out`, aligned at the last dimensions.
    ///
    /// # Errors
    /// If another axis changes its length, the rank is above 8, or a size overflows.
    pub fn expand(
        cpu: Cpu,
        dims: &[usize],
        out: &[usize],
        element: usize,
    ) -> Result<Self, KernelError> {
        let strides = contiguous(dims, element)?;
        let mut loops = Vec::with_capacity(out.len());
        for (i, &n) in out.iter().enumerate() {
            let source = (i + dims.len()).checked_sub(out.len()).map(|k| (dims[k], strides[k]));
            match source {
                None | Some((1, _)) => loops.push((n, 0)),
                Some((d, stride)) if d == n => loops.push((n, stride)),
                _ => return Err(not_expandable(dims, out)),
            }
        }
        if dims.len() > out.len() {
            return Err(not_expandable(dims, out));
        }
        Self::new(cpu, dims, element, 0, loops)
    }

    /// Repeats the tensor `repeats[i]` times along axis `i`.
    ///
    /// # Errors
    /// If the lists differ in length, the rank is above 8, or a size overflows.
    pub fn tile(
        cpu: Cpu,
        dims: &[usize],
        repeats: &[usize],
        element: usize,
    ) -> Result<Self, KernelError> {
        check_len("the repeats", repeats.len(), dims.len())?;
        let strides = contiguous(dims, element)?;
        let loops =
            (0..dims.len()).flat_map(|i| [(repeats[i], 0), (dims[i], strides[i])]).collect();
        Self::new(cpu, dims, element, 0, loops)
    }

    /// `loops` are in elements and have been checked to stay inside of `dims`.
    fn new(
        cpu: Cpu,
        dims: &[usize],
        element: usize,
        offset: usize,
        loops: Vec<(usize, isize)>,
    ) -> Result<Self, KernelError> {
        let in_bytes = tensor_bytes("the copied tensor", dims, element)?;
        let out_dims: Vec<usize> = loops.iter().map(|&(len, _)| len).collect();
        let out_bytes =
            crate::error::checked_product("the copy", &[&out_dims[..], &[element]].concat())?;
        // Sizes without their own move are copied as bytes, an innermost dimension of their own.
        let (element, unit) =
            if matches!(element, 1 | 2 | 4 | 8) { (element, 1) } else { (1, element) };
        let scaled = loops.into_iter().map(|(len, stride)| (len, stride * unit as isize));
        let mut merged: Vec<(usize, isize)> = Vec::new();
        for (len, stride) in scaled.chain([(unit, 1)]) {
            if len == 1 {
                continue;
            }
            match merged.last_mut() {
                Some(last) if out_bytes > 0 && Some(last.1) == stride.checked_mul(len as isize) => {
                    *last = (last.0 * len, stride)
                }
                _ => merged.push((len, stride)),
            }
        }
        if merged.is_empty() {
            merged.push((1, 1));
        }
        Ok(Self { cpu, element, in_bytes, out_bytes, offset: offset * unit, loops: merged })
    }

    /// Bytes of the output.
    pub fn out_bytes(&self) -> usize {
        self.out_bytes
    }

    /// Copies `x` to `y`.
    ///
    /// # Errors
    /// If a slice is not of the length that the shapes say.
    pub fn run(&self, par: &dyn Parallel, x: &[u8], y: &mut [u8]) -> Result<(), KernelError> {
        check_len("x", x.len(), self.in_bytes)?;
        check_len("y", y.len(), self.out_bytes)?;
        if y.is_empty() {
            return Ok(());
        }
        match self.element {
            2 => self.run_sized::<2>(par, x, y),
            4 => self.run_sized::<4>(par, x, y),
            8 => self.run_sized::<8>(par, x, y),
            _ => self.run_sized::<1>(par, x, y),
        }
        Ok(())
    }

    fn run_sized<const E: usize>(&self, par: &dyn Parallel, x: &[u8], y: &mut [u8]) {
        let (x, y) = (x.as_chunks::<E>().0, y.as_chunks_mut::<E>().0);
        let (inner, outer) = match self.loops.split_last() {
            Some((inner, outer)) => (*inner, outer),
            None => ((1, 1), &[][..]),
        };
        if inner.1 == 1 {
            let rows = (TASK_BYTES / (inner.0 * E)).max(1);
            split::chunks(par, y, rows * inner.0, |i, y| {
                self.copy_rows(x, y, inner.0, i * rows);
            });
        } else if let Some(contiguous) =
            outer.iter().rposition(|&(_, stride)| stride == 1).filter(|_| inner.1 > 0)
        {
            self.run_tiled(par, x, y, contiguous, inner);
        } else {
            let rows = (TASK_BYTES / (inner.0 * E)).max(1);
            split::chunks(par, y, rows * inner.0, |i, y| {
                for (r, y) in y.chunks_mut(inner.0).enumerate() {
                    let mut at = self.source(outer, i * rows + r);
                    for y in y {
                        *y = x[at];
                        // Wraps only after the last element of the row.
                        at = at.wrapping_add_signed(inner.1);
                    }
                }
            });
        }
    }

    /// Copies rows of `len` elements, the first of which is row `first` of the output.
    fn copy_rows<const E: usize>(
        &self,
        x: &[[u8; E]],
        mut y: &mut [[u8; E]],
        len: usize,
        mut first: usize,
    ) {
        let outer = &self.loops[..self.loops.len() - 1];
        let (around, stride) = outer.last().copied().unwrap_or((1, 0));
        while !y.is_empty() {
            // Those of one walk through the loop around them, if that goes forward.
            let (count, step) = match usize::try_from(stride) {
                Ok(stride) => ((around - first % around).min(y.len() / len), stride),
                Err(_) => (1, 0),
            };
            let (part, tail) = y.split_at_mut(count * len);
            let runs = Runs { count, len: len * E, steps: [step * E, len * E] };
            let x = &x[self.source(outer, first)..];
            runs.copy(self.cpu, x.as_flattened(), part.as_flattened_mut());
            (first, y) = (first + count, tail);
        }
    }

    /// Transposes loop `a`, contiguous in the input, with the innermost loop, contiguous in the output. The
    /// loops between them are walked around the tiles.
    fn run_tiled<const E: usize>(
        &self,
        par: &dyn Parallel,
        x: &[[u8; E]],
        y: &mut [[u8; E]],
        a: usize,
        inner: (usize, isize),
    ) {
        let (outer, rest) = self.loops.split_at(a);
        let (a_len, middle) = (rest[0].0, &rest[1..rest.len() - 1]);
        let between: usize = middle.iter().map(|&(len, _)| len).product();
        let row = between * inner.0;
        // Whole cache lines of the input's rows, which another task would read again.
        let line = 64 / E;
        let rows = (TASK_BYTES / (row * E) / line).max(1) * line;
        split::chunks(par, y, rows * row, |i, mut y| {
            let mut first = i * rows;
            while !y.is_empty() {
                let (index, a) = (first / a_len, first % a_len);
                let n = (a_len - a).min(y.len() / row);
                let (part, tail) = y.split_at_mut(n * row);
                let base = self.source(outer, index) + a;
                for m in 0..between {
                    let x = &x[base.wrapping_add_signed(Self::walk(middle, m))..];
                    let transpose = Transpose {
                        x_stride: inner.1 as usize,
                        y_stride: row,
                        a_len: n,
                        b_len: inner.0,
                    };
                    transpose.run(self.cpu, x, &mut part[m * inner.0..]);
                }
                (first, y) = (first + n, tail);
            }
        });
    }

    fn source(&self, loops: &[(usize, isize)], index: usize) -> usize {
        self.offset.wrapping_add_signed(Self::walk(loops, index))
    }

    /// The distance from the start to position `index` of nested loops.
    fn walk(loops: &[(usize, isize)], mut index: usize) -> isize {
        let mut at = 0;
        for &(len, stride) in loops.iter().rev() {
            at += (index % len) as isize * stride;
            index /= len;
        }
        at
    }
}

fn not_expandable(dims: &[usize], out: &[usize]) -> KernelError {
    KernelError::invalid("the expansion", format!("{dims:?} to {out:?}"), "of dimensions of 1")
}

/// Strides of a row-major tensor, all of which fit because its size does.
fn contiguous(dims: &[usize], element: usize) -> Result<Vec<isize>, KernelError> {
    tensor_bytes("the copied tensor", dims, element)?;
    let mut strides = vec![1isize; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(dims[i] as isize);
    }
    Ok(strides)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::par::Serial;
    use crate::split::testing::{cpus, pool};
    use crate::testing::{Flush, Guarded};
    use proptest::prelude::*;

    /// Splits a flat index into coordinates.
    fn coordinates(dims: &[usize], mut flat: usize) -> Vec<usize> {
        let mut c = vec![0; dims.len()];
        for (i, &d) in dims.iter().enumerate().rev() {
            c[i] = flat % d;
            flat /= d;
        }
        c
    }

    fn flat(dims: &[usize], c: &[usize]) -> usize {
        dims.iter().zip(c).fold(0, |at, (&d, &i)| at * d + i)
    }

    /// Runs the copies of all ISAs and compares them with `source`, which maps output to input coordinates.
    fn check(
        copy: impl Fn(Cpu) -> StridedCopy,
        dims: &[usize],
        out: &[usize],
        element: usize,
        source: impl Fn(&[usize]) -> Vec<usize>,
    ) {
        let bytes = dims.iter().product::<usize>() * element;
        let x: Vec<u8> =
            (0..bytes).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let mut want = Vec::new();
        for i in 0..out.iter().product() {
            let at = flat(dims, &source(&coordinates(out, i))) * element;
            want.extend_from_slice(&x[at..at + element]);
        }
        for copy in cpus().into_iter().map(copy) {
            for (par, flush) in [(&Serial as &dyn Parallel, Flush::Start), (&pool(), Flush::End)] {
                let x = Guarded::new(&x, flush);
                let mut y = Guarded::new(&vec![0; want.len()], flush);
                copy.run(par, &x, &mut y).unwrap();
                assert!(*y == *want, "{copy:?}");
            }
        }
    }

    fn element() -> impl Strategy<Value = usize> {
        prop::sample::select(vec![1usize, 2, 3, 4, 8, 16])
    }

    proptest! {
        #[test]
        fn transposes_any_permutation(
            (dims, perm) in prop::collection::vec(1usize..9, 0..6).prop_flat_map(|dims| {
                let axes: Vec<usize> = (0..dims.len()).collect();
                (Just(dims), Just(axes).prop_shuffle())
            }),
            element in element(),
        ) {
            let out: Vec<usize> = perm.iter().map(|&p| dims[p]).collect();
            check(|cpu| StridedCopy::transpose(cpu, &dims, &perm, element).unwrap(), &dims, &out, element, |c| {
                let mut s = vec![0; c.len()];
                perm.iter().zip(c).for_each(|(&p, &i)| s[p] = i);
                s
            });
        }

        #[test]
        fn transposes_matrices_of_any_size(
            batch in 1usize..3, rows in 1usize..70, columns in 1usize..70, element in element(),
        ) {
            check(|cpu| StridedCopy::transpose(cpu, &[batch, rows, columns], &[0, 2, 1], element).unwrap(), &[batch, rows, columns], &[batch, columns, rows], element, |c| vec![c[0], c[2], c[1]]);
        }

        #[test]
        fn slices_in_both_directions(
            axes in prop::collection::vec((1usize..9, 0usize..9, -3isize..4, 0usize..9), 0..5), element in element(),
        ) {
            let dims: Vec<usize> = axes.iter().map(|a| a.0).collect();
            let start: Vec<usize> = axes.iter().map(|a| a.1 % a.0).collect();
            let step: Vec<isize> = axes.iter().map(|a| if a.2 == 0 { 1 } else { a.2 }).collect();
            let len: Vec<usize> = (0..dims.len()).map(|i| {
                let room = if step[i] > 0 { dims[i] - 1 - start[i] } else { start[i] } / step[i].unsigned_abs() + 1;
                axes[i].3.min(room)
            }).collect();
            check(|cpu| StridedCopy::slice(cpu, &dims, &start, &len, &step, element).unwrap(), &dims, &len, element, |c| {
                (0..c.len()).map(|i| start[i].checked_add_signed(c[i] as isize * step[i]).unwrap()).collect()
            });
        }

        #[test]
        fn expands_and_tiles(
            axes in prop::collection::vec((1usize..5, 1usize..4, any::<bool>()), 0..4),
            more in prop::collection::vec(1usize..4, 0..3), element in element(),
        ) {
            let dims: Vec<usize> = axes.iter().map(|a| if a.2 { 1 } else { a.0 }).collect();
            let out: Vec<usize> =
                more.iter().copied().chain(axes.iter().map(|a| if a.2 { a.1 } else { a.0 })).collect();
            let skip = more.len();
            check(|cpu| StridedCopy::expand(cpu, &dims, &out, element).unwrap(), &dims, &out, element, |c| {
                c[skip..].iter().zip(&dims).map(|(&i, &d)| if d == 1 { 0 } else { i }).collect()
            });
            let repeats: Vec<usize> = axes.iter().map(|a| a.1).collect();
            let out: Vec<usize> = dims.iter().zip(&repeats).map(|(d, r)| d * r).collect();
            check(|cpu| StridedCopy::tile(cpu, &dims, &repeats, element).unwrap(), &dims, &out, element, |c| c.iter().zip(&dims).map(|(i, d)| i % d).collect());
        }
    }

    #[test]
    fn bad_shapes_are_refused() {
        let cpu = Cpu::detect();
        assert!(StridedCopy::transpose(cpu, &[2, 3], &[0, 0], 1).is_err());
        assert!(StridedCopy::transpose(cpu, &[2, 3], &[0], 1).is_err());
        assert!(StridedCopy::transpose(cpu, &[2, 3], &[0, 2], 1).is_err());
        assert!(StridedCopy::transpose(cpu, &[1; 9], &[0, 1, 2, 3, 4, 5, 6, 7, 8], 1).is_err());
        assert!(StridedCopy::transpose(cpu, &[usize::MAX, 2], &[1, 0], 1).is_err());
        assert!(StridedCopy::transpose(cpu, &[2], &[0], 0).is_err());
        assert!(StridedCopy::slice(cpu, &[4], &[2], &[3], &[1], 1).is_err());
        assert!(StridedCopy::slice(cpu, &[4], &[1], &[3], &[-1], 1).is_err());
        assert!(StridedCopy::slice(cpu, &[4], &[0], &[2], &[0], 1).is_err());
        assert!(StridedCopy::slice(cpu, &[4], &[0], &[2], &[isize::MAX], 1).is_err());
        assert!(StridedCopy::expand(cpu, &[2], &[3], 1).is_err());
        assert!(StridedCopy::expand(cpu, &[1, 2], &[2], 1).is_err());
        let copy = StridedCopy::slice(cpu, &[4], &[9], &[0], &[0], 4).unwrap();
        assert_eq!(copy.out_bytes(), 0);
        copy.run(&Serial, &[0; 16], &mut []).unwrap();
        assert!(copy.run(&Serial, &[0; 15], &mut []).is_err());
    }
}
