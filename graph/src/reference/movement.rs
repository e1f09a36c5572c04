//! Data movement. Every operator but `Concat` and the reshaping ones is a separable map: the source of
//! an element is a sum of one offset for each result axis.

use super::data::{Units, from_units};
use super::{Cx, EvalError};
use crate::infer::{axis_index, slice_range};
use requant_ir::{Op, PadMode, Tensor, TensorType};

/// For each index along a result axis the offset of its source, or `None` where it is filled.
type AxisMap = Vec<Option<usize>>;

pub(super) fn eval(cx: &Cx<'_>, op: &Op, ty: &TensorType) -> Result<Tensor, EvalError> {
    let dims = cx.dims(ty)?;
    let x = cx.get(0)?;
    let strides = strides(x.dims());
    let whole = |axis: usize| axis_map(0..x.dims()[axis], strides[axis]);
    let rank = x.dims().len();
    let maps = match op {
        Op::Identity
        | Op::Reshape { .. }
        | Op::Flatten { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Split { .. }
        | Op::Reinterpret { .. } => {
            return Ok(Tensor::from_bytes(ty.elem.clone(), dims, x.bytes().clone())?);
        }
        Op::Transpose { perm } => perm.iter().map(|&p| whole(p)).collect(),
        Op::Concat { axis } => return concat(cx, ty, dims, *axis),
        Op::Slice => slice(cx, x, &strides)?,
        Op::Gather { axis } => {
            let indices = cx.get(1)?.to_i64().ok_or_else(|| cx.storage(x))?;
            let axis = axis_index(*axis, rank).ok_or(EvalError::Unresolved { op: cx.op })?;
            let extent = x.dims()[axis];
            let source = |&i: &i64| {
                let index = axis_index(i, extent);
                index.ok_or(EvalError::Index { op: cx.op, index: i, extent })
            };
            let chosen: Vec<usize> = indices.iter().map(source).collect::<Result<_, _>>()?;
            (0..rank)
                .map(|a| {
                    if a == axis { axis_map(chosen.iter().copied(), strides[a]) } else { whole(a) }
                })
                .collect()
        }
        Op::Expand => {
            let missing = dims.len() - rank;
            let expand = |i: usize| match i.checked_sub(missing) {
                Some(a) if x.dims()[a] == dims[i] => whole(a),
                _ => vec![Some(0); dims[i]],
            };
            (0..dims.len()).map(expand).collect()
        }
        Op::Tile => (0..rank)
            .map(|a| axis_map((0..dims[a]).map(|i| i % x.dims()[a].max(1)), strides[a]))
            .collect(),
        Op::Pad { mode } => {
            let maps = pad(cx, *mode, x, &dims, &strides)?;
            // Other modes repeat elements, whatever their zero points.
            let fill = if *mode == PadMode::Constant { pad_value(cx, x)? } else { [0; 8] };
            return mapped(x, ty, dims, &maps, &fill);
        }
        _ => return Err(EvalError::Unresolved { op: cx.op }),
    };
    let maps: Vec<AxisMap> = maps;
    mapped(x, ty, dims, &maps, &[0; 8])
}

/// The parts of `Split`.
pub(super) fn split(cx: &Cx<'_>, op: &Op, types: &[TensorType]) -> Result<Vec<Tensor>, EvalError> {
    let Op::Split { axis, .. } = op else { return Err(EvalError::Unresolved { op: cx.op }) };
    let x = cx.get(0)?;
    let strides = strides(x.dims());
    let axis = axis_index(*axis, x.dims().len()).ok_or(EvalError::Unresolved { op: cx.op })?;
    let mut start = 0;
    let part = |ty: &TensorType| {
        let dims = cx.dims(ty)?;
        if x.is_empty() {
            return Ok(Tensor::zeros(ty.elem.clone(), dims)?);
        }
        let from = |a: usize| if a == axis { start } else { 0 };
        let maps: Vec<AxisMap> =
            (0..dims.len()).map(|a| axis_map(from(a)..from(a) + dims[a], strides[a])).collect();
        start += dims[axis];
        mapped(x, ty, dims, &maps, &[0; 8])
    };
    types.iter().map(part).collect()
}

/// Elements between neighbours along each axis.
pub(super) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i];
    }
    strides
}

fn axis_map(indices: impl IntoIterator<Item = usize>, stride: usize) -> AxisMap {
    indices.into_iter().map(|i| Some(i * stride)).collect()
}

/// The tensor whose elements come from `x` as `maps` say, or are `fill` (the first bytes of it).
fn mapped(
    x: &Tensor,
    ty: &TensorType,
    dims: Vec<usize>,
    maps: &[AxisMap],
    fill: &[u8; 8],
) -> Result<Tensor, EvalError> {
    let count = dims.iter().product::<usize>();
    if count == 0 {
        return Ok(Tensor::zeros(ty.elem.clone(), dims)?);
    }
    let units = Units::of(x);
    let mut bytes = Vec::with_capacity(count * units.size);
    match units.size {
        1 => remap::<1>(&units.bytes, maps, fill, &mut bytes),
        2 => remap::<2>(&units.bytes, maps, fill, &mut bytes),
        4 => remap::<4>(&units.bytes, maps, fill, &mut bytes),
        _ => remap::<8>(&units.bytes, maps, fill, &mut bytes),
    }
    from_units(&ty.elem, dims, &bytes)
}

fn remap<const SIZE: usize>(from: &[u8], maps: &[AxisMap], fill: &[u8; 8], to: &mut Vec<u8>) {
    let (from, _) = from.as_chunks::<SIZE>();
    let mut filler = [0; SIZE];
    filler.copy_from_slice(&fill[..SIZE]);
    each_row(maps, |base, last| match base {
        Some(base) => {
            let unit = |offset: &Option<usize>| offset.map_or(filler, |o| from[base + o]);
            to.extend(last.iter().flat_map(unit));
        }
        None => to.extend(last.iter().flat_map(|_| filler)),
    });
}

/// Calls `row` for every index of all axes but the last, in row-major order, with the sum of their
/// offsets and the map of the last axis.
fn each_row(maps: &[AxisMap], mut row: impl FnMut(Option<usize>, &[Option<usize>])) {
    let Some((last, outer)) = maps.split_last() else { return row(Some(0), &[Some(0)]) };
    if outer.iter().any(Vec::is_empty) {
        return;
    }
    let mut index = vec![0; outer.len()];
    loop {
        let offset = |sum: usize, (map, &i): (&AxisMap, &usize)| Some(sum + map[i]?);
        row(outer.iter().zip(&index).try_fold(0, offset), last);
        let Some(axis) = (0..index.len()).rev().find(|&a| index[a] + 1 < outer[a].len()) else {
            return;
        };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}

/// `values` of shape `from`, repeated to shape `to`, to which `from` broadcasts.
pub(super) fn broadcast_to<T: Copy>(values: &[T], from: &[usize], to: &[usize]) -> Vec<T> {
    let strides = strides(from);
    let missing = to.len() - from.len();
    let map = |i: usize| match i.checked_sub(missing) {
        Some(a) if from[a] == to[i] => axis_map(0..to[i], strides[a]),
        _ => vec![Some(0); to[i]],
    };
    let maps: Vec<AxisMap> = (0..to.len()).map(map).collect();
    let mut result = Vec::with_capacity(to.iter().product());
    each_row(&maps, |base, last| {
        result.extend(last.iter().filter_map(|o| Some(values[base? + (*o)?])));
    });
    result
}

/// `values` of shape `dims` with their axes in the order `perm`.
pub(super) fn permute<T: Copy>(values: &[T], dims: &[usize], perm: &[usize]) -> Vec<T> {
    if values.is_empty() {
        return Vec::new();
    }
    let strides = strides(dims);
    let maps: Vec<AxisMap> = perm.iter().map(|&p| axis_map(0..dims[p], strides[p])).collect();
    let mut result = Vec::with_capacity(values.len());
    each_row(&maps, |base, last| {
        result.extend(last.iter().filter_map(|o| Some(values[base? + (*o)?])));
    });
    result
}

fn concat(cx: &Cx<'_>, ty: &TensorType, dims: Vec<usize>, axis: i64) -> Result<Tensor, EvalError> {
    let axis = axis_index(axis, dims.len()).ok_or(EvalError::Unresolved { op: cx.op })?;
    let outer: usize = dims[..axis].iter().product();
    let parts: Vec<(Units<'_>, usize)> = cx
        .operands
        .iter()
        .flatten()
        .map(|part| {
            let units = Units::of(part);
            let row = part.dims()[axis..].iter().product::<usize>() * units.size;
            (units, row)
        })
        .collect();
    let mut bytes = Vec::new();
    for i in 0..outer {
        for (units, row) in &parts {
            bytes.extend_from_slice(&units.bytes[i * row..][..*row]);
        }
    }
    from_units(&ty.elem, dims, &bytes)
}

fn slice(cx: &Cx<'_>, x: &Tensor, strides: &[usize]) -> Result<Vec<AxisMap>, EvalError> {
    let (starts, ends) = (cx.ints(1)?, cx.ints(2)?);
    let axes = match cx.optional(3) {
        Some(_) => cx.ints(3)?,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = cx.optional(4).map(|_| cx.ints(4)).transpose()?;
    let mut maps: Vec<AxisMap> =
        x.dims().iter().zip(strides).map(|(&n, &stride)| axis_map(0..n, stride)).collect();
    for (i, &axis) in axes.iter().enumerate() {
        let axis = axis_index(axis, x.dims().len()).ok_or(EvalError::Unresolved { op: cx.op })?;
        let step = steps.as_ref().map_or(1, |s| s[i]);
        let (first, step, count) = slice_range(x.dims()[axis], starts[i], ends[i], step);
        let index = |k: usize| (first as i64 + k as i64 * step) as usize;
        maps[axis] = axis_map((0..count).map(index), strides[axis]);
    }
    Ok(maps)
}

fn pad(
    cx: &Cx<'_>,
    mode: PadMode,
    x: &Tensor,
    dims: &[usize],
    strides: &[usize],
) -> Result<Vec<AxisMap>, EvalError> {
    let pads = cx.ints(1)?;
    let axes = match cx.optional(3) {
        Some(_) => cx.ints(3)?,
        None => (0..dims.len() as i64).collect(),
    };
    let mut begins = vec![0; dims.len()];
    for (i, &axis) in axes.iter().enumerate() {
        let axis = axis_index(axis, dims.len()).ok_or(EvalError::Unresolved { op: cx.op })?;
        begins[axis] = pads[i];
    }
    let map = |axis: usize| -> Result<AxisMap, EvalError> {
        let extent = x.dims()[axis];
        let source = |i: usize| {
            let (i, n) = (i as i64 - begins[axis], extent as i64);
            if (0..n).contains(&i) {
                return Ok(Some(i));
            }
            match mode {
                PadMode::Constant => Ok(None),
                _ if n == 0 => Err(EvalError::Index { op: cx.op, index: i, extent }),
                PadMode::Edge => Ok(Some(i.clamp(0, n - 1))),
                PadMode::Reflect => {
                    let period = (2 * (n - 1)).max(1);
                    let i = i.rem_euclid(period);
                    Ok(Some(i.min(period - i).min(n - 1)))
                }
            }
        };
        let offset = |i| Ok(source(i)?.map(|i| i as usize * strides[axis]));
        (0..dims[axis]).map(offset).collect()
    };
    (0..dims.len()).map(map).collect()
}

/// The bytes of one padding element: the value operand, else real 0.
fn pad_value(cx: &Cx<'_>, x: &Tensor) -> Result<[u8; 8], EvalError> {
    let mut fill = [0; 8];
    if let Some(value) = cx.optional(2) {
        let units = Units::of(value);
        fill[..units.size].copy_from_slice(&units.bytes[..units.size]);
    } else if let Some(quant) = &x.elem().quant {
        let zeros = quant.zero_points();
        let zero = zeros.first().copied().unwrap_or(0);
        if zeros.iter().any(|&z| z != zero) {
            return Err(cx.storage(x));
        }
        fill[..4].copy_from_slice(&zero.to_le_bytes());
    }
    Ok(fill)
}
