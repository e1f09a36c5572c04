//! Calls of every public kernel with any numbers as sizes, steps, strides, padding and numbers of threads.
//!
//! Nothing may panic, overflow or allocate much more than the operands: a kernel is refused, or it runs on operands of
//! the sizes that it was made for. Shared by the tests and the fuzz target `kernel_sizes`.

mod images;
mod matrices;
mod numbers;

use requant_kernels::{
    broadcast::Broadcast,
    elementwise::{Extremum, QExtremum},
    float::{Binary, BinaryOp, LayerNorm, Reduce, ReduceOp},
    layout::{Concat, Gather, Pad, StridedCopy},
    quantize::{Codes, Dequantize, DynamicQuantize, Quantize, RowQuantization},
    softmax::{Softmax, Softmax8},
};

use numbers::{MOST, Numbers, Outcome, product, run_with, skipped};

/// A kernel, made and run with the numbers that come.
type Call = fn(&mut Numbers<'_>) -> Outcome;

/// Every kernel, by name.
pub(crate) const CALLS: &[(&str, Call)] = &[
    ("Gemm", matrices::gemm),
    ("DynamicGemm", matrices::dynamic_gemm),
    ("Gemm16", matrices::gemm16),
    ("HybridGemm", matrices::hybrid_gemm),
    ("WeightOnlyGemm", matrices::weight_only_gemm),
    ("GemmF32", matrices::gemm_f32),
    ("Conv", images::conv),
    ("ConvTranspose", images::conv_transpose),
    ("ConvF32", images::conv_f32),
    ("DepthwiseF32", images::depthwise_f32),
    ("pools", images::pool),
    ("GlobalAveragePool8", images::global_pool),
    ("Nearest", images::nearest),
    ("bilinear", images::bilinear),
    ("Concat", concat),
    ("Gather", gather),
    ("Pad", pad),
    ("StridedCopy", strided),
    ("Softmax", softmax),
    ("LayerNorm", layer_norm),
    ("Reduce", reduce),
    ("elementwise", elementwise),
    ("Dequantize", dequantize),
    ("DynamicQuantize", dynamic_quantize),
];

/// Makes and runs the kernel that the first number says, with what the others say.
pub(crate) fn call(bytes: &[u8]) -> (&'static str, Outcome) {
    let Some((first, rest)) = bytes.split_first() else { return ("nothing", skipped()) };
    let (name, call) = CALLS[usize::from(*first) % CALLS.len()];
    (name, call(&mut Numbers::new(rest)))
}

fn concat(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, outer, rows) = (n.cpu(), n.any(), n.list());
    let concat = Concat::new(cpu, outer, rows.clone())?;
    let lens: Vec<usize> = rows.iter().map(|row| outer * row).collect();
    let all = outer * rows.iter().sum::<usize>();
    run_with(&[all], |len| {
        let made = len(0) == all;
        let inputs: Vec<Vec<u8>> =
            lens.iter().map(|&len| vec![1; if made { len } else { 0 }]).collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(|input| &input[..]).collect();
        concat.run(&n.threads(), &inputs, &mut vec![0; len(0)])
    })
}

fn gather(n: &mut Numbers<'_>) -> Outcome {
    let [outer, axis, inner, count] = n.four();
    let gather = Gather::new(outer, axis, inner, count)?;
    let index = if n.flag() { 0 } else { n.any() as i64 };
    let (x, indices) = (n.operand(&[outer, axis, inner], 1), n.operand(&[count], index));
    let mut y = n.operand(&[outer, count, inner], 0);
    gather.run(&n.threads(), &x, &indices, &mut y)
}

fn pad(n: &mut Numbers<'_>) -> Outcome {
    let (dims, element) = (n.list(), n.any());
    let [before, after] = [0; 2].map(|_| dims.iter().map(|_| n.any()).collect::<Vec<_>>());
    let pad = Pad::new(&dims, &before, &after, element)?;
    let input = product(&dims).and_then(|len| len.checked_mul(element)).unwrap_or(0);
    run_with(&[input, pad.out_bytes(), element], |len| {
        pad.run(&n.threads(), &vec![1; len(0)], &vec![2; len(2)], &mut vec![0; len(1)])
    })
}

fn strided(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, dims, element, which) = (n.cpu(), n.list(), n.any(), n.byte());
    let mut list = || dims.iter().map(|_| n.any()).collect::<Vec<_>>();
    let copy = match which % 4 {
        0 => {
            StridedCopy::transpose(cpu, &dims, &(0..dims.len()).rev().collect::<Vec<_>>(), element)
        }
        1 => {
            let (start, len, step) = (list(), list(), list());
            let step: Vec<isize> = step.iter().map(|&step| step as isize).collect();
            StridedCopy::slice(cpu, &dims, &start, &len, &step, element)
        }
        2 => {
            let more = list();
            let out: Vec<usize> = dims
                .iter()
                .zip(&more)
                .map(|(&dim, &more)| if dim == 1 { more } else { dim })
                .collect();
            StridedCopy::expand(cpu, &dims, &out, element)
        }
        _ => StridedCopy::tile(cpu, &dims, &list(), element),
    }?;
    let input = product(&dims).and_then(|len| len.checked_mul(element)).unwrap_or(0);
    run_with(&[input, copy.out_bytes()], |len| {
        copy.run(&n.threads(), &vec![1; len(0)], &mut vec![0; len(1)])
    })
}

fn softmax(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, axis, rows, sign) = (n.cpu(), n.any(), n.any(), n.sign());
    let len = axis.saturating_mul(rows);
    let threads = n.threads();
    if n.flag() {
        let softmax = Softmax::new(cpu, axis)?;
        let len = if len <= MOST { len } else { 0 };
        return softmax.run(&threads, &vec![1.0; len], &mut vec![0.0; len]);
    }
    let softmax = Softmax8::new(cpu, axis, sign, 0.5, 1)?;
    let quantize = Quantize::new(cpu, 0.25, 0, sign)?;
    let scratch = softmax.scratch_len(threads.0);
    if len.max(scratch) > MOST {
        // Nothing is a number of rows of any length.
        softmax.run_f32(&threads, &[], &mut [])?;
        return softmax.run(&threads, &quantize, &[], &mut [], &mut []);
    }
    let (x, mut y) = (vec![1; len], vec![0.0; len]);
    softmax.run_f32(&threads, &x, &mut y)?;
    softmax.run(&threads, &quantize, &x, &mut vec![0; len], &mut vec![0.0; scratch])
}

fn layer_norm(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, columns, rows) = (n.cpu(), n.any(), n.any());
    let scale = n.operand(&[columns], 1.0);
    let norm = LayerNorm::new(cpu, 1e-5, scale.clone(), Vec::new())?;
    let mut y = n.operand(&[scale.len(), rows], 0.0);
    norm.run(&n.threads(), &vec![1.0; y.len()], &mut y)
}

fn reduce(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, dims) = (n.cpu(), n.list());
    let op =
        [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min][usize::from(n.byte()) % 4];
    let axes: Vec<usize> = (0..dims.len()).filter(|_| n.flag()).collect();
    let reduce = Reduce::new(cpu, op, &dims, &axes)?;
    run_with(&[product(&dims).unwrap_or(usize::MAX), reduce.out_len()], |len| {
        reduce.run(&n.threads(), &vec![1.0; len(0)], &mut vec![0.0; len(1)])
    })
}

fn elementwise(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, a, sign) = (n.cpu(), n.list(), n.sign());
    let b = if n.flag() {
        n.list()
    } else {
        a.iter().map(|&dim| if n.flag() { dim } else { 1 }).collect()
    };
    let shapes = Broadcast::new(&a, &b)?;
    let of = |dims: &[usize]| product(dims).unwrap_or(usize::MAX);
    let (lens, threads) = ([of(&a), of(&b), of(shapes.dims())], n.threads());
    run_with(&lens, |len| {
        let [a, b] = [vec![1; len(0)], vec![2; len(1)]];
        let extremum = QExtremum::new(cpu, Extremum::Max, sign, None);
        extremum.run(&threads, &shapes, &a, &b, &mut vec![0; len(2)])?;
        let [a, b] = [vec![1.0; len(0)], vec![2.0; len(1)]];
        let add = Binary::new(cpu, BinaryOp::Add, shapes.clone());
        add.run(&threads, &a, &b, &mut vec![0.0; len(2)])
    })
}

fn dequantize(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, axis, inner, outer) = (n.cpu(), n.any(), n.any(), n.any());
    let scales = n.operand(&[axis], 0.5);
    let dequantize = Dequantize::per_axis(cpu, scales.clone(), Vec::new(), inner)?;
    let codes = n.operand(&[outer, scales.len(), inner], 1);
    dequantize.run(&n.threads(), Codes::S8(&codes), &mut vec![0.0; codes.len()])
}

fn dynamic_quantize(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, sign, columns, rows) = (n.cpu(), n.sign(), n.any(), n.any());
    let quantize = DynamicQuantize::new(cpu, sign, columns)?;
    let x = n.operand(&[rows, columns], 1.0);
    let mut rows = n.operand(&[rows], RowQuantization::default());
    quantize.run(&n.threads(), &x, &mut vec![0; x.len()], &mut rows)
}
