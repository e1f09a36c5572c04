//! What each pass makes of models that it is for.

use super::{close, exact, model};
use requant_graph::passes::{
    Dce, FoldActivation, FoldBatchNorm, FoldConstants, FoldDequantized, FoldPad, Layout,
    RemoveIdentity,
};

#[test]
fn fold_constants() {
    let text = model(
        "f32[batch, 3, 4, 5]",
        "%y, %z",
        "const %a: s64[2] = [1, 2]
         const %b: s64[2] = [0, 3]
         %sum = add(%a, %b)
         %extents = shape(%x) {start = 1}
         const %one: s64[1] = [-1]
         %target = concat(%one, %extents) {axis = 0}
         %y = reshape(%x, %target)
         const %w: s8<s=0.5, z=1>[2] = [3, -5]
         %scale = dequantize(%w)
         %wide = cast(%sum) {to = f32}
         %z = mul(%wide, %scale)",
    );
    insta::assert_snapshot!(exact(&FoldConstants, &text));
}

#[test]
fn fold_constants_keeps_the_batch_symbolic() {
    // As PyTorch writes `x.view(x.size(0), -1)`.
    let text = model(
        "f32[batch, 3, 4]",
        "%y",
        "%extents = shape(%x)
         const %zero: s64[] = [0]
         const %axes: s64[1] = [-1]
         %n = gather(%extents, %zero) {axis = 0}
         %row = unsqueeze(%n) {axes = [0]}
         %target = concat(%row, %axes) {axis = 0}
         %constant = add(%axes, %axes)
         %unused = mul(%constant, %row)
         %y = reshape(%x, %target)",
    );
    insta::assert_snapshot!(exact(&FoldConstants, &text));
}

#[test]
fn fold_constants_takes_fill_values_early() {
    // As ONNX Runtime's quantizer writes padding.
    let text = model(
        "f32[1, 1, 2, 2]",
        "%y",
        "const %zero: f32[] = [0.0]
         %q = quantize(%zero) {out = u8<s=1.0>}
         %fill = dequantize(%q)
         const %pads: s64[8] = [0, 0, 1, 1, 0, 0, 1, 1]
         %y = pad(%x, %pads, %fill)",
    );
    insta::assert_snapshot!(exact(&FoldConstants, &text));
}

#[test]
fn fold_dequantized() {
    let text = model(
        "f32[2]",
        "%y",
        "const %w: s8<s=0.5, z=1>[2] = [3, -5]
         %scale = dequantize(%w)
         %y = mul(%x, %scale)",
    );
    insta::assert_snapshot!(exact(&FoldDequantized, &text));
}

#[test]
fn remove_identity() {
    let text = model(
        "f32[batch, 2, 3]",
        "%a, %b, %c, %d, %e",
        "%i = identity(%x)
         %cast = cast(%i) {to = f32}
         %t = transpose(%cast) {perm = [0, 2, 1]}
         %a = transpose(%t) {perm = [0, 2, 1]}
         %t2 = transpose(%x) {perm = [2, 0, 1]}
         %b = transpose(%t2) {perm = [2, 0, 1]}
         const %nothing: f32[1, 3] = fill(-0.0)
         const %one: f32[] = [1.0]
         %plus = add(%nothing, %x)
         %times = mul(%plus, %one)
         const %zero: f32[] = [0.0]
         %minus = sub(%times, %zero)
         const %pads: s64[6] = fill(0)
         %pad = pad(%minus, %pads)
         %c = relu(%pad)
         %u = unsqueeze(%x) {axes = [1]}
         %turned = transpose(%u) {perm = [0, 2, 1, 3]}
         const %shape: s64[2] = [0, 6]
         %d = reshape(%turned, %shape)
         %one_part = concat(%x) {axis = 0}
         const %repeats: s64[3] = fill(1)
         %tiled = tile(%one_part, %repeats)
         const %starts: s64[1] = [0]
         const %ends: s64[1] = [9]
         const %axes: s64[1] = [2]
         %sliced = slice(%tiled, %starts, %ends, %axes)
         %e = neg(%sliced)",
    );
    insta::assert_snapshot!(exact(&RemoveIdentity, &text));
}

#[test]
fn dce() {
    let text = model(
        "f32[2]",
        "%y",
        "const %c: f32[2] = [1.0, 2.0]
         %dead = neg(%x)
         %deader = add(%dead, %c)
         %shared = abs(%x)
         %unread = exp(%shared)
         %y = relu(%shared)",
    );
    let mut graph = super::graph(&text);
    let before = super::outputs(&graph);
    super::run(&Dce, &mut graph);
    graph.verify().unwrap();
    assert_eq!(super::outputs(&graph), before);
    insta::assert_snapshot!(graph.to_model().to_string());
}

#[test]
fn fold_batch_norm_into_conv() {
    let text = model(
        "f32[1, 2, 3, 3]",
        "%y",
        "const %w: f32[2, 2, 1, 1] = [1.0, 2.0, -3.0, 0.5]
         %c = conv(%x, %w) {strides = [1, 1]}
         const %scale: f32[2] = [0.5, 2.0]
         const %bias: f32[2] = [1.0, -1.0]
         const %mean: f32[2] = [0.25, 0.75]
         const %var: f32[2] = [4.0, 0.3]
         %n = batch_norm(%c, %scale, %bias, %mean, %var)
         const %k: f32[2, 1, 1] = [3.0, -1.5]
         %m = mul(%k, %n)
         const %d: f32[1, 2, 1, 1] = [0.125, 10.0]
         %a = add(%m, %d)
         const %e: f32[] = [4.0]
         %f = div(%a, %e)
         const %g: f32[1] = [7.0]
         %y = sub(%g, %f)",
    );
    insta::assert_snapshot!(close(&FoldBatchNorm, &text));
}

#[test]
fn fold_batch_norm_into_channels_last_depthwise() {
    let text = model(
        "f32[1, 3, 3, 2]",
        "%y",
        "const %w: f32[2, 1, 3, 3] = fill(0.5)
         const %b: f32[2] = [1.0, 2.0]
         %c = conv(%x, %w, %b) {strides = [1, 1], pads = [1, 1, 1, 1], groups = 2, layout = channels_last}
         const %k: f32[2] = [3.0, -1.5]
         %y = mul(%c, %k)",
    );
    insta::assert_snapshot!(close(&FoldBatchNorm, &text));
}

#[test]
fn fold_batch_norm_makes_gemms() {
    let text = model(
        "f32[batch, 3]",
        "%y, %z",
        "const %w: f32[3, 2] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
         %p = matmul(%x, %w)
         const %b: f32[2] = [0.5, -0.5]
         %a = add(%b, %p)
         const %k: f32[] = [2.0]
         %y = mul(%a, %k)
         const %v: f32[2, 3] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
         const %c: f32[1, 2] = [0.1, 0.2]
         %g = gemm(%x, %v, %c) {alpha = 2.0, beta = 3.0, trans_b}
         const %s: f32[1, 2] = [5.0, 7.0]
         %z = div(%g, %s)",
    );
    insta::assert_snapshot!(close(&FoldBatchNorm, &text));
}

#[test]
fn fold_batch_norm_takes_a_dequantized_bias() {
    let text = model(
        "f32[batch, 3]",
        "%y",
        "const %q: s8<s=0.1>[3, 2] = [1, 2, 3, 4, 5, 6]
         %w = dequantize(%q)
         %p = matmul(%x, %w)
         const %r: s32<s=0.01>[2] = [100, -200]
         %b = dequantize(%r)
         %y = add(%p, %b)",
    );
    insta::assert_snapshot!(close(&FoldBatchNorm, &text));
}

#[test]
fn fold_pad() {
    let text = model(
        "f32[1, 1, 4, 4]",
        "%a, %b, %c, %d",
        "const %pads: s64[8] = [0, 0, 0, 1, 0, 0, 1, 1]
         %p = pad(%x, %pads)
         const %w: f32[1, 1, 2, 2] = [1.0, -2.0, 3.0, 0.5]
         %a = conv(%p, %w) {strides = [2, 2], pads = [0, 0, 1, 0]}
         const %inf: f32[] = [-inf]
         %low = pad(%x, %pads, %inf)
         %b = max_pool(%low) {kernel = [2, 2], strides = [2, 2]}
         const %zero: f32[] = [0.0]
         const %sides: s64[4] = [1, 1, 0, 1]
         const %axes: s64[2] = [-1, 2]
         %q = pad(%x, %sides, %zero, %axes)
         %c = average_pool(%q) {kernel = [2, 2], strides = [2, 2]}
         %d = average_pool(%q) {kernel = [3, 3], pads = [1, 1, 0, 0], count_include_pad}",
    );
    insta::assert_snapshot!(exact(&FoldPad, &text));
}

#[test]
fn fold_pad_keeps_the_sign_of_zero() {
    let text = model(
        "f32[1, 1, 2, 2]",
        "%y",
        "const %minus: f32[1] = [-0.0]
         const %pads: s64[8] = [0, 0, 1, 1, 0, 0, 0, 0]
         %size = abs(%x)
         %zeros = mul(%size, %minus)
         %p = pad(%zeros, %pads)
         %y = average_pool(%p) {kernel = [2, 2]}",
    );
    assert!(!exact(&FoldPad, &text).contains(" = pad("));
}

#[test]
fn fold_pad_quantized() {
    let text = model(
        "u8<s=0.1, z=7>[1, 4, 4, 1]",
        "%a, %b, %c",
        "const %pads: s64[8] = [0, 1, 1, 0, 0, 1, 1, 0]
         %p = pad(%x, %pads)
         const %w: s8<s=0.5>[1, 1, 3, 3] = fill(3)
         %a = qconv(%p, %w) {strides = [1, 1], layout = channels_last, out = u8<s=0.7, z=5>}
         const %low: u8<s=0.1, z=7>[] = [0]
         %l = pad(%x, %pads, %low)
         %b = max_pool(%l) {kernel = [3, 3], layout = channels_last}
         const %z: u8<s=0.1, z=7>[] = [7]
         %f = pad(%x, %pads, %z)
         %c = qpool(%f) {kernel = [3, 3], layout = channels_last, out = u8<s=0.1, z=9>}",
    );
    insta::assert_snapshot!(exact(&FoldPad, &text));
}

#[test]
fn fold_activation_into_quantize() {
    let text = model(
        "f32[64]",
        "%a, %b, %c, %d",
        "%r = relu(%x)
         %a = quantize(%r) {out = u8<s=0.05, z=100>}
         %s = clip(%x) {min = 0.0, max = 6.0}
         %b = quantize(%s) {out = u8<s=0.03>}
         %t = clip(%x) {min = -1.03, max = 2.26}
         %c = quantize(%t) {out = s8<s=0.1, z=-3>, clamp = [-20, 90]}
         %u = clip(%x) {min = 0.0, max = 6.0}
         %d = quantize(%u) {out = u8<s=0.0235294122248888>}",
    );
    insta::assert_snapshot!(exact(&FoldActivation, &text));
}

#[test]
fn fold_activation_merges_clips() {
    let text = model(
        "f32[64]",
        "%a, %b, %c",
        "%r = relu(%x)
         %a = clip(%r) {max = 3.0}
         %s = clip(%x) {min = -2.0, max = 6.0}
         %b = relu(%s)
         %t = clip(%x) {min = -5.0, max = -4.0}
         %u = relu(%t)
         %c = relu(%u)",
    );
    insta::assert_snapshot!(exact(&FoldActivation, &text));
}

#[test]
fn fold_activation_into_integer_operators() {
    let text = model(
        "u8<s=0.1, z=7>[1, 2, 4, 4]",
        "%y",
        "const %w: s8<s=0.5>[2, 2, 1, 1] = [3, -7, 30, 11]
         %q = qconv(%x, %w) {strides = [1, 1], out = u8<s=0.7, z=50>}
         %p = max_pool(%q) {kernel = [2, 2]}
         %t = transpose(%p) {perm = [0, 2, 3, 1]}
         %f = dequantize(%t)
         %r = clip(%f) {min = 0.0, max = 6.0}
         %y = quantize(%r) {out = u8<s=0.7, z=50>}",
    );
    insta::assert_snapshot!(exact(&FoldActivation, &text));
}

#[test]
fn layout_of_a_channels_first_net() {
    // EfficientNet-Lite in small: conv, depthwise, residual, mean, reshape, gemm.
    let text = model(
        "f32[batch, 3, 8, 8]",
        "%y",
        "const %w0: f32[4, 3, 3, 3] = fill(0.1)
         %c0 = conv(%x, %w0) {strides = [2, 2], pads = [0, 0, 1, 1]}
         %r0 = clip(%c0) {min = 0.0, max = 6.0}
         const %w1: f32[4, 1, 3, 3] = fill(-0.2)
         %c1 = conv(%r0, %w1) {strides = [1, 1], pads = [1, 1, 1, 1], groups = 4}
         const %k: f32[4, 1, 1] = [1.0, 2.0, 3.0, 4.0]
         %m = mul(%c1, %k)
         %a = add(%m, %r0)
         %mean = reduce_mean(%a) {axes = [-1, -2], keep_dims}
         const %shape: s64[2] = [-1, 4]
         %flat = reshape(%mean, %shape)
         const %v: f32[4, 2] = fill(0.5)
         %y = gemm(%flat, %v)",
    );
    insta::assert_snapshot!(close(&Layout, &text));
}

#[test]
fn layout_converts_after_quantize() {
    let text = model(
        "f32[batch, 3, 8, 8]",
        "%y",
        "%q = quantize(%x) {out = u8<s=0.1, z=128>}
         const %w0: s8<s=0.02>[4, 3, 3, 3] = fill(5)
         %c = qconv(%q, %w0) {strides = [2, 2], pads = [0, 0, 1, 1], out = u8<s=0.3, z=3>}
         %p = qpool(%c) {kernel = [4, 4], out = u8<s=0.2, z=3>}
         %s = squeeze(%p) {axes = [2, 3]}
         %y = dequantize(%s)",
    );
    insta::assert_snapshot!(exact(&Layout, &text));
}

#[test]
fn layout_of_a_channels_last_model_written_channels_first() {
    // As tf2onnx writes it; no transpose is left.
    let text = model(
        "f32[batch, 8, 8, 3]",
        "%y",
        "%t = transpose(%x) {perm = [0, 3, 1, 2]}
         const %w0: f32[4, 3, 3, 3] = fill(0.1)
         %c = conv(%t, %w0) {strides = [1, 1]}
         %r = relu(%c)
         %p = max_pool(%r) {kernel = [2, 2], strides = [2, 2]}
         %b = transpose(%p) {perm = [0, 2, 3, 1]}
         const %shape: s64[2] = [-1, 36]
         %y = reshape(%b, %shape)",
    );
    let after = exact(&Layout, &text);
    assert!(!after.contains("transpose"), "{after}");
    insta::assert_snapshot!(after);
}

#[test]
fn layout_renumbers_axes() {
    let text = model(
        "f32[batch, 2, 4, 6]",
        "%y, %z, %size, %height",
        "const %w0: f32[2, 2, 1, 1] = [1.0, 2.0, 3.0, 4.0]
         %c = conv(%x, %w0) {strides = [1, 1]}
         const %pads: s64[8] = [0, 1, 0, 0, 0, 0, 2, 0]
         %p = pad(%c, %pads)
         const %starts: s64[2] = [1, 0]
         const %ends: s64[2] = [3, 5]
         const %axes: s64[2] = [1, -1]
         %s = slice(%p, %starts, %ends, %axes)
         %l, %r = split(%s) {axis = 2}
         %j = concat(%l, %r, %l) {axis = 1}
         %m = softmax(%j) {axis = 1}
         const %idx: s64[2] = [0, -1]
         %g = gather(%m, %idx) {axis = 3}
         const %w1: f32[3, 6, 1, 1] = fill(0.3)
         %y = conv(%g, %w1) {strides = [1, 1]}
         %z = reduce_max(%y) {axes = [1]}
         %size = size(%y)
         %height = shape(%y) {start = 2, end = 3}",
    );
    insta::assert_snapshot!(exact(&Layout, &text));
}

#[test]
fn layout_of_rank_3() {
    let text = model(
        "f32[batch, 2, 9]",
        "%y",
        "const %w0: f32[4, 2, 3] = fill(0.1)
         %c = conv(%x, %w0) {strides = [1]}
         const %scale: f32[4] = [1.0, 2.0, 3.0, 4.0]
         const %zero: f32[4] = fill(0.0)
         const %one: f32[4] = fill(1.0)
         %n = batch_norm(%c, %scale, %zero, %zero, %one)
         %p = max_pool(%n) {kernel = [2], strides = [2]}
         %y = reduce_mean(%p) {axes = [2]}",
    );
    insta::assert_snapshot!(close(&Layout, &text));
}

#[test]
fn layout_keeps_per_channel_quantization_on_its_axis() {
    let text = model(
        "f32[batch, 2, 3, 3]",
        "%y",
        "const %w0: f32[2, 2, 1, 1] = [1.0, 2.0, 3.0, 4.0]
         %c = conv(%x, %w0) {strides = [1, 1]}
         %q = quantize(%c) {out = s8<axis=1, s=[0.1, 0.2], z=[1, 2]>}
         %d = dequantize(%q)
         %y = conv(%d, %w0) {strides = [1, 1]}",
    );
    insta::assert_snapshot!(exact(&Layout, &text));
}
