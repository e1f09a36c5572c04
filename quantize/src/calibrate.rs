//! Runs the float model over the calibration data and watches its values.

use crate::{QuantizeError, QuantizeOptions, Ranges, Sample};
use requant_graph::pass::{Level, Pipeline, PipelineOptions};
use requant_graph::{CompileError, CompileOptions, CompiledModel, Graph, Threads};
use requant_ir::{Model, ValueId};

/// The clean-up before quantization: what is folded here has no rounding of its own.
const CLEAN_UP: [&str; 4] = ["fold_constants", "remove_identity", "fold_batch_norm", "fold_pad"];

/// Folds constants, batch normalization and padding, so that every product is one operator.
pub(crate) fn clean_up(model: &Model) -> Result<Model, QuantizeError> {
    let mut graph = Graph::from_model(model)?;
    let options = PipelineOptions {
        level: Level::O0,
        enable: CLEAN_UP.iter().map(|&p| p.to_owned()).collect(),
        ..PipelineOptions::default()
    };
    Pipeline::default().run(&mut graph, &options).map_err(CompileError::from)?;
    Ok(graph.to_model())
}

/// Runs `model` on every sample, with the threads and the instruction set of `options`, and notes the range of each value in `names`.
///
/// # Errors
/// If a sample does not fit the model or a value is not finite; the error says which.
pub fn calibrate<E: From<QuantizeError>>(
    model: &Model,
    names: &[String],
    samples: impl IntoIterator<Item = Result<Sample, E>>,
    options: &QuantizeOptions,
) -> Result<Ranges, E> {
    let mut ranges = Ranges::default();
    let compiled = observed(model, names, options)?;
    let mut session = compiled.session();
    for sample in samples {
        let sample = sample?;
        let feed: Vec<(&str, _)> = sample.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let outputs = session
            .run(&feed)
            .map_err(|source| QuantizeError::Run { sample: ranges.samples, source })?;
        let inputs = sample.iter().map(|(n, t)| (n.as_str(), t));
        let values = inputs.chain(outputs.iter().map(|(n, t)| (&**n, t)));
        for (name, tensor) in values.filter(|(n, _)| names.iter().any(|want| want == n)) {
            if let Some(elements) = tensor.as_slice::<f32>() {
                ranges.observe(name, elements)?;
            }
        }
        ranges.samples += 1;
    }
    Ok(ranges)
}

/// The model with the named values as its outputs.
fn observed(
    model: &Model,
    names: &[String],
    options: &QuantizeOptions,
) -> Result<CompiledModel, QuantizeError> {
    let mut model = model.clone();
    let graph = model.graphs.first_mut().ok_or(QuantizeError::Nothing)?;
    graph.outputs = graph
        .values
        .iter()
        .enumerate()
        .map(|(i, v)| (ValueId(i as u32), v))
        .filter(|(id, v)| names.contains(&v.name) && !graph.inputs.contains(id))
        .map(|(id, _)| id)
        .collect();
    let options = CompileOptions {
        cpu: options.cpu,
        threads: Threads::Count(options.threads),
        arena_bytes: options.arena_bytes,
        ..CompileOptions::default()
    };
    Ok(CompiledModel::compile(Graph::from_model(&model)?, &options)?)
}
