//! Tiles over rows of A that are staged, or read in place, to their end.
//!
//! The epilogue of a tile and the products of the next one overlap: as soon as some rows are written, their registers
//! take the first groups of K of the rows that follow. The vector units that multiply would otherwise be idle while
//! others convert and pack.

#[cfg(target_arch = "x86_64")]
use super::kernel::group;
use super::{
    dot::Dot,
    kernel::{Block, NextRows, Rows, Strided, finish, for_each_row, start},
};
use crate::{
    epilogue::{Keep, NR, Refill},
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

/// Values of a row that are staged at a time, between products.
const PIECE: usize = 64;

/// Stages so many of the next rows from value `from` on, a piece of each.
///
/// # Safety
/// The target features of `D` are supported; the rows are readable and have room.
#[inline(always)]
unsafe fn stage_piece<D: Dot>(next: NextRows, count: usize, from: usize) {
    let Rows { a, lda, k, sign, .. } = next.rows;
    let len = k.saturating_sub(from).min(PIECE);
    for r in 0..count.min(next.rows.count) {
        let to = next.to.wrapping_add(r * next.ld).cast::<D::A>().wrapping_add(from);
        // SAFETY: a piece of row `r`, and its place.
        unsafe {
            let a = a.add(r * lda + from);
            if len == PIECE {
                D::stage(a, PIECE, sign, to);
            } else if len > 0 {
                D::stage(a, len, sign, to);
            }
        }
    }
}

/// Computes a block, MR rows at a time.
///
/// # Safety
/// As [`super::kernel::Ukernel::run`], of a block whose rows are staged or can be read in place to the end.
#[inline(always)]
pub(crate) unsafe fn run_whole<D: Dot, const MR: usize, const NV: usize>(block: &Block<'_>) {
    let Block { lda, k, b, panel, rows, col, cols, epilogue, partial, .. } = *block;
    let groups = k / D::KR;
    let b = Strided { first: b, stride: panel };
    let a = |row: usize| Strided {
        first: block.a.wrapping_add(row * lda).cast::<D::A>(),
        stride: lda / size_of::<D::A>(),
    };
    // SAFETY: tiles' rows and columns lie in the block, whose pointers are valid (contract of `Ukernel::run`);
    // the features are the entry point's.
    unsafe {
        let (mut acc, mut done) = (start::<D, MR, NV>(epilogue, col), 0);
        for row in (0..rows).step_by(MR) {
            let sums = partial.sums.wrapping_add(row * NR);
            if D::PARTIAL && partial.resumed {
                for_each_row!(r < MR { acc[r][0] = D::start(sums.add(r * NR)); });
            }
            match block.next {
                None => {
                    let (a, b) = (a(row).skip(done * D::KR), b.skip(done * NR * D::KR));
                    D::accumulate(&mut acc, a, b, groups - done);
                }
                Some(next) => {
                    let next = next.skip(row);
                    for from in (0..k).step_by(PIECE) {
                        stage_piece::<D>(next, MR, from);
                        let end = groups.min((from + PIECE) / D::KR);
                        let start = done.max(from / D::KR).min(end);
                        let (a, b) = (a(row).skip(start * D::KR), b.skip(start * NR * D::KR));
                        D::accumulate(&mut acc, a, b, end - start);
                    }
                }
            }
            let more = row + MR < rows;
            if D::PARTIAL && partial.suspended {
                for_each_row!(r < MR { D::store(acc[r][0], sums.add(r * NR)); });
            } else {
                let row_sum = |r: usize| *block.row_sums.add(row + r);
                let to = block.to.at_row(row);
                if more && groups >= AHEAD && cols == NV * NR && !(D::PARTIAL && partial.resumed) {
                    let bias = epilogue.bias.as_ptr().add(col);
                    let next = Next::<D> { a: a(row + MR), b, bias };
                    if finish::<D, MR, NV>(&mut acc, epilogue, (col, cols), to, row_sum, &next) {
                        done = AHEAD;
                        continue;
                    }
                } else {
                    finish::<D, MR, NV>(&mut acc, epilogue, (col, cols), to, row_sum, &Keep);
                }
            }
            if more {
                (acc, done) = (start::<D, MR, NV>(epilogue, col), 0);
            }
        }
    }
}

/// Computes a block of few rows, for which weights are read but once: MR rows at a time, with U sets of accumulators
/// over alternating groups of K, so that dot products need not wait for each other.
///
/// # Safety
/// As [`run_whole`].
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn run_thin<D: Dot, const MR: usize, const NV: usize, const U: usize>(
    block: &Block<'_>,
) {
    const ZEROS: &[i32; NR] = &[0; NR];
    let Block { lda, k, b, panel, col, cols, epilogue, .. } = *block;
    for row in (0..block.rows).step_by(MR) {
        // SAFETY: as in `run_whole`.
        unsafe {
            if let Some(next) = block.next {
                for from in (0..k).step_by(PIECE) {
                    stage_piece::<D>(next.skip(row), MR, from);
                }
            }
            let first = block.a.add(row * lda).cast::<D::A>();
            let (a, groups) = (Strided { first, stride: lda / size_of::<D::A>() }, k / D::KR);
            let b = Strided { first: b, stride: panel };
            let mut acc = [[[D::start(ZEROS.as_ptr()); NV]; MR]; U];
            acc[0] = start::<D, MR, NV>(epilogue, col);
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
            let mut sum = acc[0];
            for_each_row!(r < MR {
                for (v, sum) in sum[r].iter_mut().enumerate() {
                    for acc in &acc[1..] {
                        *sum = D::add(*sum, acc[r][v]);
                    }
                }
            });
            let row_sum = |r: usize| *block.row_sums.add(row + r);
            let to = block.to.at_row(row);
            finish::<D, MR, NV>(&mut sum, epilogue, (col, cols), to, row_sum, &Keep);
        }
    }
}
