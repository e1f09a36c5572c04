//! im2col in blocks: the patches of some consecutive output pixels, as rows of a matrix small enough for the cache.

use std::ops::Range;

use super::{
    band::KOrder,
    geometry::{ConvGeometry, ConvSpec},
};

/// Bytes of patches that should stay in L1 and L2 while all panels of weights pass over them.
const BLOCK_BYTES: usize = 96 * 1024;

/// Blocks are multiples of this many pixels, which every MR but the smallest tails divides.
const PIXEL_STEP: usize = 24;

/// How patches are gathered.
pub(super) struct Patches<'a> {
    geometry: &'a ConvGeometry,
    order: KOrder,
    /// Channels of a patch.
    channels: usize,
    pad_value: u8,
    pixels: usize,
}

impl<'a> Patches<'a> {
    /// Blocks sized for the cache, and small enough that `threads` threads all find some.
    pub(super) fn new(
        geometry: &'a ConvGeometry,
        order: KOrder,
        channels: usize,
        pad_value: u8,
        threads: usize,
    ) -> Self {
        let threads = threads.max(1);
        let patch = order.k().max(1);
        let in_cache = BLOCK_BYTES / patch / PIXEL_STEP * PIXEL_STEP;
        let shared = geometry.pixels().div_ceil(threads * 4).next_multiple_of(PIXEL_STEP);
        let most = if threads == 1 { in_cache } else { in_cache.min(shared) };
        Self {
            geometry,
            order,
            channels,
            pad_value,
            pixels: most.max(PIXEL_STEP).min(geometry.pixels().max(1)),
        }
    }

    /// Pixels of a block.
    pub(super) fn pixels(&self) -> usize {
        self.pixels
    }

    /// Bytes of a patch: K of one matrix.
    pub(super) fn patch_bytes(&self) -> usize {
        self.order.k()
    }

    /// Bytes of a block.
    pub(super) fn bytes(&self) -> usize {
        self.pixels * self.patch_bytes()
    }

    /// Writes the patches of the output pixels `pixels`, of one matrix's channels, to `out`: one after the other, each
    /// in the order of its K.
    pub(super) fn gather(&self, x: &[u8], matrix: usize, pixels: Range<usize>, out: &mut [u8]) {
        let ConvSpec { in_h, in_w, in_c, kernel: [kh, kw], strides, dilations, pads, .. } =
            *self.geometry.spec();
        let (out_h, out_w) = (self.geometry.out_h(), self.geometry.out_w());
        let KOrder { taps, len, padded, .. } = self.order;
        let channels = self.channels;
        if channels == 0 {
            return;
        }
        // With all channels and no dilation the taps of a kernel row are one run of memory.
        let contiguous = dilations[1] == 1 && taps == kw;
        let mut runs = out.chunks_exact_mut(padded);
        let (mut image_and_row, mut next_ox) = (pixels.start / out_w, pixels.start % out_w);
        for _ in pixels {
            let (n, oy, ox) = (image_and_row / out_h, image_and_row % out_h, next_ox);
            next_ox += 1;
            if next_ox == out_w {
                (image_and_row, next_ox) = (image_and_row + 1, 0);
            }
            let left = (ox * strides[1]) as isize - pads[1] as isize;
            for (ky, first) in (0..kh).flat_map(|ky| (0..kw).step_by(taps).map(move |kx| (ky, kx)))
            {
                let Some(run) = runs.next() else { return };
                let (out, zeros) = run.split_at_mut(len);
                zeros.fill(0);
                let iy = (oy * strides[0] + ky * dilations[0]).wrapping_sub(pads[0]);
                if iy >= in_h {
                    out.fill(self.pad_value);
                    continue;
                }
                let image_row = &x[(n * in_h + iy) * in_w * in_c..][..in_w * in_c];
                if contiguous && channels == in_c && left >= 0 && left as usize + kw <= in_w {
                    copy_short(&image_row[left as usize * in_c..][..len], out);
                    continue;
                }
                for (kx, out) in out.chunks_exact_mut(channels).enumerate() {
                    let ix = left + ((first + kx) * dilations[1]) as isize;
                    if (0..in_w as isize).contains(&ix) {
                        copy_short(
                            &image_row[ix as usize * in_c + matrix * channels..][..channels],
                            out,
                        );
                    } else {
                        out.fill(self.pad_value);
                    }
                }
            }
        }
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
