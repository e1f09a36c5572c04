//! Every operator form of the float family.

use super::net::{Net, float, int, ints, raw, string, tensor};
use requant_ir::import::onnx::proto::AttributeProto;
use requant_ir::import::onnx::{ImportError, Unsupported};
use requant_ir::{
    BinaryKind, ConvAttrs, DType, ErrorKind, Layout, Op, PadMode, Padding, PoolAttrs, PoolKind,
    ReduceKind, Tensor, UnaryKind,
};

const F: DType = DType::F32;

/// A node with operands `x`, given as f32[2, 3, 8, 8], and constants.
fn one(op: &str, more: &[&str], attrs: Vec<AttributeProto>) -> Net {
    let mut inputs = vec!["x"];
    inputs.extend(more);
    Net::new().input("x", F, &[2, 3, 8, 8]).node(op, &inputs, &["y"], attrs).output("y")
}

fn unsupported(net: &Net) -> Unsupported {
    match net.import() {
        Err(ImportError::Unsupported(list)) => *list,
        other => panic!("{other:?}"),
    }
}

/// Reason of the only operator in the list.
fn reason(net: &Net) -> String {
    let list = unsupported(net);
    assert_eq!((list.ops.len(), list.tensors.len()), (1, 0), "{list}");
    list.ops[0].reason.clone()
}

fn malformed(net: &Net) -> String {
    match net.import() {
        Err(ImportError::Node { detail, .. }) => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn unary() {
    for (name, kind) in [
        ("Relu", UnaryKind::Relu),
        ("Sigmoid", UnaryKind::Sigmoid),
        ("Tanh", UnaryKind::Tanh),
        ("Exp", UnaryKind::Exp),
        ("Log", UnaryKind::Log),
        ("Sqrt", UnaryKind::Sqrt),
        ("Reciprocal", UnaryKind::Reciprocal),
        ("Neg", UnaryKind::Neg),
        ("Abs", UnaryKind::Abs),
        ("Sign", UnaryKind::Sign),
        ("Floor", UnaryKind::Floor),
        ("Ceil", UnaryKind::Ceil),
        ("Round", UnaryKind::Round),
        ("Erf", UnaryKind::Erf),
        ("HardSwish", UnaryKind::HardSwish),
        ("Softplus", UnaryKind::Softplus),
        ("Sin", UnaryKind::Sin),
        ("Cos", UnaryKind::Cos),
        ("LeakyRelu", UnaryKind::LeakyRelu { alpha: 0.01 }),
        ("Elu", UnaryKind::Elu { alpha: 1.0 }),
        ("HardSigmoid", UnaryKind::HardSigmoid { alpha: 0.2, beta: 0.5 }),
    ] {
        assert_eq!(*one(name, &[], vec![]).ok().only(), Op::Unary(kind), "{name}");
    }
    let alpha = |a| vec![float("alpha", a)];
    let op = |name, attrs| one(name, &[], attrs).ok().only().clone();
    assert_eq!(op("LeakyRelu", alpha(0.5)), Op::Unary(UnaryKind::LeakyRelu { alpha: 0.5 }));
    assert_eq!(op("Elu", alpha(0.5)), Op::Unary(UnaryKind::Elu { alpha: 0.5 }));
    let both = vec![float("alpha", 1.0), float("beta", 2.0)];
    assert_eq!(
        op("HardSigmoid", both),
        Op::Unary(UnaryKind::HardSigmoid { alpha: 1.0, beta: 2.0 })
    );
    let not = Net::new().input("x", DType::Bool, &[1]).node("Not", &["x"], &["y"], vec![]);
    assert_eq!(*not.output("y").ok().only(), Op::Unary(UnaryKind::Not));
    assert_eq!(reason(&one("Relu", &[], alpha(1.0))), "attribute `alpha`");
}

#[test]
fn binary() {
    for (name, kind) in [
        ("Add", BinaryKind::Add),
        ("Sub", BinaryKind::Sub),
        ("Mul", BinaryKind::Mul),
        ("Div", BinaryKind::Div),
        ("Pow", BinaryKind::Pow),
        ("PRelu", BinaryKind::PRelu),
        ("Equal", BinaryKind::Equal),
        ("Less", BinaryKind::Less),
        ("LessOrEqual", BinaryKind::LessOrEqual),
        ("Greater", BinaryKind::Greater),
        ("GreaterOrEqual", BinaryKind::GreaterOrEqual),
    ] {
        let g = one(name, &["x"], vec![]).ok();
        assert_eq!(*g.only(), Op::Binary(kind), "{name}");
    }
    for (name, kind) in [("And", BinaryKind::And), ("Or", BinaryKind::Or), ("Xor", BinaryKind::Xor)]
    {
        let net = Net::new().input("b", DType::Bool, &[1]).node(name, &["b", "b"], &["y"], vec![]);
        assert_eq!(*net.output("y").ok().only(), Op::Binary(kind), "{name}");
    }
    // The comparison's result is known to be bool: a wrong declaration is found.
    let net = Net::new().input("x", F, &[1]).node("Less", &["x", "x"], &["y"], vec![]);
    assert!(net.typed_output("y", F, &[1]).import().is_err());
    assert!(malformed(&one("Add", &[], vec![])).contains("`B` is missing"));
    assert!(malformed(&one("Add", &["x", "x"], vec![])).contains("3 operands"));
}

#[test]
fn pow_converts_the_exponent() {
    let net = one("Pow", &["e"], vec![]).constant("e", &[], &[2i64]);
    let g = net.ok();
    assert_eq!(g.lines(), ["y/1 = cast(e)", "y = pow(x, y/1)"]);
    assert_eq!(g.0.nodes[0].op, Op::Cast { to: F });
    // Nodes made for one ONNX node say so.
    assert_eq!(g.0.nodes[0].origin, ["n_y"]);
    assert!(g.0.nodes[1].origin.is_empty());
}

#[test]
fn chains() {
    for (name, kind) in [("Sum", "add"), ("Min", "min"), ("Max", "max")] {
        let net = |n: usize| one(name, &vec!["x"; n - 1], vec![]).ok().lines();
        assert_eq!(net(1), ["y = identity(x)"]);
        assert_eq!(net(2), [format!("y = {kind}(x, x)")]);
        let last = [format!("y/1 = {kind}(x, x)"), format!("y = {kind}(y/1, x)")];
        assert_eq!(net(3), last);
    }
}

#[test]
fn clip() {
    let bounds = |net: Net| {
        net.constant("lo", &[], &[0f32]).constant("hi", &[1], &[6f32]).constant(
            "n",
            &[],
            &[f32::NAN],
        )
    };
    let op = |more: &[&str]| bounds(one("Clip", more, vec![])).ok().only().clone();
    let inf = f32::INFINITY;
    assert_eq!(op(&["lo", "hi"]), Op::Unary(UnaryKind::Clip { min: 0.0, max: 6.0 }));
    assert_eq!(op(&["", "hi"]), Op::Unary(UnaryKind::Clip { min: -inf, max: 6.0 }));
    assert_eq!(op(&["lo"]), Op::Unary(UnaryKind::Clip { min: 0.0, max: inf }));
    assert_eq!(op(&[]), Op::Unary(UnaryKind::Clip { min: -inf, max: inf }));
    let attrs = vec![float("min", -1.0), float("max", 1.0)];
    let old = one("Clip", &[], attrs.clone()).ok();
    assert_eq!(*old.only(), Op::Unary(UnaryKind::Clip { min: -1.0, max: 1.0 }));
    assert!(malformed(&bounds(one("Clip", &["lo"], attrs))).contains("twice"));
    assert!(malformed(&bounds(one("Clip", &["n"], vec![]))).contains("not a number"));
    // Crossed bounds: the upper one wins. Bounds that are not constant, or of integers: the same.
    let chain = ["y/1 = max(x, hi)", "y = min(y/1, lo)"];
    assert_eq!(bounds(one("Clip", &["hi", "lo"], vec![])).ok().lines(), chain);
    assert_eq!(one("Clip", &["b"], vec![]).input("b", F, &[]).ok().lines(), ["y = max(x, b)"]);
    let net = Net::new().input("i", DType::I64, &[2]).constant("one", &[], &[1i64]);
    let net = net.node("Clip", &["i", "", "one"], &["y"], vec![]).output("y");
    assert_eq!(net.ok().lines(), ["y = min(i, one)"]);
}

#[test]
fn conv() {
    let w2 = || raw("w", &[4, 3, 3, 3], &[0f32; 108]);
    let b = || raw("b", &[4], &[0f32; 4]);
    let attrs = ConvAttrs {
        strides: vec![1, 1],
        padding: Padding::Explicit(vec![0; 4]),
        dilations: vec![1, 1],
        groups: 1,
        layout: Layout::ChannelsFirst,
    };
    let g = one("Conv", &["w"], vec![]).init(w2()).ok();
    assert_eq!(*g.only(), Op::Conv(attrs.clone()));
    assert_eq!(g.lines(), ["y = conv(x, w, _)"]);
    let all = vec![
        ints("kernel_shape", &[3, 3]),
        ints("strides", &[2, 1]),
        ints("dilations", &[1, 2]),
        ints("pads", &[0, 1, 2, 3]),
        int("group", 1),
        string("auto_pad", "NOTSET"),
    ];
    let g = one("Conv", &["w", "b"], all).init(w2()).init(b()).ok();
    assert_eq!(g.lines(), ["y = conv(x, w, b)"]);
    let padding = Padding::Explicit(vec![0, 1, 2, 3]);
    let wanted = ConvAttrs { strides: vec![2, 1], dilations: vec![1, 2], padding, ..attrs.clone() };
    assert_eq!(*g.only(), Op::Conv(wanted));
    for (name, padding) in [
        ("SAME_UPPER", Padding::SameUpper),
        ("SAME_LOWER", Padding::SameLower),
        ("VALID", Padding::Explicit(vec![0; 4])),
    ] {
        let g = one("Conv", &["w"], vec![string("auto_pad", name)]).init(w2()).ok();
        assert_eq!(*g.only(), Op::Conv(ConvAttrs { padding, ..attrs.clone() }));
    }
    // One spatial axis.
    let net = Net::new().input("x", F, &[1, 2, 9]).constant("w", &[2, 1, 3], &[0f32; 6]);
    let net = net.node("Conv", &["x", "w"], &["y"], vec![int("group", 2)]).output("y");
    let Op::Conv(c) = net.ok().only().clone() else { panic!() };
    assert_eq!((c.strides, c.padding, c.groups), (vec![1], Padding::Explicit(vec![0, 0]), 2));
    // Three.
    let net =
        Net::new().input("x", F, &[1, 2, 9, 9, 9]).constant("w", &[1, 2, 1, 1, 1], &[0f32; 2]);
    let net = net.node("Conv", &["x", "w"], &["y"], vec![]).output("y");
    assert_eq!(reason(&net), "3 spatial axes");
}

#[test]
fn wrong_windows() {
    let conv = |a: AttributeProto| {
        malformed(&one("Conv", &["w"], vec![a]).constant("w", &[4, 3, 3, 3], &[0f32; 108]))
    };
    for (attr, text) in [
        (ints("strides", &[0, 1]), "`strides` has 0"),
        (ints("strides", &[1]), "1 `strides`"),
        (ints("strides", &[-1, 1]), "`strides` has -1"),
        (ints("strides", &[1 << 40, 1]), "`strides` has"),
        (ints("dilations", &[1, 0]), "`dilations` has 0"),
        (ints("pads", &[0, 0, -1, 0]), "`pads` has -1"),
        (ints("pads", &[0, 0]), "2 `pads`"),
        (ints("kernel_shape", &[0, 3]), "`kernel_shape` has 0"),
        (ints("kernel_shape", &[5, 5]), "`kernel_shape` is [5, 5]"),
        (int("group", 0), "`group` is 0"),
        (int("group", -3), "`group` is -3"),
        (string("auto_pad", "WRONG"), "`auto_pad` is `WRONG`"),
        (float("group", 1.0), "attribute `group` is FLOAT, not INT"),
        (int("strides", 1), "attribute `strides` is INT, not INTS"),
    ] {
        let detail = conv(attr);
        assert!(detail.contains(text), "{detail}");
    }
    let pool = |attrs| malformed(&one("MaxPool", &[], attrs));
    assert!(pool(vec![]).contains("`kernel_shape` is missing"));
    assert!(pool(vec![ints("kernel_shape", &[0, 2])]).contains("`kernel_shape` has 0"));
    // The rules of the IR are checked too: groups that do not fit, a window of padding alone.
    let e = one("Conv", &["w"], vec![int("group", 5)]).constant("w", &[4, 3, 3, 3], &[0f32; 108]);
    assert_eq!(e.import().unwrap_err().kind(), ErrorKind::Malformed);
    let e = one("MaxPool", &[], vec![ints("kernel_shape", &[2, 2]), ints("pads", &[2; 4])]);
    assert!(matches!(e.import().unwrap_err(), ImportError::Invalid(_)));
}

#[test]
fn pools() {
    let pool = |kind| PoolAttrs {
        kind,
        kernel: vec![2, 3],
        strides: vec![1, 1],
        padding: Padding::Explicit(vec![0; 4]),
        dilations: vec![1, 1],
        ceil_mode: false,
        layout: Layout::ChannelsFirst,
    };
    let kernel = || ints("kernel_shape", &[2, 3]);
    let op = |name, attrs| one(name, &[], attrs).ok().only().clone();
    assert_eq!(
        op("MaxPool", vec![kernel(), int("storage_order", 1)]),
        Op::Pool(pool(PoolKind::Max))
    );
    let average = |count_include_pad| pool(PoolKind::Average { count_include_pad });
    assert_eq!(op("AveragePool", vec![kernel()]), Op::Pool(average(false)));
    let attrs = vec![kernel(), int("count_include_pad", 1), int("ceil_mode", 1)];
    assert_eq!(op("AveragePool", attrs), Op::Pool(PoolAttrs { ceil_mode: true, ..average(true) }));
    // The second result of MaxPool may be there, but not be used.
    let two = |out| {
        Net::new()
            .input("x", F, &[1, 1, 4, 4])
            .node("MaxPool", &["x"], &["y", "i"], vec![kernel()])
            .output(out)
    };
    assert_eq!(two("y").ok().lines(), ["y = max_pool(x)"]);
    assert!(reason(&two("i")).contains("result 1 (`i`)"));
    for (name, kind) in
        [("GlobalAveragePool", ReduceKind::Mean), ("GlobalMaxPool", ReduceKind::Max)]
    {
        assert_eq!(op(name, vec![]), Op::Reduce { kind, axes: vec![2, 3], keep_dims: true });
    }
    let net = Net::new().input_unranked("x", F).node("GlobalAveragePool", &["x"], &["y"], vec![]);
    assert_eq!(reason(&net.output("y")), "an operand of unknown rank");
    // Ranks are followed through operators, and taken from declarations where they are not.
    let net = Net::new()
        .input("x", F, &[2, 12])
        .input("shape", DType::I64, &[3])
        .node("Reshape", &["x", "shape"], &["r"], vec![])
        .node("GlobalAveragePool", &["r"], &["y"], vec![])
        .output("y");
    assert_eq!(reason(&net), "an operand of unknown rank");
    let mut declared = net;
    let info = declared.graph().input[0].clone();
    let mut info = requant_ir::import::onnx::proto::ValueInfoProto { name: "r".into(), ..info };
    let shape = info.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().shape.as_mut().unwrap();
    shape.dim.push(Default::default());
    declared.graph().value_info.push(info);
    assert_eq!(declared.ok().lines()[1], "y = reduce_mean(r)");
}

#[test]
fn products() {
    assert_eq!(*one("MatMul", &["x"], vec![]).ok().only(), Op::MatMul);
    let gemm = |attrs| {
        let net = Net::new().input("a", F, &[2, 3]).constant("b", &[3, 4], &[0f32; 12]);
        let net = net.constant("c", &[4], &[0f32; 4]);
        net.node("Gemm", &["a", "b", "c"], &["y"], attrs).output("y").ok().only().clone()
    };
    let plain = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false };
    assert_eq!(gemm(vec![]), plain);
    let attrs = vec![float("alpha", 2.0), float("beta", 0.5), int("transA", 1), int("transB", 1)];
    assert_eq!(gemm(attrs), Op::Gemm { alpha: 2.0, beta: 0.5, trans_a: true, trans_b: true });
    let net =
        Net::new().input("a", F, &[2, 3]).node("Gemm", &["a", "a"], &["y"], vec![int("transA", 2)]);
    assert!(malformed(&net.output("y")).contains("not 0 or 1"));
}

#[test]
fn reductions() {
    for (name, kind) in [
        ("ReduceMean", ReduceKind::Mean),
        ("ReduceSum", ReduceKind::Sum),
        ("ReduceMax", ReduceKind::Max),
        ("ReduceMin", ReduceKind::Min),
        ("ReduceProd", ReduceKind::Prod),
    ] {
        let op = |more: &[&str], attrs| {
            one(name, more, attrs).constant("axes", &[2], &[-1i64, 1]).ok().only().clone()
        };
        let reduce = |axes: &[i64], keep_dims| Op::Reduce { kind, axes: axes.to_vec(), keep_dims };
        assert_eq!(op(&[], vec![]), reduce(&[], true));
        assert_eq!(op(&[], vec![ints("axes", &[2]), int("keepdims", 0)]), reduce(&[2], false));
        assert_eq!(op(&["axes"], vec![]), reduce(&[-1, 1], true));
        assert_eq!(op(&[], vec![int("noop_with_empty_axes", 1)]), Op::Identity);
        assert_eq!(op(&["axes"], vec![int("noop_with_empty_axes", 1)]), reduce(&[-1, 1], true));
    }
    let net = one("ReduceMean", &["a"], vec![]).input("a", DType::I64, &[1]);
    assert_eq!(reason(&net), "axes that are not constant");
    let e = one("ReduceMean", &[], vec![ints("axes", &[4])]).import().unwrap_err();
    assert!(matches!(e, ImportError::Invalid(_)), "{e}");
    let op = |attrs| one("ArgMax", &[], attrs).ok().only().clone();
    assert_eq!(op(vec![]), Op::ArgMax { axis: 0, keep_dims: true });
    let attrs = vec![int("axis", -1), int("keepdims", 0)];
    assert_eq!(op(attrs), Op::ArgMax { axis: -1, keep_dims: false });
    assert!(reason(&one("ArgMax", &[], vec![int("select_last_index", 1)])).contains("last"));
}

#[test]
fn normalizations() {
    let c = |name: &str| raw(name, &[3], &[1f32; 3]);
    let batch = |attrs| {
        one("BatchNormalization", &["s", "b", "m", "v"], attrs)
            .init(c("s"))
            .init(c("b"))
            .init(c("m"))
            .init(c("v"))
    };
    let attrs = vec![float("epsilon", 0.5), float("momentum", 0.9), int("training_mode", 0)];
    let layout = Layout::ChannelsFirst;
    assert_eq!(*batch(attrs).ok().only(), Op::BatchNorm { epsilon: 0.5, layout });
    assert_eq!(*batch(vec![]).ok().only(), Op::BatchNorm { epsilon: 1e-5, layout });
    assert_eq!(reason(&batch(vec![int("training_mode", 1)])), "training mode");
    let layer =
        |more: &[&str], attrs| one("LayerNormalization", more, attrs).init(c("s")).init(c("b"));
    let g = layer(&["s"], vec![]).ok();
    assert_eq!(*g.only(), Op::LayerNorm { axis: -1, epsilon: 1e-5 });
    let attrs = vec![int("axis", 2), float("epsilon", 0.5), int("stash_type", 1)];
    assert_eq!(*layer(&["s", "b"], attrs).ok().only(), Op::LayerNorm { axis: 2, epsilon: 0.5 });
    let soft = |opset, attrs| one("Softmax", &[], attrs).opset(opset).ok().only().clone();
    assert_eq!(soft(17, vec![]), Op::Softmax { axis: -1, flatten: false });
    assert_eq!(soft(13, vec![int("axis", 1)]), Op::Softmax { axis: 1, flatten: false });
    assert_eq!(soft(12, vec![]), Op::Softmax { axis: 1, flatten: true });
    // The last axis alone is the same in all versions.
    assert_eq!(soft(11, vec![int("axis", 3)]), Op::Softmax { axis: 3, flatten: false });
    assert_eq!(soft(11, vec![int("axis", -1)]), Op::Softmax { axis: -1, flatten: false });
}

#[test]
fn dropout_is_identity() {
    let net = |outputs: &[&str], out: &str| {
        Net::new()
            .input("x", F, &[1])
            .constant("r", &[], &[0.5f32])
            .constant("off", &[1], &[0u8])
            .node("Dropout", &["x", "r"], outputs, vec![int("seed", 1)])
            .output(out)
    };
    assert_eq!(net(&["y", "mask"], "y").ok().lines(), ["y = identity(x)"]);
    assert!(reason(&net(&["y", "mask"], "mask")).contains("`mask`"));
}

#[test]
fn movement() {
    let op = |name, attrs| one(name, &[], attrs).ok().only().clone();
    assert_eq!(op("Identity", vec![]), Op::Identity);
    assert_eq!(op("Transpose", vec![]), Op::Transpose { perm: vec![3, 2, 1, 0] });
    let perm = vec![ints("perm", &[0, 2, 3, 1])];
    assert_eq!(op("Transpose", perm), Op::Transpose { perm: vec![0, 2, 3, 1] });
    assert_eq!(op("Flatten", vec![]), Op::Flatten { axis: 1 });
    assert_eq!(op("Squeeze", vec![]), Op::Squeeze { axes: vec![] });
    assert_eq!(op("Squeeze", vec![ints("axes", &[-1])]), Op::Squeeze { axes: vec![-1] });
    assert_eq!(op("Unsqueeze", vec![ints("axes", &[0, 5])]), Op::Unsqueeze { axes: vec![0, 5] });
    assert_eq!(op("Shape", vec![]), Op::Shape { start: 0, end: None });
    let attrs = vec![int("start", 1), int("end", -1)];
    assert_eq!(op("Shape", attrs), Op::Shape { start: 1, end: Some(-1) });
    assert_eq!(op("Size", vec![]), Op::Size);
    let axes = |name| one(name, &["a"], vec![]).constant("a", &[1], &[0i64]).ok().only().clone();
    assert_eq!(axes("Squeeze"), Op::Squeeze { axes: vec![0] });
    assert_eq!(axes("Unsqueeze"), Op::Unsqueeze { axes: vec![0] });
    for perm in [&[0i64, 1, 2][..], &[0, 1, 2, 2], &[0, 1, 2, 4], &[0, 1, 2, -1]] {
        malformed(&one("Transpose", &[], vec![ints("perm", perm)]));
    }
    let g = one("Reshape", &["s"], vec![int("allowzero", 1)]).constant("s", &[2], &[2i64, -1]).ok();
    assert_eq!(
        (g.only(), &g.lines()[0][..]),
        (&Op::Reshape { allow_zero: true }, "y = reshape(x, s)")
    );
    let g = one("Expand", &["s"], vec![]).constant("s", &[1], &[8i64]).ok();
    assert_eq!(g.lines(), ["y = expand(x, s)"]);
    let g = one("Tile", &["s"], vec![]).constant("s", &[4], &[1i64; 4]).ok();
    assert_eq!(g.lines(), ["y = tile(x, s)"]);
    let g = one("Concat", &["x", "x"], vec![int("axis", -1)]).ok();
    assert_eq!((g.only(), &g.lines()[0][..]), (&Op::Concat { axis: -1 }, "y = concat(x, x, x)"));
    assert!(malformed(&one("Concat", &["x"], vec![])).contains("`axis` is missing"));
    let e = one("Concat", &["i"], vec![int("axis", 0)]).input("i", DType::I64, &[1]);
    assert!(malformed(&e).contains("types f32 and s64"));
    let g = one("Gather", &["i"], vec![int("axis", 2)]).constant("i", &[], &[3i64]).ok();
    assert_eq!(*g.only(), Op::Gather { axis: 2 });
}

#[test]
fn indices_become_s64() {
    let net = one("Slice", &["s", "e", "", "t"], vec![])
        .constant("s", &[1], &[1i32])
        .constant("e", &[1], &[5i32])
        .input("t", DType::I32, &[1]);
    let g = net.ok();
    assert_eq!(g.lines(), ["y/1 = cast(t)", "y = slice(x, n_y/index, n_y/index_1, _, y/1)"]);
    assert_eq!(g.named("n_y/index_1").data.as_ref().unwrap().as_slice::<i64>().unwrap(), [5]);
    assert!(malformed(&one("Expand", &["x"], vec![])).contains("s64 or s32"));
}

#[test]
fn split() {
    let net = |opset, more: &[&str], outputs: &[&str], attrs| {
        let mut inputs = vec!["x"];
        inputs.extend(more);
        Net::new()
            .opset(opset)
            .input("x", F, &[6])
            .constant("sizes", &[2], &[2i64, 4])
            .node("Split", &inputs, outputs, attrs)
            .output(outputs[0])
    };
    let split = |sizes: &[i64]| Op::Split { axis: 0, sizes: sizes.to_vec() };
    assert_eq!(*net(17, &["sizes"], &["a", "b"], vec![]).ok().only(), split(&[2, 4]));
    assert_eq!(
        *net(11, &[], &["a", "b"], vec![ints("split", &[1, 5])]).ok().only(),
        split(&[1, 5])
    );
    let g = net(18, &[], &["a", "b", "c"], vec![int("num_outputs", 3)]).ok();
    assert_eq!(*g.only(), split(&[]));
    assert_eq!(g.lines(), ["a, b, c = split(x)"]);
    // A result without a name gets one.
    assert_eq!(net(17, &[], &["a", ""], vec![]).ok().lines(), ["a, n_a/unused = split(x)"]);
    malformed(&net(18, &[], &["a", "b"], vec![int("num_outputs", 3)]));
    malformed(&net(17, &["sizes"], &["a", "b", "c"], vec![]));
    malformed(&net(11, &[], &["a", "b"], vec![ints("split", &[-1, 7])]));
}

#[test]
fn pad() {
    let net = |more: &[&str], attrs| {
        one("Pad", more, attrs)
            .constant("p", &[8], &[0i64; 8])
            .constant("v", &[], &[1f32])
            .constant("a", &[1], &[2i64])
    };
    let g = net(&["p"], vec![]).ok();
    assert_eq!(
        (g.only(), &g.lines()[0][..]),
        (&Op::Pad { mode: PadMode::Constant }, "y = pad(x, p, _, _)")
    );
    assert_eq!(net(&["p", "v", "a"], vec![]).ok().lines(), ["y = pad(x, p, v, a)"]);
    for (name, mode) in [("reflect", PadMode::Reflect), ("edge", PadMode::Edge)] {
        assert_eq!(*net(&["p"], vec![string("mode", name)]).ok().only(), Op::Pad { mode });
    }
    assert_eq!(reason(&net(&["p"], vec![string("mode", "wrap")])), "mode `wrap`");
    assert!(malformed(&net(&["p", "a"], vec![])).contains("s64 fill for f32"));
}

#[test]
fn shapes_and_selection() {
    let net = |attrs| {
        Net::new()
            .input("s", DType::I64, &[2])
            .node("ConstantOfShape", &["s"], &["y"], attrs)
            .output("y")
    };
    assert_eq!(*net(vec![]).ok().only(), Op::ConstantOfShape { value: Tensor::scalar(0f32) });
    let one_i64 = vec![tensor("value", raw("", &[1], &[7i64]))];
    let value = Tensor::from_slice(&[1], &[7i64]).unwrap();
    assert_eq!(*net(one_i64).ok().only(), Op::ConstantOfShape { value });
    malformed(&net(vec![tensor("value", raw("", &[2], &[7i64, 8]))]));
    let g = Net::new()
        .input("n", DType::I64, &[])
        .node("Range", &["n", "n", "n"], &["r"], vec![])
        .node("Equal", &["r", "n"], &["c"], vec![])
        .node("Where", &["c", "r", "n"], &["y"], vec![])
        .node("Cast", &["y"], &["z"], vec![int("to", 1), int("saturate", 1)])
        .typed_output("z", F, &[4])
        .ok();
    assert_eq!(
        g.lines(),
        ["r = range(n, n, n)", "c = equal(r, n)", "y = where(c, r, n)", "z = cast(y)"]
    );
    let cast = |to| {
        Net::new().input("x", F, &[1]).node("Cast", &["x"], &["y"], vec![int("to", to)]).output("y")
    };
    assert_eq!(reason(&cast(8)), "element type string");
    assert_eq!(reason(&cast(1 << 40)), "unknown element type 2147483647");
}
