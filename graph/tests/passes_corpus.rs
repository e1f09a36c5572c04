//! Real quantized models through the default pipeline.
//!
//! Small models lie in the root package's `tests/data`; larger ones come from the corpus that
//! `REQUANT_SHARED` (or `../shared`) points at, and only where `REQUANT_LARGE` is set, since they take
//! seconds in a release build.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on should stop here; what is skipped or measured is said"
)]

use requant_graph::pass::{Pass, PassReport, Pipeline, PipelineOptions, Refusal};
use requant_graph::passes::{FoldZeroPoint, FuseResidual, Layout, sign};
use requant_graph::reference::{self, EvalLimits, RunOptions};
use requant_graph::{Graph, NodeKind, Outlet};
use requant_ir::import::onnx::{ImportOptions, import_file};
use requant_ir::{DType, Limits, Op, Tensor, npz};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What fuses everything of a convolutional network.
const SMALL: [&str; 4] =
    ["cnn/cnn_qdq_s8s8_pc", "cnn/cnn_qdq_u8s8_pc", "cnn/cnn_qdq_u8u8_pt", "cnn/cnn_qat_qdq"];

const HARD: [&str; 3] =
    ["hardcnn/hardcnn_qdq_s8s8_pc", "hardcnn/hardcnn_qdq_u8u8_pt", "hardcnn/hardcnn_qat_qdq"];

const LARGE: [&str; 4] = [
    "effnet_lite0/effnet_lite0_qdq_s8s8_pc",
    "effnet_lite0/effnet_lite0_qdq_u8s8_pc",
    "effnet_lite0/effnet_lite0_ts17_qdq_u8u8_pt",
    "mobilenet_v2_random/mobilenet_v2_random_qdq_s8s8_pc",
];

const QOPERATOR: [&str; 2] = ["cnn/cnn_qop_s8s8_pc", "cnn/cnn_qop_u8u8_pt"];

struct Case {
    name: &'static str,
    graph: Graph,
    /// Inputs by name, and the outputs of ONNX Runtime without optimizations.
    #[allow(clippy::type_complexity, reason = "inputs by name, and the outputs they give")]
    runs: Vec<(Vec<(String, Tensor)>, Vec<Tensor>)>,
}

/// The model and its golden runs, if they are at hand.
fn load(name: &'static str) -> Option<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let shared = std::env::var_os("REQUANT_SHARED").map_or(root.join("../shared"), PathBuf::from);
    let data = root.join("tests/data");
    let corpus = shared.join("corpus");
    let found =
        [(data.clone(), data.join("golden")), (corpus.join("models"), corpus.join("golden"))]
            .map(|(models, golden)| {
                (models.join(format!("{name}.onnx")), golden.join(format!("{name}.onnx.npz")))
            })
            .into_iter()
            .find(|(model, golden)| model.exists() && golden.exists());
    let Some((model, golden)) = found else {
        eprintln!("{name}: not at hand, skipped");
        return None;
    };
    let model = import_file(model, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e:?}"));
    let graph = Graph::from_model(&model).unwrap_or_else(|e| panic!("{name}: {e}"));
    let arrays: BTreeMap<String, Tensor> =
        npz::read_npz(&golden, &Limits::default()).unwrap().into_iter().collect();
    let inputs: Vec<String> =
        graph.inputs().iter().map(|&i| graph.fact(i.into()).name.to_string()).collect();
    let runs = (0..)
        .map_while(|case| {
            arrays.get(&format!("c{case}.in0"))?;
            let get = |key: String| arrays.get(&key).unwrap().clone();
            let inputs = inputs
                .iter()
                .enumerate()
                .map(|(i, n)| (n.clone(), get(format!("c{case}.in{i}"))))
                .collect();
            let outputs =
                (0..graph.outputs().len()).map(|o| get(format!("c{case}.noopt.out{o}"))).collect();
            Some((inputs, outputs))
        })
        .collect();
    Some(Case { name, graph, runs })
}

fn large() -> bool {
    let large = std::env::var_os("REQUANT_LARGE").is_some();
    if !large {
        eprintln!("REQUANT_LARGE is not set, large models are skipped");
    }
    large
}

fn optimized(graph: &Graph) -> (Graph, PassReport) {
    let mut after = graph.clone();
    let report = Pipeline::default().run(&mut after, &PipelineOptions::default()).unwrap();
    after.verify().unwrap();
    (after, report)
}

/// Without the passes that leave values out that the source model has.
fn fused(graph: &Graph) -> Graph {
    let names =
        [&FuseResidual as &dyn Pass, &FoldZeroPoint, &Layout].map(|p| p.info().name.to_owned());
    let options = PipelineOptions { disable: names.to_vec(), ..PipelineOptions::default() };
    let mut after = graph.clone();
    Pipeline::default().run(&mut after, &options).unwrap();
    after
}

fn count(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for node in graph.topo() {
        if let Some(op) = graph.node(node).op() {
            *counts.entry(op.mnemonic()).or_default() += 1;
        }
    }
    counts
}

/// Operators that compute with floats, `Quantize` and `Dequantize` apart.
fn float_operators(graph: &Graph) -> Vec<String> {
    let mut float = Vec::new();
    for node in graph.topo() {
        let Some(op) = graph.node(node).op() else { continue };
        let result = &graph.node(node).outputs[0].ty;
        let moves = op.is_data_movement() || matches!(op, Op::Quantize { .. } | Op::Dequantize);
        if result.dtype().is_float() && !moves {
            float.push(format!("{} {}", op.mnemonic(), graph.node(node).name));
        }
    }
    float
}

fn run(graph: &Graph, inputs: &[(String, Tensor)], keep_all: bool) -> reference::Recording {
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    reference::run(graph, &inputs, &RunOptions { keep_all, ..RunOptions::default() })
        .unwrap_or_else(|e| panic!("{e}"))
}

fn top1(tensor: &Tensor) -> Vec<usize> {
    let values = tensor.to_f32().unwrap();
    let row = *tensor.dims().last().unwrap();
    values
        .chunks(row)
        .map(|r| (0..row).rev().max_by(|&a, &b| r[a].total_cmp(&r[b])).unwrap())
        .collect()
}

/// The scale behind float output `o`.
fn output_scale(graph: &Graph, o: usize) -> f32 {
    let outlet = graph.outputs()[o].outlet;
    let stored = graph.operands(outlet.node)[0].unwrap();
    graph.fact(stored).ty.elem.as_per_tensor().unwrap().0
}

/// Each operator of `after`, given the very operands it has in `before`, gives what `before` has, to
/// within a step. Returns the share of elements that differ.
fn every_fused_value_is_within_a_step(
    case: &Case,
    after: &Graph,
    inputs: &[(String, Tensor)],
) -> f64 {
    let truth = run(&case.graph, inputs, true).values;
    let shapes: Vec<(&str, &[usize])> =
        inputs.iter().map(|(n, t)| (n.as_str(), t.dims())).collect();
    let after = after.bind(&shapes).unwrap();
    let mut values: BTreeMap<Outlet, Tensor> = BTreeMap::new();
    let (mut compared, mut differ) = (0usize, 0usize);
    for id in after.topo() {
        let node = after.node(id);
        let results = match &node.kind {
            NodeKind::Input => vec![truth[&node.outputs[0].name].clone()],
            NodeKind::Constant(tensor) => vec![tensor.clone()],
            NodeKind::Op(op) => {
                let operands: Vec<Option<&Tensor>> =
                    after.operands(id).iter().map(|o| o.map(|o| &values[&o])).collect();
                let slots = node.outputs.len();
                reference::eval_with(op, &operands, slots, &EvalLimits::default())
                    .unwrap_or_else(|e| panic!("{}: {e}", node.name))
            }
        };
        for (slot, (mut tensor, fact)) in results.into_iter().zip(&node.outputs).enumerate() {
            let known = truth.get(&fact.name).filter(|t| t.elem() == tensor.elem());
            if let (Some(known), NodeKind::Op(_)) = (known, &node.kind) {
                if let (true, Some(a), Some(b)) =
                    (known.elem().quant.is_some(), tensor.to_i64(), known.to_i64())
                {
                    for (a, b) in a.iter().zip(&b) {
                        assert!((a - b).abs() <= 1, "{}: `{}`: {a} and {b}", case.name, fact.name);
                        compared += 1;
                        differ += usize::from(a != b);
                    }
                }
                tensor = known.clone();
            }
            values.insert(Outlet { node: id, slot: slot as u16 }, tensor);
        }
    }
    assert!(compared > 0, "{}: no value has kept its name", case.name);
    differ as f64 / compared as f64
}

/// Checks a model that is quantized throughout; gives the optimized graph.
fn check(case: &Case) -> Graph {
    let (after, report) = optimized(&case.graph);
    let name = case.name;
    eprintln!("{name}: {:?}", count(&after));
    assert_eq!(float_operators(&after), Vec::<String>::new(), "{name}: {:#?}", report.refusals);
    let fusion = |r: &&Refusal| r.pass.starts_with("fuse") || r.pass == "fold_zero_point";
    let left: Vec<_> = report.refusals.iter().filter(fusion).collect();
    assert!(left.is_empty(), "{name}: {left:#?}");
    let partly = fused(&case.graph);
    let (mut worst, mut unfused_worst, mut same) = (0f32, 0f32, true);
    let mut share = 0f64;
    for (inputs, golden) in &case.runs {
        share = share.max(every_fused_value_is_within_a_step(case, &partly, inputs));
        let before = run(&case.graph, inputs, false).outputs;
        let outputs = run(&after, inputs, false).outputs;
        for (o, want) in golden.iter().enumerate() {
            let scale = output_scale(&after, o);
            let steps = |got: &Tensor| {
                let (got, want) = (got.to_f32().unwrap(), want.to_f32().unwrap());
                got.iter().zip(&want).map(|(a, b)| (a - b).abs() / scale).fold(0f32, f32::max)
            };
            worst = worst.max(steps(&outputs[o].1));
            unfused_worst = unfused_worst.max(steps(&before[o].1));
            same &= top1(&outputs[o].1) == top1(want);
        }
        for to in [DType::U8, DType::I8] {
            let mut flipped = after.clone();
            sign::flip(&mut flipped, to).unwrap();
            let again = run(&flipped, inputs, false).outputs;
            assert!(again.iter().zip(&outputs).all(|(a, b)| a.1.bytes() == b.1.bytes()), "{name}");
        }
    }
    eprintln!(
        "{name}: {:.3} % of fused values off by a step; outputs off by {worst:.2} steps (unfused {unfused_worst:.2}), same top 1: {same}",
        100.0 * share
    );
    assert!(same, "{name}: another class wins");
    after
}

#[test]
fn small_models_are_integer_throughout() {
    for name in SMALL {
        let after = check(&load(name).unwrap());
        let counts = count(&after);
        assert_eq!((counts["qconv"], counts["qmatmul"], counts["max_pool"]), (3, 2, 2), "{name}");
        assert!(!counts.contains_key("requantize"), "{name}");
    }
}

#[test]
fn hard_models_are_integer_throughout() {
    for case in HARD.into_iter().filter_map(load) {
        check(&case);
    }
}

#[test]
fn large_models_are_integer_throughout() {
    if !large() {
        return;
    }
    for mut case in LARGE.into_iter().filter_map(load) {
        case.runs.truncate(2);
        let counts = count(&check(&case));
        let mobilenet = case.name.starts_with("mobilenet");
        let (convolutions, residuals) = if mobilenet { (52, 10) } else { (49, 9) };
        assert_eq!(counts["qconv"], convolutions, "{}", case.name);
        let additions = counts.get("qbinary").copied().unwrap_or(0);
        let residual = |n: &Op| matches!(n, Op::QConv { residual: Some(_), .. });
        let (after, _) = optimized(&case.graph);
        let fused = after.topo().into_iter().filter(|&n| after.node(n).op().is_some_and(residual));
        assert_eq!(fused.count() + additions, residuals, "{}", case.name);
        assert_eq!(
            (counts["qmatmul"], counts.contains_key("qmean") || counts.contains_key("qpool")),
            (1, true)
        );
    }
}

#[test]
fn integer_models_keep_their_bits() {
    for case in QOPERATOR.into_iter().filter_map(load) {
        let (after, _) = optimized(&case.graph);
        for (inputs, _) in &case.runs {
            let before = run(&case.graph, inputs, false).outputs;
            for to in [None, Some(DType::U8), Some(DType::I8)] {
                let mut graph = after.clone();
                if let Some(to) = to {
                    sign::flip(&mut graph, to).unwrap();
                }
                let outputs = run(&graph, inputs, false).outputs;
                for ((name, a), (_, b)) in before.iter().zip(&outputs) {
                    assert_eq!(a.bytes(), b.bytes(), "{}: `{name}` with {to:?}", case.name);
                }
            }
        }
    }
}
