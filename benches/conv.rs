//! Integer convolutions on every ISA of this machine: the layers of EfficientNet-Lite0, MobileNetV2 and ResNet-50 that
//! are no plain GEMM, against the peak of the ISA's dot product instruction in the same process.
//!
//! The table printed first gives the share of the peak; criterion then tracks the layers one by one.
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
    conv::{Conv, ConvGeometry, ConvSpec, ConvWeights, PackedConv},
    epilogue::{OutSlice, Sign},
    par::Serial,
};

/// A square image, a square kernel, "same" padding.
struct Layer {
    size: usize,
    in_c: usize,
    out_c: usize,
    kernel: usize,
    stride: usize,
    depthwise: bool,
}

const fn dense(size: usize, in_c: usize, out_c: usize, kernel: usize, stride: usize) -> Layer {
    Layer { size, in_c, out_c, kernel, stride, depthwise: false }
}

const fn depthwise(size: usize, channels: usize, kernel: usize, stride: usize) -> Layer {
    Layer { size, in_c: channels, out_c: channels, kernel, stride, depthwise: true }
}

const LAYERS: [Layer; 20] = [
    dense(224, 3, 32, 3, 2),
    dense(224, 3, 64, 7, 2),
    dense(56, 64, 64, 3, 1),
    dense(28, 128, 128, 3, 1),
    dense(14, 256, 256, 3, 1),
    dense(7, 512, 512, 3, 1),
    dense(56, 256, 512, 1, 2),
    depthwise(112, 32, 3, 1),
    depthwise(112, 96, 3, 2),
    depthwise(56, 144, 3, 1),
    depthwise(56, 144, 5, 2),
    depthwise(28, 192, 3, 1),
    depthwise(28, 240, 5, 1),
    depthwise(28, 240, 3, 2),
    depthwise(14, 480, 3, 1),
    depthwise(14, 672, 5, 1),
    depthwise(14, 672, 5, 2),
    depthwise(7, 960, 3, 1),
    depthwise(7, 1152, 5, 1),
    depthwise(56, 128, 3, 1),
];

impl Layer {
    fn groups(&self) -> usize {
        if self.depthwise { self.in_c } else { 1 }
    }

    fn geometry(&self) -> ConvGeometry {
        ConvGeometry::new(ConvSpec {
            batch: 1,
            in_h: self.size,
            in_w: self.size,
            in_c: self.in_c,
            out_c: self.out_c,
            kernel: [self.kernel; 2],
            strides: [self.stride; 2],
            dilations: [1, 1],
            pads: [self.kernel / 2; 4],
            groups: self.groups(),
        })
        .unwrap()
    }

    fn ops(&self) -> usize {
        let patch = self.kernel * self.kernel * self.in_c / self.groups();
        2 * self.geometry().output_len() * patch
    }

    fn name(&self) -> String {
        let Self { size, in_c, out_c, kernel, stride, depthwise } = self;
        let kind = if *depthwise { "dw" } else { "conv" };
        format!("{kind}{kernel}x{kernel}s{stride}-{size}x{size}x{in_c}-{out_c}")
    }

    fn conv(&self, cpu: Cpu) -> impl FnMut() {
        let geometry = self.geometry();
        let shape = ConvWeights {
            out_c: self.out_c,
            in_c_per_group: self.in_c / self.groups(),
            kernel: [self.kernel; 2],
            groups: self.groups(),
        };
        let len = shape.out_c * shape.in_c_per_group * self.kernel * self.kernel;
        let weights: Vec<i8> = (0..len).map(|i| ((i * 37) >> 2) as i8).collect();
        let packed = PackedConv::pack(cpu, &weights, shape, None, Sign::U8).unwrap();
        let conv =
            Conv::new(geometry, Arc::new(packed), &vec![0; self.out_c], 0, &output(self.out_c))
                .unwrap();
        let x: Vec<u8> = (0..geometry.input_len()).map(|i| ((i * 91) >> 3) as u8).collect();
        let mut y = vec![0; geometry.output_len()];
        let mut scratch = vec![0; conv.scratch_bytes(1)];
        move || conv.run(&Serial, &x, None, OutSlice::Quant8(&mut y), &mut scratch).unwrap()
    }
}

fn table(cpu: Cpu) {
    let peak = peak_gops(cpu);
    println!("{}: peak of one core {peak:.0} GOP/s", cpu.isa());
    for layer in &LAYERS {
        let seconds = best_seconds(layer.conv(cpu));
        let gops = layer.ops() as f64 / seconds / 1e9;
        let (name, us, share) = (layer.name(), seconds * 1e6, gops / peak * 100.0);
        println!("  {name:<28} {us:>9.1} us  {gops:>7.0} GOP/s  {share:>4.0} %");
    }
}

fn bench(c: &mut Criterion) {
    for isa in Cpu::available() {
        let cpu = Cpu::with_isa(isa).unwrap();
        table(cpu);
        let mut group = c.benchmark_group(format!("kernel/conv-u8s8-{isa}"));
        group.sample_size(20);
        for layer in &LAYERS {
            group.throughput(Throughput::Elements(layer.ops() as u64));
            let mut run = layer.conv(cpu);
            group.bench_function(BenchmarkId::from_parameter(layer.name()), |b| b.iter(&mut run));
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
