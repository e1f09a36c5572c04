//! Bands: the input rows under some output rows, padded and stored as the dot product reads them.
//!
//! ```text
//! output rows r .. r + n  ◀  band: (n − 1)·stride + reach input rows, each  [padding | image row | padding]
//! ```
//! A band is a copy of each input byte, where im2col makes one per tap. Where nothing must be padded or converted the
//! image itself is the band.

use std::ops::Range;

use super::{
    kernel::{BandSet, Patch, PixelSteps},
    remainders::Remainders,
};
use crate::{KernelError, epilogue::Sign, gemm::amx, par::tasks_for};

/// Bytes of a band that should stay in L2 while all panels of weights pass over it.
const BAND_BYTES: usize = 160 * 1024;

/// The same for tile registers, which take most of their time for the panels.
const TILE_BAND_BYTES: usize = 512 * 1024;

/// How many patches must read each value that is copied for them, on average: of fewer, a copy of patches takes less time.
const LEAST_READS: usize = 2;

/// Pixels of a band over which the loads of weights into L1 are spread, if the image has so many.
const BAND_PIXELS: usize = 96;

/// Values after a band: KR of any ISA, which the last segment and the last staged value may round up to.
const SLACK: usize = 64;

/// Bytes of padding that are staged at a time.
const PADDING: usize = 4096;

/// Alignment of a band: no broadcast load of an aligned pixel crosses a cache line.
const ALIGN: usize = 64;

/// Which pixels of an image each output pixel reads: tap (ky, kx) of output (oy, ox) reads row
/// `origin[0] + oy·strides[0] + ky·dilations[0]`, and its column alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) image: [usize; 2],
    pub(super) channels: usize,
    pub(super) origin: [isize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pub(super) dilations: [usize; 2],
    pub(super) out: [usize; 2],
}

/// The order of K in packed weights: runs of taps, of the channels of a group each, padded with zeros to whole groups
/// of KR so that every run starts one; or cut to whole groups, the remainders of all runs together after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KOrder {
    /// Runs.
    pub(super) segments: usize,
    /// Taps of a run: those of a kernel row where they are neighbours in memory, or one.
    pub(super) taps: usize,
    /// Values of a run.
    pub(super) len: usize,
    /// Values with the zeros, or without the remainder.
    pub(super) padded: usize,
    /// Values of the groups that remainders share, with zeros up to whole groups.
    pub(super) shared: usize,
}

impl KOrder {
    /// The order for taps of `channels` each, of which those of a kernel row may be `neighbours` in memory.
    pub(super) fn new([kh, kw]: [usize; 2], channels: usize, neighbours: bool, kr: usize) -> Self {
        let (segments, taps) = if neighbours { (kh, kw) } else { (kh * kw, 1) };
        let len = taps * channels;
        let padded = if segments == 1 { len } else { len.next_multiple_of(kr) };
        Self { segments, taps, len, padded, shared: 0 }
    }

    /// The same with remainders that share groups if that saves a tenth, for pixels that are `step` values apart.
    pub(super) fn sharing(self, kr: usize, step: usize) -> Self {
        let cut = self.len / kr * kr;
        let shared = (self.segments * (self.len - cut)).next_multiple_of(kr);
        let saved = self.k().saturating_sub(self.segments * cut + shared);
        // A group of a pixel's remainders must end before the next pixel's.
        if cut > 0 && step >= kr && saved > 0 && saved * 10 >= self.k() {
            Self { padded: cut, shared, ..self }
        } else {
            self
        }
    }

    /// Values of all runs.
    pub(super) fn k(&self) -> usize {
        self.segments * self.padded + self.shared
    }

    /// Values of a run that are read from where it lies.
    pub(super) fn in_place(&self) -> usize {
        self.len.min(self.padded)
    }

    /// The run that value `i` of the shared groups comes from, and its index there, or none for a zero.
    pub(super) fn remainder(&self, i: usize) -> Option<(usize, usize)> {
        let len = self.len - self.padded;
        (i < self.segments * len).then(|| (i / len, self.padded + i % len))
    }

    /// Tap and channel of the value `k`, or none for a zero.
    pub(super) fn tap_and_channel(&self, k: usize) -> Option<(usize, usize)> {
        let (segment, i) = match k.checked_sub(self.segments * self.padded) {
            Some(shared) => self.remainder(shared)?,
            None => (k / self.padded, k % self.padded),
        };
        let channels = self.len / self.taps;
        (i < self.len).then(|| (segment * self.taps + i / channels, i % channels))
    }
}

/// A convolution's bands.
#[derive(Debug)]
pub(super) struct Band {
    set: &'static BandSet,
    sign: Sign,
    window: Window,
    in_place: bool,
    /// Values of a row, and of one with the planes of remainders that follow it.
    row: usize,
    pitch: usize,
    /// Where the runs of a pixel's patch start, then its remainders in each plane.
    segments: Vec<usize>,
    len: usize,
    remainders: Remainders,
    /// Padding, as much as is staged at a time.
    padding: Vec<u8>,
    /// Values after a band that kernels may read, and bytes of a band that should stay in a cache.
    slack: usize,
    cached: usize,
}

impl Band {
    /// The bands of `window` for weights in the order `order`, if that order can be read from one. `exact` says whether
    /// kernels read nothing but the values of a segment, if these are whole groups of KR.
    ///
    /// # Errors
    /// If tables for a row of the result are larger than any is.
    pub(super) fn new(
        set: &'static BandSet,
        sign: Sign,
        window: Window,
        order: KOrder,
        kr: usize,
        exact: bool,
        pad_value: u8,
    ) -> Result<Option<Self>, KernelError> {
        let Window { image, channels, origin, kernel: [kh, kw], strides, dilations, out } = window;
        let one_run = order.taps == 1 || dilations[1] == 1;
        let per_tap = order.len / order.taps.max(1);
        if !one_run && !per_tap.is_multiple_of(kr) {
            return Ok(None);
        }
        let reach = |axis: usize| {
            out[axis].saturating_sub(1) * strides[axis]
                + (window.kernel[axis].max(1) - 1) * dilations[axis]
                + 1
        };
        let inside = (0..2)
            .all(|axis| origin[axis] >= 0 && origin[axis] as usize + reach(axis) <= image[axis]);
        let in_place =
            inside && exact && set.in_place == Some(sign) && order.len.is_multiple_of(kr);
        let columns = if in_place { image[1] } else { reach(1) };
        let row = columns * channels;
        let remainders =
            Remainders::new(order, kr, set.value_bytes, out[1], strides[1] * channels)?;
        let pitch = row + remainders.planes() * remainders.width;
        let (taps, len) = if one_run { (order.taps, order.in_place()) } else { (1, per_tap) };
        let segments = (0..kh)
            .flat_map(|ky| (0..kw).step_by(taps.max(1)).map(move |kx| (ky, kx)))
            .map(|(ky, kx)| ky * dilations[0] * pitch + kx * dilations[1] * channels)
            .chain((0..remainders.planes()).map(|plane| row + plane * remainders.width))
            .collect();
        let padding = if in_place { Vec::new() } else { vec![pad_value; row.min(PADDING)] };
        Ok(Some(Self {
            set,
            sign,
            window,
            in_place,
            row,
            pitch,
            segments,
            len,
            remainders,
            padding,
            slack: SLACK,
            cached: BAND_BYTES,
        }))
    }

    /// The same for tile registers, if they should read from bands.
    pub(super) fn for_tiles(mut self) -> Option<Self> {
        let patch = self.patch();
        let slack = amx::band_slack(patch.steps);
        let k = patch.segments.len() * patch.len;
        let takes = amx::takes_band(&patch);
        self.cached = TILE_BAND_BYTES;
        let [out_h, out_w] = self.window.out;
        let rows = self.cached_rows().min(out_h);
        let copied = self.input_rows(rows).saturating_mul(self.pitch);
        let read = rows.saturating_mul(out_w).saturating_mul(k);
        self.slack = self.slack.saturating_add(slack);
        (takes && copied.saturating_mul(LEAST_READS) <= read).then_some(self)
    }

    pub(super) fn set(&self) -> &'static BandSet {
        self.set
    }

    /// The patches of a group that starts at `channel` are those of this one, so many values on.
    pub(super) fn patch(&self) -> Patch<'_> {
        let Window { channels, strides, out, .. } = self.window;
        let steps = PixelSteps {
            width: out[1],
            step: strides[1] * channels,
            row_step: strides[0] * self.pitch,
        };
        let runs = self.segments.len() - self.remainders.planes();
        let (segments, shared) = self.segments.split_at(runs);
        Patch { steps, segments, len: self.len, shared, remainders: self.remainders.values() }
    }

    /// Input rows under `rows` output rows.
    fn input_rows(&self, rows: usize) -> usize {
        let Window { kernel, strides, dilations, .. } = self.window;
        rows.saturating_sub(1) * strides[0] + (kernel[0].max(1) - 1) * dilations[0] + 1
    }

    /// Bytes of scratch for a band of `rows` output rows.
    pub(super) fn bytes(&self, rows: usize) -> usize {
        if self.in_place {
            return 0;
        }
        (self.input_rows(rows) * self.pitch + self.slack) * self.set.value_bytes + ALIGN
    }

    /// The most output rows whose band should stay in its cache, but at least one.
    fn cached_rows(&self) -> usize {
        let one = self.pitch.max(1) * self.set.value_bytes;
        (self.cached / one).saturating_sub(self.input_rows(1)) / self.window.strides[0] + 1
    }

    /// How images are cut into bands for `threads` threads, and the panels of weights into parts, where an output pixel
    /// is `macs` multiply-adds and there are `units` that panels can be cut into.
    pub(super) fn split(&self, batch: usize, macs: usize, units: usize, threads: usize) -> Split {
        let [out_h, out_w] = self.window.out;
        let fit = self.cached_rows();
        let least = BAND_PIXELS.div_ceil(out_w.max(1));
        let pixels = batch.saturating_mul(out_h).saturating_mul(out_w);
        let wanted = tasks_for(threads, pixels.saturating_mul(macs));
        let shared = (batch * out_h).div_ceil(wanted);
        let rows = fit.min(shared.max(least)).max(1).min(out_h.max(1));
        let bands = out_h.div_ceil(rows);
        let parts = wanted.div_ceil((batch * bands).max(1)).clamp(1, units.max(1));
        let units_per_part = units.div_ceil(parts).max(1);
        Split { rows, bands, parts: units.div_ceil(units_per_part).max(1), units_per_part, units }
    }

    /// Stages `values` values of padding.
    fn pad(&self, values: usize, stage: &mut impl FnMut(&[u8])) {
        let mut left = values;
        while left > 0 {
            let part = &self.padding[..left.min(PADDING)];
            stage(part);
            left -= part.len();
        }
    }

    /// The band of the output rows `rows` of `image`: in `scratch`, of [`Self::bytes`], or the image itself.
    pub(super) fn fill(&self, image: &[u8], rows: Range<usize>, scratch: &mut [u8]) -> *const u8 {
        let Window { image: [in_h, in_w], channels, origin, kernel, strides, dilations, .. } =
            self.window;
        let top = origin[0] + (rows.start * strides[0]) as isize;
        if self.in_place {
            return image[(top as usize * in_w + origin[1] as usize) * channels..].as_ptr();
        }
        let value = self.set.value_bytes;
        let count = self.input_rows(rows.len());
        let start = scratch.as_ptr().align_offset(ALIGN);
        let band = &mut scratch[start..][..(count * self.pitch + self.slack) * value];
        let planes = self.remainders.planes();
        let (runs, shared) = self.segments.split_at(self.segments.len() - planes);
        let columns = self.row / channels.max(1);
        let before = origin[1].min(0).unsigned_abs().min(columns);
        let first = origin[1].max(0) as usize;
        let inside = in_w.saturating_sub(first).min(columns - before);
        for row in 0..count {
            let read = |ky: usize| ky * dilations[0] % strides[0] == row % strides[0];
            if strides[0] > kernel[0] && !(0..kernel[0]).any(read) {
                continue;
            }
            let mut at = row * self.pitch;
            // Values are rounded up to whole groups, so from left to right and from top to bottom.
            let mut stage = |bytes: &[u8]| {
                let to = &mut band[at * value..][..(bytes.len() + SLACK) * value];
                // SAFETY: room for `bytes` and SLACK values, aligned because the band is and values are whole; the set
                // is that of weights packed for an ISA that a `Cpu` proved.
                unsafe {
                    (self.set.stage)(bytes.as_ptr(), bytes.len(), self.sign, to.as_mut_ptr())
                };
                at += bytes.len();
            };
            let (before, image) = match usize::try_from(top + row as isize) {
                Ok(y) if y < in_h && inside > 0 => {
                    (before, &image[(y * in_w + first) * channels..][..inside * channels])
                }
                _ => (columns, &[][..]),
            };
            let after = self.row - before * channels - image.len();
            self.pad(before * channels, &mut stage);
            stage(image);
            self.pad(after, &mut stage);
        }
        if planes > 0 {
            for row in 0..rows.len() {
                let band = &mut band[row * strides[0] * self.pitch * value..];
                // SAFETY: the set is that of weights packed for an ISA that a `Cpu` proved.
                unsafe { (self.set.collect)(&self.remainders, band, runs, shared) }
            }
        }
        band.as_ptr()
    }
}

/// How a convolution is cut into tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    /// Output rows of a band.
    pub(super) rows: usize,
    /// Bands of an image.
    pub(super) bands: usize,
    /// Parts that the weights are cut into.
    pub(super) parts: usize,
    units_per_part: usize,
    units: usize,
}

impl Split {
    /// The units of part `part`.
    pub(super) fn units(&self, part: usize) -> Range<usize> {
        part * self.units_per_part..((part + 1) * self.units_per_part).min(self.units)
    }
}
