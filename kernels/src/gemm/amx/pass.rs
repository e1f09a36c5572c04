//! Groups of rows times panels: the loops around a step.

use std::ops::Range;

use super::{
    pending::{BLOCK_ROWS, Finisher},
    plan::{KParts, Plan, Stays},
    tiles::{
        BAND, BOTH, HALF_ROWS, PANELS, ROWS, Signs, StepTiles, TILE_BYTES, TILE_ROW_BYTES,
        TILE_ROWS, TileRows, Tiles, first_loads, load_sums, multiply, next_loads, of_band,
        store_sums, zero_sums,
    },
};
use crate::{
    epilogue::{NR, TileOut},
    gemm::{kernel::Rows, pack::PanelLayout},
};

/// Some rows that panels are multiplied by.
pub(super) struct Group {
    pub(super) rows: usize,
    /// `Σ_k a` of each, where weights have zero points.
    pub(super) row_sums: [i32; BLOCK_ROWS],
    /// At the first row, and the first column of all panels.
    pub(super) to: TileOut,
    /// How many rows before its end the second tile's begin.
    pub(super) back: usize,
}

/// Rows of A that come next, to be fetched meanwhile: some with each panel.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    at: *const u8,
    lda: usize,
    rows: usize,
    per_panel: usize,
}

impl Ahead {
    /// Those of a part of K from step `first` on, while `panels` panels multiply.
    pub(super) fn new(rows: &Rows, first: usize, panels: usize) -> Self {
        let &Rows { a, lda, count, .. } = rows;
        let at = a.wrapping_add(first * TILE_ROW_BYTES);
        Self { at, lda, rows: count, per_panel: count.div_ceil(panels) }
    }

    pub(super) fn none() -> Self {
        Self { at: std::ptr::null(), lda: 0, rows: 0, per_panel: 0 }
    }

    /// The rows of some panels, or as many as there are: the others are left.
    #[inline(always)]
    fn take(&mut self, panels: usize) -> Self {
        let first = Self { rows: self.rows.min(self.per_panel * panels), ..*self };
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
pub(super) struct Pass<'a, F> {
    k: KParts,
    packed: &'a [i8],
    layout: PanelLayout,
    first_panel: usize,
    stays: Stays,
    /// Sums of the rows and panels that a part of K is multiplied by before the next, where K has several.
    part_sums: *mut u8,
    finisher: F,
    held: Option<Held>,
    /// The first tiles of A and B of a block of 2 × 2 tiles, if they are in their registers.
    loaded: Option<First>,
    /// Room for a block that nobody asks for: what the registers hold where no block does.
    nowhere: *mut u8,
}

/// What a group is multiplied by.
pub(super) struct Share<'a> {
    pub(super) group: &'a Group,
    pub(super) part: usize,
    /// Where the group's sums of earlier parts are, in bytes.
    pub(super) sums: usize,
    pub(super) panels: Range<usize>,
    /// Where the next group's blocks begin, if that is known, they are of 2 × 2 tiles, and rows are as far apart.
    pub(super) then: Option<First>,
}

/// Where a block's first tiles of A and B are.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct First {
    pub(super) a: *const u8,
    /// Bytes to the second tile of A.
    pub(super) tile: usize,
    pub(super) b: *const u8,
}

/// Blocks of one form, next to each other: a group times some panels.
#[derive(Clone, Copy)]
struct Run<'a> {
    a: TileRows,
    group: &'a Group,
    part: usize,
    /// The first panel, and how many blocks there are.
    panel: usize,
    blocks: usize,
    /// Sums of the earlier parts.
    part_sums: *mut u8,
    /// Where the next run begins, if that is known, it has this form, and rows are as far apart.
    then: Option<First>,
}

/// The tiles of a block.
#[derive(Clone, Copy)]
struct Block {
    a: TileRows,
    b: *const u8,
    /// Where its successor's tiles are.
    after: First,
    steps: usize,
    /// Where the sums that the registers hold go.
    held: *mut u8,
    /// Sums of the earlier parts, if there are any.
    earlier: Option<*const u8>,
    /// How many parts of the epilogue follow each product but the last, and the last.
    parts: (usize, usize),
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

impl<'a, F: Finisher> Pass<'a, F> {
    pub(super) fn new(
        (plan, layout): (&Plan, PanelLayout),
        packed: &'a [i8],
        first_panel: usize,
        [part_sums, nowhere]: [*mut u8; 2],
        finisher: F,
    ) -> Self {
        Self {
            k: plan.k,
            packed,
            layout,
            first_panel,
            stays: plan.stays,
            part_sums,
            finisher,
            held: None,
            loaded: None,
            nowhere,
        }
    }

    /// Where blocks begin that multiply `a`, tiles `tile` bytes apart, by the panels from `panel` on, from step `first` on.
    pub(super) fn first(&self, (a, tile): (*const u8, usize), panel: usize, first: usize) -> First {
        let b = self.packed[panel * self.layout.panel_bytes()..].as_ptr().cast::<u8>();
        First { a, tile, b: b.wrapping_add(first * TILE_BYTES) }
    }

    /// Multiplies R tiles of a group by panels over a part of K, and fetches the rows that come next.
    ///
    /// # Safety
    /// `a` holds the tiles of the part, and the pass what [`super::run`] was granted.
    #[inline(always)]
    pub(super) unsafe fn panels<T: Tiles, S: Signs, const R: usize>(
        &mut self,
        tiles: &mut T,
        (a, mut next): (TileRows, Ahead),
        share: Share<'_>,
    ) {
        let Share { group, part, sums, panels, then } = share;
        let part_sums = self.part_sums.wrapping_add(sums);
        let run = |panel: usize, blocks: usize| Run {
            then: None,
            a,
            group,
            part,
            panel,
            blocks,
            part_sums: part_sums.wrapping_add((panel - panels.start) * 2 * TILE_BYTES),
        };
        let (panel, count) = (panels.start, panels.len());
        // SAFETY: same contract, of these panels.
        unsafe {
            if R == 2 {
                let (pairs, one) = (count / 2, count % 2);
                let then = then.filter(|_| one == 0);
                let (first, last) = (run(panel, pairs), run(panel + 2 * pairs, one));
                let first = Run { then, ..first };
                let next = &mut next;
                match self.stays {
                    Stays::Band => self.blocks::<T, S, BAND, 2, 2>(tiles, first, next),
                    Stays::HalfRows if T::KEEPS => {
                        self.blocks::<T, S, HALF_ROWS, 2, 2>(tiles, first, next)
                    }
                    Stays::Panels if T::KEEPS => {
                        self.blocks::<T, S, PANELS, 2, 2>(tiles, first, next)
                    }
                    Stays::Both if T::KEEPS => self.blocks::<T, S, BOTH, 2, 2>(tiles, first, next),
                    _ => self.blocks::<T, S, ROWS, 2, 2>(tiles, first, next),
                }
                self.blocks::<T, S, ROWS, 2, 1>(tiles, last, next);
            } else {
                let (fours, twos, one) = (count / 4, count % 4 / 2, count % 2);
                let (first, last) = (run(panel, fours), run(panels.end - one, one));
                let middle = run(panel + 4 * fours, twos);
                self.blocks::<T, S, ROWS, 1, 4>(tiles, first, &mut next);
                self.blocks::<T, S, ROWS, 1, 2>(tiles, middle, &mut next);
                self.blocks::<T, S, ROWS, 1, 1>(tiles, last, &mut next);
            }
        }
    }

    /// Multiplies R tiles of A by C panels, and again by as many next to them.
    ///
    /// # Safety
    /// As [`Self::panels`].
    #[inline(always)]
    unsafe fn blocks<T: Tiles, S: Signs, const STAYS: u8, const R: usize, const C: usize>(
        &mut self,
        tiles: &mut T,
        run: Run<'_>,
        next: &mut Ahead,
    ) {
        let Run { a, group, part, mut panel, blocks, mut part_sums, then } = run;
        if blocks == 0 {
            return;
        }
        let (first, steps) = self.k.part(part);
        let distance = self.layout.panel_bytes();
        let here = self.first((a.first, a.tile), panel, first);
        let mut b = here.b;
        let parts = self.finisher.parts_per_product(steps);
        let whole = part + 1 == self.k.parts;
        // SAFETY: same contract; the block that is held has its place.
        unsafe {
            if self.held.is_none_or(|held| held.tiles != (R, C)) {
                self.store(tiles);
            }
            let mut held = self.held.take().map_or(self.nowhere, |held| held.to);
            if self.loaded.take() != Some(here) || (R, C) != (2, 2) {
                let TileRows { first: a, row, tile, .. } = a;
                first_loads::<T, STAYS, R, C>(
                    tiles,
                    &StepTiles { a, row, tile, b, panel: distance },
                );
            }
            self.loaded = then;
            for left in (0..blocks).rev() {
                let next_b = b.wrapping_add(C * distance);
                // What comes after the last block, or its own tiles once more, for nothing.
                let after = match (left, then) {
                    (0, Some(then)) => then,
                    (0, None) => First { b, ..here },
                    _ => First { b: next_b, ..here },
                };
                let earlier = (part > 0).then_some(part_sums.cast_const());
                let block = Block { a, b, after, steps, held, earlier, parts };
                let mut work = self.finisher.work::<C>(of_band(STAYS, (R, C)));
                let next = if next.rows > 0 { next.take(C) } else { *next };
                self.block::<T, S, STAYS, R, C>(tiles, block, next, &mut work);
                self.finisher.rest(work);
                held = if whole {
                    let col = panel * NR;
                    let columns = (col, (self.layout.n - col).min(C * NR));
                    self.finisher.begin::<C>(group, columns, (panel - self.first_panel) * NR)
                } else {
                    self.finisher.skip();
                    part_sums
                };
                (panel, b) = (panel + C, next_b);
                part_sums = part_sums.wrapping_add(C * 2 * TILE_BYTES);
            }
            self.held = Some(Held { tiles: (R, C), to: held });
        }
    }

    /// The products of a block. While they are under way, the sums that the registers held are stored, and those of the
    /// block before finished.
    #[inline(always)]
    unsafe fn block<T: Tiles, S: Signs, const STAYS: u8, const R: usize, const C: usize>(
        &self,
        tiles: &mut T,
        block: Block,
        next: Ahead,
        work: &mut F::Work,
    ) {
        let Block { a, b, after, steps, held, earlier, parts: (each, last) } = block;
        let stride = C * TILE_ROW_BYTES;
        let TileRows { first, row, tile, step, steps: offsets } = a;
        let mut now = StepTiles { a: first, row, tile, b, panel: self.layout.panel_bytes() };
        // A variable less for other rows: all of their tiles are as far apart.
        let tile = if of_band(STAYS, (R, C)) { after.tile } else { tile };
        let after = StepTiles { a: after.a, tile, b: after.b, ..now };
        // SAFETY: A and B have tiles for every step, a band's A an offset too (contract); sums of earlier parts lie where
        // their block put them; the block that is held has its place.
        unsafe {
            for s in 0..steps {
                let then = if s + 1 == steps {
                    after
                } else if of_band(STAYS, (R, C)) && !offsets.is_null() {
                    now.next(first.wrapping_add(*offsets.add(s + 1)))
                } else {
                    now.next(now.a.wrapping_add(step))
                };
                if s == 0 {
                    for_each_tile!(i < R * C, {
                        store_sums(tiles, i, held.add(place(i, C)), stride);
                        match earlier {
                            None => zero_sums(tiles, i),
                            Some(sums) => load_sums(tiles, i, sums.add(place(i, C)), stride),
                        }
                        multiply::<T, S, R, C>(tiles, i);
                        next_loads::<T, STAYS, R, C>(tiles, i, &now, &then);
                        F::parts::<C>(work, if i + 1 < R * C { each } else { last });
                    });
                } else {
                    for_each_tile!(i < R * C, {
                        multiply::<T, S, R, C>(tiles, i);
                        next_loads::<T, STAYS, R, C>(tiles, i, &now, &then);
                        F::parts::<C>(work, if i + 1 < R * C { each } else { last });
                    });
                }
                next.fetch(s);
                now = then;
            }
        }
    }

    /// Takes the sums out of the registers.
    ///
    /// # Safety
    /// The place of the block that is held is still its own.
    #[inline(always)]
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
    #[inline(always)]
    pub(super) unsafe fn finish<T: Tiles>(&mut self, tiles: &mut T) {
        // SAFETY: same contract.
        unsafe {
            self.store(tiles);
            for _ in 0..2 {
                let work = self.finisher.work::<2>(true);
                self.finisher.rest(work);
                self.finisher.skip();
            }
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
