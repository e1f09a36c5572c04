//! Every form in which elements are stored, and the types of inputs and outputs.

use super::net::{Net, data_type, float, floats, int, ints, raw, tensor};
use requant_ir::import::onnx::proto::tensor_proto::DataType;
use requant_ir::import::onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
use requant_ir::import::onnx::proto::{
    SparseTensorProto, StringStringEntryProto, TensorProto, TypeProto, ValueInfoProto,
};
use requant_ir::import::onnx::{ImportError, ImportOptions, import_bytes};
use requant_ir::{ALIGN, DType, Dim, ErrorKind, Limits, Tensor};

fn t(dtype: DType, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: "c".into(),
        dims: dims.to_vec(),
        data_type: data_type(dtype),
        ..Default::default()
    }
}

/// The constant as the graph's output has it.
fn read(t: TensorProto) -> Tensor {
    Net::new().init(t).output("c").ok().named("c").data.clone().unwrap()
}

#[test]
fn raw_data() {
    let f = read(raw("c", &[2, 2], &[1f32, -2.0, 3.5, 4.0]));
    assert_eq!(f.as_slice::<f32>().unwrap(), [1.0, -2.0, 3.5, 4.0]);
    assert_eq!(f.dims(), [2, 2]);
    assert!(f.bytes().as_ptr().addr().is_multiple_of(ALIGN));
    assert_eq!(read(raw("c", &[3], &[-1i8, 0, 127])).as_slice::<i8>().unwrap(), [-1, 0, 127]);
    assert_eq!(read(raw("c", &[], &[7i64])).as_slice::<i64>().unwrap(), [7]);
    assert_eq!(read(raw::<f32>("c", &[0, 3], &[])).len(), 0);
    let bools = TensorProto { raw_data: Some(vec![0u8, 1, 7].into()), ..t(DType::Bool, &[3]) };
    assert_eq!(read(bools).bytes()[..], [0, 1, 1]);
    let nibbles = TensorProto { raw_data: Some(vec![0x21u8, 0xf3].into()), ..t(DType::I4, &[3]) };
    assert_eq!(read(nibbles).bytes()[..], [0x21, 0x03]);
}

#[test]
fn typed_fields() {
    let f = TensorProto { float_data: vec![1.0, 2.0], ..t(DType::F32, &[2]) };
    assert_eq!(read(f).as_slice::<f32>().unwrap(), [1.0, 2.0]);
    let d = TensorProto { double_data: vec![1.0, 2.0], ..t(DType::F64, &[2]) };
    assert_eq!(read(d).as_slice::<f64>().unwrap(), [1.0, 2.0]);
    let l = TensorProto { int64_data: vec![-1, i64::MAX], ..t(DType::I64, &[2]) };
    assert_eq!(read(l).as_slice::<i64>().unwrap(), [-1, i64::MAX]);
    let ints = |dtype, v: &[i32]| {
        read(TensorProto { int32_data: v.to_vec(), ..t(dtype, &[v.len() as i64]) })
    };
    assert_eq!(ints(DType::I32, &[-5, 9]).as_slice::<i32>().unwrap(), [-5, 9]);
    assert_eq!(ints(DType::I16, &[-5, 32767]).as_slice::<i16>().unwrap(), [-5, 32767]);
    assert_eq!(ints(DType::U16, &[5, 65535]).as_slice::<u16>().unwrap(), [5, 65535]);
    assert_eq!(ints(DType::I8, &[-128, 127]).as_slice::<i8>().unwrap(), [-128, 127]);
    assert_eq!(ints(DType::U8, &[0, 255]).as_slice::<u8>().unwrap(), [0, 255]);
    assert_eq!(ints(DType::Bool, &[0, 1, 3]).bytes()[..], [0, 1, 1]);
    assert_eq!(ints(DType::F16, &[0x3c00, 0xc000]).to_f32().unwrap(), [1.0, -2.0]);
    // Two elements in each number.
    let four = TensorProto { int32_data: vec![0x21, 0x43], ..t(DType::U4, &[3]) };
    assert_eq!(read(four).bytes()[..], [0x21, 0x03]);
}

#[test]
fn wrong_storage() {
    let strings = TensorProto { data_type: DataType::String as i32, ..t(DType::F32, &[1]) };
    let u64s = TensorProto {
        data_type: DataType::Uint64 as i32,
        uint64_data: vec![1],
        ..t(DType::F32, &[1])
    };
    let unknown = TensorProto { data_type: 99, ..t(DType::F32, &[1]) };
    let segment = TensorProto { segment: Some(Default::default()), ..raw("c", &[1], &[1f32]) };
    for bad in [strings, u64s, unknown, segment] {
        let e = Net::new().init(bad).output("c").import().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        let ImportError::Unsupported(list) = e else { panic!() };
        assert_eq!(list.tensors[0].name, "c");
    }
    for bad in [
        // too short, too long
        TensorProto { raw_data: Some(vec![0u8; 7].into()), ..t(DType::F32, &[2]) },
        TensorProto { raw_data: Some(vec![0u8; 9].into()), ..t(DType::F32, &[2]) },
        TensorProto { float_data: vec![1.0], ..t(DType::F32, &[2]) },
        TensorProto { float_data: vec![1.0; 3], ..t(DType::F32, &[2]) },
        t(DType::F32, &[2]),
        // in two places, in the wrong place
        TensorProto { float_data: vec![1.0], ..raw("c", &[1], &[1f32]) },
        TensorProto { int32_data: vec![1], ..t(DType::F32, &[1]) },
        TensorProto { int64_data: vec![1], ..t(DType::I32, &[1]) },
        TensorProto { uint64_data: vec![1], ..t(DType::I64, &[1]) },
        // out of range
        TensorProto { int32_data: vec![128], ..t(DType::I8, &[1]) },
        TensorProto { int32_data: vec![-1], ..t(DType::U8, &[1]) },
        TensorProto { int32_data: vec![70_000], ..t(DType::F16, &[1]) },
        // shapes
        t(DType::F32, &[-1]),
        t(DType::F32, &[1 << 30, 1 << 30, 1 << 30]),
        t(DType::F32, &[0, 1 << 30, 1 << 30, 1 << 30]),
        TensorProto { data_type: 0, ..t(DType::F32, &[1]) },
        TensorProto {
            external_data: vec![StringStringEntryProto {
                key: "location".into(),
                value: "w".into(),
            }],
            ..raw("c", &[1], &[1f32])
        },
    ] {
        let e = Net::new().init(bad.clone()).output("c").import().unwrap_err();
        assert!(matches!(e, ImportError::Tensor { .. }), "{bad:?}: {e}");
        assert!(e.to_string().contains("`c`"));
    }
    for bad in [t(DType::F32, &[1 << 40]), t(DType::F32, &[1; 9])] {
        let e = Net::new().init(bad).output("c").import().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Limit, "{e}");
    }
}

#[test]
fn sparse_initializers_are_listed() {
    let mut net = Net::new().output("s");
    let values = Some(raw("s", &[1], &[1f32]));
    net.graph().sparse_initializer.push(SparseTensorProto { values });
    let ImportError::Unsupported(list) = net.import().unwrap_err() else { panic!() };
    assert_eq!(list.tensors[0].reason, "sparse elements");
}

#[test]
fn constant_nodes() {
    let value = |attr| {
        Net::new()
            .node("Constant", &[], &["c"], vec![attr])
            .output("c")
            .ok()
            .named("c")
            .data
            .clone()
    };
    assert_eq!(value(float("value_float", 2.0)).unwrap(), Tensor::scalar(2f32));
    assert_eq!(value(int("value_int", -3)).unwrap(), Tensor::scalar(-3i64));
    assert_eq!(value(floats("value_floats", &[1.0, 2.0])).unwrap().dims(), [2]);
    assert_eq!(value(ints("value_ints", &[1, 2])).unwrap().to_i64().unwrap(), [1, 2]);
    let t = tensor("value", raw("", &[2], &[1u8, 2]));
    assert_eq!(value(t).unwrap().as_slice::<u8>().unwrap(), [1, 2]);
}

#[test]
fn inputs() {
    let mut net = Net::new()
        .input("x", DType::F32, &[0, -1, 3])
        .input_unranked("u", DType::I64)
        .input("w", DType::F32, &[2])
        .constant("w", &[2], &[1f32, 2.0])
        .node("Add", &["x", "w"], &["y"], vec![])
        .output("y");
    let dims = &mut net.graph().input[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
    let param = Dimension { value: Some(Value::DimParam("batch".into())) };
    let none = Dimension { value: None };
    let empty = Dimension { value: Some(Value::DimParam(String::new())) };
    let question = Dimension { value: Some(Value::DimParam("?".into())) };
    dims.shape.as_mut().unwrap().dim.extend([param, none, empty, question]);
    let g = net.ok();
    // An input with a default is a constant.
    let names: Vec<_> = g.0.inputs.iter().map(|&i| g.value(i).name.as_str()).collect();
    assert_eq!(names, ["x", "u"]);
    let x = g.named("x").ty.clone().unwrap();
    let u = Dim::Unknown;
    let batch = Dim::Symbol("batch".into());
    assert_eq!(
        x.dims.unwrap(),
        [u.clone(), u.clone(), Dim::Fixed(3), batch, u.clone(), u.clone(), u]
    );
    assert_eq!(g.named("u").ty.as_ref().unwrap().dims, None);
    assert!(g.named("w").data.is_some());
    // Types of results are inference's.
    assert_eq!(g.named("y").ty, None);
}

#[test]
fn wrong_inputs() {
    let relu =
        |net: Net| net.node("Relu", &["x"], &["y"], vec![]).output("y").import().unwrap_err();
    let e = relu(Net::new().input("x", DType::F32, &[-2]));
    assert!(matches!(e, ImportError::Tensor { .. }), "{e}");
    let e = relu(Net::new().input("x", DType::F32, &[1 << 40]));
    assert_eq!(e.kind(), ErrorKind::Limit, "{e}");
    let e = relu(Net::new().input("x", DType::F32, &[1; 9]));
    assert_eq!(e.kind(), ErrorKind::Limit, "{e}");
    let typed = |r#type| {
        let mut net = Net::new();
        net.graph().input.push(ValueInfoProto { name: "x".into(), r#type });
        relu(net)
    };
    assert_eq!(typed(None).kind(), ErrorKind::Malformed);
    let sequence = TypeProto { sequence_type: Some(Default::default()), ..Default::default() };
    let ImportError::Unsupported(list) = typed(Some(sequence)) else { panic!() };
    assert_eq!(list.tensors[0].name, "x");
    assert!(list.ops.is_empty());
}

#[test]
fn outputs_keep_their_names_and_types() {
    // The constant is used as quantized numbers first, but the output shows plain ones.
    let g = Net::new()
        .constant("c", &[2], &[1i8, 2])
        .constant("s", &[], &[0.5f32])
        .node("DequantizeLinear", &["c", "s"], &["y"], vec![])
        .typed_output("c", DType::I8, &[2])
        .typed_output("y", DType::F32, &[2])
        .ok();
    let c = g.value(g.0.outputs[0]);
    assert_eq!((c.name.as_str(), c.ty.as_ref().unwrap().to_string()), ("c", "s8[2]".into()));
    assert_eq!(g.lines(), ["y = dequantize(c_1)"]);
    let e = Net::new()
        .input("x", DType::F32, &[1])
        .node("Shape", &["x"], &["y"], vec![])
        .typed_output("y", DType::F32, &[1])
        .import()
        .unwrap_err();
    assert!(matches!(e, ImportError::Model { .. }), "{e}");
}

#[test]
fn limits_hold() {
    let chain = |n: usize| {
        let mut net = Net::new().input("v0", DType::F32, &[1]);
        for i in 0..n {
            net = net.node("Relu", &[&format!("v{i}")], &[&format!("v{}", i + 1)], vec![]);
        }
        net.output(&format!("v{n}")).bytes()
    };
    let kind = |bytes: Vec<u8>, limits: Limits| {
        import_bytes(bytes.into(), None, &ImportOptions::with_limits(limits)).map_err(|e| e.kind())
    };
    let d = Limits::default;
    assert!(kind(chain(10), Limits { nodes: 10, values: 11, ..d() }).is_ok());
    assert_eq!(kind(chain(10), Limits { nodes: 9, ..d() }).unwrap_err(), ErrorKind::Limit);
    assert_eq!(kind(chain(10), Limits { values: 10, ..d() }).unwrap_err(), ErrorKind::Limit);
    assert_eq!(kind(chain(10), Limits { file_bytes: 9, ..d() }).unwrap_err(), ErrorKind::Limit);
    assert_eq!(kind(chain(10), Limits { name_bytes: 1, ..d() }).unwrap_err(), ErrorKind::Limit);
    // A Sum of n operands is n − 1 nodes.
    let sum = Net::new().input("x", DType::F32, &[1]).node("Sum", &["x"; 12], &["y"], vec![]);
    let sum = sum.output("y").bytes();
    assert_eq!(kind(sum.clone(), Limits { nodes: 10, ..d() }).unwrap_err(), ErrorKind::Limit);
    assert!(kind(sum, Limits { nodes: 11, ..d() }).is_ok());
}
