//! A model as it was loaded, before it is made ready for a machine.

use crate::Error;
use requant_graph::{CompileOptions, CompiledModel, Graph, PassReport, PipelineOptions};
use requant_ir::file::{FileError, Problem};
use requant_ir::import::onnx::{ImportOptions, import_file};
use requant_ir::{Limits, TensorType};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A model: loaded, checked and with every type inferred that can be.
#[derive(Clone, Debug)]
pub struct Model {
    graph: Graph,
}

impl Model {
    /// Loads an `.rq` or `.onnx` file or the text form; which of them it is, its first bytes say. Limits
    /// are the default ones.
    ///
    /// # Errors
    /// If the file cannot be read, is malformed, needs what is not supported, or exceeds a limit; see
    /// [`Error::kind`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_with(path, &Limits::default())
    }

    /// As [`load`](Self::load), within other limits.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, Error> {
        let path = path.as_ref();
        let model = match Format::of(path)? {
            Format::Rq => requant_ir::Model::load(path, limits)?,
            Format::Onnx => import_file(path, &ImportOptions::with_limits(limits.clone()))?,
            Format::Text => read_text(path, limits)?,
            Format::Unknown => return Err(Error::Format { path: path.to_owned() }),
        };
        Self::from_ir(&model)
    }

    /// A model that is at hand in the IR.
    ///
    /// # Errors
    /// If it is not a valid graph.
    pub fn from_ir(model: &requant_ir::Model) -> Result<Self, Error> {
        Ok(Model { graph: Graph::from_model(model)? })
    }

    /// The model in the IR, with all types that are known.
    pub fn to_ir(&self) -> requant_ir::Model {
        self.graph.to_model()
    }

    /// Writes an `.rq` file; an existing one only if `overwrite`.
    ///
    /// # Errors
    /// If the file is there already or cannot be written.
    pub fn save(&self, path: impl AsRef<Path>, overwrite: bool) -> Result<(), Error> {
        Ok(self.to_ir().save(path, overwrite)?)
    }

    /// Its graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Names and types of the inputs, in order.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (&str, &TensorType)> {
        self.graph.inputs().iter().map(|&id| {
            let fact = self.graph.fact(id.into());
            (&*fact.name, &fact.ty)
        })
    }

    /// Names and types of the outputs, in order.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = (&str, &TensorType)> {
        self.graph.outputs().iter().map(|o| (&*o.name, &self.graph.fact(o.outlet).ty))
    }

    /// Rewrites the model for speed; compiling does it too. Worth calling before a model is saved.
    ///
    /// # Errors
    /// If an option names a pass that is not there; see [`PassError`](requant_graph::PassError).
    pub fn optimize(&mut self, options: &PipelineOptions) -> Result<PassReport, Error> {
        Ok(requant_graph::pass::optimize(&mut self.graph, options)?)
    }

    /// Makes the model ready for this machine.
    ///
    /// # Errors
    /// If it cannot be optimized, or (where its input shapes are fixed) planned.
    pub fn compile(&self, options: &CompileOptions) -> Result<CompiledModel, Error> {
        Ok(CompiledModel::compile(self.graph.clone(), options)?)
    }
}

/// A model in text form, verified.
fn read_text(path: &Path, limits: &Limits) -> Result<requant_ir::Model, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let limit = limits.file_bytes;
    File::open(path)
        .and_then(|f| f.take(limit.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(io)?;
    let got = bytes.len() as u64;
    if got > limit {
        let problem = Problem::Limit { what: "bytes of the file", got, limit };
        return Err(FileError { file: Some(path.to_owned()), problem }.into());
    }
    let text = |source| Error::Text { path: path.to_owned(), source };
    let content = str::from_utf8(&bytes).map_err(|_| Error::Format { path: path.to_owned() })?;
    let model = requant_ir::text::parse(content, limits).map_err(text)?;
    model.verify(limits).map_err(|e| text(e.into()))?;
    Ok(model)
}

/// What a file is, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Rq,
    Onnx,
    Text,
    Unknown,
}

impl Format {
    fn of(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        // Asked before opening: opening a pipe waits for its other end.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(io(std::io::Error::other("not a regular file")));
        }
        let mut head = Vec::new();
        File::open(path).map_err(io)?.take(9).read_to_end(&mut head).map_err(io)?;
        Ok(Self::of_bytes(&head))
    }

    /// ONNX has no magic number; every model begins with the tag of a field of `ModelProto` (1 to 8, 14,
    /// 20 and 25), of which writers put the IR version (`08`) first.
    fn of_bytes(head: &[u8]) -> Self {
        match head {
            [0x89, b'r', b'e', b'q', b'u', b'a', b'n', b't', ..] => Format::Rq,
            _ if head.starts_with(b"requant ") => Format::Text,
            [0x08 | 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72, ..] => Format::Onnx,
            _ => Format::Unknown,
        }
    }
}
