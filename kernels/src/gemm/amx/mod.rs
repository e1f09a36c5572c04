//! GEMM on tile registers: 32×32 sums in four tiles, 64 values of K a step, and the epilogue of an earlier block woven
//! between the steps.
//!
//! ```text
//! for each block of panels that stays in L2:
//!   for each group of 32 rows, which a convolution gathers now, or has in a band (`band.rs`):
//!     for each part of K of which 32 rows, or 16 of them, stay in L1:
//!       A: in place if its tile rows are whole cache lines or few panels read them, else copied to be so
//!       for each 2 panels:                                              B: the packed panels, one tile per 64 of K
//!         in the first step, between its products: store the 4 tiles of the block before
//!         4 tiles = 0, or the sums of the part before
//!         for each 64 of K:
//!           4 products; after each, the tiles of the next step that its registers take
//!           between them, bias and epilogue of a few rows of the block before the last, on vector registers
//! ```
//! Where rows and panels leave L2 together and all their sums do not, parts of K come before groups of rows.
//! A tile row is a cache line: one that crosses two costs six times as much. Rows of A that are not aligned are therefore
//! copied first, each once per block of panels, unless that is more work than it saves; where they are many, weights move
//! instead (`shifted.rs`). Tiles are always of full size. Rows and values of K that a group or a step lacks are padding
//! in the copy: of rows, whatever the memory held, since their sums are dropped; of K, zeros, which take whatever the
//! tile of B holds beyond K out of the sum. Weights are those of
//! `vpdpbusd` (K4N16), so that few rows, few values of K and what is no matrix multiplication stay with its kernels.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod asm;
mod band;
#[cfg(any(test, feature = "testing"))]
mod model;
mod pass;
mod pending;
mod plan;
mod shifted;
mod state;
#[cfg(test)]
mod tests;
mod tiles;

use std::ops::Range;

use wide::bytemuck::cast_slice_mut;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use self::state::SET;
#[cfg(any(test, feature = "testing"))]
pub(crate) use self::state::modelled;
use self::{
    band::{BandGroup, LEAST_WIDTH},
    pass::{Ahead, Group, Pass, Share},
    pending::{AnyEpilogue, BLOCK_ROWS, FinishPart, Finisher, Pending, PlainEpilogue},
    plan::Plan,
    shifted::{Shift, ShiftPanels, run_shifted},
    tiles::{Signs, TILE_BYTES, TILE_ROW_BYTES, TILE_ROWS, TileRows, Tiles},
};
pub(crate) use self::{
    band::{BandRows, band_slack, takes_band},
    state::TileState,
};
use super::{
    driver::{Core, Grain},
    kernel::{Dot, Rows},
    scratch::with_scratch,
};
use crate::{
    conv::kernel::Patch,
    epilogue::{NR, TileOut},
    layout::copy_short,
    par::TASK_MACS,
};

/// The least of K and of rows that tiles are used for: below, most of a tile would be padding.
pub(crate) const MIN_K: usize = 64;
const MIN_ROWS: usize = 5;

/// Rows of a matrix after the last whole tile that vector kernels compute faster than a tile of their own.
const FEW_ROWS: usize = 2;

/// Bytes after packed weights that a tile of the last panel may read.
pub(crate) const SLACK: usize = TILE_BYTES - TILE_ROW_BYTES;

/// The most rows that are multiplied at a time.
pub(crate) const GROUP_ROWS: usize = BLOCK_ROWS;

/// How many of `rows` rows, the first ones, should be multiplied on tiles.
fn rows_on_tiles(rows: usize, k: usize) -> usize {
    let left = rows % TILE_ROWS;
    match () {
        () if rows < MIN_ROWS || k < MIN_K => 0,
        () if left <= FEW_ROWS => rows - left,
        () => rows,
    }
}

/// The fewest columns, and values that lie together in memory, of convolutions that are worth a copy of each patch.
const MIN_CONV_COLUMNS: usize = 16;
const MIN_CONV_RUN: usize = 32;

/// Whether a convolution should go to tiles: `pixels` patches of `k` values, in runs of `run`, times `n` columns.
pub(crate) fn takes_patches(pixels: usize, n: usize, k: usize, run: usize) -> bool {
    rows_on_tiles(pixels, k) > 0 && n >= MIN_CONV_COLUMNS && run >= MIN_CONV_RUN
}

/// Whether tiles outweigh copies of all patches, of `runs` times `run` values, where vector kernels read a band: for so
/// many columns. Fitted to eleven layers on Emerald Rapids, in multiply-adds of vectors: a run costs 700 and 34 a value,
/// tiles take a sixth of the time, and 20 more for each result.
pub(crate) fn outweigh_copies(n: usize, runs: usize, run: usize) -> bool {
    let copies = run.saturating_mul(34).saturating_add(700).saturating_mul(runs);
    let saved = (runs.saturating_mul(run) / 6).saturating_mul(5).saturating_sub(20);
    n.next_multiple_of(NR).saturating_mul(saved) > copies
}

/// What tasks of a matrix are cut by if its rows go to tiles: panels are blocked for L2 inside of a task.
pub(crate) fn grain(rows: usize, k: usize) -> Option<Grain> {
    let grain = Grain { rows: BLOCK_ROWS, a_bytes: usize::MAX, macs: 8 * TASK_MACS };
    (rows_on_tiles(rows, k) > 0).then_some(grain)
}

/// What an ISA with tiles adds to its kernels.
#[derive(Debug)]
pub(crate) struct TileUnit {
    /// Computes a block on tiles, as [`Core::block`] says, whose K is [`MIN_K`] or more.
    ///
    /// # Safety
    /// As there; packed weights are followed by [`SLACK`] bytes.
    run: unsafe fn(&Core<'_>, &mut TileState, Operands<'_>),
}

impl TileUnit {
    /// Computes the first of `rows` rows, as many as should be on tiles: how many is the answer.
    ///
    /// # Safety
    /// As [`Core::block`].
    pub(crate) unsafe fn block(
        &self,
        core: &Core<'_>,
        state: &mut TileState,
        (a, lda): (*const u8, usize),
        rows: usize,
        panels: Range<usize>,
        to: TileOut,
    ) -> usize {
        let rows = rows_on_tiles(rows, core.layout.k);
        if rows > 0 {
            let source = Source::Matrix(a);
            // SAFETY: same contract, of some of the rows.
            unsafe { (self.run)(core, state, Operands { source, lda, rows, panels, to }) };
        }
        rows
    }

    /// Computes `rows` rows, all of them, that `gather` writes when they are needed, [`GROUP_ROWS`] or fewer at a time,
    /// `lda` bytes from one to the next.
    ///
    /// # Safety
    /// As [`Core::block`], of rows that are readable from a call that asks for them to the next call; K is [`MIN_K`] or
    /// more.
    pub(crate) unsafe fn patches(
        &self,
        core: &Core<'_>,
        state: &mut TileState,
        (gather, lda): (&mut dyn FnMut(Range<usize>) -> *const u8, usize),
        rows: usize,
        panels: Range<usize>,
        to: TileOut,
    ) {
        let source = Source::Patches(gather);
        // SAFETY: same contract.
        unsafe { (self.run)(core, state, Operands { source, lda, rows, panels, to }) };
    }

    /// Computes the pixels of a band, all of them.
    ///
    /// # Safety
    /// As [`Core::block`], of these pixels. Their patches are such as [`takes_band`] wants, and readable, as are those of
    /// the pixels that [`band_slack`] says; weights have no zero points.
    pub(crate) unsafe fn band(
        &self,
        core: &Core<'_>,
        state: &mut TileState,
        band: BandRows<'_>,
        panels: Range<usize>,
        to: TileOut,
    ) {
        let Patch { steps, segments, len, .. } = band.patch;
        assert!(
            steps.width >= LEAST_WIDTH
                && segments.first() == Some(&0)
                && segments.len() * len == core.layout.k
                && len.is_multiple_of(TILE_ROW_BYTES)
                && core.epilogue.w_zero.is_none()
        );
        let (rows, source) = (band.tile_rows(), Source::Band(band));
        // SAFETY: same contract.
        unsafe { (self.run)(core, state, Operands { source, lda: steps.step, rows, panels, to }) };
    }
}

/// Where rows of A are: the first at a pointer, written on request, some at a time (as many as a group has, at a line), or
/// in a band.
enum Source<'a> {
    Matrix(*const u8),
    Patches(&'a mut dyn FnMut(Range<usize>) -> *const u8),
    Band(BandRows<'a>),
}

/// Rows of A, `lda` bytes from one to the next, panels of B, and where the results go.
struct Operands<'a> {
    source: Source<'a>,
    lda: usize,
    rows: usize,
    panels: Range<usize>,
    to: TileOut,
}

/// [`multiply_all`] under an ISA's target features.
type MultiplyAll<T> = unsafe fn(&mut T, &Core<'_>, Operands<'_>, &Plan, &mut [i8]);

/// What an ISA's target features make faster.
struct Code<T> {
    all: MultiplyAll<T>,
    shift: ShiftPanels,
}

/// Computes a block on `tiles`.
///
/// # Safety
/// As [`TileUnit::run`]; the sign of A is that of `code`, whose ISA is supported.
unsafe fn run<T: Tiles>(tiles: &mut T, core: &Core<'_>, operands: Operands<'_>, code: Code<T>) {
    let Core { layout, packed, epilogue, sums, depth, .. } = core;
    assert!(
        operands.panels.end <= layout.panels()
            && packed.len() >= layout.bytes() + SLACK
            && epilogue.n() == layout.n
            && sums.len() == layout.n
            && *depth == (0, layout.k)
    );
    // SAFETY: same contract; a shift is only of rows that it fits.
    unsafe {
        if let Some(shift) = Shift::of(core, &operands) {
            run_shifted(&shift, tiles, core, operands, code);
        } else {
            let plan = Plan::new(layout, &operands);
            run_as(&plan, tiles, core, operands, code.all);
        }
    }
}

/// Computes a block as `plan` says.
///
/// # Safety
/// As [`run`]; the plan is of the operands.
unsafe fn run_as<T: Tiles>(
    plan: &Plan,
    tiles: &mut T,
    core: &Core<'_>,
    operands: Operands<'_>,
    all: MultiplyAll<T>,
) {
    with_scratch(plan.room(operands.panels.len()), |scratch| {
        // SAFETY: same contract.
        unsafe { all(tiles, core, operands, plan, scratch) };
    });
}

/// Computes a block in `scratch`, which has the room that `plan` wants.
///
/// # Safety
/// As [`run`]; inlined into a function with the features of `D`, which are those of `finish` too.
#[inline(always)]
unsafe fn multiply_all<T: Tiles, S: Signs, D: Dot>(
    tiles: &mut T,
    core: &Core<'_>,
    operands: Operands<'_>,
    plan: &Plan,
    scratch: &mut [i8],
    finish: FinishPart,
) {
    let Core { layout, packed, epilogue, a_sign, .. } = *core;
    let Operands { panels, to, .. } = &operands;
    assert!(a_sign == S::A);
    let [copy_bytes, start_bytes, part_bytes, block_bytes, step_bytes] = plan.bytes(panels.len());
    let (copy, scratch) = scratch.split_at_mut(copy_bytes);
    let (starts, scratch) = scratch.split_at_mut(start_bytes);
    let (part_sums, blocks) = scratch.split_at_mut(part_bytes);
    let starts = start_sums(core, panels.start * NR, starts);
    let (even, blocks) = blocks.split_at_mut(block_bytes);
    let (odd, blocks) = blocks.split_at_mut(block_bytes);
    let (nowhere, steps) = blocks.split_at_mut(block_bytes);
    let steps = band_steps(&operands.source, &mut steps[..step_bytes]);
    let blocks = [even, odd].map(|block| block.as_mut_ptr().cast());
    let places = [part_sums, nowhere].map(|place| place.as_mut_ptr().cast());
    let (how, first) = ((plan, layout), panels.start);
    let plain = epilogue.plain_half_even().filter(|_| D::REQUANTIZES && epilogue.w_zero.is_none());
    // SAFETY: same contract.
    unsafe {
        match plain {
            Some((quant, multiplier)) => {
                let plain = PlainEpilogue::<D>::new(blocks, starts, (quant, multiplier), *to);
                let pass = Pass::new(how, packed, first, places, plain);
                multiply_groups::<T, S, _>(tiles, core, operands, plan, (copy, steps), pass);
            }
            None => {
                let pending = |sums| Pending::none(sums, starts, epilogue, finish, *to);
                let mut pending = blocks.map(pending);
                let pass = Pass::new(how, packed, first, places, AnyEpilogue::new(&mut pending));
                multiply_groups::<T, S, _>(tiles, core, operands, plan, (copy, steps), pass);
            }
        }
    }
}

/// Writes where steps begin, from the first one, in rows of a band.
fn band_steps(source: &Source<'_>, room: &mut [i8]) -> *const usize {
    let Source::Band(BandRows { patch, .. }) = source else { return std::ptr::null() };
    let lines = |&run: &usize| (0..patch.len).step_by(TILE_ROW_BYTES).map(move |i| run + i);
    let steps = cast_slice_mut::<i8, usize>(room);
    steps.iter_mut().zip(patch.segments.iter().flat_map(lines)).for_each(|(to, at)| *to = at);
    steps.as_ptr()
}

/// Computes a block group by group; of each the rows that tiles are not to read as they are go to `copy`.
///
/// # Safety
/// As [`multiply_all`].
#[inline(always)]
unsafe fn multiply_groups<T: Tiles, S: Signs, F: Finisher>(
    tiles: &mut T,
    core: &Core<'_>,
    operands: Operands<'_>,
    plan: &Plan,
    (copy, band_steps): (&mut [i8], *const usize),
    mut pass: Pass<'_, F>,
) {
    let Core { set, layout, epilogue, a_sign, .. } = *core;
    let Operands { mut source, lda, rows, panels, to } = operands;
    let Plan { k, in_place, far, .. } = *plan;
    let rows_of = |a: *const u8, row: usize| Rows {
        a: a.wrapping_add(row * lda),
        lda,
        k: layout.k,
        count: BLOCK_ROWS.min(rows - row),
        sign: a_sign,
    };
    let mut group = Group { rows: 0, row_sums: [0; BLOCK_ROWS], to, back: 0 };
    let mut gathered = std::ptr::null();
    let mut visit = (!panels.is_empty()).then_some(Visit { panel: panels.start, row: 0, part: 0 });
    while let Some(Visit { panel, row, part }) = visit {
        let some = panel..(panel + plan.at_a_time).min(panels.end);
        let (first, steps) = k.part(part);
        let (from, band) = match &mut source {
            Source::Matrix(a) => (rows_of(*a, row), None),
            Source::Patches(gather) => {
                if part == 0 {
                    gathered = gather(row..rows.min(row + BLOCK_ROWS));
                }
                (Rows { a: gathered, ..rows_of(std::ptr::null(), row) }, None)
            }
            Source::Band(band) => (rows_of(std::ptr::null(), row), Some(band.group(row))),
        };
        (group.rows, group.to, group.back) = match &band {
            None => (from.count, to.at_row(row), 0),
            Some(band) => (band.rows, to.at_row(band.pixel), band.back),
        };
        visit = visit.and_then(|visit| visit.next(plan, rows, panels.end));
        // SAFETY: rows `row` … of those granted, as many as `group` has; the copy has room for the rows and steps of a part,
        // the scratch for all sums; tiles of B lie in the panels, or in the slack after them.
        unsafe {
            if epilogue.w_zero.is_some() && part + 1 == k.parts {
                (set.row_sums)(&from, group.row_sums.as_mut_ptr());
            }
            let (mut ahead, mut then) = (Ahead::none(), None);
            if let Some(next) = visit {
                let (next_first, next_steps) = k.part(next.part);
                // The tiles after these, if rows are as far apart: where both lie in place.
                let after = match &source {
                    Source::Matrix(a) => {
                        let there = rows_of(*a, next.row);
                        if far {
                            ahead = Ahead::new(&there, next_first, some.len());
                        }
                        let in_place = from.are_tiles(first + steps, in_place)
                            && there.are_tiles(next_first + next_steps, in_place)
                            && there.count > TILE_ROWS;
                        in_place.then(|| {
                            let TileRows { first, tile, .. } = there.in_place(next_first);
                            (first, tile)
                        })
                    }
                    Source::Patches(_) => None,
                    Source::Band(band) => {
                        let there = band.group(next.row);
                        (there.rows > TILE_ROWS).then_some((there.first, there.tile))
                    }
                };
                if next.panel + 2 <= panels.end {
                    then = after.map(|a| pass.first(a, next.panel, next_first));
                }
            }
            let a = match band {
                None => from.tiles(first, steps, in_place, copy),
                Some(BandGroup { first, tile, .. }) => {
                    TileRows { first, row: lda, tile, step: 0, steps: band_steps }
                }
            };
            let work = Share { group: &group, part, sums: plan.sums(row), panels: some, then };
            if group.rows > TILE_ROWS {
                pass.panels::<T, S, 2>(tiles, (a, ahead), work);
            } else {
                pass.panels::<T, S, 1>(tiles, (a, ahead), work);
            }
        }
    }
    // SAFETY: the caller grants the ISA.
    unsafe { pass.finish(tiles) };
}

/// What is multiplied at a time: a group of rows, by as many panels as stay in L2, over a part of K.
#[derive(Debug, Clone, Copy)]
struct Visit {
    panel: usize,
    row: usize,
    part: usize,
}

impl Visit {
    /// The next one of `rows` rows and the panels before `panels`.
    fn next(self, plan: &Plan, rows: usize, panels: usize) -> Option<Self> {
        let Self { panel, row, part } = self;
        let start = row - row % plan.part_rows;
        let end = rows.min(start + plan.part_rows);
        if row + BLOCK_ROWS < end {
            Some(Self { row: row + BLOCK_ROWS, ..self })
        } else if part + 1 < plan.k.parts {
            Some(Self { row: start, part: part + 1, ..self })
        } else if end < rows {
            Some(Self { panel, row: end, part: 0 })
        } else if panel + plan.at_a_time < panels {
            Some(Self { panel: panel + plan.at_a_time, row: 0, part: 0 })
        } else {
            None
        }
    }
}

/// What the sums of the columns from `col` on start from: the bias, without what it holds to undo the offset that other
/// kernels add to activations, which takes `room` for as many.
fn start_sums(core: &Core<'_>, col: usize, room: &mut [i8]) -> *const i32 {
    let bias = &core.epilogue.bias[col..];
    let offset = core.set.offset(core.a_sign);
    if offset == 0 {
        return bias.as_ptr();
    }
    let starts = room.as_chunks_mut::<4>().0;
    let sums = &core.sums[col.min(core.sums.len())..];
    let start = |start: i32| start.to_ne_bytes().map(|b| b as i8);
    for ((to, bias), sum) in starts.iter_mut().zip(bias).zip(sums) {
        *to = start(bias.wrapping_add(offset.wrapping_mul(*sum)));
    }
    // Columns of the last panel that do not exist.
    starts.iter_mut().skip(sums.len()).for_each(|to| *to = start(0));
    room.as_ptr().cast()
}

impl Rows {
    /// The tiles of `steps` steps from `first` on: `in_place` where none is to be padded, else copied.
    ///
    /// # Safety
    /// The rows are readable, and not more than two tiles have; the copy has room for so many steps.
    #[inline(always)]
    unsafe fn tiles(
        &self,
        first: usize,
        steps: usize,
        in_place: bool,
        copy: &mut [i8],
    ) -> TileRows {
        if self.are_tiles(first + steps, in_place) {
            self.in_place(first)
        } else {
            // SAFETY: same contract.
            unsafe { self.copied(first, steps, copy) }
        }
    }

    /// Whether the tiles of the steps before `end` need no copy.
    fn are_tiles(&self, end: usize, in_place: bool) -> bool {
        in_place && end * TILE_ROW_BYTES <= self.k && self.count.is_multiple_of(TILE_ROWS)
    }

    /// The tiles from step `first` on, where every row of them is a line of A itself.
    fn in_place(&self, first: usize) -> TileRows {
        TileRows {
            first: self.a.wrapping_add(first * TILE_ROW_BYTES),
            row: self.lda,
            tile: TILE_ROWS * self.lda,
            step: TILE_ROW_BYTES,
            steps: std::ptr::null(),
        }
    }

    /// Copies `steps` steps from `first` on to `copy`: step by step the tiles, with zeros beyond K.
    ///
    /// # Safety
    /// The rows are readable.
    #[inline(always)]
    unsafe fn copied(&self, first: usize, steps: usize, copy: &mut [i8]) -> TileRows {
        let tiles = self.count.div_ceil(TILE_ROWS);
        let start = first * TILE_ROW_BYTES;
        let len = self.k.min((first + steps) * TILE_ROW_BYTES) - start;
        let lines = copy.as_chunks_mut::<TILE_ROW_BYTES>().0;
        // Step by step: written row by row, each line would lie at the same place of a page as many that are read. Tile after
        // tile: a tile alone has its share of all sets of L1.
        for (step, from) in (0..len).step_by(TILE_ROW_BYTES).enumerate() {
            let values = TILE_ROW_BYTES.min(len - from);
            for tile in 0..tiles {
                let lines = &mut lines[(tile * steps + step) * TILE_ROWS..][..TILE_ROWS];
                let rows = self.count - tile * TILE_ROWS;
                for (r, line) in (tile * TILE_ROWS..).zip(lines).take(rows) {
                    // SAFETY: the caller grants row `r`, of K bytes.
                    let row = unsafe {
                        let row = self.a.add(r * self.lda + start + from).cast::<i8>();
                        std::slice::from_raw_parts(row, values)
                    };
                    match row.first_chunk() {
                        Some(whole) => *line = *whole,
                        None => copy_padded(row, line),
                    }
                }
            }
        }
        TileRows {
            first: copy.as_ptr().cast(),
            row: TILE_ROW_BYTES,
            tile: steps * TILE_BYTES,
            step: TILE_BYTES,
            steps: std::ptr::null(),
        }
    }
}

/// Writes `values`, fewer than a line, and zeros after them.
#[inline(always)]
fn copy_padded(values: &[i8], line: &mut [i8; TILE_ROW_BYTES]) {
    *line = [0; TILE_ROW_BYTES];
    copy_short(values, &mut line[..values.len()]);
}
