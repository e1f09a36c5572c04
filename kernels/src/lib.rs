//! int8 and f32 kernels for CPUs, with the same bits on every ISA and for every number of threads.
//!
//! The crate knows nothing of models, graphs or files: it takes slices and sizes, checks them, and computes.
//! Activations are 8-bit values in channels-last (NHWC) order, weights are s8 packed once by the caller.
#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "vector forms that only x86 has instances of yet")
)]

pub mod broadcast;
pub mod conv;
pub mod cpu;
mod crew;
mod depthwise;
pub mod elementwise;
pub mod epilogue;
pub mod error;
pub mod float;
pub mod gemm;
pub mod gemm16;
mod grid;
#[cfg(test)]
mod guard_tests;
pub mod hybrid;
pub mod layout;
pub mod lut;
pub mod math;
mod multiversion;
mod numeric;
pub mod par;
pub mod pool;
pub mod quantize;
pub mod resize;
pub mod sign;
mod simd;
pub mod softmax;
mod split;
#[cfg(feature = "testing")]
pub mod testing;
mod unroll;
pub mod weight_only;

pub use cpu::{Cpu, Isa, IsaError};
pub use error::KernelError;
