//! Windows over images of any number of spatial axes and either layout.

use super::{Cx, EvalError};
use crate::infer::{Window, window};
use requant_ir::{ConvAttrs, Layout, PoolAttrs};

/// Where the elements of an image `[N, C, spatial…]` or `[N, spatial…, C]` are.
struct Image {
    batch: usize,
    channels: usize,
    spatial: Vec<usize>,
    batch_stride: usize,
    channel_stride: usize,
    strides: Vec<usize>,
}

impl Image {
    fn new(dims: &[usize], layout: Layout) -> Self {
        let strides = super::movement::strides(dims);
        let (channel, spatial) = match layout {
            Layout::ChannelsFirst => (1, 2..dims.len()),
            Layout::ChannelsLast => (dims.len() - 1, 1..dims.len() - 1),
        };
        Image {
            batch: dims[0],
            channels: dims[channel],
            spatial: dims[spatial.clone()].to_vec(),
            batch_stride: strides[0],
            channel_stride: strides[channel],
            strides: strides[spatial].to_vec(),
        }
    }
}

/// The taps of a window at one position.
struct Taps {
    /// For each tap in row-major order its offset from the image's first pixel; `None` in padding.
    offsets: Vec<Option<usize>>,
    /// Taps within the padded input.
    padded: usize,
}

/// Calls `visit` for the position of every window, in row-major order, with the position's offset in
/// the result and the taps.
fn each_window(
    windows: &[Window],
    input: &Image,
    output: &Image,
    mut visit: impl FnMut(usize, &Taps),
) {
    let kernel: usize = windows.iter().map(|w| w.kernel).product();
    let mut taps = Taps { offsets: Vec::with_capacity(kernel), padded: 0 };
    let positions: usize = windows.iter().map(|w| w.output).product();
    for position in 0..positions {
        let (mut rest, mut at) = (position, vec![0; windows.len()]);
        let mut offset = 0;
        for axis in (0..windows.len()).rev() {
            at[axis] = rest % windows[axis].output;
            rest /= windows[axis].output;
            offset += at[axis] * output.strides[axis];
        }
        taps.offsets.clear();
        taps.padded = 0;
        for tap in 0..kernel {
            let (mut rest, mut source, mut padded) = (tap, Some(0), true);
            for (axis, w) in windows.iter().enumerate().rev() {
                let k = rest % w.kernel;
                rest /= w.kernel;
                let read = w.read(at[axis], k).map(|i| i * input.strides[axis]);
                source = source.and_then(|sum| Some(sum + read?));
                padded &= w.in_padded(at[axis], k);
            }
            taps.offsets.push(source);
            taps.padded += usize::from(padded);
        }
        visit(offset, &taps);
    }
}

/// Fails where the taps of one window, or those of all results, are more than allowed.
fn check_work(
    cx: &Cx<'_>,
    windows: &[Window],
    results: &[usize],
    channels: &[usize],
) -> Result<(), EvalError> {
    let kernel = windows.iter().map(|w| w.kernel);
    let taps = kernel.clone().try_fold(1u64, |n, k| n.checked_mul(k as u64));
    let bytes = taps.and_then(|n| n.checked_mul(size_of::<Option<usize>>() as u64));
    cx.limit("the size of the window's table in bytes", bytes, cx.limits.table_bytes)?;
    let factors: Vec<usize> = results.iter().chain(channels).copied().chain(kernel).collect();
    cx.work(&factors)
}

/// The patches that a convolution multiplies with its weights.
pub(super) struct Convolution {
    input: Image,
    output: Image,
    windows: Vec<Window>,
    groups: usize,
    /// Input channels and output channels of a group.
    channels: (usize, usize),
}

impl Convolution {
    pub(super) fn new(
        cx: &Cx<'_>,
        conv: &ConvAttrs,
        x: &[usize],
        w: &[usize],
        y: &[usize],
    ) -> Result<Self, EvalError> {
        let (input, output) = (Image::new(x, conv.layout), Image::new(y, conv.layout));
        let steps = (&conv.strides[..], &conv.dilations[..]);
        let spatial = input.spatial.len();
        let windows = (0..spatial)
            .map(|i| window(i, spatial, input.spatial[i], w[2 + i], steps, &conv.padding, false))
            .collect::<Option<Vec<_>>>()
            .ok_or(EvalError::Unresolved { op: cx.op })?;
        check_work(cx, &windows, y, &w[1..2])?;
        let channels = (w[1], output.channels / conv.groups);
        Ok(Convolution { input, output, windows, groups: conv.groups, channels })
    }

    /// Elements of a patch: input channels of a group times taps.
    pub(super) fn patch_len(&self) -> usize {
        self.channels.0 * self.windows.iter().map(|w| w.kernel).product::<usize>()
    }

    /// Calls `product(patch, output channel, index in the result)` for every result. A patch has the
    /// order of a row of weights, `[C_in/groups, kernel…]`, with `pad` where it covers padding.
    pub(super) fn run<T: Copy>(
        &self,
        x: &[T],
        pad: T,
        mut product: impl FnMut(&[T], usize, usize),
    ) {
        let (ins, outs) = self.channels;
        let mut patch = Vec::with_capacity(self.patch_len());
        for image in 0..self.output.batch {
            let (from, to) = (image * self.input.batch_stride, image * self.output.batch_stride);
            each_window(&self.windows, &self.input, &self.output, |position, taps| {
                for group in 0..self.groups {
                    patch.clear();
                    for channel in group * ins..(group + 1) * ins {
                        let base = from + channel * self.input.channel_stride;
                        patch.extend(taps.offsets.iter().map(|o| o.map_or(pad, |o| x[base + o])));
                    }
                    for channel in group * outs..(group + 1) * outs {
                        let at = to + position + channel * self.output.channel_stride;
                        product(&patch, channel, at);
                    }
                }
            });
        }
    }
}

/// Calls `reduce(elements of the window within the input, taps within the padded input, index in the
/// result)` for every result of a pool.
pub(super) fn pool<T: Copy>(
    cx: &Cx<'_>,
    pool: &PoolAttrs,
    (x, x_dims): (&[T], &[usize]),
    y_dims: &[usize],
    mut reduce: impl FnMut(&[T], usize, usize),
) -> Result<(), EvalError> {
    let (input, output) = (Image::new(x_dims, pool.layout), Image::new(y_dims, pool.layout));
    let spatial = input.spatial.len();
    let steps = (&pool.strides[..], &pool.dilations[..]);
    let windows = (0..spatial)
        .map(|i| {
            let (n, kernel) = (input.spatial[i], pool.kernel[i]);
            window(i, spatial, n, kernel, steps, &pool.padding, pool.ceil_mode)
        })
        .collect::<Option<Vec<_>>>()
        .ok_or(EvalError::Unresolved { op: cx.op })?;
    check_work(cx, &windows, y_dims, &[])?;
    let mut elements = Vec::new();
    for image in 0..output.batch {
        each_window(&windows, &input, &output, |position, taps| {
            for channel in 0..output.channels {
                let base = image * input.batch_stride + channel * input.channel_stride;
                elements.clear();
                elements.extend(taps.offsets.iter().flatten().map(|o| x[base + o]));
                let at = image * output.batch_stride + position + channel * output.channel_stride;
                reduce(&elements, taps.padded, at);
            }
        });
    }
    Ok(())
}
