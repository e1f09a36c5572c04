//! The graph that passes rewrite: a façade over petgraph's `StableDiGraph`.
//!
//! Operands are edges that carry both slots, so that one value can be read twice by one node (`x·x`)
//! and optional operands can be absent. petgraph reuses the indices of removed nodes and iterates over
//! edges newest first; therefore no [`NodeId`] is kept across a patch, operand order comes from the
//! edges, and every order given out is by position in the source model, then by id.

use crate::GraphError;
use crate::infer::{self, Inferred, Operand};
use indexmap::IndexSet;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, IntoEdgeReferences};
use requant_ir::{Dim, Op, Tensor, TensorType};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

/// A node of one state of a graph. Applying a patch may give the id of a removed node to a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) NodeIndex<u32>);

/// One result of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outlet {
    /// The node.
    pub node: NodeId,
    /// Which of its results.
    pub slot: u16,
}

impl From<NodeId> for Outlet {
    /// The first result.
    fn from(node: NodeId) -> Self {
        Outlet { node, slot: 0 }
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// A value that the caller gives.
    Input,
    /// A value that is known.
    Constant(Tensor),
    /// A value that is computed.
    Op(Op),
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique among nodes.
    pub name: Arc<str>,
    /// What it is.
    pub kind: NodeKind,
    /// What is known of its results.
    pub outputs: SmallVec<[Fact; 1]>,
    /// Names of the source file's nodes it stands for, if other than its own.
    pub origin: IndexSet<Arc<str>>,
    /// Position in the source model; nodes of a patch take that of what they replace.
    pub(crate) pos: u32,
}

impl Node {
    /// The operator, unless this is an input or a constant.
    pub fn op(&self) -> Option<&Op> {
        match &self.kind {
            NodeKind::Op(op) => Some(op),
            _ => None,
        }
    }

    /// Names of the source file's nodes it stands for, its own name if there is no other.
    pub fn origins(&self) -> impl Iterator<Item = &Arc<str>> {
        let own = self.origin.is_empty().then_some(&self.name);
        own.into_iter().chain(&self.origin)
    }
}

/// What is known of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Unique among values.
    pub name: Arc<str>,
    /// The type.
    pub ty: TensorType,
    /// What is known of the elements of a small integer tensor of rank 0 or 1, which shapes are
    /// computed from. [`Dim::Unknown`] also stands for negative elements.
    pub shape_value: Option<Vec<Dim>>,
}

/// The facts of all results of a node.
pub(crate) type Facts = SmallVec<[Fact; 1]>;

/// A value that the caller gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphOutput {
    /// The name the caller knows; patches never change it.
    pub name: Arc<str>,
    /// Where it comes from.
    pub outlet: Outlet,
}

/// From result `src` of one node to operand `dst` of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) src: u16,
    pub(crate) dst: u16,
}

/// A model as a graph with inferred types.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(crate) net: StableDiGraph<Node, Edge, u32>,
    pub(crate) inputs: Vec<NodeId>,
    pub(crate) outputs: Vec<GraphOutput>,
    pub(crate) names: Names,
    pub(crate) name: String,
    pub(crate) producer: String,
    pub(crate) metadata: Vec<(String, String)>,
}

/// Names that new nodes and values cannot have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Names of the nodes there are.
    pub(crate) nodes: BTreeSet<Arc<str>>,
    /// Names of all values there ever were: a name stands for one value, whatever patches do, so that
    /// values of two states of a graph can be compared by name.
    pub(crate) values: BTreeSet<Arc<str>>,
}

/// `wanted`, or with a number after it the first that `taken` does not have.
pub(crate) fn unique(wanted: &str, taken: impl Fn(&str) -> bool) -> Arc<str> {
    if !wanted.is_empty() && !taken(wanted) {
        return wanted.into();
    }
    (1u64..)
        .map(|n| format!("{wanted}.{n}"))
        .find(|name| !taken(name))
        .expect("a finite set of names leaves one free")
        .into()
}

impl Graph {
    /// Number of nodes, inputs and constants included.
    pub fn len(&self) -> usize {
        self.net.node_count()
    }

    /// True when there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of the graph, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Free text pairs of the model, in file order.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// The values that the caller gives, in order.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// The values that the caller gets, in order.
    pub fn outputs(&self) -> &[GraphOutput] {
        &self.outputs
    }

    /// A node.
    ///
    /// # Panics
    /// If the node is not there any more: ids do not survive patches.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.net[id.0]
    }

    /// A node, if it is there.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.net.node_weight(id.0)
    }

    /// What is known of a value.
    ///
    /// # Panics
    /// If the value is not there any more: ids do not survive patches.
    pub fn fact(&self, outlet: Outlet) -> &Fact {
        &self.net[outlet.node.0].outputs[usize::from(outlet.slot)]
    }

    /// The operands of a node in their order; absent optional ones are `None`.
    pub fn operands(&self, id: NodeId) -> SmallVec<[Option<Outlet>; 4]> {
        let mut operands = SmallVec::new();
        for edge in self.net.edges_directed(id.0, Direction::Incoming) {
            let Edge { src, dst } = *edge.weight();
            let dst = usize::from(dst);
            if operands.len() <= dst {
                operands.resize(dst + 1, None);
            }
            operands[dst] = Some(Outlet { node: NodeId(edge.source()), slot: src });
        }
        operands
    }

    /// Who reads a value, and as which operand, by position.
    pub fn consumers(&self, outlet: Outlet) -> Vec<(NodeId, usize)> {
        let mut readers: Vec<_> = self
            .net
            .edges_directed(outlet.node.0, Direction::Outgoing)
            .filter(|e| e.weight().src == outlet.slot)
            .map(|e| (NodeId(e.target()), usize::from(e.weight().dst)))
            .collect();
        readers.sort_by_key(|&(node, operand)| (self.node(node).pos, node, operand));
        readers
    }

    /// True when the caller gets this value.
    pub fn is_output(&self, outlet: Outlet) -> bool {
        self.outputs.iter().any(|o| o.outlet == outlet)
    }

    /// The only reader of a value, and as which operand; `None` if the value is also a graph output.
    pub fn sole_consumer(&self, outlet: Outlet) -> Option<(NodeId, usize)> {
        match self.consumers(outlet)[..] {
            [one] if !self.is_output(outlet) => Some(one),
            _ => None,
        }
    }

    /// The elements of a constant.
    pub fn constant(&self, outlet: Outlet) -> Option<&Tensor> {
        match &self.get(outlet.node)?.kind {
            NodeKind::Constant(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The value with this name.
    pub fn find(&self, value: &str) -> Option<Outlet> {
        self.net.node_indices().find_map(|i| {
            let slot = self.net[i].outputs.iter().position(|f| &*f.name == value)?;
            Some(Outlet { node: NodeId(i), slot: slot as u16 })
        })
    }

    /// The node with this name.
    pub fn find_node(&self, name: &str) -> Option<NodeId> {
        self.net.node_indices().map(NodeId).find(|&i| &*self.node(i).name == name)
    }

    /// All nodes, operands before their readers, otherwise by position in the source model. The same
    /// for the same sequence of patches.
    pub fn topo(&self) -> Vec<NodeId> {
        let mut waiting: BTreeMap<NodeIndex<u32>, usize> = BTreeMap::new();
        let mut ready = BinaryHeap::new();
        for i in self.net.node_indices() {
            match self.net.edges_directed(i, Direction::Incoming).count() {
                0 => ready.push(Reverse((self.net[i].pos, i))),
                n => drop(waiting.insert(i, n)),
            }
        }
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse((_, i))) = ready.pop() {
            order.push(NodeId(i));
            for edge in self.net.edges_directed(i, Direction::Outgoing) {
                if let Some(n) = waiting.get_mut(&edge.target()) {
                    *n -= 1;
                    if *n == 0 {
                        ready.push(Reverse((self.net[edge.target()].pos, edge.target())));
                    }
                }
            }
        }
        order
    }

    /// Removes what no output depends on; inputs stay. Gives the number of nodes removed.
    pub fn collect_garbage(&mut self) -> usize {
        let all: Vec<_> = self.net.node_indices().map(NodeId).collect();
        let removed = self.remove_dead(all);
        for (_, node) in &removed {
            self.names.nodes.remove(&node.name);
        }
        removed.len()
    }

    /// Removes those of `suspects`, and of what they read, that nothing depends on. Gives the removed
    /// nodes by position; their names stay in the table.
    pub(crate) fn remove_dead(&mut self, mut suspects: Vec<NodeId>) -> Vec<(NodeId, Node)> {
        let kept: BTreeSet<NodeId> =
            self.outputs.iter().map(|o| o.outlet.node).chain(self.inputs.iter().copied()).collect();
        let mut removed = Vec::new();
        while let Some(id) = suspects.pop() {
            let read = self.net.edges_directed(id.0, Direction::Outgoing).next().is_some();
            if read || kept.contains(&id) || self.get(id).is_none() {
                continue;
            }
            suspects.extend(self.operands(id).into_iter().flatten().map(|o| o.node));
            let node = self.net.remove_node(id.0).expect("the node was there above");
            removed.push((id, node));
        }
        removed.sort_by_key(|(id, node)| (node.pos, *id));
        removed
    }

    /// Binds input shapes: a copy with concrete extents, everywhere inferred anew. A symbol that one
    /// input binds is bound in all of them; inputs not named keep their types otherwise.
    pub fn bind(&self, shapes: &[(&str, &[usize])]) -> Result<Graph, GraphError> {
        let mut bound = self.clone();
        let mut symbols: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for &(name, shape) in shapes {
            let input = self.inputs.iter().find(|&&i| &*self.fact(i.into()).name == name);
            let &id = input.ok_or_else(|| GraphError::NoInput {
                name: name.into(),
                inputs: self.input_names(),
            })?;
            let ty = &self.fact(id.into()).ty;
            let fits = ty.dims.as_ref().is_none_or(|dims| {
                dims.len() == shape.len()
                    && dims.iter().zip(shape).all(|(d, &n)| d.fixed().is_none_or(|d| d == n))
            });
            let too_large = requant_ir::Tensor::byte_len(ty.dtype(), shape).is_err();
            if !fits || too_large {
                return Err(GraphError::InputShape {
                    input: name.into(),
                    got: shape.to_vec(),
                    expected: infer::show(ty),
                });
            }
            for (dim, &n) in ty.dims.iter().flatten().zip(shape) {
                if let Dim::Symbol(symbol) = dim {
                    let first = *symbols.entry(symbol.clone()).or_insert(n);
                    if first != n {
                        let symbol = symbol.to_string();
                        return Err(GraphError::Symbol { symbol, first, second: n });
                    }
                }
            }
            let dims = shape.iter().map(|&n| Dim::Fixed(n)).collect();
            bound.net[id.0].outputs[0].ty.dims = Some(dims);
        }
        let substitute = |dim: &mut Dim| {
            if let Dim::Symbol(symbol) = dim
                && let Some(&n) = symbols.get(symbol)
            {
                *dim = Dim::Fixed(n);
            }
        };
        for node in bound.net.node_weights_mut() {
            for fact in &mut node.outputs {
                fact.ty.dims.iter_mut().flatten().for_each(substitute);
                fact.shape_value.iter_mut().flatten().for_each(substitute);
            }
        }
        for id in bound.topo() {
            let facts = bound.inferred(id)?;
            bound.net[id.0].outputs = facts;
        }
        Ok(bound)
    }

    /// Names of the inputs, for messages.
    pub(crate) fn input_names(&self) -> String {
        let names: Vec<_> =
            self.inputs.iter().map(|&i| self.fact(i.into()).name.as_ref()).collect();
        names.join(", ")
    }

    /// The facts of a node's results: what follows from its operands' facts and what was known of
    /// them before, together.
    fn inferred(&self, id: NodeId) -> Result<Facts, GraphError> {
        let node = self.node(id);
        match node.op() {
            None | Some(Op::Custom { .. }) => Ok(node.outputs.clone()),
            Some(op) => self
                .inferred_with(id, op, &node.outputs, |o| operand(self.fact(o), self.constant(o))),
        }
    }

    /// As above with operands given by `operand` and known results by `before`.
    pub(crate) fn inferred_with<'a>(
        &self,
        id: NodeId,
        op: &Op,
        before: &Facts,
        operand: impl Fn(Outlet) -> Operand<'a>,
    ) -> Result<Facts, GraphError> {
        let operands = self.operands(id).into_iter().map(|o| o.map(&operand));
        let operands: SmallVec<[_; 4]> = operands.collect();
        let node = || self.node(id).name.to_string();
        let inferred = infer::infer(op, &operands, before.len())
            .map_err(|source| GraphError::Infer { node: node(), source })?;
        before.iter().zip(inferred).map(|(old, new)| merge(old, new)).collect()
    }

    /// Checks the graph's own rules: operands complete and in range, no cycle, unique names, and types
    /// that do not contradict what is inferred from the operands.
    pub fn verify(&self) -> Result<(), GraphError> {
        let broken = |what: String| Err(GraphError::Broken { what });
        let order = self.topo();
        if order.len() != self.len() {
            return broken("a value depends on itself".into());
        }
        for edge in (&self.net).edge_references() {
            let slots = self.net[edge.source()].outputs.len();
            if usize::from(edge.weight().src) >= slots {
                let name = &self.net[edge.source()].name;
                return broken(format!("result {} of `{name}` does not exist", edge.weight().src));
            }
        }
        let (mut nodes, mut values) = (BTreeSet::new(), BTreeSet::new());
        for &id in &order {
            let node = self.node(id);
            let mut slots: Vec<u16> = self
                .net
                .edges_directed(id.0, Direction::Incoming)
                .map(|e| e.weight().dst)
                .collect();
            slots.sort_unstable();
            let facts = &node.outputs;
            if slots.windows(2).any(|w| w[0] == w[1]) {
                return broken(format!("an operand of `{}` is there twice", node.name));
            }
            if !nodes.insert(node.name.clone()) {
                return Err(GraphError::DuplicateName { name: node.name.to_string() });
            }
            if let Some(fact) = facts.iter().find(|f| !values.insert(f.name.clone())) {
                return Err(GraphError::DuplicateName { name: fact.name.to_string() });
            }
            if (node.kind == NodeKind::Input) != self.inputs.contains(&id) {
                return broken(format!("`{}` is not among the inputs", node.name));
            }
            self.inferred(id)?;
        }
        if nodes != self.names.nodes || !values.is_subset(&self.names.values) {
            return broken("the table of names is out of date".into());
        }
        let exists =
            |o: Outlet| self.get(o.node).is_some_and(|n| usize::from(o.slot) < n.outputs.len());
        match self.outputs.iter().find(|o| !exists(o.outlet)) {
            Some(lost) => broken(format!("the output `{}` has no source", lost.name)),
            None => Ok(()),
        }
    }
}

/// An operand as inference sees it.
pub(crate) fn operand<'a>(fact: &'a Fact, constant: Option<&'a Tensor>) -> Operand<'a> {
    Operand { ty: &fact.ty, constant, shape_value: fact.shape_value.as_deref() }
}

/// What was known and what was inferred, together.
pub(crate) fn merge(old: &Fact, new: Inferred) -> Result<Fact, GraphError> {
    let contradiction = |new: &TensorType| GraphError::Declared {
        value: old.name.to_string(),
        declared: infer::show(&old.ty),
        inferred: infer::show(new),
    };
    // A declaration without quantization says nothing of it.
    let silent = old.ty.elem.quant.is_none() && old.ty.dtype() == new.ty.dtype();
    if old.ty.elem != new.ty.elem && !silent {
        return Err(contradiction(&new.ty));
    }
    let Ok(dims) = infer::merge_dims(new.ty.dims.as_deref(), old.ty.dims.as_deref()) else {
        return Err(contradiction(&new.ty));
    };
    let shape_value = new.shape_value.or_else(|| old.shape_value.clone());
    let ty = TensorType { elem: new.ty.elem, dims };
    Ok(Fact { name: old.name.clone(), ty, shape_value })
}
