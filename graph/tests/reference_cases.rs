//! The reference interpreter against ONNX Runtime, operator by operator.
//!
//! `tests/data/ort` holds the cases and what made them; `REQUANT_ORT_CASES` names a directory with
//! others. Integers must agree bit for bit, floats within the tolerance of the case.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use requant_graph::{Graph, reference};
use requant_ir::{DType, Limits, Model, Tensor, npz};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn directory() -> PathBuf {
    match std::env::var_os("REQUANT_ORT_CASES") {
        Some(directory) => directory.into(),
        None => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ort").into(),
    }
}

/// How many elements differ, or are further apart than `tolerance`, and the first of them.
fn differences(got: &Tensor, want: &Tensor, tolerance: f32) -> (usize, Option<(usize, f64, f64)>) {
    let numbers = |t: &Tensor| -> Vec<f64> {
        let ints = t.to_i64().map(|v| v.into_iter().map(|v| v as f64).collect());
        ints.unwrap_or_else(|| t.to_f32().unwrap().into_iter().map(f64::from).collect())
    };
    let (got, want) = (numbers(got), numbers(want));
    let apart = |(a, b): (&f64, &f64)| {
        (a - b)
            .abs()
            .partial_cmp(&(f64::from(tolerance) * b.abs().max(1.0)))
            .is_none_or(|o| o.is_gt())
            && a.to_bits() != b.to_bits()
    };
    let mut all = got.iter().zip(&want).enumerate().filter(|(_, pair)| apart(*pair));
    let first = all.next().map(|(i, (a, b))| (i, *a, *b));
    (first.iter().len() + all.count(), first)
}

#[test]
fn operators_agree_with_onnxruntime() {
    let directory = directory();
    let text = std::fs::read_to_string(directory.join("cases.txt")).unwrap();
    let arrays: BTreeMap<String, Tensor> =
        npz::read_npz(&directory.join("cases.npz"), &Limits::default())
            .unwrap()
            .into_iter()
            .collect();
    let mut failures: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut cases = 0;
    for case in text.split("// ").skip(2) {
        let (line, text) = case.split_once('\n').unwrap();
        let (name, tolerance) = line.split_once(' ').unwrap();
        let graph =
            Graph::from_model(&Model::parse_text(text).unwrap_or_else(|e| panic!("{e}: {case}")));
        let graph = graph.unwrap_or_else(|e| panic!("{e}: {case}"));
        graph.verify().unwrap();
        let inputs: Vec<(&str, Tensor)> = graph
            .inputs()
            .iter()
            .map(|&id| {
                let input = &graph.fact(id.into()).name;
                (&**input, arrays[&format!("{name}.{input}")].clone())
            })
            .collect();
        let run = reference::run(&graph, &inputs, &reference::RunOptions::default());
        let got = run.unwrap_or_else(|e| panic!("{e}: {case}")).outputs.remove(0).1;
        let want = &arrays[&format!("{name}.y")];
        assert_eq!(got.dims(), want.dims(), "{case}");
        assert!(got.dtype() == want.dtype() || got.dtype() == DType::Bool, "{case}");
        let (count, first) = differences(&got, want, tolerance.parse().unwrap());
        if count > 0 {
            let kind = name.rsplit_once('_').unwrap().0.to_owned();
            let entry = failures.entry(kind).or_default();
            entry.0 += 1;
            let of = got.len();
            entry.1 = format!(
                "{count} of {of} differ, the first {first:?} (index, got, want) in\n{case}"
            );
        }
        cases += 1;
    }
    assert!(cases >= 100, "only {cases} cases were found");
    let list: Vec<_> =
        failures.iter().map(|(k, (n, e))| format!("{n} cases of {k}: {e}")).collect();
    assert!(list.is_empty(), "{} kinds differ:\n{}", list.len(), list.join("\n"));
}
