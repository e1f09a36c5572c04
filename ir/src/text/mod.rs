//! The text form of models: the language of tests, `inspect` and bug reports.
//!
//! ```text
//! requant 1
//! producer "requant 0.1"
//! metadata "key" = "value"
//!
//! graph main(%x: f32[batch, 3, 8, 8]) -> (%y) {
//!   const %w: s8<s=0.02, z=0>[4, 3, 1, 1] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
//!   const %b: s32[4] = fill(0)
//!   %q = quantize(%x) {out = u8<s=0.1, z=128>}
//!   %y: u8<s=0.2, z=3>[batch, 4, 8, 8] = qconv(%q, %w, %b) {strides = [1, 1], out = u8<s=0.2, z=3>} "conv/1" from ["Conv_0", "Relu_1"]
//! }
//! ```
//!
//! - Types are storage, quantization in `<>`, extents in `[]`: `f32[2, n, ?]`; `f32[*]` when not even
//!   the rank is known. A value without a type leaves it to inference.
//! - Quantization: `s` scale or scales, `z` zero point or points (0 if absent), `axis`, `block`,
//!   `narrow`, `expressed` (f32 if absent): `s8<axis=0, s=[0.1, 0.2], z=[0, 0], narrow>`.
//! - Constants: a list of stored numbers, `fill(number)`, or `hex "…"` of the stored bytes. The
//!   printer leaves out long ones (`#` and the CRC-32C of the bytes) unless asked not to; such a text
//!   cannot be read back.
//! - `_` stands for an absent operand. Attributes at their default are left out; a bare word is a true
//!   flag. The node's name, in quotes, may be left out: it is then its first result's.
//! - Values whose order in [`crate::Graph::values`] is not that of the text are listed by `order`.
//! - `//` begins a comment. Names of other characters than letters, digits, `_ . /` are quoted:
//!   `%"a:0"`.

mod attrs;
mod lex;
mod literal;
mod ops;
mod parse;
mod print;

use crate::{ElemType, Limits, Model, TensorType, VerifyError};
use std::fmt;
use thiserror::Error;

/// How much the printer writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Constants, tables and lists of scales with more elements are left out; `None` writes
    /// everything, so that the text reads back as the same model.
    pub elide_over: Option<usize>,
}

impl Default for TextOptions {
    fn default() -> Self {
        TextOptions { elide_over: Some(16) }
    }
}

impl TextOptions {
    /// Everything, so that the text reads back as the same model, bit for bit.
    pub fn full() -> Self {
        TextOptions { elide_over: None }
    }
}

/// Why a text is not a model.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum TextError {
    /// The text is not of the form.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// The text is well formed, but the model breaks a rule.
    #[error(transparent)]
    Invalid(#[from] VerifyError),
}

impl Model {
    /// Reads the text form (see [`crate::text`]) and verifies the model under default limits.
    pub fn parse_text(text: &str) -> Result<Model, TextError> {
        let limits = Limits::default();
        let model = parse(text, &limits)?;
        model.verify(&limits)?;
        Ok(model)
    }

    /// The text form.
    pub fn to_text(&self, options: &TextOptions) -> String {
        print::model(self, options)
    }
}

/// Reads the text form without verifying the model.
pub fn parse(text: &str, limits: &Limits) -> Result<Model, TextError> {
    parse::model(text, limits)
}

/// The text form with long constants left out.
impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text(&TextOptions::default()))
    }
}

/// As in the text form, long lists of scales left out.
impl fmt::Display for ElemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        print::elem_type(&mut out, self, &TextOptions::default());
        f.write_str(&out)
    }
}

/// As in the text form, long lists of scales left out.
impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        print::tensor_type(&mut out, self, &TextOptions::default());
        f.write_str(&out)
    }
}
