//! The requant graph: types, the graph and its patches, the reference interpreter, passes, lowering
//! and execution.
#![deny(unsafe_code)]

mod apply;
mod convert;
mod error;
mod graph;
pub mod infer;
pub mod pass;
pub mod passes;
pub mod patch;
pub mod reference;

pub use error::GraphError;
pub use graph::{Fact, Graph, GraphOutput, Node, NodeId, NodeKind, Outlet};
pub use patch::{Applied, Exactness, Patch, Src};
