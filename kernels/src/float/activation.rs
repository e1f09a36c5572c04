//! What a GEMM or convolution does to its sums before they are stored.

use crate::numeric::clamp;
use crate::split::Rect;

/// Limits of a result: relu is `[0, ∞]`, relu6 `[0, 6]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Activation {
    /// Lower bound, at most the upper one; NaN results become it, unless there are no limits.
    pub lo: f32,
    /// Upper bound.
    pub hi: f32,
}

impl Activation {
    /// No limits.
    pub const NONE: Self = Self { lo: f32::NEG_INFINITY, hi: f32::INFINITY };

    /// `v` within the limits.
    #[inline(always)]
    pub(super) fn apply(self, v: f32) -> f32 {
        clamp(v, self.lo, self.hi)
    }

    /// Adds the bias, one value per column or none, to a block and applies the limits.
    pub(super) fn finish(self, block: &mut Rect<'_, f32>, bias: &[f32]) {
        let limited = self != Self::NONE;
        for i in 0..block.rows.len() {
            let row = block.row(i);
            match (bias.is_empty(), limited) {
                (true, false) => return,
                (true, true) => row.iter_mut().for_each(|y| *y = self.apply(*y)),
                (false, false) => row.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
                (false, true) => {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y = self.apply(*y + b))
                }
            }
        }
    }
}
