//! Integer convolutions on every ISA of this machine: the layers of ResNet-50, MobileNetV2, EfficientNet-Lite0 and
//! Inception-v3, shapes of other networks, depthwise layers, against the peak of the ISA's dot product instruction in the
//! same process.
//!
//! The table printed first gives the share of the peak, which Winograd exceeds because operations are those of the
//! definition, how fast the layer is from s8 activations, what a second thread gains, and how many times as long the layer
//! takes in f32; criterion then tracks the layers one by one.
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
    Lines, best_seconds, marks, output, peak_gops, peak_loop, taking_turns, tracker, uneven_pads,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use requant_kernels::{
    Cpu,
    conv::{
        Algorithm, Conv, ConvGeometry, ConvSpec, ConvTranspose, ConvTransposeSpec,
        ConvTransposeWeights, PackedConv, PackedConvTranspose,
    },
    epilogue::{OutSlice, Sign},
    float::{Activation, ConvF32},
    par::{Parallel, RayonPool, Serial},
};

/// A square image and "same" padding, unless changed.
#[derive(Clone, Copy)]
struct Layer {
    image: [usize; 2],
    in_c: usize,
    out_c: usize,
    kernel: [usize; 2],
    stride: usize,
    /// Top, left, bottom, right.
    pads: [usize; 4],
    dilation: usize,
    groups: usize,
    transposed: bool,
    algorithm: Algorithm,
    /// Of the activations.
    sign: Sign,
    /// How often a network has it.
    count: i32,
}

const fn rect(size: usize, in_c: usize, out_c: usize, kernel: [usize; 2]) -> Layer {
    let [vertical, horizontal] = [kernel[0] / 2, kernel[1] / 2];
    Layer {
        image: [size; 2],
        in_c,
        out_c,
        kernel,
        stride: 1,
        pads: [vertical, horizontal, vertical, horizontal],
        dilation: 1,
        groups: 1,
        transposed: false,
        algorithm: Algorithm::Winograd,
        sign: Sign::U8,
        count: 1,
    }
}

const fn dense(size: usize, in_c: usize, out_c: usize, kernel: usize, stride: usize) -> Layer {
    Layer { stride, ..rect(size, in_c, out_c, [kernel; 2]) }
}

const fn valid(size: usize, in_c: usize, out_c: usize, kernel: usize, stride: usize) -> Layer {
    Layer { pads: [0; 4], ..dense(size, in_c, out_c, kernel, stride) }
}

const fn grouped(size: usize, channels: usize, groups: usize) -> Layer {
    Layer { groups, ..dense(size, channels, channels, 3, 1) }
}

const fn depthwise(size: usize, channels: usize, kernel: usize, stride: usize) -> Layer {
    Layer { groups: channels, ..dense(size, channels, channels, kernel, stride) }
}

const fn transposed(size: usize, in_c: usize, out_c: usize, kernel: usize, pad: usize) -> Layer {
    Layer { transposed: true, pads: [pad; 4], ..dense(size, in_c, out_c, kernel, 2) }
}

const fn dilated(size: usize, channels: usize, dilation: usize) -> Layer {
    Layer { dilation, pads: [dilation; 4], ..dense(size, channels, channels, 3, 1) }
}

const fn uneven(size: usize, in_c: usize, out_c: usize, kernel: usize) -> Layer {
    Layer { pads: uneven_pads(kernel), ..dense(size, in_c, out_c, kernel, 2) }
}

const fn times(count: i32, layer: Layer) -> Layer {
    Layer { count, ..layer }
}

/// Every convolution of ResNet-50 (v1.5) but the first.
const RESNET50: [Layer; 22] = [
    times(1, dense(56, 64, 64, 1, 1)),
    times(2, dense(56, 256, 64, 1, 1)),
    times(3, dense(56, 64, 64, 3, 1)),
    times(4, dense(56, 64, 256, 1, 1)),
    times(1, dense(56, 256, 128, 1, 1)),
    times(1, dense(56, 128, 128, 3, 2)),
    times(1, dense(56, 256, 512, 1, 2)),
    times(4, dense(28, 128, 512, 1, 1)),
    times(3, dense(28, 512, 128, 1, 1)),
    times(3, dense(28, 128, 128, 3, 1)),
    times(1, dense(28, 512, 256, 1, 1)),
    times(1, dense(28, 256, 256, 3, 2)),
    times(1, dense(28, 512, 1024, 1, 2)),
    times(6, dense(14, 256, 1024, 1, 1)),
    times(5, dense(14, 1024, 256, 1, 1)),
    times(5, dense(14, 256, 256, 3, 1)),
    times(1, dense(14, 1024, 512, 1, 1)),
    times(1, dense(14, 512, 512, 3, 2)),
    times(1, dense(14, 1024, 2048, 1, 2)),
    times(3, dense(7, 512, 2048, 1, 1)),
    times(2, dense(7, 2048, 512, 1, 1)),
    times(2, dense(7, 512, 512, 3, 1)),
];

/// Every shape that pointwise layers of MobileNetV2 and EfficientNet-Lite0 have; those of one pixel are single rows in the
/// bench of GEMM.
const POINTWISE: [Layer; 32] = [
    // MobileNetV2; the first five are EfficientNet-Lite0's too
    dense(112, 32, 16, 1, 1),
    dense(112, 16, 96, 1, 1),
    dense(56, 96, 24, 1, 1),
    dense(56, 24, 144, 1, 1),
    dense(56, 144, 24, 1, 1),
    dense(28, 144, 32, 1, 1),
    dense(28, 32, 192, 1, 1),
    dense(28, 192, 32, 1, 1),
    dense(14, 192, 64, 1, 1),
    dense(14, 64, 384, 1, 1),
    dense(14, 384, 64, 1, 1),
    dense(14, 384, 96, 1, 1),
    dense(14, 96, 576, 1, 1),
    dense(14, 576, 96, 1, 1),
    dense(7, 576, 160, 1, 1),
    dense(7, 160, 960, 1, 1),
    dense(7, 960, 160, 1, 1),
    dense(7, 960, 320, 1, 1),
    dense(7, 320, 1280, 1, 1),
    // EfficientNet-Lite0, whose last is MobileNetV2's
    dense(28, 144, 40, 1, 1),
    dense(28, 40, 240, 1, 1),
    dense(28, 240, 40, 1, 1),
    dense(14, 240, 80, 1, 1),
    dense(14, 80, 480, 1, 1),
    dense(14, 480, 80, 1, 1),
    dense(14, 480, 112, 1, 1),
    dense(14, 112, 672, 1, 1),
    dense(14, 672, 112, 1, 1),
    dense(7, 672, 192, 1, 1),
    dense(7, 192, 1152, 1, 1),
    dense(7, 1152, 192, 1, 1),
    dense(7, 1152, 320, 1, 1),
];

/// Every shape that convolutions of Inception-v3 have.
const INCEPTION_V3: [Layer; 43] = [
    // up to 35x35
    valid(299, 3, 32, 3, 2),
    valid(149, 32, 32, 3, 1),
    dense(147, 32, 64, 3, 1),
    dense(73, 64, 80, 1, 1),
    valid(73, 80, 192, 3, 1),
    // Mixed_5b to 5d, and what leaves them for 17x17
    dense(35, 192, 32, 1, 1),
    dense(35, 192, 48, 1, 1),
    dense(35, 192, 64, 1, 1),
    dense(35, 256, 48, 1, 1),
    dense(35, 256, 64, 1, 1),
    dense(35, 288, 48, 1, 1),
    dense(35, 288, 64, 1, 1),
    rect(35, 48, 64, [5, 5]),
    dense(35, 64, 96, 3, 1),
    dense(35, 96, 96, 3, 1),
    valid(35, 96, 96, 3, 2),
    valid(35, 288, 384, 3, 2),
    // Mixed_6b to 6e, and what leaves them for 8x8
    dense(17, 768, 128, 1, 1),
    dense(17, 768, 160, 1, 1),
    dense(17, 768, 192, 1, 1),
    rect(17, 128, 128, [1, 7]),
    rect(17, 128, 128, [7, 1]),
    rect(17, 128, 192, [1, 7]),
    rect(17, 128, 192, [7, 1]),
    rect(17, 160, 160, [1, 7]),
    rect(17, 160, 160, [7, 1]),
    rect(17, 160, 192, [1, 7]),
    rect(17, 160, 192, [7, 1]),
    rect(17, 192, 192, [1, 7]),
    rect(17, 192, 192, [7, 1]),
    valid(17, 192, 192, 3, 2),
    valid(17, 192, 320, 3, 2),
    // Mixed_7b and 7c
    dense(8, 1280, 192, 1, 1),
    dense(8, 1280, 320, 1, 1),
    dense(8, 1280, 384, 1, 1),
    dense(8, 1280, 448, 1, 1),
    dense(8, 2048, 192, 1, 1),
    dense(8, 2048, 320, 1, 1),
    dense(8, 2048, 384, 1, 1),
    dense(8, 2048, 448, 1, 1),
    dense(8, 448, 384, 3, 1),
    rect(8, 384, 384, [1, 3]),
    rect(8, 384, 384, [3, 1]),
];

/// First layers, and two layers with uneven padding; pointwise ones of PP-OCR; other shapes of GoogLeNet, of PP-OCR and of
/// a speech model; dilated ones of DeepLab; ResNeXt-50's; transposed convolutions of PP-OCR and of decoders.
const OTHERS: [Layer; 31] = [
    dense(224, 3, 64, 7, 2),
    dense(224, 3, 32, 3, 2),
    dense(640, 3, 16, 3, 2),
    Layer { image: [48, 320], ..dense(1, 3, 16, 3, 2) },
    uneven(224, 3, 32, 3),
    uneven(56, 128, 128, 3),
    dense(160, 48, 48, 1, 1),
    dense(80, 96, 96, 1, 1),
    dense(40, 192, 192, 1, 1),
    dense(20, 384, 384, 1, 1),
    dense(1, 240, 60, 1, 1),
    Layer { image: [12, 80], ..dense(1, 240, 240, 1, 1) },
    Layer { image: [6, 80], ..dense(1, 480, 480, 1, 1) },
    dense(112, 32, 64, 3, 1),
    dense(56, 64, 192, 3, 1),
    dense(160, 16, 16, 3, 1),
    dense(80, 16, 64, 3, 1),
    dense(80, 64, 16, 3, 1),
    dense(160, 96, 24, 3, 1),
    dense(80, 8, 8, 3, 1),
    Layer { image: [1, 1500], pads: [0, 1, 0, 1], ..rect(1, 80, 384, [1, 3]) },
    dilated(28, 256, 2),
    dilated(33, 256, 6),
    grouped(56, 128, 32),
    grouped(28, 256, 32),
    grouped(14, 512, 32),
    grouped(7, 1024, 32),
    transposed(160, 24, 24, 2, 0),
    transposed(320, 24, 1, 2, 0),
    transposed(28, 256, 128, 4, 1),
    transposed(56, 128, 64, 3, 1),
];

/// Depthwise layers of EfficientNet-Lite0 and MobileNetV2.
const DEPTHWISE: [Layer; 13] = [
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

/// All but ResNet-50's.
fn others() -> impl Iterator<Item = &'static Layer> {
    POINTWISE.iter().chain(&INCEPTION_V3).chain(&OTHERS).chain(&DEPTHWISE)
}

impl Layer {
    fn geometry(&self) -> ConvGeometry {
        ConvGeometry::new(ConvSpec {
            batch: 1,
            in_h: self.image[0],
            in_w: self.image[1],
            in_c: self.in_c,
            out_c: self.out_c,
            kernel: self.kernel,
            strides: [self.stride; 2],
            dilations: [self.dilation; 2],
            pads: self.pads,
            groups: self.groups,
        })
        .unwrap()
    }

    fn ops(&self) -> usize {
        if self.transposed {
            // Every input pixel meets every tap, but for the few that pads cut off.
            let taps = self.kernel[0] * self.kernel[1];
            return 2 * self.image[0] * self.image[1] * self.in_c * self.out_c * taps;
        }
        let patch = self.kernel[0] * self.kernel[1] * self.in_c / self.groups;
        2 * self.geometry().output_len() * patch
    }

    fn name(&self) -> String {
        let Self { image: [h, w], in_c, out_c, kernel: [kh, kw], stride, .. } = self;
        let (dilated, uneven) = marks(self.dilation, self.pads);
        let direct = if self.algorithm == Algorithm::Direct { "-direct" } else { "" };
        let kind = match self.groups {
            1 if self.transposed => "deconv".to_owned(),
            1 => "conv".to_owned(),
            g if g == *in_c => "dw".to_owned(),
            g => format!("g{g}-"),
        };
        format!("{kind}{kh}x{kw}s{stride}{dilated}-{h}x{w}x{in_c}-{out_c}{uneven}{direct}")
    }

    fn run<'a>(&self, cpu: Cpu, par: &'a dyn Parallel) -> Box<dyn FnMut() + 'a> {
        if self.transposed {
            Box::new(self.conv_transpose(cpu, par))
        } else {
            Box::new(self.conv(cpu, par))
        }
    }

    fn conv_transpose<'a>(&self, cpu: Cpu, par: &'a dyn Parallel) -> impl FnMut() + use<'a> {
        let weights = ConvTransposeWeights {
            in_c: self.in_c,
            out_c: self.out_c,
            kernel: self.kernel,
            strides: [self.stride; 2],
            dilations: [1, 1],
            groups: 1,
        };
        let spec = ConvTransposeSpec {
            batch: 1,
            image: self.image,
            pads: self.pads,
            output_padding: [0, 0],
            weights,
        };
        let len = self.in_c * self.out_c * self.kernel[0] * self.kernel[1];
        let values: Vec<i8> = (0..len).map(|i| ((i * 37) >> 2) as i8).collect();
        let packed = PackedConvTranspose::pack(cpu, &values, weights, None, self.sign).unwrap();
        let (bias, output) = (vec![0; self.out_c], output(self.out_c));
        let conv = ConvTranspose::new(spec, Arc::new(packed), &bias, 0, &output).unwrap();
        let x = Lines::of(conv.input_len(), |i| ((i * 91) >> 3) as u8);
        let mut y = Lines::new(conv.output_len());
        let mut scratch = vec![0; conv.scratch_bytes(par.threads())];
        move || conv.run(par, &x, None, OutSlice::Quant8(&mut y), &mut scratch).unwrap()
    }

    fn conv<'a>(&self, cpu: Cpu, par: &'a dyn Parallel) -> impl FnMut() + use<'a> {
        let geometry = self.geometry();
        let shape = geometry.spec().weights();
        let len = shape.out_c * shape.in_c_per_group * self.kernel[0] * self.kernel[1];
        let weights: Vec<i8> = (0..len).map(|i| ((i * 37) >> 2) as i8).collect();
        let packed =
            PackedConv::pack_with(cpu, &weights, shape, None, self.sign, self.algorithm).unwrap();
        let conv =
            Conv::new(geometry, Arc::new(packed), &vec![0; self.out_c], 0, &output(self.out_c))
                .unwrap();
        let x = Lines::of(geometry.input_len(), |i| ((i * 91) >> 3) as u8);
        let mut y = Lines::new(geometry.output_len());
        let mut scratch = vec![0; conv.scratch_bytes(par.threads())];
        move || conv.run(par, &x, None, OutSlice::Quant8(&mut y), &mut scratch).unwrap()
    }

    /// The same in f32, which has no transposed convolution.
    fn conv_f32(&self, cpu: Cpu) -> Option<impl FnMut() + use<>> {
        let geometry = (!self.transposed).then(|| self.geometry())?;
        let shape = geometry.spec().weights();
        let len = shape.out_c * shape.in_c_per_group * self.kernel[0] * self.kernel[1];
        let conv = ConvF32::new(cpu, geometry, &vec![0.5; len], &[], Activation::NONE).unwrap();
        let (x, mut y) = (vec![0.25; geometry.input_len()], vec![0.0; geometry.output_len()]);
        let mut scratch = vec![0.0; conv.scratch_len(1)];
        Some(move || conv.run(&Serial, &x, &mut y, &mut scratch).unwrap())
    }

    /// The layer by each algorithm that it has, the fastest first.
    fn by_each_algorithm(&self, cpu: Cpu) -> Vec<Self> {
        let direct = Self { algorithm: Algorithm::Direct, ..*self };
        if self.transposed {
            return vec![*self];
        }
        let shape = self.geometry().spec().weights();
        let [kh, kw] = shape.kernel;
        let weights = vec![0; shape.out_c * shape.in_c_per_group * kh * kw];
        let packed = PackedConv::pack(cpu, &weights, shape, None, Sign::U8).unwrap();
        match packed.algorithm() {
            Algorithm::Direct => vec![*self],
            Algorithm::Winograd => vec![*self, direct],
        }
    }

    fn id(&self, cpu: Cpu) -> String {
        format!("{}/{}", group_name(cpu), self.name())
    }
}

fn group_name(cpu: Cpu) -> String {
    format!("kernel/conv-u8s8-{}", cpu.isa())
}

/// Prints the layers that the command line asks for, as criterion will take it: all, or those that hold its argument.
fn table(cpu: Cpu, two: &dyn Parallel) {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let wanted = |layer: &&Layer| layer.id(cpu).contains(&wanted);
    let (peak_ops, mut peak_run) = peak_loop(cpu);
    println!("{}: peak of one core {:.0} GOP/s, without load", cpu.isa(), peak_gops(cpu));
    let mut print = |layer: &Layer| {
        let mut best = 0.0f64;
        for layer in layer.by_each_algorithm(cpu) {
            // In turns: the clock under load may be lower than before.
            let s8 = Layer { sign: Sign::S8, ..layer };
            let [peak, seconds, of_s8] = taking_turns([
                &mut peak_run,
                &mut layer.run(cpu, &Serial),
                &mut s8.run(cpu, &Serial),
            ]);
            let peak = peak_ops / peak / 1e9;
            let [alone, on_two] =
                [&Serial as &dyn Parallel, two].map(|par| best_seconds(layer.run(cpu, par)));
            let gops = layer.ops() as f64 / seconds / 1e9;
            let (name, us, share) = (layer.name(), seconds * 1e6, gops / peak * 100.0);
            let (s8, scaling) = (seconds / of_s8, alone / on_two);
            let float = layer.conv_f32(cpu).map(|run| best_seconds(run) / alone);
            let float = float.map_or(String::new(), |times| format!("   f32 {times:.1}x"));
            println!(
                "  {name:<32} {us:>9.1} us  {gops:>7.1} GOP/s  {share:>5.1} %   s8 {s8:.2}x   2 threads {scaling:.2}x{float}"
            );
            best = best.max(gops / peak);
        }
        best
    };
    let (mut logs, mut count) = (0.0, 0);
    for layer in RESNET50.iter().filter(wanted) {
        logs += f64::from(layer.count) * print(layer).ln();
        count += layer.count;
    }
    if count > 0 {
        let mean = (logs / f64::from(count)).exp();
        println!("  geometric mean over these {count} layers of ResNet-50: {:.1} %", mean * 100.0);
    }
    others().filter(wanted).for_each(|layer| {
        print(layer);
    });
}

fn bench(c: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let two = RayonPool::new(Arc::new(pool));
    for isa in Cpu::available() {
        let cpu = Cpu::with_isa(isa).unwrap();
        table(cpu, &two);
        let mut group = c.benchmark_group(group_name(cpu));
        let layers = RESNET50.iter().chain(others());
        for layer in layers.flat_map(|layer| layer.by_each_algorithm(cpu)) {
            group.throughput(Throughput::Elements(layer.ops() as u64));
            group.bench_function(BenchmarkId::from_parameter(layer.name()), |b| {
                let mut run = layer.run(cpu, &Serial);
                b.iter(&mut run)
            });
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
