//! Remainders: what is left of runs of K that do not fill whole groups of KR, in groups that all runs share.
//!
//! ```text
//! 3×3×3, KR = 4        each alone                 together
//! row 0 of a patch     0123 4567 8...             0123 4567
//! row 1                0123 4567 8...             0123 4567
//! row 2                0123 4567 8...             0123 4567
//! remainders                                      888.
//! ```
//! They are collected in planes, one for each such group, in which pixels are as far apart as in the band: the kernel
//! reads a plane as if it were another row of the kernel.

use super::band::KOrder;
use crate::KernelError;

/// Bytes of a plane that are collected at a time.
const CHUNK: usize = 64;

/// Values of the longest row of a plane.
const MAX_WIDTH: usize = 1 << 30;

/// The largest KR.
const MOST_KR: usize = 8;

/// The planes of a convolution's bands. Positions are in values from the first pixel of a row.
#[derive(Debug)]
pub(crate) struct Remainders {
    order: KOrder,
    kr: usize,
    value_bytes: usize,
    /// Values of a row of a plane.
    pub(super) width: usize,
    /// A row of bytes that are set where a pixel starts, after KR values of zeros.
    starts: Vec<u8>,
}

impl Remainders {
    /// Planes for `pixels` pixels in a row, `step` values apart; fails if there are too many for a table of them.
    pub(super) fn new(
        order: KOrder,
        kr: usize,
        value_bytes: usize,
        pixels: usize,
        step: usize,
    ) -> Result<Self, KernelError> {
        let width = match order.shared {
            0 => 0,
            _ => (pixels * step).next_multiple_of(CHUNK),
        };
        if width > MAX_WIDTH {
            let rule = "at most 1 GiB for few channels";
            return Err(KernelError::invalid("a row of the image", format!("{width} bytes"), rule));
        }
        let mut starts = vec![0; (kr + width) * value_bytes];
        for pixel in 0..if width == 0 { 0 } else { pixels } {
            starts[(kr + pixel * step) * value_bytes..][..value_bytes].fill(0xff);
        }
        Ok(Self { order, kr, value_bytes, width, starts })
    }

    /// How many there are.
    pub(super) fn planes(&self) -> usize {
        self.order.shared / self.kr
    }

    /// Values of a pixel in all of them.
    pub(super) fn values(&self) -> usize {
        if self.planes() == 0 {
            0
        } else {
            self.order.segments * (self.order.len - self.order.padded)
        }
    }

    /// Fills the rows of the planes for one row of output pixels, of which segment `s` of the first is at
    /// `segments[s]` in `band` and plane `p` at `planes[p]`. Compiled for each ISA by `BandSet::collect`.
    #[inline(always)]
    pub(crate) fn collect(&self, band: &mut [u8], segments: &[usize], planes: &[usize]) {
        let Self { order, kr, value_bytes, width, .. } = *self;
        for (p, plane) in planes.iter().enumerate() {
            // Value i of a pixel's group is i values after the pixel.
            let mut sources = [(0, 0); MOST_KR];
            let mut count = 0;
            while count < kr
                && let Some((segment, value)) = order.remainder(p * kr + count)
            {
                let from = segments[segment] + value - count;
                sources[count] = (from * value_bytes, (kr - count) * value_bytes);
                count += 1;
            }
            for at in (0..width * value_bytes).step_by(CHUNK) {
                let mut chunk = [0; CHUNK];
                for (from, starts) in &sources[..count] {
                    let values = band[from + at..][..CHUNK].iter();
                    let starts = &self.starts[starts + at..][..CHUNK];
                    for ((to, value), start) in chunk.iter_mut().zip(values).zip(starts) {
                        *to |= value & start;
                    }
                }
                band[plane * value_bytes + at..][..CHUNK].copy_from_slice(&chunk);
            }
        }
    }
}
