//! Patches: the only way to change a graph.
//!
//! A patch is built against one state of a graph and applied to that same state. It adds nodes and
//! says which values they replace; applying it checks everything first, then rewires and removes what
//! nothing depends on any more.

use crate::{NodeId, NodeKind, Outlet};
use requant_ir::{Op, Tensor};

/// How far a rewrite may be from what it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exactness {
    /// The same bits.
    Exact,
    /// One quantization step where a result is quantized, rounding where it is float.
    OneStep,
    /// No bound; never done unless asked for.
    Approximate,
}

/// Where an operand or a replacement comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Src {
    /// A value of the graph as it is.
    Outlet(Outlet),
    /// Result `.1` of the patch's new node `.0`.
    New(usize, u16),
}

impl From<Outlet> for Src {
    fn from(outlet: Outlet) -> Self {
        Src::Outlet(outlet)
    }
}

/// New nodes, and the values that they replace.
#[derive(Clone, Debug)]
pub struct Patch {
    /// The pass that proposes it.
    pub pass: &'static str,
    /// How exact it is.
    pub class: Exactness,
    /// What people should know of it besides, for the report.
    pub note: Option<String>,
    pub(crate) nodes: Vec<NewNode>,
    pub(crate) replacements: Vec<(Outlet, Src)>,
}

/// A node to add.
#[derive(Clone, Debug)]
pub(crate) struct NewNode {
    pub(crate) name: String,
    pub(crate) kind: NodeKind,
    pub(crate) operands: Vec<Option<Src>>,
    pub(crate) results: usize,
}

/// What applying a patch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Nodes before.
    pub before: usize,
    /// Nodes after.
    pub after: usize,
    /// The patch's nodes in its order; `None` for those that nothing depends on.
    pub nodes: Vec<Option<NodeId>>,
}

impl Patch {
    /// An empty patch.
    pub fn new(pass: &'static str, class: Exactness) -> Self {
        Patch { pass, class, note: None, nodes: Vec::new(), replacements: Vec::new() }
    }

    /// Adds a constant. A name that is taken gets a number.
    pub fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> Src {
        self.push(name.into(), NodeKind::Constant(tensor), Vec::new(), 1)
    }

    /// Adds an operator with one result. A name that is taken gets a number.
    pub fn op(&mut self, name: impl Into<String>, op: Op, operands: Vec<Option<Src>>) -> Src {
        self.push(name.into(), NodeKind::Op(op), operands, 1)
    }

    /// Adds an operator with several results.
    pub fn op_n(
        &mut self,
        name: impl Into<String>,
        op: Op,
        operands: Vec<Option<Src>>,
        results: u16,
    ) -> Vec<Src> {
        self.push(name.into(), NodeKind::Op(op), operands, usize::from(results));
        (0..results).map(|slot| Src::New(self.nodes.len() - 1, slot)).collect()
    }

    fn push(
        &mut self,
        name: String,
        kind: NodeKind,
        operands: Vec<Option<Src>>,
        results: usize,
    ) -> Src {
        self.nodes.push(NewNode { name, kind, operands, results });
        Src::New(self.nodes.len() - 1, 0)
    }

    /// All that read `old`, graph outputs included but not this patch's own nodes, now read `new`.
    /// A new value takes over the name of the old one, unless that is a graph input; a value that
    /// was there already keeps its own.
    pub fn replace(&mut self, old: Outlet, new: Src) {
        self.replacements.push((old, new));
    }

    /// The values replaced, in order.
    pub fn replaced(&self) -> impl Iterator<Item = Outlet> + '_ {
        self.replacements.iter().map(|&(old, _)| old)
    }

    /// The elements of new node `i` if it is a constant.
    pub(crate) fn constant_of(&self, i: usize) -> Option<&Tensor> {
        match &self.nodes[i].kind {
            NodeKind::Constant(tensor) => Some(tensor),
            _ => None,
        }
    }
}
