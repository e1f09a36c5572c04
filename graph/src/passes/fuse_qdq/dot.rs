//! Convolutions and matrix products of dequantized operands, as integer ones with an s32 result.

use super::super::consts::{dims, op, operand};
use super::super::qparams::{PerTensor, activation, dequantized, result};
use super::bias::Bias;
use super::weights::{Channel, Weights};
use super::{Fused, NAME};
use crate::patch::{Exactness, Patch, Src};
use crate::{Graph, NodeId, Outlet};
use requant_ir::{BinaryKind, ConvAttrs, DType, Dim, ElemType, Layout, Op, QOut, Quant, Rounding};

/// `Conv(DQ(x), w, b)`.
pub(super) fn conv(graph: &Graph, node: NodeId, conv: &ConvAttrs) -> Fused {
    let (Some(x), Some(w)) = (operand(graph, node, 0), operand(graph, node, 1)) else {
        return Ok(None);
    };
    let (x, params) = activation(graph, x, "the input")?;
    let weights = Weights::new(graph, w, Channel::First)?.ok_or("the weights are not constant")?;
    let dot = Dot::new(graph, result(node), params, weights, operand(graph, node, 2), 1.0)?;
    let axis = match conv.layout {
        Layout::ChannelsFirst => 1,
        Layout::ChannelsLast => conv.strides.len() + 1,
    };
    let op = Op::QConv {
        conv: conv.clone(),
        out: raw(dot.accumulator(axis)),
        zero_folded: false,
        residual: None,
    };
    dot.propose(graph, node, op, x).map(Some)
}

/// `MatMul(DQ(a), b)` or `Gemm(DQ(a), b, c)`; a constant vector added to the result is the bias.
pub(super) fn matmul(graph: &Graph, node: NodeId) -> Fused {
    let (trans_b, alpha, beta) = match op(graph, node) {
        Some(Op::MatMul) => (false, 1.0, 1.0),
        Some(&Op::Gemm { alpha, beta, trans_a, trans_b }) => {
            if trans_a {
                return Err("the first operand is transposed".to_owned());
            }
            if !(alpha.is_normal() && alpha > 0.0 && beta.is_finite()) {
                return Err(format!("alpha is {alpha} and beta is {beta}"));
            }
            (trans_b, alpha, beta)
        }
        _ => return Ok(None),
    };
    let (Some(a), Some(b)) = (operand(graph, node, 0), operand(graph, node, 1)) else {
        return Ok(None);
    };
    let (a, params) = activation(graph, a, "the first operand")?;
    let params = PerTensor { scale: alpha * params.scale, ..params };
    let qmatmul = |elem| Op::QMatMul { trans_b, alpha, out: raw(elem), zero_folded: false };
    let channel = if trans_b { Channel::First } else { Channel::Last };
    let Some(weights) = Weights::new(graph, b, channel)? else {
        if operand(graph, node, 2).is_some() {
            return Err("the product of two activations has a bias".to_owned());
        }
        let (b, b_params) = activation(graph, b, "the second operand")?;
        let depth = dims(graph, a).and_then(|d| d.last()?.fixed());
        let elem = product_of_activations(params, b_params, depth)?;
        let operands = vec![Some(a.into()), Some(b.into())];
        let patch = Patch::new(NAME, Exactness::OneStep);
        let op = qmatmul(elem);
        return Ok(Some(dequantized_product(graph, node, result(node), op, operands, patch)));
    };
    let matrix = dims(graph, b).map_or(0, <[Dim]>::len);
    if matrix < 2 {
        return Err("the second operand is a vector".to_owned());
    }
    if matrix > 2 && !weights.is_per_tensor() {
        return Err("a stack of matrices with a scale for each column".to_owned());
    }
    let rank = dims(graph, result(node)).map(<[Dim]>::len).ok_or("the rank is not known")?;
    let (bias, replaced) = match (operand(graph, node, 2), added_vector(graph, node, rank)) {
        (None, Some((vector, sum))) => (Some(vector), sum),
        (bias, _) => (bias, result(node)),
    };
    let dot = Dot::new(graph, replaced, params, weights, bias, beta)?;
    let op = qmatmul(dot.accumulator(rank.saturating_sub(1)));
    dot.propose(graph, node, op, a).map(Some)
}

/// A product with constant weights.
struct Dot {
    /// The float value that it computes.
    replaced: Outlet,
    weights: Weights,
    bias: Option<Bias>,
    /// What a unit of the accumulator stands for, by output channel.
    steps: Vec<f32>,
}

impl Dot {
    fn new(
        graph: &Graph,
        replaced: Outlet,
        x: PerTensor,
        weights: Weights,
        bias: Option<Outlet>,
        beta: f32,
    ) -> Result<Dot, String> {
        let steps: Vec<f32> = (0..weights.channels()).map(|c| x.scale * weights.scale(c)).collect();
        steps.iter().try_for_each(|&step| positive(step))?;
        let mut bias = bias.map(|b| Bias::new(graph, b, &steps, beta)).transpose()?;
        if let Some(bias) = &mut bias {
            bias.leave_room(&weights.magnitude, x.largest(), &steps);
        }
        let dot = Dot { replaced, weights, bias, steps };
        dot.fits(x.largest())?;
        dot.precise(graph, x)?;
        Ok(dot)
    }

    /// The accumulator cannot overflow, whatever the activations are.
    fn fits(&self, largest: i64) -> Result<(), String> {
        let bias = |c: usize| self.bias.as_ref().map_or(0, |b| i64::from(b.values[c]).abs());
        let most = self.weights.magnitude.iter().enumerate().map(|(c, &magnitude)| {
            magnitude.checked_mul(largest).and_then(|sum| sum.checked_add(bias(c)))
        });
        if most.into_iter().all(|m| m.is_some_and(|m| m <= i64::from(i32::MAX))) {
            Ok(())
        } else {
            Err("the accumulator may exceed 32 bits".to_owned())
        }
    }

    /// What weights and bias lost on their way to integers stays below half a step of every 8-bit
    /// result.
    fn precise(&self, graph: &Graph, x: PerTensor) -> Result<(), String> {
        let most_x = x.largest() as f64 * f64::from(x.scale);
        // What rounding a step that is no normal number may make of the largest accumulator.
        let underflow = |step: f32| if step.is_normal() { 0.0 } else { (31.0f64 - 149.0).exp2() };
        let lost = self.steps.iter().enumerate().map(|(c, &step)| {
            underflow(step)
                + self.weights.error.get(c).map_or(0.0, |e| e * most_x)
                + self.bias.as_ref().map_or(0.0, |b| b.error[c])
        });
        let lost = lost.fold(0.0, f64::max);
        for (consumer, _) in graph.consumers(self.replaced) {
            let Some(Op::Quantize { out, .. }) = op(graph, consumer) else { continue };
            if out.as_per_tensor().is_some_and(|(scale, _)| lost > 0.5 * f64::from(scale)) {
                return Err("weights or bias are finer than steps of the accumulator".to_owned());
            }
        }
        Ok(())
    }

    /// The type of the accumulator, whose output channels are on `axis`.
    fn accumulator(&self, axis: usize) -> ElemType {
        if self.weights.is_per_tensor() {
            return ElemType::per_tensor(DType::I32, self.steps[0], 0);
        }
        let quant = Quant::per_axis(axis, self.steps.clone(), vec![0; self.steps.len()]);
        ElemType { dtype: DType::I32, quant: Some(quant) }
    }

    fn propose(self, graph: &Graph, node: NodeId, op: Op, x: Outlet) -> Result<Patch, String> {
        let name = &graph.node(node).name;
        let mut patch = Patch::new(NAME, Exactness::OneStep);
        let bias = match &self.bias {
            Some(bias) => Some(patch.constant(format!("{name}_bias"), bias.tensor()?)),
            None => None,
        };
        patch.note = self.bias.is_some_and(|b| b.rescaled).then(|| {
            format!("the bias of `{name}` was quantized anew: its scale is not the product of the others")
        });
        let weights = self.weights.operand(&mut patch, format!("{name}_weights"));
        let operands = vec![Some(x.into()), Some(weights), bias];
        Ok(dequantized_product(graph, node, self.replaced, op, operands, patch))
    }
}

/// The type of the product of two activations, of `depth` terms.
fn product_of_activations(
    a: PerTensor,
    b: PerTensor,
    depth: Option<usize>,
) -> Result<ElemType, String> {
    let depth = depth.ok_or("the number of terms is not known, so the sum may exceed 32 bits")?;
    let most = i64::try_from(depth)
        .ok()
        .and_then(|k| k.checked_mul(a.largest())?.checked_mul(b.largest()));
    if most.is_none_or(|m| m > i64::from(i32::MAX)) {
        return Err("the accumulator may exceed 32 bits".to_owned());
    }
    let step = a.scale * b.scale;
    positive(step)?;
    Ok(ElemType::per_tensor(DType::I32, step, 0))
}

/// Channels that training has switched off have weights, and so steps, down to the smallest numbers.
fn positive(step: f32) -> Result<(), String> {
    if step > 0.0 && step.is_finite() {
        Ok(())
    } else {
        Err(format!("the product of the scales is {step}"))
    }
}

/// The constant vector that the only consumer of a matrix product adds to it, and the sum.
fn added_vector(graph: &Graph, node: NodeId, rank: usize) -> Option<(Outlet, Outlet)> {
    let (sum, index) = graph.sole_consumer(result(node))?;
    if op(graph, sum) != Some(&Op::Binary(BinaryKind::Add)) {
        return None;
    }
    let vector = operand(graph, sum, 1 - index.min(1))?;
    let stored = dequantized(graph, vector).unwrap_or(vector);
    let extents = graph.constant(stored)?.dims();
    // Other shapes would make the sum larger than the product.
    let row = extents.len() <= rank && extents.iter().rev().skip(1).all(|&d| d == 1);
    let columns = dims(graph, result(node))?.last()?.fixed()?;
    let wide = extents.last().is_none_or(|&n| n == 1 || n == columns);
    (row && wide).then_some((vector, result(sum)))
}

fn raw(elem: ElemType) -> QOut {
    QOut { elem, clamp: None, rounding: Rounding::HalfEven }
}

/// The accumulator of `op`, dequantized, for `replaced`.
fn dequantized_product(
    graph: &Graph,
    node: NodeId,
    replaced: Outlet,
    op: Op,
    operands: Vec<Option<Src>>,
    mut patch: Patch,
) -> Patch {
    let name = &graph.node(node).name;
    let acc = patch.op(name.as_ref(), op, operands);
    let float = patch.op(format!("{name}_dequantize"), Op::Dequantize, vec![Some(acc)]);
    patch.replace(replaced, float);
    patch
}
