//! QuantizeLinear, DequantizeLinear, and the reading of scales and zero points.

use super::super::builder::{Info, Sym};
use super::super::cx::{Cx, req};
use super::super::error::{Failure, malformed, of_operand, unsupported};
use super::super::tensor;
use crate::{DType, ElemType, Op, Quant, Tensor};

/// Scale and zero point operands of a quantized tensor.
pub(super) struct Params {
    pub(super) scale: Option<Sym>,
    /// 0 when absent.
    pub(super) zero_point: Option<Sym>,
}

/// One scale and zero point for a tensor that is stored as `storage`, or as its zero point is.
pub(super) fn per_tensor(
    cx: &mut Cx<'_, '_>,
    params: Params,
    storage: Option<DType>,
) -> Result<ElemType, Failure> {
    elem(cx, params, storage, None)
}

/// One scale and zero point, or one for each index along `axis` of `tensor`, whose element type is
/// then the storage; `tensor` may be the float operand of a quantization, with `storage` given.
pub(super) fn per_axis(
    cx: &mut Cx<'_, '_>,
    params: Params,
    storage: Option<DType>,
    axis: i64,
    tensor: Sym,
) -> Result<ElemType, Failure> {
    elem(cx, params, storage, Some((axis, tensor)))
}

fn elem(
    cx: &mut Cx<'_, '_>,
    params: Params,
    storage: Option<DType>,
    axis: Option<(i64, Sym)>,
) -> Result<ElemType, Failure> {
    let scale = req(params.scale, "scale")?;
    let stated = params.zero_point.map(|z| cx.dtype(z));
    let dtype = match (storage, stated) {
        (Some(a), Some(b)) if a != b => {
            return malformed(format!("a {b} zero point for {a} elements"));
        }
        (a, b) => a.or(b).unwrap_or(DType::U8),
    };
    if dtype.quant_range().is_none() {
        return malformed(format!("{dtype} elements cannot be quantized numbers"));
    }
    let count = constant(cx, scale, "scale")?.len();
    let axis = match axis {
        _ if count == 1 => None,
        Some((axis, tensor)) => Some(checked_axis(cx, axis, tensor, count)?),
        None => return unsupported(format!("{count} scales for one tensor")),
    };
    let key = (scale, params.zero_point, dtype, axis);
    if let Some(elem) = cx.b.quants.get(&key) {
        return Ok(elem.clone());
    }
    let scales = scales(constant(cx, scale, "scale")?)?;
    let zero_points = match params.zero_point {
        None => vec![0; count],
        Some(z) => zero_points(constant(cx, z, "zero point")?, count)?,
    };
    if dtype == DType::I32 && zero_points.iter().any(|&z| z != 0) {
        return malformed("a zero point of s32 elements is not 0");
    }
    cx.b.derive(8 * count)?;
    let quant = match axis {
        None => Quant::per_tensor(scales[0], zero_points[0]),
        Some(axis) => Quant::per_axis(axis, scales, zero_points),
    };
    let elem = ElemType { dtype, quant: Some(quant) };
    cx.b.quants.insert(key, elem.clone());
    Ok(elem)
}

fn constant<'c>(cx: &'c Cx<'_, '_>, sym: Sym, what: &str) -> Result<&'c Tensor, Failure> {
    let Some(t) = cx.b.constant(sym) else {
        return of_operand(format!("a {what} that is not constant"));
    };
    if t.dims().len() > 1 {
        return unsupported(format!(
            "a {what} of {} axes (quantization in blocks)",
            t.dims().len()
        ));
    }
    if t.is_empty() {
        return malformed(format!("an empty {what}"));
    }
    Ok(t)
}

fn checked_axis(cx: &Cx<'_, '_>, axis: i64, tensor: Sym, count: usize) -> Result<usize, Failure> {
    let rank = cx.rank(tensor);
    if axis < 0 && rank.is_none() {
        return of_operand("a negative axis of an operand of unknown rank");
    }
    let rank = rank.unwrap_or(crate::MAX_RANK);
    let normal = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    let Some(normal) = usize::try_from(normal).ok().filter(|&a| a < rank) else {
        return malformed(format!("axis {axis} of an operand with {rank} axes"));
    };
    if let Some(t) = cx.b.constant(tensor)
        && t.dims()[normal] != count
    {
        return malformed(format!(
            "{count} scales, but axis {normal} of {:?} has {} indices",
            t.dims(),
            t.dims()[normal]
        ));
    }
    Ok(normal)
}

fn scales(t: &Tensor) -> Result<Vec<f32>, Failure> {
    let Some(scales) = t.as_slice::<f32>() else {
        return if t.dtype().is_float() {
            of_operand(format!("{} scales", t.dtype()))
        } else {
            malformed(format!("{} scales", t.dtype()))
        };
    };
    match scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        Some(bad) => malformed(format!("scale {bad}, but scales are positive and finite")),
        None => Ok(scales.to_vec()),
    }
}

/// `count` zero points; one is repeated.
fn zero_points(t: &Tensor, count: usize) -> Result<Vec<i32>, Failure> {
    let nibble = |i: usize| i32::from(t.bytes()[i / 2] >> (4 * (i % 2)) & 15);
    let all: Vec<i32> = match t.dtype() {
        DType::U4 => (0..t.len()).map(nibble).collect(),
        DType::I4 => (0..t.len()).map(|i| (nibble(i) ^ 8) - 8).collect(),
        // Storage types of quantized numbers fit s32.
        _ => t.to_i64().unwrap_or_default().into_iter().map(|v| v as i32).collect(),
    };
    match all.len() {
        1 => Ok(vec![all[0]; count]),
        n if n == count => Ok(all),
        n => malformed(format!("{n} zero points for {count} scales")),
    }
}

/// Attributes that both directions have. `saturate` speaks of 8-bit floats only.
fn common(cx: &mut Cx<'_, '_>) -> Result<i64, Failure> {
    cx.attrs.ignore(&["saturate"]);
    if cx.attrs.int_or("block_size", 0)? != 0 {
        return unsupported("quantization in blocks");
    }
    cx.attrs.int_or("axis", 1)
}

pub(super) fn quantize(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, scale, zero_point] = cx.take()?;
    let x = req(x, "x")?;
    let axis = common(cx)?;
    let storage = match cx.attrs.int_or("output_dtype", 0)? {
        0 => None,
        n => Some(tensor::dtype(i32::try_from(n).unwrap_or(i32::MAX))?),
    };
    if !cx.dtype(x).is_float() {
        return of_operand(format!("{} numbers to quantize", cx.dtype(x)));
    }
    let out = per_axis(cx, Params { scale, zero_point }, storage, axis, x)?;
    let info = Info::new(out.clone(), cx.rank(x));
    let x = cx.plain(x)?;
    cx.done(Op::Quantize { out, clamp: None }, vec![x], info)
}

pub(super) fn dequantize(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, scale, zero_point] = cx.take()?;
    let x = req(x, "x")?;
    let axis = common(cx)?;
    let elem = per_axis(cx, Params { scale, zero_point }, Some(cx.dtype(x)), axis, x)?;
    let info = Info::plain(DType::F32, cx.rank(x));
    let x = cx.quantized(x, &elem)?;
    cx.done(Op::Dequantize, vec![x], info)
}
