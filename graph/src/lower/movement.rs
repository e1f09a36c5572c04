//! Operators that only move bytes. Where the bytes already lie as the result wants them, nothing is done.

use super::{Builder, Place, Reason, Site, Slot};
use crate::exec::step::Kernel;
use crate::infer;
use requant_ir::{DType, Op, PadMode, Tensor};
use requant_kernels::layout::{Concat, Gather, Pad, StridedCopy};
use smallvec::SmallVec;

pub(super) fn lower(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), Reason> {
    match site.op {
        Op::Identity
        | Op::Reshape { .. }
        | Op::Flatten { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Reinterpret { .. } => {
            let x = b.read(site, 0)?;
            b.view(site, 0, x);
            Ok(())
        }
        Op::Transpose { perm } => {
            let (dims, element) = (site.dims(0)?, site.ty(0)?.dtype());
            let x = b.read(site, 0)?;
            if moves_only_ones(&dims, perm) {
                b.view(site, 0, x);
                return Ok(());
            }
            let y = b.output(site, 0);
            transpose(b, x, &dims, perm, element, y)
        }
        Op::Concat { axis } => concat(b, site, *axis),
        Op::Split { axis, .. } => split(b, site, *axis),
        Op::Slice => slice(b, site),
        Op::Gather { axis } => gather(b, site, *axis),
        Op::Expand => {
            let copy = StridedCopy::expand(
                b.target.cpu,
                &site.dims(0)?,
                &site.out_dims(0)?,
                element_bytes(site)?,
            )?;
            strided(b, site, 0, copy)
        }
        Op::Tile => {
            let repeats = sizes(site, 1)?;
            let copy =
                StridedCopy::tile(b.target.cpu, &site.dims(0)?, &repeats, element_bytes(site)?)?;
            strided(b, site, 0, copy)
        }
        Op::Pad { mode: PadMode::Constant } => pad(b, site),
        _ => Err(Reason::new(format!("no kernel computes {} of this kind", site.op.mnemonic()))),
    }
}

/// Copies `x`, of shape `dims`, to `y` with its axes permuted.
pub(super) fn transpose(
    b: &mut Builder<'_>,
    x: Place,
    dims: &[usize],
    perm: &[usize],
    element: DType,
    y: Place,
) -> Result<(), Reason> {
    let copy = StridedCopy::transpose(b.target.cpu, dims, perm, whole_bytes(element)?)?;
    b.step(Kernel::StridedCopy(Box::new(copy)), [x], y, 0);
    Ok(())
}

/// Whether only axes of extent 1 change their place, so that the bytes stay where they are.
fn moves_only_ones(dims: &[usize], perm: &[usize]) -> bool {
    let long: Vec<usize> = perm.iter().copied().filter(|&p| dims.get(p) != Some(&1)).collect();
    long.is_sorted()
}

fn strided(
    b: &mut Builder<'_>,
    site: &Site<'_>,
    slot: u16,
    copy: StridedCopy,
) -> Result<(), Reason> {
    let x = b.read(site, 0)?;
    let y = b.output(site, slot);
    b.step(Kernel::StridedCopy(Box::new(copy)), [x], y, 0);
    Ok(())
}

fn concat(b: &mut Builder<'_>, site: &Site<'_>, axis: i64) -> Result<(), Reason> {
    let dims = site.out_dims(0)?;
    let axis = Site::axis(axis, dims.len())?;
    let element = element_bytes(site)?;
    let outer: usize = dims[..axis].iter().product();
    let places = (0..site.arity()).map(|i| b.read(site, i)).collect::<Result<Vec<_>, _>>()?;
    let y = b.output(site, 0);
    if outer != 1 {
        let rows = (0..site.arity())
            .map(|i| Ok(site.dims(i)?[axis..].iter().product::<usize>() * element))
            .collect::<Result<_, Reason>>()?;
        b.step(Kernel::Concat(Box::new(Concat::new(b.target.cpu, outer, rows)?)), places, y, 0);
        return Ok(());
    }
    // The parts follow one another: let whoever makes a part for nobody else write it in place.
    let mut offset = 0;
    for (i, x) in places.into_iter().enumerate() {
        let part = Place { offset, bytes: x.bytes, ..y };
        offset += x.bytes;
        let alone = site.operand(i).is_some_and(|o| b.graph.sole_consumer(o).is_some());
        if !(alone && b.move_buffer(x, part)) {
            b.step(Kernel::Copy, [x], part, 0);
        }
    }
    Ok(())
}

fn split(b: &mut Builder<'_>, site: &Site<'_>, axis: i64) -> Result<(), Reason> {
    let dims = site.dims(0)?;
    let axis = Site::axis(axis, dims.len())?;
    let element = element_bytes(site)?;
    let outer: usize = dims[..axis].iter().product();
    let x = b.read(site, 0)?;
    let inner = dims[axis + 1..].iter().product::<usize>() * element;
    let mut start = 0;
    for slot in 0..site.graph.node(site.id).outputs.len() as u16 {
        let part = site.out_dims(slot)?;
        if outer == 1 {
            let place = Place { offset: x.offset + start * inner, bytes: part[axis] * inner, ..x };
            b.view(site, slot, place);
        } else {
            let mut starts = vec![0; dims.len()];
            starts[axis] = start;
            let copy = StridedCopy::slice(
                b.target.cpu,
                &dims,
                &starts,
                &part,
                &vec![1; dims.len()],
                element,
            )?;
            strided(b, site, slot, copy)?;
        }
        start += part[axis];
    }
    Ok(())
}

/// `x, starts, ends, axes?, steps?` with constant bounds.
fn slice(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), Reason> {
    let (dims, out) = (site.dims(0)?, site.out_dims(0)?);
    let (starts, ends) = (integers(site, 1)?, integers(site, 2)?);
    let axes = match site.has(3) {
        true => integers(site, 3)?,
        false => (0..starts.len() as i64).collect(),
    };
    let steps = if site.has(4) { integers(site, 4)? } else { vec![1; starts.len()] };
    if [ends.len(), axes.len(), steps.len()].iter().any(|&n| n != starts.len()) {
        return Err(Reason::new("the lists of a slice differ in length"));
    }
    let (mut from, mut by) = (vec![0usize; dims.len()], vec![1isize; dims.len()]);
    for (i, &axis) in axes.iter().enumerate() {
        let axis = Site::axis(axis, dims.len())?;
        let (first, step, _) = infer::slice_range(dims[axis], starts[i], ends[i], steps[i]);
        from[axis] = first;
        by[axis] = isize::try_from(step).map_err(|_| Reason::new("a slice step is too large"))?;
    }
    let element = element_bytes(site)?;
    let copy = StridedCopy::slice(b.target.cpu, &dims, &from, &out, &by, element)?;
    let first_cut = (0..dims.len()).find(|&i| out[i] != dims[i]);
    let whole_rows = by.iter().all(|&s| s == 1)
        && first_cut.is_none_or(|i| {
            out[..i].iter().product::<usize>() == 1 && out[i + 1..] == dims[i + 1..]
        });
    if whole_rows {
        let x = b.read(site, 0)?;
        let offset =
            first_cut.map_or(0, |i| from[i] * dims[i + 1..].iter().product::<usize>() * element);
        let bytes = out.iter().product::<usize>() * element;
        b.view(site, 0, Place { offset: x.offset + offset, bytes, ..x });
        return Ok(());
    }
    strided(b, site, 0, copy)
}

fn gather(b: &mut Builder<'_>, site: &Site<'_>, axis: i64) -> Result<(), Reason> {
    let dims = site.dims(0)?;
    let axis = Site::axis(axis, dims.len())?;
    let element = element_bytes(site)?;
    let count: usize = site.dims(1)?.iter().product();
    let indices = match (site.ty(1)?.dtype(), site.constant(1)) {
        (DType::I64, _) => b.read(site, 1)?,
        (DType::I32, Some(constant)) => {
            let wide =
                constant.to_i64().ok_or_else(|| Reason::new("the indices are not integers"))?;
            let tensor =
                Tensor::from_slice(&[wide.len()], &wide).map_err(|e| Reason::new(e.to_string()))?;
            b.constant(tensor)
        }
        (dtype, _) => {
            return Err(Reason::new(format!("indices of type {dtype} that are not constant")));
        }
    };
    let outer = dims[..axis].iter().product();
    let inner = dims[axis + 1..].iter().product::<usize>() * element;
    let gather = Gather::new(outer, dims[axis], inner, count)?;
    let x = b.read(site, 0)?;
    let y = b.output(site, 0);
    b.step(Kernel::Gather(gather), [x, indices], y, 0);
    Ok(())
}

/// `x, pads: s64[2·axes], value?, axes?` with constant pads, none negative.
fn pad(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), Reason> {
    let dims = site.dims(0)?;
    let pads = sizes(site, 1)?;
    let axes = match site.has(3) {
        true => integers(site, 3)?,
        false => (0..dims.len() as i64).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(Reason::new("the number of pads is not twice that of the axes"));
    }
    let (mut before, mut after) = (vec![0; dims.len()], vec![0; dims.len()]);
    for (i, &axis) in axes.iter().enumerate() {
        let axis = Site::axis(axis, dims.len())?;
        (before[axis], after[axis]) = (pads[i], pads[axes.len() + i]);
    }
    let ty = site.ty(0)?;
    let element = whole_bytes(ty.dtype())?;
    let value: SmallVec<[u8; 8]> = match (site.has(2), site.constant(2)) {
        (true, Some(value)) if value.dtype() == ty.dtype() && value.len() == 1 => {
            SmallVec::from_slice(value.bytes())
        }
        (true, _) => {
            return Err(Reason::new("the padding value is not a constant of the operand's type"));
        }
        // Real 0, which a quantized tensor stores as its zero point.
        (false, _) => match (ty.quant(), ty.elem.as_per_tensor()) {
            (None, _) => SmallVec::from_elem(0, element),
            (Some(_), Some((_, zero))) => {
                SmallVec::from_slice(&zero.to_le_bytes()[..element.min(4)])
            }
            (Some(_), None) => {
                return Err(Reason::new("a tensor quantized per axis is padded without a value"));
            }
        },
    };
    let pad = Pad::new(&dims, &before, &after, element)?;
    let x = b.read(site, 0)?;
    let y = b.output(site, 0);
    b.step(Kernel::Pad(Box::new(pad), value), [x], y, 0);
    Ok(())
}

/// Bytes of an element of operand 0.
fn element_bytes(site: &Site<'_>) -> Result<usize, Reason> {
    whole_bytes(site.ty(0)?.dtype())
}

fn whole_bytes(dtype: DType) -> Result<usize, Reason> {
    match dtype.bits() {
        4 => Err(Reason::new("elements of 4 bits are not moved one by one")),
        bits => Ok(bits as usize / 8),
    }
}

/// A constant list of integers.
fn integers(site: &Site<'_>, i: usize) -> Result<Vec<i64>, Reason> {
    site.constant(i)
        .and_then(Tensor::to_i64)
        .ok_or_else(|| Reason::new(format!("operand {i} is not a constant list of integers")))
}

/// A constant list of extents.
fn sizes(site: &Site<'_>, i: usize) -> Result<Vec<usize>, Reason> {
    integers(site, i)?
        .into_iter()
        .map(|v| {
            usize::try_from(v).map_err(|_| Reason::new(format!("operand {i} has a negative value")))
        })
        .collect()
}

impl Builder<'_> {
    /// A constant that lowering makes.
    pub(super) fn constant(&mut self, tensor: Tensor) -> Place {
        let place = Place {
            slot: Slot::Constant(self.program.constants.len()),
            offset: 0,
            bytes: tensor.bytes().len(),
        };
        self.program.constants.push(tensor);
        place
    }

    /// Lets the buffer that `from` is the whole of be the bytes `to` of another; false if it is none.
    pub(super) fn move_buffer(&mut self, from: Place, to: Place) -> bool {
        match from.slot {
            Slot::Buffer(i)
                if from.offset == 0
                    && from.bytes == self.program.buffers[i]
                    && self.program.homes[i].is_none() =>
            {
                self.program.homes[i] = Some(to);
                true
            }
            _ => false,
        }
    }
}
