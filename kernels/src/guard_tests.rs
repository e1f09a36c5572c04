//! Every elementwise kernel between unreadable pages, at every length of a vector and beyond.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::Cpu;
use crate::broadcast::Broadcast;
use crate::conv::{ConvGeometry, ConvSpec};
use crate::elementwise::{Extremum, QAdd, QExtremum, QMul, qadd_constants};
use crate::float::{
    Activation, ConvF32, LayerNorm, Reduce, ReduceOp, Unary, f16_to_f32, f32_to_f16,
};
use crate::layout::StridedCopy;
use crate::lut::Lut;
use crate::par::Serial;
use crate::pool::{AveragePool8, GlobalAveragePool8, MaxPool8, MaxPoolF32, PoolShape};
use crate::quantize::{Codes, Dequantize, DynamicQuantize, Quantize, Requantize, RowQuantization};
use crate::resize::{Bilinear8, BilinearF32, Coordinates, Nearest, NearestRounding, ResizeShape};
use crate::sign::{Sign, flip, flip_in_place};
use crate::softmax::Softmax;
use crate::split::testing::cpus;
use crate::testing::{Flush, Guarded};

/// `n` bytes at a guard page.
fn bytes(n: usize, flush: Flush) -> Guarded {
    Guarded::new(&(0..n).map(|i| (i * 37) as u8).collect::<Vec<_>>(), flush)
}

/// The same memory as 4-byte values; the guarded length is a multiple of 4, so either end stays flush.
fn words<T>(bytes: &mut Guarded) -> &mut [T] {
    assert!(
        size_of::<T>() == 4
            && bytes.len().is_multiple_of(4)
            && bytes.as_ptr().cast::<T>().is_aligned()
    );
    // SAFETY: aligned, in bounds, and every bit pattern is an f32 or i32, which the callers ask for.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / 4) }
}

/// The same memory as f16 values; of the lengths here, either end stays flush.
fn halves_of(bytes: &mut Guarded) -> &mut [half::f16] {
    assert!(bytes.len().is_multiple_of(2) && bytes.as_ptr().cast::<half::f16>().is_aligned());
    // SAFETY: aligned, in bounds, and every bit pattern is an f16.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / 2) }
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
    flip(&a, &mut y);
    flip_in_place(&mut y);
    let mut halves = bytes(2 * n, flush);
    f32_to_f16(&Serial, words(&mut f), halves_of(&mut halves)).unwrap();
    f16_to_f32(&Serial, halves_of(&mut halves), words(&mut f)).unwrap();
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
    StridedCopy::transpose(&[9, channels], &[1, 0], 1).unwrap().run(&Serial, &x, &mut y).unwrap();
    StridedCopy::transpose(&[9, channels], &[1, 0], 4).unwrap().run(&Serial, &f, &mut g).unwrap();
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
    let spec = ConvSpec {
        batch: 1,
        in_h: 3,
        in_w: 3,
        in_c: channels,
        out_c: channels,
        kernel: [3, 3],
        strides: [1, 1],
        dilations: [1, 1],
        pads: [1; 4],
        groups: channels,
    };
    let w: Vec<f32> = vec![0.5; 9 * channels];
    let conv =
        ConvF32::new(cpu, ConvGeometry::new(spec).unwrap(), &w, &[], Activation::NONE).unwrap();
    let mut scratch = vec![0.0; conv.scratch_len(1)];
    conv.run(&Serial, words(&mut f), words(&mut g), &mut scratch).unwrap();
}

#[test]
fn no_kernel_touches_memory_beyond_its_slices() {
    for flush in [Flush::Start, Flush::End] {
        for cpu in cpus() {
            (0..200).for_each(|n| elementwise(cpu, n, flush));
            (1..150).for_each(|channels| images(cpu, channels, flush));
        }
    }
}
