//! Groups of rows times panels: the loops around a step.

use std::ops::Range;

use super::{
    KParts,
    pending::{BLOCK_ROWS, Pending},
    tiles::{
        Signs, StepTiles, TILE_BYTES, TILE_ROW_BYTES, TILE_ROWS, TileRows, Tiles, first_loads,
        load_sums, multiply, next_loads, store_sums, zero_sums,
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

/// The block whose sums the tile registers hold: R × C tiles.
#[derive(Clone, Copy)]
struct Held {
    tiles: (usize, usize),
    to: *mut u8,
}

/// Where the tile `i` of a block `columns` tiles wide begins, in bytes: its rows lie one after the other.
fn place(i: usize, columns: usize) -> usize {
    i / columns * TILE_ROWS * columns * TILE_ROW_BYTES + i % columns * TILE_ROW_BYTES
}

/// What stays the same for all groups, and the blocks before the present one.
///
/// Sums stay in the registers until the next block begins: between its first products they go to memory, tile by tile,
/// so that products never wait for stores. While the block after that multiplies they are finished, when reading them
/// does not have to wait for the stores any more.
pub(super) struct Pass<'a> {
    k: KParts,
    packed: &'a [i8],
    layout: PanelLayout,
    first_panel: usize,
    /// Sums of 32 rows for each panel that is multiplied at a time, where K has several parts.
    part_sums: *mut u8,
    /// The block that is being finished is the first, or the second if `turn` is 1; the other may be in the registers.
    pending: [Pending<'a>; 2],
    turn: usize,
    held: Option<Held>,
    /// Room for a block that nobody asks for: what the registers hold where no block does.
    nowhere: *mut u8,
}

/// A group, and the first of the panels it is multiplied by.
#[derive(Clone, Copy)]
struct Block<'a> {
    a: TileRows,
    group: &'a Group,
    part: usize,
    panel: usize,
    /// Sums of the earlier parts.
    part_sums: *mut u8,
    /// The rows to be fetched.
    next: Ahead,
    /// Whether the tiles of its first step are in their registers, and whether a block of the same form comes next.
    loaded: bool,
    more: bool,
}

/// Repeats a block with `$i` as a constant for each tile of sums: as a loop it might stay one, with a jump per tile.
macro_rules! for_each_tile {
    ($i:ident < $tiles:expr, $body:block) => {
        for_each_tile!(@ $i, $tiles, $body, [0 1 2 3])
    };
    (@ $i:ident, $tiles:expr, $body:block, [$($tile:literal)+]) => {
        $(if $tile < $tiles {
            let $i: usize = $tile;
            $body
        })+
    };
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        (k, layout): (KParts, PanelLayout),
        packed: &'a [i8],
        first_panel: usize,
        [part_sums, nowhere]: [*mut u8; 2],
        pending: [Pending<'a>; 2],
    ) -> Self {
        Self { k, packed, layout, first_panel, part_sums, pending, turn: 0, held: None, nowhere }
    }

    /// Multiplies a part of K of a group, of R tiles, by the panels `panels`, and fetches the rows that come next.
    ///
    /// # Safety
    /// `a` holds the tiles of the part, and the pass what [`super::run`] was granted.
    #[inline(always)]
    pub(super) unsafe fn panels<T: Tiles, S: Signs, const R: usize>(
        &mut self,
        tiles: &mut T,
        (a, mut next): (TileRows, Ahead),
        group: &Group,
        part: usize,
        panels: Range<usize>,
    ) {
        let mut panel = panels.start;
        let rows_per_panel = next.rows.div_ceil(panels.len());
        let mut loaded = false;
        while panel < panels.end {
            let part_sums = self.part_sums.wrapping_add((panel - panels.start) * 2 * TILE_BYTES);
            let left = panels.end - panel;
            let columns = match (R, left) {
                (1, 4..) => 4,
                (_, 2..) => 2,
                _ => 1,
            };
            let next = next.take(rows_per_panel * columns);
            let more = left >= 2 * columns;
            let block = Block { a, group, part, panel, part_sums, next, loaded, more };
            // SAFETY: same contract, of panels that are left.
            unsafe {
                match (R, columns) {
                    (1, 4) => self.block::<T, S, 1, 4>(tiles, block),
                    (1, 2) => self.block::<T, S, 1, 2>(tiles, block),
                    (1, _) => self.block::<T, S, 1, 1>(tiles, block),
                    (_, 2) => self.block::<T, S, 2, 2>(tiles, block),
                    _ => self.block::<T, S, 2, 1>(tiles, block),
                }
            }
            (panel, loaded) = (panel + columns, more);
        }
    }

    /// Multiplies R tiles of A by C panels.
    #[inline(always)]
    unsafe fn block<T: Tiles, S: Signs, const R: usize, const C: usize>(
        &mut self,
        tiles: &mut T,
        block: Block<'_>,
    ) {
        let Block { group, part, panel, part_sums, .. } = block;
        // SAFETY: same contract; the block that is held has its place.
        unsafe {
            if self.held.is_none_or(|held| held.tiles != (R, C)) {
                self.store(tiles);
            }
            if block.next.rows > 0 {
                self.steps::<T, S, R, C, true>(tiles, block);
            } else {
                self.steps::<T, S, R, C, false>(tiles, block);
            }
            self.pending[self.turn].rest();
        }
        let to = if part + 1 < self.k.parts {
            part_sums
        } else {
            let col = panel * NR;
            let columns = (col, (self.layout.n - col).min(C * NR));
            self.pending[self.turn].begin(group, C, columns, (panel - self.first_panel) * NR)
        };
        self.held = Some(Held { tiles: (R, C), to });
        self.turn ^= 1;
    }

    /// The products of a block. While they are under way, the sums that the registers held are stored, and those of the
    /// block before finished.
    #[inline(always)]
    unsafe fn steps<T: Tiles, S: Signs, const R: usize, const C: usize, const FETCH: bool>(
        &mut self,
        tiles: &mut T,
        block: Block<'_>,
    ) {
        let Block { a, part, panel, part_sums, next, loaded, more, .. } = block;
        let (first, steps) = self.k.part(part);
        let distance = self.layout.panel_bytes();
        let weights = self.packed[panel * distance..].as_ptr().cast::<u8>();
        let weights = weights.wrapping_add(first * TILE_BYTES);
        let stride = C * TILE_ROW_BYTES;
        let held = self.held.take().map_or(self.nowhere, |held| held.to);
        let pending = &mut self.pending[self.turn];
        let parts = pending.parts_per_step(steps);
        let mut now = StepTiles { a, b: weights, panel: distance };
        // After the last step, the next block's first tiles: if there is none, its own once more, for nothing.
        let after =
            StepTiles { b: weights.wrapping_add(if more { C * distance } else { 0 }), ..now };
        // SAFETY: A and B have tiles for every step (contract); sums of earlier parts lie where their block put them; the
        // block that is held has its place.
        unsafe {
            if !loaded {
                first_loads::<T, R, C>(tiles, &now);
            }
            for s in 0..steps {
                let last = s + 1 == steps;
                let then = if last { after } else { now.next() };
                if s == 0 {
                    for_each_tile!(i < R * C, {
                        store_sums(tiles, i, held.add(place(i, C)), stride);
                        if part == 0 {
                            zero_sums(tiles, i);
                        } else {
                            load_sums(tiles, i, part_sums.add(place(i, C)), stride);
                        }
                        multiply::<T, S, R, C>(tiles, i);
                        next_loads::<T, R, C>(tiles, i, &now, &then);
                    });
                } else {
                    for_each_tile!(i < R * C, {
                        multiply::<T, S, R, C>(tiles, i);
                        next_loads::<T, R, C>(tiles, i, &now, &then);
                    });
                }
                if FETCH {
                    next.fetch(s);
                }
                pending.parts(parts);
                now = then;
            }
        }
    }

    /// Takes the sums out of the registers.
    ///
    /// # Safety
    /// The place of the block that is held is still its own.
    unsafe fn store<T: Tiles>(&mut self, tiles: &mut T) {
        let Some(Held { tiles: (r, c), to }) = self.held.take() else { return };
        let stride = c * TILE_ROW_BYTES;
        for i in 0..r * c {
            // SAFETY: same contract; a block of r × c tiles has room there.
            unsafe {
                store_sums(tiles, i, to.add(place(i, c)), stride);
            }
        }
    }

    /// Finishes all blocks.
    ///
    /// # Safety
    /// As [`Self::panels`].
    pub(super) unsafe fn finish<T: Tiles>(&mut self, tiles: &mut T) {
        // SAFETY: same contract.
        unsafe {
            self.store(tiles);
            self.pending[self.turn].rest();
            self.pending[self.turn ^ 1].rest();
        }
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
