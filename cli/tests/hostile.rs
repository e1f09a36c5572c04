//! What people and scripts do wrong: the program answers at once with the right exit code, and neither
//! hangs, nor panics, nor takes the mistake for success.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use requant_ir::{Element, Tensor, npz};
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name);
    path.to_str().unwrap().to_owned()
}

fn model() -> String {
    data("cnn/cnn_f32.onnx")
}

/// Runs the program with the words of `line` after `args`.
fn requant(args: &[&str], line: &str) -> Output {
    let start = Instant::now();
    let output = common::program()
        .args(args)
        .args(line.split_whitespace())
        .env_remove("REQUANT_ISA")
        .output()
        .unwrap();
    let took = start.elapsed();
    let allowed = if common::is_emulated() { 60 } else { 10 };
    assert!(took < Duration::from_secs(allowed), "{args:?} {line}: took {took:?}");
    output
}

/// The output of a run that ends with `code` and says `word`.
#[track_caller]
fn ends(output: Output, code: i32, word: &str) -> String {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(word), "`{word}` is not in: {text}");
    text
}

/// A folder for files of one test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn text(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.name(name)
    }

    fn npz<T: Element>(&self, name: &str, array: &str, dims: &[usize], values: &[T]) -> String {
        let tensor = Tensor::from_slice(dims, values).unwrap();
        let file = fs::File::create(self.path(name)).unwrap();
        npz::write_npz(file, name, [(array, &tensor)]).unwrap();
        self.name(name)
    }

    fn fifo(&self, name: &str) -> String {
        assert!(Command::new("mkfifo").arg(self.path(name)).status().unwrap().success());
        self.name(name)
    }
}

#[test]
fn huge_shapes_are_refused_before_memory_is_taken() {
    let m = model();
    for (dims, code) in [
        ("3000000x32x32x3", 6),
        ("100000000000x32x32x3", 6),
        ("18446744073709551615x32x32x3", 2),
        ("18446744073709551616x32x32x3", 2),
    ] {
        ends(requant(&["bench", &m], &format!("--min-time 0 --shape image={dims}")), code, "");
    }
    let twice = "--shape image=1x32x32x3 --shape image=2x32x32x3";
    ends(requant(&["bench", &m], twice), 2, "twice");
    ends(requant(&["explain", &m], twice), 2, "twice");
    let folder = Folder::new();
    // Next to nothing is computed, but the input itself is large.
    let wide = "requant 1\ngraph main(%x: f32[1000000000000]) -> (%y) {\n  %y = shape(%x)\n}\n";
    let wide = folder.text("wide.txt", wide);
    for line in ["bench", "compare"] {
        let second = if line == "compare" { vec![&*wide] } else { vec![] };
        ends(requant(&[&[line, &wide], &second[..]].concat(), ""), 6, "");
    }
    ends(requant(&["run", &wide], "-i x=zeros"), 6, "");
    let small = "--arena-bytes 1000 -i image=random";
    ends(requant(&["run", &m], small), 6, "--arena-bytes");
}

#[test]
fn an_index_outside_its_axis_is_the_inputs_fault() {
    let folder = Folder::new();
    let gather = folder.text(
        "gather.txt",
        "requant 1\ngraph main(%x: f32[4], %i: s64[2]) -> (%y) {\n  %y = gather(%x, %i) {axis = 0}\n}\n",
    );
    let good = folder.npz("good.npz", "i", &[2], &[3i64, -4]);
    let bad = folder.npz("bad.npz", "i", &[2], &[3i64, 4]);
    let run = |i: &str| requant(&["run", &gather], &format!("-i x=random -i i=@{i}"));
    ends(run(&good), 0, "f32");
    let text = ends(run(&bad), 4, "inside the axis");
    assert!(!text.contains("report"), "{text}");
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let (m, folder) = (model(), Folder::new());
    let out = folder.name("o.rq");
    let images = folder.npz("d.npz", "image", &[1, 32, 32, 3], &vec![0.5f32; 3072]);
    let quantize = ["quantize", &m, "-o", &out, "--data", &images];
    for threads in ["0", "1000000", "-1"] {
        ends(requant(&quantize, &format!("--threads {threads}")), 2, "");
        ends(requant(&["bench", &m], &format!("--threads {threads}")), 2, "");
    }
    ends(requant(&["bench", &m], "--threads 1,0"), 2, "threads");
    ends(requant(&quantize, "--samples 0"), 2, "sample");
    for line in ["--samples 0", "--max-abs nan", "--min-snr nan", "--min-top1 x"] {
        ends(requant(&["compare", &m, &m], line), 2, "");
    }
    ends(requant(&["compare", &m, &m], "--samples 1 --min-snr -200 --max-abs 0"), 0, "");
    for line in ["--disable fuse_qdq", "--stop-after fuse_qdq", "--max-patches 1"] {
        ends(requant(&["inspect", &m], line), 2, "--passes");
    }
    for scale in ["0", "nan", "1,0,1"] {
        ends(requant(&["run", &m], &format!("-i image=random --scale {scale}")), 2, "scale");
    }
    ends(requant(&["run", &m], "-i image=random --scale -1,-2,-3 --mean -1,0,1"), 0, "");
    ends(requant(&["run", &m, "-o", &folder.name("o.txt")], "-i image=random"), 2, ".npz");
    ends(requant(&["bench", &m], "--min-runs 1 --min-time 0 --isa scalar,sse9"), 2, "sse9");
    assert!(!folder.path("o.rq").exists() && !folder.path("o.txt").exists());
}

#[test]
fn quantize_heeds_the_instruction_set() {
    let (m, folder) = (model(), Folder::new());
    let images = folder.npz("d.npz", "image", &[1, 32, 32, 3], &vec![0.5f32; 3072]);
    for (isa, code) in [("sse9", 2), (common::FOREIGN_ISA, 5), ("scalar", 0)] {
        let out = folder.name(&format!("{isa}.rq"));
        let output = common::program()
            .args(["quantize", &m, "-o", &out, "--data", &images])
            .env("REQUANT_ISA", isa)
            .output()
            .unwrap();
        ends(output, code, "");
        assert_eq!(Path::new(&out).exists(), code == 0);
    }
}

#[test]
fn bad_data_is_not_a_malformed_model() {
    let (m, folder) = (model(), Folder::new());
    let out = folder.name("o.rq");
    let quantize = |data: &str, word: &str| {
        ends(requant(&["quantize", &m, "-o", &out, "--data", data], ""), 2, word);
        assert!(!Path::new(&out).exists());
    };
    quantize(&folder.npz("none.npz", "image", &[0, 32, 32, 3], &[0f32; 0]), "0 samples");
    quantize(&folder.npz("nan.npz", "image", &[1, 32, 32, 3], &vec![f32::NAN; 3072]), "NaN");
    quantize(&folder.npz("flat.npz", "image", &[1, 3072], &vec![0f32; 3072]), "image");
    fs::create_dir(folder.path("empty")).unwrap();
    quantize(&folder.name("empty"), "no .png");
    let nowhere = ["quantize", &m, "-o", &out, "--data", "/nonexistent.npz"];
    ends(requant(&nowhere, ""), 3, "/nonexistent.npz");
    ends(requant(&["run", &m], "-i image=random -o /nonexistent/o.npz"), 3, "/nonexistent");
    image::GrayImage::new(8, 8).save(folder.path("small.png")).unwrap();
    let small = format!("-i image=@{}", folder.name("small.png"));
    ends(requant(&["run", &m], &small), 2, "8 pixels");
    // Each input fits the model; the two do not fit each other.
    let sum = folder.text(
        "sum.txt",
        "requant 1\ngraph main(%a: f32[?], %b: f32[?]) -> (%y) {\n  %y = add(%a, %b)\n}\n",
    );
    let a = folder.npz("a.npz", "a", &[2], &[1f32; 2]);
    let b = folder.npz("b.npz", "b", &[3], &[1f32; 3]);
    ends(requant(&["run", &sum, "-i", &a, "-i", &b], ""), 2, "");
    ends(requant(&["bench", &sum], "--shape a=2 --shape b=3"), 2, "");
    ends(requant(&["explain", &sum], "--shape a=2 --shape b=3"), 2, "");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let m = model();
    for args in [
        &["doctor"][..],
        &["inspect", &m, "--passes"],
        &["inspect", &m, "--text"],
        &["explain", &m],
        &["bench", &m, "--min-time", "0", "--format", "json"],
    ] {
        let mut child = common::program()
            .args(args)
            .env_remove("REQUANT_ISA")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        ends(output, 0, "");
    }
}

#[test]
fn pipes_are_neither_read_nor_replaced() {
    let (m, folder) = (model(), Folder::new());
    let fifo = folder.fifo("pipe.onnx");
    ends(requant(&["inspect", &fifo], ""), 3, "not a regular file");
    let arrays = folder.fifo("pipe.npz");
    ends(requant(&["run", &m, "-i", &arrays], ""), 3, "not a regular file");
    ends(requant(&["run", &m, "-o", &arrays], "-i image=random --force"), 3, "not a regular file");
    assert!(fs::metadata(&arrays).unwrap().file_type().is_fifo());
    let target = folder.text("target.npz", "precious");
    std::os::unix::fs::symlink(&target, folder.path("link.npz")).unwrap();
    let link = folder.name("link.npz");
    ends(requant(&["run", &m, "-o", &link], "-i image=random --force"), 3, "not a regular file");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    std::os::unix::fs::symlink(&target, folder.path("link.rq")).unwrap();
    ends(requant(&["convert", &m, "-o", &folder.name("link.rq")], "--force"), 3, "regular file");
}

#[test]
fn every_output_has_the_permissions_of_a_new_file() {
    let (m, folder) = (model(), Folder::new());
    let plain = folder.text("plain", "");
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode();
    let (npz, text, json) = (folder.name("o.npz"), folder.name("o.txt"), folder.name("o.json"));
    ends(requant(&["run", &m, "-o", &npz], "-i image=random"), 0, "");
    ends(requant(&["convert", &m, "-o", &text], ""), 0, "");
    ends(requant(&["bench", &m, "-o", &json], "--min-time 0 --min-runs 1"), 0, "");
    for path in [npz, text, json] {
        assert_eq!(mode(&path), mode(&plain), "{path}");
    }
}

#[test]
fn the_text_form_is_read_back() {
    let (m, folder) = (data("cnn/cnn_qdq_u8s8_pc.onnx"), Folder::new());
    let (text, direct, back) = (folder.name("m.txt"), folder.name("d.rq"), folder.name("b.rq"));
    ends(requant(&["convert", &m, "-o", &text], ""), 0, "");
    ends(requant(&["convert", &m, "-o", &direct], ""), 0, "");
    ends(requant(&["convert", &text, "-o", &back], ""), 0, "");
    assert_eq!(fs::read(direct).unwrap(), fs::read(back).unwrap());
    ends(requant(&["inspect", &text], ""), 0, "image");
    let broken = folder.text("broken.txt", "requant 1\ngraph main(%x: f32[2]) -> (%y) {\n");
    ends(requant(&["inspect", &broken], ""), 4, "line");
}

#[test]
fn messages_say_each_thing_once() {
    let folder = Folder::new();
    let mut bytes = fs::read(data("malformed/0_no_graph.rq")).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let file = folder.name("f.rq");
    fs::write(&file, bytes).unwrap();
    let empty = folder.text("f.npz", "");
    let input = format!("-i {empty}");
    for (output, code, name) in [
        (requant(&["inspect", &file], ""), 4, "f.rq"),
        (requant(&["inspect", &data("malformed/a_cycle.onnx")], ""), 4, "a_cycle.onnx"),
        (requant(&["inspect", "/nonexistent/f.rq"], ""), 3, "f.rq"),
        (requant(&["run", &model()], &input), 4, "f.npz"),
    ] {
        let text = ends(output, code, name);
        assert_eq!(text.matches(name).count(), 1, "{text}");
        let parts: Vec<&str> = text.trim().split(": ").collect();
        assert!(parts.windows(2).all(|w| w[0] != w[1]), "{text}");
    }
}
