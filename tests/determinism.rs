//! The same bits on every instruction set and architecture and for every number of threads, and those are
//! the reference interpreter's of the same optimized graph.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    reason = "tests fail by panicking and skip loudly"
)]

mod common;

use common::{CNN, Case, EFFNET_LITE0, Golden, MOBILENET_V2};
use requant::{Class, CompileOptions, CompiledModel, Cpu, Model, Tensor, Threads};
use requant_graph::reference::{self, RunOptions};

/// Sums of floats are associated differently in the interpreter: this much, relative to the largest value.
const FLOAT: f32 = 1e-5;

fn check(case: Case) {
    let Some((model, golden)) = case.load() else { return };
    for (i, run) in case.runs(&golden) {
        let outputs = compare(case, &model, run);
        let name = format!("{} {i}", case.name);
        let hash = hash(&outputs);
        assert_eq!(Some(hash), published(&name), "{name}: {hash:016x} is not what is published");
    }
}

/// FNV-1a of the outputs' bytes.
fn hash(outputs: &[Tensor]) -> u64 {
    let bytes = outputs.iter().flat_map(|t| t.bytes().iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// What `tests/data/output_hashes.txt` says of a run: the same bits on every machine.
fn published(run: &str) -> Option<u64> {
    let table = include_str!("data/output_hashes.txt");
    let line = table.lines().find_map(|l| l.strip_prefix(run)?.strip_prefix(' '));
    line.map(|h| u64::from_str_radix(h, 16).unwrap())
}

fn compare(case: Case, model: &Model, run: &Golden) -> Vec<Tensor> {
    let names: Vec<String> = model.inputs().map(|(n, _)| n.to_owned()).collect();
    let inputs: Vec<(&str, Tensor)> =
        names.iter().map(String::as_str).zip(run.inputs.iter().cloned()).collect();
    let mut first: Option<Vec<Tensor>> = None;
    for isa in Cpu::available() {
        // Emulated, a large model takes seconds.
        let threads = if case.emulated() && first.is_some() { 2..=2 } else { 1..=2 };
        for threads in threads {
            let options = CompileOptions {
                cpu: Cpu::with_isa(isa).unwrap(),
                threads: Threads::Count(threads),
                ..Default::default()
            };
            let compiled = model
                .compile(&options)
                .unwrap_or_else(|e| panic!("{}: {}", case.name, common::chain(&e)));
            let outputs = run_compiled(&compiled, &inputs);
            let label = format!("{} on {isa} with {threads} threads", case.name);
            if let Some(first) = &first {
                assert_same(&label, &outputs, first, None);
                continue;
            }
            if !case.emulated() {
                let tolerance = if is_integer(&compiled, run) { None } else { Some(FLOAT) };
                assert_same(&label, &outputs, &interpret(&compiled, &inputs), tolerance);
            }
            first = Some(outputs);
        }
    }
    first.unwrap()
}

fn run_compiled(model: &CompiledModel, inputs: &[(&str, Tensor)]) -> Vec<Tensor> {
    let outputs = model.session().run(inputs).unwrap_or_else(|e| panic!("{}", common::chain(&e)));
    outputs.into_iter().map(|(_, t)| t).collect()
}

fn interpret(model: &CompiledModel, inputs: &[(&str, Tensor)]) -> Vec<Tensor> {
    let run = reference::run(model.graph(), inputs, &RunOptions::default()).unwrap();
    run.outputs.into_iter().map(|(_, t)| t).collect()
}

/// Whether nothing is computed in float: conversions at the border are exact.
fn is_integer(model: &CompiledModel, run: &Golden) -> bool {
    let shapes: Vec<Vec<usize>> = run.inputs.iter().map(|t| t.dims().to_vec()).collect();
    let plan = model.plan(&shapes).unwrap();
    model.explain(&plan).steps.iter().all(|s| s.class != Class::Float)
}

fn assert_same(label: &str, got: &[Tensor], want: &[Tensor], tolerance: Option<f32>) {
    assert_eq!(got.len(), want.len(), "{label}");
    for (got, want) in got.iter().zip(want) {
        match tolerance {
            None => assert!(
                got == want,
                "{label}: not the same bits, off by {:?}",
                common::difference(got, want)
            ),
            Some(tolerance) => {
                let (worst, scale) = common::difference(got, want);
                assert!(worst <= tolerance * scale.max(1.0), "{label}: off by {worst} of {scale}");
            }
        }
    }
}

#[test]
fn cnn() {
    CNN.into_iter().for_each(check);
}

#[test]
fn effnet_lite0() {
    EFFNET_LITE0.into_iter().for_each(check);
}

#[test]
fn mobilenet_v2() {
    MOBILENET_V2.into_iter().for_each(check);
}
