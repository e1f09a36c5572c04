//! `requant convert`

use crate::engine::Loaded;
use crate::{error, output};
use anyhow::Result;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `convert`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model, .onnx, .rq or .txt
    model: PathBuf,
    /// Where the model goes: .rq, or .txt for the text form
    #[arg(short, long, value_name = "OUT.rq")]
    output: PathBuf,
    /// Replace the output file
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    output::check_free(&args.output, args.force)?;
    let loaded = Loaded::open(&args.model)?;
    match args.output.extension().and_then(|e| e.to_str()) {
        Some("rq") => crate::engine::save(&loaded.model, &args.output, args.force)?,
        Some("txt") => output::write_atomic(&args.output, args.force, |file| {
            Ok(file.write_all(crate::engine::full_text(&loaded.model).as_bytes())?)
        })?,
        _ => {
            return Err(error::usage(format!(
                "{}: models are written as .rq or .txt",
                args.output.display()
            )));
        }
    }
    note!(
        "{}: {} bytes, from {} bytes",
        args.output.display(),
        output::thousands(std::fs::metadata(&args.output)?.len()),
        output::thousands(loaded.file_bytes)
    );
    Ok(())
}
