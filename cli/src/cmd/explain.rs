//! `requant explain`

use crate::data::inputs::{self, ShapeArg};
use crate::engine::{Compiled, EngineArgs, Loaded};
use crate::output::{self, thousands};
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `explain`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model, .onnx, .rq or .txt
    model: PathBuf,
    /// Extents of an input, name=1x3x640x640; open extents are 1 by default
    #[arg(long, value_name = "NAME=DIMS")]
    shape: Vec<ShapeArg>,
    /// List the steps that run, with kernel and work
    #[arg(long)]
    steps: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let loaded = Loaded::open(&args.model)?;
    let signature = inputs::signature(&loaded.model)?;
    inputs::check_shapes(&signature, &args.shape)?;
    let shapes = inputs::shapes(&signature, &args.shape)?;
    let compiled = Compiled::new(&loaded, &args.engine)?;
    let explanation = compiled.explain(&shapes)?;
    if args.steps {
        let rows: Vec<Vec<String>> = explanation
            .steps
            .iter()
            .map(|s| {
                vec![
                    s.node.to_string(),
                    s.op.to_owned(),
                    s.kernel.clone(),
                    thousands(s.macs),
                    thousands(s.bytes as u64),
                ]
            })
            .collect();
        output::table(&["node", "operator", "kernel", "macs", "bytes"], &rows)?;
    } else {
        let rows: Vec<Vec<String>> = explanation
            .nodes
            .iter()
            .map(|n| {
                vec![
                    n.name.to_string(),
                    n.op.to_owned(),
                    n.fate.name().to_owned(),
                    n.kernels.join(" + "),
                    n.reason.clone().unwrap_or_default(),
                ]
            })
            .collect();
        output::table(&["node", "operator", "runs as", "kernel", "why"], &rows)?;
    }
    let counts: Vec<String> =
        explanation.counts().iter().map(|(fate, n)| format!("{n} {}", fate.name())).collect();
    say!();
    say!("{}, {} thread(s): {}", explanation.isa, explanation.threads, counts.join(", "));
    say!(
        "arena {} bytes (at least {}), packed weights {} bytes, other constants {} bytes",
        thousands(explanation.memory.arena as u64),
        thousands(explanation.memory.lower_bound as u64),
        thousands(explanation.packed_bytes as u64),
        thousands(explanation.memory.constants as u64)
    );
    Ok(())
}
