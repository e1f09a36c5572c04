//! The memory plan: when each block is alive, where it lies, and the steps with their addresses.

mod budget;
mod placement;

pub use budget::default_arena_bytes;
use placement::{Request, place};

use crate::exec::error::CompileError;
use crate::exec::step::{Source, Step};
use crate::lower::{NodeFate, Place, Program, Slot};
use requant_ir::{Tensor, TensorType};
use std::ops::Range;
use std::sync::Arc;

/// A value that the caller gives or gets, with its concrete type.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name.
    pub name: Arc<str>,
    /// Its type; every extent is fixed.
    pub ty: TensorType,
    /// Its extents.
    pub dims: Vec<usize>,
    /// Its size in bytes.
    pub bytes: usize,
}

/// How much memory a session takes and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Intermediate values, results and scratch of one session.
    pub arena: usize,
    /// What the arena takes at least in this order of steps: the most bytes alive at one step.
    pub lower_bound: usize,
    /// The step where that is.
    pub peak_step: usize,
    /// What the arena would take if no memory were reused.
    pub without_reuse: usize,
    /// Constants that steps read as they are, mapped from the file or made by folding.
    pub constants: usize,
}

/// Everything a session needs to run a model on inputs of certain shapes. Immutable and shareable.
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) nodes: Vec<NodeFate>,
    pub(crate) constants: Vec<Tensor>,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<(Port, Source)>,
    memory: Memory,
}

impl Plan {
    /// Places the blocks of `program`, within `budget` bytes.
    pub(crate) fn new(
        mut program: Program,
        inputs: Vec<Port>,
        outputs: Vec<Port>,
        budget: usize,
    ) -> Result<Plan, CompileError> {
        settle(&mut program);
        share_in_place(&mut program);
        let lives = lives(&program);
        let overflow = || CompileError::ArenaBudget { needed: None, budget };
        let placement = place(&lives).ok_or_else(overflow)?;
        if placement.bytes > budget {
            return Err(CompileError::ArenaBudget { needed: Some(placement.bytes), budget });
        }
        let buffers = program.buffers.len();
        let resolve = |p: &Place| -> Source {
            match p.slot {
                Slot::Constant(index) => {
                    Source::Constant { index, range: p.offset..p.offset + p.bytes }
                }
                Slot::Input(index) => Source::Input { index, range: p.offset..p.offset + p.bytes },
                Slot::Buffer(i) => {
                    let at = placement.offsets[i] + p.offset;
                    Source::Arena(at..at + p.bytes)
                }
            }
        };
        let written = |p: &Place| -> Range<usize> {
            match resolve(p) {
                Source::Arena(range) => range,
                _ => unreachable!("steps write blocks of the arena only"),
            }
        };
        let outputs = outputs.into_iter().zip(program.outputs.iter().map(resolve)).collect();
        let mut steps = Vec::with_capacity(program.steps.len());
        for (i, draft) in program.steps.into_iter().enumerate() {
            // The scratch block of step `i` is the request behind those of the buffers.
            let at = placement.offsets[buffers + i];
            steps.push(Step {
                reads: draft.reads.iter().map(resolve).collect(),
                writes: draft.writes.iter().map(written).collect(),
                scratch: at..at + draft.scratch,
                kernel: draft.kernel,
                node: draft.node,
            });
        }
        let memory = Memory {
            arena: placement.bytes,
            lower_bound: placement.lower_bound,
            peak_step: placement.peak_step,
            without_reuse: lives.iter().fold(0, |sum: usize, r| sum.saturating_add(r.bytes)),
            constants: constants_read(&steps, &program.constants),
        };
        Ok(Plan {
            steps,
            nodes: program.nodes,
            constants: program.constants,
            inputs,
            outputs,
            memory,
        })
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = &Port> {
        self.outputs.iter().map(|(port, _)| port)
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// True when there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The memory that a session with this plan takes.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// Replaces every place in a buffer that is part of another by the place in that other one.
fn settle(program: &mut Program) {
    let homes = std::mem::take(&mut program.homes);
    let settled = |place: &mut Place| {
        while let Slot::Buffer(i) = place.slot
            && let Some(home) = homes[i]
        {
            (place.slot, place.offset) = (home.slot, home.offset + place.offset);
        }
    };
    for step in &mut program.steps {
        step.reads.iter_mut().chain(&mut step.writes).for_each(settled);
    }
    program.outputs.iter_mut().for_each(settled);
    for (i, home) in homes.iter().enumerate() {
        if home.is_some() {
            program.buffers[i] = 0;
        }
    }
    program.homes = vec![None; program.buffers.len()];
}

/// Lets the result of a step that may run in place take over the buffer of its operand, where the
/// step is the last to touch that.
fn share_in_place(program: &mut Program) {
    let lives = lives(program);
    // Where the last touch of a buffer is; taken over buffers live on in their successor.
    let mut last: Vec<usize> = lives.iter().take(program.buffers.len()).map(|l| l.last).collect();
    for (i, step) in program.steps.iter().enumerate() {
        if !step.kernel.runs_in_place() {
            continue;
        }
        let (x, y) = (step.reads[0], step.writes[0]);
        let (Slot::Buffer(from), Slot::Buffer(to)) = (root(program, x.slot), y.slot) else {
            continue;
        };
        let whole = |p: &Place, buffer: usize| p.offset == 0 && p.bytes == program.buffers[buffer];
        if last[from] == i && from != to && lives[to].first == i && whole(&x, from) && whole(&y, to)
        {
            program.homes[to] = Some(Place { slot: Slot::Buffer(from), ..y });
            last[from] = last[to];
        }
    }
    settle(program);
}

/// The buffer that a taken over buffer lives in.
fn root(program: &Program, mut slot: Slot) -> Slot {
    while let Slot::Buffer(i) = slot
        && let Some(home) = program.homes[i]
    {
        slot = home.slot;
    }
    slot
}

/// From which step to which each buffer is needed, then each step's scratch block.
fn lives(program: &Program) -> Vec<Request> {
    let steps = program.steps.len();
    let mut lives: Vec<Option<Request>> = vec![None; program.buffers.len()];
    let mut touch = |place: &Place, step: usize| {
        if let Slot::Buffer(i) = place.slot {
            let life = lives[i].get_or_insert(Request {
                bytes: program.buffers[i],
                first: step,
                last: step,
            });
            (life.first, life.last) = (life.first.min(step), life.last.max(step));
        }
    };
    for (i, step) in program.steps.iter().enumerate() {
        step.reads.iter().chain(&step.writes).for_each(|p| touch(p, i));
    }
    for output in &program.outputs {
        touch(output, steps);
    }
    let unused = Request { bytes: 0, first: 0, last: 0 };
    let scratch = program.steps.iter().enumerate().map(|(i, s)| Request {
        bytes: s.scratch,
        first: i,
        last: i,
    });
    lives.into_iter().map(|l| l.unwrap_or(unused)).chain(scratch).collect()
}

/// Bytes of the constants that steps read unpacked, each counted once.
fn constants_read(steps: &[Step], constants: &[Tensor]) -> usize {
    let mut read = vec![false; constants.len()];
    for source in steps.iter().flat_map(|s| &s.reads) {
        if let Source::Constant { index, .. } = source {
            read[*index] = true;
        }
    }
    constants.iter().zip(read).filter(|(_, r)| *r).map(|(c, _)| c.bytes().len()).sum()
}
