//! Elementwise arithmetic on 8-bit tensors: `QLinearAdd` and `QLinearMul` of ONNX Runtime, bit for bit.

mod add;
mod mul;
#[cfg(test)]
mod ort_cases;
#[cfg(test)]
mod tests;

pub use add::{AddOrder, QAdd, QAddConstants, qadd_constants};
pub use mul::{QMul, qmul_multiplier};
