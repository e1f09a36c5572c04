//! Rows of A that all begin equally far beyond a cache line.
//!
//! ```text
//! line     0               1               2
//! A        ····aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa············    a row, and what lies before and after it
//! B        0000bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb000000000000    a column of weights, moved as far down
//! ```
//! Tiles read whole lines, and weights move instead of rows, which are many more where this pays. What lies before and
//! after a row is multiplied by zeros. It belongs to other rows: the first and the last ones, which lack such neighbours,
//! are read as they would be without this.

use wide::bytemuck::{cast_slice, cast_slice_mut};

use super::{
    Code, Operands, Source,
    pending::BLOCK_ROWS,
    plan::{GROUP_CONFLICT_BYTES, KParts, PANELS_BYTES, Plan},
    tiles::{TILE_ROW_BYTES, Tiles},
};
use crate::{
    epilogue::NR,
    gemm::{driver::Core, pack::PanelLayout, scratch::with_scratch},
};

/// What makes it worth moving weights: so many rows, and rows and values of K for each column. A column takes time to
/// move, and a step of K more with every row.
const LEAST_ROWS: usize = 14 * BLOCK_ROWS;
const ROWS_PER_COLUMN: usize = 4;
const K_PER_COLUMN: usize = 2;

/// [`Shift::panels`] under an ISA's target features.
///
/// # Safety
/// The ISA is supported.
pub(super) type ShiftPanels = unsafe fn(&Shift, &[i8], &mut [i8]);

/// Rows, and how weights move for them.
#[derive(Clone, Copy)]
pub(super) struct Shift {
    /// The first row, whose distance from the line that it begins in is that of all rows.
    a: *const u8,
    by: usize,
    from: PanelLayout,
    to: PanelLayout,
}

impl Shift {
    /// To whole tiles.
    pub(super) fn new(a: *const u8, from: PanelLayout) -> Self {
        let by = a as usize % TILE_ROW_BYTES;
        let to = from.with_k((by + from.k).next_multiple_of(TILE_ROW_BYTES));
        Self { a, by, from, to }
    }

    /// For a block, if that is worth it.
    pub(super) fn of(core: &Core<'_>, operands: &Operands<'_>) -> Option<Self> {
        let &Operands { source: Source::Matrix(a), lda, rows, ref panels, .. } = operands else {
            return None;
        };
        let shift @ Self { by, from, to, .. } = Self::new(a, core.layout);
        let alike = lda.is_multiple_of(TILE_ROW_BYTES) && !lda.is_multiple_of(GROUP_CONFLICT_BYTES);
        // Sums of rows, by which zero points are multiplied, would be those of whole lines.
        let applies = by > 0 && alike && core.epilogue.w_zero.is_none();
        let columns = panels.end * NR;
        let pays = rows >= LEAST_ROWS.max(ROWS_PER_COLUMN * columns)
            && from.k > K_PER_COLUMN * columns
            && KParts::new(to.k, true).parts == KParts::new(from.k, true).parts
            && panels.end * to.panel_bytes() <= PANELS_BYTES;
        (applies && pays).then_some(shift)
    }

    /// Moves panels to as many others.
    #[inline(always)]
    pub(super) fn panels(&self, from: &[i8], to: &mut [i8]) {
        let (groups, bits) = (self.by / 4, self.by % 4 * 8);
        // A group of four values takes its low bytes from one group, and the high ones from that before.
        let low = |now: u32| now << bits;
        let high = |before: u32| (before >> 1) >> (31 - bits);
        let panels = from.chunks_exact(self.from.panel_bytes());
        for (from, to) in panels.zip(to.chunks_exact_mut(self.to.panel_bytes())) {
            let (from, to) = (cast_slice::<i8, u32>(from), cast_slice_mut::<i8, u32>(to));
            let (zeros, to) = to.split_at_mut(groups * NR);
            let (moved, rest) = to.split_at_mut(from.len());
            let (first, later) = moved.split_at_mut(NR);
            let (before, last) = from.split_at(from.len() - NR);
            zeros.fill(0);
            rest.fill(0);
            first.iter_mut().zip(from).for_each(|(to, &now)| *to = low(now));
            for ((to, &now), &before) in later.iter_mut().zip(&from[NR..]).zip(before) {
                *to = low(now) | high(before);
            }
            rest.iter_mut().zip(last).for_each(|(to, &before)| *to = high(before));
        }
    }
}

/// Computes a block of more rows than two groups have, those of `shift`.
///
/// # Safety
/// As [`super::run`]; rows are a multiple of lines apart, and weights have no zero points.
pub(super) unsafe fn run_shifted<T: Tiles>(
    shift: &Shift,
    tiles: &mut T,
    core: &Core<'_>,
    operands: Operands<'_>,
    code: Code<T>,
) {
    let Operands { lda, rows, panels, to, .. } = operands;
    let first = BLOCK_ROWS;
    let last = first + (rows - 1 - first) / BLOCK_ROWS * BLOCK_ROWS;
    let some = |start: usize, end: usize, by: usize| Operands {
        source: Source::Matrix(shift.a.wrapping_add(start * lda).wrapping_sub(by)),
        lda,
        rows: end - start,
        panels: panels.clone(),
        to: to.at_row(start),
    };
    let layout = shift.to;
    let bytes = panels.end * layout.panel_bytes();
    let head = Plan::new(&core.layout, &some(0, first, 0));
    let body = Plan::new(&layout, &some(first, last, shift.by));
    let tail = Plan::new(&core.layout, &some(last, rows, 0));
    let room = [&head, &body, &tail].map(|plan| plan.room(panels.len()));
    with_scratch(bytes + room.into_iter().fold(0, usize::max), |scratch| {
        let (packed, scratch) = scratch.split_at_mut(bytes);
        // SAFETY: same contract. Each row of the body is in the middle of others that are readable with all between them, and
        // extends by less than a line to either side, less than rows are apart; its weights are whole tiles.
        unsafe {
            (code.shift)(shift, core.packed, packed);
            let moved = Core { layout, packed, depth: (0, layout.k), ..*core };
            (code.all)(tiles, core, some(0, first, 0), &head, scratch);
            (code.all)(tiles, &moved, some(first, last, shift.by), &body, scratch);
            (code.all)(tiles, core, some(last, rows, 0), &tail, scratch);
        }
    });
}
