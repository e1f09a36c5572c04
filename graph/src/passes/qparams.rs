//! What several passes ask of quantized values and their operators.

use super::consts::{op, operand};
use crate::patch::Src;
use crate::{Graph, NodeId, Outlet, reference};
use requant_ir::{DType, ElemType, IntClamp, Op, QuantParams, Tensor};

/// The quantized value that `outlet` stands for in float, if a `Dequantize` makes it.
pub(super) fn dequantized(graph: &Graph, outlet: Outlet) -> Option<Outlet> {
    match op(graph, outlet.node)? {
        Op::Dequantize => operand(graph, outlet.node, 0),
        _ => None,
    }
}

/// The elements of a constant float value, `Dequantize` of a constant included.
pub(super) fn float_constant(graph: &Graph, outlet: Outlet) -> Option<Tensor> {
    if let Some(stored) = dequantized(graph, outlet) {
        return eval1(&Op::Dequantize, &[graph.constant(stored)?]);
    }
    graph.constant(outlet).filter(|t| t.dtype() == DType::F32).cloned()
}

/// The one result of `op` by the reference interpreter.
pub(super) fn eval1(op: &Op, operands: &[&Tensor]) -> Option<Tensor> {
    let operands: Vec<_> = operands.iter().map(|&t| Some(t)).collect();
    reference::eval(op, &operands).ok()?.pop()
}

/// The operands of `node` as a patch takes them.
pub(super) fn sources(graph: &Graph, node: NodeId) -> Vec<Option<Src>> {
    graph.operands(node).into_iter().map(|o| o.map(Src::from)).collect()
}

/// The result of a node that has one.
pub(super) fn result(node: NodeId) -> Outlet {
    Outlet { node, slot: 0 }
}

/// One scale and zero point, and the storage they are of.
#[derive(Clone, Copy, Debug)]
pub(super) struct PerTensor {
    pub(super) dtype: DType,
    pub(super) scale: f32,
    pub(super) zero_point: i32,
}

impl PerTensor {
    /// `max |q − z|` over all stored values.
    pub(super) fn largest(&self) -> i64 {
        let (min, max) = self.dtype.quant_range().unwrap_or((i32::MIN, i32::MAX));
        let zero_point = i64::from(self.zero_point);
        (i64::from(max) - zero_point).max(zero_point - i64::from(min))
    }
}

/// The parameters of an 8-bit type with one scale, or what is in the way.
pub(super) fn per_tensor_8bit(elem: &ElemType) -> Result<PerTensor, String> {
    if !elem.dtype.is_8bit() {
        return Err(format!("is {}, not 8 bits", elem.dtype));
    }
    let (scale, zero_point) =
        elem.as_per_tensor().ok_or_else(|| "has more than one scale".to_owned())?;
    if !scale.is_normal() || scale <= 0.0 {
        return Err(format!("has the scale {scale}"));
    }
    Ok(PerTensor { dtype: elem.dtype, scale, zero_point })
}

/// The parameters of the quantized value behind `outlet`, and that value. `what` names it in the
/// reason for a refusal.
pub(super) fn activation(
    graph: &Graph,
    outlet: Outlet,
    what: &str,
) -> Result<(Outlet, PerTensor), String> {
    let stored = dequantized(graph, outlet).ok_or_else(|| format!("{what} is not quantized"))?;
    let params =
        per_tensor_8bit(&graph.fact(stored).ty.elem).map_err(|why| format!("{what} {why}"))?;
    Ok((stored, params))
}

/// The zero point for index `c` along the quantized axis.
pub(super) fn zero_point(params: &QuantParams, c: usize) -> i32 {
    match params {
        QuantParams::PerTensor { zero_point, .. } => *zero_point,
        QuantParams::PerAxis { zero_points, .. } | QuantParams::PerBlock { zero_points, .. } => {
            zero_points.get(c).copied().unwrap_or(0)
        }
    }
}

/// True when `clamp` leaves every value of `elem` as it is.
pub(super) fn clamps_nothing(clamp: Option<IntClamp>, elem: &ElemType) -> bool {
    let Some(clamp) = clamp else { return true };
    elem.dtype.quant_range().is_some_and(|(min, max)| clamp.min <= min && clamp.max >= max)
}
