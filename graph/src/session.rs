//! A session: the memory of one run at a time, and the runs.

use crate::exec::input::Input;
use crate::exec::step::{Source, Surroundings};
use crate::exec::{Arena, CompileError, CompiledModel, ModelPort, RunError};
use crate::infer;
use crate::plan::{Plan, Port};
use requant_ir::{Dim, Tensor};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs a [`CompiledModel`]: an arena and the current plan. Make one per thread.
///
/// Two ways to run: [`run`](Self::run) takes and gives tensors by name and follows the shapes of its
/// inputs; [`set_input`](Self::set_input), [`run_in_place`](Self::run_in_place) and
/// [`output`](Self::output) work on the session's own memory and allocate nothing, once shapes are set.
pub struct Session {
    model: CompiledModel,
    current: Option<Current>,
    deadline: Option<Duration>,
}

/// The plan in use with the memory for it.
struct Current {
    plan: Arc<Plan>,
    arena: Arena,
    inputs: Vec<Input>,
}

impl Session {
    /// A session without memory; shapes, once known, bring it.
    pub(crate) fn new(model: CompiledModel) -> Self {
        Session { model, current: None, deadline: None }
    }

    /// The model it runs.
    pub fn model(&self) -> &CompiledModel {
        &self.model
    }

    /// Stops runs that take longer, between two steps; `None` lets them finish.
    pub fn set_deadline(&mut self, limit: Option<Duration>) {
        self.deadline = limit;
    }

    /// Runs the model on `inputs`, in any order, and gives the outputs in the model's order.
    ///
    /// The inputs' bytes are read where they are. Inputs of new shapes make a new plan (kept by the
    /// model); the session's memory is replaced when they change.
    ///
    /// # Errors
    /// If an input is unknown, missing, given twice, or of a type or shape that does not fit; if the
    /// model cannot be planned for these shapes; if the deadline passes.
    pub fn run(&mut self, inputs: &[(&str, Tensor)]) -> Result<Vec<(Arc<str>, Tensor)>, RunError> {
        let ordered = match_inputs(self.model.inputs(), inputs)?;
        let shapes: Vec<&[usize]> = ordered.iter().map(|t| t.dims()).collect();
        self.set_shapes(&shapes)?;
        let current = self.current.as_mut().ok_or(RunError::NoShapes)?;
        for (input, tensor) in current.inputs.iter_mut().zip(ordered) {
            *input = Input::Tensor(tensor.clone());
        }
        let result = self.run_in_place().and_then(|()| self.outputs());
        // The caller's memory is not held on to.
        if let Some(current) = &mut self.current {
            current.inputs.fill_with(|| Input::Missing);
        }
        result
    }

    /// Makes the session ready for inputs of these shapes, in the model's order. Nothing happens when
    /// it is already.
    ///
    /// # Errors
    /// If the shapes do not fit the model, or it cannot be planned for them.
    pub fn set_shapes(&mut self, shapes: &[&[usize]]) -> Result<(), RunError> {
        check_shapes(self.model.inputs(), shapes)?;
        let is_current = |plan: &Plan| {
            plan.inputs().iter().map(|p| p.dims.as_slice()).eq(shapes.iter().copied())
        };
        if self.current.as_ref().is_some_and(|c| is_current(&c.plan)) {
            return Ok(());
        }
        let shapes: Vec<Vec<usize>> = shapes.iter().map(|s| s.to_vec()).collect();
        let plan = self.model.plan(&shapes)?;
        // The old memory goes before the new one comes.
        self.current = None;
        let bytes = plan.memory().arena;
        let arena = Arena::new(bytes).ok_or(RunError::NoMemory { bytes })?;
        let inputs = plan.inputs().iter().map(|_| Input::Missing).collect();
        self.current = Some(Current { plan, arena, inputs });
        Ok(())
    }

    /// The plan in use, once shapes are known.
    pub fn plan(&self) -> Option<&Arc<Plan>> {
        self.current.as_ref().map(|c| &c.plan)
    }

    /// Copies `bytes`, row-major and little-endian, into input `index`. It stays until it is set again.
    ///
    /// # Errors
    /// If there is no such input, its shape is not known yet, or the length is another.
    pub fn set_input(&mut self, index: usize, bytes: &[u8]) -> Result<(), RunError> {
        let (name, input) = self.input_mut(index)?;
        if input.len() != bytes.len() {
            return Err(RunError::InputBytes {
                name: name.to_string(),
                expected: input.len(),
                got: bytes.len(),
            });
        }
        input.copy_from_slice(bytes);
        Ok(())
    }

    /// The memory of input `index`, to write it where it is read. Its name comes with it.
    ///
    /// # Errors
    /// If there is no such input or its shape is not known yet.
    pub fn input_mut(&mut self, index: usize) -> Result<(Arc<str>, &mut [u8]), RunError> {
        let current = self.ready()?;
        let count = current.inputs.len();
        let port = current.plan.inputs().get(index).ok_or(RunError::Index {
            what: "input",
            index,
            count,
        })?;
        let (name, bytes) = (port.name.clone(), port.bytes);
        let input = current.inputs[index].own(bytes).ok_or(RunError::NoMemory { bytes })?;
        Ok((name, input))
    }

    /// Runs the model on the inputs that are set. Allocates nothing, unless an operator fell back to
    /// the reference interpreter or kernels share their work among threads.
    ///
    /// # Errors
    /// If an input is not set, a step fails, or the deadline passes.
    pub fn run_in_place(&mut self) -> Result<(), RunError> {
        match self.deadline {
            None => self.execute(|_, _| Ok(())),
            Some(limit) => {
                let start = Instant::now();
                self.execute(|step, steps| {
                    if start.elapsed() > limit && step + 1 < steps {
                        return Err(RunError::Deadline { step: step + 1, steps, limit });
                    }
                    Ok(())
                })
            }
        }
    }

    /// As [`run_in_place`](Self::run_in_place); `times[i]` grows by the time that step `i` took.
    ///
    /// # Errors
    /// As [`run_in_place`](Self::run_in_place).
    pub fn run_profiled(&mut self, times: &mut Vec<Duration>) -> Result<(), RunError> {
        let steps = self.ready()?.plan.len();
        times.resize(steps, Duration::ZERO);
        let mut last = Instant::now();
        self.execute(|step, _| {
            let now = Instant::now();
            times[step] += now - last;
            last = now;
            Ok(())
        })
    }

    /// The bytes of output `index` after a run.
    ///
    /// # Errors
    /// If there is no such output, or no shapes are known yet.
    pub fn output(&self, index: usize) -> Result<&[u8], RunError> {
        let current = self.current.as_ref().ok_or(RunError::NoShapes)?;
        let count = current.plan.outputs.len();
        let (_, source) = current.plan.outputs.get(index).ok_or(RunError::Index {
            what: "output",
            index,
            count,
        })?;
        Ok(current.bytes(source))
    }

    /// All outputs as tensors.
    fn outputs(&self) -> Result<Vec<(Arc<str>, Tensor)>, RunError> {
        let current = self.current.as_ref().ok_or(RunError::NoShapes)?;
        let tensor = |(port, source): &(Port, Source)| {
            let bytes = current.bytes(source);
            let tensor = Tensor::copy_from(port.ty.elem.clone(), port.dims.clone(), bytes)?;
            Ok((port.name.clone(), tensor))
        };
        current.plan.outputs.iter().map(tensor).collect()
    }

    /// The memory for the model's own shapes, if no others are set.
    fn ready(&mut self) -> Result<&mut Current, RunError> {
        if self.current.is_none() {
            let shapes = self.model.fixed_shapes().ok_or(RunError::NoShapes)?;
            let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
            self.set_shapes(&shapes)?;
        }
        self.current.as_mut().ok_or(RunError::NoShapes)
    }

    fn execute(
        &mut self,
        mut after: impl FnMut(usize, usize) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        self.ready()?;
        let Some(Current { plan, arena, inputs }) = &mut self.current else {
            return Err(RunError::NoShapes);
        };
        for (port, input) in plan.inputs().iter().zip(inputs.iter()) {
            if matches!(input, Input::Missing) {
                return Err(RunError::MissingInput { name: port.name.to_string() });
            }
        }
        let around = Surroundings { constants: &plan.constants, inputs };
        let entered = self.model.pool().enter();
        let par = entered.parallel();
        let steps = plan.steps.len();
        for (i, step) in plan.steps.iter().enumerate() {
            step.run(arena, around, par).map_err(|e| e.at(&plan.nodes[step.node].name))?;
            after(i, steps)?;
        }
        Ok(())
    }
}

impl Current {
    fn bytes(&self, source: &Source) -> &[u8] {
        match source {
            Source::Arena(range) => &self.arena.bytes()[range.clone()],
            other => Surroundings { constants: &self.plan.constants, inputs: &self.inputs }
                .outside(other)
                .expect("not in the arena"),
        }
    }
}

/// The tensors in the model's order.
fn match_inputs<'a>(
    ports: &[ModelPort],
    given: &'a [(&str, Tensor)],
) -> Result<Vec<&'a Tensor>, RunError> {
    let mut ordered: Vec<Option<&Tensor>> = vec![None; ports.len()];
    for (name, tensor) in given {
        let Some(i) = ports.iter().position(|p| *p.name == **name) else {
            let known: Vec<String> = ports.iter().map(|p| p.name.to_string()).collect();
            let nearest = nearest(name, &known);
            return Err(RunError::UnknownInput { name: (*name).to_owned(), nearest, known });
        };
        if ordered[i].replace(tensor).is_some() {
            return Err(RunError::DuplicateInput { name: (*name).to_owned() });
        }
        if tensor.dtype() != ports[i].ty.dtype() {
            return Err(RunError::InputType {
                name: (*name).to_owned(),
                expected: ports[i].ty.dtype(),
                got: tensor.dtype(),
            });
        }
    }
    let missing = |i: usize| RunError::MissingInput { name: ports[i].name.to_string() };
    ordered.into_iter().enumerate().map(|(i, t)| t.ok_or_else(|| missing(i))).collect()
}

/// The known name that `name` is most likely a misspelling of.
fn nearest(name: &str, known: &[String]) -> Option<String> {
    let distance = |k: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &k.to_lowercase());
    let best = known.iter().min_by_key(|k| distance(k))?;
    (distance(best) <= best.chars().count().max(name.chars().count()) / 3 + 1).then(|| best.clone())
}

/// Fails unless the shapes have the ranks, the fixed extents and consistent values for the symbols of
/// the model's inputs.
fn check_shapes(ports: &[ModelPort], shapes: &[&[usize]]) -> Result<(), RunError> {
    if ports.len() != shapes.len() {
        let e = CompileError::InputCount { expected: ports.len(), got: shapes.len() };
        return Err(e.into());
    }
    let mut bound: Vec<(&str, usize)> = Vec::new();
    for (port, shape) in ports.iter().zip(shapes) {
        let Some(dims) = &port.ty.dims else { continue };
        let misfit = || RunError::InputShape {
            name: port.name.to_string(),
            expected: infer::show(&port.ty),
            got: shape.to_vec(),
        };
        if dims.len() != shape.len() {
            return Err(misfit());
        }
        for (dim, &extent) in dims.iter().zip(shape.iter()) {
            match dim {
                Dim::Fixed(n) if *n != extent => return Err(misfit()),
                Dim::Symbol(symbol) => match bound.iter().find(|(s, _)| *s == &**symbol) {
                    Some(&(_, n)) if n != extent => {
                        return Err(RunError::Symbol {
                            name: port.name.to_string(),
                            symbol: symbol.to_string(),
                            got: extent,
                            bound: n,
                        });
                    }
                    Some(_) => {}
                    None => bound.push((symbol, extent)),
                },
                _ => {}
            }
        }
    }
    Ok(())
}
