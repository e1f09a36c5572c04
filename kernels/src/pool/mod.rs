//! Max and average pooling over NHWC tensors, 8 bit and f32.

mod average;
mod global;
mod max;
#[cfg(test)]
mod tests;
mod window;

pub use average::{AveragePool8, AveragePoolF32};
pub use global::GlobalAveragePool8;
pub use max::{MaxPool8, MaxPoolF32};
pub use window::PoolShape;
