//! From a model to a graph and back.

use crate::graph::{Edge, Fact, Facts, GraphOutput, merge, operand, unique};
use crate::infer::{self, Inferred};
use crate::{Graph, GraphError, Node, NodeId, NodeKind, Outlet};
use indexmap::IndexSet;
use requant_ir::{Model, Op, TensorType, Value, ValueId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Graph {
    /// The main graph of a model with every type inferred.
    ///
    /// # Errors
    /// If the model breaks the rules of [`requant_ir::Graph`], if it has subgraphs, if types cannot be
    /// inferred, or if they contradict what the model declares.
    pub fn from_model(model: &Model) -> Result<Graph, GraphError> {
        let source = match &model.graphs[..] {
            [] => return Err(GraphError::NoGraph),
            [one] => one,
            more => return Err(GraphError::Subgraphs { count: more.len() }),
        };
        let mut builder = Builder {
            source,
            graph: Graph {
                name: source.name.clone(),
                producer: model.producer.clone(),
                metadata: model.metadata.clone(),
                ..Graph::default()
            },
            node_names: source.nodes.iter().map(|n| n.name.as_str()).collect(),
            outlets: vec![None; source.values.len()],
            pos: 0,
        };
        builder.inputs()?;
        builder.constants()?;
        for node in &source.nodes {
            builder.node(node)?;
        }
        builder.outputs()?;
        Ok(builder.graph)
    }

    /// The graph as a model: nodes in topological order, every type written, names kept.
    pub fn to_model(&self) -> Model {
        let mut graph = requant_ir::Graph { name: self.name.clone(), ..Default::default() };
        let mut ids: BTreeMap<Outlet, ValueId> = BTreeMap::new();
        // A value that is an output goes by the name the caller knows.
        let mut renamed: BTreeMap<Outlet, &Arc<str>> = BTreeMap::new();
        for output in &self.outputs {
            if !self.inputs.contains(&output.outlet.node) {
                renamed.entry(output.outlet).or_insert(&output.name);
            }
        }
        for id in self.inputs.iter().copied().chain(self.topo()) {
            let node = self.node(id);
            let first = ids.len();
            for (slot, fact) in node.outputs.iter().enumerate() {
                let outlet = Outlet { node: id, slot: slot as u16 };
                if ids.contains_key(&outlet) {
                    continue;
                }
                let name = renamed.get(&outlet).map_or(&fact.name, |name| name).to_string();
                let data = self.constant(outlet).cloned();
                let value = graph.add_value(Value { name, ty: Some(fact.ty.clone()), data });
                ids.insert(outlet, value);
            }
            let outputs: Vec<ValueId> = (first..ids.len()).map(|i| ValueId(i as u32)).collect();
            match &node.kind {
                NodeKind::Input => graph.inputs.extend(outputs),
                NodeKind::Constant(_) => {}
                NodeKind::Op(op) => graph.nodes.push(requant_ir::Node {
                    name: node.name.to_string(),
                    op: op.clone(),
                    inputs: self.operands(id).iter().map(|o| o.map(|o| ids[&o])).collect(),
                    outputs,
                    origin: node.origin.iter().map(ToString::to_string).collect(),
                }),
            }
        }
        for output in &self.outputs {
            let value = ids[&output.outlet];
            let same = graph.values[value.index()].name == *output.name;
            let value = if same { value } else { self.copy(&mut graph, value, &output.name) };
            graph.outputs.push(value);
        }
        Model {
            producer: self.producer.clone(),
            graphs: vec![graph],
            metadata: self.metadata.clone(),
        }
    }

    /// Adds a copy of `value` under the name of an output.
    fn copy(&self, graph: &mut requant_ir::Graph, value: ValueId, name: &str) -> ValueId {
        let ty = graph.values[value.index()].ty.clone();
        let copy = graph.add_value(Value { name: name.into(), ty, data: None });
        let taken =
            |n: &str| self.names.nodes.contains(n) || graph.nodes.iter().any(|x| x.name == n);
        let node = unique(name, taken).to_string();
        graph.nodes.push(requant_ir::Node {
            name: node,
            op: Op::Identity,
            inputs: vec![Some(value)],
            outputs: vec![copy],
            origin: Vec::new(),
        });
        copy
    }
}

struct Builder<'a> {
    source: &'a requant_ir::Graph,
    graph: Graph,
    node_names: BTreeSet<&'a str>,
    /// Where each value of the source comes from, as far as it is known yet.
    outlets: Vec<Option<Outlet>>,
    pos: u32,
}

impl Builder<'_> {
    fn value(&self, id: ValueId, node: &str) -> Result<&Value, GraphError> {
        let unknown = || GraphError::UnknownValue { node: node.into(), id: id.0 };
        self.source.value(id).ok_or_else(unknown)
    }

    /// Adds a node whose results are the values `ids`.
    fn add(&mut self, node: Node, ids: &[ValueId]) -> Result<NodeId, GraphError> {
        let name = node.name.clone();
        if !self.graph.names.nodes.insert(name.clone()) {
            return Err(GraphError::DuplicateName { name: name.to_string() });
        }
        for fact in &node.outputs {
            if !self.graph.names.values.insert(fact.name.clone()) {
                return Err(GraphError::DuplicateName { name: fact.name.to_string() });
            }
        }
        let id = NodeId(self.graph.net.add_node(node));
        for (slot, value) in ids.iter().enumerate() {
            let outlet = &mut self.outlets[value.index()];
            if outlet.is_some() {
                let value = self.source.values[value.index()].name.clone();
                return Err(GraphError::Redefined { value });
            }
            *outlet = Some(Outlet { node: id, slot: slot as u16 });
        }
        self.pos += 1;
        Ok(id)
    }

    fn leaf(&mut self, id: ValueId, kind: NodeKind, what: Inferred) -> Result<NodeId, GraphError> {
        let name: Arc<str> = self.source.values[id.index()].name.as_str().into();
        // Values and nodes have separate names in a model; a constant gives way to a node.
        let taken = |n: &str| self.graph.names.nodes.contains(n) || self.node_names.contains(n);
        let node = Node {
            name: unique(&name, taken),
            kind,
            outputs: SmallVec::from_elem(
                Fact { name, ty: what.ty, shape_value: what.shape_value },
                1,
            ),
            origin: IndexSet::new(),
            pos: self.pos,
        };
        self.add(node, &[id])
    }

    fn inputs(&mut self) -> Result<(), GraphError> {
        for &id in &self.source.inputs {
            let value = self.value(id, "inputs")?;
            let ty = value.ty.clone();
            let ty = ty.ok_or_else(|| GraphError::UntypedInput { value: value.name.clone() })?;
            let node = value.name.clone();
            let ty = infer::check_type(ty).map_err(|source| GraphError::Infer { node, source })?;
            let node = self.leaf(id, NodeKind::Input, Inferred { ty, shape_value: None })?;
            self.graph.inputs.push(node);
        }
        Ok(())
    }

    fn constants(&mut self) -> Result<(), GraphError> {
        for (i, value) in self.source.values.iter().enumerate() {
            if let Some(tensor) = &value.data {
                let kind = NodeKind::Constant(tensor.clone());
                let known = Inferred::constant(tensor)
                    .map_err(|source| GraphError::Infer { node: value.name.clone(), source })?;
                self.leaf(ValueId(i as u32), kind, known)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &requant_ir::Node) -> Result<(), GraphError> {
        let limit = usize::from(u16::MAX);
        if node.inputs.len() > limit || node.outputs.len() > limit {
            return Err(GraphError::TooManySlots { node: node.name.clone() });
        }
        let mut operands: SmallVec<[Option<Outlet>; 4]> = SmallVec::new();
        for input in &node.inputs {
            operands.push(input.map(|id| self.defined(id, &node.name)).transpose()?);
        }
        let mut declared: SmallVec<[Declared; 1]> = SmallVec::new();
        for &id in &node.outputs {
            let value = self.value(id, &node.name)?;
            declared.push(Declared { name: value.name.as_str().into(), ty: value.ty.clone() });
        }
        let outputs = self.facts(node, &operands, declared)?;
        let origin = node.origin.iter().map(|o| o.as_str().into()).collect();
        let kind = NodeKind::Op(node.op.clone());
        let new = Node { name: node.name.as_str().into(), kind, outputs, origin, pos: self.pos };
        let id = self.add(new, &node.outputs)?;
        for (dst, outlet) in operands.into_iter().enumerate() {
            if let Some(outlet) = outlet {
                let edge = Edge { src: outlet.slot, dst: dst as u16 };
                self.graph.net.add_edge(outlet.node.0, id.0, edge);
            }
        }
        Ok(())
    }

    /// The facts of a node's results, from its operands and what the model declares.
    fn facts(
        &self,
        node: &requant_ir::Node,
        operands: &[Option<Outlet>],
        declared: SmallVec<[Declared; 1]>,
    ) -> Result<Facts, GraphError> {
        let failed = |source| GraphError::Infer { node: node.name.clone(), source };
        let operands: SmallVec<[_; 4]> = operands
            .iter()
            .map(|o| o.map(|o| operand(self.graph.fact(o), self.graph.constant(o))))
            .collect();
        if let Op::Custom { .. } = node.op {
            let fact = |d: Declared| {
                let ty = d.ty.ok_or_else(|| failed(infer::InferError::Custom))?;
                Ok(Fact {
                    name: d.name,
                    ty: infer::check_type(ty).map_err(failed)?,
                    shape_value: None,
                })
            };
            return declared.into_iter().map(fact).collect();
        }
        let inferred = infer::infer(&node.op, &operands, declared.len()).map_err(failed)?;
        let fact = |(declared, new): (Declared, Inferred)| match declared.ty {
            Some(ty) => merge(&Fact { name: declared.name, ty, shape_value: None }, new),
            None => Ok(Fact { name: declared.name, ty: new.ty, shape_value: new.shape_value }),
        };
        declared.into_iter().zip(inferred).map(fact).collect()
    }

    fn defined(&self, id: ValueId, node: &str) -> Result<Outlet, GraphError> {
        let value = self.value(id, node)?;
        let undefined = || GraphError::Undefined { node: node.into(), value: value.name.clone() };
        self.outlets[id.index()].ok_or_else(undefined)
    }

    fn outputs(&mut self) -> Result<(), GraphError> {
        for &id in &self.source.outputs {
            let outlet = self.defined(id, "outputs")?;
            let name = self.graph.fact(outlet).name.clone();
            self.graph.outputs.push(GraphOutput { name, outlet });
        }
        Ok(())
    }
}

/// What a model says of a value.
struct Declared {
    name: Arc<str>,
    ty: Option<TensorType>,
}
