//! Operators to and from mnemonic and attributes.

use super::attrs::{AttrPrinter, Attrs};
use super::{TextError, TextOptions};
use crate::{
    BinaryKind, ConvAttrs, Layout, Op, PadMode, Padding, PoolAttrs, PoolKind, QOut, ReduceKind,
    Residual, Rounding, UnaryKind,
};

pub(super) fn print(out: &mut String, op: &Op, options: &TextOptions) {
    let mut p = AttrPrinter::new(out, options);
    match op {
        Op::Identity
        | Op::Slice
        | Op::Expand
        | Op::Tile
        | Op::Size
        | Op::Range
        | Op::Where
        | Op::MatMul
        | Op::Binary(_)
        | Op::Dequantize => {}
        Op::Reshape { allow_zero } => p.flag("allow_zero", *allow_zero),
        Op::Flatten { axis } | Op::Concat { axis } | Op::Gather { axis } => p.put("axis", axis),
        Op::Squeeze { axes } | Op::Unsqueeze { axes } => p.list("axes", axes),
        Op::Transpose { perm } => p.list("perm", perm),
        Op::Split { axis, sizes } => {
            p.put("axis", axis);
            if !sizes.is_empty() {
                p.list("sizes", sizes);
            }
        }
        Op::Pad { mode } => {
            if *mode != PadMode::Constant {
                p.put("mode", mode.name());
            }
        }
        Op::Cast { to } => p.put("to", to),
        Op::Reinterpret { out } => p.elem("out", out),
        Op::Shape { start, end } => {
            if *start != 0 {
                p.put("start", start);
            }
            if let Some(end) = end {
                p.put("end", end);
            }
        }
        Op::ConstantOfShape { value } => p.tensor("value", value),
        Op::Conv(conv) => print_conv(&mut p, conv),
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            p.float("alpha", *alpha, 1.0);
            p.float("beta", *beta, 1.0);
            p.flag("trans_a", *trans_a);
            p.flag("trans_b", *trans_b);
        }
        Op::Pool(pool) => print_pool(&mut p, pool),
        Op::Reduce { kind: _, axes, keep_dims } => {
            p.list("axes", axes);
            p.flag("keep_dims", *keep_dims);
        }
        Op::ArgMax { axis, keep_dims } => {
            p.put("axis", axis);
            p.flag("keep_dims", *keep_dims);
        }
        Op::Unary(kind) => match *kind {
            UnaryKind::LeakyRelu { alpha } => p.float("alpha", alpha, 0.01),
            UnaryKind::Elu { alpha } => p.float("alpha", alpha, 1.0),
            UnaryKind::HardSigmoid { alpha, beta } => {
                p.float("alpha", alpha, 0.2);
                p.float("beta", beta, 0.5);
            }
            UnaryKind::Clip { min, max } => {
                p.float("min", min, f32::NEG_INFINITY);
                p.float("max", max, f32::INFINITY);
            }
            _ => {}
        },
        Op::BatchNorm { epsilon, layout } => {
            p.float("epsilon", *epsilon, 1e-5);
            print_layout(&mut p, *layout);
        }
        Op::LayerNorm { axis, epsilon } => {
            p.put("axis", axis);
            p.float("epsilon", *epsilon, 1e-5);
        }
        Op::Softmax { axis, flatten } => {
            p.put("axis", axis);
            p.flag("flatten", *flatten);
        }
        Op::Quantize { out, clamp } => {
            p.elem("out", out);
            p.clamp("clamp", *clamp);
        }
        Op::Requantize(out) => print_out(&mut p, out),
        Op::QBinary { kind: _, flipped, out } => {
            print_out(&mut p, out);
            p.flag("flipped", *flipped);
        }
        Op::QConv { conv, out, zero_folded, residual } => {
            print_conv(&mut p, conv);
            print_out(&mut p, out);
            p.flag("zero_folded", *zero_folded);
            if let Some(Residual { inner, inner_clamp, conv_is_lhs }) = residual {
                p.elem("residual", inner);
                p.clamp("residual_clamp", *inner_clamp);
                p.flag("conv_is_lhs", *conv_is_lhs);
            }
        }
        Op::QMatMul { trans_b, alpha, out, zero_folded } => {
            p.flag("trans_b", *trans_b);
            p.float("alpha", *alpha, 1.0);
            print_out(&mut p, out);
            p.flag("zero_folded", *zero_folded);
        }
        Op::QPool { pool, out } => {
            print_pool(&mut p, pool);
            print_out(&mut p, out);
        }
        Op::QMean { axes, keep_dims, out } => {
            p.list("axes", axes);
            p.flag("keep_dims", *keep_dims);
            print_out(&mut p, out);
        }
        Op::QSoftmax { axis, out } => {
            p.put("axis", axis);
            print_out(&mut p, out);
        }
        Op::Lut { table, out } => {
            p.elem("out", out);
            p.bytes("table", &table[..]);
        }
        Op::Custom { domain, name, version, payload } => {
            p.string("domain", domain);
            p.string("name", name);
            p.put("version", version);
            p.bytes("payload", payload);
        }
    }
    p.finish();
}

fn print_layout(p: &mut AttrPrinter<'_>, layout: Layout) {
    if layout != Layout::default() {
        p.put("layout", layout.name());
    }
}

/// Padding, dilations and layout; `spatial` axes decide what their defaults are.
fn print_window(
    p: &mut AttrPrinter<'_>,
    spatial: usize,
    padding: &Padding,
    dilations: &[usize],
    layout: Layout,
) {
    match padding {
        Padding::Explicit(pads) if pads.len() == 2 * spatial && pads.iter().all(|&n| n == 0) => {}
        Padding::Explicit(pads) => p.list("pads", pads),
        Padding::SameUpper => p.put("pads", "same_upper"),
        Padding::SameLower => p.put("pads", "same_lower"),
    }
    print_ones(p, "dilations", spatial, dilations);
    print_layout(p, layout);
}

fn print_ones(p: &mut AttrPrinter<'_>, key: &str, spatial: usize, items: &[usize]) {
    if items.len() != spatial || items.iter().any(|&n| n != 1) {
        p.list(key, items);
    }
}

fn print_conv(p: &mut AttrPrinter<'_>, conv: &ConvAttrs) {
    p.list("strides", &conv.strides);
    print_window(p, conv.strides.len(), &conv.padding, &conv.dilations, conv.layout);
    if conv.groups != 1 {
        p.put("groups", conv.groups);
    }
}

fn print_pool(p: &mut AttrPrinter<'_>, pool: &PoolAttrs) {
    p.list("kernel", &pool.kernel);
    print_ones(p, "strides", pool.kernel.len(), &pool.strides);
    print_window(p, pool.kernel.len(), &pool.padding, &pool.dilations, pool.layout);
    p.flag("ceil_mode", pool.ceil_mode);
    p.flag("count_include_pad", pool.kind == PoolKind::Average { count_include_pad: true });
}

fn print_out(p: &mut AttrPrinter<'_>, out: &QOut) {
    p.elem("out", &out.elem);
    p.clamp("clamp", out.clamp);
    if out.rounding != Rounding::default() {
        p.put("rounding", out.rounding.name());
    }
}

/// The operator of a mnemonic, its attributes taken out of `a`. All kinds that share an operator are
/// looked up by the names that [`Op::mnemonic`] gives them.
pub(super) fn read(mnemonic: &str, mut a: Attrs<'_>) -> Result<Op, TextError> {
    let op = match mnemonic {
        "identity" => Op::Identity,
        "reshape" => Op::Reshape { allow_zero: a.flag("allow_zero")? },
        "flatten" => Op::Flatten { axis: a.int("axis")? },
        "squeeze" => Op::Squeeze { axes: a.list("axes")? },
        "unsqueeze" => Op::Unsqueeze { axes: a.list("axes")? },
        "transpose" => Op::Transpose { perm: a.list("perm")? },
        "concat" => Op::Concat { axis: a.int("axis")? },
        "split" => {
            Op::Split { axis: a.int("axis")?, sizes: a.maybe_list("sizes")?.unwrap_or_default() }
        }
        "slice" => Op::Slice,
        "gather" => Op::Gather { axis: a.int("axis")? },
        "expand" => Op::Expand,
        "tile" => Op::Tile,
        "pad" => {
            Op::Pad { mode: a.choice("mode", &PadMode::ALL, PadMode::name, PadMode::Constant)? }
        }
        "cast" => {
            let to = a.maybe("to", |text| text.parse().ok())?;
            match to {
                Some(to) => Op::Cast { to },
                None => return a.fail(a.at, "attribute `to` is missing"),
            }
        }
        "reinterpret" => Op::Reinterpret { out: a.elem("out")? },
        "shape" => Op::Shape {
            start: if a.has("start") { a.int("start")? } else { 0 },
            end: a.maybe("end", |text| text.parse().ok())?,
        },
        "size" => Op::Size,
        "constant_of_shape" => Op::ConstantOfShape { value: a.tensor("value")? },
        "range" => Op::Range,
        "where" => Op::Where,
        "conv" => Op::Conv(read_conv(&mut a)?),
        "matmul" => Op::MatMul,
        "gemm" => Op::Gemm {
            alpha: a.float("alpha", 1.0)?,
            beta: a.float("beta", 1.0)?,
            trans_a: a.flag("trans_a")?,
            trans_b: a.flag("trans_b")?,
        },
        "max_pool" => Op::Pool(read_pool(&mut a, false)?),
        "average_pool" => Op::Pool(read_pool(&mut a, true)?),
        "argmax" => Op::ArgMax { axis: a.int("axis")?, keep_dims: a.flag("keep_dims")? },
        "batch_norm" => {
            Op::BatchNorm { epsilon: a.float("epsilon", 1e-5)?, layout: read_layout(&mut a)? }
        }
        "layer_norm" => Op::LayerNorm { axis: a.int("axis")?, epsilon: a.float("epsilon", 1e-5)? },
        "softmax" => Op::Softmax { axis: a.int("axis")?, flatten: a.flag("flatten")? },
        "quantize" => Op::Quantize { out: a.elem("out")?, clamp: a.clamp("clamp")? },
        "dequantize" => Op::Dequantize,
        "requantize" => Op::Requantize(read_out(&mut a)?),
        "qconv" => Op::QConv {
            conv: read_conv(&mut a)?,
            out: read_out(&mut a)?,
            zero_folded: a.flag("zero_folded")?,
            residual: if a.has("residual") {
                Some(Residual {
                    inner: a.elem("residual")?,
                    inner_clamp: a.clamp("residual_clamp")?,
                    conv_is_lhs: a.flag("conv_is_lhs")?,
                })
            } else {
                None
            },
        },
        "qmatmul" => Op::QMatMul {
            trans_b: a.flag("trans_b")?,
            alpha: a.float("alpha", 1.0)?,
            out: read_out(&mut a)?,
            zero_folded: a.flag("zero_folded")?,
        },
        "qpool" => Op::QPool { pool: read_pool(&mut a, true)?, out: read_out(&mut a)? },
        "qmean" => Op::QMean {
            axes: a.list("axes")?,
            keep_dims: a.flag("keep_dims")?,
            out: read_out(&mut a)?,
        },
        "qsoftmax" => Op::QSoftmax { axis: a.int("axis")?, out: read_out(&mut a)? },
        "lut" => {
            let out = a.elem("out")?;
            match a.bytes("table")?.try_into() {
                Ok(table) => Op::Lut { table: Box::<[u8; 256]>::new(table).into(), out },
                Err(_) => return a.fail(a.at, "attribute `table` takes 256 bytes"),
            }
        }
        "custom" => Op::Custom {
            domain: a.string("domain")?,
            name: a.string("name")?,
            version: a.int("version")?,
            payload: a.bytes("payload")?,
        },
        other => read_kind(other, &mut a)?,
    };
    a.finish()?;
    Ok(op)
}

fn read_kind(mnemonic: &str, a: &mut Attrs<'_>) -> Result<Op, TextError> {
    if let Some(kind) = UnaryKind::ALL.into_iter().find(|k| k.name() == mnemonic) {
        return Ok(Op::Unary(match kind {
            UnaryKind::LeakyRelu { .. } => UnaryKind::LeakyRelu { alpha: a.float("alpha", 0.01)? },
            UnaryKind::Elu { .. } => UnaryKind::Elu { alpha: a.float("alpha", 1.0)? },
            UnaryKind::HardSigmoid { .. } => {
                let alpha = a.float("alpha", 0.2)?;
                UnaryKind::HardSigmoid { alpha, beta: a.float("beta", 0.5)? }
            }
            UnaryKind::Clip { .. } => UnaryKind::Clip {
                min: a.float("min", f32::NEG_INFINITY)?,
                max: a.float("max", f32::INFINITY)?,
            },
            plain => plain,
        }));
    }
    if let Some(kind) = BinaryKind::ALL.into_iter().find(|k| k.name() == mnemonic) {
        return Ok(Op::Binary(kind));
    }
    if let Some(kind) = BinaryKind::ALL.into_iter().find(|k| k.quantized_name() == mnemonic) {
        return Ok(Op::QBinary { kind, flipped: a.flag("flipped")?, out: read_out(a)? });
    }
    if let Some(kind) = ReduceKind::ALL.into_iter().find(|k| k.name() == mnemonic) {
        return Ok(Op::Reduce {
            kind,
            axes: a.maybe_list("axes")?.unwrap_or_default(),
            keep_dims: a.flag("keep_dims")?,
        });
    }
    a.fail(a.at, format!("unknown operator `{mnemonic}`"))
}

fn read_layout(a: &mut Attrs<'_>) -> Result<Layout, TextError> {
    a.choice("layout", &Layout::ALL, Layout::name, Layout::default())
}

/// Padding, dilations and layout of a window with this many spatial axes.
fn read_window(
    a: &mut Attrs<'_>,
    spatial: usize,
) -> Result<(Padding, Vec<usize>, Layout), TextError> {
    let padding = if a.is_list("pads") {
        Padding::Explicit(a.list("pads")?)
    } else {
        a.maybe("pads", |text| match text {
            "same_upper" => Some(Padding::SameUpper),
            "same_lower" => Some(Padding::SameLower),
            _ => None,
        })?
        .unwrap_or_else(|| Padding::Explicit(vec![0; 2 * spatial]))
    };
    let dilations = a.maybe_list("dilations")?.unwrap_or_else(|| vec![1; spatial]);
    Ok((padding, dilations, read_layout(a)?))
}

fn read_conv(a: &mut Attrs<'_>) -> Result<ConvAttrs, TextError> {
    let strides: Vec<usize> = a.list("strides")?;
    let (padding, dilations, layout) = read_window(a, strides.len())?;
    let groups = if a.has("groups") { a.int("groups")? } else { 1 };
    Ok(ConvAttrs { strides, padding, dilations, groups, layout })
}

fn read_pool(a: &mut Attrs<'_>, average: bool) -> Result<PoolAttrs, TextError> {
    let kernel: Vec<usize> = a.list("kernel")?;
    let (padding, dilations, layout) = read_window(a, kernel.len())?;
    Ok(PoolAttrs {
        kind: if average {
            PoolKind::Average { count_include_pad: a.flag("count_include_pad")? }
        } else {
            PoolKind::Max
        },
        strides: a.maybe_list("strides")?.unwrap_or_else(|| vec![1; kernel.len()]),
        kernel,
        padding,
        dilations,
        ceil_mode: a.flag("ceil_mode")?,
        layout,
    })
}

fn read_out(a: &mut Attrs<'_>) -> Result<QOut, TextError> {
    Ok(QOut {
        elem: a.elem("out")?,
        clamp: a.clamp("clamp")?,
        rounding: a.choice("rounding", &Rounding::ALL, Rounding::name, Rounding::default())?,
    })
}
