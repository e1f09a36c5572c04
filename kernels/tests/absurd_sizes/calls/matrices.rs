//! Matrix products.

use std::sync::Arc;

use requant_kernels::{
    epilogue::Output,
    float::GemmF32,
    gemm::{DynamicGemm, Gemm, PackedB},
    gemm16::{Gemm16, PackedB16, Requantize16},
    hybrid::{DynamicQuantization, HybridGemm},
    weight_only::{BlockWeights, PackedBlocks, WeightOnlyGemm, WeightType},
};

use super::numbers::{MOST, Numbers, Outcome, is_between, skipped, span, with_output};

pub(super) fn gemm(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, [k, cols], transposed, sign) = (n.cpu(), n.pair(), n.flag(), n.sign());
    let b = n.operand(&[k, cols], 1i8);
    let w_zero = [1];
    let w_zero = n.flag().then_some(&w_zero[..]);
    let packed = Arc::new(PackedB::pack(cpu, &b, k, cols, transposed, w_zero, sign)?);
    let (output, bias) = (n.output(), n.operand(&[cols], 7));
    let gemm = Gemm::new(packed, &bias, &output)?;
    let ([m, lda, ldc], threads) = ([n.any(), n.any(), n.any()], n.threads());
    let (Some(a), Some(c)) = (span(m, k, lda), span(m, cols, ldc)) else {
        return with_output!(output, 0, |y| gemm.run(&threads, m, &[], lda, None, y, ldc));
    };
    with_output!(output, c, |y| gemm.run(&threads, m, &vec![1; a], lda, None, y, ldc))
}

pub(super) fn dynamic_gemm(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, [k, cols], transposed) = (n.cpu(), n.pair(), n.flag());
    if is_between(&[cols]) {
        return skipped();
    }
    let (a_sign, b_sign, output) = (n.sign(), n.sign(), n.output());
    let bias = if n.flag() { n.operand(&[cols], 7) } else { Vec::new() };
    let gemm = DynamicGemm::new(cpu, (k, cols), (a_sign, 1), (b_sign, 2), &bias, &output)?;
    let ([m, lda, ldb, ldc], threads, starts) = (n.four(), n.threads(), [(n.any(), n.any())]);
    let starts = &starts[..usize::from(n.flag())];
    let (rows, row) = if transposed { (cols, k) } else { (k, cols) };
    let [a, b, c] =
        [span(m, k, lda), span(rows, row, ldb), span(m, cols, ldc)].map(|x| x.unwrap_or(0));
    let start = |i: usize| if starts.len() > i && starts[i].0 < 8 { starts[i].0 } else { 0 };
    let mut scratch =
        vec![0; Some(gemm.scratch_bytes(threads.0)).filter(|&s| s <= 64 * MOST).unwrap_or(0)];
    let (a, b) = (vec![1; a + start(0)], vec![1; b + start(0)]);
    with_output!(output, c, |y| {
        let b = (&b[..], ldb);
        gemm.run(&threads, m, starts, (&a, lda), b, transposed, (y, ldc), &mut scratch)
    })
}

pub(super) fn gemm16(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, [k, cols]) = (n.cpu(), n.pair());
    let packed = PackedB16::pack(&n.operand(&[k, cols], 1), k, cols, n.flag())?;
    let halves = Requantize16::HalfEven(vec![0.5]);
    let bias = if n.flag() { n.operand(&[cols], 7) } else { Vec::new() };
    let gemm = Gemm16::new(cpu, Arc::new(packed), &bias, &halves, (-9, 9))?;
    let ([m, lda, ldc], threads) = ([n.any(), n.any(), n.any()], n.threads());
    let [a, c] = [span(m, k, lda), span(m, cols, ldc)].map(|x| x.unwrap_or(0));
    gemm.run(&threads, m, (&vec![1; a], lda), (&mut vec![0; c], ldc))
}

pub(super) fn hybrid_gemm(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, [k, cols], sign) = (n.cpu(), n.pair(), n.sign());
    let packed = PackedB::pack(cpu, &n.operand(&[k, cols], 1), k, cols, n.flag(), None, sign)?;
    let kind = match n.byte() % 3 {
        0 => DynamicQuantization::SymmetricPerRow,
        1 => DynamicQuantization::AsymmetricPerRow,
        _ => DynamicQuantization::AsymmetricPerTensor,
    };
    let bias = if n.flag() { n.operand(&[cols], 7.0) } else { Vec::new() };
    let gemm = HybridGemm::new(cpu, Arc::new(packed), kind, &[0.5], &bias)?;
    let ([m, ldx, ldy], threads) = ([n.any(), n.any(), n.any()], n.threads());
    let [x, y] = [span(m, k, ldx), span(m, cols, ldy)].map(|x| x.unwrap_or(0));
    let scratch = Some(gemm.scratch_bytes(m, threads.0)).filter(|&s| s <= 64 * MOST).unwrap_or(0);
    let (x, mut y, mut scratch) = (vec![1.0; x], vec![0.0; y], vec![0; scratch]);
    gemm.run(&threads, m, (&x, ldx), (&mut y, ldy), &mut scratch)
}

pub(super) fn weight_only_gemm(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, [k, cols], mut block) = (n.cpu(), n.pair(), n.any());
    if n.flag() {
        block = block.saturating_mul(8);
    }
    let weight_type = [WeightType::S8, WeightType::S4, WeightType::U4][usize::from(n.byte()) % 3];
    let (codes, blocks) = (n.operand(&[k, cols], 1i8), k.div_ceil(block.max(1)));
    let scales = n.operand(&[blocks, cols], 0.5);
    let zero_points = if n.flag() { vec![1; scales.len()] } else { Vec::new() };
    let weights = BlockWeights {
        weight_type,
        codes: &codes,
        k,
        n: cols,
        transposed: n.flag(),
        block,
        scales: &scales,
        zero_points: &zero_points,
    };
    let packed = Arc::new(PackedBlocks::pack(&weights)?);
    let bias = if n.flag() { n.operand(&[cols], 7.0) } else { Vec::new() };
    let gemm = WeightOnlyGemm::new(cpu, packed, &bias)?;
    let ([m, ldx, ldy], threads) = ([n.any(), n.any(), n.any()], n.threads());
    let [x, y] = [span(m, k, ldx), span(m, cols, ldy)].map(|x| x.unwrap_or(0));
    gemm.run(&threads, m, (&vec![1.0; x], ldx), (&mut vec![0.0; y], ldy))
}

pub(super) fn gemm_f32(n: &mut Numbers<'_>) -> Outcome {
    let cpu = n.cpu();
    let [m, cols, k, batch] = n.four();
    let gemm = GemmF32 {
        a_transposed: n.flag(),
        b_transposed: n.flag(),
        batch,
        a_shared: n.flag(),
        b_shared: n.flag(),
        ..GemmF32::new(cpu, m, cols, k)
    };
    let count = |shared: bool| if shared { 1 } else { batch };
    let a = n.operand(&[count(gemm.a_shared), m, k], 1.0);
    let b = n.operand(&[count(gemm.b_shared), k, cols], 1.0);
    let bias = if n.flag() { n.operand(&[cols], 1.0) } else { Vec::new() };
    let mut y = n.operand(&[batch, m, cols], 0.0);
    gemm.run(&n.threads(), &a, &b, &bias, &mut y)
}
