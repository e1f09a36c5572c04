//! Products of i16 by Winograd's inner product (1968), which takes half as many multiplications:
//!
//! ```text
//! a₀b₀ + a₁b₁ = (a₀ + b₁)·(a₁ + b₀) − a₀a₁ − b₀b₁
//! ```
//! The last two terms are sums over a row of A and over a column of B: a row's is found when it is staged, a column's when
//! its weights are widened, and accumulators start from both. For 32 products two `vpaddw`, one `vpmaddwd` and one `vpaddd` are
//! left of two `vpmaddwd` and two `vpaddd`: as many instructions, but more ports add than multiply. A and B are bytes, so
//! that sums of two fit an i16; all of it is the same modulo 2³².
//!
//! ```text
//! for some rows, and a part of K:           A is staged as i16 with its rows' terms, in L2
//!   for each few panels:
//!     for each tile of MR rows:             the first widens B to i16 with its columns' terms, in L1
//!       acc = bias, or sums of earlier parts, and terms
//!       for each 4 values of K: x = broadcast a[0, 1], y = broadcast a[2, 3]
//!                               acc += (x + b[2, 3]) · (y + b[0, 1])
//!       epilogue, or sums for the next part
//! ```

use std::ops::Range;

use super::{
    driver::{Core, ROW_STEP, row_distance},
    kernel::{Dot, Partial, Rows, Strided, finish, for_each_row, start_from},
    pack::ALIGN,
    scratch::with_scratch,
    whole_rows::fetch,
};
use crate::epilogue::{Epilogue, Loaded, NR, Sign, TileOut};

/// Values of K that are multiplied at a time.
const STEP: usize = 4;

/// Bytes of staged rows, in L2 while all panels go over them.
const STAGE_BYTES: usize = 512 * 1024;

/// Bytes of sums that wait for the next part of K.
const SUMS_BYTES: usize = 1024 * 1024;

/// What an ISA that multiplies i16 supplies for such products.
///
/// # Safety
/// As [`Dot`].
pub(crate) trait Crossed: Dot<A = i16> {
    /// Loads the weights of two values of K, widened, at a multiple of their size.
    unsafe fn load_wide(b: *const i16) -> Self::B;
    /// Stores them.
    unsafe fn store_wide(b: Self::B, to: *mut i16);
    /// `acc[j] + Σ_r (x[r] + b[1][j][r]) · (y[r] + b[0][j][r])`, where `b` was loaded from `at`.
    unsafe fn cross(
        acc: Self::Acc,
        x: Self::Splat,
        y: Self::Splat,
        b: [Self::B; 2],
        at: *const i16,
    ) -> Self::Acc;
    /// `acc[j] − Σ_r b[0][j][r] · b[1][j][r]`.
    unsafe fn less_own(acc: Self::Acc, b: [Self::B; 2]) -> Self::Acc;
    /// `acc[j] + term`.
    unsafe fn plus(acc: Self::Acc, term: i32) -> Self::Acc;
    /// Widens the `len` raw bytes at `src` to whole vectors at `dst`, a cache line, with zeros at the end, and answers the row's
    /// term, `−Σ (a₀a₂ + a₁a₃)` over steps of 4 values.
    unsafe fn stage_crossed(src: *const u8, len: usize, sign: Sign, dst: *mut i16) -> i32;
}

/// Rows of A times neighbouring panels of B, or a part of K of it.
pub(crate) struct CrossedBlock<'a> {
    /// Staged rows, and the terms of each.
    a: Strided<i16>,
    terms: *const i32,
    rows: usize,
    /// Packed weights, and how many lines of each panel.
    b: Strided<i8>,
    lines: usize,
    /// Room for them widened: for each step of K two lines of each panel.
    wide: *mut i16,
    /// What the sums of each column start from, without and then with its term.
    starts: *mut i32,
    partial: Partial,
    row_sums: *const i32,
    /// First column, and how many columns exist.
    columns: (usize, usize),
    epilogue: &'a Epilogue,
    to: TileOut,
    /// Weights that are read next are fetched meanwhile.
    ahead: &'a [i8],
}

/// The kernels of one ISA.
pub(crate) struct CrossedSet {
    /// The fewest rows of a block, those of the first tile or more.
    pub(crate) min_rows: usize,
    /// The most of K at a time: so many lines of the widest tile's panels stay in L1 beside its rows.
    pub(crate) depth: usize,
    /// Stages rows `ld` values apart, each beginning a cache line, and writes their terms.
    ///
    /// # Safety
    /// The ISA is supported, the rows are readable, and there is room for so many.
    pub(crate) stage: unsafe fn(&Rows, to: *mut i16, ld: usize, terms: *mut i32),
    /// Kernels of several panels, by falling number, down to 1.
    pub(crate) widths: &'static [Width],
}

/// The kernels of so many panels.
pub(crate) struct Width {
    pub(crate) panels: usize,
    /// Computes a block, whose first tile widens the weights for the others.
    ///
    /// # Safety
    /// The ISA is supported, and the block is valid: of [`CrossedSet::min_rows`] rows or more, staged as above, the weights
    /// readable, with room for what is written, the output exclusive.
    pub(crate) run: unsafe fn(&CrossedBlock<'_>),
}

/// [`CrossedSet::stage`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn stage<D: Crossed>(rows: &Rows, to: *mut i16, ld: usize, terms: *mut i32) {
    for r in 0..rows.count {
        // SAFETY: row `r` of those granted, and its place.
        unsafe {
            let a = rows.a.add(r * rows.lda);
            terms.add(r).write(D::stage_crossed(a, rows.k, rows.sign, to.add(r * ld)));
        }
    }
}

/// Computes the rows of a block from `row` on, MR at a time, and leaves `row` at what is left; `FIRST` is the first MR.
///
/// # Safety
/// As [`Width::run`]; weights are widened but for the first.
#[inline(always)]
pub(crate) unsafe fn tiles<D: Crossed, const MR: usize, const NV: usize, const FIRST: bool>(
    block: &CrossedBlock<'_>,
    row: &mut usize,
) {
    const { assert!(2 * D::KR == STEP, "a step is two lines") };
    let CrossedBlock { terms, rows, partial, starts, columns, epilogue, .. } = *block;
    let line = NR * D::KR;
    while *row + MR <= rows {
        let first = *row;
        // SAFETY: MR rows of the block, whose pointers are valid; the features are the entry point's.
        unsafe {
            fetch(block.ahead, first / MR, rows / MR);
            let sums = partial.sums.wrapping_add(first * NV * NR);
            let mut own = start_from::<D, 1, NV>(starts);
            let zeros = [0; NR];
            let mut acc = match FIRST {
                true => [[D::start(zeros.as_ptr()); NV]; MR],
                false => start_from::<D, MR, NV>(starts),
            };
            for_each_row!(r < MR {
                for (v, acc) in acc[r].iter_mut().enumerate() {
                    *acc = D::plus(*acc, *terms.add(first + r));
                    if partial.resumed {
                        *acc = D::add(*acc, D::start(sums.add((r * NV + v) * NR)));
                    }
                }
            });
            let a = block.a.skip(first * block.a.stride);
            for s in 0..block.lines.div_ceil(2) {
                let at = |v: usize| block.wide.wrapping_add((s * NV + v) * 2 * line);
                let mut b = [[D::load_wide(at(0)), D::load_wide(at(0).add(line))]; NV];
                for (v, b) in b.iter_mut().enumerate() {
                    if FIRST {
                        *b = widen::<D>(block, v, s, at(v));
                        own[0][v] = D::less_own(own[0][v], *b);
                    } else if v > 0 {
                        *b = [D::load_wide(at(v)), D::load_wide(at(v).add(line))];
                    }
                }
                for_each_row!(r < MR {
                    let (x, y) = (D::splat(a.at(r, s * STEP)), D::splat(a.at(r, s * STEP + 2)));
                    for (v, acc) in acc[r].iter_mut().enumerate() {
                        *acc = D::cross(*acc, x, y, b[v], at(v));
                    }
                });
            }
            if FIRST {
                for (v, own) in own[0].iter().enumerate() {
                    D::store(*own, starts.add(v * NR));
                    for_each_row!(r < MR { acc[r][v] = D::add(acc[r][v], *own); });
                }
            }
            if partial.suspended {
                for_each_row!(r < MR {
                    for (v, acc) in acc[r].iter().enumerate() {
                        D::store(*acc, sums.add((r * NV + v) * NR));
                    }
                });
            } else {
                let row_sum = |r: usize| *block.row_sums.add(first + r);
                let to = block.to.at_row(first);
                finish::<D, MR, NV>(&mut acc, epilogue, columns, to, row_sum, &Loaded);
            }
        }
        *row += MR;
        if FIRST {
            break;
        }
    }
}

/// Widens step `s` of panel `v`: a line that is not there is zeros.
///
/// # Safety
/// The block has such a step; there is room at `to`; the target features of `D` are supported.
#[inline(always)]
unsafe fn widen<D: Crossed>(
    block: &CrossedBlock<'_>,
    v: usize,
    s: usize,
    to: *mut i16,
) -> [D::B; 2] {
    const ZEROS: &[i8; 2 * NR] = &[0; 2 * NR];
    let line = NR * D::KR;
    // SAFETY: lines of the block, or as many zeros.
    unsafe {
        let second = match 2 * s + 1 < block.lines {
            true => block.b.at(v, (2 * s + 1) * line),
            false => ZEROS.as_ptr(),
        };
        let b = [D::load_b(block.b.at(v, 2 * s * line)), D::load_b(second)];
        D::store_wide(b[0], to);
        D::store_wide(b[1], to.add(line));
        b
    }
}

/// The [`CrossedSet`] of `$dot`: tiles of so many panels and, falling, rows, those of the first tile before them.
macro_rules! crossed_set {
    (#[$attr:meta] $dot:ty, $depth:literal, $min_rows:literal,
     $($first:literal, [$($mr:literal),+] x $nv:literal);+) => {
        $crate::gemm::crossed::CrossedSet {
            min_rows: const {
                $(assert!($first <= $min_rows, "a block has a first tile");)+
                $min_rows
            },
            depth: $depth,
            stage: {
                #[$attr]
                unsafe fn stage(
                    rows: &$crate::gemm::kernel::Rows,
                    to: *mut i16,
                    ld: usize,
                    terms: *mut i32,
                ) {
                    // SAFETY: the caller keeps the contract of `CrossedSet::stage`.
                    unsafe { $crate::gemm::crossed::stage::<$dot>(rows, to, ld, terms) }
                }
                stage
            },
            widths: &[$($crate::gemm::crossed::Width {
                panels: $nv,
                run: {
                    #[$attr]
                    unsafe fn run(block: &$crate::gemm::crossed::CrossedBlock<'_>) {
                        use $crate::gemm::crossed::tiles;
                        let mut row = 0;
                        // SAFETY: the caller keeps the contract of `Width::run`.
                        unsafe {
                            tiles::<$dot, $first, $nv, true>(block, &mut row);
                            $(tiles::<$dot, $mr, $nv, false>(block, &mut row);)+
                        }
                    }
                    run
                },
            }),+],
        }
    };
}
pub(crate) use crossed_set;

impl CrossedSet {
    /// The widest kernels for `left` panels.
    fn width(&self, left: usize) -> &Width {
        &self.widths[self.widths.partition_point(|width| width.panels > left)]
    }
}

/// How the loops over a block are cut.
struct Cut {
    /// Rows at a time, at most, and how many times.
    rows: usize,
    chunks: usize,
    /// Values of K, and how many parts those are.
    depth: usize,
    parts: usize,
    /// Panels whose sums wait for the next part.
    panels: usize,
    /// Values from one staged row to the next.
    ld: usize,
}

impl Cut {
    fn new(set: &CrossedSet, rows: usize, k: usize, panels: usize) -> Self {
        let parts = k.div_ceil(set.depth).max(1);
        let depth = k.div_ceil(parts).next_multiple_of(STEP);
        let ld = row_distance(2 * depth) / 2;
        let chunks = rows.div_ceil((STAGE_BYTES / (2 * ld)).max(4 * ROW_STEP)).max(1);
        let most = (rows.div_ceil(chunks) + ROW_STEP).min(rows);
        let waiting = SUMS_BYTES / (4 * NR * most.max(1));
        let waiting = waiting.max(1).next_multiple_of(set.widths[0].panels);
        let panels = if parts > 1 { waiting.min(panels) } else { panels };
        Self { rows: most, chunks, depth, parts, panels, ld }
    }

    /// Which of `rows` rows are chunk `i`: about as many as of any other, since panels are widened once for each.
    fn chunk(&self, i: usize, rows: usize) -> Range<usize> {
        let bound = |i: usize| match i == self.chunks {
            true => rows,
            false => rows * i / self.chunks / ROW_STEP * ROW_STEP,
        };
        bound(i)..bound(i + 1)
    }

    /// Lends memory for all of it.
    fn with_room(&self, set: &CrossedSet, f: impl FnOnce(&Room)) {
        let widest = set.widths[0].panels;
        let ints = |count: usize| (4 * count).next_multiple_of(ALIGN);
        let sums = if self.parts > 1 { ints(self.rows * NR * self.panels) } else { 0 };
        let sizes = [
            2 * self.rows * self.ld,
            ints(self.rows),
            ints(self.rows),
            2 * self.depth * NR * widest,
            ints(NR * widest),
            sums,
        ];
        with_scratch(sizes.iter().sum(), |scratch| {
            let mut at = scratch.as_mut_ptr();
            let [staged, terms, row_sums, wide, starts, sums] = sizes.map(|bytes| {
                let part = at;
                at = at.wrapping_add(bytes);
                part
            });
            f(&Room {
                staged: staged.cast(),
                terms: terms.cast(),
                row_sums: row_sums.cast(),
                wide: wide.cast(),
                starts: starts.cast(),
                sums: sums.cast(),
            });
        });
    }
}

/// Memory for the operands of blocks, in whole cache lines.
struct Room {
    staged: *mut i16,
    terms: *mut i32,
    row_sums: *mut i32,
    wide: *mut i16,
    starts: *mut i32,
    sums: *mut i32,
}

/// [`Core::vector_block`] by such products.
///
/// # Safety
/// As there, of the ISA of `set`.
pub(super) unsafe fn block(
    core: &Core<'_>,
    set: &CrossedSet,
    (a, lda): (*const u8, usize),
    rows: usize,
    panels: Range<usize>,
    to: TileOut,
) {
    let Core { layout, packed, epilogue, a_sign, depth: (start, k), .. } = *core;
    assert!(
        panels.end <= layout.panels()
            && packed.len() >= layout.bytes()
            && epilogue.n() == layout.n
            && start.is_multiple_of(ALIGN)
            && start + k <= layout.k
            && rows >= set.min_rows
    );
    let cut = Cut::new(set, rows, k, panels.len());
    cut.with_room(set, |room| {
        for Range { start: row, end } in (0..cut.chunks).map(|i| cut.chunk(i, rows)) {
            let a = a.wrapping_add(row * lda + start);
            let raw = Rows { a, lda, k, count: end - row, sign: a_sign };
            if epilogue.w_zero.is_some() {
                // SAFETY: rows of the caller's, and there is room for their sums.
                unsafe { (core.set.row_sums)(&raw, room.row_sums) };
            }
            for first in panels.clone().step_by(cut.panels.max(1)) {
                let some = first..(first + cut.panels).min(panels.end);
                let columns = (first - panels.start) * NR;
                let to = to.at_row(row).at_column(columns, epilogue.element_bytes());
                for part in 0..cut.parts {
                    // SAFETY: rows and panels of the caller's, and the cut's room.
                    unsafe { part_of(core, set, &cut, room, &raw, part, some.clone(), to) };
                }
            }
        }
    });
}

/// Computes part `part` of K of some rows and panels; `to` is at the first of each.
///
/// # Safety
/// As [`block`], in the room of `cut`, part after part.
#[allow(clippy::too_many_arguments, reason = "the variables of three loops")]
unsafe fn part_of(
    core: &Core<'_>,
    set: &CrossedSet,
    cut: &Cut,
    room: &Room,
    raw: &Rows,
    part: usize,
    panels: Range<usize>,
    to: TileOut,
) {
    let Core { layout, packed, epilogue, depth: (start, _), .. } = *core;
    let from = part * cut.depth;
    let k = cut.depth.min(raw.k - from);
    let lines = k.div_ceil(2);
    let weights = |p: usize| &packed[p * layout.panel_bytes() + (start + from) * NR..];
    // SAFETY: the part lies in the rows, and there is room for so many.
    unsafe {
        let raw = Rows { a: raw.a.wrapping_add(from), k, ..*raw };
        (set.stage)(&raw, room.staged, cut.ld, room.terms);
    }
    let mut p = panels.start;
    while p < panels.end {
        let width = set.width(panels.end - p);
        let (next, columns) = (p + width.panels, width.panels * NR);
        let fetch = core.fetches_ahead(raw.count) && next < panels.end;
        let done = (p - panels.start) * NR;
        // SAFETY: biases are padded to whole panels, of which packed weights have so many lines; the part was staged; a
        // block's sums lie where its columns have their place among those of the panels.
        unsafe {
            let bias = epilogue.bias.as_ptr().add(p * NR);
            match part {
                0 => room.starts.copy_from_nonoverlapping(bias, columns),
                _ => room.starts.write_bytes(0, columns),
            }
            (width.run)(&CrossedBlock {
                a: Strided { first: room.staged.cast_const(), stride: cut.ld },
                terms: room.terms,
                rows: raw.count,
                b: Strided { first: weights(p).as_ptr(), stride: layout.panel_bytes() },
                lines,
                wide: room.wide,
                starts: room.starts,
                partial: Partial {
                    sums: room.sums.wrapping_add(done * raw.count),
                    resumed: part > 0,
                    suspended: part + 1 < cut.parts,
                },
                row_sums: room.row_sums,
                columns: (p * NR, (layout.n - p * NR).min(columns)),
                epilogue,
                to: to.at_column(done, epilogue.element_bytes()),
                ahead: if fetch { &weights(next)[..2 * NR * lines] } else { &[] },
            });
        }
        p = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{x86_avx2, x86_avx512bw};

    #[test]
    fn chunks_cover_every_row_and_fit_the_room() {
        for set in [&x86_avx2::SET, &x86_avx512bw::SET].map(|set| set.crossed) {
            let Some(set) = set else { panic!("both have such products") };
            for rows in set.min_rows..2500 {
                for k in [0, 1, 100, 512, 1024, 1025, 70_000] {
                    let cut = Cut::new(set, rows, k, 9);
                    assert!(cut.parts * cut.depth >= k && cut.depth <= set.depth);
                    let mut done = 0;
                    for chunk in (0..cut.chunks).map(|i| cut.chunk(i, rows)) {
                        assert_eq!(chunk.start, done);
                        assert!((set.min_rows..=cut.rows).contains(&chunk.len()), "{rows} x {k}");
                        done = chunk.end;
                    }
                    assert_eq!(done, rows);
                }
            }
        }
    }
}
