//! Any bytes as an ONNX model: an error or a model that obeys the rules, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use requant_ir::Limits;
use requant_ir::import::onnx::{ImportOptions, import_bytes};

fuzz_target!(|data: &[u8]| {
    let bytes = bytes::Bytes::copy_from_slice(data);
    if let Ok(model) = import_bytes(bytes, None, &ImportOptions::default()) {
        assert_eq!(model.verify(&Limits::default()), Ok(()));
    }
});
