//! Elements of tensors as numbers, and back.

use super::{Cx, EvalError};
use half::f16;
use requant_ir::{DType, ElemType, Quant, QuantParams, Tensor};
use std::borrow::Cow;

/// Elements as bytes, one unit of `size` bytes for each; 4-bit elements get a byte each.
pub(super) struct Units<'a> {
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) size: usize,
}

impl<'a> Units<'a> {
    pub(super) fn of(tensor: &'a Tensor) -> Self {
        match tensor.dtype().bits() {
            4 => Units { bytes: Cow::Owned(nibbles(tensor)), size: 1 },
            bits => Units { bytes: Cow::Borrowed(tensor.bytes()), size: bits as usize / 8 },
        }
    }
}

/// The tensor whose [`Units`] are `bytes`.
pub(super) fn from_units(
    elem: &ElemType,
    dims: Vec<usize>,
    bytes: &[u8],
) -> Result<Tensor, EvalError> {
    if elem.dtype.bits() != 4 {
        return Ok(Tensor::copy_from(elem.clone(), dims, bytes)?);
    }
    let pack = |pair: &[u8]| (pair[0] & 15) | (pair.get(1).copied().unwrap_or(0) << 4);
    let packed: Vec<u8> = bytes.chunks(2).map(pack).collect();
    Ok(Tensor::copy_from(elem.clone(), dims, &packed)?)
}

fn nibbles(tensor: &Tensor) -> Vec<u8> {
    let both = tensor.bytes().iter().flat_map(|b| [b & 15, b >> 4]);
    both.take(tensor.len()).collect()
}

/// A tensor of Rust numbers.
pub(super) fn tensor<T: bytemuck::Pod>(
    elem: &ElemType,
    dims: Vec<usize>,
    values: &[T],
) -> Result<Tensor, EvalError> {
    Ok(Tensor::copy_from(elem.clone(), dims, bytemuck::cast_slice(values))?)
}

impl<'a> Cx<'a> {
    /// The elements of operand `i`, an f32 or f16 tensor, as f32.
    pub(super) fn f32s(&self, i: usize) -> Result<Cow<'a, [f32]>, EvalError> {
        let tensor = self.get(i)?;
        match tensor.as_slice::<f32>() {
            Some(values) => Ok(Cow::Borrowed(values)),
            None => tensor.to_f32().map(Cow::Owned).ok_or(self.storage(tensor)),
        }
    }

    /// The stored integers of operand `i`.
    pub(super) fn codes(&self, i: usize) -> Result<Vec<i32>, EvalError> {
        let tensor = self.get(i)?;
        codes(tensor).ok_or(self.storage(tensor))
    }

    /// A float tensor of type `elem` from f32 values, rounded where it is f16.
    pub(super) fn floats(
        &self,
        elem: &ElemType,
        dims: Vec<usize>,
        values: &[f32],
    ) -> Result<Tensor, EvalError> {
        match elem.dtype {
            DType::F16 => {
                let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
                tensor(elem, dims, &halves)
            }
            DType::F64 => {
                let doubles: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
                tensor(elem, dims, &doubles)
            }
            DType::F32 => tensor(elem, dims, values),
            dtype => Err(EvalError::Storage { op: self.op, dtype }),
        }
    }

    /// A tensor of type `elem` from stored integers, which must be in its range.
    pub(super) fn stored(
        &self,
        elem: &ElemType,
        dims: Vec<usize>,
        values: &[i32],
    ) -> Result<Tensor, EvalError> {
        match elem.dtype {
            DType::I8 | DType::U8 | DType::I4 | DType::U4 => {
                let bytes: Vec<u8> = values.iter().map(|&v| v as u8).collect();
                from_units(elem, dims, &bytes)
            }
            DType::I16 | DType::U16 => {
                let words: Vec<u16> = values.iter().map(|&v| v as u16).collect();
                tensor(elem, dims, &words)
            }
            DType::I32 => tensor(elem, dims, values),
            dtype => Err(EvalError::Storage { op: self.op, dtype }),
        }
    }
}

/// Stored integers of up to 32 bits.
fn codes(tensor: &Tensor) -> Option<Vec<i32>> {
    let widened = match tensor.dtype() {
        DType::I4 => nibbles(tensor).iter().map(|&n| i32::from((n << 4) as i8 >> 4)).collect(),
        DType::U4 => nibbles(tensor).iter().map(|&n| i32::from(n)).collect(),
        DType::I8 => tensor.as_slice::<i8>()?.iter().map(|&q| i32::from(q)).collect(),
        DType::U8 => tensor.as_slice::<u8>()?.iter().map(|&q| i32::from(q)).collect(),
        DType::I16 => tensor.as_slice::<i16>()?.iter().map(|&q| i32::from(q)).collect(),
        DType::U16 => tensor.as_slice::<u16>()?.iter().map(|&q| i32::from(q)).collect(),
        DType::I32 => tensor.as_slice::<i32>()?.to_vec(),
        _ => return None,
    };
    Some(widened)
}

/// Which of the scales of `quant` belongs to the element at row-major index `i` of shape `dims`.
pub(super) fn scale_index(quant: &Quant, dims: &[usize]) -> impl Fn(usize) -> usize + use<> {
    let inner = |axis: usize| dims[axis + 1..].iter().product::<usize>().max(1);
    // Extent, block length and number of blocks along the axis, elements after it.
    let (extent, block, blocks, inner) = match &quant.params {
        QuantParams::PerTensor { .. } => (1, 1, 1, usize::MAX),
        QuantParams::PerAxis { axis, .. } => (dims[*axis], 1, dims[*axis], inner(*axis)),
        QuantParams::PerBlock { axis, size, .. } => {
            (dims[*axis], *size, dims[*axis].div_ceil(*size), inner(*axis))
        }
    };
    let per_block = matches!(quant.params, QuantParams::PerBlock { .. });
    move |i| {
        let along = i / inner % extent.max(1) / block;
        if per_block {
            (i / inner / extent.max(1) * blocks + along) * inner + i % inner
        } else {
            along
        }
    }
}
