//! The first 64 bytes.

use super::Problem;
use std::ops::Range;

/// Bytes of the header.
pub(super) const HEADER: usize = 64;
/// Not text, so that transfers that change line ends are noticed.
const MAGIC: &[u8; 8] = b"\x89requant";
const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) min_reader: u32,
    /// Where the message lies.
    pub(super) message: Range<usize>,
    /// Where the constants lie: the rest of the file.
    pub(super) data: Range<usize>,
    pub(super) data_crc: u32,
    pub(super) meta_crc: u32,
}

impl Header {
    pub(super) fn write(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(MAGIC);
        put(&FORMAT.to_le_bytes());
        put(&self.min_reader.to_le_bytes());
        for range in [&self.message, &self.data] {
            put(&(range.start as u64).to_le_bytes());
            put(&(range.len() as u64).to_le_bytes());
        }
        put(&self.data_crc.to_le_bytes());
        put(&[0; 8]);
        put(&self.meta_crc.to_le_bytes());
        out
    }

    /// Reads the header of a whole file; the ranges lie within it.
    pub(super) fn read(file: &[u8]) -> Result<Header, Problem> {
        let Some(header) = file.first_chunk::<HEADER>() else {
            return Err(if file.starts_with(MAGIC) { Problem::Truncated } else { Problem::NotRq });
        };
        let u32_at = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if !header.starts_with(MAGIC) {
            return Err(Problem::NotRq);
        }
        let newer = |what: &str, version: u32| {
            Err(Problem::Newer { what: format!("{what} {version}"), place: Default::default() })
        };
        let (format, min_reader) = (u32_at(8), u32_at(12));
        if format != FORMAT {
            return newer("file format", format);
        }
        if min_reader > crate::proto::VERSION {
            return newer("schema", min_reader);
        }
        let range = |what: &'static str, at: usize| {
            let (start, len) = (u64_at(at), u64_at(at + 8));
            let end = start.checked_add(len).ok_or(Problem::Header { what })?;
            if start < HEADER as u64 {
                return Err(Problem::Header { what });
            }
            if end > file.len() as u64 {
                return Err(Problem::Truncated);
            }
            Ok(start as usize..end as usize)
        };
        let message = range("the message's place", 16)?;
        let data = range("the data section's place", 32)?;
        if data.start < message.end
            || data.end != file.len()
            || !data.start.is_multiple_of(crate::ALIGN)
        {
            return Err(Problem::Header { what: "the data section's place" });
        }
        if header[52..60] != [0; 8] {
            return Err(Problem::Header { what: "the unused part" });
        }
        Ok(Header { min_reader, message, data, data_crc: u32_at(48), meta_crc: u32_at(60) })
    }

    /// Checksum of `file` up to the data section, less the checksum itself.
    pub(super) fn meta_checksum(&self, before_data: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&before_data[..60]), &before_data[HEADER..])
    }
}
