//! The text form, by hand-written examples.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use requant_ir::{Model, Op, TextError, TextOptions};

const CONV: &str = r#"requant 1
producer "test"
metadata "a \"b\"" = "c\u{a}d"

graph main(%x: f32[batch, 3, 8, 8]) -> (%y) {
  %q = quantize(%x) {out = u8<s=0.1, z=128>}
  const %w: s8<axis=0, s=[0.02, 0.5], narrow>[2, 3, 1, 1] = [1, -2, 3, -4, 5, -127]
  const %b: s32[2] = [0, -2147483648]
  %y: u8<s=0.2, z=3>[batch, 2, 8, 8] = qconv(%q, %w, %b) {strides = [1, 1], out = u8<s=0.2, z=3>, clamp = [3, 255]} "conv/1" from ["Conv_0", "Relu 1"]
}
"#;

#[test]
fn canonical_text_prints_as_it_was_read() {
    let model = Model::parse_text(CONV).unwrap();
    assert_eq!(model.to_text(&TextOptions::full()), CONV);
    assert_eq!(model.to_string(), CONV);
    assert_eq!(model.graphs[0].nodes[0].name, "q");
    assert_eq!(model.graphs[0].nodes[1].origin, ["Conv_0", "Relu 1"]);
    assert_eq!(model.metadata, [("a \"b\"".into(), "c\nd".into())]);
}

#[test]
fn what_is_left_out_takes_its_default() {
    let text = "
        // header, types, names and default attributes are optional
        graph g(%x, %\"odd name\": f32[?, n, \"two words\"]) -> (%c) {
          %a, %b = split(%x) {axis = -1}
          %c = max_pool(%a) {kernel = [2, 2]} // trailing comment
          %d = clip(%b) {max = 6}
          %e = reduce_mean(%\"odd name\")
          const %k: f16[*] = [1]
        }";
    let message = Model::parse_text(text).unwrap_err().to_string();
    assert_eq!(message, "line 8, column 30: a constant's extents are all numbers");
    let model = Model::parse_text(&text.replace("[*]", "[1]")).unwrap();
    let printed = model.to_text(&TextOptions::full());
    assert_eq!(Model::parse_text(&printed).unwrap(), model);
    let Op::Pool(pool) = &model.graphs[0].nodes[1].op else { panic!("not a pool") };
    assert_eq!((&pool.strides[..], &pool.dilations[..]), (&[1, 1][..], &[1, 1][..]));
}

#[test]
fn long_constants_are_left_out_unless_asked_for() {
    let list = (0..20).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    let text = format!(
        "graph g() -> (%a, %b) {{ const %a: u8[20] = [{list}]\n const %b: s4[21] = fill(-8) }}"
    );
    let model = Model::parse_text(&text).unwrap();
    let short = model.to_string();
    assert!(short.contains("const %a: u8[20] = #"), "{short}");
    let error = Model::parse_text(&short).unwrap_err().to_string();
    assert!(error.contains("left out"), "{error}");
    let full = model.to_text(&TextOptions::full());
    assert!(full.contains("hex \"000102"), "{full}");
    assert_eq!(Model::parse_text(&full).unwrap(), model);
}

#[test]
fn errors_name_line_and_column() {
    let cases = [
        ("graph g() -> (%y) {}", "line 1, column 15: output `%y` is not defined"),
        ("graph g(%x) -> () {\n  %x = relu(%x)\n}", "line 2, column 3: `%x` is already defined"),
        ("graph g() -> () {\n  %x = relu(%x)\n}", "line 2, column 13: `%x` is not defined above"),
        ("graph g(%x) -> () { %y = rleu(%x) }", "line 1, column 26: unknown operator `rleu`"),
        (
            "graph g(%x) -> () { %y = relu(%x) {alpha = 1} }",
            "line 1, column 36: unknown attribute `alpha`",
        ),
        ("graph g(%x) -> () { %y = concat(%x) }", "line 1, column 26: attribute `axis` is missing"),
        ("graph g(%x: f31[2]) -> () {}", "line 1, column 13: `f31` is no storage type"),
        ("graph g(%x: u8<s=1[2]) -> () {}", "line 1, column 19: expected `,`, found `[`"),
        (
            "graph g() -> () { const %a: u8[2] = [1, 256] }",
            "line 1, column 41: `256` is no element of type u8",
        ),
        (
            "graph g() -> () { const %a: u8[2] = [1] }",
            "line 1, column 37: u8[2] needs 2 bytes, but 1 are there",
        ),
        (
            "graph g() -> () { const %a: u8[999999999999] = fill(1) }",
            "line 1, column 48: fills take more than the limit of 67108864 bytes",
        ),
        ("\"open", "line 1, column 1: a string is not closed on its line"),
        ("requant 2", "line 1, column 9: this text needs a newer reader: only version 1 is known"),
        ("é %", "line 1, column 1: expected `graph`, `metadata` or `producer`, found `é`"),
    ];
    for (text, expected) in cases {
        let error = Model::parse_text(text).unwrap_err();
        assert!(matches!(error, TextError::Syntax { .. }), "{text}: {error:?}");
        assert_eq!(error.to_string(), expected, "{text}");
    }
}

#[test]
fn floats_keep_their_bits() {
    let text = "graph g() -> (%a, %b, %c) {
        const %a: f32[7] = [-0.0, 1e-45, 3.4028235e38, inf, -inf, nan_7fc00001, nan_ff800001]
        const %b: f16[3] = [0.1, 65504, -inf]
        const %c: f64[2] = [5e-324, -0.1]
    }";
    let model = Model::parse_text(text).unwrap();
    let bits: Vec<u32> = model.graphs[0].values[0]
        .data
        .as_ref()
        .unwrap()
        .as_slice::<f32>()
        .unwrap()
        .iter()
        .map(|v| v.to_bits())
        .collect();
    assert_eq!(
        bits,
        [0x8000_0000, 1, 0x7f7f_ffff, 0x7f80_0000, 0xff80_0000, 0x7fc0_0001, 0xff80_0001]
    );
    assert_eq!(Model::parse_text(&model.to_string()).unwrap(), model);
}
