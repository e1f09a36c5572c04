//! Windows of convolutions and pools.

use requant_ir::Padding;

/// One spatial axis of a window over an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Input extent.
    pub(crate) input: usize,
    /// Result extent.
    pub(crate) output: usize,
    /// Elements of padding before the input.
    pub(crate) begin: usize,
    /// Elements of padding after the input.
    pub(crate) end: usize,
    /// Window extent in elements read.
    pub(crate) kernel: usize,
    /// Distance of windows.
    pub(crate) stride: usize,
    /// Distance of elements within a window.
    pub(crate) dilation: usize,
}

impl Window {
    /// The input index that tap `k` of window `o` reads, unless it reads padding.
    pub(crate) fn read(&self, o: usize, k: usize) -> Option<usize> {
        (o * self.stride + k * self.dilation).checked_sub(self.begin).filter(|&i| i < self.input)
    }

    /// True when tap `k` of window `o` is within the padded input.
    pub(crate) fn in_padded(&self, o: usize, k: usize) -> bool {
        o * self.stride + k * self.dilation < self.begin + self.input + self.end
    }
}

/// The window along spatial axis `i` of `spatial`; `None` where a size overflows, a parameter is 0 or
/// missing, or the window does not fit into the padded input.
///
/// With `ceil_mode` a last, partial window counts, unless it would begin in the padding at the end.
pub(crate) fn window(
    i: usize,
    spatial: usize,
    input: usize,
    kernel: usize,
    (strides, dilations): (&[usize], &[usize]),
    padding: &Padding,
    ceil_mode: bool,
) -> Option<Window> {
    let (stride, dilation) = (*strides.get(i)?, *dilations.get(i)?);
    if stride == 0 || dilation == 0 || kernel == 0 {
        return None;
    }
    let reach = (kernel - 1).checked_mul(dilation)?.checked_add(1)?;
    let of = |output, begin, end| Window { input, output, begin, end, kernel, stride, dilation };
    match padding {
        Padding::Explicit(pads) => {
            let (begin, end) = (*pads.get(i)?, *pads.get(i + spatial)?);
            let padded = input.checked_add(begin)?.checked_add(end)?;
            let room = padded.checked_sub(reach)?;
            let mut output = if ceil_mode { room.div_ceil(stride) } else { room / stride } + 1;
            if ceil_mode && (output - 1).checked_mul(stride)? >= input + begin {
                output -= 1;
            }
            // Taps of a partial window reach beyond the padding.
            (output - usize::from(output > 0)).checked_mul(stride)?.checked_add(reach)?;
            Some(of(output, begin, end))
        }
        Padding::SameUpper | Padding::SameLower => {
            let output = input.div_ceil(stride);
            let last = output.saturating_sub(1).checked_mul(stride)?.checked_add(reach)?;
            let total = last.saturating_sub(input);
            let (small, large) = (total / 2, total.div_ceil(2));
            let (begin, end) =
                if *padding == Padding::SameUpper { (small, large) } else { (large, small) };
            Some(of(output, begin, end))
        }
    }
}
