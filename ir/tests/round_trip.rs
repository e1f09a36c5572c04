//! Whatever obeys the verifier comes back from every form as it was, bit for bit.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use proptest::prelude::*;
use requant_ir::{Limits, Model, TextOptions, testing};

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_models_are_valid(model in testing::model()) {
        model.verify(&Limits::default())?;
    }

    #[test]
    fn rq_gives_the_model_back(model in testing::model()) {
        let bytes = model.to_rq_bytes().unwrap();
        let back = Model::from_rq_bytes(bytes.clone(), &Limits::default()).unwrap();
        prop_assert_eq!(&back, &model);
        // Equality of floats is not equality of bits; that of files is.
        prop_assert_eq!(back.to_rq_bytes().unwrap(), bytes);
    }

    #[test]
    fn full_text_gives_the_model_back(model in testing::model()) {
        let text = model.to_text(&TextOptions::full());
        let back = Model::parse_text(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        prop_assert_eq!(&back, &model);
        prop_assert_eq!(back.to_rq_bytes().unwrap(), model.to_rq_bytes().unwrap());
        prop_assert_eq!(back.to_text(&TextOptions::full()), text);
    }

    #[test]
    fn short_text_is_stable(model in testing::model()) {
        let text = model.to_string();
        if let Ok(back) = Model::parse_text(&text) {
            prop_assert_eq!(back.to_string(), text);
        } else {
            prop_assert!(text.contains('#'), "{}", text);
        }
    }
}
