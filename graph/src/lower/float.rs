//! f32 operators. A relu or clip behind a convolution or matrix product is done in its epilogue.

use super::conv::Window;
use super::elementwise::only;
use super::{Builder, Place, Reason, Site};
use crate::exec::step::Kernel;
use crate::{NodeKind, Outlet};
use requant_ir::{BinaryKind, ConvAttrs, DType, Op, Tensor, UnaryKind};
use requant_kernels::broadcast::Broadcast;
use requant_kernels::conv::ConvGeometry;
use requant_kernels::float::{Activation, Binary, BinaryOp, ConvF32, GemmF32, Unary};
use requant_kernels::Cpu;
use requant_kernels::softmax::Softmax;

pub(super) fn lower(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), Reason> {
    match site.op {
        Op::Unary(kind) => {
            only(site, 0, DType::F32)?;
            let kernel = Kernel::Unary(unary(*kind)?, b.target.cpu);
            rows(b, site, kernel)
        }
        Op::Binary(kind) => binary(b, site, *kind),
        Op::Softmax { axis, flatten } => {
            only(site, 0, DType::F32)?;
            let dims = site.dims(0)?;
            let axis = Site::axis(*axis, dims.len())?;
            if !flatten && axis + 1 != dims.len() {
                return Err(Reason::new("softmax kernels work along the last axis"));
            }
            let length = dims[axis..].iter().product();
            let kernel = Kernel::Softmax(Box::new(Softmax::new(b.target.cpu, length)?));
            rows(b, site, kernel)
        }
        _ => Err(Reason::new("no f32 kernel computes this")),
    }
}

/// A step of operand 0 alone.
fn rows(b: &mut Builder<'_>, site: &Site<'_>, kernel: Kernel) -> Result<(), Reason> {
    let x = b.read(site, 0)?;
    let y = b.output(site, 0);
    b.step(kernel, [x], y, 0);
    Ok(())
}

fn unary(kind: UnaryKind) -> Result<Unary, Reason> {
    Ok(match kind {
        UnaryKind::Relu => Unary::Relu,
        UnaryKind::Sigmoid => Unary::Sigmoid,
        UnaryKind::Tanh => Unary::Tanh,
        UnaryKind::Exp => Unary::Exp,
        UnaryKind::Log => Unary::Log,
        UnaryKind::Sqrt => Unary::Sqrt,
        UnaryKind::Reciprocal => Unary::Reciprocal,
        UnaryKind::Neg => Unary::Neg,
        UnaryKind::Abs => Unary::Abs,
        UnaryKind::Floor => Unary::Floor,
        UnaryKind::Ceil => Unary::Ceil,
        UnaryKind::Round => Unary::Round,
        UnaryKind::Erf => Unary::Erf,
        UnaryKind::HardSwish => Unary::HardSwish,
        UnaryKind::Silu => Unary::Silu,
        UnaryKind::LeakyRelu { alpha } => Unary::LeakyRelu { alpha },
        UnaryKind::Elu { alpha } => Unary::Elu { alpha },
        UnaryKind::HardSigmoid { alpha, beta } => Unary::HardSigmoid { alpha, beta },
        UnaryKind::Clip { min, max } => Unary::Clip { lo: min, hi: max },
        other => return Err(Reason::new(format!("no kernel computes {other:?}"))),
    })
}

fn binary(b: &mut Builder<'_>, site: &Site<'_>, kind: BinaryKind) -> Result<(), Reason> {
    only(site, 0, DType::F32)?;
    only(site, 1, DType::F32)?;
    let op = match kind {
        BinaryKind::Add => BinaryOp::Add,
        BinaryKind::Sub => BinaryOp::Sub,
        BinaryKind::Mul => BinaryOp::Mul,
        BinaryKind::Div => BinaryOp::Div,
        BinaryKind::Min => BinaryOp::Min,
        BinaryKind::Max => BinaryOp::Max,
        BinaryKind::PRelu => BinaryOp::PRelu,
        other => return Err(Reason::new(format!("no kernel computes {other:?}"))),
    };
    let shapes = Broadcast::new(&site.dims(0)?, &site.dims(1)?)?;
    let kernel = Kernel::Binary(Box::new(Binary::new(b.target.cpu, op, shapes)));
    let reads = [b.read(site, 0)?, b.read(site, 1)?];
    let y = b.output(site, 0);
    b.step(kernel, reads, y, 0);
    Ok(())
}

pub(super) fn conv(b: &mut Builder<'_>, site: &Site<'_>, attrs: &ConvAttrs) -> Result<(), Reason> {
    only(site, 0, DType::F32)?;
    let window = Window::of_conv(attrs, &site.dims(0)?, &site.dims(1)?)?;
    let weights = constant(site, 1, "the weights")?;
    let bias = if site.has(2) { constant(site, 2, "the bias")? } else { &[] };
    let geometry = ConvGeometry::new(window.spec)?;
    let (activation, result) = following_clip(b, site);
    let conv = ConvF32::new(b.target.cpu, geometry, weights, bias, activation)?;
    let scratch = f32_bytes(conv.scratch_len(b.target.threads))?;
    b.fate().macs = window.macs(&geometry);
    let x = b.read(site, 0)?;
    let x = window.to_channels_last(b, x, &site.dims(0)?, DType::F32)?;
    let y = finish(b, site, result);
    window.around(b, y, &site.out_dims(0)?, DType::F32, |b, y| {
        b.step(Kernel::Conv(Box::new(conv)), [x], y, scratch);
    })
}

pub(super) fn matmul(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), Reason> {
    only(site, 0, DType::F32)?;
    only(site, 1, DType::F32)?;
    let mut reads = vec![b.read(site, 0)?, b.read(site, 1)?];
    let (x, w) = (site.dims(0)?, site.dims(1)?);
    let mut gemm = match site.op {
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            let ([a0, a1], [b0, b1]) = (&x[..], &w[..]) else {
                return Err(Reason::new("gemm operands are matrices"));
            };
            let (m, k) = if *trans_a { (*a1, *a0) } else { (*a0, *a1) };
            let n = if *trans_b { *b0 } else { *b1 };
            reads.extend(bias(b, site, *beta, n)?);
            GemmF32 {
                a_transposed: *trans_a,
                b_transposed: *trans_b,
                alpha: *alpha,
                ..GemmF32::new(b.target.cpu, m, n, k)
            }
        }
        _ => product(b.target.cpu, &x, &w)?,
    };
    let (activation, result) = following_clip(b, site);
    gemm.activation = activation;
    b.fate().macs = (gemm.batch as u64) * (gemm.m as u64) * (gemm.n as u64) * (gemm.k as u64);
    let y = finish(b, site, result);
    b.step(Kernel::Gemm(Box::new(gemm)), reads, y, 0);
    Ok(())
}

/// NumPy's matmul, where the leading axes are those of one operand or the same in both.
fn product(cpu: Cpu, a: &[usize], b: &[usize]) -> Result<GemmF32, Reason> {
    let (a_batch, m, k) = match a {
        [k] => (&[][..], 1, *k),
        [batch @ .., m, k] => (batch, *m, *k),
        [] => return Err(Reason::new("a product of scalars")),
    };
    let (b_batch, n) = match b {
        [_] => (&[][..], 1),
        [batch @ .., _, n] => (batch, *n),
        [] => return Err(Reason::new("a product of scalars")),
    };
    let (a_count, b_count): (usize, usize) = (a_batch.iter().product(), b_batch.iter().product());
    if b_count == 1 {
        // All leading axes of `a` are rows of one product.
        return Ok(GemmF32::new(cpu, a_count * m, n, k));
    }
    if a_count != 1 && a_batch != b_batch {
        return Err(Reason::new(
            "the leading axes of the operands are broadcast against each other",
        ));
    }
    let a_shared = a_count == 1;
    Ok(GemmF32 { batch: b_count, a_shared, ..GemmF32::new(cpu, m, n, k) })
}

/// The third operand of a gemm as one value per column, if it is there.
fn bias(
    b: &mut Builder<'_>,
    site: &Site<'_>,
    beta: f32,
    n: usize,
) -> Result<Option<Place>, Reason> {
    if !site.has(2) {
        return Ok(None);
    }
    only(site, 2, DType::F32)?;
    let dims = site.dims(2)?;
    let count: usize = dims.iter().product();
    let per_column = count == n && dims.last() == Some(&n);
    if per_column && beta == 1.0 {
        return Ok(Some(b.read(site, 2)?));
    }
    if !(per_column || count == 1) {
        return Err(Reason::new("the third operand is not one value per column"));
    }
    let values = constant(site, 2, "the third operand")?;
    let values: Vec<f32> = (0..n).map(|i| beta * values[if count == 1 { 0 } else { i }]).collect();
    let tensor = Tensor::from_slice(&[n], &values).map_err(|e| Reason::new(e.to_string()))?;
    Ok(Some(b.constant(tensor)))
}

/// The limits of a relu or clip that alone reads the node's result, and that node.
fn following_clip(b: &Builder<'_>, site: &Site<'_>) -> (Activation, Option<crate::NodeId>) {
    let next = b.graph.sole_consumer(Outlet { node: site.id, slot: 0 });
    let Some((id, 0)) = next else { return (Activation::NONE, None) };
    match b.graph.node(id).kind {
        NodeKind::Op(Op::Unary(UnaryKind::Relu)) => {
            (Activation { lo: 0.0, hi: f32::INFINITY }, Some(id))
        }
        NodeKind::Op(Op::Unary(UnaryKind::Clip { min, max })) if min <= max => {
            (Activation { lo: min, hi: max }, Some(id))
        }
        _ => (Activation::NONE, None),
    }
}

/// The block of the result: the node's own, or that of the clip it takes over.
fn finish(b: &mut Builder<'_>, site: &Site<'_>, clip: Option<crate::NodeId>) -> Place {
    match clip {
        None => b.output(site, 0),
        Some(id) => {
            b.absorb(id);
            b.output_of(Outlet { node: id, slot: 0 })
        }
    }
}

fn constant<'g>(site: &Site<'g>, i: usize, what: &str) -> Result<&'g [f32], Reason> {
    site.constant(i)
        .ok_or_else(|| Reason::new(format!("{what}: not a constant")))?
        .as_slice::<f32>()
        .ok_or_else(|| Reason::new(format!("{what}: not f32")))
}

fn f32_bytes(elements: usize) -> Result<usize, Reason> {
    elements
        .checked_mul(size_of::<f32>())
        .ok_or_else(|| Reason::new("the scratch memory does not fit"))
}
