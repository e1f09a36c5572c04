//! Integer operators whose scales and zero points are operands: ONNX's QLinearConv and
//! QLinearMatMul, and the `com.microsoft` ones that ONNX Runtime's quantizer writes.

use super::super::builder::{Info, Sym};
use super::super::cx::{Cx, broadcast, req};
use super::super::error::{Failure, malformed, of_operand, unsupported};
use super::quant::{Params, per_axis, per_tensor};
use super::{float, window};
use crate::{
    BinaryKind, DType, ElemType, Layout, Op, PoolKind, QOut, Quant, Rounding, Tensor, UnaryKind,
    ValueId,
};
use std::sync::Arc;

fn result(elem: ElemType) -> QOut {
    QOut { elem, clamp: None, rounding: Rounding::HalfEven }
}

/// The type of a result, by its scale and zero point operands.
fn out(
    cx: &mut Cx<'_, '_>,
    scale: Option<Sym>,
    zero_point: Option<Sym>,
    absent: DType,
) -> Result<ElemType, Failure> {
    let storage = if zero_point.is_some() { None } else { Some(absent) };
    eight_bits(per_tensor(cx, Params { scale, zero_point }, storage)?)
}

/// An operand that is quantized with one scale.
fn operand(
    cx: &mut Cx<'_, '_>,
    x: Sym,
    scale: Option<Sym>,
    zero_point: Option<Sym>,
) -> Result<ElemType, Failure> {
    let storage = Some(cx.dtype(x));
    eight_bits(per_tensor(cx, Params { scale, zero_point }, storage)?)
}

fn weights(
    cx: &mut Cx<'_, '_>,
    w: Sym,
    scale: Option<Sym>,
    zero_point: Option<Sym>,
    axis: i64,
) -> Result<ElemType, Failure> {
    let storage = Some(cx.dtype(w));
    eight_bits(per_axis(cx, Params { scale, zero_point }, storage, axis, w)?)
}

fn eight_bits(elem: ElemType) -> Result<ElemType, Failure> {
    if !elem.dtype.is_8bit() {
        return of_operand(format!("{} elements", elem.dtype));
    }
    Ok(elem)
}

/// A bias of s32 numbers, whose scale is the product of the operands' scales.
fn bias(cx: &mut Cx<'_, '_>, b: Option<Sym>) -> Result<Option<ValueId>, Failure> {
    if let Some(b) = b
        && cx.dtype(b) != DType::I32
    {
        return malformed(format!("a bias of {} elements, not s32", cx.dtype(b)));
    }
    cx.plain_opt(b)
}

pub(super) fn conv(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, xs, xz, w, ws, wz, ys, yz, b] = cx.take()?;
    let (x, w) = (req(x, "x")?, req(w, "w")?);
    if cx.node.domain == "com.microsoft" && cx.attrs.flag("channels_last", false)? {
        return unsupported("channels as the last axis");
    }
    let dims = cx.b.constant(w).map(|t| t.dims().to_vec());
    let conv = window::conv(cx, cx.rank(x), cx.rank(w), dims.as_deref())?;
    let x_elem = operand(cx, x, xs, xz)?;
    let w_elem = weights(cx, w, ws, wz, 0)?;
    let elem = out(cx, ys, yz, x_elem.dtype)?;
    let info = Info::new(elem.clone(), cx.rank(w).or(cx.rank(x)));
    let inputs = vec![cx.quantized(x, &x_elem)?, cx.quantized(w, &w_elem)?, bias(cx, b)?];
    let op = Op::QConv { conv, out: result(elem), zero_folded: false, residual: None };
    cx.done(op, inputs, info)
}

pub(super) fn matmul(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [a, a_scale, az, b, bs, bz, ys, yz] = cx.take()?;
    let (a, b) = (req(a, "a")?, req(b, "b")?);
    let a_elem = operand(cx, a, a_scale, az)?;
    let b_elem = weights(cx, b, bs, bz, -1)?;
    let elem = out(cx, ys, yz, a_elem.dtype)?;
    let info = Info::new(elem.clone(), float::product_rank(cx.rank(a), cx.rank(b)));
    let inputs = vec![cx.quantized(a, &a_elem)?, cx.quantized(b, &b_elem)?, None];
    let op = Op::QMatMul { trans_b: false, alpha: 1.0, out: result(elem), zero_folded: false };
    cx.done(op, inputs, info)
}

/// Without a scale for the result, the result is the dequantized accumulator.
pub(super) fn gemm(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [a, a_scale, az, b, bs, bz, c, ys, yz] = cx.take()?;
    let (a, b) = (req(a, "A")?, req(b, "B")?);
    let alpha = cx.attrs.float_or("alpha", 1.0)?;
    if !alpha.is_finite() {
        return malformed(format!("`alpha` is {alpha}"));
    }
    let trans_a = cx.attrs.flag("transA", false)?;
    let trans_b = cx.attrs.flag("transB", false)?;
    let a_elem = operand(cx, a, a_scale, az)?;
    let b_elem = weights(cx, b, bs, bz, if trans_b { 0 } else { 1 })?;
    let bias = match c {
        None => None,
        Some(c) => row_bias(cx, b, c, trans_b)?,
    };
    let mut left = cx.quantized(a, &a_elem)?;
    if trans_a {
        left = cx.step(Op::Transpose { perm: vec![1, 0] }, vec![left])?;
    }
    let inputs = vec![left, cx.quantized(b, &b_elem)?, bias];
    let product = |elem| Op::QMatMul { trans_b, alpha, out: result(elem), zero_folded: false };
    if ys.is_some() {
        let elem = out(cx, ys, yz, a_elem.dtype)?;
        return cx.done(product(elem.clone()), inputs, Info::new(elem, Some(2)));
    }
    if yz.is_some() {
        return malformed("a zero point of the result without its scale");
    }
    let accumulator = cx.step(product(accumulator(&a_elem, &b_elem, alpha)?), inputs)?;
    cx.done(Op::Dequantize, vec![accumulator], Info::plain(DType::F32, Some(2)))
}

/// The type of the s32 accumulator: scale `f32(f32(alpha·s_a)·s_b)`.
fn accumulator(a: &ElemType, b: &ElemType, alpha: f32) -> Result<ElemType, Failure> {
    let (a, b) = match (a.as_per_tensor(), &b.quant) {
        (Some((a, _)), Some(b)) => (a, b),
        _ => return malformed("operands that are not quantized"),
    };
    let scales: Vec<f32> = b.scales().iter().map(|s| alpha * a * s).collect();
    if !scales.iter().all(|s| s.is_finite() && *s > 0.0) {
        return unsupported("a product of scales that is not positive and finite");
    }
    let quant = match b.axis() {
        None => Quant::per_tensor(scales[0], 0),
        Some(_) => {
            let zeros = vec![0; scales.len()];
            Quant::per_axis(1, scales, zeros)
        }
    };
    Ok(ElemType { dtype: DType::I32, quant: Some(quant) })
}

/// The bias of each column of a product with `b`. ONNX broadcasts it, the IR does not.
fn row_bias(
    cx: &mut Cx<'_, '_>,
    b: Sym,
    c: Sym,
    trans_b: bool,
) -> Result<Option<ValueId>, Failure> {
    let columns = cx.b.constant(b).and_then(|t| t.dims().get(usize::from(!trans_b)).copied());
    let Some(t) = cx.b.constant(c) else {
        return if cx.rank(c) == Some(1) { bias(cx, Some(c)) } else { of_operand(NOT_A_ROW) };
    };
    // Where the weights are computed, inference compares the lengths.
    if t.dtype() != DType::I32 || t.dims().len() == 1 && columns.is_none_or(|n| n == t.len()) {
        return bias(cx, Some(c));
    }
    let name = format!("{}/bias", cx.name);
    let row = match (t.as_slice::<i32>(), columns) {
        (Some(&[v]), Some(n)) => {
            cx.b.derive(4 * n)?;
            Tensor::from_slice(&[n], &vec![v; n])?
        }
        (Some(_), Some(n)) if t.dims() == [1, n] => t.with_dims(vec![n])?,
        _ => return of_operand(NOT_A_ROW),
    };
    Ok(Some(cx.b.fresh_constant(&name, row)?))
}

const NOT_A_ROW: &str = "a bias that is not one constant number for each column";

pub(super) fn binary(cx: &mut Cx<'_, '_>, kind: BinaryKind) -> Result<(), Failure> {
    let [a, a_scale, az, b, bs, bz, ys, yz] = cx.take()?;
    let (a, b) = (req(a, "A")?, req(b, "B")?);
    let a_elem = operand(cx, a, a_scale, az)?;
    let b_elem = operand(cx, b, bs, bz)?;
    let elem = out(cx, ys, yz, a_elem.dtype)?;
    let info = Info::new(elem.clone(), broadcast(cx.rank(a), cx.rank(b)));
    let inputs = vec![cx.quantized(a, &a_elem)?, cx.quantized(b, &b_elem)?];
    cx.done(Op::QBinary { kind, flipped: false, out: result(elem) }, inputs, info)
}

/// Operand and result type of the operators that have one operand.
fn single(cx: &mut Cx<'_, '_>) -> Result<(Sym, ElemType, ElemType), Failure> {
    let [x, xs, xz, ys, yz] = cx.take()?;
    let x = req(x, "X")?;
    let x_elem = operand(cx, x, xs, xz)?;
    let y_elem = out(cx, ys, yz, x_elem.dtype)?;
    Ok((x, x_elem, y_elem))
}

fn layout(cx: &mut Cx<'_, '_>) -> Result<Layout, Failure> {
    Ok(match cx.attrs.flag("channels_last", false)? {
        true => Layout::ChannelsLast,
        false => Layout::ChannelsFirst,
    })
}

pub(super) fn global_average_pool(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let (x, x_elem, elem) = single(cx)?;
    let layout = layout(cx)?;
    let rank = cx.need_rank(x)?;
    let axes = float::spatial_axes(rank, layout)?;
    let x = cx.quantized(x, &x_elem)?;
    let op = Op::QMean { axes, keep_dims: true, out: result(elem.clone()) };
    cx.done(op, vec![x], Info::new(elem, Some(rank)))
}

pub(super) fn average_pool(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let (x, x_elem, elem) = single(cx)?;
    let layout = layout(cx)?;
    let kind = PoolKind::Average { count_include_pad: cx.attrs.flag("count_include_pad", false)? };
    let pool = window::pool(cx, cx.rank(x), kind, layout)?;
    let rank = cx.rank(x).or(Some(pool.kernel.len() + 2));
    let x = cx.quantized(x, &x_elem)?;
    let op = Op::QPool { pool, out: result(elem.clone()) };
    cx.done(op, vec![x], Info::new(elem, rank))
}

pub(super) fn sigmoid(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    function(cx, UnaryKind::Sigmoid)
}

pub(super) fn leaky_relu(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let alpha = cx.attrs.float_or("alpha", 0.01)?;
    function(cx, UnaryKind::LeakyRelu { alpha })
}

/// ONNX Runtime's table of `Quantize(f(Dequantize(q)))`, written out: the table is made where `f` is
/// computed, so that it has the same bits everywhere.
fn function(cx: &mut Cx<'_, '_>, f: UnaryKind) -> Result<(), Failure> {
    let (x, x_elem, elem) = single(cx)?;
    let info = Info::new(elem.clone(), cx.rank(x));
    let x = cx.quantized(x, &x_elem)?;
    let real = cx.step(Op::Dequantize, vec![x])?;
    let real = cx.step(Op::Unary(f), vec![real])?;
    cx.done(Op::Quantize { out: elem, clamp: None }, vec![real], info)
}

/// Operands of another type than the result's are converted one by one.
pub(super) fn concat(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let operands = cx.operands.clone();
    let (&[ys, yz], parts) = match operands.split_first_chunk::<2>() {
        Some((head, parts)) if !parts.is_empty() && parts.len() % 3 == 0 => (head, parts),
        _ => return malformed(format!("{} operands, 2 + 3·n expected", operands.len())),
    };
    let Some(axis) = cx.attrs.int("axis")? else {
        return malformed("attribute `axis` is missing");
    };
    let elem = out(cx, ys, yz, DType::U8)?;
    let (mut inputs, mut rank) = (Vec::new(), None);
    for part in parts.chunks_exact(3) {
        let x = req(part[0], "X")?;
        rank = rank.or(cx.rank(x));
        inputs.push(converted(cx, x, part[1], part[2], &elem)?);
    }
    cx.done(Op::Concat { axis }, inputs, Info::new(elem, rank))
}

/// Operands of another type than the result's are converted, whether they are chosen or not.
pub(super) fn select(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [c, x, xs, xz, y, ys, yz, zs, zz] = cx.take()?;
    let (c, x, y) = (req(c, "condition")?, req(x, "X")?, req(y, "Y")?);
    let elem = out(cx, zs, zz, cx.dtype(x))?;
    let rank = broadcast(broadcast(cx.rank(c), cx.rank(x)), cx.rank(y));
    let condition = cx.plain(c)?;
    let x = converted(cx, x, xs, xz, &elem)?;
    let y = converted(cx, y, ys, yz, &elem)?;
    cx.done(Op::Where, vec![condition, x, y], Info::new(elem, rank))
}

/// An operand with one scale, in the type `to`.
fn converted(
    cx: &mut Cx<'_, '_>,
    x: Sym,
    scale: Option<Sym>,
    zero_point: Option<Sym>,
    to: &ElemType,
) -> Result<Option<ValueId>, Failure> {
    let from = operand(cx, x, scale, zero_point)?;
    let value = cx.quantized(x, &from)?;
    if from == *to {
        return Ok(value);
    }
    let table = conversion(&from, to)?;
    cx.step(Op::Lut { table, out: to.clone() }, vec![value])
}

/// `Quantize(Dequantize(q))` of every stored byte. A `Requantize` would multiply by the quotient of the
/// scales instead, which rounds differently.
fn conversion(from: &ElemType, to: &ElemType) -> Result<Arc<[u8; 256]>, Failure> {
    let (Some((s_x, z_x)), Some((s_y, z_y)), Some((min, max))) =
        (from.as_per_tensor(), to.as_per_tensor(), to.dtype.quant_range())
    else {
        return malformed("operands that are not quantized");
    };
    let table = std::array::from_fn(|i| {
        let stored = i as u8;
        let q = if from.dtype == DType::I8 { i32::from(stored as i8) } else { i32::from(stored) };
        let real = (q - z_x) as f32 * s_x;
        let y = (real / s_y).round_ties_even() + z_y as f32;
        y.clamp(min as f32, max as f32) as i32 as u8
    });
    Ok(Arc::new(table))
}

/// `opset` is the version whose meaning of `axis` holds.
pub(super) fn softmax(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let (x, x_elem, elem) = single(cx)?;
    let Some(opset) = cx.attrs.int("opset")? else {
        return malformed("attribute `opset` is missing");
    };
    let axis = cx.attrs.int_or("axis", if opset < 13 { 1 } else { -1 })?;
    if opset < 13 && !float::is_last(axis, cx.rank(x)) {
        return unsupported("several axes taken together");
    }
    let info = Info::new(elem.clone(), cx.rank(x));
    let x = cx.quantized(x, &x_elem)?;
    cx.done(Op::QSoftmax { axis, out: result(elem) }, vec![x], info)
}
