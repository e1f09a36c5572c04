//! Integer GEMM on every ISA of this machine, against the peak of its dot product instruction in the same process.
//!
//! The table printed first gives GOP/s and the share of the peak (a multiply and an add are two operations);
//! criterion then tracks the shapes one by one. Outputs are requantized to u8.
#![allow(missing_docs, reason = "criterion's macros define public functions")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to its caller by panicking and printing"
)]

#[path = "common/mod.rs"]
mod common;

use std::sync::Arc;

use common::{best_seconds, output, peak_gops};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use requant_kernels::{
    Cpu,
    epilogue::{OutSlice, Sign},
    gemm::{Gemm, PackedB},
    par::Serial,
};

/// (M, N, K): transformers, ResNet-50, single rows, and the 1×1 convolutions of EfficientNet-Lite0 and MobileNetV2.
const SHAPES: [(usize, usize, usize); 20] = [
    (16, 1024, 1024),
    (128, 768, 768),
    (384, 3072, 768),
    (784, 128, 128),
    (3136, 64, 576),
    (196, 512, 4608),
    (1024, 1024, 1024),
    (1, 1024, 1024),
    (1, 4096, 4096),
    (12544, 16, 32),
    (12544, 96, 16),
    (3136, 24, 96),
    (3136, 144, 24),
    (784, 40, 240),
    (784, 192, 32),
    (196, 480, 80),
    (196, 112, 672),
    (49, 1152, 192),
    (49, 320, 1152),
    (49, 1280, 320),
];

fn gemm(cpu: Cpu, (m, n, k): (usize, usize, usize)) -> impl FnMut() {
    let b: Vec<i8> = (0..k * n).map(|i| ((i * 37) >> 2) as i8).collect();
    let a: Vec<u8> = (0..m * k).map(|i| ((i * 91) >> 3) as u8).collect();
    let packed = PackedB::pack(cpu, &b, k, n, false, None, Sign::U8).unwrap();
    let gemm = Gemm::new(Arc::new(packed), &vec![0; n], &output(n)).unwrap();
    let mut c = vec![0; m * n];
    move || gemm.run(&Serial, m, &a, k, None, OutSlice::Quant8(&mut c), n).unwrap()
}

fn table(cpu: Cpu) {
    let peak = peak_gops(cpu);
    println!("{}: peak of one core {peak:.0} GOP/s", cpu.isa());
    for (m, n, k) in SHAPES {
        let seconds = best_seconds(gemm(cpu, (m, n, k)));
        let gops = 2.0 * (m * n * k) as f64 / seconds / 1e9;
        println!(
            "  {m:>5} x {n:>4} x {k:>4}  {:>9.1} us  {gops:>7.0} GOP/s  {:>4.0} %",
            seconds * 1e6,
            gops / peak * 100.0
        );
    }
}

fn bench(c: &mut Criterion) {
    for isa in Cpu::available() {
        let cpu = Cpu::with_isa(isa).unwrap();
        table(cpu);
        let mut group = c.benchmark_group(format!("kernel/gemm-u8s8-{isa}"));
        group.sample_size(20);
        for (m, n, k) in SHAPES {
            group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
            let mut run = gemm(cpu, (m, n, k));
            group.bench_function(BenchmarkId::from_parameter(format!("{m}x{n}x{k}")), |b| {
                b.iter(&mut run)
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
