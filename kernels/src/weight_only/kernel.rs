//! The weight-only micro-kernel, written once: a register tile of MR rows × NV panels, weights decoded on load.
//!
//! ```text
//! for each tile of MR rows:
//!   y[MR][NV] = bias                                                     rarely touched, may live in memory
//!   for each block of K:
//!     p[MR][NV] = 0                                                      in registers
//!     for each k of the block:
//!       for each panel v: w[v] = decode 16 codes (− zero points)
//!       for each row r:   x = broadcast;  p[r][v] = fma(x, w[v], p[r][v])
//!     y[r][v] = fma(p[r][v], scale[v], y[r][v])
//! ```
//! One row is bound by the bandwidth of memory or by decoding, many rows by the multiply-adds.

use super::pack::{Layout, WORD, WORD_BYTES};
use crate::{
    Cpu,
    epilogue::NR,
    gemm::pack::ALIGN,
    multiversion::{Tier, tier},
    unroll::unrolled,
};

/// How many bytes of a panel prefetches are ahead: hides the latency of memory.
const PREFETCH: usize = 1024;

/// The vector operations of one ISA on the 16 columns of a panel.
///
/// # Safety
/// Every method requires that the ISA's target features are supported; pointers must be valid for what is said.
/// Methods are `#[inline(always)]` and take the features of the entry point they end up in.
pub(super) trait Columns {
    /// The largest tile, in rows times panels, whose steps are unrolled: for s8 and for 4-bit codes.
    const UNROLL: [usize; 2];
    /// 16 f32.
    type V: Copy;
    /// 16 words of 4-bit codes.
    type Words: Copy;

    /// `v` in all columns.
    unsafe fn splat(v: f32) -> Self::V;
    /// Loads 16 values.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Stores 16 values.
    unsafe fn store(v: Self::V, to: *mut f32);
    /// `a·b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a − b`
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// Asks for the cache line of any address, without reading it.
    unsafe fn prefetch(at: *const i8);
    /// Loads 16 s8 codes.
    unsafe fn load_s8(codes: *const i8) -> Self::V;
    /// Loads 16 words, 64 bytes.
    unsafe fn load_words(words: *const i8) -> Self::Words;
    /// Words that are not read.
    unsafe fn no_words() -> Self::Words;
    /// The next code of every word, from the top.
    unsafe fn next(words: &mut Self::Words) -> Self::V;
}

/// Rows of x times neighbouring panels of weights.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// `rows` rows of `layout.k` values, `ldx` apart.
    pub(super) x: *const f32,
    pub(super) ldx: usize,
    pub(super) layout: &'a Layout,
    /// The first panel.
    pub(super) b: *const i8,
    /// Of the first column.
    pub(super) bias: *const f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// At row 0 and the first column; rows `ldy` apart.
    pub(super) y: *mut f32,
    pub(super) ldy: usize,
}

/// # Safety
/// The tile's ISA is supported, the block is valid (see [`run_panels`]) with no more columns than the function has
/// panels, and MR divides its rows.
type Run = unsafe fn(&Block<'_>);

/// The tile functions for one number of rows, without and with zero points.
#[derive(Debug)]
pub(super) struct Tile {
    pub(super) mr: usize,
    /// Numbers of panels, falling down to 1, and their functions.
    pub(super) widths: &'static [(usize, [Run; 2])],
}

/// The tiles of `cpu` for s8 or 4-bit weights, by falling MR down to 1.
pub(super) fn tiles(cpu: Cpu, four_bits: bool) -> &'static [Tile] {
    let tiles = match tier(cpu) {
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Tier::Baseline if cpu.neon().is_some() => [super::arm::S8, super::arm::S4],
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => [super::x86::AVX512_S8, super::x86::AVX512_S4],
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => [super::x86::AVX2_S8, super::x86::AVX2_S4],
        Tier::Baseline => [super::scalar::S8, super::scalar::S4],
    };
    tiles[usize::from(four_bits)]
}

/// Computes all rows and columns of a block.
///
/// # Safety
/// - The ISA of `tiles` is supported.
/// - x has `rows` rows of K readable values, `ldx` apart; `b` and `bias` have a panel for each 16 columns.
/// - y's `rows` × `cols` values may be written, and nobody else reads or writes them.
pub(super) unsafe fn run_panels(tiles: &[Tile], block: &Block<'_>) {
    let (format, panel) = (usize::from(block.layout.zeros), block.layout.panel_bytes());
    let mut row = 0;
    for tile in tiles {
        let rows = (block.rows - row) / tile.mr * tile.mr;
        if rows == 0 {
            continue;
        }
        let mut col = 0;
        for (nv, run) in tile.widths {
            while (block.cols - col).div_ceil(NR) >= *nv {
                let part = Block {
                    x: block.x.wrapping_add(row * block.ldx),
                    b: block.b.wrapping_add(col / NR * panel),
                    bias: block.bias.wrapping_add(col),
                    rows,
                    cols: (block.cols - col).min(nv * NR),
                    y: block.y.wrapping_add(row * block.ldy + col),
                    ..*block
                };
                // SAFETY: a part of the block that the caller grants.
                unsafe { run[format](&part) };
                col += part.cols;
            }
        }
        row += rows;
    }
}

/// Computes a block, MR rows at a time.
///
/// # Safety
/// As [`Run`].
#[inline(always)]
pub(super) unsafe fn run_block<
    C: Columns,
    const FOUR_BITS: bool,
    const ZEROS: bool,
    const MR: usize,
    const NV: usize,
>(
    block: &Block<'_>,
) {
    for row in (0..block.rows).step_by(MR) {
        // SAFETY: MR divides the block's rows, so the tile's rows lie inside.
        unsafe { tile::<C, FOUR_BITS, ZEROS, MR, NV>(block, row) }
    }
}

#[inline(always)]
unsafe fn tile<
    C: Columns,
    const FOUR_BITS: bool,
    const ZEROS: bool,
    const MR: usize,
    const NV: usize,
>(
    block: &Block<'_>,
    row: usize,
) {
    let Block { ldx, layout, bias, cols, ldy, .. } = *block;
    let panel = layout.panel_bytes();
    // SAFETY: the tile's rows and columns lie in the block, whose pointers are valid (contract of `Run`); `record` walks
    // the records of its panels as the packing laid them out; the features are the entry point's.
    unsafe {
        let x = block.x.add(row * ldx);
        let mut y = [[C::splat(0.0); NV]; MR];
        for y in &mut y {
            for (v, y) in y.iter_mut().enumerate() {
                *y = C::load(bias.add(v * NR));
            }
        }
        let mut record = block.b;
        for start in (0..layout.k).step_by(layout.block) {
            let depth = (layout.k - start).min(layout.block);
            let x = x.add(start);
            let codes = record.add(layout.head());
            let mut zeros = [C::splat(0.0); NV];
            if ZEROS {
                for (v, zeros) in zeros.iter_mut().enumerate() {
                    *zeros = C::load(record.add(v * panel).cast::<f32>().add(NR));
                }
            }
            let mut p = [[C::splat(0.0); NV]; MR];
            // Small tiles take a line of codes per panel at a time; LLVM spills larger ones when they are unrolled.
            let line = if FOUR_BITS { WORD } else { ALIGN / NR };
            let lines =
                if MR * NV <= C::UNROLL[usize::from(FOUR_BITS)] { depth / line * line } else { 0 };
            for k in (0..lines).step_by(line) {
                let mut w = Weights::<C, FOUR_BITS, ZEROS, NV>::new(codes, panel, k);
                w.prefetch();
                unrolled!(i in [0 1 2 3 4 5 6 7] {
                    if i < line {
                        step::<C, MR, NV>(&mut p, (x.add(k + i), ldx), &w.next(&zeros));
                    }
                });
            }
            let group = if FOUR_BITS { WORD } else { 1 };
            for k in (lines..depth).step_by(group) {
                let mut w = Weights::<C, FOUR_BITS, ZEROS, NV>::new(codes, panel, k);
                if FOUR_BITS {
                    w.prefetch();
                }
                for k in k..(k + group).min(depth) {
                    step::<C, MR, NV>(&mut p, (x.add(k), ldx), &w.next(&zeros));
                }
            }
            for (v, scale) in (0..NV).map(|v| (v, record.add(v * panel).cast())) {
                let scale = C::load(scale);
                for (y, p) in y.iter_mut().zip(&p) {
                    y[v] = C::fma(p[v], scale, y[v]);
                }
            }
            record = record.add(layout.record(depth));
        }
        for (r, y) in y.iter().enumerate() {
            let out = block.y.add((row + r) * ldy);
            for (v, y) in y.iter().enumerate() {
                if cols >= (v + 1) * NR {
                    C::store(*y, out.add(v * NR));
                } else {
                    let mut last = [0.0; NR];
                    C::store(*y, last.as_mut_ptr());
                    out.add(v * NR).copy_from_nonoverlapping(last.as_ptr(), cols - v * NR);
                }
            }
        }
    }
}

/// The next weights of a block: as many as are wanted if s8, those of a word if 4-bit.
struct Weights<C: Columns, const FOUR_BITS: bool, const ZEROS: bool, const NV: usize> {
    codes: *const i8,
    panel: usize,
    words: [C::Words; NV],
}

impl<C: Columns, const FOUR_BITS: bool, const ZEROS: bool, const NV: usize>
    Weights<C, FOUR_BITS, ZEROS, NV>
{
    /// From the `k`th of a block on.
    ///
    /// # Safety
    /// The features of `C` are supported; `codes` are those of a block that has the `k`th, in NV panels.
    #[inline(always)]
    unsafe fn new(codes: *const i8, panel: usize, k: usize) -> Self {
        // SAFETY: a block's 4-bit codes are whole words, one of which holds the `k`th (contract).
        unsafe {
            if FOUR_BITS {
                let codes = codes.add(k / WORD * WORD_BYTES);
                let mut words = [C::load_words(codes); NV];
                for (v, words) in words.iter_mut().enumerate().skip(1) {
                    *words = C::load_words(codes.add(v * panel));
                }
                Self { codes, panel, words }
            } else {
                Self { codes: codes.add(k * NR), panel, words: [C::no_words(); NV] }
            }
        }
    }

    /// The weights of the next k.
    ///
    /// # Safety
    /// The features of `C` are supported, and the block has that k.
    #[inline(always)]
    unsafe fn next(&mut self, zeros: &[C::V; NV]) -> [C::V; NV] {
        let mut w = *zeros;
        for (v, (w, words)) in w.iter_mut().zip(&mut self.words).enumerate() {
            // SAFETY: the caller's contract.
            unsafe {
                let code = if FOUR_BITS {
                    C::next(words)
                } else {
                    C::load_s8(self.codes.add(v * self.panel))
                };
                *w = if ZEROS { C::sub(code, *w) } else { code };
            }
        }
        if !FOUR_BITS {
            self.codes = self.codes.wrapping_add(NR);
        }
        w
    }

    /// Asks for codes that will soon be wanted.
    ///
    /// # Safety
    /// The features of `C` are supported.
    #[inline(always)]
    unsafe fn prefetch(&self) {
        for v in 0..NV {
            // SAFETY: the caller's contract.
            unsafe { C::prefetch(self.codes.wrapping_add(v * self.panel + PREFETCH)) }
        }
    }
}

/// One k: `p[r][v] += x[r]·w[v]`.
///
/// # Safety
/// The features of `C` are supported, and MR values, `ldx` apart, are readable at `x`.
#[inline(always)]
unsafe fn step<C: Columns, const MR: usize, const NV: usize>(
    p: &mut [[C::V; NV]; MR],
    (x, ldx): (*const f32, usize),
    w: &[C::V; NV],
) {
    for (r, p) in p.iter_mut().enumerate() {
        // SAFETY: the caller's contract.
        unsafe {
            let x = C::splat(*x.add(r * ldx));
            for (p, w) in p.iter_mut().zip(w) {
                *p = C::fma(x, *w, *p);
            }
        }
    }
}

/// A list of [`Tile`]s for weights of four bits or eight, each compiled under the given attribute.
macro_rules! weight_only_tiles {
    ($name:ident, #[$attr:meta] $columns:ty, $four_bits:literal, [$($mr:literal x $widths:tt),+]) => {
        pub(super) static $name: &[$crate::weight_only::kernel::Tile] = &[$(
            $crate::weight_only::kernel::Tile {
                mr: $mr,
                widths: weight_only_tiles!(@widths #[$attr] $columns, $four_bits, $mr, $widths),
            }
        ),+];
    };
    (@widths #[$attr:meta] $columns:ty, $four_bits:literal, $mr:literal, [$($nv:literal)+]) => {
        &[$(($nv, [
            weight_only_tiles!(@run #[$attr] $columns, $four_bits, false, $mr, $nv),
            weight_only_tiles!(@run #[$attr] $columns, $four_bits, true, $mr, $nv),
        ])),+]
    };
    (@run #[$attr:meta] $columns:ty, $four_bits:literal, $zeros:literal, $mr:literal, $nv:literal) => {{
        #[$attr]
        unsafe fn run(block: &$crate::weight_only::kernel::Block<'_>) {
            // SAFETY: the caller keeps the contract of `Run`.
            unsafe {
                $crate::weight_only::kernel::run_block::<$columns, $four_bits, $zeros, $mr, $nv>(block)
            }
        }
        run
    }};
}
pub(super) use weight_only_tiles;
