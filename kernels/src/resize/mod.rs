//! Resizing images in NHWC order, nearest and bilinear, 8 bit and f32.
//!
//! Where an output row or column falls in the input is computed in f32, once, by the rules of ONNX' `Resize`; a
//! position outside of the input is moved to its edge.

mod bilinear;
mod nearest;
#[cfg(test)]
mod tests;

pub use bilinear::{Bilinear8, BilinearF32};
pub use nearest::{Nearest, NearestRounding};

use crate::error::{KernelError, check_len, checked_product, saturating_product};
use crate::par::Parallel;
use crate::split;

/// The input position of an output index `o`, `scale` being output per input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinates {
    /// `o / scale`
    Asymmetric,
    /// `(o + 0.5) / scale − 0.5`
    HalfPixel,
    /// `o · (in − 1) / (out − 1)`, and 0 for a single output; `scale` does not matter.
    AlignCorners,
}

impl Coordinates {
    /// The position, between 0 and `size − 1`.
    fn position(self, o: usize, scale: f32, size: usize, out: usize) -> f32 {
        let at = match self {
            Self::Asymmetric => o as f32 / scale,
            Self::HalfPixel => (o as f32 + 0.5) / scale - 0.5,
            Self::AlignCorners if out == 1 => 0.0,
            Self::AlignCorners => o as f32 * (size - 1) as f32 / (out - 1) as f32,
        };
        at.clamp(0.0, (size - 1) as f32)
    }
}

/// Sizes of a resize: input `[batch, height, width, channels]`, output `[batch, out[0], out[1], channels]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResizeShape {
    /// Images.
    pub batch: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Output rows and columns.
    pub out: [usize; 2],
    /// Output per input rows and columns, as the model states them; `out` over input where it states sizes.
    pub scales: [f32; 2],
}

impl ResizeShape {
    /// Fails unless all sizes are usable and fit into memory.
    fn check(&self) -> Result<(), KernelError> {
        /// f32 counts rows and columns exactly up to here.
        const LIMIT: usize = 1 << 24;
        let Self { batch, height, width, channels, out, scales } = *self;
        checked_product("the resized tensor", &[batch, height, width, channels, 4])?;
        checked_product("the resize output", &[batch, out[0], out[1], channels, 4])?;
        if let Some(n) = [height, width].iter().chain(&out).find(|&&n| n > LIMIT) {
            return Err(KernelError::invalid("a side of an image", n, "at most 2^24"));
        }
        if (height == 0 || width == 0) && self.out_len() > 0 {
            return Err(KernelError::invalid("the resized image", "empty", "at least one pixel"));
        }
        if let Some(s) = scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return Err(KernelError::invalid("a resize scale", s, "finite and positive"));
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

    /// The positions of all output rows and of all output columns.
    fn positions(&self, coordinates: Coordinates) -> [Vec<f32>; 2] {
        let along = |i: usize, size: usize| {
            let (scale, out) = (self.scales[i], self.out[i]);
            let out_len = if self.out_len() == 0 { 0 } else { out };
            (0..out_len).map(|o| coordinates.position(o, scale, size, out)).collect()
        };
        [along(0, self.height), along(1, self.width)]
    }

    /// Checks the slices and calls `task(row, out_rows)` for consecutive output rows (of all images, counted
    /// through) from number `row` on, `least` or more, spread over `par`. A channel has `unit` elements.
    fn run<T, Y: Send>(
        &self,
        par: &dyn Parallel,
        x: &[T],
        y: &mut [Y],
        (unit, least): (usize, usize),
        task: impl Fn(usize, &mut [Y]) + Sync,
    ) -> Result<(), KernelError> {
        check_len("x", x.len(), self.in_len() * unit)?;
        check_len("y", y.len(), self.out_len() * unit)?;
        if y.is_empty() {
            return Ok(());
        }
        let row = self.out[1] * self.channels * unit;
        let rows = split::rows_per_task(row * size_of::<Y>()).max(least);
        split::chunks(par, y, rows * row, |i, y| task(i * rows, y));
        Ok(())
    }
}
