//! A node as lowering sees it: operands by position, with their concrete types.

use crate::{Graph, NodeId, Outlet};
use requant_ir::{Op, Tensor, TensorType};
use requant_kernels::KernelError;
use smallvec::SmallVec;

/// Why no kernel takes a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) String);

impl Reason {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Reason(text.into())
    }
}

impl From<KernelError> for Reason {
    fn from(e: KernelError) -> Self {
        Reason(e.to_string())
    }
}

/// One node with its operands.
pub(crate) struct Site<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) id: NodeId,
    pub(crate) op: &'g Op,
    operands: SmallVec<[Option<Outlet>; 4]>,
}

impl<'g> Site<'g> {
    pub(crate) fn new(graph: &'g Graph, id: NodeId, op: &'g Op) -> Self {
        Site { graph, id, op, operands: graph.operands(id) }
    }

    /// Number of operand positions.
    pub(crate) fn arity(&self) -> usize {
        self.operands.len()
    }

    /// What operand `i` reads, if it is there.
    pub(crate) fn operand(&self, i: usize) -> Option<Outlet> {
        self.operands.get(i).copied().flatten()
    }

    /// Whether operand `i` is there.
    pub(crate) fn has(&self, i: usize) -> bool {
        self.operand(i).is_some()
    }

    /// The type of operand `i`.
    pub(crate) fn ty(&self, i: usize) -> Result<&'g TensorType, Reason> {
        self.operand(i)
            .map(|o| &self.graph.fact(o).ty)
            .ok_or_else(|| Reason::new(format!("operand {i} is absent")))
    }

    /// The extents of operand `i`.
    pub(crate) fn dims(&self, i: usize) -> Result<Vec<usize>, Reason> {
        self.ty(i)?
            .fixed_dims()
            .ok_or_else(|| Reason::new(format!("operand {i} has no known shape")))
    }

    /// The value of operand `i`, if it is a constant.
    pub(crate) fn constant(&self, i: usize) -> Option<&'g Tensor> {
        self.graph.constant(self.operand(i)?)
    }

    /// The type of result `slot`.
    pub(crate) fn out_ty(&self, slot: u16) -> &'g TensorType {
        &self.graph.fact(Outlet { node: self.id, slot }).ty
    }

    /// The extents of result `slot`.
    pub(crate) fn out_dims(&self, slot: u16) -> Result<Vec<usize>, Reason> {
        self.out_ty(slot).fixed_dims().ok_or_else(|| Reason::new("the result has no known shape"))
    }

    /// Axis `axis` of a rank, negative ones counted from the end.
    pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Reason> {
        let shifted = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(shifted)
            .ok()
            .filter(|&a| a < rank)
            .ok_or_else(|| Reason::new(format!("axis {axis} is outside rank {rank}")))
    }
}
