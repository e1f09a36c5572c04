//! Real models against ONNX Runtime without graph optimizations.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    reason = "tests fail by panicking and skip loudly"
)]

mod common;

use common::{CNN, Case, EFFNET_LITE0, Form, Golden, MOBILENET_V2, chain, difference, top1};
use requant::{CompileOptions, Model, PipelineOptions, Tensor};
use requant_graph::{Exactness, testing::check_equivalent};

fn run(case: Case, model: &Model, golden: &Golden) -> Vec<Tensor> {
    let options = CompileOptions::default();
    let compiled =
        model.compile(&options).unwrap_or_else(|e| panic!("{}: {}", case.name, chain(&e)));
    let names: Vec<String> = model.inputs().map(|(n, _)| n.to_owned()).collect();
    let inputs: Vec<(&str, Tensor)> =
        names.iter().map(String::as_str).zip(golden.inputs.iter().cloned()).collect();
    let outputs =
        compiled.session().run(&inputs).unwrap_or_else(|e| panic!("{}: {}", case.name, chain(&e)));
    outputs.into_iter().map(|(_, t)| t).collect()
}

fn check(case: Case) {
    let Some((model, golden)) = case.load() else { return };
    for (i, golden) in case.runs(&golden) {
        let label = format!("{} case {i}", case.name);
        let outputs = run(case, &model, golden);
        assert_eq!(outputs.len(), golden.outputs.len(), "{label}");
        for (got, want) in outputs.iter().zip(&golden.outputs) {
            let (worst, scale) = difference(got, want);
            eprintln!("{label}: off by {worst} of {scale}");
            assert_eq!(top1(got), top1(want), "{label}: another class wins");
            if case.form == Form::Float {
                assert!(worst <= 1e-4 * scale, "{label}: off by {worst} of {scale}");
            }
        }
        if case.form == Form::Qdq && !case.emulated() && (i == 0 || case.family == "cnn") {
            each_fusion_is_one_step(&label, &model, golden);
        }
        if case.form == Form::QOperator {
            for (got, want) in outputs.iter().zip(&golden.outputs) {
                let bits = |t: &Tensor| t.bytes().clone();
                assert_eq!(bits(got), bits(want), "{label}: off by {:?}", difference(got, want));
            }
        }
    }
}

/// Each fused output is at most one step from what the unfused graph makes of the same operands. Without
/// the layout pass, which is exact, or values of the two graphs could not be told to be the same.
fn each_fusion_is_one_step(label: &str, model: &Model, golden: &Golden) {
    let mut optimized = model.clone();
    let options = PipelineOptions { disable: vec!["layout".to_owned()], ..Default::default() };
    optimized.optimize(&options).unwrap();
    let inputs: Vec<(&str, Tensor)> =
        model.inputs().map(|(name, _)| name).zip(golden.inputs.iter().cloned()).collect();
    let (before, after) = (model.graph(), optimized.graph());
    if let Err(difference) = check_equivalent(before, after, &inputs, Exactness::OneStep) {
        panic!("{label}: {difference}");
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
