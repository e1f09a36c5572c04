//! From observed ranges to scales and zero points (`quantize-recipe.md`, affine parameters).

use requant_ir::DType;

/// `[lo, hi]` widened to contain 0, as an asymmetric scale and zero point of `dtype`.
///
/// The difference and the scale are formed in f64, because the f32 difference can overflow, and the
/// scale is stored as f32. An empty range gives scale 1. The scale is never 0 or denormal.
pub(crate) fn asymmetric(lo: f32, hi: f32, dtype: DType) -> (f32, i32) {
    let (qmin, qmax) = dtype.quant_range().expect("activations are stored as integers");
    let (lo, hi) = (f64::from(lo.min(0.0)), f64::from(hi.max(0.0)));
    if hi == lo {
        return (1.0, qmin.max(0));
    }
    let scale = (((hi - lo) / (f64::from(qmax) - f64::from(qmin))) as f32).max(f32::MIN_POSITIVE);
    let zero = f64::from(qmin) - lo / f64::from(scale);
    (scale, zero.round_ties_even().clamp(f64::from(qmin), f64::from(qmax)) as i32)
}

/// Narrow-range symmetric scales of s8 weights, one per channel: `max|w| / 127`.
///
/// `absmax` has the largest magnitude of each channel. A channel that is all zero takes the median
/// of the others (any scale is exact for it). Where a bias would exceed 2³⁰ steps of
/// `input_scale · scale`, the channel's scale is raised to the least that holds it.
pub(crate) fn weight_scales(absmax: &[f32], bias: Option<&[f32]>, input_scale: f32) -> Vec<f32> {
    const DEAD: f32 = 7.888_609e-31; // 2⁻¹⁰⁰
    const MAX_BIAS: f64 = (1u64 << 30) as f64;
    let mut live: Vec<f32> = absmax.iter().map(|m| m / 127.0).filter(|&s| s > DEAD).collect();
    live.sort_by(f32::total_cmp);
    let median = live.get(live.len() / 2).copied().unwrap_or(1.0);
    absmax
        .iter()
        .enumerate()
        .map(|(c, m)| {
            let scale = if m / 127.0 > DEAD { m / 127.0 } else { median };
            let needed =
                bias.map_or(0.0, |b| f64::from(b[c]).abs() / MAX_BIAS / f64::from(input_scale));
            scale.max(needed as f32).max(f32::MIN_POSITIVE)
        })
        .collect()
}

/// `clamp(rne(w / scale), −127, 127)`.
pub(crate) fn quantize_weight(w: f32, scale: f32) -> i8 {
    (w / scale).round_ties_even().clamp(-127.0, 127.0) as i8
}

/// `rne(b / (input_scale · weight_scale))` within ±2³⁰, the product formed in f32 as the bias' type
/// states it.
pub(crate) fn quantize_bias(b: f32, scale: f32) -> i32 {
    let limit = f64::from(1u32 << 30);
    (f64::from(b) / f64::from(scale)).round_ties_even().clamp(-limit, limit) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_always_representable() {
        for (lo, hi) in
            [(0.0, 6.0), (-1.0, 1.0), (2.0, 5.0), (-7.0, -3.0), (-1e-30, 1e30), (0.0, 1e-42)]
        {
            for dtype in [DType::I8, DType::U8] {
                let (scale, zero) = asymmetric(lo, hi, dtype);
                let (qmin, qmax) = dtype.quant_range().expect("integer");
                assert!(scale.is_normal() && scale > 0.0, "{lo} {hi}: {scale}");
                assert!((qmin..=qmax).contains(&zero), "{lo} {hi}: {zero}");
            }
        }
    }

    #[test]
    fn known_ranges() {
        assert_eq!(asymmetric(0.0, 255.0, DType::U8), (1.0, 0));
        assert_eq!(asymmetric(-128.0, 127.0, DType::I8), (1.0, 0));
        assert_eq!(asymmetric(0.0, 255.0, DType::I8), (1.0, -128));
        assert_eq!(asymmetric(0.0, 0.0, DType::I8), (1.0, 0));
        let (scale, zero) = asymmetric(f32::MIN, f32::MAX, DType::U8);
        assert!(scale.is_finite() && (127..=128).contains(&zero));
    }

    #[test]
    fn dead_channels_and_large_biases() {
        assert_eq!(weight_scales(&[127.0, 0.0, 254.0, 381.0], None, 1.0), [1.0, 2.0, 2.0, 3.0]);
        assert_eq!(weight_scales(&[0.0], None, 1.0), [1.0]);
        let raised = weight_scales(&[1e-6], Some(&[1000.0]), 0.1)[0];
        assert!(1000.0 / (0.1 * f64::from(raised)) <= 1.001 * f64::from(1u32 << 30));
    }
}
