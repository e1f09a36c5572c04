//! Nearest-neighbour resize: a copy.

use super::{Coordinates, ResizeShape};
use crate::error::{KernelError, checked_product};
use crate::par::Parallel;

/// How a position between two pixels chooses one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NearestRounding {
    /// The closer one, the lower of two equally close ones.
    PreferFloor,
    /// The closer one, the upper of two equally close ones.
    PreferCeil,
    /// The lower one.
    Floor,
    /// The upper one.
    Ceil,
}

impl NearestRounding {
    fn round(self, at: f32, size: usize) -> usize {
        let at = match self {
            Self::PreferFloor => (at - 0.5).ceil(),
            Self::PreferCeil => (at + 0.5).floor(),
            Self::Floor => at.floor(),
            Self::Ceil => at.ceil(),
        };
        // Negative zero and less become 0.
        (at as usize).min(size - 1)
    }
}

/// Copies the nearest pixel, of elements of any size.
#[derive(Clone, Debug)]
pub struct Nearest {
    shape: ResizeShape,
    element: usize,
    /// The input row of each output row.
    rows: Vec<usize>,
    /// The byte in its row of each output column.
    columns: Vec<usize>,
}

impl Nearest {
    /// Resizes elements of `element` bytes.
    ///
    /// # Errors
    /// If a scale is not finite and positive, the input is empty but not the output, or a size is too large.
    pub fn new(
        shape: ResizeShape,
        coordinates: Coordinates,
        rounding: NearestRounding,
        element: usize,
    ) -> Result<Self, KernelError> {
        shape.check()?;
        let ResizeShape { batch, height, width, channels, out, .. } = shape;
        checked_product("the resized tensor", &[batch, height, width, channels, element])?;
        checked_product("the resize output", &[batch, out[0], out[1], channels, element])?;
        let [rows, columns] = shape.positions(coordinates);
        let rows = rows.into_iter().map(|at| rounding.round(at, shape.height)).collect();
        let pixel = shape.channels * element;
        let columns =
            columns.into_iter().map(|at| rounding.round(at, shape.width) * pixel).collect();
        Ok(Self { shape, element, rows, columns })
    }

    /// Resizes `x` into `y`, both in bytes.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says.
    pub fn run(&self, par: &dyn Parallel, x: &[u8], y: &mut [u8]) -> Result<(), KernelError> {
        let pixel = self.shape.channels * self.element;
        self.shape.run(par, x, y, (self.element, 1), |first, y| match pixel {
            1 => self.copy::<1>(first, x, y),
            2 => self.copy::<2>(first, x, y),
            3 => self.copy::<3>(first, x, y),
            4 => self.copy::<4>(first, x, y),
            5..=8 => self.copy::<8>(first, x, y),
            9..=16 => self.copy::<16>(first, x, y),
            17..=32 => self.copy::<32>(first, x, y),
            _ => self.copy::<64>(first, x, y),
        })
    }

    /// Copies whole output rows, a pixel of up to `P` bytes as `P`: that many are a few instructions, but a number that
    /// the compiler does not know is a call.
    fn copy<const P: usize>(&self, first: usize, x: &[u8], y: &mut [u8]) {
        let pixel = self.shape.channels * self.element;
        let (in_row, out_row) = (self.shape.width * pixel, self.shape.out[1] * pixel);
        let mut last = None;
        for r in 0..y.len() / out_row {
            let (image, oy) = ((first + r) / self.shape.out[0], (first + r) % self.shape.out[0]);
            let source = image * self.shape.height + self.rows[oy];
            if last == Some(source) {
                // Enlarging repeats rows.
                y.copy_within((r - 1) * out_row..r * out_row, r * out_row);
                continue;
            }
            last = Some(source);
            let x = &x[source * in_row..];
            let y = &mut y[r * out_row..][..out_row];
            // What follows a pixel in `y` is written later, so that a smaller one is copied as `P` bytes where there are so
            // many.
            let room = if pixel > P {
                0
            } else {
                let room = self.columns.partition_point(|at| at + P <= x.len());
                room.min((out_row + pixel).saturating_sub(P) / pixel)
            };
            let mut columns = (0..).step_by(pixel).zip(&self.columns);
            for (to, &at) in columns.by_ref().take(room) {
                y[to..][..P].copy_from_slice(&x[at..][..P]);
            }
            for (to, &at) in columns {
                y[to..][..pixel].copy_from_slice(&x[at..][..pixel]);
            }
        }
    }
}
