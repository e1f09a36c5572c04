//! Every elementwise kernel between unreadable pages, at every length of a vector and beyond.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::Cpu;
use crate::broadcast::Broadcast;
use crate::conv::{ConvGeometry, ConvSpec};
use crate::elementwise::{Extremum, QAdd, QExtremum, QMul, qadd_constants};
use crate::epilogue::FixedPoint;
use crate::float::{
    Activation, Binary, BinaryOp, ConvF32, GemmF32, LayerNorm, Reduce, ReduceOp, Unary, f16_to_f32,
    f32_to_f16,
};
use crate::gemm::PackedB;
use crate::gemm16::{Gemm16, PackedB16, Requantize16};
use crate::hybrid::{DynamicQuantization, HybridGemm};
use crate::layout::{Gather, Pad, StridedCopy};
use crate::lut::Lut;
use crate::par::Serial;
use crate::pool::{
    AveragePool8, AveragePoolF32, GlobalAveragePool8, MaxPool8, MaxPoolF32, PoolShape,
};
use crate::quantize::{
    Codes, CodesMut, Dequantize, DynamicQuantize, Quantize, Requantize, Rescale, RowQuantization,
};
use crate::resize::{Bilinear8, BilinearF32, Coordinates, Nearest, NearestRounding, ResizeShape};
use crate::sign::{Sign, flip, flip_in_place};
use crate::softmax::{Softmax, Softmax8};
use crate::split::testing::cpus;
use crate::testing::{Flush, Guarded};
use crate::weight_only::{BlockWeights, PackedBlocks, WeightOnlyGemm, WeightType};

/// `n` bytes at a guard page.
fn bytes(n: usize, flush: Flush) -> Guarded {
    Guarded::new(&(0..n).map(|i| (i * 37) as u8).collect::<Vec<_>>(), flush)
}

/// Numbers of which every bit pattern is one.
trait Word {}
impl Word for f32 {}
impl Word for i32 {}
impl Word for i16 {}
impl Word for half::f16 {}

/// The same memory as words; the guarded length is a multiple of theirs, so either end stays flush.
fn words<T: Word>(bytes: &mut Guarded) -> &mut [T] {
    let size = size_of::<T>();
    assert!(bytes.len().is_multiple_of(size) && bytes.as_ptr().cast::<T>().is_aligned());
    // SAFETY: aligned, in bounds, and any bytes are a `Word`.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size) }
}

fn elementwise(cpu: Cpu, n: usize, flush: Flush) {
    let (mut a, mut b, mut y) = (bytes(n, flush), bytes(n, flush), bytes(n, flush));
    let (mut f, mut g) = (bytes(4 * n, flush), bytes(4 * n, flush));
    let shapes = Broadcast::elementwise(n);
    for sign in [Sign::U8, Sign::S8] {
        let bounds = (sign.min(), sign.max());
        let k = qadd_constants(0.1, 3, 0.2, 4, 0.15, 5);
        QAdd::new(cpu, sign, k, bounds).unwrap().run(&Serial, &shapes, &a, &b, &mut y).unwrap();
        QMul::new(cpu, sign, 0.1, (1, 2, 3), bounds)
            .unwrap()
            .run(&Serial, &shapes, &a, &b, &mut y)
            .unwrap();
        Quantize::new(cpu, 0.1, 3, sign).unwrap().run(&Serial, words(&mut f), &mut y).unwrap();
        Requantize::new(cpu, vec![0.1], 3, sign, bounds)
            .unwrap()
            .run(&Serial, words(&mut f), &mut y)
            .unwrap();
    }
    for codes in [Codes::U8(&a), Codes::S8(&b)] {
        Dequantize::per_tensor(cpu, 0.1, 3).unwrap().run(&Serial, codes, words(&mut f)).unwrap();
    }
    QExtremum::new(cpu, Extremum::Max, Sign::S8, Some(Lut::from_fn(cpu, |b| !b)))
        .run(&Serial, &shapes, &a, &b, &mut y)
        .unwrap();
    flip(cpu, &a, &mut y);
    flip_in_place(cpu, &mut y);
    let mut halves = bytes(2 * n, flush);
    f32_to_f16(cpu, &Serial, words(&mut f), words::<half::f16>(&mut halves)).unwrap();
    f16_to_f32(cpu, &Serial, words::<half::f16>(&mut halves), words(&mut f)).unwrap();
    Lut::from_fn(cpu, |b| !b).run(&Serial, &a, &mut b).unwrap();
    Lut::from_fn(cpu, |b| !b).run_in_place(&Serial, &mut a);
    Unary::Sigmoid.run(cpu, &Serial, words(&mut f), words(&mut g)).unwrap();
    if n > 0 {
        let mut rows = [RowQuantization::default(); 1];
        DynamicQuantize::new(cpu, Sign::U8, n)
            .unwrap()
            .run(&Serial, words(&mut f), &mut y, &mut rows)
            .unwrap();
        let (axis, zeros) = (vec![0.1; n], vec![1; n]);
        Dequantize::per_axis(cpu, axis.clone(), zeros, 1)
            .unwrap()
            .run(&Serial, Codes::U8(&a), words(&mut f))
            .unwrap();
        Requantize::new(cpu, axis.clone(), 3, Sign::S8, (-128, 127))
            .unwrap()
            .run(&Serial, words(&mut f), &mut y)
            .unwrap();
        LayerNorm::new(cpu, 1e-5, axis, vec![])
            .unwrap()
            .run(&Serial, words(&mut f), words(&mut g))
            .unwrap();
        Softmax::new(cpu, n).unwrap().run(&Serial, words(&mut f), words(&mut g)).unwrap();
        let sum = Reduce::new(cpu, ReduceOp::Sum, &[n], &[0]).unwrap();
        sum.run(&Serial, words(&mut f), &mut [0.0]).unwrap();
    }
}

/// Operands of unequal sizes, or of 16 and 32 bits.
fn rows(cpu: Cpu, n: usize, flush: Flush) {
    let [a, one, mut b, mut y] = [n, 1, n, n].map(|n| bytes(n, flush));
    for (shapes, [a, b]) in [
        (Broadcast::new(&[1], &[n]).unwrap(), [&one, &b]),
        (Broadcast::new(&[n], &[1]).unwrap(), [&a, &one]),
    ] {
        for sign in [Sign::U8, Sign::S8] {
            let bounds = (sign.min(), sign.max());
            let k = qadd_constants(0.1, 3, 0.2, 4, 0.15, 5);
            QAdd::new(cpu, sign, k, bounds).unwrap().run(&Serial, &shapes, a, b, &mut y).unwrap();
            let mul = QMul::new(cpu, sign, 0.1, (1, 2, 3), bounds).unwrap();
            mul.run(&Serial, &shapes, a, b, &mut y).unwrap();
        }
    }
    let [mut f, mut g, mut h, mut single] = [n, n, n, 1].map(|n| bytes(4 * n, flush));
    for op in [BinaryOp::Add, BinaryOp::Div, BinaryOp::PRelu] {
        let both = Binary::new(cpu, op, Broadcast::elementwise(n));
        both.run(&Serial, words(&mut f), words(&mut g), words(&mut h)).unwrap();
        let scalar = Binary::new(cpu, op, Broadcast::new(&[n], &[1]).unwrap());
        scalar.run(&Serial, words(&mut f), words(&mut single), words(&mut h)).unwrap();
    }
    for op in [Unary::Silu, Unary::Gelu, Unary::Tanh, Unary::Exp, Unary::Log, Unary::Round] {
        op.run(cpu, &Serial, words(&mut f), words(&mut g)).unwrap();
        op.run_in_place(cpu, &Serial, words(&mut g));
    }
    let mut short = bytes(2 * n, flush);
    let to_s16 = Quantize::new_s16(cpu, 0.1, 0).unwrap();
    to_s16.run_s16(&Serial, words(&mut f), words(&mut short)).unwrap();
    let from = Dequantize::per_tensor(cpu, 0.1, 3).unwrap();
    from.run(&Serial, Codes::S16(words(&mut short)), words(&mut g)).unwrap();
    from.run(&Serial, Codes::S32(words(&mut f)), words(&mut g)).unwrap();
    let to = Quantize::new(cpu, 0.2, 4, Sign::S8).unwrap();
    let rescale = Rescale::new(from.clone(), to).unwrap();
    rescale.run(&Serial, Codes::U8(&a), CodesMut::Bits8(&mut y)).unwrap();
    let rescale = Rescale::new(from, to_s16).unwrap();
    rescale.run(&Serial, Codes::U8(&a), CodesMut::S16(words(&mut short))).unwrap();
    let softmax = Softmax8::new(cpu, n, Sign::U8, 0.1, 3).unwrap();
    softmax.run_f32(&Serial, &a, words(&mut f)).unwrap();
    let mut scratch = bytes(4 * softmax.scratch_len(1), flush);
    softmax.run(&Serial, &to, &a, &mut b, words(&mut scratch)).unwrap();
    let mut three = bytes(12 * n, flush);
    for op in [ReduceOp::Mean, ReduceOp::Max] {
        let reduce = Reduce::new(cpu, op, &[3, n], &[0]).unwrap();
        reduce.run(&Serial, words(&mut three), words(&mut g)).unwrap();
    }
    for element in [1, 4] {
        let pad = Pad::new(&[n], &[3], &[5], element).unwrap();
        let [x, value, mut y] = [n, 1, n + 8].map(|n| bytes(element * n, flush));
        pad.run(&Serial, &x, &value, &mut y).unwrap();
    }
    let (x, mut y) = (bytes(2 * n, flush), bytes(3 * n, flush));
    Gather::new(1, 2, n, 3).unwrap().run(&Serial, &x, &[0, -1, 1], &mut y).unwrap();
}

fn images(cpu: Cpu, channels: usize, flush: Flush) {
    let shape = PoolShape {
        batch: 1,
        height: 3,
        width: 3,
        channels,
        kernel: [2, 2],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [1, 1, 0, 0],
        out: [3, 3],
    };
    let n = 9 * channels;
    let (x, mut y, mut mean) = (bytes(n, flush), bytes(n, flush), bytes(channels, flush));
    let (mut f, mut g) = (bytes(4 * n, flush), bytes(4 * n, flush));
    MaxPool8::new(cpu, shape, Sign::S8).unwrap().run(&Serial, &x, &mut y).unwrap();
    AveragePool8::new(cpu, shape, Sign::U8, (0.1, 2), (0.1, 3), false)
        .unwrap()
        .run(&Serial, &x, &mut y)
        .unwrap();
    let three = PoolShape { kernel: [3, 3], pads: [1; 4], ..shape };
    MaxPool8::new(cpu, three, Sign::U8).unwrap().run(&Serial, &x, &mut y).unwrap();
    AveragePool8::new(cpu, three, Sign::S8, (0.1, 2), (0.1, 3), true)
        .unwrap()
        .run(&Serial, &x, &mut y)
        .unwrap();
    MaxPoolF32::new(cpu, shape).unwrap().run(&Serial, words(&mut f), words(&mut g)).unwrap();
    GlobalAveragePool8::new(cpu, [1, 9, channels], Sign::U8, (0.1, 2), (0.1, 3))
        .unwrap()
        .run(&Serial, &x, &mut mean)
        .unwrap();
    StridedCopy::transpose(cpu, &[9, channels], &[1, 0], 1)
        .unwrap()
        .run(&Serial, &x, &mut y)
        .unwrap();
    StridedCopy::transpose(cpu, &[9, channels], &[1, 0], 4)
        .unwrap()
        .run(&Serial, &f, &mut g)
        .unwrap();
    let resize =
        ResizeShape { batch: 1, height: 3, width: 3, channels, out: [3, 3], scales: [1.5, 0.5] };
    Bilinear8::new(cpu, resize, Coordinates::HalfPixel, Sign::S8)
        .unwrap()
        .run(&Serial, &x, &mut y)
        .unwrap();
    BilinearF32::new(cpu, resize, Coordinates::HalfPixel)
        .unwrap()
        .run(&Serial, words(&mut f), words(&mut g))
        .unwrap();
    Nearest::new(resize, Coordinates::Asymmetric, NearestRounding::Floor, 1)
        .unwrap()
        .run(&Serial, &x, &mut y)
        .unwrap();
    let average = AveragePoolF32::new(cpu, shape, false).unwrap();
    average.run(&Serial, words(&mut f), words(&mut g)).unwrap();
    // Depthwise, with a multiplier, and dense.
    for (out_c, groups) in [(channels, channels), (2 * channels, channels), (5, 1)] {
        let spec = ConvSpec {
            batch: 1,
            in_h: 3,
            in_w: 3,
            in_c: channels,
            out_c,
            kernel: [3, 3],
            strides: [1, 1],
            dilations: [1, 1],
            pads: [1; 4],
            groups,
        };
        let geometry = ConvGeometry::new(spec).unwrap();
        let w = vec![0.5; 9 * channels / groups * out_c];
        let conv = ConvF32::new(cpu, geometry, &w, &[], Activation::NONE).unwrap();
        let mut scratch = bytes(4 * conv.scratch_len(1), flush);
        let mut y = bytes(4 * 9 * out_c, flush);
        conv.run(&Serial, words(&mut f), words(&mut y), words(&mut scratch)).unwrap();
    }
}

#[test]
fn no_kernel_touches_memory_beyond_its_slices() {
    for flush in [Flush::Start, Flush::End] {
        for cpu in cpus() {
            (0..200).for_each(|n| elementwise(cpu, n, flush));
            (1..150).for_each(|n| rows(cpu, n, flush));
            (1..150).for_each(|channels| images(cpu, channels, flush));
        }
    }
}

/// GEMM forms that read activations in place: weights and scratch are their own, or copies made here.
fn gemm_forms(cpu: Cpu, (m, n, k): (usize, usize, usize), flush: Flush) {
    let codes = vec![5; k * n];
    let (mut x, mut y) = (bytes(4 * m * k, flush), bytes(4 * m * n, flush));
    words::<f32>(&mut x).fill(0.5);
    for (sign, quantization) in [
        (Sign::U8, DynamicQuantization::AsymmetricPerRow),
        (Sign::S8, DynamicQuantization::SymmetricPerRow),
        (Sign::U8, DynamicQuantization::AsymmetricPerTensor),
    ] {
        let packed = PackedB::pack(cpu, &codes, k, n, false, None, sign).unwrap();
        let gemm = HybridGemm::new(cpu, packed.into(), quantization, &[1.0], &[]).unwrap();
        let mut scratch = bytes(gemm.scratch_bytes(m, 1), flush);
        gemm.run(&Serial, m, (words(&mut x), k), (words(&mut y), n), &mut scratch).unwrap();
    }
    for (weight_type, block, zero) in
        [(WeightType::S8, 32, None), (WeightType::U4, 16, Some(8)), (WeightType::S4, 64, None)]
    {
        let blocks = k.div_ceil(block) * n;
        let zeros = zero.map_or(vec![], |zero| vec![zero; blocks]);
        let weights = BlockWeights {
            weight_type,
            codes: &codes,
            k,
            n,
            transposed: false,
            block,
            scales: &vec![1.0; blocks],
            zero_points: &zeros,
        };
        let packed = PackedBlocks::pack(&weights).unwrap();
        let gemm = WeightOnlyGemm::new(cpu, packed.into(), &[]).unwrap();
        gemm.run(&Serial, m, (words(&mut x), k), (words(&mut y), n)).unwrap();
    }
    let (mut a, mut c) = (bytes(2 * m * k, flush), bytes(2 * m * n, flush));
    let fixed = vec![FixedPoint::from_real(0.01).unwrap()];
    for requantize in [Requantize16::HalfEven(vec![0.01]), Requantize16::Tflite16x8(fixed)] {
        let packed = PackedB16::pack(&codes, k, n, false).unwrap();
        let gemm = Gemm16::new(cpu, packed.into(), &[], &requantize, (-9, 9)).unwrap();
        gemm.run(&Serial, m, (words(&mut a), k), (words(&mut c), n)).unwrap();
    }
    let mut b = bytes(4 * k * n, flush);
    for b_transposed in [false, true] {
        let gemm = GemmF32 { b_transposed, ..GemmF32::new(cpu, m, n, k) };
        gemm.run(&Serial, words(&mut x), words(&mut b), &[], words(&mut y)).unwrap();
    }
}

#[test]
fn no_gemm_form_touches_memory_beyond_its_slices() {
    for flush in [Flush::Start, Flush::End] {
        for cpu in cpus() {
            for m in [1, 2, 3, 4, 5, 13] {
                for n in [1, 15, 16, 17, 40, 65, 70] {
                    for k in [1, 2, 7, 8, 9, 33, 70, 511] {
                        gemm_forms(cpu, (m, n, k), flush);
                    }
                }
            }
        }
    }
}
