//! Random quantized networks mean the same before and after.

use crate::support::{Random, graph, most_steps, run, same_bits, text};
use proptest::prelude::*;
use requant_graph::Graph;
use requant_graph::pass::Pass;
use requant_graph::passes::{
    FoldZeroPoint, FuseLut, FuseQdq, FuseRequantize, FuseResidual, PropagateQdq, sign,
};
use requant_ir::DType;
use std::fmt::Write;

/// A network under construction: float values between `quantize` and `dequantize`.
struct Net {
    random: Random,
    body: String,
    count: usize,
    /// Dequantized values, with extents and the type of what they come from.
    values: Vec<(String, [usize; 4], String)>,
}

impl Net {
    fn name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("%{kind}{}", self.count)
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.body, "{line}").unwrap();
    }

    fn elem(&mut self) -> String {
        let scale = self.random.float(0.02, 0.3);
        if self.random.coin() {
            format!("s8<s={scale}, z={}>", self.random.below(256) as i64 - 128)
        } else {
            format!("u8<s={scale}, z={}>", self.random.below(256))
        }
    }

    fn integers(&mut self, n: usize, low: i64, high: i64) -> String {
        let items: Vec<String> = (0..n)
            .map(|_| (low + self.random.below((high - low + 1) as u64) as i64).to_string())
            .collect();
        format!("[{}]", items.join(", "))
    }

    fn floats(&mut self, n: usize, low: f32, high: f32) -> String {
        let items: Vec<String> =
            (0..n).map(|_| format!("{:e}", self.random.float(low, high))).collect();
        format!("[{}]", items.join(", "))
    }

    fn current(&self) -> (String, [usize; 4], String) {
        self.values.last().unwrap().clone()
    }

    /// Quantizes and dequantizes `float`; `elem` is random if absent.
    fn quantized(&mut self, float: &str, dims: [usize; 4], elem: Option<String>) {
        let same = elem.is_some();
        let elem = match elem {
            Some(elem) => elem,
            None => self.elem(),
        };
        let clamp = match self.random.below(4) {
            0 if !same && elem.starts_with('s') => ", clamp = [-100, 90]",
            1 if !same && elem.starts_with('u') => ", clamp = [17, 231]",
            _ => "",
        };
        let (q, d) = (self.name("q"), self.name("d"));
        self.line(format_args!("{q} = quantize({float}) {{out = {elem}{clamp}}}"));
        self.line(format_args!("{d} = dequantize({q})"));
        self.values.push((d, dims, elem));
    }

    fn weights(&mut self, out: usize, inner: usize, dims: &str) -> String {
        let (c, w) = (self.name("c"), self.name("w"));
        let n = out * inner;
        match self.random.below(4) {
            0 => {
                let (values, scales) = (self.integers(n, -40, 40), self.floats(out, 0.01, 0.05));
                let zeros = self.integers(out, -3, 3);
                self.line(format_args!(
                    "const {c}: s8<axis=0, s={scales}, z={zeros}>{dims} = {values}"
                ));
            }
            1 => {
                let values = self.integers(n, 80, 170);
                self.line(format_args!("const {c}: u8<s=0.03, z=125>{dims} = {values}"));
            }
            2 => {
                let values = self.integers(n, -128, 127);
                self.line(format_args!("const {c}: s8<s=0.01>{dims} = {values}"));
            }
            _ => {
                let values: Vec<String> = (0..n)
                    .map(|_| format!("{:e}", (self.random.below(101) as f32 - 50.0) * 0.0213))
                    .collect();
                self.line(format_args!("const {w}: f32{dims} = [{}]", values.join(", ")));
                return w;
            }
        }
        self.line(format_args!("{w} = dequantize({c})"));
        w
    }

    fn bias(&mut self, n: usize) -> String {
        let b = self.name("b");
        match self.random.below(3) {
            0 => return "_".to_owned(),
            1 => {
                let values = self.floats(n, -2.0, 2.0);
                self.line(format_args!("const {b}: f32[{n}] = {values}"));
            }
            _ => {
                let c = self.name("c");
                let values = self.integers(n, -3000, 3000);
                self.line(format_args!("const {c}: s32<s=0.0007>[{n}] = {values}"));
                self.line(format_args!("{b} = dequantize({c})"));
            }
        }
        b
    }

    fn block(&mut self, kind: u64) {
        let (x, dims, elem) = self.current();
        let [n, c, h, w] = dims;
        match kind {
            0 => {
                let depthwise = self.random.coin();
                let (out, inner, groups) = if depthwise { (c, 1, c) } else { (4, c, 1) };
                let k = if h >= 3 && w >= 3 && self.random.coin() { 3 } else { 1 };
                let pad = k / 2;
                let weights =
                    self.weights(out, inner * k * k, &format!("[{out}, {inner}, {k}, {k}]"));
                let bias = self.bias(out);
                let y = self.name("y");
                self.line(format_args!(
                    "{y} = conv({x}, {weights}, {bias}) {{strides = [1, 1], pads = [{pad}, {pad}, {pad}, {pad}], groups = {groups}}}"
                ));
                self.quantized(&y, [n, out, h, w], None);
            }
            1 => {
                let same: Vec<_> = self.values.iter().filter(|v| v.1 == dims).cloned().collect();
                let other = self.random.pick(&same).0.clone();
                let y = self.name("y");
                let (a, b) = if self.random.coin() { (&x, &other) } else { (&other, &x) };
                self.line(format_args!("{y} = add({a}, {b})"));
                self.quantized(&y, dims, None);
            }
            2 => {
                let (q, k, y) = (self.name("c"), self.name("k"), self.name("y"));
                let values = self.integers(c, -128, 127);
                self.line(format_args!("const {q}: s8<s=0.02, z=5>[1, {c}, 1, 1] = {values}"));
                self.line(format_args!("{k} = dequantize({q})"));
                self.line(format_args!("{y} = mul({x}, {k})"));
                self.quantized(&y, dims, None);
            }
            3 if h > 1 && w > 1 => {
                let y = self.name("y");
                self.line(format_args!(
                    "{y} = max_pool({x}) {{kernel = [2, 2], pads = [0, 1, 0, 0]}}"
                ));
                self.quantized(&y, [n, c, h - 1, w], Some(elem));
            }
            4 if h > 1 && w > 1 => {
                let y = self.name("y");
                let padding = if self.random.coin() { ", count_include_pad" } else { "" };
                self.line(format_args!(
                    "{y} = average_pool({x}) {{kernel = [2, 2], pads = [0, 1, 0, 0]{padding}}}"
                ));
                self.quantized(&y, [n, c, h - 1, w], None);
            }
            5 => self.movement(&x, dims, elem),
            _ => {
                let (a, y) = (self.name("a"), self.name("y"));
                match self.random.below(4) {
                    0 => self.line(format_args!("{y} = hard_swish({x})")),
                    1 => {
                        self.line(format_args!("{a} = sigmoid({x})"));
                        self.line(format_args!("{y} = mul({a}, {x})"));
                    }
                    2 => self.line(format_args!("{y} = leaky_relu({x}) {{alpha = 0.1}}")),
                    _ => {
                        self.line(format_args!("{a} = tanh({x})"));
                        self.line(format_args!("{y} = neg({a})"));
                    }
                }
                self.quantized(&y, dims, None);
            }
        }
    }

    /// Movement, quantized with the same parameters or others.
    fn movement(&mut self, x: &str, [n, c, h, w]: [usize; 4], elem: String) {
        let (k, y) = (self.name("k"), self.name("y"));
        let dims = match self.random.below(6) {
            0 => {
                self.line(format_args!("{y} = transpose({x}) {{perm = [0, 1, 3, 2]}}"));
                [n, c, w, h]
            }
            1 => {
                self.line(format_args!("const {k}: s64[4] = [0, -1, {w}, {h}]"));
                self.line(format_args!("{y} = reshape({x}, {k})"));
                [n, c, w, h]
            }
            2 => {
                self.line(format_args!("const {k}: s64[8] = [0, 0, 1, 0, 0, 0, 0, 1]"));
                self.line(format_args!("{y} = pad({x}, {k})"));
                [n, c, h + 1, w + 1]
            }
            3 if c <= 4 => {
                self.line(format_args!("{y} = concat({x}, {x}) {{axis = 1}}"));
                [n, 2 * c, h, w]
            }
            4 if c > 1 => {
                let (s, e) = (self.name("s"), self.name("e"));
                self.line(format_args!("const {s}: s64[1] = [1]"));
                self.line(format_args!("const {e}: s64[1] = [{c}]"));
                self.line(format_args!("{y} = slice({x}, {s}, {e}, {s})"));
                [n, c - 1, h, w]
            }
            _ => {
                self.line(format_args!("const {k}: s64[2] = [0, 0]"));
                self.line(format_args!("{y} = gather({x}, {k}) {{axis = 2}}"));
                [n, c, 2, w]
            }
        };
        let elem = if self.random.coin() { Some(elem) } else { None };
        self.quantized(&y, dims, elem);
    }
}

/// A network of the given kinds of blocks.
fn net(seed: u64, kinds: impl Fn(&mut Random) -> Vec<u64>) -> Graph {
    let mut random = Random::new(seed);
    let kinds = kinds(&mut random);
    let mut net = Net { random, body: String::new(), count: 0, values: Vec::new() };
    let dims = [1, 1 + net.random.below(4) as usize, 2 + net.random.below(4) as usize, 3];
    let elem = net.elem();
    let shape = format!("{dims:?}");
    let quantized_input = net.random.coin();
    let head = if quantized_input {
        net.line(format_args!("%start = dequantize(%x)"));
        net.values.push(("%start".to_owned(), dims, elem.clone()));
        format!("{elem}{shape}")
    } else {
        net.quantized("%x", dims, Some(elem));
        format!("f32{shape}")
    };
    for kind in kinds {
        net.block(kind);
    }
    let (last, ..) = net.current();
    let quantized = last.replace("%d", "%q");
    let last_number: usize = last.trim_start_matches("%d").parse().unwrap_or(0);
    let output = if last == "%start" {
        "%start".to_owned()
    } else {
        quantized.replace(&last_number.to_string(), &(last_number - 1).to_string())
    };
    graph(&format!("(%x: {head}) -> ({output})"), &net.body)
}

fn any_blocks(random: &mut Random) -> Vec<u64> {
    (0..1 + random.below(6)).map(|_| random.below(7)).collect()
}

fn rounds(before: &Graph, pass: &'static dyn Pass, seed: u64) -> Graph {
    let (after, _) = run(before, &[pass]);
    same_bits(before, &after, seed);
    let (again, report) = run(&after, &[pass]);
    assert_eq!(report.patches, [], "{} finds more work:\n{}", pass.info().name, text(&after));
    assert_eq!(text(&again), text(&after));
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn propagation_keeps_all_bits(seed: u64) {
        let before = net(seed, |r| (0..1 + r.below(5)).map(|_| *r.pick(&[0, 3, 5, 5])).collect());
        rounds(&before, &PropagateQdq, seed);
    }

    #[test]
    fn fusion_moves_no_result_by_more_than_a_step(seed: u64) {
        let before = net(seed, |r| vec![*r.pick(&[0, 0, 0, 1, 2, 4])]);
        let (after, _) = run(&before, &[&FuseQdq]);
        for i in 0..4 {
            prop_assert!(most_steps(&before, &after, seed ^ i) <= 1, "{}", text(&after));
        }
    }

    #[test]
    fn what_follows_fusion_keeps_all_bits(seed: u64) {
        let start = net(seed, any_blocks);
        let (fused, _) = run(&start, &[&PropagateQdq, &FuseQdq]);
        let mut graph = fused;
        for pass in [&FuseLut as &'static dyn Pass, &FuseRequantize, &FoldZeroPoint, &FuseResidual] {
            graph = rounds(&graph, pass, seed);
        }
        for to in [DType::U8, DType::I8, DType::U8] {
            let mut flipped = graph.clone();
            sign::flip(&mut flipped, to).unwrap();
            flipped.verify().unwrap();
            same_bits(&graph, &flipped, seed);
            graph = flipped;
        }
    }

    #[test]
    fn tables_keep_all_bits(seed: u64) {
        rounds(&net(seed, |_| vec![6]), &FuseLut, seed);
    }
}
