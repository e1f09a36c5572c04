//! Which operators form a region, and which of them change layout.

use super::super::consts::{dims, keeps_order, op, operand};
use super::axes::{self, Flip, Flipped, Use, anchor, flipped};
use super::mincut::{INFINITE, Network, SINK, SOURCE};
use crate::pass::{Exactness, PassCx};
use crate::{Graph, NodeId, Outlet};
use requant_ir::{Dim, Layout, Op};
use std::collections::{BTreeMap, VecDeque};

/// Arcs the cut may look at: far more than models need, far less than a hang.
const STEPS: u64 = 1 << 26;
/// What an extent that is not known counts in the price of a conversion.
const NOMINAL_EXTENT: u64 = 32;

/// An operator of a region.
pub(super) struct Member {
    /// The layout its operands are in as the model has them.
    pub(super) from: Layout,
    /// The layout it shall work in.
    pub(super) to: Layout,
    /// The operator in the other layout; `None` for a `Transpose` from one layout to the other.
    pub(super) flipped: Option<Flipped>,
}

impl Member {
    /// A `Transpose` from one layout to the other.
    pub(super) fn is_wire(&self) -> bool {
        self.flipped.is_none()
    }

    /// The layout its results are in as the model has them; `None` when they are no images.
    pub(super) fn results(&self) -> Option<Layout> {
        match &self.flipped {
            None => Some(other(self.from)),
            Some(flipped) => flipped.follows.then_some(self.from),
        }
    }

    /// True when operand `index` is stored in the member's layout.
    pub(super) fn follows(&self, index: usize) -> bool {
        match &self.flipped {
            None => index == 0,
            Some(flipped) => matches!(flipped.operands.get(index), Some(Use::Follow)),
        }
    }
}

/// All operators that are part of a region.
pub(super) type Region = BTreeMap<NodeId, Member>;

/// The other layout.
pub(super) fn other(layout: Layout) -> Layout {
    match layout {
        Layout::ChannelsFirst => Layout::ChannelsLast,
        Layout::ChannelsLast => Layout::ChannelsFirst,
    }
}

/// The layout that the member which computes `value` gives it; `None` for all other values.
pub(super) fn orientation(region: &Region, value: Outlet) -> Option<Layout> {
    region.get(&value.node)?.results()
}

/// Finds the regions and chooses the layout of every member. Operators that sum floats in another
/// order in the other layout are members only if that is allowed.
pub(super) fn region(graph: &Graph, cx: &mut PassCx<'_>) -> Region {
    let order = graph.topo();
    let mut region = oriented(graph, &order, cx);
    drop_contradictions(graph, &order, &mut region, cx);
    choose(graph, &order, &mut region);
    region
}

/// `node` as a member whose operands are in layout `from`.
fn member(graph: &Graph, node: NodeId, from: Layout, cx: &PassCx<'_>) -> Option<Member> {
    let flip = Flip::out_of(from);
    let wire = match op(graph, node)? {
        Op::Transpose { perm } if perm.len() >= 3 => *perm == flip.perm(perm.len()),
        _ => false,
    };
    let flipped = if wire { None } else { Some(flipped(graph, node, flip)?) };
    if flipped.as_ref().is_some_and(|f| f.rounds) && !cx.allows(Exactness::OneStep) {
        return None;
    }
    Some(Member { from, to: from, flipped })
}

/// Spreads orientation from convolutions and pools along the values.
fn oriented(graph: &Graph, order: &[NodeId], cx: &mut PassCx<'_>) -> Region {
    let mut region = Region::new();
    let mut queue = VecDeque::new();
    for &node in order {
        let Some((from, true)) = op(graph, node).and_then(anchor) else { continue };
        match member(graph, node, from, cx) {
            Some(member) => {
                region.insert(node, member);
                queue.push_back(node);
            }
            None => cx.refuse(graph.node(node).name.as_ref(), "the rank is not known"),
        }
    }
    while let Some(node) = queue.pop_front() {
        let mut found: Vec<(NodeId, Member)> = Vec::new();
        let this = &region[&node];
        for (index, value) in graph.operands(node).into_iter().enumerate() {
            let Some(value) = value.filter(|_| this.follows(index)) else { continue };
            // The producer's results must be what this member's operands are.
            found.extend([this.from, other(this.from)].into_iter().find_map(|from| {
                let member = member(graph, value.node, from, cx)?;
                (member.results() == Some(this.from)).then_some((value.node, member))
            }));
        }
        if let Some(results) = this.results() {
            for slot in 0..graph.node(node).outputs.len() {
                let value = Outlet { node, slot: slot as u16 };
                for (consumer, index) in graph.consumers(value) {
                    let member = member(graph, consumer, results, cx).filter(|m| m.follows(index));
                    found.extend(member.map(|m| (consumer, m)));
                }
            }
        }
        for (node, member) in found {
            if let std::collections::btree_map::Entry::Vacant(entry) = region.entry(node) {
                entry.insert(member);
                queue.push_back(node);
            }
        }
    }
    region
}

/// Takes out the members that disagree with their producers on what the operand is.
fn drop_contradictions(graph: &Graph, order: &[NodeId], region: &mut Region, cx: &mut PassCx<'_>) {
    for &node in order {
        let Some(member) = region.get(&node) else { continue };
        let disagrees = |(index, value): (usize, Option<Outlet>)| {
            value.filter(|_| member.follows(index)).is_some_and(|value| {
                orientation(region, value).is_some_and(|layout| layout != member.from)
            })
        };
        if graph.operands(node).into_iter().enumerate().any(disagrees) {
            region.remove(&node);
            let reason = "an operand is in the other layout and no Transpose is between";
            cx.refuse(graph.node(node).name.as_ref(), reason);
        }
    }
}

/// The side of the cut that stands for a layout.
fn terminal(layout: Layout) -> usize {
    match layout {
        Layout::ChannelsFirst => SOURCE,
        Layout::ChannelsLast => SINK,
    }
}

fn choose(graph: &Graph, order: &[NodeId], region: &mut Region) {
    let vertices: BTreeMap<NodeId, usize> =
        region.keys().enumerate().map(|(i, &node)| (node, i + 2)).collect();
    let mut network = Network::new(vertices.len());
    for &node in order {
        if let Some(&vertex) = vertices.get(&node)
            && op(graph, node).and_then(anchor).is_some_and(|(_, wanted)| wanted)
        {
            network.arc(vertex, SINK, INFINITE);
        }
        for slot in 0..graph.node(node).outputs.len() {
            value_arcs(graph, region, &vertices, Outlet { node, slot: slot as u16 }, &mut network);
        }
    }
    let side = network.cut(STEPS);
    for (node, member) in region.iter_mut() {
        // All channels-last is always possible.
        let first = side.as_ref().is_some_and(|side| side[vertices[node]]);
        member.to = if first { Layout::ChannelsFirst } else { Layout::ChannelsLast };
    }
}

/// The price of `value`: once its bytes if any consumer stores it otherwise than its producer.
fn value_arcs(
    graph: &Graph,
    region: &Region,
    vertices: &BTreeMap<NodeId, usize>,
    value: Outlet,
    network: &mut Network,
) {
    let produced = orientation(region, value);
    // Members' vertices by what they take the value for; uses of the value as it is.
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut as_it_is = graph.is_output(value);
    for (consumer, index) in graph.consumers(value) {
        match region.get(&consumer).filter(|m| m.follows(index)) {
            Some(member) => {
                members.entry(terminal(member.from)).or_default().push(vertices[&consumer]);
            }
            None => as_it_is |= !reads_shape(graph, consumer),
        }
    }
    if let Some(layout) = produced.filter(|_| as_it_is) {
        members.entry(terminal(layout)).or_default().push(terminal(layout));
    }
    for (layout, uses) in members {
        let producer = if produced.is_some() { vertices[&value.node] } else { layout };
        let price = price(graph, value);
        if let [single] = uses[..] {
            network.arc(producer, single, price);
            network.arc(single, producer, price);
            continue;
        }
        let (to_last, to_first) = (network.vertex(), network.vertex());
        network.arc(producer, to_last, price);
        network.arc(to_first, producer, price);
        for &user in &uses {
            network.arc(to_last, user, INFINITE);
            network.arc(user, to_first, INFINITE);
        }
    }
}

/// Operators that read only extents; they follow a value into either layout at no price.
pub(super) fn reads_shape(graph: &Graph, node: NodeId) -> bool {
    matches!(op(graph, node), Some(Op::Shape { .. } | Op::Size))
}

/// Bytes that a conversion moves; one more, so that fewer conversions win among equals.
fn price(graph: &Graph, value: Outlet) -> u64 {
    let Some(dims) = dims(graph, value) else { return 1 };
    if [Flip::Last, Flip::First].iter().all(|f| keeps_order(dims, &f.perm(dims.len()))) {
        return 1;
    }
    let extents = dims.iter().enumerate().map(|(axis, dim)| match dim {
        Dim::Fixed(n) => *n as u64,
        // A batch most often has one image.
        _ if axis == 0 => 1,
        _ => NOMINAL_EXTENT,
    });
    let bytes =
        extents.fold(axes::element_bytes(graph.fact(value).ty.dtype()), u64::saturating_mul);
    bytes.min(1 << 40) + 1
}

/// The value that `value` is a transposed view of, through all wires.
pub(super) fn base(graph: &Graph, region: &Region, mut value: Outlet) -> Outlet {
    while region.get(&value.node).is_some_and(Member::is_wire) {
        match operand(graph, value.node, 0) {
            Some(source) => value = source,
            None => break,
        }
    }
    value
}
