//! A block of sums that is finished while the tiles of a later one multiply.

use super::{pass::Group, tiles::TILE_ROWS};
use crate::{
    epilogue::{Epilogue, Loaded, NR, TileOut},
    gemm::kernel::{Dot, finish},
};

/// Rows of the tallest block, and sums of any.
pub(super) const BLOCK_ROWS: usize = 2 * TILE_ROWS;
pub(super) const BLOCK_SUMS: usize = 4 * TILE_ROWS * NR;

/// Vectors of sums that are finished at a time.
const PART_VECTORS: usize = 16;

/// Finishes some rows of a block: [`Pending::part`] under an ISA's target features.
///
/// # Safety
/// The ISA is supported; the block is as [`Pending`] says.
pub(crate) type FinishPart = unsafe fn(&mut Pending<'_>);

/// A block of finished sums, some of whose rows still have to go through the epilogue: up to 32 rows of 2 panels, or 16
/// of 4. The output of these rows is exclusive, and with a residual as many rows of it are readable.
pub(crate) struct Pending<'a> {
    /// Row after row.
    sums: *mut i32,
    /// What is added to every row's: for the block, and for all columns.
    start: *const i32,
    starts: *const i32,
    epilogue: &'a Epilogue,
    finish: FinishPart,
    panels: usize,
    /// The first column, and how many there are.
    columns: (usize, usize),
    /// The first row, once it is finished the next.
    to: TileOut,
    /// `Σ_k a` of each row, where weights have zero points.
    row_sums: [i32; BLOCK_ROWS],
    rows: usize,
    done: usize,
}

impl<'a> Pending<'a> {
    /// No block yet. Those to come lie at `sums`; to a row of all columns `starts` is to be added.
    pub(super) fn none(
        sums: *mut i32,
        starts: *const i32,
        epilogue: &'a Epilogue,
        finish: FinishPart,
        to: TileOut,
    ) -> Self {
        let row_sums = [0; BLOCK_ROWS];
        Self {
            sums,
            start: starts,
            starts,
            epilogue,
            finish,
            panels: 1,
            columns: (0, 0),
            to,
            row_sums,
            rows: 0,
            done: 0,
        }
    }

    /// Takes over the block of a group and `panels` panels, whose sums will be in their place, which is the answer, before
    /// it is finished: `columns` says the first column and how many there are, `shift` how many columns the first is
    /// beyond the group's.
    #[inline(always)]
    pub(super) fn begin(
        &mut self,
        group: &Group,
        panels: usize,
        columns: (usize, usize),
        shift: usize,
    ) -> *mut u8 {
        (self.panels, self.columns) = (panels, columns);
        self.start = self.starts.wrapping_add(shift);
        self.to = group.to.at_column(shift, self.epilogue.element_bytes());
        (self.rows, self.done) = (group.rows, 0);
        if self.epilogue.w_zero.is_some() {
            self.row_sums = group.row_sums;
        }
        self.sums.cast()
    }

    /// How many parts should be finished at a time, for the block to be done after `steps` times.
    #[inline(always)]
    pub(super) fn parts_per_step(&self, steps: usize) -> usize {
        let parts = ((self.rows - self.done) * self.panels).div_ceil(PART_VECTORS);
        if parts <= steps { 1 } else { parts.div_ceil(steps) }
    }

    /// Finishes so many parts, or what there is left.
    ///
    /// # Safety
    /// The ISA of `finish` is supported, and the block is in its place.
    #[inline(always)]
    pub(super) unsafe fn parts(&mut self, parts: usize) {
        for _ in 0..parts {
            if self.done < self.rows {
                // SAFETY: same contract.
                unsafe { (self.finish)(self) };
            }
        }
    }

    /// Finishes the block.
    ///
    /// # Safety
    /// As [`Self::parts`].
    #[inline(always)]
    pub(super) unsafe fn rest(&mut self) {
        while self.done < self.rows {
            // SAFETY: same contract.
            unsafe { (self.finish)(self) };
        }
    }

    /// Finishes one part: 16 vectors of sums, or a row where fewer are left.
    ///
    /// # Safety
    /// The ISA of `D` is supported.
    #[inline(always)]
    pub(super) unsafe fn part<D: Dot>(&mut self) {
        // SAFETY: same contract.
        unsafe {
            match self.panels {
                1 => self.rows_of::<D, 16, 1>(),
                2 => self.rows_of::<D, 8, 2>(),
                _ => self.rows_of::<D, 4, 4>(),
            }
        }
    }

    #[inline(always)]
    unsafe fn rows_of<D: Dot, const MR: usize, const NV: usize>(&mut self) {
        // SAFETY: so many rows are left.
        unsafe {
            if self.rows - self.done >= MR {
                self.tile::<D, MR, NV>();
            } else {
                self.tile::<D, 1, NV>();
            }
        }
    }

    /// Finishes MR rows.
    #[inline(always)]
    unsafe fn tile<D: Dot, const MR: usize, const NV: usize>(&mut self) {
        let first = self.done;
        // SAFETY: rows `first` … of the block's sums, whose output is exclusive; each column has a start.
        unsafe {
            let sums = self.sums.add(first * NV * NR);
            let mut acc = std::array::from_fn::<_, MR, _>(|r| {
                std::array::from_fn::<_, NV, _>(|v| {
                    let sums = D::start(sums.add((r * NV + v) * NR));
                    D::add(sums, D::start(self.start.add(v * NR)))
                })
            });
            let row_sum = |r: usize| self.row_sums[first + r];
            finish::<D, MR, NV>(&mut acc, self.epilogue, self.columns, self.to, row_sum, &Loaded);
        }
        self.to = self.to.at_row(MR);
        self.done += MR;
    }
}
