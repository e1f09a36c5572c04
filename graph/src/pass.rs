//! The pass manager: which rewrites run, in what order, and what they did.
//!
//! A pass looks at the graph and proposes [`Patch`]es; [`PassCx::apply`] applies them one at a time
//! and logs them. Every pass states how far its result may be from the graph before it
//! ([`Exactness`]), and [`Level`] says how far is allowed. Where a pass could have matched and did
//! not, it says why ([`PassCx::refuse`]), so that a slow model can be explained.

use crate::patch::Patch;
use crate::{Applied, Graph, GraphError, NodeId, Outlet, passes};
use requant_ir::{ElemType, Limits};
use std::sync::Arc;
use thiserror::Error;

pub use crate::patch::Exactness;

/// What a pass is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassInfo {
    /// Its name, as options and reports have it.
    pub name: &'static str,
    /// How exact it is at least where no more is allowed; a pass may do less exact rewrites where
    /// [`PassCx::allows`] says so.
    pub class: Exactness,
    /// One line for people.
    pub about: &'static str,
}

/// A rewrite of the whole graph.
pub trait Pass: Sync {
    /// Name, class and purpose.
    fn info(&self) -> PassInfo;

    /// Rewrites `graph` through [`PassCx::apply`] until there is nothing left to do.
    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError>;
}

/// How far the result may be from the model's own meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No rewrite at all.
    O0,
    /// Only rewrites that keep every bit.
    O1,
    /// Also those that may move a result by one quantization step (floats: by rounding).
    #[default]
    O2,
}

impl Level {
    /// True when a pass of this class runs without being named.
    pub fn allows(self, class: Exactness) -> bool {
        match class {
            Exactness::Exact => self >= Level::O1,
            Exactness::OneStep => self >= Level::O2,
            Exactness::Approximate => false,
        }
    }
}

/// Which passes run, and within which bounds.
#[derive(Clone, Debug, Default)]
pub struct PipelineOptions {
    /// The classes that run.
    pub level: Level,
    /// Passes that run whatever the level says; the only way to get approximate ones.
    pub enable: Vec<String>,
    /// Passes that do not run.
    pub disable: Vec<String>,
    /// Stop after this pass: `name` means its first run, `name:2` its second, and so on.
    pub stop_after: Option<String>,
    /// Stop after so many patches, to find the one that breaks a model by bisection.
    pub max_patches: Option<usize>,
    /// Bounds on what folding may make (`derived_bytes`).
    pub limits: Limits,
}

/// Why the passes failed. The graph is left as the last patch made it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PassError {
    /// An option names a pass that is not there.
    #[error("there is no pass `{name}`; the passes are {}", known.join(", "))]
    UnknownPass {
        /// The name given.
        name: String,
        /// The passes there are, in order.
        known: Vec<&'static str>,
    },
    /// The pass keeps rewriting: two rules undo each other.
    #[error(
        "pass `{pass}` did not come to rest within {budget} rewrites; disable it and report the model"
    )]
    Budget {
        /// The pass that ran last.
        pass: &'static str,
        /// Rewrites that were allowed.
        budget: usize,
    },
    /// A patch is less exact than its pass announces and the level allows.
    #[error("pass `{pass}` proposed a patch of class {class:?}, which is not allowed")]
    Class {
        /// The pass.
        pass: &'static str,
        /// The class of the patch.
        class: Exactness,
    },
    /// Inputs or outputs changed.
    #[error("pass `{pass}` changed the model's inputs or outputs; disable it and report the model")]
    Interface {
        /// The pass.
        pass: &'static str,
    },
    /// The graph is broken after the pass.
    #[error("the graph is not valid after pass `{pass}`")]
    Invalid {
        /// The pass.
        pass: &'static str,
        /// What is broken.
        #[source]
        source: GraphError,
    },
    /// A patch could not be applied.
    #[error("a patch of pass `{pass}` was refused")]
    Patch {
        /// The pass.
        pass: &'static str,
        /// Why.
        #[source]
        source: GraphError,
    },
    /// `max_patches` is used up; [`Pipeline::run`] stops there and reports success.
    #[error("the number of patches asked for is reached")]
    Stopped,
}

/// One applied patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchRecord {
    /// The pass that proposed it.
    pub pass: &'static str,
    /// How exact it is.
    pub class: Exactness,
    /// Names of the values that are computed in another way now.
    pub replaced: Vec<Arc<str>>,
    /// Nodes before and after.
    pub nodes: (usize, usize),
    /// What people should know of it besides.
    pub note: Option<String>,
}

/// Why a rewrite was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The pass that refused.
    pub pass: &'static str,
    /// The node it looked at.
    pub node: String,
    /// The condition that is not met.
    pub reason: String,
}

/// One run of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassRun {
    /// The pass.
    pub pass: PassInfo,
    /// Patches that it applied.
    pub patches: usize,
    /// Nodes before and after.
    pub nodes: (usize, usize),
}

/// What the passes did and did not do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PassReport {
    /// The passes that ran, in order.
    pub runs: Vec<PassRun>,
    /// The patches, in order.
    pub patches: Vec<PatchRecord>,
    /// What the last run of each pass refused.
    pub refusals: Vec<Refusal>,
}

impl PassReport {
    /// The reasons why `pass` did not rewrite.
    pub fn refused(&self, pass: &str) -> impl Iterator<Item = &Refusal> {
        self.refusals.iter().filter(move |r| r.pass == pass)
    }

    /// Patches that `pass` applied, over all its runs.
    pub fn applied(&self, pass: &str) -> usize {
        self.patches.iter().filter(|p| p.pass == pass).count()
    }
}

/// What a running pass may do.
pub struct PassCx<'a> {
    options: &'a PipelineOptions,
    info: PassInfo,
    report: PassReport,
    rewrites: usize,
    budget: usize,
    derived: u64,
}

impl PassCx<'_> {
    /// Applies `patch` and logs it.
    pub fn apply(&mut self, graph: &mut Graph, patch: Patch) -> Result<Applied, PassError> {
        let pass = self.info.name;
        if patch.class > self.info.class && !self.allows(patch.class) {
            return Err(PassError::Class { pass, class: patch.class });
        }
        if self.options.max_patches.is_some_and(|max| self.report.patches.len() >= max) {
            return Err(PassError::Stopped);
        }
        self.rewrites += 1;
        if self.rewrites > self.budget {
            return Err(PassError::Budget { pass, budget: self.budget });
        }
        let (class, note) = (patch.class, patch.note.clone());
        let replaced = patch.replaced().map(|o| graph.fact(o).name.clone()).collect();
        let applied = graph.apply(patch).map_err(|source| PassError::Patch { pass, source })?;
        let record =
            PatchRecord { pass, class, replaced, nodes: (applied.before, applied.after), note };
        tracing::debug!(pass, ?class, replaced = ?record.replaced, "patch");
        self.report.patches.push(record);
        Ok(applied)
    }

    /// True when rewrites of this class are wanted.
    pub fn allows(&self, class: Exactness) -> bool {
        self.options.level.allows(class)
    }

    /// Notes why the pass leaves the node called `node` as it is.
    pub fn refuse(&mut self, node: impl Into<String>, reason: impl Into<String>) {
        let refusal = Refusal { pass: self.info.name, node: node.into(), reason: reason.into() };
        if !self.report.refusals.contains(&refusal) {
            self.report.refusals.push(refusal);
        }
    }

    /// Takes `bytes` from what constants made by folding may occupy; false when they do not fit.
    pub fn derive(&mut self, bytes: u64) -> bool {
        match self.derived.checked_sub(bytes) {
            Some(left) => {
                self.derived = left;
                true
            }
            None => false,
        }
    }
}

/// An ordered list of passes.
#[derive(Clone)]
pub struct Pipeline {
    passes: Vec<&'static dyn Pass>,
}

impl Default for Pipeline {
    fn default() -> Self {
        Pipeline { passes: passes::PIPELINE.to_vec() }
    }
}

impl Pipeline {
    /// These passes, in this order.
    pub fn new(passes: Vec<&'static dyn Pass>) -> Self {
        Pipeline { passes }
    }

    /// What the passes are, in order; a pass that runs twice is there twice.
    pub fn infos(&self) -> impl Iterator<Item = PassInfo> {
        self.passes.iter().map(|p| p.info())
    }

    /// Runs the passes that `options` selects.
    ///
    /// After each pass inputs and outputs are compared with those before; in debug builds the whole
    /// graph is verified.
    pub fn run(
        &self,
        graph: &mut Graph,
        options: &PipelineOptions,
    ) -> Result<PassReport, PassError> {
        let stop = self.check(options)?;
        let Some(&first) = self.passes.first() else { return Ok(PassReport::default()) };
        let mut cx = PassCx {
            options,
            info: first.info(),
            report: PassReport::default(),
            rewrites: 0,
            budget: graph.len().saturating_mul(50).saturating_add(1000),
            derived: options.limits.derived_bytes,
        };
        let interface = interface(graph);
        for (index, pass) in self.passes.iter().enumerate() {
            let info = pass.info();
            let named = |names: &[String]| names.iter().any(|n| n == info.name);
            let selected = options.level.allows(info.class) || named(&options.enable);
            if selected && !named(&options.disable) {
                cx.info = info;
                cx.report.refusals.retain(|r| r.pass != info.name);
                let (nodes, patches) = (graph.len(), cx.report.patches.len());
                let result = pass.run(graph, &mut cx);
                cx.report.runs.push(PassRun {
                    pass: info,
                    patches: cx.report.patches.len() - patches,
                    nodes: (nodes, graph.len()),
                });
                match result {
                    Err(PassError::Stopped) => return Ok(cx.report),
                    other => other?,
                }
                if self::interface(graph) != interface {
                    return Err(PassError::Interface { pass: info.name });
                }
                if cfg!(debug_assertions) {
                    graph
                        .verify()
                        .map_err(|source| PassError::Invalid { pass: info.name, source })?;
                }
            }
            if stop == Some(index) {
                break;
            }
        }
        Ok(cx.report)
    }

    /// Checks every name in `options`; gives the index of the pass to stop after.
    fn check(&self, options: &PipelineOptions) -> Result<Option<usize>, PassError> {
        let unknown = |name: &String| {
            let mut known: Vec<&'static str> = Vec::new();
            for info in self.infos() {
                if !known.contains(&info.name) {
                    known.push(info.name);
                }
            }
            PassError::UnknownPass { name: name.clone(), known }
        };
        for name in options.enable.iter().chain(&options.disable) {
            if !self.infos().any(|i| i.name == name) {
                return Err(unknown(name));
            }
        }
        let Some(stop) = &options.stop_after else { return Ok(None) };
        let (name, nth) = match stop.rsplit_once(':') {
            Some((name, nth)) => (name, nth.parse().map_err(|_| unknown(stop))?),
            None => (stop.as_str(), 1usize),
        };
        let mut runs = self.infos().enumerate().filter(|(_, i)| i.name == name);
        let found = nth.checked_sub(1).and_then(|n| runs.nth(n)).ok_or_else(|| unknown(stop))?;
        Ok(Some(found.0))
    }
}

/// Runs the default pipeline.
pub fn optimize(graph: &mut Graph, options: &PipelineOptions) -> Result<PassReport, PassError> {
    Pipeline::default().run(graph, options)
}

/// What callers of the model rely on: names and element types of inputs and outputs.
fn interface(graph: &Graph) -> Vec<(Arc<str>, ElemType)> {
    let fact = |name: &Arc<str>, outlet| (name.clone(), graph.fact(outlet).ty.elem.clone());
    let inputs = graph.inputs().iter().map(|&node| {
        let outlet = Outlet { node, slot: 0 };
        fact(&graph.fact(outlet).name, outlet)
    });
    inputs.chain(graph.outputs().iter().map(|o| fact(&o.name, o.outlet))).collect()
}

/// Offers every node to `rule`, in topological order, and applies what it proposes, again and again
/// until it proposes nothing. What it refused in earlier rounds is forgotten: another rewrite may have
/// made it possible.
pub(crate) fn sweep(
    graph: &mut Graph,
    cx: &mut PassCx<'_>,
    mut rule: impl FnMut(&Graph, NodeId, &mut PassCx<'_>) -> Option<Patch>,
) -> Result<(), PassError> {
    loop {
        let mut changed = false;
        cx.report.refusals.retain(|r| r.pass != cx.info.name);
        for node in graph.topo() {
            // A patch may have removed the node, or put a new one in its place; then that is
            // looked at.
            if graph.get(node).is_none() {
                continue;
            }
            if let Some(patch) = rule(graph, node, cx) {
                cx.apply(graph, patch)?;
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
    }
}
