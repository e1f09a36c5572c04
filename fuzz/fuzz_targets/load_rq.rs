//! Any bytes as an `.rq` file: an error, or a model that obeys the rules and survives a round trip.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use requant_ir::{Limits, Model};

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    if let Ok(model) = Model::from_rq_bytes(Bytes::copy_from_slice(data), &limits) {
        assert_eq!(model.verify(&limits), Ok(()));
        let bytes = model.to_rq_bytes().expect("a verified model can be written");
        assert!(Model::from_rq_bytes(bytes, &limits).is_ok());
    }
});
