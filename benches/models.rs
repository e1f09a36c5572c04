//! Whole models on one thread, float and int8, batch 1: `cargo bench --bench models`.
//!
//! Models come from the corpus that `REQUANT_SHARED` (or `../shared`) points at.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    reason = "a bench fails by panicking"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use requant::{CompileOptions, Cpu, Model};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MODELS: [&str; 6] = [
    "cnn/cnn_f32",
    "cnn/cnn_qdq_u8s8_pc",
    "effnet_lite0/effnet_lite0_f32",
    "effnet_lite0/effnet_lite0_qdq_u8s8_pc",
    "mobilenet_v2_random/mobilenet_v2_random_f32",
    "mobilenet_v2_random/mobilenet_v2_random_qdq_s8s8_pc",
];

fn corpus() -> PathBuf {
    let shared = std::env::var_os("REQUANT_SHARED").map(PathBuf::from);
    shared
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"))
        .join("corpus/models")
}

fn models(c: &mut Criterion) {
    let mut group = c.benchmark_group("models");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    for name in MODELS {
        let path = corpus().join(format!("{name}.onnx"));
        if !path.exists() {
            eprintln!("SKIPPED {name}: {} is not there", path.display());
            continue;
        }
        let model = Model::load(&path).unwrap();
        for isa in Cpu::available() {
            let options = CompileOptions { cpu: Cpu::with_isa(isa).unwrap(), ..Default::default() };
            let compiled = model.compile(&options).unwrap();
            let mut session = compiled.session();
            // Symbolic extents are batch sizes here.
            let shapes: Vec<Vec<usize>> = compiled
                .inputs()
                .iter()
                .map(|p| p.ty.dims.iter().flatten().map(|d| d.fixed().unwrap_or(1)).collect())
                .collect();
            let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
            session.set_shapes(&shapes).unwrap();
            for i in 0..shapes.len() {
                let (_, input) = session.input_mut(i).unwrap();
                let ramp = (0..input.len() / 4).map(|i| (i % 255) as f32 / 255.0);
                input
                    .chunks_exact_mut(4)
                    .zip(ramp)
                    .for_each(|(x, v)| x.copy_from_slice(&v.to_le_bytes()));
            }
            let id = name.rsplit('/').next().unwrap_or(name);
            group.bench_function(format!("{id}/{isa}"), |b| {
                b.iter(|| session.run_in_place().unwrap())
            });
        }
    }
    group.finish();
}

criterion_group!(benches, models);
criterion_main!(benches);
