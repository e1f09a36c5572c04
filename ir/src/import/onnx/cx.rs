//! What the reader of one node sees: its operands, its attributes, and ways to emit operators.

use super::attrs::Attrs;
use super::builder::{Builder, Info, Sym};
use super::error::{Failure, malformed, of_operand, unsupported};
use super::external::ExternalFiles;
use super::proto::{NodeProto, TensorProto};
use super::tensor;
use crate::{DType, ElemType, Op, QuantParams, Tensor, ValueId};
use std::collections::HashSet;

pub(super) struct Cx<'c, 'a> {
    pub(super) b: &'c mut Builder<'a>,
    pub(super) attrs: Attrs<'c>,
    /// Version of ONNX's own operator set.
    pub(super) opset: i64,
    pub(super) node: &'c NodeProto,
    /// Name of the node in the IR.
    pub(super) name: String,
    pub(super) operands: Vec<Option<Sym>>,
    /// Names that some node or the graph's output list uses.
    pub(super) used: &'c HashSet<&'c str>,
    pub(super) external: &'c mut ExternalFiles,
    /// Operators emitted before the last one.
    pub(super) steps: usize,
}

impl<'c> Cx<'c, '_> {
    // ---- operands ----------------------------------------------------------------------------

    /// The operands of an operator that takes at most `N`.
    pub(super) fn take<const N: usize>(&self) -> Result<[Option<Sym>; N], Failure> {
        if self.operands.len() > N {
            return malformed(format!("{} operands, at most {N} expected", self.operands.len()));
        }
        Ok(std::array::from_fn(|i| self.operands.get(i).copied().flatten()))
    }

    /// All operands of an operator that takes any number, at least one.
    pub(super) fn take_all(&self) -> Result<Vec<Sym>, Failure> {
        let all: Option<Vec<Sym>> = self.operands.iter().copied().collect();
        match all {
            Some(all) if !all.is_empty() => Ok(all),
            _ => malformed("an operand is missing"),
        }
    }

    pub(super) fn dtype(&self, sym: Sym) -> DType {
        self.b.info(sym).elem.dtype
    }

    pub(super) fn rank(&self, sym: Sym) -> Option<usize> {
        self.b.info(sym).rank
    }

    pub(super) fn need_rank(&self, sym: Sym) -> Result<usize, Failure> {
        self.rank(sym).map_or_else(|| of_operand("an operand of unknown rank"), Ok)
    }

    /// The operand as plain numbers.
    pub(super) fn plain(&mut self, sym: Sym) -> Result<Option<ValueId>, Failure> {
        let elem = ElemType::plain(self.dtype(sym));
        self.b.view(sym, &elem).map(Some)
    }

    pub(super) fn plain_opt(&mut self, sym: Option<Sym>) -> Result<Option<ValueId>, Failure> {
        sym.map_or(Ok(None), |sym| self.plain(sym))
    }

    /// The operand under a quantization that the node itself states.
    pub(super) fn quantized(
        &mut self,
        sym: Sym,
        elem: &ElemType,
    ) -> Result<Option<ValueId>, Failure> {
        self.b.view(sym, elem).map(Some)
    }

    /// The operand of an operator that only moves elements, and the type of the result. Per-axis
    /// quantization does not survive every movement, so the bytes are moved as plain numbers then:
    /// whoever reads them states their meaning again.
    pub(super) fn moved(&mut self, sym: Sym) -> Result<(Option<ValueId>, ElemType), Failure> {
        let mut elem = self.b.info(sym).elem.clone();
        if elem.quant.as_ref().is_some_and(|q| !matches!(q.params, QuantParams::PerTensor { .. })) {
            elem.quant = None;
        }
        Ok((Some(self.b.view(sym, &elem)?), elem))
    }

    /// The elements of an integer constant; `None` if it is not a constant.
    pub(super) fn ints(&self, sym: Sym) -> Result<Option<Vec<i64>>, Failure> {
        match self.b.constant(sym) {
            None => Ok(None),
            Some(t) => match t.to_i64() {
                Some(v) => Ok(Some(v)),
                None => malformed(format!("{} elements where integers are expected", t.dtype())),
            },
        }
    }

    /// The elements of an integer operand that must be a constant.
    pub(super) fn const_ints(&self, sym: Sym, what: &str) -> Result<Vec<i64>, Failure> {
        self.ints(sym)?.map_or_else(|| of_operand(format!("{what} that are not constant")), Ok)
    }

    /// An operand with extents, axes or indices, as s64.
    pub(super) fn index(&mut self, sym: Sym) -> Result<Option<ValueId>, Failure> {
        match self.dtype(sym) {
            DType::I64 => self.plain(sym),
            DType::I32 => {
                let name = format!("{}/index", self.name);
                if let Some(t) = self.b.constant(sym) {
                    let dims = t.dims().to_vec();
                    self.b.derive(t.bytes().len() * 2)?;
                    let wide = self.ints(sym)?.unwrap_or_default();
                    let wide = Tensor::from_slice(&dims, &wide)?;
                    return Ok(Some(self.b.fresh_constant(&name, wide)?));
                }
                let x = self.plain(sym)?;
                self.step(Op::Cast { to: DType::I64 }, vec![x])
            }
            other => malformed(format!("{other} elements where s64 or s32 are expected")),
        }
    }

    pub(super) fn index_opt(&mut self, sym: Option<Sym>) -> Result<Option<ValueId>, Failure> {
        sym.map_or(Ok(None), |sym| self.index(sym))
    }

    /// The one element of a constant, as f32; `None` if it is not a constant.
    pub(super) fn const_float(&self, sym: Sym) -> Result<Option<f32>, Failure> {
        let Some(t) = self.b.constant(sym) else { return Ok(None) };
        match t.to_f32().as_deref() {
            Some(&[v]) => Ok(Some(v)),
            _ => malformed(format!("{}{:?} where one float is expected", t.dtype(), t.dims())),
        }
    }

    /// A tensor that is an attribute.
    pub(super) fn read_tensor(&mut self, t: &TensorProto) -> Result<Tensor, Failure> {
        tensor::read(t, self.external, self.b.limits)
    }

    // ---- results -----------------------------------------------------------------------------

    /// Emits an operator whose result only this node uses.
    pub(super) fn step(
        &mut self,
        op: Op,
        inputs: Vec<Option<ValueId>>,
    ) -> Result<Option<ValueId>, Failure> {
        self.steps += 1;
        let base = self.node.output.first().filter(|o| !o.is_empty()).unwrap_or(&self.name);
        let out = self.b.fresh_value(&format!("{base}/{}", self.steps))?;
        let name = self.b.node_name(&format!("{}/{}", self.name, self.steps));
        let origin = self.origin();
        self.b.add_node(name, op, inputs, vec![out], origin)?;
        Ok(Some(out))
    }

    /// Emits the operator that gives the node's one result.
    pub(super) fn done(
        &mut self,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        info: Info,
    ) -> Result<(), Failure> {
        self.done_all(op, inputs, vec![info])
    }

    /// Emits the operator that gives the node's results; results that ONNX defines beyond these
    /// must not be used.
    pub(super) fn done_all(
        &mut self,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        infos: Vec<Info>,
    ) -> Result<(), Failure> {
        self.attrs.finish()?;
        self.only_results(infos.len())?;
        let mut outputs = Vec::with_capacity(infos.len());
        for (i, info) in infos.into_iter().enumerate() {
            outputs.push(match self.node.output.get(i).filter(|o| !o.is_empty()) {
                Some(name) => self.b.define_result(name, info)?,
                None => self.b.fresh_value(&format!("{}/unused", self.name))?,
            });
        }
        let origin = if self.name == self.node.name { Vec::new() } else { self.origin() };
        self.b.add_node(self.name.clone(), op, inputs, outputs, origin)?;
        Ok(())
    }

    fn origin(&self) -> Vec<String> {
        if self.node.name.is_empty() { Vec::new() } else { vec![self.node.name.clone()] }
    }

    /// Refuses the node if a result after the first `n` is used.
    fn only_results(&self, n: usize) -> Result<(), Failure> {
        for (i, name) in self.node.output.iter().enumerate().skip(n) {
            if self.used.contains(name.as_str()) && !name.is_empty() {
                return unsupported(format!("its result {i} (`{name}`)"));
            }
        }
        Ok(())
    }
}

/// An operand that must be there.
pub(super) fn req(operand: Option<Sym>, what: &str) -> Result<Sym, Failure> {
    operand.map_or_else(|| malformed(format!("operand `{what}` is missing")), Ok)
}

/// A result of as many axes as the operand with more of them.
pub(super) fn broadcast(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    Some(a?.max(b?))
}
