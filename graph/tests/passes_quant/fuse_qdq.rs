//! `fuse_qdq`.

use crate::support::{graph, mnemonics, most_steps, refuses, run, text};
use requant_graph::Graph;
use requant_graph::passes::{FoldZeroPoint, FuseQdq, FuseRequantize};

/// `Conv` of u8 activations with the given weights and bias, and a clamp in its `Q`.
fn conv(weights: &str, bias: &str) -> Graph {
    graph(
        "(%x: u8<s=0.05, z=120>[1, 2, 4, 4]) -> (%y)",
        &format!(
            "{weights}
            {bias}
            %d = dequantize(%x)
            %c = conv(%d, %w, %b) {{strides = [1, 1], pads = [1, 1, 1, 1]}}
            %y = quantize(%c) {{out = u8<s=0.1, z=20>, clamp = [20, 180]}}"
        ),
    )
}

const W: &str = "const %qw: s8<axis=0, s=[0.02, 0.03], z=[0, 0]>[2, 2, 1, 1] = [3, -128, 127, 5]
    %w = dequantize(%qw)";
const B: &str = "const %b: f32[2] = [0.5, -0.25]";

#[test]
fn convolution() {
    let before = conv(W, B);
    let (after, report) = run(&before, &[&FuseQdq, &FuseRequantize]);
    assert_eq!(mnemonics(&after), ["qconv"]);
    assert_eq!((report.applied("fuse_qdq"), report.applied("fuse_requantize")), (2, 1));
    insta::assert_snapshot!(text(&after));
    for seed in 0..20 {
        assert!(most_steps(&before, &after, seed) <= 1);
    }
}

#[test]
fn a_bias_of_the_right_scale_is_taken_as_it_is() {
    // 0.05f32·0.02f32 and 0.05f32·0.03f32.
    let scales = [0.05f32 * 0.02f32, 0.05f32 * 0.03f32];
    let bias = format!(
        "const %qb: s32<axis=0, s=[{:e}, {:e}], z=[0, 0]>[2] = [123456, -7]
        %b = dequantize(%qb)",
        scales[0], scales[1]
    );
    let (after, _) = run(&conv(W, &bias), &[&FuseQdq]);
    assert!(text(&after).contains("[123456, -7]"), "{}", text(&after));
}

#[test]
fn a_bias_of_another_scale_is_quantized_anew_and_reported() {
    let bias = "const %qb: s32<s=0.01>[2] = [50, -25]
        %b = dequantize(%qb)";
    let before = conv(W, bias);
    let (after, report) = run(&before, &[&FuseQdq]);
    assert!(text(&after).contains("[500, -167]"), "{}", text(&after));
    let said: Vec<_> = report.patches.iter().filter_map(|p| p.note.as_deref()).collect();
    assert!(said.iter().any(|s| s.contains("quantized anew")), "{said:?}");
    assert!(most_steps(&before, &after, 1) <= 1);
}

#[test]
fn channels_that_training_switched_off_stay_in_the_product() {
    let weights = "const %qw: s8<axis=0, s=[1e-37, 0.03], z=[0, 0]>[2, 2, 1, 1] = [3, -128, 127, 5]
        %w = dequantize(%qw)";
    let before = conv(weights, "const %b: f32[2] = [0, -0.25]");
    let (after, _) = run(&before, &[&FuseQdq, &FuseRequantize]);
    assert_eq!(mnemonics(&after), ["qconv"]);
    assert!(most_steps(&before, &after, 1) <= 1);
}

#[test]
fn a_bias_at_the_edge_of_32_bits_leaves_room_for_the_sum() {
    // What a quantizer makes of a constant channel: the scale raised until the bias just fits.
    let scale = 0.05f32 * 1e-8f32;
    let weights = "const %qw: s8<axis=0, s=[1e-8, 0.03], z=[0, 0]>[2, 2, 1, 1] = [1, -1, 127, 5]
        %w = dequantize(%qw)";
    let bias = format!(
        "const %qb: s32<axis=0, s=[{scale:e}, {:e}], z=[0, 0]>[2] = [2147483647, 5]
        %b = dequantize(%qb)",
        0.05f32 * 0.03f32
    );
    let before = conv(weights, &bias);
    let (after, _) = run(&before, &[&FuseQdq, &FuseRequantize, &FoldZeroPoint]);
    assert_eq!(mnemonics(&after), ["qconv"]);
    for seed in 0..4 {
        assert!(most_steps(&before, &after, seed) <= 1);
    }
}

#[test]
fn a_float_result_comes_from_the_accumulator() {
    let before = graph(
        "(%x: s8<s=0.05, z=3>[2, 4]) -> (%y)",
        "const %qw: s8<s=0.02, z=0>[3, 4] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
        const %b: f32[1, 3] = [0.5, -0.25, 1]
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %y = gemm(%d, %w, %b) {trans_b, alpha = 0.5, beta = 2}",
    );
    let (after, _) = run(&before, &[&FuseQdq]);
    assert_eq!(mnemonics(&after), ["qmatmul", "dequantize"]);
    insta::assert_snapshot!(text(&after));
    most_steps(&before, &after, 1);
}

#[test]
fn consumers_of_all_kinds_share_the_accumulator() {
    let before = graph(
        "(%x: s8<s=0.05, z=3>[2, 4]) -> (%y, %z, %e)",
        "const %qw: s8<s=0.02, z=0>[4, 1] = [1, 2, 3, 4]
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %m = matmul(%d, %w)
        %y = quantize(%m) {out = s8<s=0.01, z=1>}
        %z = quantize(%m) {out = u8<s=0.02, z=2>}
        %e = exp(%m)",
    );
    let (after, _) = run(&before, &[&FuseQdq, &FuseRequantize]);
    assert_eq!(mnemonics(&after), ["qmatmul", "dequantize", "requantize", "requantize", "exp"]);
    assert!(most_steps(&before, &after, 1) <= 1);
}

#[test]
fn a_vector_added_to_a_product_is_its_bias() {
    let before = graph(
        "(%x: u8<s=0.05, z=3>[n, 4]) -> (%y)",
        "const %qw: s8<axis=1, s=[0.02, 0.01], z=[0, 0]>[4, 2] = [1, 2, 3, 4, 5, 6, 7, 8]
        const %b: f32[2] = [0.5, -0.25]
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %m = matmul(%d, %w)
        %s = add(%b, %m)
        %y = quantize(%s) {out = u8<s=0.02, z=2>}",
    );
    let (after, _) = run(&before, &[&FuseQdq, &FuseRequantize]);
    assert_eq!(mnemonics(&after), ["qmatmul"]);
    insta::assert_snapshot!(text(&after));
    assert!(most_steps(&before, &after, 1) <= 1);
}

#[test]
fn two_activations() {
    let before = graph(
        "(%a: u8<s=0.05, z=3>[2, 3, 4], %b: s8<s=0.04, z=-5>[2, 4, 5]) -> (%y)",
        "%da = dequantize(%a)
        %db = dequantize(%b)
        %m = matmul(%da, %db)
        %y = quantize(%m) {out = u8<s=0.5, z=128>}",
    );
    let (after, _) = run(&before, &[&FuseQdq, &FuseRequantize]);
    assert_eq!(mnemonics(&after), ["qmatmul"]);
    assert!(most_steps(&before, &after, 1) <= 1);
}

#[test]
fn elementwise_means_and_softmax() {
    let before = graph(
        "(%x: u8<s=0.05, z=120>[1, 4, 4, 4], %z: s8<s=0.03, z=5>[1, 4, 1, 1]) -> (%a, %m, %p, %r, %s)",
        "%d = dequantize(%x)
        %e = dequantize(%z)
        %fa = add(%d, %e)
        %a = quantize(%fa) {out = u8<s=0.06, z=100>}
        %fm = mul(%d, %e)
        %m = quantize(%fm) {out = s8<s=0.2, z=0>, clamp = [0, 127]}
        %fp = average_pool(%d) {kernel = [2, 2], strides = [2, 2], pads = [1, 1, 0, 0]}
        %p = quantize(%fp) {out = u8<s=0.05, z=120>}
        %fr = reduce_mean(%d) {axes = [-1, -2]}
        %r = quantize(%fr) {out = u8<s=0.03, z=120>}
        %fs = softmax(%d) {axis = 1}
        %s = quantize(%fs) {out = u8<s=0.00390625, z=0>}",
    );
    let (after, _) = run(&before, &[&FuseQdq]);
    assert_eq!(mnemonics(&after), ["qadd", "qmul", "qpool", "qmean", "qsoftmax"]);
    insta::assert_snapshot!(text(&after));
    for seed in 0..20 {
        assert!(most_steps(&before, &after, seed) <= 1);
    }
}

#[test]
fn float_weights_on_a_grid() {
    // Columns of 0.01·[127, −64, 3] and 0.02·[100, 50, −25], as fake quantization leaves them.
    let before = graph(
        "(%x: u8<s=0.05, z=120>[2, 3]) -> (%y)",
        "const %w: f32[3, 2] = [1.27, 2, -0.64, 1, 0.03, -0.5]
        %d = dequantize(%x)
        %m = matmul(%d, %w)
        %y = quantize(%m) {out = u8<s=0.1, z=128>}",
    );
    let (after, _) = run(&before, &[&FuseQdq, &FuseRequantize]);
    assert_eq!(mnemonics(&after), ["qmatmul"]);
    insta::assert_snapshot!(text(&after));
    for seed in 0..20 {
        assert!(most_steps(&before, &after, seed) <= 1);
    }
}

#[test]
fn float_models_are_not_commented_on() {
    let before = graph(
        "(%x: f32[1, 2]) -> (%y)",
        "const %w: f32[2, 1] = [0.3, 0.7]
        %y = matmul(%x, %w)",
    );
    let (_, report) = run(&before, &[&FuseQdq]);
    assert!(report.refusals.is_empty());
}

#[test]
fn refuses_activations() {
    let matmul = |x: &str| {
        graph(
            &format!("(%x: {x}[2, 2]) -> (%y)"),
            "const %qw: s8<s=0.02>[2, 2] = [1, 2, 3, 4]
            %d = dequantize(%x)
            %w = dequantize(%qw)
            %y = matmul(%d, %w)",
        )
    };
    refuses(&matmul("s16<s=0.1>"), &FuseQdq, "the first operand is s16, not 8 bits");
    refuses(&matmul("s8<axis=0, s=[0.1, 0.2], z=[0, 0]>"), &FuseQdq, "more than one scale");
    refuses(&matmul("s8<s=1e-40>"), &FuseQdq, "has the scale");
    let vanishing = graph(
        "(%x: s8<s=1e-37>[2, 2]) -> (%y)",
        "const %qw: s8<s=1e-37>[2, 2] = [1, 2, 3, 4]
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %y = matmul(%d, %w)",
    );
    refuses(&vanishing, &FuseQdq, "the product of the scales is 0");
    let float = graph(
        "(%x: f32[2, 2]) -> (%y)",
        "const %qw: s8<s=0.02>[2, 2] = [1, 2, 3, 4]
        %w = dequantize(%qw)
        %y = matmul(%x, %w)",
    );
    refuses(&float, &FuseQdq, "the first operand is not quantized");
}

#[test]
fn refuses_weights() {
    let float = "const %w: f32[2, 2, 1, 1] = [0.3, -0.2123457, 0.11, 0.71]";
    refuses(&conv(float, B), &FuseQdq, "the weights are float");
    let wide = "const %qw: s16<s=0.02>[2, 2, 1, 1] = [1, 2, 3, 4]
        %w = dequantize(%qw)";
    refuses(&conv(wide, B), &FuseQdq, "the weights are s16");
    let inner = "const %qw: s8<axis=1, s=[0.02, 0.03], z=[0, 0]>[2, 2, 1, 1] = [1, 2, 3, 4]
        %w = dequantize(%qw)";
    refuses(&conv(inner, B), &FuseQdq, "not along the output channel");
    let blocks = "const %qw: s8<axis=1, block=1, s=[0.02, 0.03, 0.02, 0.03], z=[0, 0, 0, 0]>[2, 2, 1, 1] = [1, 2, 3, 4]
        %w = dequantize(%qw)";
    refuses(&conv(blocks, B), &FuseQdq, "in blocks");
    let varying = graph(
        "(%x: u8<s=0.05, z=120>[1, 2, 4, 4], %qw: s8<s=0.05>[2, 2, 1, 1]) -> (%y)",
        "%d = dequantize(%x)
        %w = dequantize(%qw)
        %y = conv(%d, %w) {strides = [1, 1]}",
    );
    refuses(&varying, &FuseQdq, "the weights are not constant");
    let tiny = "const %w: f32[2, 2, 1, 1] = fill(1e-40)";
    refuses(&conv(tiny, B), &FuseQdq, "a scale of the weights is not a normal number");
}

#[test]
fn refuses_biases() {
    refuses(&conv(W, "const %b: f32[2] = [1e9, 0]"), &FuseQdq, "does not fit 32 bits");
    let varying = graph(
        "(%x: s8<s=0.05>[1, 1, 2, 2], %b: f32[1]) -> (%y)",
        "const %qw: s8<s=0.02>[1, 1, 1, 1] = [1]
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %y = conv(%d, %w, %b) {strides = [1, 1]}",
    );
    refuses(&varying, &FuseQdq, "the bias is not constant");
    let matrix = graph(
        "(%x: s8<s=0.05>[2, 2]) -> (%y)",
        "const %qw: s8<s=0.02>[2, 2] = [1, 2, 3, 4]
        const %b: f32[2, 2] = [1, 2, 3, 4]
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %y = gemm(%d, %w, %b)",
    );
    refuses(&matrix, &FuseQdq, "the bias is not a vector");
    let blocks = graph(
        "(%x: s8<s=0.05>[2, 2]) -> (%y)",
        "const %qw: s8<s=0.02>[2, 4] = fill(1)
        const %qb: s32<axis=0, block=2, s=[0.001, 0.002], z=[0, 0]>[4] = [1, 2, 3, 4]
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %b = dequantize(%qb)
        %y = gemm(%d, %w, %b)",
    );
    refuses(&blocks, &FuseQdq, "quantized along another axis");
    let fine = graph(
        "(%x: s8<s=1>[2, 2]) -> (%y)",
        "const %qw: s8<s=1>[2, 2] = [1, 2, 3, 4]
        const %b: f32[2] = [0.4, 0.3]
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %m = gemm(%d, %w, %b)
        %y = quantize(%m) {out = s8<s=0.01>}",
    );
    refuses(&fine, &FuseQdq, "finer than steps of the accumulator");
}

#[test]
fn refuses_forms_of_products() {
    let gemm = |attributes: &str| {
        graph(
            "(%x: s8<s=0.05>[2, 2]) -> (%y)",
            &format!(
                "const %qw: s8<s=0.02>[2, 2] = [1, 2, 3, 4]
                %d = dequantize(%x)
                %w = dequantize(%qw)
                %y = gemm(%d, %w) {{{attributes}}}"
            ),
        )
    };
    refuses(&gemm("trans_a"), &FuseQdq, "the first operand is transposed");
    refuses(&gemm("alpha = -1"), &FuseQdq, "alpha is -1");
    let activations = |b: &str| {
        graph(
            &format!("(%a: u8<s=0.05>[2, {b}], %b: u8<s=0.05>[{b}, 2]) -> (%y)"),
            "%da = dequantize(%a)
            %db = dequantize(%b)
            %y = matmul(%da, %db)",
        )
    };
    refuses(&activations("40000"), &FuseQdq, "may exceed 32 bits");
    refuses(&activations("k"), &FuseQdq, "number of terms is not known");
    let large = graph(
        "(%x: u8<s=0.05>[1, 70000]) -> (%y)",
        "const %qw: s8<s=0.02>[70000, 1] = fill(127)
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %y = matmul(%d, %w)",
    );
    refuses(&large, &FuseQdq, "may exceed 32 bits");
    let stack = graph(
        "(%x: u8<s=0.05>[2, 1, 2]) -> (%y)",
        "const %qw: s8<axis=2, s=[0.02, 0.01], z=[0, 0]>[2, 2, 2] = fill(1)
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %y = matmul(%d, %w)",
    );
    refuses(&stack, &FuseQdq, "a stack of matrices");
    let vector = graph(
        "(%x: u8<s=0.05>[1, 2]) -> (%y)",
        "const %qw: s8<s=0.02>[2] = fill(1)
        %d = dequantize(%x)
        %w = dequantize(%qw)
        %y = matmul(%d, %w)",
    );
    refuses(&vector, &FuseQdq, "the second operand is a vector");
    let biased = graph(
        "(%x: u8<s=0.05>[1, 2], %z: u8<s=0.05>[2, 2]) -> (%y)",
        "const %b: f32[2] = [1, 2]
        %d = dequantize(%x)
        %w = dequantize(%z)
        %y = gemm(%d, %w, %b)",
    );
    refuses(&biased, &FuseQdq, "the product of two activations has a bias");
}

#[test]
fn refuses_elementwise_operators() {
    let binary = |kind: &str, y: &str| {
        graph(
            "(%x: u8<s=0.05, z=120>[2, 2], %z: u8<s=0.05>[2, 2]) -> (%y)",
            &format!(
                "%d = dequantize(%x)
                %e = dequantize(%z)
                %f = {kind}(%d, %e)
                %y = quantize(%f) {{out = {y}}}"
            ),
        )
    };
    refuses(&binary("sub", "u8<s=0.1>"), &FuseQdq, "there is no integer Sub");
    refuses(&binary("add", "s16<s=0.1>"), &FuseQdq, "the result is s16");
    refuses(
        &binary("add", "u8<axis=0, s=[0.1, 0.2], z=[0, 0]>"),
        &FuseQdq,
        "the result has more than one scale",
    );
    refuses(&binary("add", "u8<s=1e-9>"), &FuseQdq, "too far apart");
    refuses(&binary("mul", "u8<s=1e37>"), &FuseQdq, "too far apart");
    let one = graph(
        "(%x: u8<s=0.05, z=120>[2, 2], %e: f32[2, 2]) -> (%y)",
        "%d = dequantize(%x)
        %f = add(%d, %e)
        %y = quantize(%f) {out = u8<s=0.1>}",
    );
    refuses(&one, &FuseQdq, "the second operand is not quantized");
    let flat = graph(
        "(%x: u8<s=0.05, z=120>[2, 2]) -> (%y)",
        "%d = dequantize(%x)
        %f = softmax(%d) {axis = 0, flatten}
        %y = quantize(%f) {out = u8<s=0.1>}",
    );
    refuses(&flat, &FuseQdq, "several axes at once");
    let long = graph(
        "(%x: u8<s=0.05, z=120>[9000000]) -> (%y)",
        "%d = dequantize(%x)
        %f = reduce_mean(%d) {axes = [0]}
        %y = quantize(%f) {out = u8<s=0.1>}",
    );
    refuses(&long, &FuseQdq, "the sum may exceed 32 bits");
    let accumulator = graph(
        "(%x: s32<s=1e30>[2]) -> (%y)",
        "%d = dequantize(%x)
        %y = quantize(%d) {out = u8<s=1e-20>}",
    );
    refuses(&accumulator, &FuseQdq, "the ratio of the scales");
}
