//! Moves dequantization down and quantization up through operators that only move elements, so that
//! they move 8-bit elements, and removes the pairs that meet.
//!
//! Match and rewrite:
//! - `Q(DQ(q))` with equal parameters → `q`;
//! - `move(DQ(q))` → `DQ(move(q))`;
//! - `Q(move(x))` → `move(Q(x))`, where every consumer of the result is that same `Q`;
//! - `ArgMax(DQ(q))` → `ArgMax(q)`.
//!
//! `move` is `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`, `Transpose`, `Slice`, `Split`, `Gather` of
//! its data, `Expand`, `Tile`, `Concat`, `Pad`, and, since scales are positive and both directions
//! are monotone, max pooling. The axis of per-axis parameters moves as type inference moves it.
//!
//! Class: exact. `Q(DQ(q)) = q` holds for up to 16 bits in f32 (`(q − z)·s/s` is off by less than
//! 2⁻⁷), not for 32.
//!
//! Refuses: operands of a `Concat` with different parameters, padding with a value that the
//! parameters cannot express, an axis that does not survive, per-axis quantization upwards, max
//! pooling of other than 8 bits or with windows in the padding, pairs with a clamp or a scale that is
//! not a normal number.

use super::consts::{op, operand};
use super::qparams::{
    clamps_nothing, dequantized, eval1, float_constant, per_tensor_8bit, result, sources,
};
use crate::infer::infer;
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::Patch;
use crate::{Graph, NodeId, Outlet};
use requant_ir::{ElemType, IntClamp, Op, PadMode, Padding, PoolAttrs, PoolKind, Tensor};

const NAME: &str = "propagate_qdq";

/// Propagation of quantization through data movement.
pub struct PropagateQdq;

impl Pass for PropagateQdq {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::Exact,
            about: "moves quantization through data movement and removes pairs that cancel",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, rule)
    }
}

fn rule(graph: &Graph, node: NodeId, cx: &mut PassCx<'_>) -> Option<Patch> {
    let rewrite = match op(graph, node)? {
        Op::Quantize { out, clamp } => {
            let x = operand(graph, node, 0)?;
            match dequantized(graph, x) {
                Some(q) => cancel(graph, node, q, out, *clamp),
                None if moves(op(graph, x.node)?) => pull_up(graph, x.node, out, *clamp),
                None => return None,
            }
        }
        moving if moves(moving) => push_down(graph, node, moving),
        argmax @ Op::ArgMax { .. } => skip_dequantize(graph, node, argmax),
        _ => return None,
    };
    match rewrite {
        Ok(patch) => patch,
        Err(reason) => {
            cx.refuse(graph.node(node).name.as_ref(), reason);
            None
        }
    }
}

fn moves(op: &Op) -> bool {
    (op.is_data_movement() && *op != Op::Identity)
        || matches!(op, Op::Pool(PoolAttrs { kind: PoolKind::Max, .. }))
}

/// How many operands, from the first on, are moved; the others say where to.
fn moved_operands(graph: &Graph, node: NodeId, op: &Op) -> usize {
    if matches!(op, Op::Concat { .. }) { graph.operands(node).len() } else { 1 }
}

/// `Q(DQ(q))`, which is `q`.
fn cancel(
    graph: &Graph,
    node: NodeId,
    q: Outlet,
    out: &ElemType,
    clamp: Option<IntClamp>,
) -> Result<Option<Patch>, String> {
    let elem = &graph.fact(q).ty.elem;
    let Some(quant) = elem.quant.as_ref().filter(|_| elem == out) else { return Ok(None) };
    if elem.dtype.bits() > 16 {
        return Err("quantizing again does not give all 32-bit values back".to_owned());
    }
    if !clamps_nothing(clamp, out) {
        return Err("the clamp changes values".to_owned());
    }
    if quant.scales().iter().any(|s| !s.is_normal() || !(s * 65536.0).is_finite()) {
        return Err("a scale is not a normal number".to_owned());
    }
    let mut patch = Patch::new(NAME, Exactness::Exact);
    patch.replace(result(node), q.into());
    Ok(Some(patch))
}

/// `move(DQ(q)…)` to `DQ(move(q…))`.
fn push_down(graph: &Graph, node: NodeId, op: &Op) -> Result<Option<Patch>, String> {
    let moved = moved_operands(graph, node, op);
    let mut operands = sources(graph, node);
    let Some(first) = operand(graph, node, 0).and_then(|x| dequantized(graph, x)) else {
        return Ok(None);
    };
    let elem = &graph.fact(first).ty.elem;
    for (index, source) in operands.iter_mut().enumerate().take(moved) {
        let stored = operand(graph, node, index)
            .and_then(|x| dequantized(graph, x))
            .ok_or("not all operands are quantized")?;
        if graph.fact(stored).ty.elem != *elem {
            return Err("the operands have different scales or zero points".to_owned());
        }
        *source = Some(stored.into());
    }
    let mut patch = Patch::new(NAME, Exactness::Exact);
    match op {
        Op::Pool(pool) => orderly(pool, elem)?,
        Op::Pad { mode: PadMode::Constant } => {
            if elem.as_per_tensor().is_none() {
                return Err("padding of a tensor with more than one scale".to_owned());
            }
            if let Some(value) = operand(graph, node, 2) {
                let stored = float_constant(graph, value)
                    .and_then(|value| expressed(&value, elem))
                    .ok_or("the parameters cannot express the padding value")?;
                let name = format!("{}_value", graph.node(node).name);
                operands[2] = Some(patch.constant(name, stored));
            }
        }
        _ => {}
    }
    let name = graph.node(node).name.to_string();
    let slots = results(graph, node)?;
    if elem.as_per_tensor().is_none() {
        // Whether the axis survives is known to type inference alone.
        let operands = graph.operands(node).into_iter().enumerate();
        let types: Vec<_> = operands
            .map(|(i, outlet)| {
                let outlet = if i < moved { dequantized(graph, outlet?)? } else { outlet? };
                Some(crate::graph::operand(graph.fact(outlet), graph.constant(outlet)))
            })
            .collect();
        infer(op, &types, slots.into()).map_err(|e| e.to_string())?;
    }
    let moved = patch.op_n(&name, op.clone(), operands, slots);
    for (slot, moved) in (0..slots).zip(moved) {
        let float = patch.op(format!("{name}_dequantize"), Op::Dequantize, vec![Some(moved)]);
        patch.replace(Outlet { node, slot }, float);
    }
    Ok(Some(patch))
}

/// `ArgMax(DQ(q))` to `ArgMax(q)`: distinct stored values stand for distinct floats of the same order.
fn skip_dequantize(graph: &Graph, node: NodeId, op: &Op) -> Result<Option<Patch>, String> {
    let Some(stored) = operand(graph, node, 0).and_then(|x| dequantized(graph, x)) else {
        return Ok(None);
    };
    per_tensor_8bit(&graph.fact(stored).ty.elem).map_err(|why| format!("the operand {why}"))?;
    let mut patch = Patch::new(NAME, Exactness::Exact);
    let name = graph.node(node).name.as_ref();
    let index = patch.op(name, op.clone(), vec![Some(stored.into())]);
    patch.replace(result(node), index);
    Ok(Some(patch))
}

/// `Q(move(x…))` to `move(Q(x)…)`.
fn pull_up(
    graph: &Graph,
    node: NodeId,
    out: &ElemType,
    clamp: Option<IntClamp>,
) -> Result<Option<Patch>, String> {
    let Some(op) = op(graph, node) else { return Ok(None) };
    let quantize = Op::Quantize { out: out.clone(), clamp };
    let slots = results(graph, node)?;
    let mut quantized = Vec::new();
    for slot in 0..slots {
        let outlet = Outlet { node, slot };
        if graph.is_output(outlet) {
            return Err("the float value is a model output".to_owned());
        }
        for (consumer, _) in graph.consumers(outlet) {
            if super::consts::op(graph, consumer) != Some(&quantize) {
                return Err("the float value is also read otherwise".to_owned());
            }
            quantized.push((consumer, usize::from(slot)));
        }
    }
    if out.as_per_tensor().is_none() {
        return Err("per-axis quantization only moves down".to_owned());
    }
    let mut operands = sources(graph, node);
    let mut patch = Patch::new(NAME, Exactness::Exact);
    match op {
        Op::Pool(pool) => orderly(pool, out)?,
        Op::Pad { mode: PadMode::Constant } => {
            let stored = match operand(graph, node, 2) {
                Some(value) => {
                    let value = float_constant(graph, value).ok_or("the padding value varies")?;
                    Some(eval1(&quantize, &[&value]).ok_or("the padding value has no image")?)
                }
                // Without an operand the stored fill is the zero point, which the clamp may exclude.
                None if clamps_nothing(clamp, out) => None,
                None => eval1(&quantize, &[&Tensor::scalar(0f32)]),
            };
            if let Some(stored) = stored {
                let name = format!("{}_value", graph.node(node).name);
                operands.resize(operands.len().max(3), None);
                operands[2] = Some(patch.constant(name, stored));
            }
        }
        _ => {}
    }
    let name = graph.node(node).name.to_string();
    for source in operands.iter_mut().take(moved_operands(graph, node, op)) {
        let x = source.take();
        *source = Some(patch.op(format!("{name}_quantize"), quantize.clone(), vec![x]));
    }
    let moved = patch.op_n(&name, op.clone(), operands, slots);
    for (consumer, slot) in quantized {
        patch.replace(result(consumer), moved[slot]);
    }
    Ok(Some(patch))
}

/// Number of results.
fn results(graph: &Graph, node: NodeId) -> Result<u16, String> {
    u16::try_from(graph.node(node).outputs.len()).map_err(|_| "too many results".to_owned())
}

/// `value` in the stored units of `elem`, if that stands for exactly `value`.
fn expressed(value: &Tensor, elem: &ElemType) -> Option<Tensor> {
    let stored = eval1(&Op::Quantize { out: elem.clone(), clamp: None }, &[value])?;
    let back = eval1(&Op::Dequantize, &[&stored])?;
    let same = back.as_slice::<f32>()?.iter().zip(value.as_slice::<f32>()?).all(|(a, b)| a == b);
    same.then_some(stored)
}

/// Whether max pooling of the stored values is max pooling of what they stand for.
fn orderly(pool: &PoolAttrs, elem: &ElemType) -> Result<(), String> {
    if !elem.dtype.is_8bit() {
        return Err(format!("max pooling of {} is not there", elem.dtype));
    }
    if elem.as_per_tensor().is_none() {
        return Err("max pooling with more than one scale".to_owned());
    }
    // An empty window gives −∞, which 8 bits do not have.
    let inside = match &pool.padding {
        Padding::Explicit(pads) => pads
            .iter()
            .enumerate()
            .all(|(i, &p)| pool.kernel.get(i % pool.kernel.len().max(1)).is_some_and(|&k| p < k)),
        Padding::SameUpper | Padding::SameLower => true,
    };
    let dense = pool.dilations.iter().all(|&d| d == 1);
    if inside && (dense || pool.padding == Padding::Explicit(vec![0; 2 * pool.kernel.len()])) {
        Ok(())
    } else {
        Err("a window may lie in the padding altogether".to_owned())
    }
}
