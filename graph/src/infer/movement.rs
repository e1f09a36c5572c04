//! Data movement: elements are copied, so that quantization passes through. Per tensor it always
//! does; per axis where the axis survives whole.

use super::dims::{add, merge_dim, mul, product, rest};
use super::shape::target;
use super::{Cx, InferError, Results, broadcast};
use requant_ir::{DType, Dim, ElemType, MAX_RANK, Op, Quant, QuantParams, TensorType};

pub(super) fn infer(cx: &Cx<'_>, op: &Op) -> Result<TensorType, InferError> {
    match op {
        Op::Identity => {
            cx.arity(1..=1, "1")?;
            Ok(cx.get(0)?.ty.clone())
        }
        Op::Reshape { allow_zero } => {
            cx.arity(2..=2, "2")?;
            let dims = reshape(cx, *allow_zero)?;
            reshaped(cx, dims)
        }
        Op::Flatten { axis } => {
            cx.arity(1..=1, "1")?;
            let Some(x) = &cx.get(0)?.ty.dims else {
                return reshaped(cx, Some(vec![Dim::Unknown; 2]));
            };
            let end = i64::try_from(x.len()).is_ok_and(|rank| *axis == rank);
            let axis = if end { x.len() } else { cx.axis(*axis, x.len())? };
            let both = product(&x[..axis]).zip(product(&x[axis..]));
            let (outer, inner) = both.ok_or_else(|| cx.wrong(0, "small enough to count"))?;
            reshaped(cx, Some(vec![outer, inner]))
        }
        Op::Squeeze { axes } => squeeze(cx, axes),
        Op::Unsqueeze { axes } => unsqueeze(cx, axes),
        Op::Transpose { perm } => transpose(cx, perm),
        Op::Concat { axis } => concat(cx, *axis),
        Op::Slice => slice(cx),
        Op::Gather { axis } => gather(cx, *axis),
        Op::Expand => expand(cx),
        Op::Tile => tile(cx),
        Op::Pad { .. } => pad(cx),
        Op::Cast { to } => {
            cx.arity(1..=1, "1")?;
            let x = cx.get(0)?.ty;
            let four_bits = |d: DType| d.bits() == 4;
            if x.quant().is_some() || four_bits(x.dtype()) {
                return Err(cx.wrong(0, "plain numbers of 8 bits or more"));
            }
            if four_bits(*to) {
                return Err(cx.attribute("to", to.name(), "of 8 bits or more"));
            }
            Ok(TensorType { elem: ElemType::plain(*to), dims: x.dims.clone() })
        }
        Op::Reinterpret { out } => {
            cx.arity(1..=1, "1")?;
            let x = cx.get(0)?.ty;
            if x.dtype() != out.dtype {
                return Err(cx.wrong(0, format!("stored as {}", out.dtype)));
            }
            Ok(TensorType { elem: out.clone(), dims: x.dims.clone() })
        }
        _ => Err(InferError::Custom),
    }
}

/// Operand 0's element type with its quantization axis at `map(axis)`; an error where there is none.
fn mapped(cx: &Cx<'_>, map: impl FnOnce(usize) -> Option<usize>) -> Result<ElemType, InferError> {
    let mut elem = cx.get(0)?.ty.elem.clone();
    match &mut elem.quant {
        Some(Quant { params: QuantParams::PerAxis { axis, .. }, .. }) => {
            *axis = map(*axis).ok_or_else(|| cx.lost(0))?;
        }
        Some(Quant { params: QuantParams::PerBlock { .. }, .. }) => return Err(cx.lost(0)),
        _ => {}
    }
    Ok(elem)
}

/// The type of operand 0's elements in order under other extents.
fn reshaped(cx: &Cx<'_>, dims: Option<Vec<Dim>>) -> Result<TensorType, InferError> {
    let x = cx.get(0)?.ty;
    let elem = mapped(cx, |axis| {
        let (from, to) = (x.dims.as_ref()?, dims.as_ref()?);
        // The axis survives where as many elements come before it and it has the same extent.
        let before = from.get(..axis)?;
        (0..to.len())
            .find(|&i| to[i].same(&from[axis]) && rest(before, &to[..i]) == Some(Dim::Fixed(1)))
    })?;
    Ok(TensorType { elem, dims })
}

fn reshape(cx: &Cx<'_>, allow_zero: bool) -> Result<Option<Vec<Dim>>, InferError> {
    let x = cx.get(0)?.ty.dims.as_deref();
    let shape = cx.plain(1, &[DType::I64, DType::I32])?;
    if shape.ty.rank().is_some_and(|r| r != 1) {
        return Err(cx.wrong(1, "of rank 1"));
    }
    let copied = |i: usize| match x {
        Some(x) => {
            x.get(i).cloned().ok_or_else(|| cx.wrong(1, "without a 0 beyond the operand's rank"))
        }
        None => Ok(Dim::Unknown),
    };
    let mut dims = Vec::new();
    let mut inferred = Vec::new();
    if let Some(values) = shape.constant.and_then(|t| t.to_i64()) {
        for (i, &n) in values.iter().enumerate() {
            dims.push(match usize::try_from(n) {
                Ok(0) if !allow_zero => copied(i)?,
                Ok(n) => Dim::Fixed(n),
                Err(_) if n == -1 => {
                    inferred.push(i);
                    Dim::Unknown
                }
                Err(_) => return Err(cx.wrong(1, "without extents below -1")),
            });
        }
        if inferred.len() > 1 {
            return Err(cx.wrong(1, "with at most one -1"));
        }
    } else if let Some(values) = shape.shape_value {
        for (i, value) in values.iter().enumerate() {
            dims.push(match value {
                Dim::Fixed(0) if !allow_zero => copied(i)?,
                Dim::Unknown => {
                    inferred.push(i);
                    Dim::Unknown
                }
                known => known.clone(),
            });
        }
    } else {
        let rank = cx.count(1).filter(|&n| n <= MAX_RANK);
        return Ok(rank.map(|n| vec![Dim::Unknown; n]));
    }
    let Some(x) = x else { return Ok(Some(dims)) };
    let misfit = || cx.wrong(0, format!("of as many elements as {}", super::show_dims(&dims)));
    // One extent that is unknown, or −1, is what the others leave.
    if let [i] = inferred[..] {
        let others: Vec<Dim> =
            dims.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, d)| d.clone()).collect();
        let left = rest(x, &others).ok_or_else(misfit)?;
        dims[i] = left;
    } else if inferred.is_empty() {
        let fits = match (product(x), product(&dims)) {
            (Some(Dim::Fixed(a)), Some(Dim::Fixed(b))) => a == b,
            (Some(_), Some(_)) => true,
            _ => false,
        };
        if !fits {
            return Err(misfit());
        }
    }
    Ok(Some(dims))
}

fn squeeze(cx: &Cx<'_>, axes: &[i64]) -> Result<TensorType, InferError> {
    cx.arity(1..=1, "1")?;
    let Some(x) = &cx.get(0)?.ty.dims else {
        return Ok(TensorType { elem: mapped(cx, |_| None)?, dims: None });
    };
    let gone = if axes.is_empty() {
        if x.iter().any(|d| d.fixed().is_none()) {
            return Ok(TensorType { elem: mapped(cx, |_| None)?, dims: None });
        }
        (0..x.len()).filter(|&i| x[i] == Dim::Fixed(1)).collect()
    } else {
        cx.axes(axes, x.len())?
    };
    if let Some(&axis) = gone.iter().find(|&&a| x[a].fixed().is_some_and(|n| n != 1)) {
        return Err(cx.wrong(0, format!("of extent 1 along axis {axis}")));
    }
    let kept: Vec<usize> = (0..x.len()).filter(|i| !gone.contains(i)).collect();
    let elem = mapped(cx, |axis| kept.iter().position(|&k| k == axis))?;
    Ok(TensorType::new(elem, kept.iter().map(|&k| x[k].clone()).collect()))
}

fn unsqueeze(cx: &Cx<'_>, axes: &[i64]) -> Result<TensorType, InferError> {
    cx.arity(1..=1, "1")?;
    let Some(x) = &cx.get(0)?.ty.dims else {
        return Ok(TensorType { elem: mapped(cx, |_| None)?, dims: None });
    };
    let rank = x.len() + axes.len();
    if rank > MAX_RANK {
        return Err(cx.attribute("axes", axes.len(), format!("few enough for rank {MAX_RANK}")));
    }
    let new = cx.axes(axes, rank)?;
    let old: Vec<usize> = (0..rank).filter(|i| !new.contains(i)).collect();
    let elem = mapped(cx, |axis| old.get(axis).copied())?;
    let mut from = x.iter();
    let dims = (0..rank)
        .map(|i| if new.contains(&i) { Some(Dim::Fixed(1)) } else { from.next().cloned() })
        .collect::<Option<_>>();
    Ok(TensorType { elem, dims })
}

fn transpose(cx: &Cx<'_>, perm: &[usize]) -> Result<TensorType, InferError> {
    cx.arity(1..=1, "1")?;
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().enumerate().all(|(i, &p)| i == p) {
        return Err(cx.attribute("perm", perm, "a permutation"));
    }
    let elem = mapped(cx, |axis| perm.iter().position(|&p| p == axis))?;
    let dims = match cx.rank(0, perm.len())? {
        Some(x) => perm.iter().map(|&p| x[p].clone()).collect(),
        None => vec![Dim::Unknown; perm.len()],
    };
    Ok(TensorType::new(elem, dims))
}

fn concat(cx: &Cx<'_>, axis: i64) -> Result<TensorType, InferError> {
    cx.arity(1..=usize::from(u16::MAX), "1 or more")?;
    let Some(rank) = cx.operands.iter().flatten().find_map(|o| o.ty.rank()) else {
        (0..cx.operands.len()).try_for_each(|i| cx.like_first(i).map(drop))?;
        return Ok(TensorType { elem: mapped(cx, |_| None)?, dims: None });
    };
    let axis = cx.axis(axis, rank)?;
    let mut dims: Vec<Dim> = vec![Dim::Unknown; rank];
    dims[axis] = Dim::Fixed(0);
    for i in 0..cx.operands.len() {
        cx.like_first(i)?;
        let Some(part) = cx.rank(i, rank)? else {
            dims[axis] = Dim::Unknown;
            continue;
        };
        for (j, dim) in dims.iter_mut().enumerate() {
            *dim = if j == axis {
                add(dim, &part[j]).ok_or_else(|| cx.wrong(i, "small enough to concatenate"))?
            } else {
                merge_dim(&part[j], dim)
                    .map_err(|_| cx.wrong(i, format!("of extent {dim} along axis {j}")))?
            };
        }
    }
    let elem = mapped(cx, |a| (a != axis).then_some(a))?;
    Ok(TensorType::new(elem, dims))
}

/// `Split`: `results` parts, of `sizes` along `axis` or equal ones.
pub(super) fn split(
    cx: &Cx<'_>,
    axis: i64,
    sizes: &[i64],
    results: usize,
) -> Result<Results, InferError> {
    cx.arity(1..=1, "1")?;
    if !sizes.is_empty() && sizes.len() != results {
        let expected = sizes.len();
        return Err(InferError::ResultCount { op: cx.op, expected, got: results });
    }
    let parts = results;
    if parts == 0 {
        return Err(cx.attribute("sizes", sizes, "at least one part"));
    }
    let Some(x) = &cx.get(0)?.ty.dims else {
        let ty = TensorType { elem: mapped(cx, |_| None)?, dims: None };
        return Ok(Results::from_elem(ty, parts));
    };
    let axis = cx.axis(axis, x.len())?;
    let elem = mapped(cx, |a| (a != axis).then_some(a))?;
    let extents: Vec<Dim> = if sizes.is_empty() {
        let equal = match x[axis] {
            Dim::Fixed(n) if n.is_multiple_of(parts) => Dim::Fixed(n / parts),
            Dim::Fixed(_) => {
                let rule = format!("of an extent along axis {axis} that {parts} divides");
                return Err(cx.wrong(0, rule));
            }
            _ if parts == 1 => x[axis].clone(),
            _ => Dim::Unknown,
        };
        vec![equal; parts]
    } else {
        let bad = || cx.attribute("sizes", sizes, format!("positive with sum {}", x[axis]));
        let sizes: Vec<usize> = sizes
            .iter()
            .map(|&n| usize::try_from(n).map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        let sum = sizes.iter().try_fold(0usize, |sum, &n| sum.checked_add(n)).ok_or_else(bad)?;
        if x[axis].fixed().is_some_and(|n| n != sum) {
            return Err(bad());
        }
        sizes.into_iter().map(Dim::Fixed).collect()
    };
    let part = |extent: Dim| {
        let mut dims = x.clone();
        dims[axis] = extent;
        TensorType::new(elem.clone(), dims)
    };
    Ok(extents.into_iter().map(part).collect())
}

/// The indices that `Slice` reads along an axis of extent `n`: first, step, count.
pub(crate) fn slice_range(n: usize, start: i64, end: i64, step: i64) -> (usize, i64, usize) {
    let extent = n as i64;
    let from_front = |i: i64| if i < 0 { i.saturating_add(extent) } else { i };
    let (start, end) = (from_front(start), from_front(end));
    let span = if step > 0 {
        let (start, end) = (start.clamp(0, extent), end.clamp(0, extent));
        (start, end.saturating_sub(start))
    } else {
        let (start, end) = (start.clamp(-1, extent - 1), end.clamp(-1, extent - 1));
        (start, start.saturating_sub(end))
    };
    let count = span.1.max(0).unsigned_abs().div_ceil(step.unsigned_abs().max(1));
    (span.0.max(0) as usize, step, count as usize)
}

fn slice(cx: &Cx<'_>) -> Result<TensorType, InferError> {
    cx.arity(3..=5, "3 to 5")?;
    let x = cx.get(0)?.ty;
    let (starts, ends) = (cx.ints(1)?, cx.ints(2)?);
    let optional = |i| cx.optional(i).map(|_| cx.ints(i)).transpose();
    let (axes, steps) = (optional(3)?, optional(4)?);
    let Some(dims) = &x.dims else {
        return Ok(TensorType { elem: mapped(cx, |_| None)?, dims: None });
    };
    let mut dims = dims.clone();
    let count = starts.as_ref().or(ends.as_ref()).map(Vec::len).or(cx.count(1));
    let axes: Option<Vec<usize>> = match axes {
        Some(Some(axes)) => Some(cx.axes(&axes, dims.len())?),
        Some(None) => None,
        None if count.is_some_and(|n| n > dims.len()) => {
            return Err(cx.wrong(1, format!("of at most {} elements", dims.len())));
        }
        None => count.map(|n| (0..n).collect()),
    };
    let Some(axes) = axes else {
        let elem = mapped(cx, |_| None)?;
        return Ok(TensorType::new(elem, vec![Dim::Unknown; dims.len()]));
    };
    let same_length = |i: usize, ints: Option<&Vec<i64>>| match ints {
        Some(v) if v.len() != axes.len() => Err(cx.wrong(i, format!("of {} elements", axes.len()))),
        _ => Ok(()),
    };
    same_length(1, starts.as_ref())?;
    same_length(2, ends.as_ref())?;
    same_length(4, steps.as_ref().and_then(Option::as_ref))?;
    for (i, &axis) in axes.iter().enumerate() {
        let step = match &steps {
            None => Some(1),
            Some(steps) => steps.as_ref().map(|s| s[i]),
        };
        if step == Some(0) {
            return Err(cx.wrong(4, "without a step of 0"));
        }
        let (start, end) = (starts.as_ref().map(|s| s[i]), ends.as_ref().map(|e| e[i]));
        dims[axis] = match (&dims[axis], start, end, step) {
            (Dim::Fixed(n), Some(start), Some(end), Some(step)) => {
                Dim::Fixed(slice_range(*n, start, end, step).2)
            }
            // The whole axis, however long it is.
            (dim, Some(0), Some(end), Some(1)) if end >= i64::from(i32::MAX) => dim.clone(),
            _ => Dim::Unknown,
        };
    }
    // The quantized axis survives where every index of it is read in order.
    let forward = |a: usize| match (axes.iter().position(|&x| x == a), &steps) {
        (Some(i), Some(steps)) => steps.as_ref().is_some_and(|s| s[i] == 1),
        _ => true,
    };
    let elem = mapped(cx, |a| {
        let whole = dims[a].same(&x.dims.as_ref()?[a]);
        (whole && forward(a)).then_some(a)
    })?;
    Ok(TensorType::new(elem, dims))
}

fn gather(cx: &Cx<'_>, axis: i64) -> Result<TensorType, InferError> {
    cx.arity(2..=2, "2")?;
    let indices = cx.plain(1, &[DType::I64, DType::I32])?.ty;
    let x = cx.get(0)?.ty;
    let (Some(dims), Some(index_dims)) = (&x.dims, &indices.dims) else {
        return Ok(TensorType { elem: mapped(cx, |_| None)?, dims: None });
    };
    let axis = cx.axis(axis, dims.len())?;
    if let (Some(n), Some(constant)) = (dims[axis].fixed(), cx.optional(1).and_then(|o| o.constant))
    {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        let indices = constant.to_i64().unwrap_or_default();
        if let Some(i) = indices.iter().find(|&&i| i >= n || i < -n) {
            return Err(
                cx.wrong(1, format!("within the extent {n} of axis {axis}, which {i} is not"))
            );
        }
    }
    let rank = index_dims.len();
    let elem = mapped(cx, |a| match a.cmp(&axis) {
        std::cmp::Ordering::Less => Some(a),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => (a + rank).checked_sub(1),
    })?;
    let parts = [&dims[..axis], index_dims, &dims[axis + 1..]];
    Ok(TensorType::new(elem, parts.concat()))
}

fn expand(cx: &Cx<'_>) -> Result<TensorType, InferError> {
    cx.arity(2..=2, "2")?;
    let (x, to) = (cx.get(0)?.ty, target(cx, 1)?);
    let dims = match (&x.dims, &to) {
        (Some(x), Some(to)) => Some(
            broadcast(x, to)
                .ok_or_else(|| cx.wrong(0, format!("broadcastable to {}", super::show_dims(to))))?,
        ),
        _ => None,
    };
    let elem = mapped(cx, |axis| {
        let (from, to) = (x.dims.as_ref()?, dims.as_ref()?);
        let new = axis + to.len().checked_sub(from.len())?;
        to[new].same(&from[axis]).then_some(new)
    })?;
    Ok(TensorType { elem, dims })
}

fn tile(cx: &Cx<'_>) -> Result<TensorType, InferError> {
    cx.arity(2..=2, "2")?;
    let x = cx.get(0)?.ty;
    let repeats = target(cx, 1)?;
    let (Some(dims), Some(repeats)) = (&x.dims, repeats) else {
        return Ok(TensorType {
            elem: mapped(cx, |_| None)?,
            dims: x.dims.as_ref().map(|d| vec![Dim::Unknown; d.len()]),
        });
    };
    if dims.len() != repeats.len() {
        return Err(cx.wrong(1, format!("of {} elements", dims.len())));
    }
    let elem = mapped(cx, |a| (repeats[a] == Dim::Fixed(1)).then_some(a))?;
    let tiled: Option<Vec<Dim>> = dims.iter().zip(&repeats).map(|(d, n)| mul(d, n)).collect();
    let tiled = tiled.ok_or_else(|| cx.wrong(1, "small enough"))?;
    Ok(TensorType::new(elem, tiled))
}

fn pad(cx: &Cx<'_>) -> Result<TensorType, InferError> {
    cx.arity(2..=4, "2 to 4")?;
    let x = cx.get(0)?.ty;
    let pads = cx.ints(1)?;
    if let Some(value) = cx.optional(2) {
        if value.ty.dtype() != x.dtype() {
            return Err(cx.wrong(2, format!("stored as {}", x.dtype())));
        }
        if value.ty.elements().is_some_and(|n| n != 1) {
            return Err(cx.wrong(2, "one element"));
        }
    }
    let axes = cx.optional(3).map(|_| cx.ints(3)).transpose()?;
    let Some(dims) = &x.dims else {
        return Ok(TensorType { elem: mapped(cx, |_| None)?, dims: None });
    };
    let axes = match axes {
        None => Some((0..dims.len()).collect()),
        Some(Some(axes)) => Some(cx.axes(&axes, dims.len())?),
        Some(None) => None,
    };
    let (Some(axes), Some(pads)) = (axes, pads) else {
        let elem = mapped(cx, |_| None)?;
        return Ok(TensorType::new(elem, vec![Dim::Unknown; dims.len()]));
    };
    let axes: Vec<usize> = axes;
    if pads.len() != 2 * axes.len() {
        return Err(cx.wrong(1, format!("of {} elements", 2 * axes.len())));
    }
    let mut padded = dims.clone();
    for (i, &axis) in axes.iter().enumerate() {
        let (begin, end) = (pads[i], pads[i + axes.len()]);
        padded[axis] = match &dims[axis] {
            Dim::Fixed(n) => {
                let sum =
                    i64::try_from(*n).ok().and_then(|n| n.checked_add(begin)?.checked_add(end));
                let sum = sum.and_then(|n| usize::try_from(n).ok());
                Dim::Fixed(sum.ok_or_else(|| cx.wrong(1, "such that no extent gets negative"))?)
            }
            dim if begin == 0 && end == 0 => dim.clone(),
            _ => Dim::Unknown,
        };
    }
    let untouched = |a: usize| {
        let i = axes.iter().position(|&x| x == a);
        i.is_none_or(|i| pads[i] == 0 && pads[i + axes.len()] == 0)
    };
    let elem = mapped(cx, |a| untouched(a).then_some(a))?;
    Ok(TensorType::new(elem, padded))
}
