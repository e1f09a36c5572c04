//! Models to messages and a data section.

use super::enums::Numbered;
use super::{INLINE_BYTES, VERSION, ops, pb};
use crate::{ALIGN, Dim, ElemType, Graph, Model, Node, Quant, QuantParams, Tensor, TensorType};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Constants outside of the message, each at an offset that is a multiple of [`ALIGN`].
#[derive(Default)]
pub(crate) struct DataSection {
    /// Offset and bytes, ascending.
    pub(crate) blobs: Vec<(u64, Bytes)>,
    /// Bytes of the section.
    pub(crate) len: u64,
}

/// The message of a model that obeys the verifier's rules, and what it refers to.
pub(crate) fn encode(model: &Model) -> (pb::Model, DataSection) {
    let mut encoder = Encoder::default();
    let graphs = model.graphs.iter().map(|g| encoder.graph(g)).collect();
    let metadata = model
        .metadata
        .iter()
        .map(|(key, value)| pb::KeyValue { key: key.clone(), value: value.clone() })
        .collect();
    let message = pb::Model {
        version: VERSION,
        min_reader: VERSION,
        producer: model.producer.clone(),
        graphs,
        blobs: encoder.blobs,
        symbols: encoder.symbol_names,
        metadata,
    };
    (message, encoder.data)
}

#[derive(Default)]
struct Encoder {
    blobs: Vec<pb::Blob>,
    /// Index in `blobs` by content, so that equal constants are stored once.
    known: BTreeMap<Bytes, u32>,
    data: DataSection,
    symbols: BTreeMap<Arc<str>, u32>,
    symbol_names: Vec<String>,
}

impl Encoder {
    fn graph(&mut self, graph: &Graph) -> pb::Graph {
        let values = graph
            .values
            .iter()
            .map(|value| pb::Value {
                name: value.name.clone(),
                r#type: value.ty.as_ref().map(|ty| self.tensor_type(ty)),
                blob: value.data.as_ref().map(|data| self.blob(data.bytes())),
            })
            .collect();
        pb::Graph {
            name: graph.name.clone(),
            values,
            nodes: graph.nodes.iter().map(node).collect(),
            inputs: graph.inputs.iter().map(|id| id.0).collect(),
            outputs: graph.outputs.iter().map(|id| id.0).collect(),
        }
    }

    fn blob(&mut self, bytes: &Bytes) -> u32 {
        if let Some(&index) = self.known.get(bytes) {
            return index;
        }
        let storage = if bytes.len() <= INLINE_BYTES {
            pb::blob::Storage::Inline(bytes.clone())
        } else {
            let offset = self.data.len.next_multiple_of(ALIGN as u64);
            let length = bytes.len() as u64;
            self.data.blobs.push((offset, bytes.clone()));
            self.data.len = offset + length;
            pb::blob::Storage::Data(pb::DataRef { offset, length })
        };
        let index = self.blobs.len() as u32;
        self.blobs.push(pb::Blob { storage: Some(storage) });
        self.known.insert(bytes.clone(), index);
        index
    }

    fn tensor_type(&mut self, ty: &TensorType) -> pb::TensorType {
        let shape = ty.dims.as_ref().map(|dims| pb::Shape {
            dims: dims.iter().map(|dim| pb::Dim { extent: Some(self.extent(dim)) }).collect(),
        });
        pb::TensorType { elem: Some(elem_type(&ty.elem)), shape }
    }

    fn extent(&mut self, dim: &Dim) -> pb::dim::Extent {
        match dim {
            Dim::Fixed(n) => pb::dim::Extent::Fixed(*n as u64),
            Dim::Unknown => pb::dim::Extent::Unknown(pb::Empty {}),
            Dim::Symbol(name) => {
                let next = self.symbol_names.len() as u32;
                let index = *self.symbols.entry(name.clone()).or_insert(next);
                if index == next {
                    self.symbol_names.push(name.to_string());
                }
                pb::dim::Extent::Symbol(index)
            }
        }
    }
}

fn node(node: &Node) -> pb::Node {
    pb::Node {
        name: node.name.clone(),
        inputs: node.inputs.iter().map(|id| id.map_or(0, |id| id.0 + 1)).collect(),
        outputs: node.outputs.iter().map(|id| id.0).collect(),
        origin: node.origin.clone(),
        op: Some(ops::encode(&node.op)),
    }
}

pub(super) fn elem_type(elem: &ElemType) -> pb::ElemType {
    pb::ElemType { dtype: elem.dtype.number(), quant: elem.quant.as_ref().map(quant) }
}

fn quant(quant: &Quant) -> pb::Quant {
    let scales = || quant.scales().to_vec();
    let zero_points = || {
        let zeros = quant.zero_points();
        if zeros.iter().all(|&z| z == 0) { Vec::new() } else { zeros.to_vec() }
    };
    let params = match &quant.params {
        &QuantParams::PerTensor { scale, zero_point } => {
            pb::quant::Params::PerTensor(pb::PerTensor { scale, zero_point })
        }
        QuantParams::PerAxis { axis, .. } => pb::quant::Params::PerAxis(pb::PerAxis {
            axis: *axis as u32,
            scales: scales(),
            zero_points: zero_points(),
        }),
        QuantParams::PerBlock { axis, size, .. } => pb::quant::Params::PerBlock(pb::PerBlock {
            axis: *axis as u32,
            size: *size as u64,
            scales: scales(),
            zero_points: zero_points(),
        }),
    };
    pb::Quant {
        expressed: quant.expressed.number(),
        narrow_range: quant.narrow_range,
        params: Some(params),
    }
}

pub(super) fn tensor(tensor: &Tensor) -> pb::Tensor {
    pb::Tensor {
        elem: Some(elem_type(tensor.elem())),
        dims: tensor.dims().iter().map(|&d| d as u64).collect(),
        data: tensor.bytes().clone(),
    }
}
