//! Messages to models. Nothing read is trusted.

use super::enums::Numbered;
use super::{INLINE_BYTES, VERSION, ops, pb, scan};
use crate::file::Problem;
use crate::tensor::aligned;
use crate::verify::Place;
use crate::{
    ALIGN, Dim, ElemType, Graph, Limits, Model, Node, Quant, QuantParams, Tensor, TensorType,
    Value, ValueId,
};
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;

/// What is wrong with a part of a model; the caller says which part.
pub(super) enum Fault {
    /// Something that later versions of the schema have.
    Newer(String),
    /// Something no version has.
    Malformed(String),
}

pub(super) type Part<T> = Result<T, Fault>;

pub(super) fn malformed<T>(reason: impl Into<String>) -> Part<T> {
    Err(Fault::Malformed(reason.into()))
}

/// The field of a message that must be there.
pub(super) fn required<'a, T>(field: &'a Option<T>, what: &str) -> Part<&'a T> {
    field.as_ref().ok_or_else(|| Fault::Malformed(format!("{what} is missing")))
}

pub(super) fn number<T: Numbered>(number: i32) -> Part<T> {
    T::from_number(number).ok_or_else(|| match number {
        0 => Fault::Malformed(format!("the {} is not specified", T::WHAT)),
        n => Fault::Newer(format!("{} {n}", T::WHAT)),
    })
}

/// A number that must fit this machine's address space.
pub(super) fn size(n: u64) -> Part<usize> {
    usize::try_from(n).or_else(|_| malformed(format!("{n} is too large for this machine")))
}

pub(super) fn sizes(items: &[u64]) -> Part<Vec<usize>> {
    items.iter().map(|&n| size(n)).collect()
}

/// The model of a message. `data` is the section that constants lie in; it need not be aligned.
pub(crate) fn decode(message: Bytes, data: Bytes, limits: &Limits) -> Result<Model, Problem> {
    scan::check(&message, limits)?;
    let model =
        pb::Model::decode(message).map_err(|e| Problem::Protobuf { reason: e.to_string() })?;
    if model.min_reader > VERSION {
        return Err(Problem::Newer {
            what: format!("schema {}", model.min_reader),
            place: Place::default(),
        });
    }
    let whole = |fault| problem(fault, Place::default());
    let decoder = Decoder {
        blobs: blobs(&model.blobs, data).map_err(whole)?,
        symbols: model.symbols.iter().map(|s| Arc::from(s.as_str())).collect(),
    };
    Ok(Model {
        producer: model.producer,
        graphs: model.graphs.into_iter().map(|g| decoder.graph(g)).collect::<Result<_, _>>()?,
        metadata: model.metadata.into_iter().map(|pair| (pair.key, pair.value)).collect(),
    })
}

fn problem(fault: Fault, place: Place) -> Problem {
    match fault {
        Fault::Newer(what) => Problem::Newer { what, place },
        Fault::Malformed(reason) => Problem::Model { reason, place },
    }
}

/// Aligned bytes of each blob, shared by all that name it.
fn blobs(blobs: &[pb::Blob], data: Bytes) -> Part<Vec<Bytes>> {
    let copy = |bytes: &[u8]| aligned(bytes).map_err(|e| Fault::Malformed(e.to_string()));
    let data = if data.as_ptr().addr().is_multiple_of(ALIGN) { data } else { copy(&data)? };
    let mut end = 0;
    let mut out = Vec::new();
    for (i, blob) in blobs.iter().enumerate() {
        out.push(match &blob.storage {
            None => return Err(Fault::Newer(format!("the storage of constant {i}"))),
            Some(pb::blob::Storage::Inline(bytes)) if bytes.len() > INLINE_BYTES => {
                return malformed(format!("constant {i} has {} bytes inline", bytes.len()));
            }
            Some(pb::blob::Storage::Inline(bytes)) => copy(bytes)?,
            Some(pb::blob::Storage::Data(range)) => {
                let start = size(range.offset)?;
                let stop = start.checked_add(size(range.length)?);
                let stop = stop.filter(|&stop| stop <= data.len()).ok_or_else(|| {
                    Fault::Malformed(format!(
                        "constant {i} lies at {start}, {} bytes, in a section of {}",
                        range.length,
                        data.len()
                    ))
                })?;
                if start < end || !start.is_multiple_of(ALIGN) {
                    return malformed(format!(
                        "constant {i} lies at {start}, which overlaps another or is not aligned"
                    ));
                }
                end = stop;
                data.slice(start..stop)
            }
        });
    }
    Ok(out)
}

struct Decoder {
    blobs: Vec<Bytes>,
    symbols: Vec<Arc<str>>,
}

impl Decoder {
    fn graph(&self, graph: pb::Graph) -> Result<Graph, Problem> {
        let place = |node: Option<&str>, value: Option<&str>| Place {
            graph: Some(graph.name.clone()),
            node: node.map(str::to_owned),
            op: None,
            value: value.map(str::to_owned),
        };
        let values = graph
            .values
            .iter()
            .map(|v| self.value(v).map_err(|fault| problem(fault, place(None, Some(&v.name)))))
            .collect::<Result<_, _>>()?;
        let nodes = graph
            .nodes
            .iter()
            .map(|n| node(n).map_err(|fault| problem(fault, place(Some(&n.name), None))))
            .collect::<Result<_, _>>()?;
        let ids = |ids: Vec<u32>| ids.into_iter().map(ValueId).collect();
        Ok(Graph {
            values,
            nodes,
            inputs: ids(graph.inputs),
            outputs: ids(graph.outputs),
            name: graph.name,
        })
    }

    fn value(&self, value: &pb::Value) -> Part<Value> {
        let ty = value.r#type.as_ref().map(|ty| self.tensor_type(ty)).transpose()?;
        let data = value.blob.map(|index| self.constant(index, ty.as_ref())).transpose()?;
        Ok(Value { name: value.name.clone(), ty, data })
    }

    fn constant(&self, index: u32, ty: Option<&TensorType>) -> Part<Tensor> {
        let Some(bytes) = self.blobs.get(index as usize) else {
            return malformed(format!("constant {index} of {}", self.blobs.len()));
        };
        let Some((elem, dims)) = ty.and_then(|ty| Some((ty.elem.clone(), ty.fixed_dims()?))) else {
            return malformed("a constant needs a type with all extents");
        };
        Tensor::from_bytes(elem, dims, bytes.clone()).or_else(|e| malformed(e.to_string()))
    }

    fn tensor_type(&self, ty: &pb::TensorType) -> Part<TensorType> {
        let dims = ty
            .shape
            .as_ref()
            .map(|shape| {
                if shape.dims.len() > crate::MAX_RANK {
                    return malformed(format!("rank {}", shape.dims.len()));
                }
                shape.dims.iter().map(|dim| self.dim(dim)).collect()
            })
            .transpose()?;
        Ok(TensorType { elem: elem_type(&ty.elem)?, dims })
    }

    fn dim(&self, dim: &pb::Dim) -> Part<Dim> {
        match required(&dim.extent, "an extent")? {
            pb::dim::Extent::Fixed(n) => size(*n).map(Dim::Fixed),
            pb::dim::Extent::Unknown(_) => Ok(Dim::Unknown),
            pb::dim::Extent::Symbol(index) => match self.symbols.get(*index as usize) {
                Some(name) => Ok(Dim::Symbol(name.clone())),
                None => malformed(format!("symbol {index} of {}", self.symbols.len())),
            },
        }
    }
}

fn node(node: &pb::Node) -> Part<Node> {
    let Some(op) = &node.op else {
        return Err(Fault::Newer("the operator".into()));
    };
    Ok(Node {
        name: node.name.clone(),
        op: ops::decode(op)?,
        inputs: node.inputs.iter().map(|&id| id.checked_sub(1).map(ValueId)).collect(),
        outputs: node.outputs.iter().map(|&id| ValueId(id)).collect(),
        origin: node.origin.clone(),
    })
}

pub(super) fn elem_type(elem: &Option<pb::ElemType>) -> Part<ElemType> {
    let elem = required(elem, "an element type")?;
    Ok(ElemType { dtype: number(elem.dtype)?, quant: elem.quant.as_ref().map(quant).transpose()? })
}

fn quant(quant: &pb::Quant) -> Part<Quant> {
    let zero_points = |zeros: &[i32], scales: &[f32]| -> Arc<[i32]> {
        if zeros.is_empty() { vec![0; scales.len()].into() } else { zeros.into() }
    };
    let params = match &quant.params {
        None => return Err(Fault::Newer("the form of quantization".into())),
        Some(pb::quant::Params::PerTensor(p)) => {
            QuantParams::PerTensor { scale: p.scale, zero_point: p.zero_point }
        }
        Some(pb::quant::Params::PerAxis(p)) => QuantParams::PerAxis {
            axis: size(p.axis.into())?,
            zero_points: zero_points(&p.zero_points, &p.scales),
            scales: p.scales.as_slice().into(),
        },
        Some(pb::quant::Params::PerBlock(p)) => QuantParams::PerBlock {
            axis: size(p.axis.into())?,
            size: size(p.size)?,
            zero_points: zero_points(&p.zero_points, &p.scales),
            scales: p.scales.as_slice().into(),
        },
    };
    Ok(Quant { expressed: number(quant.expressed)?, params, narrow_range: quant.narrow_range })
}

pub(super) fn tensor(tensor: &Option<pb::Tensor>) -> Part<Tensor> {
    let tensor = required(tensor, "a tensor")?;
    Tensor::from_bytes(elem_type(&tensor.elem)?, sizes(&tensor.dims)?, tensor.data.clone())
        .or_else(|e| malformed(e.to_string()))
}
