//! Any text as a model: an error, or a model whose full text reads back and prints the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use requant_ir::{Model, TextOptions};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(model) = Model::parse_text(text) {
        let full = model.to_text(&TextOptions::full());
        let back = Model::parse_text(&full).expect("what was printed reads back");
        assert_eq!(back.to_text(&TextOptions::full()), full);
    }
});
