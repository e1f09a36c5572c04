//! Integer GEMM on every ISA of this machine, against the peak of its dot product instruction in the same process.
//!
//! The tables printed first give GOP/s and the share of the peak (a multiply and an add are two operations): of shapes
//! with outputs requantized to u8, from u8 and s8 activations, from rows that are not aligned, and on two threads; of
//! single rows, which read the weights once, as the share of the read bandwidth; and of epilogues at K = 256. What is
//! compared takes turns, the peak with it. Criterion then tracks the shapes one by one; `--table` leaves that out.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to its caller by panicking and printing"
)]

#[path = "common/mod.rs"]
mod common;

use std::sync::Arc;

use common::{
    Lines, RESIDUAL, best_seconds, chosen, fixed_points, output, peak_loop, reading, taking_turns,
    tracker,
};
use criterion::{BenchmarkId, Criterion, Throughput};
use requant_kernels::{
    Cpu,
    epilogue::{OutSlice, Output, Requantize, Sign},
    gemm::{Gemm, PackedB},
    par::{Parallel, RayonPool, Serial},
};

/// (M, N, K): transformers, ResNet-50, single rows, deep products of few results, MiniLM, the text classes of PP-OCR,
/// and the 1×1 convolutions of EfficientNet-Lite0 and MobileNetV2.
const SHAPES: [(usize, usize, usize); 31] = [
    (16, 1024, 1024),
    (32, 1024, 1024),
    (128, 768, 768),
    (384, 3072, 768),
    (784, 128, 128),
    (3136, 64, 576),
    (192, 512, 4608),
    (196, 512, 4608),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (1, 1024, 1024),
    (1, 4096, 4096),
    (8, 64, 9216),
    (12, 64, 4608),
    (1, 1000, 1280),
    (1, 1000, 2048),
    (128, 384, 384),
    (128, 1536, 384),
    (128, 384, 1536),
    (40, 6625, 120),
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

/// What a GEMM is timed with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Case {
    U8,
    /// U8 from rows that start one byte after a cache line; those of the others start at one, as in a model's arena.
    Unaligned,
    S8,
    ZeroPoints,
    I32,
    F32,
    Residual,
    TfliteDouble,
    TfliteSingle,
}

impl Case {
    fn output(self, n: usize) -> Output {
        let mut quant8 = output(n);
        let Output::Quant8 { requantize, residual, .. } = &mut quant8 else { return quant8 };
        match self {
            Self::I32 => return Output::I32,
            Self::F32 => return Output::F32 { scales: vec![0.1; n] },
            Self::TfliteDouble => *requantize = Requantize::TfliteDouble(fixed_points(n)),
            Self::TfliteSingle => *requantize = Requantize::TfliteSingle(fixed_points(n)),
            Self::Residual => *residual = Some(RESIDUAL),
            Self::U8 | Self::Unaligned | Self::S8 | Self::ZeroPoints => {}
        }
        quant8
    }
}

/// Rows for every case of a shape: in the same memory, since which pages it gets decides how much of it a cache of about
/// its size holds.
fn rows((m, _, k): (usize, usize, usize)) -> Lines {
    Lines::of(1 + m * k, |i| ((i * 91) >> 3) as u8)
}

fn gemm(
    cpu: Cpu,
    par: &dyn Parallel,
    (m, n, k): (usize, usize, usize),
    case: Case,
    rows: &[u8],
) -> impl FnMut() {
    let a = &rows[usize::from(case == Case::Unaligned)..];
    let b: Vec<i8> = (0..k * n).map(|i| ((i * 37) >> 2) as i8).collect();
    let sign = if case == Case::S8 { Sign::S8 } else { Sign::U8 };
    let zero: Option<&[i32]> = (case == Case::ZeroPoints).then_some(&[3]);
    let packed = PackedB::pack(cpu, &b, k, n, false, zero, sign).unwrap();
    let gemm = Gemm::new(Arc::new(packed), &vec![0; n], &case.output(n)).unwrap();
    let other = vec![7; m * n];
    let (mut bytes, mut ints, mut floats) = (Lines::new(m * n), vec![0; m * n], vec![0.0; m * n]);
    move || {
        let out = match case {
            Case::I32 => OutSlice::I32(&mut ints),
            Case::F32 => OutSlice::F32(&mut floats),
            _ => OutSlice::Quant8(&mut bytes),
        };
        let residual = (case == Case::Residual).then_some((&*other, n));
        gemm.run(par, m, a, k, residual, out, n).unwrap();
    }
}

fn table(cpu: Cpu, two: &dyn Parallel) {
    let ops = |(m, n, k): (usize, usize, usize)| 2.0 * (m * n * k) as f64;
    let (peak_ops, mut peak) = peak_loop(cpu);
    println!("{}", cpu.isa());
    for shape @ (m, n, k) in SHAPES {
        let rows = &*rows(shape);
        let [peak, u8s8, s8s8, unaligned] = taking_turns([
            &mut peak,
            &mut gemm(cpu, &Serial, shape, Case::U8, rows),
            &mut gemm(cpu, &Serial, shape, Case::S8, rows),
            &mut gemm(cpu, &Serial, shape, Case::Unaligned, rows),
        ]);
        // By itself: the second thread goes on spinning for a while.
        let both = best_seconds(gemm(cpu, two, shape, Case::U8, rows));
        let (peak, gops) = (peak_ops / peak / 1e9, ops(shape) / u8s8 / 1e9);
        print!(
            "  {m:>5} x {n:>4} x {k:>4}  {gops:>5.0} of {peak:>5.0} GOP/s  {:.3}   s8 {:.2}x   unaligned {:.2}x   2 threads {:.2}x",
            gops / peak,
            u8s8 / s8s8,
            u8s8 / unaligned,
            u8s8 / both
        );
        if m == 1 {
            // By itself too: three times the weights may leave a cache that they fit alone. Which pages memory gets
            // decides how much of it a cache of about its size holds, so it is the median of several.
            let weights = (n * k) as f64 / 1e9;
            let mut turns: [[f64; 2]; 9] = std::array::from_fn(|_| {
                taking_turns([
                    &mut gemm(cpu, &Serial, shape, Case::U8, rows),
                    &mut reading(cpu, n * k),
                ])
            });
            turns.sort_by(|a, b| (a[0] * b[1]).total_cmp(&(b[0] * a[1])));
            let [least, _, _, _, [own, read], _, _, _, most] = turns;
            let share = |[own, read]: [f64; 2]| read / own;
            print!(
                "   alone {:.0} of {:.0} GB/s  {:.2} ({:.2} to {:.2})",
                weights / own,
                weights / read,
                share([own, read]),
                share(most),
                share(least)
            );
        }
        println!();
    }
    const CASES: [Case; 6] = [
        Case::ZeroPoints,
        Case::I32,
        Case::F32,
        Case::Residual,
        Case::TfliteDouble,
        Case::TfliteSingle,
    ];
    let shape = (392, 256, 256);
    let rows = &*rows(shape);
    for case in CASES {
        let [peak, plain, other] = taking_turns([
            &mut peak,
            &mut gemm(cpu, &Serial, shape, Case::U8, rows),
            &mut gemm(cpu, &Serial, shape, case, rows),
        ]);
        let of_peak = ops(shape) / other / (peak_ops / peak);
        println!("  392 x 256 x 256  {case:?}: {of_peak:.3} of the peak, {:.2}x u8", plain / other);
    }
}

fn bench(c: &mut Criterion, track: bool) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let two = RayonPool::new(Arc::new(pool));
    for isa in Cpu::available() {
        let cpu = Cpu::with_isa(isa).unwrap();
        if chosen(isa) {
            table(cpu, &two);
        }
        if !track {
            continue;
        }
        let mut group = c.benchmark_group(format!("kernel/gemm-u8s8-{isa}"));
        for (m, n, k) in SHAPES {
            group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
            let rows = rows((m, n, k));
            let mut run = gemm(cpu, &Serial, (m, n, k), Case::U8, &rows);
            group.bench_function(BenchmarkId::from_parameter(format!("{m}x{n}x{k}")), |b| {
                b.iter(&mut run)
            });
        }
        group.finish();
    }
}

fn main() {
    let track = !std::env::args().any(|a| a == "--table");
    let mut criterion = tracker();
    if track {
        criterion = criterion.configure_from_args();
    }
    bench(&mut criterion, track);
    criterion.final_summary();
}
