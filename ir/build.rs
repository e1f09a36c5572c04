//! Compiles the schemas under `proto/` with a compiler written in Rust: no `protoc` is needed.
#![allow(clippy::print_stdout, reason = "cargo reads build instructions from standard output")]

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("../proto");
    let schemas = ["requant/v1/model.proto", "onnx/onnx.proto"];
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", root.display());
    let present = schemas.iter().filter(|s| root.join(s).exists());
    let descriptors = protox::compile(present, [root])?;
    prost_build::Config::new()
        .bytes(["."])
        // The largest operators, so that a node is not as large as them.
        .boxed(".requant.v1.Node.op.qconv")
        .boxed(".requant.v1.Node.op.qpool")
        .compile_fds(descriptors)?;
    Ok(())
}
