//! Operators that move elements, and shape arithmetic.

use super::super::builder::{Info, Sym};
use super::super::cx::{Cx, broadcast, req};
use super::super::error::{Failure, malformed, unsupported};
use crate::{DType, Op, PadMode, Tensor};

/// Also Dropout, which does nothing outside of training.
pub(super) fn identity(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x] = cx.take()?;
    pass(cx, req(x, "input")?)
}

fn pass(cx: &mut Cx<'_, '_>, x: Sym) -> Result<(), Failure> {
    let rank = cx.rank(x);
    let (x, elem) = cx.moved(x)?;
    cx.done(Op::Identity, vec![x], Info::new(elem, rank))
}

pub(super) fn dropout(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, _ratio, training] = cx.take()?;
    cx.attrs.ignore(&["ratio", "seed"]);
    if let Some(training) = training
        && cx.const_ints(training, "training modes")? != [0]
    {
        return unsupported("training mode");
    }
    pass(cx, req(x, "data")?)
}

pub(super) fn transpose(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x] = cx.take()?;
    let x = req(x, "data")?;
    let perm: Vec<usize> = match cx.attrs.ints("perm")? {
        None => (0..cx.need_rank(x)?).rev().collect(),
        Some(perm) => {
            let mut seen = vec![false; perm.len()];
            for &axis in perm {
                match usize::try_from(axis).ok().and_then(|a| seen.get_mut(a)) {
                    Some(seen) if !*seen => *seen = true,
                    _ => return malformed(format!("{perm:?} is not a permutation")),
                }
            }
            perm.iter().map(|&a| a as usize).collect()
        }
    };
    if cx.rank(x).is_some_and(|r| r != perm.len()) {
        return malformed(format!("{perm:?} does not permute the operand's axes"));
    }
    let rank = Some(perm.len());
    let (x, elem) = cx.moved(x)?;
    cx.done(Op::Transpose { perm }, vec![x], Info::new(elem, rank))
}

pub(super) fn reshape(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, shape] = cx.take()?;
    let (x, shape) = (req(x, "data")?, req(shape, "shape")?);
    let allow_zero = cx.attrs.flag("allowzero", false)?;
    let rank = cx.ints(shape)?.map(|s| s.len());
    let (x, elem) = cx.moved(x)?;
    let shape = cx.index(shape)?;
    cx.done(Op::Reshape { allow_zero }, vec![x, shape], Info::new(elem, rank))
}

pub(super) fn flatten(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x] = cx.take()?;
    let axis = cx.attrs.int_or("axis", 1)?;
    let (x, elem) = cx.moved(req(x, "input")?)?;
    cx.done(Op::Flatten { axis }, vec![x], Info::new(elem, Some(2)))
}

/// Axes as attribute or as constant operand.
pub(super) fn axes(cx: &mut Cx<'_, '_>, operand: Option<Sym>) -> Result<Option<Vec<i64>>, Failure> {
    match (cx.attrs.ints("axes")?, operand) {
        (Some(_), Some(_)) => malformed("axes are given twice, as operand and as attribute"),
        (Some(axes), None) => Ok(Some(axes.to_vec())),
        (None, Some(sym)) => cx.const_ints(sym, "axes").map(Some),
        (None, None) => Ok(None),
    }
}

pub(super) fn squeeze(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, operand] = cx.take()?;
    let axes = axes(cx, operand)?.unwrap_or_default();
    let x = req(x, "data")?;
    let rank = match cx.rank(x) {
        Some(r) if !axes.is_empty() => r.checked_sub(axes.len()),
        _ => None,
    };
    let (x, elem) = cx.moved(x)?;
    cx.done(Op::Squeeze { axes }, vec![x], Info::new(elem, rank))
}

pub(super) fn unsqueeze(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, operand] = cx.take()?;
    let Some(axes) = axes(cx, operand)? else { return malformed("no axes are given") };
    let x = req(x, "data")?;
    let rank = cx.rank(x).map(|r| r + axes.len());
    let (x, elem) = cx.moved(x)?;
    cx.done(Op::Unsqueeze { axes }, vec![x], Info::new(elem, rank))
}

/// Operands of different quantization are moved as plain numbers; constants take the type of the
/// first operand that is none.
pub(super) fn concat(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let operands = cx.take_all()?;
    let Some(axis) = cx.attrs.int("axis")? else {
        return malformed("attribute `axis` is missing");
    };
    let moving: Vec<_> = operands.iter().copied().filter(|&o| cx.b.constant(o).is_none()).collect();
    let first = *moving.first().unwrap_or(&operands[0]);
    let mut elem = cx.b.info(first).elem.clone();
    let equal = moving.iter().all(|&o| cx.b.info(o).elem == elem);
    if !equal || elem.as_per_tensor().is_none() {
        elem.quant = None;
    }
    if let Some(&other) = operands.iter().find(|&&o| cx.dtype(o) != elem.dtype) {
        return malformed(format!("operands of types {} and {}", elem.dtype, cx.dtype(other)));
    }
    let rank = operands.iter().find_map(|&o| cx.rank(o));
    let mut inputs = Vec::with_capacity(operands.len());
    for o in operands {
        inputs.push(cx.quantized(o, &elem)?);
    }
    cx.done(Op::Concat { axis }, inputs, Info::new(elem, rank))
}

pub(super) fn split(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, sizes] = cx.take()?;
    let x = req(x, "input")?;
    let axis = cx.attrs.int_or("axis", 0)?;
    let parts = cx.node.output.len();
    let sizes = match (cx.attrs.ints("split")?, sizes) {
        (Some(_), Some(_)) => return malformed("sizes are given twice"),
        (Some(sizes), None) => sizes.to_vec(),
        (None, Some(sym)) => cx.const_ints(sym, "sizes of the parts")?,
        (None, None) => Vec::new(),
    };
    if !sizes.is_empty() && sizes.len() != parts {
        return malformed(format!("{} sizes for {parts} results", sizes.len()));
    }
    if let Some(&size) = sizes.iter().find(|&&s| s < 0) {
        return malformed(format!("negative size {size}"));
    }
    if let Some(n) = cx.attrs.int("num_outputs")?
        && n != parts as i64
    {
        return malformed(format!("`num_outputs` is {n}, but there are {parts} results"));
    }
    let rank = cx.rank(x);
    let (x, elem) = cx.moved(x)?;
    cx.done_all(Op::Split { axis, sizes }, vec![x], vec![Info::new(elem, rank); parts])
}

pub(super) fn slice(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, starts, ends, axes, steps] = cx.take()?;
    let (x, starts, ends) = (req(x, "data")?, req(starts, "starts")?, req(ends, "ends")?);
    let rank = cx.rank(x);
    let (x, elem) = cx.moved(x)?;
    let inputs =
        vec![x, cx.index(starts)?, cx.index(ends)?, cx.index_opt(axes)?, cx.index_opt(steps)?];
    cx.done(Op::Slice, inputs, Info::new(elem, rank))
}

pub(super) fn gather(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, indices] = cx.take()?;
    let (x, indices) = (req(x, "data")?, req(indices, "indices")?);
    let axis = cx.attrs.int_or("axis", 0)?;
    let rank = match (cx.rank(x), cx.rank(indices)) {
        (Some(x), Some(i)) => (x + i).checked_sub(1),
        _ => None,
    };
    let (x, elem) = cx.moved(x)?;
    let indices = cx.index(indices)?;
    cx.done(Op::Gather { axis }, vec![x, indices], Info::new(elem, rank))
}

pub(super) fn expand(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, shape] = cx.take()?;
    let (x, shape) = (req(x, "input")?, req(shape, "shape")?);
    let rank = broadcast(cx.rank(x), cx.ints(shape)?.map(|s| s.len()));
    let (x, elem) = cx.moved(x)?;
    let shape = cx.index(shape)?;
    cx.done(Op::Expand, vec![x, shape], Info::new(elem, rank))
}

pub(super) fn tile(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, repeats] = cx.take()?;
    let (x, repeats) = (req(x, "input")?, req(repeats, "repeats")?);
    let rank = cx.rank(x);
    let (x, elem) = cx.moved(x)?;
    let repeats = cx.index(repeats)?;
    cx.done(Op::Tile, vec![x, repeats], Info::new(elem, rank))
}

/// ONNX fills with the stored value 0 where no value is given, the IR with real 0: they differ for
/// quantized numbers, whose fill is therefore always written out.
pub(super) fn pad(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x, pads, value, axes] = cx.take()?;
    let (x, pads) = (req(x, "data")?, req(pads, "pads")?);
    let mode = match cx.attrs.string("mode")?.unwrap_or("constant") {
        "constant" => PadMode::Constant,
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        other => return unsupported(format!("mode `{other}`")),
    };
    let rank = cx.rank(x);
    let (x, elem) = cx.moved(x)?;
    let value = match value {
        Some(v) if cx.dtype(v) != elem.dtype => {
            return malformed(format!("a {} fill for {} elements", cx.dtype(v), elem.dtype));
        }
        Some(v) => cx.quantized(v, &elem)?,
        None if elem.quant.is_some() && mode == PadMode::Constant => {
            let zero = Tensor::zeros(elem.clone(), Vec::new())?;
            let name = format!("{}/fill", cx.name);
            Some(cx.b.fresh_constant(&name, zero)?)
        }
        None => None,
    };
    let inputs = vec![x, cx.index(pads)?, value, cx.index_opt(axes)?];
    cx.done(Op::Pad { mode }, inputs, Info::new(elem, rank))
}

pub(super) fn shape(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x] = cx.take()?;
    let (start, end) = (cx.attrs.int_or("start", 0)?, cx.attrs.int("end")?);
    let (x, _) = cx.moved(req(x, "data")?)?;
    cx.done(Op::Shape { start, end }, vec![x], Info::plain(DType::I64, Some(1)))
}

pub(super) fn size(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [x] = cx.take()?;
    let (x, _) = cx.moved(req(x, "data")?)?;
    cx.done(Op::Size, vec![x], Info::plain(DType::I64, Some(0)))
}

pub(super) fn constant_of_shape(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [shape] = cx.take()?;
    let shape = req(shape, "input")?;
    let value = match cx.attrs.tensor("value")? {
        Some(t) => cx.read_tensor(t)?,
        None => Tensor::scalar(0f32),
    };
    if value.len() != 1 {
        return malformed(format!("the fill has {} elements, not one", value.len()));
    }
    let info = Info::new(value.elem().clone(), cx.ints(shape)?.map(|s| s.len()));
    let shape = cx.index(shape)?;
    cx.done(Op::ConstantOfShape { value }, vec![shape], info)
}

pub(super) fn range(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [start, limit, delta] = cx.take()?;
    let (start, limit, delta) = (req(start, "start")?, req(limit, "limit")?, req(delta, "delta")?);
    let info = Info::plain(cx.dtype(start), Some(1));
    let inputs = vec![cx.plain(start)?, cx.plain(limit)?, cx.plain(delta)?];
    cx.done(Op::Range, inputs, info)
}

/// A constant as a node: no node of the IR.
pub(super) fn constant(cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
    let [] = cx.take()?;
    let len = |n: usize| [n];
    let value = if let Some(t) = cx.attrs.tensor("value")? {
        cx.read_tensor(t)?
    } else if let Some(v) = cx.attrs.float("value_float")? {
        Tensor::scalar(v)
    } else if let Some(v) = cx.attrs.floats("value_floats")? {
        Tensor::from_slice(&len(v.len()), v)?
    } else if let Some(v) = cx.attrs.int("value_int")? {
        Tensor::scalar(v)
    } else if let Some(v) = cx.attrs.ints("value_ints")? {
        Tensor::from_slice(&len(v.len()), v)?
    } else if cx.node.attribute.is_empty() {
        return malformed("no value is given");
    } else {
        return unsupported("a sparse or text value");
    };
    cx.attrs.finish()?;
    let name = cx.node.output.first().cloned().unwrap_or_default();
    cx.b.define_constant(&name, value)?;
    Ok(())
}
