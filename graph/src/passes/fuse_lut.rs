//! Replaces what 8-bit values go through one by one by a table of 256 results.
//!
//! Match:
//! - `Q(f(DQ(x)))`, where `f` is made of elementwise functions of one value: unary functions,
//!   arithmetic with constant scalars or between several paths from `x` (`x·sigmoid(x)`), or of nothing
//!   at all (a change of parameters);
//! - `Requantize(x)` from 8 to 8 bits;
//! - `Lut(Lut(x))`, the inner one read nowhere else.
//!
//! Rewrite: `Lut(x)`, whose table is indexed by the stored byte of `x`.
//! Class: exact. The table is what the reference interpreter gives for each of the 256 values, through
//! every rounding of the chain.
//! Refuses: values or results that are not 8 bits with one scale, chains of more than 64 operators.
//! Functions that read a second tensor, or a constant of several elements, are no match.

use super::consts::{op, operand};
use super::qparams::{dequantized, per_tensor_8bit, result};
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::Patch;
use crate::{Graph, NodeId, Outlet, reference};
use requant_ir::{BinaryKind, ElemType, Op, Tensor, UnaryKind};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAME: &str = "fuse_lut";

/// Operators of a chain.
const LONGEST: usize = 64;

/// Fusion of elementwise functions into tables.
pub struct FuseLut;

impl Pass for FuseLut {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::Exact,
            about: "replaces elementwise functions between 8-bit values by tables",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, rule)
    }
}

fn rule(graph: &Graph, node: NodeId, cx: &mut PassCx<'_>) -> Option<Patch> {
    let found = match op(graph, node)? {
        Op::Quantize { out, .. } => chain(graph, node, out),
        Op::Requantize(out) => {
            let x = operand(graph, node, 0)?;
            // Accumulators are `fuse_requantize`'s, and those that it refuses stay.
            graph.fact(x).ty.dtype().is_8bit().then_some(())?;
            table(graph, node, x, &out.elem).map(Some)
        }
        Op::Lut { table, out } => composed(graph, node, table, out),
        _ => return None,
    };
    match found {
        Ok(found) => {
            let (x, table, out) = found?;
            let mut patch = Patch::new(NAME, Exactness::Exact);
            let name = graph.node(node).name.as_ref();
            let lut = patch.op(name, Op::Lut { table, out }, vec![Some(x.into())]);
            patch.replace(result(node), lut);
            Some(patch)
        }
        Err(reason) => {
            cx.refuse(graph.node(node).name.as_ref(), reason);
            None
        }
    }
}

type Table = (Outlet, Arc<[u8; 256]>, ElemType);

/// `Q(f(DQ(x)))`.
fn chain(graph: &Graph, node: NodeId, out: &ElemType) -> Result<Option<Table>, String> {
    let Some(last) = operand(graph, node, 0) else { return Ok(None) };
    let mut source = None;
    let mut nodes = 0;
    let mut stack = vec![last];
    let mut seen = Vec::new();
    while let Some(outlet) = stack.pop() {
        if seen.contains(&outlet) {
            continue;
        }
        seen.push(outlet);
        if let Some(stored) = dequantized(graph, outlet) {
            if source.is_some_and(|s| s != stored) {
                return Ok(None);
            }
            source = Some(stored);
            continue;
        }
        let Some(operands) = elementwise(graph, outlet)? else { return Ok(None) };
        nodes += 1;
        if nodes > LONGEST {
            return Err(format!("more than {LONGEST} operators between the quantized values"));
        }
        stack.extend(operands);
    }
    match source {
        // A quantized accumulator is `fuse_qdq`'s.
        Some(x) if nodes == 0 && !graph.fact(x).ty.dtype().is_8bit() => Ok(None),
        Some(x) => table(graph, node, x, out).map(Some),
        None => Ok(None),
    }
}

/// The operands of an elementwise float function that are not scalars; `None` for other operators.
fn elementwise(graph: &Graph, outlet: Outlet) -> Result<Option<Vec<Outlet>>, String> {
    let node = outlet.node;
    match op(graph, node) {
        Some(Op::Unary(kind)) if *kind != UnaryKind::Not => {
            Ok(operand(graph, node, 0).map(|x| vec![x]))
        }
        Some(Op::Binary(kind)) if arithmetic(*kind) => {
            let (Some(a), Some(b)) = (operand(graph, node, 0), operand(graph, node, 1)) else {
                return Ok(None);
            };
            let mut varying = Vec::new();
            for (operand, other) in [(a, b), (b, a)] {
                let stored = dequantized(graph, operand).unwrap_or(operand);
                match graph.constant(stored) {
                    // A scalar of higher rank than the other operand would add axes.
                    Some(t) if t.len() == 1 => {
                        let rank = graph.fact(other).ty.rank().unwrap_or(0);
                        if t.dims().len() > rank {
                            return Ok(None);
                        }
                    }
                    Some(_) => return Ok(None),
                    None => varying.push(operand),
                }
            }
            Ok((!varying.is_empty()).then_some(varying))
        }
        _ => Ok(None),
    }
}

fn arithmetic(kind: BinaryKind) -> bool {
    use BinaryKind::*;
    matches!(kind, Add | Sub | Mul | Div | Pow | Min | Max | PRelu)
}

/// The results of `node` for all stored values of `x`.
fn table(graph: &Graph, node: NodeId, x: Outlet, out: &ElemType) -> Result<Table, String> {
    let elem = &graph.fact(x).ty.elem;
    per_tensor_8bit(elem).map_err(|why| format!("the operand {why}"))?;
    per_tensor_8bit(out).map_err(|why| format!("the result {why}"))?;
    let bytes: Vec<u8> = (0..=255).collect();
    let all = Tensor::copy_from(elem.clone(), vec![256], &bytes).map_err(|e| e.to_string())?;
    let mut known = BTreeMap::from([((x.node, x.slot), all)]);
    let results = evaluate(graph, result(node), &mut known)?;
    let table: [u8; 256] =
        results.bytes().as_ref().try_into().map_err(|_| "the chain is not elementwise")?;
    Ok((x, Arc::new(table), out.clone()))
}

/// The value of `outlet` where the values in `known` are given.
fn evaluate(
    graph: &Graph,
    outlet: Outlet,
    known: &mut BTreeMap<(NodeId, u16), Tensor>,
) -> Result<Tensor, String> {
    let key = (outlet.node, outlet.slot);
    if let Some(tensor) = known.get(&key) {
        return Ok(tensor.clone());
    }
    if let Some(constant) = graph.constant(outlet) {
        // All shapes are [256] or scalar here.
        return constant.with_dims(Vec::new()).map_err(|e| e.to_string());
    }
    let mut operands = Vec::new();
    for operand in graph.operands(outlet.node).into_iter().flatten() {
        operands.push(evaluate(graph, operand, known)?);
    }
    let op = op(graph, outlet.node).ok_or("an operand varies")?;
    let operands: Vec<_> = operands.iter().map(Some).collect();
    let tensor = reference::eval(op, &operands)
        .map_err(|e| e.to_string())?
        .pop()
        .ok_or("an operator has no result")?;
    known.insert(key, tensor.clone());
    Ok(tensor)
}

/// `Lut(Lut(x))`.
fn composed(
    graph: &Graph,
    node: NodeId,
    outer: &[u8; 256],
    out: &ElemType,
) -> Result<Option<Table>, String> {
    let Some(between) = operand(graph, node, 0) else { return Ok(None) };
    let Some(Op::Lut { table: inner, .. }) = op(graph, between.node) else { return Ok(None) };
    if graph.sole_consumer(between).is_none() {
        return Ok(None);
    }
    let Some(x) = operand(graph, between.node, 0) else { return Ok(None) };
    Ok(Some((x, Arc::new(inner.map(|byte| outer[usize::from(byte)])), out.clone())))
}
