//! What a step costs besides its kernel: 1,000 steps of one element each.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench fails by panicking")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use requant::{CompileOptions, Level, Model, PipelineOptions};
use std::fmt::Write;

const STEPS: usize = 1000;

/// `neg(neg(… x))`, which no pass folds.
fn chain() -> Model {
    let mut text = String::from("graph g(%x0: f32[1]) -> (%x1000) {\n");
    for i in 0..STEPS {
        writeln!(text, "  %x{} = neg(%x{i})", i + 1).unwrap();
    }
    text.push('}');
    Model::from_ir(&requant_ir::Model::parse_text(&text).unwrap()).unwrap()
}

fn dispatch(c: &mut Criterion) {
    let options = CompileOptions {
        passes: PipelineOptions { level: Level::O0, ..Default::default() },
        ..Default::default()
    };
    let model = chain().compile(&options).unwrap();
    let mut session = model.session();
    session.set_input(0, &1f32.to_le_bytes()).unwrap();
    assert_eq!(session.plan().unwrap().len(), STEPS);

    let mut group = c.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(STEPS as u64));
    group.bench_function("neg-1x1000", |b| b.iter(|| session.run_in_place().unwrap()));
    group.finish();
    assert_eq!(session.output(0).unwrap(), 1f32.to_le_bytes());
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
