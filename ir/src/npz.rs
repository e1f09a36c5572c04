//! NumPy's `.npy` and `.npz` files to and from tensors.
//!
//! Little-endian numbers of the types of [`DType`], C or Fortran order. Sizes are checked against
//! what is really there before anything is allocated.

use crate::{DType, ElemType, Limits, Tensor, TensorError};
use npyz::{Endianness, NpyHeader, Order, TypeChar, WriterBuilder};
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
    #[error("{file}: array `{array}`: {reason}")]
    Array {
        /// File at fault.
        file: String,
        /// Array at fault.
        array: String,
        /// What is wrong.
        reason: String,
    },
    /// The bytes do not make a tensor.
    #[error("{file}: array `{array}`: {source}")]
    Tensor {
        /// File at fault.
        file: String,
        /// Array at fault.
        array: String,
        /// What is wrong.
        #[source]
        source: TensorError,
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
        let Some(name) = npyz::npz::array_name_from_file_name(&entry_name).map(str::to_owned)
        else {
            continue;
        };
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
        zip.start_file(npyz::npz::file_name_from_array_name(name), options).map_err(archive)?;
        write_array(&mut zip, tensor).map_err(io_error)?;
    }
    zip.finish().map_err(archive)?;
    Ok(())
}

fn read_array<R: Read>(
    mut reader: R,
    file: &str,
    array: &str,
    limit: u64,
) -> Result<Tensor, NpzError> {
    let fail = |reason: String| NpzError::Array { file: file.into(), array: array.into(), reason };
    let header = NpyHeader::from_reader(&mut reader).map_err(|e| fail(e.to_string()))?;
    let npyz::DType::Plain(ty) = header.dtype() else {
        return Err(fail("structured arrays are not supported".into()));
    };
    if ty.endianness() == Endianness::Big {
        return Err(fail(
            "big-endian arrays are not supported; convert with `.astype('<f4')`".into(),
        ));
    }
    let dtype = match (ty.type_char(), ty.size_field()) {
        (TypeChar::Float, 2) => DType::F16,
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Float, 8) => DType::F64,
        (TypeChar::Int, 1) => DType::I8,
        (TypeChar::Uint, 1) => DType::U8,
        (TypeChar::Int, 2) => DType::I16,
        (TypeChar::Uint, 2) => DType::U16,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Bool, 1) => DType::Bool,
        _ => return Err(fail(format!("element type `{ty}` is not supported"))),
    };
    let dims = header
        .shape()
        .iter()
        .map(|&d| usize::try_from(d))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| fail("an extent does not fit this machine".into()))?;
    let tensor_error = |source| NpzError::Tensor { file: file.into(), array: array.into(), source };
    let needed = Tensor::byte_len(dtype, &dims).map_err(tensor_error)?;
    if needed as u64 > limit {
        return Err(fail(format!("{needed} bytes are above the limit of {limit}")));
    }
    let mut data = Vec::new();
    // Grows with what is really there: a header may promise anything.
    reader
        .take(needed as u64)
        .read_to_end(&mut data)
        .map_err(|source| NpzError::Io { file: file.into(), source })?;
    if header.order() == Order::Fortran && dims.len() > 1 && data.len() == needed {
        data = to_c_order(&data, &dims, dtype.bits() as usize / 8);
    }
    if dtype == DType::Bool && data.iter().any(|&b| b > 1) {
        return Err(fail("a bool is neither 0 nor 1".into()));
    }
    Tensor::copy_from(ElemType::plain(dtype), dims, &data).map_err(tensor_error)
}

fn to_c_order(data: &[u8], dims: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0usize; dims.len()];
    for _ in 0..data.len() / size.max(1) {
        let from = index.iter().zip(dims).rev().fold(0, |at, (&i, &d)| at * d + i) * size;
        out.extend_from_slice(&data[from..from + size]);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

fn write_array<W: Write>(writer: &mut W, tensor: &Tensor) -> io::Result<()> {
    let shape: Vec<u64> = tensor.dims().iter().map(|&d| d as u64).collect();
    let descr = match tensor.dtype() {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::F64 => "<f8",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I16 => "<i2",
        DType::U16 => "<u2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::Bool => "|b1",
        DType::I4 | DType::U4 => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "npy has no 4-bit elements"));
        }
    };
    let ty =
        descr.parse().map_err(|_| io::Error::other("a type string that npyz does not know"))?;
    // The header alone: the elements follow as they are.
    npyz::WriteOptions::new_header_only()
        .dtype(npyz::DType::Plain(ty))
        .shape(&shape)
        .writer(&mut *writer)
        .write_header_only()?;
    writer.write_all(tensor.bytes())
}

/// Reads an `.npy` in memory; `file` names it in errors.
pub fn read_npy_from<R: Read>(reader: R, file: &str, limits: &Limits) -> Result<Tensor, NpzError> {
    read_array(reader, file, "", limits.file_bytes)
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

    #[test]
    fn fortran_order_is_reordered() {
        let mut file = Vec::new();
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }";
        let padded = format!("{header:<117}\n");
        file.extend_from_slice(b"\x93NUMPY\x01\x00");
        file.extend_from_slice(&(padded.len() as u16).to_le_bytes());
        file.extend_from_slice(padded.as_bytes());
        file.extend_from_slice(&[1, 4, 2, 5, 3, 6]);
        let t = read_npy_from(&file[..], "m", &Limits::default()).unwrap();
        assert_eq!(t.as_slice::<u8>().unwrap(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused_before_allocating() {
        let mut file = Vec::new();
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 100000), }";
        let padded = format!("{header:<117}\n");
        file.extend_from_slice(b"\x93NUMPY\x01\x00");
        file.extend_from_slice(&(padded.len() as u16).to_le_bytes());
        file.extend_from_slice(padded.as_bytes());
        assert!(matches!(
            read_npy_from(&file[..], "m", &Limits::default()),
            Err(NpzError::Array { .. })
        ));
        let limits = Limits { file_bytes: u64::MAX, ..Limits::default() };
        assert!(matches!(read_npy_from(&file[..], "m", &limits), Err(NpzError::Tensor { .. })));
    }
}
