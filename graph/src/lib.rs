//! The requant graph: types, the graph and its patches, the reference interpreter, passes, lowering
//! and execution.
#![forbid(unsafe_code)]

mod apply;
mod convert;
mod error;
mod exec;
mod explain;
mod graph;
pub mod infer;
mod lower;
pub mod pass;
pub mod passes;
pub mod patch;
mod plan;
pub mod reference;
mod session;
#[doc(hidden)]
#[cfg(feature = "testing")]
pub mod testing;

pub use error::GraphError;
pub use exec::{Class, CompileError, CompileOptions, CompiledModel, ModelPort, RunError, Threads};
pub use explain::{Explanation, Fate, NodeReport, StepReport};
pub use graph::{Fact, Graph, GraphOutput, Node, NodeId, NodeKind, Outlet};
pub use pass::{PassError, PassReport, PipelineOptions};
pub use patch::{Applied, Exactness, Patch, Src};
pub use plan::{Memory, Plan, Port, default_arena_bytes};
pub use requant_kernels::Cpu;
pub use session::Session;
