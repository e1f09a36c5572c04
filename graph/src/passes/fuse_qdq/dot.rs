//! Convolutions and matrix products of dequantized operands, as integer ones with an s32 result.

use super::super::consts::{constant_operand, dims, op, operand};
use super::super::qparams::{PerTensor, activation, result};
use super::NAME;
use super::bias::Bias;
use super::weights::{Channel, Weights};
use crate::patch::{Exactness, Patch, Src};
use crate::{Graph, NodeId, Outlet};
use requant_ir::{
    BinaryKind, ConvAttrs, DType, Dim, ElemType, Layout, Op, Padding, QOut, Quant, Rounding,
};

/// What a rule makes: the patch, and what the report should say about it.
pub(super) type Fused = Result<Option<(Patch, Option<String>)>, String>;

/// Factors of `Gemm`.
struct Factors {
    alpha: f32,
    beta: f32,
}

/// An integer product without its result type.
struct Product {
    x: Outlet,
    /// `s_x`, times alpha.
    scale: f32,
    /// `max |x − z_x|`.
    largest: i64,
    weights: Weights,
    bias: Option<Bias>,
    steps: Vec<f32>,
}

/// `Conv(DQ(x), w, b)`.
pub(super) fn conv(graph: &Graph, node: NodeId, conv: &ConvAttrs) -> Fused {
    let Some(x) = operand(graph, node, 0) else { return Ok(None) };
    let Some(w) = operand(graph, node, 1) else { return Ok(None) };
    let (x, params) = activation(graph, x, "the input")?;
    let weights =
        Weights::new(graph, w, Channel::First)?.ok_or("the weights are not constant")?;
    let bias = operand(graph, node, 2);
    let product = product(graph, node, (x, params), weights, bias, Factors { alpha: 1.0, beta: 1.0 })?;
    let rank = graph.fact(x).ty.rank().unwrap_or(2 + conv.strides.len());
    let axis = match conv.layout {
        Layout::ChannelsFirst => 1,
        Layout::ChannelsLast => rank.saturating_sub(1),
    };
    if conv.padding != Padding::Explicit(vec![0; 2 * conv.strides.len()]) {
        // Padding stands for real 0, which the stored zero point is.
        debug_assert!(params.dtype.quant_range().is_some());
    }
    let elem = product.accumulator(axis);
    let qconv = |out| Op::QConv { conv: conv.clone(), out, zero_folded: false, residual: None };
    product.emit(graph, node, result(node), elem, qconv)
}

/// `MatMul(DQ(a), b)` or `Gemm(DQ(a), b, c)`; a constant vector added to the result is the bias.
pub(super) fn matmul(graph: &Graph, node: NodeId) -> Fused {
    let (trans_b, factors) = match op(graph, node) {
        Some(Op::MatMul) => (false, Factors { alpha: 1.0, beta: 1.0 }),
        Some(&Op::Gemm { alpha, beta, trans_a, trans_b }) => {
            if trans_a {
                return Err("the first operand is transposed".to_owned());
            }
            if !(alpha.is_normal() && alpha > 0.0 && beta.is_finite()) {
                return Err(format!("alpha is {alpha} and beta is {beta}"));
            }
            (trans_b, Factors { alpha, beta })
        }
        _ => return Ok(None),
    };
    let (Some(a), Some(b)) = (operand(graph, node, 0), operand(graph, node, 1)) else {
        return Ok(None);
    };
    let (a, params) = activation(graph, a, "the first operand")?;
    let rank = dims(graph, result(node)).map(<[Dim]>::len).ok_or("the rank is not known")?;
    let channel = if trans_b { Channel::First } else { Channel::Last };
    let qmatmul = |out| Op::QMatMul { trans_b, alpha: factors.alpha, out, zero_folded: false };
    let (bias, replaced) = match (operand(graph, node, 2), added_vector(graph, node)) {
        (None, Some((vector, sum))) => (Some(vector), sum),
        (bias, _) => (bias, result(node)),
    };
    let Some(weights) = Weights::new(graph, b, channel)? else {
        if bias.is_some() {
            return Err("a bias on the product of two activations".to_owned());
        }
        let (b, b_params) = activation(graph, b, "the second operand")?;
        let product = two_activations(graph, (a, params), (b, b_params), trans_b, factors.alpha)?;
        return product.emit_with(graph, node, b.into(), qmatmul);
    };
    let matrix = dims(graph, b).map_or(0, <[Dim]>::len);
    if matrix < 2 {
        return Err("the second operand is a vector".to_owned());
    }
    if matrix > 2 && !weights.is_per_tensor() {
        return Err("a stack of matrices with a scale for each column".to_owned());
    }
    let product = product(graph, node, (a, params), weights, bias, factors)?;
    let elem = product.accumulator(rank.saturating_sub(1));
    product.emit(graph, node, replaced, elem, qmatmul)
}
