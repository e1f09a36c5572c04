//! `.rq` files: a 64-byte header, a message (`requant/v1/model.proto`), and the constants.
//!
//! | bytes | header field, little-endian |
//! | --- | --- |
//! | 0..8 | magic `89 72 65 71 75 61 6e 74` |
//! | 8..12 | format, 1 |
//! | 12..16 | oldest reader that understands the file |
//! | 16..32 | offset and length of the message |
//! | 32..48 | offset and length of the data section, which ends the file |
//! | 48..52 | CRC-32C of the data section |
//! | 52..60 | 0 |
//! | 60..64 | CRC-32C of everything else before the data section |
//!
//! The data section begins at a multiple of 64, or of 4096 where it is of 1 MiB or more; constants lie
//! in it at multiples of 64. Equal constants are stored once. Constants up to 4 KiB lie in the message.

mod error;
mod header;
mod map;
mod write;

pub use error::{FileError, Problem};
pub use write::write_atomically;

use crate::proto::{self, VERSION};
use crate::{Limits, Model};
use bytes::{BufMut, Bytes, BytesMut};
use header::{HEADER, Header};
use prost::Message;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Files of this size and more are mapped into memory, smaller ones read.
const MAP_BYTES: u64 = 1 << 20;

impl Model {
    /// Reads and verifies a `.rq` file.
    ///
    /// Large files are mapped: their constants are not copied, and the file must not change while
    /// the model is in use (see [`Model::from_rq_bytes`] for another way).
    pub fn load(path: impl AsRef<Path>, limits: &Limits) -> Result<Model, FileError> {
        let path = path.as_ref();
        let read = || {
            let bytes = read_file(path, limits)?;
            Model::from_rq_bytes(bytes, limits).map_err(|e| e.problem)
        };
        read().map_err(|problem| FileError { file: Some(path.to_owned()), problem })
    }

    /// Reads and verifies the bytes of a `.rq` file; constants share them where they are aligned.
    pub fn from_rq_bytes(bytes: Bytes, limits: &Limits) -> Result<Model, FileError> {
        Ok(decode(bytes, limits)?)
    }

    /// The bytes of a `.rq` file. The model is verified first.
    pub fn to_rq_bytes(&self) -> Result<Bytes, FileError> {
        let parts = encode(self)?;
        let mut out = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
        parts.iter().for_each(|part| out.put_slice(part));
        Ok(out.freeze())
    }

    /// Writes a `.rq` file: to a temporary file in the same folder first, then renamed, so that
    /// nobody sees half a file. An existing file is replaced only if `overwrite` says so.
    pub fn save(&self, path: impl AsRef<Path>, overwrite: bool) -> Result<(), FileError> {
        let path = path.as_ref();
        let parts =
            encode(self).map_err(|problem| FileError { file: Some(path.to_owned()), problem })?;
        write_atomically(path, overwrite, |file| parts.iter().try_for_each(|p| file.write_all(p)))
    }
}

fn read_file(path: &Path, limits: &Limits) -> Result<Bytes, Problem> {
    // Asked before opening, too: opening a pipe waits for its other end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Problem::NotRegular);
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Problem::NotRegular);
    }
    let len = metadata.len();
    if len > limits.file_bytes {
        return Err(Problem::Limit {
            what: "bytes of the file",
            got: len,
            limit: limits.file_bytes,
        });
    }
    if len >= MAP_BYTES {
        return Ok(map::map(&file)?);
    }
    let mut bytes = Vec::with_capacity(len as usize);
    (&file).take(MAP_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

fn decode(bytes: Bytes, limits: &Limits) -> Result<Model, Problem> {
    let len = bytes.len() as u64;
    if len > limits.file_bytes {
        return Err(Problem::Limit {
            what: "bytes of the file",
            got: len,
            limit: limits.file_bytes,
        });
    }
    let header = Header::read(&bytes)?;
    if header.meta_checksum(&bytes[..header.data.start]) != header.meta_crc {
        return Err(Problem::Checksum { part: "header and message" });
    }
    let data = bytes.slice(header.data);
    if crc32c::crc32c(&data) != header.data_crc {
        return Err(Problem::Checksum { part: "constants" });
    }
    let model = proto::decode(bytes.slice(header.message), data, limits)?;
    model.verify(limits)?;
    Ok(model)
}

/// The file's parts in order.
fn encode(model: &Model) -> Result<Vec<Bytes>, Problem> {
    model.verify(&Limits::NONE)?;
    let (message, data) = proto::encode(model);
    let message = Bytes::from(message.encode_to_vec());
    let align = if data.len < 1 << 20 { 64 } else { 4096 };
    let start = (HEADER + message.len()).next_multiple_of(align);
    let gap = Bytes::from(vec![0; start - HEADER - message.len()]);

    let mut constants = Vec::new();
    let mut at = 0;
    for (offset, blob) in data.blobs {
        constants.push(Bytes::from(vec![0; (offset - at) as usize]));
        at = offset + blob.len() as u64;
        constants.push(blob);
    }
    let data_crc = constants.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    let mut header = Header {
        min_reader: VERSION,
        message: HEADER..HEADER + message.len(),
        data: start..start + data.len as usize,
        data_crc,
        meta_crc: 0,
    };
    header.meta_crc = [&message, &gap]
        .into_iter()
        .fold(crc32c::crc32c(&header.write()[..60]), |crc, part| crc32c::crc32c_append(crc, part));

    let mut parts = vec![Bytes::copy_from_slice(&header.write()), message, gap];
    parts.append(&mut constants);
    Ok(parts)
}
