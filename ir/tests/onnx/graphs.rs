//! The structure of graphs: order, names, lists of what is not supported, operator sets.

use super::net::{Net, graph, int, ints};
use requant_ir::import::onnx::proto::{FunctionProto, OperatorSetIdProto, StringStringEntryProto};
use requant_ir::import::onnx::{ImportError, Unsupported};
use requant_ir::{DType, ErrorKind};

const F: DType = DType::F32;

fn relu() -> Net {
    Net::new().input("x", F, &[2]).node("Relu", &["x"], &["y"], vec![]).output("y")
}

fn unsupported(net: &Net) -> Unsupported {
    match net.import() {
        Err(ImportError::Unsupported(list)) => *list,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nodes_are_sorted_and_names_made_unique() {
    let mut net = Net::new()
        .input("x", F, &[1])
        .node("Neg", &["b"], &["c"], vec![])
        .node("Abs", &["a"], &["b"], vec![])
        .node("Relu", &["x"], &["a"], vec![])
        .node("Relu", &["x"], &["d"], vec![])
        .output("c");
    for (node, name) in net.graph().node.iter_mut().zip(["n", "", "n", "Abs_1"]) {
        node.name = name.into();
    }
    let g = net.ok();
    assert_eq!(g.lines(), ["a = relu(x)", "b = abs(a)", "c = neg(b)", "d = relu(x)"]);
    let names: Vec<_> = g.0.nodes.iter().map(|n| (n.name.as_str(), n.origin.clone())).collect();
    let n = || vec!["n".to_owned()];
    assert_eq!(names, [("n_1", n()), ("Abs_1_1", vec![]), ("n", vec![]), ("Abs_1", vec![])]);
}

#[test]
fn made_names_do_not_collide_with_the_files() {
    let g = Net::new()
        .input("x", F, &[1])
        .node("Relu", &["x"], &["y/1"], vec![])
        .node("Sum", &["x", "x", "y/1"], &["y"], vec![])
        .output("y")
        .ok();
    assert_eq!(g.lines(), ["y/1 = relu(x)", "y/1_1 = add(x, x)", "y = add(y/1_1, y/1)"]);
}

#[test]
fn all_unsupported_operators_in_one_list() {
    let net = Net::new()
        .input("x", F, &[1, 1, 4, 4])
        .node("Resize", &["x"], &["a"], vec![])
        .node("Relu", &["a"], &["b"], vec![])
        .node("Resize", &["b"], &["c"], vec![])
        .node("MaxPool", &["x"], &["d"], vec![ints("kernel_shape", &[1, 1]), int("unheard_of", 1)])
        .node("org.other.Thing", &["d"], &["e"], vec![])
        .node("If", &["x"], &["f"], vec![graph("then_branch"), graph("else_branch")])
        .node("com.microsoft.QAttention", &["x"], &["g"], vec![])
        .output("c");
    let list = unsupported(&net);
    let found: Vec<_> = list
        .ops
        .iter()
        .map(|o| (o.domain.as_str(), o.op_type.as_str(), o.nodes.len(), o.reason.as_str()))
        .collect();
    let unknown = "unknown operator";
    assert_eq!(
        found,
        [
            ("", "Resize", 2, unknown),
            ("", "MaxPool", 1, "attribute `unheard_of`"),
            ("org.other", "Thing", 1, unknown),
            ("", "If", 1, unknown),
            ("com.microsoft", "QAttention", 1, unknown),
        ]
    );
    let text = list.to_string();
    assert!(text.contains("Resize (unknown operator): 2 nodes: `n_a`, `n_c`"), "{text}");
    assert!(text.contains("com.microsoft.QAttention"), "{text}");
}

#[test]
fn forms_behind_an_unsupported_operator_are_listed_too() {
    let names: Vec<String> = (0..7).map(|i| format!("r{i}")).collect();
    let mut net = Net::new().input("x", F, &[1, 1, 4, 4]);
    for name in &names {
        net = net.node("Resize", &["x"], &[name], vec![]);
    }
    let net = net
        .node("Relu", &["r0"], &["a"], vec![int("unheard_of", 1)])
        .node("MaxPool", &["a"], &["b"], vec![ints("kernel_shape", &[2, 2, 2])])
        // Fine, or not to be judged, as long as its operands are not known.
        .node("Concat", &["a", "b"], &["c"], vec![int("axis", -1)])
        .node("Reshape", &["c", "r1"], &["d"], vec![])
        .node("QLinearConv", &["d", "r1", "r2", "r3", "r4", "r5", "r6", "a"], &["e"], vec![])
        .output("e");
    let list = unsupported(&net);
    let found: Vec<_> = list.ops.iter().map(|o| (o.op_type.as_str(), o.reason.as_str())).collect();
    let resize = ("Resize", "unknown operator");
    let rest = [("Relu", "attribute `unheard_of`"), ("MaxPool", "3 spatial axes")];
    assert_eq!(found, [&[resize][..], &rest].concat());
    let text = list.to_string();
    assert!(names.iter().all(|n| text.contains(&format!("`n_{n}`"))), "{text}");
}

#[test]
fn functions_of_the_model_are_not_mistaken_for_operators() {
    let mut net = relu();
    net.0.functions.push(FunctionProto { name: "Relu".into(), domain: String::new() });
    assert_eq!(unsupported(&net).ops[0].reason, "a function that the model defines itself");
}

#[test]
fn operator_sets() {
    for version in 11..=21 {
        assert!(relu().opset(version).import().is_ok(), "{version}");
    }
    for version in [-1, 0, 1, 10, 22, 99] {
        let e = relu().opset(version).import().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.to_string().contains(&format!("version {version} of")), "{e}");
    }
    let mut none = relu();
    none.0.opset_import.clear();
    assert!(matches!(none.import().unwrap_err(), ImportError::Model { .. }));
    let mut two = relu();
    let set = two.0.opset_import[0].clone();
    two.0.opset_import.push(OperatorSetIdProto { version: 13, ..set });
    assert!(matches!(two.import().unwrap_err(), ImportError::Model { .. }));
    let mut alias = relu();
    alias.0.opset_import[0].domain = "ai.onnx".into();
    alias.graph().node[0].domain = "ai.onnx".into();
    assert!(alias.import().is_ok());
}

#[test]
fn producer_and_metadata() {
    let mut net = relu();
    net.0.producer_name = "me".into();
    net.0.producer_version = "2".into();
    let pair = StringStringEntryProto { key: "k".into(), value: "v".into() };
    net.0.metadata_props.push(pair);
    let m = net.import().unwrap();
    assert_eq!((m.producer.as_str(), m.metadata), ("me 2", vec![("k".into(), "v".into())]));
}
