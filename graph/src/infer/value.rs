//! Values of small integer tensors, followed element by element: what shapes are computed from.

use super::movement::slice_range;
use super::shape::range;
use super::{Cx, Operand, axis_index};
use requant_ir::{BinaryKind, DType, Dim, Op, ReduceKind, Tensor, TensorType};

/// Longer tensors are no shapes.
const MAX_ELEMENTS: usize = 64;

/// What is known of a constant's elements, if it may be part of a shape.
pub(crate) fn shape_value(tensor: &Tensor) -> Option<Vec<Dim>> {
    let small = tensor.dims().len() <= 1 && tensor.len() <= MAX_ELEMENTS;
    if !small || !followed(&tensor.ty()) {
        return None;
    }
    let dim = |n: &i64| usize::try_from(*n).map_or(Dim::Unknown, Dim::Fixed);
    Some(tensor.to_i64()?.iter().map(dim).collect())
}

fn followed(ty: &TensorType) -> bool {
    matches!(ty.dtype(), DType::I64 | DType::I32) && ty.quant().is_none()
}

/// What is known of the results' elements.
pub(super) fn propagate(op: &Op, cx: &Cx<'_>, results: &[TensorType]) -> Vec<Option<Vec<Dim>>> {
    let known = |ty: &TensorType| {
        followed(ty)
            && ty.rank().is_some_and(|r| r <= 1)
            && ty.elements().is_some_and(|n| n <= MAX_ELEMENTS)
    };
    if !results.iter().all(known) {
        return Vec::new();
    }
    if let Op::Split { .. } = op {
        let Some(x) = elements(cx, 0) else { return Vec::new() };
        let mut from = 0;
        let parts = results.iter().map(|ty| {
            let part = x.get(from..from + ty.elements()?).map(<[Dim]>::to_vec);
            from += ty.elements()?;
            part
        });
        return parts.collect();
    }
    let [ty] = results else { return Vec::new() };
    let value = one(op, cx, ty).filter(|v| ty.elements() == Some(v.len()));
    // What does not fit the element type wraps around at run time.
    let max = if ty.dtype() == DType::I32 { i32::MAX as usize } else { i64::MAX as usize };
    let wraps = |dim: &Dim| dim.fixed().is_some_and(|n| n > max);
    let fit = |dim| if wraps(&dim) { Dim::Unknown } else { dim };
    vec![value.map(|v| v.into_iter().map(fit).collect())]
}

fn elements<'a>(cx: &Cx<'a>, i: usize) -> Option<&'a [Dim]> {
    cx.optional(i)?.shape_value
}

fn one(op: &Op, cx: &Cx<'_>, ty: &TensorType) -> Option<Vec<Dim>> {
    match op {
        Op::Identity
        | Op::Reshape { .. }
        | Op::Flatten { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Transpose { .. }
        | Op::Cast { .. } => Some(elements(cx, 0)?.to_vec()),
        Op::Shape { start, end } => {
            let dims = cx.optional(0)?.ty.dims.as_ref()?;
            Some(dims[range(*start, *end, dims.len())].to_vec())
        }
        Op::Size => {
            let dims = cx.optional(0)?.ty.dims.as_ref()?;
            Some(vec![super::dims::product(dims)?])
        }
        Op::Concat { .. } => {
            let parts = (0..cx.operands.len()).map(|i| elements(cx, i));
            Some(parts.collect::<Option<Vec<_>>>()?.concat())
        }
        Op::Gather { axis } => {
            let x = elements(cx, 0)?;
            let indices = cx.ints(1).ok()??;
            let _ = axis_index(*axis, 1)?;
            indices.iter().map(|&i| x.get(axis_index(i, x.len())?).cloned()).collect()
        }
        Op::Slice => slice(cx),
        Op::Expand => {
            let x = elements(cx, 0)?;
            let one = x.first().filter(|_| x.len() == 1);
            Some(one.map_or_else(|| x.to_vec(), |d| vec![d.clone(); ty.elements().unwrap_or(0)]))
        }
        Op::ConstantOfShape { value } => {
            let fill = shape_value(&value.with_dims(vec![]).ok()?)?;
            Some(vec![fill.first()?.clone(); ty.elements()?])
        }
        Op::Reduce { kind: ReduceKind::Prod, .. } => {
            Some(vec![super::dims::product(elements(cx, 0)?)?])
        }
        Op::Binary(kind) => binary(*kind, cx, ty.elements()?),
        _ => None,
    }
}

fn slice(cx: &Cx<'_>) -> Option<Vec<Dim>> {
    let x = elements(cx, 0)?;
    let single = |i: usize, default: i64| match cx.optional(i) {
        None => Some(default),
        Some(Operand { .. }) => match cx.ints(i).ok()??[..] {
            [n] => Some(n),
            _ => None,
        },
    };
    let (start, end, step) = (single(1, 0)?, single(2, 0)?, single(4, 1)?);
    let (first, step, count) = slice_range(x.len(), start, end, step);
    let index = |i: usize| {
        let offset = i64::try_from(i).ok()?.checked_mul(step)?;
        usize::try_from(i64::try_from(first).ok()?.checked_add(offset)?).ok()
    };
    (0..count).map(|i| x.get(index(i)?).cloned()).collect()
}

fn binary(kind: BinaryKind, cx: &Cx<'_>, count: usize) -> Option<Vec<Dim>> {
    let (a, b) = (elements(cx, 0)?, elements(cx, 1)?);
    let at = |v: &[Dim], i: usize| v.get(if v.len() == 1 { 0 } else { i }).cloned();
    let fixed = |n: Option<usize>| n.map_or(Dim::Unknown, Dim::Fixed);
    let value = |a: Dim, b: Dim| match (kind, &a, &b) {
        (BinaryKind::Add, ..) => super::dims::add(&a, &b).unwrap_or(Dim::Unknown),
        (BinaryKind::Mul, ..) => super::dims::mul(&a, &b).unwrap_or(Dim::Unknown),
        (BinaryKind::Sub, Dim::Fixed(a), Dim::Fixed(b)) => fixed(a.checked_sub(*b)),
        (BinaryKind::Sub, _, Dim::Fixed(0)) | (BinaryKind::Div, _, Dim::Fixed(1)) => a,
        (BinaryKind::Div, Dim::Fixed(a), Dim::Fixed(b)) => fixed(a.checked_div(*b)),
        (BinaryKind::Min, Dim::Fixed(a), Dim::Fixed(b)) => Dim::Fixed(*a.min(b)),
        (BinaryKind::Max, Dim::Fixed(a), Dim::Fixed(b)) => Dim::Fixed(*a.max(b)),
        _ => Dim::Unknown,
    };
    (0..count).map(|i| Some(value(at(a, i)?, at(b, i)?))).collect()
}
