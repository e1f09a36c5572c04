//! Adds a residual in the epilogue of the convolution that makes one of the summands.
//!
//! Match: `QBinary Add(QConv(…), other)` or the other way round, the convolution's result read
//! nowhere else, both of the same shape.
//! Rewrite: the convolution with `other` as its fourth operand. Of two convolutions the later one takes
//! the addition.
//! Class: exact. The epilogue rounds and saturates the convolution's own result as if it were stored;
//! dropping that rounding would change one result in eight.
//! Refuses: additions that broadcast or are defined on the other signedness, convolutions whose result is read elsewhere, is not 8 bits, or is
//! rounded in another way than the sum, and those that have a residual already.

use super::consts::{op, operand, same_dims};
use super::qparams::{result, sources};
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::Patch;
use crate::{Graph, NodeId};
use requant_ir::{BinaryKind, Op, QOut, Residual};
use std::collections::HashMap;
use std::sync::Arc;

const NAME: &str = "fuse_residual";

/// Fusion of residual additions into convolutions.
pub struct FuseResidual;

impl Pass for FuseResidual {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::Exact,
            about: "adds residuals in the epilogue of convolutions",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        let names = graph.topo().into_iter().map(|n| graph.node(n).name.clone());
        let mut ranks: Ranks = names.zip(0..).collect();
        sweep(graph, cx, |graph, node, cx| rule(graph, node, cx, &mut ranks))
    }
}

/// Places in one topological order by node name, so that it is not made anew for each addition.
type Ranks = HashMap<Arc<str>, usize>;

fn rule(graph: &Graph, node: NodeId, cx: &mut PassCx<'_>, ranks: &mut Ranks) -> Option<Patch> {
    let Op::QBinary { kind: BinaryKind::Add, flipped: false, out } = op(graph, node)? else {
        return None;
    };
    let is_conv = |&index: &usize| {
        let summand = operand(graph, node, index).and_then(|o| op(graph, o.node));
        matches!(summand, Some(Op::QConv { .. }))
    };
    let mut candidates: Vec<usize> = (0..2).filter(is_conv).collect();
    if let ([_, _], [Some(a), Some(b)]) = (&candidates[..], &graph.operands(node)[..]) {
        // The one computed last: when it runs, the other summand is there.
        if ranks.get(&graph.node(a.node).name) < ranks.get(&graph.node(b.node).name) {
            candidates.reverse();
        }
    }
    let mut reasons = Vec::new();
    for index in candidates {
        match fuse(graph, node, index, out) {
            Ok(patch) => {
                // The convolution moves to the place of the addition.
                let rank = ranks.get(&graph.node(node).name).copied();
                let conv = operand(graph, node, index)?.node;
                ranks.extend(rank.map(|rank| (graph.node(conv).name.clone(), rank)));
                return Some(patch);
            }
            Err(reason) => reasons.push(reason),
        }
    }
    for reason in reasons {
        cx.refuse(graph.node(node).name.as_ref(), reason);
    }
    None
}

/// The addition in the convolution that is operand `index` of `add`.
fn fuse(graph: &Graph, add: NodeId, index: usize, out: &QOut) -> Result<Patch, &'static str> {
    let missing = "an operand is missing";
    let own = operand(graph, add, index).ok_or(missing)?;
    let other = operand(graph, add, 1 - index).ok_or(missing)?;
    let Some(Op::QConv { conv, out: inner, zero_folded, residual }) = op(graph, own.node) else {
        return Err("the summand is not a convolution");
    };
    if residual.is_some() {
        return Err("the convolution has a residual already");
    }
    if graph.sole_consumer(own).is_none() {
        return Err("the convolution's own result is read elsewhere");
    }
    if !inner.elem.dtype.is_8bit() {
        return Err("the convolution's own result is not 8 bits");
    }
    if inner.rounding != out.rounding {
        return Err("the convolution and the sum round differently");
    }
    if inner.elem.dtype != out.elem.dtype {
        return Err("the sum is defined on integers of the other signedness");
    }
    let dims = |outlet| graph.fact(outlet).ty.dims.as_deref();
    if !same_dims(dims(own), dims(other)) {
        return Err("the summands are not certainly of the same shape");
    }
    let fused = Op::QConv {
        conv: conv.clone(),
        out: out.clone(),
        zero_folded: *zero_folded,
        residual: Some(Residual {
            inner: inner.elem.clone(),
            inner_clamp: inner.clamp,
            conv_is_lhs: index == 0,
        }),
    };
    let mut operands = sources(graph, own.node);
    operands.resize(3, None);
    operands.push(Some(other.into()));
    let mut patch = Patch::new(NAME, Exactness::Exact);
    let new = patch.op(graph.node(own.node).name.as_ref(), fused, operands);
    patch.replace(result(add), new);
    Ok(patch)
}
