//! The attributes of a node, by name and type.

use super::error::{Failure, malformed, unsupported};
use super::proto::attribute_proto::AttributeType;
use super::proto::{AttributeProto, NodeProto, TensorProto};
use std::collections::BTreeMap;

/// Attributes that have not been read yet. What is left when a node is done is not understood.
pub(super) struct Attrs<'a>(BTreeMap<&'a str, &'a AttributeProto>);

impl<'a> Attrs<'a> {
    pub(super) fn new(node: &'a NodeProto) -> Result<Self, Failure> {
        let mut attrs = BTreeMap::new();
        for attr in &node.attribute {
            if !attr.ref_attr_name.is_empty() {
                return malformed(format!(
                    "attribute `{}` refers to a function's attribute outside of a function",
                    attr.name
                ));
            }
            if attrs.insert(attr.name.as_str(), attr).is_some() {
                return malformed(format!("attribute `{}` is given twice", attr.name));
            }
        }
        Ok(Attrs(attrs))
    }

    fn take(
        &mut self,
        name: &str,
        wanted: AttributeType,
    ) -> Result<Option<&'a AttributeProto>, Failure> {
        match self.0.remove(name) {
            Some(attr) if attr.r#type() != wanted => malformed(format!(
                "attribute `{name}` is {}, not {}",
                attr.r#type().as_str_name(),
                wanted.as_str_name()
            )),
            other => Ok(other),
        }
    }

    pub(super) fn int(&mut self, name: &str) -> Result<Option<i64>, Failure> {
        Ok(self.take(name, AttributeType::Int)?.map(|a| a.i))
    }

    pub(super) fn int_or(&mut self, name: &str, default: i64) -> Result<i64, Failure> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// An INT that must be 0 or 1.
    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool, Failure> {
        match self.int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(n) => malformed(format!("attribute `{name}` is {n}, not 0 or 1")),
        }
    }

    pub(super) fn ints(&mut self, name: &str) -> Result<Option<&'a [i64]>, Failure> {
        Ok(self.take(name, AttributeType::Ints)?.map(|a| a.ints.as_slice()))
    }

    pub(super) fn float(&mut self, name: &str) -> Result<Option<f32>, Failure> {
        Ok(self.take(name, AttributeType::Float)?.map(|a| a.f))
    }

    pub(super) fn float_or(&mut self, name: &str, default: f32) -> Result<f32, Failure> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    pub(super) fn floats(&mut self, name: &str) -> Result<Option<&'a [f32]>, Failure> {
        Ok(self.take(name, AttributeType::Floats)?.map(|a| a.floats.as_slice()))
    }

    pub(super) fn string(&mut self, name: &str) -> Result<Option<&'a str>, Failure> {
        match self.take(name, AttributeType::String)? {
            None => Ok(None),
            Some(a) => match std::str::from_utf8(&a.s) {
                Ok(text) => Ok(Some(text)),
                Err(_) => malformed(format!("attribute `{name}` is not text")),
            },
        }
    }

    pub(super) fn tensor(&mut self, name: &str) -> Result<Option<&'a TensorProto>, Failure> {
        match self.take(name, AttributeType::Tensor)? {
            None => Ok(None),
            Some(AttributeProto { t: Some(tensor), .. }) => Ok(Some(tensor)),
            Some(_) => malformed(format!("attribute `{name}` has no tensor")),
        }
    }

    /// Drops attributes that do not change the result.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// The first attribute that nobody asked for could change the meaning.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => unsupported(format!("attribute `{name}`")),
        }
    }
}
