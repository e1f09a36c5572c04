//! Quantized operators that work element by element or row by row, and the conversions from and to float.

use super::requant::{affine8, bounds, sign_of};
use super::{Builder, Reason, Site};
use crate::exec::step::{CodeType, Kernel};
use crate::reference;
use requant_ir::{BinaryKind, DType, ElemType, IntClamp, Op, QOut, Rounding, Tensor};
use requant_kernels::broadcast::Broadcast;
use requant_kernels::elementwise::{QAdd, QMul, qadd_constants, qmul_multiplier};
use requant_kernels::lut::Lut;
use requant_kernels::quantize::{Dequantize, Quantize, Requantize};
use requant_kernels::softmax::Softmax8;

pub(super) fn lower(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), Reason> {
    match site.op {
        Op::Quantize { out, clamp } => quantize(b, site, out, *clamp),
        Op::Dequantize => dequantize(b, site),
        Op::Requantize(out) => requantize(b, site, out),
        Op::QBinary { kind, flipped, out } => binary(b, site, *kind, *flipped, out),
        Op::QSoftmax { axis, out } => softmax(b, site, *axis, out),
        Op::Lut { table, .. } => {
            let lut = Lut::new(b.target.cpu, **table);
            unary(b, site, Kernel::Lut(Box::new(lut)), 0)
        }
        _ => Err(Reason::new("not an elementwise operator")),
    }
}

/// A step of operand 0 alone.
fn unary(
    b: &mut Builder<'_>,
    site: &Site<'_>,
    kernel: Kernel,
    scratch: usize,
) -> Result<(), Reason> {
    let x = b.read(site, 0)?;
    let y = b.output(site, 0);
    b.step(kernel, [x], y, scratch);
    Ok(())
}

fn quantize(
    b: &mut Builder<'_>,
    site: &Site<'_>,
    out: &ElemType,
    clamp: Option<IntClamp>,
) -> Result<(), Reason> {
    only(site, 0, DType::F32)?;
    let (scale, zero) = out
        .as_per_tensor()
        .ok_or_else(|| Reason::new("activations are quantized per axis at run time"))?;
    if out.dtype == DType::I16 && clamp.is_none() {
        let q = Quantize::new_s16(b.target.cpu, scale, zero)?;
        return unary(b, site, Kernel::QuantizeS16(Box::new(q)), 0);
    }
    let q = quantizer(b, out, clamp)?;
    unary(b, site, Kernel::Quantize(Box::new(q)), 0)
}

/// Quantization to an 8-bit per-tensor type.
fn quantizer(b: &Builder<'_>, out: &ElemType, clamp: Option<IntClamp>) -> Result<Quantize, Reason> {
    let (sign, scale, zero) = affine8(out)?;
    let (min, max) = bounds(sign, clamp);
    Ok(Quantize::new(b.target.cpu, scale, zero, sign)?.bounds(min, max)?)
}

fn dequantize(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), Reason> {
    let elem = &site.ty(0)?.elem;
    only_result(site, DType::F32)?;
    let codes = match elem.dtype {
        DType::U8 => CodeType::U8,
        DType::I8 => CodeType::S8,
        DType::I16 => CodeType::S16,
        DType::I32 => CodeType::S32,
        dtype => return Err(Reason::new(format!("no kernel dequantizes {dtype}"))),
    };
    let quant = elem.quant.as_ref().ok_or_else(|| Reason::new("the operand is not quantized"))?;
    let dq = match (elem.as_per_tensor(), quant.axis()) {
        (Some((scale, zero)), _) => Dequantize::per_tensor(b.target.cpu, scale, zero)?,
        (None, Some(axis)) => {
            let inner = site.dims(0)?[axis + 1..].iter().product();
            Dequantize::per_axis(
                b.target.cpu,
                quant.scales().to_vec(),
                quant.zero_points().to_vec(),
                inner,
            )?
        }
        (None, None) => return Err(Reason::new("no kernel dequantizes blocks")),
    };
    unary(b, site, Kernel::Dequantize(Box::new(dq), codes), 0)
}

fn requantize(b: &mut Builder<'_>, site: &Site<'_>, out: &QOut) -> Result<(), Reason> {
    let elem = &site.ty(0)?.elem;
    if elem.dtype.is_8bit() && out.elem.dtype.is_8bit() {
        // The interpreter itself makes the table of all 256 results.
        let all: Vec<u8> = (0..=255).collect();
        let codes = Tensor::copy_from(elem.clone(), vec![256], &all)
            .map_err(|e| Reason::new(e.to_string()))?;
        let table =
            reference::eval(site.op, &[Some(&codes)]).map_err(|e| Reason::new(e.to_string()))?;
        let table: [u8; 256] = table
            .first()
            .and_then(|t| t.bytes()[..].try_into().ok())
            .ok_or_else(|| Reason::new("a table has 256 bytes"))?;
        return unary(b, site, Kernel::Lut(Box::new(Lut::new(b.target.cpu, table))), 0);
    }
    if elem.dtype != DType::I32 || out.rounding != Rounding::HalfEven {
        return Err(Reason::new(format!(
            "no kernel requantizes {} with this rounding",
            elem.dtype
        )));
    }
    let quant = elem.quant.as_ref().ok_or_else(|| Reason::new("the operand is not quantized"))?;
    if quant.zero_points().iter().any(|&z| z != 0) {
        return Err(Reason::new("an accumulator with a zero point"));
    }
    let rank = site.dims(0)?.len();
    if !(elem.as_per_tensor().is_some() || quant.axis() == Some(rank.wrapping_sub(1))) {
        return Err(Reason::new("accumulators are requantized along their last axis only"));
    }
    let (sign, y_scale, y_zero) = affine8(&out.elem)?;
    let multipliers = quant.scales().iter().map(|s| s / y_scale).collect();
    let r = Requantize::new(b.target.cpu, multipliers, y_zero, sign, bounds(sign, out.clamp))?;
    unary(b, site, Kernel::Requantize(Box::new(r)), 0)
}

fn binary(
    b: &mut Builder<'_>,
    site: &Site<'_>,
    kind: BinaryKind,
    flipped: bool,
    out: &QOut,
) -> Result<(), Reason> {
    let (a_sign, sa, za) = affine8(&site.ty(0)?.elem)?;
    let (b_sign, sb, zb) = affine8(&site.ty(1)?.elem)?;
    let (sign, sy, zy) = affine8(&out.elem)?;
    if a_sign != sign || b_sign != sign {
        return Err(Reason::new("s8 and u8 meet in one operation"));
    }
    half_even(out)?;
    let shapes = Broadcast::new(&site.dims(0)?, &site.dims(1)?)?;
    let limits = bounds(sign, out.clamp);
    let kernel = match kind {
        BinaryKind::Add => {
            let domain = if flipped { sign.other() } else { sign };
            let [za, zb, zy] = [za, zb, zy].map(|z| z + sign.shift_to(domain));
            let k = qadd_constants(sa, za, sb, zb, sy, zy);
            let add = if flipped { QAdd::flipped } else { QAdd::new };
            let add = add(b.target.cpu, sign, k, limits)?;
            Kernel::QAdd(Box::new((add, shapes)))
        }
        BinaryKind::Mul => {
            let m = qmul_multiplier(sa, sb, sy);
            let mul = QMul::new(b.target.cpu, sign, m, (za, zb, zy), limits)?;
            Kernel::QMul(Box::new((if flipped { mul.flipped() } else { mul }, shapes)))
        }
        _ => return Err(Reason::new("only addition and multiplication have integer kernels")),
    };
    let reads = [b.read(site, 0)?, b.read(site, 1)?];
    let y = b.output(site, 0);
    b.step(kernel, reads, y, 0);
    Ok(())
}

fn softmax(b: &mut Builder<'_>, site: &Site<'_>, axis: i64, out: &QOut) -> Result<(), Reason> {
    let dims = site.dims(0)?;
    if Site::axis(axis, dims.len())? + 1 != dims.len() {
        return Err(Reason::new("softmax kernels work along the last axis"));
    }
    half_even(out)?;
    let (sign, scale, zero) = affine8(&site.ty(0)?.elem)?;
    let softmax = Softmax8::new(b.target.cpu, dims[dims.len() - 1], sign, scale, zero)?;
    let quantize = quantizer(b, &out.elem, out.clamp)?;
    let scratch = softmax.scratch_len(b.target.threads) * size_of::<f32>();
    unary(b, site, Kernel::QSoftmax(Box::new((softmax, quantize))), scratch)
}

pub(super) fn half_even(out: &QOut) -> Result<(), Reason> {
    match out.rounding {
        Rounding::HalfEven => Ok(()),
        other => Err(Reason::new(format!("no kernel rounds as {other:?} here"))),
    }
}

/// Fails unless operand `i` is of type `dtype`.
pub(super) fn only(site: &Site<'_>, i: usize, dtype: DType) -> Result<(), Reason> {
    let got = site.ty(i)?.dtype();
    if got == dtype {
        Ok(())
    } else {
        Err(Reason::new(format!("no kernel computes {} on {got}", site.op.mnemonic())))
    }
}

fn only_result(site: &Site<'_>, dtype: DType) -> Result<(), Reason> {
    let got = site.out_ty(0).dtype();
    if got == dtype { Ok(()) } else { Err(Reason::new(format!("no kernel gives {got}"))) }
}

/// Whether operand `i` holds 8-bit codes, and how they are read.
pub(super) fn codes(
    site: &Site<'_>,
    i: usize,
) -> Result<Option<requant_kernels::sign::Sign>, Reason> {
    Ok(sign_of(site.ty(i)?.dtype()))
}
