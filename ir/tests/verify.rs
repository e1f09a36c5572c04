//! Each rule of the verifier, broken once.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use requant_ir::verify::Rule;
use requant_ir::{
    DType, Dim, ElemType, Graph, Limits, Model, Node, Op, Quant, Tensor, TensorType, Value,
    ValueId, text,
};

fn value(name: &str) -> Value {
    Value { name: name.into(), ty: None, data: None }
}

/// `%x` → `a` → `%y` → `b` → `%z`
fn chain() -> Model {
    let node = |name: &str, from: u32, to: u32| Node {
        name: name.into(),
        op: Op::Identity,
        inputs: vec![Some(ValueId(from))],
        outputs: vec![ValueId(to)],
        origin: Vec::new(),
    };
    let graph = Graph {
        name: "main".into(),
        values: vec![value("x"), value("y"), value("z")],
        nodes: vec![node("a", 0, 1), node("b", 1, 2)],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(2)],
    };
    Model { graphs: vec![graph], ..Model::default() }
}

#[test]
fn structure() {
    chain().verify(&Limits::default()).unwrap();
    type Break = fn(&mut Graph);
    let cases: [(&str, Break); 14] = [
        ("node `b` (identity): an operand names value 7", |g| {
            g.nodes[1].inputs[0] = Some(ValueId(7))
        }),
        ("node `b` (identity): a result names value 7", |g| g.nodes[1].outputs[0] = ValueId(7)),
        ("graph `main`: a graph input names value 9", |g| g.inputs.push(ValueId(9))),
        ("graph `main`: a graph output names value 4294967295", |g| {
            g.outputs[0] = ValueId(u32::MAX)
        }),
        ("node `a` (identity): value `z`: the operand is used before", |g| {
            g.nodes[0].inputs[0] = Some(ValueId(2));
        }),
        ("node `a` (identity): value `y`: the operand is used before", |g| {
            g.nodes[0].inputs[0] = Some(ValueId(1));
        }),
        ("node `a` (identity): value `y`: the operand is used before", |g| {
            g.nodes.swap(0, 1);
            g.nodes[0].name = "a".into();
            g.nodes[1].name = "b".into();
        }),
        ("value `y`: the value is defined twice", |g| g.nodes[1].outputs[0] = ValueId(1)),
        ("value `x`: the value is defined twice", |g| g.inputs.push(ValueId(0))),
        ("value `w`: the value is never defined", |g| g.values.push(value("w"))),
        ("value `x`: the name occurs twice", |g| g.values[2].name = "x".into()),
        ("node `a`: the name occurs twice", |g| g.nodes[1].name = "a".into()),
        ("value 1 has an empty name", |g| g.values[1].name.clear()),
        ("node 0 has an empty name", |g| g.nodes[0].name.clear()),
    ];
    for (expected, break_it) in cases {
        let mut model = chain();
        break_it(&mut model.graphs[0]);
        let error = model.verify(&Limits::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected:?}, got {error:?}");
    }
    let error = Model::default().verify(&Limits::default()).unwrap_err();
    assert_eq!(*error.rule, Rule::NoGraph);
}

#[test]
fn limits() {
    let refused = |limits: Limits, expected: &str| {
        let error = chain().verify(&limits).unwrap_err();
        assert!(matches!(*error.rule, Rule::Limit { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused(Limits { nodes: 1, ..Limits::default() }, "2 nodes are above the limit of 1");
    refused(Limits { values: 2, ..Limits::default() }, "3 values are above the limit of 2");
    refused(Limits { name_bytes: 3, ..Limits::default() }, "4 bytes of the graph's name");
}

#[test]
fn constants_are_what_their_type_says() {
    let check = |ty: Option<TensorType>, data: Tensor| {
        let mut model = chain();
        model.graphs[0].values.push(Value { name: "c".into(), ty, data: Some(data) });
        model.verify(&Limits::default()).map_err(|e| e.to_string())
    };
    let plain = |dtype, bytes: &[u8], n: usize| {
        let t = Tensor::copy_from(ElemType::plain(dtype), vec![n], bytes).unwrap();
        check(Some(t.ty()), t)
    };
    assert_eq!(plain(DType::Bool, &[0, 1], 2), Ok(()));
    assert!(plain(DType::Bool, &[2], 1).unwrap_err().contains("neither 0 nor 1"));
    assert_eq!(plain(DType::I4, &[0xff, 0x0f], 3), Ok(()));
    assert!(plain(DType::I4, &[0xff, 0xff], 3).unwrap_err().contains("half of the last byte"));
    let two = Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap();
    assert!(check(None, two.clone()).unwrap_err().contains("no type"));
    let symbolic = TensorType::new(two.elem().clone(), vec![Dim::Symbol("n".into())]);
    assert!(check(Some(symbolic), two.clone()).unwrap_err().contains("the type is f32[n]"));
    let other = TensorType::fixed(DType::I32, &[2]);
    assert!(check(Some(other), two).unwrap_err().contains("the type is s32[2]"));

    for dtype in DType::ALL {
        let Some((low, _)) = dtype.quant_range() else { continue };
        let narrow = |value: i64| {
            let quant = Quant { narrow_range: true, ..Quant::per_tensor(1.0, low.max(-1) + 1) };
            let elem = ElemType { dtype, quant: Some(quant) };
            let mut bytes = value.to_le_bytes()[..dtype.bytes_for(1).unwrap()].to_vec();
            if dtype.bits() == 4 {
                bytes[0] &= 15;
            }
            let t = Tensor::copy_from(elem, vec![1], &bytes).unwrap();
            check(Some(t.ty()), t)
        };
        assert!(narrow(low.into()).unwrap_err().contains("narrow"), "{dtype}");
        assert_eq!(narrow(i64::from(low) + 1), Ok(()), "{dtype}");
    }
}

/// What the verifier says of a graph's body over the inputs `%x`, `%q` (8 bits), `%m` (a matrix).
fn says(body: &str) -> String {
    let text = format!(
        "graph g(%x, %f: f32[2, 4, 8, 8], %q: u8<s=0.5, z=3>[2, 4, 8, 8], %m: s8<s=1>[4, 4]) -> () {{
           const %w: s8<axis=0, s=[1, 2]>[2, 4, 3, 3] = fill(1)
           const %w1: s8<axis=1, s=[1, 2, 3, 4]>[2, 4, 3, 3] = fill(1)
           const %b: s32[2] = [1, 2]
           %y = {body}
         }}"
    );
    let model = text::parse(&text, &Limits::default()).unwrap_or_else(|e| panic!("{body}: {e}"));
    match model.verify(&Limits::default()) {
        Ok(()) => "fine".into(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn operators() {
    let out = "out = u8<s=1, z=0>";
    let cases: Vec<(String, &str)> = [
        ("relu(%x)", "fine"),
        ("relu()", "0 operands"),
        ("relu(%x, %x)", "2 operands"),
        ("relu(_)", "operand 0 is absent"),
        ("add(%x, _)", "operand 1 is absent"),
        ("concat(%x, _) {axis = 0}", "operand 1 is absent"),
        ("concat(%x, %f) {axis = 4}", "`axis` is 4, which is not in -4..4"),
        ("conv(%f, %w, _) {strides = [1, 1]}", "fine"),
        ("conv(%f, %w) {strides = [1]}", "`strides` has 1 elements"),
        ("conv(%f, %w) {strides = []}", "`strides` has 0 elements"),
        ("conv(%f, %w) {strides = [0, 1]}", "`strides` holds 0"),
        ("conv(%f, %w) {strides = [1, 3000000000]}", "`strides` holds 3000000000"),
        ("conv(%f, %w) {strides = [1, 1], dilations = [1, 0]}", "`dilations` holds 0"),
        ("conv(%f, %w) {strides = [1, 1], dilations = [1]}", "`dilations` has 1"),
        ("conv(%f, %w) {strides = [1, 1], pads = [1, 1]}", "`pads` has 2 elements, not 4"),
        ("conv(%f, %w) {strides = [1, 1], groups = 0}", "`groups` is 0"),
        ("conv(%f, %w) {strides = [1, 1], groups = 3}", "does not divide 2 output channels"),
        ("conv(%f, %w) {strides = [1, 1], groups = 2}", "4 input channels meet weights of 4"),
        ("conv(%f, %w) {strides = [1, 1], layout = channels_last}", "8 input channels"),
        ("conv(%f, %m) {strides = [1, 1]}", "operand 1 is s8<s=1.0, z=0>[4, 4]"),
        ("max_pool(%f) {kernel = [2, 2], pads = [1, 1, 1, 1]}", "fine"),
        ("max_pool(%f) {kernel = [0, 2]}", "`kernel` holds 0"),
        ("max_pool(%f) {kernel = [2, 2], strides = [1, 0]}", "`strides` holds 0"),
        ("max_pool(%f) {kernel = [2, 2], pads = [0, 0, 2, 0]}", "`pads` holds 2"),
        ("transpose(%f) {perm = [0, 1, 2]}", "`perm` has 3 elements"),
        ("transpose(%f) {perm = [0, 1, 2, 2]}", "axis 3 is missing"),
        ("transpose(%x) {perm = [0, 4294967295]}", "axis 1 is missing"),
        ("squeeze(%f) {axes = [1, -3]}", "names axis 1 twice"),
        ("squeeze(%f) {axes = [-5]}", "holds -5"),
        ("unsqueeze(%f) {axes = []}", "`axes` has 0 elements"),
        ("unsqueeze(%f) {axes = [0, 1, 2, 3, 4]}", "`axes` has 5 elements"),
        ("flatten(%f) {axis = 5}", "not in -4..=4"),
        ("split(%f) {axis = 1, sizes = [-1]}", "`sizes` holds -1"),
        ("split(%f) {axis = 1, sizes = [2, 2]}", "2 elements for 1 results"),
        ("gather(%f, %x) {axis = -9223372036854775808}", "`axis` is -9223372036854775808"),
        ("reshape(%f, %b)", "operand 1 is s32[2], but must be s64[rank]"),
        ("reinterpret(%q) {out = s8<s=1>}", "must be stored as s8"),
        ("constant_of_shape(%x) {value = f32[2] [1, 2]}", "has 2 elements"),
        ("gemm(%x, %x) {alpha = inf}", "`alpha` is inf"),
        ("clip(%x) {min = nan_7fc00000}", "`min` is NaN"),
        ("batch_norm(%x, %x, %x, %x, %x) {epsilon = -1}", "`epsilon` is -1"),
        ("quantize(%f) {out = u8}", "`out` is u8, which is not quantized"),
        ("quantize(%f) {out = u8<s=1>, clamp = [5, 4]}", "no range of u8"),
        ("quantize(%f) {out = u8<s=1>, clamp = [0, 256]}", "no range of u8"),
        ("quantize(%f) {out = s8<axis=1, s=[1, 2, 3]>}", "3 scales, but the shape needs 4"),
        ("quantize(%q) {out = u8<s=1>}", "must be float"),
        ("dequantize(%f)", "must be quantized"),
        ("requantize(%q) {out = s8}", "not quantized"),
        ("qmean(%q) {axes = [2, 3], OUT}", "fine"),
        ("qmean(%f) {axes = [2, 3], OUT}", "operand 0 is f32[2, 4, 8, 8]"),
        ("qsoftmax(%q) {axis = 1, out = s32<s=1>}", "must be s8 or u8 with one scale"),
        ("qconv(%q, %w, %b) {strides = [1, 1], OUT}", "fine"),
        ("qconv(%q, %w1, %b) {strides = [1, 1], OUT}", "scales along axis 0"),
        ("qconv(%q, %w, %f) {strides = [1, 1], OUT}", "must be s32[channels]"),
        ("qconv(%f, %w) {strides = [1, 1], OUT}", "operand 0 is f32"),
        ("qconv(%q, %w, _, %q) {strides = [1, 1], OUT}", "4 operands"),
        ("qconv(%q, %w) {strides = [1, 1], OUT, residual = u8<s=1>}", "operand 3 is absent"),
        ("qconv(%q, %w, _, %q) {strides = [1, 1], OUT, residual = u8<s=1>}", "fine"),
        ("qconv(%q, %w, _, %f) {strides = [1, 1], OUT, residual = u8<s=1>}", "operand 3 is f32"),
        (
            "qconv(%q, %w, _, %q) {strides = [1, 1], out = s32<s=1>, residual = u8<s=1>}",
            "`out` is s32",
        ),
        ("qmatmul(%m, %m) {OUT}", "fine"),
        ("qmatmul(%m, %w1) {OUT}", "scales along the columns"),
        ("qmin(%q, %q) {OUT}", "must be add or mul"),
        ("qpool(%q) {kernel = [2, 2], OUT}", "fine"),
        ("lut(%q) {out = s32, table = hex \"TABLE\"}", "must be s8 or u8"),
    ]
    .into_iter()
    .map(|(body, says)| (body.replace("OUT", out).replace("TABLE", &"00".repeat(256)), says))
    .collect();
    for (body, expected) in cases {
        let got = says(&body);
        assert!(got.contains(expected), "{body}: expected {expected:?}, got {got:?}");
    }
}

#[test]
fn results_have_the_type_that_the_operator_gives_them() {
    let text = "graph g(%f) -> (%y) { %y: u8<s=0.5>[3] = quantize(%f) {out = u8<s=0.25>} }";
    let error = Model::parse_text(text).unwrap_err().to_string();
    assert_eq!(
        error,
        "graph `g`: node `y` (quantize): the result is u8<s=0.5, z=0>, but must be u8<s=0.25, z=0>"
    );
}
