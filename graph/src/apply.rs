//! Applying a patch: all checks first, then the change.

use crate::graph::{Edge, Fact, Facts, operand, unique};
use crate::infer::{self, Inferred};
use crate::patch::{Applied, Patch, Src};
use crate::{Graph, GraphError, Node, NodeId, NodeKind, Outlet};
use indexmap::IndexSet;
use petgraph::Direction;
use petgraph::visit::EdgeRef;
use requant_ir::{Op, TensorType};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The checked part of a patch: facts of the new nodes, and of old ones that are now known better.
struct Checked {
    new: Vec<Facts>,
    refined: BTreeMap<NodeId, Facts>,
}

impl Graph {
    /// Applies a patch: infers the types of the new nodes, checks that what is replaced keeps its
    /// element type and quantization and gets no contradicting extents, and that nothing comes to
    /// depend on itself; then rewires and removes what nothing depends on.
    ///
    /// On an error the graph is as it was.
    pub fn apply(&mut self, patch: Patch) -> Result<Applied, GraphError> {
        self.check_references(&patch)?;
        let checked = self.check_types(&patch)?;
        self.check_cycle(&patch)?;
        Ok(self.rewire(patch, checked))
    }

    fn check_references(&self, patch: &Patch) -> Result<(), GraphError> {
        let pass = patch.pass;
        let exists = |src: Src, before: usize| match src {
            Src::Outlet(o) => self
                .get(o.node)
                .filter(|n| usize::from(o.slot) < n.outputs.len())
                .map(drop)
                .ok_or_else(|| format!("result {} of node {:?}", o.slot, o.node)),
            Src::New(i, slot) => patch.nodes[..before]
                .get(i)
                .filter(|n| usize::from(slot) < n.results)
                .map(drop)
                .ok_or_else(|| format!("result {slot} of its node {i}")),
        };
        let check = |src, before| {
            exists(src, before).map_err(|what| GraphError::PatchReference { pass, what })
        };
        for (i, node) in patch.nodes.iter().enumerate() {
            if node.operands.len() > usize::from(u16::MAX) {
                return Err(GraphError::TooManySlots { node: node.name.clone() });
            }
            node.operands.iter().flatten().try_for_each(|&src| check(src, i))?;
        }
        for (i, &(old, new)) in patch.replacements.iter().enumerate() {
            check(old.into(), 0)?;
            check(new, patch.nodes.len())?;
            let again = patch.replaced().take(i).any(|o| o == old);
            // A chain of replacements would depend on their order.
            let chained = patch.replaced().any(|o| new == Src::Outlet(o));
            if again || chained {
                let what = format!("`{}`, which it replaces", self.fact(old).name);
                return Err(GraphError::PatchReference { pass, what });
            }
        }
        Ok(())
    }

    fn check_types(&self, patch: &Patch) -> Result<Checked, GraphError> {
        let mut new: Vec<Facts> = Vec::with_capacity(patch.nodes.len());
        for node in &patch.nodes {
            let inferred = match &node.kind {
                NodeKind::Constant(tensor) => {
                    Inferred::constant(tensor).map(|known| SmallVec::from_elem(known, 1))
                }
                NodeKind::Op(op) => {
                    let operand = |src: Src| match src {
                        Src::Outlet(o) => operand(self.fact(o), self.constant(o)),
                        Src::New(i, slot) => {
                            operand(&new[i][usize::from(slot)], patch.constant_of(i))
                        }
                    };
                    let operands: SmallVec<[_; 4]> =
                        node.operands.iter().map(|src| src.map(operand)).collect();
                    infer::infer(op, &operands, node.results)
                }
                NodeKind::Input => Ok(SmallVec::new()),
            };
            let inferred =
                inferred.map_err(|source| GraphError::Infer { node: node.name.clone(), source })?;
            let name: Arc<str> = node.name.as_str().into();
            let facts = inferred.into_iter().map(|i| Fact {
                name: name.clone(),
                ty: i.ty,
                shape_value: i.shape_value,
            });
            new.push(facts.collect());
        }
        let mut refined: BTreeMap<NodeId, Facts> = BTreeMap::new();
        let mut changed = Vec::new();
        for &(old, src) in &patch.replacements {
            let before = self.fact(old);
            let (after, constant) = match src {
                Src::Outlet(o) => (
                    refined.get(&o.node).map_or(self.fact(o), |f| &f[usize::from(o.slot)]),
                    self.constant(o),
                ),
                Src::New(i, slot) => (&new[i][usize::from(slot)], patch.constant_of(i)),
            };
            let dims = infer::merge_dims(after.ty.dims.as_deref(), before.ty.dims.as_deref());
            let (true, Ok(dims)) = (after.ty.elem == before.ty.elem, dims) else {
                return Err(GraphError::PatchType {
                    pass: patch.pass,
                    value: before.name.clone(),
                    old: infer::show(&before.ty),
                    new: infer::show(&after.ty),
                });
            };
            let fact = Fact {
                name: after.name.clone(),
                ty: TensorType { elem: after.ty.elem.clone(), dims },
                shape_value: after.shape_value.clone().or_else(|| before.shape_value.clone()),
            };
            if constant.is_some() || fact.ty != before.ty || fact.shape_value != before.shape_value
            {
                changed.push(old);
            }
            match src {
                Src::New(i, slot) => new[i][usize::from(slot)] = fact,
                Src::Outlet(o) if fact != *after => {
                    let facts =
                        refined.entry(o.node).or_insert_with(|| self.node(o.node).outputs.clone());
                    facts[usize::from(o.slot)] = fact;
                    changed.push(o);
                }
                Src::Outlet(_) => {}
            }
        }
        self.refine(patch, &new, &mut refined, changed)?;
        Ok(Checked { new, refined })
    }

    /// Infers anew what reads values that are now known better, until nothing changes. Extents only
    /// become better known, so it ends.
    fn refine(
        &self,
        patch: &Patch,
        new: &[Facts],
        refined: &mut BTreeMap<NodeId, Facts>,
        changed: Vec<Outlet>,
    ) -> Result<(), GraphError> {
        let key = |(node, _): (NodeId, usize)| (self.node(node).pos, node);
        let mut queue: BTreeSet<(u32, NodeId)> =
            changed.into_iter().flat_map(|o| self.consumers(o)).map(key).collect();
        while let Some((_, id)) = queue.pop_first() {
            let Some(op) = self.node(id).op().filter(|op| !matches!(op, Op::Custom { .. })) else {
                continue;
            };
            let before = refined.get(&id).unwrap_or(&self.node(id).outputs);
            let facts = self.inferred_with(id, op, before, |o| {
                let known = |o: Outlet| {
                    let facts = refined.get(&o.node).unwrap_or(&self.node(o.node).outputs);
                    operand(&facts[usize::from(o.slot)], self.constant(o))
                };
                match patch.replacements.iter().find(|(old, _)| *old == o) {
                    Some(&(_, Src::New(i, slot))) => {
                        operand(&new[i][usize::from(slot)], patch.constant_of(i))
                    }
                    Some(&(_, Src::Outlet(other))) => known(other),
                    None => known(o),
                }
            })?;
            for slot in (0..facts.len()).filter(|&s| facts[s] != before[s]) {
                let readers = self.consumers(Outlet { node: id, slot: slot as u16 });
                queue.extend(readers.into_iter().map(key));
            }
            refined.insert(id, facts);
        }
        Ok(())
    }

    /// Refuses a patch after which a value would depend on itself.
    ///
    /// A patch that only reads what every replaced value already depends on cannot do that, since a
    /// new cycle would lead from a reader of a replaced value to something that value depends on.
    /// That is the common case and found near the replaced node; otherwise the whole graph is sorted.
    fn check_cycle(&self, patch: &Patch) -> Result<(), GraphError> {
        let read: BTreeSet<NodeId> = patch
            .nodes
            .iter()
            .flat_map(|n| n.operands.iter().flatten())
            .chain(patch.replacements.iter().map(|(_, new)| new))
            .filter_map(|src| match src {
                Src::Outlet(o) if !self.operands(o.node).is_empty() => Some(o.node),
                _ => None,
            })
            .collect();
        if patch.replaced().all(|old| self.depends_on_all(old.node, &read))
            || self.stays_acyclic(patch)
        {
            return Ok(());
        }
        let value =
            patch.replaced().next().map_or_else(|| "".into(), |o| self.fact(o).name.clone());
        Err(GraphError::PatchCycle { pass: patch.pass, value })
    }

    /// True when `node` is, or depends on, every one of `wanted`.
    fn depends_on_all(&self, node: NodeId, wanted: &BTreeSet<NodeId>) -> bool {
        let mut missing = wanted.clone();
        let mut seen = BTreeSet::from([node]);
        let mut level = vec![node];
        while !level.is_empty() && !missing.is_empty() {
            let mut next = Vec::new();
            for id in level {
                missing.remove(&id);
                let operands = self.net.neighbors_directed(id.0, Direction::Incoming).map(NodeId);
                next.extend(operands.filter(|&o| seen.insert(o)));
            }
            level = next;
        }
        missing.is_empty()
    }

    /// Sorts the graph as the patch would make it.
    fn stays_acyclic(&self, patch: &Patch) -> bool {
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        enum Key {
            Old(NodeId),
            New(usize),
        }
        let key = |src: Src| match src {
            Src::Outlet(o) => Key::Old(o.node),
            Src::New(i, _) => Key::New(i),
        };
        let replaced: BTreeMap<Outlet, Src> = patch.replacements.iter().copied().collect();
        let mut edges: Vec<(Key, Key)> = Vec::new();
        for edge in
            self.net.edge_indices().filter_map(|e| Some((self.net.edge_endpoints(e)?, self.net[e])))
        {
            let ((from, to), weight) = edge;
            let outlet = Outlet { node: NodeId(from), slot: weight.src };
            let from = replaced.get(&outlet).map_or(Key::Old(NodeId(from)), |&src| key(src));
            edges.push((from, Key::Old(NodeId(to))));
        }
        for (i, node) in patch.nodes.iter().enumerate() {
            edges.extend(node.operands.iter().flatten().map(|&src| (key(src), Key::New(i))));
        }
        edges.sort_unstable();
        let mut waiting: BTreeMap<Key, usize> = BTreeMap::new();
        for &(_, to) in &edges {
            *waiting.entry(to).or_default() += 1;
        }
        let mut ready: Vec<Key> = edges.iter().map(|&(from, _)| from).collect();
        ready.dedup();
        ready.retain(|k| !waiting.contains_key(k));
        let mut done = 0;
        while let Some(from) = ready.pop() {
            let start = edges.partition_point(|e| e.0 < from);
            for &(_, to) in edges[start..].iter().take_while(|e| e.0 == from) {
                done += 1;
                let n = waiting.get_mut(&to).expect("every target was counted");
                *n -= 1;
                if *n == 0 {
                    ready.push(to);
                }
            }
        }
        done == edges.len()
    }

    /// The change itself; everything has been checked.
    fn rewire(&mut self, patch: Patch, checked: Checked) -> Applied {
        let before = self.len();
        let pos = patch.replaced().map(|o| self.node(o.node).pos).min().unwrap_or(u32::MAX);
        let ids: Vec<NodeId> = patch
            .nodes
            .iter()
            .zip(checked.new)
            .map(|(new, outputs)| {
                let (name, kind) = (new.name.as_str().into(), new.kind.clone());
                NodeId(self.net.add_node(Node {
                    name,
                    kind,
                    outputs,
                    origin: IndexSet::new(),
                    pos,
                }))
            })
            .collect();
        let resolve = |src: Src| match src {
            Src::Outlet(o) => o,
            Src::New(i, slot) => Outlet { node: ids[i], slot },
        };
        for (id, facts) in checked.refined {
            self.net[id.0].outputs = facts;
        }
        for &(old, new) in &patch.replacements {
            self.move_readers(old, resolve(new));
        }
        for (node, &id) in patch.nodes.iter().zip(&ids) {
            for (dst, src) in node.operands.iter().enumerate() {
                if let Some(src) = src.map(resolve) {
                    let weight = Edge { src: src.slot, dst: dst as u16 };
                    self.net.add_edge(src.node.0, id.0, weight);
                }
            }
        }
        let names: Vec<Arc<str>> = patch.replaced().map(|o| self.fact(o).name.clone()).collect();
        let suspects = patch.replaced().map(|o| o.node).chain(ids.iter().copied()).collect();
        let mut removed = self.remove_dead(suspects);
        removed.retain(|(id, _)| !ids.contains(id));
        for (_, node) in &removed {
            self.names.nodes.remove(&node.name);
        }

        let mut gone: Vec<IndexSet<Arc<str>>> = removed
            .into_iter()
            .filter(|(_, node)| node.op().is_some())
            .map(|(_, node)| into_origins(node))
            .collect();
        let last = patch.replacements.len().saturating_sub(1);
        let mut named = BTreeSet::new();
        for (i, (&(old, new), name)) in patch.replacements.iter().zip(names).enumerate() {
            let (outlet, is_new) = (resolve(new), matches!(new, Src::New(..)));
            let gone = if i == last { std::mem::take(&mut gone) } else { gone.clone() };
            self.add_origins(outlet.node, is_new, old.node, gone);
            if is_new && named.insert(outlet) && !self.take_over_name(old, outlet, name) {
                named.remove(&outlet);
            }
        }
        let nodes: Vec<_> = ids.iter().map(|&id| self.get(id).is_some().then_some(id)).collect();
        for &id in nodes.iter().flatten() {
            self.register_names(id, &named);
        }
        Applied { before, after: self.len(), nodes }
    }

    /// Lets everything that reads `old` read `new`.
    fn move_readers(&mut self, old: Outlet, new: Outlet) {
        let edges: Vec<_> = self
            .net
            .edges_directed(old.node.0, Direction::Outgoing)
            .filter(|e| e.weight().src == old.slot)
            .map(|e| (e.id(), e.target(), e.weight().dst))
            .collect();
        for (edge, reader, dst) in edges {
            self.net.remove_edge(edge);
            self.net.add_edge(new.node.0, reader, Edge { src: new.slot, dst });
        }
        for output in self.outputs.iter_mut().filter(|o| o.outlet == old) {
            output.outlet = new;
        }
    }

    /// Notes in `node` which source nodes it stands for now: those of the removed ones, `gone`, or where none was
    /// removed the one whose result it replaces.
    fn add_origins(
        &mut self,
        node: NodeId,
        is_new: bool,
        old: NodeId,
        mut gone: Vec<IndexSet<Arc<str>>>,
    ) {
        if gone.is_empty() {
            gone.extend(self.get(old).filter(|n| n.op().is_some()).cloned().map(into_origins));
        }
        let Some(node) = self.net.node_weight_mut(node.0).filter(|n| n.op().is_some()) else {
            return;
        };
        if !is_new && node.origin.is_empty() {
            node.origin.insert(node.name.clone());
        }
        gone.insert(0, std::mem::take(&mut node.origin));
        // The largest is kept and takes in the others, so that chains of any length fold in linear time.
        let largest = (0..gone.len()).rev().max_by_key(|&i| gone[i].len()).expect("there is one");
        node.origin = gone.remove(largest);
        node.origin.extend(gone.into_iter().flatten());
    }

    /// Gives the new value `new` the `name` of `old`, which gets another one if it is still there.
    /// False where the old value has to keep its name.
    fn take_over_name(&mut self, old: Outlet, new: Outlet, name: Arc<str>) -> bool {
        if self.get(new.node).is_none() {
            // Nothing reads the new value, so it is gone already.
            return true;
        }
        match self.get(old.node).map(|n| &n.kind) {
            Some(NodeKind::Input) => return false,
            Some(_) => {
                let other = unique(&name, |n| self.names.values.contains(n));
                self.names.values.insert(other.clone());
                self.net[old.node.0].outputs[usize::from(old.slot)].name = other;
            }
            None => {}
        }
        self.net[new.node.0].outputs[usize::from(new.slot)].name = name;
        true
    }

    /// Makes the names of a new node and of its results unique, but for those `taken_over`.
    fn register_names(&mut self, id: NodeId, taken_over: &BTreeSet<Outlet>) {
        let name = unique(&self.node(id).name, |n| self.names.nodes.contains(n));
        self.names.nodes.insert(name.clone());
        for slot in 0..self.node(id).outputs.len() {
            if taken_over.contains(&Outlet { node: id, slot: slot as u16 }) {
                continue;
            }
            let wanted = if slot == 0 { name.to_string() } else { format!("{name}:{slot}") };
            let value = unique(&wanted, |n| self.names.values.contains(n));
            self.names.values.insert(value.clone());
            self.net[id.0].outputs[slot].name = value;
        }
        self.net[id.0].name = name;
    }
}

/// Names of the source file's nodes that `node` stands for.
fn into_origins(node: Node) -> IndexSet<Arc<str>> {
    if node.origin.is_empty() { IndexSet::from([node.name]) } else { node.origin }
}
