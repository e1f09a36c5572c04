//! im2col in blocks: the patches of some consecutive output pixels, as rows of a matrix small enough for the cache.

use std::ops::Range;

use super::{
    band::KOrder,
    geometry::{ConvGeometry, ConvSpec},
};
use crate::{
    cpu::Cpu,
    gemm::{amx, kernel::KernelSet},
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
        gather(cpu, self, x, matrix, pixels, out);
        out
    }

    #[inline(always)]
    fn gather_to(&self, x: &[u8], matrix: usize, pixels: Range<usize>, out: &mut [u8]) {
        let ConvSpec { in_h, in_w, in_c, kernel: [kh, kw], strides, dilations, pads, .. } =
            *self.geometry.spec();
        let (out_h, out_w) = (self.geometry.out_h(), self.geometry.out_w());
        let KOrder { taps, len, padded, .. } = self.order;
        let channels = self.channels;
        if channels == 0 {
            return;
        }
        // With all channels and no dilation the taps of a kernel row are one run of memory.
        // These have a branch of their own below: in one loop over runs of both kinds, gathering took twice as long.
        let contiguous = dilations[1] == 1 && taps == kw && channels == in_c;
        let mut patches = out.chunks_exact_mut(self.patch_bytes);
        let (mut next_ox, image_row) = (pixels.start % out_w, pixels.start / out_w);
        let mut place = (image_row / out_h, image_row % out_h);
        for _ in pixels {
            let Some(patch) = patches.next() else { return };
            let mut runs = patch.chunks_exact_mut(padded);
            let ((n, oy), ox) = (place, next_ox);
            next_ox += 1;
            if next_ox == out_w {
                next_ox = 0;
                place = if oy + 1 < out_h { (n, oy + 1) } else { (n + 1, 0) };
            }
            let left = (ox * strides[1]) as isize - pads[1] as isize;
            // The taps of a kernel row that lie in the image.
            let inside = (-left).clamp(0, kw as isize) as usize
                ..(in_w as isize - left).clamp(0, kw as isize) as usize;
            for ky in 0..kh {
                let iy = (oy * strides[0] + ky * dilations[0]).wrapping_sub(pads[0]);
                if contiguous {
                    let Some(run) = runs.next() else { return };
                    let (out, zeros) = run.split_at_mut(len);
                    if !zeros.is_empty() {
                        zeros.fill(0);
                    }
                    if iy >= in_h || inside.is_empty() {
                        out.fill(self.pad_value);
                        continue;
                    }
                    let column = (left + inside.start as isize) as usize;
                    let first = ((n * in_h + iy) * in_w + column) * in_c;
                    let from = &x[first..][..inside.len() * in_c];
                    if inside.len() == kw {
                        copy_run(from, out);
                    } else {
                        let (before, out) = out.split_at_mut(inside.start * in_c);
                        let (out, after) = out.split_at_mut(from.len());
                        before.fill(self.pad_value);
                        copy_run(from, out);
                        after.fill(self.pad_value);
                    }
                    continue;
                }
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
}

#[inline(always)]
fn gather_patches(
    patches: &Patches<'_>,
    x: &[u8],
    matrix: usize,
    pixels: Range<usize>,
    out: &mut [u8],
) {
    patches.gather_to(x, matrix, pixels, out);
}

multiversion! {
    fn gather = gather_patches(
        patches: &Patches<'_>, x: &[u8], matrix: usize, pixels: Range<usize>, out: &mut [u8],
    )
}

/// `dst.copy_from_slice(src)`, without a call for runs of whole lines or less than one.
#[inline(always)]
fn copy_run(src: &[u8], dst: &mut [u8]) {
    let ((lines, []), (to, _)) = (src.as_chunks::<LINE>(), dst.as_chunks_mut::<LINE>()) else {
        return copy_short(src, dst);
    };
    for (to, line) in to.iter_mut().zip(lines) {
        *to = *line;
    }
}

/// `dst.copy_from_slice(src)`, without a call for the short runs of thin layers.
#[inline(always)]
pub(crate) fn copy_short<T: Copy>(src: &[T], dst: &mut [T]) {
    /// Two copies of `N` values that overlap in the middle.
    #[inline(always)]
    fn ends<T: Copy, const N: usize>(src: &[T], dst: &mut [T]) {
        if let (Some(first), Some(last)) = (src.first_chunk::<N>(), src.last_chunk::<N>()) {
            let (first, last) = (*first, *last);
            dst[..N].copy_from_slice(&first);
            let at = dst.len() - N;
            dst[at..].copy_from_slice(&last);
        }
    }
    assert_eq!(src.len(), dst.len());
    match src.len() {
        65.. => dst.copy_from_slice(src),
        32.. => ends::<T, 32>(src, dst),
        16.. => ends::<T, 16>(src, dst),
        8.. => ends::<T, 8>(src, dst),
        4.. => ends::<T, 4>(src, dst),
        _ => dst.iter_mut().zip(src).for_each(|(d, s)| *d = *s),
    }
}
