//! The operators that can be imported, and how each becomes operators of the IR.

mod elementwise;
mod float;
mod movement;
mod qlinear;
mod quant;
mod window;

use super::cx::Cx;
use super::error::Failure;
use crate::{BinaryKind, ReduceKind, UnaryKind};

type Read = fn(&mut Cx<'_, '_>) -> Result<(), Failure>;

/// How the nodes of an operator are read.
#[derive(Clone, Copy)]
pub(super) enum Reader {
    Unary(UnaryKind),
    Binary(BinaryKind),
    /// Any number of operands.
    Chain(BinaryKind),
    Reduce(ReduceKind),
    /// Over all spatial axes.
    GlobalPool(ReduceKind),
    /// An integer operator of two operands.
    QBinary(BinaryKind),
    Other(Read),
}

impl Reader {
    pub(super) fn read(self, cx: &mut Cx<'_, '_>) -> Result<(), Failure> {
        match self {
            Reader::Unary(kind) => elementwise::unary(cx, kind),
            Reader::Binary(kind) => elementwise::binary(cx, kind),
            Reader::Chain(kind) => elementwise::chain(cx, kind),
            Reader::Reduce(kind) => float::reduce(cx, kind),
            Reader::GlobalPool(kind) => float::global_pool(cx, kind),
            Reader::QBinary(kind) => qlinear::binary(cx, kind),
            Reader::Other(read) => read(cx),
        }
    }
}

/// The reader of an operator; `None` for an operator that is not supported.
pub(super) fn reader(domain: &str, op_type: &str) -> Option<Reader> {
    match domain {
        "" => onnx(op_type),
        "com.microsoft" => microsoft(op_type),
        _ => None,
    }
}

fn onnx(op_type: &str) -> Option<Reader> {
    if let Some(kind) = elementwise::unary_kind(op_type) {
        return Some(Reader::Unary(kind));
    }
    if let Some(kind) = elementwise::binary_kind(op_type) {
        return Some(Reader::Binary(kind));
    }
    Some(match op_type {
        "Sum" => Reader::Chain(BinaryKind::Add),
        "Min" => Reader::Chain(BinaryKind::Min),
        "Max" => Reader::Chain(BinaryKind::Max),
        "ReduceMean" => Reader::Reduce(ReduceKind::Mean),
        "ReduceSum" => Reader::Reduce(ReduceKind::Sum),
        "ReduceMax" => Reader::Reduce(ReduceKind::Max),
        "ReduceMin" => Reader::Reduce(ReduceKind::Min),
        "ReduceProd" => Reader::Reduce(ReduceKind::Prod),
        "GlobalAveragePool" => Reader::GlobalPool(ReduceKind::Mean),
        "GlobalMaxPool" => Reader::GlobalPool(ReduceKind::Max),
        _ => Reader::Other(match op_type {
            "Pow" => elementwise::pow,
            "Clip" => elementwise::clip,
            "Cast" => elementwise::cast,
            "Where" => elementwise::select,
            "Identity" => movement::identity,
            "Dropout" => movement::dropout,
            "Transpose" => movement::transpose,
            "Reshape" => movement::reshape,
            "Flatten" => movement::flatten,
            "Squeeze" => movement::squeeze,
            "Unsqueeze" => movement::unsqueeze,
            "Concat" => movement::concat,
            "Split" => movement::split,
            "Slice" => movement::slice,
            "Gather" => movement::gather,
            "Expand" => movement::expand,
            "Tile" => movement::tile,
            "Pad" => movement::pad,
            "Shape" => movement::shape,
            "Size" => movement::size,
            "ConstantOfShape" => movement::constant_of_shape,
            "Range" => movement::range,
            "Constant" => movement::constant,
            "Conv" => float::conv,
            "MatMul" => float::matmul,
            "Gemm" => float::gemm,
            "MaxPool" => float::max_pool,
            "AveragePool" => float::average_pool,
            "ArgMax" => float::argmax,
            "BatchNormalization" => float::batch_norm,
            "LayerNormalization" => float::layer_norm,
            "Softmax" => float::softmax,
            "QuantizeLinear" => quant::quantize,
            "DequantizeLinear" => quant::dequantize,
            "QLinearConv" => qlinear::conv,
            "QLinearMatMul" => qlinear::matmul,
            _ => return None,
        }),
    })
}

/// What ONNX Runtime's quantizer writes.
fn microsoft(op_type: &str) -> Option<Reader> {
    Some(match op_type {
        "QLinearAdd" => Reader::QBinary(BinaryKind::Add),
        "QLinearMul" => Reader::QBinary(BinaryKind::Mul),
        _ => Reader::Other(match op_type {
            "QuantizeLinear" => quant::quantize,
            "DequantizeLinear" => quant::dequantize,
            "QLinearConv" => qlinear::conv,
            "QGemm" => qlinear::gemm,
            "QLinearGlobalAveragePool" => qlinear::global_average_pool,
            "QLinearAveragePool" => qlinear::average_pool,
            "QLinearSigmoid" => qlinear::sigmoid,
            "QLinearLeakyRelu" => qlinear::leaky_relu,
            "QLinearConcat" => qlinear::concat,
            "QLinearSoftmax" => qlinear::softmax,
            "QLinearWhere" => qlinear::select,
            _ => return None,
        }),
    })
}
