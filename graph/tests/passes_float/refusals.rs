//! Why passes refuse: one model for each reason.

use super::{graph, model, refused, run};
use requant_graph::pass::{Pass, Pipeline, PipelineOptions};
use requant_graph::passes::{
    FoldActivation, FoldBatchNorm, FoldConstants, FoldDequantized, FoldPad, Layout, RemoveIdentity,
};
use requant_ir::Limits;

/// Each body must be refused with a reason that contains the words before it.
fn all_refused(pass: &'static dyn Pass, x: &str, cases: &[(&str, &str, &str)]) {
    for (reason, outputs, body) in cases {
        let got = refused(pass, &model(x, outputs, body));
        assert!(got.contains(reason), "expected `{reason}`, got `{got}` for\n{body}");
    }
}

#[test]
fn fold_constants() {
    all_refused(
        &FoldConstants,
        "f32[4]",
        &[
            (
                "far more than its operands",
                "%y",
                "const %n: s64[2] = [3000000, 3000000]
                 %y = constant_of_shape(%n) {value = f32[1] [1.0]}",
            ),
            (
                "far more than its operands",
                "%y",
                "const %a: f32[1] = [1.0]
                 const %n: s64[1] = [2000000000]
                 %y = tile(%a, %n)",
            ),
            (
                "the work in multiplications",
                "%y",
                "const %a: f32[500, 500] = fill(0.5)
                 const %b: f32[500, 500] = fill(2.0)
                 %y = matmul(%a, %b)",
            ),
        ],
    );
}

#[test]
fn fold_constants_leaves_dequantized_weights() {
    let body = "const %w: s8<s=0.5>[4] = [1, 2, 3, 4]
                %d = dequantize(%w)
                %y = mul(%x, %d)";
    assert_eq!(refused(&FoldConstants, &model("f32[4]", "%y", body)), "");
}

#[test]
fn fold_constants_stays_within_the_derived_bytes() {
    let text = model(
        "f32[4]",
        "%y, %z",
        "const %n: s64[1] = [100]
         %y = constant_of_shape(%n) {value = f32[1] [1.0]}
         %z = constant_of_shape(%n) {value = f32[1] [2.0]}",
    );
    let mut graph = graph(&text);
    let options = PipelineOptions {
        limits: Limits { derived_bytes: 500, ..Limits::default() },
        ..Default::default()
    };
    let report = Pipeline::new(vec![&FoldConstants]).run(&mut graph, &options).unwrap();
    assert_eq!(report.patches.len(), 1);
    assert!(report.refusals[0].reason.contains("derived_bytes"), "{:?}", report.refusals);
}

#[test]
fn fold_dequantized_stays_within_the_derived_bytes() {
    let text = model(
        "f32[1000]",
        "%y",
        "const %w: s8<s=0.5>[1000] = fill(3)
         %d = dequantize(%w)
         %y = mul(%x, %d)",
    );
    let options = |derived_bytes| PipelineOptions {
        limits: Limits { derived_bytes, ..Limits::default() },
        ..Default::default()
    };
    // The stored constant makes room for a fourth of the float one.
    let mut small = graph(&text);
    let report = Pipeline::new(vec![&FoldDequantized]).run(&mut small, &options(2999)).unwrap();
    assert_eq!(report.patches, []);
    assert!(report.refusals[0].reason.contains("derived_bytes"), "{:?}", report.refusals);
    let mut large = graph(&text);
    let report = Pipeline::new(vec![&FoldDequantized]).run(&mut large, &options(3000)).unwrap();
    assert_eq!(report.patches.len(), 1);
}

#[test]
fn fold_batch_norm_needs_constant_f32_vectors() {
    let refuses =
        |reason: &str, x: &str, body: &str| all_refused(&FoldBatchNorm, x, &[(reason, "%y", body)]);
    let scale = "const %k: f32[] = [2.0]\n%y = mul(%c, %k)";
    let after = |body: &str| format!("{body}\n{scale}");
    refuses(
        "the rank is not known",
        "f32[*]",
        &after("const %w: f32[4, 2] = fill(0.5)\n%c = matmul(%x, %w)"),
    );
    refuses(
        "the extents of the weights are not known",
        "f32[n, m]",
        &after("const %a: f32[2, 4] = fill(0.5)\n%c = matmul(%a, %x)"),
    );
    refuses(
        "the weights are not a matrix",
        "f32[2, 3, 4]",
        &after("const %w: f32[2, 4, 2] = fill(0.5)\n%c = matmul(%x, %w)"),
    );
    refuses(
        "not constants of one per channel",
        "f32[1, 3, 4, 4]",
        "const %w: f32[2, 3, 1, 1] = fill(0.5)
         const %q: s8<s=0.5>[2] = [1, 2]
         const %one: f32[2] = [1.0, 1.0]
         %c = conv(%x, %w) {strides = [1, 1]}
         %s = dequantize(%q)
         %y = batch_norm(%c, %s, %one, %one, %one)",
    );
    refuses(
        "not those that the product makes",
        "f32[1, 2, 4, 3]",
        "const %w: f32[2, 3, 1, 1] = fill(0.5)
         const %one: f32[2] = [1.0, 2.0]
         %c = conv(%x, %w) {strides = [1, 1], layout = channels_last}
         %y = batch_norm(%c, %one, %one, %one, %one)",
    );
    refuses(
        "the weights are not f32",
        "f16[1, 3, 4, 4]",
        "const %w: f16[2, 3, 1, 1] = fill(0.5)
         const %one: f16[2] = [1.0, 2.0]
         %c = conv(%x, %w) {strides = [1, 1]}
         %y = batch_norm(%c, %one, %one, %one, %one)",
    );
    refuses(
        "the bias is not an f32 constant of one per channel",
        "f32[1, 3, 4, 4]",
        &after(
            "const %w: f32[2, 3, 1, 1] = fill(0.5)
             const %q: s32<s=0.5>[2] = [1, 2]
             %b = dequantize(%q)
             %c = conv(%x, %w, %b) {strides = [1, 1]}",
        ),
    );
}

#[test]
fn fold_batch_norm() {
    let with = |rest: &str| {
        format!(
            "const %w: f32[2, 3, 1, 1] = fill(0.5)
             %c = conv(%x, %w) {{strides = [1, 1]}}
             {rest}"
        )
    };
    let cases = [
        ("read elsewhere", "%y, %c", with("const %k: f32[] = [2.0]\n%y = mul(%c, %k)")),
        (
            "read elsewhere",
            "%y, %z",
            with("const %k: f32[] = [2.0]\n%y = mul(%c, %k)\n%z = relu(%c)"),
        ),
        ("nor one for each channel", "%y", with("const %k: f32[4] = fill(2.0)\n%y = mul(%c, %k)")),
        (
            "nor one for each channel",
            "%y",
            with("const %k: f32[2, 1, 1, 1] = fill(2.0)\n%y = mul(%c, %k)"),
        ),
        ("not finite", "%y", with("const %k: f32[] = [0.0]\n%y = div(%c, %k)")),
        (
            "would not be finite",
            "%y",
            with(
                "const %k: f32[] = [3e38]\n%l = mul(%c, %k)\nconst %m: f32[] = [1e3]\n%n = mul(%l, %m)\n%y = relu(%n)",
            ),
        ),
        ("not affine", "%y", with("const %k: f32[] = [2.0]\n%y = div(%k, %c)")),
        (
            "the weights are not constant",
            "%y",
            "const %q: s8<s=0.5>[2, 3, 1, 1] = fill(1)
             %w = dequantize(%q)
             %c = conv(%x, %w) {strides = [1, 1]}
             const %k: f32[] = [2.0]
             %y = mul(%c, %k)"
                .into(),
        ),
        (
            "only a product of two matrices",
            "%y",
            "const %w: f32[4, 2] = fill(0.5)
             %c = matmul(%x, %w)
             const %k: f32[2] = [2.0, 3.0]
             %y = add(%c, %k)"
                .into(),
        ),
    ];
    for (reason, outputs, body) in &cases {
        let text = model("f32[1, 3, 4, 4]", outputs, body);
        let mut graph = graph(&text);
        let report = run(&FoldBatchNorm, &mut graph);
        let reasons: Vec<_> = report.refusals.iter().map(|r| r.reason.as_str()).collect();
        assert!(reasons.iter().any(|r| r.contains(reason)), "`{reason}`, got {reasons:?}\n{body}");
    }
}

#[test]
fn fold_pad() {
    let conv = |pads: &str, rest: &str, attrs: &str| {
        format!(
            "const %pads: s64[8] = {pads}
             %p = pad(%x, %pads{rest}
             const %w: f32[1, 1, 2, 2] = fill(0.5)
             %y = conv(%p, %w) {{strides = [1, 1]{attrs}}}"
        )
    };
    let sides = "[0, 0, 1, 1, 0, 0, 1, 1]";
    let cases = [
        ("only constant padding", conv(sides, ") {mode = reflect}", "")),
        ("negative pads", conv("[0, 0, -1, 1, 0, 0, 1, 1]", ")", "")),
        ("batch or channel", conv("[1, 0, 1, 1, 0, 0, 1, 1]", ")", "")),
        ("not explicit", conv(sides, ")", ", pads = same_upper")),
        ("not real 0", format!("const %v: f32[] = [1.0]\n{}", conv(sides, ", %v)", ""))),
        ("not real 0", format!("const %v: f32[] = [-0.0]\n{}", conv(sides, ", %v)", ""))),
        ("not known to be finite", conv(sides, ")", "").replace("fill(0.5)", "fill(inf)")),
        (
            "pads are not constant",
            conv(sides, ")", "").replace(
                "%p = pad(%x, %pads)",
                "%s = shape(%x)\n%t = concat(%s, %s) {axis = 0}\n%p = pad(%x, %t)",
            ),
        ),
        (
            "the padding value is not constant",
            conv(sides, ", %v)", "")
                .replace("%p =", "%v = reduce_max(%x) {axes = [0, 1, 2, 3]}\n%p ="),
        ),
        (
            "the axes are not constant",
            conv(sides, ", _, %axes)", "").replace("%p =", "%axes = shape(%x)\n%p ="),
        ),
        (
            "the channel axis is padded",
            conv("[0, 0, 0, 1, 0, 0, 0, 0]", ")", ", layout = channels_last")
                .replace("[1, 1, 2, 2]", "[1, 5, 1, 1]"),
        ),
        (
            "not the lowest",
            format!(
                "const %pads: s64[8] = {sides}\n%p = pad(%x, %pads)\n%y = max_pool(%p) {{kernel = [2, 2]}}"
            ),
        ),
        (
            "ceil_mode",
            format!(
                "const %pads: s64[8] = {sides}\n%p = pad(%x, %pads)\n%y = average_pool(%p) {{kernel = [2, 2], ceil_mode}}"
            ),
        ),
        (
            "own padding is not counted",
            format!(
                "const %pads: s64[8] = {sides}\n%p = pad(%x, %pads)\n%y = average_pool(%p) {{kernel = [2, 2], pads = [1, 1, 0, 0]}}"
            ),
        ),
        (
            "in the padding altogether",
            format!(
                "const %pads: s64[8] = {sides}\n%p = pad(%x, %pads)\n%y = average_pool(%p) {{kernel = [1, 2]}}"
            ),
        ),
    ];
    for (reason, body) in &cases {
        all_refused(&FoldPad, "f32[n, 1, 4, 4]", &[(reason, "%y", body)]);
    }
    let wrong_zero = "const %pads: s64[8] = [0, 0, 1, 1, 0, 0, 1, 1]
         const %v: u8<s=0.1, z=7>[] = [0]
         %p = pad(%x, %pads, %v)
         const %w: s8<s=0.5>[1, 1, 3, 3] = fill(3)
         %y = qconv(%p, %w) {strides = [1, 1], out = u8<s=0.7, z=5>}";
    all_refused(&FoldPad, "u8<s=0.1, z=7>[1, 1, 4, 4]", &[("not real 0", "%y", wrong_zero)]);
}

#[test]
fn fold_activation() {
    all_refused(
        &FoldActivation,
        "f32[2, 4]",
        &[
            ("read elsewhere", "%y, %r", "%r = relu(%x)\n%y = quantize(%r) {out = u8<s=0.1>}"),
            ("read elsewhere", "%y, %z", "%r = relu(%x)\n%y = relu(%r)\n%z = neg(%r)"),
            (
                "not per tensor",
                "%y",
                "%r = relu(%x)\n%y = quantize(%r) {out = u8<axis=0, s=[0.1, 0.2], z=[0, 0]>}",
            ),
            (
                "cross each other",
                "%y",
                "%r = clip(%x) {min = 2.0, max = 1.0}\n%y = quantize(%r) {out = u8<s=0.1>}",
            ),
        ],
    );
}

#[test]
fn remove_identity_keeps_what_flips_negative_zero() {
    for body in [
        "const %c: f32[] = [0.0]\n%y = add(%x, %c)",
        "const %c: f32[] = [-0.0]\n%y = sub(%x, %c)",
        "const %c: f32[] = [0.0]\n%y = sub(%c, %x)",
        // Broadcasting makes more of it.
        "const %c: f32[2, 4] = fill(1.0)\n%y = mul(%x, %c)",
        "const %c: f32[1, 1] = fill(1.0)\n%y = mul(%x, %c)",
        "const %c: s64[1] = [-1]\n%y = slice(%x, %starts, %ends, %axes, %c)",
    ] {
        let consts =
            "const %starts: s64[1] = [-1]\nconst %ends: s64[1] = [-9]\nconst %axes: s64[1] = [0]\n";
        let body = if body.contains("starts") { format!("{consts}{body}") } else { body.into() };
        assert_eq!(refused(&RemoveIdentity, &model("f32[4]", "%y", &body)), "");
    }
}

#[test]
fn layout() {
    all_refused(
        &Layout,
        "f32[*]",
        &[("rank is not known", "%y", "%y = max_pool(%x) {kernel = [2, 2]}")],
    );
}

#[test]
fn layout_does_not_mix_layouts_without_a_transpose() {
    let text = model(
        "f32[1, 4, 4, 4]",
        "%y",
        "%a = max_pool(%x) {kernel = [1, 1]}
         %r = relu(%a)
         %y = max_pool(%r) {kernel = [2, 2], layout = channels_last}",
    );
    let mut before = graph(&text);
    let expected = super::outputs(&before);
    let report = run(&Layout, &mut before);
    assert!(report.refusals[0].reason.contains("the other layout"), "{:?}", report.refusals);
    assert_eq!(super::outputs(&before), expected);
}
