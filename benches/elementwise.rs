//! Memory-bound kernels against a copy of the same number of bytes, in the same process.
//!
//! Throughput counts the bytes read and written. The table printed first gives each kernel's share of the
//! copy's bandwidth; criterion then tracks the kernels one by one.
#![allow(missing_docs, reason = "criterion's macros define public functions")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to its caller by panicking and printing"
)]

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use requant_kernels::broadcast::Broadcast;
use requant_kernels::elementwise::{QAdd, QMul, qadd_constants};
use requant_kernels::float::{Binary, BinaryOp, Unary};
use requant_kernels::layout::StridedCopy;
use requant_kernels::lut::Lut;
use requant_kernels::par::Serial;
use requant_kernels::pool::{GlobalAveragePool8, MaxPool8, PoolShape};
use requant_kernels::quantize::{Codes, Dequantize, Quantize, Requantize};
use requant_kernels::sign::Sign;
use requant_kernels::softmax::Softmax;
use requant_kernels::{Cpu, Isa};

/// 8-bit elements: within L2, and beyond the last cache of most machines.
const SIZES: [usize; 2] = [128 * 1024, 32 * 1024 * 1024];

struct Kernel {
    name: &'static str,
    /// Bytes read and written per run.
    bytes: usize,
    run: Box<dyn FnMut()>,
}

fn kernel(name: &'static str, bytes: usize, run: impl FnMut() + 'static) -> Kernel {
    Kernel { name, bytes, run: Box::new(run) }
}

fn kernels(cpu: Cpu, n: usize) -> Vec<Kernel> {
    let codes = || (0..n).map(|i| ((i * 37) >> 3) as u8).collect::<Vec<u8>>();
    let values = |n: usize| (0..n).map(|i| i as f32 * 1e-5 - 0.7).collect::<Vec<f32>>();
    let out = move || vec![0u8; n];
    let mut list = Vec::new();

    let (x, mut y) = (codes(), out());
    list.push(kernel("copy", 2 * n, move || black_box(&mut y).copy_from_slice(black_box(&x))));
    let (lut, x, mut y) = (Lut::from_fn(cpu, |b| !b), codes(), out());
    list.push(kernel("lut", 2 * n, move || lut.run(&Serial, &x, &mut y).unwrap()));
    let shapes = Broadcast::elementwise(n);
    let k = qadd_constants(0.1, 3, 0.12, 7, 0.2, 5);
    let (add, s, a, b, mut y) =
        (QAdd::new(cpu, Sign::U8, k, (0, 255)).unwrap(), shapes.clone(), codes(), codes(), out());
    list.push(kernel("qadd", 3 * n, move || add.run(&Serial, &s, &a, &b, &mut y).unwrap()));
    let mul = QMul::new(cpu, Sign::U8, 0.01, (3, 7, 5), (0, 255)).unwrap();
    let (a, b, mut y) = (codes(), codes(), out());
    list.push(kernel("qmul", 3 * n, move || mul.run(&Serial, &shapes, &a, &b, &mut y).unwrap()));
    let (q, x, mut y) = (Quantize::new(cpu, 0.01, 100, Sign::U8).unwrap(), values(n), out());
    list.push(kernel("quantize", 5 * n, move || q.run(&Serial, &x, &mut y).unwrap()));
    let (d, x, mut y) = (Dequantize::per_tensor(cpu, 0.01, 100).unwrap(), codes(), vec![0.0; n]);
    list.push(kernel("dequantize", 5 * n, move || d.run(&Serial, Codes::U8(&x), &mut y).unwrap()));
    let r = Requantize::new(cpu, vec![0.001], 100, Sign::U8, (0, 255)).unwrap();
    let (acc, mut y) = ((0..n as i32).collect::<Vec<i32>>(), out());
    list.push(kernel("requantize-s32", 5 * n, move || r.run(&Serial, &acc, &mut y).unwrap()));

    let m = n / 4;
    let (x, mut y) = (values(m), vec![0.0; m]);
    list.push(kernel("relu-f32", 2 * n, move || {
        Unary::Relu.run(cpu, &Serial, &x, &mut y).unwrap()
    }));
    let (x, mut y) = (values(m), vec![0.0; m]);
    list.push(kernel("sigmoid-f32", 2 * n, move || {
        Unary::Sigmoid.run(cpu, &Serial, &x, &mut y).unwrap()
    }));
    let add = Binary::new(cpu, BinaryOp::Add, Broadcast::elementwise(m));
    let (a, b, mut y) = (values(m), values(m), vec![0.0; m]);
    list.push(kernel("add-f32", 3 * n, move || add.run(&Serial, &a, &b, &mut y).unwrap()));
    let (softmax, x, mut y) = (Softmax::new(cpu, 128).unwrap(), values(m), vec![0.0; m]);
    list.push(kernel("softmax-f32-128", 2 * n, move || softmax.run(&Serial, &x, &mut y).unwrap()));

    let transpose = |name, dims: [usize; 2], element| {
        let copy = StridedCopy::transpose(&dims, &[1, 0], element).unwrap();
        let (x, mut y) = (codes(), out());
        kernel(name, 2 * n, move || copy.run(&Serial, &x, &mut y).unwrap())
    };
    list.push(transpose("transpose-u8-64", [n / 64, 64], 1));
    list.push(transpose("transpose-f32-64", [n / 256, 64], 4));
    let side = (n / 64).isqrt();
    let shape = PoolShape {
        batch: 1,
        height: side,
        width: side,
        channels: 64,
        kernel: [2, 2],
        stride: [2, 2],
        dilation: [1, 1],
        pads: [0; 4],
        out: [side / 2, side / 2],
    };
    let (pool, x, mut y) =
        (MaxPool8::new(cpu, shape, Sign::U8).unwrap(), codes(), vec![0; shape.out_len()]);
    let bytes = shape.in_len() + shape.out_len();
    list.push(kernel("maxpool-2x2-64", bytes, move || {
        pool.run(&Serial, &x[..shape.in_len()], &mut y).unwrap()
    }));
    let pool =
        GlobalAveragePool8::new(cpu, [1, n / 256, 256], Sign::U8, (0.1, 3), (0.1, 3)).unwrap();
    let (x, mut y) = (codes(), vec![0; 256]);
    list.push(kernel("global-average-256", n, move || pool.run(&Serial, &x, &mut y).unwrap()));
    list
}

/// GB/s of the fastest of many runs.
fn fastest(kernel: &mut Kernel) -> f64 {
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    let mut runs = 0;
    while runs < 5 || begin.elapsed().as_millis() < 200 {
        let start = Instant::now();
        (kernel.run)();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    kernel.bytes as f64 / best / 1e9
}

fn table() {
    for n in SIZES {
        println!("\n{} KiB of 8-bit elements, GB/s (share of copy)", n / 1024);
        for isa in Cpu::available() {
            let mut list = kernels(Cpu::with_isa(isa).unwrap(), n);
            let copy = fastest(&mut list[0]);
            let cells: Vec<String> = list
                .iter_mut()
                .map(|k| {
                    let rate = fastest(k);
                    format!("{} {rate:.1} ({:.2})", k.name, rate / copy)
                })
                .collect();
            println!("  {isa}: {}", cells.join(", "));
        }
    }
}

fn elementwise(c: &mut Criterion) {
    if !std::env::args().any(|a| a == "--test" || a == "--list") {
        table();
    }
    for n in SIZES {
        for isa in [Isa::Scalar, Cpu::detect().isa()] {
            let mut group = c.benchmark_group(format!("elementwise/{isa}"));
            for mut k in kernels(Cpu::with_isa(isa).unwrap(), n) {
                group.throughput(Throughput::Bytes(k.bytes as u64));
                group.bench_function(BenchmarkId::new(k.name, n), |b| b.iter(|| (k.run)()));
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = elementwise
}
criterion_main!(benches);
