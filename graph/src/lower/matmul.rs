//! Matrix products: constant weights are packed ahead, two activations are multiplied by packing at run time.

use super::requant::{accumulator, affine8, folded_bias};
use super::weights::Weights;
use super::{Builder, Reason, Site, float};
use crate::exec::step::{Kernel, MatMulBatches, ProductResult};
use requant_ir::{Op, QOut};
use requant_kernels::gemm::{DynamicGemm, Gemm};

pub(super) fn lower(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), Reason> {
    match site.op {
        Op::QMatMul { trans_b, alpha, out, zero_folded } => {
            let (x_sign, x_scale, x_zero) = affine8(&site.ty(0)?.elem)?;
            let a = Factor { sign: x_sign, scale: alpha * x_scale, zero: x_zero };
            if site.constant(1).is_some() {
                constant(b, site, a, *trans_b, out, *zero_folded)
            } else {
                dynamic(b, site, a, *trans_b, out, *zero_folded)
            }
        }
        _ => float::matmul(b, site),
    }
}

struct Factor {
    sign: requant_kernels::sign::Sign,
    scale: f32,
    zero: i32,
}

/// `[…, M, K] × [K, N]`: all leading axes of the activations are rows of one product.
fn constant(
    b: &mut Builder<'_>,
    site: &Site<'_>,
    a: Factor,
    trans_b: bool,
    out: &QOut,
    zero_folded: bool,
) -> Result<(), Reason> {
    let (x, w) = (site.dims(0)?, site.dims(1)?);
    let [rows, cols] = *w else {
        return Err(Reason::new(format!("constant weights of rank {} are not packed", w.len())));
    };
    let (k, n) = if trans_b { (cols, rows) } else { (rows, cols) };
    if x.last() != Some(&k) {
        return Err(Reason::new("the operands' inner extents differ"));
    }
    let m = x[..x.len() - 1].iter().product();
    let constant = site.constant(1).ok_or_else(|| Reason::new("the weights are not a constant"))?;
    let weights = Weights::new(constant).ok_or_else(|| {
        Reason::new(format!(
            "no integer kernel takes {} weights of this quantization",
            constant.dtype()
        ))
    })?;
    let quant = constant
        .elem()
        .quant
        .as_ref()
        .ok_or_else(|| Reason::new("the weights are not quantized"))?;
    if quant.axis().is_some_and(|axis| axis != usize::from(!trans_b)) {
        return Err(Reason::new("the weights are quantized along an axis that is not the columns"));
    }
    let packed = b.target.weights.matrix(b.target.cpu, &weights, (k, n), trans_b, a.sign)?;
    let bias = folded_bias(site, 2, a.zero, zero_folded, &packed.weight_sums())?;
    let output = accumulator(a.scale, quant.scales(), out, None)?;
    let gemm = Gemm::new(packed, &bias, &output)?;
    b.fate().macs = (m as u64) * (n as u64) * (k as u64);
    let x = b.read(site, 0)?;
    let y = b.output(site, 0);
    b.step(
        Kernel::QGemm { gemm: Box::new(gemm), m, k, n, result: ProductResult::new(&out.elem) },
        [x],
        y,
        0,
    );
    Ok(())
}

/// Two activations; leading axes broadcast.
fn dynamic(
    b: &mut Builder<'_>,
    site: &Site<'_>,
    a: Factor,
    trans_b: bool,
    out: &QOut,
    zero_folded: bool,
) -> Result<(), Reason> {
    if zero_folded || site.has(2) {
        return Err(Reason::new("a bias with weights that are not constant"));
    }
    let (x, w) = (site.dims(0)?, site.dims(1)?);
    let (sign, scale, zero) = affine8(&site.ty(1)?.elem)?;
    let batches = MatMulBatches::new(&x, &w, trans_b)
        .ok_or_else(|| Reason::new("the operands are not matrices of fitting shapes"))?;
    let output = accumulator(a.scale, &[scale], out, None)?;
    let gemm = DynamicGemm::new(
        b.target.cpu,
        (batches.k, batches.n),
        (a.sign, a.zero),
        (sign, zero),
        &[],
        &output,
    )?;
    let scratch = gemm.scratch_bytes(b.target.threads);
    b.fate().macs = batches.macs();
    let reads = [b.read(site, 0)?, b.read(site, 1)?];
    let y = b.output(site, 0);
    let (gemm, result) = (Box::new(gemm), ProductResult::new(&out.elem));
    b.step(Kernel::QMatMul { gemm, batches, trans_b, result }, reads, y, scratch);
    Ok(())
}
