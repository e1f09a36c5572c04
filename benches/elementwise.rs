//! Memory-bound kernels against a copy of the same number of bytes, in the same process.
//!
//! Throughput counts the bytes read and written. The table printed first gives GB/s on every ISA and, in brackets,
//! the share of what `memcpy` reaches with as many bytes; criterion then tracks the kernels one by one. A filter on
//! the command line selects kernels by name in both; `--table` prints the table alone.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to its caller by panicking and printing"
)]

#[path = "common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::Instant;

use common::{Lines, tracker};
use criterion::{Criterion, Throughput};
use requant_kernels::Cpu;
use requant_kernels::broadcast::Broadcast;
use requant_kernels::elementwise::{
    Extremum, QAdd, QAddConstants, QExtremum, QMul, qadd_constants, qsub_constants,
};
use requant_kernels::float::{
    Binary, BinaryOp, LayerNorm, Reduce, ReduceOp, Unary, f16_to_f32, f32_to_f16,
};
use requant_kernels::layout::{Concat, Gather, Pad, StridedCopy};
use requant_kernels::lut::Lut;
use requant_kernels::par::Serial;
use requant_kernels::pool::{
    AveragePool8, AveragePoolF32, GlobalAveragePool8, MaxPool8, MaxPoolF32, PoolShape,
};
use requant_kernels::quantize::{
    Codes, CodesMut, Dequantize, DynamicQuantize, Quantize, Requantize, Rescale, RowQuantization,
};
use requant_kernels::resize::{
    Bilinear8, BilinearF32, Coordinates, Nearest, NearestRounding, ResizeShape,
};
use requant_kernels::sign::{Sign, flip};
use requant_kernels::softmax::{Softmax, Softmax8};

/// Bytes read and written per run: within L2, within L3, and beyond the last cache of most machines.
const SIZES: [usize; 3] = [256 << 10, 4 << 20, 64 << 20];

/// The size that criterion tracks the streaming kernels at.
const TRACKED: usize = SIZES[0];

struct Kernel {
    name: String,
    /// Bytes read and written per run.
    bytes: usize,
    run: Box<dyn FnMut()>,
}

/// Kernels to choose from: building one takes memory, so that it waits until the kernel is asked for.
struct List<'a> {
    wanted: &'a dyn Fn(&str) -> bool,
    kernels: Vec<Kernel>,
}

impl List<'_> {
    fn add<F: FnMut() + 'static>(&mut self, name: &str, bytes: usize, make: impl FnOnce() -> F) {
        if (self.wanted)(name) {
            self.kernels.push(Kernel { name: name.to_owned(), bytes, run: Box::new(make()) });
        }
    }
}

fn codes(n: usize) -> Lines<u8> {
    Lines::of(n, |i| ((i * 37) >> 3) as u8)
}

fn values(n: usize) -> Lines<f32> {
    Lines::of(n, |i| (i % 4096) as f32 * 1e-3 - 2.0)
}

fn zeros<T: Copy + Default>(n: usize) -> Lines<T> {
    Lines::new(n)
}

/// Of a sum or a difference, from scales and zero points.
type Constants = fn(f32, i32, f32, i32, f32, i32) -> QAddConstants;

/// Kernels that stream through `bytes` in all.
fn streams(list: &mut List<'_>, cpu: Cpu, bytes: usize) {
    let n = bytes / 2;
    list.add("lut", 2 * n, || {
        let (lut, x, mut y) = (Lut::from_fn(cpu, |b| !b), codes(n), zeros(n));
        move || lut.run(&Serial, &x, &mut y).unwrap()
    });
    list.add("sign-flip", 2 * n, || {
        let (x, mut y) = (codes(n), zeros(n));
        move || flip(cpu, black_box(&x), black_box(&mut y))
    });
    list.add("requantize-s8-u8", 2 * n, || {
        let to = Quantize::new(cpu, 0.02, 7, Sign::U8).unwrap();
        let lut = Lut::requantize(cpu, (Sign::S8, 0.013, 3), &to).unwrap();
        let (x, mut y) = (codes(n), zeros(n));
        move || lut.run(&Serial, &x, &mut y).unwrap()
    });
    let n = bytes / 3;
    list.add("rescale-s16-u8", 3 * n, || {
        let from = Dequantize::per_tensor(cpu, 0.0002, 0).unwrap();
        let rescale = Rescale::new(from, Quantize::new(cpu, 0.02, 7, Sign::U8).unwrap()).unwrap();
        let (x, mut y) = (Lines::of(n, |i| (i * 7) as i16), zeros(n));
        move || rescale.run(&Serial, Codes::S16(&x), CodesMut::Bits8(&mut y)).unwrap()
    });
    for (name, which, sign) in [
        ("max-U8", Extremum::Max, Sign::U8),
        ("min-U8", Extremum::Min, Sign::U8),
        ("min-S8", Extremum::Min, Sign::S8),
    ] {
        list.add(name, 3 * n, || {
            let extremum = QExtremum::new(cpu, which, sign, None);
            let (shapes, a, b, mut y) = (Broadcast::elementwise(n), codes(n), codes(n), zeros(n));
            move || extremum.run(&Serial, &shapes, &a, &b, &mut y).unwrap()
        });
    }
    for sign in [Sign::U8, Sign::S8] {
        let bounds = (sign.min(), sign.max());
        // Of the second scales many sums are halfway between codes.
        for (name, constants, [sa, sb, sy]) in [
            (format!("qadd-{sign:?}"), qadd_constants as Constants, [0.0213, 0.0187, 0.0305]),
            (format!("qadd-{sign:?}-ties"), qadd_constants, [0.1, 0.12, 0.2]),
            (format!("qsub-{sign:?}"), qsub_constants, [0.0213, 0.0187, 0.0305]),
        ] {
            list.add(&name, 3 * n, || {
                let k = constants(sa, 3, sb, 7, sy, 5);
                let add = QAdd::new(cpu, sign, k, bounds).unwrap();
                let (shapes, a, b) = (Broadcast::elementwise(n), codes(n), codes(n));
                let mut y = zeros(n);
                move || add.run(&Serial, &shapes, &a, &b, &mut y).unwrap()
            });
        }
        list.add(&format!("qmul-{sign:?}"), 3 * n, || {
            let mul = QMul::new(cpu, sign, 0.01, (3, 7, 5), bounds).unwrap();
            let (shapes, a, b, mut y) = (Broadcast::elementwise(n), codes(n), codes(n), zeros(n));
            move || mul.run(&Serial, &shapes, &a, &b, &mut y).unwrap()
        });
    }
    list.add("rescale-u8-s16", 3 * (bytes / 3), || {
        let from = Dequantize::per_tensor(cpu, 0.02, 7).unwrap();
        let rescale = Rescale::new(from, Quantize::new_s16(cpu, 0.0002, 0).unwrap()).unwrap();
        let (x, mut y) = (codes(bytes / 3), zeros(bytes / 3));
        move || rescale.run(&Serial, Codes::U8(&x), CodesMut::S16(&mut y)).unwrap()
    });
    let n = bytes / 5;
    list.add("quantize", 5 * n, || {
        let (q, x, mut y) = (Quantize::new(cpu, 0.01, 100, Sign::U8).unwrap(), values(n), zeros(n));
        move || q.run(&Serial, &x, &mut y).unwrap()
    });
    list.add("dynamic-quantize-1024", 5 * (n / 1024 * 1024), || {
        let rows = n / 1024;
        let q = DynamicQuantize::new(cpu, Sign::U8, 1024).unwrap();
        let (x, mut y) = (values(rows * 1024), zeros(rows * 1024));
        let mut found = vec![RowQuantization::default(); rows];
        move || q.run(&Serial, &x, &mut y, &mut found).unwrap()
    });
    list.add("dequantize-u8", 5 * n, || {
        let (d, x, mut y) = (Dequantize::per_tensor(cpu, 0.01, 100).unwrap(), codes(n), zeros(n));
        move || d.run(&Serial, Codes::U8(&x), &mut y).unwrap()
    });
    list.add("dequantize-s8", 5 * n, || {
        let (d, x, mut y) = (Dequantize::per_tensor(cpu, 0.01, -3).unwrap(), codes(n), zeros(n));
        move || d.run(&Serial, Codes::S8(&x), &mut y).unwrap()
    });
    let accumulators = |n: usize| Lines::of(n, |i| i as i32 % 70_000 - 20_000);
    list.add("requantize-s32", 5 * n, || {
        let r = Requantize::new(cpu, vec![0.001], 100, Sign::U8, (0, 255)).unwrap();
        let (acc, mut y) = (accumulators(n), zeros(n));
        move || r.run(&Serial, &acc, &mut y).unwrap()
    });
    let n = n / 256 * 256;
    list.add("requantize-s32-256", 5 * n, || {
        let r = Requantize::new(cpu, vec![0.001; 256], 100, Sign::U8, (0, 255)).unwrap();
        let (acc, mut y) = (accumulators(n), zeros(n));
        move || r.run(&Serial, &acc, &mut y).unwrap()
    });
    list.add("dequantize-u8-256", 5 * n, || {
        let d = Dequantize::per_axis(cpu, vec![0.01; 256], vec![100; 256], 1).unwrap();
        let (x, mut y) = (codes(n), zeros(n));
        move || d.run(&Serial, Codes::U8(&x), &mut y).unwrap()
    });
    let n = bytes / 6;
    list.add("rescale-s32-s16", 6 * n, || {
        let from = Dequantize::per_tensor(cpu, 0.001, 0).unwrap();
        let rescale = Rescale::new(from, Quantize::new_s16(cpu, 1.0, 0).unwrap()).unwrap();
        let (acc, mut y) = (accumulators(n), zeros(n));
        move || rescale.run(&Serial, Codes::S32(&acc), CodesMut::S16(&mut y)).unwrap()
    });
    list.add("quantize-s16", 6 * n, || {
        let (q, x, mut y) = (Quantize::new_s16(cpu, 1e-4, 0).unwrap(), values(n), zeros(n));
        move || q.run_s16(&Serial, &x, &mut y).unwrap()
    });
    list.add("f16-to-f32", 6 * n, || {
        let (x, mut y) = (zeros(n), zeros(n));
        move || f16_to_f32(cpu, &Serial, &x, &mut y).unwrap()
    });
    list.add("f32-to-f16", 6 * n, || {
        let (x, mut y) = (values(n), zeros(n));
        move || f32_to_f16(cpu, &Serial, &x, &mut y).unwrap()
    });
    let n = bytes / 8;
    // From one comparison to the longest polynomial.
    for op in [Unary::Relu, Unary::HardSwish, Unary::Exp, Unary::Sigmoid, Unary::Tanh, Unary::Gelu]
    {
        list.add(&format!("{op:?}-f32").to_lowercase(), 8 * n, || {
            let (x, mut y) = (values(n), zeros(n));
            move || op.run(cpu, &Serial, &x, &mut y).unwrap()
        });
    }
    for axis in [128, 1000, 6625] {
        let rows = n / axis * axis;
        list.add(&format!("softmax-f32-{axis}"), 8 * rows, || {
            let (softmax, x, mut y) = (Softmax::new(cpu, axis).unwrap(), values(rows), zeros(rows));
            move || softmax.run(&Serial, &x, &mut y).unwrap()
        });
        let softmax = Softmax8::new(cpu, axis, Sign::U8, 0.1, 128).unwrap();
        let rows = bytes / 2 / axis * axis;
        list.add(&format!("softmax-u8-{axis}"), 2 * rows, || {
            let quantize = Quantize::new(cpu, 1.0 / 256.0, 0, Sign::U8).unwrap();
            let (x, mut y, mut scratch) = (codes(rows), zeros(rows), zeros(softmax.scratch_len(1)));
            move || softmax.run(&Serial, &quantize, &x, &mut y, &mut scratch).unwrap()
        });
        let rows = bytes / 5 / axis * axis;
        list.add(&format!("softmax-u8-f32-{axis}"), 5 * rows, || {
            let (x, mut y) = (codes(rows), zeros(rows));
            move || softmax.run_f32(&Serial, &x, &mut y).unwrap()
        });
    }
    // Of two tensors, and of one and a value for each channel.
    let n = bytes / 12;
    for op in [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Div, BinaryOp::Max] {
        let name = format!("{op:?}-f32").to_lowercase();
        list.add(&name, 12 * n, || {
            let binary = Binary::new(cpu, op, Broadcast::elementwise(n));
            let (a, b, mut y) = (values(n), values(n), zeros(n));
            move || binary.run(&Serial, &a, &b, &mut y).unwrap()
        });
    }
    let rows = bytes / 8 / 64;
    for op in [BinaryOp::Add, BinaryOp::PRelu] {
        let name = format!("{op:?}-f32-channels-64").to_lowercase();
        list.add(&name, 8 * 64 * rows, || {
            let binary = Binary::new(cpu, op, Broadcast::new(&[rows, 64], &[64]).unwrap());
            let (a, b, mut y) = (values(64 * rows), values(64), zeros(64 * rows));
            move || binary.run(&Serial, &a, &b, &mut y).unwrap()
        });
    }
    // Of rows, of columns, and of the pixels of images.
    for (name, dims) in [
        ("rows-1024", [bytes / 4 / 1024, 1024, 1]),
        ("columns-1024", [1, bytes / 4 / 1024, 1024]),
        ("pixels-49x1024", [bytes / 4 / 1024 / 49, 49, 1024]),
    ] {
        for op in [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max] {
            let reduce = Reduce::new(cpu, op, &dims, &[1]).unwrap();
            let (n, out) = (dims.iter().product::<usize>(), reduce.out_len());
            let name = format!("reduce-{op:?}-{name}").to_lowercase();
            list.add(&name, 4 * (n + out), || {
                let (x, mut y) = (values(n), zeros(out));
                move || reduce.run(&Serial, &x, &mut y).unwrap()
            });
        }
    }
    // NCHW to NHWC and back, 64 channels.
    for element in [1, 4] {
        transposes(list, cpu, bytes / (2 * 64 * element), 64, element);
    }
}

/// NCHW to NHWC and back.
fn transposes(list: &mut List<'_>, cpu: Cpu, pixels: usize, channels: usize, element: usize) {
    for (name, dims) in [("nhwc", [channels, pixels]), ("nchw", [pixels, channels])] {
        let name = format!("to-{name}-{pixels}x{channels}-{}", 8 * element);
        let bytes = channels * pixels * element;
        list.add(&name, 2 * bytes, || {
            let copy = StridedCopy::transpose(cpu, &dims, &[1, 0], element).unwrap();
            let (x, mut y) = (codes(bytes), zeros(bytes));
            move || copy.run(&Serial, &x, &mut y).unwrap()
        });
    }
}

/// Kernels at the shapes they have in ResNet-50, MobileNetV2 and Inception-v3.
fn layers(list: &mut List<'_>, cpu: Cpu) {
    for (name, size, channels, kernel, stride) in [
        ("resnet-3x3-s2-112x64", 112, 64, 3, 2),
        ("2x2-s2-112x64", 112, 64, 2, 2),
        ("3x3-s2-56x24", 56, 24, 3, 2),
        ("inception-3x3-s1-35x288", 35, 288, 3, 1),
    ] {
        let pads = match (kernel, stride) {
            (3, 1) => [1; 4],
            (3, _) => [1, 1, 0, 0],
            _ => [0; 4],
        };
        let shape = PoolShape {
            batch: 1,
            height: size,
            width: size,
            channels,
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [1, 1],
            pads,
            out: [size / stride; 2],
        };
        let bytes = shape.in_len() + shape.out_len();
        list.add(&format!("maxpool-{name}"), bytes, || {
            let pool = MaxPool8::new(cpu, shape, Sign::U8).unwrap();
            let (x, mut y) = (codes(shape.in_len()), zeros(shape.out_len()));
            move || pool.run(&Serial, &x, &mut y).unwrap()
        });
        list.add(&format!("average-{name}"), bytes, || {
            let sides = ((0.1, 3), (0.1, 3));
            let pool = AveragePool8::new(cpu, shape, Sign::U8, sides.0, sides.1, false).unwrap();
            let (x, mut y) = (codes(shape.in_len()), zeros(shape.out_len()));
            move || pool.run(&Serial, &x, &mut y).unwrap()
        });
        list.add(&format!("maxpool-f32-{name}"), 4 * bytes, || {
            let pool = MaxPoolF32::new(cpu, shape).unwrap();
            let (x, mut y) = (values(shape.in_len()), zeros(shape.out_len()));
            move || pool.run(&Serial, &x, &mut y).unwrap()
        });
        list.add(&format!("average-f32-{name}"), 4 * bytes, || {
            let pool = AveragePoolF32::new(cpu, shape, false).unwrap();
            let (x, mut y) = (values(shape.in_len()), zeros(shape.out_len()));
            move || pool.run(&Serial, &x, &mut y).unwrap()
        });
    }
    for (pixels, channels) in
        [(224 * 224, 3), (112 * 112, 32), (56 * 56, 24), (56 * 56, 64), (28 * 28, 512), (49, 2048)]
    {
        transposes(list, cpu, pixels, channels, 1);
        transposes(list, cpu, pixels, channels, 4);
    }
    list.add("concat-56x56-2x64", 2 * 2 * 56 * 56 * 64, || {
        let concat = Concat::new(cpu, 56 * 56, vec![64; 2]).unwrap();
        let (a, b) = (codes(56 * 56 * 64), codes(56 * 56 * 64));
        let mut y = zeros(2 * a.len());
        move || concat.run(&Serial, &[&a, &b], &mut y).unwrap()
    });
    list.add("slice-56x56-64-of-128", 2 * 56 * 56 * 64, || {
        let slice =
            StridedCopy::slice(cpu, &[56 * 56, 128], &[0, 64], &[56 * 56, 64], &[1, 1], 1).unwrap();
        let (x, mut y) = (codes(56 * 56 * 128), zeros(56 * 56 * 64));
        move || slice.run(&Serial, &x, &mut y).unwrap()
    });
    list.add("expand-56x56x64-to-8", 9 * 56 * 56 * 64, || {
        let copy = StridedCopy::expand(cpu, &[1, 56 * 56, 64], &[8, 56 * 56, 64], 1).unwrap();
        let (x, mut y) = (codes(56 * 56 * 64), zeros(copy.out_bytes()));
        move || copy.run(&Serial, &x, &mut y).unwrap()
    });
    list.add("tile-2x2-56x56x64", 5 * 56 * 56 * 64, || {
        let copy = StridedCopy::tile(cpu, &[56, 56, 64], &[2, 2, 1], 1).unwrap();
        let (x, mut y) = (codes(56 * 56 * 64), zeros(copy.out_bytes()));
        move || copy.run(&Serial, &x, &mut y).unwrap()
    });
    // Words of a text, of a table that does not stay in L2.
    list.add("gather-128-of-30522x768", 2 * 128 * 768, || {
        let gather = Gather::new(1, 30522, 768, 128).unwrap();
        let indices: Vec<i64> = (0..128).map(|i| i * 7919 % 30522).collect();
        let (x, mut y) = (codes(30522 * 768), zeros(128 * 768));
        move || gather.run(&Serial, &x, &indices, &mut y).unwrap()
    });
    let pad = Pad::new(&[56, 56, 64], &[1, 1, 0], &[1, 1, 0], 1).unwrap();
    list.add("pad-1-56x56x64", 56 * 56 * 64 + pad.out_bytes(), || {
        let (x, mut y) = (codes(56 * 56 * 64), zeros(pad.out_bytes()));
        move || pad.run(&Serial, &x, &[3], &mut y).unwrap()
    });
    for (name, [size, out, channels]) in [
        ("2x-40x128", [40, 80, 128]),
        ("2x-40x96", [40, 80, 96]),
        ("2x-20x96", [20, 40, 96]),
        ("8x-65x21", [65, 513, 21]),
    ] {
        let scales = [out as f32 / size as f32; 2];
        let shape =
            ResizeShape { batch: 1, height: size, width: size, channels, out: [out; 2], scales };
        let bytes = shape.in_len() + shape.out_len();
        list.add(&format!("nearest-{name}"), bytes, || {
            let rounding = NearestRounding::Floor;
            let resize = Nearest::new(shape, Coordinates::Asymmetric, rounding, 1).unwrap();
            let (x, mut y) = (codes(shape.in_len()), zeros(shape.out_len()));
            move || resize.run(&Serial, &x, &mut y).unwrap()
        });
        list.add(&format!("bilinear-{name}"), bytes, || {
            let resize = Bilinear8::new(cpu, shape, Coordinates::HalfPixel, Sign::U8).unwrap();
            let (x, mut y) = (codes(shape.in_len()), zeros(shape.out_len()));
            move || resize.run(&Serial, &x, &mut y).unwrap()
        });
        list.add(&format!("bilinear-f32-{name}"), 4 * bytes, || {
            let resize = BilinearF32::new(cpu, shape, Coordinates::HalfPixel).unwrap();
            let (x, mut y) = (values(shape.in_len()), zeros(shape.out_len()));
            move || resize.run(&Serial, &x, &mut y).unwrap()
        });
    }
    list.add("layer-norm-128x384", 8 * 128 * 384, || {
        let norm = LayerNorm::new(cpu, 1e-5, vec![1.5; 384], vec![0.5; 384]).unwrap();
        let (x, mut y) = (values(128 * 384), zeros(128 * 384));
        move || norm.run(&Serial, &x, &mut y).unwrap()
    });
    for (name, dims) in [
        ("7x1280", [1, 49, 1280]),
        ("7x2048", [1, 49, 2048]),
        ("nchw-2048x7", [2048, 49, 1]),
        ("nchw-2048x8", [2048, 64, 1]),
    ] {
        let [batch, pixels, channels] = dims;
        let out = batch * channels;
        list.add(&format!("global-average-{name}"), (pixels + 1) * out, || {
            let pool = GlobalAveragePool8::new(cpu, dims, Sign::U8, (0.1, 3), (0.1, 3)).unwrap();
            let (x, mut y) = (codes(pixels * out), zeros(out));
            move || pool.run(&Serial, &x, &mut y).unwrap()
        });
    }
}

/// GB/s of the fastest of many runs.
fn fastest(bytes: usize, mut run: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    let mut runs = 0;
    while runs < 4 || begin.elapsed().as_millis() < 40 {
        // Short kernels are repeated so that reading the clock does not count.
        let repeat = ((1 << 20) / bytes).max(1);
        let start = Instant::now();
        (0..repeat).for_each(|_| run());
        best = best.min(start.elapsed().as_secs_f64() / repeat as f64);
        runs += 1;
    }
    bytes as f64 / best / 1e9
}

/// GB/s of `memcpy` reading and writing `bytes` in all.
fn copy_rate(bytes: usize) -> f64 {
    let (x, mut y) = (codes(bytes / 2), zeros(bytes / 2));
    fastest(bytes, || black_box(&mut y[..]).copy_from_slice(black_box(&x[..])))
}

fn table(wanted: &dyn Fn(&str) -> bool) {
    let isas: Vec<Cpu> =
        Cpu::available().into_iter().map(|isa| Cpu::with_isa(isa).unwrap()).collect();
    let print = |title: &str, lists: &dyn Fn(&mut List<'_>, Cpu)| {
        let columns: String = isas.iter().map(|c| format!("{:>16}", c.isa().name())).collect();
        println!("\n{title:<32}{:>8}{columns}", "copy");
        let mut names = List { wanted, kernels: Vec::new() };
        lists(&mut names, isas[0]);
        for Kernel { name, bytes, .. } in names.kernels {
            let mut copy = copy_rate(bytes);
            let mut rates = Vec::new();
            for &cpu in &isas {
                let wanted = |n: &str| n == name;
                let mut list = List { wanted: &wanted, kernels: Vec::new() };
                lists(&mut list, cpu);
                rates.extend(list.kernels.iter_mut().map(|k| fastest(k.bytes, &mut k.run)));
            }
            copy = copy.max(copy_rate(bytes));
            let cells: String = rates
                .iter()
                .map(|r| format!("{:>16}", format!("{r:.1} ({:.2})", r / copy)))
                .collect();
            println!("  {name:<30}{copy:>8.1}{cells}");
        }
    };
    for bytes in SIZES {
        print(&format!("{} KiB read and written", bytes >> 10), &|list, cpu| {
            streams(list, cpu, bytes)
        });
    }
    print("layers", &layers);
}

fn elementwise(c: &mut Criterion) {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(*f));
    if !has("--test") && !has("--list") {
        table(&wanted);
    }
    if has("--table") {
        return;
    }
    for isa in Cpu::available() {
        let mut list = List { wanted: &wanted, kernels: Vec::new() };
        let cpu = Cpu::with_isa(isa).unwrap();
        streams(&mut list, cpu, TRACKED);
        layers(&mut list, cpu);
        let mut group = c.benchmark_group(format!("elementwise/{isa}"));
        for mut k in list.kernels {
            group.throughput(Throughput::Bytes(k.bytes as u64));
            group.bench_function(&k.name, |b| b.iter(|| (k.run)()));
        }
    }
}

fn main() {
    let mut criterion = tracker();
    if !std::env::args().any(|a| a == "--table") {
        criterion = criterion.configure_from_args();
    }
    elementwise(&mut criterion);
    criterion.final_summary();
}
