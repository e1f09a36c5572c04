//! Running what lowering made: compiled models, the arena, and the steps.

mod arena;
pub(crate) mod error;
mod fallback;
pub(crate) mod input;
mod model;
mod options;
pub(crate) mod step;

pub(crate) use arena::Arena;
pub use error::{CompileError, RunError};
pub use model::{CompiledModel, ModelPort};
pub use options::{CompileOptions, Threads};
pub use step::Class;
