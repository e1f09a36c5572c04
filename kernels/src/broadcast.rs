//! NumPy broadcasting of two operands, reduced to rows.
//!
//! Dimensions that both operands walk alike are merged, so that what is left is a short list of outer loops
//! and one inner row in which each operand is either contiguous or a single element. Equal shapes, a scalar
//! and a per-channel operand all become long rows; anything else becomes shorter ones.

use crate::error::{KernelError, check_len, checked_product};
use crate::par::Parallel;
use crate::split::{self, TASK_BYTES};

/// The largest rank this crate handles.
pub const MAX_RANK: usize = 8;

/// How the operands meet within a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inner {
    /// Both are contiguous.
    Both,
    /// `a` is one element, `b` contiguous.
    ScalarA,
    /// `b` is one element, `a` contiguous.
    ScalarB,
}

/// The operands of a row of the result.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Row<'a, A, B> {
    /// One element each per element of the result.
    Both(&'a [A], &'a [B]),
    /// One `a` for all.
    ScalarA(A, &'a [B]),
    /// One `b` for all.
    ScalarB(&'a [A], B),
}

/// One merged dimension: its length and how far each operand moves per step (0 where it is repeated).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loop {
    len: usize,
    a_stride: usize,
    b_stride: usize,
}

/// A checked pairing of two shapes; made once, used on every run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    dims: Vec<usize>,
    len: usize,
    a_len: usize,
    b_len: usize,
    outer: Vec<Loop>,
    row: usize,
    inner: Inner,
}

impl Broadcast {
    /// Pairs shapes `a` and `b`, aligned at their last dimensions; a dimension of 1 is repeated.
    ///
    /// # Errors
    /// If two dimensions differ and neither is 1, a rank is above [`MAX_RANK`], or a size overflows.
    pub fn new(a: &[usize], b: &[usize]) -> Result<Self, KernelError> {
        let rank = a.len().max(b.len());
        if rank > MAX_RANK {
            return Err(KernelError::invalid("the rank of a broadcast", rank, "at most 8"));
        }
        let dim =
            |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
        let mut dims = Vec::with_capacity(rank);
        for i in 0..rank {
            let (da, db) = (dim(a, i), dim(b, i));
            if da != db && da != 1 && db != 1 {
                let rule = "broadcastable: equal or 1 in every dimension, counted from the last";
                return Err(KernelError::invalid(
                    "the pair of shapes",
                    format!("{a:?} and {b:?}"),
                    rule,
                ));
            }
            dims.push(if da == 1 { db } else { da });
        }
        let len = checked_product("the broadcast shape", &dims)?;
        let (a_len, b_len) = (checked_product("shape a", a)?, checked_product("shape b", b)?);

        let (mut a_step, mut b_step) = (1, 1);
        let mut loops: Vec<Loop> = Vec::with_capacity(rank);
        for i in (0..rank).rev() {
            let (da, db) = (dim(a, i), dim(b, i));
            let next = Loop {
                len: dims[i],
                a_stride: if da == 1 { 0 } else { a_step },
                b_stride: if db == 1 { 0 } else { b_step },
            };
            (a_step, b_step) = (a_step * da, b_step * db);
            if next.len == 1 {
                continue;
            }
            // `loops` runs from the innermost outwards; the next dimension joins the last one where both
            // operands continue with the same stride.
            match loops.last_mut() {
                Some(last)
                    if next.a_stride == last.a_stride * last.len
                        && next.b_stride == last.b_stride * last.len =>
                {
                    last.len *= next.len;
                }
                _ => loops.push(next),
            }
        }
        let first = if loops.is_empty() {
            Loop { len: 1, a_stride: 1, b_stride: 1 }
        } else {
            loops.remove(0)
        };
        let inner = match (first.a_stride, first.b_stride) {
            (0, _) => Inner::ScalarA,
            (_, 0) => Inner::ScalarB,
            _ => Inner::Both,
        };
        // Of nothing there are no rows, and their length is divided by.
        Ok(Self { dims, len, a_len, b_len, outer: loops, row: first.len.max(1), inner })
    }

    /// Two operands of `len` elements each.
    pub fn elementwise(len: usize) -> Self {
        Self {
            dims: vec![len],
            len,
            a_len: len,
            b_len: len,
            outer: Vec::new(),
            row: len.max(1),
            inner: Inner::Both,
        }
    }

    /// The shape of the result.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Whether `a` is a single element within each row while `b` is not.
    pub fn scalar_a(&self) -> bool {
        self.inner == Inner::ScalarA
    }

    /// Checks the slices and calls `task(start, part)` for every part of `y`, spread over `par`; `task` is
    /// to call [`map`](Self::map).
    pub(crate) fn run<A, B, Y: Send>(
        &self,
        par: &dyn Parallel,
        a: &[A],
        b: &[B],
        y: &mut [Y],
        task: impl Fn(usize, &mut [Y]) + Sync,
    ) -> Result<(), KernelError> {
        check_len("a", a.len(), self.a_len)?;
        check_len("b", b.len(), self.b_len)?;
        check_len("y", y.len(), self.len)?;
        // Whole rows where they are short, so that no row is cut needlessly.
        let elements = TASK_BYTES / size_of::<Y>().max(1);
        let chunk = if self.row >= elements { elements } else { elements / self.row * self.row };
        split::chunks(par, y, chunk, |i, part| task(i * chunk, part));
        Ok(())
    }

    /// `y[i] = f(a[..], b[..])` for the elements of the result from `start` on.
    #[inline(always)]
    pub(crate) fn map<A: Copy, B: Copy, Y>(
        &self,
        start: usize,
        a: &[A],
        b: &[B],
        y: &mut [Y],
        f: impl Fn(A, B) -> Y,
    ) {
        self.rows(start, a, b, y, |row, y| match row {
            Row::Both(a, b) => {
                for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                    *y = f(a, b);
                }
            }
            Row::ScalarA(a, b) => {
                for (y, &b) in y.iter_mut().zip(b) {
                    *y = f(a, b);
                }
            }
            Row::ScalarB(a, b) => {
                for (y, &a) in y.iter_mut().zip(a) {
                    *y = f(a, b);
                }
            }
        });
    }

    /// Calls `f` with the operands of every row, or part of one, of the result from `start` on.
    #[inline(always)]
    pub(crate) fn rows<A: Copy, B: Copy, Y>(
        &self,
        start: usize,
        a: &[A],
        b: &[B],
        y: &mut [Y],
        mut f: impl FnMut(Row<'_, A, B>, &mut [Y]),
    ) {
        let (mut rest, mut at) = (y, start);
        while !rest.is_empty() {
            let (row, column) = (at / self.row, at % self.row);
            let n = (self.row - column).min(rest.len());
            let (part, tail) = rest.split_at_mut(n);
            let (a_at, b_at) = self.offsets(row);
            let operands = match self.inner {
                Inner::Both => Row::Both(&a[a_at + column..][..n], &b[b_at + column..][..n]),
                Inner::ScalarA => Row::ScalarA(a[a_at], &b[b_at + column..][..n]),
                Inner::ScalarB => Row::ScalarB(&a[a_at + column..][..n], b[b_at]),
            };
            f(operands, part);
            (rest, at) = (tail, at + n);
        }
    }

    /// Where the operands of row `row` begin.
    fn offsets(&self, mut row: usize) -> (usize, usize) {
        let mut at = (0, 0);
        for l in &self.outer {
            let i = row % l.len;
            row /= l.len;
            at = (at.0 + i * l.a_stride, at.1 + i * l.b_stride);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::par::Serial;
    use proptest::prelude::*;

    /// The definition, dimension by dimension.
    fn naive(dims: &[usize], shape: &[usize], flat: usize) -> usize {
        let (mut rest, mut at, mut step) = (flat, 0, 1);
        for (i, &d) in dims.iter().enumerate().rev() {
            let x = rest % d;
            rest /= d;
            if let Some(k) = (i + shape.len()).checked_sub(dims.len()) {
                at += if shape[k] == 1 { 0 } else { x * step };
                step *= shape[k];
            }
        }
        at
    }

    proptest! {
        #[test]
        fn pairs_elements_as_numpy_does(
            dims in prop::collection::vec(1usize..5, 0..6),
            a_ones in prop::collection::vec(any::<bool>(), 6),
            b_ones in prop::collection::vec(any::<bool>(), 6),
            a_cut in 0usize..6,
            b_cut in 0usize..6,
        ) {
            let shape = |ones: &[bool], cut: usize| -> Vec<usize> {
                dims.iter().zip(ones).map(|(&d, &one)| if one { 1 } else { d }).skip(cut.min(dims.len())).collect()
            };
            let (a_dims, b_dims) = (shape(&a_ones, a_cut), shape(&b_ones, b_cut));
            let plan = Broadcast::new(&a_dims, &b_dims).unwrap();
            let a: Vec<usize> = (0..a_dims.iter().product()).collect();
            let b: Vec<usize> = (0..b_dims.iter().product()).collect();
            let mut y = vec![(usize::MAX, usize::MAX); plan.dims().iter().product()];
            plan.run(&Serial, &a, &b, &mut y.clone(), |start, _| assert_eq!(start, 0)).unwrap();
            for start in [0, y.len() / 3, y.len() / 2] {
                plan.map(start, &a, &b, &mut y[start..], |a, b| (a, b));
            }
            for (i, &pair) in y.iter().enumerate() {
                prop_assert_eq!(pair, (naive(plan.dims(), &a_dims, i), naive(plan.dims(), &b_dims, i)));
            }
        }
    }

    #[test]
    fn common_forms_become_long_rows() {
        let rows = |a: &[usize], b: &[usize]| {
            let p = Broadcast::new(a, b).unwrap();
            (p.row, p.outer.len(), p.inner)
        };
        assert_eq!(rows(&[2, 5, 5, 8], &[2, 5, 5, 8]), (400, 0, Inner::Both));
        assert_eq!(rows(&[2, 5, 5, 8], &[8]), (8, 1, Inner::Both));
        assert_eq!(rows(&[2, 5, 5, 8], &[]), (400, 0, Inner::ScalarB));
        assert_eq!(rows(&[1], &[2, 5, 5, 8]), (400, 0, Inner::ScalarA));
        assert_eq!(rows(&[2, 8, 5, 5], &[8, 1, 1]), (25, 2, Inner::ScalarB));
    }

    #[test]
    fn unequal_dimensions_are_refused() {
        assert!(Broadcast::new(&[2, 3], &[2]).is_err());
        assert!(Broadcast::new(&[1; 9], &[1]).is_err());
        assert!(Broadcast::new(&[usize::MAX, 1], &[2, 2]).is_err());
    }

    #[test]
    fn nothing_has_no_rows() {
        for (a, b) in
            [(&[0, 3][..], &[1, 3][..]), (&[3, 0], &[3, 1]), (&[0], &[0]), (&[1], &[2, 0])]
        {
            let plan = Broadcast::new(a, b).unwrap();
            assert_eq!(plan.dims().iter().product::<usize>(), 0);
            let [a, b] = [a, b].map(|dims| vec![0u8; dims.iter().product()]);
            let none = |_: usize, _: &mut [u8]| unreachable!("nothing to do");
            plan.run(&Serial, &a, &b, &mut [], none).unwrap();
        }
    }
}
