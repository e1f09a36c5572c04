//! How a model is compiled.

use super::error::CompileError;
use crate::pass::PipelineOptions;
use requant_kernels::Cpu;
use requant_kernels::par::{Crew, Parallel, RayonPool, Serial};
use std::sync::Arc;

/// Who computes.
#[derive(Clone, Debug)]
pub enum Threads {
    /// So many threads, the caller's included; 1 starts none. More than one make a pool that all
    /// sessions of the model share.
    Count(usize),
    /// The caller's pool.
    Pool(Arc<rayon::ThreadPool>),
}

impl Default for Threads {
    /// The calling thread only.
    fn default() -> Self {
        Threads::Count(1)
    }
}

/// How a model is compiled. Nothing here changes a result, but for the passes.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// The instruction set; [`Cpu::detect`] by default.
    pub cpu: Cpu,
    /// Threads.
    pub threads: Threads,
    /// Rewrites before lowering.
    pub passes: PipelineOptions,
    /// Most bytes of intermediate values that a session may take; by default three quarters of what
    /// the process can have ([`crate::default_arena_bytes`]).
    pub arena_bytes: Option<usize>,
    /// Plans kept for input shapes seen before, at least 1.
    pub plans: usize,
}

impl Default for CompileOptions {
    fn default() -> Self {
        CompileOptions {
            cpu: Cpu::detect(),
            threads: Threads::default(),
            passes: PipelineOptions::default(),
            arena_bytes: None,
            plans: 8,
        }
    }
}

/// The threads of a compiled model.
pub(crate) enum Pool {
    Serial,
    Rayon(RayonPool),
}

impl Pool {
    pub(crate) fn new(threads: &Threads) -> Result<Pool, CompileError> {
        match threads {
            Threads::Count(0 | 1) => Ok(Pool::Serial),
            Threads::Count(n) => rayon::ThreadPoolBuilder::new()
                .num_threads(*n)
                .thread_name(|i| format!("requant-{i}"))
                .build()
                .map(|pool| Pool::Rayon(RayonPool::new(Arc::new(pool))))
                .map_err(|e| CompileError::Threads { threads: *n, reason: e.to_string() }),
            Threads::Pool(pool) => Ok(Pool::Rayon(RayonPool::new(pool.clone()))),
        }
    }

    /// How many threads take part in a run.
    pub(crate) fn threads(&self) -> usize {
        match self {
            Pool::Serial => 1,
            Pool::Rayon(pool) => pool.threads(),
        }
    }

    /// The threads for one run: the pool is entered once, not for each step.
    pub(crate) fn enter(&self) -> Entered {
        match self {
            Pool::Serial => Entered::Serial,
            Pool::Rayon(pool) => Entered::Crew(pool.crew()),
        }
    }
}

/// A pool that has been entered, until it is dropped.
pub(crate) enum Entered {
    Serial,
    Crew(Crew),
}

impl Entered {
    pub(crate) fn parallel(&self) -> &dyn Parallel {
        match self {
            Entered::Serial => &Serial,
            Entered::Crew(crew) => crew,
        }
    }
}
