//! The definitions of the integer kernels, written a second time in the plainest way, and what the tests share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;

use proptest::{prelude::*, test_runner::Config};
use requant_kernels::{
    Cpu, KernelError,
    epilogue::{FixedPoint, OutSlice, Output, Requantize, Residual, Sign},
    par::{Parallel, RayonPool, Serial},
    testing::{Flush, Guarded},
};
use wide::bytemuck::cast_slice_mut;

/// Every ISA of this machine, or that which `REQUANT_ISA` names, and again, with AMX in software, those that can be
/// without the processor's.
pub(crate) fn cpus() -> Vec<Cpu> {
    let isas = match std::env::var("REQUANT_ISA") {
        Ok(name) => vec![name.parse().unwrap()],
        Err(_) => Cpu::available(),
    };
    let cpus = isas.into_iter().map(|isa| Cpu::with_isa(isa).unwrap());
    cpus.flat_map(|cpu| [Some(cpu), cpu.with_modelled_tiles()]).flatten().collect()
}

/// Pools of 1, 2 and 3 threads.
pub(crate) fn pools() -> Vec<Box<dyn Parallel>> {
    let rayon = |n| {
        RayonPool::new(Arc::new(rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()))
    };
    vec![Box::new(Serial), Box::new(rayon(2)), Box::new(rayon(3))]
}

/// `cases` cases per property, unless `PROPTEST_CASES` says otherwise.
pub(crate) fn config(cases: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|c| c.parse().ok()).unwrap_or(cases);
    Config { cases, failure_persistence: None, ..Config::default() }
}

pub(crate) fn value(sign: Sign, byte: u8) -> i64 {
    match sign {
        Sign::U8 => i64::from(byte),
        Sign::S8 => i64::from(byte as i8),
    }
}

/// The bytes that an output holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Buffer {
    I32(Vec<i32>),
    F32(Vec<u32>),
    Quant8(Vec<u8>),
}

/// What fills outputs before a run.
const UNTOUCHED: u8 = 0x5a;

/// Runs `f` on an output of `len` elements, of the type that `output` asks for, filled with a pattern.
pub(crate) fn with_output(
    output: &Output,
    len: usize,
    f: impl FnOnce(OutSlice<'_>) -> Result<(), KernelError>,
) -> Buffer {
    let mut words = vec![u32::from_ne_bytes([UNTOUCHED; 4]); len];
    let memory: &mut [u8] = cast_slice_mut(&mut words);
    run_on(output, &mut memory[..len * output_bytes(output)], f)
}

/// The same on an output between unreadable pages.
pub(crate) fn with_guarded_output(
    output: &Output,
    len: usize,
    flush: Flush,
    f: impl FnOnce(OutSlice<'_>) -> Result<(), KernelError>,
) -> Buffer {
    run_on(output, &mut Guarded::new(&vec![UNTOUCHED; len * output_bytes(output)], flush), f)
}

/// Bytes of an element of what `output` asks for.
fn output_bytes(output: &Output) -> usize {
    if matches!(output, Output::Quant8 { .. }) { 1 } else { 4 }
}

fn run_on(
    output: &Output,
    memory: &mut [u8],
    f: impl FnOnce(OutSlice<'_>) -> Result<(), KernelError>,
) -> Buffer {
    match output {
        Output::I32 => {
            let y = cast_slice_mut(memory);
            f(OutSlice::I32(y)).unwrap();
            Buffer::I32(y.to_vec())
        }
        Output::F32 { .. } => {
            let y: &mut [f32] = cast_slice_mut(memory);
            f(OutSlice::F32(y)).unwrap();
            Buffer::F32(y.iter().map(|y| y.to_bits()).collect())
        }
        Output::Quant8 { .. } => {
            f(OutSlice::Quant8(memory)).unwrap();
            Buffer::Quant8(memory.to_vec())
        }
    }
}

/// One output of every kind, for sums that multipliers of 1 leave as they are.
pub(crate) fn every_output() -> Vec<Output> {
    let one = vec![FixedPoint::from_real(1.0).unwrap()];
    let residual = Residual {
        sign: Sign::U8,
        domain: Sign::U8,
        conv_is_lhs: false,
        scale_a: 1.0,
        scale_b: 1.0,
        offset: 1.0,
        min: 0,
        max: 255,
    };
    let rounded = [
        Requantize::HalfEven(vec![1.0]),
        Requantize::TfliteDouble(one.clone()),
        Requantize::TfliteSingle(one),
    ];
    let quant = rounded.into_iter().flat_map(|requantize| {
        [None, Some(residual)].map(|residual| Output::Quant8 {
            sign: Sign::U8,
            requantize: requantize.clone(),
            zero_point: 0,
            min: 0,
            max: 255,
            residual,
        })
    });
    [Output::I32, Output::F32 { scales: vec![1.0] }].into_iter().chain(quant).collect()
}

/// The element `channel` of a per-channel list.
fn at<T: Copy>(values: &[T], channel: usize) -> T {
    values[if values.len() == 1 { 0 } else { channel }]
}

/// gemmlowp's SaturatingRoundingDoublingHighMul and RoundingDivideByPOT, as printed there.
fn tflite_double(acc: i32, m: FixedPoint) -> i64 {
    let x = i64::from(acc.wrapping_shl(m.shift().max(0) as u32));
    let product = x * i64::from(m.m0());
    let nudge = if product >= 0 { 1i64 << 30 } else { 1 - (1i64 << 30) };
    let high = (product + nudge) / (1i64 << 31);
    let exponent = (-m.shift()).max(0);
    let mask = (1i64 << exponent) - 1;
    let remainder = high & mask;
    let threshold = (mask >> 1) + i64::from(high < 0);
    (high >> exponent) + i64::from(remainder > threshold)
}

/// One rounding, half up, of the exact product.
fn tflite_single(acc: i32, m: FixedPoint) -> i64 {
    let total = 31 - m.shift();
    ((i128::from(acc) * i128::from(m.m0()) + (1i128 << (total - 1))) >> total) as i64
}

fn half_even(acc: i32, m: f32) -> i64 {
    (acc as f32 * m).round_ties_even().clamp(-1e9, 1e9) as i64
}

/// What `output` makes of `acc`, as the raw bits of an output element.
pub(crate) fn finish(output: &Output, acc: i32, channel: usize, residual: Option<u8>) -> u32 {
    match output {
        Output::I32 => acc as u32,
        Output::F32 { scales } => (acc as f32 * at(scales, channel)).to_bits(),
        Output::Quant8 { sign, requantize, zero_point, min, max, residual: r } => {
            let rounded = match requantize {
                Requantize::HalfEven(m) => half_even(acc, at(m, channel)),
                Requantize::TfliteDouble(m) => tflite_double(acc, at(m, channel)),
                Requantize::TfliteSingle(m) => tflite_single(acc, at(m, channel)),
            };
            let own = (rounded + i64::from(*zero_point)).clamp(i64::from(*min), i64::from(*max));
            let Some(r) = r else { return u32::from(own as u8) };
            let other = value(r.sign, residual.unwrap());
            let other = match (r.sign, r.domain) {
                (Sign::U8, Sign::S8) => other - 128,
                (Sign::S8, Sign::U8) => other + 128,
                _ => other,
            } as f32;
            let (a, b) = if r.conv_is_lhs { (own as f32, other) } else { (other, own as f32) };
            let sum = a.mul_add(r.scale_a, b.mul_add(r.scale_b, r.offset));
            let sum = sum.round_ties_even() as i64
                + match (r.domain, *sign) {
                    (Sign::U8, Sign::S8) => -128,
                    (Sign::S8, Sign::U8) => 128,
                    _ => 0,
                };
            u32::from(sum.clamp(r.min.into(), r.max.into()) as u8)
        }
    }
}

/// Whether every element has these bits.
pub(crate) fn all_are(buffer: &Buffer, expected: u32) -> bool {
    match buffer {
        Buffer::I32(v) => v.iter().all(|&v| v as u32 == expected),
        Buffer::F32(v) => v.iter().all(|&v| v == expected),
        Buffer::Quant8(v) => v.iter().all(|&v| u32::from(v) == expected),
    }
}

/// The bits of element `i`.
pub(crate) fn bits(buffer: &Buffer, i: usize) -> u32 {
    match buffer {
        Buffer::I32(v) => v[i] as u32,
        Buffer::F32(v) => v[i],
        Buffer::Quant8(v) => u32::from(v[i]),
    }
}

/// What padding between rows must still hold: the pattern of [`with_output`].
pub(crate) fn untouched(buffer: &Buffer) -> u32 {
    match buffer {
        Buffer::Quant8(_) => UNTOUCHED.into(),
        _ => u32::from_ne_bytes([UNTOUCHED; 4]),
    }
}

/// Padding of an image: top, left, bottom, right.
pub(crate) fn pads() -> impl Strategy<Value = [usize; 4]> {
    [0usize..4, 0..4, 0..4, 0..4]
}

pub(crate) fn signs() -> impl Strategy<Value = Sign> {
    prop_oneof![Just(Sign::U8), Just(Sign::S8)]
}

/// Operand bytes: random, or one extreme value throughout.
pub(crate) fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    let extreme = prop_oneof![Just(0u8), Just(0x7f), Just(0x80), Just(0xff)];
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), len),
        1 => extreme.prop_map(move |v| vec![v; len]),
    ]
}

/// Weights: random, or one extreme value throughout; of every second matrix none is −128, as quantizers make them.
pub(crate) fn weights(len: usize) -> impl Strategy<Value = Vec<i8>> {
    let least = prop_oneof![Just(i8::MIN), Just(-127)];
    (bytes(len), least).prop_map(|(v, least)| v.into_iter().map(|b| least.max(b as i8)).collect())
}

/// Zero points of `n` columns: absent, one, or one each.
pub(crate) fn zero_points(n: usize) -> impl Strategy<Value = Option<Vec<i32>>> {
    prop_oneof![
        3 => Just(None),
        1 => (-128i32..=127).prop_map(|z| Some(vec![z])),
        1 => proptest::collection::vec(prop_oneof![Just(0), Just(-128), -128i32..=127], n).prop_map(Some),
    ]
}

/// Biases of `n` columns, rarely near the ends of i32, as quantizers give them to channels that are always zero.
pub(crate) fn biases(n: usize) -> impl Strategy<Value = Vec<i32>> {
    let one = prop_oneof![
        30 => -50_000i32..50_000,
        1 => i32::MIN..i32::MIN + 50_000,
        1 => i32::MAX - 50_000..=i32::MAX,
    ];
    proptest::collection::vec(one, n)
}

fn per_channel<T: std::fmt::Debug + Clone>(
    n: usize,
    one: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![one.clone().prop_map(|v| vec![v]), proptest::collection::vec(one, n)]
}

fn float_multiplier() -> impl Strategy<Value = f32> + Clone {
    prop_oneof![
        6 => (1e-5f32..0.05).prop_map(|m| m),
        1 => 0.05f32..4.0,
        1 => Just(0.5f32),
        1 => Just(0.0),
        1 => Just(-0.01),
        1 => Just(3e38f32),
    ]
}

/// Multipliers of real models, some of 1.
fn real_multiplier() -> impl Strategy<Value = f32> + Clone {
    prop_oneof![8 => 1e-5f32..0.05, 1 => Just(1.0f32), 1 => Just(0.999_999_94)]
}

fn fixed_multiplier() -> impl Strategy<Value = FixedPoint> + Clone {
    prop_oneof![
        6 => (1e-5f64..0.05).prop_map(|m| FixedPoint::from_real(m).unwrap()),
        1 => (0.05f64..4.0).prop_map(|m| FixedPoint::from_real(m).unwrap()),
        1 => (1i32 << 30..=i32::MAX, -31i32..=30).prop_map(|(m0, s)| FixedPoint::new(m0, s).unwrap()),
        1 => Just(FixedPoint::from_real(0.0).unwrap()),
    ]
}

fn range(sign: Sign) -> impl Strategy<Value = (i32, i32)> {
    let (min, max) = (sign.min(), sign.max());
    prop_oneof![
        3 => Just((min, max)),
        1 => (min..=max, min..=max).prop_map(|(a, b)| (a.min(b), a.max(b))),
    ]
}

fn residuals() -> impl Strategy<Value = Residual> {
    // Sums beyond an i32 among them.
    let scale = prop_oneof![8 => -2f32..2.0, 1 => Just(3e7f32)];
    (signs(), signs(), any::<bool>(), scale, -2f32..2.0, -300f32..300.0).prop_map(
        |(sign, domain, conv_is_lhs, scale_a, scale_b, offset)| Residual {
            sign,
            domain,
            conv_is_lhs,
            scale_a,
            scale_b,
            offset,
            min: 0,
            max: 0,
        },
    )
}

/// Any output of `n` columns.
pub(crate) fn outputs(n: usize) -> impl Strategy<Value = Output> {
    let requantize = prop_oneof![
        2 => per_channel(n, float_multiplier()).prop_map(Requantize::HalfEven),
        2 => per_channel(n, real_multiplier()).prop_map(Requantize::HalfEven),
        1 => per_channel(n, fixed_multiplier()).prop_map(Requantize::TfliteDouble),
        1 => per_channel(n, fixed_multiplier()).prop_map(Requantize::TfliteSingle),
    ];
    let residual = prop_oneof![2 => Just(None), 1 => residuals().prop_map(Some)];
    let quant = (requantize, signs(), signs(), residual).prop_flat_map(
        |(requantize, sign, inner, residual)| {
            let own = if residual.is_some() { inner } else { sign };
            (range(own), range(sign), own.min()..=own.max()).prop_map(
                move |((min, max), last, zero_point)| {
                    let residual = residual.map(|r| Residual { min: last.0, max: last.1, ..r });
                    Output::Quant8 {
                        sign,
                        requantize: requantize.clone(),
                        zero_point,
                        min,
                        max,
                        residual,
                    }
                },
            )
        },
    );
    prop_oneof![
        1 => Just(Output::I32),
        1 => per_channel(n, float_multiplier()).prop_map(|scales| Output::F32 { scales }),
        5 => quant,
    ]
}

/// Whether `output` adds a residual.
pub(crate) fn adds_residual(output: &Output) -> bool {
    matches!(output, Output::Quant8 { residual: Some(_), .. })
}
