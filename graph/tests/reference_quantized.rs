//! Forms of quantized operators that no ONNX operator has: they follow from those that have one.
#![allow(clippy::needless_range_loop, reason = "one index addresses several arrays")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use requant_graph::Graph;
use requant_graph::reference::{self, EvalError, EvalLimits, RunOptions, eval, eval_with};
use requant_ir::{
    BinaryKind, ConvAttrs, DType, ElemType, IntClamp, Layout, Model, Op, Padding, QOut, Quant,
    QuantParams, Residual, Rounding, Tensor,
};

/// Numbers that look random.
fn codes(n: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (state >> 24) as u8
        })
        .collect()
}

fn tensor(elem: ElemType, dims: &[usize], seed: u32) -> Tensor {
    let n = dims.iter().product();
    Tensor::copy_from(elem, dims.to_vec(), &codes(n, seed)).unwrap()
}

fn one(op: &Op, operands: &[&Tensor]) -> Tensor {
    let operands: Vec<_> = operands.iter().map(|&t| Some(t)).collect();
    eval(op, &operands).unwrap().remove(0)
}

fn conv(groups: usize, layout: Layout) -> ConvAttrs {
    ConvAttrs {
        strides: vec![2, 1],
        padding: Padding::Explicit(vec![1, 0, 1, 2]),
        dilations: vec![1, 2],
        groups,
        layout,
    }
}

fn out(elem: ElemType) -> QOut {
    QOut { elem, clamp: None, rounding: Rounding::HalfEven }
}

fn qconv(conv: ConvAttrs, out: QOut) -> Op {
    Op::QConv { conv, out, zero_folded: false, residual: None }
}

fn x() -> Tensor {
    tensor(ElemType::per_tensor(DType::U8, 0.05, 77), &[2, 4, 6, 7], 1)
}

/// Weights with a scale and zero point for each of 6 channels.
fn w() -> Tensor {
    let scales: Vec<f32> = (1..7).map(|i| 0.003 * i as f32).collect();
    let quant = Quant::per_axis(0, scales, vec![0, 5, -3, 0, 100, -128]);
    tensor(ElemType { dtype: DType::I8, quant: Some(quant) }, &[6, 2, 3, 3], 2)
}

fn bias() -> Tensor {
    Tensor::from_slice(&[6], &[-3000i32, 40, 0, 999, -1, 70_000]).unwrap()
}

fn y() -> ElemType {
    ElemType::per_tensor(DType::I8, 0.21, -9)
}

#[test]
fn layouts_agree() {
    let first = one(&qconv(conv(2, Layout::ChannelsFirst), out(y())), &[&x(), &w(), &bias()]);
    let to_last = Op::Transpose { perm: vec![0, 2, 3, 1] };
    let last = one(
        &qconv(conv(2, Layout::ChannelsLast), out(y())),
        &[&one(&to_last, &[&x()]), &w(), &bias()],
    );
    assert_eq!(one(&to_last, &[&first]), last);
    let distinct: std::collections::BTreeSet<_> = first.bytes().iter().collect();
    assert!(distinct.len() > 20, "the case says little: {distinct:?}");
}

#[test]
fn the_definition_holds() {
    let raw = ElemType::plain(DType::I32);
    let sums = one(&qconv(conv(2, Layout::ChannelsFirst), out(raw)), &[&x(), &w(), &bias()]);
    let (x, w, b) = (x(), w(), bias());
    let (xs, ws, bs) = (x.to_i64().unwrap(), w.to_i64().unwrap(), b.to_i64().unwrap());
    let zeros = w.elem().quant.as_ref().unwrap().zero_points().to_vec();
    let [n, c, h, v] = sums.dims()[..] else { panic!() };
    let got = sums.as_slice::<i32>().unwrap();
    for i in 0..n * c * h * v {
        let (image, channel, row, column) = (i / (c * h * v), i / (h * v) % c, i / v % h, i % v);
        let mut sum = bs[channel];
        for k in 0..2 * 3 * 3 {
            let (input, dy, dx) = (k / 9, k / 3 % 3, k % 3);
            let (sy, sx) = (row * 2 + dy, column + dx * 2);
            // Padding: one row before and after, two columns after.
            if !(1..7).contains(&sy) || sx >= 7 {
                continue;
            }
            let at = ((image * 4 + channel / 3 * 2 + input) * 6 + sy - 1) * 7 + sx;
            sum += (xs[at] - 77) * (ws[channel * 18 + k] - i64::from(zeros[channel]));
        }
        assert_eq!(i64::from(got[i]), sum, "{i}");
    }
}

#[test]
fn a_folded_zero_point_changes_nothing() {
    let plain = one(&qconv(conv(2, Layout::ChannelsFirst), out(y())), &[&x(), &w(), &bias()]);
    let (weights, mut folded) = (w(), bias().as_slice::<i32>().unwrap().to_vec());
    let zeros = weights.elem().quant.as_ref().unwrap().zero_points().to_vec();
    for (channel, row) in weights.to_i64().unwrap().chunks(18).enumerate() {
        let sum: i64 = row.iter().map(|&q| q - i64::from(zeros[channel])).sum();
        folded[channel] -= 77 * sum as i32;
    }
    let op = Op::QConv {
        conv: conv(2, Layout::ChannelsFirst),
        out: out(y()),
        zero_folded: true,
        residual: None,
    };
    let folded = Tensor::from_slice(&[6], &folded).unwrap();
    assert_eq!(one(&op, &[&x(), &weights, &folded]), plain);
}

#[test]
fn a_residual_is_an_addition_after_rounding() {
    let inner = ElemType::per_tensor(DType::U8, 0.13, 120);
    let clamp = Some(IntClamp { min: 100, max: 180 });
    let own = QOut { clamp, ..out(inner.clone()) };
    let own = one(&qconv(conv(2, Layout::ChannelsFirst), own), &[&x(), &w(), &bias()]);
    let other = tensor(ElemType::per_tensor(DType::I8, 0.04, 3), own.dims(), 5);
    let result = QOut { clamp: Some(IntClamp { min: -90, max: 101 }), ..out(y()) };
    for conv_is_lhs in [true, false] {
        let fused = Op::QConv {
            conv: conv(2, Layout::ChannelsFirst),
            out: result.clone(),
            zero_folded: false,
            residual: Some(Residual { inner: inner.clone(), inner_clamp: clamp, conv_is_lhs }),
        };
        let fused = one(&fused, &[&x(), &w(), &bias(), &other]);
        let add = Op::QBinary { kind: BinaryKind::Add, flipped: false, out: result.clone() };
        let operands = if conv_is_lhs { [&own, &other] } else { [&other, &own] };
        assert_eq!(fused, one(&add, &operands));
    }
}

/// gemmlowp's `SaturatingRoundingDoublingHighMul` and `RoundingDivideByPOT`, in wide integers.
fn tflite_double(acc: i64, real: f64) -> i64 {
    let mut shift = 0;
    let mut mantissa = real;
    while mantissa < 0.5 {
        mantissa *= 2.0;
        shift -= 1;
    }
    while mantissa >= 1.0 {
        mantissa /= 2.0;
        shift += 1;
    }
    let m0 = i128::from((mantissa * 2f64.powi(31)).round() as i64);
    let product = i128::from(acc << shift.max(0)) * m0;
    // Nearest, ties away from zero for positive and towards plus infinity for negative numbers.
    let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
    let high = (product + nudge) / (1 << 31);
    let divisor = 1i128 << (-shift).max(0);
    let (quotient, rest) = (high.div_euclid(divisor), high.rem_euclid(divisor));
    let up = 2 * rest > divisor || (2 * rest == divisor && high >= 0 && divisor > 1);
    (quotient + i128::from(up)) as i64
}

#[test]
fn tflite_rounds_twice() {
    let sums: Vec<i32> = codes(4000, 9)
        .chunks(4)
        .map(|c| i32::from_le_bytes([c[0], c[1], c[2] & 1, 0]) - 60_000)
        .collect();
    let bytes: Vec<u8> = sums.iter().flat_map(|s| s.to_le_bytes()).collect();
    for (scale, result) in [(0.0007f32, 0.31f32), (0.5, 200.0), (0.004, 0.9)] {
        let elem = ElemType::per_tensor(DType::I32, scale, 0);
        let acc = Tensor::copy_from(elem, vec![sums.len()], &bytes).unwrap();
        let elem = ElemType::per_tensor(DType::I8, result, 4);
        let op = |rounding| Op::Requantize(QOut { rounding, ..out(elem.clone()) });
        let got = one(&op(Rounding::TfliteDouble), &[&acc]).to_i64().unwrap();
        let real = f64::from(scale) / f64::from(result);
        let want: Vec<i64> =
            sums.iter().map(|&s| (tflite_double(s.into(), real) + 4).clamp(-128, 127)).collect();
        assert_eq!(got, want);
        let single = one(&op(Rounding::TfliteSingle), &[&acc]).to_i64().unwrap();
        let nearest = one(&op(Rounding::HalfEven), &[&acc]).to_i64().unwrap();
        let real = |s: i32| f64::from(s) * real;
        for ((&s, single), nearest) in sums.iter().zip(single).zip(nearest) {
            let exact = (real(s) + 4.0).clamp(-128.0, 127.0);
            assert!(
                (single as f64 - exact).abs() <= 0.501 && (nearest as f64 - exact).abs() <= 0.501
            );
        }
    }
}

#[test]
fn blocks_and_nibbles() {
    // Codes −8 … 7 in two blocks of 4 along axis 1 of [2, 8].
    let quant = Quant {
        expressed: DType::F32,
        params: QuantParams::PerBlock {
            axis: 1,
            size: 4,
            scales: vec![1.0, 10.0, 100.0, 1000.0].into(),
            zero_points: vec![0, 1, 0, -1].into(),
        },
        narrow_range: false,
    };
    let bytes: Vec<u8> = (0..8).map(|i| (2 * i) | ((2 * i + 1) << 4)).collect();
    let w =
        Tensor::copy_from(ElemType { dtype: DType::I4, quant: Some(quant) }, vec![2, 8], &bytes);
    let got = one(&Op::Dequantize, &[&w.unwrap()]).to_f32().unwrap();
    let first = [0.0, 1.0, 2.0, 3.0, 30.0, 40.0, 50.0, 60.0];
    let second = [-800.0, -700.0, -600.0, -500.0, -3000.0, -2000.0, -1000.0, 0.0];
    assert_eq!(got, [first, second].concat());

    let plain =
        Tensor::copy_from(ElemType::plain(DType::U4), vec![3, 3], &[0x10, 0x32, 0x54, 0x76, 8]);
    let turned = one(&Op::Transpose { perm: vec![1, 0] }, &[&plain.unwrap()]);
    assert_eq!(turned.bytes()[..], [0x30, 0x16, 0x74, 0x52, 8]);
}

#[test]
fn tables_are_indexed_by_the_stored_byte() {
    let table = std::array::from_fn(|i| (i as u8).wrapping_mul(3));
    let op = Op::Lut { table: std::sync::Arc::new(table), out: y() };
    let x = Tensor::copy_from(ElemType::per_tensor(DType::I8, 1.0, 0), vec![3], &[255, 0, 128]);
    assert_eq!(one(&op, &[&x.unwrap()]).bytes()[..], [253, 0, 128]);
}

#[test]
fn what_cannot_be_computed_is_an_error() {
    let error = |op: &Op, operands: &[&Tensor], limits: EvalLimits| {
        let operands: Vec<_> = operands.iter().map(|&t| Some(t)).collect();
        eval_with(op, &operands, 1, &limits).unwrap_err()
    };
    let all = EvalLimits::default();
    let few = EvalLimits { work: 1000, ..all };
    let small = EvalLimits { result_bytes: 10, ..all };
    let op = qconv(conv(2, Layout::ChannelsFirst), out(y()));
    assert!(matches!(error(&op, &[&x(), &w()], few), EvalError::Limit { limit: 1000, .. }));
    assert!(matches!(error(&op, &[&x(), &w()], small), EvalError::Limit { limit: 10, .. }));
    let large = Tensor::from_slice(&[6], &[i32::MAX; 6]).unwrap();
    assert!(matches!(error(&op, &[&x(), &w(), &large], all), EvalError::Overflow { .. }));

    let zero = Tensor::scalar(0i64);
    let div = Op::Binary(BinaryKind::Div);
    assert!(matches!(error(&div, &[&zero, &zero], all), EvalError::DivisionByZero { .. }));
    let x = Tensor::from_slice(&[0], &[0.0f32; 0]).unwrap();
    let arg_max = Op::ArgMax { axis: 0, keep_dims: false };
    assert!(matches!(error(&arg_max, &[&x], all), EvalError::Index { .. }));
}

#[test]
fn graphs_check_their_inputs() {
    let text = "requant 1\ngraph main(%x: u8<s=0.5, z=1>[n], %z: f32[n]) -> (%y) {\n  %f = dequantize(%x)\n  %y = add(%f, %z)\n}\n";
    let graph = Graph::from_model(&Model::parse_text(text).unwrap()).unwrap();
    let x = Tensor::from_slice(&[2], &[3u8, 1]).unwrap();
    let z = Tensor::from_slice(&[2], &[0.25f32, 0.5]).unwrap();
    let all = RunOptions { keep_all: true, ..RunOptions::default() };
    let run = reference::run(&graph, &[("z", z.clone()), ("x", x.clone())], &all).unwrap();
    assert_eq!(run.outputs[0].1.to_f32().unwrap(), [1.25, 0.5]);
    assert_eq!(run.values.keys().map(|k| &**k).collect::<Vec<_>>(), ["f", "x", "y", "z"]);
    let error = |inputs: &[(&str, Tensor)]| reference::run(&graph, inputs, &all).unwrap_err();
    let three = Tensor::from_slice(&[3], &[1.0f32; 3]).unwrap();
    assert!(matches!(error(&[("x", x.clone())]), EvalError::MissingInput { .. }));
    assert!(matches!(error(&[("x", z.clone()), ("z", z.clone())]), EvalError::InputType { .. }));
    assert!(matches!(error(&[("x", x.clone()), ("z", three)]), EvalError::Graph(_)));
    assert!(matches!(error(&[("x", x), ("q", z)]), EvalError::Graph(_)));
}
