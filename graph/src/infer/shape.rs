//! Shape arithmetic: `Shape`, `Size`, `ConstantOfShape`, `Range`, `Where`.

use super::{Cx, InferError, broadcast, show};
use requant_ir::{DType, Dim, ElemType, Op, Tensor, TensorType};

/// Integers that can be computed with.
const NUMBERS: [DType; 5] = [DType::I64, DType::I32, DType::F32, DType::F16, DType::F64];

pub(super) fn infer(cx: &Cx<'_>, op: &Op) -> Result<TensorType, InferError> {
    let s64 = ElemType::plain(DType::I64);
    match op {
        Op::Shape { start, end } => {
            cx.arity(1..=1, "1")?;
            let count = match cx.get(0)?.ty.rank() {
                Some(rank) => Dim::Fixed(range(*start, *end, rank).len()),
                None => Dim::Unknown,
            };
            Ok(TensorType::new(s64, vec![count]))
        }
        Op::Size => {
            cx.arity(1..=1, "1")?;
            cx.get(0)?;
            Ok(TensorType::new(s64, vec![]))
        }
        Op::ConstantOfShape { value } => {
            cx.arity(1..=1, "1")?;
            if value.len() != 1 {
                return Err(cx.attribute("value", value.dims(), "one element"));
            }
            Ok(TensorType { elem: value.elem().clone(), dims: target(cx, 0)? })
        }
        Op::Range => {
            cx.arity(3..=3, "3")?;
            let first = cx.plain(0, &NUMBERS)?;
            (0..3).try_for_each(|i| {
                cx.like_first(i)?;
                cx.rank(i, 0).map(drop)
            })?;
            let known = |i| cx.get(i).ok().and_then(|o| o.constant);
            let count = match (known(0), known(1), known(2)) {
                (Some(a), Some(b), Some(c)) => {
                    let count = range_len(a, b, c).ok_or_else(|| {
                        cx.wrong(2, "a step that leads to the limit in less than 2³¹ steps")
                    })?;
                    Dim::Fixed(count)
                }
                _ => Dim::Unknown,
            };
            Ok(TensorType::new(first.ty.elem.clone(), vec![count]))
        }
        Op::Where => {
            cx.arity(3..=3, "3")?;
            cx.plain(0, &[DType::Bool])?;
            let x = cx.get(1)?;
            if x.ty.elem != cx.get(2)?.ty.elem {
                return Err(cx.wrong(2, format!("of the element type of {}", show(x.ty))));
            }
            if x.ty.quant().is_some_and(|q| q.as_per_tensor().is_none()) {
                return Err(cx.lost(1));
            }
            let values = cx.broadcast(1, 2)?;
            let dims = match (values, &cx.get(0)?.ty.dims) {
                (Some(values), Some(condition)) => Some(
                    broadcast(&values, condition).ok_or_else(|| cx.wrong(0, "broadcastable"))?,
                ),
                _ => None,
            };
            Ok(TensorType { elem: x.ty.elem.clone(), dims })
        }
        _ => Err(InferError::Custom),
    }
}

/// The axes that `Shape` reads; bounds beyond the rank are cut off.
pub(crate) fn range(start: i64, end: Option<i64>, rank: usize) -> std::ops::Range<usize> {
    let rank = rank as i64;
    let index = |i: i64| if i < 0 { i.saturating_add(rank) } else { i }.clamp(0, rank) as usize;
    let (start, end) = (index(start), index(end.unwrap_or(rank)));
    start..end.max(start)
}

/// The shape that operand `i` says, for operators that take extents as they are.
pub(super) fn target(cx: &Cx<'_>, i: usize) -> Result<Option<Vec<Dim>>, InferError> {
    let operand = cx.plain(i, &[DType::I64, DType::I32])?;
    if operand.ty.rank().is_some_and(|r| r != 1) {
        return Err(cx.wrong(i, "of rank 1"));
    }
    if let Some(values) = operand.constant.and_then(|t| t.to_i64()) {
        let dims = values.iter().map(|&n| usize::try_from(n).map(Dim::Fixed));
        return dims
            .collect::<Result<_, _>>()
            .map(Some)
            .map_err(|_| cx.wrong(i, "without negative extents"));
    }
    Ok(match operand.shape_value {
        Some(dims) => Some(dims.to_vec()),
        None => cx.count(i).filter(|&n| n <= requant_ir::MAX_RANK).map(|n| vec![Dim::Unknown; n]),
    })
}

/// How many elements `Range` gives; `None` for a step of 0, NaN, or 2³¹ elements and more.
pub(crate) fn range_len(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Option<usize> {
    const MAX: f64 = (1u64 << 31) as f64;
    let number = |t: &Tensor| {
        let integer = t.to_i64().and_then(|v| v.first().copied()).map(|n| n as f64);
        integer
            .or_else(|| t.as_slice::<f64>().and_then(|v| v.first().copied()))
            .or_else(|| t.to_f32().and_then(|v| v.first().copied()).map(f64::from))
    };
    let count = ((number(limit)? - number(start)?) / number(delta)?).ceil().max(0.0);
    (count < MAX && number(delta)? != 0.0).then_some(count as usize)
}
