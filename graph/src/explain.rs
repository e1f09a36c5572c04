//! What became of every node of the source model: integer, float, interpreter or nothing at all, and why.
//!
//! This is data; the caller renders it.

use crate::exec::{Class, CompiledModel};
use crate::pass::Refusal;
use crate::plan::{Memory, Plan};
use crate::{Graph, NodeKind};
use requant_kernels::Isa;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node of the model as it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceNode {
    name: Arc<str>,
    mnemonic: &'static str,
}

impl SourceNode {
    /// All operators of `graph` in topological order.
    pub(crate) fn all(graph: &Graph) -> Vec<SourceNode> {
        let node = |id| {
            let node = graph.node(id);
            match &node.kind {
                NodeKind::Op(op) => {
                    Some(SourceNode { name: node.name.clone(), mnemonic: op.mnemonic() })
                }
                _ => None,
            }
        };
        graph.topo().into_iter().filter_map(node).collect()
    }
}

/// What a source node is computed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// Computed when the model was compiled, or not needed.
    Folded,
    /// Part of a step, or a view that costs nothing.
    Runs(Class),
}

impl Fate {
    /// The name to print.
    pub const fn name(self) -> &'static str {
        match self {
            Fate::Folded => "folded",
            Fate::Runs(class) => class.name(),
        }
    }
}

/// What became of one node of the source model.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeReport {
    /// Its name.
    pub name: Arc<str>,
    /// Its operator.
    pub op: &'static str,
    /// What it is computed as.
    pub fate: Fate,
    /// The node of the optimized graph that computes it.
    pub node: Option<Arc<str>>,
    /// The kernels of that node's steps, `name-isa`.
    pub kernels: Vec<String>,
    /// Why it is float or left to the interpreter, as far as that is known.
    pub reason: Option<String>,
}

/// One step of the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The node of the optimized graph.
    pub node: Arc<str>,
    /// Its operator.
    pub op: &'static str,
    /// The kernel, `name-isa`.
    pub kernel: String,
    /// What kind of work it is.
    pub class: Class,
    /// Multiply-accumulates of the node; of its steps the one that computes has them.
    pub macs: u64,
    /// Bytes read and written, without scratch.
    pub bytes: usize,
}

/// Everything that `explain` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The instruction set.
    pub isa: Isa,
    /// Threads of one run.
    pub threads: usize,
    /// The nodes of the source model in topological order.
    pub nodes: Vec<NodeReport>,
    /// The steps in order.
    pub steps: Vec<StepReport>,
    /// Memory of one session.
    pub memory: Memory,
    /// Packed weights, shared by all sessions.
    pub packed_bytes: usize,
}

impl Explanation {
    pub(crate) fn new(model: &CompiledModel, plan: &Plan, source: &[SourceNode]) -> Explanation {
        let isa = model.cpu().isa();
        let kernel = |name: &str, class: Class| match class {
            Class::Movement | Class::Fallback | Class::View => name.to_owned(),
            Class::Integer | Class::Float => format!("{name}-{isa}"),
        };
        let mut kernels: Vec<Vec<String>> = vec![Vec::new(); plan.nodes.len()];
        let mut steps = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let (fate, class) = (&plan.nodes[step.node], step.kernel.class());
            let kernel = kernel(step.kernel.name(), class);
            kernels[step.node].push(kernel.clone());
            steps.push(StepReport {
                node: fate.name.clone(),
                op: fate.mnemonic,
                kernel,
                class,
                macs: if class == fate.class { fate.macs } else { 0 },
                bytes: step
                    .reads
                    .iter()
                    .map(|r| r.len())
                    .chain(step.writes.iter().map(|w| w.len()))
                    .sum(),
            });
        }
        // Several nodes may stand for one source node; what costs most says what it is.
        let mut by_origin: BTreeMap<&str, usize> = BTreeMap::new();
        for (i, node) in plan.nodes.iter().enumerate() {
            for origin in &node.origin {
                let known = by_origin.entry(origin).or_insert(i);
                if plan.nodes[*known].class < node.class {
                    *known = i;
                }
            }
        }
        let nodes = source
            .iter()
            .map(|s| {
                let index = by_origin.get(&*s.name).copied();
                let node = index.map(|i| &plan.nodes[i]);
                let fate = node.map_or(Fate::Folded, |n| Fate::Runs(n.class));
                NodeReport {
                    name: s.name.clone(),
                    op: s.mnemonic,
                    fate,
                    node: node.map(|n| n.name.clone()),
                    kernels: index.map(|i| kernels[i].clone()).unwrap_or_default(),
                    reason: reason(
                        s,
                        fate,
                        node.and_then(|n| n.reason.clone()),
                        &model.report().refusals,
                    ),
                }
            })
            .collect();
        Explanation {
            isa,
            threads: model.threads(),
            nodes,
            steps,
            memory: *plan.memory(),
            packed_bytes: model.packed_bytes(),
        }
    }

    /// How many source nodes met each fate.
    pub fn counts(&self) -> BTreeMap<Fate, usize> {
        let mut counts = BTreeMap::new();
        for node in &self.nodes {
            *counts.entry(node.fate).or_insert(0) += 1;
        }
        counts
    }
}

/// Why lowering, or a pass, left the node where it is.
fn reason(
    source: &SourceNode,
    fate: Fate,
    lowering: Option<String>,
    refusals: &[Refusal],
) -> Option<String> {
    if lowering.is_some() || !matches!(fate, Fate::Runs(Class::Float | Class::Fallback)) {
        return lowering;
    }
    refusals.iter().find(|r| r.node == *source.name).map(|r| format!("{}: {}", r.pass, r.reason))
}
