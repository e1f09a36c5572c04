//! The bias of an integer operator: s32 in steps of the accumulator.

use super::super::qparams::{dequantized, zero_point};
use crate::{Graph, Outlet};
use requant_ir::{DType, Tensor};

/// A bias in steps of the accumulator.
pub(super) struct Bias {
    pub(super) values: Vec<i32>,
    /// What rounding to steps took from each channel, in real units.
    pub(super) error: Vec<f64>,
    /// It was quantized with other scales than the accumulator's.
    pub(super) rescaled: bool,
}

impl Bias {
    /// `factor ·` the constant behind `outlet`, of one element or of as many as `steps`, divided by
    /// `steps` and rounded half to even.
    ///
    /// A bias quantized with exactly `steps` comes out as it is stored.
    pub(super) fn new(
        graph: &Graph,
        outlet: Outlet,
        steps: &[f32],
        factor: f32,
    ) -> Result<Bias, String> {
        let (reals, stored) = reals(graph, outlet)?;
        if reals.len() != 1 && reals.len() != steps.len() {
            return Err("the bias is not one value for each output channel".to_owned());
        }
        let mut values = Vec::with_capacity(steps.len());
        let mut error = Vec::with_capacity(steps.len());
        for (c, &step) in steps.iter().enumerate() {
            let real = if reals.len() == 1 { reals[0] } else { reals[c] } * f64::from(factor);
            let value = (real / f64::from(step)).round_ties_even();
            if value.is_nan() || value.abs() > f64::from(i32::MAX) {
                return Err(format!(
                    "the bias of channel {c} does not fit 32 bits in steps of the accumulator"
                ));
            }
            error.push((real - value * f64::from(step)).abs());
            values.push(value as i32);
        }
        let rescaled = factor == 1.0
            && stored.is_some_and(|stored| {
                values.iter().enumerate().any(|(c, &v)| {
                    i64::from(v) != if stored.len() == 1 { stored[0] } else { stored[c] }
                })
            });
        Ok(Bias { values, error, rescaled })
    }

    /// Moves a bias at the edge of 32 bits inwards, so that no sum of products overflows, with the
    /// zero point folded in or not. What that takes counts as error.
    ///
    /// Quantizers raise the weight scale of (nearly) constant channels until the bias just fits: their
    /// sums are then a few thousand steps of next to nothing beside a bias of 2³¹ of them.
    pub(super) fn leave_room(&mut self, magnitude: &[i64], largest: i64, steps: &[f32]) {
        for (c, value) in self.values.iter_mut().enumerate() {
            let room = magnitude.get(c).and_then(|m| m.checked_mul(2 * largest));
            let Some(limit) =
                room.and_then(|r| i64::from(i32::MAX).checked_sub(r)).filter(|&l| l > 0)
            else {
                continue;
            };
            let moved = i64::from(*value).clamp(-limit, limit);
            self.error[c] +=
                (i64::from(*value) - moved).unsigned_abs() as f64 * f64::from(steps[c]);
            *value = moved as i32;
        }
    }

    /// The operand.
    pub(super) fn tensor(&self) -> Result<Tensor, String> {
        Tensor::from_slice(&[self.values.len()], &self.values).map_err(|e| e.to_string())
    }
}

/// What the constant stands for, and its stored values less the zero point if it is quantized. All
/// axes but the last must have extent 1.
fn reals(graph: &Graph, outlet: Outlet) -> Result<(Vec<f64>, Option<Vec<i64>>), String> {
    let vector = |t: &Tensor| {
        let row = t.dims().iter().rev().skip(1).all(|&d| d == 1);
        if row { Ok(()) } else { Err("the bias is not a vector".to_owned()) }
    };
    let Some(q) = dequantized(graph, outlet) else {
        let tensor = graph.constant(outlet).ok_or("the bias is not constant")?;
        vector(tensor)?;
        if tensor.dtype() != DType::F32 {
            return Err(format!("the bias is {}", tensor.dtype()));
        }
        let values = tensor.to_f32().ok_or("the bias is not float")?;
        return Ok((values.into_iter().map(f64::from).collect(), None));
    };
    let tensor = graph.constant(q).ok_or("the bias is not constant")?;
    vector(tensor)?;
    let quant = tensor.elem().quant.as_ref().ok_or("the bias has no scale")?;
    let scales = quant.scales();
    let values = tensor.to_i64().ok_or("the bias is not integer")?;
    if scales.len() != 1 && scales.len() != values.len() {
        return Err("the bias is quantized along another axis than its own".to_owned());
    }
    let stored: Vec<i64> = values
        .iter()
        .enumerate()
        .map(|(c, v)| v - i64::from(zero_point(&quant.params, c)))
        .collect();
    let scale = |c: usize| f64::from(if scales.len() == 1 { scales[0] } else { scales[c] });
    let reals = stored.iter().enumerate().map(|(c, &v)| v as f64 * scale(c)).collect();
    Ok((reals, Some(stored)))
}
