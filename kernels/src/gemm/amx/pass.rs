//! Groups of rows times panels: the loops around a step.

use std::ops::Range;

use super::{
    KParts,
    pending::{BLOCK_ROWS, Pending},
    tiles::{
        Signs, TILE_BYTES, TILE_ROW_BYTES, TILE_ROWS, TileRows, Tiles, load_sums, step, store_sums,
    },
};
use crate::{
    epilogue::{NR, TileOut},
    gemm::pack::PanelLayout,
};

/// Some rows that panels are multiplied by.
pub(super) struct Group {
    pub(super) rows: usize,
    /// `Σ_k a` of each, where weights have zero points.
    pub(super) row_sums: [i32; BLOCK_ROWS],
    /// At the first row, and the first column of all panels.
    pub(super) to: TileOut,
    /// Whether panels may not be in L2 yet.
    pub(super) fetch: bool,
}

/// The tiles of a group for a part of K: the last step's may lie elsewhere.
#[derive(Clone, Copy)]
pub(super) struct PartTiles {
    pub(super) first: TileRows,
    pub(super) last: TileRows,
}

/// Rows of A that come next, to be fetched meanwhile.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) at: *const u8,
    pub(super) lda: usize,
    pub(super) rows: usize,
}

impl Ahead {
    /// The first `rows` of them, or as many as there are: the others are left.
    fn take(&mut self, rows: usize) -> Self {
        let first = Self { rows: rows.min(self.rows), ..*self };
        self.at = self.at.wrapping_add(first.rows * self.lda);
        self.rows -= first.rows;
        first
    }

    /// Asks for the line of each that a step needs.
    #[inline(always)]
    fn fetch(&self, step: usize) {
        for row in 0..self.rows {
            fetch_line(self.at.wrapping_add(row * self.lda + step * TILE_ROW_BYTES));
        }
    }
}

/// What stays the same for all groups, and the block to be finished.
pub(super) struct Pass<'a> {
    pub(super) k: KParts,
    pub(super) packed: &'a [i8],
    pub(super) layout: PanelLayout,
    /// What sums start from, 16 for each panel from `first_panel` on.
    pub(super) starts: *const u8,
    pub(super) first_panel: usize,
    /// Sums of 32 rows for each panel that is multiplied at a time, where K has several parts.
    pub(super) part_sums: *mut u8,
    pub(super) pending: Pending<'a>,
}

/// A group, and the first of the panels it is multiplied by.
#[derive(Clone, Copy)]
struct Block<'a> {
    a: PartTiles,
    /// How many of the rows that come next are fetched per panel.
    rows_per_panel: usize,
    group: &'a Group,
    part: usize,
    panel: usize,
    /// Sums of the earlier parts.
    part_sums: *mut u8,
}

impl Pass<'_> {
    /// Multiplies a part of K of a group, of R tiles, by the panels `panels`, and fetches the rows that come next.
    ///
    /// # Safety
    /// `a` holds the tiles of the part, and the pass what [`super::run`] was granted.
    #[inline(always)]
    pub(super) unsafe fn panels<T: Tiles, S: Signs, const R: usize>(
        &mut self,
        tiles: &mut T,
        (a, mut next): (PartTiles, Ahead),
        group: &Group,
        part: usize,
        panels: Range<usize>,
    ) {
        let mut panel = panels.start;
        let rows_per_panel = next.rows.div_ceil(panels.len());
        while panel < panels.end {
            let part_sums = self.part_sums.wrapping_add((panel - panels.start) * 2 * TILE_BYTES);
            let block = Block { a, rows_per_panel, group, part, panel, part_sums };
            // SAFETY: same contract, of panels that are left.
            panel += unsafe {
                match (R, panels.end - panel) {
                    (1, 4..) => self.block::<T, S, 1, 4>(tiles, block, &mut next),
                    (1, 2..) => self.block::<T, S, 1, 2>(tiles, block, &mut next),
                    (1, _) => self.block::<T, S, 1, 1>(tiles, block, &mut next),
                    (_, 2..) => self.block::<T, S, 2, 2>(tiles, block, &mut next),
                    _ => self.block::<T, S, 2, 1>(tiles, block, &mut next),
                }
            };
        }
    }

    /// Multiplies R tiles of A by C panels: C is the answer.
    #[inline(always)]
    unsafe fn block<T: Tiles, S: Signs, const R: usize, const C: usize>(
        &mut self,
        tiles: &mut T,
        block: Block<'_>,
        next: &mut Ahead,
    ) -> usize {
        let Block { a, rows_per_panel, group, part, panel, part_sums } = block;
        let (first, steps) = self.k.part(part);
        let distance = self.layout.panel_bytes();
        let weights = self.packed[panel * distance..].as_ptr().cast::<u8>();
        let shift = panel - self.first_panel;
        let starts = self.starts.wrapping_add(shift * TILE_ROW_BYTES);
        let next = next.take(rows_per_panel * C);
        let parts = self.pending.parts_per_step(steps);
        // SAFETY: sums start from one line per panel, which the stride of 0 repeats, or from those of the part before;
        // A and B have tiles for every step (contract); a block of R × C tiles has room where the last one was, which is
        // finished by then.
        unsafe {
            for i in 0..R * C {
                let (r, c) = (i / C, i % C);
                if part == 0 {
                    load_sums(tiles, i, starts.add(c * TILE_ROW_BYTES), 0);
                } else {
                    load_sums(tiles, i, part_sums.add((c * 2 + r) * TILE_BYTES), TILE_ROW_BYTES);
                }
            }
            for s in 0..steps {
                let b = weights.add((first + s) * TILE_BYTES);
                let a = if s + 1 < steps { a.first.after(s) } else { a.last };
                step::<T, S, R, C>(tiles, a.first, (a.row, a.tile), b, distance);
                if group.fetch {
                    fetch_tiles::<C>(b.wrapping_add(C * distance), distance);
                }
                next.fetch(s);
                self.pending.parts(parts);
            }
            if part + 1 < self.k.parts {
                for i in 0..R * C {
                    let (r, c) = (i / C, i % C);
                    store_sums(tiles, i, part_sums.add((c * 2 + r) * TILE_BYTES), TILE_ROW_BYTES);
                }
                return C;
            }
            self.pending.rest();
            let (to, stride) = self.pending.place(C);
            for i in 0..R * C {
                let (r, c) = (i / C, i % C);
                let to = to.add(r * TILE_ROWS * stride + c * TILE_ROW_BYTES);
                store_sums(tiles, i, to, stride);
            }
        }
        let col = panel * NR;
        let columns = (col, (self.layout.n - col).min(C * NR));
        self.pending.begin(group, C, columns, shift * NR);
        C
    }
}

/// Asks for the next C tiles of B.
#[inline(always)]
fn fetch_tiles<const C: usize>(b: *const u8, distance: usize) {
    for line in 0..C * TILE_ROWS {
        fetch_line(b.wrapping_add(line / TILE_ROWS * distance + line % TILE_ROWS * TILE_ROW_BYTES));
    }
}

/// Asks for a line to be brought into L2; addresses of nothing do no harm.
#[inline(always)]
fn fetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint, which cannot fault; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
