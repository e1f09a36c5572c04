//! What can go wrong while an ONNX model is imported.

use crate::verify::Rule;
use crate::{ErrorKind, TensorError, VerifyError};
use std::fmt;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why an ONNX model cannot be imported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// What went wrong with a file.
    #[error("cannot import `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<ImportError>,
    },
    /// A file cannot be read.
    #[error("cannot read the file")]
    Read(#[source] io::Error),
    /// The bytes are not a complete ONNX model.
    #[error("not an ONNX model, or a damaged one: {detail}")]
    Encoding {
        /// What is wrong.
        detail: String,
    },
    /// A bound of [`crate::Limits`] is exceeded.
    #[error("{what}: {needed} is above the limit of {limit}")]
    Limit {
        /// What is too much.
        what: String,
        /// What the model asks for.
        needed: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The model as a whole breaks ONNX's rules.
    #[error("malformed model: {detail}")]
    Model {
        /// What is wrong.
        detail: String,
    },
    /// An operator set that this version cannot read.
    #[error(
        "the model uses version {version} of the operator set `{domain}`, but versions {oldest} to {newest} can be read: export or convert it to one of them"
    )]
    Opset {
        /// `ai.onnx` or another domain.
        domain: String,
        /// The version in the file.
        version: i64,
        /// Oldest version that can be read.
        oldest: i64,
        /// Newest version that can be read.
        newest: i64,
    },
    /// A constant breaks ONNX's rules.
    #[error("malformed tensor `{tensor}`: {detail}")]
    Tensor {
        /// Name of the tensor.
        tensor: String,
        /// What is wrong.
        detail: String,
    },
    /// The elements of a constant are in another file, which cannot be used.
    #[error("external data of tensor `{tensor}`: {source}")]
    External {
        /// Name of the tensor.
        tensor: String,
        /// The reason.
        source: ExternalError,
    },
    /// A node breaks ONNX's rules.
    #[error("malformed node `{node}` ({op}): {detail}")]
    Node {
        /// Name of the node, or its position if it has none.
        node: String,
        /// Type of the operator.
        op: String,
        /// What is wrong.
        detail: String,
    },
    /// A tensor is used that nothing defines.
    #[error("{user} uses tensor `{tensor}`, which nothing defines")]
    Undefined {
        /// The node, or "the graph's output list".
        user: String,
        /// Name of the tensor.
        tensor: String,
    },
    /// Two definitions of one name.
    #[error("tensor `{tensor}` is defined twice: {definer} defines it again")]
    Redefined {
        /// Name of the tensor.
        tensor: String,
        /// The second definition.
        definer: String,
    },
    /// Nodes that wait for each other.
    #[error("the graph has a cycle through the nodes {}", quoted(nodes))]
    Cycle {
        /// Some or all nodes of one cycle, in order.
        nodes: Vec<String>,
    },
    /// The imported model breaks a rule of the IR.
    #[error(transparent)]
    Invalid(#[from] VerifyError),
    /// The model is valid, but needs something that is not supported: all of it in one list.
    #[error("{0}")]
    Unsupported(Box<Unsupported>),
}

impl ImportError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ImportError::File { source, .. } => source.kind(),
            ImportError::Read(_) => ErrorKind::Io,
            ImportError::External { source, .. } => source.kind(),
            ImportError::Limit { .. } => ErrorKind::Limit,
            ImportError::Invalid(e) if matches!(*e.rule, Rule::Limit { .. }) => ErrorKind::Limit,
            ImportError::Opset { .. } | ImportError::Unsupported(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Malformed,
        }
    }
}

/// Why the file with a tensor's elements cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExternalError {
    /// A key that is not known, given twice, or not given though it must be.
    #[error("{0}")]
    Keys(String),
    /// A location outside of the model's folder or reached through a link.
    #[error("location `{location}` is refused: {reason}")]
    Location {
        /// As the model gives it.
        location: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// The range is not inside the file, or not as long as the tensor.
    #[error("{0}")]
    Range(String),
    /// The model was given as bytes, without a folder.
    #[error("the model was given without its folder, so `{location}` cannot be found")]
    NoFolder {
        /// As the model gives it.
        location: String,
    },
    /// The file cannot be read.
    #[error("cannot read `{location}`")]
    Read {
        /// As the model gives it.
        location: String,
        /// The reason.
        source: io::Error,
    },
}

impl ExternalError {
    fn kind(&self) -> ErrorKind {
        match self {
            ExternalError::Read { .. } | ExternalError::NoFolder { .. } => ErrorKind::Io,
            _ => ErrorKind::Malformed,
        }
    }
}

/// Everything that a model needs and that is not supported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unsupported {
    /// Operators, in order of their first node.
    pub ops: Vec<UnsupportedOp>,
    /// Tensors, in file order.
    pub tensors: Vec<UnsupportedTensor>,
}

/// An operator that is not supported, or not in the form in which some nodes use it.
#[derive(Clone, Debug, PartialEq)]
pub struct UnsupportedOp {
    /// Domain; empty for ONNX's own.
    pub domain: String,
    /// Type.
    pub op_type: String,
    /// Why.
    pub reason: String,
    /// All nodes with this operator and reason.
    pub nodes: Vec<String>,
}

/// A tensor of a type that is not supported.
#[derive(Clone, Debug, PartialEq)]
pub struct UnsupportedTensor {
    /// Name.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl Unsupported {
    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.tensors.is_empty()
    }

    pub(super) fn add_node(&mut self, domain: &str, op_type: &str, node: &str, reason: String) {
        let same = |o: &&mut UnsupportedOp| {
            o.domain == domain && o.op_type == op_type && o.reason == reason
        };
        match self.ops.iter_mut().find(same) {
            Some(op) => op.nodes.push(node.to_owned()),
            None => self.ops.push(UnsupportedOp {
                domain: domain.to_owned(),
                op_type: op_type.to_owned(),
                reason,
                nodes: vec![node.to_owned()],
            }),
        }
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the model needs what is not supported:")?;
        for op in &self.ops {
            let dot = if op.domain.is_empty() { "" } else { "." };
            write!(f, "\n  {}{dot}{} ({}): ", op.domain, op.op_type, op.reason)?;
            let plural = if op.nodes.len() == 1 { "node" } else { "nodes" };
            write!(f, "{} {plural}: {}", op.nodes.len(), list(&op.nodes))?;
        }
        for tensor in &self.tensors {
            write!(f, "\n  tensor `{}`: {}", tensor.name, tensor.reason)?;
        }
        Ok(())
    }
}

fn list(names: &[String]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

/// The first few names, for people.
fn quoted(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = list(&names[..names.len().min(SHOWN)]);
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

/// A failure whose place (node or tensor) the caller knows.
#[derive(Debug)]
pub(super) enum Failure {
    /// Breaks ONNX's rules.
    Malformed(String),
    /// Valid, but not supported.
    Unsupported(String),
    /// Not supported for what an operand is: says nothing where the operand is the result of a node that
    /// is not supported itself.
    Operand(String),
    /// Complete already.
    Import(ImportError),
}

impl From<ImportError> for Failure {
    fn from(e: ImportError) -> Self {
        Failure::Import(e)
    }
}

impl From<TensorError> for Failure {
    fn from(e: TensorError) -> Self {
        match e {
            TensorError::Rank { rank } => Failure::Import(ImportError::Limit {
                what: "rank of a tensor".into(),
                needed: rank as u64,
                limit: crate::MAX_RANK as u64,
            }),
            other => Failure::Malformed(other.to_string()),
        }
    }
}

pub(super) fn malformed<T>(detail: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Malformed(detail.into()))
}

/// Not supported for what an operand is, see [`Failure::Operand`].
pub(super) fn of_operand<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Operand(reason.into()))
}

pub(super) fn unsupported<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Unsupported(reason.into()))
}
