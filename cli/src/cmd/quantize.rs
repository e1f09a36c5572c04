//! `requant quantize`

use crate::data::inputs::{self, InputArgs};
use crate::engine::{self, EngineArgs, Loaded};
use crate::{error, output};
use anyhow::Result;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use requant_ir::{DType, Limits};
use requant_quantize::{QuantizeOptions, quantize};
use std::path::PathBuf;

/// Quantization modes.
#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// Weights and activations 8 bits, static ranges
    Int8,
}

/// Storage of activations.
#[derive(Clone, Copy, ValueEnum)]
enum Activation {
    /// Signed
    S8,
    /// Unsigned
    U8,
}

/// Arguments of `quantize`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Float model, .onnx, .rq or .txt
    model: PathBuf,
    /// Where the int8 model goes
    #[arg(short, long, value_name = "OUT.rq")]
    output: PathBuf,
    /// Representative data: an .npz batched on axis 0, or a folder of images
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// What to quantize, and how
    #[arg(long, value_enum, default_value = "int8")]
    mode: Mode,
    /// Storage of activations; both run at the same speed and give the same values
    #[arg(long, value_enum, default_value = "s8")]
    activation: Activation,
    /// One weight scale for each tensor instead of one for each output channel
    #[arg(long)]
    per_tensor: bool,
    /// Nodes that stay float, by name
    #[arg(long, value_delimiter = ',', value_name = "NODE")]
    exclude: Vec<String>,
    /// Use the first N samples only
    #[arg(long, value_name = "N", value_parser = engine::samples)]
    samples: Option<usize>,
    /// Replace the output file
    #[arg(long)]
    force: bool,
    /// Print the chosen range, scale and zero point of each activation
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    image: crate::data::images::ImageOptions,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.output.extension().and_then(|e| e.to_str()) != Some("rq") {
        return Err(error::usage(format!("{}: models are written as .rq", args.output.display())));
    }
    output::check_free(&args.output, args.force)?;
    let Mode::Int8 = args.mode;
    let cpu = args.engine.cpu()?;
    let loaded = Loaded::open(&args.model)?;
    let signature = inputs::signature(&loaded.model)?;
    let source = InputArgs { inputs: Vec::new(), image: args.image.clone() };
    let samples = source.samples(&args.data, &signature, args.samples, &Limits::default())?;
    let options = QuantizeOptions {
        activation: match args.activation {
            Activation::S8 => DType::I8,
            Activation::U8 => DType::U8,
        },
        per_channel: !args.per_tensor,
        exclude: args.exclude.clone(),
        threads: args.engine.threads,
        cpu,
        arena_bytes: args.engine.arena_bytes,
    };
    let bar = ProgressBar::new(samples.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("calibrating {bar:32} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    let fed = bar.wrap_iter(samples.iter());
    let (model, report) = quantize::<anyhow::Error>(&loaded.model, fed, &options)?;
    bar.finish_and_clear();
    engine::save(&model, &args.output, args.force)?;
    let bytes = std::fs::metadata(&args.output)?.len();
    note!(
        "{}: {} bytes, {:.3} of the float file; {} samples, {} integer nodes, {} float nodes",
        args.output.display(),
        output::thousands(bytes),
        bytes as f64 / loaded.file_bytes as f64,
        report.samples,
        report.integer_nodes,
        report.float_nodes.len()
    );
    for node in &report.float_nodes {
        note!("stays float: {node}");
    }
    if args.report {
        let rows: Vec<Vec<String>> = report
            .activations
            .iter()
            .map(|t| {
                vec![
                    t.tensor.clone(),
                    t.min.to_string(),
                    t.max.to_string(),
                    t.scale.to_string(),
                    t.zero_point.to_string(),
                ]
            })
            .collect();
        output::table(&["tensor", "min", "max", "scale", "zero point"], &rows)?;
    }
    Ok(())
}
