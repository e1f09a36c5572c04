//! Any bytes as an `.npy`: an error, or a tensor that comes back the same from an `.npz`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use requant_ir::Limits;
use requant_ir::npz::{read_npy_from, read_npz_from, write_npz};
use std::io::Cursor;

fuzz_target!(|data: &[u8]| {
    let limits = Limits { file_bytes: 1 << 20, ..Limits::default() };
    if let Ok(tensor) = read_npy_from(data, "fuzz", &limits) {
        let mut archive = Cursor::new(Vec::new());
        write_npz(&mut archive, "fuzz", [("t", &tensor)]).expect("memory can be written");
        let back = read_npz_from(archive, "fuzz", &limits).expect("what was written reads back");
        let [(name, back)] = &back[..] else { panic!("one array was written") };
        // bytes, for no NaN equals itself
        assert_eq!((&name[..], back.ty(), back.bytes()), ("t", tensor.ty(), tensor.bytes()));
    }
});
