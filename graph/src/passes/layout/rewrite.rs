//! Builds the patch that brings the members of a region into the layout chosen for them.

use super::super::consts::{self, dims, inverse, keeps_order, op, operand};
use super::NAME;
use super::axes::{Flip, Use};
use super::choose::{Region, base, orientation, other, reads_shape};
use crate::pass::Exactness;
use crate::patch::{Patch, Src};
use crate::{Graph, NodeId, Outlet};
use indexmap::IndexSet;
use requant_ir::{Dim, Layout, Op};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A patch of many nodes, and which source nodes each of its operators stands for.
pub(super) struct Rewritten {
    pub(super) patch: Patch,
    pub(super) origins: Vec<(usize, IndexSet<Arc<str>>)>,
}

/// The patch, if anything changes.
pub(super) fn patch(graph: &Graph, region: &Region) -> Option<Rewritten> {
    let mut rewrite = Rewrite {
        graph,
        region,
        patch: Patch::new(NAME, Exactness::Exact),
        origins: Vec::new(),
        made: BTreeMap::new(),
        converted: BTreeMap::new(),
    };
    let order = graph.topo();
    for &node in &order {
        rewrite.flip(node)?;
    }
    let mut changed = false;
    for &node in &order {
        changed |= rewrite.expose(node);
    }
    changed.then_some(Rewritten { patch: rewrite.patch, origins: rewrite.origins })
}

struct Rewrite<'a> {
    graph: &'a Graph,
    region: &'a Region,
    patch: Patch,
    origins: Vec<(usize, IndexSet<Arc<str>>)>,
    /// Results of members that changed sides.
    made: BTreeMap<Outlet, Src>,
    converted: BTreeMap<(Outlet, bool), Src>,
}

impl Rewrite<'_> {
    /// Makes the flipped form of a member that changes sides. `None` only if an operand is missing.
    fn flip(&mut self, node: NodeId) -> Option<()> {
        let Some(member) = self.region.get(&node).filter(|m| m.to != m.from) else {
            return Some(());
        };
        let Some(flipped) = &member.flipped else { return Some(()) };
        let old = self.graph.operands(node);
        let mut operands = Vec::with_capacity(flipped.operands.len());
        for (index, usage) in flipped.operands.iter().enumerate() {
            let value = old.get(index).copied().flatten();
            operands.push(match usage {
                Use::Keep => value.map(Src::from),
                Use::Constant(tensor) => {
                    let name = value.map_or_else(
                        || format!("{}_axes", self.graph.node(node).name),
                        |v| self.graph.fact(v).name.to_string(),
                    );
                    Some(self.patch.constant(name, tensor.clone()))
                }
                Use::Follow => match value {
                    Some(value) => Some(self.stored(value, member.from, member.to)?),
                    None => None,
                },
            });
        }
        let name = self.graph.node(node).name.to_string();
        let outputs = self.graph.node(node).outputs.len() as u16;
        let made = self.patch.op_n(name, flipped.op.clone(), operands, outputs);
        made.first().into_iter().for_each(|&src| self.stands_for(src, node));
        for (slot, src) in made.into_iter().enumerate() {
            self.made.insert(Outlet { node, slot: slot as u16 }, src);
        }
        if flipped.rounds {
            self.patch.class = Exactness::OneStep;
        }
        Some(())
    }

    /// Notes that a new node does what `node` did.
    fn stands_for(&mut self, new: Src, node: NodeId) {
        if let Src::New(index, _) = new {
            let node = self.graph.node(node);
            let same_name = node.origin.is_empty() && node.op().is_some();
            let origin =
                if same_name { IndexSet::from([node.name.clone()]) } else { node.origin.clone() };
            self.origins.push((index, origin));
        }
    }

    /// `value`, which is in layout `from` as the model has it, stored in layout `to`.
    fn stored(&mut self, value: Outlet, from: Layout, to: Layout) -> Option<Src> {
        let source = base(self.graph, self.region, value);
        // Every wire between turned the layout once.
        let turned = self.wires(value) % 2 == 1;
        let source_from = if turned { other(from) } else { from };
        let (src, now) = match self.made.get(&source) {
            Some(src) if orientation(self.region, source).is_some() => {
                (*src, self.region[&source.node].to)
            }
            Some(src) => (*src, source_from),
            None => (Src::from(source), source_from),
        };
        if now == to {
            return Some(src);
        }
        let key = (source, to == Layout::ChannelsLast);
        if let Some(&src) = self.converted.get(&key) {
            return Some(src);
        }
        // Extents of what is stored now.
        let flip = Flip::out_of(now);
        let mut extents = dims(self.graph, source)?.to_vec();
        if now != source_from {
            extents = consts::permuted(&extents, &Flip::out_of(source_from).perm(extents.len()));
        }
        let perm = flip.perm(extents.len());
        let src = match self.existing(source, &perm) {
            Some(existing) => existing,
            None => self.convert(src, source, &extents, perm, to),
        };
        self.stands_for(src, source.node);
        self.converted.insert(key, src);
        Some(src)
    }

    fn wires(&self, mut value: Outlet) -> usize {
        let mut wires = 0;
        while self.region.get(&value.node).is_some_and(super::choose::Member::is_wire) {
            let Some(source) = operand(self.graph, value.node, 0) else { break };
            value = source;
            wires += 1;
        }
        wires
    }

    /// A `Transpose` that the model has already.
    fn existing(&self, source: Outlet, perm: &[usize]) -> Option<Src> {
        if self.made.contains_key(&source) {
            return None;
        }
        let same = |node: NodeId| matches!(op(self.graph, node), Some(Op::Transpose { perm: p }) if p == perm);
        let consumers = self.graph.consumers(source);
        let (node, _) = consumers.into_iter().find(|&(node, _)| same(node))?;
        Some(Src::from(Outlet { node, slot: 0 }))
    }

    fn convert(
        &mut self,
        src: Src,
        source: Outlet,
        extents: &[Dim],
        perm: Vec<usize>,
        to: Layout,
    ) -> Src {
        let suffix = match to {
            Layout::ChannelsFirst => "nchw",
            Layout::ChannelsLast => "nhwc",
        };
        let name = format!("{}_{suffix}", self.graph.fact(source).name);
        let target = consts::permuted(extents, &perm);
        let per_axis = self.graph.fact(source).ty.quant().is_some_and(|q| q.axis().is_some());
        if keeps_order(extents, &perm)
            && !per_axis
            && let Some(shape) = consts::reshape_target(extents, &target)
        {
            let shape = self.patch.constant(format!("{name}_shape"), consts::shape_tensor(&shape));
            let op = Op::Reshape { allow_zero: false };
            return self.patch.op(name, op, vec![Some(src), Some(shape)]);
        }
        self.patch.op(name, Op::Transpose { perm }, vec![Some(src)])
    }

    /// Gives the values of `node` back to those who read them as the model has them.
    fn expose(&mut self, node: NodeId) -> bool {
        let mut changed = false;
        for slot in 0..self.graph.node(node).outputs.len() {
            let value = Outlet { node, slot: slot as u16 };
            let Some(layout) = orientation(self.region, value) else {
                // A result that is no image is the same in either layout.
                if let Some(&src) = self.made.get(&value) {
                    self.patch.replace(value, src);
                    changed = true;
                }
                continue;
            };
            let mut as_it_is = self.graph.is_output(value);
            for (consumer, index) in self.graph.consumers(value) {
                let moved = self
                    .region
                    .get(&consumer)
                    .is_some_and(|m| m.follows(index) && (m.to != m.from || m.is_wire()));
                if reads_shape(self.graph, consumer) {
                    changed |= self.shape(consumer, value, layout);
                } else {
                    as_it_is |= !moved;
                }
            }
            if as_it_is
                && let Some(src) = self.stored(value, layout, layout)
                && !matches!(src, Src::Outlet(same) if same == value)
            {
                self.patch.replace(value, src);
                changed = true;
            }
        }
        changed
    }

    /// Reads the extents of `value` from where it is stored.
    fn shape(&mut self, node: NodeId, value: Outlet, layout: Layout) -> bool {
        let now = self.now(value, layout);
        let Some(src) = self.stored(value, layout, now) else { return false };
        if matches!(src, Src::Outlet(same) if same == value) {
            return false;
        }
        let Some(rank) = dims(self.graph, value).map(<[Dim]>::len) else { return false };
        let name = self.graph.node(node).name.to_string();
        let result = Outlet { node, slot: 0 };
        let new = match op(self.graph, node) {
            Some(Op::Shape { .. }) if now != layout => {
                let Some(axes) = self.shape_axes(node, rank) else { return false };
                let places = inverse(&Flip::out_of(layout).perm(rank));
                let indices: Vec<i64> = axes.into_iter().map(|a| places[a] as i64).collect();
                let all = Op::Shape { start: 0, end: None };
                let all = self.patch.op(format!("{name}_all"), all, vec![Some(src)]);
                let indices = consts::shape_tensor(&indices);
                let indices = self.patch.constant(format!("{name}_axes"), indices);
                self.patch.op(name, Op::Gather { axis: 0 }, vec![Some(all), Some(indices)])
            }
            Some(op) => self.patch.op(name, op.clone(), vec![Some(src)]),
            None => return false,
        };
        self.stands_for(new, node);
        self.patch.replace(result, new);
        true
    }

    /// The layout that `value` is stored in after the rewrite, whatever wires are between.
    fn now(&self, value: Outlet, layout: Layout) -> Layout {
        let source = base(self.graph, self.region, value);
        match self.region.get(&source.node) {
            Some(member) if self.made.contains_key(&source) && member.results().is_some() => {
                member.to
            }
            _ if self.wires(value) % 2 == 1 => other(layout),
            _ => layout,
        }
    }

    fn shape_axes(&self, node: NodeId, rank: usize) -> Option<std::ops::Range<usize>> {
        let Some(Op::Shape { start, end }) = op(self.graph, node) else { return None };
        let last = i64::try_from(rank).ok()?;
        let place = |a: i64| (if a < 0 { a.saturating_add(last) } else { a }).clamp(0, last);
        let (start, end) = (place(*start), place(end.unwrap_or(last)));
        Some(start as usize..end.max(start) as usize)
    }
}
