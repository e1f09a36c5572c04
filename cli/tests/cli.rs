//! The program as scripts use it: input syntax, files, exit codes, machine-readable output.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use requant_ir::{Limits, Tensor, npz};
use std::path::{Path, PathBuf};
use std::process::Output;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

fn requant<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    common::program().args(args).env_remove("REQUANT_ISA").output().unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[track_caller]
fn ok(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(output: Output, code: i32, word: &str) {
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(word), "`{word}` is not in: {text}");
}

/// Golden inputs of a model of the cnn family, under the given key.
fn golden_input(folder: &Path, model: &str, key: &str) -> PathBuf {
    let golden =
        npz::read_npz(&data(&format!("golden/cnn/{model}.npz")), &Limits::default()).unwrap();
    let (_, tensor) = golden.iter().find(|(n, _)| n == "c0.in0").unwrap();
    let path = folder.join(format!("{key}.npz"));
    npz::write_npz(std::fs::File::create(&path).unwrap(), "inputs", [(key, tensor)]).unwrap();
    path
}

fn read(path: &Path) -> Vec<(String, Tensor)> {
    npz::read_npz(path, &Limits::default()).unwrap()
}

fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

#[test]
fn run_takes_positional_and_named_inputs_and_gives_the_same_bits_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let model = data("cnn/cnn_qdq_u8s8_pc.onnx");
    let positional = golden_input(folder.path(), "cnn_qdq_u8s8_pc.onnx", "in0");
    let named = golden_input(folder.path(), "cnn_qdq_u8s8_pc.onnx", "image");
    let mut results = Vec::new();
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut, reason = "more ISAs on x86 only"))]
    let mut isas = vec!["auto", "scalar"];
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        isas.push("avx2");
    }
    for (i, isa) in isas.iter().enumerate() {
        for threads in ["1", "2"] {
            for input in [&positional, &named] {
                let out = folder.path().join(format!("out{i}{threads}{}.npz", results.len()));
                ok(requant(&[
                    "run",
                    path(&model),
                    "-i",
                    path(input),
                    "-o",
                    path(&out),
                    "--threads",
                    threads,
                    "--isa",
                    isa,
                ]));
                results.push(read(&out));
            }
        }
    }
    assert_eq!(results[0][0].0, "Identity:0");
    assert!(results.windows(2).all(|w| w[0] == w[1]));
    let golden =
        npz::read_npz(&data("golden/cnn/cnn_qdq_u8s8_pc.onnx.npz"), &Limits::default()).unwrap();
    let (_, want) = golden.iter().find(|(n, _)| n == "c0.noopt.out0").unwrap();
    assert_eq!(results[0][0].1.dims(), want.dims());
}

#[test]
fn outputs_are_not_overwritten_without_force() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.npz");
    std::fs::write(&out, "precious").unwrap();
    let model = data("cnn/cnn_f32.onnx");
    let args = ["run", path(&model), "-i", "image=random", "-o", path(&out)];
    fails(requant(&args), 3, "--force");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "precious");
    ok(requant(&[&args[..], &["--force"]].concat()));
    assert_eq!(read(&out).len(), 1);
}

#[test]
fn quantize_then_compare() {
    let folder = tempfile::tempdir().unwrap();
    let model = data("cnn/cnn_f32.onnx");
    let calibration = golden_input(folder.path(), "cnn_f32.onnx", "in0");
    let rq = folder.path().join("cnn.rq");
    ok(requant(&["quantize", path(&model), "-o", path(&rq), "--data", path(&calibration)]));
    assert!(
        std::fs::metadata(&rq).unwrap().len() * 100 < std::fs::metadata(&model).unwrap().len() * 27
    );
    let table = ok(requant(&[
        "compare",
        path(&model),
        path(&rq),
        "--data",
        path(&calibration),
        "--min-top1",
        "100",
        "--min-snr",
        "20",
    ]));
    assert!(table.contains("Identity:0"));
    fails(
        requant(&[
            "compare",
            path(&model),
            path(&rq),
            "--data",
            path(&calibration),
            "--max-abs",
            "0.000001",
        ]),
        1,
        "above",
    );
    let explained = ok(requant(&["explain", path(&rq)]));
    assert!(explained.contains("qconv"), "{explained}");
    let inspected = ok(requant(&["inspect", path(&rq), "--passes"]));
    assert!(inspected.contains("fuse_qdq"), "{inspected}");
    ok(requant(&["inspect", path(&rq), "--text"]));
    // Converting is idempotent: the first pass may reorder the tables, the second changes nothing.
    let (once, twice) = (folder.path().join("once.rq"), folder.path().join("twice.rq"));
    ok(requant(&["convert", path(&rq), "-o", path(&once)]));
    ok(requant(&["convert", path(&once), "-o", path(&twice)]));
    assert_eq!(std::fs::read(&once).unwrap(), std::fs::read(&twice).unwrap());
    ok(requant(&[
        "compare",
        path(&rq),
        path(&twice),
        "--data",
        path(&calibration),
        "--max-abs",
        "0",
    ]));
}

#[test]
fn bench_prints_the_schema() {
    let model = data("cnn/cnn_qdq_s8s8_pc.onnx");
    let out = ok(requant(&[
        "bench",
        path(&model),
        "--threads",
        "1,2",
        "--isa",
        "auto,scalar",
        "--shape",
        "image=2x32x32x3",
        "--min-time",
        "0.01",
        "--min-runs",
        "3",
        "--format",
        "json",
    ]));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["schema"], "requant.bench/1");
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    for r in results {
        for key in [
            "model",
            "threads",
            "isa",
            "min_ms",
            "median_ms",
            "p90_ms",
            "runs",
            "load_ms",
            "compile_ms",
            "peak_rss_bytes",
            "arena_bytes",
            "packed_bytes",
        ] {
            assert!(!r[key].is_null(), "{key}");
        }
        assert!(r["min_ms"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let model = data("cnn/cnn_f32.onnx");
    let garbage = folder.path().join("garbage.onnx");
    std::fs::write(&garbage, [0xffu8; 100]).unwrap();
    let bad_rq = folder.path().join("bad.rq");
    std::fs::write(&bad_rq, "no model").unwrap();
    fails(requant(&["frobnicate"]), 2, "frobnicate");
    fails(requant(&["run", path(&model), "-i", "imago=random"]), 2, "did you mean `image`");
    fails(requant(&["run", path(&model)]), 2, "image");
    fails(requant(&["run", path(&model), "-i", "image=random", "--isa", "sse9"]), 2, "scalar");
    let isa = ["run", path(&model), "-i", "image=random", "--isa", common::FOREIGN_ISA];
    fails(requant(&isa), 5, "scalar");
    fails(requant(&["run", "/nonexistent/m.onnx", "-i", "image=random"]), 3, "/nonexistent/m.onnx");
    fails(requant(&["inspect", path(&garbage)]), 4, "garbage.onnx");
    fails(requant(&["inspect", path(&bad_rq)]), 4, "bad.rq");
    fails(requant(&["bench", path(&model), "--shape", "image=1x33x32x3"]), 2, "image");
    fails(requant(&["inspect", path(&model), "--passes", "--disable", "nonsense"]), 2, "fuse_qdq");
    ok(requant(&["doctor"]));
    ok(requant(&["--help"]));
}

#[test]
fn an_isa_that_cannot_be_used_is_reported_from_the_environment_too() {
    let model = data("cnn/cnn_f32.onnx");
    let output = common::program()
        .args(["run", path(&model), "-i", "image=random"])
        .env("REQUANT_ISA", common::FOREIGN_ISA)
        .output()
        .unwrap();
    fails(output, 5, "scalar");
}

#[test]
fn demo_keeps_its_promise() {
    let out = ok(requant(&["demo"]));
    let column = |row: &str, index: usize| -> f64 {
        let line = out
            .lines()
            .find(|l| l.starts_with(row))
            .unwrap_or_else(|| panic!("no `{row}` in {out}"));
        let cell = line[row.len()..].split_whitespace().nth(index).unwrap();
        cell.replace(',', "").parse().unwrap()
    };
    let (float, int8) = ("float ", "int8 ");
    assert!(column(int8, 0) <= 0.27 * column(float, 0), "{out}");
    assert!((column(int8, 1) - column(float, 1)).abs() <= 0.2, "{out}");
    assert!(column(float, 1) > 98.0, "{out}");
}

#[test]
fn samples_that_do_not_fill_a_batch_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = requant_ir::Model::parse_text(
        "requant 1
        graph main(%x: f32[2, 3]) -> (%y) {
          const %w: f32[3, 2] = [1, -2, 3, 4, 5, -6]
          %y = matmul(%x, %w)
        }",
    )
    .unwrap();
    let (file, rq) = (folder.path().join("model.rq"), folder.path().join("int8.rq"));
    std::fs::write(&file, model.to_rq_bytes().unwrap()).unwrap();
    let x: Vec<f32> = (0..15).map(|v| v as f32).collect();
    let calibration = folder.path().join("x.npz");
    let tensor = Tensor::from_slice(&[5, 3], &x).unwrap();
    npz::write_npz(std::fs::File::create(&calibration).unwrap(), "data", [("x", &tensor)]).unwrap();
    let all = requant(&["quantize", path(&file), "-o", path(&rq), "--data", path(&calibration)]);
    assert!(text(&all).contains("the last 1 of 5 are left out"), "{}", text(&all));
    ok(all);
}
