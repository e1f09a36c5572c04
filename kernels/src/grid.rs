//! How a matrix product of packed weights is cut into tasks: blocks of rows and of 16-column panels.

use std::ops::Range;

use crate::{epilogue::NR, par::tasks_for};

/// Rows are cut at multiples of this, which the large tiles divide.
const ROW_STEP: usize = 24;

/// Panels are cut at multiples of this, which every tile width divides.
const PANEL_STEP: usize = 8;

/// Bytes of A that a task goes over once per tile of columns: they should stay in L2 beside a panel.
const A_BLOCK_BYTES: usize = 256 * 1024;

/// Tasks that cover `m` rows × `panels` panels.
#[derive(Debug)]
pub(crate) struct Grid {
    rows: usize,
    panels: usize,
    m: usize,
    all_panels: usize,
}

impl Grid {
    /// Enough tasks to balance `threads` threads, none too small, and rows before panels, because whoever has all
    /// panels of a row reads A once. `n` is at least 1; a row of A has `k` elements of `a_bytes` bytes.
    pub(crate) fn new((m, n, k): (usize, usize, usize), a_bytes: usize, threads: usize) -> Self {
        let all_panels = n.div_ceil(NR);
        let row_bytes = k.saturating_mul(a_bytes).max(1);
        let in_cache = (A_BLOCK_BYTES / row_bytes / ROW_STEP * ROW_STEP).max(ROW_STEP);
        let macs = m.saturating_mul(n).saturating_mul(k.max(1));
        let wanted = tasks_for(threads, macs);
        let rows = m.div_ceil(wanted).next_multiple_of(ROW_STEP).min(in_cache).min(m).max(1);
        let across = (wanted / m.div_ceil(rows).max(1)).max(1);
        let panels = all_panels.div_ceil(across).next_multiple_of(PANEL_STEP).min(all_panels);
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
    use super::*;

    #[test]
    fn tasks_cover_every_row_and_panel_once() {
        for (m, n, k) in
            [(1, 1, 1), (1, 4096, 1024), (7, 40, 9), (3136, 64, 576), (100, 1000, 5000), (5, 5, 0)]
        {
            for (threads, a_bytes) in [(1, 2), (2, 4), (4, 2)] {
                let grid = Grid::new((m, n, k), a_bytes, threads);
                let mut seen = vec![0; m * n.div_ceil(NR)];
                for task in 0..grid.tasks() {
                    let (rows, panels) = grid.task(task);
                    for r in rows {
                        panels.clone().for_each(|p| seen[r * n.div_ceil(NR) + p] += 1);
                    }
                }
                assert!(seen.iter().all(|&count| count == 1), "{grid:?}");
            }
        }
    }
}
