//! What compiling and running can refuse.

use crate::reference::EvalError;
use crate::{GraphError, PassError};
use requant_ir::{DType, TensorError};
use requant_kernels::KernelError;
use std::time::Duration;
use thiserror::Error;

/// Why a model cannot be compiled, or planned for certain input shapes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompileError {
    /// Shapes do not fit the model, or the graph is not valid.
    #[error(transparent)]
    Graph(Box<GraphError>),
    /// A pass failed.
    #[error("the model could not be optimized")]
    Pass(#[source] Box<PassError>),
    /// The wrong number of input shapes.
    #[error("the model has {expected} inputs, but shapes for {got} are given")]
    InputCount {
        /// Inputs of the model.
        expected: usize,
        /// Shapes given.
        got: usize,
    },
    /// A shape depends on more than the shapes of the inputs.
    #[error(
        "the shape of `{tensor}` ({ty}) does not follow from the shapes of the inputs; give every input a fixed shape, or make the value that it depends on a constant"
    )]
    UnknownShape {
        /// The value.
        tensor: String,
        /// What is known of it.
        ty: String,
    },
    /// A value that no memory can hold.
    #[error("`{tensor}` is too large")]
    TooLarge {
        /// The value.
        tensor: String,
        /// Its size.
        #[source]
        source: TensorError,
    },
    /// The arena would exceed its budget.
    #[error("a session would take {} of memory for intermediate values, above the limit of {budget} bytes; use smaller inputs or raise `arena_bytes` (`--arena-bytes`)", bytes(.needed))]
    ArenaBudget {
        /// Bytes needed; `None` when the number does not fit this machine.
        needed: Option<usize>,
        /// Bytes allowed.
        budget: usize,
    },
    /// An operator that nothing here can compute.
    #[error("node `{node}`: operator {op} is not supported")]
    Unsupported {
        /// The node.
        node: String,
        /// The operator.
        op: String,
    },
    /// The thread pool could not be started.
    #[error("{threads} threads could not be started: {reason}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
}

/// Why a run failed. The session stays usable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// No input has this name.
    #[error("the model has no input `{name}`; {}", suggest(.nearest, .known))]
    UnknownInput {
        /// The name given.
        name: String,
        /// The input whose name is nearest, if one is near.
        nearest: Option<String>,
        /// The inputs' names.
        known: Vec<String>,
    },
    /// There is no input or output of this index.
    #[error("the model has {count} {what}s, there is none with index {index}")]
    Index {
        /// `input` or `output`.
        what: &'static str,
        /// The index given.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// An input was not given.
    #[error("input `{name}` is missing")]
    MissingInput {
        /// The input.
        name: String,
    },
    /// An input was given twice.
    #[error("input `{name}` is given twice")]
    DuplicateInput {
        /// The input.
        name: String,
    },
    /// An input of another element type.
    #[error("input `{name}` is {expected}, but {got} is given")]
    InputType {
        /// The input.
        name: String,
        /// The model's storage type.
        expected: DType,
        /// The storage type given.
        got: DType,
    },
    /// An input of another rank, or with another extent where the model fixes one.
    #[error("input `{name}` is {expected}, the shape {got:?} does not fit")]
    InputShape {
        /// The input.
        name: String,
        /// The model's type.
        expected: String,
        /// The shape given.
        got: Vec<usize>,
    },
    /// One symbol with two extents.
    #[error("input `{name}` makes dimension `{symbol}` {got}, but another input makes it {bound}")]
    Symbol {
        /// The input.
        name: String,
        /// The symbol.
        symbol: String,
        /// The extent here.
        got: usize,
        /// The extent elsewhere.
        bound: usize,
    },
    /// Input bytes of another length.
    #[error("input `{name}` takes {expected} bytes, but {got} are given")]
    InputBytes {
        /// The input.
        name: String,
        /// Bytes that it takes.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The session has no input shapes yet.
    #[error(
        "the model's input shapes are not fixed; call `set_shapes` first, or `run` with tensors"
    )]
    NoShapes,
    /// The model cannot be planned for these inputs.
    #[error("the model cannot run on inputs of these shapes")]
    Plan(#[source] Box<CompileError>),
    /// The memory could not be had.
    #[error("no memory for {bytes} bytes of intermediate values")]
    NoMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The time allowed is over.
    #[error("the run was stopped after step {step} of {steps}: the {limit:?} allowed are over")]
    Deadline {
        /// Steps done.
        step: usize,
        /// Steps of the plan.
        steps: usize,
        /// Time allowed.
        limit: Duration,
    },
    /// A kernel refused a step: a bug, since the plan was checked.
    #[error("node `{node}` failed; please report it with the model")]
    Kernel {
        /// The node.
        node: String,
        /// What the kernel refused.
        #[source]
        source: KernelError,
    },
    /// An element that a node is not defined for, such as an index outside its axis.
    #[error("node `{node}` cannot be computed from these values")]
    Value {
        /// The node.
        node: String,
        /// Which element.
        #[source]
        source: KernelError,
    },
    /// The reference interpreter could not compute a node from these values.
    #[error("node `{node}` cannot be computed")]
    Eval {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: Box<EvalError>,
    },
    /// A node's result has another type than the plan has memory for.
    #[error(
        "node `{node}` gave {got}, but its type is {expected}: its shape depends on values, which is not supported"
    )]
    ResultType {
        /// The node.
        node: String,
        /// Type planned.
        expected: String,
        /// Type computed.
        got: String,
    },
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

fn bytes(needed: &Option<usize>) -> String {
    needed.map_or_else(|| "more bytes than there are".to_owned(), |n| format!("{n} bytes"))
}

fn suggest(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("its inputs are {}", known.join(", ")),
    }
}

impl From<GraphError> for CompileError {
    fn from(e: GraphError) -> Self {
        CompileError::Graph(Box::new(e))
    }
}

impl From<PassError> for CompileError {
    fn from(e: PassError) -> Self {
        CompileError::Pass(Box::new(e))
    }
}

impl From<CompileError> for RunError {
    fn from(e: CompileError) -> Self {
        RunError::Plan(Box::new(e))
    }
}
