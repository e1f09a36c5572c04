//! `fuse_requantize`, `fold_zero_point` and `fuse_residual`.

use crate::support::{graph, mnemonics, refuses, run, same_bits, text};
use requant_graph::passes::{FoldZeroPoint, FuseRequantize, FuseResidual};

const CONV: &str = "const %w: s8<axis=0, s=[0.02, 0.03], z=[0, 0]>[2, 2, 1, 1] = [3, -128, 127, 5]
    const %b: s32[2] = [100, -50]";

fn product() -> (f32, f32) {
    (0.05f32 * 0.02f32, 0.05f32 * 0.03f32)
}

/// An s32 convolution, with this body after it.
fn accumulated(outputs: &str, body: &str) -> requant_graph::Graph {
    let (s0, s1) = product();
    graph(
        &format!("(%x: u8<s=0.05, z=120>[1, 2, 3, 3]) -> ({outputs})"),
        &format!(
            "{CONV}
            %a = qconv(%x, %w, %b) {{strides = [1, 1], pads = [1, 0, 0, 1], out = s32<axis=1, s=[{s0:e}, {s1:e}], z=[0, 0]>}}
            {body}"
        ),
    )
}

#[test]
fn requantization_goes_into_the_epilogue() {
    let before =
        accumulated("%y", "%y = requantize(%a) {out = u8<s=0.1, z=20>, clamp = [20, 200]}");
    let (after, _) = run(&before, &[&FuseRequantize]);
    assert_eq!(mnemonics(&after), ["qconv"]);
    insta::assert_snapshot!(text(&after));
    same_bits(&before, &after, 1);
}

#[test]
fn the_factor_of_a_product_is_part_of_its_scale() {
    let scale = (0.3f32 * 0.05f32) * 0.02f32;
    let before = graph(
        "(%x: u8<s=0.05, z=120>[3, 2]) -> (%y)",
        &format!(
            "const %w: s8<s=0.02>[2, 2] = [3, -128, 127, 5]
            %a = qmatmul(%x, %w) {{alpha = 0.3, out = s32<s={scale:e}>}}
            %y = requantize(%a) {{out = s8<s=0.01, z=2>}}"
        ),
    );
    let (after, _) = run(&before, &[&FuseRequantize]);
    assert_eq!(mnemonics(&after), ["qmatmul"]);
    same_bits(&before, &after, 1);
}

#[test]
fn requantization_is_refused() {
    let y = "%y = requantize(%a) {out = u8<s=0.1, z=20>}";
    refuses(&accumulated("%a, %y", y), &FuseRequantize, "also read elsewhere");
    refuses(
        &accumulated("%y", "%y = requantize(%a) {out = u8<s=0.1, z=20>, rounding = tflite_double}"),
        &FuseRequantize,
        "fixed-point multipliers",
    );
    refuses(
        &accumulated("%y", "%y = requantize(%a) {out = s16<s=0.1>}"),
        &FuseRequantize,
        "the result is s16",
    );
    let twice = graph(
        "(%x: u8<s=0.05, z=120>[1, 2, 3, 3]) -> (%y)",
        &format!(
            "{CONV}
            %a = qconv(%x, %w, %b) {{strides = [1, 1], out = u8<s=0.1, z=3>}}
            %y = requantize(%a) {{out = u8<s=0.2, z=20>}}"
        ),
    );
    refuses(&twice, &FuseRequantize, "two roundings are not one");
    let scaled = |attributes: &str| {
        graph(
            "(%x: u8<s=0.05, z=120>[3, 2]) -> (%y)",
            &format!(
                "const %w: s8<s=0.02>[2, 2] = [3, -128, 127, 5]
                %a = qmatmul(%x, %w) {{{attributes}}}
                %y = requantize(%a) {{out = s8<s=0.01, z=2>}}"
            ),
        )
    };
    refuses(&scaled("out = s32<s=0.002>"), &FuseRequantize, "is not the product");
    let clamped = format!("out = s32<s={:e}>, clamp = [0, 1000]", 0.05f32 * 0.02f32);
    refuses(&scaled(&clamped), &FuseRequantize, "the accumulator is clamped");
    let residual = graph(
        "(%x: u8<s=0.05, z=120>[1, 2, 3, 3], %o: u8<s=0.07>[1, 2, 3, 3]) -> (%y)",
        &format!(
            "{CONV}
            %a = qconv(%x, %w, %b, %o) {{strides = [1, 1], out = u8<s=0.1, z=20>, residual = u8<s=0.3, z=4>}}
            %y = requantize(%a) {{out = u8<s=0.2, z=20>}}"
        ),
    );
    refuses(&residual, &FuseRequantize, "has a residual added to it");
}

#[test]
fn zero_points_go_into_the_bias() {
    let before = graph(
        "(%x: u8<s=0.05, z=120>[1, 4, 3, 3]) -> (%y, %z, %m)",
        "const %w: u8<axis=0, s=[0.02, 0.03], z=[128, 7]>[2, 2, 2, 1] = [3, 128, 127, 5, 0, 255, 9, 77]
        const %b: s32[2] = [100, -50]
        const %v: s8<s=0.1>[4, 2] = [1, 2, 3, 4, 5, 6, 7, 8]
        const %r: s64[2] = [-1, 4]
        %y = qconv(%x, %w, %b) {strides = [1, 1], pads = [1, 0, 0, 1], groups = 2, out = u8<s=0.1, z=3>}
        %z = qconv(%x, %w) {strides = [2, 1], groups = 2, out = u8<s=0.2, z=3>}
        %t = reshape(%x, %r)
        %m = qmatmul(%t, %v) {out = s8<s=0.2, z=0>}",
    );
    let (after, report) = run(&before, &[&FoldZeroPoint]);
    assert_eq!(report.applied("fold_zero_point"), 2);
    insta::assert_snapshot!(text(&after));
    same_bits(&before, &after, 1);
    assert_eq!(
        text(&run(&after, &[&FoldZeroPoint]).0),
        text(&after),
        "a second run changes nothing"
    );
}

#[test]
fn zero_points_are_refused() {
    let two = graph(
        "(%x: u8<s=0.05, z=120>[3, 2], %w: s8<s=0.1>[2, 2]) -> (%y)",
        "%y = qmatmul(%x, %w) {out = s8<s=0.2>}",
    );
    refuses(&two, &FoldZeroPoint, "the weights are not constant");
    let bias = |head: &str, b: &str| {
        graph(
            &format!("(%x: u8<s=0.05, z=120>[3, 2]{head}) -> (%y)"),
            &format!(
                "const %w: s8<s=0.1>[2, 2] = [-1, -2, -3, -4]
                {b}
                %y = qmatmul(%x, %w, %b) {{out = s8<s=0.2>}}"
            ),
        )
    };
    refuses(&bias(", %b: s32[2]", ""), &FoldZeroPoint, "the bias is not constant");
    refuses(
        &bias("", "const %b: s32[2] = [2147483647, 0]"),
        &FoldZeroPoint,
        "channel 0 would exceed 32 bits",
    );
    let stack = graph(
        "(%x: u8<s=0.05, z=120>[2, 3, 2]) -> (%y)",
        "const %w: s8<s=0.1>[2, 2, 2] = fill(3)
        %y = qmatmul(%x, %w) {out = s8<s=0.2>}",
    );
    refuses(&stack, &FoldZeroPoint, "not one matrix");
}

const TWO: &str = "const %w: s8<s=0.02>[2, 2, 1, 1] = [3, -128, 127, 5]
    %c = qconv(%x, %w) {strides = [1, 1], out = u8<s=0.1, z=20>, clamp = [20, 200]}";

#[test]
fn a_residual_is_added_in_the_epilogue() {
    for sum in ["%y = qadd(%c, %o)", "%y = qadd(%o, %c)"] {
        let before = graph(
            "(%x: u8<s=0.05, z=120>[1, 2, 3, 3], %o: s8<s=0.07, z=-9>[1, 2, 3, 3]) -> (%y)",
            &format!("{TWO}\n{sum} {{out = u8<s=0.2, z=3>, clamp = [0, 100]}}"),
        );
        let (after, _) = run(&before, &[&FuseResidual]);
        assert_eq!(mnemonics(&after), ["qconv"]);
        insta::assert_snapshot!(text(&after));
        same_bits(&before, &after, 1);
    }
}

#[test]
fn of_two_convolutions_the_later_takes_the_addition() {
    let before = graph(
        "(%x: u8<s=0.05, z=120>[n, 2, 3, 3]) -> (%y)",
        &format!(
            "{TWO}
            %d = qconv(%x, %w) {{strides = [1, 1], out = u8<s=0.3, z=20>}}
            %e = qconv(%d, %w) {{strides = [1, 1], out = u8<s=0.2, z=20>}}
            %y = qadd(%e, %c) {{out = u8<s=0.2, z=3>}}"
        ),
    );
    let (after, _) = run(&before, &[&FuseResidual]);
    insta::assert_snapshot!(text(&after));
    same_bits(&before, &after, 1);
}

#[test]
fn residuals_are_refused() {
    let add = |other: &str, outputs: &str, conv: &str| {
        graph(
            &format!("(%x: u8<s=0.05, z=120>[1, 2, 3, 3], %o: u8<s=0.07>{other}) -> ({outputs})"),
            &format!("{conv}\n%y = qadd(%c, %o) {{out = u8<s=0.2, z=3>}}"),
        )
    };
    refuses(&add("[1, 2, 1, 1]", "%y", TWO), &FuseResidual, "not certainly of the same shape");
    refuses(&add("[1, n, 3, 3]", "%y", TWO), &FuseResidual, "not certainly of the same shape");
    refuses(&add("[1, 2, 3, 3]", "%y, %c", TWO), &FuseResidual, "read elsewhere");
    let fixed = TWO.replace("clamp = [20, 200]", "rounding = tflite_double");
    refuses(&add("[1, 2, 3, 3]", "%y", &fixed), &FuseResidual, "round differently");
    let again = "const %w: s8<s=0.02>[2, 2, 1, 1] = [3, -128, 127, 5]
        %c = qconv(%x, %w, _, %o) {strides = [1, 1], out = u8<s=0.1, z=20>, residual = u8<s=0.3, z=4>}";
    refuses(&add("[1, 2, 3, 3]", "%y", again), &FuseResidual, "has a residual already");
    let signed = TWO.replace("u8<s=0.1, z=20>, clamp = [20, 200]", "s8<s=0.1, z=20>");
    refuses(&add("[1, 2, 3, 3]", "%y", &signed), &FuseResidual, "of the other signedness");
}
