//! Blocks of sums that are finished while the tiles of later ones multiply.

use std::marker::PhantomData;

use super::{pass::Group, tiles::TILE_ROWS};
use crate::{
    epilogue::{Epilogue, Loaded, NR, Quant, Stored, TileOut},
    gemm::kernel::{Dot, finish},
};

/// Rows of the tallest block, and sums of any.
pub(super) const BLOCK_ROWS: usize = 2 * TILE_ROWS;
pub(super) const BLOCK_SUMS: usize = 4 * TILE_ROWS * NR;

/// Vectors of sums that are finished at a time, and by the plain epilogue.
const PART_VECTORS: usize = 16;
const PLAIN_VECTORS: usize = 8;

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
    /// How many rows before the first tile's end the second's begin.
    back: usize,
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
            back: 0,
        }
    }

    /// Takes over the block of a group and `panels` panels, whose sums will be in their place, which is the answer, before
    /// it is finished: `columns` says the first column and how many there are, `shift` how many columns the first is
    /// beyond the group's.
    #[inline(always)]
    fn begin(
        &mut self,
        group: &Group,
        panels: usize,
        columns: (usize, usize),
        shift: usize,
    ) -> *mut u8 {
        (self.panels, self.columns) = (panels, columns);
        self.start = self.starts.wrapping_add(shift);
        self.to = group.to.at_column(shift, self.epilogue.element_bytes());
        (self.rows, self.done, self.back) = (group.rows, 0, group.back);
        if self.epilogue.w_zero.is_some() {
            self.row_sums = group.row_sums;
        }
        self.sums.cast()
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
            let mut acc = started::<D, MR, NV>(self.sums.add(first * NV * NR), self.start);
            let row_sum = |r: usize| self.row_sums[first + r];
            finish::<D, MR, NV>(&mut acc, self.epilogue, self.columns, self.to, row_sum, &Loaded);
        }
        self.to = self.to.at_row(MR);
        self.done += MR;
        if self.done == TILE_ROWS {
            self.to = self.to.back(self.back);
        }
    }
}

/// MR rows of NV panels: the sums, row after row, and what is added to every row's.
///
/// # Safety
/// So many sums and starts are readable; the ISA of `D` is supported.
#[inline(always)]
unsafe fn started<D: Dot, const MR: usize, const NV: usize>(
    sums: *const i32,
    start: *const i32,
) -> [[D::Acc; NV]; MR] {
    std::array::from_fn(|r| {
        // SAFETY: same contract.
        std::array::from_fn(|v| unsafe {
            D::add(D::start(sums.add((r * NV + v) * NR)), D::start(start.add(v * NR)))
        })
    })
}

/// Finishes blocks while later ones multiply. There are two: the one that is being finished, and the one whose sums are
/// still in the registers.
pub(super) trait Finisher {
    /// The block that is being finished, while another multiplies.
    type Work;

    /// How many parts of the largest blocks are to be finished after each product of a step but the last one, and after the
    /// last, for blocks to be finished after so many steps.
    fn parts_per_product(&self, steps: usize) -> (usize, usize);

    /// Begins to finish, while blocks of C panels multiply, a block that may be of a band.
    fn work<const C: usize>(&mut self, of_band: bool) -> Self::Work;

    /// Finishes so many parts, or what there is left.
    ///
    /// # Safety
    /// The ISA that this was made for is supported; the sums of the block are in their place, and its output is exclusive.
    unsafe fn parts<const C: usize>(work: &mut Self::Work, parts: usize);

    /// Finishes what is left.
    ///
    /// # Safety
    /// As [`Self::parts`].
    unsafe fn rest(&mut self, work: Self::Work);

    /// Takes over the block that was multiplied while another was finished: its place is that one's, and the answer. The
    /// other is to be finished next. `columns` says the first column and how many there are of C panels, `shift` how many
    /// columns the first is beyond the group's.
    fn begin<const C: usize>(
        &mut self,
        group: &Group,
        columns: (usize, usize),
        shift: usize,
    ) -> *mut u8;

    /// The same of a block whose sums go elsewhere.
    fn skip(&mut self);
}

/// Any epilogue, by a function that takes [`PART_VECTORS`] at a time.
pub(super) struct AnyEpilogue<'a> {
    blocks: &'a mut [Pending<'a>; 2],
    turn: usize,
}

impl<'a> AnyEpilogue<'a> {
    pub(super) fn new(blocks: &'a mut [Pending<'a>; 2]) -> Self {
        Self { blocks, turn: 0 }
    }
}

impl<'a> Finisher for AnyEpilogue<'a> {
    type Work = *mut Pending<'a>;

    #[inline(always)]
    fn parts_per_product(&self, steps: usize) -> (usize, usize) {
        const PARTS: usize = BLOCK_SUMS / NR / PART_VECTORS;
        (0, PARTS.div_ceil(steps))
    }

    #[inline(always)]
    fn work<const C: usize>(&mut self, _of_band: bool) -> *mut Pending<'a> {
        &mut self.blocks[self.turn]
    }

    #[inline(always)]
    unsafe fn parts<const C: usize>(work: &mut *mut Pending<'a>, parts: usize) {
        // SAFETY: the block of `Self::work`, that nothing else refers to until `Self::rest`.
        let block = unsafe { &mut **work };
        for _ in 0..parts {
            if block.done < block.rows {
                // SAFETY: same contract.
                unsafe { (block.finish)(block) };
            }
        }
    }

    #[inline(always)]
    unsafe fn rest(&mut self, _work: *mut Pending<'a>) {
        let block = &mut self.blocks[self.turn];
        while block.done < block.rows {
            // SAFETY: same contract.
            unsafe { (block.finish)(block) };
        }
    }

    #[inline(always)]
    fn begin<const C: usize>(
        &mut self,
        group: &Group,
        columns: (usize, usize),
        shift: usize,
    ) -> *mut u8 {
        let place = self.blocks[self.turn].begin(group, C, columns, shift);
        self.turn ^= 1;
        place
    }

    #[inline(always)]
    fn skip(&mut self) {
        self.turn ^= 1;
    }
}

/// [`Epilogue::plain_half_even`] without zero points of weights, in as few instructions as it takes: by pieces of
/// [`PLAIN_VECTORS`], small enough to fit between two products.
pub(super) struct PlainEpilogue<D> {
    stored: Stored,
    multiplier: *const f32,
    starts: *const i32,
    /// From one row of the output to the next.
    ldc: usize,
    /// The block that is being finished, and the other.
    now: PlainBlock,
    other: PlainBlock,
    dot: PhantomData<D>,
}

/// A block whose sums lie row after row.
#[derive(Clone, Copy)]
struct PlainBlock {
    sums: *mut i32,
    out: *mut u8,
    /// The first column, and how many columns it is beyond the first of all.
    col: usize,
    shift: usize,
    panels: u32,
    columns: u32,
    rows: u32,
    /// How many rows before the first tile's end the second's begin.
    back: u32,
}

/// The rows of a block that are left, the next ones first.
pub(super) struct PlainWork<D> {
    stored: Stored,
    sums: *const i32,
    start: *const i32,
    multiplier: *const f32,
    out: *mut u8,
    ldc: usize,
    /// Whether it may be of a band: rows of the first tile that are left, and bytes of the output before its end at which
    /// the second begins.
    of_band: bool,
    until_back: usize,
    back: usize,
    /// Pieces of C whole panels, and rows that are left after these.
    pieces: usize,
    rows: usize,
    dot: PhantomData<D>,
}

impl<D: Dot> PlainEpilogue<D> {
    pub(super) fn new(
        places: [*mut i32; 2],
        starts: *const i32,
        (quant, multiplier): (&Quant, &[f32]),
        to: TileOut,
    ) -> Self {
        let block = |sums| PlainBlock {
            sums,
            panels: 1,
            col: 0,
            shift: 0,
            columns: 0,
            out: to.out,
            rows: 0,
            back: 0,
        };
        Self {
            stored: quant.stored(),
            multiplier: multiplier.as_ptr(),
            starts,
            ldc: to.ldc,
            now: block(places[0]),
            other: block(places[1]),
            dot: PhantomData,
        }
    }
}

impl<D: Dot> PlainWork<D> {
    /// Finishes MR rows of NV panels, of which `columns` columns exist.
    ///
    /// # Safety
    /// So many rows are left of what [`Finisher::parts`] wants.
    #[inline(always)]
    unsafe fn rows<const MR: usize, const NV: usize>(&mut self, columns: usize) {
        let Self { stored, sums, start, multiplier, out, ldc, .. } = *self;
        // SAFETY: the block's sums, whose output is exclusive; each column has a start and a multiplier.
        unsafe {
            let mut acc = started::<D, MR, NV>(sums, start);
            let done = D::requantize(&mut acc, stored, multiplier, columns, out, ldc, &Loaded);
            debug_assert!(done, "as `Dot::REQUANTIZES` says");
        }
        self.sums = sums.wrapping_add(MR * NV * NR);
        self.out = out.wrapping_add(MR * ldc);
        if self.of_band {
            self.until_back = self.until_back.wrapping_sub(MR);
            let back = if self.until_back == 0 { self.back } else { 0 };
            self.out = self.out.wrapping_sub(back);
        }
    }

    /// Finishes what is left of a block of NV panels, row by row.
    ///
    /// # Safety
    /// As [`Finisher::rest`].
    #[inline(always)]
    unsafe fn row_by_row<const NV: usize>(&mut self, columns: usize) {
        for _ in 0..self.pieces * (PLAIN_VECTORS / NV) + self.rows {
            // SAFETY: same contract.
            unsafe { self.rows::<1, NV>(columns) };
        }
    }
}

impl<D: Dot> Finisher for PlainEpilogue<D> {
    type Work = PlainWork<D>;

    #[inline(always)]
    fn parts_per_product(&self, steps: usize) -> (usize, usize) {
        const PARTS: usize = BLOCK_SUMS / NR / PLAIN_VECTORS;
        // In few steps after each product, in more steps after the last.
        match PARTS.div_ceil(steps) {
            parts @ 0..=2 => (0, parts),
            parts => (parts.div_ceil(4), parts.div_ceil(4)),
        }
    }

    #[inline(always)]
    fn work<const C: usize>(&mut self, of_band: bool) -> PlainWork<D> {
        let PlainBlock { sums, panels, col, shift, columns, out, rows, back } = self.now;
        let (panels, columns, rows) = (panels as usize, columns as usize, rows as usize);
        let whole = (C == 2 || C == 4) && panels == C && columns == C * NR;
        let pieces = if whole { rows / (PLAIN_VECTORS / C) } else { 0 };
        PlainWork {
            stored: self.stored,
            sums,
            start: self.starts.wrapping_add(shift),
            multiplier: self.multiplier.wrapping_add(col),
            out,
            ldc: self.ldc,
            of_band,
            until_back: TILE_ROWS,
            back: back as usize * self.ldc,
            pieces,
            rows: if whole { rows % (PLAIN_VECTORS / C) } else { rows },
            dot: PhantomData,
        }
    }

    #[inline(always)]
    unsafe fn parts<const C: usize>(work: &mut PlainWork<D>, parts: usize) {
        for _ in 0..parts {
            if work.pieces > 0 {
                work.pieces -= 1;
                // SAFETY: same contract; a piece has so many rows, of whole panels.
                unsafe {
                    match C {
                        2 => work.rows::<{ PLAIN_VECTORS / 2 }, 2>(C * NR),
                        _ => work.rows::<{ PLAIN_VECTORS / 4 }, 4>(C * NR),
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn rest(&mut self, mut work: PlainWork<D>) {
        if work.pieces + work.rows > 0 {
            let PlainBlock { panels, columns, .. } = self.now;
            // SAFETY: same contract.
            unsafe {
                match panels {
                    1 => work.row_by_row::<1>(columns as usize),
                    2 => work.row_by_row::<2>(columns as usize),
                    _ => work.row_by_row::<4>(columns as usize),
                }
            }
        }
    }

    #[inline(always)]
    fn begin<const C: usize>(
        &mut self,
        group: &Group,
        (col, columns): (usize, usize),
        shift: usize,
    ) -> *mut u8 {
        let (sums, out) = (self.now.sums, group.to.at_column(shift, 1).out);
        let [panels, columns, rows, back] = [C, columns, group.rows, group.back].map(|n| n as u32);
        let block = PlainBlock { sums, out, col, shift, panels, columns, rows, back };
        self.now = std::mem::replace(&mut self.other, block);
        sums.cast()
    }

    #[inline(always)]
    fn skip(&mut self) {
        self.now.rows = 0;
        std::mem::swap(&mut self.now, &mut self.other);
    }
}
