//! Elementwise arithmetic on 8-bit tensors: `QLinearAdd` and `QLinearMul` of ONNX Runtime, bit for bit.

mod add;
mod mul;

pub use add::{AddOrder, QAdd, QAddConstants, qadd_constants};
pub use mul::{QMul, qmul_multiplier};

use crate::error::{KernelError, check_len};

/// How the second operand of a binary operation meets the first, which has the output's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand<'a> {
    /// As many elements as the first operand.
    Full(&'a [u8]),
    /// One element per index of the last axis (NHWC: per channel); its length divides the output's.
    LastAxis(&'a [u8]),
    /// One element for all.
    Scalar(u8),
}

impl<'a> Operand<'a> {
    /// Checks the operand against the number of output elements.
    fn check(self, len: usize) -> Result<Self, KernelError> {
        match self {
            Self::Full(b) => check_len("b", b.len(), len)?,
            Self::LastAxis(b) if b.is_empty() || !len.is_multiple_of(b.len()) => {
                return Err(KernelError::invalid(
                    "the length of the last axis",
                    b.len(),
                    "a divisor of the output's length",
                ));
            }
            _ => {}
        }
        Ok(self)
    }

    /// The part that belongs to output elements `start..start + len` of a task, `start` being a multiple of
    /// the last axis.
    fn part(self, start: usize, len: usize) -> Self {
        match self {
            Self::Full(b) => Self::Full(&b[start..][..len]),
            other => other,
        }
    }

    /// Elements per task: about [`TASK_BYTES`](crate::split::TASK_BYTES), whole rows for a last-axis operand.
    fn task_len(self) -> usize {
        match self {
            Self::LastAxis(b) => crate::split::rows_per_task(b.len()) * b.len(),
            _ => crate::split::TASK_BYTES,
        }
    }
}
