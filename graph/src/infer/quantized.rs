//! Quantized operators: the result type is an attribute, the shape follows as for floats.

use super::nn::{convolution, matmul, pooled, reduced};
use super::{Cx, InferError, Operand, check_elem, show_elem};
use requant_ir::{
    BinaryKind, DType, ElemType, IntClamp, Op, PoolKind, QOut, Quant, QuantParams, TensorType,
};

pub(super) fn infer(cx: &Cx<'_>, op: &Op) -> Result<TensorType, InferError> {
    match op {
        Op::Quantize { out, clamp } => {
            cx.arity(1..=1, "1")?;
            let x = cx.float(0)?;
            result(cx, out, *clamp)?;
            if out.quant.is_none() {
                return Err(cx.attribute("out", show_elem(out), "a quantized type"));
            }
            Ok(TensorType { elem: out.clone(), dims: x.ty.dims.clone() })
        }
        Op::Dequantize => {
            cx.arity(1..=1, "1")?;
            let x = cx.get(0)?;
            let quant = x.ty.quant().ok_or_else(|| cx.wrong(0, "quantized"))?;
            Ok(TensorType { elem: ElemType::plain(quant.expressed), dims: x.ty.dims.clone() })
        }
        Op::Requantize(out) => {
            cx.arity(1..=1, "1")?;
            let x = cx.get(0)?;
            let width = matches!(
                x.ty.dtype(),
                DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32
            );
            let per_block =
                matches!(x.ty.quant(), Some(Quant { params: QuantParams::PerBlock { .. }, .. }));
            if x.ty.quant().is_none() || !width || per_block {
                return Err(cx.wrong(0, "quantized in 8, 16 or 32 bits, per tensor or per axis"));
            }
            per_tensor_out(cx, out, false)?;
            Ok(TensorType { elem: out.elem.clone(), dims: x.ty.dims.clone() })
        }
        Op::QConv { conv, out, residual, .. } => {
            cx.arity(2..=4, "2 to 4")?;
            activation(cx, 0)?;
            weights(cx, 1, 0)?;
            bias(cx, 2)?;
            let dims = convolution(cx, conv)?;
            match residual {
                None => per_tensor_out(cx, out, true)?,
                Some(add) => {
                    per_tensor_out(cx, out, false)?;
                    eight_bits(cx, &out.elem)?;
                    eight_bits(cx, &add.inner)?;
                    result(cx, &add.inner, add.inner_clamp)?;
                    let other = activation(cx, 3)?;
                    if super::merge_dims(dims.as_deref(), other.ty.dims.as_deref()).is_err() {
                        return Err(cx.wrong(3, "of the shape of the result"));
                    }
                }
            }
            if residual.is_none() && cx.optional(3).is_some() {
                return Err(cx.wrong(3, "absent without a residual"));
            }
            Ok(TensorType { elem: out.elem.clone(), dims })
        }
        Op::QMatMul { trans_b, alpha, out, .. } => {
            cx.arity(2..=3, "2 or 3")?;
            activation(cx, 0)?;
            let rank = cx.get(1)?.ty.rank();
            let column = rank.and_then(|r| r.checked_sub(if *trans_b { 2 } else { 1 }));
            weights(cx, 1, column.filter(|_| rank != Some(1)).unwrap_or(usize::MAX))?;
            bias(cx, 2)?;
            if !(alpha.is_finite() && *alpha > 0.0) {
                return Err(cx.attribute("alpha", alpha, "finite and positive"));
            }
            per_tensor_out(cx, out, true)?;
            let dims = matmul(cx, *trans_b)?;
            if let (Some(_), Some(dims)) = (cx.optional(2), &dims) {
                let columns = dims.last().and_then(requant_ir::Dim::fixed);
                if columns.is_some_and(|n| cx.count(2).is_some_and(|c| c != n)) {
                    return Err(cx.wrong(2, "of one element for each column of the result"));
                }
            }
            Ok(TensorType { elem: out.elem.clone(), dims })
        }
        Op::QBinary { kind, flipped: _, out } => {
            cx.arity(2..=2, "2")?;
            if !matches!(kind, BinaryKind::Add | BinaryKind::Mul) {
                return Err(cx.attribute("kind", kind, "add or mul"));
            }
            activation(cx, 0)?;
            activation(cx, 1)?;
            per_tensor_out(cx, out, false)?;
            eight_bits(cx, &out.elem)?;
            Ok(TensorType { elem: out.elem.clone(), dims: cx.broadcast(0, 1)? })
        }
        Op::QPool { pool, out } => {
            cx.arity(1..=1, "1")?;
            activation(cx, 0)?;
            if pool.kind == PoolKind::Max {
                return Err(cx.attribute("kind", pool.kind, "average"));
            }
            per_tensor_out(cx, out, false)?;
            eight_bits(cx, &out.elem)?;
            Ok(TensorType { elem: out.elem.clone(), dims: pooled(cx, pool)? })
        }
        Op::QMean { axes, keep_dims, out } => {
            cx.arity(1..=1, "1")?;
            activation(cx, 0)?;
            per_tensor_out(cx, out, false)?;
            eight_bits(cx, &out.elem)?;
            Ok(TensorType { elem: out.elem.clone(), dims: reduced(cx, axes, *keep_dims)? })
        }
        Op::QSoftmax { axis, out } => {
            cx.arity(1..=1, "1")?;
            let x = activation(cx, 0)?;
            per_tensor_out(cx, out, false)?;
            eight_bits(cx, &out.elem)?;
            if let Some(rank) = x.ty.rank() {
                cx.axis(*axis, rank)?;
            }
            Ok(TensorType { elem: out.elem.clone(), dims: x.ty.dims.clone() })
        }
        Op::Lut { out, .. } => {
            cx.arity(1..=1, "1")?;
            let x = cx.get(0)?;
            if !x.ty.dtype().is_8bit() {
                return Err(cx.wrong(0, "stored in 8 bits"));
            }
            eight_bits(cx, out)?;
            result(cx, out, None)?;
            Ok(TensorType { elem: out.clone(), dims: x.ty.dims.clone() })
        }
        _ => Err(InferError::Custom),
    }
}

/// Operand `i`, 8 bits quantized per tensor.
fn activation<'a>(cx: &Cx<'a>, i: usize) -> Result<Operand<'a>, InferError> {
    let x = cx.get(i)?;
    if x.ty.dtype().is_8bit() && x.ty.elem.as_per_tensor().is_some() {
        return Ok(x);
    }
    Err(cx.wrong(i, "s8 or u8 quantized per tensor"))
}

/// Operand `i`, 8 bits quantized per tensor or along `channel`.
fn weights(cx: &Cx<'_>, i: usize, channel: usize) -> Result<(), InferError> {
    let w = cx.get(i)?.ty;
    let known = w.rank().is_some();
    let fits = w.dtype().is_8bit()
        && w.quant().is_some_and(|q| match q.params {
            QuantParams::PerTensor { .. } => true,
            QuantParams::PerAxis { axis, .. } => axis == channel || !known,
            QuantParams::PerBlock { .. } => false,
        });
    if fits {
        Ok(())
    } else {
        Err(cx.wrong(i, "s8 or u8 quantized per tensor or per output channel"))
    }
}

/// Operand `i`, if it is there: s32 of rank 1, plain or quantized (its scale is not read).
fn bias(cx: &Cx<'_>, i: usize) -> Result<(), InferError> {
    let Some(bias) = cx.optional(i) else { return Ok(()) };
    if bias.ty.dtype() != DType::I32
        || bias.ty.quant().is_some_and(|q| q.zero_points().iter().any(|&z| z != 0))
    {
        return Err(cx.wrong(i, "s32 with zero point 0"));
    }
    cx.rank(i, 1).map(drop)
}

/// Checks a result type and the bounds within it.
fn result(cx: &Cx<'_>, out: &ElemType, clamp: Option<IntClamp>) -> Result<(), InferError> {
    check_elem(out).map_err(|rule| cx.attribute("out", show_elem(out), rule))?;
    let Some(IntClamp { min, max }) = clamp else { return Ok(()) };
    let (low, high) = out.dtype.quant_range().unwrap_or((i32::MIN, i32::MAX));
    if low <= min && min <= max && max <= high {
        return Ok(());
    }
    Err(cx.attribute("clamp", (min, max), format!("ordered and within {}", out.dtype)))
}

/// Checks that a result is quantized per tensor in 8 or 16 bits, or s32 if `raw` accumulators are
/// possible (then also per channel).
fn per_tensor_out(cx: &Cx<'_>, out: &QOut, raw: bool) -> Result<(), InferError> {
    result(cx, &out.elem, out.clamp)?;
    let fits = match out.elem.dtype {
        DType::I32 if raw => true,
        DType::I8 | DType::U8 | DType::I16 | DType::U16 => out.elem.as_per_tensor().is_some(),
        _ => false,
    };
    let rule = if raw {
        "8 or 16 bits quantized per tensor, or s32"
    } else {
        "8 or 16 bits quantized per tensor"
    };
    if fits { Ok(()) } else { Err(cx.attribute("out", show_elem(&out.elem), rule)) }
}

fn eight_bits(cx: &Cx<'_>, out: &ElemType) -> Result<(), InferError> {
    if out.dtype.is_8bit() && out.as_per_tensor().is_some() {
        return Ok(());
    }
    Err(cx.attribute("out", show_elem(out), "s8 or u8 quantized per tensor"))
}
