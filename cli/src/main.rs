//! The program `requant`.
//!
//! Results go to standard output; progress, warnings and errors to standard error. Exit codes are a
//! contract, see [`error::Exit`].
#![forbid(unsafe_code)]

#[macro_use]
mod output;
mod cmd;
mod data;
mod engine;
mod error;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// int8 inference for CPUs: quantize a float model and run it, with the same bits on every CPU
#[derive(Parser)]
#[command(name = "requant", version, arg_required_else_help = true, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Write an ONNX, .rq or text model as .rq or as text
    Convert(cmd::convert::Args),
    /// Quantize a float model to int8 with a representative data set
    Quantize(cmd::quantize::Args),
    /// Run a model once and write its outputs
    Run(cmd::run::Args),
    /// Show a model: text, operator counts, sizes, the effect of the passes
    Inspect(cmd::inspect::Args),
    /// Say which nodes run as integers, which stayed float or fell back, and why
    Explain(cmd::explain::Args),
    /// Time models over threads, instruction sets and shapes
    Bench(cmd::bench::Args),
    /// Compare the outputs of two models on the same inputs
    Compare(cmd::compare::Args),
    /// Quantize, optimize and run the built-in model on the built-in digits
    Demo(cmd::demo::Args),
    /// Say what this CPU can do and what is used
    Doctor,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are not errors.
            let code = if e.use_stderr() { error::Exit::Usage as u8 } else { 0 };
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let result = std::panic::catch_unwind(|| match cli.verb {
        Verb::Convert(a) => cmd::convert::run(&a),
        Verb::Quantize(a) => cmd::quantize::run(&a),
        Verb::Run(a) => cmd::run::run(&a),
        Verb::Inspect(a) => cmd::inspect::run(&a),
        Verb::Explain(a) => cmd::explain::run(&a),
        Verb::Bench(a) => cmd::bench::run(&a),
        Verb::Compare(a) => cmd::compare::run(&a),
        Verb::Demo(a) => cmd::demo::run(&a),
        Verb::Doctor => cmd::doctor::run(),
    });
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(e)) => {
            note!("error: {}", error::message(&e));
            ExitCode::from(error::exit_code(&e))
        }
        Err(_) => {
            note!(
                "error: this is a fault of requant; please report it with the model and the output of `requant doctor`"
            );
            ExitCode::from(error::Exit::Internal as u8)
        }
    }
}
