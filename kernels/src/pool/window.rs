//! The geometry that all pools share.

use std::ops::Range;

use crate::error::{KernelError, check_len, checked_product, saturating_product};
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

/// Output columns of a row whose windows have the same taps, each moved by `step` from the one before.
///
/// Windows that lie inside of the input's columns make one long run, so that a whole row costs little more
/// geometry than a few windows.
pub(super) struct Run<'a> {
    pub(super) columns: Range<usize>,
    pub(super) step: usize,
    pub(super) taps: &'a [usize],
    /// The first window.
    pub(super) window: &'a Window,
}

impl Run<'_> {
    /// The end of the furthest of `channels` long taps of all windows.
    pub(super) fn reach(&self, channels: usize) -> usize {
        let step = (self.columns.len() - 1) * self.step;
        self.taps.iter().max().map_or(0, |&tap| step + tap + channels)
    }
}

/// The runs of an output row, from left to right.
pub(super) struct Runs<'a> {
    shape: &'a PoolShape,
    row: usize,
    /// Output columns whose windows lie inside of the input's columns.
    inside: Range<usize>,
    next: usize,
    window: Window,
    taps: [usize; MAX_TAPS],
}

impl Runs<'_> {
    pub(super) fn next(&mut self) -> Option<Run<'_>> {
        let (shape, first) = (self.shape, self.next);
        if first == shape.out[1] {
            return None;
        }
        let inside = self.inside.contains(&first);
        self.next = if inside { self.inside.end.min(shape.out[1]) } else { first + 1 };
        self.window = shape.window(self.row, first);
        let (taps, mut len) = (&mut self.taps, 0);
        shape.taps(&self.window, |at| {
            taps[len] = at;
            len += 1;
        });
        Some(Run {
            columns: first..self.next,
            // Only one window is so far from the next that this overflows.
            step: shape.stride[1].saturating_mul(shape.channels),
            taps: &self.taps[..len],
            window: &self.window,
        })
    }
}

/// The `n` codes at `at`.
///
/// *Benefit*: pools of few channels are bound by the number of instructions, a third of which would be checks of
/// each tap. *Soundness*: a [`Run`] is checked as a whole, by its [`reach`](Run::reach).
///
/// # Safety
/// - `at + n` is at most the length of `x`.
#[inline(always)]
pub(super) unsafe fn codes_at(x: &[u8], at: usize, n: usize) -> &[u8] {
    debug_assert!(at + n <= x.len());
    // SAFETY: the caller's promise.
    unsafe { x.get_unchecked(at..at + n) }
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

    /// Elements of the input; `usize::MAX` if there are more.
    pub fn in_len(&self) -> usize {
        saturating_product(&[self.batch, self.height, self.width, self.channels])
    }

    /// Elements of the output; `usize::MAX` if there are more.
    pub fn out_len(&self) -> usize {
        saturating_product(&[self.batch, self.out[0], self.out[1], self.channels])
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
        let window = self.kernel[0] * self.kernel[1];
        let rows = split::rows_per_task((row * size_of::<Y>()).saturating_mul(window));
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
        // Any number of rows may be empty.
        if window.kx.is_empty() {
            return;
        }
        for ky in window.ky.clone() {
            let iy = window.oy * self.stride[0] + ky * self.dilation[0] - self.pads[0];
            let row = (window.image * self.height + iy) * self.width;
            for kx in window.kx.clone() {
                let ix = window.ox * self.stride[1] + kx * self.dilation[1] - self.pads[1];
                f((row + ix) * self.channels);
            }
        }
    }

    /// Whether [`runs`](Self::runs) has room for the window's elements.
    pub(super) fn is_small(&self) -> bool {
        self.kernel[0] * self.kernel[1] <= MAX_TAPS
    }

    /// The windows of output row `row`, which must be [small](Self::is_small).
    pub(super) fn runs(&self, row: usize) -> Runs<'_> {
        let (stride, pad) = (self.stride[1], self.pads[1]);
        let reach = (self.kernel[1] - 1) * self.dilation[1];
        let end = (self.width + pad).saturating_sub(reach).div_ceil(stride);
        let (inside, window) = (pad.div_ceil(stride)..end, self.window(row, 0));
        Runs { shape: self, row, inside, next: 0, window, taps: [0; MAX_TAPS] }
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
