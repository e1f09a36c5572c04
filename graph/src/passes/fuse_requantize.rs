//! Requantizes in the epilogue of the integer operator that makes the accumulator.
//!
//! Match: `Requantize(acc)`, the only consumer of `acc`, an s32 `QConv` or `QMatMul`.
//! Rewrite: the operator with the `Requantize`'s result type, clamp and rounding.
//! Class: exact. `acc`'s scale is `f32(s_x·s_w)` (for `QMatMul` `f32(f32(alpha·s_a)·s_b)`), so that
//! `f32(scale / s_y)` is the multiplier that the epilogue forms.
//! Refuses: accumulators that are read elsewhere, are clamped, or have another scale or a zero point;
//! results of other than 8 bits with one scale; the fixed-point roundings, whose multipliers come from
//! an unrounded product; results that are rounded to 8 bits already: two roundings are not one.

use super::consts::{op, operand};
use super::qparams::{per_tensor_8bit, result, sources};
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::Patch;
use crate::{Graph, NodeId};
use requant_ir::{DType, ElemType, Op, QOut, Rounding};

const NAME: &str = "fuse_requantize";

/// Fusion of requantization into epilogues.
pub struct FuseRequantize;

impl Pass for FuseRequantize {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::Exact,
            about: "requantizes in the epilogue of convolutions and matrix products",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, rule)
    }
}

fn rule(graph: &Graph, node: NodeId, cx: &mut PassCx<'_>) -> Option<Patch> {
    let Op::Requantize(out) = op(graph, node)? else { return None };
    let acc = operand(graph, node, 0)?;
    let producer = op(graph, acc.node)?;
    if !matches!(producer, Op::QConv { .. } | Op::QMatMul { .. }) {
        return None;
    }
    match fuse(graph, node, acc.node, producer, out) {
        Ok(fused) => {
            let mut patch = Patch::new(NAME, Exactness::Exact);
            let operands = sources(graph, acc.node);
            let new = patch.op(graph.node(acc.node).name.as_ref(), fused, operands);
            patch.replace(result(node), new);
            Some(patch)
        }
        Err(reason) => {
            cx.refuse(graph.node(node).name.as_ref(), reason);
            None
        }
    }
}

fn fuse(graph: &Graph, node: NodeId, producer: NodeId, op: &Op, out: &QOut) -> Result<Op, String> {
    let (own, alpha) = match op {
        Op::QConv { out, residual: None, .. } => (out, 1.0),
        Op::QMatMul { out, alpha, .. } => (out, *alpha),
        _ => return Err("the accumulator has a residual added to it".to_owned()),
    };
    if own.elem.dtype != DType::I32 {
        return Err(format!(
            "the result is rounded to {} already, and two roundings are not one",
            own.elem.dtype
        ));
    }
    if own.clamp.is_some() {
        return Err("the accumulator is clamped".to_owned());
    }
    if graph.sole_consumer(result(producer)).is_none_or(|(consumer, _)| consumer != node) {
        return Err("the accumulator is also read elsewhere".to_owned());
    }
    per_tensor_8bit(&out.elem).map_err(|why| format!("the result {why}"))?;
    if out.rounding != Rounding::HalfEven {
        return Err("fixed-point multipliers come from the unrounded product".to_owned());
    }
    let scale_of = |index| {
        let elem = operand(graph, producer, index).map(|o| &graph.fact(o).ty.elem);
        elem.and_then(|e: &ElemType| e.quant.as_ref()).map(|q| q.scales())
    };
    let (Some(&[x]), Some(weights)) = (scale_of(0), scale_of(1)) else {
        return Err("the operands' scales are not known".to_owned());
    };
    let acc = own.elem.quant.as_ref().ok_or("the accumulator has no scale")?;
    let x = alpha * x;
    let expected = weights.iter().map(|w| (x * w).to_bits());
    if acc.zero_points().iter().any(|&z| z != 0)
        || !expected.eq(acc.scales().iter().map(|s| s.to_bits()))
    {
        return Err("the accumulator's scale is not the product of its operands'".to_owned());
    }
    let mut fused = op.clone();
    match &mut fused {
        Op::QConv { out: own, .. } | Op::QMatMul { out: own, .. } => *own = out.clone(),
        _ => {}
    }
    Ok(fused)
}
