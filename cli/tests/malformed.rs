//! Bad files given to the program: an error with the right exit code within a second and 256 MiB, never a panic.
//!
//! `tests/data/malformed` holds the small files of the importers' own tests, which write them there
//! (`REQUANT_KEEP_MALFORMED`) and know what each of them is for.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

/// Runs `requant inspect FILE`, where the whole address space has no more than 256 MiB (an emulator needs
/// more for itself).
fn inspect(file: &Path) -> Output {
    let program = common::program();
    let limit = if common::is_emulated() { "" } else { "ulimit -v 262144;" };
    let start = Instant::now();
    let output = Command::new("sh")
        .args(["-c", &format!("{limit} exec \"$@\""), "sh"])
        .arg(program.get_program())
        .args(program.get_args())
        .arg("inspect")
        .arg(file)
        .output()
        .unwrap();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{}: took {took:?}", file.display());
    output
}

fn refused(file: &Path, codes: &[i32]) {
    let output = inspect(file);
    let text = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(code.is_some_and(|c| codes.contains(&c)), "{}: {code:?}: {text}", file.display());
    assert!(output.stdout.is_empty() && !text.trim().is_empty(), "{}", file.display());
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(text.contains(name), "{text} does not name {name}");
}

#[test]
fn each_bad_file_is_refused_soon_and_in_little_memory() {
    let mut count = [0, 0];
    for entry in fs::read_dir(data("malformed")).unwrap() {
        let path = entry.unwrap().path();
        count[usize::from(path.extension().unwrap() == "rq")] += 1;
        // Malformed, valid but unsupported, or too large.
        refused(&path, &[4, 5, 6]);
    }
    assert!(count.iter().all(|&n| n >= 30), "{count:?} files");
}

#[test]
fn good_files_pass_under_the_same_limits() {
    let output = inspect(&data("cnn/cnn_qdq_u8s8_pc.onnx"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn weights_outside_of_the_models_folder_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    for path in [dir.path().join("w.bi"), model.join("w.bin")] {
        fs::write(path, [0u8; 16]).unwrap();
    }
    std::os::unix::fs::symlink("w.bin", model.join("l.bin")).unwrap();
    let whole = fs::read(data("external.onnx")).unwrap();
    let place = whole.windows(7).position(|w| w == b"./w.bin").unwrap();
    let file = model.join("m.onnx");
    fs::write(&file, &whole).unwrap();
    assert_eq!(inspect(&file).status.code(), Some(0), "the weights are beside the model");
    for location in [b"../w.bi", b"//w.bin", b"./l.bin"] {
        let mut bytes = whole.clone();
        bytes[place..place + 7].copy_from_slice(location);
        fs::write(&file, bytes).unwrap();
        refused(&file, &[4]);
    }
}
