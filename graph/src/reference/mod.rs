//! The reference interpreter: what every operator means.
//!
//! Scalar and plain; constant folding, table building, tests and operators without a kernel all use
//! it. Float functions come from `requant_kernels`, so that they cannot drift from the kernels; sums of
//! products (convolutions, matrix products) are accumulated in f64 and rounded once, so that they have
//! no order. Quantized operators compute what [`Op`]'s documentation says, bit for bit.

mod data;
mod elementwise;
mod float;
mod movement;
mod quantized;
mod requantize;
mod run;
mod shape;
mod window;

pub use run::{Recording, RunOptions, run};

use crate::GraphError;
use crate::infer::{self, InferError, Operand};
use requant_ir::{Op, Tensor, TensorError, TensorType};
use requant_kernels::KernelError;
use smallvec::SmallVec;
use thiserror::Error;

/// Why an operator or a graph could not be evaluated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The operands do not fit the operator.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A kernel function refused its parameters.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The graph refused the input shapes.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// More memory or time than allowed.
    #[error("{op}: {what} is {got}, the limit is {limit}")]
    Limit {
        /// The operator.
        op: &'static str,
        /// What there is too much of.
        what: &'static str,
        /// How much.
        got: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// The result type is not known even with all operands known.
    #[error("{op}: the type of the result is not known")]
    Unresolved {
        /// The operator.
        op: &'static str,
    },
    /// An index beyond the extent it counts in.
    #[error("{op}: the index {index} is outside of the extent {extent}")]
    Index {
        /// The operator.
        op: &'static str,
        /// The index.
        index: i64,
        /// The extent.
        extent: usize,
    },
    /// An integer division by 0.
    #[error("{op}: an integer is divided by 0")]
    DivisionByZero {
        /// The operator.
        op: &'static str,
    },
    /// A sum that does not fit s32.
    #[error("{op}: a sum of products leaves s32; split the inner extent")]
    Overflow {
        /// The operator.
        op: &'static str,
    },
    /// A storage type that the operator has no meaning for.
    #[error("{op} has no meaning for {dtype}")]
    Storage {
        /// The operator.
        op: &'static str,
        /// The storage type.
        dtype: requant_ir::DType,
    },
    /// An input of the graph is not given.
    #[error("the input `{name}` is not given")]
    MissingInput {
        /// The input.
        name: String,
    },
    /// An input has another element type.
    #[error("the input `{name}` is {expected}, the tensor given is {got}")]
    InputType {
        /// The input.
        name: String,
        /// What the graph says.
        expected: String,
        /// What is given.
        got: String,
    },
    /// A node could not be evaluated.
    #[error("node `{node}`: {source}")]
    Node {
        /// The node.
        node: String,
        /// Why.
        source: Box<EvalError>,
    },
}

/// How much an evaluation may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalLimits {
    /// Bytes of one result.
    pub result_bytes: u64,
    /// Bytes of a table beside it.
    pub table_bytes: u64,
    /// Multiplications, or elements read, of one operator.
    pub work: u64,
}

impl Default for EvalLimits {
    fn default() -> Self {
        EvalLimits { result_bytes: 1 << 30, table_bytes: 1 << 26, work: 1 << 38 }
    }
}

/// The results of an operator with one result (or with `Split`'s explicit sizes).
///
/// `operands` are in the operator's order, `None` for an absent optional one.
pub fn eval(op: &Op, operands: &[Option<&Tensor>]) -> Result<Vec<Tensor>, EvalError> {
    let results = match op {
        Op::Split { sizes, .. } => sizes.len().max(1),
        _ => 1,
    };
    eval_with(op, operands, results, &EvalLimits::default())
}

/// The results of an operator of which the node names `results`.
pub fn eval_with(
    op: &Op,
    operands: &[Option<&Tensor>],
    results: usize,
    limits: &EvalLimits,
) -> Result<Vec<Tensor>, EvalError> {
    let operand_types: SmallVec<[_; 4]> = operands
        .iter()
        .map(|t| t.map(|t| infer::check_type(t.ty())).transpose())
        .collect::<Result<_, _>>()?;
    let values: Vec<_> = operands.iter().map(|t| t.and_then(infer::shape_value)).collect();
    let known: SmallVec<[_; 4]> = operands
        .iter()
        .zip(operand_types.iter().zip(&values))
        .map(|(tensor, (ty, value))| {
            let ty = ty.as_ref()?;
            Some(Operand { ty, constant: *tensor, shape_value: value.as_deref() })
        })
        .collect();
    let types: Vec<TensorType> =
        infer::infer(op, &known, results)?.into_iter().map(|i| i.ty).collect();
    let cx = Cx { op: op.mnemonic(), operands, limits };
    for ty in &types {
        let bytes = Tensor::byte_len(ty.dtype(), &cx.dims(ty)?)?;
        cx.limit("the size of the result in bytes", Some(bytes as u64), limits.result_bytes)?;
    }
    let [ty] = &types[..] else { return movement::split(&cx, op, &types) };
    // Nothing to compute; what follows may count on the operands being as large as their extents say.
    if ty.elements() == Some(0) {
        return Ok(vec![Tensor::zeros(ty.elem.clone(), cx.dims(ty)?)?]);
    }
    let result = match op {
        Op::Identity
        | Op::Reshape { .. }
        | Op::Flatten { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Transpose { .. }
        | Op::Concat { .. }
        | Op::Split { .. }
        | Op::Slice
        | Op::Gather { .. }
        | Op::Expand
        | Op::Tile
        | Op::Pad { .. }
        | Op::Reinterpret { .. } => movement::eval(&cx, op, ty),
        Op::Shape { .. } | Op::Size | Op::ConstantOfShape { .. } | Op::Range => {
            shape::eval(&cx, op, ty)
        }
        Op::Cast { .. } | Op::Where | Op::Unary(_) | Op::Binary(_) => {
            elementwise::eval(&cx, op, ty)
        }
        Op::Conv(_)
        | Op::MatMul
        | Op::Gemm { .. }
        | Op::Pool(_)
        | Op::Reduce { .. }
        | Op::ArgMax { .. }
        | Op::BatchNorm { .. }
        | Op::LayerNorm { .. }
        | Op::Softmax { .. } => float::eval(&cx, op, ty),
        _ => quantized::eval(&cx, op, ty),
    };
    Ok(vec![result?])
}

/// The operands, whose types inference has checked, and the limits.
struct Cx<'a> {
    op: &'static str,
    operands: &'a [Option<&'a Tensor>],
    limits: &'a EvalLimits,
}

impl<'a> Cx<'a> {
    /// Operand `i`; inference has checked that those that must be there are.
    fn get(&self, i: usize) -> Result<&'a Tensor, EvalError> {
        self.optional(i).ok_or(EvalError::Infer(InferError::Missing { op: self.op, operand: i }))
    }

    fn optional(&self, i: usize) -> Option<&'a Tensor> {
        self.operands.get(i).copied().flatten()
    }

    /// The integers of operand `i`.
    fn ints(&self, i: usize) -> Result<Vec<i64>, EvalError> {
        let tensor = self.get(i)?;
        tensor.to_i64().ok_or(self.storage(tensor))
    }

    /// The extents of a result.
    fn dims(&self, ty: &TensorType) -> Result<Vec<usize>, EvalError> {
        ty.fixed_dims().ok_or(EvalError::Unresolved { op: self.op })
    }

    fn storage(&self, tensor: &Tensor) -> EvalError {
        EvalError::Storage { op: self.op, dtype: tensor.dtype() }
    }

    fn limit(&self, what: &'static str, got: Option<u64>, limit: u64) -> Result<(), EvalError> {
        match got.unwrap_or(u64::MAX) {
            got if got <= limit => Ok(()),
            got => Err(EvalError::Limit { op: self.op, what, got, limit }),
        }
    }

    /// Fails where the product of `factors` is more work than allowed.
    fn work(&self, factors: &[usize]) -> Result<(), EvalError> {
        let work = factors.iter().try_fold(1u64, |n, &f| n.checked_mul(f as u64));
        self.limit("the work in multiplications", work, self.limits.work)
    }
}
