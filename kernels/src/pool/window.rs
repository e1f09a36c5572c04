//! The geometry that all pools share.

use std::ops::Range;

use crate::error::{KernelError, check_len, checked_product};
use crate::par::Parallel;
use crate::split;

/// The elements of the largest window whose places are listed.
const MAX_TAPS: usize = 64;

/// Sizes of a pooling operation: input `[batch, height, width, channels]`, output
/// `[batch, out[0], out[1], channels]`, both row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Images.
    pub batch: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Window rows and columns.
    pub kernel: [usize; 2],
    /// Step of the window.
    pub stride: [usize; 2],
    /// Distance between the elements of a window.
    pub dilation: [usize; 2],
    /// Padding at top, left, bottom and right.
    pub pads: [usize; 4],
    /// Output rows and columns. The caller computes them, since `ceil_mode` and automatic padding are the
    /// model format's business; a window may reach past the padding.
    pub out: [usize; 2],
}

/// The part of one window that lies in the input: `ky` and `kx` of the window.
pub(super) struct Window {
    pub(super) ky: Range<usize>,
    pub(super) kx: Range<usize>,
    /// Elements of the window that lie in the input or its padding.
    pub(super) padded_count: usize,
    oy: usize,
    ox: usize,
    image: usize,
}

impl Window {
    pub(super) fn count(&self) -> usize {
        self.ky.len() * self.kx.len()
    }
}

/// Walks the windows of an output row.
///
/// Windows that lie inside of the input's columns have the same taps and move by `base`, so that a whole row costs
/// little more geometry than one window.
pub(super) struct Windows<'a> {
    shape: &'a PoolShape,
    row: usize,
    /// Output columns whose windows lie inside of the input's columns.
    inside: Range<usize>,
    next: usize,
    pub(super) window: Window,
    /// Channel 0 of the window's elements is at `base` + tap.
    pub(super) base: usize,
    taps: [usize; MAX_TAPS],
    len: usize,
}

impl Windows<'_> {
    /// Goes to the window of the next output column.
    #[inline(always)]
    pub(super) fn advance(&mut self) {
        let (shape, ox) = (self.shape, self.next);
        self.next += 1;
        if ox > self.inside.start && ox < self.inside.end {
            self.base += shape.stride[1] * shape.channels;
        } else {
            self.list(ox);
        }
    }

    fn list(&mut self, ox: usize) {
        self.window = self.shape.window(self.row, ox);
        (self.base, self.len) = (0, 0);
        let (taps, len) = (&mut self.taps, &mut self.len);
        self.shape.taps(&self.window, |at| {
            taps[*len] = at;
            *len += 1;
        });
    }

    #[inline(always)]
    pub(super) fn taps(&self) -> &[usize] {
        &self.taps[..self.len]
    }
}

impl PoolShape {
    /// Fails unless all sizes are usable and fit into memory.
    pub(super) fn check(&self) -> Result<(), KernelError> {
        let positive = |what, v: [usize; 2]| {
            if v.contains(&0) {
                Err(KernelError::invalid(what, format!("{v:?}"), "positive"))
            } else {
                Ok(())
            }
        };
        positive("the pooling kernel", self.kernel)?;
        positive("the pooling stride", self.stride)?;
        positive("the pooling dilation", self.dilation)?;
        checked_product(
            "the pooled tensor",
            &[self.batch, self.height, self.width, self.channels],
        )?;
        checked_product(
            "the pooling output",
            &[self.batch, self.out[0], self.out[1], self.channels],
        )?;
        checked_product("the pooling window", &self.kernel)?;
        for i in 0..2 {
            // Keeps every coordinate below usize::MAX / 2.
            checked_product("the pooling output", &[self.out[i], self.stride[i], 4])?;
            checked_product("the pooling window", &[self.kernel[i], self.dilation[i], 4])?;
            checked_product("the pooling padding", &[self.pads[i], 4])?;
            checked_product("the pooling padding", &[self.pads[i + 2], 4])?;
        }
        Ok(())
    }

    /// Elements of the input.
    pub fn in_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Elements of the output.
    pub fn out_len(&self) -> usize {
        self.batch * self.out[0] * self.out[1] * self.channels
    }

    /// Checks the slices and calls `task(row, out_row)` for every output row (of all images, counted
    /// through), spread over `par`.
    pub(super) fn run<T, Y: Send>(
        &self,
        par: &dyn Parallel,
        x: &[T],
        y: &mut [Y],
        task: impl Fn(usize, &mut [Y]) + Sync,
    ) -> Result<(), KernelError> {
        check_len("x", x.len(), self.in_len())?;
        check_len("y", y.len(), self.out_len())?;
        let row = self.out[1] * self.channels;
        if y.is_empty() {
            return Ok(());
        }
        let rows = split::rows_per_task(row * size_of::<Y>() * self.kernel[0] * self.kernel[1]);
        split::chunks(par, y, rows * row, |i, y| {
            for (r, y) in y.chunks_mut(row).enumerate() {
                task(i * rows + r, y);
            }
        });
        Ok(())
    }

    /// The window of output column `ox` in output row `row`.
    #[inline(always)]
    pub(super) fn window(&self, row: usize, ox: usize) -> Window {
        let (image, oy) = (row / self.out[0], row % self.out[0]);
        let along = |i: usize, o: usize, size: usize| {
            let (start, step, pad) = (o * self.stride[i], self.dilation[i], self.pads[i]);
            // Elements k of the window with start + k·step below the limit.
            let below =
                |limit: usize| limit.saturating_sub(start).div_ceil(step).min(self.kernel[i]);
            (below(pad)..below(pad + size), below(pad + size + self.pads[i + 2]))
        };
        let (ky, rows) = along(0, oy, self.height);
        let (kx, columns) = along(1, ox, self.width);
        Window { ky, kx, padded_count: rows * columns, oy, ox, image }
    }

    /// Calls `f` with the index in the input of channel 0 of each element of `window`, row by row.
    #[inline(always)]
    pub(super) fn taps(&self, window: &Window, mut f: impl FnMut(usize)) {
        for ky in window.ky.clone() {
            let iy = window.oy * self.stride[0] + ky * self.dilation[0] - self.pads[0];
            let row = (window.image * self.height + iy) * self.width;
            for kx in window.kx.clone() {
                let ix = window.ox * self.stride[1] + kx * self.dilation[1] - self.pads[1];
                f((row + ix) * self.channels);
            }
        }
    }

    /// Whether [`windows`](Self::windows) has room for the window's elements.
    pub(super) fn is_small(&self) -> bool {
        self.kernel[0] * self.kernel[1] <= MAX_TAPS
    }

    /// The windows of output row `row`, which must be [small](Self::is_small).
    #[inline(always)]
    pub(super) fn windows(&self, row: usize) -> Windows<'_> {
        let (stride, pad) = (self.stride[1], self.pads[1]);
        let reach = (self.kernel[1] - 1) * self.dilation[1];
        let inside =
            pad.div_ceil(stride)..(self.width + pad).saturating_sub(reach).div_ceil(stride);
        let window = self.window(row, 0);
        Windows { shape: self, row, inside, next: 0, window, base: 0, taps: [0; MAX_TAPS], len: 0 }
    }

    /// Folds each channel of `window` with `f` and passes every result to `done(channel, value)`. Blocks of
    /// `B` channels stay in registers over the whole window.
    #[inline(always)]
    pub(super) fn fold<const B: usize, T: Copy, A: Copy>(
        &self,
        window: &Window,
        x: &[T],
        start: A,
        f: impl Fn(A, T) -> A,
        mut done: impl FnMut(usize, &[A]),
    ) {
        let whole = self.channels - self.channels % B;
        for c in (0..whole).step_by(B) {
            let mut acc = [start; B];
            self.taps(window, |at| {
                if let Some(x) = x[at + c..].first_chunk::<B>() {
                    for (a, &x) in acc.iter_mut().zip(x) {
                        *a = f(*a, x);
                    }
                }
            });
            done(c, &acc);
        }
        if whole < self.channels {
            let tail = self.channels - whole;
            let mut acc = [start; B];
            self.taps(window, |at| {
                for (a, &x) in acc.iter_mut().zip(&x[at + whole..][..tail]) {
                    *a = f(*a, x);
                }
            });
            done(whole, &acc[..tail]);
        }
    }
}
