//! Turns float operators between `Dequantize` and `Quantize` into integer operators.
//!
//! Match and rewrite (`DQ` and `Q` are `Dequantize` and `Quantize`, `acc` is s32):
//! - `Conv(DQ(x), w, b)` → `DQ(acc)`, `acc = QConv(x, w, b)`;
//! - `MatMul(DQ(a), b)`, `Gemm(DQ(a), b, c)`, each with a constant vector added after it → the same with
//!   `QMatMul`; `b` may be an activation too;
//! - `Q(DQ(acc))` → `Requantize(acc)`, which `fuse_requantize` puts into the product's epilogue;
//! - `Q(Add | Mul(DQ(a), DQ(b)))` → `QBinary`; `Q(AveragePool(DQ(x)))` → `QPool`;
//!   `Q(ReduceMean(DQ(x)))` → `QMean`; `Q(Softmax(DQ(x)))` → `QSoftmax`.
//!
//! A product is integer even where no `Q` follows: its result is then dequantized from the exact
//! accumulator. `Q`'s clamp (a folded activation) goes along; a `DQ` with other consumers stays for
//! them.
//!
//! Constant weights are `DQ(const)`, 8 bits, per tensor or per output channel, or float constants that
//! lie on an 8-bit grid already, as quantization-aware training leaves them (see [`weights`]). A bias
//! is rounded to steps of the accumulator, `s_x·s_w`; one that was quantized with other scales is
//! reported.
//!
//! Class: one step. The integer sum is exact where the float one rounds; what bias and weights lose is
//! checked to stay below half a step of the result.
//!
//! Refuses: operands that are not 8 bits with one scale, weights that are float, not constant, in
//! blocks or scaled along another axis, a bias that is not a constant vector, does not fit s32 or is
//! much finer than the accumulator, `trans_a`, alpha or beta out of range, sums that may overflow s32 (with
//! the very weights, where they are constant), results of other than 8 bits with one scale, scales
//! whose products or ratios leave the range of f32, softmax over several axes at once.

mod bias;
mod dot;
mod elementwise;
mod weights;

use super::consts::{op, operand};
use super::qparams::dequantized;
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo, sweep};
use crate::patch::Patch;
use crate::{Graph, NodeId};
use requant_ir::Op;

const NAME: &str = "fuse_qdq";

/// Fusion of quantized float operators into integer operators.
pub struct FuseQdq;

impl Pass for FuseQdq {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::OneStep,
            about: "turns float operators between dequantize and quantize into integer operators",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        sweep(graph, cx, rule)
    }
}

type Fused = Result<Option<Patch>, String>;

fn rule(graph: &Graph, node: NodeId, cx: &mut PassCx<'_>) -> Option<Patch> {
    let fused = match op(graph, node)? {
        // Float models have nothing to explain.
        Op::Conv(_) | Op::MatMul | Op::Gemm { .. } if !any_dequantized(graph, node) => {
            return None;
        }
        Op::Conv(attrs) => dot::conv(graph, node, attrs),
        Op::MatMul | Op::Gemm { .. } => dot::matmul(graph, node),
        Op::Quantize { out, clamp } => elementwise::quantize(graph, node, out, *clamp),
        _ => return None,
    };
    let name = graph.node(node).name.as_ref();
    match fused {
        Ok(patch) => patch,
        Err(reason) => {
            cx.refuse(name, reason);
            None
        }
    }
}

fn any_dequantized(graph: &Graph, node: NodeId) -> bool {
    (0..2).any(|i| operand(graph, node, i).is_some_and(|o| dequantized(graph, o).is_some()))
}
