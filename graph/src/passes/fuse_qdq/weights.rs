//! Constant weights of integer convolutions and matrix products: quantized ones as they are, float
//! ones where they already lie on an 8-bit grid.

use super::super::qparams::{dequantized, zero_point};
use crate::patch::{Patch, Src};
use crate::{Graph, Outlet};
use requant_ir::{DType, ElemType, Quant, QuantParams, Tensor};

/// How far from a grid point a weight may lie, in grid steps.
///
/// Quantization-aware training exports `f32(f32(q'·s) + min)`, which is off by a few units in the last
/// place of the largest weight: up to 127 · 2⁻²⁴ · 4 ≈ 3·10⁻⁵ steps. The bound is 8·10⁻⁷ of the
/// largest weight of the channel, below the rounding error of summing the channel's products in f32.
const OFF_GRID: f64 = 1e-4;

/// Weights of an integer operator.
pub(super) struct Weights {
    source: Source,
    quant: Quant,
    /// `Σ |w − z_w|` of each output channel.
    pub(super) magnitude: Vec<i64>,
    /// `Σ |w − its grid point|` of each output channel, in real units; empty when they are equal.
    pub(super) error: Vec<f64>,
}

enum Source {
    Stored(Outlet),
    New(Tensor),
}

/// Which axis of the weights is the output channel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    /// `[C, …]`: convolutions, and matrix products with a transposed right side.
    First,
    /// `[…, C]`: the right side of a matrix product.
    Last,
}

impl Channel {
    pub(super) fn axis(self, rank: usize) -> usize {
        match self {
            Channel::First => 0,
            Channel::Last => rank.saturating_sub(1),
        }
    }
}

impl Weights {
    /// The constant weights behind `outlet`; `None` when it is not constant.
    pub(super) fn new(
        graph: &Graph,
        outlet: Outlet,
        channel: Channel,
    ) -> Result<Option<Weights>, String> {
        if let Some(stored) = dequantized(graph, outlet) {
            let Some(tensor) = graph.constant(stored) else { return Ok(None) };
            return Self::stored(tensor, stored, channel).map(Some);
        }
        match graph.constant(outlet) {
            Some(tensor) => Self::on_grid(tensor, channel).map(Some),
            None => Ok(None),
        }
    }

    fn stored(tensor: &Tensor, outlet: Outlet, channel: Channel) -> Result<Weights, String> {
        if !tensor.dtype().is_8bit() {
            return Err(format!("the weights are {}, not 8 bits", tensor.dtype()));
        }
        let quant = tensor.elem().quant.clone().ok_or("the weights have no scale")?;
        let axis = channel.axis(tensor.dims().len());
        match &quant.params {
            QuantParams::PerTensor { .. } => {}
            QuantParams::PerAxis { axis: a, .. } if *a == axis => {}
            QuantParams::PerAxis { .. } => {
                return Err("the weights' scales are not along the output channel".to_owned());
            }
            QuantParams::PerBlock { .. } => {
                return Err("the weights are quantized in blocks".to_owned());
            }
        }
        let values = tensor.to_i64().ok_or("the weights are not integers")?;
        let magnitude = sum_by_channel(tensor.dims(), channel, &values, |c, w| {
            (w - i64::from(zero_point(&quant.params, c))).abs()
        });
        Ok(Weights { source: Source::Stored(outlet), quant, magnitude, error: Vec::new() })
    }

    /// Float weights that are, channel by channel, integer multiples of `largest / n` with an `n` of at
    /// most 127.
    fn on_grid(tensor: &Tensor, channel: Channel) -> Result<Weights, String> {
        let float = || "the weights are float".to_owned();
        let values = tensor.as_slice::<f32>().ok_or_else(float)?;
        let mut by_channel: Vec<Vec<f64>> = Vec::new();
        sum_by_channel(tensor.dims(), channel, values, |c, w| {
            if by_channel.len() <= c {
                by_channel.resize_with(c + 1, Vec::new);
            }
            by_channel[c].push(f64::from(w));
            0
        });
        let mut scales = Vec::with_capacity(by_channel.len());
        for weights in &by_channel {
            scales.push(grid(weights).ok_or_else(float)?);
        }
        // A channel of zeros lies on every grid; the finest of the others keeps its bias precise.
        let finest = scales.iter().copied().filter(|&s| s > 0.0).reduce(f32::min).unwrap_or(1.0);
        for scale in &mut scales {
            if *scale == 0.0 {
                *scale = finest;
            }
        }
        if scales.iter().any(|s| !s.is_normal()) {
            return Err("a scale of the weights is not a normal number".to_owned());
        }
        let mut stored = Vec::with_capacity(values.len());
        let mut error = vec![0f64; scales.len()];
        let magnitude = sum_by_channel(tensor.dims(), channel, values, |c, w| {
            let (w, scale) = (f64::from(w), f64::from(scales[c]));
            let q = (w / scale).round() as i8;
            error[c] += (w - f64::from(q) * scale).abs();
            stored.push(q);
            i64::from(q).abs()
        });
        let zero_points = vec![0; scales.len()];
        let axis = channel.axis(tensor.dims().len());
        let quant = Quant { narrow_range: true, ..Quant::per_axis(axis, scales, zero_points) };
        let elem = ElemType { dtype: DType::I8, quant: Some(quant.clone()) };
        let tensor = Tensor::copy_from(elem, tensor.dims().to_vec(), bytemuck::cast_slice(&stored))
            .map_err(|e| e.to_string())?;
        Ok(Weights { source: Source::New(tensor), quant, magnitude, error })
    }

    /// Output channels.
    pub(super) fn channels(&self) -> usize {
        self.magnitude.len()
    }

    /// Scale of channel `c`.
    pub(super) fn scale(&self, c: usize) -> f32 {
        let scales = self.quant.scales();
        scales.get(c).copied().unwrap_or(scales[0])
    }

    /// True when all channels have one scale.
    pub(super) fn is_per_tensor(&self) -> bool {
        self.quant.as_per_tensor().is_some()
    }

    /// The operand; a new constant is called `name`.
    pub(super) fn operand(self, patch: &mut Patch, name: String) -> Src {
        match self.source {
            Source::Stored(outlet) => outlet.into(),
            Source::New(tensor) => patch.constant(name, tensor),
        }
    }
}

/// Calls `term(channel, element)` for every element in row-major order and sums by channel.
pub(super) fn sum_by_channel<T: Copy>(
    dims: &[usize],
    channel: Channel,
    values: &[T],
    mut term: impl FnMut(usize, T) -> i64,
) -> Vec<i64> {
    let channels = match channel {
        Channel::First => dims.first(),
        Channel::Last => dims.last(),
    };
    let channels = channels.copied().unwrap_or(1);
    let mut sums = vec![0i64; channels];
    if channels == 0 {
        return sums;
    }
    let run = values.len() / channels;
    for (i, &value) in values.iter().enumerate() {
        let c = match channel {
            Channel::First => i / run,
            Channel::Last => i % channels,
        };
        sums[c] += term(c, value);
    }
    sums
}

/// The coarsest-valued `largest / n`, `n` from 127 down, of which all weights are integer multiples;
/// 0 when all are 0, `None` when there is no such `n`.
fn grid(weights: &[f64]) -> Option<f32> {
    let largest = weights.iter().fold(0f64, |m, w| m.max(w.abs()));
    if largest == 0.0 {
        return Some(0.0);
    }
    if !weights.iter().all(|w| w.is_finite()) {
        return None;
    }
    (1..=127u32).rev().find_map(|n| {
        let scale = (largest / f64::from(n)) as f32;
        let on_grid = |w: &f64| {
            let q = w / f64::from(scale);
            (q - q.round()).abs() <= OFF_GRID
        };
        (scale > 0.0 && weights.iter().all(on_grid)).then_some(scale)
    })
}

#[cfg(test)]
mod tests {
    use super::grid;

    #[test]
    fn finds_the_grid_of_fake_quantized_weights() {
        let step = 0.0137f32;
        for largest in [127i32, 100, 64] {
            let low = -127.0 * step;
            let weights: Vec<f64> = (-largest..=largest)
                .step_by(9)
                .chain([largest])
                .map(|q| f64::from((q + 127) as f32 * step + low))
                .collect();
            let found = grid(&weights).expect("on a grid");
            let expected = f64::from(step);
            assert!((f64::from(found) / expected - 1.0).abs() < 1e-5, "{largest}: {found}");
        }
    }

    #[test]
    fn refuses_weights_between_the_points() {
        assert_eq!(grid(&[1.0, 0.3217, 0.77]), None);
        assert_eq!(grid(&[0.0, 0.0]), Some(0.0));
        assert_eq!(grid(&[f64::NAN, 1.0]), None);
    }
}
