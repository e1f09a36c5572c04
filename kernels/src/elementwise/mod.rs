//! Elementwise arithmetic on 8-bit tensors: `QLinearAdd` and `QLinearMul` of ONNX Runtime, bit for bit,
//! subtraction in the same form, and minimum and maximum.

mod add;
mod affine;
#[cfg(target_arch = "x86_64")]
mod affine_x86;
mod extremum;
mod mul;
mod op;
#[cfg(test)]
mod ort_cases;
#[cfg(test)]
mod tests;

pub use add::{AddOrder, QAdd, QAddConstants, qadd_constants, qsub_constants};
pub use extremum::{Extremum, QExtremum};
pub use mul::{QMul, qmul_multiplier};
