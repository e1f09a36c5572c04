//! Bad files: each gives a typed error, at once and in little memory, and none a panic.

use super::net::{Net, data_type, float, graph, int, ints, raw, tensor};
use prost::Message;
use requant_ir::import::onnx::proto::{ModelProto, TensorProto, ValueInfoProto};
use requant_ir::import::onnx::{ImportError, ImportOptions, import_bytes};
use requant_ir::{DType, ErrorKind, Limits, Model};
use std::time::{Duration, Instant};

const F: DType = DType::F32;

fn import(bytes: Vec<u8>) -> Result<Model, ImportError> {
    let start = Instant::now();
    let result = import_bytes(bytes.into(), None, &ImportOptions::default());
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    result
}

fn x() -> Net {
    Net::new().input("x", F, &[1, 3, 8, 8])
}

fn relu() -> Net {
    x().node("Relu", &["x"], &["y"], vec![]).output("y")
}

/// A length-delimited field.
fn field(number: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(number << 3 | 2, &mut bytes);
    prost::encoding::encode_varint(body.len() as u64, &mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

/// `declared` where `relu` is given `data`.
fn with_constant(t: TensorProto) -> Net {
    Net::new().init(t).node("Relu", &["c"], &["y"], vec![]).output("y")
}

fn huge(dims: &[i64]) -> Net {
    let data_type = data_type(F);
    let dims = dims.to_vec();
    with_constant(TensorProto { name: "c".into(), dims, data_type, ..Default::default() })
}

fn conv(attrs: Vec<requant_ir::import::onnx::proto::AttributeProto>) -> Net {
    x().constant("w", &[2, 3, 3, 3], &[0f32; 54])
        .node("Conv", &["x", "w"], &["y"], attrs)
        .output("y")
}

fn dequantize(scale: &[f32], zero: TensorProto) -> Net {
    Net::new()
        .constant("w", &[2, 3], &[1i8; 6])
        .constant("s", &[scale.len() as i64], scale)
        .init(zero)
        .node("DequantizeLinear", &["w", "s", "z"], &["y"], vec![])
        .output("y")
}

/// Name, file, sort of failure, and words of the message.
fn files() -> Vec<(&'static str, Vec<u8>, ErrorKind, &'static str)> {
    use ErrorKind::{Limit, Malformed, Unsupported};
    let z = || raw("z", &[], &[0i8]);
    let whole = conv(vec![]).bytes();
    let mut nameless = relu();
    nameless.graph().output[0].name.clear();
    let mut no_graph = relu();
    no_graph.0.graph = None;
    let mut no_output = relu();
    no_output.graph().output.clear();
    let mut same_outputs = relu();
    same_outputs.graph().output.push(ValueInfoProto { name: "y".into(), r#type: None });
    let mut no_opset = relu();
    no_opset.0.opset_import.clear();
    let mut external = relu();
    let mut t = raw("c", &[1], &[1f32]);
    t.raw_data = None;
    t.data_location = 1;
    external.graph().initializer.push(t.clone());
    let mut reference = conv(vec![int("group", 1)]);
    reference.graph().node[0].attribute[0].ref_attr_name = "g".into();
    // A thousand levels of attribute → graph → node, fields that the schema leaves out.
    let mut nested = Vec::new();
    for _ in 0..100_000 / 8 {
        nested = field(5, &field(6, &field(1, &nested)));
        if nested.len() > 1 << 20 {
            break;
        }
    }
    let deep_subgraph = field(7, &field(1, &nested));
    let groups = vec![0x0b; 1 << 16];
    let bomb = field(7, &[0x0a, 0x00].repeat(500_000));
    let tensors = field(7, &[0x2a, 0x00].repeat(500_000));
    let attributes = field(7, &field(1, &[0x2a, 0x00].repeat(500_000)));
    let long_varint = [vec![0x08], vec![0xff; 11]].concat();
    let not_text = field(7, &field(2, &[0xff, 0xfe]));
    vec![
        ("no graph", no_graph.bytes(), Malformed, "no graph"),
        ("empty file", vec![], Malformed, "no graph"),
        (
            "garbage",
            (0..4096u32).map(|i| ((i * 167) >> 3) as u8).collect(),
            Malformed,
            "not an ONNX model",
        ),
        ("text", b"<html><body>404</body></html>".to_vec(), Malformed, "not an ONNX model"),
        ("truncated", whole[..whole.len() - 9].to_vec(), Malformed, "truncated"),
        ("half", whole[..whole.len() / 2].to_vec(), Malformed, "not an ONNX model"),
        ("length beyond the end", vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f], Malformed, "too large"),
        ("varint without end", long_varint, Malformed, "64 bits"),
        ("groups", groups, Malformed, "group"),
        ("a name that is not text", not_text, Malformed, "not an ONNX model"),
        ("nested subgraphs", deep_subgraph, Malformed, "operators it uses"),
        ("half a million nodes", bomb, Limit, "number of nodes"),
        ("half a million tensors", tensors, Limit, "decoded"),
        ("half a million attributes", attributes, Limit, "decoded"),
        ("opset 99", relu().opset(99).bytes(), Unsupported, "version 99"),
        ("opset 8", relu().opset(8).bytes(), Unsupported, "version 8"),
        ("no opset", no_opset.bytes(), Malformed, "which version"),
        ("no output", no_output.bytes(), Malformed, "no outputs"),
        ("an output without a name", nameless.bytes(), Malformed, "no name"),
        ("an output twice", same_outputs.bytes(), Malformed, "twice"),
        (
            "a missing tensor",
            x().node("Add", &["x", "nix"], &["y"], vec![]).output("y").bytes(),
            Malformed,
            "node `n_y` uses tensor `nix`",
        ),
        ("a missing output", x().output("nix").bytes(), Malformed, "output list uses tensor `nix`"),
        (
            "a cycle",
            x().node("Add", &["x", "c"], &["b"], vec![])
                .node("Relu", &["b"], &["c"], vec![])
                .output("c")
                .bytes(),
            Malformed,
            "cycle through the nodes `n_b`, `n_c`",
        ),
        (
            "a node that uses itself",
            x().node("Add", &["x", "y"], &["y"], vec![]).output("y").bytes(),
            Malformed,
            "cycle through the nodes `n_y`",
        ),
        (
            "two nodes with one result",
            relu().node("Abs", &["x"], &["y"], vec![]).bytes(),
            Malformed,
            "`y` is defined twice",
        ),
        (
            "a node that redefines an input",
            x().node("Relu", &["x"], &["x"], vec![]).output("x").bytes(),
            Malformed,
            "`x` is defined twice",
        ),
        (
            "one node with one result twice",
            x().node("Split", &["x"], &["y", "y"], vec![]).output("y").bytes(),
            Malformed,
            "defined twice",
        ),
        (
            "two initializers of one name",
            with_constant(raw("c", &[1], &[1f32])).constant("c", &[1], &[2f32]).bytes(),
            Malformed,
            "`c` is defined twice",
        ),
        (
            "two inputs of one name",
            relu().input("x", F, &[1]).bytes(),
            Malformed,
            "`x` is defined twice",
        ),
        (
            "an initializer without a name",
            relu().constant("", &[1], &[1f32]).bytes(),
            Malformed,
            "no name",
        ),
        (
            "a node without results",
            relu().node("Relu", &["x"], &[], vec![]).bytes(),
            Malformed,
            "no results",
        ),
        ("huge dims", huge(&[1 << 31, 1 << 31]).bytes(), Limit, "extent"),
        (
            "a product that overflows",
            huge(&[1 << 30, 1 << 30, 1 << 30]).bytes(),
            Malformed,
            "too large",
        ),
        (
            "an overflow behind a 0",
            huge(&[0, 1 << 30, 1 << 30, 1 << 30]).bytes(),
            Malformed,
            "too large",
        ),
        (
            "a large tensor without elements",
            huge(&[1 << 30]).bytes(),
            Malformed,
            "1073741824 numbers",
        ),
        ("negative dims", huge(&[-4]).bytes(), Malformed, "negative extent"),
        ("rank 9", huge(&[1; 9]).bytes(), Limit, "rank"),
        (
            "negative dims of an input",
            Net::new().input("x", F, &[-7]).output("x").bytes(),
            Malformed,
            "negative extent",
        ),
        (
            "raw_data too short",
            with_constant(TensorProto { dims: vec![3], ..raw("c", &[2], &[1f32; 2]) }).bytes(),
            Malformed,
            "needs 12 bytes, but 8",
        ),
        (
            "raw_data too long",
            with_constant(TensorProto { dims: vec![1], ..raw("c", &[2], &[1f32; 2]) }).bytes(),
            Malformed,
            "needs 4 bytes, but 8",
        ),
        (
            "a typed field too short",
            with_constant(TensorProto {
                raw_data: None,
                float_data: vec![1.0],
                ..raw("c", &[2], &[1f32; 2])
            })
            .bytes(),
            Malformed,
            "needs 2 numbers",
        ),
        (
            "elements in the wrong field",
            with_constant(TensorProto {
                raw_data: None,
                int32_data: vec![1, 2],
                ..raw("c", &[2], &[1f32; 2])
            })
            .bytes(),
            Malformed,
            "another type",
        ),
        ("external data without keys", external.bytes(), Malformed, "`location` is missing"),
        (
            "zero strides",
            conv(vec![ints("strides", &[0, 0])]).bytes(),
            Malformed,
            "`strides` has 0",
        ),
        ("zero groups", conv(vec![int("group", 0)]).bytes(), Malformed, "`group` is 0"),
        ("groups that do not divide", conv(vec![int("group", 7)]).bytes(), Malformed, "groups"),
        (
            "zero dilations",
            conv(vec![ints("dilations", &[0, 0])]).bytes(),
            Malformed,
            "`dilations` has 0",
        ),
        (
            "zero kernel",
            x().node("MaxPool", &["x"], &["y"], vec![ints("kernel_shape", &[0, 0])])
                .output("y")
                .bytes(),
            Malformed,
            "`kernel_shape` has 0",
        ),
        (
            "weights without a window",
            x().constant("w", &[2, 3, 0, 3], &[0f32; 0])
                .node("Conv", &["x", "w"], &["y"], vec![])
                .output("y")
                .bytes(),
            Malformed,
            "window",
        ),
        (
            "weights of rank 1",
            x().constant("w", &[2], &[0f32; 2])
                .node("Conv", &["x", "w"], &["y"], vec![])
                .output("y")
                .bytes(),
            Malformed,
            "without spatial axes",
        ),
        (
            "bad perm",
            x().node("Transpose", &["x"], &["y"], vec![ints("perm", &[0, 1, 1, 2])])
                .output("y")
                .bytes(),
            Malformed,
            "not a permutation",
        ),
        (
            "bad axis",
            x().node("Concat", &["x"], &["y"], vec![int("axis", 4)]).output("y").bytes(),
            Malformed,
            "axis",
        ),
        (
            "lowest axis",
            x().node("Softmax", &["x"], &["y"], vec![int("axis", i64::MIN)]).output("y").bytes(),
            Malformed,
            "axis",
        ),
        (
            "an attribute of the wrong type",
            conv(vec![float("group", 1.0)]).bytes(),
            Malformed,
            "FLOAT, not INT",
        ),
        (
            "an attribute twice",
            conv(vec![int("group", 1), int("group", 1)]).bytes(),
            Malformed,
            "given twice",
        ),
        (
            "a reference outside of a function",
            reference.bytes(),
            Malformed,
            "outside of a function",
        ),
        (
            "a tensor attribute without tensor",
            Net::new()
                .node(
                    "Constant",
                    &[],
                    &["y"],
                    vec![requant_ir::import::onnx::proto::AttributeProto {
                        t: None,
                        ..tensor("value", t)
                    }],
                )
                .output("y")
                .bytes(),
            Malformed,
            "no tensor",
        ),
        (
            "too many operands",
            x().node("Relu", &["x", "x"], &["y"], vec![]).output("y").bytes(),
            Malformed,
            "2 operands",
        ),
        (
            "no operand",
            x().node("Relu", &[], &["y"], vec![]).output("y").bytes(),
            Malformed,
            "missing",
        ),
        (
            "a type mismatch of the result",
            x().node("Shape", &["x"], &["y"], vec![]).typed_output("y", F, &[4]).bytes(),
            Malformed,
            "declared as another type",
        ),
        (
            "a type mismatch of operands",
            x().constant("i", &[1], &[1i64])
                .node("Concat", &["x", "i"], &["y"], vec![int("axis", 0)])
                .output("y")
                .bytes(),
            Malformed,
            "types f32 and s64",
        ),
        ("scale 0", dequantize(&[0.0], z()).bytes(), Malformed, "scale 0"),
        ("scale NaN", dequantize(&[f32::NAN], z()).bytes(), Malformed, "scale NaN"),
        ("scale -1", dequantize(&[-1.0], z()).bytes(), Malformed, "scale -1"),
        ("scales ≠ axis", dequantize(&[1.0; 4], z()).bytes(), Malformed, "4 scales"),
        (
            "a zero point of another type",
            dequantize(&[1.0], raw("z", &[], &[0u8])).bytes(),
            Malformed,
            "u8 zero point for s8",
        ),
        (
            "a zero point out of range",
            dequantize(
                &[1.0],
                TensorProto { raw_data: None, int32_data: vec![300], ..raw("z", &[], &[0i8]) },
            )
            .bytes(),
            Malformed,
            "element 300",
        ),
        (
            "an unknown operator",
            x().node("Nix", &["x"], &["y"], vec![]).output("y").bytes(),
            Unsupported,
            "Nix (unknown operator): 1 node: `n_y`",
        ),
        (
            "a subgraph",
            x().node("If", &["x"], &["y"], vec![graph("then_branch")]).output("y").bytes(),
            Unsupported,
            "If",
        ),
    ]
}

/// Writes the small files to the folder `REQUANT_KEEP_MALFORMED`, if that is set: the program's own test of
/// bad files and the fuzz targets' seeds are made so (`tests/data/malformed`).
fn keep(name: &str, bytes: &[u8]) {
    if let Some(folder) = std::env::var_os("REQUANT_KEEP_MALFORMED")
        && bytes.len() <= 4096
    {
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        std::fs::write(std::path::Path::new(&folder).join(name + ".onnx"), bytes).unwrap();
    }
}

#[test]
fn bad_files_give_typed_errors() {
    let files = files();
    assert!(files.len() >= 60);
    for (name, bytes, kind, words) in files {
        let size = bytes.len();
        keep(name, &bytes);
        match import(bytes) {
            Ok(_) => panic!("{name}: imported"),
            Err(e) => {
                assert_eq!(e.kind(), kind, "{name} ({size} bytes): {e}");
                assert!(e.to_string().contains(words), "{name}: {e}");
            }
        }
    }
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 256 << 10, "peak of this process: {kib} KiB");
    }
}

/// Every prefix of a file, and every file with one byte changed.
#[test]
fn damaged_files_do_not_panic() {
    let whole = conv(vec![ints("strides", &[2, 2]), int("group", 1)])
        .constant("sc", &[], &[0.5f32])
        .node("QuantizeLinear", &["y", "sc"], &["q"], vec![])
        .output("q")
        .bytes();
    for end in 0..whole.len() {
        let _ = import(whole[..end].to_vec());
    }
    for at in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            if let Ok(model) = import(bytes) {
                model.verify(&Limits::default()).unwrap();
            }
        }
    }
}

/// Each field of each node and tensor left out, or its operands and attributes changed, in turn.
#[test]
fn incomplete_models_do_not_panic() {
    let model = conv(vec![ints("strides", &[2, 2]), ints("pads", &[0; 4]), int("group", 1)])
        .constant("sc", &[], &[0.5f32])
        .constant("axes", &[1], &[0i64])
        .node("QuantizeLinear", &["y", "sc"], &["q"], vec![int("axis", 1)])
        .node("Squeeze", &["q", "axes"], &["v"], vec![])
        .output("v")
        .0;
    let check = |change: &dyn Fn(&mut ModelProto)| {
        let mut changed = model.clone();
        change(&mut changed);
        let _ = import(changed.encode_to_vec());
    };
    let g = model.graph.as_ref().unwrap();
    for (n, node) in g.node.iter().enumerate() {
        for i in 0..node.input.len() {
            check(&|m| m.graph.as_mut().unwrap().node[n].input[i].clear());
            check(&|m| m.graph.as_mut().unwrap().node[n].input.truncate(i));
            check(&|m| m.graph.as_mut().unwrap().node[n].input[i] = "sc".into());
        }
        for a in 0..node.attribute.len() {
            for value in [0, -1, 1, i64::MIN, i64::MAX, 1 << 31] {
                check(&|m| {
                    let attr = &mut m.graph.as_mut().unwrap().node[n].attribute[a];
                    attr.i = value;
                    attr.ints.fill(value);
                });
            }
            check(&|m| m.graph.as_mut().unwrap().node[n].attribute[a].ints.clear());
            check(&|m| m.graph.as_mut().unwrap().node[n].attribute[a].r#type = 0);
            check(&|m| m.graph.as_mut().unwrap().node[n].attribute[a].name.clear());
        }
    }
    for t in 0..g.initializer.len() {
        check(&|m| m.graph.as_mut().unwrap().initializer[t].raw_data = None);
        check(&|m| m.graph.as_mut().unwrap().initializer[t].dims.clear());
        for data_type in 0..30 {
            check(&|m| m.graph.as_mut().unwrap().initializer[t].data_type = data_type);
        }
    }
}

/// A chain and a diamond ladder of ten thousand nodes: no recursion, no blow-up.
#[test]
fn long_graphs() {
    let n = 10_000;
    let mut chain = Net::new().input("v0", F, &[1]);
    for i in (0..n).rev() {
        let (a, b) = (format!("v{i}"), format!("v{}", i + 1));
        chain = chain.node("Add", &[&a, &a], &[&b], vec![]);
    }
    let g = import(chain.output(&format!("v{n}")).bytes()).unwrap();
    assert_eq!(g.graphs[0].nodes.len(), n);
    let mut cycle = Net::new();
    for i in 0..n {
        cycle = cycle.node("Relu", &[&format!("v{i}")], &[&format!("v{}", (i + 1) % n)], vec![]);
    }
    let e = import(cycle.output("v0").bytes()).unwrap_err();
    let ImportError::Cycle { nodes } = e else { panic!("{e}") };
    assert_eq!(nodes.len(), n);
}

/// Constants made while importing are bounded, however often one tensor is named.
#[test]
fn constants_do_not_multiply() {
    let n = 1 << 18;
    let mut net = Net::new()
        .input("x", F, &[1, 1])
        .constant("s", &[], &[0.5f32])
        .constant("w", &[1, n], &vec![1i8; n as usize])
        .constant("b", &[1], &[1i32])
        .node("QuantizeLinear", &["x", "s"], &["q"], vec![]);
    for i in 0..100 {
        let out = format!("o{i}");
        net = net.node(
            "com.microsoft.QGemm",
            &["q", "s", "", "w", "s", "", "b", "s", ""],
            &[&out],
            vec![],
        );
    }
    let e = import(net.output("o0").bytes()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit, "{e}");
}
