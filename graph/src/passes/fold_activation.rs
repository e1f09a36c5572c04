//! Folds bounds (Relu, Clip) into the quantization after them, and merges them with each other.
//!
//! Match and rewrite:
//! - `quantize(clip(x))` becomes `quantize(x)` with integer bounds;
//! - `quantize(clip(dequantize(q)))` with equal types becomes integer bounds in the operator that
//!   computes `q`, across operators that only move elements and max pools;
//! - `clip(clip(x))` becomes one clip.
//!
//! Class: exact. Rounding is monotone, so `Q(clamp(x, a, b)) = clamp(Q(x), Q(a), Q(b))`, bounds
//! rounded by the same `Q`. NaN is not a number to bound: what becomes of it is not kept.
//! Refuses: results that are read elsewhere too, quantization per axis, bounds that are NaN or
//! cross each other, producers that cannot hold bounds.

use super::consts::{op, operand, quantized};
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::{Patch, Src};
use crate::{Graph, NodeId, Outlet};
use requant_ir::{ElemType, IntClamp, Op, Padding, PoolKind, QOut, UnaryKind};

const NAME: &str = "fold_activation";

/// Folds Relu and Clip into quantization.
pub struct FoldActivation;

impl Pass for FoldActivation {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::Exact,
            about: "folds Relu and Clip into the bounds of the quantization after them",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, |graph, node, cx| {
            let patch = match op(graph, node)? {
                Op::Quantize { .. } => quantize(graph, node),
                Op::Unary(_) => merge(graph, node),
                _ => return None,
            };
            patch.map_err(|reason| cx.refuse(graph.node(node).name.as_ref(), reason)).ok()?
        })
    }
}

type Folded = Result<Option<Patch>, &'static str>;

/// The bounds of a Relu or Clip.
fn bounds(op: &Op) -> Option<(f32, f32)> {
    match *op {
        Op::Unary(UnaryKind::Relu) => Some((0.0, f32::INFINITY)),
        Op::Unary(UnaryKind::Clip { min, max }) => Some((min, max)),
        _ => None,
    }
}

fn ordered((min, max): (f32, f32)) -> Result<(f32, f32), &'static str> {
    if min <= max { Ok((min, max)) } else { Err("the bounds are NaN or cross each other") }
}

/// The bounds in stored units; `None` when they are the type's own.
fn stored_bounds(
    (min, max): (f32, f32),
    elem: &ElemType,
    inner: Option<IntClamp>,
) -> Result<Option<IntClamp>, &'static str> {
    let range = elem.dtype.quant_range().ok_or("the result is not quantized")?;
    let stored = |real| quantized(real, elem).ok_or("the quantization is not per tensor");
    let inner = inner.unwrap_or(IntClamp { min: range.0, max: range.1 });
    let (min, max) = (stored(min)?, stored(max)?);
    let clamp = IntClamp { min: inner.min.clamp(min, max), max: inner.max.clamp(min, max) };
    Ok((clamp.min > range.0 || clamp.max < range.1).then_some(clamp))
}

/// `quantize(clip(x))`.
fn quantize(graph: &Graph, node: NodeId) -> Folded {
    let Some(Op::Quantize { out, clamp }) = op(graph, node) else { return Ok(None) };
    let Some(clipped) = operand(graph, node, 0) else { return Ok(None) };
    let Some(limits) = op(graph, clipped.node).and_then(bounds) else { return Ok(None) };
    let Some(x) = operand(graph, clipped.node, 0) else { return Ok(None) };
    let limits = ordered(limits)?;
    if graph.sole_consumer(clipped).is_none() {
        return Err("the bounded value is read elsewhere too");
    }
    if let Some(patch) = integer_form(graph, node, x, out, *clamp, limits)? {
        return Ok(Some(patch));
    }
    let clamp = outer_bounds(stored_bounds(limits, out, None)?, *clamp);
    let mut patch = Patch::new(NAME, Exactness::Exact);
    let op = Op::Quantize { out: out.clone(), clamp };
    let new = patch.op(graph.node(node).name.as_ref(), op, vec![Some(x.into())]);
    patch.replace(Outlet { node, slot: 0 }, new);
    Ok(Some(patch))
}

/// `inner` bounds, then `outer` ones.
fn outer_bounds(inner: Option<IntClamp>, outer: Option<IntClamp>) -> Option<IntClamp> {
    match (inner, outer) {
        (Some(i), Some(o)) => {
            Some(IntClamp { min: i.min.clamp(o.min, o.max), max: i.max.clamp(o.min, o.max) })
        }
        (one, other) => one.or(other),
    }
}

/// `quantize(clip(dequantize(q)))` where `q` has the result's type: bounds in the operator that
/// computes `q`. `None` where that cannot hold them; a table may still do it.
fn integer_form(
    graph: &Graph,
    node: NodeId,
    dequantized: Outlet,
    out: &ElemType,
    clamp: Option<IntClamp>,
    limits: (f32, f32),
) -> Folded {
    if !matches!(op(graph, dequantized.node), Some(Op::Dequantize)) {
        return Ok(None);
    }
    let Some(q) = operand(graph, dequantized.node, 0) else { return Ok(None) };
    // Q(DQ(q)) = q holds for 8 and 16 bits: f32 holds all their differences.
    let equal = graph.fact(q).ty.elem == *out && out.dtype.bits() <= 16;
    if !equal || graph.sole_consumer(dequantized).is_none() {
        return Ok(None);
    }
    // From the producer down to `q`, through operators that only move elements.
    let mut moves: Vec<NodeId> = Vec::new();
    let mut value = q;
    while op(graph, value.node).is_some_and(moves_one) {
        if graph.sole_consumer(value).is_none() || graph.node(value.node).outputs.len() != 1 {
            return Ok(None);
        }
        let Some(source) = operand(graph, value.node, 0) else { return Ok(None) };
        moves.push(value.node);
        value = source;
    }
    let Some(producer) = op(graph, value.node) else { return Ok(None) };
    if graph.sole_consumer(value).is_none() || graph.fact(value).ty.elem != *out {
        return Ok(None);
    }
    let bound =
        |inner| Ok::<_, &'static str>(outer_bounds(stored_bounds(limits, out, inner)?, clamp));
    let Some(producer) = bounded(producer, bound)? else { return Ok(None) };
    let mut patch = Patch::new(NAME, Exactness::Exact);
    let sources = |node: NodeId| -> Vec<Option<Src>> {
        graph.operands(node).into_iter().map(|o| o.map(Into::into)).collect()
    };
    let name = |node: NodeId| graph.node(node).name.to_string();
    let mut new = patch.op(name(value.node), producer, sources(value.node));
    for &movement in moves.iter().rev() {
        let Some(op) = op(graph, movement) else { return Ok(None) };
        let mut operands = sources(movement);
        operands[0] = Some(new);
        new = patch.op(name(movement), op.clone(), operands);
    }
    patch.replace(Outlet { node, slot: 0 }, new);
    Ok(Some(patch))
}

/// Operators that bounds can be moved across: what comes out is among what went in. A max pool's
/// window must not lie in the padding altogether.
fn moves_one(op: &Op) -> bool {
    match op {
        Op::Pool(pool) if pool.kind == PoolKind::Max => {
            let touches = |(i, &p): (usize, &usize)| p < pool.kernel[i % pool.kernel.len()];
            let explicit = match &pool.padding {
                Padding::Explicit(pads) => pads.iter().enumerate().all(touches),
                Padding::SameUpper | Padding::SameLower => false,
            };
            explicit && !pool.ceil_mode && pool.dilations.iter().all(|&d| d == 1)
        }
        Op::Concat { .. } | Op::Pad { .. } => false,
        op => op.is_data_movement(),
    }
}

/// `op` with its integer bounds changed, if it has any.
fn bounded(
    op: &Op,
    bound: impl Fn(Option<IntClamp>) -> Result<Option<IntClamp>, &'static str>,
) -> Result<Option<Op>, &'static str> {
    let mut op = op.clone();
    match &mut op {
        Op::Quantize { clamp, .. } => *clamp = bound(*clamp)?,
        Op::Requantize(out)
        | Op::QConv { out, .. }
        | Op::QMatMul { out, .. }
        | Op::QBinary { out, .. }
        | Op::QPool { out, .. }
        | Op::QMean { out, .. }
        | Op::QSoftmax { out, .. } => {
            let QOut { clamp, .. } = out;
            *clamp = bound(*clamp)?;
        }
        _ => return Ok(None),
    }
    Ok(Some(op))
}

/// `clip(clip(x))`.
fn merge(graph: &Graph, node: NodeId) -> Folded {
    let Some(outer) = op(graph, node).and_then(bounds) else { return Ok(None) };
    let Some(clipped) = operand(graph, node, 0) else { return Ok(None) };
    let Some(inner) = op(graph, clipped.node).and_then(bounds) else { return Ok(None) };
    let Some(x) = operand(graph, clipped.node, 0) else { return Ok(None) };
    let (outer, inner) = (ordered(outer)?, ordered(inner)?);
    if graph.sole_consumer(clipped).is_none() {
        return Err("the bounded value is read elsewhere too");
    }
    let (min, max) = (inner.0.clamp(outer.0, outer.1), inner.1.clamp(outer.0, outer.1));
    let kind = if min.to_bits() == 0 && max == f32::INFINITY {
        UnaryKind::Relu
    } else {
        UnaryKind::Clip { min, max }
    };
    let mut patch = Patch::new(NAME, Exactness::Exact);
    let name = graph.node(node).name.as_ref();
    let new = patch.op(name, Op::Unary(kind), vec![Some(x.into())]);
    patch.replace(Outlet { node, slot: 0 }, new);
    Ok(Some(patch))
}
