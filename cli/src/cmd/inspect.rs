//! `requant inspect`

use crate::engine::{self, Loaded, PassArgs};
use crate::output::{self, thousands};
use anyhow::Result;
use requant_ir::Model;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Arguments of `inspect`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model, .onnx, .rq or .txt
    model: PathBuf,
    /// Print the graph as text
    #[arg(long)]
    text: bool,
    /// Run the passes: what each did, and the model afterwards
    #[arg(long)]
    passes: bool,
    #[command(flatten)]
    pass: PassArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let loaded = Loaded::open(&args.model)?;
    if !args.passes {
        if args.text {
            say!("{}", engine::short_text(&loaded.model).trim_end());
        } else {
            summary(
                &loaded.model,
                &format!("{} ({} bytes)", args.model.display(), thousands(loaded.file_bytes)),
            )?;
        }
        return Ok(());
    }
    let (after, report) = engine::optimize(&loaded.model, &args.pass)?;
    if args.text {
        say!("{}", engine::short_text(&after).trim_end());
        return Ok(());
    }
    summary(&loaded.model, "before the passes")?;
    let rows: Vec<Vec<String>> = report
        .runs
        .iter()
        .map(|r| {
            vec![
                r.pass.name.to_owned(),
                format!("{:?}", r.pass.class),
                r.patches.to_string(),
                r.nodes.0.to_string(),
                r.nodes.1.to_string(),
            ]
        })
        .collect();
    say!();
    output::table(&["pass", "class", "patches", "nodes before", "after"], &rows)?;
    for refusal in &report.refusals {
        say!("{} left `{}` alone: {}", refusal.pass, refusal.node, refusal.reason);
    }
    say!();
    summary(&after, "after the passes")?;
    Ok(())
}

/// Signature, operator counts and sizes.
fn summary(model: &Model, title: &str) -> Result<()> {
    say!("{title}");
    if !model.producer.is_empty() {
        say!("  producer: {}", model.producer);
    }
    for graph in &model.graphs {
        for (what, ids) in [("input", &graph.inputs), ("output", &graph.outputs)] {
            for value in ids.iter().filter_map(|&id| graph.value(id)) {
                say!("  {what} {}: {}", value.name, engine::type_text(value.ty.as_ref()));
            }
        }
        let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
        for node in &graph.nodes {
            *ops.entry(node.op.mnemonic()).or_default() += 1;
        }
        let list: Vec<String> = ops.iter().map(|(op, n)| format!("{op} {n}")).collect();
        say!("  {} nodes: {}", graph.nodes.len(), list.join(", "));
        let mut constants: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for data in graph.values.iter().filter_map(|v| v.data.as_ref()) {
            let entry = constants.entry(data.dtype().name()).or_default();
            entry.0 += 1;
            entry.1 += data.bytes().len() as u64;
        }
        let total: u64 = constants.values().map(|c| c.1).sum();
        let list: Vec<String> = constants
            .iter()
            .map(|(t, (n, b))| format!("{t} {n} ({} bytes)", thousands(*b)))
            .collect();
        say!("  constants: {} bytes: {}", thousands(total), list.join(", "));
    }
    Ok(())
}
