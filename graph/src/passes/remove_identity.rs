//! Removes operators that give back what they were given, and merges chains of transposes and of
//! reshapes.
//!
//! Match and rewrite:
//! - identity; cast, reinterpret and requantize to the operand's own type; transpose by the
//!   identity; reshape, flatten, squeeze, unsqueeze and expand to the operand's own shape; tile by
//!   ones; slice of everything; pad by nothing; concat of one; split into one; clip by infinities;
//!   add and sub of zero, mul and div by one: the operand;
//! - transpose of a transpose: one transpose;
//! - reshape (flatten, squeeze, unsqueeze) of the same: one reshape;
//! - transpose that only moves axes of extent 1: a reshape.
//!
//! Class: exact. For floats only `x + (−0)` and `x − 0` keep every `x`: `−0 + 0` is `+0`.
//! Refuses: nothing that it could explain; where a shape is not known there is no match.

use super::consts::{
    self, constant_operand, dims, int_operand, is_identity, keeps_order, op, operand,
    reshape_target, same_dims, same_type,
};
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::{Patch, Src};
use crate::{Graph, NodeId, Outlet};
use requant_ir::{BinaryKind, Op, Rounding, Tensor, UnaryKind};

const NAME: &str = "remove_identity";

/// Removes operators without effect.
pub struct RemoveIdentity;

impl Pass for RemoveIdentity {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::Exact,
            about: "removes operators without effect, merges transposes and reshapes",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, |graph, node, _| {
            let op = op(graph, node)?;
            let mut patch = Patch::new(NAME, Exactness::Exact);
            let new = match identity(graph, node, op) {
                Some(operand) => Src::from(operand),
                None => merged(graph, node, op, &mut patch)?,
            };
            patch.replace(Outlet { node, slot: 0 }, new);
            Some(patch)
        })
    }
}

/// The operand that `node` gives back.
fn identity(graph: &Graph, node: NodeId, op: &Op) -> Option<Outlet> {
    let x = operand(graph, node, 0)?;
    let of = &graph.fact(x).ty;
    let result = &graph.fact(Outlet { node, slot: 0 }).ty;
    let same = match op {
        Op::Identity => true,
        Op::Cast { to } => of.elem.quant.is_none() && of.dtype() == *to,
        Op::Reinterpret { out } => of.elem == *out,
        Op::Requantize(out) => {
            let exact = out.rounding == Rounding::HalfEven && of.dtype().bits() <= 16;
            out.clamp.is_none() && exact && of.elem == out.elem
        }
        Op::Transpose { perm } => is_identity(perm),
        Op::Reshape { .. }
        | Op::Flatten { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Expand => same_type(of, result),
        Op::Tile => int_operand(graph, node, 1)?.iter().all(|&n| n == 1),
        Op::Slice => takes_everything(graph, node, same_type(of, result)),
        Op::Pad { .. } => int_operand(graph, node, 1)?.iter().all(|&n| n == 0),
        Op::Concat { .. } => graph.operands(node).len() == 1,
        Op::Split { .. } => graph.node(node).outputs.len() == 1,
        Op::Unary(UnaryKind::Clip { min, max }) => {
            *min == f32::NEG_INFINITY && *max == f32::INFINITY
        }
        Op::Binary(kind) => return neutral(graph, node, *kind),
        _ => false,
    };
    same.then_some(x)
}

/// A slice that keeps every extent keeps the elements, unless it turns an axis around.
fn takes_everything(graph: &Graph, node: NodeId, same_type: bool) -> bool {
    let forward = match operand(graph, node, 4) {
        None => true,
        Some(_) => int_operand(graph, node, 4).is_some_and(|s| s.iter().all(|&s| s > 0)),
    };
    same_type && forward
}

/// The operand that a binary operator gives back because the other one is its neutral element.
fn neutral(graph: &Graph, node: NodeId, kind: BinaryKind) -> Option<Outlet> {
    let result = dims(graph, Outlet { node, slot: 0 });
    let sides: &[usize] = match kind {
        BinaryKind::Add | BinaryKind::Mul | BinaryKind::And | BinaryKind::Or => &[0, 1],
        BinaryKind::Sub | BinaryKind::Div => &[0],
        _ => return None,
    };
    sides.iter().find_map(|&side| {
        let x = operand(graph, node, side)?;
        let constant = constant_operand(graph, node, 1 - side)?;
        let shape = dims(graph, x)?;
        let is_one_number = constant.len() == 1 && constant.dims().len() <= shape.len();
        let keeps_shape = is_one_number || same_dims(Some(shape), result);
        (keeps_shape && is_neutral(constant, kind)).then_some(x)
    })
}

fn is_neutral(constant: &Tensor, kind: BinaryKind) -> bool {
    if let Some(floats) = constant.to_f32() {
        // −0 in f16 and f64 is −0 in f32, but other numbers may round to it.
        let exact = !matches!(constant.dtype(), requant_ir::DType::F64);
        let all = |bits: u32| exact && floats.iter().all(|v| v.to_bits() == bits);
        return match kind {
            BinaryKind::Add => all((-0.0f32).to_bits()),
            BinaryKind::Sub => all(0),
            BinaryKind::Mul | BinaryKind::Div => all(1.0f32.to_bits()),
            _ => false,
        };
    }
    let Some(integers) = constant.to_i64() else { return false };
    let neutral = match kind {
        BinaryKind::Add | BinaryKind::Sub | BinaryKind::Or => 0,
        BinaryKind::Mul | BinaryKind::Div | BinaryKind::And => 1,
        _ => return false,
    };
    integers.iter().all(|&v| v == neutral)
}

/// One operator instead of two, or a cheaper one.
fn merged(graph: &Graph, node: NodeId, op: &Op, patch: &mut Patch) -> Option<Src> {
    let name = graph.node(node).name.to_string();
    let x = operand(graph, node, 0)?;
    if let Op::Transpose { perm } = op {
        if let Some(Op::Transpose { perm: inner }) = consts::op(graph, x.node) {
            let source = operand(graph, x.node, 0)?;
            let perm = consts::permuted(inner, perm);
            if is_identity(&perm) {
                return Some(source.into());
            }
            return Some(patch.op(name, Op::Transpose { perm }, vec![Some(source.into())]));
        }
        if !keeps_order(dims(graph, x)?, perm) {
            return None;
        }
        return reshape(graph, node, x, patch);
    }
    let is_reshape = |op: &Op| {
        matches!(
            op,
            Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. }
        )
    };
    if !is_reshape(op) || !consts::op(graph, x.node).is_some_and(is_reshape) {
        return None;
    }
    let source = operand(graph, x.node, 0)?;
    if same_type(&graph.fact(source).ty, &graph.fact(Outlet { node, slot: 0 }).ty) {
        return Some(source.into());
    }
    reshape(graph, node, source, patch)
}

/// `source` in the shape of `node`'s result.
fn reshape(graph: &Graph, node: NodeId, source: Outlet, patch: &mut Patch) -> Option<Src> {
    // Axes of quantization would have to be found again in the new shape.
    if graph.fact(source).ty.quant().is_some_and(|q| q.as_per_tensor().is_none()) {
        return None;
    }
    let target = reshape_target(dims(graph, source)?, dims(graph, Outlet { node, slot: 0 })?)?;
    let name = graph.node(node).name.to_string();
    let shape = patch.constant(format!("{name}_shape"), consts::shape_tensor(&target));
    Some(patch.op(name, Op::Reshape { allow_zero: false }, vec![Some(source.into()), Some(shape)]))
}
