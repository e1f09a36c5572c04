//! Computes what does not depend on the inputs, through the reference interpreter.
//!
//! Match: an operator whose operands are all constant, or whose results' values follow from shapes
//! alone; a reshape to a computed shape that its own result type says. Rewrite: constants.
//! Class: exact; the interpreter is what the operators mean.
//! Refuses: results that are larger than the operands and 4 MiB, or than what may be derived in
//! all; operators that would compute for long; custom operators; and `dequantize(constant)` while
//! an operator after it may yet become an integer one: a float copy of the weights would keep it
//! from that. [`FoldDequantized`] folds those when fusion is done.

use super::consts::{dims, op, operand, reshape_target, shape_tensor};
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::Patch;
use crate::reference::{self, EvalLimits};
use crate::{Graph, NodeId, Outlet};
use requant_ir::{DType, Dim, Op, Tensor};

/// A result may have at least so many bytes, whatever the operands have.
const FREE_BYTES: usize = 4 << 20;
/// Multiplications that folding one operator may take.
const WORK: u64 = 1 << 26;

/// Folds constants, but for dequantized ones.
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: "fold_constants",
            class: Exactness::Exact,
            about: "computes what does not depend on the inputs",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, |graph, node, cx| {
            let is_dequantize = matches!(op(graph, node)?, Op::Dequantize);
            if is_dequantize && !only_fills(graph, node) {
                return None;
            }
            fold(graph, node, cx, "fold_constants").or_else(|| reshape(graph, node))
        })
    }
}

/// Folds dequantized constants that no integer operator took.
pub struct FoldDequantized;

impl Pass for FoldDequantized {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: "fold_dequantized",
            class: Exactness::Exact,
            about: "computes constants that are left between integer and float operators",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, |graph, node, cx| fold(graph, node, cx, "fold_dequantized"))
    }
}

/// True when `node`'s result is only the fill value of `Pad`s, which no fusion needs quantized.
fn only_fills(graph: &Graph, node: NodeId) -> bool {
    let result = Outlet { node, slot: 0 };
    let fills = |(user, index): (NodeId, usize)| {
        index == 2 && matches!(op(graph, user), Some(Op::Pad { .. }))
    };
    !graph.is_output(result) && graph.consumers(result).into_iter().all(fills)
}

fn fold(graph: &Graph, node: NodeId, cx: &mut PassCx<'_>, pass: &'static str) -> Option<Patch> {
    let results = evaluate(graph, node, cx)
        .map_err(|reason| cx.refuse(graph.node(node).name.as_ref(), reason))
        .ok()??;
    let mut patch = Patch::new(pass, Exactness::Exact);
    for (slot, tensor) in results.into_iter().enumerate() {
        let old = Outlet { node, slot: slot as u16 };
        let new = patch.constant(graph.fact(old).name.as_ref(), tensor);
        patch.replace(old, new);
    }
    Some(patch)
}

/// A reshape to a computed shape, with a constant one: extents that are known, 0 for the batch that
/// stays, −1 for the one that is left.
fn reshape(graph: &Graph, node: NodeId) -> Option<Patch> {
    let (x, shape) = (operand(graph, node, 0)?, operand(graph, node, 1)?);
    if !matches!(op(graph, node)?, Op::Reshape { .. }) || graph.constant(shape).is_some() {
        return None;
    }
    let result = Outlet { node, slot: 0 };
    let target = reshape_target(dims(graph, x)?, dims(graph, result)?)?;
    let mut patch = Patch::new("fold_constants", Exactness::Exact);
    let target = patch.constant(graph.fact(shape).name.as_ref(), shape_tensor(&target));
    let op = Op::Reshape { allow_zero: false };
    let new = patch.op(graph.node(node).name.as_ref(), op, vec![Some(x.into()), Some(target)]);
    patch.replace(result, new);
    Some(patch)
}

/// The results of `node`; `Ok(None)` when they are not constant.
fn evaluate(
    graph: &Graph,
    node: NodeId,
    cx: &mut PassCx<'_>,
) -> Result<Option<Vec<Tensor>>, String> {
    let Some(op) = op(graph, node) else { return Ok(None) };
    if let Some(value) = known_shape(graph, node) {
        return Ok(Some(vec![value]));
    }
    let operands: Option<Vec<Option<&Tensor>>> = graph
        .operands(node)
        .into_iter()
        .map(|o| o.map_or(Some(None), |o| graph.constant(o).map(Some)))
        .collect();
    let Some(operands) = operands.filter(|_| !matches!(op, Op::Custom { .. })) else {
        return Ok(None);
    };
    let given: usize = operands.iter().flatten().map(|t| t.bytes().len()).sum();
    let bytes = result_bytes(graph, node).ok_or("the size of the result is not known")?;
    if bytes > given.max(FREE_BYTES) {
        return Err(format!("the result would take {bytes} bytes, far more than its operands"));
    }
    // Constants that nothing else reads make room.
    let freed = dying_bytes(graph, node);
    if !cx.derive(bytes.saturating_sub(freed) as u64) {
        return Err("folded constants would exceed the limit `derived_bytes`".into());
    }
    let limits = EvalLimits { work: WORK, ..EvalLimits::default() };
    let results = graph.node(node).outputs.len();
    reference::eval_with(op, &operands, results, &limits).map(Some).map_err(|e| e.to_string())
}

/// The value of a small integer result that follows from shapes.
fn known_shape(graph: &Graph, node: NodeId) -> Option<Tensor> {
    let [fact] = &graph.node(node).outputs[..] else { return None };
    let extents = fact.ty.fixed_dims().filter(|_| fact.ty.dtype() == DType::I64)?;
    let values = fact.shape_value.as_ref()?.iter().map(Dim::fixed);
    let values: Vec<i64> = values.map(|v| i64::try_from(v?).ok()).collect::<Option<_>>()?;
    Tensor::from_slice(&extents, &values).ok()
}

/// Bytes of the constants that only `node` reads.
fn dying_bytes(graph: &Graph, node: NodeId) -> usize {
    let dies = |o: &Outlet| graph.sole_consumer(*o).is_some();
    let constants = graph.operands(node).into_iter().flatten().filter(dies);
    constants.filter_map(|o| graph.constant(o)).map(|t| t.bytes().len()).sum()
}

/// Bytes of all results together.
fn result_bytes(graph: &Graph, node: NodeId) -> Option<usize> {
    graph.node(node).outputs.iter().try_fold(0usize, |sum, fact| {
        let extents = fact.ty.fixed_dims()?;
        sum.checked_add(Tensor::byte_len(fact.ty.dtype(), &extents).ok()?)
    })
}
