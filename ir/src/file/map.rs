//! Memory-mapped files: the only unsafe code of this crate.
#![allow(unsafe_code, reason = "mapping a file is unsafe by nature")]

use bytes::Bytes;
use memmap2::Mmap;
use std::fs::File;
use std::io;

/// Maps a whole file, read-only.
///
/// Whoever changes the file while it is mapped changes the model's constants, or ends this process
/// with a bus error where the file was cut short. Files that others may write are better read into
/// memory and given to [`crate::Model::from_rq_bytes`]. [`crate::Model::save`] replaces files and
/// never writes into one, so a model saved over itself keeps its old bytes.
pub(super) fn map(file: &File) -> io::Result<Bytes> {
    // SAFETY: the map is private and read-only, nothing in this process writes to it, and `Bytes`
    // keeps it alive as long as any slice of it. That no other process changes the file is the
    // caller's part, as documented above and on `Model::load`.
    let map = unsafe { Mmap::map(file) }?;
    Ok(Bytes::from_owner(map))
}
