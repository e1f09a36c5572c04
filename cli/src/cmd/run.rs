//! `requant run`

use crate::data::inputs::{self, InputArgs};
use crate::engine::{Compiled, EngineArgs, Loaded};
use crate::{error, output};
use anyhow::Result;
use requant_ir::{Limits, npz};
use std::path::PathBuf;

/// Arguments of `run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model, .onnx, .rq or .txt
    model: PathBuf,
    #[command(flatten)]
    input: InputArgs,
    /// Where the outputs go, under their tensor names, in graph order [default: print a summary]
    #[arg(short, long, value_name = "OUTPUTS.npz")]
    output: Option<PathBuf>,
    /// Replace the output file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(path) = &args.output {
        if path.extension().and_then(|e| e.to_str()) != Some("npz") {
            return Err(error::usage(format!("{}: outputs are written as .npz", path.display())));
        }
        output::check_free(path, args.force)?;
    }
    let loaded = Loaded::open(&args.model)?;
    let signature = inputs::signature(&loaded.model)?;
    let feed = args.input.load(&signature, &Limits::default())?;
    let compiled = Compiled::new(&loaded, &args.engine)?;
    let outputs = compiled.session().run(&feed)?;
    let Some(path) = &args.output else {
        for (name, tensor) in &outputs {
            say!("{name}: {} {:?}", tensor.dtype(), tensor.dims());
        }
        return Ok(());
    };
    output::write_atomic(path, args.force, |file| {
        let arrays = outputs.iter().map(|(n, t)| (n.as_str(), t));
        Ok(npz::write_npz(file, &path.display().to_string(), arrays)?)
    })
}
