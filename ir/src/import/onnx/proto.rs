//! The messages of ONNX files that are read, made from `proto/onnx/onnx.proto`.
#![allow(missing_docs, reason = "the documentation is in the schema, as far as it is needed")]

include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
