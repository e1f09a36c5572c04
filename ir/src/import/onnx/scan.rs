//! A walk over the encoded file that bounds what decoding it will allocate.
//!
//! A message of two bytes becomes a struct of hundreds, so a small file can decode to gigabytes.
//! This pass reads only tags and lengths, allocates nothing that grows with the file, and refuses the
//! file before the decoder sees it. Its schema must cover every message and repeated field of
//! `onnx.proto`; fields that are not listed are skipped by the decoder too.

use super::error::ImportError;
use super::proto;
use crate::Limits;

/// Decoded bytes allowed for each byte of the file: a packed one-byte varint becomes an `i64`.
const GROWTH: u64 = 8;
/// Decoded bytes allowed whatever the size of the file.
const FLOOR: u64 = 32 << 20;

#[derive(Clone, Copy)]
enum Message {
    Model,
    Opset,
    KeyValue,
    Function,
    Graph,
    Node,
    Attribute,
    Tensor,
    Segment,
    Sparse,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Dimension,
}

enum Field {
    Message(Message),
    Text,
    /// A repeated number: packed, or one by one.
    Numbers,
    Other,
}

/// The schema: what the field `number` of a message holds.
fn field(message: Message, number: u64) -> Field {
    use Message::*;
    match (message, number) {
        (Model, 7) => Field::Message(Graph),
        (Model, 8) => Field::Message(Opset),
        (Model, 14) | (Tensor, 13) => Field::Message(KeyValue),
        (Model, 25) => Field::Message(Function),
        (Graph, 1) => Field::Message(Node),
        (Graph, 5) | (Attribute, 5) | (Sparse, 1) => Field::Message(Tensor),
        (Graph, 11..=13) => Field::Message(ValueInfo),
        (Graph, 15) => Field::Message(Sparse),
        (Node, 5) => Field::Message(Attribute),
        (Tensor, 3) => Field::Message(Segment),
        (ValueInfo, 2) => Field::Message(Type),
        (Type, 1) => Field::Message(TensorType),
        (TensorType, 2) => Field::Message(Shape),
        (Shape, 1) => Field::Message(Dimension),
        (Model, 2 | 3)
        | (Opset, 1)
        | (KeyValue, 1 | 2)
        | (Function, 1 | 10)
        | (Graph, 2)
        | (Node, 1..=4 | 7)
        | (Attribute, 1 | 21)
        | (Tensor, 8)
        | (ValueInfo, 1)
        | (Dimension, 2) => Field::Text,
        (Attribute, 7 | 8) | (Tensor, 1 | 4 | 5 | 7 | 10 | 11) => Field::Numbers,
        _ => Field::Other,
    }
}

fn decoded_size(message: Message) -> u64 {
    use Message::*;
    let bytes = match message {
        Model => size_of::<proto::ModelProto>(),
        Opset => size_of::<proto::OperatorSetIdProto>(),
        KeyValue => size_of::<proto::StringStringEntryProto>(),
        Function => size_of::<proto::FunctionProto>(),
        Graph => size_of::<proto::GraphProto>(),
        Node => size_of::<proto::NodeProto>(),
        Attribute => size_of::<proto::AttributeProto>(),
        Tensor => size_of::<proto::TensorProto>(),
        Segment => size_of::<proto::tensor_proto::Segment>(),
        Sparse => size_of::<proto::SparseTensorProto>(),
        ValueInfo => size_of::<proto::ValueInfoProto>(),
        Type => size_of::<proto::TypeProto>(),
        TensorType => size_of::<proto::TensorTypeProto>(),
        Shape => size_of::<proto::TensorShapeProto>(),
        Dimension => size_of::<proto::tensor_shape_proto::Dimension>(),
    };
    bytes as u64
}

/// Refuses a file whose decoded form would be out of proportion to its size, or that has more nodes
/// or values than the limits allow.
pub(super) fn check(bytes: &[u8], limits: &Limits) -> Result<(), ImportError> {
    Scan { bytes, at: 0 }.run(limits)
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn run(&mut self, limits: &Limits) -> Result<(), ImportError> {
        let allowed = FLOOR.saturating_add(GROWTH.saturating_mul(self.bytes.len() as u64));
        let (mut decoded, mut nodes, mut values) = (0u64, 0u64, 0u64);
        // The schema has no recursion, so the stack is as deep as the schema at most.
        let mut open = vec![(Message::Model, self.bytes.len())];
        while let Some(&(message, end)) = open.last() {
            if self.at == end {
                open.pop();
                continue;
            }
            let key = self.varint(end)?;
            let content = field(message, key >> 3);
            match key & 7 {
                0 => {
                    self.varint(end)?;
                }
                1 => self.skip(8, end)?,
                5 => self.skip(4, end)?,
                2 => {
                    let length = self.varint(end)?;
                    let start = self.at;
                    self.skip(length, end)?;
                    match content {
                        Field::Message(inner) => {
                            decoded += decoded_size(inner);
                            match inner {
                                Message::Node => nodes += 1,
                                Message::Tensor | Message::ValueInfo => values += 1,
                                _ => {}
                            }
                            open.push((inner, self.at));
                            self.at = start;
                        }
                        Field::Text => decoded += length + size_of::<String>() as u64,
                        Field::Numbers => decoded += length * 8,
                        Field::Other => {}
                    }
                }
                _ => return self.bad("a group or an unknown wire type"),
            }
            if key & 7 != 2 && matches!(content, Field::Numbers) {
                decoded += 8;
            }
            limit("number of nodes", nodes, limits.nodes as u64)?;
            limit("number of values", values, limits.values as u64)?;
            limit("bytes of the decoded model without its tensors", decoded, allowed)?;
        }
        Ok(())
    }

    fn varint(&mut self, end: usize) -> Result<u64, ImportError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes[..end].get(self.at) else {
                return self.bad("truncated");
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.bad("a number of more than 64 bits")
    }

    fn skip(&mut self, length: u64, end: usize) -> Result<(), ImportError> {
        if length > (end - self.at) as u64 {
            return self.bad("truncated, or a length that is too large");
        }
        self.at += length as usize;
        Ok(())
    }

    fn bad<T>(&self, what: &str) -> Result<T, ImportError> {
        Err(ImportError::Encoding { detail: format!("{what}, at byte {}", self.at) })
    }
}

fn limit(what: &str, needed: u64, limit: u64) -> Result<(), ImportError> {
    if needed <= limit {
        return Ok(());
    }
    Err(ImportError::Limit { what: what.into(), needed, limit })
}
