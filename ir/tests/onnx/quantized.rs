//! QuantizeLinear, DequantizeLinear, and the QLinear operators.

use super::net::{Imported, Net, data_type, float, int, ints, raw};
use requant_ir::import::onnx::proto::{AttributeProto, TensorProto};
use requant_ir::import::onnx::{ImportError, Unsupported};
use requant_ir::{
    BinaryKind, DType, ElemType, Layout, Op, PoolKind, QOut, Quant, Rounding, UnaryKind,
};

const F: DType = DType::F32;

fn s8(scale: f32, zero_point: i32) -> ElemType {
    ElemType::per_tensor(DType::I8, scale, zero_point)
}

fn u8_(scale: f32, zero_point: i32) -> ElemType {
    ElemType::per_tensor(DType::U8, scale, zero_point)
}

fn q(elem: ElemType) -> QOut {
    QOut { elem, clamp: None, rounding: Rounding::HalfEven }
}

/// Scales 0.5, 0.25, 0.125 as `s`, `t`, `r` and zero points 3, −4 (s8), 5 (u8) as `z`, `n4`, `u`.
fn net() -> Net {
    Net::new()
        .constant("s", &[], &[0.5f32])
        .constant("t", &[1], &[0.25f32])
        .constant("r", &[], &[0.125f32])
        .constant("z", &[], &[3i8])
        .constant("n4", &[1], &[-4i8])
        .constant("u", &[], &[5u8])
}

fn elem_of(g: &Imported, name: &str) -> ElemType {
    g.named(name).ty.as_ref().unwrap().elem.clone()
}

fn unsupported(net: &Net) -> Unsupported {
    match net.import() {
        Err(ImportError::Unsupported(list)) => *list,
        other => panic!("{other:?}"),
    }
}

fn reason(net: &Net) -> String {
    let list = unsupported(net);
    assert_eq!(list.ops.len(), 1, "{list}");
    list.ops[0].reason.clone()
}

fn malformed(net: &Net) -> String {
    match net.import() {
        Err(ImportError::Node { detail, .. }) => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn quantize_takes_its_type_from_the_zero_point() {
    let g = |inputs: &[&str], attrs| {
        let net = net().input("x", F, &[2, 2]).node("QuantizeLinear", inputs, &["q"], attrs);
        net.output("q").ok().only().clone()
    };
    let quantize = |out| Op::Quantize { out, clamp: None };
    assert_eq!(g(&["x", "s", "z"], vec![]), quantize(s8(0.5, 3)));
    assert_eq!(g(&["x", "t", "u"], vec![]), quantize(u8_(0.25, 5)));
    assert_eq!(g(&["x", "s"], vec![]), quantize(u8_(0.5, 0)));
    assert_eq!(g(&["x", "s", ""], vec![int("output_dtype", 3)]), quantize(s8(0.5, 0)));
    let s16 = data_type(DType::I16).into();
    let out = ElemType::per_tensor(DType::I16, 0.5, 0);
    assert_eq!(g(&["x", "s"], vec![int("output_dtype", s16)]), quantize(out));
    // An axis means nothing beside one scale.
    assert_eq!(g(&["x", "s", "z"], vec![int("axis", 9), int("saturate", 0)]), quantize(s8(0.5, 3)));
}

#[test]
fn storage_types() {
    let q = |zero: TensorProto| {
        let net = net().input("x", F, &[2]).init(zero).node(
            "QuantizeLinear",
            &["x", "s", "zp"],
            &["q"],
            vec![],
        );
        net.node("DequantizeLinear", &["q", "s", "zp"], &["d"], vec![]).output("d").ok()
    };
    for (zero, dtype, z) in [
        (raw("zp", &[], &[-9i8]), DType::I8, -9),
        (raw("zp", &[], &[200u8]), DType::U8, 200),
        (raw("zp", &[], &[-900i16]), DType::I16, -900),
        (raw("zp", &[], &[60_000u16]), DType::U16, 60_000),
    ] {
        let g = q(zero);
        let out = ElemType::per_tensor(dtype, 0.5, z);
        assert_eq!(g.node("n_q").op, Op::Quantize { out, clamp: None });
        assert_eq!(g.lines(), ["q = quantize(x)", "d = dequantize(q)"]);
    }
    for (dtype, byte, z) in [(DType::I4, 0x0d, -3), (DType::U4, 0x0d, 13)] {
        let four = |name: &str, byte: u8| TensorProto {
            name: name.into(),
            data_type: data_type(dtype),
            raw_data: Some(vec![byte].into()),
            ..Default::default()
        };
        let net = net().init(four("w", 1)).init(four("zp", byte));
        let g = net.node("DequantizeLinear", &["w", "s", "zp"], &["d"], vec![]).output("d").ok();
        assert_eq!(elem_of(&g, "w"), ElemType::per_tensor(dtype, 0.5, z));
    }
}

#[test]
fn constants_carry_their_quantization() {
    let g = net()
        .constant("w", &[2, 3], &[1i8; 6])
        .constant("sw", &[3], &[0.1f32, 0.2, 0.3])
        .constant("zw", &[3], &[0i8, 1, 2])
        .node("DequantizeLinear", &["w", "sw", "zw"], &["a"], vec![int("axis", -1)])
        .node("DequantizeLinear", &["w", "sw", "zw"], &["b"], vec![int("axis", 1)])
        .node("DequantizeLinear", &["w", "s", "z"], &["c"], vec![])
        .node("Cast", &["w"], &["d"], vec![int("to", 1)])
        .output("a")
        .output("b")
        .output("c")
        .output("d")
        .ok();
    // One constant for each meaning, over the same bytes.
    assert_eq!(
        g.lines(),
        ["a = dequantize(w)", "b = dequantize(w)", "c = dequantize(w_1)", "d = cast(w_2)"]
    );
    let per_axis = Quant::per_axis(1, vec![0.1, 0.2, 0.3], vec![0, 1, 2]);
    assert_eq!(elem_of(&g, "w"), ElemType { dtype: DType::I8, quant: Some(per_axis) });
    assert_eq!(elem_of(&g, "w_1"), s8(0.5, 3));
    assert_eq!(elem_of(&g, "w_2"), ElemType::plain(DType::I8));
    let bytes = |name: &str| g.named(name).data.as_ref().unwrap().bytes().as_ptr();
    assert_eq!(bytes("w"), bytes("w_1"));
    assert_eq!(bytes("w"), bytes("w_2"));
}

#[test]
fn default_axis_and_repeated_zero_point() {
    let g = net()
        .constant("w", &[1, 2], &[1i32, 2])
        .constant("sw", &[2], &[0.1f32, 0.2])
        .node("DequantizeLinear", &["w", "sw"], &["a"], vec![])
        .output("a")
        .ok();
    let quant = Some(Quant::per_axis(1, vec![0.1, 0.2], vec![0, 0]));
    assert_eq!(elem_of(&g, "w"), ElemType { dtype: DType::I32, quant });
}

#[test]
fn other_quantization_is_reinterpreted() {
    // A graph input stays plain.
    let g = net()
        .input("x", DType::U8, &[4])
        .node("DequantizeLinear", &["x", "s", "u"], &["a"], vec![])
        .node("DequantizeLinear", &["x", "s", "u"], &["b"], vec![])
        .output("a")
        .output("b")
        .ok();
    assert_eq!(elem_of(&g, "x"), ElemType::plain(DType::U8));
    let lines = [
        "x/reinterpret = reinterpret(x)",
        "a = dequantize(x/reinterpret)",
        "b = dequantize(x/reinterpret)",
    ];
    assert_eq!(g.lines(), lines);
    assert_eq!(g.0.nodes[0].op, Op::Reinterpret { out: u8_(0.5, 5) });
    // Producer and reader disagree; a reader of plain numbers sees plain numbers.
    let g = net()
        .input("x", F, &[4])
        .node("QuantizeLinear", &["x", "s", "z"], &["q"], vec![])
        .node("DequantizeLinear", &["q", "t", "z"], &["a"], vec![])
        .node("Cast", &["q"], &["b"], vec![int("to", 6)])
        .node("DequantizeLinear", &["q", "s", "z"], &["c"], vec![])
        .output("a")
        .output("b")
        .output("c")
        .ok();
    assert_eq!(
        g.lines(),
        [
            "q = quantize(x)",
            "q/reinterpret = reinterpret(q)",
            "a = dequantize(q/reinterpret)",
            "q/reinterpret_1 = reinterpret(q)",
            "b = cast(q/reinterpret_1)",
            "c = dequantize(q)",
        ]
    );
    assert_eq!(g.node("q/reinterpret").op, Op::Reinterpret { out: s8(0.25, 3) });
    assert_eq!(g.node("q/reinterpret_1").op, Op::Reinterpret { out: ElemType::plain(DType::I8) });
}

#[test]
fn quantization_follows_movement() {
    let g = net()
        .input("x", F, &[1, 2, 4, 4])
        .constant("shape", &[2], &[2i64, 16])
        .constant("more", &[2, 16], &[0i8; 32])
        .node("QuantizeLinear", &["x", "s", "z"], &["q"], vec![])
        .node("MaxPool", &["q"], &["m"], vec![ints("kernel_shape", &[1, 1])])
        .node("Reshape", &["m", "shape"], &["v"], vec![])
        .node("Concat", &["more", "v"], &["c"], vec![int("axis", 0)])
        .node("DequantizeLinear", &["c", "s", "z"], &["y"], vec![])
        .output("y")
        .ok();
    assert!(g.lines().iter().all(|l| !l.contains("reinterpret")), "{:?}", g.lines());
    assert_eq!(elem_of(&g, "more"), s8(0.5, 3));
    // Per-axis quantization is taken off before the movement, and put on again.
    let g = net()
        .input("x", F, &[2, 3])
        .constant("sx", &[3], &[0.1f32, 0.2, 0.3])
        .node("QuantizeLinear", &["x", "sx"], &["q"], vec![int("axis", 1)])
        .node("Transpose", &["q"], &["p"], vec![])
        .node("DequantizeLinear", &["p", "sx"], &["y"], vec![int("axis", 0)])
        .output("y")
        .ok();
    assert_eq!(
        g.lines(),
        [
            "q = quantize(x)",
            "q/reinterpret = reinterpret(q)",
            "p = transpose(q/reinterpret)",
            "p/reinterpret = reinterpret(p)",
            "y = dequantize(p/reinterpret)",
        ]
    );
    // Parts of different quantization are put together as plain numbers.
    let g = net()
        .input("x", F, &[2])
        .node("QuantizeLinear", &["x", "s", "z"], &["a"], vec![])
        .node("QuantizeLinear", &["x", "t", "z"], &["b"], vec![])
        .node("Concat", &["a", "b"], &["c"], vec![int("axis", 0)])
        .output("c")
        .ok();
    assert_eq!(g.lines()[4], "c = concat(a/reinterpret, b/reinterpret)");
}

#[test]
fn the_fill_of_quantized_padding_is_written_out() {
    let pad = |more: &[&str]| {
        let mut inputs = vec!["q", "p"];
        inputs.extend(more);
        net()
            .input("x", F, &[2])
            .constant("p", &[2], &[1i64, 1])
            .constant("v", &[], &[9i8])
            .node("QuantizeLinear", &["x", "s", "z"], &["q"], vec![])
            .node("Pad", &inputs, &["y"], vec![])
            .output("y")
            .ok()
    };
    let g = pad(&[]);
    assert_eq!(g.lines()[1], "y = pad(q, p, n_y/fill, _)");
    let fill = g.named("n_y/fill").data.as_ref().unwrap();
    assert_eq!((fill.elem(), fill.as_slice::<i8>().unwrap()), (&s8(0.5, 3), &[0i8][..]));
    let g = pad(&["v"]);
    assert_eq!(elem_of(&g, "v"), s8(0.5, 3));
}

#[test]
fn wrong_parameters() {
    let dq = |scale: TensorProto, zero: Option<TensorProto>, attrs: Vec<AttributeProto>| {
        let mut net = Net::new().constant("w", &[2, 3], &[1i8; 6]).init(scale);
        let mut inputs = vec!["w", "sc"];
        if let Some(zero) = zero {
            net = net.init(zero);
            inputs.push("ze");
        }
        net.node("DequantizeLinear", &inputs, &["d"], attrs).output("d")
    };
    let scale = |v: f32| raw("sc", &[], &[v]);
    for bad in [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(malformed(&dq(scale(bad), None, vec![])).contains("positive and finite"), "{bad}");
    }
    // One bad scale among several.
    let some = raw("sc", &[3], &[1f32, 0.0, 1.0]);
    assert!(malformed(&dq(some, None, vec![])).contains("scale 0"));
    assert!(
        malformed(&dq(scale(1.0), Some(raw("ze", &[], &[1u8])), vec![]))
            .contains("u8 zero point for s8")
    );
    let scales = |n: usize| raw("sc", &[n as i64], &vec![1f32; n]);
    for n in [0, 2, 4] {
        malformed(&dq(scales(n), None, vec![]));
    }
    assert!(malformed(&dq(scales(2), None, vec![])).contains("axis 1"));
    for axis in [2, -3, i64::MIN, i64::MAX] {
        assert!(
            malformed(&dq(scales(3), None, vec![int("axis", axis)])).contains("axis"),
            "{axis}"
        );
    }
    let zeros = |n: usize| Some(raw("ze", &[n as i64], &vec![0i8; n]));
    assert!(malformed(&dq(scales(3), zeros(2), vec![])).contains("2 zero points for 3 scales"));
    assert!(malformed(&dq(scale(1.0), zeros(2), vec![])).contains("2 zero points for 1 scales"));
    assert!(malformed(&dq(raw("sc", &[], &[1i32]), None, vec![])).contains("s32 scales"));
    assert!(reason(&dq(raw("sc", &[], &[1f64]), None, vec![])).contains("f64 scales"));
    assert!(reason(&dq(raw("sc", &[2, 3], &[1f32; 6]), None, vec![])).contains("blocks"));
    assert!(reason(&dq(scales(3), None, vec![int("block_size", 2)])).contains("blocks"));
    // Not constant.
    let net = |a: &str| {
        Net::new()
            .input("sc", F, &[])
            .input("ze", DType::I8, &[])
            .constant("one", &[], &[1f32])
            .constant("w", &[1], &[1i8])
            .node("DequantizeLinear", &["w", a, "ze"], &["d"], vec![])
            .output("d")
    };
    assert_eq!(reason(&net("sc")), "a scale that is not constant");
    assert_eq!(reason(&net("one")), "a zero point that is not constant");
    // Not quantizable.
    let float = Net::new().input("x", F, &[1]).constant("s", &[], &[1f32]);
    let float = float.node("DequantizeLinear", &["x", "s"], &["d"], vec![]).output("d");
    assert!(malformed(&float).contains("f32 elements"));
    let bias = Net::new().constant("w", &[1], &[1i32]).constant("s", &[], &[1f32]).constant(
        "z",
        &[],
        &[1i32],
    );
    let bias = bias.node("DequantizeLinear", &["w", "s", "z"], &["d"], vec![]).output("d");
    assert!(malformed(&bias).contains("zero point of s32"));
    let half = Net::new().input("x", DType::I32, &[1]).constant("s", &[], &[1f32]);
    let half = half.node("QuantizeLinear", &["x", "s"], &["d"], vec![]).output("d");
    assert_eq!(reason(&half), "s32 numbers to quantize");
}

// ---- QLinear ---------------------------------------------------------------------------------

/// `x` quantized as `q` with `s` and `z`.
fn quantized(dims: &[i64]) -> Net {
    net().input("x", F, dims).node("QuantizeLinear", &["x", "s", "z"], &["q"], vec![])
}

#[test]
fn qlinear_conv() {
    let conv = |net: Net, inputs: &[&str]| {
        net.constant("w", &[4, 2, 1, 1], &[1i8; 8])
            .constant("sw", &[4], &[0.1f32, 0.2, 0.3, 0.4])
            .constant("zw", &[4], &[0i8; 4])
            .constant("b", &[4], &[1i32; 4])
            .node("QLinearConv", inputs, &["o"], vec![ints("strides", &[2, 2])])
            .output("o")
    };
    let all = ["q", "s", "z", "w", "sw", "zw", "t", "n4", "b"];
    let g = conv(quantized(&[1, 2, 4, 4]), &all).ok();
    assert_eq!(g.lines(), ["q = quantize(x)", "o = qconv(q, w, b)"]);
    let Op::QConv { conv: attrs, out, zero_folded, residual } = &g.node("n_o").op else { panic!() };
    assert_eq!((attrs.strides.as_slice(), zero_folded, residual), (&[2, 2][..], &false, &None));
    assert_eq!(*out, q(s8(0.25, -4)));
    let quant = Some(Quant::per_axis(0, vec![0.1, 0.2, 0.3, 0.4], vec![0; 4]));
    assert_eq!(elem_of(&g, "w"), ElemType { dtype: DType::I8, quant });
    assert_eq!(elem_of(&g, "b"), ElemType::plain(DType::I32));
    // Without bias; the zero point of the weights repeated; a plain u8 input.
    let g = conv(
        net().input("x", DType::U8, &[1, 2, 4, 4]),
        &["x", "r", "u", "w", "sw", "z", "t", "u"],
    )
    .ok();
    assert_eq!(g.lines(), ["x/reinterpret = reinterpret(x)", "o = qconv(x/reinterpret, w, _)"]);
    let quant = Some(Quant::per_axis(0, vec![0.1, 0.2, 0.3, 0.4], vec![3; 4]));
    assert_eq!(elem_of(&g, "w"), ElemType { dtype: DType::I8, quant });
    let wrong = |i: usize, name| {
        let mut inputs = all;
        inputs[i] = name;
        conv(quantized(&[1, 2, 4, 4]), &inputs)
    };
    assert!(malformed(&wrong(8, "sw")).contains("bias of f32"));
    assert!(malformed(&wrong(2, "u")).contains("u8 zero point for s8"));
    assert!(malformed(&wrong(1, "")).contains("`scale` is missing"));
    assert!(reason(&wrong(1, "sw")).contains("4 scales for one tensor"));
}

#[test]
fn qlinear_matmul() {
    let matmul = |b_scale: &str| {
        quantized(&[2, 3, 4])
            .constant("w", &[4, 2], &[1u8; 8])
            .constant("sw", &[2], &[0.1f32, 0.2])
            .node("QLinearMatMul", &["q", "s", "z", "w", b_scale, "u", "t", "n4"], &["o"], vec![])
            .output("o")
            .ok()
    };
    let g = matmul("sw");
    assert_eq!(g.lines()[1], "o = qmatmul(q, w, _)");
    let wanted =
        Op::QMatMul { trans_b: false, alpha: 1.0, out: q(s8(0.25, -4)), zero_folded: false };
    assert_eq!(g.node("n_o").op, wanted);
    let quant = Some(Quant::per_axis(1, vec![0.1, 0.2], vec![5, 5]));
    assert_eq!(elem_of(&g, "w"), ElemType { dtype: DType::U8, quant });
    assert_eq!(elem_of(&matmul("s"), "w"), u8_(0.5, 5));
}

fn gemm(tail: &[&str], attrs: Vec<AttributeProto>) -> Net {
    let mut inputs = vec!["q", "s", "z", "w", "sw", ""];
    inputs.extend(tail);
    quantized(&[3, 3])
        .constant("w", &[3, 3], &[1i8; 9])
        .constant("sw", &[3], &[0.5f32, 0.25, 0.125])
        .constant("b", &[3], &[1i32, 2, 3])
        .constant("b13", &[1, 3], &[1i32, 2, 3])
        .constant("b1", &[1], &[7i32])
        .constant("b33", &[3, 3], &[0i32; 9])
        .node("com.microsoft.QGemm", &inputs, &["o"], attrs)
        .output("o")
}

#[test]
fn qgemm() {
    let g = gemm(&["b", "t", "n4"], vec![]).ok();
    assert_eq!(g.lines()[1], "o = qmatmul(q, w, b)");
    let out = q(s8(0.25, -4));
    let op = |trans_b, alpha| Op::QMatMul { trans_b, alpha, out: out.clone(), zero_folded: false };
    assert_eq!(g.node("n_o").op, op(false, 1.0));
    let axis = |g: &Imported| elem_of(g, "w").quant.unwrap().axis();
    assert_eq!(axis(&g), Some(1));
    let attrs = || vec![float("alpha", 0.5), int("transA", 1), int("transB", 1)];
    let g = gemm(&["", "t", "n4"], attrs()).ok();
    assert_eq!(g.lines()[1..], ["o/1 = transpose(q)", "o = qmatmul(o/1, w, _)"]);
    assert_eq!(g.node("n_o").op, op(true, 0.5));
    assert_eq!(axis(&g), Some(0));
    // Biases are one for each column.
    for (name, values) in [("b13", [1, 2, 3]), ("b1", [7, 7, 7])] {
        let g = gemm(&[name, "t", "n4"], vec![]).ok();
        assert_eq!(g.lines()[1], "o = qmatmul(q, w, n_o/bias)");
        let bias = g.named("n_o/bias").data.as_ref().unwrap();
        assert_eq!((bias.dims(), bias.as_slice::<i32>().unwrap()), (&[3usize][..], &values[..]));
    }
    assert!(reason(&gemm(&["b33", "t", "n4"], vec![])).contains("each column"));
    assert!(malformed(&gemm(&["b", "", "n4"], vec![])).contains("without its scale"));
}

#[test]
fn qgemm_with_computed_weights() {
    let g = quantized(&[3, 3])
        .input("w", F, &[3, 3])
        .constant("b", &[3], &[1i32, 2, 3])
        .node("QuantizeLinear", &["w", "s", "z"], &["qw"], vec![])
        .node("com.microsoft.QGemm", &["q", "s", "z", "qw", "s", "z", "b"], &["o"], vec![])
        .output("o")
        .ok();
    assert_eq!(g.lines()[2..], ["o/1 = qmatmul(q, qw, b)", "o = dequantize(o/1)"]);
}

#[test]
fn qgemm_with_a_float_result() {
    let g = gemm(&["b"], vec![float("alpha", 2.0)]).ok();
    assert_eq!(g.lines()[1..], ["o/1 = qmatmul(q, w, b)", "o = dequantize(o/1)"]);
    // f32(f32(alpha·s_a)·s_b)
    let quant = Some(Quant::per_axis(1, vec![0.5, 0.25, 0.125], vec![0; 3]));
    let elem = ElemType { dtype: DType::I32, quant };
    let Op::QMatMul { alpha, out, .. } = &g.node("n_o/1").op else { panic!() };
    assert_eq!((*alpha, out), (2.0, &q(elem)));
    assert!(reason(&gemm(&["b"], vec![float("alpha", -1.0)])).contains("not positive"));
}

#[test]
fn qlinear_binary() {
    for (name, kind) in [("QLinearAdd", BinaryKind::Add), ("QLinearMul", BinaryKind::Mul)] {
        let g = quantized(&[2])
            .constant("c", &[1], &[100u8])
            .node(
                &format!("com.microsoft.{name}"),
                &["q", "s", "z", "c", "r", "u", "t", "n4"],
                &["o"],
                vec![],
            )
            .output("o")
            .ok();
        assert_eq!(g.node("n_o").op, Op::QBinary { kind, flipped: false, out: q(s8(0.25, -4)) });
        assert_eq!(elem_of(&g, "c"), u8_(0.125, 5));
        assert!(g.lines()[1].ends_with("(q, c)"));
    }
}

#[test]
fn qlinear_pools() {
    let pool = |name: &str, attrs| {
        let g = quantized(&[1, 2, 4, 4])
            .node(&format!("com.microsoft.{name}"), &["q", "s", "z", "t", "n4"], &["o"], attrs)
            .output("o")
            .ok();
        g.node("n_o").op.clone()
    };
    let out = || q(s8(0.25, -4));
    let mean = |axes: &[i64]| Op::QMean { axes: axes.to_vec(), keep_dims: true, out: out() };
    assert_eq!(pool("QLinearGlobalAveragePool", vec![]), mean(&[2, 3]));
    assert_eq!(pool("QLinearGlobalAveragePool", vec![int("channels_last", 1)]), mean(&[1, 2]));
    let attrs =
        vec![ints("kernel_shape", &[2, 2]), int("channels_last", 1), int("count_include_pad", 1)];
    let Op::QPool { pool, out: o } = pool("QLinearAveragePool", attrs) else { panic!() };
    assert_eq!((pool.kernel, pool.layout, o), (vec![2, 2], Layout::ChannelsLast, out()));
    assert_eq!(pool.kind, PoolKind::Average { count_include_pad: true });
}

#[test]
fn qlinear_functions() {
    for (name, attrs, kind) in [
        ("QLinearSigmoid", vec![], UnaryKind::Sigmoid),
        ("QLinearLeakyRelu", vec![float("alpha", 0.5)], UnaryKind::LeakyRelu { alpha: 0.5 }),
    ] {
        let g = quantized(&[2])
            .node(&format!("com.microsoft.{name}"), &["q", "s", "z", "t", "n4"], &["o"], attrs)
            .output("o")
            .ok();
        let function = format!("o/2 = {}(o/1)", Op::Unary(kind).mnemonic());
        assert_eq!(
            g.lines()[1..],
            ["o/1 = dequantize(q)".to_owned(), function, "o = quantize(o/2)".into()]
        );
        assert_eq!(g.node("n_o/2").op, Op::Unary(kind));
        assert_eq!(g.node("n_o").op, Op::Quantize { out: s8(0.25, -4), clamp: None });
    }
}

#[test]
fn qlinear_concat_converts_what_differs() {
    let net = |inputs: &[&str]| {
        quantized(&[2])
            .input("v", DType::U8, &[2])
            .node("com.microsoft.QLinearConcat", inputs, &["o"], vec![int("axis", 0)])
            .output("o")
    };
    let g = net(&["s", "z", "q", "s", "z", "v", "t", "u"]).ok();
    assert_eq!(
        g.lines()[1..],
        ["v/reinterpret = reinterpret(v)", "o/1 = lut(v/reinterpret)", "o = concat(q, o/1)"]
    );
    let Op::Lut { table, out } = &g.node("n_o/1").op else { panic!() };
    assert_eq!(*out, s8(0.5, 3));
    // rne((v − 5)·0.25 / 0.5) + 3, half to even
    for (v, y) in [
        (5u8, 3i8),
        (6, 3),
        (7, 4),
        (8, 5),
        (9, 5),
        (4, 3),
        (3, 2),
        (2, 1),
        (0, 1),
        (253, 127),
        (255, 127),
    ] {
        assert_eq!(table[usize::from(v)] as i8, y, "{v}");
    }
    assert!(malformed(&net(&["s", "z", "q", "s"])).contains("2 + 3·n"));
    assert!(malformed(&net(&["s", "z"])).contains("2 + 3·n"));
}

#[test]
fn qlinear_where_converts_what_differs() {
    let net = quantized(&[2])
        .input("c", DType::Bool, &[1])
        .input("v", DType::U8, &[2])
        .node(
            "com.microsoft.QLinearWhere",
            &["c", "q", "s", "z", "v", "t", "u", "s", "z"],
            &["o"],
            vec![],
        )
        .output("o");
    let g = net.ok();
    assert_eq!(
        g.lines()[1..],
        ["v/reinterpret = reinterpret(v)", "o/1 = lut(v/reinterpret)", "o = where(c, q, o/1)"]
    );
    assert!(matches!(&g.node("n_o/1").op, Op::Lut { out, .. } if *out == s8(0.5, 3)));
    assert_eq!(g.node("n_o").op, Op::Where);
}

#[test]
fn qlinear_softmax() {
    let net = |attrs| {
        quantized(&[2, 3])
            .node("com.microsoft.QLinearSoftmax", &["q", "s", "z", "t", "n4"], &["o"], attrs)
            .output("o")
    };
    let op = |axis| Op::QSoftmax { axis, out: q(s8(0.25, -4)) };
    assert_eq!(net(vec![int("opset", 13)]).ok().node("n_o").op, op(-1));
    assert_eq!(net(vec![int("opset", 12)]).ok().node("n_o").op, op(1));
    assert!(reason(&net(vec![int("opset", 12), int("axis", 0)])).contains("together"));
    assert!(malformed(&net(vec![])).contains("`opset`"));
}
