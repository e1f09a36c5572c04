//! NumPy's `.npy` and `.npz` files to and from tensors.
//!
//! Numbers of the types of [`DType`](crate::DType), C or Fortran order, little- or big-endian.
//! Sizes are checked against what is really there before anything is allocated.

pub use crate::npy::NpyError;
use crate::{Limits, Tensor, npy};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;
use thiserror::Error;

/// Why an array file cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NpzError {
    /// The operating system's answer.
    #[error("{file}: {source}")]
    Io {
        /// File at fault.
        file: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// Not an `.npz` archive, or a damaged one.
    #[error("{file}: not a readable npz archive: {reason}")]
    Archive {
        /// File at fault.
        file: String,
        /// What the archive reader says.
        reason: String,
    },
    /// An array is damaged or of a type that tensors do not have.
    #[error("{file}: array `{array}`: {source}")]
    Array {
        /// File at fault.
        file: String,
        /// Array at fault.
        array: String,
        /// What is wrong.
        #[source]
        source: NpyError,
    },
}

/// Reads every array of an `.npz` file, in the archive's order.
pub fn read_npz(path: &Path, limits: &Limits) -> Result<Vec<(String, Tensor)>, NpzError> {
    let file = path.display().to_string();
    let f = File::open(path).map_err(|source| NpzError::Io { file: file.clone(), source })?;
    read_npz_from(BufReader::new(f), &file, limits)
}

/// Reads every array of an `.npz` archive in memory or on disk; `file` names it in errors.
pub fn read_npz_from<R: Read + Seek>(
    reader: R,
    file: &str,
    limits: &Limits,
) -> Result<Vec<(String, Tensor)>, NpzError> {
    let archive =
        |e: zip::result::ZipError| NpzError::Archive { file: file.into(), reason: e.to_string() };
    let mut zip = zip::ZipArchive::new(reader).map_err(archive)?;
    let mut arrays = Vec::new();
    let mut seen = BTreeSet::new();
    let mut left = limits.file_bytes;
    for i in 0..zip.len() {
        let entry = zip.by_index(i).map_err(archive)?;
        let entry_name = entry.name().map_err(archive)?;
        // As in NumPy: the name ends at a NUL, and other members are no arrays.
        let until_nul = entry_name.split('\0').next().unwrap_or_default();
        let Some(name) = until_nul.strip_suffix(".npy").map(str::to_owned) else { continue };
        if !seen.insert(name.clone()) {
            return Err(NpzError::Archive {
                file: file.into(),
                reason: format!("array `{name}` occurs twice"),
            });
        }
        let tensor = read_array(entry, file, &name, left)?;
        left = left.saturating_sub(tensor.bytes().len() as u64);
        arrays.push((name, tensor));
    }
    Ok(arrays)
}

/// Reads one `.npy` file.
pub fn read_npy(path: &Path, limits: &Limits) -> Result<Tensor, NpzError> {
    let file = path.display().to_string();
    let f = File::open(path).map_err(|source| NpzError::Io { file: file.clone(), source })?;
    read_array(BufReader::new(f), &file, "", limits.file_bytes)
}

/// Writes arrays to an uncompressed `.npz` in the given order.
pub fn write_npz<'a, W: Write + Seek>(
    writer: W,
    file: &str,
    arrays: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<(), NpzError> {
    let io_error = |source: io::Error| NpzError::Io { file: file.into(), source };
    let archive =
        |e: zip::result::ZipError| NpzError::Archive { file: file.into(), reason: e.to_string() };
    let mut zip = zip::ZipWriter::new(writer);
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .large_file(true);
    for (name, tensor) in arrays {
        zip.start_file(format!("{name}.npy"), options).map_err(archive)?;
        npy::write(&mut zip, tensor).map_err(io_error)?;
    }
    zip.finish().map_err(archive)?;
    Ok(())
}

/// Reads an `.npy` in memory; `file` names it in errors.
pub fn read_npy_from<R: Read>(reader: R, file: &str, limits: &Limits) -> Result<Tensor, NpzError> {
    read_array(reader, file, "", limits.file_bytes)
}

fn read_array<R: Read>(reader: R, file: &str, array: &str, limit: u64) -> Result<Tensor, NpzError> {
    npy::read(reader, limit).map_err(|e| match e {
        NpyError::Io(source) => NpzError::Io { file: file.into(), source },
        source => NpzError::Array { file: file.into(), array: array.into(), source },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use std::io::Cursor;

    #[test]
    fn arrays_come_back_in_order() {
        let a = Tensor::from_slice(&[2, 3], &[1.5f32, -2.0, 0.0, f32::MAX, 1e-40, -0.0]).unwrap();
        let b = Tensor::from_slice(&[4], &[1i64, -1, i64::MIN, i64::MAX]).unwrap();
        let c = Tensor::scalar(7u8);
        let mut bytes = Cursor::new(Vec::new());
        write_npz(&mut bytes, "m", [("z/y:0", &a), ("b", &b), ("c", &c)]).unwrap();
        bytes.set_position(0);
        let back = read_npz_from(bytes, "m", &Limits::default()).unwrap();
        assert_eq!(back, [("z/y:0".to_owned(), a), ("b".to_owned(), b), ("c".to_owned(), c)]);
    }
}
