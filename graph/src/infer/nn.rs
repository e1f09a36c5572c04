//! Float operators.

use super::dims::merge_dim;
use super::{Cx, InferError, window};
use requant_ir::{
    BinaryKind, ConvAttrs, DType, Dim, ElemType, Layout, Op, Padding, PoolAttrs, PoolKind,
    ReduceKind, TensorType, UnaryKind,
};

const NUMBERS: [DType; 9] = [
    DType::F32,
    DType::F16,
    DType::F64,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::U16,
    DType::I8,
    DType::U8,
];

pub(super) fn infer(cx: &Cx<'_>, op: &Op) -> Result<TensorType, InferError> {
    match op {
        Op::Conv(conv) => {
            cx.arity(2..=3, "2 or 3")?;
            let x = cx.float(0)?;
            (1..3)
                .filter(|&i| cx.optional(i).is_some())
                .try_for_each(|i| cx.like_first(i).map(drop))?;
            let dims = convolution(cx, conv)?;
            Ok(TensorType { elem: x.ty.elem.clone(), dims })
        }
        Op::MatMul => {
            cx.arity(2..=2, "2")?;
            let a = cx.float(0)?;
            cx.like_first(1)?;
            Ok(TensorType { elem: a.ty.elem.clone(), dims: matmul(cx, false)? })
        }
        Op::Gemm { trans_a, trans_b, .. } => gemm(cx, *trans_a, *trans_b),
        Op::Pool(pool) => {
            cx.arity(1..=1, "1")?;
            let x = cx.get(0)?;
            let quantized = x.ty.dtype().is_8bit() && x.ty.elem.as_per_tensor().is_some();
            if !(pool.kind == PoolKind::Max && quantized) {
                cx.float(0)?;
            }
            Ok(TensorType { elem: x.ty.elem.clone(), dims: pooled(cx, pool)? })
        }
        Op::Reduce { kind, axes, keep_dims } => {
            cx.arity(1..=1, "1")?;
            let x = match kind {
                ReduceKind::Mean => cx.float(0)?,
                _ => cx.plain(0, &NUMBERS)?,
            };
            Ok(TensorType { elem: x.ty.elem.clone(), dims: reduced(cx, axes, *keep_dims)? })
        }
        Op::ArgMax { axis, keep_dims } => {
            cx.arity(1..=1, "1")?;
            // Scales are positive: the order of stored values is that of the real ones.
            if cx.get(0)?.ty.elem.as_per_tensor().is_none() {
                cx.plain(0, &NUMBERS)?;
            }
            let dims = reduced(cx, &[*axis], *keep_dims)?;
            Ok(TensorType { elem: ElemType::plain(DType::I64), dims })
        }
        Op::Unary(kind) => {
            cx.arity(1..=1, "1")?;
            use UnaryKind::{Abs, Clip, Neg, Not, Relu, Sign};
            let x = match kind {
                Not => cx.plain(0, &[DType::Bool])?,
                Abs | Neg | Sign | Relu | Clip { .. } => cx.plain(0, &NUMBERS)?,
                _ => cx.float(0)?,
            };
            Ok(x.ty.clone())
        }
        Op::Binary(kind) => {
            cx.arity(2..=2, "2")?;
            use BinaryKind::{And, Equal, Or, Xor};
            let a = match kind {
                And | Or | Xor => cx.plain(0, &[DType::Bool])?,
                Equal if cx.get(0)?.ty.dtype() == DType::Bool => cx.plain(0, &[DType::Bool])?,
                BinaryKind::PRelu => cx.float(0)?,
                _ => cx.plain(0, &NUMBERS)?,
            };
            cx.like_first(1)?;
            let dtype = if kind.is_comparison() { DType::Bool } else { a.ty.dtype() };
            let dims = cx.broadcast(0, 1)?;
            if *kind == BinaryKind::PRelu
                && !one_way(cx.get(0)?.ty.dims.as_deref(), dims.as_deref())
            {
                return Err(cx.wrong(1, "broadcastable to operand 0"));
            }
            Ok(TensorType { elem: ElemType::plain(dtype), dims })
        }
        Op::BatchNorm { epsilon, layout } => {
            cx.arity(5..=5, "5")?;
            let x = cx.float(0)?;
            positive(cx, "epsilon", *epsilon)?;
            let mut dims = x.ty.dims.clone();
            let rank = dims.as_ref().map(Vec::len);
            if rank.is_some_and(|r| r < 2) {
                return Err(cx.wrong(0, "of rank 2 or more"));
            }
            for i in 1..5 {
                cx.like_first(i)?;
                if let (Some(c), Some(dims)) = (cx.rank(i, 1)?, &mut dims) {
                    let axis = if *layout == Layout::ChannelsFirst { 1 } else { dims.len() - 1 };
                    let extent = &mut dims[axis];
                    *extent = merge_dim(extent, &c[0])
                        .map_err(|_| cx.wrong(i, format!("of {extent} elements")))?;
                }
            }
            Ok(TensorType { elem: x.ty.elem.clone(), dims })
        }
        Op::LayerNorm { axis, epsilon } => {
            cx.arity(2..=3, "2 or 3")?;
            let x = cx.float(0)?;
            positive(cx, "epsilon", *epsilon)?;
            for i in (1..3).filter(|&i| cx.optional(i).is_some()) {
                cx.like_first(i)?;
                let Some(dims) = &x.ty.dims else { continue };
                let from = cx.axis(*axis, dims.len())?;
                let normalized = &dims[from..];
                let fits = cx.get(i)?.ty.dims.as_ref().is_none_or(|s| {
                    s.len() <= normalized.len()
                        && one_way(Some(normalized), super::broadcast(normalized, s).as_deref())
                });
                if !fits {
                    return Err(
                        cx.wrong(i, format!("broadcastable to {}", super::show_dims(normalized)))
                    );
                }
            }
            Ok(x.ty.clone())
        }
        Op::Softmax { axis, flatten } => {
            cx.arity(1..=1, "1")?;
            let x = cx.float(0)?;
            if let Some(rank) = x.ty.rank() {
                // Flattened from the end on, every row is one element.
                let past = *flatten && i64::try_from(rank).is_ok_and(|r| r == *axis);
                if !past {
                    cx.axis(*axis, rank)?;
                }
            }
            Ok(x.ty.clone())
        }
        _ => Err(InferError::Custom),
    }
}

fn positive(cx: &Cx<'_>, what: &'static str, value: f32) -> Result<(), InferError> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(cx.attribute(what, value, "finite and not negative"))
    }
}

/// True unless broadcasting with something has certainly changed `from` into another shape.
fn one_way(from: Option<&[Dim]>, to: Option<&[Dim]>) -> bool {
    match (from, to) {
        (Some(from), Some(to)) => {
            from.len() == to.len()
                && from.iter().zip(to).all(|(f, t)| f.fixed().is_none_or(|f| t.fixed() == Some(f)))
        }
        _ => true,
    }
}

/// Where the spatial axes of an image of this rank begin, and which axis its channels are.
fn axes(layout: Layout, rank: usize) -> (usize, usize) {
    match layout {
        Layout::ChannelsFirst => (2, 1),
        Layout::ChannelsLast => (1, rank - 1),
    }
}

/// The result shape of a convolution of operand 0 by operand 1, with an optional bias operand 2.
pub(super) fn convolution(cx: &Cx<'_>, conv: &ConvAttrs) -> Result<Option<Vec<Dim>>, InferError> {
    let spatial = conv.strides.len();
    let rank = spatial + 2;
    if spatial == 0 || conv.groups == 0 {
        return Err(cx.attribute(
            "strides and groups",
            (&conv.strides, conv.groups),
            "one stride for each spatial axis, and a group",
        ));
    }
    let (x, w) = (cx.rank(0, rank)?, cx.rank(1, rank)?);
    let bias = match cx.optional(2) {
        Some(_) => cx.rank(2, 1)?,
        None => None,
    };
    let mut dims = vec![Dim::Unknown; rank];
    let (first, channel) = axes(conv.layout, rank);
    if let Some(x) = x {
        dims[0] = x[0].clone();
    }
    if let Some(w) = w {
        dims[channel] = w[0].clone();
        if w[0].fixed().is_some_and(|n| !n.is_multiple_of(conv.groups)) {
            return Err(cx.wrong(1, format!("of a multiple of {} output channels", conv.groups)));
        }
        if let (Some(x), Some(c)) = (x, w[1].fixed()) {
            let inputs = c.checked_mul(conv.groups);
            if x[channel].fixed().is_some_and(|n| Some(n) != inputs) {
                let rule = format!(
                    "of as many input channels as operand 0 ({}) in {} groups",
                    x[channel], conv.groups
                );
                return Err(cx.wrong(1, rule));
            }
        }
    }
    if let Some([bias]) = bias {
        dims[channel] = merge_dim(&dims[channel], bias)
            .map_err(|_| cx.wrong(2, format!("of {} elements", dims[channel])))?;
    }
    for i in 0..spatial {
        let input = x.and_then(|x| x[first + i].fixed());
        let kernel = w.and_then(|w| w[2 + i].fixed());
        if let (Some(input), Some(kernel)) = (input, kernel) {
            let steps = (&conv.strides[..], &conv.dilations[..]);
            let window = window(i, spatial, input, kernel, steps, &conv.padding, false);
            dims[first + i] = Dim::Fixed(
                window
                    .ok_or_else(|| geometry(cx, &conv.strides, &conv.dilations, &conv.padding))?
                    .output,
            );
        }
    }
    Ok(Some(dims))
}

fn geometry(cx: &Cx<'_>, strides: &[usize], dilations: &[usize], padding: &Padding) -> InferError {
    let pads = match padding {
        Padding::Explicit(pads) => format!("pads {pads:?}"),
        Padding::SameUpper => "padding to the same size, more at the end".to_owned(),
        Padding::SameLower => "padding to the same size, more at the beginning".to_owned(),
    };
    InferError::Attribute {
        op: cx.op,
        attribute: "geometry",
        got: format!("strides {strides:?}, dilations {dilations:?}, {pads}"),
        rule: "one stride, dilation and pair of pads for each spatial axis, with a window that fits into the padded input".into(),
    }
}

/// The result shape of a pool of operand 0.
pub(super) fn pooled(cx: &Cx<'_>, pool: &PoolAttrs) -> Result<Option<Vec<Dim>>, InferError> {
    let spatial = pool.kernel.len();
    let rank = spatial + 2;
    if spatial == 0 {
        return Err(geometry(cx, &pool.strides, &pool.dilations, &pool.padding));
    }
    let x = cx.rank(0, rank)?;
    let (first, channel) = axes(pool.layout, rank);
    let mut dims = vec![Dim::Unknown; rank];
    if let Some(x) = x {
        dims[0] = x[0].clone();
        dims[channel] = x[channel].clone();
    }
    for i in 0..spatial {
        // Checked with some extent even where the real one is not known yet.
        let input = x.and_then(|x| x[first + i].fixed());
        let steps = (&pool.strides[..], &pool.dilations[..]);
        let window =
            |n| window(i, spatial, n, pool.kernel[i], steps, &pool.padding, pool.ceil_mode);
        match input {
            Some(n) => {
                let window = window(n)
                    .ok_or_else(|| geometry(cx, &pool.strides, &pool.dilations, &pool.padding))?;
                dims[first + i] = Dim::Fixed(window.output);
            }
            None => {
                window(1 << 31)
                    .ok_or_else(|| geometry(cx, &pool.strides, &pool.dilations, &pool.padding))?;
            }
        }
    }
    Ok(Some(dims))
}

/// The result shape of NumPy's matmul of operands 0 and 1, the latter `[N, K]` if `trans_b`.
pub(super) fn matmul(cx: &Cx<'_>, trans_b: bool) -> Result<Option<Vec<Dim>>, InferError> {
    let (Some(a), Some(b)) = (&cx.get(0)?.ty.dims, &cx.get(1)?.ty.dims) else { return Ok(None) };
    if a.is_empty() {
        return Err(cx.wrong(0, "of rank 1 or more"));
    }
    if b.is_empty() || (trans_b && b.len() == 1) {
        return Err(cx.wrong(1, "of rank 1 or more, 2 or more if transposed"));
    }
    let (m, k) = (a.len().checked_sub(2).map(|i| &a[i]), &a[a.len() - 1]);
    let (n, k2) = match (b.len(), trans_b) {
        (1, _) => (None, &b[0]),
        (r, false) => (Some(&b[r - 1]), &b[r - 2]),
        (r, true) => (Some(&b[r - 2]), &b[r - 1]),
    };
    if merge_dim(k, k2).is_err() {
        return Err(cx.wrong(1, format!("of {k} rows, as many as operand 0 has columns")));
    }
    let batch = |d: &'_ [Dim]| d[..d.len().saturating_sub(2)].to_vec();
    let mut dims = super::broadcast(&batch(a), &batch(b))
        .ok_or_else(|| cx.wrong(1, "of leading extents that broadcast with operand 0's"))?;
    dims.extend(m.into_iter().chain(n).cloned());
    Ok(Some(dims))
}

fn gemm(cx: &Cx<'_>, trans_a: bool, trans_b: bool) -> Result<TensorType, InferError> {
    cx.arity(2..=3, "2 or 3")?;
    let elem = cx.float(0)?.ty.elem.clone();
    cx.like_first(1)?;
    let (a, b) = (cx.rank(0, 2)?, cx.rank(1, 2)?);
    let of = |dims: Option<&[Dim]>, i: usize| dims.map_or(Dim::Unknown, |d| d[i].clone());
    let (m, k) = (of(a, usize::from(trans_a)), of(a, usize::from(!trans_a)));
    let (k2, n) = (of(b, usize::from(trans_b)), of(b, usize::from(!trans_b)));
    if merge_dim(&k, &k2).is_err() {
        return Err(cx.wrong(1, format!("of inner extent {k}")));
    }
    let dims = vec![m, n];
    if cx.optional(2).is_some() {
        cx.like_first(2)?;
        if let Some(c) = &cx.get(2)?.ty.dims
            && !one_way(Some(&dims), super::broadcast(&dims, c).as_deref().or(Some(&[])))
        {
            return Err(cx.wrong(2, format!("broadcastable to {}", super::show_dims(&dims))));
        }
    }
    Ok(TensorType::new(elem, dims))
}

/// The shape of operand 0 without `axes` (all when empty), or with extent 1 in their place.
pub(super) fn reduced(
    cx: &Cx<'_>,
    axes: &[i64],
    keep_dims: bool,
) -> Result<Option<Vec<Dim>>, InferError> {
    let Some(x) = &cx.get(0)?.ty.dims else {
        return Ok((axes.is_empty() && !keep_dims).then(Vec::new));
    };
    let gone = if axes.is_empty() { (0..x.len()).collect() } else { cx.axes(axes, x.len())? };
    let dims = x.iter().enumerate().filter_map(|(i, d)| match gone.contains(&i) {
        true if keep_dims => Some(Dim::Fixed(1)),
        true => None,
        false => Some(d.clone()),
    });
    Ok(Some(dims.collect()))
}
