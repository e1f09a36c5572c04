//! Shape arithmetic.

use super::data::{Units, from_units, tensor};
use super::elementwise::Numbers;
use super::{Cx, EvalError};
use crate::infer::shape_range;
use requant_ir::{DType, Op, Tensor, TensorType};

pub(super) fn eval(cx: &Cx<'_>, op: &Op, ty: &TensorType) -> Result<Tensor, EvalError> {
    let dims = cx.dims(ty)?;
    match op {
        Op::Shape { start, end } => {
            let x = cx.get(0)?.dims();
            let shape: Vec<i64> =
                x[shape_range(*start, *end, x.len())].iter().map(|&n| n as i64).collect();
            tensor(&ty.elem, dims, &shape)
        }
        Op::Size => tensor(&ty.elem, dims, &[cx.get(0)?.len() as i64]),
        Op::ConstantOfShape { value } => {
            let units = Units::of(value);
            from_units(&ty.elem, dims.clone(), &units.bytes.repeat(dims.iter().product()))
        }
        Op::Range => {
            let count = dims.iter().product::<usize>();
            let (start, delta) = (cx.get(0)?, cx.get(2)?);
            let first = |t| Numbers::of(t).ok_or_else(|| cx.storage(t));
            match (first(start)?, first(delta)?) {
                (Numbers::Int(start), Numbers::Int(delta)) => {
                    let at = |i: usize| start[0].wrapping_add((i as i64).wrapping_mul(delta[0]));
                    Numbers::Int((0..count).map(at).collect()).into_tensor(cx, ty, dims)
                }
                // In the element type, as ONNX computes it.
                (Numbers::Float(start), Numbers::Float(delta)) if ty.dtype() == DType::F64 => {
                    let values = (0..count).map(|i| start[0] + i as f64 * delta[0]).collect();
                    Numbers::Float(values).into_tensor(cx, ty, dims)
                }
                (Numbers::Float(start), Numbers::Float(delta)) => {
                    let (start, delta) = (start[0] as f32, delta[0] as f32);
                    let values: Vec<f32> = (0..count).map(|i| start + i as f32 * delta).collect();
                    cx.floats(&ty.elem, dims, &values)
                }
                _ => Err(cx.storage(start)),
            }
        }
        _ => Err(EvalError::Unresolved { op: cx.op }),
    }
}
