//! From a graph with concrete shapes to a flat list of steps: every decision is made here, none in `run`.
//!
//! Each node goes to the function of its family. That function either emits steps (or a view, which
//! costs nothing), or refuses with a reason; then the reference interpreter runs the node, which is
//! always correct, and the reason is what `explain` prints.

mod conv;
mod elementwise;
mod fallback;
mod float;
mod matmul;
mod movement;
mod pool;
mod requant;
mod site;
mod weights;

pub(crate) use site::{Reason, Site};
pub(crate) use weights::WeightCache;

use crate::exec::error::CompileError;
use crate::exec::step::{Class, Kernel};
use crate::{Graph, NodeId, NodeKind, Outlet, infer};
use requant_ir::Tensor;
use requant_kernels::Cpu;
use smallvec::{SmallVec, smallvec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What steps are lowered for.
pub(crate) struct Target<'a> {
    /// The instruction set.
    pub(crate) cpu: Cpu,
    /// Threads that kernels will share their work among; scratch memory depends on it.
    pub(crate) threads: usize,
    /// Packed weights.
    pub(crate) weights: &'a WeightCache,
}

/// Where the bytes of a value begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// In a constant of the program.
    Constant(usize),
    /// In an input of the model.
    Input(usize),
    /// In a block of the arena that is not placed yet.
    Buffer(usize),
}

/// Bytes of a value, or of a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// What holds them.
    pub(crate) slot: Slot,
    /// First byte in it.
    pub(crate) offset: usize,
    /// How many.
    pub(crate) bytes: usize,
}

/// A step whose blocks have no addresses yet.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) kernel: Kernel,
    pub(crate) reads: SmallVec<[Place; 4]>,
    pub(crate) writes: SmallVec<[Place; 1]>,
    pub(crate) scratch: usize,
    /// Index in [`Program::nodes`].
    pub(crate) node: usize,
}

/// What became of a node.
#[derive(Clone, Debug)]
pub(crate) struct NodeFate {
    pub(crate) name: Arc<str>,
    /// Nodes of the source model that it stands for.
    pub(crate) origin: Vec<Arc<str>>,
    pub(crate) mnemonic: &'static str,
    pub(crate) class: Class,
    /// Why it is no better than that.
    pub(crate) reason: Option<String>,
    /// Multiply-accumulates.
    pub(crate) macs: u64,
}

/// The lowered graph.
pub(crate) struct Program {
    pub(crate) steps: Vec<Draft>,
    pub(crate) nodes: Vec<NodeFate>,
    pub(crate) constants: Vec<Tensor>,
    /// Bytes of each buffer.
    pub(crate) buffers: Vec<usize>,
    /// For each buffer, the part of another buffer that it is, if it has no memory of its own.
    pub(crate) homes: Vec<Option<Place>>,
    /// Where each graph output lies.
    pub(crate) outputs: Vec<Place>,
}

/// Lowers every node of `graph`, whose shapes must all be known.
pub(crate) fn lower(graph: &Graph, target: &Target<'_>) -> Result<Program, CompileError> {
    let mut builder = Builder {
        graph,
        target,
        program: Program {
            steps: Vec::new(),
            nodes: Vec::new(),
            constants: Vec::new(),
            buffers: Vec::new(),
            homes: Vec::new(),
            outputs: Vec::new(),
        },
        values: BTreeMap::new(),
        absorbed: BTreeSet::new(),
    };
    for (i, &node) in graph.inputs().iter().enumerate() {
        let outlet = Outlet { node, slot: 0 };
        let place = Place { slot: Slot::Input(i), offset: 0, bytes: builder.bytes(outlet)? };
        builder.values.insert(outlet, place);
    }
    for node in graph.topo() {
        builder.node(node)?;
    }
    builder.program.outputs = graph.outputs().iter().map(|o| builder.values[&o.outlet]).collect();
    Ok(builder.program)
}

pub(crate) struct Builder<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) target: &'g Target<'g>,
    program: Program,
    values: BTreeMap<Outlet, Place>,
    /// Nodes that an earlier node's steps compute too.
    absorbed: BTreeSet<NodeId>,
}

impl<'g> Builder<'g> {
    fn node(&mut self, id: NodeId) -> Result<(), CompileError> {
        let node = self.graph.node(id);
        match &node.kind {
            NodeKind::Input => Ok(()),
            NodeKind::Constant(tensor) => {
                let slot = Slot::Constant(self.program.constants.len());
                let place = Place { slot, offset: 0, bytes: tensor.bytes().len() };
                self.program.constants.push(tensor.clone());
                self.values.insert(Outlet { node: id, slot: 0 }, place);
                Ok(())
            }
            NodeKind::Op(_) if self.absorbed.contains(&id) => Ok(()),
            NodeKind::Op(op) => {
                let site = Site::new(self.graph, id, op);
                self.program.nodes.push(NodeFate {
                    name: node.name.clone(),
                    origin: node.origins().cloned().collect(),
                    mnemonic: op.mnemonic(),
                    class: Class::View,
                    reason: None,
                    macs: 0,
                });
                for slot in 0..node.outputs.len() {
                    // Sizes are checked for every value, whether or not it gets memory of its own.
                    self.bytes(Outlet { node: id, slot: slot as u16 })?;
                }
                let before = (self.program.steps.len(), self.program.buffers.len());
                if let Err(reason) = self.family(&site) {
                    self.program.steps.truncate(before.0);
                    self.program.buffers.truncate(before.1);
                    self.program.homes.truncate(before.1);
                    let fate = self.fate();
                    (fate.class, fate.reason, fate.macs) = (Class::View, Some(reason.0), 0);
                    fallback::lower(self, &site)?;
                }
                Ok(())
            }
        }
    }

    fn family(&mut self, site: &Site<'g>) -> Result<(), Reason> {
        use requant_ir::Op::*;
        match site.op {
            Identity
            | Reshape { .. }
            | Flatten { .. }
            | Squeeze { .. }
            | Unsqueeze { .. }
            | Reinterpret { .. }
            | Transpose { .. }
            | Concat { .. }
            | Split { .. }
            | Slice
            | Gather { .. }
            | Expand
            | Tile
            | Pad { .. } => movement::lower(self, site),
            Conv(_) | QConv { .. } => conv::lower(self, site),
            MatMul | Gemm { .. } | QMatMul { .. } => matmul::lower(self, site),
            Pool(_) | QPool { .. } | QMean { .. } | Reduce { .. } => pool::lower(self, site),
            Quantize { .. }
            | Dequantize
            | Requantize(_)
            | QBinary { .. }
            | QSoftmax { .. }
            | Lut { .. } => elementwise::lower(self, site),
            Unary(_) | Binary(_) | Softmax { .. } => float::lower(self, site),
            _ => Err(Reason::new(format!("no kernel computes {}", site.op.mnemonic()))),
        }
    }

    /// Bytes that a value takes.
    fn bytes(&self, outlet: Outlet) -> Result<usize, CompileError> {
        let fact = self.graph.fact(outlet);
        let name = || fact.name.to_string();
        let dims = fact.ty.fixed_dims().ok_or_else(|| CompileError::UnknownShape {
            tensor: name(),
            ty: infer::show(&fact.ty),
        })?;
        Tensor::byte_len(fact.ty.dtype(), &dims)
            .map_err(|source| CompileError::TooLarge { tensor: name(), source })
    }

    /// The value that operand `i` reads.
    pub(crate) fn read(&self, site: &Site<'_>, i: usize) -> Result<Place, Reason> {
        let outlet =
            site.operand(i).ok_or_else(|| Reason::new(format!("operand {i} is absent")))?;
        Ok(self.values[&outlet])
    }

    /// A block of `bytes` bytes of its own.
    pub(crate) fn buffer(&mut self, bytes: usize) -> Place {
        self.program.buffers.push(bytes);
        self.program.homes.push(None);
        Place { slot: Slot::Buffer(self.program.buffers.len() - 1), offset: 0, bytes }
    }

    /// A new block for result `slot` of the node.
    pub(crate) fn output(&mut self, site: &Site<'_>, slot: u16) -> Place {
        self.output_of(Outlet { node: site.id, slot })
    }

    /// A new block for `outlet`.
    pub(crate) fn output_of(&mut self, outlet: Outlet) -> Place {
        let bytes = self.bytes(outlet).expect("checked when the node was met");
        let place = self.buffer(bytes);
        self.values.insert(outlet, place);
        place
    }

    /// Result `slot` of the node is what lies at `place`; nothing is computed.
    pub(crate) fn view(&mut self, site: &Site<'_>, slot: u16, place: Place) {
        self.values.insert(Outlet { node: site.id, slot }, place);
    }

    /// The node `id` needs no steps: its results have got places already.
    pub(crate) fn absorb(&mut self, id: NodeId) {
        let origins: Vec<_> = self.graph.node(id).origins().cloned().collect();
        self.fate().origin.extend(origins);
        self.absorbed.insert(id);
    }

    /// What becomes of the node that is being lowered.
    pub(crate) fn fate(&mut self) -> &mut NodeFate {
        self.program.nodes.last_mut().expect("a node is being lowered")
    }

    /// Emits a step with one result.
    pub(crate) fn step(
        &mut self,
        kernel: Kernel,
        reads: impl IntoIterator<Item = Place>,
        out: Place,
        scratch: usize,
    ) {
        self.steps(kernel, reads, smallvec![out], scratch);
    }

    /// Emits a step.
    pub(crate) fn steps(
        &mut self,
        kernel: Kernel,
        reads: impl IntoIterator<Item = Place>,
        writes: SmallVec<[Place; 1]>,
        scratch: usize,
    ) {
        let fate = self.program.nodes.last_mut().expect("a node is being lowered");
        // Of a node's several steps the one that computes says what the node is.
        fate.class = fate.class.max(kernel.class());
        let node = self.program.nodes.len() - 1;
        self.program.steps.push(Draft {
            kernel,
            reads: reads.into_iter().collect(),
            writes,
            scratch,
            node,
        });
    }
}
