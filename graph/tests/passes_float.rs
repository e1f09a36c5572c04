//! The float passes, each on text models: what they make of them (snapshots), that the result means
//! the same (reference interpreter), and why they refuse.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

#[path = "passes_float/cases.rs"]
mod cases;
#[path = "passes_float/refusals.rs"]
mod refusals;

use requant_graph::pass::{Pass, PassReport, Pipeline, PipelineOptions};
use requant_graph::{Graph, reference};
use requant_ir::{DType, Model, Tensor};

fn graph(text: &str) -> Graph {
    Graph::from_model(&Model::parse_text(text).unwrap()).unwrap()
}

/// A graph of the given body; `x` is its input, `y` its output.
fn model(x: &str, outputs: &str, body: &str) -> String {
    format!("requant 1\ngraph main(%x: {x}) -> ({outputs}) {{\n{body}\n}}\n")
}

fn run(pass: &'static dyn Pass, graph: &mut Graph) -> PassReport {
    Pipeline::new(vec![pass]).run(graph, &PipelineOptions::default()).unwrap()
}

/// Some numbers that are neither all positive nor on any quantization grid.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + 11) % 101) as f32 * 0.13 - 5.7).collect()
}

fn input(graph: &Graph) -> Tensor {
    let ty = &graph.fact(graph.inputs()[0].into()).ty;
    let dims: Vec<usize> =
        ty.dims.as_ref().unwrap().iter().map(|d| d.fixed().unwrap_or(2)).collect();
    let n = dims.iter().product();
    match ty.dtype() {
        DType::F32 => Tensor::from_slice(&dims, &numbers(n)).unwrap(),
        DType::U8 => {
            let bytes: Vec<u8> = (0..n).map(|i| (i * 73 + 5) as u8).collect();
            Tensor::copy_from(ty.elem.clone(), dims, &bytes).unwrap()
        }
        other => panic!("no test data of type {other}"),
    }
}

/// All outputs of `graph` for the test input.
fn outputs(graph: &Graph) -> Vec<Tensor> {
    let name = graph.fact(graph.inputs()[0].into()).name.to_string();
    let options = reference::RunOptions::default();
    let results = reference::run(graph, &[(&name, input(graph))], &options).unwrap();
    results.outputs.into_iter().map(|(_, tensor)| tensor).collect()
}

/// Runs `pass` and checks that the outputs keep every bit and that a second run does nothing.
fn exact(pass: &'static dyn Pass, text: &str) -> String {
    let mut graph = graph(text);
    let before = outputs(&graph);
    let report = run(pass, &mut graph);
    graph.verify().unwrap();
    assert!(!report.patches.is_empty(), "nothing was rewritten: {:?}", report.refusals);
    for (a, b) in before.iter().zip(outputs(&graph)) {
        assert_eq!(a.dims(), b.dims());
        assert!(a.bytes() == b.bytes(), "the bits changed: {:?} {:?}", a.to_f32(), b.to_f32());
    }
    let again = run(pass, &mut graph);
    assert!(again.patches.is_empty(), "a second run rewrites again: {:?}", again.patches);
    graph.to_model().to_string()
}

/// As [`exact`], but float results may be off by rounding.
fn close(pass: &'static dyn Pass, text: &str) -> String {
    let mut graph = graph(text);
    let before = outputs(&graph);
    let report = run(pass, &mut graph);
    graph.verify().unwrap();
    assert!(!report.patches.is_empty(), "nothing was rewritten: {:?}", report.refusals);
    for (a, b) in before.iter().zip(outputs(&graph)) {
        assert_eq!(a.dims(), b.dims());
        let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
        let largest = a.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() <= 1e-5 * largest, "{a} became {b}");
        }
    }
    let again = run(pass, &mut graph);
    assert!(again.patches.is_empty(), "a second run rewrites again: {:?}", again.patches);
    graph.to_model().to_string()
}

/// Runs `pass`, which must do nothing; gives the reasons.
fn refused(pass: &'static dyn Pass, text: &str) -> String {
    let mut graph = graph(text);
    let report = run(pass, &mut graph);
    assert!(report.patches.is_empty(), "it was rewritten: {}", graph.to_model());
    report.refusals.iter().map(|r| format!("{}: {}\n", r.node, r.reason)).collect()
}

#[test]
fn unknown_passes_are_refused_with_the_list() {
    let mut graph = graph(&model("f32[2]", "%y", "%y = relu(%x)"));
    for options in [
        PipelineOptions { disable: vec!["fold_pat".into()], ..Default::default() },
        PipelineOptions { enable: vec!["fold_pat".into()], ..Default::default() },
        PipelineOptions { stop_after: Some("fold_pat".into()), ..Default::default() },
        PipelineOptions { stop_after: Some("fold_pad:9".into()), ..Default::default() },
        PipelineOptions { stop_after: Some("fold_pad:0".into()), ..Default::default() },
    ] {
        let error = requant_graph::pass::optimize(&mut graph, &options).unwrap_err().to_string();
        assert!(error.contains("fold_pa") && error.contains("fold_constants"), "{error}");
    }
}

/// Passes that ran under `options`.
fn ran(options: &PipelineOptions) -> Vec<&'static str> {
    let mut graph = graph(&model("f32[2]", "%y", "%a = identity(%x)\n%y = relu(%a)"));
    let report = requant_graph::pass::optimize(&mut graph, options).unwrap();
    report.runs.iter().map(|r| r.pass.name).collect()
}

#[test]
fn levels_choose_by_class() {
    use requant_graph::pass::{Exactness, Level};
    let all = Pipeline::default();
    let names = |allowed: &dyn Fn(Exactness) -> bool| -> Vec<&str> {
        all.infos().filter(|i| allowed(i.class)).map(|i| i.name).collect()
    };
    let at = |level| ran(&PipelineOptions { level, ..Default::default() });
    assert!(at(Level::O0).is_empty());
    assert_eq!(at(Level::O1), names(&|c| c == Exactness::Exact));
    assert_eq!(at(Level::O2), names(&|c| c <= Exactness::OneStep));
    let named = PipelineOptions {
        level: Level::O1,
        enable: vec!["fold_batch_norm".into()],
        ..Default::default()
    };
    assert!(ran(&named).contains(&"fold_batch_norm"));
    assert!(!at(Level::O1).contains(&"fold_batch_norm"));
}

#[test]
fn passes_can_be_disabled_and_the_pipeline_stopped() {
    let disabled = ran(&PipelineOptions { disable: vec!["fold_pad".into()], ..Default::default() });
    assert!(!disabled.contains(&"fold_pad") && disabled.contains(&"layout"));
    let stopped =
        |at: &str| ran(&PipelineOptions { stop_after: Some(at.into()), ..Default::default() });
    let all = ran(&PipelineOptions::default());
    let place = |n: usize| {
        all.iter().enumerate().filter(|(_, p)| **p == "remove_identity").nth(n).unwrap().0
    };
    assert_eq!(stopped("remove_identity"), all[..=place(0)]);
    assert_eq!(stopped("remove_identity:2"), all[..=place(1)]);
}

#[test]
fn patches_can_be_bisected() {
    let text = model("f32[2]", "%y", "%a = identity(%x)\n%b = identity(%a)\n%y = relu(%b)");
    for max in 0..3 {
        let mut graph = graph(&text);
        let options = PipelineOptions { max_patches: Some(max), ..Default::default() };
        let report = requant_graph::pass::optimize(&mut graph, &options).unwrap();
        assert_eq!(report.patches.len(), max.min(2));
        assert_eq!(graph.len(), 4 - max.min(2));
    }
}

/// Names a pass by what it would like to do for ever.
struct PingPong;

impl Pass for PingPong {
    fn info(&self) -> requant_graph::pass::PassInfo {
        requant_graph::pass::PassInfo {
            name: "ping_pong",
            class: requant_graph::pass::Exactness::Exact,
            about: "replaces every relu by a relu",
        }
    }

    fn run(
        &self,
        graph: &mut Graph,
        cx: &mut requant_graph::pass::PassCx<'_>,
    ) -> Result<(), requant_graph::pass::PassError> {
        loop {
            let relu = graph.outputs()[0].outlet;
            let operand = graph.operands(relu.node)[0].unwrap();
            let mut patch =
                requant_graph::Patch::new("ping_pong", requant_graph::pass::Exactness::Exact);
            let op = graph.node(relu.node).op().unwrap().clone();
            let new = patch.op("again", op, vec![Some(operand.into())]);
            patch.replace(relu, new);
            cx.apply(graph, patch)?;
        }
    }
}

#[test]
fn a_pass_that_never_rests_is_stopped() {
    let mut graph = graph(&model("f32[2]", "%y", "%y = relu(%x)"));
    let pipeline = Pipeline::new(vec![&PingPong]);
    let error = pipeline.run(&mut graph, &PipelineOptions::default()).unwrap_err().to_string();
    assert!(error.contains("ping_pong") && error.contains("did not come to rest"), "{error}");
    graph.verify().unwrap();
}
