//! Operators whose integer form rounds once to 8 bits: additions, products, means, softmax, and
//! accumulators that are quantized.

use super::super::consts::{dims, op, operand};
use super::super::qparams::{activation, dequantized, per_tensor_8bit, result};
use super::{Fused, NAME};
use crate::patch::{Exactness, Patch, Src};
use crate::{Graph, NodeId, Outlet};
use requant_ir::{
    BinaryKind, DType, Dim, ElemType, IntClamp, Op, PoolAttrs, PoolKind, QOut, ReduceKind, Rounding,
};

/// The largest ratio of an operand's scale to the result's at which an addition is exact to much less
/// than a step: 255 · 2¹² stays below 2²⁰ of f32's 2²⁴.
const MOST_RATIO: f32 = 4096.0;

/// `Q(op(DQ…))` at the `Quantize` `node`.
pub(super) fn quantize(
    graph: &Graph,
    node: NodeId,
    out: &ElemType,
    clamp: Option<IntClamp>,
) -> Fused {
    let Some(x) = operand(graph, node, 0) else { return Ok(None) };
    let Some(producer) = op(graph, x.node) else { return Ok(None) };
    let out = QOut { elem: out.clone(), clamp, rounding: Rounding::HalfEven };
    let (new, operands) = match producer {
        Op::Dequantize => match accumulator(graph, x, &out)? {
            Some(acc) => (Op::Requantize(out), vec![acc]),
            None => return Ok(None),
        },
        &Op::Binary(kind) => match binary(graph, x.node, kind, &out)? {
            Some(operands) => (Op::QBinary { kind, flipped: false, out }, operands),
            None => return Ok(None),
        },
        Op::Pool(pool @ PoolAttrs { kind: PoolKind::Average { .. }, .. }) => {
            let x = only_operand(graph, x.node, &out)?;
            window_fits(pool.kernel.iter().copied())?;
            (Op::QPool { pool: pool.clone(), out }, vec![x])
        }
        Op::Reduce { kind: ReduceKind::Mean, axes, keep_dims } => {
            let x = only_operand(graph, x.node, &out)?;
            window_fits(dims(graph, x).unwrap_or(&[]).iter().filter_map(Dim::fixed))?;
            (Op::QMean { axes: axes.clone(), keep_dims: *keep_dims, out }, vec![x])
        }
        &Op::Softmax { axis, flatten } => {
            let x = only_operand(graph, x.node, &out)?;
            if flatten {
                return Err("softmax over several axes at once".to_owned());
            }
            (Op::QSoftmax { axis, out }, vec![x])
        }
        _ => return Ok(None),
    };
    let mut patch = Patch::new(NAME, Exactness::OneStep);
    let operands = operands.into_iter().map(|o| Some(Src::from(o))).collect();
    let new = patch.op(graph.node(x.node).name.as_ref(), new, operands);
    patch.replace(result(node), new);
    Ok(Some(patch))
}

/// The accumulator behind the `Dequantize` that makes `x`.
fn accumulator(graph: &Graph, x: Outlet, out: &QOut) -> Result<Option<Outlet>, String> {
    let Some(acc) = dequantized(graph, x) else { return Ok(None) };
    let elem = &graph.fact(acc).ty.elem;
    if elem.dtype != DType::I32 {
        return Ok(None);
    }
    let y = result_scale(out)?;
    let scales = elem.quant.as_ref().map_or(&[][..], |q| q.scales());
    // A ratio that vanishes is right: so do the values in steps of the result.
    if scales.is_empty() || scales.iter().any(|s| !(s / y).is_finite()) {
        return Err("the ratio of the scales is not finite".to_owned());
    }
    Ok(Some(acc))
}

fn binary(
    graph: &Graph,
    node: NodeId,
    kind: BinaryKind,
    out: &QOut,
) -> Result<Option<Vec<Outlet>>, String> {
    let (Some(a), Some(b)) = (operand(graph, node, 0), operand(graph, node, 1)) else {
        return Ok(None);
    };
    let quantized = [a, b].iter().filter(|&&o| dequantized(graph, o).is_some()).count();
    let scalar = |o: Outlet| graph.constant(o).is_some_and(|t| t.len() == 1);
    if quantized == 0 || scalar(a) || scalar(b) {
        // Float arithmetic; or one operand and a number, which is a table.
        return Ok(None);
    }
    if !matches!(kind, BinaryKind::Add | BinaryKind::Mul) {
        return Err(format!("there is no integer {kind:?}"));
    }
    let (a, a_params) = activation(graph, a, "the first operand")?;
    let (b, b_params) = activation(graph, b, "the second operand")?;
    let y = result_scale(out)?;
    let ratio_of = |scale: f32| scale / y;
    let sound = match kind {
        BinaryKind::Add => [a_params, b_params]
            .iter()
            .all(|p| ratio_of(p.scale).is_normal() && ratio_of(p.scale) <= MOST_RATIO),
        _ => {
            let product = a_params.scale * b_params.scale;
            product.is_normal() && ratio_of(product).is_normal()
        }
    };
    if !sound {
        return Err("the scales are too far apart".to_owned());
    }
    Ok(Some(vec![a, b]))
}

fn only_operand(graph: &Graph, node: NodeId, out: &QOut) -> Result<Outlet, String> {
    let x = operand(graph, node, 0).ok_or("there is no operand")?;
    let (x, params) = activation(graph, x, "the operand")?;
    let y = result_scale(out)?;
    if !(params.scale / y).is_normal() {
        return Err("the scales are too far apart".to_owned());
    }
    Ok(x)
}

fn result_scale(out: &QOut) -> Result<f32, String> {
    per_tensor_8bit(&out.elem).map(|p| p.scale).map_err(|why| format!("the result {why}"))
}

/// A sum of so many 8-bit values, less their zero point, fits 32 bits.
fn window_fits(extents: impl Iterator<Item = usize>) -> Result<(), String> {
    let elements = extents.fold(1usize, usize::saturating_mul);
    if elements <= (i32::MAX / 255) as usize {
        Ok(())
    } else {
        Err("the sum may exceed 32 bits".to_owned())
    }
}
