//! f32 kernels: what stays float in a quantized model, and what float models are measured by.
//!
//! Everything gives the same bits on every ISA and for every number of threads. GEMM and convolution add
//! their products by fused multiply-add in the order of K, in slices of 512.

mod activation;
mod binary;
mod conv;
mod convert;
mod depthwise;
mod gemm;
mod lanes;
mod layer_norm;
mod reduce;
mod thin;
mod unary;

pub use activation::Activation;
pub use binary::{Binary, BinaryOp};
pub use conv::ConvF32;
pub use convert::{f16_to_f32, f32_to_f16};
pub use depthwise::DepthwiseF32;
pub use gemm::GemmF32;
pub use layer_norm::LayerNorm;
pub(crate) use reduce::fold;
pub use reduce::{Reduce, ReduceOp};
pub use unary::Unary;
