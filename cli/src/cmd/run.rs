//! `requant run`

use crate::data::inputs::{self, InputArgs};
use crate::engine::{Compiled, EngineArgs, Loaded};
use crate::output;
use anyhow::Result;
use requant_ir::{Limits, npz};
use std::io::BufWriter;
use std::path::PathBuf;

/// Arguments of `run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model, .onnx or .rq
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
        output::check_free(path, args.force)?;
    }
    let loaded = Loaded::open(&args.model)?;
    let signature = inputs::signature(&loaded.model)?;
    let feed = args.input.load(&signature, &Limits::default())?;
    let compiled = Compiled::new(&loaded, args.engine.cpu()?, args.engine.threads)?;
    let outputs = compiled.session().run(&feed)?;
    let Some(path) = &args.output else {
        for (name, tensor) in &outputs {
            println!("{name}: {} {:?}", tensor.dtype(), tensor.dims());
        }
        return Ok(());
    };
    output::write_atomic(path, args.force, |file| {
        let arrays = outputs.iter().map(|(n, t)| (n.as_str(), t));
        Ok(npz::write_npz(BufWriter::new(file), &path.display().to_string(), arrays)?)
    })
}
