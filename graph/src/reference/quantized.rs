//! Quantized operators, bit for bit as [`requant_ir::Op`] says.

use super::data::scale_index;
use super::float::{Product, in_rows, reduced_axes, softmax};
use super::movement::broadcast_to;
use super::requantize::{Adder, Requantizer, Side, bounds, round_to};
use super::window::{Convolution, pool};
use super::{Cx, EvalError};
use requant_ir::{
    BinaryKind, DType, ElemType, IntClamp, Op, PoolKind, QOut, Quant, Residual, Tensor, TensorType,
};
use requant_kernels::broadcast::Broadcast;
use requant_kernels::elementwise::qmul_multiplier;

pub(super) fn eval(cx: &Cx<'_>, op: &Op, ty: &TensorType) -> Result<Tensor, EvalError> {
    let dims = cx.dims(ty)?;
    match op {
        Op::Quantize { out, clamp } => {
            cx.stored(out, dims.clone(), &quantized(&cx.f32s(0)?, &dims, out, *clamp))
        }
        Op::Dequantize => {
            let x = cx.get(0)?;
            let quant = x.elem().quant.as_ref().ok_or_else(|| cx.storage(x))?;
            let values = dequantized(&cx.codes(0)?, &dims, quant);
            cx.floats(&ty.elem, dims, &values)
        }
        Op::Requantize(out) => requantize(cx, out, dims),
        Op::QConv { conv, out, zero_folded, residual } => {
            let (x, w) = (cx.get(0)?, cx.get(1)?);
            let convolution = Convolution::new(cx, conv, x.dims(), w.dims(), &dims)?;
            let row = convolution.patch_len();
            let sums = Sums::new(cx, *zero_folded, |i| i / row.max(1))?;
            let (x_scale, x_zero) = affine(cx, 0)?;
            let own = match residual {
                None => out.clone(),
                Some(r) => {
                    QOut { elem: r.inner.clone(), clamp: r.inner_clamp, rounding: out.rounding }
                }
            };
            let requantizer = Requantizer::new(x_scale, Some(weight_scales(w)), &own)?;
            let pad = if *zero_folded { x_zero as i16 } else { 0 };
            let mut y = vec![0; dims.iter().product()];
            let mut overflow = false;
            convolution.run(&sums.a, pad, |patch, channel, at| {
                match sums.of(patch, &sums.b[channel * row..][..row], channel) {
                    Some(sum) => y[at] = requantizer.apply(sum, channel),
                    None => overflow = true,
                }
            });
            if overflow {
                return Err(EvalError::Overflow { op: cx.op });
            }
            if let Some(residual) = residual {
                add_residual(cx, residual, out, &mut y)?;
            }
            cx.stored(&out.elem, dims, &y)
        }
        Op::QMatMul { trans_b, alpha, out, zero_folded } => {
            let (b, (a_scale, _)) = (cx.get(1)?, affine(cx, 0)?);
            let product = Product::new(cx, *trans_b, &dims)?;
            let mut sums = Sums::new(cx, *zero_folded, weight_channel(b))?;
            sums.b = product.columns(&sums.b);
            let requantizer = Requantizer::new(alpha * a_scale, Some(weight_scales(b)), out)?;
            let mut y = Vec::with_capacity(dims.iter().product());
            let mut overflow = false;
            product.run(&sums.a, &sums.b, |row, column, n| match sums.of(row, column, n) {
                Some(sum) => y.push(requantizer.apply(sum, n)),
                None => overflow = true,
            });
            if overflow {
                return Err(EvalError::Overflow { op: cx.op });
            }
            cx.stored(&out.elem, dims, &y)
        }
        Op::QBinary { kind, flipped, out } => binary(cx, *kind, *flipped, out, dims),
        Op::QPool { pool: attributes, out } => {
            let (x, ((scale, zero), (y_scale, y_zero))) = (cx.get(0)?, sides(cx, out)?);
            let include_pad = attributes.kind == PoolKind::Average { count_include_pad: true };
            let limits = bounds(out.elem.dtype, out.clamp);
            let mut y = vec![0; dims.iter().product()];
            pool(cx, attributes, (&cx.codes(0)?, x.dims()), &dims, |window, padded, at| {
                let count = if include_pad { padded } else { window.len() };
                let sum: i64 = window.iter().map(|&q| i64::from(q) - i64::from(zero)).sum();
                let factor = if count == 0 { 0.0 } else { scale / (y_scale * count as f32) };
                y[at] = round_to(sum as f32 * factor, y_zero, limits);
            })?;
            cx.stored(&out.elem, dims, &y)
        }
        Op::QMean { axes, out, .. } => {
            let (x, ((scale, zero), (y_scale, y_zero))) = (cx.get(0)?, sides(cx, out)?);
            let axes = reduced_axes(cx, axes, x.dims().len())?;
            let count: usize = axes.iter().map(|&a| x.dims()[a]).product();
            let rows = in_rows(&cx.codes(0)?, x.dims(), &axes);
            let factor = if count == 0 { 0.0 } else { scale / (y_scale * count as f32) };
            let limits = bounds(out.elem.dtype, out.clamp);
            let mean = |i: usize| {
                let row = &rows[i * count..(i + 1) * count];
                let sum: i64 = row.iter().map(|&q| i64::from(q) - i64::from(zero)).sum();
                round_to(sum as f32 * factor, y_zero, limits)
            };
            let y: Vec<i32> = (0..dims.iter().product()).map(mean).collect();
            cx.stored(&out.elem, dims, &y)
        }
        Op::QSoftmax { axis, out } => {
            let x = cx.get(0)?;
            let quant = x.elem().quant.as_ref().ok_or_else(|| cx.storage(x))?;
            let real = dequantized(&cx.codes(0)?, &dims, quant);
            let soft = softmax(&dims, &real, *axis, false)?;
            cx.stored(&out.elem, dims.clone(), &quantized(&soft, &dims, &out.elem, out.clamp))
        }
        Op::Lut { table, out } => {
            let bytes: Vec<u8> =
                cx.get(0)?.bytes().iter().map(|&b| table[usize::from(b)]).collect();
            Ok(Tensor::copy_from(out.clone(), dims, &bytes)?)
        }
        _ => Err(EvalError::Unresolved { op: cx.op }),
    }
}

/// `clamp(rne(x / s) + z)` with a true division.
fn quantized(x: &[f32], dims: &[usize], out: &ElemType, clamp: Option<IntClamp>) -> Vec<i32> {
    let Some(quant) = &out.quant else { return Vec::new() };
    let (scales, zeros, index) = (quant.scales(), quant.zero_points(), scale_index(quant, dims));
    let limits = bounds(out.dtype, clamp);
    let code = |(i, &v): (usize, &f32)| {
        let i = index(i);
        round_to(v / scales[i], zeros[i], limits)
    };
    x.iter().enumerate().map(code).collect()
}

/// `f32((q − z) · s)`.
fn dequantized(codes: &[i32], dims: &[usize], quant: &Quant) -> Vec<f32> {
    let (scales, zeros, index) = (quant.scales(), quant.zero_points(), scale_index(quant, dims));
    let real = |(i, &q): (usize, &i32)| {
        let i = index(i);
        (i64::from(q) - i64::from(zeros[i])) as f32 * scales[i]
    };
    codes.iter().enumerate().map(real).collect()
}

/// Scale and zero point of operand `i`, which inference knows to be quantized per tensor.
fn affine(cx: &Cx<'_>, i: usize) -> Result<(f32, i32), EvalError> {
    let tensor = cx.get(i)?;
    tensor.elem().as_per_tensor().ok_or_else(|| cx.storage(tensor))
}

type Affine = (f32, i32);

/// Scale and zero point of operand 0 and of the result.
fn sides(cx: &Cx<'_>, out: &QOut) -> Result<(Affine, Affine), EvalError> {
    let y = out.elem.as_per_tensor();
    Ok((affine(cx, 0)?, y.ok_or(EvalError::Storage { op: cx.op, dtype: out.elem.dtype })?))
}

fn weight_scales(w: &Tensor) -> &[f32] {
    w.elem().quant.as_ref().map_or(&[], Quant::scales)
}

/// The scale of each element of a weight, by index.
fn weight_channel(w: &Tensor) -> impl Fn(usize) -> usize + use<> {
    let index = w.elem().quant.as_ref().map(|q| scale_index(q, w.dims()));
    move |i| index.as_ref().map_or(0, |index| index(i))
}

/// Operands less their zero points, and the bias.
struct Sums {
    a: Vec<i16>,
    b: Vec<i16>,
    bias: Option<Vec<i32>>,
}

impl Sums {
    /// `channel` says which zero point an element of the weights has if there are several. With
    /// `zero_folded` the activation keeps its zero point.
    fn new(
        cx: &Cx<'_>,
        zero_folded: bool,
        channel: impl Fn(usize) -> usize,
    ) -> Result<Self, EvalError> {
        let (_, zero) = affine(cx, 0)?;
        let zero = if zero_folded { 0 } else { zero };
        let w = cx.get(1)?;
        let zeros = w.elem().quant.as_ref().map_or(&[][..], Quant::zero_points);
        let w_zero = |i| match zeros {
            [] => 0,
            [one] => *one,
            many => many[channel(i)],
        };
        Ok(Sums {
            a: cx.codes(0)?.iter().map(|q| (q - zero) as i16).collect(),
            b: cx.codes(1)?.iter().enumerate().map(|(i, q)| (q - w_zero(i)) as i16).collect(),
            bias: cx.optional(2).map(|_| cx.codes(2)).transpose()?,
        })
    }

    /// `bias[channel] + Σ a·b`; `None` where it leaves s32.
    fn of(&self, a: &[i16], b: &[i16], channel: usize) -> Option<i32> {
        // So many products of 9-bit numbers fit s32.
        const RUN: usize = 32_768;
        let run = |(a, b): (&[i16], &[i16])| -> i64 {
            a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>().into()
        };
        let sum: i64 = a.chunks(RUN).zip(b.chunks(RUN)).map(run).sum();
        let bias = self.bias.as_ref().map_or(0, |b| b[channel]);
        i32::try_from(sum + i64::from(bias)).ok()
    }
}

fn requantize(cx: &Cx<'_>, out: &QOut, dims: Vec<usize>) -> Result<Tensor, EvalError> {
    let x = cx.get(0)?;
    let quant = x.elem().quant.as_ref().ok_or_else(|| cx.storage(x))?;
    let (zeros, index) = (quant.zero_points(), scale_index(quant, &dims));
    let requantizers: Vec<Requantizer> =
        quant.scales().iter().map(|&s| Requantizer::new(s, None, out)).collect::<Result<_, _>>()?;
    let code = |(i, &q): (usize, &i32)| {
        let i = index(i);
        requantizers[i].apply(q.saturating_sub(zeros[i]), 0)
    };
    let y: Vec<i32> = cx.codes(0)?.iter().enumerate().map(code).collect();
    cx.stored(&out.elem, dims, &y)
}

/// Adds operand 3 to the convolution's own stored results.
fn add_residual(
    cx: &Cx<'_>,
    residual: &Residual,
    out: &QOut,
    y: &mut [i32],
) -> Result<(), EvalError> {
    let domain = residual.inner.dtype;
    let own = residual.inner.as_per_tensor().unwrap_or((1.0, 0));
    let own = Side::new(own, domain, domain);
    let other = Side::new(affine(cx, 3)?, cx.get(3)?.dtype(), domain);
    let sum = Side::new(out.elem.as_per_tensor().unwrap_or((1.0, 0)), out.elem.dtype, domain);
    let (a, b) = if residual.conv_is_lhs { (own, other) } else { (other, own) };
    let adder = Adder::new(a, b, sum, bounds(out.elem.dtype, out.clamp), false);
    for (y, &other) in y.iter_mut().zip(&cx.codes(3)?) {
        *y = if residual.conv_is_lhs { adder.apply(*y, other) } else { adder.apply(other, *y) };
    }
    Ok(())
}

fn binary(
    cx: &Cx<'_>,
    kind: BinaryKind,
    flipped: bool,
    out: &QOut,
    dims: Vec<usize>,
) -> Result<Tensor, EvalError> {
    let (a, b) = (cx.get(0)?.dims(), cx.get(1)?.dims());
    let domain = match (out.elem.dtype, flipped) {
        (DType::U8, true) => DType::I8,
        (DType::I8, true) => DType::U8,
        (dtype, _) => dtype,
    };
    let lhs = Side::new(affine(cx, 0)?, cx.get(0)?.dtype(), domain);
    let rhs = Side::new(affine(cx, 1)?, cx.get(1)?.dtype(), domain);
    let affine_y = out.elem.as_per_tensor().unwrap_or((1.0, 0));
    let sum = Side::new(affine_y, out.elem.dtype, domain);
    let limits = bounds(out.elem.dtype, out.clamp);
    let x = broadcast_to(&cx.codes(0)?, a, &dims);
    let y = broadcast_to(&cx.codes(1)?, b, &dims);
    let pairs = x.into_iter().zip(y);
    let result: Vec<i32> = if kind == BinaryKind::Add {
        let lhs_first = Broadcast::new(a, b)?.scalar_a();
        let adder = Adder::new(lhs, rhs, sum, limits, lhs_first);
        pairs.map(|(a, b)| adder.apply(a, b)).collect()
    } else {
        let factor = qmul_multiplier(lhs.scale, rhs.scale, sum.scale);
        let (_, zero) = sum.scale_and_zero();
        // The zero point is added before rounding, as ONNX Runtime does.
        let product = |(a, b): (i32, i32)| {
            let product = ((a - lhs.zero) * (b - rhs.zero)) as f32;
            round_to(product * factor + zero as f32, -sum.shift, limits)
        };
        pairs.map(product).collect()
    };
    cx.stored(&out.elem, dims, &result)
}
