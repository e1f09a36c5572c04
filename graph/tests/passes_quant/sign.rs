//! `sign::flip`.

use crate::support::{Random, graph, inputs, outputs, same_bits, text};
use requant_graph::passes::sign::flip;
use requant_graph::{CompileOptions, CompiledModel, Graph, Outlet};
use requant_ir::{DType, Tensor};
use requant_kernels::Cpu;
use requant_kernels::elementwise::{QAddConstants, qadd_constants};

/// Quantized values that are stored as `dtype`, but for the model's own inputs and outputs and
/// constants.
fn stored_as(graph: &Graph, dtype: DType) -> Vec<String> {
    let mut names = Vec::new();
    for node in graph.topo() {
        if graph.node(node).op().is_none() {
            continue;
        }
        for (slot, fact) in graph.node(node).outputs.iter().enumerate() {
            let outlet = Outlet { node, slot: slot as u16 };
            if fact.ty.dtype() == dtype && fact.ty.quant().is_some() && !graph.is_output(outlet) {
                names.push(fact.name.to_string());
            }
        }
    }
    names
}

fn flips(before: &Graph, to: DType) -> Graph {
    let from = if to == DType::U8 { DType::I8 } else { DType::U8 };
    let mut after = before.clone();
    flip(&mut after, to).unwrap();
    after.verify().unwrap();
    assert_eq!(stored_as(&after, from), Vec::<String>::new(), "{}", text(&after));
    for seed in 0..3 {
        same_bits(before, &after, seed);
    }
    after
}

const NET: &str = "const %w: s8<axis=0, s=[0.02, 0.03], z=[0, 2]>[2, 2, 2, 2] = [3, -128, 127, 5, 1, 2, 3, 4, -1, -2, -3, 9, 8, 7, 6, 5]
    const %b: s32[2] = [100, -50]
    const %k: s8<s=0.2, z=4>[2, 1, 1] = [-100, 50]
    const %v: s8<s=0.1>[2, 3] = [1, 2, 3, 4, 5, 6]
    const %pads: s64[8] = [0, 0, 1, 0, 0, 0, 0, 0]
    %q = quantize(%x) {out = s8<s=0.03, z=-9>, clamp = [-120, 99]}
    %p = pad(%q, %pads)
    %m = max_pool(%p) {kernel = [2, 2], pads = [0, 1, 0, 1]}
    %c = qconv(%m, %w, %b) {strides = [1, 1], pads = [1, 0, 0, 1], zero_folded, out = s8<s=0.1, z=20>, clamp = [-30, 90]}
    %d = qconv(%m, %w, _, %c) {strides = [1, 1], pads = [1, 0, 0, 1], zero_folded, out = s8<s=0.2, z=-3>, residual = s8<s=0.3, z=5>, residual_clamp = [-77, 88], conv_is_lhs}
    %e = qadd(%d, %k) {out = s8<s=0.2, z=1>, clamp = [-99, 101]}
    %t = lut(%e) {out = s8<s=0.1, z=0>, table = TABLE}
    %a = qpool(%t) {kernel = [2, 2], out = s8<s=0.1, z=7>}
    %r = qmean(%a) {axes = [2, 3], out = s8<s=0.05, z=7>}
    %n = qmatmul(%r, %v) {zero_folded, out = s8<s=0.1, z=-1>}
    %s = qsoftmax(%n) {axis = 1, out = s8<s=0.00390625, z=-128>}
    %y = dequantize(%s)";

fn net() -> Graph {
    let table: String = (0..256).map(|i| format!("{:02x}", (i * 37 + 11) % 256)).collect();
    graph("(%x: f32[1, 2, 5, 5]) -> (%y, %a)", &NET.replace("TABLE", &format!("hex \"{table}\"")))
}

#[test]
fn a_network_keeps_its_bits() {
    let after = flips(&net(), DType::U8);
    insta::assert_snapshot!(text(&after));
}

#[test]
fn and_back() {
    let mut unsigned = net();
    flip(&mut unsigned, DType::U8).unwrap();
    let signed = flips(&unsigned, DType::I8);
    same_bits(&net(), &signed, 7);
}

#[test]
fn inputs_and_outputs_keep_their_type() {
    let before = graph(
        "(%x: s8<s=0.1, z=3>[2, 3], %z: s8<s=0.1, z=3>[2, 3]) -> (%y, %x, %u)",
        "%y = transpose(%x) {perm = [1, 0]}
        %u = concat(%x, %z) {axis = 0}",
    );
    let after = flips(&before, DType::U8);
    insta::assert_snapshot!(text(&after));
}

#[test]
fn the_other_operand_of_a_product_is_an_activation_unless_constant() {
    let before = graph(
        "(%a: s8<s=0.1, z=3>[2, 3], %b: s8<s=0.1, z=-3>[3, 2]) -> (%y)",
        "%m = qmatmul(%a, %b) {out = s8<s=0.2, z=9>}
        %y = dequantize(%m)",
    );
    flips(&before, DType::U8);
}

#[test]
fn unknown_operators_see_what_they_saw() {
    let before = graph(
        "(%x: s8<s=0.1, z=3>[2, 3]) -> (%y, %i)",
        "%t = transpose(%x) {perm = [1, 0]}
        %r = reinterpret(%t) {out = s8<s=0.2, z=-100>}
        %y = dequantize(%r)
        %i = argmax(%r) {axis = 0}",
    );
    let mut after = before.clone();
    assert!(flip(&mut after, DType::U8).unwrap() > 0);
    after.verify().unwrap();
    for seed in 0..3 {
        same_bits(&before, &after, seed);
    }
    insta::assert_snapshot!(text(&after));
}

#[test]
fn a_bias_that_would_leave_32_bits_keeps_its_input_signed() {
    let before = graph(
        "(%x: s8<s=0.1, z=3>[1, 1, 1, 1]) -> (%y)",
        "const %w: s8<s=0.1>[1, 1, 1, 1] = [-100]
        const %b: s32[1] = [2147480000]
        %t = transpose(%x) {perm = [0, 1, 3, 2]}
        %c = qconv(%t, %w, %b) {strides = [1, 1], zero_folded, out = s8<s=1000000, z=0>}
        %y = transpose(%c) {perm = [0, 1, 3, 2]}",
    );
    let mut after = before.clone();
    assert!(flip(&mut after, DType::U8).unwrap() > 0);
    insta::assert_snapshot!(text(&after));
    let elem = before.fact(before.inputs()[0].into()).ty.elem.clone();
    for stored in [0u8, 5, 127] {
        let x = Tensor::copy_from(elem.clone(), vec![1; 4], &[stored]).unwrap();
        let inputs = [("x".to_owned(), x)];
        assert_eq!(outputs(&before, &inputs), outputs(&after, &inputs));
    }
}

#[test]
fn nothing_to_do() {
    let before = graph("(%x: f32[2]) -> (%y)", "%y = exp(%x)");
    let mut after = before.clone();
    assert_eq!(flip(&mut after, DType::U8).unwrap(), 0);
    assert_eq!(flip(&mut after, DType::F32).unwrap(), 0);
    assert_eq!(text(&before), text(&after));
    let inputs = inputs(&before, &mut Random::new(1));
    assert_eq!(outputs(&before, &inputs), outputs(&after, &inputs));
}

/// Scales and zero points of two s8 operands and their sum, for which an addition made for the flipped zero points
/// would round some pair of integers otherwise.
fn near_ties() -> Vec<[(f32, i32); 3]> {
    let mut random = Random::new(5);
    let mut side = || (0.01 + random.below(1000) as f32 / 3000.0, random.below(256) as i32 - 128);
    let differs = |[(sa, za), (sb, zb), (sy, zy)]: &[(f32, i32); 3]| {
        let k = qadd_constants(*sa, *za, *sb, *zb, *sy, *zy);
        let flipped = qadd_constants(*sa, za + 128, *sb, zb + 128, *sy, zy + 128);
        let add = |k: &QAddConstants, a: i32, b: i32| {
            (a as f32).mul_add(k.ra, (b as f32).mul_add(k.rb, k.c)).round_ties_even()
        };
        (0..1 << 16).any(|i| {
            let (a, b) = (i / 256 - 128, i % 256 - 128);
            let y = add(&k, a, b);
            y.abs() <= 127.0 && y != add(&flipped, a + 128, b + 128) - 128.0
        })
    };
    let cases: Vec<_> =
        (0..300).map(|_| [side(), side(), side()]).filter(differs).take(8).collect();
    assert!(!cases.is_empty(), "no case would show a wrong flip");
    cases
}

/// All pairs of s8, as operands of one shape.
fn all_pairs(graph: &Graph) -> Vec<(String, Tensor)> {
    let fill = |of: fn(usize) -> usize| (0..1 << 16).map(|i| of(i) as u8).collect::<Vec<_>>();
    [("a", fill(|i| i / 256)), ("b", fill(|i| i % 256))]
        .into_iter()
        .zip(graph.inputs())
        .map(|((name, bytes), &input)| {
            let elem = graph.fact(input.into()).ty.elem.clone();
            (name.to_owned(), Tensor::copy_from(elem, vec![1, 1, 256, 256], &bytes).unwrap())
        })
        .collect()
}

#[test]
fn near_ties_of_additions_round_as_before() {
    for [(sa, za), (sb, zb), (sy, zy)] in near_ties() {
        let out = format!("out = s8<s={sy:e}, z={zy}>");
        let own = format!("s8<s={sa:e}, z={za}>");
        let sum = format!("%s = qadd(%t, %u) {{{out}}}");
        // With a zero point of 0 and weights of 1 the convolution's own result is its input.
        let fused = format!(
            "const %w: s8<s=1>[1, 1, 1, 1] = [1]
            %c = qconv(%t, %w, _, %u) {{strides = [1, 1], {out}, residual = {own}, conv_is_lhs}}
            %s = transpose(%c) {{perm = [0, 1, 2, 3]}}"
        );
        for body in [sum, fused] {
            let before = graph(
                &format!(
                    "(%a: {own}[1, 1, 256, 256], %b: s8<s={sb:e}, z={zb}>[1, 1, 256, 256]) -> (%y)"
                ),
                &format!(
                    "%t = transpose(%a) {{perm = [0, 1, 2, 3]}}
                    %u = transpose(%b) {{perm = [0, 1, 2, 3]}}
                    {body}
                    %y = transpose(%s) {{perm = [0, 1, 2, 3]}}"
                ),
            );
            let mut after = before.clone();
            assert!(flip(&mut after, DType::U8).unwrap() > 0);
            let inputs = all_pairs(&before);
            let want = outputs(&before, &inputs);
            assert_eq!(want, outputs(&after, &inputs), "{}", text(&after));
            for isa in Cpu::available() {
                let cpu = Cpu::with_isa(isa).unwrap();
                let options = CompileOptions { cpu, ..CompileOptions::default() };
                let model = CompiledModel::compile(before.clone(), &options).unwrap();
                let named: Vec<_> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
                let got = model.session().run(&named).unwrap();
                assert!(
                    got.iter().map(|(_, t)| t).eq(want.iter().map(|(_, t)| t)),
                    "{isa}: {}",
                    text(&before)
                );
            }
        }
    }
}

#[test]
fn sums_of_both_types_keep_what_they_are_defined_on() {
    let net = |out: &str| {
        graph(
            "(%a: s8<s=0.1, z=3>[2, 3], %b: u8<s=0.1, z=3>[2, 3]) -> (%y, %z)",
            &format!(
                "%s = qadd(%a, %b) {{{out}}}
                %p = qmul(%s, %b) {{{out}}}
                %y = dequantize(%s)
                %z = dequantize(%p)"
            ),
        )
    };
    let signed = flips(&net("out = s8<s=0.2, z=9>, clamp = [-99, 101]"), DType::U8);
    insta::assert_snapshot!(text(&signed));
    let unsigned = flips(&net("out = u8<s=0.2, z=9>"), DType::U8);
    assert!(!text(&unsigned).contains("flipped"));
    assert!(text(&flips(&unsigned, DType::I8)).contains("flipped"));
}
