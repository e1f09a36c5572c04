//! The graph façade: conversion, order, patches and their refusals, binding of shapes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use requant_graph::{Exactness, Graph, GraphError, NodeKind, Outlet, Patch, Src};
use requant_ir::text::TextOptions;
use requant_ir::{BinaryKind, Dim, Model, Op, Tensor, UnaryKind};

fn graph(head: &str, body: &str) -> Graph {
    let text = format!("requant 1\ngraph main{head} {{\n{body}\n}}\n");
    Graph::from_model(&Model::parse_text(&text).unwrap()).unwrap()
}

fn text(graph: &Graph) -> String {
    graph.to_model().to_text(&TextOptions::full())
}

fn patch() -> Patch {
    Patch::new("test", Exactness::Exact)
}

fn relu() -> Op {
    Op::Unary(UnaryKind::Relu)
}

fn value(graph: &Graph, name: &str) -> Outlet {
    graph.find(name).unwrap()
}

/// `y = relu(neg(x)) + neg(x)`
fn diamond() -> Graph {
    graph("(%x: f32[2, 3]) -> (%y)", "  %n = neg(%x)\n  %r = relu(%n)\n  %y = add(%r, %n)")
}

#[test]
fn models_survive_the_graph() {
    let body = "  const %w: f32[3] = [1, 2, 3]\n  %n = neg(%x) \"first\" from [\"A\", \"B\"]\n  %y = mul(%n, %w)";
    let graph = graph("(%x: f32[n, 3]) -> (%y, %n)", body);
    let text = text(&graph);
    let again = Graph::from_model(&Model::parse_text(&text).unwrap()).unwrap();
    assert_eq!(text, self::text(&again));
    let model = graph.to_model();
    let names: Vec<_> = model.graphs[0].nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["first", "y"]);
    assert_eq!(model.graphs[0].nodes[0].origin, ["A", "B"]);
    assert_eq!(graph.outputs().iter().map(|o| &*o.name).collect::<Vec<_>>(), ["y", "n"]);
}

#[test]
fn an_input_can_be_an_output() {
    let graph = graph("(%x: f32[2]) -> (%x)", "");
    assert!(graph.is_output(graph.inputs()[0].into()));
    assert_eq!(graph.to_model().graphs[0].outputs, graph.to_model().graphs[0].inputs);
}

#[test]
fn broken_models_are_errors() {
    let good = diamond().to_model();
    let mut twice = good.clone();
    twice.graphs.push(good.graphs[0].clone());
    assert!(matches!(Graph::from_model(&twice), Err(GraphError::Subgraphs { count: 2 })));
    assert!(matches!(Graph::from_model(&Model::default()), Err(GraphError::NoGraph)));

    let mut order = good.clone();
    order.graphs[0].nodes.reverse();
    let error = Graph::from_model(&order).unwrap_err();
    assert!(matches!(error, GraphError::Undefined { .. }), "{error}");

    let mut id = good.clone();
    id.graphs[0].nodes[0].inputs[0] = Some(requant_ir::ValueId(99));
    assert!(matches!(Graph::from_model(&id), Err(GraphError::UnknownValue { id: 99, .. })));

    let mut same = good.clone();
    same.graphs[0].nodes[1].outputs = same.graphs[0].nodes[0].outputs.clone();
    assert!(Graph::from_model(&same).is_err());

    let mut name = good.clone();
    name.graphs[0].nodes[1].name = name.graphs[0].nodes[0].name.clone();
    assert!(matches!(Graph::from_model(&name), Err(GraphError::DuplicateName { .. })));

    let mut untyped = good.clone();
    untyped.graphs[0].values[0].ty = None;
    assert!(matches!(Graph::from_model(&untyped), Err(GraphError::UntypedInput { .. })));

    let mut declared = good;
    let y = declared.graphs[0].outputs[0];
    declared.graphs[0].values[y.index()].ty =
        Some(requant_ir::TensorType::fixed(requant_ir::DType::F32, &[2, 4]));
    let error = Graph::from_model(&declared).unwrap_err().to_string();
    assert!(error.contains("`y`") && error.contains("[2, 4]"), "{error}");
}

#[test]
fn one_value_can_be_read_twice() {
    let graph = graph("(%x: f32[2]) -> (%y)", "  %y = mul(%x, %x)");
    let x = value(&graph, "x");
    assert_eq!(graph.consumers(x).iter().map(|c| c.1).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(graph.sole_consumer(x), None);
    let y = value(&graph, "y");
    assert_eq!(graph.operands(y.node)[..], [Some(x), Some(x)]);
}

#[test]
fn operands_keep_their_slots() {
    let body = "  const %m: f32[] = [0]\n  const %p: s64[2] = [1, 1]\n  const %a: s64[1] = [0]\n  %y = pad(%x, %p, _, %a)\n  %z = sub(%m, %x)";
    let graph = graph("(%x: f32[2]) -> (%y, %z)", body);
    let operands = graph.operands(value(&graph, "y").node);
    assert_eq!(operands.len(), 4);
    assert!(operands[2].is_none() && operands[3].is_some());
    let sub = graph.operands(value(&graph, "z").node);
    assert_eq!(sub[1], Some(value(&graph, "x")));
}

#[test]
fn order_is_that_of_the_source_after_patches_too() {
    let names = |graph: &Graph| -> Vec<String> {
        graph.topo().iter().map(|&i| graph.node(i).name.to_string()).collect()
    };
    let body = "  %a = neg(%x)\n  %b = abs(%x)\n  %c = exp(%x)\n  %y = add(%b, %c)";
    let mut graph = graph("(%x: f32[2]) -> (%y, %a)", body);
    assert_eq!(names(&graph), ["x", "a", "b", "c", "y"]);
    for (old, new) in [("b", "b2"), ("a", "a2"), ("b", "b3"), ("c", "c2")] {
        let old = value(&graph, old);
        let x = value(&graph, "x");
        let mut p = patch();
        let src = p.op(new, relu(), vec![Some(x.into())]);
        p.replace(old, src);
        graph.apply(p).unwrap();
        graph.verify().unwrap();
    }
    assert_eq!(names(&graph), ["x", "a2", "b3", "c2", "y"]);
}

#[test]
fn a_patch_takes_over_names_and_origins() {
    let mut graph = diamond();
    let (n, r, y) = (value(&graph, "n"), value(&graph, "r"), value(&graph, "y"));
    let x = graph.operands(n.node)[0].unwrap();
    let mut p = patch();
    let c = p.constant("r", Tensor::from_slice(&[3], &[1.0f32, 2.0, 3.0]).unwrap());
    let first = p.op("n", Op::Binary(BinaryKind::Mul), vec![Some(x.into()), Some(c)]);
    let second = p.op("fused", relu(), vec![Some(first)]);
    p.replace(y, second);
    assert_eq!(p.replaced().collect::<Vec<_>>(), [y]);
    let _ = r;
    let applied = graph.apply(p).unwrap();
    graph.verify().unwrap();
    assert_eq!((applied.before, applied.after), (4, 4));
    let fused = graph.node(applied.nodes[2].unwrap());
    assert_eq!((&*fused.name, &*fused.outputs[0].name), ("fused", "y"));
    assert_eq!(fused.origin.iter().map(|o| &**o).collect::<Vec<_>>(), ["n", "r", "y"]);
    assert_eq!(&*graph.outputs()[0].name, "y");
    // A name stands for one value: those of values that are gone are not given to others.
    assert!(graph.find("n").is_none() && graph.find("r").is_none());
    assert_eq!(&*graph.node(applied.nodes[1].unwrap()).name, "n");
}

#[test]
fn a_node_can_be_put_behind_a_value() {
    let mut graph = diamond();
    let n = value(&graph, "n");
    let mut p = patch();
    let behind = p.op("behind", relu(), vec![Some(n.into())]);
    p.replace(n, behind);
    let id = graph.apply(p).unwrap().nodes[0].unwrap();
    graph.verify().unwrap();
    assert_eq!(graph.consumers(n), [(id, 0)]);
    assert_eq!(value(&graph, "n"), id.into());
    assert_eq!(graph.consumers(id.into()).len(), 2);
    // Behind an input, the input keeps its name.
    let x = value(&graph, "x");
    let mut p = patch();
    let behind = p.op("x", relu(), vec![Some(x.into())]);
    p.replace(x, behind);
    let id = graph.apply(p).unwrap().nodes[0].unwrap();
    graph.verify().unwrap();
    assert_eq!(&*graph.fact(x).name, "x");
    assert_eq!(&*graph.fact(id.into()).name, "x.1");
}

#[test]
fn a_value_can_be_replaced_by_one_that_is_there() {
    let mut graph = graph("(%x: f32[2]) -> (%y, %z)", "  %y = identity(%x)\n  %z = neg(%y)");
    let (x, y) = (value(&graph, "x"), value(&graph, "y"));
    let mut p = patch();
    p.replace(y, x.into());
    let applied = graph.apply(p).unwrap();
    graph.verify().unwrap();
    assert_eq!(applied.after, 2);
    let names: Vec<_> = graph.outputs().iter().map(|o| (&*o.name, o.outlet == x)).collect();
    assert_eq!(names, [("y", true), ("z", false)]);
    // As a model the output needs a copy to have its name.
    let model = graph.to_model();
    let outputs: Vec<_> = model.graphs[0]
        .outputs
        .iter()
        .map(|o| model.graphs[0].values[o.index()].name.as_str())
        .collect();
    assert_eq!(outputs, ["y", "z"]);
    let again = Graph::from_model(&model).unwrap();
    assert!(matches!(&again.node(value(&again, "y").node).kind, NodeKind::Op(Op::Identity)));
}

#[test]
fn shared_nodes_and_outputs_stay() {
    let mut graph = diamond();
    let (n, r) = (value(&graph, "n"), value(&graph, "r"));
    let mut p = patch();
    let new = p.op("r2", Op::Unary(UnaryKind::Abs), vec![Some(n.into())]);
    p.replace(r, new);
    graph.apply(p).unwrap();
    assert!(graph.find_node("n").is_some() && graph.find_node("r").is_none());
    assert_eq!(graph.collect_garbage(), 0);
    graph.verify().unwrap();
}

#[test]
fn unused_new_nodes_are_not_kept() {
    let mut graph = diamond();
    let before = text(&graph);
    let n = value(&graph, "n");
    let mut p = patch();
    p.op("unused", relu(), vec![Some(n.into())]);
    let applied = graph.apply(p).unwrap();
    assert_eq!(applied.nodes, [None]);
    assert_eq!(text(&graph), before);
    graph.verify().unwrap();
}

#[test]
fn garbage_is_collected() {
    let body = "  const %c: f32[2] = [1, 2]\n  %a = neg(%x)\n  %b = add(%a, %c)\n  %y = relu(%x)";
    let mut graph = graph("(%x: f32[2], %unread: f32[1]) -> (%y)", body);
    assert_eq!(graph.collect_garbage(), 3);
    graph.verify().unwrap();
    assert_eq!(graph.inputs().len(), 2);
}

/// Applies a patch that must be refused and checks that nothing changed.
fn refused(graph: &mut Graph, patch: Patch) -> GraphError {
    let (before, debug) = (text(graph), format!("{graph:?}"));
    let error = graph.apply(patch).unwrap_err();
    assert_eq!(text(graph), before);
    assert_eq!(format!("{graph:?}"), debug);
    graph.verify().unwrap();
    error
}

#[test]
fn patches_that_make_a_cycle_are_refused() {
    let mut graph = diamond();
    let (n, y) = (value(&graph, "n"), value(&graph, "y"));
    let mut p = patch();
    let new = p.op("loop", relu(), vec![Some(y.into())]);
    p.replace(n, new);
    let error = refused(&mut graph, p);
    assert!(matches!(error, GraphError::PatchCycle { .. }), "{error}");
    let mut p = patch();
    p.replace(n, y.into());
    assert!(matches!(refused(&mut graph, p), GraphError::PatchCycle { .. }));
}

#[test]
fn patches_may_read_what_the_replaced_value_does_not_depend_on() {
    let body = "  %a = neg(%x)\n  %b = abs(%x)\n  %y = add(%a, %b)";
    let mut graph = graph("(%x: f32[2]) -> (%y)", body);
    let (a, b) = (value(&graph, "a"), value(&graph, "b"));
    let mut p = patch();
    let new = p.op("a2", relu(), vec![Some(b.into())]);
    p.replace(a, new);
    graph.apply(p).unwrap();
    graph.verify().unwrap();
}

#[test]
fn patches_that_change_a_type_are_refused() {
    let mut graph = diamond();
    let (x, n) = (value(&graph, "x"), value(&graph, "n"));
    let mut p = patch();
    let cast = p.op("c", Op::Cast { to: requant_ir::DType::F16 }, vec![Some(x.into())]);
    p.replace(n, cast);
    let error = refused(&mut graph, p);
    assert!(matches!(error, GraphError::PatchType { .. }), "{error}");
    assert!(error.to_string().contains("`n`"), "{error}");
    let mut p = patch();
    let turned = p.op("t", Op::Transpose { perm: vec![1, 0] }, vec![Some(x.into())]);
    p.replace(n, turned);
    assert!(matches!(refused(&mut graph, p), GraphError::PatchType { .. }));
}

#[test]
fn patches_that_refer_to_nothing_are_refused() {
    let mut graph = diamond();
    let (x, n, r) = (value(&graph, "x"), value(&graph, "n"), value(&graph, "r"));
    let mut forward = patch();
    forward.op("a", relu(), vec![Some(Src::New(1, 0))]);
    forward.op("b", relu(), vec![Some(x.into())]);
    let mut slot = patch();
    slot.op("a", relu(), vec![Some(Outlet { node: x.node, slot: 1 }.into())]);
    let mut new = patch();
    new.replace(n, Src::New(0, 0));
    let mut twice = patch();
    twice.replace(n, x.into());
    twice.replace(n, x.into());
    let mut chain = patch();
    chain.replace(n, x.into());
    chain.replace(r, n.into());
    for p in [forward, slot, new, twice, chain] {
        let error = refused(&mut graph, p);
        assert!(matches!(error, GraphError::PatchReference { .. }), "{error}");
    }
    let mut operands = patch();
    let bad = operands.op("bad", Op::MatMul, vec![Some(x.into()), Some(n.into())]);
    operands.replace(n, bad);
    let error = refused(&mut graph, operands);
    assert!(matches!(&error, GraphError::Infer { node, .. } if node == "bad"), "{error}");
}

#[test]
fn what_becomes_known_is_inferred_downstream() {
    let body = "  %s = shape(%z)\n  %r = reshape(%x, %s)\n  %y = neg(%r)";
    let mut graph = graph("(%x: f32[2, 6], %z: f32[*]) -> (%y)", body);
    assert_eq!(graph.fact(value(&graph, "y")).ty.dims, None);
    let s = value(&graph, "s");
    let mut p = patch();
    let c = p.constant("s", Tensor::from_slice(&[2], &[4i64, 3]).unwrap());
    p.replace(s, c);
    // The shape's extent was not known: a constant of any length fits.
    graph.apply(p).unwrap();
    graph.verify().unwrap();
    assert_eq!(graph.fact(value(&graph, "y")).ty.fixed_dims(), Some(vec![4, 3]));
    // A value that contradicts what reads it is refused.
    let mut again = self::graph("(%x: f32[2, 6], %z: f32[*]) -> (%y)", body);
    let s = value(&again, "s");
    let mut p = patch();
    let c = p.constant("s", Tensor::from_slice(&[2], &[5i64, 3]).unwrap());
    p.replace(s, c);
    assert!(matches!(refused(&mut again, p), GraphError::Infer { node, .. } if node == "r"));
}

#[test]
fn binding_sets_symbols_everywhere() {
    let body = "  %c = concat(%a, %b) {axis = 1}\n  %y = reduce_sum(%c) {axes = [1]}";
    let graph = graph("(%a: f32[n, k], %b: f32[n, 2]) -> (%y)", body);
    assert_eq!(
        graph.fact(value(&graph, "c")).ty.dims,
        Some(vec![Dim::Symbol("n".into()), Dim::Unknown])
    );
    let bound = graph.bind(&[("a", &[5, 3])]).unwrap();
    bound.verify().unwrap();
    let dims = |name| bound.fact(value(&bound, name)).ty.fixed_dims();
    assert_eq!((dims("b"), dims("c")), (Some(vec![5, 2]), Some(vec![5, 5])));
    let error = graph.bind(&[("a", &[5, 3]), ("b", &[4, 2])]).unwrap_err();
    assert!(matches!(error, GraphError::Symbol { first: 5, second: 4, .. }), "{error}");
    assert!(matches!(graph.bind(&[("q", &[1])]), Err(GraphError::NoInput { .. })));
    for shape in [&[5][..], &[5, 3, 1], &[usize::MAX, usize::MAX]] {
        assert!(matches!(graph.bind(&[("a", shape)]), Err(GraphError::InputShape { .. })));
    }
    assert!(matches!(graph.bind(&[("b", &[5, 3])]), Err(GraphError::InputShape { .. })));
}
