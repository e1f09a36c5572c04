//! A model made ready for this machine.

use super::error::CompileError;
use super::options::{CompileOptions, Pool};
use crate::explain::{Explanation, SourceNode};
use crate::lower::{Target, WeightCache, lower};
use crate::pass::{Level, Pass, PassReport, Pipeline, PipelineOptions};
use crate::passes::{self, Dce, FoldConstants, FoldDequantized, RemoveIdentity};
use crate::plan::{Plan, Port, default_arena_bytes};
use crate::session::Session;
use crate::{Graph, Outlet, infer};
use requant_ir::{DType, Tensor, TensorType};
use requant_kernels::Cpu;
use std::sync::{Arc, Mutex, PoisonError};

/// An input or output of a model, whose extents may be symbols.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its type.
    pub ty: TensorType,
}

/// A model made ready for this machine: the optimized graph, packed weights and a plan for each set of
/// input shapes seen lately. Cloning shares all of it; use one from as many threads as you like, each
/// with its own [`Session`].
#[derive(Clone)]
pub struct CompiledModel(Arc<Inner>);

struct Inner {
    graph: Graph,
    inputs: Vec<ModelPort>,
    outputs: Vec<ModelPort>,
    source: Vec<SourceNode>,
    report: PassReport,
    cpu: Cpu,
    pool: Pool,
    arena_bytes: usize,
    weights: WeightCache,
    plans: Plans,
}

/// The plans made lately, by input shapes. (Element types do not enter: the model fixes them.)
struct Plans {
    keep: usize,
    /// Most recently used last.
    entries: Mutex<Vec<(Shapes, Arc<Plan>)>>,
}

/// The extents of every input.
type Shapes = Vec<Vec<usize>>;

impl CompiledModel {
    /// Optimizes `graph` and makes it ready for the machine that `options` describe.
    ///
    /// A model whose inputs all have fixed shapes is planned right away, so that what cannot run is
    /// found here and not at the first run.
    pub fn compile(mut graph: Graph, options: &CompileOptions) -> Result<Self, CompileError> {
        let source = SourceNode::all(&graph);
        let report = Pipeline::default().run(&mut graph, &options.passes)?;
        if options.passes.level > Level::O0 {
            // What the machine's dot products read: `vpdpbusd` unsigned activations, `sdot` signed ones.
            let sign = if cfg!(target_arch = "aarch64") { DType::I8 } else { DType::U8 };
            passes::sign::flip(&mut graph, sign)?;
        }
        let port = |name: &Arc<str>, outlet| ModelPort {
            name: name.clone(),
            ty: graph.fact(outlet).ty.clone(),
        };
        let inputs = graph
            .inputs()
            .iter()
            .map(|&node| Outlet { node, slot: 0 })
            .map(|outlet| port(&graph.fact(outlet).name, outlet))
            .collect();
        let outputs = graph.outputs().iter().map(|o| port(&o.name, o.outlet)).collect();
        let model = CompiledModel(Arc::new(Inner {
            inputs,
            outputs,
            source,
            report,
            cpu: options.cpu,
            pool: Pool::new(&options.threads)?,
            arena_bytes: options.arena_bytes.or_else(default_arena_bytes).unwrap_or(usize::MAX),
            weights: WeightCache::default(),
            plans: Plans { keep: options.plans.max(1), entries: Mutex::default() },
            graph,
        }));
        if let Some(shapes) = model.fixed_shapes() {
            model.plan(&shapes)?;
        }
        Ok(model)
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[ModelPort] {
        &self.0.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[ModelPort] {
        &self.0.outputs
    }

    /// The optimized graph, before any shape is bound.
    pub fn graph(&self) -> &Graph {
        &self.0.graph
    }

    /// What the passes did.
    pub fn report(&self) -> &PassReport {
        &self.0.report
    }

    /// The instruction set it is compiled for.
    pub fn cpu(&self) -> Cpu {
        self.0.cpu
    }

    /// Threads that one run uses.
    pub fn threads(&self) -> usize {
        self.0.pool.threads()
    }

    /// Bytes of packed weights, shared by all sessions; grows when a plan needs a new form.
    pub fn packed_bytes(&self) -> usize {
        self.0.weights.bytes()
    }

    /// The shapes of all inputs, if the model fixes every one.
    pub fn fixed_shapes(&self) -> Option<Vec<Vec<usize>>> {
        self.0.inputs.iter().map(|p| p.ty.fixed_dims()).collect()
    }

    /// The plan for inputs of these shapes, in the model's order; made once and kept for a while.
    pub fn plan(&self, shapes: &[Vec<usize>]) -> Result<Arc<Plan>, CompileError> {
        let inner = &*self.0;
        if shapes.len() != inner.inputs.len() {
            return Err(CompileError::InputCount {
                expected: inner.inputs.len(),
                got: shapes.len(),
            });
        }
        if let Some(plan) = inner.plans.get(shapes) {
            return Ok(plan);
        }
        // Two threads may plan the same shapes at a time; both plans are the same, the later one stays.
        let plan = Arc::new(inner.make_plan(shapes)?);
        inner.plans.put(shapes, plan.clone());
        Ok(plan)
    }

    /// A session: the memory to run the model with. Cheap; make one per thread.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// What became of every node of the source model in `plan`, and what it takes.
    pub fn explain(&self, plan: &Plan) -> Explanation {
        Explanation::new(self, plan, &self.0.source)
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }
}

/// What runs again once the shapes are known.
static FOLDING: [&dyn Pass; 4] = [&FoldConstants, &FoldDequantized, &RemoveIdentity, &Dce];

impl Inner {
    fn make_plan(&self, shapes: &[Vec<usize>]) -> Result<Plan, CompileError> {
        let named: Vec<(&str, &[usize])> =
            self.inputs.iter().zip(shapes).map(|(p, s)| (&*p.name, s.as_slice())).collect();
        let mut graph = self.graph.bind(&named)?;
        // What depended on a shape is a constant now.
        let options = PipelineOptions { level: Level::O1, ..Default::default() };
        Pipeline::new(FOLDING.to_vec()).run(&mut graph, &options)?;
        let target = Target {
            cpu: self.cpu,
            threads: self.pool.threads(),
            weights: &self.weights,
        };
        let program = lower(&graph, &target)?;
        let inputs = graph
            .inputs()
            .iter()
            .map(|&node| {
                port(&graph, &graph.fact(Outlet { node, slot: 0 }).name, Outlet { node, slot: 0 })
            })
            .collect::<Result<_, _>>()?;
        let outputs = graph
            .outputs()
            .iter()
            .map(|o| port(&graph, &o.name, o.outlet))
            .collect::<Result<_, _>>()?;
        Plan::new(program, inputs, outputs, self.arena_bytes)
    }
}

fn port(graph: &Graph, name: &Arc<str>, outlet: Outlet) -> Result<Port, CompileError> {
    let ty = graph.fact(outlet).ty.clone();
    let dims = ty.fixed_dims().ok_or_else(|| CompileError::UnknownShape {
        tensor: name.to_string(),
        ty: infer::show(&ty),
    })?;
    let bytes = Tensor::byte_len(ty.dtype(), &dims)
        .map_err(|source| CompileError::TooLarge { tensor: name.to_string(), source })?;
    Ok(Port { name: name.clone(), ty, dims, bytes })
}

impl Plans {
    fn get(&self, shapes: &[Vec<usize>]) -> Option<Arc<Plan>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|(s, _)| s == shapes)?;
        let entry = entries.remove(at);
        let plan = entry.1.clone();
        entries.push(entry);
        Some(plan)
    }

    fn put(&self, shapes: &[Vec<usize>], plan: Arc<Plan>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(s, _)| s != shapes);
        entries.push((shapes.to_vec(), plan));
        let excess = entries.len().saturating_sub(self.keep);
        entries.drain(..excess);
    }
}
