//! From micro-kernels to matrices: which tiles cover a block, and which blocks are tasks.

use std::ops::Range;

use super::{
    amx::TileState,
    kernel::{Block, KernelSet, NextRows, Partial, Rows, Ukernel, Wide},
    pack::{ALIGN, PanelLayout},
    scratch::with_scratch,
};
use crate::{
    epilogue::{Epilogue, NR, Sign, TileOut},
    par::TASK_MACS,
};

/// Rows are cut at multiples of this, which every MR but the smallest tails divides.
const ROW_STEP: usize = 12;

/// Bytes of A that a task goes over once per panel: they should stay in L2 beside a panel.
const A_BLOCK_BYTES: usize = 512 * 1024;

/// Bytes of staged rows of A: they stay in L2 beside a panel while all panels go over them.
const STAGE_BYTES: usize = 384 * 1024;

/// The same where panels are widened, which is to be done for many rows.
const WIDE_STAGE_BYTES: usize = 768 * 1024;

/// Rows that are staged at a time where B is [`SMALL_B_BYTES`] or less, so that going over it more often costs nothing:
/// staging is a large part of the work then, and all but the first rows are staged between products of those before.
const SMALL_B_ROWS: usize = 4 * ROW_STEP;
const SMALL_B_BYTES: usize = 128 * 1024;

/// The most of K that is widened at a time: a panel of it stays in L1 beside a tile's rows.
const WIDE_K: usize = 1024;

/// Rows from which on it pays to widen a panel for them.
const WIDE_ROWS: usize = 24;

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
}

/// Rows of A as tiles read them, and their sums.
struct TileRows {
    a: *const u8,
    lda: usize,
    k: usize,
    staged: bool,
    row_sums: *const i32,
    /// Rows to stage meanwhile.
    next: Option<NextRows>,
}

impl Core<'_> {
    /// Computes `rows` rows of the panels `panels`. `to` points at row 0 of the first of these panels; `state` is that
    /// of this worker.
    ///
    /// # Safety
    /// - `a` has `rows` rows of `layout.k` readable bytes, `lda` apart.
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
    unsafe fn vector_block(
        &self,
        a: *const u8,
        lda: usize,
        rows: usize,
        panels: Range<usize>,
        to: TileOut,
    ) {
        let Self { set, layout, packed, epilogue, a_sign, .. } = *self;
        assert!(
            panels.end <= layout.panels()
                && packed.len() >= layout.bytes()
                && epilogue.n() == layout.n
        );
        let k = layout.k;
        let in_place = set.in_place == Some(a_sign) && k.is_multiple_of(set.kr);
        let stage = set.stage.as_ref().filter(|_| !in_place);
        let sums = epilogue.w_zero.is_some();
        if stage.is_none() && !sums {
            let whole =
                TileRows { a, lda, k, staged: false, row_sums: std::ptr::null(), next: None };
            // SAFETY: same contract.
            unsafe { self.tiles(&whole, rows, panels, to, &mut []) };
            return;
        }
        let padded = k.next_multiple_of(set.kr);
        let ld = stage.map_or(lda, |stage| row_distance(padded * stage.bytes));
        let small = layout.bytes() <= SMALL_B_BYTES && set.wide.is_none();
        let budget = if set.wide.is_some() { WIDE_STAGE_BYTES } else { STAGE_BYTES };
        let most = if small && stage.is_some() { SMALL_B_ROWS } else { usize::MAX };
        let fits = budget / ld.max(1) / ROW_STEP * ROW_STEP;
        let chunk = fits.max(ROW_STEP).min(most).min(rows);
        let ahead = small && chunk < rows && stage.is_some_and(|stage| stage.ahead);
        let staged_bytes = stage.map_or(0, |_| chunk * ld * if ahead { 2 } else { 1 });
        let sums_bytes = if sums { (chunk * size_of::<i32>()).next_multiple_of(ALIGN) } else { 0 };
        let wide_bytes = match set.wide {
            Some(_) if rows >= WIDE_ROWS => WIDE_K * NR * 2 + chunk * NR * 4,
            _ => 0,
        };
        with_scratch(staged_bytes + sums_bytes + wide_bytes, |scratch| {
            let (staged, scratch) = scratch.split_at_mut(staged_bytes);
            let (row_sums, wide) = scratch.split_at_mut(sums_bytes);
            for row in (0..rows).step_by(chunk.max(1)) {
                let count = chunk.min(rows - row);
                let from = Rows { a: a.wrapping_add(row * lda), lda, k, count, sign: a_sign };
                let mut tiles = TileRows {
                    a: from.a,
                    lda,
                    k,
                    staged: false,
                    row_sums: row_sums.as_ptr().cast(),
                    next: None,
                };
                // SAFETY: `count` rows from `row` on of what the caller granted; the scratch has room for as many, and
                // its parts start at multiples of 64.
                unsafe {
                    if sums {
                        (set.row_sums)(&from, row_sums.as_mut_ptr().cast());
                    }
                    if let Some(stage) = stage {
                        let half = |i: usize| {
                            staged.as_ptr().wrapping_add(i % 2 * chunk * ld).cast_mut().cast::<u8>()
                        };
                        let this = if ahead { half(row / chunk) } else { half(0) };
                        if row == 0 || !ahead {
                            (stage.run)(&from, this, ld);
                        }
                        let left = rows - row - count;
                        if ahead && left > 0 {
                            let rows = Rows {
                                a: from.a.wrapping_add(count * lda),
                                count: left.min(chunk),
                                ..from
                            };
                            tiles.next = Some(NextRows { rows, to: half(row / chunk + 1), ld });
                        }
                        tiles.a = this;
                        (tiles.lda, tiles.k, tiles.staged) = (ld, padded, true);
                    }
                    self.tiles(&tiles, count, panels.clone(), to.at_row(row), wide);
                }
            }
        });
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
        let Self { set, layout, packed, epilogue, a_sign, .. } = *self;
        let wide_set = set.wide.as_ref().filter(|_| rows >= WIDE_ROWS && !wide.is_empty());
        let mut p = panels.start;
        while p < panels.end {
            let width = set.panels_per_tile(rows, panels.end - p);
            let col = p * NR;
            let shift = col - panels.start * NR;
            let bytes = shift * epilogue.element_bytes();
            let block = Block {
                a: a.a,
                lda: a.lda,
                k: a.k,
                a_sign,
                staged: a.staged,
                row_sums: a.row_sums,
                b: packed[p * layout.panel_bytes()..].as_ptr(),
                panel: layout.panel_bytes(),
                rows,
                col,
                cols: (layout.n - col).min(width * NR),
                epilogue,
                to: TileOut {
                    out: to.out.wrapping_add(bytes),
                    residual: to.residual.wrapping_add(shift),
                    ..to
                },
                partial: Partial::NONE,
                next: a.next.filter(|_| p + width == panels.end),
            };
            // SAFETY: columns `col..col + cols` of what the caller granted; the assertion in `block` keeps the tiles'
            // panels inside `packed`; `wide` has room for a part of a panel and the rows' sums.
            unsafe {
                match wide_set {
                    Some(set) => widened(set, block, wide),
                    None => cover(set.tiles[width - 1], block),
                }
            }
            p += width;
        }
    }
}

/// Computes a block by the tiles of one width.
///
/// # Safety
/// As [`super::kernel::Ukernel::run`], of any number of rows.
unsafe fn cover(tiles: &[Ukernel], mut block: Block<'_>) {
    let mut left = block.rows;
    for tile in tiles {
        block.rows = left / tile.mr * tile.mr;
        if block.rows == 0 {
            continue;
        }
        // SAFETY: the next `block.rows` rows of the caller's block.
        unsafe { (tile.run)(&block) };
        left -= block.rows;
        block.a = block.a.wrapping_add(block.rows * block.lda);
        block.row_sums = block.row_sums.wrapping_add(block.rows);
        block.next = block.next.map(|next| next.skip(block.rows));
        block.partial.sums = block.partial.sums.wrapping_add(block.rows * NR);
        block.to = block.to.at_row(block.rows);
    }
}

/// Computes a block of one panel, which is widened part by part.
///
/// # Safety
/// As [`cover`], of staged rows; `scratch` starts at a multiple of 64 and has room for [`WIDE_K`] rows of the panel as
/// i16 and for 16 i32 of each row of the block.
unsafe fn widened(wide: &Wide, block: Block<'_>, scratch: &mut [i8]) {
    let parts = block.k.div_ceil(WIDE_K).max(1);
    let depth = block.k.div_ceil(parts).next_multiple_of(2);
    let (panel, sums) = scratch.split_at_mut(WIDE_K * NR * 2);
    for part in 0..parts {
        let start = (part * depth).min(block.k);
        let k = depth.min(block.k - start);
        // SAFETY: a part of a whole panel of two bytes per column and step of K, which fits; i8 at multiples of 64 are
        // aligned for i16 and i32.
        unsafe {
            (wide.widen)(block.b.add(start * NR), k * NR, panel.as_mut_ptr().cast());
            let part = Block {
                a: block.a.add(2 * start),
                k: 2 * k,
                b: panel.as_ptr(),
                partial: Partial {
                    sums: sums.as_mut_ptr().cast(),
                    resumed: part > 0,
                    suspended: part + 1 < parts,
                },
                ..block
            };
            cover(wide.tiles, part);
        }
    }
}

/// Bytes from one staged row of `bytes` bytes to the next: whole cache lines, and no multiple of so many that the rows
/// of a tile meet in one set of L1.
fn row_distance(bytes: usize) -> usize {
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
        let (k, all_panels) = (layout.k.max(1), layout.panels());
        let Grain { rows: step, a_bytes, macs: task_macs } = grain;
        let in_cache = (a_bytes / k / step * step).max(step);
        let macs = m.saturating_mul(layout.n).saturating_mul(k);
        let most = if threads == 1 { 1 } else { (macs / task_macs).clamp(1, 4 * threads) };
        let shapes =
            (1..=most).flat_map(|across| (1..=most / across).map(move |down| (down, across)));
        let (_, rows, panels) = shapes
            .map(|(down, across)| {
                let rows = m.div_ceil(down).next_multiple_of(step).min(in_cache).min(m).max(1);
                let panels = all_panels.div_ceil(across).next_multiple_of(4).min(all_panels).max(1);
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
