//! Operators to and from messages.

use super::decode::{self, Part, elem_type, malformed, number, required, sizes};
use super::encode as to_pb;
use super::enums::{Numbered, unary_from_pb, unary_to_pb};
use super::pb;
use crate::{ConvAttrs, IntClamp, Op, Padding, PoolAttrs, QOut, Residual};
use pb::node::Op as Pb;

pub(super) fn encode(op: &Op) -> Pb {
    const EMPTY: pb::Empty = pb::Empty {};
    match op {
        Op::Identity => Pb::Identity(EMPTY),
        Op::Reshape { allow_zero } => Pb::Reshape(pb::Reshape { allow_zero: *allow_zero }),
        Op::Flatten { axis } => Pb::Flatten(pb::Flatten { axis: *axis }),
        Op::Squeeze { axes } => Pb::Squeeze(pb::Squeeze { axes: axes.clone() }),
        Op::Unsqueeze { axes } => Pb::Unsqueeze(pb::Unsqueeze { axes: axes.clone() }),
        Op::Transpose { perm } => {
            Pb::Transpose(pb::Transpose { perm: perm.iter().map(|&axis| axis as u32).collect() })
        }
        Op::Concat { axis } => Pb::Concat(pb::Concat { axis: *axis }),
        Op::Split { axis, sizes } => Pb::Split(pb::Split { axis: *axis, sizes: sizes.clone() }),
        Op::Slice => Pb::Slice(EMPTY),
        Op::Gather { axis } => Pb::Gather(pb::Gather { axis: *axis }),
        Op::Expand => Pb::Expand(EMPTY),
        Op::Tile => Pb::Tile(EMPTY),
        Op::Pad { mode } => Pb::Pad(pb::Pad { mode: mode.number() }),
        Op::Cast { to } => Pb::Cast(pb::Cast { to: to.number() }),
        Op::Reinterpret { out } => {
            Pb::Reinterpret(pb::Reinterpret { out: Some(to_pb::elem_type(out)) })
        }
        Op::Shape { start, end } => Pb::Shape(pb::ShapeOf { start: *start, end: *end }),
        Op::Size => Pb::Size(EMPTY),
        Op::ConstantOfShape { value } => {
            Pb::ConstantOfShape(pb::ConstantOfShape { value: Some(to_pb::tensor(value)) })
        }
        Op::Range => Pb::Range(EMPTY),
        Op::Where => Pb::Where(EMPTY),
        Op::Conv(conv) => Pb::Conv(conv_to_pb(conv)),
        Op::MatMul => Pb::Matmul(EMPTY),
        &Op::Gemm { alpha, beta, trans_a, trans_b } => {
            Pb::Gemm(pb::Gemm { alpha: Some(alpha), beta: Some(beta), trans_a, trans_b })
        }
        Op::Pool(pool) => Pb::Pool(pool_to_pb(pool)),
        Op::Reduce { kind, axes, keep_dims } => Pb::Reduce(pb::Reduce {
            kind: kind.number(),
            axes: axes.clone(),
            keep_dims: *keep_dims,
        }),
        &Op::ArgMax { axis, keep_dims } => Pb::ArgMax(pb::ArgMax { axis, keep_dims }),
        Op::Unary(kind) => Pb::Unary(unary_to_pb(*kind)),
        Op::Binary(kind) => Pb::Binary(pb::Binary { kind: kind.number() }),
        &Op::BatchNorm { epsilon, layout } => {
            Pb::BatchNorm(pb::BatchNorm { epsilon: Some(epsilon), layout: layout.number() })
        }
        &Op::LayerNorm { axis, epsilon } => {
            Pb::LayerNorm(pb::LayerNorm { axis, epsilon: Some(epsilon) })
        }
        &Op::Softmax { axis, flatten } => Pb::Softmax(pb::Softmax { axis, flatten }),
        Op::Quantize { out, clamp } => Pb::Quantize(pb::Quantize {
            out: Some(to_pb::elem_type(out)),
            clamp: clamp.map(clamp_to_pb),
        }),
        Op::Dequantize => Pb::Dequantize(EMPTY),
        Op::Requantize(out) => Pb::Requantize(out_to_pb(out)),
        Op::QConv { conv, out, zero_folded, residual } => Pb::Qconv(Box::new(pb::QConv {
            conv: Some(conv_to_pb(conv)),
            out: Some(out_to_pb(out)),
            zero_folded: *zero_folded,
            residual: residual.as_ref().map(|r| pb::Residual {
                inner: Some(to_pb::elem_type(&r.inner)),
                inner_clamp: r.inner_clamp.map(clamp_to_pb),
                conv_is_lhs: r.conv_is_lhs,
            }),
        })),
        Op::QMatMul { trans_b, alpha, out, zero_folded } => Pb::Qmatmul(pb::QMatMul {
            trans_b: *trans_b,
            alpha: Some(*alpha),
            out: Some(out_to_pb(out)),
            zero_folded: *zero_folded,
        }),
        Op::QBinary { kind, flipped, out } => Pb::Qbinary(pb::QBinary {
            kind: kind.number(),
            flipped: *flipped,
            out: Some(out_to_pb(out)),
        }),
        Op::QPool { pool, out } => Pb::Qpool(Box::new(pb::QPool {
            pool: Some(pool_to_pb(pool)),
            out: Some(out_to_pb(out)),
        })),
        Op::QMean { axes, keep_dims, out } => Pb::Qmean(pb::QMean {
            axes: axes.clone(),
            keep_dims: *keep_dims,
            out: Some(out_to_pb(out)),
        }),
        Op::QSoftmax { axis, out } => {
            Pb::Qsoftmax(pb::QSoftmax { axis: *axis, out: Some(out_to_pb(out)) })
        }
        Op::Lut { table, out } => {
            Pb::Lut(pb::Lut { table: table.to_vec().into(), out: Some(to_pb::elem_type(out)) })
        }
        Op::Custom { domain, name, version, payload } => Pb::Custom(pb::Custom {
            domain: domain.clone(),
            name: name.clone(),
            version: *version,
            payload: payload.clone().into(),
        }),
    }
}

pub(super) fn decode(op: &Pb) -> Part<Op> {
    Ok(match op {
        Pb::Identity(_) => Op::Identity,
        Pb::Reshape(a) => Op::Reshape { allow_zero: a.allow_zero },
        Pb::Flatten(a) => Op::Flatten { axis: a.axis },
        Pb::Squeeze(a) => Op::Squeeze { axes: a.axes.clone() },
        Pb::Unsqueeze(a) => Op::Unsqueeze { axes: a.axes.clone() },
        Pb::Transpose(a) => {
            let perm = a.perm.iter().map(|&axis| decode::size(axis.into()));
            Op::Transpose { perm: perm.collect::<Part<_>>()? }
        }
        Pb::Concat(a) => Op::Concat { axis: a.axis },
        Pb::Split(a) => Op::Split { axis: a.axis, sizes: a.sizes.clone() },
        Pb::Slice(_) => Op::Slice,
        Pb::Gather(a) => Op::Gather { axis: a.axis },
        Pb::Expand(_) => Op::Expand,
        Pb::Tile(_) => Op::Tile,
        Pb::Pad(a) => Op::Pad { mode: number(a.mode)? },
        Pb::Cast(a) => Op::Cast { to: number(a.to)? },
        Pb::Reinterpret(a) => Op::Reinterpret { out: elem_type(&a.out)? },
        Pb::Shape(a) => Op::Shape { start: a.start, end: a.end },
        Pb::Size(_) => Op::Size,
        Pb::ConstantOfShape(a) => Op::ConstantOfShape { value: decode::tensor(&a.value)? },
        Pb::Range(_) => Op::Range,
        Pb::Where(_) => Op::Where,
        Pb::Conv(a) => Op::Conv(conv_from_pb(a)?),
        Pb::Matmul(_) => Op::MatMul,
        Pb::Gemm(a) => Op::Gemm {
            alpha: *required(&a.alpha, "alpha")?,
            beta: *required(&a.beta, "beta")?,
            trans_a: a.trans_a,
            trans_b: a.trans_b,
        },
        Pb::Pool(a) => Op::Pool(pool_from_pb(a)?),
        Pb::Reduce(a) => {
            Op::Reduce { kind: number(a.kind)?, axes: a.axes.clone(), keep_dims: a.keep_dims }
        }
        Pb::ArgMax(a) => Op::ArgMax { axis: a.axis, keep_dims: a.keep_dims },
        Pb::Unary(a) => Op::Unary(unary_from_pb(a)?),
        Pb::Binary(a) => Op::Binary(number(a.kind)?),
        Pb::BatchNorm(a) => {
            Op::BatchNorm { epsilon: *required(&a.epsilon, "epsilon")?, layout: number(a.layout)? }
        }
        Pb::LayerNorm(a) => {
            Op::LayerNorm { axis: a.axis, epsilon: *required(&a.epsilon, "epsilon")? }
        }
        Pb::Softmax(a) => Op::Softmax { axis: a.axis, flatten: a.flatten },
        Pb::Quantize(a) => Op::Quantize { out: elem_type(&a.out)?, clamp: clamp_from_pb(&a.clamp) },
        Pb::Dequantize(_) => Op::Dequantize,
        Pb::Requantize(a) => Op::Requantize(out_from_pb(a)?),
        Pb::Qconv(a) => Op::QConv {
            conv: conv_from_pb(required(&a.conv, "the geometry")?)?,
            out: out_of(&a.out)?,
            zero_folded: a.zero_folded,
            residual: a.residual.as_ref().map(residual_from_pb).transpose()?,
        },
        Pb::Qmatmul(a) => Op::QMatMul {
            trans_b: a.trans_b,
            alpha: *required(&a.alpha, "alpha")?,
            out: out_of(&a.out)?,
            zero_folded: a.zero_folded,
        },
        Pb::Qbinary(a) => {
            Op::QBinary { kind: number(a.kind)?, flipped: a.flipped, out: out_of(&a.out)? }
        }
        Pb::Qpool(a) => Op::QPool {
            pool: pool_from_pb(required(&a.pool, "the geometry")?)?,
            out: out_of(&a.out)?,
        },
        Pb::Qmean(a) => {
            Op::QMean { axes: a.axes.clone(), keep_dims: a.keep_dims, out: out_of(&a.out)? }
        }
        Pb::Qsoftmax(a) => Op::QSoftmax { axis: a.axis, out: out_of(&a.out)? },
        Pb::Lut(a) => match <[u8; 256]>::try_from(&a.table[..]) {
            Ok(table) => Op::Lut { table: table.into(), out: elem_type(&a.out)? },
            Err(_) => return malformed(format!("a table of {} bytes, not 256", a.table.len())),
        },
        Pb::Custom(a) => Op::Custom {
            domain: a.domain.clone(),
            name: a.name.clone(),
            version: a.version,
            payload: a.payload.to_vec(),
        },
    })
}

fn to_u64(items: &[usize]) -> Vec<u64> {
    items.iter().map(|&n| n as u64).collect()
}

fn padding_to_pb(padding: &Padding) -> pb::Padding {
    let (mode, pads) = match padding {
        Padding::Explicit(pads) => (pb::PaddingMode::Explicit, to_u64(pads)),
        Padding::SameUpper => (pb::PaddingMode::SameUpper, Vec::new()),
        Padding::SameLower => (pb::PaddingMode::SameLower, Vec::new()),
    };
    pb::Padding { mode: mode as i32, pads }
}

fn padding_from_pb(padding: &Option<pb::Padding>) -> Part<Padding> {
    let padding = required(padding, "the padding")?;
    let same = match pb::PaddingMode::try_from(padding.mode) {
        Ok(pb::PaddingMode::Unspecified) => return malformed("the padding is not specified"),
        Ok(pb::PaddingMode::Explicit) => return sizes(&padding.pads).map(Padding::Explicit),
        Ok(pb::PaddingMode::SameUpper) => Padding::SameUpper,
        Ok(pb::PaddingMode::SameLower) => Padding::SameLower,
        Err(_) => return Err(decode::Fault::Newer(format!("padding {}", padding.mode))),
    };
    if padding.pads.is_empty() { Ok(same) } else { malformed("widths of a computed padding") }
}

fn conv_to_pb(conv: &ConvAttrs) -> pb::ConvAttrs {
    pb::ConvAttrs {
        strides: to_u64(&conv.strides),
        padding: Some(padding_to_pb(&conv.padding)),
        dilations: to_u64(&conv.dilations),
        groups: conv.groups as u64,
        layout: conv.layout.number(),
    }
}

fn conv_from_pb(conv: &pb::ConvAttrs) -> Part<ConvAttrs> {
    Ok(ConvAttrs {
        strides: sizes(&conv.strides)?,
        padding: padding_from_pb(&conv.padding)?,
        dilations: sizes(&conv.dilations)?,
        groups: decode::size(conv.groups)?,
        layout: number(conv.layout)?,
    })
}

fn pool_to_pb(pool: &PoolAttrs) -> pb::PoolAttrs {
    pb::PoolAttrs {
        kind: pool.kind.number(),
        kernel: to_u64(&pool.kernel),
        strides: to_u64(&pool.strides),
        padding: Some(padding_to_pb(&pool.padding)),
        dilations: to_u64(&pool.dilations),
        ceil_mode: pool.ceil_mode,
        layout: pool.layout.number(),
    }
}

fn pool_from_pb(pool: &pb::PoolAttrs) -> Part<PoolAttrs> {
    Ok(PoolAttrs {
        kind: number(pool.kind)?,
        kernel: sizes(&pool.kernel)?,
        strides: sizes(&pool.strides)?,
        padding: padding_from_pb(&pool.padding)?,
        dilations: sizes(&pool.dilations)?,
        ceil_mode: pool.ceil_mode,
        layout: number(pool.layout)?,
    })
}

fn clamp_to_pb(clamp: IntClamp) -> pb::IntClamp {
    pb::IntClamp { min: clamp.min, max: clamp.max }
}

fn clamp_from_pb(clamp: &Option<pb::IntClamp>) -> Option<IntClamp> {
    clamp.map(|c| IntClamp { min: c.min, max: c.max })
}

fn out_to_pb(out: &QOut) -> pb::QOut {
    pb::QOut {
        elem: Some(to_pb::elem_type(&out.elem)),
        clamp: out.clamp.map(clamp_to_pb),
        rounding: out.rounding.number(),
    }
}

fn out_from_pb(out: &pb::QOut) -> Part<QOut> {
    Ok(QOut {
        elem: elem_type(&out.elem)?,
        clamp: clamp_from_pb(&out.clamp),
        rounding: number(out.rounding)?,
    })
}

fn out_of(out: &Option<pb::QOut>) -> Part<QOut> {
    out_from_pb(required(out, "the result's type")?)
}

fn residual_from_pb(residual: &pb::Residual) -> Part<Residual> {
    Ok(Residual {
        inner: elem_type(&residual.inner)?,
        inner_clamp: clamp_from_pb(&residual.inner_clamp),
        conv_is_lhs: residual.conv_is_lhs,
    })
}
