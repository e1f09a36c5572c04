//! From an operator's result type ([`QOut`]) to the epilogue that kernels run.

use super::{Reason, Site};
use requant_ir::{DType, ElemType, IntClamp, QOut, Residual, Rounding};
use requant_kernels::elementwise::qadd_constants;
use requant_kernels::epilogue::{self, FixedPoint, Output, Requantize};
use requant_kernels::sign::Sign;

/// The sign of an 8-bit type.
pub(super) fn sign_of(dtype: DType) -> Option<Sign> {
    match dtype {
        DType::I8 => Some(Sign::S8),
        DType::U8 => Some(Sign::U8),
        _ => None,
    }
}

/// An 8-bit per-tensor type: how its bytes are read, scale and zero point.
pub(super) fn affine8(elem: &ElemType) -> Result<(Sign, f32, i32), Reason> {
    let sign = sign_of(elem.dtype)
        .ok_or_else(|| Reason::new(format!("{} is not an 8-bit type", elem.dtype)))?;
    let (scale, zero) = elem.as_per_tensor().ok_or_else(|| {
        Reason::new("an activation is not quantized with one scale for the tensor")
    })?;
    Ok((sign, scale, zero))
}

/// The bounds of a result: the storage type's, narrowed by `clamp`.
pub(super) fn bounds(sign: Sign, clamp: Option<IntClamp>) -> (i32, i32) {
    match clamp {
        Some(c) => (c.min.max(sign.min()), c.max.min(sign.max())),
        None => (sign.min(), sign.max()),
    }
}

/// What an accumulation `Σ (x − z_x)(w − z_w)` with scales `s_x·s_w` becomes.
///
/// `HalfEven` multiplies by `f32(f32(s_x·s_w) / s_y)`, the fixed-point forms by the nearest Q31 number to
/// `s_x·s_w / s_y`, formed in f64.
pub(super) fn accumulator(
    x_scale: f32,
    w_scales: &[f32],
    out: &QOut,
    residual: Option<(&Residual, &ElemType)>,
) -> Result<Output, Reason> {
    if out.elem.dtype == DType::I32 {
        return match (out.clamp, residual) {
            (None, None) => Ok(Output::I32),
            _ => Err(Reason::new("a raw accumulator cannot be clamped or added to")),
        };
    }
    let (inner, clamp) = match residual {
        Some((r, _)) => (&r.inner, r.inner_clamp),
        None => (&out.elem, out.clamp),
    };
    let (inner_sign, scale, zero_point) = affine8(inner)?;
    let (sign, y_scale, y_zero) = affine8(&out.elem)?;
    let (min, max) = bounds(inner_sign, clamp);
    let fixed =
        |w: &f32| FixedPoint::from_real(f64::from(x_scale) * f64::from(*w) / f64::from(scale));
    let requantize = match out.rounding {
        Rounding::HalfEven => {
            Requantize::HalfEven(w_scales.iter().map(|w| x_scale * w / scale).collect())
        }
        Rounding::TfliteDouble => {
            Requantize::TfliteDouble(w_scales.iter().map(fixed).collect::<Result<_, _>>()?)
        }
        Rounding::TfliteSingle => {
            Requantize::TfliteSingle(w_scales.iter().map(fixed).collect::<Result<_, _>>()?)
        }
    };
    let residual = match residual {
        None => None,
        Some((r, operand)) => {
            let (r_sign, r_scale, r_zero) = affine8(operand)?;
            let domain = inner_sign;
            let (own, other) = ((scale, zero_point), (r_scale, r_zero + r_sign.shift_to(domain)));
            let (a, b) = if r.conv_is_lhs { (own, other) } else { (other, own) };
            let y_zero = y_zero + sign.shift_to(domain);
            let k = qadd_constants(a.0, a.1, b.0, b.1, y_scale, y_zero);
            let (min, max) = bounds(sign, out.clamp);
            Some(epilogue::Residual {
                sign: r_sign,
                domain,
                conv_is_lhs: r.conv_is_lhs,
                scale_a: k.ra,
                scale_b: k.rb,
                offset: k.c,
                min,
                max,
            })
        }
    };
    Ok(Output::Quant8 { sign, requantize, zero_point, min, max, residual })
}

/// The bias that the kernels start from: the constant one (zeros without), less `z_x·Σw` unless that is
/// folded in already.
pub(super) fn folded_bias(
    site: &Site<'_>,
    operand: usize,
    x_zero: i32,
    zero_folded: bool,
    weight_sums: &[i32],
) -> Result<Vec<i32>, Reason> {
    let mut bias = match (site.has(operand), site.constant(operand)) {
        (false, _) => vec![0; weight_sums.len()],
        (true, Some(b)) => match b.as_slice::<i32>() {
            Some(b) if b.len() == weight_sums.len() => b.to_vec(),
            Some([b]) => vec![*b; weight_sums.len()],
            _ => return Err(Reason::new("the bias is not s32 with one value per output channel")),
        },
        (true, None) => return Err(Reason::new("the bias is not a constant")),
    };
    if !zero_folded {
        for (b, sum) in bias.iter_mut().zip(weight_sums) {
            *b = b.wrapping_sub(x_zero.wrapping_mul(*sum));
        }
    }
    Ok(bias)
}
