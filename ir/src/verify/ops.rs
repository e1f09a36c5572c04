//! Rules of operators.

use super::{Rule, elem};
use crate::{
    BinaryKind, ConvAttrs, DType, Dim, ElemType, Graph, IntClamp, Layout, Limits, MAX_RANK, Node,
    Op, Padding, PoolAttrs, PoolKind, QOut, Residual, TensorType, UnaryKind, ValueId,
};

type Check = Result<(), Rule>;

/// Ids of the node are in range already.
pub(super) fn check(graph: &Graph, node: &Node, limits: &Limits) -> Check {
    let c = Checker { graph, node, limits };
    c.arity()?;
    c.attributes()
}

/// Required operands, most operands, fewest and most results.
fn arity(op: &Op) -> (usize, usize, usize, usize) {
    const ANY: usize = usize::MAX;
    match op {
        Op::Concat { .. } => (1, ANY, 1, 1),
        Op::Split { .. } => (1, 1, 1, ANY),
        Op::Slice => (3, 5, 1, 1),
        Op::Pad { .. } => (2, 4, 1, 1),
        Op::Range | Op::Where => (3, 3, 1, 1),
        Op::Conv(_) | Op::Gemm { .. } | Op::LayerNorm { .. } | Op::QMatMul { .. } => (2, 3, 1, 1),
        Op::QConv { residual: None, .. } => (2, 3, 1, 1),
        Op::QConv { residual: Some(_), .. } => (2, 4, 1, 1),
        Op::BatchNorm { .. } => (5, 5, 1, 1),
        Op::Reshape { .. }
        | Op::Gather { .. }
        | Op::Expand
        | Op::Tile
        | Op::MatMul
        | Op::Binary(_)
        | Op::QBinary { .. } => (2, 2, 1, 1),
        Op::Custom { .. } => (0, ANY, 1, ANY),
        Op::Identity
        | Op::Flatten { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Transpose { .. }
        | Op::Cast { .. }
        | Op::Reinterpret { .. }
        | Op::Shape { .. }
        | Op::Size
        | Op::ConstantOfShape { .. }
        | Op::Pool(_)
        | Op::Reduce { .. }
        | Op::ArgMax { .. }
        | Op::Unary(_)
        | Op::Softmax { .. }
        | Op::Quantize { .. }
        | Op::Dequantize
        | Op::Requantize(_)
        | Op::QPool { .. }
        | Op::QMean { .. }
        | Op::QSoftmax { .. }
        | Op::Lut { .. } => (1, 1, 1, 1),
    }
}

fn bad<T>(attribute: &'static str, reason: impl Into<String>) -> Result<T, Rule> {
    Err(Rule::Attribute { attribute, reason: reason.into() })
}

struct Checker<'a> {
    graph: &'a Graph,
    node: &'a Node,
    limits: &'a Limits,
}

impl<'a> Checker<'a> {
    fn arity(&self) -> Check {
        let (required, most, fewest_results, most_results) = arity(&self.node.op);
        let (got, results) = (self.node.inputs.len(), self.node.outputs.len());
        if got < required || got > most {
            return Err(Rule::Arity { what: "operands", got, min: required, max: most });
        }
        if results < fewest_results || results > most_results {
            let (min, max) = (fewest_results, most_results);
            return Err(Rule::Arity { what: "results", got: results, min, max });
        }
        let all = matches!(self.node.op, Op::Concat { .. });
        let needed = if all { got } else { required };
        match self.node.inputs[..needed].iter().position(Option::is_none) {
            Some(index) => Err(Rule::MissingOperand { index }),
            None => Ok(()),
        }
    }

    fn ty_of(&self, id: ValueId) -> Option<&'a TensorType> {
        self.graph.value(id)?.ty.as_ref()
    }

    /// Type of an operand, if it is there and known.
    fn operand(&self, index: usize) -> Option<&'a TensorType> {
        self.ty_of((*self.node.inputs.get(index)?)?)
    }

    fn rank(&self, operand: usize) -> Option<usize> {
        self.operand(operand)?.rank()
    }

    fn dims(&self, operand: usize) -> Option<&'a [Dim]> {
        self.operand(operand)?.dims.as_deref()
    }

    /// If the type of an operand is known, `ok` must hold of it.
    fn typed(&self, operand: usize, expected: &str, ok: impl Fn(&TensorType) -> bool) -> Check {
        match self.operand(operand) {
            Some(ty) if !ok(ty) => Err(Rule::Type {
                what: format!("operand {operand}"),
                got: ty.to_string(),
                expected: expected.into(),
            }),
            _ => Ok(()),
        }
    }

    fn quantized_8bit(&self, operand: usize) -> Check {
        self.typed(operand, "s8 or u8 with one scale", |ty| is_8bit_per_tensor(&ty.elem))
    }

    fn bias(&self, operand: usize) -> Check {
        self.typed(operand, "s32[channels]", |ty| {
            ty.dtype() == DType::I32 && ty.rank().is_none_or(|r| r == 1)
        })
    }

    fn axis(&self, axis: i64, rank: Option<usize>) -> Check {
        let n = rank.unwrap_or(MAX_RANK) as i64;
        if (-n..n).contains(&axis) {
            return Ok(());
        }
        bad("axis", format!("is {axis}, which is not in {}..{n}", -n))
    }

    fn axes(&self, axes: &[i64], rank: Option<usize>) -> Check {
        if axes.len() > MAX_RANK {
            return bad("axes", format!("has {} elements", axes.len()));
        }
        let n = rank.unwrap_or(MAX_RANK) as i64;
        let mut seen = Vec::new();
        for &axis in axes {
            if !(-n..n).contains(&axis) {
                return bad("axes", format!("holds {axis}, which is not in {}..{n}", -n));
            }
            let axis = if axis < 0 && rank.is_some() { axis + n } else { axis };
            if seen.contains(&axis) {
                return bad("axes", format!("names axis {axis} twice"));
            }
            seen.push(axis);
        }
        Ok(())
    }

    /// The result's declared type, if any, is the attribute's.
    fn result(&self, out: &ElemType) -> Check {
        match self.ty_of(self.node.outputs[0]) {
            Some(ty) if ty.elem != *out => Err(Rule::Type {
                what: "the result".into(),
                got: ty.elem.to_string(),
                expected: out.to_string(),
            }),
            Some(ty) => elem::check(out, ty.dims.as_deref()),
            None => elem::check(out, None),
        }
    }

    fn clamp(&self, attribute: &'static str, clamp: Option<IntClamp>, dtype: DType) -> Check {
        let Some(IntClamp { min, max }) = clamp else { return Ok(()) };
        let Some((low, high)) = dtype.quant_range() else { return Ok(()) };
        if min > max || min < low || max > high {
            return bad(attribute, format!("is [{min}, {max}], which is no range of {dtype}"));
        }
        Ok(())
    }

    /// The result of an integer operator: 8 bits with one scale, or the raw accumulator if `raw`.
    fn out(&self, out: &QOut, raw: bool) -> Check {
        let accumulator = raw && out.elem.dtype == DType::I32 && out.elem.quant.is_some();
        if !(is_8bit_per_tensor(&out.elem) || accumulator) {
            let more = if raw { ", or s32 with scales" } else { "" };
            return bad(
                "out",
                format!("is {}, but must be s8 or u8 with one scale{more}", out.elem),
            );
        }
        self.clamp("clamp", out.clamp, out.elem.dtype)?;
        self.result(&out.elem)
    }

    fn attributes(&self) -> Check {
        match &self.node.op {
            Op::Identity
            | Op::Slice
            | Op::Expand
            | Op::Tile
            | Op::Pad { .. }
            | Op::Cast { .. }
            | Op::Shape { .. }
            | Op::Size
            | Op::Range
            | Op::Where
            | Op::MatMul
            | Op::Binary(_)
            | Op::Custom { .. } => Ok(()),
            Op::Reshape { .. } => self.typed(1, "s64[rank]", |ty| {
                ty.dtype() == DType::I64 && ty.rank().is_none_or(|r| r == 1)
            }),
            Op::Flatten { axis } => {
                let n = self.rank(0).unwrap_or(MAX_RANK) as i64;
                if (-n..=n).contains(axis) {
                    return Ok(());
                }
                bad("axis", format!("is {axis}, which is not in {}..={n}", -n))
            }
            Op::Unsqueeze { axes } => {
                let rank = self.rank(0).map(|r| r + axes.len());
                if axes.is_empty() || rank.is_some_and(|r| r > MAX_RANK) {
                    return bad("axes", format!("has {} elements", axes.len()));
                }
                self.axes(axes, rank)
            }
            Op::Squeeze { axes } | Op::Reduce { axes, .. } => self.axes(axes, self.rank(0)),
            Op::Transpose { perm } => self.perm(perm),
            Op::Concat { axis } => {
                let rank = (0..self.node.inputs.len()).find_map(|i| self.rank(i));
                self.axis(*axis, rank)
            }
            Op::Split { axis, sizes } => {
                self.axis(*axis, self.rank(0))?;
                if let Some(size) = sizes.iter().find(|s| **s < 0) {
                    return bad("sizes", format!("holds {size}"));
                }
                if !sizes.is_empty() && sizes.len() != self.node.outputs.len() {
                    let (n, results) = (sizes.len(), self.node.outputs.len());
                    return bad("sizes", format!("has {n} elements for {results} results"));
                }
                Ok(())
            }
            Op::Gather { axis } => self.axis(*axis, self.rank(0)),
            Op::Reinterpret { out } => {
                self.typed(0, &format!("stored as {}", out.dtype), |ty| ty.dtype() == out.dtype)?;
                elem::check(out, self.dims(0))?;
                self.result(out)
            }
            Op::ConstantOfShape { value } => {
                if value.len() != 1 {
                    return bad("value", format!("has {} elements, not one", value.len()));
                }
                super::tensor_type(&value.ty(), self.limits)?;
                super::constant(value, &value.ty())
            }
            Op::Conv(conv) => self.conv(conv),
            Op::Gemm { alpha, beta, .. } => {
                finite("alpha", *alpha)?;
                finite("beta", *beta)
            }
            Op::Pool(pool) => self.pool(pool),
            Op::ArgMax { axis, .. } | Op::Softmax { axis, .. } => self.axis(*axis, self.rank(0)),
            Op::Unary(kind) => unary(*kind),
            Op::BatchNorm { epsilon, .. } => epsilon_is_sane(*epsilon),
            Op::LayerNorm { axis, epsilon } => {
                self.axis(*axis, self.rank(0))?;
                epsilon_is_sane(*epsilon)
            }
            Op::Quantize { out, clamp } => {
                if out.quant.is_none() {
                    return bad("out", format!("is {out}, which is not quantized"));
                }
                self.typed(0, "float", |ty| ty.dtype().is_float())?;
                self.clamp("clamp", *clamp, out.dtype)?;
                elem::check(out, self.dims(0))?;
                self.result(out)
            }
            Op::Dequantize => self.typed(0, "quantized", |ty| ty.quant().is_some()),
            Op::Requantize(out) => {
                self.typed(0, "quantized", |ty| ty.quant().is_some())?;
                if out.elem.quant.is_none() {
                    return bad("out", format!("is {}, which is not quantized", out.elem));
                }
                self.clamp("clamp", out.clamp, out.elem.dtype)?;
                self.result(&out.elem)
            }
            Op::QConv { conv, out, zero_folded: _, residual } => {
                self.conv(conv)?;
                self.out(out, residual.is_none())?;
                self.quantized_8bit(0)?;
                self.typed(1, "s8 or u8 with one scale or scales along axis 0", |ty| {
                    is_8bit_weight(ty, 0)
                })?;
                self.bias(2)?;
                residual.as_ref().map_or(Ok(()), |r| self.residual(r))
            }
            Op::QMatMul { trans_b, alpha, out, zero_folded: _ } => {
                finite("alpha", *alpha)?;
                self.out(out, true)?;
                self.quantized_8bit(0)?;
                self.typed(1, "s8 or u8 with one scale or scales along the columns", |ty| {
                    let last = ty.rank().map(|r| r.saturating_sub(if *trans_b { 2 } else { 1 }));
                    last.is_none_or(|axis| is_8bit_weight(ty, axis))
                })?;
                self.bias(2)
            }
            Op::QBinary { kind, flipped: _, out } => {
                if !matches!(kind, BinaryKind::Add | BinaryKind::Mul) {
                    return bad("kind", format!("is {}, but must be add or mul", kind.name()));
                }
                self.quantized_8bit(0)?;
                self.quantized_8bit(1)?;
                self.out(out, false)
            }
            Op::QPool { pool, out } => {
                if pool.kind == PoolKind::Max {
                    return bad("kind", "is max, but must be average");
                }
                self.pool(pool)?;
                self.quantized_8bit(0)?;
                self.out(out, false)
            }
            Op::QMean { axes, out, .. } => {
                self.axes(axes, self.rank(0))?;
                self.quantized_8bit(0)?;
                self.out(out, false)
            }
            Op::QSoftmax { axis, out } => {
                self.axis(*axis, self.rank(0))?;
                self.quantized_8bit(0)?;
                self.out(out, false)
            }
            Op::Lut { table: _, out } => {
                if !out.dtype.is_8bit() {
                    return bad("out", format!("is {out}, but must be s8 or u8"));
                }
                self.typed(0, "s8 or u8", |ty| ty.dtype().is_8bit())?;
                self.result(out)
            }
        }
    }

    fn perm(&self, perm: &[usize]) -> Check {
        if perm.len() > MAX_RANK || self.rank(0).is_some_and(|r| r != perm.len()) {
            return bad("perm", format!("has {} elements", perm.len()));
        }
        match (0..perm.len()).find(|axis| !perm.contains(axis)) {
            Some(axis) => bad("perm", format!("is no permutation: axis {axis} is missing")),
            None => Ok(()),
        }
    }

    fn residual(&self, residual: &Residual) -> Check {
        if !is_8bit_per_tensor(&residual.inner) {
            return bad("residual", "must be s8 or u8 with one scale");
        }
        elem::check(&residual.inner, None)?;
        self.clamp("residual_clamp", residual.inner_clamp, residual.inner.dtype)?;
        if self.node.inputs.get(3).copied().flatten().is_none() {
            return Err(Rule::MissingOperand { index: 3 });
        }
        self.quantized_8bit(3)
    }

    /// One extent for each spatial axis, within `least..=limits.extent`.
    fn extents(&self, attribute: &'static str, items: &[usize], n: usize, least: usize) -> Check {
        if items.len() != n {
            return bad(attribute, format!("has {} elements, not {n}", items.len()));
        }
        match items.iter().find(|v| **v < least || **v as u64 > self.limits.extent) {
            Some(v) => bad(attribute, format!("holds {v}")),
            None => Ok(()),
        }
    }

    fn spatial(&self, attribute: &'static str, n: usize) -> Check {
        if n == 0 || n + 2 > MAX_RANK || self.rank(0).is_some_and(|r| r != n + 2) {
            return bad(
                attribute,
                format!("has {n} elements, which is not the rank of the operand less 2"),
            );
        }
        Ok(())
    }

    fn conv(&self, conv: &ConvAttrs) -> Check {
        let n = conv.strides.len();
        self.spatial("strides", n)?;
        self.extents("strides", &conv.strides, n, 1)?;
        self.extents("dilations", &conv.dilations, n, 1)?;
        if let Padding::Explicit(pads) = &conv.padding {
            self.extents("pads", pads, 2 * n, 0)?;
        }
        if conv.groups == 0 {
            return bad("groups", "is 0");
        }
        self.typed(1, &format!("of rank {}", n + 2), |ty| ty.rank().is_none_or(|r| r == n + 2))?;
        let Some(weight) = self.dims(1) else { return Ok(()) };
        if let Some(c) = weight[0].fixed().filter(|c| c % conv.groups != 0) {
            return bad(
                "groups",
                format!("is {}, which does not divide {c} output channels", conv.groups),
            );
        }
        let channel = match conv.layout {
            Layout::ChannelsFirst => 1,
            Layout::ChannelsLast => n + 1,
        };
        let input = self.dims(0).and_then(|dims| dims[channel].fixed());
        if let (Some(c), Some(per_group)) = (input, weight[1].fixed())
            && per_group.checked_mul(conv.groups) != Some(c)
        {
            return bad(
                "groups",
                format!("is {}, but {c} input channels meet weights of {per_group}", conv.groups),
            );
        }
        if weight[2..].iter().any(|dim| dim.fixed() == Some(0)) {
            return Err(Rule::Shape { reason: "the convolution's window has no elements".into() });
        }
        Ok(())
    }

    fn pool(&self, pool: &PoolAttrs) -> Check {
        let n = pool.kernel.len();
        self.spatial("kernel", n)?;
        self.extents("kernel", &pool.kernel, n, 1)?;
        self.extents("strides", &pool.strides, n, 1)?;
        self.extents("dilations", &pool.dilations, n, 1)?;
        let Padding::Explicit(pads) = &pool.padding else { return Ok(()) };
        self.extents("pads", pads, 2 * n, 0)?;
        for (i, &pad) in pads.iter().enumerate() {
            // A window of padding alone would have no maximum and no mean.
            let (kernel, dilation) = (pool.kernel[i % n], pool.dilations[i % n]);
            if pad > (kernel - 1).saturating_mul(dilation) {
                return bad("pads", format!("holds {pad}, as wide as a window of {kernel}"));
            }
        }
        Ok(())
    }
}

fn is_8bit_per_tensor(elem: &ElemType) -> bool {
    elem.dtype.is_8bit() && elem.as_per_tensor().is_some()
}

fn is_8bit_weight(ty: &TensorType, axis: usize) -> bool {
    ty.dtype().is_8bit()
        && ty.quant().is_some_and(|q| q.as_per_tensor().is_some() || q.axis() == Some(axis))
}

fn finite(attribute: &'static str, value: f32) -> Check {
    if value.is_finite() { Ok(()) } else { bad(attribute, format!("is {value}")) }
}

fn epsilon_is_sane(epsilon: f32) -> Check {
    if epsilon.is_finite() && epsilon >= 0.0 {
        return Ok(());
    }
    bad("epsilon", format!("is {epsilon}"))
}

fn unary(kind: UnaryKind) -> Check {
    match kind {
        UnaryKind::LeakyRelu { alpha } | UnaryKind::Elu { alpha } => finite("alpha", alpha),
        UnaryKind::HardSigmoid { alpha, beta } => {
            finite("alpha", alpha)?;
            finite("beta", beta)
        }
        UnaryKind::Clip { min, max } if min.is_nan() || max.is_nan() => {
            bad("min", format!("is {min} and `max` is {max}"))
        }
        _ => Ok(()),
    }
}
