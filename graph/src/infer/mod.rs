//! Types of results from types of operands, for every operator.
//!
//! Extents may be symbolic: what can be derived is, the rest is [`Dim::Unknown`]. Small integer
//! tensors that shapes are computed from are followed element by element (`value`). Nothing here
//! panics on any operator or type, and no size overflows: what does not fit is an error.

mod dims;
mod geometry;
mod movement;
mod nn;
mod quantized;
mod shape;
mod value;

pub(crate) use dims::{axis_index, broadcast, merge_dims};
pub(crate) use geometry::{Window, window};
pub(crate) use movement::slice_range;
pub(crate) use shape::range as shape_range;
pub(crate) use value::shape_value;

use requant_ir::{DType, Dim, ElemType, MAX_RANK, Op, QuantParams, Tensor, TensorType};
use smallvec::{SmallVec, smallvec};
use thiserror::Error;

/// What is known of an operand.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The type.
    pub ty: &'a TensorType,
    /// The elements, for a constant.
    pub constant: Option<&'a Tensor>,
    /// What is known of the elements of a small integer tensor; [`Dim::Unknown`] also stands for
    /// negative elements.
    pub shape_value: Option<&'a [Dim]>,
}

impl<'a> Operand<'a> {
    /// An operand of which only the type is known.
    pub fn of(ty: &'a TensorType) -> Self {
        Operand { ty, constant: None, shape_value: None }
    }
}

/// What is known of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred {
    /// The type.
    pub ty: TensorType,
    /// What is known of the elements of a small integer tensor.
    pub shape_value: Option<Vec<Dim>>,
}

impl Inferred {
    /// What is known of a constant; an error where its quantization is not possible.
    pub fn constant(tensor: &Tensor) -> Result<Self, InferError> {
        Ok(Inferred { ty: check_type(tensor.ty())?, shape_value: shape_value(tensor) })
    }
}

/// The types of all results.
pub type Results = SmallVec<[TensorType; 1]>;

/// Why an operator cannot take its operands. Operands count from 0.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InferError {
    /// Too many operands or too few.
    #[error("{op} takes {expected} operands, {got} are given")]
    Arity {
        /// The operator.
        op: &'static str,
        /// How many it takes.
        expected: &'static str,
        /// How many there are.
        got: usize,
    },
    /// An operand that must be there is not.
    #[error("{op}: operand {operand} is missing")]
    Missing {
        /// The operator.
        op: &'static str,
        /// The operand.
        operand: usize,
    },
    /// An operand has the wrong type, rank or extent.
    #[error("{op}: operand {operand} is {got}, but must be {rule}")]
    Operand {
        /// The operator.
        op: &'static str,
        /// The operand.
        operand: usize,
        /// Its type or value.
        got: String,
        /// What it must be.
        rule: String,
    },
    /// An operand of a type that the operator may have in its format, but not here.
    #[error("{op} of {got} is not supported, only of {rule}")]
    Unsupported {
        /// The operator.
        op: &'static str,
        /// The operand's type.
        got: String,
        /// The types that are.
        rule: String,
    },
    /// An attribute is out of range or does not fit the operands.
    #[error("{op}: {attribute} is {got}, but must be {rule}")]
    Attribute {
        /// The operator.
        op: &'static str,
        /// The attribute.
        attribute: &'static str,
        /// Its value.
        got: String,
        /// What it must be.
        rule: String,
    },
    /// Shapes that do not broadcast.
    #[error("{op}: the shapes of {a} and {b} do not broadcast")]
    Broadcast {
        /// The operator.
        op: &'static str,
        /// One type.
        a: String,
        /// The other.
        b: String,
    },
    /// Quantization per axis or block does not survive.
    #[error(
        "{op}: the quantization of operand {operand} ({got}) does not survive; dequantize before"
    )]
    Quantization {
        /// The operator.
        op: &'static str,
        /// The operand.
        operand: usize,
        /// Its type.
        got: String,
    },
    /// The number of results is not what the operator gives.
    #[error("{op} gives {expected} results, {got} are named")]
    ResultCount {
        /// The operator.
        op: &'static str,
        /// How many it gives.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// A type that no tensor can have.
    #[error("{ty} is not possible: {rule}")]
    Type {
        /// The type.
        ty: String,
        /// The rule it breaks.
        rule: String,
    },
    /// An operator of somebody else.
    #[error("the types of a custom operator's results must be given")]
    Custom,
}

/// The types of an operator's results.
///
/// `results` is the number of results that the node names; only `Split` into equal parts needs it,
/// for the others it is checked.
pub fn infer(
    op: &Op,
    operands: &[Option<Operand<'_>>],
    results: usize,
) -> Result<SmallVec<[Inferred; 1]>, InferError> {
    let cx = Cx { op: op.mnemonic(), operands };
    let one =
        |ty: Result<TensorType, InferError>| -> Result<Results, InferError> { Ok(smallvec![ty?]) };
    let types: Results = match op {
        Op::Identity
        | Op::Reshape { .. }
        | Op::Flatten { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Transpose { .. }
        | Op::Concat { .. }
        | Op::Slice
        | Op::Gather { .. }
        | Op::Expand
        | Op::Tile
        | Op::Pad { .. }
        | Op::Cast { .. }
        | Op::Reinterpret { .. } => one(movement::infer(&cx, op))?,
        Op::Split { axis, sizes } => movement::split(&cx, *axis, sizes, results)?,
        Op::Shape { .. } | Op::Size | Op::ConstantOfShape { .. } | Op::Range | Op::Where => {
            one(shape::infer(&cx, op))?
        }
        Op::Conv(_)
        | Op::MatMul
        | Op::Gemm { .. }
        | Op::Pool(_)
        | Op::Reduce { .. }
        | Op::ArgMax { .. }
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::BatchNorm { .. }
        | Op::LayerNorm { .. }
        | Op::Softmax { .. } => one(nn::infer(&cx, op))?,
        Op::Custom { .. } => return Err(InferError::Custom),
        _ => one(quantized::infer(&cx, op))?,
    };
    if types.len() != results {
        return Err(InferError::ResultCount { op: cx.op, expected: types.len(), got: results });
    }
    let types = types.into_iter().map(check_type).collect::<Result<Results, _>>()?;
    let mut values = value::propagate(op, &cx, &types).into_iter();
    Ok(types.into_iter().map(|ty| Inferred { ty, shape_value: values.next().flatten() }).collect())
}

/// An operator's name and operands, with checks that name them in errors.
pub(crate) struct Cx<'a> {
    op: &'static str,
    operands: &'a [Option<Operand<'a>>],
}

impl<'a> Cx<'a> {
    /// Fails unless the number of operand slots is in `range`; missing ones at the end do not count.
    fn arity(
        &self,
        range: std::ops::RangeInclusive<usize>,
        expected: &'static str,
    ) -> Result<(), InferError> {
        let got = self.operands.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        if range.contains(&got) {
            return Ok(());
        }
        Err(InferError::Arity { op: self.op, expected, got })
    }

    /// Operand `i`, if it is there.
    fn optional(&self, i: usize) -> Option<Operand<'a>> {
        self.operands.get(i).copied().flatten()
    }

    /// Operand `i`, which must be there.
    fn get(&self, i: usize) -> Result<Operand<'a>, InferError> {
        self.optional(i).ok_or(InferError::Missing { op: self.op, operand: i })
    }

    /// Says that operand `i` is not what it must be.
    fn wrong(&self, i: usize, rule: impl Into<String>) -> InferError {
        let got = self.optional(i).map_or_else(|| "absent".into(), |o| show(o.ty));
        InferError::Operand { op: self.op, operand: i, got, rule: rule.into() }
    }

    /// Says that an attribute is not what it must be.
    fn attribute(
        &self,
        attribute: &'static str,
        got: impl std::fmt::Debug,
        rule: impl Into<String>,
    ) -> InferError {
        InferError::Attribute { op: self.op, attribute, got: format!("{got:?}"), rule: rule.into() }
    }

    /// Operand `i`, of plain elements of one of the types `of`.
    fn plain(&self, i: usize, of: &[DType]) -> Result<Operand<'a>, InferError> {
        let operand = self.get(i)?;
        let fits = operand.ty.quant().is_none() && of.contains(&operand.ty.dtype());
        if fits {
            return Ok(operand);
        }
        let names: Vec<_> = of.iter().map(|d| d.name()).collect();
        Err(self.wrong(i, format!("plain {}", names.join(" or "))))
    }

    /// Operand `i`, of plain floats.
    fn float(&self, i: usize) -> Result<Operand<'a>, InferError> {
        self.plain(i, &[DType::F32, DType::F16, DType::F64]).map_err(|error| match error {
            // ONNX has integer forms of most.
            InferError::Operand { op, got, rule, .. } if self.is_plain_integer(i) => {
                InferError::Unsupported { op, got, rule }
            }
            error => error,
        })
    }

    fn is_plain_integer(&self, i: usize) -> bool {
        let plain = |o: Operand<'_>| o.ty.quant().is_none() && o.ty.dtype().quant_range().is_some();
        self.optional(i).is_some_and(|o| plain(o) || o.ty.dtype() == DType::I64)
    }

    /// Operand `i`, with the very element type of operand 0.
    fn like_first(&self, i: usize) -> Result<Operand<'a>, InferError> {
        let (first, operand) = (self.get(0)?, self.get(i)?);
        if first.ty.elem == operand.ty.elem {
            return Ok(operand);
        }
        Err(self
            .wrong(i, format!("of the element type of operand 0, {}", show_elem(&first.ty.elem))))
    }

    /// The extents of operand `i`, if its rank is known; it must be `rank`.
    fn rank(&self, i: usize, rank: usize) -> Result<Option<&'a [Dim]>, InferError> {
        match self.get(i)?.ty.dims.as_deref() {
            Some(dims) if dims.len() != rank => Err(self.wrong(i, format!("of rank {rank}"))),
            dims => Ok(dims),
        }
    }

    /// The elements of operand `i`, plain s64 or s32 of rank 0 or 1, where all are known.
    fn ints(&self, i: usize) -> Result<Option<Vec<i64>>, InferError> {
        let operand = self.plain(i, &[DType::I64, DType::I32])?;
        if operand.ty.rank().is_some_and(|r| r > 1) {
            return Err(self.wrong(i, "of rank 0 or 1"));
        }
        if let Some(tensor) = operand.constant {
            return Ok(tensor.to_i64());
        }
        let known = operand.shape_value.map(|dims| {
            dims.iter()
                .map(|d| d.fixed().and_then(|n| i64::try_from(n).ok()))
                .collect::<Option<_>>()
        });
        Ok(known.flatten())
    }

    /// How many elements operand `i`, of rank 1, has.
    fn count(&self, i: usize) -> Option<usize> {
        match self.optional(i)?.ty.dims.as_deref() {
            Some([dim]) => dim.fixed(),
            Some([]) => Some(1),
            _ => None,
        }
    }

    /// A negative axis counts from the end; out of range is an error.
    fn axis(&self, axis: i64, rank: usize) -> Result<usize, InferError> {
        axis_index(axis, rank)
            .ok_or_else(|| self.attribute("axis", axis, format!("an axis of rank {rank}")))
    }

    /// Axes as indices, none of them twice.
    fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, InferError> {
        let mut found = Vec::with_capacity(axes.len());
        for &axis in axes {
            let axis = self.axis(axis, rank)?;
            if found.contains(&axis) {
                return Err(self.attribute("axes", axes, "without duplicates"));
            }
            found.push(axis);
        }
        Ok(found)
    }

    /// The broadcast shape of operands `i` and `j`.
    fn broadcast(&self, i: usize, j: usize) -> Result<Option<Vec<Dim>>, InferError> {
        let (a, b) = (self.get(i)?, self.get(j)?);
        match (&a.ty.dims, &b.ty.dims) {
            (Some(x), Some(y)) => broadcast(x, y).map(Some).ok_or_else(|| InferError::Broadcast {
                op: self.op,
                a: show(a.ty),
                b: show(b.ty),
            }),
            _ => Ok(None),
        }
    }

    /// Says that the quantization of operand `i` cannot be kept.
    fn lost(&self, i: usize) -> InferError {
        let got = self.optional(i).map_or_else(String::new, |o| show(o.ty));
        InferError::Quantization { op: self.op, operand: i, got }
    }
}

/// Checks that a tensor can have a type: rank, size, and parameters of the quantization.
pub(crate) fn check_type(ty: TensorType) -> Result<TensorType, InferError> {
    let wrong = |rule: String| Err(InferError::Type { ty: show(&ty), rule });
    if let Some(dims) = &ty.dims {
        if dims.len() > MAX_RANK {
            return wrong(format!("the rank is above {MAX_RANK}"));
        }
        let known: Vec<usize> = dims.iter().map(|d| d.fixed().unwrap_or(1)).collect();
        if Tensor::byte_len(ty.dtype(), &known).is_err() {
            return wrong("it is too large for this machine".into());
        }
    }
    if let Err(rule) = check_elem(&ty.elem) {
        return wrong(rule);
    }
    let axis = match ty.quant().map(|q| (&q.params, q.scales().len())) {
        Some((QuantParams::PerAxis { axis, .. }, n)) => Some((*axis, n)),
        Some((QuantParams::PerBlock { axis, .. }, _)) => Some((*axis, 0)),
        _ => None,
    };
    if let (Some(blocks), Some(n)) = (blocks(&ty), ty.quant().map(|q| q.scales().len()))
        && blocks != Some(n)
    {
        return wrong(format!("its blocks are not {n}, the number of scales"));
    }
    if let (Some((axis, n)), Some(dims)) = (axis, &ty.dims) {
        match dims.get(axis) {
            None => return wrong(format!("it has no axis {axis}")),
            Some(Dim::Fixed(d)) if n != 0 && *d != n => {
                return wrong(format!("axis {axis} has {d} elements, the quantization {n}"));
            }
            Some(_) => {}
        }
    }
    Ok(ty)
}

/// How many blocks a type quantized in blocks has, where its extents are known; `Some(None)` where the
/// blocks are not possible.
fn blocks(ty: &TensorType) -> Option<Option<usize>> {
    let QuantParams::PerBlock { axis, size, .. } = &ty.quant()?.params else { return None };
    let mut dims = ty.fixed_dims()?;
    let count = |dims: &mut Vec<usize>| {
        let extent = dims.get_mut(*axis)?;
        *extent = extent.checked_next_multiple_of(*size)? / size;
        dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    };
    Some(count(&mut dims))
}

/// Checks the parameters of a quantization by themselves.
pub(crate) fn check_elem(elem: &ElemType) -> Result<(), String> {
    let Some(quant) = &elem.quant else { return Ok(()) };
    let Some((min, max)) = elem.dtype.quant_range() else {
        return Err(format!("{} cannot be quantized", elem.dtype));
    };
    let (scales, zeros) = (quant.scales(), quant.zero_points());
    if scales.len() != zeros.len() {
        return Err(format!("it has {} scales and {} zero points", scales.len(), zeros.len()));
    }
    if let Some(scale) = scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        return Err(format!("the scale {scale} is not finite and positive"));
    }
    if let Some(zero) = zeros.iter().find(|z| !(min..=max).contains(z)) {
        return Err(format!("the zero point {zero} is outside of {min} … {max}"));
    }
    Ok(())
}

/// A shape for people: `[1, N, 3]`.
pub(crate) fn show_dims(dims: &[Dim]) -> String {
    let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// A type for people, in the text form.
pub(crate) fn show(ty: &TensorType) -> String {
    ty.to_string()
}

pub(crate) fn show_elem(elem: &ElemType) -> String {
    elem.to_string()
}
