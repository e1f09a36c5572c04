//! Depthwise integer convolutions on every ISA of this machine: the layers of MobileNetV2 and EfficientNet-Lite0, those
//! of PP-OCR and shapes of other networks, against half the peak of the ISA's dot product instruction in the same process:
//! the peak in multiply-adds.
//!
//! The table printed first gives the share of the peak, how fast the layer is from s8 activations, what a second thread
//! gains, and how many times as long the layer takes in f32; criterion then tracks the layers one by one.
#![allow(missing_docs, reason = "criterion's macros define public functions")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to its caller by panicking and printing"
)]

#[path = "common/mod.rs"]
mod common;

use std::sync::Arc;

use common::{
    Lines, RESIDUAL, best_seconds, fixed_points, marks, output, taking_turns, tracker, uneven_pads,
    vector_peak_gops,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use requant_kernels::{
    Cpu,
    conv::{Conv, ConvGeometry, ConvSpec, PackedConv},
    epilogue::{OutSlice, Output, Requantize, Residual, Sign},
    float::{Activation, ConvF32},
    par::{Parallel, RayonPool, Serial},
};

/// A square kernel, "same" padding unless changed.
#[derive(Clone, Copy)]
struct Layer {
    image: [usize; 2],
    channels: usize,
    kernel: usize,
    strides: [usize; 2],
    dilation: usize,
    /// Top, left, bottom, right.
    pads: [usize; 4],
    /// Output channels per input channel.
    multiplier: usize,
    /// Of the activations.
    sign: Sign,
}

const fn layer(size: usize, channels: usize, kernel: usize, stride: usize) -> Layer {
    rect([size; 2], channels, kernel, [stride; 2])
}

const fn rect(image: [usize; 2], channels: usize, kernel: usize, strides: [usize; 2]) -> Layer {
    let pads = [kernel / 2; 4];
    Layer { image, channels, kernel, strides, dilation: 1, pads, multiplier: 1, sign: Sign::U8 }
}

const fn dilated(size: usize, channels: usize, kernel: usize, dilation: usize) -> Layer {
    let pads = [kernel / 2 * dilation; 4];
    Layer { dilation, pads, ..layer(size, channels, kernel, 1) }
}

const fn uneven(size: usize, channels: usize, kernel: usize) -> Layer {
    Layer { pads: uneven_pads(kernel), ..layer(size, channels, kernel, 2) }
}

const LAYERS: [Layer; 42] = [
    // MobileNetV2
    layer(112, 32, 3, 1),
    layer(112, 96, 3, 2),
    layer(56, 144, 3, 1),
    layer(56, 144, 3, 2),
    layer(28, 192, 3, 1),
    layer(28, 192, 3, 2),
    layer(14, 384, 3, 1),
    layer(14, 576, 3, 1),
    layer(14, 576, 3, 2),
    layer(7, 960, 3, 1),
    // EfficientNet-Lite0
    layer(56, 144, 5, 2),
    layer(28, 240, 5, 1),
    layer(28, 240, 3, 2),
    layer(14, 480, 3, 1),
    layer(14, 480, 5, 1),
    layer(14, 672, 5, 1),
    layer(14, 672, 5, 2),
    layer(7, 1152, 5, 1),
    layer(7, 1152, 3, 1),
    // PP-OCR, finding text
    layer(320, 16, 3, 1),
    layer(320, 32, 3, 2),
    layer(160, 48, 3, 1),
    layer(80, 96, 3, 1),
    layer(40, 192, 5, 1),
    layer(40, 192, 5, 2),
    layer(20, 384, 5, 1),
    // PP-OCR, reading it
    rect([24, 160], 32, 3, [1, 1]),
    rect([24, 160], 64, 3, [2, 1]),
    rect([12, 160], 128, 3, [1, 2]),
    rect([12, 80], 240, 5, [1, 1]),
    rect([6, 80], 480, 5, [2, 1]),
    // MobileNetV2 as DeepLab has it, with dilation for strides, and a 5x5 of EfficientNet-Lite0 alike
    dilated(33, 576, 3, 2),
    dilated(33, 960, 3, 2),
    dilated(28, 240, 5, 2),
    // MobileNetV2 and EfficientNet-Lite0 from TensorFlow
    uneven(112, 96, 3),
    uneven(14, 576, 3),
    uneven(56, 144, 5),
    // ConvNeXt
    layer(56, 96, 7, 1),
    layer(14, 384, 7, 1),
    // whole vectors, a multiplier, a kernel that the table of pointers computes
    layer(56, 128, 3, 1),
    Layer { multiplier: 2, ..layer(56, 32, 3, 1) },
    layer(28, 128, 3, 3),
];

impl Layer {
    fn out_c(&self) -> usize {
        self.channels * self.multiplier
    }

    fn geometry(&self) -> ConvGeometry {
        ConvGeometry::new(ConvSpec {
            batch: 1,
            in_h: self.image[0],
            in_w: self.image[1],
            in_c: self.channels,
            out_c: self.out_c(),
            kernel: [self.kernel; 2],
            strides: self.strides,
            dilations: [self.dilation; 2],
            pads: self.pads,
            groups: self.channels,
        })
        .unwrap()
    }

    fn macs(&self) -> usize {
        self.geometry().output_len() * self.kernel * self.kernel
    }

    fn name(&self) -> String {
        let Self { image: [h, w], channels, kernel, strides: [down, right], .. } = *self;
        let stride = if down == right { down.to_string() } else { format!("{down}x{right}") };
        let (dilated, uneven) = marks(self.dilation, self.pads);
        let out_c = self.out_c();
        format!("{kernel}x{kernel}s{stride}{dilated}-{h}x{w}x{channels}-{out_c}{uneven}")
    }

    fn conv<'a>(&self, cpu: Cpu, par: &'a dyn Parallel) -> impl FnMut() + use<'a> {
        self.conv_to(&output(self.out_c()), cpu, par)
    }

    fn conv_to<'a>(&self, to: &Output, cpu: Cpu, par: &'a dyn Parallel) -> impl FnMut() + use<'a> {
        let geometry = self.geometry();
        let shape = geometry.spec().weights();
        let len = shape.out_c * self.kernel * self.kernel;
        let weights: Vec<i8> = (0..len).map(|i| ((i * 37) >> 2) as i8).collect();
        let packed = PackedConv::pack(cpu, &weights, shape, None, self.sign).unwrap();
        let bias = vec![0; shape.out_c];
        let conv = Conv::new(geometry, Arc::new(packed), &bias, 0, to).unwrap();
        let adds = matches!(to, Output::Quant8 { residual: Some(_), .. });
        let x = Lines::of(geometry.input_len(), |i| ((i * 91) >> 3) as u8);
        let mut y = Lines::new(geometry.output_len());
        let mut scratch = vec![0; conv.scratch_bytes(par.threads())];
        let other = adds.then(|| vec![7; y.len()]);
        move || {
            let y = OutSlice::Quant8(&mut y);
            conv.run(par, &x, other.as_deref(), y, &mut scratch).unwrap()
        }
    }

    fn conv_f32(&self, cpu: Cpu) -> impl FnMut() + use<> {
        let geometry = self.geometry();
        let weights = vec![0.5; self.out_c() * self.kernel * self.kernel];
        let conv = ConvF32::new(cpu, geometry, &weights, &[], Activation::NONE).unwrap();
        let (x, mut y) = (vec![0.25; geometry.input_len()], vec![0.0; geometry.output_len()]);
        let mut scratch = vec![0.0; conv.scratch_len(1)];
        move || conv.run(&Serial, &x, &mut y, &mut scratch).unwrap()
    }
}

/// Prints the layers that the command line asks for, as criterion will take it: all, or those that hold its argument.
fn table(cpu: Cpu, two: &dyn Parallel) {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let wanted = |layer: &&Layer| format!("{}/{}", group_name(cpu), layer.name()).contains(&wanted);
    let peak = vector_peak_gops(cpu) / 2.0;
    println!("{}: peak of one core {peak:.0} GMAC/s", cpu.isa());
    for layer in LAYERS.iter().filter(wanted) {
        let [seconds, on_two] =
            [&Serial as &dyn Parallel, two].map(|par| best_seconds(layer.conv(cpu, par)));
        let rate = layer.macs() as f64 / seconds / 1e9;
        let (name, us, share) = (layer.name(), seconds * 1e6, rate / peak * 100.0);
        let scaling = seconds / on_two;
        let s8 = Layer { sign: Sign::S8, ..*layer };
        let [of_u8, of_s8] =
            taking_turns([&mut layer.conv(cpu, &Serial), &mut s8.conv(cpu, &Serial)]);
        let s8 = of_u8 / of_s8;
        let float = best_seconds(layer.conv_f32(cpu)) / seconds;
        println!(
            "  {name:<27} {us:>9.1} us  {rate:>7.1} GMAC/s  {share:>4.0} %   s8 {s8:.2}x   2 threads {scaling:.2}x   f32 {float:.1}x"
        );
    }
}

/// Prints what epilogues cost of the plain one's speed.
fn epilogues(cpu: Cpu) {
    for layer in [layer(56, 144, 3, 1), layer(56, 144, 3, 2), layer(28, 240, 5, 1)] {
        let n = layer.out_c();
        let fixed = fixed_points(n);
        let with = |change: &dyn Fn(&mut Requantize, &mut Option<Residual>)| {
            let mut to = output(n);
            if let Output::Quant8 { requantize, residual, .. } = &mut to {
                change(requantize, residual);
            }
            layer.conv_to(&to, cpu, &Serial)
        };
        let seconds = taking_turns([
            &mut with(&|_, _| {}),
            &mut with(&|_, residual| *residual = Some(RESIDUAL)),
            &mut with(&|requantize, _| *requantize = Requantize::TfliteDouble(fixed.clone())),
            &mut with(&|requantize, _| *requantize = Requantize::TfliteSingle(fixed.clone())),
        ]);
        let [_, sum, double, single] = seconds.map(|of| of / seconds[0]);
        let name = layer.name();
        println!(
            "  {name:<24} time as a multiple of {:.1} us: residual {sum:.2}, double {double:.2}, single {single:.2}",
            seconds[0] * 1e6
        );
    }
}

fn group_name(cpu: Cpu) -> String {
    format!("kernel/depthwise-u8s8-{}", cpu.isa())
}

fn bench(c: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let two = RayonPool::new(Arc::new(pool));
    for isa in Cpu::available() {
        let cpu = Cpu::with_isa(isa).unwrap();
        table(cpu, &two);
        if common::chosen(isa) {
            epilogues(cpu);
        }
        let mut group = c.benchmark_group(group_name(cpu));
        for layer in &LAYERS {
            group.throughput(Throughput::Elements(layer.macs() as u64));
            let mut run = layer.conv(cpu, &Serial);
            group.bench_function(BenchmarkId::from_parameter(layer.name()), |b| b.iter(&mut run));
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
