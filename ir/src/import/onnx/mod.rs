//! Import of ONNX models, operator sets 11 to 21: float, QDQ, and QOperator with the `com.microsoft`
//! operators that ONNX Runtime's quantizer writes.
//!
//! Every ONNX form becomes one form of the IR: constants under the quantization that their reader
//! states, other values through [`crate::Op::Reinterpret`] where a reader states another quantization
//! than the producer. Types of values between nodes are left to inference.
//!
//! The file is not trusted: sizes are checked before memory is taken, traversals are iterative, and
//! external data is read from the model's folder only.

mod attrs;
mod builder;
mod cx;
mod error;
mod external;
mod ops;
mod order;
pub mod proto;
mod scan;
mod tensor;

pub use error::{ExternalError, ImportError, Unsupported, UnsupportedOp, UnsupportedTensor};

use crate::{Dim, ElemType, Limits, Model, TensorType};
use attrs::Attrs;
use builder::Builder;
use bytes::Bytes;
use cx::Cx;
use error::{Failure, malformed};
use external::ExternalFiles;
use order::label;
use prost::Message;
use proto::tensor_shape_proto::dimension::Value as DimValue;
use proto::{GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Oldest and newest version of ONNX's own operator set that is read.
const OPSETS: (i64, i64) = (11, 21);
const MICROSOFT: &str = "com.microsoft";

/// How to import.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Bounds on what the file may ask for.
    pub limits: Limits,
}

impl ImportOptions {
    /// With other bounds than the default ones.
    pub fn with_limits(limits: Limits) -> Self {
        ImportOptions { limits }
    }
}

/// Imports the ONNX file at `path`; its external data is looked for in its folder.
///
/// # Errors
/// [`ImportError::File`] with the reason; see [`ImportError::kind`].
pub fn import_file(path: impl AsRef<Path>, options: &ImportOptions) -> Result<Model, ImportError> {
    let path = path.as_ref();
    read_file(path, options.limits.file_bytes)
        .and_then(|bytes| import_bytes(bytes, path.parent(), options))
        .map_err(|source| ImportError::File { path: path.to_owned(), source: Box::new(source) })
}

fn read_file(path: &Path, limit: u64) -> Result<Bytes, ImportError> {
    let file = File::open(path).map_err(ImportError::Read)?;
    let size = file.metadata().map_err(ImportError::Read)?.len();
    check_size(size, limit)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(ImportError::Read)?;
    check_size(bytes.len() as u64, limit)?;
    Ok(bytes.into())
}

fn check_size(needed: u64, limit: u64) -> Result<(), ImportError> {
    if needed <= limit {
        return Ok(());
    }
    Err(ImportError::Limit { what: "bytes of the file".into(), needed, limit })
}

/// Imports an ONNX model from memory; external data is looked for in `folder`, if there is one.
///
/// # Errors
/// See [`ImportError`]; operators that are not supported are one error that lists all of them.
pub fn import_bytes(
    bytes: Bytes,
    folder: Option<&Path>,
    options: &ImportOptions,
) -> Result<Model, ImportError> {
    let limits = &options.limits;
    check_size(bytes.len() as u64, limits.file_bytes)?;
    scan::check(&bytes, limits)?;
    let mut external = ExternalFiles::new(folder, bytes.len() as u64, limits);
    let mut model =
        ModelProto::decode(bytes).map_err(|e| ImportError::Encoding { detail: e.to_string() })?;
    let Some(graph) = model.graph.take() else {
        return wrong("it has no graph");
    };
    let opset = check_opsets(&model, &graph)?;
    let functions: HashSet<(&str, &str)> =
        model.functions.iter().map(|f| (domain(&f.domain), f.name.as_str())).collect();
    let mut import = Import { b: Builder::new(limits), external: &mut external, opset, functions };
    import.graph(&graph)?;
    if !import.b.unsupported.is_empty() {
        return Err(ImportError::Unsupported(Box::new(import.b.unsupported)));
    }
    let producer = format!("{} {}", model.producer_name, model.producer_version);
    let model = Model {
        producer: producer.trim().to_owned(),
        graphs: vec![import.b.graph],
        metadata: model.metadata_props.into_iter().map(|p| (p.key, p.value)).collect(),
    };
    model.verify(limits)?;
    Ok(model)
}

fn wrong<T>(detail: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::Model { detail: detail.into() })
}

/// ONNX's own domain has two names.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// The version of ONNX's own operator set. Sets that no node uses do not matter.
fn check_opsets(model: &ModelProto, graph: &GraphProto) -> Result<i64, ImportError> {
    let mut versions: HashMap<&str, i64> = HashMap::new();
    for set in &model.opset_import {
        let domain = domain(&set.domain);
        if versions.insert(domain, set.version).is_some_and(|v| v != set.version) {
            return wrong(format!("two versions of the operator set `{domain}`"));
        }
    }
    let uses = |name: &str| graph.node.iter().any(|n| domain(&n.domain) == name);
    let check = |name: &str, version: i64, (oldest, newest): (i64, i64)| {
        if (oldest..=newest).contains(&version) {
            return Ok(version);
        }
        Err(ImportError::Opset { domain: name.into(), version, oldest, newest })
    };
    if let Some(&version) = versions.get(MICROSOFT).filter(|_| uses(MICROSOFT)) {
        check(MICROSOFT, version, (1, 1))?;
    }
    match versions.get("") {
        Some(&version) => check("ai.onnx", version, OPSETS),
        None if uses("") => wrong("it does not say which version of ONNX's operators it uses"),
        None => Ok(OPSETS.1),
    }
}

struct Import<'a, 'm> {
    b: Builder<'a>,
    external: &'m mut ExternalFiles,
    opset: i64,
    functions: HashSet<(&'m str, &'m str)>,
}

impl Import<'_, '_> {
    fn graph(&mut self, graph: &GraphProto) -> Result<(), ImportError> {
        self.b.graph.name = graph.name.clone();
        let given = self.givens(graph)?;
        let order = order::topological(graph, &given)?;
        for info in graph.value_info.iter().chain(&graph.output) {
            if let Some(rank) = declared_rank(info) {
                self.b.declared_ranks.insert(info.name.clone(), rank);
            }
        }
        let outputs = || graph.output.iter().map(|o| o.name.as_str());
        for name in given.iter().copied() {
            self.b.reserve(name);
        }
        for name in graph.node.iter().flat_map(|n| &n.output) {
            self.b.reserve(name);
        }
        self.b.output_names = outputs().map(str::to_owned).collect();
        self.initializers(graph)?;
        self.inputs(graph)?;
        let used: HashSet<&str> = graph
            .node
            .iter()
            .flat_map(|n| n.input.iter().map(String::as_str))
            .chain(outputs())
            .collect();
        let names = self.node_names(graph);
        for i in order {
            self.node(i, &graph.node[i], &names[i], &used)?;
        }
        self.outputs(graph)
    }

    /// Names of inputs and initializers. An initializer may give an input its default.
    fn givens<'g>(&self, graph: &'g GraphProto) -> Result<HashSet<&'g str>, ImportError> {
        let sparse = |s: &'g proto::SparseTensorProto| s.values.as_ref().map(|v| v.name.as_str());
        let constants = graph
            .initializer
            .iter()
            .map(|t| t.name.as_str())
            .chain(graph.sparse_initializer.iter().filter_map(sparse));
        let constants = unique(constants, "an initializer")?;
        let mut all = unique(graph.input.iter().map(|i| i.name.as_str()), "an input")?;
        all.extend(constants);
        Ok(all)
    }

    /// Names in the IR: the file's where they are unique, the operator's with its position where
    /// there is none.
    fn node_names(&mut self, graph: &GraphProto) -> Vec<String> {
        let mut names = vec![String::new(); graph.node.len()];
        for named in [true, false] {
            for (i, node) in graph.node.iter().enumerate() {
                if node.name.is_empty() != named {
                    let base =
                        if named { node.name.clone() } else { format!("{}_{i}", node.op_type) };
                    names[i] = self.b.node_name(&base);
                }
            }
        }
        names
    }

    fn initializers(&mut self, graph: &GraphProto) -> Result<(), ImportError> {
        for t in &graph.initializer {
            match tensor::read(t, self.external, self.b.limits) {
                Ok(value) => {
                    self.b.define_constant(&t.name, value)?;
                }
                Err(failure) => self.tensor_failure(&t.name, failure)?,
            }
        }
        for name in graph.sparse_initializer.iter().filter_map(|s| Some(&s.values.as_ref()?.name)) {
            self.tensor_failure(name, Failure::Unsupported("sparse elements".into()))?;
        }
        Ok(())
    }

    fn inputs(&mut self, graph: &GraphProto) -> Result<(), ImportError> {
        for input in &graph.input {
            if self.b.find(&input.name).is_some() {
                continue;
            }
            match input_type(input.r#type.as_ref(), self.b.limits) {
                Ok(ty) => self.b.define_input(&input.name, ty)?,
                Err(failure) => self.tensor_failure(&input.name, failure)?,
            }
        }
        Ok(())
    }

    /// What is not supported goes into the list; the rest ends the import.
    fn tensor_failure(&mut self, name: &str, failure: Failure) -> Result<(), ImportError> {
        match failure {
            Failure::Import(e) => Err(e),
            Failure::Malformed(detail) => {
                Err(ImportError::Tensor { tensor: name.to_owned(), detail })
            }
            Failure::Unsupported(reason) | Failure::Operand(reason) => {
                let name = name.to_owned();
                self.b.unsupported.tensors.push(UnsupportedTensor { name: name.clone(), reason });
                self.b.define_unknown(&name)
            }
        }
    }

    fn node(
        &mut self,
        index: usize,
        node: &NodeProto,
        name: &str,
        used: &HashSet<&str>,
    ) -> Result<(), ImportError> {
        match self.read_node(node, name, used) {
            Ok(()) => return Ok(()),
            Err(Failure::Import(e)) => return Err(e),
            Err(Failure::Malformed(detail)) => {
                return Err(ImportError::Node {
                    node: label(index, node),
                    op: node.op_type.clone(),
                    detail,
                });
            }
            Err(Failure::Unsupported(reason) | Failure::Operand(reason)) => {
                let domain = domain(&node.domain);
                let label = label(index, node);
                self.b.unsupported.add_node(domain, &node.op_type, &label, reason);
            }
        }
        self.unknown_results(node)
    }

    fn unknown_results(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            self.b.define_unknown(output)?;
        }
        Ok(())
    }

    fn read_node(
        &mut self,
        node: &NodeProto,
        name: &str,
        used: &HashSet<&str>,
    ) -> Result<(), Failure> {
        let domain = domain(&node.domain);
        if node.output.is_empty() {
            return malformed("it has no results");
        }
        if self.functions.contains(&(domain, node.op_type.as_str())) {
            return error::unsupported("a function that the model defines itself");
        }
        let Some(reader) = ops::reader(domain, &node.op_type) else {
            return error::unsupported("unknown operator");
        };
        // The sort found a definition for every name.
        let operands: Vec<_> = node.input.iter().map(|n| self.b.find(n)).collect();
        let blind = operands.iter().flatten().any(|&o| self.b.is_unknown(o));
        let mut cx = Cx {
            b: &mut self.b,
            attrs: Attrs::new(node)?,
            opset: self.opset,
            node,
            name: name.to_owned(),
            operands,
            used,
            external: self.external,
            steps: 0,
        };
        let result = reader.read(&mut cx);
        match result {
            // The import has failed already; what counts is whether this node's form is one more reason.
            // The rest may come of what is only assumed of the operands.
            Ok(()) | Err(Failure::Operand(_) | Failure::Malformed(_)) if blind => {
                Ok(self.unknown_results(node)?)
            }
            result => result,
        }
    }

    fn outputs(&mut self, graph: &GraphProto) -> Result<(), ImportError> {
        if graph.output.is_empty() {
            return wrong("its graph has no outputs");
        }
        unique(graph.output.iter().map(|o| o.name.as_str()), "an output")?;
        for output in &graph.output {
            let Some(sym) = self.b.find(&output.name) else {
                return Err(ImportError::Undefined {
                    user: "the graph's output list".into(),
                    tensor: output.name.clone(),
                });
            };
            if self.b.is_unknown(sym) {
                continue;
            }
            let computed = self.b.info(sym).elem.dtype;
            let declared = output.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
            if let Some(declared) = declared.map(|t| t.elem_type).filter(|&t| t != 0)
                && !tensor::dtype(declared).is_ok_and(|d| d == computed)
            {
                return wrong(format!(
                    "output `{}` is computed as {computed}, but declared as another type",
                    output.name
                ));
            }
            let id = self.b.as_is(sym).map_err(|_| ImportError::Undefined {
                user: "the graph's output list".into(),
                tensor: output.name.clone(),
            })?;
            self.b.graph.outputs.push(id);
        }
        Ok(())
    }
}

/// The names as a set; each must be there once and not be empty.
fn unique<'g>(
    names: impl Iterator<Item = &'g str>,
    what: &str,
) -> Result<HashSet<&'g str>, ImportError> {
    let mut set = HashSet::new();
    for name in names {
        if name.is_empty() {
            return wrong(format!("{what} has no name"));
        }
        if !set.insert(name) {
            return Err(ImportError::Redefined { tensor: name.into(), definer: what.into() });
        }
    }
    Ok(set)
}

fn declared_rank(info: &ValueInfoProto) -> Option<usize> {
    Some(info.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?.dim.len())
}

fn input_type(ty: Option<&TypeProto>, limits: &Limits) -> Result<TensorType, Failure> {
    let Some(ty) = ty else { return malformed("it has no type") };
    let Some(tensor) = &ty.tensor_type else {
        return error::unsupported("a type that is not a dense tensor");
    };
    let elem = ElemType::plain(tensor::dtype(tensor.elem_type)?);
    let Some(shape) = &tensor.shape else { return Ok(TensorType { elem, dims: None }) };
    if shape.dim.len() > crate::MAX_RANK {
        return Err(crate::TensorError::Rank { rank: shape.dim.len() }.into());
    }
    let dims = shape.dim.iter().map(|d| match &d.value {
        // Older exporters write an extent that is given at run time as 0 or −1.
        None | Some(DimValue::DimValue(0 | -1)) => Ok(Dim::Unknown),
        Some(DimValue::DimValue(n)) => tensor::extent(*n, limits).map(Dim::Fixed),
        // Exporters write "?" where nothing is known: two of them need not be equal.
        Some(DimValue::DimParam(name)) if matches!(name.as_str(), "" | "?") => Ok(Dim::Unknown),
        Some(DimValue::DimParam(name)) if name.len() > limits.name_bytes => {
            Err(Failure::Import(ImportError::Limit {
                what: "bytes of a name".into(),
                needed: name.len() as u64,
                limit: limits.name_bytes as u64,
            }))
        }
        Some(DimValue::DimParam(name)) => Ok(Dim::Symbol(name.as_str().into())),
    });
    Ok(TensorType::new(elem, dims.collect::<Result<_, _>>()?))
}
