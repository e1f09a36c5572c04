//! Functions of single elements, and Cast.

use super::super::builder::{Info, Sym};
use super::super::cx::{Cx, broadcast, req};
use super::super::error::{Failure, malformed, of_operand, unsupported};
use super::super::tensor;
use crate::{BinaryKind, DType, Op, UnaryKind};

pub(super) fn unary_kind(op_type: &str) -> Option<UnaryKind> {
    Some(match op_type {
        "Relu" => UnaryKind::Relu,
        "Sigmoid" => UnaryKind::Sigmoid,
        "Tanh" => UnaryKind::Tanh,
        "Exp" => UnaryKind::Exp,
        "Log" => UnaryKind::Log,
        "Sqrt" => UnaryKind::Sqrt,
        "Reciprocal" => UnaryKind::Reciprocal,
        "Neg" => UnaryKind::Neg,
        "Abs" => UnaryKind::Abs,
        "Sign" => UnaryKind::Sign,
        "Floor" => UnaryKind::Floor,
        "Ceil" => UnaryKind::Ceil,
        "Round" => UnaryKind::Round,
        "Erf" => UnaryKind::Erf,
        "HardSwish" => UnaryKind::HardSwish,
        "Softplus" => UnaryKind::Softplus,
        "Sin" => UnaryKind::Sin,
        "Cos" => UnaryKind::Cos,
        "Not" => UnaryKind::Not,
        "LeakyRelu" => UnaryKind::LeakyRelu { alpha: 0.01 },
        "Elu" => UnaryKind::Elu { alpha: 1.0 },
        "HardSigmoid" => UnaryKind::HardSigmoid { alpha: 0.2, beta: 0.5 },
        _ => return None,
    })
}

/// One operand; the parameters of `kind` are ONNX's defaults.
pub(super) fn unary(cx: &mut Cx<'_, '_>, mut kind: UnaryKind) -> Result<(), Failure> {
    match &mut kind {
        UnaryKind::LeakyRelu { alpha } | UnaryKind::Elu { alpha } => {
            *alpha = cx.attrs.float_or("alpha", *alpha)?;
        }
        UnaryKind::HardSigmoid { alpha, beta } => {
            *alpha = cx.attrs.float_or("alpha", *alpha)?;
            *beta = cx.attrs.float_or("beta", *beta)?;
        }
        _ => {}
    }
    let [x] = cx.take()?;
    emit_unary(cx, req(x, "X")?, Op::Unary(kind))
}

fn emit_unary(cx: &mut Cx<'_, '_>, x: Sym, op: Op) -> Result<(), Failure> {
    let info = Info::plain(cx.dtype(x), cx.rank(x));
    let x = cx.plain(x)?;
    cx.done(op, vec![x], info)
}

pub(super) fn binary_kind(op_type: &str) -> Option<BinaryKind> {
    Some(match op_type {
        "Add" => BinaryKind::Add,
        "Sub" => BinaryKind::Sub,
        "Mul" => BinaryKind::Mul,
        "Div" => BinaryKind::Div,
        "PRelu" => BinaryKind::PRelu,
        "And" => BinaryKind::And,
        "Or" => BinaryKind::Or,
        "Xor" => BinaryKind::Xor,
        "Equal" => BinaryKind::Equal,
        "Less" => BinaryKind::Less,
        "LessOrEqual" => BinaryKind::LessOrEqual,
        "Greater" => BinaryKind::Greater,
        "GreaterOrEqual" => BinaryKind::GreaterOrEqual,
        _ => return None,
    })
}

pub(super) fn binary(cx: &mut Cx<'_, '_>, kind: BinaryKind) -> Result<(), Failure> {
    let [a, b] = cx.take()?;
    let (a, b) = (req(a, "A")?, req(b, "B")?);
    let dtype = if kind.is_comparison() { DType::Bool } else { cx.dtype(a) };
    let info = Info::plain(dtype, broadcast(cx.rank(a), cx.rank(b)));
    let operands = vec![cx.plain(a)?, cx.plain(b)?];
    cx.done(Op::Binary(kind), operands, info)
}

/// The base gives the type of the result; an exponent of another type is converted to it.
pub(super) fn pow(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, y] = cx.take()?;
    let (x, y) = (req(x, "X")?, req(y, "Y")?);
    let (to, from) = (cx.dtype(x), cx.dtype(y));
    let info = Info::plain(to, broadcast(cx.rank(x), cx.rank(y)));
    let x = cx.plain(x)?;
    let mut y = cx.plain(y)?;
    if from != to {
        if !to.is_float() {
            return of_operand(format!("{from} exponents of {to} numbers"));
        }
        y = cx.step(Op::Cast { to }, vec![y])?;
    }
    cx.done(Op::Binary(BinaryKind::Pow), vec![x, y], info)
}

/// Sum, Min, Max of any number of operands: from left to right, two at a time.
pub(super) fn chain(cx: &mut Cx<'_, '_>, kind: BinaryKind) -> Result<(), Failure> {
    let operands = cx.take_all()?;
    let dtype = cx.dtype(operands[0]);
    let rank =
        operands[1..].iter().fold(cx.rank(operands[0]), |rank, &o| broadcast(rank, cx.rank(o)));
    let info = Info::plain(dtype, rank);
    let mut left = cx.plain(operands[0])?;
    let Some((&last, middle)) = operands[1..].split_last() else {
        return cx.done(Op::Identity, vec![left], info);
    };
    for &o in middle {
        let right = cx.plain(o)?;
        left = cx.step(Op::Binary(kind), vec![left, right])?;
    }
    let right = cx.plain(last)?;
    cx.done(Op::Binary(kind), vec![left, right], info)
}

/// Bounds are operands, or attributes as in old files. Constant bounds of float numbers become a
/// `Clip`; others a `Max` with the lower and a `Min` with the upper bound, in ONNX's order.
pub(super) fn clip(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, min, max] = cx.take()?;
    let x = req(x, "input")?;
    let old = (cx.attrs.float("min")?, cx.attrs.float("max")?);
    if (old.0.is_some() && min.is_some()) || (old.1.is_some() && max.is_some()) {
        return malformed("a bound is given twice, as operand and as attribute");
    }
    let exact = matches!(cx.dtype(x), DType::F32 | DType::F16);
    let bound = |cx: &Cx<'_, '_>, operand: Option<Sym>, old: Option<f32>, none: f32| match operand {
        Some(sym) if exact => cx.const_float(sym),
        Some(_) => Ok(None),
        None => Ok(Some(old.unwrap_or(none))),
    };
    let low = bound(cx, min, old.0, f32::NEG_INFINITY)?;
    let high = bound(cx, max, old.1, f32::INFINITY)?;
    if let (Some(low), Some(high)) = (low, high) {
        if low.is_nan() || high.is_nan() {
            return malformed("a bound is not a number");
        }
        // With crossed bounds the upper one wins, which the chain below computes.
        if low <= high {
            return emit_unary(cx, x, Op::Unary(UnaryKind::Clip { min: low, max: high }));
        }
    }
    if old != (None, None) {
        return unsupported("bounds as attributes that are crossed or of integers");
    }
    let info = Info::plain(cx.dtype(x), cx.rank(x));
    let x = cx.plain(x)?;
    let (min, max) = (cx.plain_opt(min)?, cx.plain_opt(max)?);
    let (max_of, min_of) = (Op::Binary(BinaryKind::Max), Op::Binary(BinaryKind::Min));
    match (min, max) {
        (None, None) => cx.done(Op::Identity, vec![x], info),
        (Some(_), None) => cx.done(max_of, vec![x, min], info),
        (None, Some(_)) => cx.done(min_of, vec![x, max], info),
        (Some(_), Some(_)) => {
            let raised = cx.step(max_of, vec![x, min])?;
            cx.done(min_of, vec![raised, max], info)
        }
    }
}

/// `saturate` speaks of 8-bit floats only.
pub(super) fn cast(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x] = cx.take()?;
    let x = req(x, "input")?;
    cx.attrs.ignore(&["saturate"]);
    let Some(to) = cx.attrs.int("to")? else { return malformed("attribute `to` is missing") };
    let to = tensor::dtype(i32::try_from(to).unwrap_or(i32::MAX))?;
    let info = Info::plain(to, cx.rank(x));
    let x = cx.plain(x)?;
    cx.done(Op::Cast { to }, vec![x], info)
}

/// The result of `x` where the condition holds, else of `y`.
pub(super) fn select(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [c, x, y] = cx.take()?;
    let (c, x, y) = (req(c, "condition")?, req(x, "X")?, req(y, "Y")?);
    let rank = broadcast(broadcast(cx.rank(c), cx.rank(x)), cx.rank(y));
    let info = Info::plain(cx.dtype(x), rank);
    let operands = vec![cx.plain(c)?, cx.plain(x)?, cx.plain(y)?];
    cx.done(Op::Where, operands, info)
}
