//! The last resort of every operator: one step of the reference interpreter.

use super::{Builder, Site};
use crate::exec::error::CompileError;
use crate::exec::step::{Fallback, FallbackOperand, Kernel};
use crate::infer;
use requant_ir::Op;

pub(super) fn lower(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), CompileError> {
    let node = || site.graph.node(site.id).name.to_string();
    if let Op::Custom { domain, name, .. } = site.op {
        return Err(CompileError::Unsupported { node: node(), op: format!("{domain}.{name}") });
    }
    let mut reads = Vec::new();
    let mut operands = Vec::new();
    for i in 0..site.arity() {
        let Some(outlet) = site.operand(i) else {
            operands.push(None);
            continue;
        };
        if let Some(constant) = site.constant(i) {
            operands.push(Some(FallbackOperand::Constant(constant.clone())));
            continue;
        }
        let fact = site.graph.fact(outlet);
        let dims = fact.ty.fixed_dims().ok_or_else(|| CompileError::UnknownShape {
            tensor: fact.name.to_string(),
            ty: infer::show(&fact.ty),
        })?;
        operands.push(Some(FallbackOperand::Value { elem: fact.ty.elem.clone(), dims }));
        reads.push(b.values[&outlet]);
    }
    let outputs = &site.graph.node(site.id).outputs;
    let types = outputs.iter().map(|f| f.ty.clone()).collect();
    let writes = (0..outputs.len()).map(|slot| b.output(site, slot as u16)).collect();
    let fallback = Fallback { op: site.op.clone(), operands, results: types };
    b.steps(Kernel::Fallback(Box::new(fallback)), reads, writes, 0);
    Ok(())
}
