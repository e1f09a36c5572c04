//! The micro-kernel of a convolution: the GEMM tile, over pixels whose patches lie in a band of input rows.
//!
//! ```text
//! pixel p, segment s:  band[offset(p) + segments[s] ..][..len]      a run of K in memory, len up to a multiple of KR
//! ```
//! Offsets of pixels and of segments are independent, so a tile keeps one pointer per pixel, adds that of each segment
//! in turn, and its accumulators stay in registers from the first tap to the last: no patch is ever written out.

use std::ops::Range;

use super::{
    remainders::Remainders,
    short::ShortSet,
    spread::{Lanes, Spread},
};
use crate::{
    epilogue::{Epilogue, Keep, NR, Sign, TileOut},
    gemm::{
        Core,
        kernel::{Dot, Strided, finish, for_each_row, group, start},
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
    pub(super) fn walk(self, pixel: usize) -> Walk {
        let (row, x) = (pixel / self.width, pixel % self.width);
        Walk { steps: self, x, at: row * self.row_step + x * self.step }
    }
}

/// The offsets of consecutive pixels.
pub(super) struct Walk {
    steps: PixelSteps,
    x: usize,
    at: usize,
}

impl Walk {
    /// The offsets of the next `MR` pixels.
    #[inline(always)]
    pub(super) fn next<const MR: usize>(&mut self) -> [usize; MR] {
        let PixelSteps { width, step, .. } = self.steps;
        let mut offsets = [0; MR];
        if MR <= width - self.x {
            for_each_row!(r < MR { offsets[r] = self.at + r * step; });
            self.advance(MR);
        } else {
            for_each_row!(r < MR {
                offsets[r] = self.at;
                self.advance(1);
            });
        }
        offsets
    }

    /// Goes on by so many pixels of this row.
    #[inline(always)]
    fn advance(&mut self, pixels: usize) {
        let PixelSteps { width, step, row_step } = self.steps;
        self.x += pixels;
        self.at += pixels * step;
        if self.x == width {
            self.x = 0;
            self.at = self.at + row_step - width * step;
        }
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
    /// Where groups of KR are that the remainders of runs share, with zeros at the end, and how many values they hold.
    pub(crate) shared: &'a [usize],
    pub(crate) remainders: usize,
}

impl Patch<'_> {
    /// Groups of KR in all segments.
    pub(super) fn groups(&self, kr: usize) -> usize {
        self.segments.len() * self.len.div_ceil(kr) + self.shared.len()
    }
}

/// Pixels of a band times some neighbouring panels of weights, of which each segment fills whole groups of KR.
pub(crate) struct BandBlock<'a> {
    /// The values of pixel 0 at offset 0.
    pub(super) band: *const u8,
    pub(super) patch: Patch<'a>,
    /// What was added to the stored activations.
    offset: i32,
    pub(super) first: usize,
    /// A multiple of the tile's MR.
    pub(super) pixels: usize,
    pub(super) b: *const i8,
    pub(super) panel: usize,
    pub(super) col: usize,
    pub(super) cols: usize,
    pub(super) epilogue: &'a Epilogue,
    /// At pixel `first`, column `col`.
    pub(super) to: TileOut,
    /// What the columns of a spread panel read of 16 channels.
    pub(super) lanes: &'a [Lanes],
}

impl BandBlock<'_> {
    /// Computes so many pixels from `first` on, with tiles by falling MR. Answers how many are left.
    ///
    /// # Safety
    /// As [`band_block`].
    unsafe fn run(&mut self, tiles: &[BandKernel], mut pixels: usize) -> usize {
        for tile in tiles {
            self.pixels = pixels / tile.mr * tile.mr;
            if self.pixels > 0 {
                // SAFETY: the next of the pixels that the caller granted.
                unsafe { (tile.run)(self) };
                self.first += self.pixels;
                self.to = self.to.at_row(self.pixels);
                pixels -= self.pixels;
            }
        }
        pixels
    }
}

/// A tile function and the number of pixels it computes at a time.
#[derive(Debug)]
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
    /// [`Remainders::collect`].
    ///
    /// # Safety
    /// The ISA's target features are supported.
    pub(crate) collect: unsafe fn(&Remainders, &mut [u8], &[usize], &[usize]),
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
    check(core, patch, panels.end);
    let short = ShortSet::for_patch(core, patch);
    let mut p = panels.start;
    while p < panels.end {
        let width = set.panels_per_tile(panels.end - p);
        let to = at_panel(core, to, p - panels.start);
        let mut block = BandBlock { band, ..block(core, patch, pixels.start, p, width, to) };
        let short = short.map_or(&[][..], |short| short.of_panels(width));
        // SAFETY: some of the columns that the caller granted; the check keeps the tile's panels inside the weights.
        unsafe {
            let left = block.run(short, pixels.len());
            block.run(set.tiles[width - 1], left);
        }
        p += width;
    }
}

/// [`band_block`] for weights that are packed to be spread over the groups of `spread`.
///
/// # Safety
/// As [`band_block`], where each panel reads 16 values of each segment from its own first channel on.
pub(crate) unsafe fn spread_block(
    core: &Core<'_>,
    spread: &Spread,
    band: *const u8,
    patch: Patch<'_>,
    pixels: Range<usize>,
    panels: Range<usize>,
    to: TileOut,
) {
    check(core, patch, panels.end);
    for p in panels.clone() {
        let to = at_panel(core, to, p - panels.start);
        let mut block = BandBlock {
            band: band.wrapping_add(spread.first_byte(p)),
            lanes: &spread.lanes,
            ..block(core, patch, pixels.start, p, 1, to)
        };
        // SAFETY: as in `band_block`; a segment has as many groups of KR as there are lanes.
        unsafe { block.run(spread.set.tiles, pixels.len()) };
    }
}

/// Panics unless weights are as long as said, and their K is that of `patch`.
fn check(core: &Core<'_>, patch: Patch<'_>, panels: usize) {
    let Core { layout, packed, epilogue, set, .. } = *core;
    assert!(
        panels <= layout.panels()
            && packed.len() >= layout.bytes()
            && patch.groups(set.kr) * set.kr == layout.k.next_multiple_of(set.kr)
            && epilogue.n() == layout.n
    );
}

/// `to`, so many panels on.
fn at_panel(core: &Core<'_>, to: TileOut, panels: usize) -> TileOut {
    let shift = panels * NR;
    TileOut {
        out: to.out.wrapping_add(shift * core.epilogue.element_bytes()),
        residual: to.residual.wrapping_add(shift),
        ..to
    }
}

/// The block of `width` panels from `panel` on, of no pixels and no band yet.
fn block<'a>(
    core: &Core<'a>,
    patch: Patch<'a>,
    first: usize,
    panel: usize,
    width: usize,
    to: TileOut,
) -> BandBlock<'a> {
    let Core { layout, packed, epilogue, a_sign, set, .. } = *core;
    let col = panel * NR;
    BandBlock {
        band: std::ptr::null(),
        patch,
        offset: set.offset(a_sign),
        first,
        pixels: 0,
        b: packed[panel * layout.panel_bytes()..].as_ptr(),
        panel: layout.panel_bytes(),
        col,
        cols: (layout.n - col).min(width * NR),
        epilogue,
        to,
        lanes: &[],
    }
}

/// Computes a block, MR pixels at a time.
///
/// # Safety
/// As [`BandKernel::run`].
#[inline(always)]
pub(crate) unsafe fn run_band<D: Dot, const MR: usize, const NV: usize>(block: &BandBlock<'_>) {
    let mut walk = block.patch.steps.walk(block.first);
    for done in (0..block.pixels).step_by(MR) {
        let offsets = walk.next();
        // SAFETY: `done + MR <= block.pixels`, so the tile's pixels lie inside the block's.
        unsafe { tile::<D, MR, NV>(block, done, offsets) }
    }
}

/// Computes the tile of `MR` pixels after the first `done`, which are at `offsets`.
#[inline(always)]
unsafe fn tile<D: Dot, const MR: usize, const NV: usize>(
    block: &BandBlock<'_>,
    done: usize,
    offsets: [usize; MR],
) {
    let BandBlock { band, patch, offset, b, panel, col, cols, epilogue, to, .. } = *block;
    let Patch { segments, len, shared, remainders, .. } = patch;
    let mut pixels = [band.cast::<D::A>(); MR];
    for_each_row!(r < MR { pixels[r] = pixels[r].wrapping_add(offsets[r]); });
    let groups = len.div_ceil(D::KR);
    // SAFETY: the segments of these pixels are readable, the panels hold so many groups for each, and the tile's output
    // is exclusive (contract of `band_block`); the features are the entry point's.
    unsafe {
        let mut acc = start::<D, MR, NV>(epilogue, col);
        let mut weights = b;
        // One loop for both: in a second one LLVM would find other registers for the accumulators, and too few.
        for i in 0..segments.len() + shared.len() {
            let (at, groups) = match segments.get(i) {
                Some(&segment) => (segment, groups),
                None => (shared[i - segments.len()], 1),
            };
            for g in 0..groups {
                let row = |r: usize| pixels[r].wrapping_add(at + g * D::KR);
                group::<D, MR, NV>(&mut acc, row, Strided { first: weights, stride: panel });
                weights = weights.add(NR * D::KR);
            }
        }
        let row_sum = |r: usize| {
            let value = |a: &D::A| match D::STAGED_AS {
                Some(Sign::S8) => i32::from((*a).into() as i8),
                _ => (*a).into(),
            };
            let sum = |at: usize, len: usize| -> i32 {
                let values = std::slice::from_raw_parts(pixels[r].add(at), len);
                values.iter().map(value).sum()
            };
            let runs: i32 = segments.iter().map(|&at| sum(at, len)).sum();
            let shared: i32 = shared.iter().map(|&at| sum(at, D::KR)).sum();
            runs + shared - offset * (segments.len() * len + remainders) as i32
        };
        finish::<D, MR, NV>(&mut acc, epilogue, (col, cols), to.at_row(done), row_sum, &Keep);
    }
}

/// The [`BandSet`] of an ISA, with the tiles of its GEMM: each the generic tile compiled under the given attribute.
macro_rules! band_set {
    (#[$attr:meta] $dot:ty, $([$($mr:literal x $nv:literal $(x $u:literal)?),+]),+) => {{
        use $crate::{
            conv::{Remainders, kernel::{BandBlock, BandKernel, BandSet, run_band}},
            epilogue::Sign,
            gemm::kernel::Dot,
        };
        #[$attr]
        unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut u8) {
            // SAFETY: same contract.
            unsafe { <$dot>::stage(src, len, sign, dst.cast()) }
        }
        &BandSet {
            value_bytes: size_of::<<$dot as Dot>::A>(),
            in_place: <$dot as Dot>::IN_PLACE,
            stage,
            collect: {
                #[$attr]
                unsafe fn collect(
                    remainders: &Remainders,
                    band: &mut [u8],
                    segments: &[usize],
                    planes: &[usize],
                ) {
                    remainders.collect(band, segments, planes);
                }
                collect
            },
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
