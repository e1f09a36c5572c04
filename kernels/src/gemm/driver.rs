//! From micro-kernels to matrices: which tiles cover a block, and which blocks are tasks.

use std::ops::Range;

use super::{
    amx::TileState,
    kernel::{Block, KernelSet, Partial, Ring, Rows, Ukernel, Wide},
    pack::{ALIGN, PanelLayout},
    scratch::with_scratch,
};
use crate::{
    epilogue::{Epilogue, NR, Sign, TileOut},
    par::{MAX_THREADS, TASK_MACS},
};

/// Rows are cut at multiples of this, which every MR but the smallest tails divides.
pub(super) const ROW_STEP: usize = 12;

/// Panels are cut at multiples of this, the most of a tile.
const PANELS: usize = 4;

/// Bytes of A that a task goes over once per panel: they should stay in L2 beside a panel.
const A_BLOCK_BYTES: usize = 512 * 1024;

/// Bytes of staged rows of A: they stay in L2 beside a panel while all panels go over them.
const STAGE_BYTES: usize = 384 * 1024;

/// The same where B is small: they stay in L1.
const SMALL_STAGE_BYTES: usize = 24 * 1024;

/// The same where panels are widened, which is to be done for many rows.
const WIDE_STAGE_BYTES: usize = 1024 * 1024;

/// A B of no more bytes stays in L2, at least: all of its panels go over few rows before the next rows come.
const SMALL_B_BYTES: usize = 128 * 1024;

/// Panels that tiles of several heights go over together: the higher ones leave them near L1 for the lower ones.
const AGAIN_BYTES: usize = 64 * 1024;

/// The most rows that go through a ring at a time.
const RING_ROWS: usize = 256 * ROW_STEP;

/// The most rows of a tile.
const MAX_MR: usize = 16;

/// Rows from which on it pays to widen all of a small B for them.
const RING_WIDE_ROWS: usize = 36;

/// Weights of a tile that leave room for its rows in L1.
const L1_WEIGHTS: usize = 24 * 1024;

/// While many rows go over some panels of a B that is larger than this, the next panels are fetched into L2.
const FETCH_B_BYTES: usize = 1024 * 1024;
const FETCH_ROWS: usize = 64;

/// The most of K that is widened at a time: a panel of it stays in L1 beside a tile's rows.
const WIDE_K: usize = 1024;

/// Packed weights and the epilogue of their columns.
#[derive(Clone, Copy)]
pub(crate) struct Core<'a> {
    pub(crate) set: &'static KernelSet,
    pub(crate) layout: PanelLayout,
    /// `layout.bytes()` bytes, packed for `set`.
    pub(crate) packed: &'a [i8],
    /// Of `layout.n` columns.
    pub(crate) epilogue: &'a Epilogue,
    pub(crate) a_sign: Sign,
    /// `Σ_k b` of each column, as packed.
    pub(crate) sums: &'a [i32],
    /// The first value of K that is multiplied, a multiple of KR, and how many are: all, but in parts of K.
    pub(crate) depth: (usize, usize),
}

/// Rows of A as tiles read them, and their sums.
#[derive(Clone, Copy)]
struct TileRows {
    a: *const u8,
    lda: usize,
    k: usize,
    staged: bool,
    row_sums: *const i32,
    ring: Option<Ring>,
}

impl<'a> Core<'a> {
    /// The same product of a part of K, with an epilogue for its sums.
    pub(crate) fn of_part(self, (start, len): (usize, usize), epilogue: &'a Epilogue) -> Self {
        assert!(start.is_multiple_of(ALIGN) && start + len <= self.layout.k);
        Self { epilogue, depth: (start, len), ..self }
    }

    fn is_whole(&self) -> bool {
        self.depth == (0, self.layout.k)
    }

    /// Computes `rows` rows of the panels `panels`. `to` points at row 0 of the first of these panels; `state` is that
    /// of this worker.
    ///
    /// # Safety
    /// - `a` has `rows` rows of `layout.k` bytes, `lda` apart, of which those of `depth` are multiplied. With what lies
    ///   between them they are readable.
    /// - The output of these rows and columns is aligned for its element type and exclusive; with a residual, so
    ///   many rows and columns of it are readable.
    /// - The target features of `set` are supported.
    pub(crate) unsafe fn block(
        &self,
        state: &mut TileState,
        a: *const u8,
        lda: usize,
        rows: usize,
        panels: Range<usize>,
        to: TileOut,
    ) {
        // SAFETY: same contract.
        let done = self.set.tiles_unit.map_or(0, |unit| unsafe {
            unit.block(self, state, (a, lda), rows, panels.clone(), to)
        });
        if done < rows {
            // SAFETY: same contract, of the other rows.
            unsafe {
                let a = a.wrapping_add(done * lda);
                self.vector_block(a, lda, rows - done, panels, to.at_row(done));
            }
        }
    }

    /// [`Self::block`] on vector registers.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn vector_block(
        &self,
        a: *const u8,
        lda: usize,
        rows: usize,
        panels: Range<usize>,
        to: TileOut,
    ) {
        let Self { set, layout, packed, epilogue, a_sign, depth: (start, k), .. } = *self;
        assert!(
            panels.end <= layout.panels()
                && packed.len() >= layout.bytes()
                && epilogue.n() == layout.n
        );
        #[cfg(target_arch = "x86_64")]
        if let Some(crossed) = set.crossed.filter(|crossed| rows >= crossed.min_rows) {
            // SAFETY: same contract.
            return unsafe { super::crossed::block(self, crossed, (a, lda), rows, panels, to) };
        }
        let a = a.wrapping_add(start);
        let in_place = set.in_place == Some(a_sign) && k.is_multiple_of(set.kr);
        let stage = set.stage.as_ref().filter(|_| !in_place);
        let sums = epilogue.w_zero.is_some();
        if stage.is_none() && !sums {
            let whole =
                TileRows { a, lda, k, staged: false, row_sums: std::ptr::null(), ring: None };
            // SAFETY: same contract.
            unsafe { self.tiles(&whole, rows, panels, to, &mut []) };
            return;
        }
        let padded = k.next_multiple_of(set.kr);
        let ld = stage.map_or(lda, |stage| row_distance(padded * stage.bytes));
        let wide = set.wide.as_ref().filter(|wide| rows >= 2 * wide.first_rows);
        let small = layout.bytes() <= SMALL_B_BYTES;
        let ring = small
            && stage.is_some_and(|stage| k >= stage.ring_k)
            && wide.is_none_or(|_| rows >= RING_WIDE_ROWS && k <= WIDE_K);
        let fits = match wide {
            _ if ring => RING_ROWS,
            Some(_) => WIDE_STAGE_BYTES / ld.max(1) / ROW_STEP * ROW_STEP,
            None if small => SMALL_STAGE_BYTES / ld.max(1) / ROW_STEP * ROW_STEP,
            None => STAGE_BYTES / ld.max(1) / ROW_STEP * ROW_STEP,
        };
        // Even chunks: panels are widened, or come from L2, once for each.
        let chunk = rows.div_ceil(rows.div_ceil(fits.max(ROW_STEP)).max(1));
        let chunk = chunk.next_multiple_of(ROW_STEP).min(rows);
        let staged_rows = if ring { 2 * MAX_MR } else { chunk };
        let staged_bytes = stage.map_or(0, |_| staged_rows * ld);
        let sums_bytes = if sums { (chunk * size_of::<i32>()).next_multiple_of(ALIGN) } else { 0 };
        let wide_bytes = match wide {
            Some(_) if ring => 2 * panels.len() * layout.panel_bytes(),
            Some(_) => WIDE_K * NR * 2 + chunk * NR * 4,
            None => 0,
        };
        with_scratch(staged_bytes + sums_bytes + wide_bytes, |scratch| {
            let (staged, scratch) = scratch.split_at_mut(staged_bytes);
            let (row_sums, widened) = scratch.split_at_mut(sums_bytes);
            for row in (0..rows).step_by(chunk.max(1)) {
                let count = chunk.min(rows - row);
                let from = Rows { a: a.wrapping_add(row * lda), lda, k, count, sign: a_sign };
                let raw = TileRows {
                    a: from.a,
                    lda,
                    k,
                    staged: false,
                    row_sums: row_sums.as_ptr().cast(),
                    ring: None,
                };
                let to_rows = staged.as_mut_ptr().cast::<u8>();
                let in_ring =
                    TileRows { k: padded, ring: Some(Ring { to: to_rows, ld, k }), ..raw };
                let staged = TileRows { a: to_rows, lda: ld, k: padded, staged: true, ..raw };
                let (panels, to) = (panels.clone(), to.at_row(row));
                // SAFETY: `count` rows from `row` on of what the caller granted; the scratch has room for as many, or
                // for a ring, and its parts start at multiples of 64.
                unsafe {
                    if sums {
                        (set.row_sums)(&from, row_sums.as_mut_ptr().cast());
                    }
                    match (stage, wide) {
                        (None, _) => self.tiles(&raw, count, panels, to, widened),
                        (Some(stage), Some(wide)) if ring && count > wide.first_rows => {
                            (stage.run)(&Rows { count: wide.first_rows, ..from }, to_rows, ld);
                            self.widened_ring(wide, &staged, &in_ring, count, panels, to, widened);
                        }
                        (Some(_), None) if ring => self.tiles(&in_ring, count, panels, to, &mut []),
                        (Some(stage), _) => {
                            (stage.run)(&from, to_rows, ld);
                            self.tiles(&staged, count, panels, to, widened);
                        }
                    }
                }
            }
        });
    }

    /// Whether the panels that come next are fetched into L2 while so many rows go over some.
    pub(super) fn fetches_ahead(&self, rows: usize) -> bool {
        self.layout.bytes() > FETCH_B_BYTES && rows >= FETCH_ROWS
    }

    /// `rows` rows of `spans` times `width` panels from `p` on; `to` is at panel `first`.
    fn block_of(
        &self,
        a: &TileRows,
        rows: usize,
        (first, p, width, spans): (usize, usize, usize, usize),
        to: TileOut,
    ) -> Block<'_> {
        let Self { layout, packed, epilogue, a_sign, depth: (start, _), .. } = *self;
        let (col, panel) = (p * NR, layout.panel_bytes());
        let next = (p + width) * panel..((p + width * (spans + 1)) * panel).min(layout.bytes());
        let fetch = self.fetches_ahead(rows) && !next.is_empty() && self.is_whole();
        Block {
            a: a.a,
            lda: a.lda,
            k: a.k,
            a_sign,
            staged: a.staged,
            row_sums: a.row_sums,
            b: packed[p * panel + start * NR..].as_ptr(),
            panel,
            spans,
            ahead: if fetch { &packed[next] } else { &[] },
            rows,
            col,
            cols: (layout.n - col).min(spans * width * NR),
            epilogue,
            to: to.at_column((p - first) * NR, epilogue.element_bytes()),
            partial: Partial::NONE,
            ring: a.ring,
        }
    }

    /// Computes `rows` rows of the panels `panels`, with room to widen a panel in `wide`, or none.
    ///
    /// # Safety
    /// As [`Self::block`], of rows that may be staged.
    unsafe fn tiles(
        &self,
        a: &TileRows,
        rows: usize,
        panels: Range<usize>,
        to: TileOut,
        wide: &mut [i8],
    ) {
        let Self { set, layout, .. } = *self;
        let wide_set =
            set.wide.as_ref().filter(|set| rows >= 2 * set.first_rows && !wide.is_empty());
        let mut p = panels.start;
        while p < panels.end {
            let width = set.panels_per_tile(rows, panels.end - p);
            let tiles = set.tiles[width - 1];
            let even = even(tiles, rows, width * layout.panel_bytes());
            let most = match even {
                None if a.ring.is_none() => AGAIN_BYTES / (width * layout.panel_bytes()).max(1),
                _ => usize::MAX,
            };
            let mut spans = 1;
            if wide_set.is_none() {
                let next = |spans: usize| panels.end - p - spans * width;
                while spans < most
                    && next(spans) > 0
                    && set.panels_per_tile(rows, next(spans)) == width
                {
                    spans += 1;
                }
            }
            let block = self.block_of(a, rows, (panels.start, p, width, spans), to);
            // SAFETY: columns `col..col + cols` of what the caller granted; the assertion in `block` keeps the tiles'
            // panels inside `packed`; `wide` has room for a part of a panel and the rows' sums.
            unsafe {
                match (wide_set, even) {
                    (Some(set), _) => widened(set, block, wide),
                    (None, Some(tile)) => (tile.run)(&block),
                    (None, None) => cover(tiles, block),
                }
            }
            p += spans * width;
        }
    }

    /// [`Self::tiles`] of a small B: the first rows, which are `staged`, widen all panels for the others, which go
    /// through a ring.
    ///
    /// # Safety
    /// As [`Self::tiles`], of more than [`Wide::first_rows`] rows; there is room for the panels as i16.
    #[allow(clippy::too_many_arguments, reason = "rows in two forms")]
    unsafe fn widened_ring(
        &self,
        wide: &Wide,
        staged: &TileRows,
        in_ring: &TileRows,
        rows: usize,
        panels: Range<usize>,
        to: TileOut,
        widened: &mut [i8],
    ) {
        let panel = 2 * self.layout.panel_bytes();
        for (p, widened) in panels.clone().zip(widened.chunks_exact_mut(panel)) {
            let first = self.block_of(staged, wide.first_rows, (panels.start, p, 1, 1), to);
            // SAFETY: the first rows of the caller's; i8 at multiples of 64 are aligned for i16.
            unsafe { (wide.first)(&first, widened.as_mut_ptr().cast()) };
        }
        let all = (panels.start, panels.start, 1, panels.len());
        let block = self.block_of(in_ring, rows, all, to);
        let block = Block { k: 2 * block.k, b: widened.as_ptr(), panel, ahead: &[], ..block };
        // SAFETY: the other rows.
        unsafe { cover(wide.tiles, block.skip_rows(wide.first_rows)) };
    }
}

/// The tile that covers the rows by itself, if there is a good one: then tiles of neighbouring panels follow each other.
/// Tiles of 8 rows do more of their work beside epilogues than those of 12, but read weights more often, which lie in L1
/// if those of a tile are `weights` bytes and few.
fn even(tiles: &'static [Ukernel], rows: usize, weights: usize) -> Option<&'static Ukernel> {
    let most = tiles[0].mr;
    let eight = most == 12 && (rows <= 8 * most || weights <= L1_WEIGHTS);
    tiles.iter().find(|tile| match tile.mr {
        mr if mr == rows => true,
        8 if eight => rows.is_multiple_of(8),
        mr => mr == most && !(eight && rows.is_multiple_of(8)) && rows.is_multiple_of(mr),
    })
}

/// Computes a block by the tiles of one width.
///
/// # Safety
/// As [`super::kernel::Ukernel::run`], of any number of rows.
unsafe fn cover(tiles: &[Ukernel], mut block: Block<'_>) {
    for tile in tiles {
        let rows = block.rows / tile.mr * tile.mr;
        if rows == 0 {
            continue;
        }
        // SAFETY: the next rows of the caller's block.
        unsafe { (tile.run)(&Block { rows, ..block }) };
        block = Block { ahead: &[], ..block.skip_rows(rows) };
    }
}

/// Computes a block of one panel, which is widened part by part, by the first rows for the others.
///
/// # Safety
/// As [`cover`], of staged rows, as many as [`Wide::first_rows`] or more; `scratch` starts at a multiple of 64 and has
/// room for [`WIDE_K`] rows of the panel as i16 and for 16 i32 of each row of the block.
unsafe fn widened(wide: &Wide, block: Block<'_>, scratch: &mut [i8]) {
    let parts = block.k.div_ceil(WIDE_K).max(1);
    let depth = block.k.div_ceil(parts).next_multiple_of(2);
    let (panel, sums) = scratch.split_at_mut(WIDE_K * NR * 2);
    for part in 0..parts {
        let start = (part * depth).min(block.k);
        let end = (start + depth).min(block.k);
        let weights = |from: usize, to: usize| {
            // SAFETY: the panel has a line for each of K.
            unsafe { std::slice::from_raw_parts(block.b.add(from * NR), (to - from) * NR) }
        };
        let part = Block {
            a: block.a.wrapping_add(2 * start),
            k: end - start,
            b: block.b.wrapping_add(start * NR),
            ahead: if end < block.k {
                weights(end, (end + depth).min(block.k))
            } else {
                &block.ahead[..block.ahead.len().min(depth * NR)]
            },
            partial: Partial {
                sums: sums.as_mut_ptr().cast(),
                resumed: part > 0,
                suspended: part + 1 < parts,
            },
            ..block
        };
        // SAFETY: a part of a whole panel of two bytes per column and step of K, which fits; i8 at multiples of 64 are
        // aligned for i16 and i32.
        unsafe {
            (wide.first)(&Block { rows: wide.first_rows, ..part }, panel.as_mut_ptr().cast());
            let others = Block { k: 2 * part.k, b: panel.as_ptr(), ..part };
            cover(wide.tiles, others.skip_rows(wide.first_rows));
        }
    }
}

/// Bytes from one staged row of `bytes` bytes to the next: whole cache lines, and no multiple of so many that the rows
/// of a tile meet in one set of L1.
pub(super) fn row_distance(bytes: usize) -> usize {
    let lines = bytes.div_ceil(ALIGN);
    (lines + usize::from(lines.is_multiple_of(8))) * ALIGN
}

/// What tasks are cut by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grain {
    /// Rows are cut at multiples of this.
    pub(crate) rows: usize,
    /// The most bytes of A of a task.
    pub(crate) a_bytes: usize,
    /// Multiply-adds below which another task costs more than it saves.
    pub(crate) macs: usize,
}

impl Grain {
    /// That of vector kernels.
    pub(crate) const VECTORS: Self =
        Self { rows: ROW_STEP, a_bytes: A_BLOCK_BYTES, macs: TASK_MACS };
}

/// How a GEMM is cut into tasks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// Rows of a task.
    rows: usize,
    /// Panels of a task.
    panels: usize,
    m: usize,
    all_panels: usize,
}

impl Split {
    /// Tasks of an M-row GEMM for `threads` threads: none too small, and as even as whole tiles allow.
    pub(crate) fn new(m: usize, layout: &PanelLayout, threads: usize, grain: Grain) -> Self {
        let (k, all_panels, threads) =
            (layout.k.max(1), layout.panels(), threads.clamp(1, MAX_THREADS));
        let Grain { rows: step, a_bytes, macs: task_macs } = grain;
        let in_cache = (a_bytes / k / step * step).max(step);
        let macs = m.saturating_mul(layout.n).saturating_mul(k);
        let most = if threads == 1 { 1 } else { (macs / task_macs).clamp(1, 4 * threads) };
        if most == 1 {
            // What follows would take as long as a small product.
            return Self { rows: in_cache.min(m).max(1), panels: all_panels.max(1), m, all_panels };
        }
        // Of the ways to cut rows, those that leave no thread idle in the last of so many rounds, and the whole.
        let widths = most.min(all_panels.div_ceil(PANELS)).max(1);
        let shapes = (1..=widths).flat_map(|across| {
            let rounds =
                [1, threads / across, 2 * threads / across, 3 * threads / across, most / across];
            rounds.map(|down| (down.clamp(1, most / across), across))
        });
        let (_, rows, panels) = shapes
            .map(|(down, across)| {
                let rows = m.div_ceil(down).next_multiple_of(step).min(in_cache).min(m).max(1);
                let panels =
                    all_panels.div_ceil(across).next_multiple_of(PANELS).min(all_panels).max(1);
                // How long the last thread takes: tasks are equal but for the last rows, which matters unless every
                // thread gets the same number of tasks of each rows.
                let (down, across) = (m.div_ceil(rows), all_panels.div_ceil(panels));
                let tasks = (down * across).div_ceil(threads);
                let rows_of_all = if across.is_multiple_of(threads) {
                    across / threads * m
                } else {
                    tasks * rows
                };
                let macs = rows_of_all.saturating_mul(panels * NR).saturating_mul(k);
                (macs.saturating_add(tasks * task_macs / 4), rows, panels)
            })
            .min()
            .unwrap_or((0, m.max(1), all_panels.max(1)));
        Self { rows, panels, m, all_panels }
    }

    /// Number of tasks.
    pub(crate) fn tasks(&self) -> usize {
        self.m.div_ceil(self.rows) * self.all_panels.div_ceil(self.panels)
    }

    /// Rows and panels of task `task`.
    pub(crate) fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let across = self.all_panels.div_ceil(self.panels);
        let (r, p) = (task / across * self.rows, task % across * self.panels);
        (r..(r + self.rows).min(self.m), p..(p + self.panels).min(self.all_panels))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn tasks_cover_every_row_and_panel_once() {
        for (m, n, k) in
            [(1, 1, 1), (1, 4096, 1024), (7, 40, 9), (3136, 64, 576), (100, 1000, 5000), (5, 5, 0)]
        {
            for threads in 1..5 {
                let layout = PanelLayout::new(k, n, 4).unwrap();
                let split = Split::new(m, &layout, threads, Grain::VECTORS);
                let mut seen = vec![0; m * layout.panels()];
                for task in 0..split.tasks() {
                    let (rows, panels) = split.task(task);
                    for r in rows {
                        for p in panels.clone() {
                            seen[r * layout.panels() + p] += 1;
                        }
                    }
                }
                assert!(
                    seen.iter().all(|&count| count == 1),
                    "{m}x{n}x{k} on {threads}: {split:?}"
                );
            }
        }
    }
}
