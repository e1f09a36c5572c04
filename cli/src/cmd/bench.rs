//! `requant bench`

use crate::data::inputs::{self, ShapeArg};
use crate::engine::{self, Compiled, EngineArgs, Loaded};
use crate::{error, output};
use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Output forms.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One object, schema requant.bench/1
    Json,
}

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Models, .onnx, .rq or .txt
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Thread counts
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = engine::threads)]
    threads: Vec<usize>,
    /// Instruction sets, see `requant doctor`
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    isa: Vec<String>,
    /// Extents of an input, name=1x3x640x640; open extents are 1 by default
    #[arg(long, value_name = "NAME=DIMS")]
    shape: Vec<ShapeArg>,
    /// Most bytes of intermediate values [default: three quarters of the memory]
    #[arg(long, value_name = "N")]
    arena_bytes: Option<usize>,
    /// Time spent on each measurement, in seconds
    #[arg(long, default_value_t = 1.0)]
    min_time: f64,
    /// Runs of each measurement, at least
    #[arg(long, default_value_t = 10)]
    min_runs: usize,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Where the result goes [default: standard output]
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Replace the output file
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Bench {
    schema: &'static str,
    tool: String,
    commit: &'static str,
    cpu: String,
    cores: usize,
    isa: Vec<&'static str>,
    threads: Vec<usize>,
    governor: Option<String>,
    debug_build: bool,
    models: Vec<ModelInfo>,
    results: Vec<Measurement>,
}

#[derive(Serialize)]
struct ModelInfo {
    model: String,
    bytes: u64,
    sha256: String,
}

#[derive(Serialize)]
struct Measurement {
    model: String,
    threads: usize,
    isa: String,
    min_ms: f64,
    median_ms: f64,
    p90_ms: f64,
    runs: usize,
    load_ms: f64,
    compile_ms: f64,
    peak_rss_bytes: u64,
    arena_bytes: u64,
    packed_bytes: u64,
    samples_ns: Vec<u64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(path) = &args.output {
        output::check_free(path, args.force)?;
    }
    if !(args.min_time.is_finite() && (0.0..=3600.0).contains(&args.min_time)) {
        return Err(error::usage("--min-time is between 0 and 3600 seconds"));
    }
    if cfg!(debug_assertions) {
        note!("warning: this is a debug build, the times say little");
    }
    // All of them before the first is measured.
    let engines: Vec<EngineArgs> = args
        .isa
        .iter()
        .flat_map(|isa| args.threads.iter().map(|&threads| (isa.clone(), threads)))
        .map(|(isa, threads)| EngineArgs { threads, isa: Some(isa), arena_bytes: args.arena_bytes })
        .collect();
    let mut isas = Vec::new();
    for engine in &engines {
        let name = engine.cpu()?.isa().name();
        if !isas.contains(&name) {
            isas.push(name);
        }
    }
    let mut bench = Bench {
        schema: "requant.bench/1",
        tool: format!("requant {}", env!("CARGO_PKG_VERSION")),
        commit: env!("REQUANT_COMMIT"),
        cpu: engine::cpu_name(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        isa: isas,
        threads: args.threads.clone(),
        governor: std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
            .ok()
            .map(|g| g.trim().to_owned()),
        debug_build: cfg!(debug_assertions),
        models: Vec::new(),
        results: Vec::new(),
    };
    for path in &args.models {
        let start = Instant::now();
        let loaded = Loaded::open(path)?;
        let load = start.elapsed();
        bench.models.push(ModelInfo {
            model: path.display().to_string(),
            bytes: loaded.file_bytes,
            sha256: engine::sha256(path)?,
        });
        for engine in &engines {
            bench.results.push(measure(args, &loaded, path, engine, load)?);
        }
    }
    if args.format == Format::Table && args.output.is_none() {
        let rows: Vec<Vec<String>> = bench.results.iter().map(row).collect();
        let header = [
            "model",
            "threads",
            "isa",
            "min ms",
            "median ms",
            "p90 ms",
            "runs",
            "load ms",
            "compile ms",
        ];
        output::table(&header, &rows)?;
        return Ok(());
    }
    let json = serde_json::to_string_pretty(&bench)?;
    match &args.output {
        None => say!("{json}"),
        Some(path) => output::write_atomic(path, args.force, |f| {
            use std::io::Write;
            Ok(writeln!(f, "{json}")?)
        })?,
    }
    Ok(())
}

fn row(m: &Measurement) -> Vec<String> {
    let ms = |v: f64| format!("{v:.3}");
    vec![
        m.model.clone(),
        m.threads.to_string(),
        m.isa.clone(),
        ms(m.min_ms),
        ms(m.median_ms),
        ms(m.p90_ms),
        m.runs.to_string(),
        ms(m.load_ms),
        ms(m.compile_ms),
    ]
}

fn measure(
    args: &Args,
    loaded: &Loaded,
    path: &std::path::Path,
    engine: &EngineArgs,
    load: Duration,
) -> Result<Measurement> {
    let signature = inputs::signature(&loaded.model)?;
    inputs::check_shapes(&signature, &args.shape)?;
    let mut shapes = Vec::new();
    for (name, ty) in &signature {
        let dims = inputs::concrete(name, ty, &args.shape)?;
        if inputs::is_open(ty) && !args.shape.iter().any(|s| s.name == *name) {
            note!("note: {name} runs as {dims:?}: choose with --shape");
        }
        shapes.push(dims);
    }
    let start = Instant::now();
    let compiled = Compiled::new(loaded, engine)?;
    let mut session = compiled.session();
    session.set_shapes(&shapes)?;
    let compile = start.elapsed();
    // Made only now: the plan has found the shapes possible.
    session.prepare(&inputs::random_feed(&signature, &shapes, 0)?)?;
    // Warm-up: caches, page faults, clock.
    let warm = Instant::now();
    while warm.elapsed().as_secs_f64() < args.min_time / 10.0 {
        session.run_prepared()?;
    }
    let mut samples = Vec::new();
    let begin = Instant::now();
    while samples.len() < args.min_runs.max(1) || begin.elapsed().as_secs_f64() < args.min_time {
        let start = Instant::now();
        session.run_prepared()?;
        samples.push(u64::try_from(start.elapsed().as_nanos())?);
    }
    let memory = session.memory();
    let mut sorted = samples.clone();
    sorted.sort_unstable();
    let at = |p: f64| sorted[((sorted.len() - 1) as f64 * p).round() as usize] as f64 / 1e6;
    Ok(Measurement {
        model: path.display().to_string(),
        threads: engine.threads,
        isa: compiled.isa().to_owned(),
        min_ms: at(0.0),
        median_ms: at(0.5),
        p90_ms: at(0.9),
        runs: samples.len(),
        load_ms: load.as_secs_f64() * 1e3,
        compile_ms: compile.as_secs_f64() * 1e3,
        peak_rss_bytes: engine::peak_rss(),
        arena_bytes: memory.arena_bytes,
        packed_bytes: memory.packed_bytes,
        samples_ns: samples,
    })
}
