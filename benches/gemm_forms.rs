//! Batched, hybrid, int16×int8, weight-only and f32 GEMM on every ISA of this machine, one thread.
//!
//! The tables printed first measure the bounds in the same process: the peak of the instruction that each form is
//! built on (a multiply and an add are two operations), and for thin weight-only products the bandwidth at which the
//! packed weights' number of bytes can be read. criterion then tracks some shapes one by one.
#![allow(missing_docs, reason = "criterion's macros define public functions")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to its caller by panicking and printing"
)]

#[path = "common/mod.rs"]
mod common;

use std::sync::Arc;

use common::{best_seconds, chosen, output, peak_gops, tracker};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use requant_kernels::{
    Cpu, Isa,
    epilogue::{OutSlice, Sign},
    float::GemmF32,
    gemm::{DynamicGemm, Gemm, PackedB},
    gemm16::{Gemm16, PackedB16, Requantize16},
    hybrid::{DynamicQuantization, HybridGemm},
    par::Serial,
    weight_only::{BlockWeights, PackedBlocks, WeightOnlyGemm, WeightType},
};

type Shape = (usize, usize, usize);

/// (M, N, K) of the integer forms.
const SHAPES: [Shape; 7] = [
    (1, 1024, 1024),
    (4, 1024, 1024),
    (16, 1024, 1024),
    (128, 768, 768),
    (384, 3072, 768),
    (784, 128, 128),
    (196, 512, 4608),
];

/// Batch and (M, N, K) of products of two activations: the heads of MiniLM's attention, queries by keys and then
/// probabilities by values, and of a BERT.
const BATCHED: [(usize, Shape); 3] =
    [(12, (128, 128, 32)), (12, (128, 32, 128)), (12, (384, 384, 64))];

/// (M, N, K) of weight-only products: a projection of a language model for 1 … 4 tokens and for a prompt, and one
/// whose s8 weights leave the last cache.
const WEIGHT_ONLY: [Shape; 9] = [
    (1, 4096, 4096),
    (2, 4096, 4096),
    (3, 4096, 4096),
    (4, 4096, 4096),
    (1, 11008, 4096),
    (4, 11008, 4096),
    (8, 4096, 4096),
    (32, 4096, 4096),
    (128, 1024, 1024),
];

const WEIGHT_TYPES: [WeightType; 3] = [WeightType::S8, WeightType::S4, WeightType::U4];

/// Rows up to which a weight-only product is judged by bandwidth.
const THIN: usize = 4;

fn ops((m, n, k): Shape) -> f64 {
    2.0 * (m * n * k) as f64
}

fn weights(count: usize, min: i32, max: i32) -> Vec<i8> {
    (0..count as i32)
        .map(|i| (min + (i.wrapping_mul(37) >> 2).rem_euclid(max - min + 1)) as i8)
        .collect()
}

fn floats(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 91 % 1000) as f32 / 250.0 - 2.0).collect()
}

fn hybrid(cpu: Cpu, quantization: DynamicQuantization, (m, n, k): Shape) -> impl FnMut() {
    let packed =
        PackedB::pack(cpu, &weights(k * n, -127, 127), k, n, false, None, Sign::U8).unwrap();
    let scales: Vec<f32> = (0..n).map(|n| 1e-3 + n as f32 * 1e-6).collect();
    let gemm = HybridGemm::new(cpu, Arc::new(packed), quantization, &scales, &floats(n)).unwrap();
    let (x, mut y) = (floats(m * k), vec![0.0; m * n]);
    let mut scratch = vec![0; gemm.scratch_bytes(m, 1)];
    move || gemm.run(&Serial, m, (&x, k), (&mut y, n), &mut scratch).unwrap()
}

/// The same product of activations that are u8 already, for comparison.
fn quantized(cpu: Cpu, (m, n, k): Shape) -> impl FnMut() {
    let packed =
        PackedB::pack(cpu, &weights(k * n, -127, 127), k, n, false, None, Sign::U8).unwrap();
    let gemm = Gemm::new(Arc::new(packed), &vec![0; n], &output(n)).unwrap();
    let (a, mut c) = (vec![7; m * k], vec![0; m * n]);
    move || gemm.run(&Serial, m, &a, k, None, OutSlice::Quant8(&mut c), n).unwrap()
}

/// Both operands are activations: B is packed in every run. `transposed` as keys are.
fn batched(cpu: Cpu, batch: usize, transposed: bool, (m, n, k): Shape) -> impl FnMut() {
    let operand = (Sign::U8, 128);
    let gemm = DynamicGemm::new(cpu, (k, n), operand, operand, &[], &output(n)).unwrap();
    let starts: Vec<_> = (0..batch).map(|i| (i * m * k, i * k * n)).collect();
    let (a, b, mut c) = (vec![7; batch * m * k], vec![9; batch * k * n], vec![0; batch * m * n]);
    let mut scratch = vec![0; gemm.scratch_bytes(1)];
    let ldb = if transposed { k } else { n };
    move || {
        let c = (OutSlice::Quant8(&mut c), n);
        gemm.run(&Serial, m, &starts, (&a, k), (&b, ldb), transposed, c, &mut scratch).unwrap();
    }
}

fn int16(cpu: Cpu, requantize: &Requantize16, (m, n, k): Shape) -> impl FnMut() + use<> {
    let packed = PackedB16::pack(&weights(k * n, -127, 127), k, n, false).unwrap();
    let gemm = Gemm16::new(cpu, Arc::new(packed), &[], requantize, (i16::MIN, i16::MAX)).unwrap();
    let a: Vec<i16> = (0..m * k).map(|i| (i * 9973) as i16).collect();
    let mut c = vec![0; m * n];
    move || gemm.run(&Serial, m, (&a, k), (&mut c, n)).unwrap()
}

fn weight_only(cpu: Cpu, weight_type: WeightType, (m, n, k): Shape) -> (usize, impl FnMut()) {
    let (min, max) = weight_type.range();
    let zero_points = if weight_type == WeightType::U4 { vec![7; k / 32 * n] } else { vec![] };
    let packed = PackedBlocks::pack(&BlockWeights {
        weight_type,
        codes: &weights(k * n, min.into(), max.into()),
        k,
        n,
        transposed: false,
        block: 32,
        scales: &vec![0.01; k / 32 * n],
        zero_points: &zero_points,
    });
    let gemm = WeightOnlyGemm::new(cpu, Arc::new(packed.unwrap()), &floats(n)).unwrap();
    let bytes = gemm.packed().bytes();
    let (x, mut y) = (floats(m * k), vec![0.0; m * n]);
    (bytes, move || gemm.run(&Serial, m, (&x, k), (&mut y, n)).unwrap())
}

fn float(cpu: Cpu, (m, n, k): Shape) -> impl FnMut() {
    let gemm = GemmF32::new(cpu, m, n, k);
    let (a, b, bias, mut y) = (floats(m * k), floats(k * n), floats(n), vec![0.0; m * n]);
    move || gemm.run(&Serial, &a, &b, &bias, &mut y).unwrap()
}

/// Whether plain Rust would take too long for it.
fn left_out(cpu: Cpu, shape: Shape) -> bool {
    cpu.isa() == Isa::Scalar && ops(shape) > 3e7
}

fn tables(cpu: Cpu) {
    use DynamicQuantization::{AsymmetricPerRow, AsymmetricPerTensor, SymmetricPerRow};
    let isa = cpu.isa();
    let line = |(m, n, k): Shape| format!("  {m:>5} x {n:>5} x {k:>4}");
    let gops = |shape: Shape, run: &mut dyn FnMut()| ops(shape) / best_seconds(run) / 1e9;

    let peak = peak_gops(cpu);
    println!("hybrid, {isa}: peak of one core {peak:.0} GOP/s");
    println!(
        "  GOP/s and share of the peak: symmetric, asymmetric per row, per tensor; u8 GEMM for comparison"
    );
    for shape in SHAPES.into_iter().filter(|&shape| !left_out(cpu, shape)) {
        let of = |quantization| gops(shape, &mut hybrid(cpu, quantization, shape));
        let figures = [of(SymmetricPerRow), of(AsymmetricPerRow), of(AsymmetricPerTensor)];
        let plain = gops(shape, &mut quantized(cpu, shape));
        let shown = figures.map(|f| format!("{f:>6.0} {:>3.0} %", f / peak * 100.0)).join("  ");
        println!("{}  {shown}   u8 {plain:>6.0}", line(shape));
    }

    println!(
        "batches of two activations, {isa}: GOP/s and share of the peak, B by columns and by rows"
    );
    for (batch, shape) in BATCHED {
        let of =
            |transposed| batch as f64 * gops(shape, &mut batched(cpu, batch, transposed, shape));
        let shown = [of(true), of(false)].map(|f| format!("{f:>6.0} {:>3.0} %", f / peak * 100.0));
        println!("{} times {batch}  {}", line(shape), shown.join("  "));
    }

    let peak = bounds::int16_gops(cpu);
    println!("int16 x int8, {isa}: peak of one core {peak:.0} GOP/s");
    println!("  GOP/s and share of the peak: half even, TFLite 16x8");
    let fixed = requant_kernels::epilogue::FixedPoint::from_real(1e-5).unwrap();
    for shape in SHAPES.into_iter().filter(|&shape| !left_out(cpu, shape)) {
        let of = |requantize| gops(shape, &mut int16(cpu, &requantize, shape));
        let figures =
            [of(Requantize16::HalfEven(vec![1e-5])), of(Requantize16::Tflite16x8(vec![fixed]))];
        let shown = figures.map(|f| format!("{f:>6.0} {:>3.0} %", f / peak * 100.0)).join("  ");
        println!("{}  {shown}", line(shape));
    }

    let peak = bounds::f32_gops(cpu);
    println!(
        "f32, {isa}: peak of one core {peak:.0} GFLOP/s; instructions are those of the machine"
    );
    for shape in SHAPES.into_iter().filter(|&shape| !left_out(cpu, shape)) {
        let rate = gops(shape, &mut float(cpu, shape));
        println!("{}  {rate:>6.1} GFLOP/s {:>3.0} %", line(shape), rate / peak * 100.0);
    }
    println!("weight-only in blocks of 32, {isa}: peak of one core {peak:.0} GFLOP/s");
    for weight_type in WEIGHT_TYPES {
        for shape in WEIGHT_ONLY.into_iter().filter(|&shape| !left_out(cpu, shape)) {
            let (bytes, mut run) = weight_only(cpu, weight_type, shape);
            let seconds = best_seconds(&mut run);
            let (rate, read) = (ops(shape) / seconds / 1e9, bytes as f64 / seconds / 1e9);
            let bound = if shape.0 <= THIN {
                let bandwidth = bounds::read_gbps(cpu, bytes);
                format!(
                    "{read:>5.1} GB/s of {bandwidth:.1} readable: {:>3.0} %",
                    read / bandwidth * 100.0
                )
            } else {
                String::new()
            };
            println!(
                "{} {weight_type:?}  {rate:>6.1} GFLOP/s {:>3.0} %  {bound}",
                line(shape),
                rate / peak * 100.0
            );
        }
    }
}

fn bench(c: &mut Criterion) {
    for isa in Cpu::available() {
        let cpu = Cpu::with_isa(isa).unwrap();
        if chosen(isa) {
            tables(cpu);
        }
        let mut group = c.benchmark_group(format!("kernel/gemm-forms-{isa}"));
        group.sample_size(10);
        let mut bench = |form: &str, times: usize, shape: Shape, run: &mut dyn FnMut()| {
            let (m, n, k) = shape;
            group.throughput(Throughput::Elements((times as f64 * ops(shape)) as u64));
            group.bench_function(BenchmarkId::new(form, format!("{m}x{n}x{k}")), |b| {
                b.iter(&mut *run)
            });
        };
        let shape = (16, 1024, 1024);
        let [symmetric, asymmetric] =
            [DynamicQuantization::SymmetricPerRow, DynamicQuantization::AsymmetricPerRow];
        bench("hybrid", 1, shape, &mut hybrid(cpu, symmetric, shape));
        bench("hybrid-asymmetric", 1, shape, &mut hybrid(cpu, asymmetric, shape));
        bench("int16", 1, shape, &mut int16(cpu, &Requantize16::HalfEven(vec![1e-5]), shape));
        bench("f32", 1, shape, &mut float(cpu, shape));
        for weight_type in WEIGHT_TYPES {
            let form = format!("weight-only-{weight_type:?}").to_lowercase();
            bench(&form, 1, shape, &mut weight_only(cpu, weight_type, shape).1);
        }
        // Queries by keys, and probabilities by values.
        for ((batch, shape), transposed) in BATCHED.into_iter().zip([true, false]) {
            bench("batched", batch, shape, &mut batched(cpu, batch, transposed, shape));
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = tracker();
    targets = bench
}
criterion_main!(benches);

/// What a core can do at most, measured.
mod bounds {
    use std::hint::black_box;

    use requant_kernels::{Cpu, Isa};

    use super::common::{best_seconds, peak_gops};

    const ROUNDS: usize = 20_000;

    /// Int16 multiply-adds; where they are no instruction of their own, those of the int8 kernels, which are the same.
    pub(super) fn int16_gops(cpu: Cpu) -> f64 {
        match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Amx => {
                // SAFETY: a `Cpu` of this ISA proves its features.
                let seconds = best_seconds(|| unsafe { x86::dpwssd(ROUNDS) });
                (24 * 32 * 2 * ROUNDS) as f64 / seconds / 1e9
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => {
                // SAFETY: as above.
                let seconds = best_seconds(|| unsafe { x86::dpwssd256(ROUNDS) });
                (12 * 16 * 2 * ROUNDS) as f64 / seconds / 1e9
            }
            _ => peak_gops(cpu),
        }
    }

    /// Bytes of a vector register of `cpu`, where there are loops for it here.
    fn width(cpu: Cpu) -> usize {
        match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bw | Isa::Avx512Vnni | Isa::Amx => 64,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => 32,
            _ => 0,
        }
    }

    /// f32 fused multiply-adds.
    pub(super) fn f32_gops(cpu: Cpu) -> f64 {
        let (lanes, seconds) = match width(cpu) {
            // SAFETY: a `Cpu` of an ISA with such registers proves its features.
            #[cfg(target_arch = "x86_64")]
            64 => (24 * 16, best_seconds(|| unsafe { x86::fma512(ROUNDS) })),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            32 => (12 * 8, best_seconds(|| unsafe { x86::fma256(ROUNDS) })),
            _ => (8, best_seconds(|| scalar(ROUNDS))),
        };
        (lanes * 2 * ROUNDS) as f64 / seconds / 1e9
    }

    fn scalar(rounds: usize) {
        let mut acc = [0f32; 8];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = black_box(acc.mul_add(1.5, 0.5));
            }
        }
        black_box(acc);
    }

    /// Bytes per second, in 10⁹, at which a buffer of `bytes` can be summed, in one stream or in four.
    pub(super) fn read_gbps(cpu: Cpu, bytes: usize) -> f64 {
        let buffer = vec![1u64; bytes / 8];
        let seconds = |streams: usize| {
            best_seconds(|| match (width(cpu), streams) {
                // SAFETY: a `Cpu` of an ISA with such registers proves its features.
                #[cfg(target_arch = "x86_64")]
                (64, 1) => unsafe { x86::sum512::<1>(&buffer) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                (64, _) => unsafe { x86::sum512::<4>(&buffer) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                (32, 1) => unsafe { x86::sum256::<1>(&buffer) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                (32, _) => unsafe { x86::sum256::<4>(&buffer) },
                _ => _ = black_box(sum(&buffer)),
            })
        };
        let seconds = seconds(1).min(seconds(4));
        (buffer.len() * 8) as f64 / seconds / 1e9
    }

    fn sum(buffer: &[u64]) -> u64 {
        buffer.iter().fold(0, |sum, value| sum.wrapping_add(*value))
    }

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::{arch::asm, arch::x86_64::*, hint::black_box};

        /// Rounds of as many independent chains of one instruction as hide its latency. As asm, so that the compiler
        /// cannot see that all chains are equal.
        macro_rules! chains {
            ($name:ident, $features:literal, $class:ident, $n:literal, $zero:ident, $instruction:literal) => {
                /// # Safety
                /// The features are supported.
                #[target_feature(enable = $features)]
                pub(super) unsafe fn $name(rounds: usize) {
                    let (a, b) = (black_box($zero()), black_box($zero()));
                    let mut acc = [$zero(); $n];
                    for _ in 0..rounds {
                        for acc in &mut acc {
                            // SAFETY: register arithmetic only; the function enables the features.
                            unsafe {
                                asm!($instruction, inout($class) *acc, in($class) a, in($class) b,
                                     options(pure, nomem, nostack, preserves_flags));
                            }
                        }
                    }
                    black_box(acc);
                }
            };
        }

        chains!(
            dpwssd,
            "avx512f,avx512vnni",
            zmm_reg,
            24,
            _mm512_setzero_si512,
            "vpdpwssd {0}, {1}, {2}"
        );
        chains!(
            dpwssd256,
            "avx2,avxvnni",
            ymm_reg,
            12,
            _mm256_setzero_si256,
            "{{vex}} vpdpwssd {0}, {1}, {2}"
        );
        chains!(fma512, "avx512f", zmm_reg, 24, _mm512_setzero_ps, "vfmadd231ps {0}, {1}, {2}");
        chains!(fma256, "avx2,fma", ymm_reg, 12, _mm256_setzero_ps, "vfmadd231ps {0}, {1}, {2}");

        /// The sum of a buffer's 64-byte lines, by eight chains in each of `STREAMS` parts of it.
        macro_rules! sum {
            ($name:ident, $features:literal, $v:ty, $zero:ident, $load:ident, $add:ident) => {
                /// # Safety
                /// The features are supported.
                #[target_feature(enable = $features)]
                pub(super) unsafe fn $name<const STREAMS: usize>(buffer: &[u64]) {
                    const STEP: usize = 8 * size_of::<$v>() / 8;
                    let part = buffer.len() / STREAMS;
                    let mut sums = [[$zero(); 8]; STREAMS];
                    for i in (0..part / STEP).map(|i| i * STEP) {
                        for (stream, sums) in sums.iter_mut().enumerate() {
                            let from = buffer[stream * part + i..][..STEP].as_ptr().cast::<$v>();
                            for (j, sum) in sums.iter_mut().enumerate() {
                                // SAFETY: `STEP` numbers are eight vectors.
                                *sum = $add(*sum, unsafe { $load(from.add(j).cast()) });
                            }
                        }
                    }
                    black_box(sums);
                }
            };
        }

        sum!(
            sum512,
            "avx512f",
            __m512i,
            _mm512_setzero_si512,
            _mm512_loadu_si512,
            _mm512_add_epi64
        );
        sum!(sum256, "avx2", __m256i, _mm256_setzero_si256, _mm256_loadu_si256, _mm256_add_epi64);
    }
}
