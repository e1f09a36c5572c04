//! The rules that every model obeys. Every loader checks them, and so may whoever builds a model.
//!
//! - ids are in range; each value is defined exactly once: as a graph input, a constant, or the result
//!   of one node; nodes use only what is defined before them, so that a graph has no cycle;
//! - names are unique in their graph and not empty;
//! - constants have a type that says what their bytes say; booleans are 0 or 1, unused nibbles are 0,
//!   a narrow range holds;
//! - scales are finite and positive, zero points are in the storage's range, lists are as long as the
//!   axis they are for;
//! - each operator has the operands and results it takes, attributes that mean something, and, where
//!   types are known, operands of types it is defined for.
//!
//! Shapes of results are not computed here: that is inference.

mod elem;
mod ops;

use crate::{DType, Dim, Graph, Limits, Model, Node, Tensor, TensorType, Value, ValueId};
use std::collections::BTreeSet;
use std::fmt;
use thiserror::Error;

/// A rule that a model breaks, and where.
#[derive(Debug, Error, Clone, PartialEq)]
#[error("{place}{rule}")]
pub struct VerifyError {
    /// Where.
    pub place: Box<Place>,
    /// What.
    pub rule: Box<Rule>,
}

/// The part of the model that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Name of the graph.
    pub graph: Option<String>,
    /// Name of the node.
    pub node: Option<String>,
    /// Its operator, if known.
    pub op: Option<&'static str>,
    /// Name of the value.
    pub value: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(graph) = &self.graph {
            write!(f, "graph `{graph}`: ")?;
        }
        if let Some(node) = &self.node {
            write!(f, "node `{node}`")?;
            if let Some(op) = self.op {
                write!(f, " ({op})")?;
            }
            f.write_str(": ")?;
        }
        if let Some(value) = &self.value {
            write!(f, "value `{value}`: ")?;
        }
        Ok(())
    }
}

/// A rule that a model can break.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// There is nothing to run.
    #[error("the model has no graph")]
    NoGraph,
    /// More than [`Limits`] allows.
    #[error("{got} {what} are above the limit of {limit}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        got: u64,
        /// How many there may be.
        limit: u64,
    },
    /// An id that no value has.
    #[error("{what} names value {id}, but there are {values} values")]
    Id {
        /// What refers to it.
        what: &'static str,
        /// The id.
        id: u32,
        /// Number of values.
        values: usize,
    },
    /// A name is missing.
    #[error("{what} {index} has an empty name")]
    EmptyName {
        /// `value` or `node`.
        what: &'static str,
        /// Its index.
        index: usize,
    },
    /// A name occurs twice.
    #[error("the name occurs twice among the graph's {what}s")]
    DuplicateName {
        /// `value` or `node`.
        what: &'static str,
    },
    /// A value is more than one of input, constant and result, or the result of two nodes.
    #[error("the value is defined twice")]
    Redefined,
    /// A value is neither input nor constant nor result.
    #[error("the value is never defined: it is no graph input, no constant and no node's result")]
    Undefined,
    /// An operand is computed later, or from this node.
    #[error(
        "the operand is used before it is computed (the nodes form a cycle or are out of order)"
    )]
    Order,
    /// The operator takes another number of operands or gives another number of results.
    #[error("{got} {what}, but the operator has {min} to {max}")]
    Arity {
        /// `operands` or `results`.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// Fewest.
        min: usize,
        /// Most.
        max: usize,
    },
    /// An operand that must be there is absent.
    #[error("operand {index} is absent")]
    MissingOperand {
        /// Its index.
        index: usize,
    },
    /// An attribute that means nothing.
    #[error("attribute `{attribute}` {reason}")]
    Attribute {
        /// Its name in the text form.
        attribute: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// An operand or result of a type the operator is not defined for.
    #[error("{what} is {got}, but must be {expected}")]
    Type {
        /// Which operand or result.
        what: String,
        /// Its type.
        got: String,
        /// What it may be.
        expected: String,
    },
    /// Quantization that means nothing.
    #[error("quantization: {reason}")]
    Quant {
        /// What is wrong.
        reason: String,
    },
    /// A shape that cannot be.
    #[error("shape: {reason}")]
    Shape {
        /// What is wrong.
        reason: String,
    },
    /// Type and elements of a constant do not agree.
    #[error("constant: {reason}")]
    Constant {
        /// What is wrong.
        reason: String,
    },
}

impl Model {
    /// Checks every rule of [`crate::verify`]; the first that is broken is the error.
    pub fn verify(&self, limits: &Limits) -> Result<(), VerifyError> {
        let whole = |rule| VerifyError { place: Box::default(), rule: Box::new(rule) };
        if self.graphs.is_empty() {
            return Err(whole(Rule::NoGraph));
        }
        let count = |len: fn(&Graph) -> usize| self.graphs.iter().map(len).sum::<usize>();
        limit("graphs", self.graphs.len(), limits.nodes).map_err(whole)?;
        limit("nodes", count(|g| g.nodes.len()), limits.nodes).map_err(whole)?;
        limit("values", count(|g| g.values.len()), limits.values).map_err(whole)?;
        self.graphs.iter().try_for_each(|graph| Verifier { graph, limits }.graph())
    }
}

fn limit(what: &'static str, got: usize, limit: usize) -> Result<(), Rule> {
    if got > limit {
        return Err(Rule::Limit { what, got: got as u64, limit: limit as u64 });
    }
    Ok(())
}

struct Verifier<'a> {
    graph: &'a Graph,
    limits: &'a Limits,
}

impl Verifier<'_> {
    fn error(&self, node: Option<&Node>, value: Option<&Value>, rule: Rule) -> VerifyError {
        VerifyError {
            place: Box::new(Place {
                graph: Some(self.graph.name.clone()),
                node: node.map(|n| n.name.clone()),
                op: node.map(|n| n.op.mnemonic()),
                value: value.map(|v| v.name.clone()),
            }),
            rule: Box::new(rule),
        }
    }

    fn graph(&self) -> Result<(), VerifyError> {
        let graph = self.graph;
        limit("bytes of the graph's name", graph.name.len(), self.limits.name_bytes)
            .map_err(|rule| self.error(None, None, rule))?;
        self.names("value", graph.values.iter().map(|v| &v.name))?;
        self.names("node", graph.nodes.iter().map(|n| &n.name))?;
        for value in &graph.values {
            self.value(value).map_err(|rule| self.error(None, Some(value), rule))?;
        }
        self.definitions()?;
        for node in &graph.nodes {
            ops::check(graph, node, self.limits)
                .map_err(|rule| self.error(Some(node), None, rule))?;
        }
        Ok(())
    }

    fn names<'n>(
        &self,
        what: &'static str,
        names: impl Iterator<Item = &'n String>,
    ) -> Result<(), VerifyError> {
        let mut seen = BTreeSet::new();
        for (index, name) in names.enumerate() {
            let rule = if name.is_empty() {
                Rule::EmptyName { what, index }
            } else if let Err(rule) = limit("bytes of a name", name.len(), self.limits.name_bytes) {
                rule
            } else if !seen.insert(name) {
                Rule::DuplicateName { what }
            } else {
                continue;
            };
            let mut error = self.error(None, None, rule);
            // A name above the limit is not repeated.
            let name = Some(name).filter(|n| n.len() <= self.limits.name_bytes).cloned();
            match what {
                "value" => error.place.value = name,
                _ => error.place.node = name,
            }
            return Err(error);
        }
        Ok(())
    }

    fn value(&self, value: &Value) -> Result<(), Rule> {
        if let Some(ty) = &value.ty {
            tensor_type(ty, self.limits)?;
        }
        match (&value.data, &value.ty) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Rule::Constant { reason: "it has no type".into() }),
            (Some(data), Some(ty)) => constant(data, ty),
        }
    }

    fn resolve(
        &self,
        id: ValueId,
        what: &'static str,
        node: Option<&Node>,
    ) -> Result<&Value, VerifyError> {
        let values = self.graph.values.len();
        self.graph
            .value(id)
            .ok_or_else(|| self.error(node, None, Rule::Id { what, id: id.0, values }))
    }

    /// Each value is defined once, and before it is used.
    fn definitions(&self) -> Result<(), VerifyError> {
        let graph = self.graph;
        let mut defined: Vec<bool> = graph.values.iter().map(|v| v.data.is_some()).collect();
        for &id in &graph.inputs {
            let value = self.resolve(id, "a graph input", None)?;
            if std::mem::replace(&mut defined[id.index()], true) {
                return Err(self.error(None, Some(value), Rule::Redefined));
            }
        }
        for node in &graph.nodes {
            for &id in node.inputs.iter().flatten() {
                let value = self.resolve(id, "an operand", Some(node))?;
                if !defined[id.index()] {
                    return Err(self.error(Some(node), Some(value), Rule::Order));
                }
            }
            for &id in &node.outputs {
                let value = self.resolve(id, "a result", Some(node))?;
                if std::mem::replace(&mut defined[id.index()], true) {
                    return Err(self.error(Some(node), Some(value), Rule::Redefined));
                }
            }
        }
        for &id in &graph.outputs {
            self.resolve(id, "a graph output", None)?;
        }
        match defined.iter().position(|d| !d) {
            Some(i) => Err(self.error(None, Some(&graph.values[i]), Rule::Undefined)),
            None => Ok(()),
        }
    }
}

fn tensor_type(ty: &TensorType, limits: &Limits) -> Result<(), Rule> {
    let Some(dims) = &ty.dims else {
        return elem::check(&ty.elem, None);
    };
    let shape = |reason: String| Err(Rule::Shape { reason });
    if dims.len() > crate::MAX_RANK {
        return shape(format!("rank {} is above {}", dims.len(), crate::MAX_RANK));
    }
    for dim in dims {
        match dim {
            Dim::Fixed(n) if *n as u64 > limits.extent => {
                return Err(Rule::Limit {
                    what: "elements of an axis",
                    got: *n as u64,
                    limit: limits.extent,
                });
            }
            Dim::Symbol(name) if name.is_empty() => return shape("a symbol has no name".into()),
            Dim::Symbol(name) => limit("bytes of a symbol's name", name.len(), limits.name_bytes)?,
            _ => {}
        }
    }
    if let Some(fixed) = ty.fixed_dims()
        && let Err(e) = Tensor::byte_len(ty.dtype(), &fixed)
    {
        return shape(e.to_string());
    }
    elem::check(&ty.elem, Some(dims))
}

fn constant(data: &Tensor, ty: &TensorType) -> Result<(), Rule> {
    let fail = |reason: String| Err(Rule::Constant { reason });
    if data.ty() != *ty {
        return fail(format!("the elements are {}, but the type is {ty}", data.ty()));
    }
    let bytes = data.bytes();
    match data.dtype() {
        DType::Bool if bytes.iter().any(|&b| b > 1) => {
            return fail("a bool is neither 0 nor 1".into());
        }
        DType::I4 | DType::U4
            if data.len() % 2 == 1 && bytes.last().is_some_and(|b| b >> 4 != 0) =>
        {
            return fail("the unused half of the last byte is not 0".into());
        }
        _ => {}
    }
    if ty.quant().is_some_and(|q| q.narrow_range) && elem::has_lowest(data) {
        return fail(format!("the range is narrow, but the lowest {} occurs", data.dtype()));
    }
    Ok(())
}
