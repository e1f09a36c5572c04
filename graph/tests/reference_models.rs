//! The reference interpreter on unoptimized real models against ONNX Runtime (optimizations off).
//!
//! Small models lie in the root package's `tests/data`; larger ones come from the corpus that
//! `REQUANT_SHARED` (or `../shared`) points at, and only where `REQUANT_LARGE` is set, since they take
//! seconds in a release build.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on should stop here; what is skipped or measured is said"
)]

use requant_graph::Graph;
use requant_graph::reference::{self, RunOptions};
use requant_ir::import::onnx::{ImportOptions, import_file};
use requant_ir::{Limits, Tensor, npz};
use std::path::{Path, PathBuf};

fn roots() -> [PathBuf; 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let shared = std::env::var_os("REQUANT_SHARED").map_or(root.join("../shared"), PathBuf::from);
    [root.join("tests/data"), shared.join("corpus")]
}

/// The paths of a model and of its golden outputs, if they are at hand.
fn find(name: &str) -> Option<(PathBuf, PathBuf)> {
    let [data, corpus] = roots();
    [(data.clone(), data.join("golden")), (corpus.join("models"), corpus.join("golden"))]
        .map(|(models, golden)| {
            (models.join(format!("{name}.onnx")), golden.join(format!("{name}.onnx.npz")))
        })
        .into_iter()
        .find(|(model, golden)| model.exists() && golden.exists())
}

/// The largest difference in all runs relative to the largest output, and how many elements differ.
fn compare(name: &str, model: &Path, golden: &Path) -> (f64, usize) {
    let model = import_file(model, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e:?}"));
    let graph = Graph::from_model(&model).unwrap_or_else(|e| panic!("{name}: {e}"));
    graph.verify().unwrap();
    let arrays = npz::read_npz(golden, &Limits::default()).unwrap();
    let array = |key: String| arrays.iter().find(|(k, _)| *k == key).map(|(_, t)| t.clone());
    let (mut worst, mut differ, mut count) = (0.0f64, 0, 0);
    for case in 0.. {
        let Some(_) = array(format!("c{case}.in0")) else { break };
        let names: Vec<_> =
            graph.inputs().iter().map(|&i| graph.fact(i.into()).name.clone()).collect();
        let inputs: Vec<(&str, Tensor)> = names
            .iter()
            .enumerate()
            .map(|(i, name)| (&**name, array(format!("c{case}.in{i}")).unwrap()))
            .collect();
        let start = std::time::Instant::now();
        let run = reference::run(&graph, &inputs, &RunOptions::default());
        let run = run.unwrap_or_else(|e| panic!("{name}: {e}"));
        eprintln!("{name}: case {case} took {:?}", start.elapsed());
        for (i, (_, got)) in run.outputs.iter().enumerate() {
            let want = array(format!("c{case}.noopt.out{i}")).unwrap();
            assert_eq!(got.dims(), want.dims(), "{name}");
            let numbers = |t: &Tensor| -> Vec<f64> {
                let ints = t.to_i64().map(|v| v.into_iter().map(|v| v as f64).collect());
                ints.unwrap_or_else(|| t.to_f32().unwrap().into_iter().map(f64::from).collect())
            };
            let (got, want) = (numbers(got), numbers(&want));
            let largest = want.iter().fold(1e-6f64, |m, v| m.max(v.abs()));
            for (a, b) in got.iter().zip(&want) {
                differ += usize::from(a != b);
                worst = worst.max((a - b).abs() / largest);
            }
            count += want.len();
        }
    }
    assert!(count > 0, "{name}: no golden runs");
    eprintln!("{name}: {differ} of {count} outputs differ, by at most {worst:.2e} of the largest");
    (worst, differ)
}

fn check(name: &str, tolerance: f64) {
    let Some((model, golden)) = find(name) else {
        eprintln!("SKIPPED {name}: set REQUANT_SHARED to the shared folder");
        return;
    };
    let (worst, differ) = compare(name, &model, &golden);
    if tolerance == 0.0 {
        assert_eq!(differ, 0, "{name}: not bit for bit");
    }
    assert!(worst <= tolerance, "{name}: {worst:e} is above {tolerance:e}");
}

#[test]
fn float_cnn() {
    check("cnn/cnn_f32", 1e-4);
}

#[test]
fn qdq_cnns_keep_every_bit() {
    check("cnn/cnn_qdq_u8s8_pc", 0.0);
    check("cnn/cnn_qdq_s8s8_pc", 0.0);
    check("cnn/cnn_qdq_u8u8_pt", 0.0);
}

#[test]
fn qoperator_cnns_keep_every_bit() {
    check("cnn/cnn_qop_s8s8_pc", 0.0);
    check("cnn/cnn_qop_u8u8_pt", 0.0);
}

#[test]
fn efficientnets() {
    check("effnet_lite0/effnet_lite0_f32", 1e-4);
    check("effnet_lite0/effnet_lite0_qop_u8s8_pc", 0.0);
}

#[test]
fn other_nets() {
    check("mobilenet_v2_random/mobilenet_v2_random_f32", 1e-4);
    check("hardcnn/hardcnn_f32", 1e-4);
    check("hardcnn/hardcnn_qop_u8s8_pc", 0.0);
}
