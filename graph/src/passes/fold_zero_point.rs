//! Folds the activation's zero point into the bias, and makes unsigned weights signed.
//!
//! Match: `QConv` or `QMatMul` with constant weights.
//! Rewrite: `bias' = bias − z_x·Σ(w − z_w)` by output channel, marked `zero_folded` (padding then reads
//! `z_x`); a bias is added where there is none and it would not be zero. u8 weights become s8 by XOR
//! 0x80 with the zero point moved by −128, once for all operators that share them.
//! Class: exact. The accumulator is the same integer.
//! Refuses: weights that are not constant, a bias that is not constant or leaves s32, activations or
//! weights of other than 8 bits, stacks of matrices (their sums differ, the bias is one).

use super::consts::{op, operand};
use super::qparams::{per_tensor_8bit, result, sources, zero_point};
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::{Patch, Src};
use crate::{Graph, NodeId};
use requant_ir::{DType, ElemType, Op, Quant, QuantParams, Tensor};

const NAME: &str = "fold_zero_point";

/// Folding of zero points into biases.
pub struct FoldZeroPoint;

impl Pass for FoldZeroPoint {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::Exact,
            about: "folds the activation's zero point into the bias and makes weights signed",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, rule)
    }
}

fn rule(graph: &Graph, node: NodeId, cx: &mut PassCx<'_>) -> Option<Patch> {
    if !matches!(op(graph, node)?, Op::QConv { .. } | Op::QMatMul { .. }) {
        return None;
    }
    let mut reasons = Vec::new();
    let patch = propose(graph, node, &mut reasons);
    for (node, reason) in reasons {
        cx.refuse(graph.node(node).name.as_ref(), reason);
    }
    patch
}

fn propose(graph: &Graph, node: NodeId, reasons: &mut Vec<(NodeId, String)>) -> Option<Patch> {
    let weights = operand(graph, node, 1)?;
    let Some(tensor) = graph.constant(weights) else {
        reasons.push((node, "the weights are not constant".to_owned()));
        return None;
    };
    let mut patch = Patch::new(NAME, Exactness::Exact);
    if tensor.dtype() == DType::U8 {
        let signed = match signed(tensor) {
            Ok(signed) => signed,
            Err(reason) => {
                reasons.push((node, reason));
                return None;
            }
        };
        let signed = patch.constant(format!("{}_s8", graph.fact(weights).name), signed);
        for (consumer, index) in graph.consumers(weights) {
            if index == 1
                && matches!(op(graph, consumer), Some(Op::QConv { .. } | Op::QMatMul { .. }))
            {
                // Unsigned weights become signed even where the zero point stays.
                let folded = fold(graph, consumer).unwrap_or_else(|reason| {
                    reasons.push((consumer, reason));
                    None
                });
                rebuild(graph, consumer, &mut patch, Some(signed), folded);
            }
        }
        return Some(patch);
    }
    match fold(graph, node) {
        Ok(None) => None,
        Ok(folded) => {
            rebuild(graph, node, &mut patch, None, folded);
            Some(patch)
        }
        Err(reason) => {
            reasons.push((node, reason));
            None
        }
    }
}

/// `node` with signed weights, with a folded bias, or both.
fn rebuild(
    graph: &Graph,
    node: NodeId,
    patch: &mut Patch,
    weights: Option<Src>,
    folded: Option<Folded>,
) {
    let Some(mut new) = op(graph, node).cloned() else { return };
    let name = graph.node(node).name.as_ref();
    let mut operands = sources(graph, node);
    if let Some(weights) = weights {
        operands[1] = Some(weights);
    }
    if let Some(folded) = folded {
        if let Op::QConv { zero_folded, .. } | Op::QMatMul { zero_folded, .. } = &mut new {
            *zero_folded = true;
        }
        if let Some(bias) = folded.bias {
            operands.resize(operands.len().max(3), None);
            operands[2] = Some(patch.constant(format!("{name}_bias"), bias));
        }
    }
    let new = patch.op(name, new, operands);
    patch.replace(result(node), new);
}

/// The new bias; `None` to leave the old one.
struct Folded {
    bias: Option<Tensor>,
}

/// What folding the zero point of `node` gives; `None` if it is folded already.
fn fold(graph: &Graph, node: NodeId) -> Result<Option<Folded>, String> {
    let operator = op(graph, node);
    if let Some(Op::QConv { zero_folded: true, .. } | Op::QMatMul { zero_folded: true, .. }) =
        operator
    {
        return Ok(None);
    }
    let (Some(x), Some(weights)) = (operand(graph, node, 0), operand(graph, node, 1)) else {
        return Err("an operand is missing".to_owned());
    };
    let x = per_tensor_8bit(&graph.fact(x).ty.elem).map_err(|why| format!("the input {why}"))?;
    let weights = graph.constant(weights).ok_or("the weights are not constant")?;
    let channel_last = match operator {
        Some(Op::QMatMul { trans_b, .. }) => {
            if weights.dims().len() != 2 {
                return Err("the weights are not one matrix".to_owned());
            }
            !trans_b
        }
        _ => false,
    };
    let sums = channel_sums(weights, channel_last)?;
    let bias = operand(graph, node, 2);
    let old = match bias {
        None => vec![0; sums.len()],
        Some(b) => graph
            .constant(b)
            .and_then(Tensor::to_i64)
            .filter(|b| b.len() == sums.len())
            .ok_or("the bias is not constant")?,
    };
    let mut new = Vec::with_capacity(sums.len());
    for (c, (&b, &sum)) in old.iter().zip(&sums).enumerate() {
        let value = b - i64::from(x.zero_point) * sum;
        new.push(
            i32::try_from(value)
                .map_err(|_| format!("the bias of channel {c} would exceed 32 bits"))?,
        );
    }
    let unchanged = old.iter().zip(&new).all(|(&a, &b)| a == i64::from(b));
    if unchanged {
        return Ok(Some(Folded { bias: None }));
    }
    let bias = Tensor::from_slice(&[new.len()], &new).map_err(|e| e.to_string())?;
    Ok(Some(Folded { bias: Some(bias) }))
}

/// `Σ (w − z_w)` of each output channel: the first axis, or the last.
pub(super) fn channel_sums(weights: &Tensor, channel_last: bool) -> Result<Vec<i64>, String> {
    if !weights.dtype().is_8bit() {
        return Err(format!("the weights are {}", weights.dtype()));
    }
    let params = &weights.elem().quant.as_ref().ok_or("the weights have no scale")?.params;
    let values = weights.to_i64().ok_or("the weights are not integers")?;
    let dims = weights.dims();
    let channels = if channel_last { dims.last() } else { dims.first() };
    let channels = channels.copied().unwrap_or(1);
    let mut sums = vec![0i64; channels];
    let run = values.len() / channels.max(1);
    for (i, value) in values.into_iter().enumerate() {
        let c = if channel_last { i % channels } else { i / run };
        sums[c] += value - i64::from(zero_point(params, c));
    }
    Ok(sums)
}

/// u8 weights as s8: the same real values.
fn signed(weights: &Tensor) -> Result<Tensor, String> {
    let quant = weights.elem().quant.as_ref().ok_or("the weights have no scale")?;
    let bytes: Vec<u8> = weights.bytes().iter().map(|b| b ^ 0x80).collect();
    let elem = ElemType { dtype: DType::I8, quant: Some(shifted(quant, -128)) };
    Tensor::copy_from(elem, weights.dims().to_vec(), &bytes).map_err(|e| e.to_string())
}

/// The same scales with all zero points moved by `by`.
pub(super) fn shifted(quant: &Quant, by: i32) -> Quant {
    let moved = |zs: &[i32]| zs.iter().map(|z| z + by).collect();
    let params = match &quant.params {
        QuantParams::PerTensor { scale, zero_point } => {
            QuantParams::PerTensor { scale: *scale, zero_point: zero_point + by }
        }
        QuantParams::PerAxis { axis, scales, zero_points } => QuantParams::PerAxis {
            axis: *axis,
            scales: scales.clone(),
            zero_points: moved(zero_points),
        },
        QuantParams::PerBlock { axis, size, scales, zero_points } => QuantParams::PerBlock {
            axis: *axis,
            size: *size,
            scales: scales.clone(),
            zero_points: moved(zero_points),
        },
    };
    Quant { params, ..quant.clone() }
}
