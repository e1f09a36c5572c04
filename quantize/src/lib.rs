//! Post-training quantization: a float model and representative data in, an int8 model out.
//!
//! The result is a QDQ graph: every 8-bit activation stands between a `Quantize` and a `Dequantize`,
//! weights are s8 and biases s32 behind a `Dequantize`. It is portable and readable; the passes of
//! `requant-graph` turn it into integer operators when it is compiled.
//!
//! First form: static ranges by MinMax, weights s8 per channel in [−127, 127], activations
//! asymmetric per tensor, results of the graph float.
#![forbid(unsafe_code)]

mod calibrate;
mod observer;
mod params;
mod rewrite;
mod select;

pub use calibrate::calibrate;
pub use observer::{MinMax, Ranges};

use requant_graph::Cpu;
use requant_ir::{DType, Model, Tensor, TensorError};
use thiserror::Error;

/// Inputs of one run, by name.
pub type Sample = Vec<(String, Tensor)>;

/// Why a model cannot be quantized.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// A calibration value is NaN or infinite.
    #[error(
        "calibration sample {sample}: tensor `{tensor}` holds {value}: check the data and its preprocessing"
    )]
    NotFinite {
        /// Value at fault.
        tensor: String,
        /// Index of the sample.
        sample: usize,
        /// What was found.
        value: f32,
    },
    /// A weight is NaN or infinite.
    #[error("weight `{tensor}` holds a value that is not finite")]
    WeightNotFinite {
        /// Constant at fault.
        tensor: String,
    },
    /// No sample reached a value.
    #[error("no calibration value was seen for tensor `{tensor}`: give at least one sample")]
    NotObserved {
        /// Value at fault.
        tensor: String,
    },
    /// A constant could not be made.
    #[error("constant `{tensor}`: {source}")]
    Tensor {
        /// Constant at fault.
        tensor: String,
        /// What is wrong.
        #[source]
        source: TensorError,
    },
    /// A node to be excluded is not in the model.
    #[error(
        "no node `{node}` to exclude: names are those of the model after clean-up, see `inspect`"
    )]
    UnknownNode {
        /// The name.
        node: String,
    },
    /// Activations can be stored as s8 or u8.
    #[error("activations cannot be {dtype}: choose s8 or u8")]
    Activation {
        /// What was asked for.
        dtype: DType,
    },
    /// The model is integer already, or nothing in it can be.
    #[error(
        "nothing to quantize: the model has no float convolution or matrix product with constant weights"
    )]
    Nothing,
    /// The model makes no graph.
    #[error(transparent)]
    Graph(#[from] requant_graph::GraphError),
    /// The float model cannot be optimized or compiled.
    #[error("the float model cannot be prepared for calibration: {0}")]
    Compile(#[from] requant_graph::CompileError),
    /// The calibration run failed.
    #[error("calibration sample {sample}: {source}")]
    Run {
        /// Index of the sample.
        sample: usize,
        /// What is wrong.
        #[source]
        source: requant_graph::RunError,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizeOptions {
    /// Storage of activations: s8 or u8. Both cost the same and give the same values.
    pub activation: DType,
    /// One weight scale per output channel, or one for the tensor.
    pub per_channel: bool,
    /// Nodes that stay float.
    pub exclude: Vec<String>,
    /// Threads of the calibration runs.
    pub threads: usize,
    /// The instruction set of the calibration runs. It does not change the result.
    pub cpu: Cpu,
    /// Most bytes of intermediate values of a calibration run, as in
    /// [`CompileOptions`](requant_graph::CompileOptions).
    pub arena_bytes: Option<usize>,
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        QuantizeOptions {
            activation: DType::I8,
            per_channel: true,
            exclude: Vec::new(),
            threads: 1,
            cpu: Cpu::detect(),
            arena_bytes: None,
        }
    }
}

/// What was chosen for one activation.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorReport {
    /// Value name.
    pub tensor: String,
    /// Smallest value of its group.
    pub min: f32,
    /// Largest value of its group.
    pub max: f32,
    /// Chosen scale.
    pub scale: f32,
    /// Chosen zero point.
    pub zero_point: i32,
}

/// What quantization did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Calibration samples.
    pub samples: usize,
    /// Every 8-bit activation.
    pub activations: Vec<TensorReport>,
    /// Nodes that compute on 8-bit operands.
    pub integer_nodes: usize,
    /// Nodes that stay float, by name.
    pub float_nodes: Vec<String>,
}

/// Quantizes a float model with the ranges that `samples` show. Samples are taken in one at a time:
/// memory does not depend on their number.
pub fn quantize<E>(
    model: &Model,
    samples: impl IntoIterator<Item = Result<Sample, E>>,
    options: &QuantizeOptions,
) -> Result<(Model, Report), E>
where
    E: From<QuantizeError>,
{
    if !options.activation.is_8bit() {
        return Err(QuantizeError::Activation { dtype: options.activation }.into());
    }
    let clean = calibrate::clean_up(model)?;
    let graph = clean.graphs.first().ok_or(QuantizeError::Nothing)?;
    if let Some(node) = options.exclude.iter().find(|e| !graph.nodes.iter().any(|n| n.name == **e))
    {
        return Err(QuantizeError::UnknownNode { node: node.clone() }.into());
    }
    let selection = select::select(graph, &options.exclude);
    if !selection.roles.iter().any(|r| matches!(r, select::Role::Weighted { .. })) {
        return Err(QuantizeError::Nothing.into());
    }
    let names: Vec<String> =
        selection.groups.keys().map(|v| graph.values[v.index()].name.clone()).collect();
    let ranges = calibrate(&clean, &names, samples, options)?;
    let (graph, report) = rewrite::rewrite(graph, &selection, &ranges, options)?;
    let producer = format!("requant {}", env!("CARGO_PKG_VERSION"));
    Ok((Model { producer, graphs: vec![graph], metadata: clean.metadata.clone() }, report))
}
