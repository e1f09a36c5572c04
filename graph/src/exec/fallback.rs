//! Running one operator in the reference interpreter. It may allocate.

use super::arena::Arena;
use super::error::RunError;
use super::step::{Fallback, FallbackOperand, Source, Step, Surroundings};
use crate::reference::{self, EvalError, EvalLimits};
use requant_ir::{Tensor, TensorError};

/// Why the interpreter's step failed.
pub(crate) enum FallbackError {
    Tensor(TensorError),
    Eval(EvalError),
    Type { expected: String, got: String },
}

impl FallbackError {
    pub(crate) fn at(self, node: String) -> RunError {
        match self {
            FallbackError::Tensor(e) => RunError::Tensor(e),
            FallbackError::Eval(source) => RunError::Eval { node, source: Box::new(source) },
            FallbackError::Type { expected, got } => RunError::ResultType { node, expected, got },
        }
    }
}

impl Fallback {
    pub(crate) fn run(
        &self,
        step: &Step,
        arena: &mut Arena,
        around: Surroundings<'_>,
    ) -> Result<(), FallbackError> {
        let mut reads = step.reads.iter();
        let mut operands = Vec::with_capacity(self.operands.len());
        for operand in &self.operands {
            operands.push(match operand {
                None => None,
                Some(FallbackOperand::Constant(tensor)) => Some(tensor.clone()),
                Some(FallbackOperand::Value { elem, dims }) => {
                    let source = reads.next().expect("one read for each value");
                    let bytes = match source {
                        Source::Arena(range) => &arena.bytes()[range.clone()],
                        other => around.outside(other).expect("not in the arena"),
                    };
                    let tensor = Tensor::copy_from(elem.clone(), dims.clone(), bytes);
                    Some(tensor.map_err(FallbackError::Tensor)?)
                }
            });
        }
        let operands: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
        // A result that is larger than planned cannot be used anyway.
        let most = step.writes.iter().map(|w| w.len() as u64).max().unwrap_or(0);
        let limits = EvalLimits { result_bytes: most, ..EvalLimits::default() };
        let results = reference::eval_with(&self.op, &operands, self.results.len(), &limits)
            .map_err(FallbackError::Eval)?;
        for ((result, ty), range) in results.iter().zip(&self.results).zip(&step.writes) {
            if result.dtype() != ty.dtype() || ty.fixed_dims().as_deref() != Some(result.dims()) {
                let dims = |d: &[usize]| format!("{d:?}");
                return Err(FallbackError::Type {
                    expected: format!(
                        "{}{}",
                        ty.dtype(),
                        dims(&ty.fixed_dims().unwrap_or_default())
                    ),
                    got: format!("{}{}", result.dtype(), dims(result.dims())),
                });
            }
            arena.bytes_mut()[range.clone()].copy_from_slice(result.bytes());
        }
        Ok(())
    }
}
