//! `fuse_lut`.

use crate::support::{graph, mnemonics, refuses, run, same_bits, text};
use requant_graph::passes::FuseLut;
use requant_graph::{Graph, NodeKind};
use requant_ir::Op;

/// A function of all 256 values of an input type.
fn function(x: &str, body: &str, y: &str) -> Graph {
    graph(
        &format!("(%x: {x}[4, 64]) -> (%y)"),
        &format!("%d = dequantize(%x)\n{body}\n%y = quantize(%f) {{out = {y}}}"),
    )
}

fn becomes_a_table(before: &Graph) -> Graph {
    let (after, _) = run(before, &[&FuseLut]);
    assert_eq!(mnemonics(&after), ["lut"]);
    for seed in 0..4 {
        same_bits(before, &after, seed);
    }
    after
}

#[test]
fn the_stored_byte_of_the_input_is_the_index() {
    let after = becomes_a_table(&function("s8<s=1>", "%f = neg(%d)", "u8<s=1, z=128>"));
    let table = after.topo().into_iter().find_map(|n| match &after.node(n).kind {
        NodeKind::Op(Op::Lut { table, .. }) => Some(table.clone()),
        _ => None,
    });
    let table = table.unwrap();
    for q in i8::MIN..=i8::MAX {
        let expected = (128 - i32::from(q)).clamp(0, 255);
        assert_eq!(i32::from(table[usize::from(q as u8)]), expected, "{q}");
    }
    insta::assert_snapshot!(text(&after));
}

#[test]
fn functions_of_one_value() {
    for x in ["s8<s=0.05, z=-3>", "u8<s=0.05, z=130>"] {
        for y in ["s8<s=0.02, z=5>", "u8<s=0.02, z=100>"] {
            for body in [
                "%f = hard_swish(%d)",
                "%f = sigmoid(%d)",
                "%f = clip(%d) {min = -1, max = 2}",
                "%a = leaky_relu(%d) {alpha = 0.1}
                %f = tanh(%a)",
                "%s = sigmoid(%d)
                %f = mul(%d, %s)",
                "const %k: f32[1] = [3]
                const %l: f32[] = [0.5]
                %a = add(%k, %d)
                %f = mul(%a, %l)",
                "const %q: s8<s=0.5>[] = [3]
                %k = dequantize(%q)
                %f = sub(%k, %d)",
                "const %k: f32[] = [0.25]
                %f = prelu(%d, %k)",
            ] {
                becomes_a_table(&function(x, body, y));
            }
        }
    }
}

#[test]
fn changes_of_parameters() {
    becomes_a_table(&graph(
        "(%x: s8<s=0.05, z=3>[4, 64]) -> (%y)",
        "%d = dequantize(%x)
        %y = quantize(%d) {out = u8<s=0.07, z=100>, clamp = [7, 250]}",
    ));
    becomes_a_table(&graph(
        "(%x: s8<s=0.05, z=3>[4, 64]) -> (%y)",
        "%y = requantize(%x) {out = u8<s=0.07, z=100>, clamp = [7, 250]}",
    ));
}

#[test]
fn tables_of_tables() {
    becomes_a_table(&graph(
        "(%x: s8<s=0.05, z=3>[4, 64]) -> (%y)",
        "%d = dequantize(%x)
        %e = exp(%d)
        %q = quantize(%e) {out = u8<s=0.07, z=100>}
        %f = dequantize(%q)
        %g = sqrt(%f)
        %y = quantize(%g) {out = s8<s=0.02, z=0>}",
    ));
}

#[test]
fn intermediate_values_may_be_read_elsewhere() {
    let before = graph(
        "(%x: s8<s=0.05, z=3>[4, 64]) -> (%y, %e)",
        "%d = dequantize(%x)
        %e = exp(%d)
        %y = quantize(%e) {out = u8<s=0.07, z=100>}",
    );
    let (after, _) = run(&before, &[&FuseLut]);
    assert_eq!(mnemonics(&after), ["dequantize", "exp", "lut"]);
    same_bits(&before, &after, 1);
}

#[test]
fn is_no_match() {
    for (head, body) in [
        (
            "(%x: s8<s=0.05>[2, 2], %z: s8<s=0.05>[2, 2]) -> (%y)",
            "%e = dequantize(%z)\n%f = sub(%d, %e)",
        ),
        ("(%x: s8<s=0.05>[2, 2], %e: f32[2, 2]) -> (%y)", "%f = sub(%d, %e)"),
        ("(%x: s8<s=0.05>[2, 2]) -> (%y)", "const %e: f32[2] = [1, 2]\n%f = sub(%d, %e)"),
        ("(%x: s8<s=0.05>[2, 2]) -> (%y)", "const %e: f32[1, 1, 1] = [1]\n%f = sub(%d, %e)"),
        ("(%x: s8<s=0.05>[2, 2]) -> (%y)", "%f = transpose(%d) {perm = [1, 0]}"),
    ] {
        let before = graph(
            head,
            &format!("%d = dequantize(%x)\n{body}\n%y = quantize(%f) {{out = s8<s=0.1>}}"),
        );
        let (after, report) = run(&before, &[&FuseLut]);
        assert_eq!(text(&before), text(&after));
        assert!(report.refusals.is_empty(), "{report:?}");
    }
}

#[test]
fn refusals() {
    refuses(&function("s16<s=0.05>", "%f = exp(%d)", "s8<s=0.1>"), &FuseLut, "the operand is s16");
    refuses(&function("s32<s=0.05>", "%f = exp(%d)", "s8<s=0.1>"), &FuseLut, "the operand is s32");
    refuses(&function("s8<s=0.05>", "%f = exp(%d)", "s16<s=0.1>"), &FuseLut, "the result is s16");
    refuses(
        &function("s8<axis=0, s=[1, 2, 3, 4], z=[0, 0, 0, 0]>", "%f = exp(%d)", "s8<s=0.1>"),
        &FuseLut,
        "the operand has more than one scale",
    );
    let long: String = (0..65).map(|i| format!("%e{} = neg(%e{i})\n", i + 1)).collect();
    let long = format!("%e0 = abs(%d)\n{long}%f = exp(%e65)");
    refuses(&function("s8<s=0.05>", &long, "s8<s=0.1>"), &FuseLut, "more than 64 operators");
}
