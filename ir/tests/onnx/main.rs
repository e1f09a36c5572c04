//! Import of ONNX models: real ones, every operator form made in code, and malformed files.
#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

mod external;
mod forms;
mod graphs;
mod malformed;
mod models;
mod net;
mod quantized;
mod storage;
