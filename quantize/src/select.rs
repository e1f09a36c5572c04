//! Which values of a float graph get 8-bit parameters, and which share them.

use crate::MinMax;
use requant_ir::{BinaryKind, DType, Graph, Node, Op, PoolKind, ReduceKind, UnaryKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What quantization does with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Reads 8-bit operands; operand 1 is a constant weight, operand 2 a bias.
    Weighted {
        /// Axis of the output channels in the weight.
        axis: usize,
        /// The bias is an addend of the accumulator as it is.
        bias: bool,
    },
    /// Reads 8-bit operands, its result has a range of its own.
    Computes,
    /// Copies or selects elements: operands and results share parameters.
    Moves,
    /// Follows another node in its epilogue: no parameters in between.
    Activation,
    /// Stays float.
    Float,
}

/// The decision for a graph.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// Role of each node, by index.
    pub(crate) roles: Vec<Role>,
    /// Values to quantize, each with the representative of its group of tied values.
    pub(crate) groups: BTreeMap<ValueId, ValueId>,
    /// Fixed range of a group, where the operator decides it.
    pub(crate) fixed: BTreeMap<ValueId, MinMax>,
    /// Nodes that were left float by name.
    pub(crate) excluded: Vec<String>,
}

struct Uses {
    producer: BTreeMap<ValueId, usize>,
    consumers: BTreeMap<ValueId, Vec<usize>>,
    outputs: BTreeSet<ValueId>,
}

impl Uses {
    fn of(graph: &Graph) -> Self {
        let mut uses = Uses {
            producer: BTreeMap::new(),
            consumers: BTreeMap::new(),
            outputs: graph.outputs.iter().copied().collect(),
        };
        for (i, node) in graph.nodes.iter().enumerate() {
            for &out in &node.outputs {
                uses.producer.insert(out, i);
            }
            for input in node.inputs.iter().flatten() {
                uses.consumers.entry(*input).or_default().push(i);
            }
        }
        uses
    }
}

fn is_constant(graph: &Graph, id: ValueId) -> bool {
    graph.value(id).is_some_and(|v| v.data.is_some())
}

fn is_f32_activation(graph: &Graph, id: ValueId) -> bool {
    graph.value(id).is_some_and(|v| {
        v.data.is_none()
            && v.ty.as_ref().is_some_and(|t| t.dtype() == DType::F32 && t.quant().is_none())
    })
}

fn const_rank(graph: &Graph, id: Option<ValueId>) -> Option<usize> {
    let data = graph.value(id?)?.data.as_ref()?;
    (data.dtype() == DType::F32).then(|| data.dims().len())
}

fn role(graph: &Graph, node: &Node) -> Role {
    let operand = |i: usize| node.inputs.get(i).copied().flatten();
    match &node.op {
        Op::Conv(_) if const_rank(graph, operand(1)).is_some() => {
            Role::Weighted { axis: 0, bias: true }
        }
        Op::Gemm { alpha, beta, trans_a: false, trans_b }
            if const_rank(graph, operand(1)) == Some(2) =>
        {
            Role::Weighted { axis: usize::from(!trans_b), bias: *alpha == 1.0 && *beta == 1.0 }
        }
        Op::MatMul if const_rank(graph, operand(1)) == Some(2) => {
            Role::Weighted { axis: 1, bias: false }
        }
        Op::MatMul if !(0..2).any(|i| operand(i).is_some_and(|v| is_constant(graph, v))) => {
            Role::Computes
        }
        Op::Binary(BinaryKind::Add | BinaryKind::Mul)
            if !(0..2).any(|i| operand(i).is_some_and(|v| is_constant(graph, v))) =>
        {
            Role::Computes
        }
        Op::Pool(p) if p.kind == PoolKind::Max => Role::Moves,
        Op::Pool(_) | Op::Reduce { kind: ReduceKind::Mean, .. } => Role::Computes,
        Op::Softmax { flatten: false, .. } => Role::Computes,
        Op::Unary(kind) => match kind {
            UnaryKind::Not => Role::Float,
            _ => Role::Computes,
        },
        op if op.is_data_movement() => Role::Moves,
        _ => Role::Float,
    }
}

/// Ranges that the operator itself fixes.
fn fixed_range(op: &Op) -> Option<MinMax> {
    let (min, max) = match op {
        Op::Softmax { .. } | Op::Unary(UnaryKind::Sigmoid) => (0.0, 255.0 / 256.0),
        Op::Unary(UnaryKind::Tanh) => (-1.0, 127.0 / 128.0),
        _ => return None,
    };
    Some(MinMax { min, max })
}

/// Chooses the values to quantize. `excluded` names nodes that stay float.
pub(crate) fn select(graph: &Graph, excluded: &[String]) -> Selection {
    let uses = Uses::of(graph);
    let mut s = Selection::default();
    for node in &graph.nodes {
        let mut r = role(graph, node);
        let float_data =
            node.inputs.first().copied().flatten().is_some_and(|v| is_f32_activation(graph, v));
        if r != Role::Float && excluded.contains(&node.name) {
            s.excluded.push(node.name.clone());
            r = Role::Float;
        } else if !float_data {
            r = Role::Float;
        }
        // Relu and Clip disappear into the result's clamp when they directly follow arithmetic.
        if let (Role::Computes, Op::Unary(UnaryKind::Relu | UnaryKind::Clip { .. })) = (r, &node.op)
            && let Some(x) = node.inputs.first().copied().flatten()
            && let Some(&p) = uses.producer.get(&x)
            && uses.consumers.get(&x).is_some_and(|c| c.len() == 1)
            && !uses.outputs.contains(&x)
            && matches!(s.roles[p], Role::Weighted { .. })
        {
            r = Role::Activation;
        }
        s.roles.push(r);
    }
    // A mover is worth it only between 8-bit neighbours: when it carries a value to or from one.
    let mut groups = Groups::default();
    for (i, node) in graph.nodes.iter().enumerate() {
        let reads_8bit = match s.roles[i] {
            Role::Weighted { .. } => node.inputs.iter().take(1).flatten().copied().collect(),
            Role::Computes | Role::Moves => node
                .inputs
                .iter()
                .take(if matches!(node.op, Op::Concat { .. }) {
                    usize::MAX
                } else {
                    data_operands(&node.op)
                })
                .flatten()
                .copied()
                .filter(|&v| is_f32_activation(graph, v))
                .collect::<Vec<_>>(),
            Role::Activation | Role::Float => Vec::new(),
        };
        for &v in &reads_8bit {
            groups.add(v);
        }
        if s.roles[i] == Role::Moves {
            let tied: Vec<ValueId> =
                reads_8bit.iter().copied().chain(node.outputs.iter().copied()).collect();
            for pair in tied.windows(2) {
                groups.tie(pair[0], pair[1]);
            }
        }
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        if s.roles[i] == Role::Computes
            && let Some(range) = fixed_range(&node.op)
            && let Some(root) = node.outputs.first().and_then(|&o| groups.root(o))
        {
            s.fixed.entry(root).and_modify(|r| *r = r.merge(range)).or_insert(range);
        }
    }
    s.groups = groups.parent.keys().filter_map(|&v| Some((v, groups.root(v)?))).collect();
    // A mover's result that nothing reads as 8 bits and that leaves the graph needs no pair of its own.
    let needs: BTreeSet<ValueId> = graph
        .nodes
        .iter()
        .enumerate()
        .filter(|(i, _)| !matches!(s.roles[*i], Role::Float | Role::Activation))
        .flat_map(|(_, n)| n.inputs.iter().flatten().copied())
        .collect();
    s.groups.retain(|v, _| needs.contains(v));
    s
}

/// How many leading operands are data (the rest are shapes, indices, weights).
fn data_operands(op: &Op) -> usize {
    match op {
        Op::Binary(_) | Op::MatMul => 2,
        _ => 1,
    }
}

/// Union-find over values; the smallest id represents a group.
#[derive(Default)]
struct Groups {
    parent: BTreeMap<ValueId, ValueId>,
}

impl Groups {
    fn add(&mut self, v: ValueId) {
        self.parent.entry(v).or_insert(v);
    }

    fn root(&self, v: ValueId) -> Option<ValueId> {
        let mut at = *self.parent.get(&v)?;
        while self.parent[&at] != at {
            at = self.parent[&at];
        }
        Some(at)
    }

    fn tie(&mut self, a: ValueId, b: ValueId) {
        self.add(a);
        self.add(b);
        if let (Some(ra), Some(rb)) = (self.root(a), self.root(b)) {
            let (low, high) = (ra.min(rb), ra.max(rb));
            self.parent.insert(high, low);
        }
    }
}
