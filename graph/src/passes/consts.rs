//! What several passes ask of constants, shapes and bounds.

use crate::{Graph, NodeId, NodeKind, Outlet, reference};
use requant_ir::{Dim, ElemType, Op, Tensor, TensorType};

/// The operator of a node that is one.
pub(super) fn op(graph: &Graph, node: NodeId) -> Option<&Op> {
    match &graph.node(node).kind {
        NodeKind::Op(op) => Some(op),
        _ => None,
    }
}

/// Operand `index` of `node`, if it is there.
pub(super) fn operand(graph: &Graph, node: NodeId, index: usize) -> Option<Outlet> {
    graph.operands(node).get(index).copied().flatten()
}

/// The constant that is operand `index` of `node`.
pub(super) fn constant_operand(graph: &Graph, node: NodeId, index: usize) -> Option<&Tensor> {
    graph.constant(operand(graph, node, index)?)
}

/// The integers of a constant operand.
pub(super) fn int_operand(graph: &Graph, node: NodeId, index: usize) -> Option<Vec<i64>> {
    constant_operand(graph, node, index)?.to_i64()
}

/// The extents of a value of known rank.
pub(super) fn dims(graph: &Graph, outlet: Outlet) -> Option<&[Dim]> {
    graph.fact(outlet).ty.dims.as_deref()
}

/// True when both types are certainly the same, extents included.
pub(super) fn same_type(a: &TensorType, b: &TensorType) -> bool {
    a.elem == b.elem && same_dims(a.dims.as_deref(), b.dims.as_deref())
}

/// True when both shapes are certainly the same.
pub(super) fn same_dims(a: Option<&[Dim]>, b: Option<&[Dim]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)),
        _ => false,
    }
}

/// A constant shape operand.
pub(super) fn shape_tensor(dims: &[i64]) -> Tensor {
    Tensor::from_slice(&[dims.len()], dims).expect("as many elements as the extent")
}

/// The operand that makes `Reshape` turn shape `from` into shape `to` (known to have as many
/// elements): 0 where an extent that is not fixed stays in its place, at most one −1. `None` where
/// that cannot say it.
pub(super) fn reshape_target(from: &[Dim], to: &[Dim]) -> Option<Vec<i64>> {
    let mut rest = false;
    to.iter()
        .enumerate()
        .map(|(i, dim)| match dim {
            Dim::Fixed(0) => None,
            Dim::Fixed(n) => i64::try_from(*n).ok(),
            _ if from.get(i).is_some_and(|d| d.same(dim)) => Some(0),
            _ if !rest => {
                rest = true;
                Some(-1)
            }
            _ => None,
        })
        .collect()
}

/// The extents of `dims` in the order `perm`.
pub(super) fn permuted<T: Clone>(dims: &[T], perm: &[usize]) -> Vec<T> {
    perm.iter().map(|&p| dims[p].clone()).collect()
}

/// The permutation that undoes `perm`.
pub(super) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    for (to, &from) in perm.iter().enumerate() {
        inverse[from] = to;
    }
    inverse
}

/// True for `0, 1, 2, …`.
pub(super) fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(i, &p)| i == p)
}

/// True when transposing by `perm` leaves the row-major order of the elements as it is, because all
/// axes that change places have extent 1.
pub(super) fn keeps_order(dims: &[Dim], perm: &[usize]) -> bool {
    let moved: Vec<usize> = perm.iter().copied().filter(|&p| dims[p] != Dim::Fixed(1)).collect();
    moved.is_sorted()
}

/// A negative axis counts from the end.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis })
        .ok()
        .filter(|&a| a < rank as usize)
}

/// A constant with its axes in another order.
pub(super) fn transposed(tensor: &Tensor, perm: &[usize]) -> Option<Tensor> {
    let op = Op::Transpose { perm: perm.to_vec() };
    reference::eval(&op, &[Some(tensor)]).ok()?.pop()
}

/// `real` in the stored units of a per-tensor quantized type, by the very rounding of `Quantize`.
pub(super) fn quantized(real: f32, elem: &ElemType) -> Option<i32> {
    let (scale, _) = elem.as_per_tensor().filter(|&(s, _)| s > 0.0)?;
    if real.is_nan() || !scale.is_finite() {
        return None;
    }
    let op = Op::Quantize { out: elem.clone(), clamp: None };
    let stored = reference::eval(&op, &[Some(&Tensor::scalar(real))]).ok()?.pop()?;
    stored.to_i64()?.first().and_then(|&q| i32::try_from(q).ok())
}
