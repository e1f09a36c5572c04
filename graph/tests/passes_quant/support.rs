//! Graphs from text, passes on them, and what they compute.

use requant_graph::pass::{Pass, PassReport, Pipeline, PipelineOptions};
use requant_graph::{Graph, NodeKind, Outlet, reference};
use requant_ir::{DType, Model, Tensor};

/// A graph with this head (`(%x: …) -> (%y)`) and body.
pub(crate) fn graph(head: &str, body: &str) -> Graph {
    let text = format!("requant 1\ngraph main{head} {{\n{body}\n}}\n");
    let model = Model::parse_text(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    Graph::from_model(&model).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Runs these passes.
pub(crate) fn run(graph: &Graph, passes: &[&'static dyn Pass]) -> (Graph, PassReport) {
    let mut after = graph.clone();
    let report = Pipeline::new(passes.to_vec())
        .run(&mut after, &PipelineOptions::default())
        .unwrap_or_else(|e| panic!("{e:?}\n{}", text(graph)));
    after.collect_garbage();
    after.verify().unwrap();
    (after, report)
}

/// The text form.
pub(crate) fn text(graph: &Graph) -> String {
    graph.to_model().to_string()
}

/// Asserts that `pass` leaves the graph as it is and says so in these words.
pub(crate) fn refuses(graph: &Graph, pass: &'static dyn Pass, reason: &str) {
    let (after, report) = run(graph, &[pass]);
    let reasons: Vec<_> = report.refused(pass.info().name).map(|r| r.reason.as_str()).collect();
    assert!(reasons.iter().any(|r| r.contains(reason)), "`{reason}` is not among {reasons:?}");
    assert_eq!(text(graph), text(&after), "the graph changed");
}

/// A reproducible sequence.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// One of the two with even odds.
    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// In `low..high`.
    pub(crate) fn float(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.below(1 << 24) as f32 / (1 << 24) as f32)
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

/// Random tensors for every input; symbolic extents become 2.
pub(crate) fn inputs(graph: &Graph, random: &mut Random) -> Vec<(String, Tensor)> {
    graph
        .inputs()
        .iter()
        .map(|&node| {
            let fact = graph.fact(Outlet { node, slot: 0 });
            let dims: Vec<usize> =
                fact.ty.dims.iter().flatten().map(|d| d.fixed().unwrap_or(2)).collect();
            let n: usize = dims.iter().product();
            let tensor = match fact.ty.dtype() {
                DType::F32 => {
                    let values: Vec<f32> = (0..n).map(|_| random.float(-4.0, 4.0)).collect();
                    Tensor::from_slice(&dims, &values).unwrap()
                }
                dtype => {
                    let bytes = dtype.bytes_for(n).unwrap();
                    let bytes: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
                    Tensor::copy_from(fact.ty.elem.clone(), dims, &bytes).unwrap()
                }
            };
            (fact.name.to_string(), tensor)
        })
        .collect()
}

/// All outputs by the reference interpreter.
pub(crate) fn outputs(graph: &Graph, inputs: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let inputs: Vec<(&str, Tensor)> =
        inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let recording = reference::run(graph, &inputs, &reference::RunOptions::default())
        .unwrap_or_else(|e| panic!("{e}\n{}", text(graph)));
    recording.outputs.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect()
}

/// Asserts that both graphs give the same bits.
pub(crate) fn same_bits(before: &Graph, after: &Graph, seed: u64) {
    let inputs = inputs(before, &mut Random::new(seed));
    for ((name, a), (_, b)) in outputs(before, &inputs).iter().zip(outputs(after, &inputs)) {
        assert_eq!(a.elem(), b.elem(), "{name}");
        assert!(
            a.dims() == b.dims() && a.bytes() == b.bytes(),
            "`{name}` differs\nbefore: {a:?}\nafter: {b:?}\n{}\n{}",
            before.to_model().to_text(&requant_ir::text::TextOptions::full()),
            text(after),
        );
    }
}

/// The largest difference of any quantized output, in steps; float outputs must agree to a part in
/// 10⁵ of the largest.
pub(crate) fn most_steps(before: &Graph, after: &Graph, seed: u64) -> i64 {
    let inputs = inputs(before, &mut Random::new(seed));
    let mut most = 0;
    for ((name, a), (_, b)) in outputs(before, &inputs).iter().zip(outputs(after, &inputs)) {
        assert_eq!((a.elem(), a.dims()), (b.elem(), b.dims()), "{name}");
        if let (Some(a), Some(b)) = (a.to_i64(), b.to_i64()) {
            let steps = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).max();
            most = most.max(steps.unwrap_or(0));
        } else {
            let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
            let largest = a.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() <= 1e-5 * largest, "`{name}`: {a} and {b}");
            }
        }
    }
    most
}

/// Mnemonics of all operators, in order.
pub(crate) fn mnemonics(graph: &Graph) -> Vec<&'static str> {
    graph
        .topo()
        .into_iter()
        .filter_map(|n| match &graph.node(n).kind {
            NodeKind::Op(op) => Some(op.mnemonic()),
            _ => None,
        })
        .collect()
}
