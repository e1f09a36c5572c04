//! Moves the padding of a `Pad` into the convolution or pool that reads it.
//!
//! Match: `op(Pad(x))`, op one of conv, qconv, max_pool, average_pool, qpool.
//! Rewrite: `op(x)` with the pads added to its explicit padding.
//! Class: exact. A padded convolution reads real 0, which is what the `Pad` wrote; a max pool's
//! padding never wins, and neither does the lowest value of the type; an average pool counts the
//! padding when it is told to.
//! Refuses: modes other than constant, negative pads, pads of the batch or channel axis, a padding
//! value other than the one above (−0 included), pads or a value that are not constant, SAME
//! padding, `ceil_mode`, pools whose window may lie in the padding altogether, float weights that
//! may be infinite or NaN (their product with a padding zero is NaN, but only if it is computed).

use super::consts::{int_operand, op, operand};
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::Patch;
use crate::{Graph, NodeId, Outlet};
use requant_ir::{
    ConvAttrs, DType, ElemType, Layout, Op, PadMode, Padding, PoolAttrs, PoolKind, Tensor,
};

const NAME: &str = "fold_pad";

/// Folds `Pad` into convolutions and pools.
pub struct FoldPad;

impl Pass for FoldPad {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::Exact,
            about: "moves the padding of a Pad into the convolution or pool that reads it",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, rule)
    }
}

fn rule(graph: &Graph, node: NodeId, cx: &mut PassCx<'_>) -> Option<Patch> {
    let window = op(graph, node)?;
    if !matches!(window, Op::Conv(_) | Op::QConv { .. } | Op::Pool(_) | Op::QPool { .. }) {
        return None;
    }
    let padded = operand(graph, node, 0)?;
    let Some(Op::Pad { mode }) = op(graph, padded.node) else { return None };
    match fold(graph, node, window, padded.node, *mode) {
        Ok(op) => {
            let mut operands: Vec<_> =
                graph.operands(node).into_iter().map(|o| o.map(Into::into)).collect();
            operands[0] = operand(graph, padded.node, 0).map(Into::into);
            let mut patch = Patch::new(NAME, Exactness::Exact);
            let new = patch.op(graph.node(node).name.as_ref(), op, operands);
            patch.replace(Outlet { node, slot: 0 }, new);
            Some(patch)
        }
        Err(reason) => {
            cx.refuse(graph.node(padded.node).name.as_ref(), reason);
            None
        }
    }
}

/// The operator with the pads added.
fn fold(
    graph: &Graph,
    node: NodeId,
    window: &Op,
    pad: NodeId,
    mode: PadMode,
) -> Result<Op, &'static str> {
    if mode != PadMode::Constant {
        return Err("only constant padding is what convolutions and pools do");
    }
    let source = operand(graph, pad, 0).ok_or("the Pad has no operand")?;
    let fact = &graph.fact(source).ty;
    let rank = fact.rank().ok_or("the rank is not known")?;
    let pads = pads_by_axis(graph, pad, rank)?;
    let value = match operand(graph, pad, 2) {
        None => None,
        Some(o) => Some(graph.constant(o).ok_or("the padding value is not constant")?),
    };
    let spatial = |layout| spatial_pads(&pads, layout);
    match window {
        Op::Conv(conv) => {
            is_zero(value, &fact.elem)?;
            if !operand(graph, node, 1).is_some_and(|w| is_finite(graph, w)) {
                return Err("the weights are not known to be finite");
            }
            Ok(Op::Conv(padded_conv(conv, &spatial(conv.layout)?)?))
        }
        Op::QConv { conv, out, zero_folded, residual } => {
            is_zero(value, &fact.elem)?;
            Ok(Op::QConv {
                conv: padded_conv(conv, &spatial(conv.layout)?)?,
                out: out.clone(),
                zero_folded: *zero_folded,
                residual: residual.clone(),
            })
        }
        Op::Pool(pool) => {
            match pool.kind {
                PoolKind::Max => is_lowest(value, &fact.elem)?,
                PoolKind::Average { .. } => is_zero(value, &fact.elem)?,
            }
            Ok(Op::Pool(padded_pool(pool, &spatial(pool.layout)?)?))
        }
        Op::QPool { pool, out } => {
            is_zero(value, &fact.elem)?;
            Ok(Op::QPool { pool: padded_pool(pool, &spatial(pool.layout)?)?, out: out.clone() })
        }
        _ => Err("not a convolution or pool"),
    }
}

/// `(begin, end)` of every axis.
fn pads_by_axis(
    graph: &Graph,
    pad: NodeId,
    rank: usize,
) -> Result<Vec<(usize, usize)>, &'static str> {
    let pads = int_operand(graph, pad, 1).ok_or("the pads are not constant")?;
    let axes: Vec<usize> = match operand(graph, pad, 3) {
        None => (0..rank).collect(),
        Some(_) => int_operand(graph, pad, 3)
            .ok_or("the axes are not constant")?
            .into_iter()
            .map(|a| super::consts::axis(a, rank).ok_or("an axis is out of range"))
            .collect::<Result<_, _>>()?,
    };
    if pads.len() != 2 * axes.len() {
        return Err("there are not two pads for each axis");
    }
    let mut by_axis = vec![(0, 0); rank];
    let (begins, ends) = pads.split_at(axes.len());
    for ((&axis, &begin), &end) in axes.iter().zip(begins).zip(ends) {
        let extent = |p| usize::try_from(p).map_err(|_| "negative pads crop");
        by_axis[axis] = (extent(begin)?, extent(end)?);
    }
    Ok(by_axis)
}

fn spatial_pads(
    pads: &[(usize, usize)],
    layout: Layout,
) -> Result<Vec<(usize, usize)>, &'static str> {
    let (others, spatial) = match layout {
        Layout::ChannelsFirst => pads.split_at(pads.len().min(2)),
        Layout::ChannelsLast => {
            let channel = pads.len().saturating_sub(1);
            if pads[channel..].iter().any(|&p| p != (0, 0)) {
                return Err("the channel axis is padded");
            }
            pads[..channel].split_at(channel.min(1))
        }
    };
    if others.iter().any(|&p| p != (0, 0)) {
        return Err("the batch or channel axis is padded");
    }
    Ok(spatial.to_vec())
}

/// True for finite float constants and for whatever is dequantized with moderate scales.
fn is_finite(graph: &Graph, value: Outlet) -> bool {
    if let Some(tensor) = graph.constant(value) {
        return tensor.to_f32().is_some_and(|v| v.iter().all(|v| v.is_finite()));
    }
    let dequantized = matches!(op(graph, value.node), Some(Op::Dequantize));
    // A difference of two stored integers is below 2³³.
    let moderate = |scale: &f32| scale.abs() < f32::MAX / (1u64 << 33) as f32;
    dequantized
        && operand(graph, value.node, 0)
            .and_then(|q| graph.fact(q).ty.quant())
            .is_some_and(|quant| quant.scales().iter().all(moderate))
}

fn is_zero(value: Option<&Tensor>, elem: &ElemType) -> Result<(), &'static str> {
    let Some(value) = value else { return Ok(()) };
    let zero = match &elem.quant {
        Some(quant) => {
            let (_, zero_point) =
                quant.as_per_tensor().ok_or("the input is quantized per axis or block")?;
            value.to_i64().is_some_and(|v| v == [i64::from(zero_point)])
        }
        None => value.to_f32().is_some_and(|v| v.len() == 1 && v[0].to_bits() == 0),
    };
    if zero { Ok(()) } else { Err("the padding value is not real 0") }
}

fn is_lowest(value: Option<&Tensor>, elem: &ElemType) -> Result<(), &'static str> {
    let lowest = match (value, elem.dtype.quant_range()) {
        (Some(value), Some((min, _))) => value.to_i64().is_some_and(|v| v == [i64::from(min)]),
        (Some(value), None) if elem.dtype.is_float() => {
            value.to_f32().is_some_and(|v| v == [f32::NEG_INFINITY])
        }
        // No value means real 0, which is the lowest when the zero point is.
        (None, Some((min, _))) => {
            matches!(elem.dtype, DType::I8 | DType::U8)
                && elem.as_per_tensor().is_some_and(|(_, z)| z == min)
        }
        _ => false,
    };
    if lowest { Ok(()) } else { Err("the padding value is not the lowest of its type") }
}

/// Begins, then ends, added to explicit padding.
fn added(padding: &Padding, pads: &[(usize, usize)]) -> Result<Vec<usize>, &'static str> {
    let Padding::Explicit(own) = padding else {
        return Err("the operator's own padding is not explicit");
    };
    if own.len() != 2 * pads.len() {
        return Err("pads and spatial axes do not match");
    }
    let more = pads.iter().map(|p| p.0).chain(pads.iter().map(|p| p.1));
    own.iter().zip(more).map(|(&a, b)| a.checked_add(b).ok_or("the pads are too large")).collect()
}

fn padded_conv(conv: &ConvAttrs, pads: &[(usize, usize)]) -> Result<ConvAttrs, &'static str> {
    Ok(ConvAttrs { padding: Padding::Explicit(added(&conv.padding, pads)?), ..conv.clone() })
}

fn padded_pool(pool: &PoolAttrs, pads: &[(usize, usize)]) -> Result<PoolAttrs, &'static str> {
    if pool.ceil_mode {
        return Err("with ceil_mode padding is not the same as a padded input");
    }
    let padding = added(&pool.padding, pads)?;
    let kind = match pool.kind {
        PoolKind::Max => PoolKind::Max,
        PoolKind::Average { count_include_pad } => {
            let own = match &pool.padding {
                Padding::Explicit(own) => own.iter().any(|&p| p > 0),
                _ => true,
            };
            if own && !count_include_pad {
                return Err("the pool's own padding is not counted, but the Pad's is");
            }
            PoolKind::Average { count_include_pad: true }
        }
    };
    let spatial = pool.kernel.len();
    let inside = |(i, &p): (usize, &usize)| p < pool.kernel[i % spatial];
    if pool.dilations.iter().any(|&d| d != 1) || !padding.iter().enumerate().all(inside) {
        return Err("a window may lie in the padding altogether");
    }
    Ok(PoolAttrs { kind, padding: Padding::Explicit(padding), ..pool.clone() })
}
