//! The operators: one closed enum, each variant with typed attributes.
//!
//! The meaning of every operator is the scalar reference interpreter's (`requant_graph::reference`);
//! the comments here say operands, in order, and what is not obvious.
//!
//! Three families: data movement and shape arithmetic (any element type, quantization passes
//! through unchanged), float operators, and quantized operators, whose operands' scales and zero
//! points come from the operand *types* and whose result type is an attribute (`out`).

use crate::{DType, ElemType, Tensor};
use std::sync::Arc;

/// Position of the channel axis of an image-like tensor `[batch, …]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// `[N, C, spatial…]`, what ONNX writes.
    #[default]
    ChannelsFirst,
    /// `[N, spatial…, C]`, what the kernels read.
    ChannelsLast,
}

/// How a window is padded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// Per spatial axis: all begins, then all ends.
    Explicit(Vec<usize>),
    /// `out = ceil(in / stride)`, the odd one at the end.
    SameUpper,
    /// `out = ceil(in / stride)`, the odd one at the beginning.
    SameLower,
}

/// Window geometry of a convolution. Vectors are over the spatial axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvAttrs {
    /// Strides, each ≥ 1.
    pub strides: Vec<usize>,
    /// Padding, with real 0 (that is, the zero point for a quantized input).
    pub padding: Padding,
    /// Dilations, each ≥ 1.
    pub dilations: Vec<usize>,
    /// Groups, ≥ 1; divides both channel counts.
    pub groups: usize,
    /// Layout of input and output. Weights are `[C_out, C_in/groups, kernel…]` in either.
    pub layout: Layout,
}

/// Max or average pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Largest element; padding never wins.
    Max,
    /// Mean of the elements.
    Average {
        /// Divide by the window size even where it covers padding.
        count_include_pad: bool,
    },
}

/// Window geometry of a pool. Vectors are over the spatial axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolAttrs {
    /// Max or average.
    pub kind: PoolKind,
    /// Window extents, each ≥ 1.
    pub kernel: Vec<usize>,
    /// Strides, each ≥ 1.
    pub strides: Vec<usize>,
    /// Padding.
    pub padding: Padding,
    /// Dilations, each ≥ 1.
    pub dilations: Vec<usize>,
    /// Round the output extents up instead of down.
    pub ceil_mode: bool,
    /// Layout of input and output.
    pub layout: Layout,
}

/// Elementwise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum UnaryKind {
    Relu,
    Sigmoid,
    Tanh,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Neg,
    Abs,
    Sign,
    Floor,
    Ceil,
    /// Round half to even.
    Round,
    Erf,
    /// `x · clamp(x/6 + 1/2, 0, 1)`
    HardSwish,
    /// `x · sigmoid(x)`
    Silu,
    Softplus,
    Sin,
    Cos,
    Not,
    /// `x < 0 ? alpha·x : x`
    LeakyRelu {
        alpha: f32,
    },
    /// `x < 0 ? alpha·(exp(x) − 1) : x`
    Elu {
        alpha: f32,
    },
    /// `clamp(alpha·x + beta, 0, 1)`
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    /// `clamp(x, min, max)`; either bound may be infinite.
    Clip {
        min: f32,
        max: f32,
    },
}

/// Elementwise functions of two operands, with NumPy broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum BinaryKind {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
    /// `x < 0 ? slope·x : x`, second operand = slope
    PRelu,
    And,
    Or,
    Xor,
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl BinaryKind {
    /// True when the result is `bool`.
    pub fn is_comparison(self) -> bool {
        use BinaryKind::*;
        matches!(self, Equal | Less | LessOrEqual | Greater | GreaterOrEqual)
    }
}

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the functions")]
pub enum ReduceKind {
    Mean,
    Sum,
    Max,
    Min,
    Prod,
}

/// How `Pad` fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PadMode {
    /// With the value operand, or 0 (for a quantized tensor: the stored value, real 0 by default).
    Constant,
    /// Mirror without repeating the border.
    Reflect,
    /// Repeat the border.
    Edge,
}

/// How an s32 accumulator becomes 8 bits (see `numerics.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Rounding {
    /// `rne(f32(acc) · m) + z` with `m = f32(f32(s_x·s_w) / s_y)`: ONNX.
    #[default]
    HalfEven,
    /// Q31 multiplier, two roundings: LiteRT's reference kernels.
    TfliteDouble,
    /// Q31 multiplier, one rounding.
    TfliteSingle,
}

/// Bounds in stored units, inclusive, applied after the zero point is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntClamp {
    /// Lower bound.
    pub min: i32,
    /// Upper bound.
    pub max: i32,
}

/// A residual addition in the epilogue: the convolution's own result is rounded and saturated to
/// `inner` exactly as if it were stored, then added to the residual operand as [`Op::QBinary`] does. The
/// addition is defined on integers of `inner`'s signedness: an operand or result stored with the other one is
/// moved by 128 (the constant's rounding in f32 depends on the zero points, so that this is no mere change of them).
#[derive(Clone, Debug, PartialEq)]
pub struct Residual {
    /// Type of the convolution's own result.
    pub inner: ElemType,
    /// Bounds of the convolution's own result.
    pub inner_clamp: Option<IntClamp>,
    /// True if the convolution was the first operand of the addition.
    pub conv_is_lhs: bool,
}

/// Result of an integer operator.
#[derive(Clone, Debug, PartialEq)]
pub struct QOut {
    /// Type of the result. `s32` asks for the raw accumulator (with `s_x·s_w` as scale).
    pub elem: ElemType,
    /// Bounds narrower than the storage type's, if any.
    pub clamp: Option<IntClamp>,
    /// Requantization rounding.
    pub rounding: Rounding,
}

/// An operator with its attributes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Op {
    // ---- data movement: quantization passes through -----------------------------------------
    /// `x`
    Identity,
    /// `x, shape: s64[r]`: 0 copies an extent unless `allow_zero`, −1 takes the rest.
    Reshape {
        /// 0 means an empty extent.
        allow_zero: bool,
    },
    /// `x` to `[Π dims before axis, Π the rest]`; negative `axis` counts from the end.
    Flatten {
        /// First axis of the second extent.
        axis: i64,
    },
    /// `x` without the given axes of extent 1 (all such axes when empty).
    Squeeze {
        /// Axes, negative ones count from the end.
        axes: Vec<i64>,
    },
    /// `x` with axes of extent 1 inserted (positions in the result).
    Unsqueeze {
        /// Axes, negative ones count from the end.
        axes: Vec<i64>,
    },
    /// `x`; result axis `i` is operand axis `perm[i]`.
    Transpose {
        /// A permutation.
        perm: Vec<usize>,
    },
    /// `x…`, equal types but for the extent of `axis`.
    Concat {
        /// Negative counts from the end.
        axis: i64,
    },
    /// `x` cut along `axis`; empty `sizes` means equal parts, as many as there are results.
    Split {
        /// Negative counts from the end.
        axis: i64,
        /// Extents of the parts.
        sizes: Vec<i64>,
    },
    /// `x, starts, ends, axes?, steps?` as ONNX defines it.
    Slice,
    /// `x, indices` along `axis`; negative indices count from the end, others are an error.
    Gather {
        /// Negative counts from the end.
        axis: i64,
    },
    /// `x, shape: s64[r]` broadcast.
    Expand,
    /// `x, repeats: s64[r]`
    Tile,
    /// `x, pads: s64[2·axes], value?, axes?`; negative pads crop.
    Pad {
        /// How to fill.
        mode: PadMode,
    },
    /// `x` element for element in another storage type (numbers, not quantized values).
    Cast {
        /// Result storage.
        to: DType,
    },
    /// `x`'s bytes under another quantization of the same storage type.
    Reinterpret {
        /// Result type.
        out: ElemType,
    },

    // ---- shape arithmetic --------------------------------------------------------------------
    /// `x` to its extents `s64[end − start]`.
    Shape {
        /// First axis, negative counts from the end.
        start: i64,
        /// One past the last axis; `None` for the rank.
        end: Option<i64>,
    },
    /// `x` to its element count, `s64[]`.
    Size,
    /// `shape: s64[r]` to a tensor filled with `value` (one element).
    ConstantOfShape {
        /// Fill.
        value: Tensor,
    },
    /// `start, limit, delta` scalars.
    Range,
    /// `condition, x, y` broadcast.
    Where,

    // ---- float -------------------------------------------------------------------------------
    /// `x, w, b?`
    Conv(ConvAttrs),
    /// `a, b`, NumPy matmul.
    MatMul,
    /// `alpha·op(a)·op(b) + beta·c?`
    Gemm {
        /// Factor of the product.
        alpha: f32,
        /// Factor of `c`.
        beta: f32,
        /// Transpose `a`.
        trans_a: bool,
        /// Transpose `b`.
        trans_b: bool,
    },
    /// `x`; `Max` also takes 8-bit quantized operands, whose quantization passes through.
    Pool(PoolAttrs),
    /// `x` over `axes` (all when empty).
    Reduce {
        /// What is computed.
        kind: ReduceKind,
        /// Axes, negative ones count from the end.
        axes: Vec<i64>,
        /// Keep reduced axes with extent 1.
        keep_dims: bool,
    },
    /// `x` to the index of its first largest element along `axis`, s64.
    ArgMax {
        /// Negative counts from the end.
        axis: i64,
        /// Keep the axis with extent 1.
        keep_dims: bool,
    },
    /// `x`
    Unary(UnaryKind),
    /// `a, b`
    Binary(BinaryKind),
    /// `x, scale, bias, mean, variance`, all `[C]`; channel axis 1 or last by layout.
    BatchNorm {
        /// Added to the variance.
        epsilon: f32,
        /// Layout of `x`.
        layout: Layout,
    },
    /// `x, scale, bias?` over the axes from `axis` on.
    LayerNorm {
        /// First normalized axis, negative counts from the end.
        axis: i64,
        /// Added to the variance.
        epsilon: f32,
    },
    /// `x` along `axis`.
    Softmax {
        /// Negative counts from the end.
        axis: i64,
        /// ONNX before opset 13: over all axes from `axis` on, taken together.
        flatten: bool,
    },

    // ---- quantized ---------------------------------------------------------------------------
    /// float `x` to `clamp(rne(x / s) + z)`: true division, saturating.
    Quantize {
        /// Result type.
        out: ElemType,
        /// Bounds narrower than the storage type's (a folded Relu or Clip).
        clamp: Option<IntClamp>,
    },
    /// quantized `x` to `f32((q − z) · s)`.
    Dequantize,
    /// quantized `x` (8, 16 or 32 bits) to `clamp(rne(f32(q − z_x) · f32(s_x / s_y)) + z_y)`.
    Requantize(QOut),
    /// `x, w, bias: s32[C]?, residual?`.
    ///
    /// `acc = bias + Σ (x − z_x)(w − z_w)` exact in s32, then by [`QOut`]. With `zero_folded` the
    /// term of `z_x` is already in the bias: `acc = bias + Σ x·(w − z_w)`, and padding reads `z_x`.
    QConv {
        /// Geometry.
        conv: ConvAttrs,
        /// Result.
        out: QOut,
        /// `−z_x·Σ(w − z_w)` is part of the bias.
        zero_folded: bool,
        /// Addition in the epilogue.
        residual: Option<Residual>,
    },
    /// `a, b, bias: s32[N]?`: NumPy matmul of quantized operands, `b` per tensor or per column.
    QMatMul {
        /// `b` is `[N, K]`.
        trans_b: bool,
        /// Factor of the product (Gemm): `m = f32(f32(f32(alpha·s_a)·s_b) / s_y)`.
        alpha: f32,
        /// Result.
        out: QOut,
        /// `−z_a·Σ(b − z_b)` is part of the bias.
        zero_folded: bool,
    },
    /// `a, b` 8-bit quantized per tensor, broadcast. `Add`: `rne(fma(a, s_a/s_y, fma(b, s_b/s_y, c)))`
    /// with the zero points folded into `c`; `Mul`: `rne(f32((a−z_a)(b−z_b)) · f32(s_a·s_b / s_y)) + z_y`.
    /// Both as ONNX Runtime's QLinearAdd and QLinearMul compute them.
    QBinary {
        /// `Add` or `Mul`.
        kind: BinaryKind,
        /// The arithmetic is defined on integers of the result's signedness, or if this is set of the other one:
        /// operands and results that are stored otherwise move by 128, zero points too. Roundings in f32 depend
        /// on the zero points, so that another signedness gives other results at near ties.
        flipped: bool,
        /// Result.
        out: QOut,
    },
    /// 8-bit `x`, average pooling: `rne(f32(Σ(q − z_x)) · f32(s_x / (s_y·n))) + z_y`.
    QPool {
        /// Geometry, of kind `Average`.
        pool: PoolAttrs,
        /// Result.
        out: QOut,
    },
    /// 8-bit `x`, mean over `axes`: as `QPool` with `n` the number of reduced elements.
    QMean {
        /// Axes, negative ones count from the end.
        axes: Vec<i64>,
        /// Keep reduced axes with extent 1.
        keep_dims: bool,
        /// Result.
        out: QOut,
    },
    /// 8-bit `x`: `Quantize(Softmax(Dequantize(x)))`.
    QSoftmax {
        /// Negative counts from the end.
        axis: i64,
        /// Result.
        out: QOut,
    },
    /// 8-bit `x`: `table[x as u8]` (the stored byte indexes, whatever its sign).
    Lut {
        /// 256 result bytes.
        table: Arc<[u8; 256]>,
        /// Result type, 8 bits.
        out: ElemType,
    },
    /// An operator of somebody else; nothing here runs it.
    Custom {
        /// Domain.
        domain: String,
        /// Name.
        name: String,
        /// Version.
        version: u32,
        /// Attributes, opaque.
        payload: Vec<u8>,
    },
}

impl Op {
    /// The mnemonic of the text form.
    pub fn mnemonic(&self) -> &'static str {
        match self {
            Op::Identity => "identity",
            Op::Reshape { .. } => "reshape",
            Op::Flatten { .. } => "flatten",
            Op::Squeeze { .. } => "squeeze",
            Op::Unsqueeze { .. } => "unsqueeze",
            Op::Transpose { .. } => "transpose",
            Op::Concat { .. } => "concat",
            Op::Split { .. } => "split",
            Op::Slice => "slice",
            Op::Gather { .. } => "gather",
            Op::Expand => "expand",
            Op::Tile => "tile",
            Op::Pad { .. } => "pad",
            Op::Cast { .. } => "cast",
            Op::Reinterpret { .. } => "reinterpret",
            Op::Shape { .. } => "shape",
            Op::Size => "size",
            Op::ConstantOfShape { .. } => "constant_of_shape",
            Op::Range => "range",
            Op::Where => "where",
            Op::Conv(_) => "conv",
            Op::MatMul => "matmul",
            Op::Gemm { .. } => "gemm",
            Op::Pool(p) => match p.kind {
                PoolKind::Max => "max_pool",
                PoolKind::Average { .. } => "average_pool",
            },
            Op::Reduce { kind, .. } => kind.name(),
            Op::ArgMax { .. } => "argmax",
            Op::Unary(kind) => kind.name(),
            Op::Binary(kind) => kind.name(),
            Op::BatchNorm { .. } => "batch_norm",
            Op::LayerNorm { .. } => "layer_norm",
            Op::Softmax { .. } => "softmax",
            Op::Quantize { .. } => "quantize",
            Op::Dequantize => "dequantize",
            Op::Requantize(_) => "requantize",
            Op::QConv { .. } => "qconv",
            Op::QMatMul { .. } => "qmatmul",
            Op::QBinary { kind, .. } => kind.quantized_name(),
            Op::QPool { .. } => "qpool",
            Op::QMean { .. } => "qmean",
            Op::QSoftmax { .. } => "qsoftmax",
            Op::Lut { .. } => "lut",
            Op::Custom { .. } => "custom",
        }
    }

    /// True when elements are only copied, so that quantization passes through unchanged.
    pub fn is_data_movement(&self) -> bool {
        matches!(
            self,
            Op::Identity
                | Op::Reshape { .. }
                | Op::Flatten { .. }
                | Op::Squeeze { .. }
                | Op::Unsqueeze { .. }
                | Op::Transpose { .. }
                | Op::Concat { .. }
                | Op::Split { .. }
                | Op::Slice
                | Op::Gather { .. }
                | Op::Expand
                | Op::Tile
                | Op::Pad { .. }
        )
    }
}
