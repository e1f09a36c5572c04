//! Random nets through the whole pipeline, and the comparison that judges it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use requant_graph::pass::{Level, Pipeline, optimize};
use requant_graph::passes::Layout;
use requant_graph::testing::{assert_equivalent, case, check_equivalent, float_case, qdq_case};
use requant_graph::{Exactness, Graph, Patch, PipelineOptions};
use requant_ir::{BinaryKind, ElemType, Model, Op, Tensor};
use std::collections::BTreeMap;

fn optimized(graph: &Graph, level: Level) -> Graph {
    let mut after = graph.clone();
    let options = PipelineOptions { level, ..PipelineOptions::default() };
    optimize(&mut after, &options).unwrap_or_else(|e| panic!("{e:?}\n{}", graph.to_model()));
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn exact_passes_keep_every_bit(case in case()) {
        let after = optimized(&case.graph, Level::O1);
        assert_equivalent(&case.graph, &after, &case.feeds(), Exactness::Exact);
    }

    #[test]
    fn float_nets_stay_close(case in float_case()) {
        let after = optimized(&case.graph, Level::O2);
        assert_equivalent(&case.graph, &after, &case.feeds(), Exactness::OneStep);
    }

    /// Without the layout pass values keep their names, so that steps can be compared one by one; what it
    /// does afterwards is exact.
    #[test]
    fn quantized_nets_stay_within_a_step(case in qdq_case()) {
        let mut after = case.graph.clone();
        let options = PipelineOptions { disable: vec!["layout".to_owned()], ..Default::default() };
        optimize(&mut after, &options).unwrap();
        assert_equivalent(&case.graph, &after, &case.feeds(), Exactness::OneStep);
        let mut channels_last = after.clone();
        let exact = PipelineOptions { level: Level::O1, ..Default::default() };
        Pipeline::new(vec![&Layout]).run(&mut channels_last, &exact).unwrap();
        assert_equivalent(&after, &channels_last, &case.feeds(), Exactness::Exact);
    }

    #[test]
    fn models_of_nets_survive(case in case()) {
        case.graph.verify().unwrap();
        let text = case.graph.to_model().to_text(&requant_ir::text::TextOptions::full());
        let again = Graph::from_model(&Model::parse_text(&text).unwrap()).unwrap();
        assert_equivalent(&case.graph, &again, &case.feeds(), Exactness::Exact);
    }
}

#[test]
fn nets_have_what_passes_look_for() {
    let mut runner = TestRunner::deterministic();
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    for _ in 0..400 {
        let case = case().new_tree(&mut runner).unwrap().current();
        for id in case.graph.topo() {
            if let Some(op) = case.graph.node(id).op() {
                *counts.entry(op.mnemonic()).or_default() += 1;
            }
        }
    }
    let wanted = "conv batch_norm relu clip sigmoid add mul concat max_pool average_pool \
                  reduce_mean pad transpose reshape identity softmax quantize dequantize gemm";
    for op in wanted.split_whitespace() {
        assert!(counts.get(op).is_some_and(|&n| n >= 10), "{op} is rare: {counts:?}");
    }
}

/// `y = dequantize(quantize(x · c))`
fn scaled(c: f32) -> Graph {
    let text = format!(
        "requant 1\ngraph main(%x: f32[3]) -> (%y) {{\n  const %c: f32[] = [{c:?}]\n  \
         %m = mul(%x, %c)\n  %q = quantize(%m) {{out = u8<s=1, z=0>}}\n  %y = dequantize(%q)\n}}\n"
    );
    Graph::from_model(&Model::parse_text(&text).unwrap()).unwrap()
}

/// [`scaled`] by 1, with `offset` added before the quantization.
fn shifted(offset: f32) -> Graph {
    let mut graph = scaled(1.0);
    let (m, q) = (graph.find("m").unwrap(), graph.find("q").unwrap());
    let mut patch = Patch::new("test", Exactness::OneStep);
    let c = patch.constant("offset", Tensor::scalar(offset));
    let sum = patch.op("sum", Op::Binary(BinaryKind::Add), vec![Some(m.into()), Some(c)]);
    let out = ElemType::per_tensor(requant_ir::DType::U8, 1.0, 0);
    let new = patch.op("q", Op::Quantize { out, clamp: None }, vec![Some(sum)]);
    patch.replace(q, new);
    graph.apply(patch).unwrap();
    graph
}

#[test]
fn differences_are_found() {
    let x = Tensor::from_slice(&[3], &[1.0f32, 2.0, 10.0]).unwrap();
    let check = |a: &Graph, b: &Graph, class| check_equivalent(a, b, &[("x", x.clone())], class);
    let one = scaled(1.0);
    for class in [Exactness::Exact, Exactness::OneStep, Exactness::Approximate] {
        check(&one, &scaled(1.0), class).unwrap();
    }
    let error = check(&one, &scaled(1.05), Exactness::OneStep).unwrap_err();
    assert!(error.contains("`c`"), "{error}");
    let error = check(&one, &scaled(1.06), Exactness::Exact).unwrap_err();
    assert!(error.contains("`y`"), "{error}");
    check(&one, &scaled(3.0), Exactness::Approximate).unwrap();

    check(&one, &shifted(1.0), Exactness::OneStep).unwrap();
    assert!(check(&one, &shifted(1.0), Exactness::Exact).is_err());
    let error = check(&one, &shifted(2.0), Exactness::OneStep).unwrap_err();
    assert!(error.contains("`q`"), "{error}");
}
