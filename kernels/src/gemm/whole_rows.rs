//! Tiles over rows of A that are staged, or read in place, to their end.
//!
//! The epilogue of a tile and the products of the next one, below it or in the next panels, overlap: as soon as some rows
//! are written, their registers take the first groups of K of the rows that follow. The vector units that multiply would
//! otherwise be idle while others convert and pack.

#[cfg(target_arch = "x86_64")]
use std::mem::MaybeUninit;

#[cfg(target_arch = "x86_64")]
use super::kernel::group;
use super::{
    dot::Dot,
    kernel::{Block, Ring, Strided, finish, for_each_row, start},
};
#[cfg(target_arch = "x86_64")]
use crate::cpu::reads_l2_by_one_stream;
use crate::{
    epilogue::{Keep, NR, Refill, Sign},
    unroll::unrolled,
};

/// Groups of K that a tile is ahead when its loop begins.
const AHEAD: usize = 4;

/// The rows and panels of a tile at its first group of K, and the biases of its columns.
struct Next<D: Dot> {
    a: Strided<D::A>,
    b: Strided<i8>,
    bias: *const i32,
}

impl<D: Dot> Refill<D::Acc> for Next<D> {
    #[inline(always)]
    unsafe fn rows<const MR: usize, const NV: usize>(
        &self,
        acc: &mut [[D::Acc; NV]; MR],
        first: usize,
        count: usize,
    ) {
        // SAFETY: the rows, panels and biases of a tile, with AHEAD groups of K; the caller grants the features.
        unsafe {
            for v in 0..NV {
                let start = D::start(self.bias.add(v * NR));
                for row in &mut acc[first..first + count] {
                    row[v] = start;
                }
            }
            unrolled!(g in [0 1 2 3] {
                let (a, b) = (self.a.skip(g * D::KR), self.b.skip(g * NR * D::KR));
                let mut weights = [D::load_b(b.first); NV];
                for (v, weights) in weights.iter_mut().enumerate().skip(1) {
                    *weights = D::load_b(b.at(v, 0));
                }
                for (r, row) in acc.iter_mut().enumerate().skip(first).take(count) {
                    let a = D::splat(a.at(r, 0));
                    for (acc, b) in row.iter_mut().zip(weights) {
                        *acc = D::dot(*acc, a, b);
                    }
                }
            });
            for row in &mut acc[first..first + count] {
                for acc in row {
                    *acc = D::pin(*acc);
                }
            }
        }
    }
}

/// Weights that stay in L2 from one run to the next.
#[cfg(target_arch = "x86_64")]
const L2_BYTES: usize = 1024 * 1024;

/// Of a staged row as much is staged at a time, between products.
const PIECE: usize = 64;

impl Ring {
    /// The rows of tile `tile`, of `rows` rows.
    fn rows(self, tile: usize, rows: usize) -> *mut u8 {
        self.to.wrapping_add(tile % 2 * rows * self.ld)
    }

    /// Stages a piece of so many raw rows, from `from` on in staged rows.
    ///
    /// # Safety
    /// The target features of `D` are supported; the rows are readable and have room.
    #[inline(always)]
    unsafe fn stage<D: Dot>(
        self,
        (a, lda, sign): (*const u8, usize, Sign),
        rows: usize,
        from: usize,
        to: *mut u8,
    ) {
        let (piece, first) = (PIECE / D::A_PER_VALUE, from / D::A_PER_VALUE);
        let len = self.k.saturating_sub(first).min(piece);
        for r in 0..rows {
            let to = to.wrapping_add(r * self.ld).cast::<D::A>().wrapping_add(from);
            // SAFETY: a piece of row `r`, and its place.
            unsafe {
                let a = a.add(r * lda + first);
                if len == piece {
                    D::stage(a, piece, sign, to);
                } else if len > 0 {
                    D::stage(a, len, sign, to);
                }
            }
        }
    }
}

/// Fetches what is read of `ahead` in tile `tile` of so many into L2.
#[inline(always)]
pub(super) fn fetch(ahead: &[i8], tile: usize, tiles: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        let part = ahead.len().div_ceil(tiles).next_multiple_of(64);
        let from = tile * part;
        let len = ahead.len().saturating_sub(from).min(part);
        prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(ahead.as_ptr().wrapping_add(from), len);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (ahead, tile, tiles);
}

/// Fetches the lines of `len` bytes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch<const HINT: i32>(from: *const i8, len: usize) {
    for at in (0..len).step_by(64) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { std::arch::x86_64::_mm_prefetch::<HINT>(from.wrapping_add(at)) };
    }
}

/// Computes a block, MR rows at a time.
///
/// # Safety
/// As [`super::kernel::Ukernel::run`], of a block whose rows are staged, have a ring, or can be read in place to the end.
#[inline(always)]
pub(crate) unsafe fn run_whole<D: Dot, const MR: usize, const NV: usize>(block: &Block<'_>) {
    let Block { lda, k, a_sign, b, panel, spans, rows, cols, epilogue, partial, ring, .. } = *block;
    let groups = k / D::KR;
    let raw = |row: usize| (block.a.wrapping_add(row * lda), lda, a_sign);
    let a = |row: usize| {
        let (first, ld) = match ring {
            None => (block.a.wrapping_add(row * lda), lda),
            Some(ring) => (ring.rows(row / MR, MR).cast_const(), ring.ld),
        };
        Strided { first: first.cast::<D::A>(), stride: ld / size_of::<D::A>() }
    };
    let b = |span: usize| Strided { first: b.wrapping_add(span * NV * panel), stride: panel };
    let column = |span: usize| block.col + span * NV * NR;
    let tiles = spans * (rows / MR);
    let (mut span, mut row) = (0, 0);
    // SAFETY: tiles' rows and columns lie in the block, whose pointers are valid (contract of `Ukernel::run`);
    // the features are the entry point's.
    unsafe {
        if let Some(ring) = ring {
            for from in (0..k).step_by(PIECE) {
                ring.stage::<D>(raw(0), MR, from, ring.rows(0, MR));
            }
        }
        let (mut acc, mut done) = (start::<D, MR, NV>(epilogue, column(0)), 0);
        for tile in 0..tiles {
            let sums = partial.sums.wrapping_add(row * NR);
            if D::PARTIAL && partial.resumed {
                for_each_row!(r < MR { acc[r][0] = D::start(sums.add(r * NR)); });
            }
            match ring.filter(|_| span == 0 && row + MR < rows) {
                None => {
                    fetch(block.ahead, tile, tiles);
                    let (a, b) = (a(row).skip(done * D::KR), b(span).skip(done * NR * D::KR));
                    D::accumulate(&mut acc, a, b, groups - done);
                }
                Some(ring) => {
                    for from in (0..k).step_by(PIECE) {
                        ring.stage::<D>(raw(row + MR), MR, from, ring.rows(row / MR + 1, MR));
                        let end = groups.min((from + PIECE) / D::KR);
                        let start = done.max(from / D::KR).min(end);
                        let (a, b) = (a(row).skip(start * D::KR), b(span).skip(start * NR * D::KR));
                        D::accumulate(&mut acc, a, b, end - start);
                    }
                }
            }
            let row_sums = block.row_sums.wrapping_add(row);
            let row_sum = |r: usize| *row_sums.add(r);
            let to = block.to.at_row(row).at_column(span * NV * NR, epilogue.element_bytes());
            let columns = (column(span), (cols - span * NV * NR).min(NV * NR));
            (span, row) = if ring.is_some() {
                if span + 1 < spans { (span + 1, row) } else { (0, row + MR) }
            } else if row + MR < rows {
                (span, row + MR)
            } else {
                (span + 1, 0)
            };
            let more = tile + 1 < tiles;
            if D::PARTIAL && partial.suspended {
                for_each_row!(r < MR { D::store(acc[r][0], sums.add(r * NR)); });
            } else if more
                && groups >= AHEAD
                && columns.1 == NV * NR
                && !(D::PARTIAL && partial.resumed)
            {
                let bias = epilogue.bias.as_ptr().add(column(span));
                let next = Next::<D> { a: a(row), b: b(span), bias };
                if finish::<D, MR, NV>(&mut acc, epilogue, columns, to, row_sum, &next) {
                    done = AHEAD;
                    continue;
                }
            } else {
                finish::<D, MR, NV>(&mut acc, epilogue, columns, to, row_sum, &Keep);
            }
            if more {
                (acc, done) = (start::<D, MR, NV>(epilogue, column(span)), 0);
            }
        }
    }
}

/// Computes the first MR rows of a block of one panel with weights that it widens, and leaves at `to` for the others.
///
/// # Safety
/// As [`run_whole`], of MR rows; `to` has room for all weights of the panel.
#[inline(always)]
pub(crate) unsafe fn run_widening<D: Dot, const MR: usize>(block: &Block<'_>, to: *mut i16) {
    let Block { lda, k, b, col, cols, epilogue, partial, .. } = *block;
    let a = Strided { first: block.a.cast::<D::A>(), stride: lda / size_of::<D::A>() };
    // SAFETY: as in `run_whole`; a `B` is 16·KR values of i16.
    unsafe {
        let mut acc = start::<D, MR, 1>(epilogue, col);
        if partial.resumed {
            for_each_row!(r < MR { acc[r][0] = D::start(partial.sums.add(r * NR)); });
        }
        for g in 0..k / D::KR {
            let weights = D::load_b(b.add(g * NR * D::KR));
            to.cast::<D::B>().add(g).write_unaligned(weights);
            for_each_row!(r < MR {
                acc[r][0] = D::dot(acc[r][0], D::splat(a.at(r, g * D::KR)), weights);
            });
        }
        if partial.suspended {
            for_each_row!(r < MR { D::store(acc[r][0], partial.sums.add(r * NR)); });
        } else {
            let row_sum = |r: usize| *block.row_sums.add(r);
            finish::<D, MR, 1>(&mut acc, epilogue, (col, cols), block.to, row_sum, &Keep);
        }
    }
}

/// Computes a block of few rows, for which weights are read but once: MR rows at a time, with U sets of accumulators
/// over alternating groups of K, so that dot products need not wait for each other. A single row reads panel after
/// panel where cores like that.
///
/// # Safety
/// As [`run_whole`].
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn run_thin<D: Dot, const MR: usize, const NV: usize, const U: usize>(
    block: &Block<'_>,
) {
    let Block { lda, k, panel, rows, epilogue, .. } = *block;
    for row in (0..rows / MR * MR).step_by(MR) {
        // SAFETY: as in `run_whole`.
        unsafe {
            let (mut first, mut ld) = (block.a.add(row * lda), lda);
            if let Some(ring) = block.ring {
                for from in (0..k).step_by(PIECE) {
                    ring.stage::<D>((first, lda, block.a_sign), MR, from, ring.to);
                }
                (first, ld) = (ring.to.cast_const(), ring.ld);
            }
            let first = first.cast::<D::A>();
            let a = Strided { first, stride: ld / size_of::<D::A>() };
            if MR == 1 && block.spans * NV * panel <= L2_BYTES && reads_l2_by_one_stream() {
                run_row::<D, NV, U>(block, a, row);
                continue;
            }
            for span in 0..block.spans {
                let b = Strided { first: block.b.add(span * NV * panel), stride: panel };
                let bias = start::<D, MR, NV>(epilogue, block.col + span * NV * NR);
                let mut sums = if MR == 1 {
                    thin_sums::<D, MR, NV, 2>(bias, a, b, k / D::KR)
                } else {
                    thin_sums::<D, MR, NV, U>(bias, a, b, k / D::KR)
                };
                finish_thin::<D, MR, NV>(block, &mut sums, row, span);
            }
        }
    }
}

/// Panels of which a single row has its sums before they are finished.
#[cfg(target_arch = "x86_64")]
const ROW_PANELS: usize = 64;

/// One row of a block, by one stream of weights, for cores that read L2 so faster; L3 is read faster by several.
/// Epilogues follow each other, so that one need not wait for the other, and so do the loops over panels, which are one
/// loop in the code: what fetches by itself knows streams by the instructions that read them.
///
/// # Safety
/// As [`run_whole`]; `a` is row `row`.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
unsafe fn run_row<D: Dot, const NV: usize, const U: usize>(
    block: &Block<'_>,
    a: Strided<D::A>,
    row: usize,
) {
    let Block { k, panel, spans, epilogue, .. } = *block;
    let mut memory = MaybeUninit::<[i32; ROW_PANELS * NR]>::uninit();
    let sums = memory.as_mut_ptr().cast::<i32>();
    let together = ROW_PANELS / NV;
    for first in (0..spans).step_by(together) {
        let count = together.min(spans - first);
        // SAFETY: as in `run_whole`; `count · NV` panels fit the sums, of which as many are read as were written.
        unsafe {
            for p in 0..count * NV {
                let at = first * NV + p;
                let b = Strided { first: block.b.add(at * panel), stride: 0 };
                let bias = start::<D, 1, 1>(epilogue, block.col + at * NR);
                let [[of_panel]] = thin_sums::<D, 1, 1, U>(bias, a, b, k / D::KR);
                D::store(of_panel, sums.add(p * NR));
            }
            for span in 0..count {
                let sums = sums.add(span * NV * NR);
                let mut sums = [std::array::from_fn(|v| D::start(sums.add(v * NR)))];
                finish_thin::<D, 1, NV>(block, &mut sums, row, first + span);
            }
        }
    }
}

/// Finishes MR rows of the panels of `span`.
///
/// # Safety
/// As [`run_whole`].
#[inline(always)]
#[cfg(target_arch = "x86_64")]
unsafe fn finish_thin<D: Dot, const MR: usize, const NV: usize>(
    block: &Block<'_>,
    sums: &mut [[D::Acc; NV]; MR],
    row: usize,
    span: usize,
) {
    let (col, epilogue) = (span * NV * NR, block.epilogue);
    let columns = (block.col + col, (block.cols - col).min(NV * NR));
    let to = block.to.at_row(row).at_column(col, epilogue.element_bytes());
    // SAFETY: as in `run_whole`.
    unsafe {
        let row_sum = |r: usize| *block.row_sums.add(row + r);
        finish::<D, MR, NV>(sums, epilogue, columns, to, row_sum, &Keep);
    }
}

/// `sums` and the products of `groups` groups of K, with U sets of accumulators over alternating groups.
///
/// # Safety
/// The groups are readable; the target features of `D` are supported.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
unsafe fn thin_sums<D: Dot, const MR: usize, const NV: usize, const U: usize>(
    mut sums: [[D::Acc; NV]; MR],
    a: Strided<D::A>,
    b: Strided<i8>,
    groups: usize,
) -> [[D::Acc; NV]; MR] {
    const ZEROS: &[i32; NR] = &[0; NR];
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[[D::start(ZEROS.as_ptr()); NV]; MR]; U];
        acc[0] = sums;
        let unrolled = groups / U * U;
        for g in (0..unrolled).step_by(U) {
            for_each_row!(u < U {
                let (a, b) = (a.skip((g + u) * D::KR), b.skip((g + u) * NR * D::KR));
                group::<D, MR, NV>(&mut acc[u], |r| a.at(r, 0), b);
            });
        }
        for g in unrolled..groups {
            let (a, b) = (a.skip(g * D::KR), b.skip(g * NR * D::KR));
            group::<D, MR, NV>(&mut acc[0], |r| a.at(r, 0), b);
        }
        sums = acc[0];
        for_each_row!(r < MR {
            for (v, sum) in sums[r].iter_mut().enumerate() {
                for acc in &acc[1..] {
                    *sum = D::add(*sum, acc[r][v]);
                }
            }
        });
        sums
    }
}
