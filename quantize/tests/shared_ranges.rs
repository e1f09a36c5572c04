//! Tensors that share parameters with the result of an operator of fixed range.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use requant_ir::{Model, Tensor};
use requant_quantize::{QuantizeError, QuantizeOptions, Report, quantize};

fn report(ops: &str, samples: &[[f32; 4]]) -> Report {
    let text = format!(
        "graph g(%x: f32[1, 2, 1, 2]) -> (%y) {{
          const %w: f32[2, 2, 1, 1] = [1, 0, 0, 1]
          const %w4: f32[1, 4, 1, 1] = [1, 1, 1, 1]
          %c = conv(%x, %w) {{strides = [1, 1]}}
          {ops}
          %y = conv(%k, %w4) {{strides = [1, 1]}}
        }}"
    );
    let model = Model::parse_text(&text).unwrap();
    let samples = samples.iter().map(|s| {
        let tensor = Tensor::from_slice(&[1, 2, 1, 2], s).unwrap();
        Ok::<_, QuantizeError>(vec![("x".to_owned(), tensor)])
    });
    quantize(&model, samples, &QuantizeOptions::default()).unwrap().1
}

fn scale(report: &Report, tensor: &str) -> f32 {
    report.activations.iter().find(|a| a.tensor == tensor).unwrap().scale
}

#[test]
fn a_sigmoid_beside_larger_values_takes_their_range() {
    let samples = [[-3.0, 30.0, 1.0, 0.5], [20.0, 0.0, -8.0, 100.0]];
    let r = report("%s = sigmoid(%c) %k = concat(%s, %c) {axis = 1}", &samples);
    // −8 … 100 in 255 steps
    for tensor in ["s", "c", "k"] {
        assert_eq!(scale(&r, tensor), (108.0f64 / 255.0) as f32, "{tensor}");
    }
}

#[test]
fn a_sigmoid_among_its_like_keeps_its_range_though_it_reaches_1() {
    let samples = [[-3.0, 30.0, 1.0, 0.5], [20.0, 0.0, -8.0, 100.0]];
    let r = report("%s = sigmoid(%c) %k = concat(%s, %s) {axis = 1}", &samples);
    assert_eq!(scale(&r, "s"), 1.0 / 256.0);
    assert_eq!(scale(&r, "k"), 1.0 / 256.0);
}

#[test]
fn two_fixed_ranges_are_joined() {
    let samples = [[-3.0, 3.0, 1.0, 0.5]];
    let r = report("%s = sigmoid(%c) %t = tanh(%c) %k = concat(%t, %s) {axis = 1}", &samples);
    // −1 … 255/256
    assert_eq!(scale(&r, "k"), ((1.0 + 255.0 / 256.0) / 255.0f64) as f32);
}
