//! ONNX models made in code.

use requant_ir::import::onnx::proto::attribute_proto::AttributeType;
use requant_ir::import::onnx::proto::tensor_proto::DataType;
use requant_ir::import::onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
use requant_ir::import::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use requant_ir::import::onnx::{ImportError, ImportOptions, import_bytes};
use requant_ir::{DType, Element, Model, Node, Op, Value as IrValue, ValueId};

use prost::Message;

pub(crate) struct Net(pub(crate) ModelProto);

pub(crate) fn data_type(dtype: DType) -> i32 {
    (match dtype {
        DType::F32 => DataType::Float,
        DType::F16 => DataType::Float16,
        DType::F64 => DataType::Double,
        DType::I4 => DataType::Int4,
        DType::U4 => DataType::Uint4,
        DType::I8 => DataType::Int8,
        DType::U8 => DataType::Uint8,
        DType::I16 => DataType::Int16,
        DType::U16 => DataType::Uint16,
        DType::I32 => DataType::Int32,
        DType::I64 => DataType::Int64,
        DType::Bool => DataType::Bool,
    }) as i32
}

fn info(name: &str, dtype: DType, dims: Option<&[i64]>) -> ValueInfoProto {
    let dim = |&d: &i64| Dimension { value: Some(Value::DimValue(d)) };
    let shape = dims.map(|d| TensorShapeProto { dim: d.iter().map(dim).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: data_type(dtype), shape });
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { tensor_type, ..Default::default() }),
    }
}

pub(crate) fn raw<T: Element>(name: &str, dims: &[i64], data: &[T]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: data_type(T::DTYPE),
        raw_data: Some(bytemuck::cast_slice::<T, u8>(data).to_vec().into()),
        ..Default::default()
    }
}

fn attr(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: r#type.into(), ..Default::default() }
}

pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attr(name, AttributeType::Int) }
}

pub(crate) fn ints(name: &str, v: &[i64]) -> AttributeProto {
    AttributeProto { ints: v.to_vec(), ..attr(name, AttributeType::Ints) }
}

pub(crate) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f, ..attr(name, AttributeType::Float) }
}

pub(crate) fn floats(name: &str, v: &[f32]) -> AttributeProto {
    AttributeProto { floats: v.to_vec(), ..attr(name, AttributeType::Floats) }
}

pub(crate) fn string(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: s.as_bytes().to_vec().into(), ..attr(name, AttributeType::String) }
}

pub(crate) fn tensor(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(t), ..attr(name, AttributeType::Tensor) }
}

pub(crate) fn graph(name: &str) -> AttributeProto {
    attr(name, AttributeType::Graph)
}

impl Net {
    pub(crate) fn new() -> Self {
        let set = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
        Net(ModelProto {
            ir_version: 8,
            opset_import: vec![set("", 17), set("com.microsoft", 1)],
            graph: Some(GraphProto { name: "g".into(), ..Default::default() }),
            ..Default::default()
        })
    }

    pub(crate) fn opset(mut self, version: i64) -> Self {
        self.0.opset_import[0].version = version;
        self
    }

    pub(crate) fn graph(&mut self) -> &mut GraphProto {
        self.0.graph.as_mut().unwrap()
    }

    pub(crate) fn input(mut self, name: &str, dtype: DType, dims: &[i64]) -> Self {
        self.graph().input.push(info(name, dtype, Some(dims)));
        self
    }

    pub(crate) fn input_unranked(mut self, name: &str, dtype: DType) -> Self {
        self.graph().input.push(info(name, dtype, None));
        self
    }

    pub(crate) fn init(mut self, t: TensorProto) -> Self {
        self.graph().initializer.push(t);
        self
    }

    pub(crate) fn constant<T: Element>(self, name: &str, dims: &[i64], data: &[T]) -> Self {
        self.init(raw(name, dims, data))
    }

    /// A node named as its first result; `op` may have a domain: `com.microsoft.QGemm`.
    pub(crate) fn node(
        mut self,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> Self {
        let (domain, op_type) = op.rsplit_once('.').unwrap_or(("", op));
        let strings = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        self.graph().node.push(NodeProto {
            name: format!("n_{}", outputs.first().unwrap_or(&"none")),
            op_type: op_type.into(),
            domain: domain.into(),
            input: strings(inputs),
            output: strings(outputs),
            attribute,
        });
        self
    }

    /// An output whose declared type is only its name.
    pub(crate) fn output(mut self, name: &str) -> Self {
        self.graph().output.push(ValueInfoProto { name: name.into(), r#type: None });
        self
    }

    pub(crate) fn typed_output(mut self, name: &str, dtype: DType, dims: &[i64]) -> Self {
        self.graph().output.push(info(name, dtype, Some(dims)));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    pub(crate) fn import(&self) -> Result<Model, ImportError> {
        import_bytes(self.bytes().into(), None, &ImportOptions::default())
    }

    /// The only graph of the imported model.
    pub(crate) fn ok(&self) -> Imported {
        match self.import() {
            Ok(mut model) => Imported(model.graphs.remove(0)),
            Err(e) => panic!("{e}"),
        }
    }
}

pub(crate) struct Imported(pub(crate) requant_ir::Graph);

impl Imported {
    pub(crate) fn node(&self, name: &str) -> &Node {
        self.0.nodes.iter().find(|n| n.name == name).unwrap_or_else(|| {
            panic!(
                "no node `{name}` in {:?}",
                self.0.nodes.iter().map(|n| &n.name).collect::<Vec<_>>()
            )
        })
    }

    pub(crate) fn value(&self, id: ValueId) -> &IrValue {
        self.0.value(id).unwrap()
    }

    pub(crate) fn named(&self, name: &str) -> &IrValue {
        self.0.values.iter().find(|v| v.name == name).unwrap()
    }

    /// Each node as `result, … = mnemonic(operand, …)`, with `_` for an absent operand.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |n: &Node| {
            let name = |id: ValueId| self.value(id).name.as_str();
            let inputs: Vec<_> = n.inputs.iter().map(|i| i.map_or("_", name)).collect();
            let outputs: Vec<_> = n.outputs.iter().map(|&o| name(o)).collect();
            format!("{} = {}({})", outputs.join(", "), n.op.mnemonic(), inputs.join(", "))
        };
        self.0.nodes.iter().map(line).collect()
    }

    /// The operator of the only node.
    pub(crate) fn only(&self) -> &Op {
        assert_eq!(self.0.nodes.len(), 1, "{:?}", self.lines());
        &self.0.nodes[0].op
    }
}
