//! The shape of a 2-D convolution, checked once.

use super::band::Window;
use crate::{KernelError, error::checked_product};

/// Bytes of padded rows that any convolution may have under a row of its result.
const ROWS_BYTES: usize = 1 << 24;

/// Fails if the padded rows under one row of a result, copies or tables of which kernels keep, are much larger than all
/// `images`: padding and distances of taps are mere numbers, which no memory stands behind.
pub(super) fn check_rows(
    [rows, columns]: [usize; 2],
    channels: usize,
    images: usize,
) -> Result<(), KernelError> {
    let what = "the padded input under a row of the result";
    let bytes = checked_product(what, &[rows, columns, channels.max(8)])?;
    if bytes <= images.saturating_mul(16).max(ROWS_BYTES) {
        return Ok(());
    }
    let rule = "at most 16 MiB or 16 times the images";
    Err(KernelError::invalid(what, format!("{bytes} bytes"), rule))
}

/// The numbers that describe a convolution; activations are NHWC. A 1-D convolution has height 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvSpec {
    /// Images.
    pub batch: usize,
    /// Rows of an image.
    pub in_h: usize,
    /// Columns of an image.
    pub in_w: usize,
    /// Channels of an image.
    pub in_c: usize,
    /// Channels of the result.
    pub out_c: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Steps down and right.
    pub strides: [usize; 2],
    /// Distances between taps, down and right.
    pub dilations: [usize; 2],
    /// Padding: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Groups, which divide both channel counts.
    pub groups: usize,
}

impl ConvSpec {
    /// The weights that it is for.
    pub fn weights(&self) -> ConvWeights {
        let Self { in_c, out_c, kernel, strides, dilations, groups, .. } = *self;
        let in_c_per_group = in_c / groups.max(1);
        ConvWeights { out_c, in_c_per_group, kernel, groups, strides, dilations }
    }
}

/// The shape of convolution weights: `[out_c, in_c_per_group, kernel[0], kernel[1]]`, of `groups` groups; and the steps
/// that they are packed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvWeights {
    /// Output channels, over all groups.
    pub out_c: usize,
    /// Input channels of one group.
    pub in_c_per_group: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Groups, which divide `out_c`.
    pub groups: usize,
    /// Steps down and right.
    pub strides: [usize; 2],
    /// Distances between taps, down and right.
    pub dilations: [usize; 2],
}

/// A [`ConvSpec`] of which every size is known to be sound, with the size of its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvGeometry {
    spec: ConvSpec,
    out: [usize; 2],
}

impl ConvGeometry {
    /// Checks `spec` and computes the size of the result,
    /// `(in + pads − dilation·(kernel − 1) − 1) / stride + 1` per axis, rounded down.
    ///
    /// # Errors
    /// If a kernel, stride, dilation or group count is zero, groups do not divide the channels, the kernel is larger
    /// than the padded image, padding or dilation is out of all proportion to the images, or a tensor is larger than
    /// memory.
    pub fn new(spec: ConvSpec) -> Result<Self, KernelError> {
        let ConvSpec { batch, in_h, in_w, in_c, out_c, kernel, strides, dilations, pads, groups } =
            spec;
        for (what, value) in [
            ("kernel height", kernel[0]),
            ("kernel width", kernel[1]),
            ("vertical stride", strides[0]),
            ("horizontal stride", strides[1]),
            ("vertical dilation", dilations[0]),
            ("horizontal dilation", dilations[1]),
            ("number of groups", groups),
        ] {
            if value == 0 {
                return Err(KernelError::invalid(what, value, "at least 1"));
            }
        }
        for (what, channels) in [("input channels", in_c), ("output channels", out_c)] {
            if channels % groups != 0 {
                return Err(KernelError::invalid(
                    what,
                    channels,
                    "a multiple of the number of groups",
                ));
            }
        }
        let extent = |size: usize, pads: [usize; 2], axis: usize| {
            let overflow = KernelError::Overflow { what: "padded image" };
            let padded =
                size.checked_add(pads[0]).and_then(|s| s.checked_add(pads[1])).ok_or(overflow)?;
            // Tap offsets are computed as isize.
            checked_product("padded image", &[padded])?;
            let reach = checked_product("dilated kernel", &[kernel[axis] - 1, dilations[axis]])?;
            match padded.checked_sub(reach + 1) {
                Some(room) => Ok(room / strides[axis] + 1),
                None => Err(KernelError::invalid(
                    "kernel",
                    reach + 1,
                    "no larger than the padded image",
                )),
            }
        };
        let out = [extent(in_h, [pads[0], pads[2]], 0)?, extent(in_w, [pads[1], pads[3]], 1)?];
        checked_product("input", &[batch, in_h, in_w, in_c])?;
        checked_product("output", &[batch, out[0], out[1], out_c, 4])?;
        checked_product("patch", &[kernel[0], kernel[1], in_c, 4])?;
        let geometry = Self { spec, out };
        let padded = [in_h + pads[0] + pads[2], in_w + pads[1] + pads[3]];
        // Offsets in it are computed with planes of remainders beside each row, of values of up to two bytes.
        let factors = [padded[0], padded[1], in_c.max(8), kernel[0].saturating_add(1), 2];
        checked_product("padded image", &factors)?;
        let rows = [(kernel[0] - 1) * dilations[0] + 1, padded[1]];
        let images = geometry.input_len().saturating_add(geometry.output_len());
        check_rows(rows, in_c, images)?;
        Ok(geometry)
    }

    /// The numbers it was made from.
    pub fn spec(&self) -> &ConvSpec {
        &self.spec
    }

    /// Rows of the result.
    pub fn out_h(&self) -> usize {
        self.out[0]
    }

    /// Columns of the result.
    pub fn out_w(&self) -> usize {
        self.out[1]
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.spec.batch * self.spec.in_h * self.spec.in_w * self.spec.in_c
    }

    /// Elements of the result.
    pub fn output_len(&self) -> usize {
        self.pixels() * self.spec.out_c
    }

    /// Pixels of the result, over the whole batch.
    pub(crate) fn pixels(&self) -> usize {
        self.spec.batch * self.out[0] * self.out[1]
    }

    /// Which pixels each output pixel reads.
    pub(super) fn window(&self) -> Window {
        let ConvSpec { in_h, in_w, in_c, kernel, strides, dilations, pads, .. } = self.spec;
        let padded = [in_h + pads[0] + pads[2], in_w + pads[1] + pads[3]];
        // A longer step is never taken.
        let strides = std::array::from_fn(|axis| strides[axis].min(padded[axis]));
        Window {
            image: [in_h, in_w],
            channels: in_c,
            origin: [-(pads[0] as isize), -(pads[1] as isize)],
            kernel,
            strides,
            dilations,
            out: self.out,
        }
    }

    /// Whether each output pixel reads exactly the input pixel of the same index.
    pub(crate) fn is_pointwise(&self) -> bool {
        let ConvSpec { kernel, strides, pads, groups, .. } = self.spec;
        kernel == [1, 1] && strides == [1, 1] && pads == [0; 4] && groups == 1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const SPEC: ConvSpec = ConvSpec {
        batch: 1,
        in_h: 7,
        in_w: 9,
        in_c: 4,
        out_c: 6,
        kernel: [3, 3],
        strides: [2, 1],
        dilations: [1, 2],
        pads: [1, 0, 1, 3],
        groups: 2,
    };

    #[test]
    fn the_result_has_the_size_of_the_definition() {
        let geometry = ConvGeometry::new(SPEC).unwrap();
        assert_eq!((geometry.out_h(), geometry.out_w()), (4, 8));
        assert_eq!((geometry.input_len(), geometry.output_len()), (252, 192));
    }

    #[test]
    fn unsound_numbers_are_refused() {
        for bad in [
            ConvSpec { kernel: [0, 3], ..SPEC },
            ConvSpec { strides: [1, 0], ..SPEC },
            ConvSpec { dilations: [0, 1], ..SPEC },
            ConvSpec { groups: 0, ..SPEC },
            ConvSpec { groups: 4, ..SPEC },
            ConvSpec { kernel: [10, 3], ..SPEC },
            ConvSpec { dilations: [usize::MAX, 1], ..SPEC },
            ConvSpec { pads: [usize::MAX, 0, 1, 0], ..SPEC },
            ConvSpec { batch: usize::MAX, ..SPEC },
            ConvSpec { in_h: usize::MAX / 2, in_w: usize::MAX / 2, ..SPEC },
            // Rows whose bytes overflow, and rows that no memory could hold, under results of few pixels.
            ConvSpec { strides: [2, 1 << 58], pads: [1, 1 << 59, 1, 0], ..SPEC },
            ConvSpec { strides: [2, 1 << 40], pads: [1, 1 << 40, 1, 0], ..SPEC },
            ConvSpec { dilations: [1 << 40, 2], pads: [1 << 41, 0, 1, 3], ..SPEC },
        ] {
            assert!(ConvGeometry::new(bad).is_err(), "{bad:?}");
        }
    }
}
