//! The verbs' way to models: loading, compiling, running, and what the machine is.

use crate::data::inputs::Feed;
use anyhow::{Context, Result};
use bytes::Bytes;
use requant::{
    CompileOptions, CompiledModel, Cpu, Explanation, PassReport, PipelineOptions, Threads,
};
use requant_ir::TextOptions;
use requant_ir::import::onnx::{ImportOptions, import_bytes};
use requant_ir::{Limits, Model, Tensor, TensorType};
use sha2::{Digest, Sha256};
use std::path::Path;

/// How models run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EngineArgs {
    /// Threads of one run
    #[arg(long, default_value_t = 1, value_parser = threads)]
    pub(crate) threads: usize,
    /// Instruction set, see `requant doctor` [default: REQUANT_ISA, or the best there is]
    #[arg(long, value_name = "NAME")]
    pub(crate) isa: Option<String>,
    /// Most bytes of intermediate values [default: three quarters of the memory]
    #[arg(long, value_name = "N")]
    pub(crate) arena_bytes: Option<usize>,
}

impl EngineArgs {
    /// The instruction set asked for by `--isa`, else by `REQUANT_ISA`, else the best.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        Ok(match self.isa.as_deref() {
            None | Some("auto") => Cpu::from_env().map_err(requant::Error::from)?,
            Some(name) => name.parse().and_then(Cpu::with_isa).map_err(requant::Error::from)?,
        })
    }
}

pub(crate) fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=1024).contains(&n) => Ok(n),
        _ => Err("threads are between 1 and 1024".to_owned()),
    }
}

/// The value of `--samples`.
pub(crate) fn samples(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("at least 1 sample is needed".to_owned()),
    }
}

/// Which passes run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PassArgs {
    /// Passes that do not run
    #[arg(long, value_delimiter = ',', value_name = "PASS", requires = "passes")]
    disable: Vec<String>,
    /// Stop after this pass (NAME:2 for its second run)
    #[arg(long, value_name = "PASS", requires = "passes")]
    stop_after: Option<String>,
    /// Stop after so many patches
    #[arg(long, value_name = "N", requires = "passes")]
    max_patches: Option<usize>,
}

/// A model with what its file says of it.
pub(crate) struct Loaded {
    facade: requant::Model,
    /// The model as data, every type inferred that can be.
    pub(crate) model: Model,
    pub(crate) file_bytes: u64,
}

impl Loaded {
    /// Loads an .onnx, .rq or .txt file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let facade = requant::Model::load(path).with_context(|| format!("{}", path.display()))?;
        let file_bytes =
            std::fs::metadata(path).with_context(|| format!("{}", path.display()))?.len();
        Ok(Loaded { model: facade.to_ir(), facade, file_bytes })
    }

    /// A model in memory in ONNX form; `name` is for errors.
    pub(crate) fn from_onnx_bytes(bytes: Bytes, name: &str) -> Result<Self> {
        let file_bytes = bytes.len() as u64;
        let model = import_bytes(bytes, None, &ImportOptions::default())
            .map_err(requant::Error::from)
            .context(name.to_owned())?;
        Self::from_model(&model, file_bytes)
    }

    /// A model in memory in `.rq` form; `name` is for errors.
    pub(crate) fn from_rq_bytes(bytes: Bytes, name: &str) -> Result<Self> {
        let file_bytes = bytes.len() as u64;
        let model = Model::from_rq_bytes(bytes, &Limits::default())
            .map_err(requant::Error::from)
            .context(name.to_owned())?;
        Self::from_model(&model, file_bytes)
    }

    fn from_model(model: &Model, file_bytes: u64) -> Result<Self> {
        let facade = requant::Model::from_ir(model)?;
        Ok(Loaded { model: facade.to_ir(), facade, file_bytes })
    }
}

/// A model made ready for this machine.
pub(crate) struct Compiled(CompiledModel);

impl Compiled {
    pub(crate) fn new(loaded: &Loaded, engine: &EngineArgs) -> Result<Self> {
        let options = CompileOptions {
            cpu: engine.cpu()?,
            threads: Threads::Count(engine.threads),
            arena_bytes: engine.arena_bytes,
            ..CompileOptions::default()
        };
        Ok(Compiled(loaded.facade.compile(&options)?))
    }

    pub(crate) fn session(&self) -> Session {
        Session(self.0.session())
    }

    /// The name of the instruction set.
    pub(crate) fn isa(&self) -> &'static str {
        self.0.cpu().isa().name()
    }

    /// What became of each node, for inputs of these shapes in graph order.
    pub(crate) fn explain(&self, shapes: &[Vec<usize>]) -> Result<Explanation> {
        let plan =
            self.0.plan(shapes).map_err(requant::RunError::from).map_err(requant::Error::from)?;
        Ok(self.0.explain(&plan))
    }
}

/// Bytes that a session needs.
pub(crate) struct Memory {
    pub(crate) arena_bytes: u64,
    pub(crate) packed_bytes: u64,
}

/// Runs one compiled model.
pub(crate) struct Session(requant::Session);

impl Session {
    /// The outputs by name, in graph order.
    pub(crate) fn run(&mut self, feed: &Feed) -> Result<Feed> {
        let inputs: Vec<(&str, Tensor)> =
            feed.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let outputs = self.0.run(&inputs).map_err(requant::Error::from)?;
        Ok(outputs.into_iter().map(|(n, t)| (n.to_string(), t)).collect())
    }

    /// Plans for inputs of these shapes, in graph order.
    pub(crate) fn set_shapes(&mut self, shapes: &[Vec<usize>]) -> Result<()> {
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        Ok(self.0.set_shapes(&shapes).map_err(requant::Error::from)?)
    }

    /// Copies in these inputs, of the shapes that are set and in graph order, so that
    /// [`Self::run_prepared`] does nothing but run.
    pub(crate) fn prepare(&mut self, feed: &Feed) -> Result<()> {
        for (i, (_, tensor)) in feed.iter().enumerate() {
            self.0.set_input(i, tensor.bytes()).map_err(requant::Error::from)?;
        }
        Ok(())
    }

    pub(crate) fn run_prepared(&mut self) -> Result<()> {
        Ok(self.0.run_in_place().map_err(requant::Error::from)?)
    }

    pub(crate) fn memory(&self) -> Memory {
        Memory {
            arena_bytes: self.0.plan().map_or(0, |p| p.memory().arena as u64),
            packed_bytes: self.0.model().packed_bytes() as u64,
        }
    }
}

/// Runs the passes: the model afterwards and what they did.
pub(crate) fn optimize(model: &Model, args: &PassArgs) -> Result<(Model, PassReport)> {
    let mut model = requant::Model::from_ir(model)?;
    let report = model.optimize(&PipelineOptions {
        disable: args.disable.clone(),
        stop_after: args.stop_after.clone(),
        max_patches: args.max_patches,
        ..PipelineOptions::default()
    })?;
    Ok((model.to_ir(), report))
}

/// Writes an `.rq` file, whole or not at all.
pub(crate) fn save(model: &Model, path: &Path, force: bool) -> Result<()> {
    Ok(model.save(path, force).map_err(requant::Error::from)?)
}

/// The bytes of the `.rq` file.
pub(crate) fn to_bytes(model: &Model) -> Result<Bytes> {
    Ok(model.to_rq_bytes().map_err(requant::Error::from)?)
}

/// The text form with every constant, from which the model can be read back.
pub(crate) fn full_text(model: &Model) -> String {
    model.to_text(&TextOptions::full())
}

/// The text form with large constants left out.
pub(crate) fn short_text(model: &Model) -> String {
    model.to_text(&TextOptions::default())
}

/// `f32[batch, 3, 224, 224]`
pub(crate) fn type_text(ty: Option<&TensorType>) -> String {
    let Some(ty) = ty else { return "?".to_owned() };
    let dims = ty.dims.as_ref().map_or_else(
        || "*".to_owned(),
        |dims| dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    );
    format!("{}[{dims}]", ty.dtype())
}

/// What the processor calls itself.
pub(crate) fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .find(|l| l.starts_with(name))
            .and_then(|l| l.split_once(':'))
            .map(|(_, v)| v.trim())
    };
    match (field("model name"), field("cpu family"), field("model\t")) {
        (Some(name), Some(family), Some(model)) => {
            format!("{name} (family {family}, model {model})")
        }
        (Some(name), _, _) => name.to_owned(),
        _ => std::env::consts::ARCH.to_owned(),
    }
}

/// Most memory that the process had so far, in bytes; 0 where the system does not say.
pub(crate) fn peak_rss() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| {
            let line = s.lines().find(|l| l.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1024)
}

/// The file's SHA-256 in hexadecimal digits.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
    Ok(Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect())
}
