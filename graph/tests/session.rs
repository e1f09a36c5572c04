//! Compiling, planning and running: the interface, and small models against the reference interpreter.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use requant_graph::pass::{Level, PipelineOptions};
use requant_graph::{
    Class, CompileError, CompileOptions, CompiledModel, Fate, Graph, RunError, Session, Threads,
    reference,
};
use requant_ir::{Model, Tensor};
use requant_kernels::Cpu;
use std::time::Duration;

fn graph(text: &str) -> Graph {
    Graph::from_model(&Model::parse_text(text).unwrap()).unwrap()
}

fn at(level: Level) -> CompileOptions {
    CompileOptions { passes: PipelineOptions { level, ..Default::default() }, ..Default::default() }
}

fn compile(text: &str) -> CompiledModel {
    CompiledModel::compile(graph(text), &CompileOptions::default()).unwrap()
}

fn f32s(dims: &[usize], seed: u32) -> Tensor {
    let n: usize = dims.iter().product();
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let values: Vec<f32> = (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as i32 as f32) / (i32::MAX as f32) * 3.0
        })
        .collect();
    Tensor::from_slice(dims, &values).unwrap()
}

fn bytes(elem: &str, dims: &[usize], seed: u32) -> Tensor {
    let text = format!("graph g(%x: {elem}[1]) -> (%x) {{}}");
    let ty = Model::parse_text(&text).unwrap().graphs[0].values[0].ty.clone().unwrap();
    let data: Vec<u8> =
        f32s(dims, seed).to_f32().unwrap().iter().map(|v| (v * 85.0) as i32 as u8).collect();
    Tensor::copy_from(ty.elem, dims.to_vec(), &data).unwrap()
}

/// What the interpreter makes of the optimized graph.
fn interpret(model: &CompiledModel, inputs: &[(&str, Tensor)]) -> Vec<Tensor> {
    let run = reference::run(model.graph(), inputs, &reference::RunOptions::default()).unwrap();
    run.outputs.into_iter().map(|(_, t)| t).collect()
}

/// Runs on every instruction set with 1 and 2 threads, and compares every output with the interpreter's:
/// integers bit for bit, floats to 1e-5.
fn agrees(text: &str, level: Level, inputs: &[(&str, Tensor)]) {
    for isa in Cpu::available() {
        for threads in [1, 2] {
            let options = CompileOptions {
                cpu: Cpu::with_isa(isa).unwrap(),
                threads: Threads::Count(threads),
                ..at(level)
            };
            let model = CompiledModel::compile(graph(text), &options).unwrap();
            let want = interpret(&model, inputs);
            let mut session = model.session();
            for _ in 0..2 {
                let got = session.run(inputs).unwrap();
                for ((name, got), want) in got.iter().zip(&want) {
                    assert_eq!(got.elem(), want.elem(), "{name}");
                    assert_eq!(got.dims(), want.dims(), "{name}");
                    match (got.to_f32(), want.to_f32()) {
                        (Some(a), Some(b)) => {
                            let worst = a
                                .iter()
                                .zip(&b)
                                .map(|(a, b)| (a - b).abs() / b.abs().max(1.0))
                                .fold(0.0, f32::max);
                            assert!(
                                worst < 1e-5,
                                "{name} on {isa}, {threads} threads: off by {worst}"
                            );
                        }
                        _ => assert_eq!(
                            got.bytes(),
                            want.bytes(),
                            "{name} on {isa}, {threads} threads"
                        ),
                    }
                }
            }
        }
    }
}

const TWO: &str = "graph g(%image: f32[n, 4], %scale: f32[n, 1]) -> (%y) {
  %m = mul(%image, %scale)
  %y = relu(%m)
}";

#[test]
fn models_and_sessions_may_cross_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<CompiledModel>();
    sent::<Session>();
}

#[test]
fn inputs_are_checked_by_name_type_and_shape() {
    let model = compile(TWO);
    let mut session = model.session();
    let (image, scale) = (f32s(&[2, 4], 1), f32s(&[2, 1], 2));
    let run = |session: &mut Session, inputs: &[(&str, &Tensor)]| {
        let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (*n, (*t).clone())).collect();
        session.run(&inputs).map(|o| o[0].1.clone())
    };
    let e = run(&mut session, &[("imgae", &image), ("scale", &scale)]).unwrap_err();
    assert_eq!(e.to_string(), "the model has no input `imgae`; did you mean `image`?");
    let e = run(&mut session, &[("logits", &image)]).unwrap_err();
    assert!(matches!(e, RunError::UnknownInput { nearest: None, .. }), "{e}");
    let e = run(&mut session, &[("image", &image)]).unwrap_err();
    assert_eq!(e.to_string(), "input `scale` is missing");
    let e = run(&mut session, &[("image", &image), ("image", &image)]).unwrap_err();
    assert!(matches!(e, RunError::DuplicateInput { .. }), "{e}");
    let codes = Tensor::from_slice(&[2, 4], &[0u8; 8]).unwrap();
    let e = run(&mut session, &[("image", &codes), ("scale", &scale)]).unwrap_err();
    assert_eq!(e.to_string(), "input `image` is f32, but u8 is given");
    let e = run(&mut session, &[("image", &f32s(&[2, 5], 1)), ("scale", &scale)]).unwrap_err();
    assert_eq!(e.to_string(), "input `image` is f32[n, 4], the shape [2, 5] does not fit");
    let e = run(&mut session, &[("image", &f32s(&[8], 1)), ("scale", &scale)]).unwrap_err();
    assert!(matches!(e, RunError::InputShape { .. }), "{e}");
    let e = run(&mut session, &[("image", &image), ("scale", &f32s(&[3, 1], 1))]).unwrap_err();
    assert_eq!(e.to_string(), "input `scale` makes dimension `n` 3, but another input makes it 2");
    // A refused run leaves the session usable, whatever the order of the inputs.
    assert_eq!(run(&mut session, &[("scale", &scale), ("image", &image)]).unwrap().dims(), [2, 4]);
}

#[test]
fn plans_follow_the_shapes_and_are_kept() {
    let model = compile(TWO);
    let mut session = model.session();
    let mut run = |n: usize| {
        let inputs = [("image", f32s(&[n, 4], 7)), ("scale", f32s(&[n, 1], 8))];
        let got = session.run(&inputs).unwrap()[0].1.clone();
        assert_eq!(got, interpret(&model, &inputs)[0]);
        session.plan().unwrap().clone()
    };
    let (first, _) = (run(1), run(5));
    assert!(std::sync::Arc::ptr_eq(&first, &run(1)));
    assert!(matches!(
        model.plan(&[vec![1, 4]]),
        Err(CompileError::InputCount { expected: 2, got: 1 })
    ));
}

#[test]
fn the_form_without_allocation_keeps_its_inputs() {
    let model = compile(TWO);
    let mut session = model.session();
    assert!(matches!(session.set_input(0, &[]), Err(RunError::NoShapes)));
    session.set_shapes(&[&[1, 4], &[1, 1]]).unwrap();
    assert!(matches!(session.run_in_place(), Err(RunError::MissingInput { .. })));
    assert!(matches!(
        session.set_input(0, &[0; 15]),
        Err(RunError::InputBytes { expected: 16, got: 15, .. })
    ));
    assert!(matches!(session.set_input(2, &[]), Err(RunError::Index { index: 2, count: 2, .. })));
    let image: Vec<u8> = [1f32, -2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    session.set_input(0, &image).unwrap();
    session.set_input(1, &2f32.to_le_bytes()).unwrap();
    for _ in 0..3 {
        session.run_in_place().unwrap();
        let y: Vec<f32> = session
            .output(0)
            .unwrap()
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(y, [2.0, 0.0, 6.0, 8.0]);
    }
    assert!(session.output(1).is_err());
    let mut times = Vec::new();
    session.run_profiled(&mut times).unwrap();
    assert_eq!(times.len(), session.plan().unwrap().len());
}

#[test]
fn outputs_may_be_inputs_constants_and_views() {
    let text = "graph g(%x: f32[2, 3]) -> (%x, %r, %c, %y, %y2) {
      const %shape: s64[1] = [6]
      const %c: f32[2] = [1, 2]
      %r = reshape(%x, %shape)
      %y = neg(%r)
      %y2 = reshape(%y, %shape)
    }";
    let x = f32s(&[2, 3], 3);
    let model = CompiledModel::compile(graph(text), &at(Level::O0)).unwrap();
    let outputs = model.session().run(&[("x", x.clone())]).unwrap();
    assert_eq!(outputs[0].1, x);
    assert_eq!((outputs[1].1.bytes(), outputs[1].1.dims()), (x.bytes(), &[6][..]));
    assert_eq!(outputs[2].1.to_f32().unwrap(), [1.0, 2.0]);
    assert_eq!(outputs[3].1.bytes(), outputs[4].1.bytes());
    assert_eq!(outputs[3].1.to_f32().unwrap()[0], -x.to_f32().unwrap()[0]);
}

#[test]
fn memory_is_reused_and_bounded() {
    let chain = "graph g(%x: f32[1024]) -> (%e) {
      %a = exp(%x) %b = sqrt(%a) %c = neg(%b) %d = add(%c, %c) %e = abs(%d)
    }";
    let model = CompiledModel::compile(graph(chain), &at(Level::O0)).unwrap();
    let memory = *model.plan(&[vec![1024]]).unwrap().memory();
    // exp, sqrt and neg share a block, add needs a second one, abs runs in that.
    assert_eq!((memory.arena, memory.lower_bound), (8192, 8192));
    let tight = CompileOptions { arena_bytes: Some(8191), ..at(Level::O0) };
    let e = CompiledModel::compile(graph(chain), &tight).map(drop).unwrap_err();
    assert!(matches!(e, CompileError::ArenaBudget { needed: Some(8192), budget: 8191 }), "{e}");
    agrees(chain, Level::O0, &[("x", f32s(&[1024], 5))]);
}

#[test]
fn a_shape_that_no_memory_holds_is_refused_before_it_is_allocated() {
    let text =
        "graph g(%x: f32[n, 4]) -> (%y) { %t = transpose(%x) {perm = [1, 0]} %y = matmul(%x, %t) }";
    let model = compile(text);
    for n in [1 << 20, 1 << 40, usize::MAX / 16] {
        let e = model.plan(&[vec![n, 4]]).map(drop).unwrap_err();
        assert!(
            matches!(
                e,
                CompileError::ArenaBudget { .. }
                    | CompileError::TooLarge { .. }
                    | CompileError::Graph(_)
            ),
            "{n}: {e}"
        );
    }
}

#[test]
fn a_deadline_stops_between_steps() {
    let text = "graph g(%x: f32[n, 256]) -> (%e) {
      %t = transpose(%x) {perm = [1, 0]}
      %m = matmul(%x, %t) %s = softmax(%m) {axis = -1} %a = matmul(%s, %m) %e = softmax(%a) {axis = -1}
    }";
    let model = compile(text);
    let mut session = model.session();
    let inputs = [("x", f32s(&[128, 256], 1))];
    session.set_deadline(Some(Duration::ZERO));
    let e = session.run(&inputs).unwrap_err();
    assert!(matches!(e, RunError::Deadline { step: 1, .. }), "{e}");
    session.set_deadline(None);
    session.run(&inputs).unwrap();
}

#[test]
fn movement_is_exact_at_every_level() {
    let text = "graph g(%x: u8<s=0.1, z=3>[2, 3, 4, 5], %one: u8<s=0.1, z=3>[1, 4, 5]) -> (%c, %t, %p, %s0, %s1, %g, %e, %k, %l) {
      const %perm: s64[4] = [0, 2, 2, 1]
      const %pads: s64[8] = [0, 1, 0, 2, 0, 0, 1, 0]
      const %idx: s64[3] = [2, 0, -1]
      const %shape: s64[4] = [2, 3, 4, 5]
      const %reps: s64[4] = [1, 2, 1, 2]
      const %starts: s64[2] = [-1, 1]
      const %ends: s64[2] = [-4, 4]
      const %axes: s64[2] = [1, 3]
      const %steps: s64[2] = [-1, 2]
      %c = concat(%x, %x, %x) {axis = 2}
      %t = transpose(%x) {perm = [0, 2, 3, 1]}
      %p = pad(%x, %pads)
      %s0, %s1 = split(%x) {axis = 3, sizes = [2, 3]}
      %g = gather(%x, %idx) {axis = 1}
      %e = expand(%one, %shape)
      %k = tile(%x, %reps)
      %l = slice(%x, %starts, %ends, %axes, %steps)
    }";
    let elem = "u8<s=0.1, z=3>";
    let inputs = [("x", bytes(elem, &[2, 3, 4, 5], 1)), ("one", bytes(elem, &[1, 4, 5], 2))];
    agrees(text, Level::O0, &inputs);
    agrees(text, Level::O2, &inputs);
}

#[test]
fn outermost_concat_and_split_share_memory() {
    let text = "graph g(%x: f32[4, 256]) -> (%y) {
      %a, %b = split(%x) {axis = 0}
      %p = exp(%a) %q = abs(%b)
      %c = concat(%p, %q) {axis = 0}
      %y = neg(%c)
    }";
    let model = CompiledModel::compile(graph(text), &at(Level::O0)).unwrap();
    let plan = model.plan(&[vec![4, 256]]).unwrap();
    assert_eq!(plan.len(), 3, "exp, abs and neg; nothing is copied");
    assert_eq!(plan.memory().arena, 4096);
    agrees(text, Level::O0, &[("x", f32s(&[4, 256], 4))]);
    // One part is read elsewhere too, one is there twice: those are copied.
    let text = "graph g(%x: f32[2, 8]) -> (%c, %z) {
      %p = exp(%x) %q = abs(%x) %z = neg(%p)
      %c = concat(%p, %q, %q) {axis = 0}
    }";
    agrees(text, Level::O0, &[("x", f32s(&[2, 8], 4))]);
}

#[test]
fn convolutions_agree_in_either_layout() {
    for layout in ["", ", layout = channels_last"] {
        let (x, w2) = if layout.is_empty() {
            ("[2, 4, 9, 7]", "[2, 6, 5, 7]")
        } else {
            ("[2, 9, 7, 4]", "[2, 5, 7, 6]")
        };
        let text = format!(
            "graph g(%x: s8<s=0.05, z=-3>{x}, %r: u8<s=0.1, z=7>{w2}) -> (%y, %d, %raw, %m) {{
              const %w: s8<axis=0, s=[0.01, 0.02, 0.03, 0.04, 0.05, 0.06]>[6, 2, 3, 3] = {}
              const %b: s32[6] = [10, -20, 300, -4000, 5, 0]
              const %dw: u8<s=0.02, z=120>[4, 1, 3, 3] = {}
              %y = qconv(%x, %w, %b, %r) {{strides = [2, 1], pads = [1, 1, 1, 1], groups = 2{layout}, out = u8<s=0.2, z=3>, clamp = [3, 250], residual = s8<s=0.3, z=-5>, conv_is_lhs = true}}
              %d = qconv(%x, %dw) {{strides = [1, 2], pads = [1, 1, 1, 1], groups = 4{layout}, out = s8<s=0.1, z=1>}}
              %raw = qconv(%x, %dw) {{strides = [1, 1], dilations = [2, 1], groups = 4{layout}, out = s32<s=0.001, z=0>}}
              %m = max_pool(%y) {{kernel = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1]{layout}}}
            }}",
            list(108, 7), list_u8(36, 11),
        );
        let text = match Model::parse_text(&text) {
            Ok(_) => text,
            Err(e) => panic!("{e}\n{text}"),
        };
        let dims = |s: &str| -> Vec<usize> {
            s.trim_matches(['[', ']']).split(", ").map(|d| d.parse().unwrap()).collect()
        };
        let inputs = [
            ("x", bytes("s8<s=0.05, z=-3>", &dims(x), 9)),
            ("r", bytes("u8<s=0.1, z=7>", &dims(w2), 10)),
        ];
        agrees(&text, Level::O0, &inputs);
        agrees(&text, Level::O2, &inputs);
    }
}

fn list(n: i32, step: i32) -> String {
    let values: Vec<String> = (0..n).map(|i| ((i * step * 13) % 255 - 127).to_string()).collect();
    format!("[{}]", values.join(", "))
}

fn list_u8(n: i32, step: i32) -> String {
    let values: Vec<String> = (0..n).map(|i| ((i * step * 13) % 256).to_string()).collect();
    format!("[{}]", values.join(", "))
}

#[test]
fn what_has_no_kernel_runs_in_the_interpreter_and_says_why() {
    let text = "graph g(%x: f32[2, 3]) -> (%y, %i) {
      %s = sin(%x)
      %y = relu(%s)
      %i = argmax(%y) {axis = 1}
    }";
    let model = compile(text);
    let plan = model.plan(&[vec![2, 3]]).unwrap();
    let explanation = model.explain(&plan);
    let fate = |name: &str| explanation.nodes.iter().find(|n| &*n.name == name).unwrap().clone();
    assert_eq!(fate("s").fate, Fate::Runs(Class::Fallback));
    assert!(fate("s").reason.unwrap().contains("Sin"));
    assert_eq!(fate("y").fate, Fate::Runs(Class::Float));
    assert_eq!(fate("y").kernels.len(), 1);
    assert_eq!(fate("i").fate, Fate::Runs(Class::Fallback));
    assert_eq!(explanation.counts()[&Fate::Runs(Class::Fallback)], 2);
    agrees(text, Level::O2, &[("x", f32s(&[2, 3], 6))]);
}

#[test]
fn windows_larger_than_the_result_fall_back_too() {
    let text = "graph g(%x: f32[1, 2, 7, 7], %w: f32[1, 2, 7, 7]) -> (%y, %c) {
      %h = cast(%x) {to = f16}
      %y = max_pool(%h) {kernel = [7, 7], strides = [1, 1]}
      %c = conv(%x, %w) {strides = [1, 1]}
    }";
    let inputs = [("x", f32s(&[1, 2, 7, 7], 3)), ("w", f32s(&[1, 2, 7, 7], 4))];
    agrees(text, Level::O2, &inputs);
}

#[test]
fn movement_of_values_quantized_per_axis() {
    // Whichever signedness the machine prefers, one of them is the other.
    for elem in ["u8<axis=1, s=[0.1, 0.2], z=[3, 7]>", "s8<axis=1, s=[0.1, 0.2], z=[-3, 7]>"] {
        let text = format!(
            "graph g(%x: f32[1, 2, 3, 4]) -> (%r, %e, %t, %d) {{
              const %pads: s64[8] = [0, 0, 1, 2, 0, 0, 0, 1]
              %q = quantize(%x) {{out = {elem}}}
              %r = pad(%q, %pads) {{mode = reflect}}
              %e = pad(%q, %pads) {{mode = edge}}
              %t = transpose(%q) {{perm = [0, 2, 3, 1]}}
              %d = dequantize(%t)
            }}"
        );
        agrees(&text, Level::O2, &[("x", f32s(&[1, 2, 3, 4], 5))]);
    }
}

#[test]
fn a_clip_behind_a_convolution_is_one_step() {
    let text = format!(
        "graph g(%x: f32[1, 3, 6, 6]) -> (%y) {{
          const %w: f32[4, 3, 3, 3] = {}
          const %b: f32[4] = [1, 2, 3, -400]
          %c = conv(%x, %w, %b) {{strides = [1, 1], pads = [1, 1, 1, 1]}}
          %y = clip(%c) {{min = 0, max = 6}}
        }}",
        list(108, 3)
    );
    let model = CompiledModel::compile(graph(&text), &at(Level::O0)).unwrap();
    let plan = model.plan(&[vec![1, 3, 6, 6]]).unwrap();
    assert_eq!(plan.len(), 3, "transpose, convolution with clip, transpose");
    let explanation = model.explain(&plan);
    assert!(explanation.nodes.iter().all(|n| n.fate == Fate::Runs(Class::Float)));
    agrees(&text, Level::O0, &[("x", f32s(&[1, 3, 6, 6], 6))]);
}

#[test]
fn custom_operators_are_refused_by_name() {
    let text = "graph g(%x: f32[2]) -> (%y) { %y: f32[2] = custom(%x) {domain = \"acme\", name = \"Frob\", version = 1, payload = hex \"\"} }";
    let e = CompiledModel::compile(graph(text), &CompileOptions::default()).map(drop).unwrap_err();
    assert!(matches!(&e, CompileError::Unsupported { op, .. } if op == "acme.Frob"), "{e}");
}

#[test]
fn quantized_rows_agree() {
    let text = "graph g(%x: f32[2, 3, 8], %y: u8<s=0.03, z=100>[2, 8, 5]) -> (%a, %m, %s, %p, %q, %n, %d, %h) {
      const %w: s8<axis=1, s=[0.01, 0.02, 0.03, 0.04]>[8, 4] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, -1, -2, -3, -4, -5, -6, -7, -8, 90, 100, 110, 127, -127, 0, 1, 2]
      const %b: s32[4] = [100, -100, 0, 7]
      %q = quantize(%x) {out = u8<s=0.02, z=128>}
      %a = qmatmul(%q, %w, %b) {out = u8<s=0.05, z=10>}
      %m = qmatmul(%q, %y) {out = u8<s=0.5, z=128>}
      %s = qsoftmax(%a) {axis = -1, out = u8<s=0.00390625, z=0>}
      %p = qadd(%q, %q) {out = u8<s=0.04, z=100>}
      %n = qmean(%q) {axes = [1], out = u8<s=0.02, z=128>}
      %h = requantize(%q) {out = s8<s=0.05, z=-7>}
      %d = dequantize(%h)
    }";
    let inputs = [("x", f32s(&[2, 3, 8], 1)), ("y", bytes("u8<s=0.03, z=100>", &[2, 8, 5], 2))];
    agrees(text, Level::O0, &inputs);
    agrees(text, Level::O2, &inputs);
}
