//! Hybrid, int16×int8 and weight-only GEMM: every ISA and thread count against the definition, bit for bit.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod int8_common;

use std::sync::Arc;

use int8_common::*;
use proptest::prelude::*;
use requant_kernels::{
    KernelError,
    epilogue::{FixedPoint, Sign},
    gemm::PackedB,
    gemm16::{Gemm16, PackedB16, Requantize16},
    hybrid::{DynamicQuantization, HybridGemm},
    par::Serial,
    weight_only::{BlockWeights, PackedBlocks, WeightOnlyGemm, WeightType},
};

/// What outputs hold before a run, and between rows after it.
const UNTOUCHED: f32 = -77.5;

/// Sizes of a product and how much longer than needed its rows are.
#[derive(Debug, Clone, Copy)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    lda: usize,
    ldc: usize,
}

fn shapes(m: usize, n: usize, k: usize) -> impl Strategy<Value = Shape> {
    (0..m, 0..n, 0..k, 0usize..5, 0usize..5).prop_map(|(m, n, k, a, c)| Shape {
        m,
        n,
        k,
        lda: k + a,
        ldc: n + c,
    })
}

/// The element of a matrix `[rows, cols]`, or of its transpose.
fn element<T: Copy>(
    data: &[T],
    (row, col): (usize, usize),
    (rows, cols): (usize, usize),
    transposed: bool,
) -> T {
    data[if transposed { col * rows + row } else { row * cols + col }]
}

/// Fails unless `y` holds the bits of `expected` in its rows and nothing else changed.
fn check_rows<T: Copy + PartialEq + std::fmt::Debug>(
    y: &[T],
    shape: Shape,
    untouched: T,
    what: &str,
    expected: impl Fn(usize, usize) -> T,
) {
    for (i, &y) in y.iter().enumerate() {
        let (m, n) = (i / shape.ldc, i % shape.ldc);
        let expected = if n < shape.n { expected(m, n) } else { untouched };
        assert_eq!(y, expected, "row {m}, column {n} {what}, {shape:?}");
    }
}

fn bits(y: Vec<f32>) -> Vec<u32> {
    y.into_iter().map(f32::to_bits).collect()
}

// Hybrid

#[derive(Debug, Clone)]
struct Hybrid {
    shape: Shape,
    quantization: DynamicQuantization,
    sign: Sign,
    transposed: bool,
    x: Vec<f32>,
    w: Vec<i8>,
    w_zero: Option<Vec<i32>>,
    scales: Vec<f32>,
    bias: Vec<f32>,
}

/// Scale, zero point and codes of `x`, in the words of the sources.
fn quantized(quantization: DynamicQuantization, range: &[f32], x: &[f32]) -> (f32, i64, Vec<i64>) {
    if quantization == DynamicQuantization::SymmetricPerRow {
        let range = range.iter().fold(0.0f32, |r, x| r.max(x.abs()));
        if range == 0.0 {
            return (1.0, 0, vec![0; x.len()]);
        }
        let inverse = 127.0 / range;
        let code = |x: &f32| ((x * inverse).round() as i64).clamp(-127, 127);
        return (range / 127.0, 0, x.iter().map(code).collect());
    }
    let (low, high) = range.iter().fold((0.0f32, 0.0f32), |(l, h), &x| (l.min(x), h.max(x)));
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    let zero = (0.0 - low / scale).clamp(0.0, 255.0).round_ties_even();
    let code = |x: &f32| ((x / scale).clamp(-zero, 255.0 - zero).round_ties_even() + zero) as i64;
    (scale, zero as i64, x.iter().map(code).collect())
}

impl Hybrid {
    fn expected(&self) -> Vec<Vec<f32>> {
        let Shape { m, n, k, lda, .. } = self.shape;
        let row = |m: usize| if k == 0 { &[] } else { &self.x[m * lda..][..k] };
        let all: Vec<f32> = (0..m).flat_map(row).copied().collect();
        (0..m)
            .map(|m| {
                let range = match self.quantization {
                    DynamicQuantization::AsymmetricPerTensor => &all,
                    _ => row(m),
                };
                let (scale, zero, codes) = quantized(self.quantization, range, row(m));
                (0..n)
                    .map(|n_| {
                        let one =
                            |list: &[i32]| i64::from(list[if list.len() == 1 { 0 } else { n_ }]);
                        let w_zero = self.w_zero.as_deref().map_or(0, one);
                        let w = |k_| {
                            i64::from(element(&self.w, (k_, n_), (k, n), self.transposed)) - w_zero
                        };
                        let acc: i64 =
                            codes.iter().enumerate().map(|(k_, q)| (q - zero) * w(k_)).sum();
                        let w_scale = self.scales[if self.scales.len() == 1 { 0 } else { n_ }];
                        acc as f32 * (scale * w_scale) + self.bias.get(n_).copied().unwrap_or(0.0)
                    })
                    .collect()
            })
            .collect()
    }

    fn check(&self) {
        let Shape { m, n, k, lda, ldc } = self.shape;
        let expected = self.expected();
        for cpu in cpus() {
            let w_zero = self.w_zero.as_deref();
            let packed =
                PackedB::pack(cpu, &self.w, k, n, self.transposed, w_zero, self.sign).unwrap();
            let gemm =
                HybridGemm::new(cpu, Arc::new(packed), self.quantization, &self.scales, &self.bias)
                    .unwrap();
            for par in pools() {
                let mut y = vec![UNTOUCHED; m * ldc];
                let mut scratch = vec![0x5a; gemm.scratch_bytes(m, par.threads())];
                gemm.run(&*par, m, (&self.x, lda), (&mut y, ldc), &mut scratch).unwrap();
                let what = format!("on {} with {} threads", cpu.isa(), par.threads());
                let expected = |m: usize, n: usize| expected[m][n].to_bits();
                check_rows(&bits(y), self.shape, UNTOUCHED.to_bits(), &what, expected);
            }
        }
    }
}

/// Activations of very different sizes, with exact halves of codes and whole rows of zeros among them.
fn activations(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        6 => -10f32..10.0,
        2 => (-254i32..=254).prop_map(|i| i as f32 / 2.0),
        1 => Just(127.0f32),
        1 => Just(0.0f32),
    ];
    let scaled = (
        proptest::collection::vec(value, len),
        prop_oneof![
            5 => Just(1.0f32), 1 => Just(1e-30f32), 1 => Just(1e30f32), 1 => Just(0.0f32)
        ],
    );
    scaled.prop_map(|(x, scale)| x.into_iter().map(|x| x * scale).collect())
}

fn hybrids(shape: impl Strategy<Value = Shape>) -> impl Strategy<Value = Hybrid> {
    let quantizations = prop_oneof![
        Just(DynamicQuantization::SymmetricPerRow),
        Just(DynamicQuantization::AsymmetricPerRow),
        Just(DynamicQuantization::AsymmetricPerTensor),
    ];
    (shape, quantizations, signs(), any::<bool>(), any::<[bool; 2]>()).prop_flat_map(
        |(shape, quantization, sign, transposed, [one_scale, biased])| {
            let Shape { m, n, k, lda, .. } = shape;
            let scales = proptest::collection::vec(1e-4f32..1.0, if one_scale { 1 } else { n });
            let bias = proptest::collection::vec(-5f32..5.0, if biased { n } else { 0 });
            (activations(m * lda), weights(k * n), zero_points(n), scales, bias).prop_map(
                move |(x, w, w_zero, scales, bias)| Hybrid {
                    shape,
                    quantization,
                    sign,
                    transposed,
                    x,
                    w,
                    w_zero,
                    scales,
                    bias,
                },
            )
        },
    )
}

#[test]
fn hybrid_ranges_beyond_the_finite_end_in_infinities_and_nan_not_in_panics() {
    for quantization in [
        DynamicQuantization::SymmetricPerRow,
        DynamicQuantization::AsymmetricPerRow,
        DynamicQuantization::AsymmetricPerTensor,
    ] {
        for cpu in cpus() {
            let packed = PackedB::pack(cpu, &[1, 2, 3], 3, 1, false, None, Sign::U8).unwrap();
            let gemm = HybridGemm::new(cpu, Arc::new(packed), quantization, &[1.0], &[]).unwrap();
            for x in [
                [f32::INFINITY, 1.0, -1.0],
                [f32::NEG_INFINITY, f32::INFINITY, 0.0],
                [f32::MAX, f32::MIN, 0.0],
            ] {
                let mut y = [0.0];
                let mut scratch = vec![0; gemm.scratch_bytes(1, 1)];
                gemm.run(&Serial, 1, (&x, 3), (&mut y, 1), &mut scratch).unwrap();
            }
            // NaN does not widen the range.
            let (mut y, mut scratch) = ([0.0], vec![0; gemm.scratch_bytes(1, 1)]);
            gemm.run(&Serial, 1, (&[f32::NAN, 0.0, 1.0], 3), (&mut y, 1), &mut scratch).unwrap();
            assert!(y[0].is_finite() && y[0].abs() < 4.0, "{}", y[0]);
        }
    }
}

// int16 × int8

#[derive(Debug, Clone)]
struct Int16 {
    shape: Shape,
    transposed: bool,
    a: Vec<i16>,
    w: Vec<i8>,
    bias: Vec<i64>,
    requantize: Requantize16,
    bounds: (i16, i16),
}

/// `MultiplyByQuantizedMultiplier` of an int64, as LiteRT prints it.
fn tflite_16x8(x: i64, m: FixedPoint) -> i64 {
    let reduced = if m.m0() < 0x7fff_0000 { (m.m0() + (1 << 15)) >> 16 } else { 0x7fff };
    let total_shift = 15 - m.shift();
    (x * i64::from(reduced) + (1i64 << (total_shift - 1))) >> total_shift
}

impl Int16 {
    fn expected(&self, m: usize, n: usize) -> i16 {
        let Shape { k, n: columns, lda, .. } = self.shape;
        let w = |k_| i64::from(element(&self.w, (k_, n), (k, columns), self.transposed));
        let sum: i64 = (0..k).map(|k_| i64::from(self.a[m * lda + k_]) * w(k_)).sum();
        let acc = sum + self.bias.get(n).copied().unwrap_or(0);
        let (min, max) = self.bounds;
        let scaled = match &self.requantize {
            Requantize16::HalfEven(f) => {
                let f = f[if f.len() == 1 { 0 } else { n }];
                (acc as f32 * f).round_ties_even().clamp(-1e6, 1e6) as i64
            }
            Requantize16::Tflite16x8(f) => tflite_16x8(acc, f[if f.len() == 1 { 0 } else { n }]),
        };
        scaled.clamp(i64::from(min), i64::from(max)) as i16
    }

    fn check(&self) {
        let Shape { m, n, k, lda, ldc } = self.shape;
        let packed = Arc::new(PackedB16::pack(&self.w, k, n, self.transposed).unwrap());
        for cpu in cpus() {
            let gemm = Gemm16::new(cpu, packed.clone(), &self.bias, &self.requantize, self.bounds)
                .unwrap();
            for par in pools() {
                let mut y = vec![0x5a5a; m * ldc];
                gemm.run(&*par, m, (&self.a, lda), (&mut y, ldc)).unwrap();
                let what = format!("on {} with {} threads", cpu.isa(), par.threads());
                check_rows(&y, self.shape, 0x5a5a, &what, |m, n| self.expected(m, n));
            }
        }
    }
}

fn int16s(shape: impl Strategy<Value = Shape>) -> impl Strategy<Value = Int16> {
    (shape, any::<bool>(), any::<[bool; 2]>()).prop_flat_map(|(shape, transposed, [one, biased])| {
        let Shape { m, n, k, lda, .. } = shape;
        let a = prop_oneof![
            4 => proptest::collection::vec(any::<i16>(), m * lda),
            1 => prop_oneof![Just(i16::MIN), Just(i16::MAX)].prop_map(move |a| vec![a; m * lda]),
        ];
        let multipliers = if one { 1 } else { n };
        let float = prop_oneof![6 => 1e-6f32..1e-3, 1 => 0.01f32..100.0, 1 => Just(0.0f32), 1 => Just(-0.01f32)];
        let real = prop_oneof![6 => 1e-6f64..1e-3, 1 => 0.01f64..100.0, 1 => Just(0.0f64), 1 => Just(0.999_999_9f64)];
        let fixed = real.prop_map(|m| FixedPoint::from_real(m).unwrap());
        let requantize = prop_oneof![
            proptest::collection::vec(float, multipliers).prop_map(Requantize16::HalfEven),
            proptest::collection::vec(fixed, multipliers).prop_map(Requantize16::Tflite16x8),
        ];
        let bias = prop_oneof![-(1i64 << 40)..(1i64 << 40), -1000i64..1000];
        let bias = proptest::collection::vec(bias, if biased { n } else { 0 });
        let bounds = prop_oneof![
            3 => Just((i16::MIN, i16::MAX)),
            1 => any::<[i16; 2]>().prop_map(|[a, b]| (a.min(b), a.max(b))),
        ];
        (a, weights(k * n), requantize, bias, bounds).prop_map(
            move |(a, w, requantize, bias, bounds)| Int16 {
                shape, transposed, a, w, bias, requantize, bounds,
            },
        )
    })
}

#[test]
fn int16_sums_beyond_32_bits_are_exact() {
    for (a, w) in [(i16::MIN, i8::MIN), (i16::MAX, i8::MIN), (i16::MIN, 127)] {
        for k in [509, 510, 511, 1021, 5000] {
            let shape = Shape { m: 13, n: 17, k, lda: k, ldc: 17 };
            // Brings the largest sums into the range of the output, where a lost carry shows.
            let requantize = Requantize16::HalfEven(vec![1e-6]);
            let problem = Int16 {
                shape,
                transposed: false,
                a: vec![a; 13 * k],
                w: vec![w; 17 * k],
                bias: vec![],
                requantize,
                bounds: (i16::MIN, i16::MAX),
            };
            problem.check();
            let fixed = FixedPoint::from_real(1e-6).unwrap();
            Int16 { requantize: Requantize16::Tflite16x8(vec![fixed]), ..problem }.check();
        }
    }
}

// Weight-only

#[derive(Debug, Clone)]
struct WeightOnly {
    shape: Shape,
    weight_type: WeightType,
    transposed: bool,
    block: usize,
    x: Vec<f32>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    zero_points: Vec<i8>,
    bias: Vec<f32>,
}

impl WeightOnly {
    fn expected(&self, m: usize, n: usize) -> f32 {
        let Shape { n: columns, k, lda, .. } = self.shape;
        let blocks = k.div_ceil(self.block);
        let mut y = self.bias.get(n).copied().unwrap_or(0.0);
        for b in 0..blocks {
            let at = ((b, n), (blocks, columns), self.transposed);
            let zero = if self.zero_points.is_empty() {
                0
            } else {
                element(&self.zero_points, at.0, at.1, at.2)
            };
            let mut p = 0.0f32;
            for k_ in b * self.block..((b + 1) * self.block).min(k) {
                let code = element(&self.codes, (k_, n), (k, columns), self.transposed);
                p = self.x[m * lda + k_].mul_add(f32::from(i16::from(code) - i16::from(zero)), p);
            }
            y = p.mul_add(element(&self.scales, at.0, at.1, at.2), y);
        }
        y
    }

    fn check(&self) {
        let Shape { m, n, k, lda, ldc } = self.shape;
        let &Self {
            weight_type, transposed, block, ref codes, ref scales, ref zero_points, ..
        } = self;
        let weights =
            BlockWeights { weight_type, codes, k, n, transposed, block, scales, zero_points };
        let packed = Arc::new(PackedBlocks::pack(&weights).unwrap());
        for cpu in cpus() {
            let gemm = WeightOnlyGemm::new(cpu, packed.clone(), &self.bias).unwrap();
            for par in pools() {
                let mut y = vec![UNTOUCHED; m * ldc];
                gemm.run(&*par, m, (&self.x, lda), (&mut y, ldc)).unwrap();
                let what = format!("on {} with {} threads", cpu.isa(), par.threads());
                let expected = |m: usize, n: usize| self.expected(m, n).to_bits();
                check_rows(&bits(y), self.shape, UNTOUCHED.to_bits(), &what, expected);
            }
        }
    }
}

fn weight_only(shape: impl Strategy<Value = Shape>) -> impl Strategy<Value = WeightOnly> {
    let types = prop_oneof![Just(WeightType::S8), Just(WeightType::S4), Just(WeightType::U4)];
    let blocks = prop_oneof![Just(8usize), Just(32), Just(64), Just(128), Just(40)];
    (shape, types, any::<bool>(), blocks, any::<[bool; 2]>()).prop_flat_map(
        |(shape, weight_type, transposed, block, [zeros, biased])| {
            let Shape { m, n, k, lda, .. } = shape;
            let count = k.div_ceil(block) * n;
            let (min, max) = weight_type.range();
            (
                proptest::collection::vec(-10f32..10.0, m * lda),
                proptest::collection::vec(min..=max, k * n),
                proptest::collection::vec(-1f32..1.0, count),
                proptest::collection::vec(min..=max, if zeros { count } else { 0 }),
                proptest::collection::vec(-5f32..5.0, if biased { n } else { 0 }),
            )
                .prop_map(move |(x, codes, scales, zero_points, bias)| WeightOnly {
                    shape,
                    weight_type,
                    transposed,
                    block,
                    x,
                    codes,
                    scales,
                    zero_points,
                    bias,
                })
        },
    )
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn hybrid_matches_the_definition(problem in hybrids(shapes(26, 50, 70))) {
        problem.check();
    }

    #[test]
    fn int16_matches_the_definition(problem in int16s(shapes(26, 100, 70))) {
        problem.check();
    }

    #[test]
    fn weight_only_matches_the_definition(problem in weight_only(shapes(26, 100, 150))) {
        problem.check();
    }
}

proptest! {
    #![proptest_config(config(8))]

    #[test]
    fn larger_products_are_cut_without_a_seam(
        hybrid in hybrids(shapes(130, 200, 400)), int16 in int16s(shapes(90, 200, 1200)),
        weight_only in weight_only(shapes(60, 200, 400)),
    ) {
        hybrid.check();
        int16.check();
        weight_only.check();
    }
}

#[test]
fn bad_arguments_are_refused() {
    let cpu = cpus()[0];
    let packed = Arc::new(PackedB::pack(cpu, &[0; 6], 2, 3, false, None, Sign::U8).unwrap());
    let symmetric = DynamicQuantization::SymmetricPerRow;
    for (scales, bias) in [
        (vec![1.0; 2], vec![]),
        (vec![0.0], vec![]),
        (vec![f32::NAN], vec![]),
        (vec![1.0], vec![0.0]),
    ] {
        assert!(HybridGemm::new(cpu, packed.clone(), symmetric, &scales, &bias).is_err());
    }
    let hybrid = HybridGemm::new(cpu, packed, symmetric, &[1.0], &[]).unwrap();
    assert!(hybrid.scratch_bytes(2, 1) == 4 && hybrid.scratch_bytes(0, 1) == 0);
    let run = |x: usize, ldx, y: usize, ldy, scratch: usize| {
        hybrid.run(
            &Serial,
            2,
            (&vec![0.0; x], ldx),
            (&mut vec![0.0; y], ldy),
            &mut vec![0; scratch],
        )
    };
    assert_eq!(run(4, 2, 6, 3, 4), Ok(()));
    for (x, ldx, y, ldy, scratch) in
        [(3, 2, 6, 3, 4), (4, 1, 6, 3, 4), (4, 2, 5, 3, 4), (4, 2, 6, 2, 4), (4, 2, 6, 3, 3)]
    {
        assert!(matches!(run(x, ldx, y, ldy, scratch), Err(KernelError::Length { .. })));
    }
    assert!(run(4, usize::MAX, 6, 3, 4).is_err());

    assert!(PackedB16::pack(&[0; 5], 2, 3, false).is_err());
    assert!(matches!(
        PackedB16::pack(&[], (1 << 24) + 1, 0, false),
        Err(KernelError::KTooLarge { .. })
    ));
    let packed = Arc::new(PackedB16::pack(&[0; 6], 2, 3, false).unwrap());
    let half_even = |m: &[f32]| Requantize16::HalfEven(m.to_vec());
    let new = |bias: &[i64], requantize, bounds| {
        Gemm16::new(cpu, packed.clone(), bias, &requantize, bounds)
    };
    assert!(new(&[0; 2], half_even(&[1.0]), (0, 1)).is_err());
    assert!(new(&[1 << 47; 3], half_even(&[1.0]), (0, 1)).is_err());
    assert!(new(&[i64::MIN; 3], half_even(&[1.0]), (0, 1)).is_err());
    assert!(new(&[], half_even(&[f32::INFINITY]), (0, 1)).is_err());
    assert!(new(&[], half_even(&[1.0; 2]), (0, 1)).is_err());
    assert!(new(&[], half_even(&[1.0]), (1, 0)).is_err());
    assert!(
        new(&[], Requantize16::Tflite16x8(vec![FixedPoint::new(1 << 30, 8).unwrap()]), (0, 1))
            .is_err()
    );
    let gemm = new(&[], half_even(&[1.0]), (0, 1)).unwrap();
    assert!(gemm.run(&Serial, 2, (&[0; 3], 2), (&mut [0; 6], 3)).is_err());
    assert!(gemm.run(&Serial, 2, (&[0; 4], 1), (&mut [0; 6], 3)).is_err());
    assert!(gemm.run(&Serial, 2, (&[0; 4], 2), (&mut [0; 5], 3)).is_err());

    let weights = BlockWeights {
        weight_type: WeightType::S8,
        codes: &[0; 6],
        k: 2,
        n: 3,
        transposed: false,
        block: 8,
        scales: &[1.0; 3],
        zero_points: &[],
    };
    let packed = Arc::new(PackedBlocks::pack(&weights).unwrap());
    assert!(WeightOnlyGemm::new(cpu, packed.clone(), &[0.0; 2]).is_err());
    let gemm = WeightOnlyGemm::new(cpu, packed, &[]).unwrap();
    assert!(gemm.run(&Serial, 2, (&[0.0; 3], 2), (&mut [0.0; 6], 3)).is_err());
    assert!(gemm.run(&Serial, 2, (&[0.0; 4], 2), (&mut [0.0; 6], 2)).is_err());
    assert!(gemm.run(&Serial, 2, (&[0.0; 4], 2), (&mut [0.0; 5], 3)).is_err());
}
