//! f32 kernels: what stays float in a quantized model, and what float models are measured by.
//!
//! Elementwise functions and reductions give the same bits on every ISA. GEMM, convolution and depthwise
//! convolution use fused multiply-add where the ISA has it and accumulate in an order that depends on the
//! ISA's vector width (never on the number of threads): bounded by the usual K·ε error of a sum.

mod activation;
mod binary;
mod conv;
mod convert;
mod depthwise;
mod gemm;
mod lanes;
mod reduce;
mod unary;

pub use activation::Activation;
pub use binary::{Binary, BinaryOp};
pub use conv::ConvF32;
pub use convert::{f16_to_f32, f32_to_f16};
pub use depthwise::DepthwiseF32;
pub use gemm::GemmF32;
pub(crate) use reduce::fold;
pub use reduce::{Reduce, ReduceOp};
pub use unary::Unary;
