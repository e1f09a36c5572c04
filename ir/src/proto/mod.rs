//! Models to and from the protobuf schema `requant/v1/model.proto`.

mod decode;
mod encode;
mod enums;
mod ops;
mod scan;

pub(crate) use decode::decode;
pub(crate) use encode::encode;

/// The generated messages.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    rustdoc::all,
    reason = "generated; the schema holds the documentation"
)]
pub(crate) mod pb {
    include!(concat!(env!("OUT_DIR"), "/requant.v1.rs"));
}

/// The schema's version: what this reader understands, and what it writes.
pub(crate) const VERSION: u32 = 1;

/// Constants up to this many bytes lie in the message itself.
pub(crate) const INLINE_BYTES: usize = 4096;
