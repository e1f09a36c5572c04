//! int8 inference for CPUs, with the same bits on every CPU and for every number of threads.
//!
//! A [`Model`] is loaded from an ONNX or `.rq` file, compiled for this machine into a
//! [`CompiledModel`] (shareable among threads) and run by a [`Session`] (one per thread):
//!
//! ```
//! use requant::{CompileOptions, Model, Tensor};
//!
//! # fn main() -> Result<(), requant::Error> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/cnn/cnn_f32.onnx");
//! let model = Model::load(path)?.compile(&CompileOptions::default())?;
//! let mut session = model.session();
//!
//! let image = Tensor::from_slice(&[1, 32, 32, 3], &vec![0.5f32; 32 * 32 * 3]).map_err(requant::RunError::from)?;
//! let outputs = session.run(&[("image", image)])?;
//!
//! let (name, logits) = &outputs[0];
//! println!("{name}: {:?}", logits.to_f32());
//! # assert_eq!(logits.dims(), [1, 10]);
//! # Ok(())
//! # }
//! ```
//!
//! Without a copy or an allocation per run, a session works on its own memory:
//! [`Session::set_shapes`], [`Session::set_input`], [`Session::run_in_place`], [`Session::output`].
#![forbid(unsafe_code)]

mod error;
mod model;

pub use error::{Error, ErrorKind};
pub use model::Model;
pub use requant_graph::pass::{Level, PassReport, PipelineOptions, Refusal};
pub use requant_graph::{
    Class, CompileError, CompileOptions, CompiledModel, Explanation, Fate, Graph, GraphError,
    Memory, ModelPort, NodeReport, PassError, Plan, Port, RunError, Session, StepReport, Threads,
    default_arena_bytes,
};
pub use requant_ir::{
    DType, Dim, ElemType, Limits, Quant, QuantParams, Tensor, TensorError, TensorType,
};
pub use requant_kernels::{Cpu, Isa, IsaError};
