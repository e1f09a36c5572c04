//! Whole graphs.

use super::{EvalError, EvalLimits, eval_with};
use crate::{Graph, NodeKind, Outlet, infer};
use requant_ir::Tensor;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How to run a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Keep every value, not only the outputs.
    pub keep_all: bool,
    /// How much one operator may take.
    pub limits: EvalLimits,
}

/// What a run gave.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The outputs by name, in the graph's order.
    pub outputs: Vec<(Arc<str>, Tensor)>,
    /// Every value by name, constants and inputs included, if they were to be kept.
    pub values: BTreeMap<Arc<str>, Tensor>,
}

/// Runs a graph on named inputs. Symbolic extents take those of the inputs; a plain tensor is taken for
/// a quantized input of the same storage.
pub fn run(
    graph: &Graph,
    inputs: &[(&str, Tensor)],
    options: &RunOptions,
) -> Result<Recording, EvalError> {
    let shapes: Vec<(&str, &[usize])> = inputs.iter().map(|(n, t)| (*n, t.dims())).collect();
    let graph = graph.bind(&shapes)?;
    let order = graph.topo();
    // How often each value is still to be read.
    let mut reads: BTreeMap<Outlet, usize> = BTreeMap::new();
    for &id in &order {
        for outlet in graph.operands(id).into_iter().flatten() {
            *reads.entry(outlet).or_default() += 1;
        }
    }
    for output in graph.outputs() {
        *reads.entry(output.outlet).or_default() += 1;
    }
    let mut recording = Recording::default();
    let mut values: BTreeMap<Outlet, Tensor> = BTreeMap::new();
    for id in order {
        let node = graph.node(id);
        let operands = graph.operands(id);
        let results = match &node.kind {
            NodeKind::Input => vec![input(&node.outputs[0], inputs)?],
            NodeKind::Constant(tensor) => vec![tensor.clone()],
            NodeKind::Op(op) => {
                let operands: SmallVec<[_; 4]> =
                    operands.iter().map(|o| o.as_ref().and_then(|o| values.get(o))).collect();
                eval_with(op, &operands, node.outputs.len(), &options.limits).map_err(|source| {
                    EvalError::Node { node: node.name.to_string(), source: Box::new(source) }
                })?
            }
        };
        for (slot, (tensor, fact)) in results.into_iter().zip(&node.outputs).enumerate() {
            if options.keep_all {
                recording.values.insert(fact.name.clone(), tensor.clone());
            }
            let outlet = Outlet { node: id, slot: slot as u16 };
            if reads.contains_key(&outlet) {
                values.insert(outlet, tensor);
            }
        }
        for outlet in operands.into_iter().flatten() {
            if let Some(left) = reads.get_mut(&outlet) {
                *left -= 1;
                if *left == 0 {
                    values.remove(&outlet);
                }
            }
        }
    }
    for output in graph.outputs() {
        let value = values.get(&output.outlet).cloned();
        let value = value.ok_or(EvalError::Unresolved { op: "output" })?;
        recording.outputs.push((output.name.clone(), value));
    }
    Ok(recording)
}

/// The tensor given for an input, under the input's type.
fn input(fact: &crate::Fact, inputs: &[(&str, Tensor)]) -> Result<Tensor, EvalError> {
    let given = inputs.iter().find(|(name, _)| **name == *fact.name);
    let (_, tensor) =
        given.ok_or_else(|| EvalError::MissingInput { name: fact.name.to_string() })?;
    if *tensor.elem() == fact.ty.elem {
        return Ok(tensor.clone());
    }
    if tensor.elem().quant.is_none() && tensor.dtype() == fact.ty.dtype() {
        return Ok(tensor.with_elem(fact.ty.elem.clone())?);
    }
    Err(EvalError::InputType {
        name: fact.name.to_string(),
        expected: infer::show(&fact.ty),
        got: infer::show(&tensor.ty()),
    })
}
