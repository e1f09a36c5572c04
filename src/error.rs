//! The one error of the façade, and what sort of failure it is.

use requant_graph::infer::InferError;
use requant_graph::{CompileError, GraphError, PassError, RunError};
use requant_ir::ErrorKind as InputKind;
use requant_ir::TextError;
use requant_ir::import::onnx::ImportError;
use requant_kernels::IsaError;
use std::path::PathBuf;
use thiserror::Error;

/// Why something could not be done. [`Error::kind`](enum@Error) says what sort of failure it is; the message and
/// its causes ([`std::error::Error::source`]) say where and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("cannot read or write `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file that is no model in any form that is read.
    #[error("`{}` is no model: neither an .rq file, nor ONNX, nor the text form", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// A model in text form that cannot be read.
    #[error("cannot read the text form in `{}`", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TextError,
    },
    /// An ONNX model cannot be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// An `.rq` file cannot be read or written.
    #[error(transparent)]
    File(#[from] requant_ir::FileError),
    /// The model is not a valid graph, or not a supported one.
    #[error("the model cannot be used")]
    Graph(#[from] GraphError),
    /// The model could not be optimized.
    #[error("the model could not be optimized")]
    Pass(#[from] PassError),
    /// The model could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// An instruction set that cannot be used.
    #[error(transparent)]
    Isa(#[from] IsaError),
}

/// What sort of failure an [`enum@Error`] is. Programs map it to exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The caller asked for what the model does not have: a name, a shape, a pass.
    Usage,
    /// A file cannot be read or written.
    Io,
    /// The model breaks the rules of its format.
    Malformed,
    /// The model is valid, but asks for something that is not supported.
    Unsupported,
    /// A limit of size, memory or time is exceeded.
    Limit,
    /// A fault of this library.
    Internal,
}

impl ErrorKind {
    /// The exit code of the program `requant` for this sort of failure.
    pub const fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Usage => 2,
            ErrorKind::Io => 3,
            ErrorKind::Malformed => 4,
            ErrorKind::Unsupported => 5,
            ErrorKind::Limit => 6,
            ErrorKind::Internal => 70,
        }
    }
}

impl From<InputKind> for ErrorKind {
    fn from(kind: InputKind) -> Self {
        match kind {
            InputKind::Io => ErrorKind::Io,
            InputKind::Malformed => ErrorKind::Malformed,
            InputKind::Unsupported => ErrorKind::Unsupported,
            InputKind::Limit => ErrorKind::Limit,
        }
    }
}

impl Error {
    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Io { .. } => ErrorKind::Io,
            Error::Format { .. } => ErrorKind::Malformed,
            Error::Text { source, .. } => source.kind().into(),
            Error::Import(e) => e.kind().into(),
            Error::File(e) => e.kind().into(),
            Error::Graph(e) => of_graph(e),
            Error::Pass(e) => of_pass(e),
            Error::Compile(e) => of_compile(e),
            Error::Run(e) => of_run(e),
            Error::Isa(IsaError::Unknown { .. }) => ErrorKind::Usage,
            Error::Isa(_) => ErrorKind::Unsupported,
        }
    }
}

impl From<&GraphError> for ErrorKind {
    fn from(error: &GraphError) -> Self {
        of_graph(error)
    }
}

impl From<&CompileError> for ErrorKind {
    fn from(error: &CompileError) -> Self {
        of_compile(error)
    }
}

impl From<&RunError> for ErrorKind {
    fn from(error: &RunError) -> Self {
        of_run(error)
    }
}

fn of_graph(error: &GraphError) -> ErrorKind {
    match error {
        GraphError::NoInput { .. } | GraphError::InputShape { .. } | GraphError::Symbol { .. } => {
            ErrorKind::Usage
        }
        GraphError::Subgraphs { .. }
        | GraphError::Infer { source: InferError::Unsupported { .. }, .. } => {
            ErrorKind::Unsupported
        }
        GraphError::PatchReference { .. }
        | GraphError::PatchType { .. }
        | GraphError::PatchCycle { .. } => ErrorKind::Internal,
        _ => ErrorKind::Malformed,
    }
}

fn of_pass(error: &PassError) -> ErrorKind {
    match error {
        PassError::UnknownPass { .. } => ErrorKind::Usage,
        _ => ErrorKind::Internal,
    }
}

fn of_compile(error: &CompileError) -> ErrorKind {
    match error {
        CompileError::Graph(e) => of_graph(e),
        CompileError::Pass(e) => of_pass(e),
        CompileError::InputCount { .. } => ErrorKind::Usage,
        CompileError::UnknownShape { .. } | CompileError::Unsupported { .. } => {
            ErrorKind::Unsupported
        }
        CompileError::TooLarge { .. }
        | CompileError::ArenaBudget { .. }
        | CompileError::Threads { .. } => ErrorKind::Limit,
        _ => ErrorKind::Internal,
    }
}

fn of_run(error: &RunError) -> ErrorKind {
    match error {
        // The model itself was found valid before: what fails now fails for these shapes.
        RunError::Plan(e) => match of_compile(e) {
            ErrorKind::Malformed => ErrorKind::Usage,
            kind => kind,
        },
        RunError::UnknownInput { .. }
        | RunError::Index { .. }
        | RunError::MissingInput { .. }
        | RunError::DuplicateInput { .. }
        | RunError::InputType { .. }
        | RunError::InputShape { .. }
        | RunError::Symbol { .. }
        | RunError::InputBytes { .. }
        | RunError::NoShapes => ErrorKind::Usage,
        RunError::NoMemory { .. } | RunError::Deadline { .. } | RunError::Tensor(_) => {
            ErrorKind::Limit
        }
        // Values that an operator is not defined for, such as an index outside its axis.
        RunError::Eval { .. } | RunError::Value { .. } => ErrorKind::Malformed,
        RunError::ResultType { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    }
}
