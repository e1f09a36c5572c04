//! The passes that quantize: text in, text out; what they refuse; and the meaning of random graphs
//! before and after by the reference interpreter.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

#[path = "passes_quant/epilogue.rs"]
mod epilogue;
#[path = "passes_quant/fuse_qdq.rs"]
mod fuse_qdq;
#[path = "passes_quant/lut.rs"]
mod lut;
#[path = "passes_quant/propagate.rs"]
mod propagate;
#[path = "passes_quant/property.rs"]
mod property;
#[path = "passes_quant/sign.rs"]
mod sign;
#[path = "passes_quant/support.rs"]
mod support;
