//! What becomes of an operator when the image-like tensors around it are stored in the other
//! layout.

use super::super::consts::{self, inverse, operand, permuted};
use crate::{Graph, NodeId, NodeKind, Outlet};
use requant_ir::{
    ConvAttrs, DType, ElemType, Layout, Op, PoolAttrs, QOut, QuantParams, ReduceKind, Tensor,
};

/// The two layouts as a relation between what a tensor is and how it is stored: `Last` moves axis 1
/// to the end, `First` moves the last axis to place 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flip {
    Last,
    First,
}

impl Flip {
    /// The flip that leaves `from`.
    pub(super) fn out_of(from: Layout) -> Flip {
        match from {
            Layout::ChannelsFirst => Flip::Last,
            Layout::ChannelsLast => Flip::First,
        }
    }

    /// The permutation for tensors of this rank; those below 3 have no image axes.
    pub(super) fn perm(self, rank: usize) -> Vec<usize> {
        let mut perm: Vec<usize> = (0..rank).collect();
        if rank >= 3 {
            match self {
                Flip::Last => perm[1..].rotate_left(1),
                Flip::First => perm[1..].rotate_right(1),
            }
        }
        perm
    }

    /// Where axis `axis` goes.
    fn axis(self, axis: usize, rank: usize) -> usize {
        inverse(&self.perm(rank))[axis]
    }

    fn layout(self) -> Layout {
        match self {
            Flip::Last => Layout::ChannelsLast,
            Flip::First => Layout::ChannelsFirst,
        }
    }

    /// The layout that is left.
    fn from(self) -> Layout {
        match self {
            Flip::Last => Layout::ChannelsFirst,
            Flip::First => Layout::ChannelsLast,
        }
    }
}

/// How an operand is given to the flipped operator.
pub(super) enum Use {
    /// Stored in the flipped layout.
    Follow,
    /// As it is.
    Keep,
    /// Replaced by a constant.
    Constant(Tensor),
}

/// A flipped operator.
pub(super) struct Flipped {
    pub(super) op: Op,
    pub(super) operands: Vec<Use>,
    /// Whether the results are flipped too; reductions may take the image axes away.
    pub(super) follows: bool,
    /// Float sums are taken in another order.
    pub(super) rounds: bool,
}

/// The layout that an operator with a layout attribute is in, and whether the kernels want it to
/// be channels-last.
pub(super) fn anchor(op: &Op) -> Option<(Layout, bool)> {
    match op {
        Op::Conv(conv) | Op::QConv { conv, .. } => Some((conv.layout, true)),
        Op::Pool(pool) | Op::QPool { pool, .. } => Some((pool.layout, true)),
        Op::BatchNorm { layout, .. } => Some((*layout, false)),
        _ => None,
    }
}

/// The operator of `node` after `flip`; `None` for the operators that need their axes as they are.
pub(super) fn flipped(graph: &Graph, node: NodeId, flip: Flip) -> Option<Flipped> {
    Flipper { graph, node, flip }.flipped()
}

struct Flipper<'a> {
    graph: &'a Graph,
    node: NodeId,
    flip: Flip,
}

impl Flipper<'_> {
    fn flipped(&self) -> Option<Flipped> {
        let NodeKind::Op(op) = &self.graph.node(self.node).kind else { return None };
        let rank = self.rank(0)?;
        if let Some((layout, _)) = anchor(op) {
            return (layout == self.flip.from() && rank >= 3).then(|| self.anchored(op))?;
        }
        match op {
            Op::Identity | Op::Cast { .. } | Op::Unary(_) | Op::Dequantize | Op::Lut { .. } => {
                self.first(op.clone())
            }
            Op::Reinterpret { out } => self.first(Op::Reinterpret { out: self.elem(out, rank)? }),
            Op::Quantize { out, clamp } => {
                self.first(Op::Quantize { out: self.elem(out, rank)?, clamp: *clamp })
            }
            Op::Requantize(out) => self.first(Op::Requantize(self.qout(out, rank)?)),
            Op::Binary(_) | Op::Where => self.elementwise(op.clone()),
            Op::QBinary { out, .. } if out.elem.as_per_tensor().is_some() => {
                self.elementwise(op.clone())
            }
            Op::Concat { axis } => self.concat(*axis, rank),
            Op::Split { axis, sizes } => {
                let axis = self.axis(*axis, rank)?;
                self.first(Op::Split { axis, sizes: sizes.clone() })
            }
            Op::Slice => self.sliced(rank),
            Op::Pad { mode } => self.padded(Op::Pad { mode: *mode }, rank),
            Op::Gather { axis } if self.rank(1) == Some(1) => {
                self.first(Op::Gather { axis: self.axis(*axis, rank)? })
            }
            Op::Softmax { axis, flatten: false } => {
                self.first(Op::Softmax { axis: self.axis(*axis, rank)?, flatten: false })
            }
            Op::QSoftmax { axis, out } => {
                self.first(Op::QSoftmax { axis: self.axis(*axis, rank)?, out: out.clone() })
            }
            _ => self.rank_changing(op, rank),
        }
    }

    fn rank(&self, index: usize) -> Option<usize> {
        self.graph.fact(operand(self.graph, self.node, index)?).ty.rank()
    }

    fn axis(&self, axis: i64, rank: usize) -> Option<i64> {
        i64::try_from(self.flip.axis(consts::axis(axis, rank)?, rank)).ok()
    }

    /// A result type with its axis moved.
    fn elem(&self, elem: &ElemType, rank: usize) -> Option<ElemType> {
        let mut elem = elem.clone();
        if let Some(quant) = &mut elem.quant {
            match &mut quant.params {
                QuantParams::PerTensor { .. } => {}
                QuantParams::PerAxis { axis, .. } if *axis < rank => {
                    *axis = self.flip.axis(*axis, rank);
                }
                _ => return None,
            }
        }
        Some(elem)
    }

    fn qout(&self, out: &QOut, rank: usize) -> Option<QOut> {
        Some(QOut { elem: self.elem(&out.elem, rank)?, ..out.clone() })
    }

    /// Only the first operand is image-like.
    fn first(&self, op: Op) -> Option<Flipped> {
        if self.rank(0)? < 3 {
            return None;
        }
        let mut operands: Vec<Use> =
            self.graph.operands(self.node).iter().map(|_| Use::Keep).collect();
        operands[0] = Use::Follow;
        Some(Flipped { op, operands, follows: true, rounds: false })
    }

    fn anchored(&self, op: &Op) -> Option<Flipped> {
        let layout = self.flip.layout();
        let rank = self.rank(0)?;
        let conv = |c: &ConvAttrs| ConvAttrs { layout, ..c.clone() };
        let pool = |p: &PoolAttrs| PoolAttrs { layout, ..p.clone() };
        let op = match op {
            Op::Conv(c) => Op::Conv(conv(c)),
            Op::Pool(p) => Op::Pool(pool(p)),
            Op::BatchNorm { epsilon, .. } => Op::BatchNorm { epsilon: *epsilon, layout },
            Op::QPool { pool: p, out } => Op::QPool { pool: pool(p), out: self.qout(out, rank)? },
            Op::QConv { conv: c, out, zero_folded, residual } => Op::QConv {
                conv: conv(c),
                out: self.qout(out, rank)?,
                zero_folded: *zero_folded,
                residual: residual.clone(),
            },
            _ => return None,
        };
        let residual = matches!(op, Op::QConv { .. });
        let mut flipped = self.first(op)?;
        // The residual operand has the shape of the result.
        if let Some(operand) = flipped.operands.get_mut(3).filter(|_| residual) {
            *operand = Use::Follow;
        }
        Some(flipped)
    }

    /// Operands that are broadcast against each other.
    fn elementwise(&self, op: Op) -> Option<Flipped> {
        let result = Outlet { node: self.node, slot: 0 };
        let rank = self.graph.fact(result).ty.rank().filter(|&r| r >= 3)?;
        let operands = self.graph.operands(self.node);
        let operands =
            operands.iter().map(|o| self.broadcast((*o)?, rank)).collect::<Option<Vec<_>>>()?;
        Some(Flipped { op, operands, follows: true, rounds: false })
    }

    fn broadcast(&self, operand: Outlet, rank: usize) -> Option<Use> {
        let dims = self.graph.fact(operand).ty.dims.as_deref()?;
        if dims.iter().all(|d| d.fixed() == Some(1)) {
            return Some(Use::Keep);
        }
        let Some(tensor) = self.graph.constant(operand) else {
            return (dims.len() == rank).then_some(Use::Follow);
        };
        let mut full = vec![1; rank.checked_sub(tensor.dims().len())?];
        if !full.is_empty() && tensor.elem().quant.as_ref().is_some_and(|q| q.axis().is_some()) {
            return None;
        }
        full.extend_from_slice(tensor.dims());
        let tensor = tensor.with_dims(full).ok()?;
        Some(Use::Constant(consts::transposed(&tensor, &self.flip.perm(rank))?))
    }

    fn concat(&self, axis: i64, rank: usize) -> Option<Flipped> {
        if rank < 3 {
            return None;
        }
        let follow = |o: &Option<Outlet>| match self.graph.constant((*o)?) {
            Some(tensor) => Some(Use::Constant(consts::transposed(tensor, &self.flip.perm(rank))?)),
            None => Some(Use::Follow),
        };
        let operands = self.graph.operands(self.node);
        let operands = operands.iter().map(follow).collect::<Option<Vec<_>>>()?;
        let op = Op::Concat { axis: self.axis(axis, rank)? };
        Some(Flipped { op, operands, follows: true, rounds: false })
    }

    /// The axes operand `index`, which is all axes in order when it is absent, after the flip.
    fn axes_operand(&self, index: usize, count: usize, rank: usize) -> Option<Use> {
        let axes = match operand(self.graph, self.node, index) {
            None => (0..i64::try_from(count).ok()?).collect(),
            Some(axes) => self.graph.constant(axes)?.to_i64()?,
        };
        let axes = axes.into_iter().map(|a| self.axis(a, rank)).collect::<Option<Vec<_>>>()?;
        Some(Use::Constant(consts::shape_tensor(&axes)))
    }

    fn sliced(&self, rank: usize) -> Option<Flipped> {
        let starts = operand(self.graph, self.node, 1)?;
        let [count] = self.graph.fact(starts).ty.fixed_dims()?[..] else { return None };
        let mut flipped = self.first(Op::Slice)?;
        flipped.operands.resize_with(flipped.operands.len().max(4), || Use::Keep);
        flipped.operands[3] = self.axes_operand(3, count, rank)?;
        Some(flipped)
    }

    fn padded(&self, op: Op, rank: usize) -> Option<Flipped> {
        let mut flipped = self.first(op)?;
        if operand(self.graph, self.node, 3).is_some() {
            flipped.operands[3] = self.axes_operand(3, rank, rank)?;
            return Some(flipped);
        }
        let pads = consts::int_operand(self.graph, self.node, 1).filter(|p| p.len() == 2 * rank)?;
        let perm = self.flip.perm(rank);
        let mut moved = permuted(&pads[..rank], &perm);
        moved.extend(permuted(&pads[rank..], &perm));
        flipped.operands[1] = Use::Constant(consts::shape_tensor(&moved));
        Some(flipped)
    }

    /// Operators that add axes of extent 1 or take axes away.
    fn rank_changing(&self, op: &Op, rank: usize) -> Option<Flipped> {
        let moved = |axes: &[i64], rank| {
            let mut axes = axes.iter().map(|&a| self.axis(a, rank)).collect::<Option<Vec<_>>>()?;
            axes.sort_unstable();
            Some(axes)
        };
        match op {
            Op::Reduce { kind, axes, keep_dims } => {
                let axes = self.all_if_empty(axes, rank);
                let op =
                    Op::Reduce { kind: *kind, axes: moved(&axes, rank)?, keep_dims: *keep_dims };
                let is_float = self.graph.fact(Outlet::from(self.node)).ty.dtype().is_float();
                let picks = matches!(kind, ReduceKind::Max | ReduceKind::Min);
                let flipped = self.without(op, &axes, rank, *keep_dims)?;
                Some(Flipped { rounds: is_float && !picks, ..flipped })
            }
            Op::QMean { axes, keep_dims, out } => {
                out.elem.as_per_tensor()?;
                let axes = self.all_if_empty(axes, rank);
                let op = Op::QMean {
                    axes: moved(&axes, rank)?,
                    keep_dims: *keep_dims,
                    out: out.clone(),
                };
                self.without(op, &axes, rank, *keep_dims)
            }
            Op::ArgMax { axis, keep_dims } => {
                let op = Op::ArgMax { axis: self.axis(*axis, rank)?, keep_dims: *keep_dims };
                self.without(op, &[*axis], rank, *keep_dims)
            }
            Op::Squeeze { axes } if !axes.is_empty() => {
                self.without(Op::Squeeze { axes: moved(axes, rank)? }, axes, rank, false)
            }
            Op::Unsqueeze { axes } => {
                let result = rank + axes.len();
                // The operand must be what is left of the result without the new axes.
                if self.left(axes, result)? != (0..rank).collect::<Vec<_>>() || result < 3 {
                    return None;
                }
                let op = Op::Unsqueeze { axes: moved(axes, result)? };
                Some(Flipped { op, operands: vec![Use::Keep], follows: true, rounds: false })
            }
            _ => None,
        }
    }

    fn all_if_empty(&self, axes: &[i64], rank: usize) -> Vec<i64> {
        if axes.is_empty() { (0..rank as i64).collect() } else { axes.to_vec() }
    }

    /// An operator whose result lacks `axes`, or has them with extent 1 when `keep`.
    fn without(&self, op: Op, axes: &[i64], rank: usize, keep: bool) -> Option<Flipped> {
        let mut flipped = self.first(op)?;
        if !keep {
            let left = self.left(axes, rank)?;
            if left != (0..left.len()).collect::<Vec<_>>() {
                flipped.follows = true;
                return (left == self.flip.perm(left.len())).then_some(flipped);
            }
            flipped.follows = false;
        }
        Some(flipped)
    }

    /// The axes that are left without `axes`, in the order that the flip puts them, numbered as
    /// they are numbered without a flip.
    fn left(&self, axes: &[i64], rank: usize) -> Option<Vec<usize>> {
        let gone = axes.iter().map(|&a| consts::axis(a, rank)).collect::<Option<Vec<_>>>()?;
        let kept: Vec<usize> = (0..rank).filter(|a| !gone.contains(a)).collect();
        let place = |a: &usize| kept.iter().position(|k| k == a);
        Some(self.flip.perm(rank).iter().filter_map(place).collect())
    }
}

/// Bytes of an element, at least one.
pub(super) fn element_bytes(dtype: DType) -> u64 {
    u64::from(dtype.bits().div_ceil(8))
}
