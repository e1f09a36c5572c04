//! The corpus of real models with outputs of ONNX Runtime (graph optimizations off).
//!
//! Small models lie in `tests/data`. The others come from the corpus that `REQUANT_SHARED` (or
//! `../shared`) points at; where there is none, their tests say so and pass.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    dead_code,
    reason = "test support: fails by panicking, skips loudly"
)]

use requant::{Model, Tensor};
use requant_ir::{Limits, npz};
use std::path::{Path, PathBuf};

/// What the outputs may differ from ONNX Runtime's by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Float: 1e-4 relative.
    Float,
    /// Integer operators in the file: bit for bit, where only exact passes run.
    QOperator,
    /// Quantize and dequantize around float operators: one step for each fusion.
    Qdq,
}

/// A model of the corpus.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub family: &'static str,
    pub name: &'static str,
    pub form: Form,
}

const fn case(family: &'static str, name: &'static str, form: Form) -> Case {
    Case { family, name, form }
}

pub(crate) const CNN: [Case; 7] = [
    case("cnn", "cnn_f32", Form::Float),
    case("cnn", "cnn_qdq_u8s8_pc", Form::Qdq),
    case("cnn", "cnn_qdq_s8s8_pc", Form::Qdq),
    case("cnn", "cnn_qdq_u8u8_pt", Form::Qdq),
    case("cnn", "cnn_qop_s8s8_pc", Form::QOperator),
    case("cnn", "cnn_qop_u8u8_pt", Form::QOperator),
    case("cnn", "cnn_qat_qdq", Form::Qdq),
];

pub(crate) const EFFNET_LITE0: [Case; 5] = [
    case("effnet_lite0", "effnet_lite0_f32", Form::Float),
    case("effnet_lite0", "effnet_lite0_qdq_u8s8_pc", Form::Qdq),
    case("effnet_lite0", "effnet_lite0_qdq_s8s8_pc", Form::Qdq),
    case("effnet_lite0", "effnet_lite0_qop_u8s8_pc", Form::QOperator),
    case("effnet_lite0", "effnet_lite0_ts17_qdq_u8u8_pt", Form::Qdq),
];

pub(crate) const MOBILENET_V2: [Case; 2] = [
    case("mobilenet_v2_random", "mobilenet_v2_random_f32", Form::Float),
    case("mobilenet_v2_random", "mobilenet_v2_random_qdq_s8s8_pc", Form::Qdq),
];

/// Inputs of one run, in the model's order, and the outputs expected.
pub(crate) struct Golden {
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
}

impl Case {
    /// The model and its golden runs; `None`, said aloud, where the file is not at hand.
    pub(crate) fn load(&self) -> Option<(Model, Vec<Golden>)> {
        let file = format!("{}/{}.onnx", self.family, self.name);
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let (model, golden) = (data.join(&file), data.join("golden").join(format!("{file}.npz")));
        let (model, golden) = if model.exists() && golden.exists() {
            (model, golden)
        } else {
            let corpus = corpus();
            (corpus.join("models").join(&file), corpus.join("golden").join(format!("{file}.npz")))
        };
        if !model.exists() || !golden.exists() {
            eprintln!(
                "SKIPPED {file}: not in {}; set REQUANT_SHARED to the shared folder",
                corpus().display()
            );
            return None;
        }
        let model = Model::load(&model).unwrap_or_else(|e| panic!("{file}: {}", chain(&e)));
        Some((model, read_golden(&golden)))
    }

    /// Whether it is large and this processor is emulated, which `.ci/run` says by naming what runs programs: one run, the
    /// last and smallest, has to do then, and the interpreter, which is the same everywhere, takes too long.
    pub(crate) fn emulated(&self) -> bool {
        self.family != "cnn" && std::env::var_os("REQUANT_TEST_RUNNER").is_some()
    }

    /// The golden runs that are compared, the last one first.
    pub(crate) fn runs<'a>(
        &self,
        golden: &'a [Golden],
    ) -> impl Iterator<Item = (usize, &'a Golden)> {
        golden.iter().enumerate().rev().take(if self.emulated() { 1 } else { golden.len() })
    }
}

/// The folder of models and golden outputs.
fn corpus() -> PathBuf {
    let shared = std::env::var_os("REQUANT_SHARED").map(PathBuf::from);
    shared.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared")).join("corpus")
}

/// Keys are `c<case>.in<i>` and `c<case>.noopt.out<o>`.
fn read_golden(path: &Path) -> Vec<Golden> {
    let arrays = npz::read_npz(path, &Limits::default()).unwrap();
    let list = |prefix: String| -> Vec<Tensor> {
        (0..)
            .map_while(|i| arrays.iter().find(|(k, _)| *k == format!("{prefix}{i}")))
            .map(|(_, t)| t.clone())
            .collect()
    };
    let runs: Vec<Golden> = (0..)
        .map(|c| Golden {
            inputs: list(format!("c{c}.in")),
            outputs: list(format!("c{c}.noopt.out")),
        })
        .take_while(|g| !g.inputs.is_empty())
        .collect();
    assert!(
        !runs.is_empty() && runs.iter().all(|g| !g.outputs.is_empty()),
        "{}: no golden runs",
        path.display()
    );
    runs
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text += &format!(": {e}");
        source = e.source();
    }
    text
}

/// The index of the first largest element of each row along the last axis.
pub(crate) fn top1(tensor: &Tensor) -> Vec<usize> {
    let values = tensor.to_f32().unwrap();
    let row = tensor.dims().last().copied().unwrap_or(1).max(1);
    values
        .chunks(row)
        .map(|r| (0..r.len()).fold(0, |best, i| if r[i] > r[best] { i } else { best }))
        .collect()
}

/// The largest absolute difference, and the largest absolute value of `b`.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> (f32, f32) {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
    let most = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    (most, b.iter().map(|v| v.abs()).fold(0.0, f32::max))
}
