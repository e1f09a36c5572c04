//! From micro-kernels to matrices: which tiles cover a block, and which blocks are tasks.

use std::ops::Range;

use super::{
    kernel::{Block, KernelSet},
    pack::PanelLayout,
};
use crate::{
    epilogue::{Epilogue, NR, Sign, TileOut},
    par::TASK_MACS,
};

/// Rows are cut at multiples of this, which every MR but the smallest tails divides.
const ROW_STEP: usize = 24;

/// Bytes of A that a task goes over once per panel: they should stay in L2 beside a panel.
const A_BLOCK_BYTES: usize = 256 * 1024;

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
}

impl Core<'_> {
    /// Computes `rows` rows of the panels `panels`. `to` points at row 0 of the first of these panels.
    ///
    /// # Safety
    /// - `a` has `rows` rows of `layout.k` readable bytes, `lda` apart.
    /// - The output of these rows and columns is aligned for its element type and exclusive; with a residual, so
    ///   many rows and columns of it are readable.
    /// - The target features of `set` are supported.
    pub(crate) unsafe fn block(
        &self,
        a: *const u8,
        lda: usize,
        rows: usize,
        panels: Range<usize>,
        to: TileOut,
    ) {
        let Self { set, layout, packed, epilogue, a_sign } = *self;
        assert!(
            panels.end <= layout.panels()
                && packed.len() >= layout.bytes()
                && epilogue.n() == layout.n
        );
        let panel = layout.panel_bytes();
        let mut p = panels.start;
        while p < panels.end {
            let width = set.panels_per_tile(rows, panels.end - p);
            let col = p * NR;
            let cols = (layout.n - col).min(width * NR);
            let shift = col - panels.start * NR;
            let mut row = 0;
            for tile in set.tiles[width - 1] {
                let count = (rows - row) / tile.mr * tile.mr;
                if count == 0 {
                    continue;
                }
                let bytes = shift * epilogue.element_bytes();
                let block = Block {
                    a: a.wrapping_add(row * lda),
                    lda,
                    k: layout.k,
                    a_sign,
                    b: packed[p * panel..].as_ptr(),
                    panel,
                    rows: count,
                    col,
                    cols,
                    epilogue,
                    to: TileOut {
                        out: to.out.wrapping_add(row * to.ldc + bytes),
                        residual: to.residual.wrapping_add(row * to.ldr + shift),
                        ..to
                    },
                };
                // SAFETY: rows `row..row + count` and columns `col..col + cols` of what the caller granted; the
                // assertion above keeps the tile's panels inside `packed`.
                unsafe { (tile.run)(&block) };
                row += count;
            }
            p += width;
        }
    }
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
    /// Tasks of an M-row GEMM for `threads` threads: enough of them to balance, none too small, rows before panels,
    /// because whoever has all panels of a row reads A once.
    pub(crate) fn new(m: usize, layout: &PanelLayout, threads: usize) -> Self {
        let all_panels = layout.panels();
        let in_cache = (A_BLOCK_BYTES / layout.k.max(1) / ROW_STEP * ROW_STEP).max(ROW_STEP);
        let macs = m.saturating_mul(layout.n).saturating_mul(layout.k.max(1));
        let wanted = if threads == 1 { 1 } else { (macs / TASK_MACS).clamp(1, 4 * threads) };
        let rows = m.div_ceil(wanted).next_multiple_of(ROW_STEP).min(in_cache).min(m).max(1);
        let row_tasks = m.div_ceil(rows).max(1);
        let panel_tasks = (wanted / row_tasks).max(1);
        let panels = all_panels.div_ceil(panel_tasks).next_multiple_of(4).min(all_panels).max(1);
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
                let split = Split::new(m, &layout, threads);
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
