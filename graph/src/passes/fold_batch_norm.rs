//! Folds per-channel factors and offsets into the weights and bias before them.
//!
//! Match: batch_norm, or add/sub/mul/div by a constant, after a float conv, gemm or matmul.
//! Rewrite: the convolution or gemm alone, with `w·k` and `b·k + d`; a matmul of two matrices whose
//! second is constant becomes a gemm, so that there is one form to quantize.
//! Class: one step. `k` and `d` are computed in f64 and rounded once, but the sum is not the same.
//! Refuses: results that are read elsewhere or leave the graph, weights or bias that are not f32
//! constants, constants that are neither one number nor one for each output channel, and weights
//! that would not be finite.

use super::consts::{constant_operand, op, operand};
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::{Patch, Src};
use crate::{Graph, NodeId, Outlet};
use requant_ir::{BinaryKind, DType, Layout, Op, Tensor};

const NAME: &str = "fold_batch_norm";

/// Folds batch normalization and constant factors and offsets into weights.
pub struct FoldBatchNorm;

impl Pass for FoldBatchNorm {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::OneStep,
            about: "folds batch normalization and constant factors and offsets into weights",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, |graph, node, cx| {
            let patch = match op(graph, node)? {
                Op::MatMul => matrix_product(graph, node),
                _ => fold(graph, node)?,
            };
            patch.map_err(|reason| cx.refuse(graph.node(node).name.as_ref(), reason)).ok()?
        })
    }
}

type Folded = Result<Option<Patch>, &'static str>;

/// `factor·x + offset`, each one number or one for each channel.
struct Affine {
    factor: Vec<f64>,
    offset: Vec<f64>,
}

impl Affine {
    fn factor(&self, channel: usize) -> f64 {
        self.factor[if self.factor.len() == 1 { 0 } else { channel }]
    }

    fn offset(&self, channel: usize) -> f64 {
        self.offset[if self.offset.len() == 1 { 0 } else { channel }]
    }

    /// True when only an offset is added.
    fn is_offset(&self) -> bool {
        self.factor.iter().all(|&k| k == 1.0)
    }
}

/// Where the constants' channel axis must be, and how many channels there are.
struct Channels {
    rank: usize,
    axis: usize,
    count: usize,
}

impl Channels {
    /// One number for each channel, or a single one.
    fn numbers(&self, tensor: &Tensor) -> Option<Vec<f64>> {
        if tensor.dtype() != DType::F32 {
            return None;
        }
        let missing = self.rank.checked_sub(tensor.dims().len())?;
        let fits =
            tensor.dims().iter().enumerate().all(|(i, &extent)| {
                extent == 1 || (i + missing == self.axis && extent == self.count)
            });
        let numbers = tensor.as_slice::<f32>().filter(|v| fits && !v.is_empty())?;
        Some(numbers.iter().map(|&v| f64::from(v)).collect())
    }
}

/// A product's weights and where their channels are.
struct Product {
    node: NodeId,
    channels: Channels,
    /// Elements of the weights that follow each other with the same channel.
    run: usize,
}

/// `None` when `node` is not an affine function of a product.
fn fold(graph: &Graph, node: NodeId) -> Option<Folded> {
    let index = match op(graph, node)? {
        Op::BatchNorm { .. } => 0,
        Op::Binary(BinaryKind::Add | BinaryKind::Sub | BinaryKind::Mul | BinaryKind::Div) => {
            usize::from(constant_operand(graph, node, 0).is_some())
        }
        _ => return None,
    };
    let value = operand(graph, node, index)?;
    if !matches!(op(graph, value.node)?, Op::Conv(_) | Op::Gemm { .. } | Op::MatMul) {
        return None;
    }
    let is_norm = matches!(op(graph, node)?, Op::BatchNorm { .. });
    let other = operand(graph, node, 1 - index)?;
    if !is_norm && graph.constant(other).is_none() {
        return dequantized_bias(graph, node, value, other).map(|patch| Ok(Some(patch)));
    }
    Some(fold_into(graph, node, value, index))
}

fn fold_into(graph: &Graph, node: NodeId, value: Outlet, index: usize) -> Folded {
    if graph.sole_consumer(value).is_none() {
        return Err("the product is read elsewhere too");
    }
    let product = product(graph, value)?;
    let affine = affine(graph, node, index, &product.channels)?;
    match op(graph, product.node) {
        Some(Op::Conv(_)) => conv(graph, node, &product, &affine),
        Some(Op::Gemm { .. }) => gemm(graph, node, &product, &affine),
        _ => matmul(graph, node, &product, &affine),
    }
    .map(Some)
}

fn product(graph: &Graph, value: Outlet) -> Result<Product, &'static str> {
    let rank = graph.fact(value).ty.rank().ok_or("the rank is not known")?;
    let node = value.node;
    let weights = operand(graph, node, 1).ok_or("there are no weights")?;
    let extents = graph.fact(weights).ty.fixed_dims();
    let extents = extents.ok_or("the extents of the weights are not known")?;
    let (axis, count, run) = match (op(graph, node), &extents[..]) {
        (Some(Op::Conv(conv)), [count, inner @ ..]) => {
            let axis = match conv.layout {
                Layout::ChannelsFirst => 1,
                Layout::ChannelsLast => rank.saturating_sub(1),
            };
            (axis, *count, inner.iter().product())
        }
        (Some(Op::Gemm { trans_b: true, .. }), &[n, k]) => (1, n, k),
        (Some(Op::Gemm { .. } | Op::MatMul), &[_, n]) => (rank.saturating_sub(1), n, 1),
        _ => return Err("the weights are not a matrix"),
    };
    Ok(Product { node, channels: Channels { rank, axis, count }, run })
}

fn affine(
    graph: &Graph,
    node: NodeId,
    index: usize,
    channels: &Channels,
) -> Result<Affine, &'static str> {
    let affine = match op(graph, node) {
        Some(Op::BatchNorm { epsilon, layout }) => {
            let axis = match layout {
                Layout::ChannelsFirst => 1,
                Layout::ChannelsLast => channels.rank.saturating_sub(1),
            };
            if axis != channels.axis {
                return Err("the normalized channels are not those that the product makes");
            }
            let vector = |i| {
                constant_operand(graph, node, i)
                    .filter(|t| t.dims() == [channels.count])
                    .and_then(Tensor::to_f32)
                    .ok_or("scale, bias, mean and variance are not constants of one per channel")
            };
            let (scale, bias, mean, variance) = (vector(1)?, vector(2)?, vector(3)?, vector(4)?);
            let factor: Vec<f64> = scale
                .iter()
                .zip(&variance)
                .map(|(&s, &v)| f64::from(s) / (f64::from(v) + f64::from(*epsilon)).sqrt())
                .collect();
            let offset = bias
                .iter()
                .zip(&mean)
                .zip(&factor)
                .map(|((&b, &m), k)| f64::from(b) - f64::from(m) * k)
                .collect();
            Affine { factor, offset }
        }
        Some(Op::Binary(kind)) => {
            let numbers = constant_operand(graph, node, 1 - index)
                .and_then(|t| channels.numbers(t))
                .ok_or("the constant is not one f32 number, nor one for each channel")?;
            let (one, zero) = (vec![1.0], vec![0.0]);
            let map = |f: fn(&f64) -> f64| numbers.iter().map(f).collect();
            match (kind, index) {
                (BinaryKind::Add, _) => Affine { factor: one, offset: numbers },
                (BinaryKind::Sub, 0) => Affine { factor: one, offset: map(|c| -c) },
                (BinaryKind::Sub, _) => Affine { factor: vec![-1.0], offset: numbers },
                (BinaryKind::Mul, _) => Affine { factor: numbers, offset: zero },
                (BinaryKind::Div, 0) => Affine { factor: map(|c| 1.0 / c), offset: zero },
                _ => return Err("a constant divided by a product is not affine"),
            }
        }
        _ => return Err("not an affine operator"),
    };
    if affine.factor.iter().chain(&affine.offset).all(|v| v.is_finite()) {
        Ok(affine)
    } else {
        Err("a factor or offset is not finite")
    }
}

/// The weights with each channel multiplied by its factor.
fn scaled_weights(
    graph: &Graph,
    product: &Product,
    affine: &Affine,
) -> Result<Tensor, &'static str> {
    let weights = constant_operand(graph, product.node, 1).ok_or("the weights are not constant")?;
    let values = weights.as_slice::<f32>().ok_or("the weights are not f32")?;
    let (run, count) = (product.run.max(1), product.channels.count.max(1));
    let scaled: Vec<f32> = values
        .iter()
        .enumerate()
        .map(|(i, &w)| (f64::from(w) * affine.factor(i / run % count)) as f32)
        .collect();
    finite(&scaled, weights.dims())
}

/// `scale·bias·factor + offset` for each channel; no bias counts as 0.
fn scaled_bias(
    graph: &Graph,
    product: &Product,
    affine: &Affine,
    scale: f32,
) -> Result<Tensor, &'static str> {
    let channels = &product.channels;
    let own = match operand(graph, product.node, 2) {
        None => vec![0.0],
        Some(bias) => {
            // A convolution's bias is a vector whatever the rank of its result.
            let as_row = Channels { rank: 2, axis: 1, count: channels.count };
            graph
                .constant(bias)
                .and_then(|t| as_row.numbers(t))
                .ok_or("the bias is not an f32 constant of one per channel")?
        }
    };
    let bias: Vec<f32> = (0..channels.count)
        .map(|c| {
            let own = own[if own.len() == 1 { 0 } else { c }];
            (f64::from(scale) * own * affine.factor(c) + affine.offset(c)) as f32
        })
        .collect();
    finite(&bias, &[channels.count])
}

fn finite(values: &[f32], dims: &[usize]) -> Result<Tensor, &'static str> {
    if !values.iter().all(|v| v.is_finite()) {
        return Err("folded weights would not be finite");
    }
    Tensor::from_slice(dims, values).map_err(|_| "the folded weights do not fit memory")
}

/// The weights as they are, or scaled where there is a factor.
fn weights(
    graph: &Graph,
    product: &Product,
    affine: &Affine,
    patch: &mut Patch,
) -> Result<Option<Src>, &'static str> {
    let old = operand(graph, product.node, 1);
    if affine.is_offset() {
        return Ok(old.map(Into::into));
    }
    let scaled = scaled_weights(graph, product, affine)?;
    Ok(Some(patch.constant(constant_name(graph, product.node, 1, "weight"), scaled)))
}

/// The name of an operand, or one made of the node's.
fn constant_name(graph: &Graph, node: NodeId, index: usize, suffix: &str) -> String {
    match operand(graph, node, index) {
        Some(value) => graph.fact(value).name.to_string(),
        None => format!("{}_{suffix}", graph.node(node).name),
    }
}

fn finish(
    graph: &Graph,
    node: NodeId,
    product: &Product,
    mut patch: Patch,
    op: Op,
    operands: Vec<Option<Src>>,
) -> Patch {
    let new = patch.op(graph.node(product.node).name.as_ref(), op, operands);
    patch.replace(Outlet { node, slot: 0 }, new);
    patch
}

fn conv(
    graph: &Graph,
    node: NodeId,
    product: &Product,
    affine: &Affine,
) -> Result<Patch, &'static str> {
    let mut patch = Patch::new(NAME, Exactness::OneStep);
    let weights = weights(graph, product, affine, &mut patch)?;
    let bias = scaled_bias(graph, product, affine, 1.0)?;
    let bias = patch.constant(constant_name(graph, product.node, 2, "bias"), bias);
    let op = op(graph, product.node).ok_or("not an operator")?.clone();
    let operands = vec![operand(graph, product.node, 0).map(Into::into), weights, Some(bias)];
    Ok(finish(graph, node, product, patch, op, operands))
}

fn gemm(
    graph: &Graph,
    node: NodeId,
    product: &Product,
    affine: &Affine,
) -> Result<Patch, &'static str> {
    let Some(&Op::Gemm { alpha, beta, trans_a, trans_b }) = op(graph, product.node) else {
        return Err("not a gemm");
    };
    let mut patch = Patch::new(NAME, Exactness::OneStep);
    let weights = weights(graph, product, affine, &mut patch)?;
    let bias = scaled_bias(graph, product, affine, beta)?;
    let bias = patch.constant(constant_name(graph, product.node, 2, "bias"), bias);
    let op = Op::Gemm { alpha, beta: 1.0, trans_a, trans_b };
    let operands = vec![operand(graph, product.node, 0).map(Into::into), weights, Some(bias)];
    Ok(finish(graph, node, product, patch, op, operands))
}

/// A matmul that is not a gemm, because its first operand is a batch of matrices.
fn matmul(
    graph: &Graph,
    node: NodeId,
    product: &Product,
    affine: &Affine,
) -> Result<Patch, &'static str> {
    if affine.is_offset() || affine.offset.iter().any(|&d| d != 0.0) {
        return Err("only a product of two matrices takes a bias");
    }
    let mut patch = Patch::new(NAME, Exactness::OneStep);
    let weights = weights(graph, product, affine, &mut patch)?;
    let operands = vec![operand(graph, product.node, 0).map(Into::into), weights];
    Ok(finish(graph, node, product, patch, Op::MatMul, operands))
}

/// `gemm + dequantize(constant)`, as quantizers write a bias, to a gemm that adds the latter.
fn dequantized_bias(graph: &Graph, node: NodeId, value: Outlet, bias: Outlet) -> Option<Patch> {
    let Some(&Op::Gemm { alpha, trans_a, trans_b, .. }) = op(graph, value.node) else {
        return None;
    };
    let is_sum = matches!(op(graph, node), Some(Op::Binary(BinaryKind::Add)));
    let is_free = operand(graph, value.node, 2).is_none();
    if !is_sum || !is_free || !is_dequantized_constant(graph, bias) {
        return None;
    }
    graph.sole_consumer(value)?;
    let product = product(graph, value).ok()?;
    let extents = graph.fact(bias).ty.fixed_dims()?;
    if !matches!(extents[..], [n] | [1, n] if n == product.channels.count) {
        return None;
    }
    let patch = Patch::new(NAME, Exactness::OneStep);
    let operand = |i| operand(graph, product.node, i).map(Into::into);
    let operands = vec![operand(0), operand(1), Some(bias.into())];
    let op = Op::Gemm { alpha, beta: 1.0, trans_a, trans_b };
    Some(finish(graph, node, &product, patch, op, operands))
}

fn is_dequantized_constant(graph: &Graph, value: Outlet) -> bool {
    matches!(op(graph, value.node), Some(Op::Dequantize))
        && constant_operand(graph, value.node, 0).is_some()
}

/// A matmul of two float matrices, the second constant, to a gemm.
fn matrix_product(graph: &Graph, node: NodeId) -> Folded {
    let value = Outlet { node, slot: 0 };
    let is_matrix = |i| {
        operand(graph, node, i).filter(|&o| {
            graph.fact(o).ty.rank() == Some(2) && graph.fact(o).ty.elem.dtype == DType::F32
        })
    };
    let (Some(a), Some(b)) = (is_matrix(0), is_matrix(1)) else { return Ok(None) };
    if graph.constant(b).is_none() && !is_dequantized_constant(graph, b) {
        return Ok(None);
    }
    let mut patch = Patch::new(NAME, Exactness::OneStep);
    let gemm = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false };
    let new = patch.op(graph.node(node).name.as_ref(), gemm, vec![Some(a.into()), Some(b.into())]);
    patch.replace(value, new);
    Ok(Some(patch))
}
