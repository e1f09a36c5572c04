//! Rules of element types.

use super::Rule;
use crate::{DType, Dim, ElemType, MAX_RANK, QuantParams, Tensor};

/// Checks quantization; `dims` are those of the tensor where they are known.
pub(super) fn check(elem: &ElemType, dims: Option<&[Dim]>) -> Result<(), Rule> {
    let fail = |reason: String| Err(Rule::Quant { reason });
    let Some(quant) = &elem.quant else { return Ok(()) };
    let Some((mut low, high)) = elem.dtype.quant_range() else {
        return fail(format!("{} cannot store quantized values", elem.dtype));
    };
    if !quant.expressed.is_float() {
        return fail(format!("{} is expressed, which is no float type", quant.expressed));
    }
    if quant.narrow_range {
        low = low.saturating_add(1);
    }
    let (scales, zeros) = (quant.scales(), quant.zero_points());
    if let Some(scale) = scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        return fail(format!("scale {scale} is not finite and positive"));
    }
    if let Some(zero) = zeros.iter().find(|z| !(low..=high).contains(*z)) {
        return fail(format!("zero point {zero} is not in {low}..={high}"));
    }
    if zeros.len() != scales.len() {
        return fail(format!("{} scales, but {} zero points", scales.len(), zeros.len()));
    }
    let (axis, block) = match &quant.params {
        QuantParams::PerTensor { .. } => return Ok(()),
        QuantParams::PerAxis { axis, .. } => (*axis, None),
        QuantParams::PerBlock { axis, size, .. } => (*axis, Some(*size)),
    };
    let rank = dims.map_or(MAX_RANK, <[Dim]>::len);
    if axis >= rank {
        return fail(format!("axis {axis} is not below the rank, {rank}"));
    }
    if block == Some(0) {
        return fail("blocks have no elements".into());
    }
    if let Some(needed) = dims.and_then(|dims| pairs(dims, axis, block))
        && needed != scales.len()
    {
        return fail(format!("{} scales, but the shape needs {needed}", scales.len()));
    }
    Ok(())
}

/// How many pairs of scale and zero point a shape needs, if its extents say.
fn pairs(dims: &[Dim], axis: usize, block: Option<usize>) -> Option<usize> {
    let Some(size) = block else { return dims[axis].fixed() };
    dims.iter().enumerate().try_fold(1usize, |n, (i, dim)| {
        let extent = dim.fixed()?;
        n.checked_mul(if i == axis { extent.div_ceil(size) } else { extent })
    })
}

/// True when the lowest value of a quantized storage type occurs.
pub(super) fn has_lowest(data: &Tensor) -> bool {
    let elements = data.len();
    let nibble =
        |n: u8| data.bytes().iter().flat_map(|b| [b & 15, b >> 4]).take(elements).any(|v| v == n);
    match data.dtype() {
        DType::I4 => nibble(8),
        DType::U4 => nibble(0),
        DType::I8 => data.bytes().contains(&0x80),
        DType::U8 => data.bytes().contains(&0),
        DType::I16 => data.as_slice::<i16>().is_some_and(|s| s.contains(&i16::MIN)),
        DType::U16 => data.as_slice::<u16>().is_some_and(|s| s.contains(&0)),
        DType::I32 => data.as_slice::<i32>().is_some_and(|s| s.contains(&i32::MIN)),
        DType::F32 | DType::F16 | DType::F64 | DType::I64 | DType::Bool => false,
    }
}
