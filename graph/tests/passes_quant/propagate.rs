//! `propagate_qdq`.

use crate::support::{graph, mnemonics, refuses, run, same_bits, text};
use requant_graph::passes::PropagateQdq;

#[test]
fn a_chain_of_movements_stays_in_8_bits() {
    let before = graph(
        "(%x: f32[batch, 3, 4, 4]) -> (%y)",
        "const %shape: s64[2] = [-1, 12]
        %q0 = quantize(%x) {out = s8<s=0.04, z=-128>}
        %d0 = dequantize(%q0)
        %p = max_pool(%d0) {kernel = [2, 2], strides = [2, 2], pads = [1, 1, 0, 0]}
        %q1 = quantize(%p) {out = s8<s=0.04, z=-128>}
        %d1 = dequantize(%q1)
        %t = transpose(%d1) {perm = [0, 2, 3, 1]}
        %q2 = quantize(%t) {out = s8<s=0.04, z=-128>}
        %d2 = dequantize(%q2)
        %r = reshape(%d2, %shape)
        %q3 = quantize(%r) {out = s8<s=0.04, z=-128>}
        %y = dequantize(%q3)",
    );
    let (after, _) = run(&before, &[&PropagateQdq]);
    assert_eq!(mnemonics(&after), ["quantize", "max_pool", "transpose", "reshape", "dequantize"]);
    insta::assert_snapshot!(text(&after));
    same_bits(&before, &after, 1);
}

#[test]
fn quantization_goes_up_before_the_reshape_of_a_mean() {
    let before = graph(
        "(%x: u8<s=0.02, z=3>[1, 8, 3, 3]) -> (%y)",
        "const %shape: s64[2] = [-1, 8]
        %d = dequantize(%x)
        %m = reduce_mean(%d) {axes = [2, 3], keep_dims}
        %r = reshape(%m, %shape)
        %y = quantize(%r) {out = u8<s=0.017, z=0>}",
    );
    let (after, _) = run(&before, &[&PropagateQdq]);
    assert_eq!(mnemonics(&after), ["dequantize", "reduce_mean", "quantize", "reshape"]);
    insta::assert_snapshot!(text(&after));
    same_bits(&before, &after, 2);
}

#[test]
fn all_movements_let_quantization_through() {
    let before = graph(
        "(%x: s8<s=0.05, z=7>[2, 4, 3]) -> (%a, %b, %c, %e, %f, %g)",
        "const %starts: s64[1] = [1]
        const %ends: s64[1] = [3]
        const %axes: s64[1] = [1]
        const %wide: s64[3] = [2, 4, 3]
        const %repeats: s64[3] = [1, 2, 1]
        const %pads: s64[6] = [0, 1, 0, 0, 0, 2]
        const %index: s64[1] = [1]
        %d = dequantize(%x)
        %s = slice(%d, %starts, %ends, %axes)
        %a = quantize(%s) {out = s8<s=0.05, z=7>}
        %p, %q = split(%d) {axis = 1}
        %k = concat(%q, %p) {axis = 1}
        %b = quantize(%k) {out = s8<s=0.05, z=7>}
        %u = unsqueeze(%d) {axes = [0]}
        %v = squeeze(%u) {axes = [0]}
        %w = flatten(%v) {axis = 1}
        %c = quantize(%w) {out = s8<s=0.05, z=7>}
        %l = tile(%d, %repeats)
        %e = quantize(%l) {out = s8<s=0.05, z=7>}
        %m = pad(%d, %pads)
        %f = quantize(%m) {out = s8<s=0.05, z=7>}
        %h = gather(%d, %index) {axis = 1}
        %o = expand(%h, %wide)
        %g = quantize(%o) {out = s8<s=0.05, z=7>}",
    );
    let (after, _) = run(&before, &[&PropagateQdq]);
    assert!(!mnemonics(&after).contains(&"dequantize"), "{}", text(&after));
    assert!(!mnemonics(&after).contains(&"quantize"), "{}", text(&after));
    same_bits(&before, &after, 3);
}

#[test]
fn the_axis_of_weights_moves_with_the_transpose() {
    let before = graph(
        "(%x: f32[2, 3]) -> (%y)",
        "const %w: s8<axis=0, s=[0.1, 0.2], z=[0, 1]>[2, 3] = [1, 2, 3, 4, 5, 6]
        %d = dequantize(%w)
        %t = transpose(%d) {perm = [1, 0]}
        %y = matmul(%x, %t)",
    );
    let (after, _) = run(&before, &[&PropagateQdq]);
    insta::assert_snapshot!(text(&after));
    same_bits(&before, &after, 4);
}

#[test]
fn a_padding_value_is_quantized() {
    let before = graph(
        "(%x: u8<s=0.5, z=10>[1, 2, 2, 2]) -> (%y, %z)",
        "const %pads: s64[8] = [0, 0, 1, 1, 0, 0, 1, 1]
        const %exact: f32[] = [1.5]
        const %between: f32[] = [1.3]
        %d = dequantize(%x)
        %a = pad(%d, %pads, %exact)
        %y = quantize(%a) {out = u8<s=0.5, z=10>}
        %b = pad(%d, %pads, %between)
        %z = quantize(%b) {out = u8<s=0.5, z=10>}",
    );
    let (after, report) = run(&before, &[&PropagateQdq]);
    assert_eq!(mnemonics(&after), ["pad", "pad"]);
    assert_eq!(report.applied("propagate_qdq"), 4, "{report:?}");
    same_bits(&before, &after, 5);
}

#[test]
fn a_shared_dequantize_stays_for_the_others() {
    let before = graph(
        "(%x: s8<s=0.5, z=10>[2, 2]) -> (%y, %z)",
        "%d = dequantize(%x)
        %t = transpose(%d) {perm = [1, 0]}
        %y = quantize(%t) {out = s8<s=0.5, z=10>}
        %z = exp(%d)",
    );
    let (after, _) = run(&before, &[&PropagateQdq]);
    assert_eq!(mnemonics(&after), ["dequantize", "transpose", "exp"]);
    same_bits(&before, &after, 6);
}

#[test]
fn the_index_of_the_largest_is_that_of_the_largest_stored_value() {
    let before = graph(
        "(%x: s8<s=0.5, z=10>[3, 40]) -> (%y)",
        "%d = dequantize(%x)
        %y = argmax(%d) {axis = 1}",
    );
    let (after, _) = run(&before, &[&PropagateQdq]);
    assert_eq!(mnemonics(&after), ["argmax"]);
    same_bits(&before, &after, 6);
}

#[test]
fn refusals() {
    refuses(
        &graph(
            "(%x: s8<s=0.5, z=10>[2, 2], %y: s8<s=0.25, z=10>[2, 2]) -> (%c)",
            "%a = dequantize(%x)
            %b = dequantize(%y)
            %c = concat(%a, %b) {axis = 0}",
        ),
        &PropagateQdq,
        "different scales",
    );
    refuses(
        &graph(
            "(%x: s8<s=0.5, z=10>[2, 2], %y: f32[2, 2]) -> (%c)",
            "%a = dequantize(%x)
            %c = concat(%a, %y) {axis = 0}",
        ),
        &PropagateQdq,
        "not all operands are quantized",
    );
    refuses(
        &graph(
            "(%x: s8<s=0.5, z=10>[2, 2]) -> (%c)",
            "const %pads: s64[4] = [0, 1, 0, 0]
            const %between: f32[] = [1.3]
            %a = dequantize(%x)
            %c = pad(%a, %pads, %between)",
        ),
        &PropagateQdq,
        "cannot express the padding value",
    );
    refuses(
        &graph(
            "(%x: f32[2, 2]) -> (%y)",
            "const %w: s8<axis=0, s=[0.1, 0.2], z=[0, 0]>[2, 2] = [1, 2, 3, 4]
            const %shape: s64[1] = [4]
            %d = dequantize(%w)
            %y = reshape(%d, %shape)",
        ),
        &PropagateQdq,
        "does not survive",
    );
    refuses(
        &graph(
            "(%x: f32[2, 2]) -> (%y)",
            "%t = transpose(%x) {perm = [1, 0]}
            %y = quantize(%t) {out = s8<axis=0, s=[0.1, 0.2], z=[0, 0]>}",
        ),
        &PropagateQdq,
        "only moves down",
    );
    refuses(
        &graph(
            "(%x: s16<s=0.5>[1, 1, 4, 4]) -> (%y)",
            "%d = dequantize(%x)
            %y = max_pool(%d) {kernel = [2, 2]}",
        ),
        &PropagateQdq,
        "max pooling of s16",
    );
    refuses(
        &graph(
            "(%x: s8<s=0.5, z=10>[2, 2]) -> (%y)",
            "%d = dequantize(%x)
            %y = quantize(%d) {out = s8<s=0.5, z=10>, clamp = [0, 100]}",
        ),
        &PropagateQdq,
        "the clamp changes values",
    );
    refuses(
        &graph(
            "(%x: s32<s=0.5>[2, 2]) -> (%y)",
            "%d = dequantize(%x)
            %y = quantize(%d) {out = s32<s=0.5>}",
        ),
        &PropagateQdq,
        "32-bit",
    );
    refuses(
        &graph(
            "(%x: s8<s=1e-40, z=0>[2, 2]) -> (%y)",
            "%d = dequantize(%x)
            %y = quantize(%d) {out = s8<s=1e-40, z=0>}",
        ),
        &PropagateQdq,
        "not a normal number",
    );
    refuses(
        &graph(
            "(%x: s32<s=0.5>[2, 2]) -> (%y)",
            "%d = dequantize(%x)
            %y = argmax(%d) {axis = 1}",
        ),
        &PropagateQdq,
        "the operand is s32",
    );
    refuses(
        &graph(
            "(%x: f32[2, 2]) -> (%t, %y)",
            "%t = transpose(%x) {perm = [1, 0]}
            %y = quantize(%t) {out = s8<s=0.5>}",
        ),
        &PropagateQdq,
        "model output",
    );
    refuses(
        &graph(
            "(%x: f32[2, 2]) -> (%e, %y)",
            "%t = transpose(%x) {perm = [1, 0]}
            %e = exp(%t)
            %y = quantize(%t) {out = s8<s=0.5>}",
        ),
        &PropagateQdq,
        "also read otherwise",
    );
    refuses(
        &graph(
            "(%x: f32[1, 1, 2, 2], %v: f32[]) -> (%y)",
            "const %pads: s64[8] = [0, 0, 1, 1, 0, 0, 1, 1]
            %p = pad(%x, %pads, %v)
            %y = quantize(%p) {out = s8<s=0.5>}",
        ),
        &PropagateQdq,
        "the padding value varies",
    );
    refuses(
        &graph(
            "(%x: s8<s=0.5>[1, 1, 4, 4]) -> (%y)",
            "%d = dequantize(%x)
            %y = max_pool(%d) {kernel = [2, 2], dilations = [2, 2], pads = [1, 1, 1, 1]}",
        ),
        &PropagateQdq,
        "in the padding altogether",
    );
    let rows = "s8<axis=0, s=[0.5, 0.25], z=[0, 0]>";
    refuses(
        &graph(
            &format!("(%x: {rows}[2, 2]) -> (%y)"),
            "const %pads: s64[4] = [0, 1, 0, 0]
            %d = dequantize(%x)
            %y = pad(%d, %pads)",
        ),
        &PropagateQdq,
        "padding of a tensor with more than one scale",
    );
    refuses(
        &graph(
            &format!("(%x: {rows}[2, 1, 4, 4]) -> (%y)"),
            "%d = dequantize(%x)
            %y = max_pool(%d) {kernel = [2, 2]}",
        ),
        &PropagateQdq,
        "max pooling with more than one scale",
    );
}
