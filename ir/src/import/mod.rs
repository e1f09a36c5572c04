//! Readers of other projects' model files.

pub mod onnx;
