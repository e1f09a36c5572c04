//! The micro-kernel of a convolution: the GEMM tile, over pixels whose patches lie in a band of input rows.
//!
//! ```text
//! pixel p, segment s:  band[offset(p) + segments[s] ..][..len]      a run of K in memory, len up to a multiple of KR
//! ```
//! Offsets of pixels and of segments are independent, so a tile keeps one pointer per pixel, adds that of each segment
//! in turn, and its accumulators stay in registers from the first tap to the last: no patch is ever written out.

use std::ops::Range;

use crate::{
    epilogue::{Epilogue, NR, Sign, TileOut},
    gemm::{
        Core,
        kernel::{Dot, accumulate, finish, for_each_row, start},
    },
};

/// Where the pixels of a band are: `width` of them in a row, `step` values apart, rows `row_step` values apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PixelSteps {
    pub(crate) width: usize,
    pub(crate) step: usize,
    pub(crate) row_step: usize,
}

impl PixelSteps {
    #[inline(always)]
    fn walk(self, pixel: usize) -> Walk {
        let (row, x) = (pixel / self.width, pixel % self.width);
        Walk { steps: self, x, at: row * self.row_step + x * self.step }
    }
}

/// The offsets of consecutive pixels.
struct Walk {
    steps: PixelSteps,
    x: usize,
    at: usize,
}

impl Walk {
    #[inline(always)]
    fn next(&mut self) -> usize {
        let PixelSteps { width, step, row_step } = self.steps;
        let at = self.at;
        self.x += 1;
        self.at += step;
        if self.x == width {
            self.x = 0;
            self.at = self.at + row_step - width * step;
        }
        at
    }
}

/// What the pixels of a band read, in values of [`Dot::A`].
#[derive(Clone, Copy)]
pub(crate) struct Patch<'a> {
    pub(crate) steps: PixelSteps,
    /// Where the runs of a pixel's patch start, from the pixel's own offset.
    pub(crate) segments: &'a [usize],
    /// Values of each run.
    pub(crate) len: usize,
}

/// Pixels of a band times some neighbouring panels of weights, of which each segment fills whole groups of KR.
pub(crate) struct BandBlock<'a> {
    /// The values of pixel 0 at offset 0.
    band: *const u8,
    patch: Patch<'a>,
    /// What was added to the stored activations.
    offset: i32,
    first: usize,
    /// A multiple of the tile's MR.
    pixels: usize,
    b: *const i8,
    panel: usize,
    col: usize,
    cols: usize,
    epilogue: &'a Epilogue,
    /// At pixel `first`, column `col`.
    to: TileOut,
}

/// A tile function and the number of pixels it computes at a time.
pub(crate) struct BandKernel {
    pub(crate) mr: usize,
    /// # Safety
    /// As [`band_block`], of which the block is a part; `pixels` is a multiple of `mr`.
    pub(crate) run: unsafe fn(&BandBlock<'_>),
}

/// The band kernels of one ISA.
pub(crate) struct BandSet {
    /// Bytes of an activation as the kernels read it, and its alignment.
    pub(crate) value_bytes: usize,
    pub(crate) in_place: Option<Sign>,
    /// Stages activations: [`Dot::stage`].
    ///
    /// # Safety
    /// `len` bytes at `src` are readable, `len` rounded up to KR values at `dst`, aligned for them, writable; the
    /// ISA's target features are supported.
    pub(crate) stage: unsafe fn(src: *const u8, len: usize, sign: Sign, dst: *mut u8),
    /// `tiles[nv − 1]`: tiles of `nv` panels, by falling MR down to 1.
    pub(crate) tiles: &'static [&'static [BandKernel]],
}

impl std::fmt::Debug for BandSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BandSet")
    }
}

impl BandSet {
    /// How many of the `left` panels the next tiles should span: few rows and many columns, because each pixel needs a
    /// pointer, and no last panel alone if three can share.
    fn panels_per_tile(&self, left: usize) -> usize {
        let wanted = if left == 5 { 3 } else { left.min(4) };
        wanted.min(self.tiles.len())
    }
}

/// Computes the pixels `pixels` of the band at `band`, for the panels `panels` of `core`. `to` points at the first of
/// both.
///
/// # Safety
/// - `core` was packed for the ISA of `set`, whose target features are supported.
/// - For every pixel and segment of `patch`, `len` rounded up to KR values at `band` are readable.
/// - The output of these pixels and columns is aligned for its element type and exclusive; with a residual, so many
///   pixels and columns of it are readable.
pub(crate) unsafe fn band_block(
    core: &Core<'_>,
    set: &BandSet,
    band: *const u8,
    patch: Patch<'_>,
    pixels: Range<usize>,
    panels: Range<usize>,
    to: TileOut,
) {
    let Core { layout, packed, epilogue, a_sign, set: gemm } = *core;
    let groups = patch.segments.len() * patch.len.div_ceil(gemm.kr);
    assert!(
        panels.end <= layout.panels()
            && packed.len() >= layout.bytes()
            && groups * gemm.kr == layout.k.next_multiple_of(gemm.kr)
            && epilogue.n() == layout.n
    );
    let panel = layout.panel_bytes();
    let mut p = panels.start;
    while p < panels.end {
        let width = set.panels_per_tile(panels.end - p);
        let col = p * NR;
        let shift = col - panels.start * NR;
        let to = TileOut {
            out: to.out.wrapping_add(shift * epilogue.element_bytes()),
            residual: to.residual.wrapping_add(shift),
            ..to
        };
        let mut done = 0;
        for tile in set.tiles[width - 1] {
            let count = (pixels.len() - done) / tile.mr * tile.mr;
            if count == 0 {
                continue;
            }
            let block = BandBlock {
                band,
                patch,
                offset: gemm.offset(a_sign),
                first: pixels.start + done,
                pixels: count,
                b: packed[p * panel..].as_ptr(),
                panel,
                col,
                cols: (layout.n - col).min(width * NR),
                epilogue,
                to: to.at_row(done),
            };
            // SAFETY: some of the pixels and columns of what the caller granted; the assertion above keeps the tile's
            // panels inside `packed`.
            unsafe { (tile.run)(&block) };
            done += count;
        }
        p += width;
    }
}

/// Computes a block, MR pixels at a time.
///
/// # Safety
/// As [`BandKernel::run`].
#[inline(always)]
pub(crate) unsafe fn run_band<D: Dot, const MR: usize, const NV: usize>(block: &BandBlock<'_>) {
    for done in (0..block.pixels).step_by(MR) {
        // SAFETY: `done + MR <= block.pixels`, so the tile's pixels lie inside the block's.
        unsafe { tile::<D, MR, NV>(block, done) }
    }
}

/// Computes the tile of `MR` pixels after the first `done`.
#[inline(always)]
unsafe fn tile<D: Dot, const MR: usize, const NV: usize>(block: &BandBlock<'_>, done: usize) {
    let BandBlock { band, patch, offset, first, b, panel, col, cols, epilogue, to, .. } = *block;
    let Patch { steps, segments, len } = patch;
    let mut walk = steps.walk(first + done);
    let mut pixels = [band.cast::<D::A>(); MR];
    for_each_row!(r < MR { pixels[r] = pixels[r].wrapping_add(walk.next()); });
    let groups = len.div_ceil(D::KR);
    // SAFETY: the segments of these pixels are readable, the panels hold so many groups for each, and the tile's output
    // is exclusive (contract of `band_block`); the features are the entry point's.
    unsafe {
        let mut acc = start::<D, MR, NV>(epilogue, col);
        let mut weights = b;
        for &segment in segments {
            let row = |r: usize| pixels[r].add(segment);
            accumulate::<D, MR, NV>(&mut acc, row, weights, panel, groups);
            weights = weights.add(groups * NR * D::KR);
        }
        let row_sum = |r: usize| {
            let value = |a: &D::A| match D::IN_PLACE {
                Some(Sign::S8) => i32::from((*a).into() as i8),
                _ => (*a).into(),
            };
            let sum = |&segment: &usize| -> i32 {
                let values = std::slice::from_raw_parts(pixels[r].add(segment), len);
                values.iter().map(value).sum()
            };
            segments.iter().map(sum).sum::<i32>() - offset * (segments.len() * len) as i32
        };
        finish::<D, MR, NV>(acc, epilogue, (col, cols), to.at_row(done), &row_sum);
    }
}

/// The [`BandSet`] of an ISA, with the tiles of its GEMM: each the generic tile compiled under the given attribute.
macro_rules! band_set {
    (#[$attr:meta] $dot:ty, $([$($mr:literal x $nv:literal),+]),+) => {{
        use $crate::{conv::kernel::{BandBlock, BandKernel, BandSet, run_band}, epilogue::Sign, gemm::kernel::Dot};
        #[$attr]
        unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut u8) {
            // SAFETY: same contract.
            unsafe { <$dot>::stage(src, len, sign, dst.cast()) }
        }
        &BandSet {
            value_bytes: size_of::<<$dot as Dot>::A>(),
            in_place: <$dot as Dot>::IN_PLACE,
            stage,
            tiles: &[$(&[$({
                #[$attr]
                unsafe fn run(block: &BandBlock<'_>) {
                    // SAFETY: the caller keeps the contract of `BandKernel::run`.
                    unsafe { run_band::<$dot, $mr, $nv>(block) }
                }
                BandKernel { mr: $mr, run }
            }),+]),+],
        }
    }};
}
pub(crate) use band_set;
