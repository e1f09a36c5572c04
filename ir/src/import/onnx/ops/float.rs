//! Operators on float tensors: convolutions, products, pools, reductions, normalizations.

use super::super::builder::Info;
use super::super::cx::{Cx, broadcast, req};
use super::super::error::{Failure, malformed, unsupported};
use super::{movement, window};
use crate::{DType, Layout, Op, PoolKind, ReduceKind};

pub(super) fn conv(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, w, b] = cx.take()?;
    let (x, w) = (req(x, "X")?, req(w, "W")?);
    let weights = cx.b.constant(w).map(|t| t.dims().to_vec());
    let attrs = window::conv(cx, cx.rank(x), cx.rank(w), weights.as_deref())?;
    let info = Info::plain(cx.dtype(x), cx.rank(w).or(cx.rank(x)));
    let inputs = vec![cx.plain(x)?, cx.plain(w)?, cx.plain_opt(b)?];
    cx.done(Op::Conv(attrs), inputs, info)
}

pub(super) fn matmul(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [a, b] = cx.take()?;
    let (a, b) = (req(a, "A")?, req(b, "B")?);
    let info = Info::plain(cx.dtype(a), product_rank(cx.rank(a), cx.rank(b)));
    let inputs = vec![cx.plain(a)?, cx.plain(b)?];
    cx.done(Op::MatMul, inputs, info)
}

/// A vector operand loses its axis.
pub(super) fn product_rank(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a?, b?) {
        (1, 1) => Some(0),
        (1, r) | (r, 1) => r.checked_sub(1),
        _ => broadcast(a, b),
    }
}

pub(super) fn gemm(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [a, b, c] = cx.take()?;
    let (a, b) = (req(a, "A")?, req(b, "B")?);
    let op = Op::Gemm {
        alpha: cx.attrs.float_or("alpha", 1.0)?,
        beta: cx.attrs.float_or("beta", 1.0)?,
        trans_a: cx.attrs.flag("transA", false)?,
        trans_b: cx.attrs.flag("transB", false)?,
    };
    let info = Info::plain(cx.dtype(a), Some(2));
    let inputs = vec![cx.plain(a)?, cx.plain(b)?, cx.plain_opt(c)?];
    cx.done(op, inputs, info)
}

/// Also of quantized numbers, whose order is the order of the stored ones.
pub(super) fn max_pool(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x] = cx.take()?;
    let x = req(x, "X")?;
    // It orders the indices, the second result, only.
    cx.attrs.ignore(&["storage_order"]);
    let pool = window::pool(cx, cx.rank(x), PoolKind::Max, Layout::ChannelsFirst)?;
    let rank = cx.rank(x).or(Some(pool.kernel.len() + 2));
    let (x, elem) = cx.moved(x)?;
    cx.done(Op::Pool(pool), vec![x], Info::new(elem, rank))
}

pub(super) fn average_pool(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x] = cx.take()?;
    let x = req(x, "X")?;
    let kind = PoolKind::Average { count_include_pad: cx.attrs.flag("count_include_pad", false)? };
    let pool = window::pool(cx, cx.rank(x), kind, Layout::ChannelsFirst)?;
    let info = Info::plain(cx.dtype(x), cx.rank(x).or(Some(pool.kernel.len() + 2)));
    let x = cx.plain(x)?;
    cx.done(Op::Pool(pool), vec![x], info)
}

pub(super) fn global_pool(cx: &mut Cx<'_, '_>, kind: ReduceKind) -> Result<(), Failure> {
    let [x] = cx.take()?;
    let x = req(x, "X")?;
    let axes = spatial_axes(cx.need_rank(x)?, Layout::ChannelsFirst)?;
    let info = Info::plain(cx.dtype(x), cx.rank(x));
    let x = cx.plain(x)?;
    cx.done(Op::Reduce { kind, axes, keep_dims: true }, vec![x], info)
}

pub(super) fn spatial_axes(rank: usize, layout: Layout) -> Result<Vec<i64>, Failure> {
    if rank < 3 {
        return malformed("an operand without spatial axes");
    }
    let first = match layout {
        Layout::ChannelsFirst => 2,
        Layout::ChannelsLast => 1,
    };
    Ok((first..first + rank as i64 - 2).collect())
}

pub(super) fn reduce(cx: &mut Cx<'_, '_>, kind: ReduceKind) -> Result<(), Failure> {
    let [x, operand] = cx.take()?;
    let x = req(x, "data")?;
    let keep_dims = cx.attrs.flag("keepdims", true)?;
    let noop = cx.attrs.flag("noop_with_empty_axes", false)?;
    let axes = movement::axes(cx, operand)?.unwrap_or_default();
    let rank = match cx.rank(x) {
        r if keep_dims => r,
        Some(_) if axes.is_empty() => Some(0),
        r => r.and_then(|r| r.checked_sub(axes.len())),
    };
    let op =
        if axes.is_empty() && noop { Op::Identity } else { Op::Reduce { kind, axes, keep_dims } };
    let rank = if op == Op::Identity { cx.rank(x) } else { rank };
    let info = Info::plain(cx.dtype(x), rank);
    let x = cx.plain(x)?;
    cx.done(op, vec![x], info)
}

pub(super) fn argmax(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x] = cx.take()?;
    let x = req(x, "data")?;
    let axis = cx.attrs.int_or("axis", 0)?;
    let keep_dims = cx.attrs.flag("keepdims", true)?;
    if cx.attrs.flag("select_last_index", false)? {
        return unsupported("the last of equal elements (`select_last_index`)");
    }
    let rank = cx.rank(x).and_then(|r| if keep_dims { Some(r) } else { r.checked_sub(1) });
    let x = cx.plain(x)?;
    cx.done(Op::ArgMax { axis, keep_dims }, vec![x], Info::plain(DType::I64, rank))
}

pub(super) fn batch_norm(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, scale, bias, mean, variance] = cx.take()?;
    let x = req(x, "X")?;
    let epsilon = cx.attrs.float_or("epsilon", 1e-5)?;
    cx.attrs.ignore(&["momentum"]);
    if cx.attrs.flag("training_mode", false)? {
        return unsupported("training mode");
    }
    let info = Info::plain(cx.dtype(x), cx.rank(x));
    let mut inputs = vec![cx.plain(x)?];
    for (operand, name) in [(scale, "scale"), (bias, "B"), (mean, "mean"), (variance, "var")] {
        inputs.push(cx.plain(req(operand, name)?)?);
    }
    cx.done(Op::BatchNorm { epsilon, layout: Layout::ChannelsFirst }, inputs, info)
}

pub(super) fn layer_norm(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, scale, bias] = cx.take()?;
    let (x, scale) = (req(x, "X")?, req(scale, "Scale")?);
    let axis = cx.attrs.int_or("axis", -1)?;
    let epsilon = cx.attrs.float_or("epsilon", 1e-5)?;
    if cx.attrs.int_or("stash_type", 1)? != 1 {
        return unsupported("statistics that are not f32 (`stash_type`)");
    }
    let info = Info::plain(cx.dtype(x), cx.rank(x));
    let inputs = vec![cx.plain(x)?, cx.plain(scale)?, cx.plain_opt(bias)?];
    cx.done(Op::LayerNorm { axis, epsilon }, inputs, info)
}

/// Before opset 13 over all axes from `axis` on, which is the same for the last axis.
pub(super) fn softmax(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x] = cx.take()?;
    let x = req(x, "input")?;
    let old = cx.opset < 13;
    let axis = cx.attrs.int_or("axis", if old { 1 } else { -1 })?;
    let flatten = old && !is_last(axis, cx.rank(x));
    let info = Info::plain(cx.dtype(x), cx.rank(x));
    let x = cx.plain(x)?;
    cx.done(Op::Softmax { axis, flatten }, vec![x], info)
}

pub(super) fn is_last(axis: i64, rank: Option<usize>) -> bool {
    axis == -1 || rank.is_some_and(|r| axis == r as i64 - 1)
}
