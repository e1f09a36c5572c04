//! Kernels of three rows and up to three columns at horizontal stride 2: no ring, cells go from registers to the sums.
//!
//! ```text
//! columns        0 1 2 3 4 5 6 …         pairs of columns of each kernel row walk along it
//! pixel 0        └─────┘                 pair 0, pair 1
//! pixel 1            └─────┘             pair 1, pair 2
//! ```
//! At this stride a cell serves one pixel, and two of three rows one output row: writing cells to a ring and reading
//! them back costs more than interleaving the third row again, where 32 registers hold the weights. At stride 1 a cell
//! serves two pixels and three rows one output row, for which the ring is faster.

use std::ops::Range;

use super::{
    lanes::{Lanes, Rounding},
    ring::VECTORS,
    strip::{Strip, columns, pairs_inside, store},
};
use crate::epilogue::Quant;

/// Rows of the kernel.
const ROWS: usize = 3;

/// Whether [`direct`] can compute a strip.
#[inline(always)]
pub(super) fn fits<I: Lanes>(s: &Strip<'_>) -> bool {
    I::BYTES == 64 && !s.square && s.kernel == [ROWS, 1]
}

/// The three input rows: the first pixel, and how far pixels are apart.
type Rows = [(*const u8, usize); ROWS];

/// The pairs of columns that they are at.
type Pairs<V> = [[V; 2]; ROWS];

/// Computes a strip that [`fits`], with a quantization in registers.
///
/// # Safety
/// As [`super::strip::strip`].
#[inline(always)]
pub(super) unsafe fn direct<I: Lanes, R: Rounding<I>, const PARTS: usize>(
    s: &Strip<'_>,
    (quant, rounding): (&Quant, R),
) {
    let inside = pairs_inside::<2, PARTS>(s);
    // The pixels before `left` and from `right` on need a pair of columns that is not inside the image.
    let left = inside.start.saturating_sub(1).min(s.segment);
    let right = inside.end.saturating_sub(1).clamp(left, s.segment);
    // SAFETY: the caller's contract; pairs that are inside the image need no check.
    unsafe {
        let walk = Walk { narrow: I::narrow(quant), rounding, taps: Taps::load(s) };
        for oy in s.rows.clone() {
            let top = oy * s.vertical[0];
            let rows = [s.row(top), s.row(top + s.vertical[1]), s.row(top + 2 * s.vertical[1])];
            let mut pairs = pairs_at::<I, PARTS, true>(s, rows, 0);
            walk.pixels::<PARTS, true>(s, (oy, rows), 0..left, &mut pairs);
            walk.pixels::<PARTS, false>(s, (oy, rows), left..right, &mut pairs);
            walk.pixels::<PARTS, true>(s, (oy, rows), right..s.segment, &mut pairs);
        }
    }
}

/// What the sums start from, and their weights, which stay in registers where there are enough.
#[derive(Clone, Copy)]
struct Taps<I: Lanes> {
    bias: [I::Vector; VECTORS],
    weights: [[I::Vector; VECTORS]; ROWS],
}

impl<I: Lanes> Taps<I> {
    /// # Safety
    /// As [`direct`].
    #[inline(always)]
    unsafe fn load(s: &Strip<'_>) -> Self {
        // SAFETY: the constants are four vectors of bias and four of multipliers, the weights a cell of four vectors
        // for each row of the kernel and for each of two pixels, the second of which is for stride 1.
        unsafe {
            let mut bias = [I::load(s.constants); VECTORS];
            let mut weights = [bias; ROWS];
            for g in 0..VECTORS {
                bias[g] = I::load(s.constants.add(g * I::BYTES));
                for (r, weights) in weights.iter_mut().enumerate() {
                    weights[g] = I::load(s.weights.add((r * 2 * VECTORS + g) * I::BYTES));
                }
            }
            Self { bias, weights }
        }
    }
}

/// What all rows of a strip have in common.
struct Walk<I: Lanes, R> {
    narrow: I::Narrow,
    rounding: R,
    taps: Taps<I>,
}

impl<I: Lanes, R: Rounding<I>> Walk<I, R> {
    /// The pixels `columns` of output row `oy`, in every part; `pairs` is at the first.
    ///
    /// # Safety
    /// As [`direct`]; without `CHECK` the pairs after those of all pixels are inside the image.
    #[inline(always)]
    unsafe fn pixels<const PARTS: usize, const CHECK: bool>(
        &self,
        s: &Strip<'_>,
        (oy, rows): (usize, Rows),
        columns: Range<usize>,
        pairs: &mut Pairs<I::Vector>,
    ) {
        for x in columns {
            // SAFETY: the caller's contract.
            unsafe {
                let next = pairs_at::<I, PARTS, CHECK>(s, rows, x + 1);
                let bytes = self.pixel::<PARTS>(s, (oy, x), *pairs, next);
                store::<I, PARTS, 1>(s, oy, x, bytes);
                *pairs = next;
            }
        }
    }

    /// Pixel `x` of every part, as stored bytes.
    ///
    /// # Safety
    /// As [`direct`].
    #[inline(always)]
    unsafe fn pixel<const PARTS: usize>(
        &self,
        s: &Strip<'_>,
        (oy, x): (usize, usize),
        pairs: Pairs<I::Vector>,
        next: Pairs<I::Vector>,
    ) -> [I::Vector; 1] {
        let Taps { bias: mut acc, weights } = self.taps;
        // SAFETY: as in `Taps::load`.
        unsafe {
            for r in 0..ROWS {
                let cell = I::cell(pairs[r], next[r]);
                for g in 0..VECTORS {
                    acc[g] = I::dot(acc[g], cell[g], weights[r][g]);
                }
            }
            let [a, b, c, d] = acc;
            let pixel = self.rounding.pixel::<PARTS>(s, oy, x);
            let low = self.rounding.round([a, b], self.rounding.columns(s, 0), pixel, 0);
            let high = self.rounding.round([c, d], self.rounding.columns(s, 2), pixel, 2);
            I::bytes(self.narrow, [low], [high])
        }
    }
}

/// Pair `q` of columns of each row, `CHECK` as for [`columns`].
///
/// # Safety
/// As [`columns`].
#[inline(always)]
unsafe fn pairs_at<I: Lanes, const PARTS: usize, const CHECK: bool>(
    s: &Strip<'_>,
    rows: Rows,
    q: usize,
) -> Pairs<I::Vector> {
    // SAFETY: same contract.
    unsafe {
        [
            columns::<I, 2, PARTS, CHECK>(s, rows[0], 2 * q),
            columns::<I, 2, PARTS, CHECK>(s, rows[1], 2 * q),
            columns::<I, 2, PARTS, CHECK>(s, rows[2], 2 * q),
        ]
    }
}
