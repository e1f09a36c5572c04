//! im2col in blocks: the patches of some consecutive output pixels, as rows of a matrix small enough for the cache.

use std::ops::Range;

use super::{
    band::KOrder,
    geometry::{ConvGeometry, ConvSpec},
};
use crate::{
    cpu::Cpu,
    gemm::{amx, kernel::KernelSet},
    layout::{Runs, copy_run},
    multiversion::multiversion,
    par::MAX_THREADS,
};

/// Patches start at multiples of this, in a set of kernels that reads whole lines.
const LINE: usize = 64;

/// How many patches are gathered at a time, for the kernels that multiply them.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockSize {
    /// Blocks are multiples of this many pixels, which every MR but the smallest tails divides.
    pixels: usize,
    /// Bytes of patches that should stay in L1 and L2 while all panels of weights pass over them.
    bytes: usize,
    /// Patches start at multiples of this.
    align: usize,
    /// Only so many of a block's patches are in memory at a time.
    at_a_time: usize,
}

impl BlockSize {
    /// For the kernels of `set` and patches of `k` values: tiles ask for patches when they need them.
    pub(super) fn of(set: &KernelSet, k: usize) -> Self {
        match set.tiles_for(k) {
            None => Self { pixels: 24, bytes: 96 * 1024, align: 1, at_a_time: usize::MAX },
            Some(_) => {
                let pixels = amx::GROUP_ROWS;
                Self { pixels, bytes: usize::MAX, align: LINE, at_a_time: pixels }
            }
        }
    }
}

/// How patches are gathered.
pub(super) struct Patches<'a> {
    geometry: &'a ConvGeometry,
    order: KOrder,
    /// Channels of a patch.
    channels: usize,
    pad_value: u8,
    pixels: usize,
    at_a_time: usize,
    /// Bytes from one patch to the next.
    patch_bytes: usize,
}

impl<'a> Patches<'a> {
    /// Blocks sized for the cache, and small enough that `threads` threads all find some.
    pub(super) fn new(
        geometry: &'a ConvGeometry,
        order: KOrder,
        channels: usize,
        pad_value: u8,
        threads: usize,
        size: BlockSize,
    ) -> Self {
        let threads = threads.clamp(1, MAX_THREADS);
        let step = size.pixels;
        let patch_bytes = order.k().next_multiple_of(size.align);
        let in_cache = size.bytes / patch_bytes.max(1) / step * step;
        let shared = geometry.pixels().div_ceil(threads * 4).next_multiple_of(step);
        let most = if threads == 1 { in_cache } else { in_cache.min(shared) };
        Self {
            geometry,
            order,
            channels,
            pad_value,
            pixels: most.max(step).min(geometry.pixels().max(1)),
            at_a_time: size.at_a_time,
            patch_bytes,
        }
    }

    /// Pixels of a block.
    pub(super) fn pixels(&self) -> usize {
        self.pixels
    }

    /// Bytes from one patch to the next: K of one matrix, or a little more.
    pub(super) fn patch_bytes(&self) -> usize {
        self.patch_bytes
    }

    /// Bytes of scratch that patches need, wherever it begins.
    pub(super) fn bytes(&self) -> usize {
        self.pixels.min(self.at_a_time) * self.patch_bytes + LINE
    }

    /// Writes the patches of the output pixels `pixels`, of one matrix's channels, into `scratch`: one after the other,
    /// each in the order of its K. The answer is where they begin, at a line.
    pub(super) fn gather<'s>(
        &self,
        cpu: Cpu,
        x: &[u8],
        matrix: usize,
        pixels: Range<usize>,
        scratch: &'s mut [u8],
    ) -> &'s [u8] {
        let start = scratch.as_ptr().align_offset(LINE);
        let out = &mut scratch[start..][..pixels.len() * self.patch_bytes];
        gather(cpu, self, cpu, x, matrix, pixels, out);
        out
    }

    #[inline(always)]
    fn gather_to(&self, cpu: Cpu, x: &[u8], matrix: usize, pixels: Range<usize>, out: &mut [u8]) {
        let (out_h, out_w) = (self.geometry.out_h(), self.geometry.out_w());
        if self.channels == 0 || self.patch_bytes == 0 {
            return;
        }
        let whole = self.whole_columns();
        let (mut ox, image_row) = (pixels.start % out_w, pixels.start / out_w);
        let (mut n, mut oy) = (image_row / out_h, image_row % out_h);
        let mut out = out;
        while !out.is_empty() {
            let left = out.len() / self.patch_bytes;
            let inside = whole.contains(&ox);
            let count = if inside { left.min(whole.end - ox) } else { 1 };
            let (patches, rest) = out.split_at_mut(count * self.patch_bytes);
            if inside {
                self.gather_neighbours(cpu, x, [n, oy, ox], count, patches);
            } else {
                self.gather_patch(x, matrix, [n, oy, ox], patches);
            }
            out = rest;
            ox += count;
            if ox == out_w {
                (ox, oy) = (0, oy + 1);
                if oy == out_h {
                    (oy, n) = (0, n + 1);
                }
            }
        }
    }

    /// With all channels and no dilation the taps of a kernel row are one run of memory.
    fn is_contiguous(&self) -> bool {
        let ConvSpec { in_c, kernel, dilations, .. } = self.geometry.spec();
        dilations[1] == 1 && self.order.taps == kernel[1] && self.channels == *in_c
    }

    /// Columns of the output whose patches are such runs within the image's width.
    fn whole_columns(&self) -> Range<usize> {
        let ConvSpec { in_w, kernel: [_, kw], strides, pads, .. } = *self.geometry.spec();
        if !self.is_contiguous() || in_w + pads[1] < kw {
            return 0..0;
        }
        let end = (in_w + pads[1] - kw) / strides[1] + 1;
        pads[1].div_ceil(strides[1])..end.min(self.geometry.out_w())
    }

    /// The patches of `count` neighbours from a whole column on: runs at equal distances for each kernel row.
    #[inline(always)]
    fn gather_neighbours(
        &self,
        cpu: Cpu,
        x: &[u8],
        [n, oy, ox]: [usize; 3],
        count: usize,
        patches: &mut [u8],
    ) {
        let ConvSpec { in_h, in_w, in_c, kernel: [kh, _], strides, dilations, pads, .. } =
            *self.geometry.spec();
        let KOrder { len, padded, .. } = self.order;
        for ky in 0..kh {
            let iy = (oy * strides[0] + ky * dilations[0]).wrapping_sub(pads[0]);
            let runs = &mut patches[ky * padded..];
            if padded > len {
                runs.chunks_mut(self.patch_bytes).for_each(|run| run[len..padded].fill(0));
            }
            if iy >= in_h {
                let rows = runs.chunks_mut(self.patch_bytes);
                rows.for_each(|run| run[..len].fill(self.pad_value));
            } else {
                let first = ((n * in_h + iy) * in_w + ox * strides[1] - pads[1]) * in_c;
                // A stride that is never taken may be any number.
                let steps = [strides[1].saturating_mul(in_c), self.patch_bytes];
                Runs { count, len, steps }.copy(cpu, &x[first..], runs);
            }
        }
    }

    /// The patch of one output pixel.
    #[inline(always)]
    fn gather_patch(&self, x: &[u8], matrix: usize, [n, oy, ox]: [usize; 3], patch: &mut [u8]) {
        let ConvSpec { in_h, in_w, in_c, kernel: [kh, kw], strides, dilations, pads, .. } =
            *self.geometry.spec();
        let (KOrder { taps, len, padded, .. }, channels) = (self.order, self.channels);
        let left = (ox * strides[1]) as isize - pads[1] as isize;
        let mut runs = patch.chunks_exact_mut(padded);
        for ky in 0..kh {
            let iy = (oy * strides[0] + ky * dilations[0]).wrapping_sub(pads[0]);
            for first in (0..kw).step_by(taps) {
                let Some(run) = runs.next() else { return };
                let (out, zeros) = run.split_at_mut(len);
                zeros.fill(0);
                if iy >= in_h {
                    out.fill(self.pad_value);
                    continue;
                }
                let image_row = &x[(n * in_h + iy) * in_w * in_c..][..in_w * in_c];
                for (kx, out) in out.chunks_exact_mut(channels).enumerate() {
                    let ix = left + ((first + kx) * dilations[1]) as isize;
                    if (0..in_w as isize).contains(&ix) {
                        let from = ix as usize * in_c + matrix * channels;
                        copy_run(&image_row[from..][..channels], out);
                    } else {
                        out.fill(self.pad_value);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn gather_patches(
    patches: &Patches<'_>,
    isa: Cpu,
    x: &[u8],
    matrix: usize,
    pixels: Range<usize>,
    out: &mut [u8],
) {
    patches.gather_to(isa, x, matrix, pixels, out);
}

multiversion! {
    fn gather = gather_patches(
        patches: &Patches<'_>, isa: Cpu, x: &[u8], matrix: usize, pixels: Range<usize>, out: &mut [u8],
    )
}
