//! Constants: every form in which ONNX stores the elements of a tensor.

use super::error::{Failure, ImportError, malformed, unsupported};
use super::external::ExternalFiles;
use super::proto::{TensorProto, tensor_proto::DataLocation, tensor_proto::DataType};
use crate::{DType, ElemType, Limits, Tensor};

/// The storage type that ONNX's number stands for.
pub(super) fn dtype(number: i32) -> Result<DType, Failure> {
    let Ok(data_type) = DataType::try_from(number) else {
        return unsupported(format!("unknown element type {number}"));
    };
    Ok(match data_type {
        DataType::Float => DType::F32,
        DataType::Float16 => DType::F16,
        DataType::Double => DType::F64,
        DataType::Int4 => DType::I4,
        DataType::Uint4 => DType::U4,
        DataType::Int8 => DType::I8,
        DataType::Uint8 => DType::U8,
        DataType::Int16 => DType::I16,
        DataType::Uint16 => DType::U16,
        DataType::Int32 => DType::I32,
        DataType::Int64 => DType::I64,
        DataType::Bool => DType::Bool,
        DataType::Undefined => return malformed("it has no element type"),
        other => {
            return unsupported(format!("element type {}", other.as_str_name().to_lowercase()));
        }
    })
}

/// Reads a tensor. Lengths are compared before anything is allocated.
pub(super) fn read(
    t: &TensorProto,
    external: &mut ExternalFiles,
    limits: &Limits,
) -> Result<Tensor, Failure> {
    let dtype = dtype(t.data_type)?;
    let dims = dims(&t.dims, limits)?;
    if t.segment.is_some() {
        return unsupported("elements spread over several messages");
    }
    let needed = Tensor::byte_len(dtype, &dims)?;
    let elem = ElemType::plain(dtype);
    let raw = t.raw_data.as_ref().filter(|raw| !raw.is_empty());
    let typed = typed_lengths(t);
    if t.data_location() == DataLocation::External {
        if raw.is_some() || typed.iter().any(|&n| n > 0) {
            return malformed("elements both here and in another file");
        }
        let data = external.read(&t.name, &t.external_data, needed as u64)?;
        return finish(elem, dims, &data);
    }
    if !t.external_data.is_empty() {
        return malformed("a place in another file, but elements that are said to be here");
    }
    // The elements are copied even where they are aligned by chance: a tensor that shares the
    // file's bytes would keep the whole file in memory.
    if let Some(raw) = raw {
        if typed.iter().any(|&n| n > 0) {
            return malformed("elements both in `raw_data` and in a typed field");
        }
        return finish(elem, dims, raw);
    }
    let count = if matches!(dtype, DType::I4 | DType::U4) {
        needed
    } else {
        dims.iter().product::<usize>()
    };
    let (own, name) = match dtype {
        DType::F32 => (0, "float_data"),
        DType::I64 => (2, "int64_data"),
        DType::F64 => (3, "double_data"),
        _ => (1, "int32_data"),
    };
    for (field, &got) in typed.iter().enumerate() {
        if field != own && got > 0 {
            return malformed(format!(
                "{dtype} elements in a field of another type, not in `{name}`"
            ));
        }
    }
    if typed[own] != count {
        return malformed(format!(
            "{dtype}{dims:?} needs {count} numbers in `{name}`, but {} are there",
            typed[own]
        ));
    }
    let data: Vec<u8> = match dtype {
        DType::F32 => bytemuck::cast_slice(&t.float_data).to_vec(),
        DType::F64 => bytemuck::cast_slice(&t.double_data).to_vec(),
        DType::I64 => bytemuck::cast_slice(&t.int64_data).to_vec(),
        DType::I32 => bytemuck::cast_slice(&t.int32_data).to_vec(),
        DType::Bool => t.int32_data.iter().map(|&v| u8::from(v != 0)).collect(),
        DType::I8 => narrow(&t.int32_data, i8::MIN.into(), i8::MAX.into(), 1)?,
        DType::U8 => narrow(&t.int32_data, 0, u8::MAX.into(), 1)?,
        // Two elements in the low byte of each number.
        DType::I4 | DType::U4 => narrow(&t.int32_data, i8::MIN.into(), u8::MAX.into(), 1)?,
        DType::I16 => narrow(&t.int32_data, i16::MIN.into(), i16::MAX.into(), 2)?,
        DType::U16 | DType::F16 => narrow(&t.int32_data, 0, u16::MAX.into(), 2)?,
    };
    finish(elem, dims, &data)
}

/// Stored bools become 0 and 1, the unused half of a last byte 0; nothing else is changed.
fn finish(elem: ElemType, dims: Vec<usize>, data: &[u8]) -> Result<Tensor, Failure> {
    let odd = dims.iter().product::<usize>() % 2 == 1;
    let fixed: Option<Vec<u8>> = match elem.dtype {
        DType::Bool if data.iter().any(|&b| b > 1) => {
            Some(data.iter().map(|&b| u8::from(b != 0)).collect())
        }
        DType::I4 | DType::U4 if odd => data.split_last().map(|(last, rest)| {
            let mut all = rest.to_vec();
            all.push(last & 15);
            all
        }),
        _ => None,
    };
    Ok(Tensor::copy_from(elem, dims, fixed.as_deref().unwrap_or(data))?)
}

/// Extents of a tensor's shape.
fn dims(dims: &[i64], limits: &Limits) -> Result<Vec<usize>, Failure> {
    if dims.len() > crate::MAX_RANK {
        return Err(crate::TensorError::Rank { rank: dims.len() }.into());
    }
    dims.iter().map(|&d| extent(d, limits)).collect()
}

/// An extent that must be known.
pub(super) fn extent(d: i64, limits: &Limits) -> Result<usize, Failure> {
    let Ok(extent) = u64::try_from(d) else {
        return malformed(format!("negative extent {d}"));
    };
    if extent > limits.extent {
        return Err(Failure::Import(ImportError::Limit {
            what: "extent of a tensor".into(),
            needed: extent,
            limit: limits.extent,
        }));
    }
    usize::try_from(extent).or_else(|_| malformed(format!("extent {d} is too large here")))
}

/// Elements of the typed fields: float, int32, int64, double, uint64.
fn typed_lengths(t: &TensorProto) -> [usize; 5] {
    [
        t.float_data.len(),
        t.int32_data.len(),
        t.int64_data.len(),
        t.double_data.len(),
        t.uint64_data.len(),
    ]
}

/// The low `bytes` bytes of each number, which must be in range.
fn narrow(numbers: &[i32], min: i32, max: i32, bytes: usize) -> Result<Vec<u8>, Failure> {
    let mut data = Vec::with_capacity(numbers.len() * bytes);
    for &n in numbers {
        if n < min || n > max {
            return malformed(format!("element {n} is not in [{min}, {max}]"));
        }
        data.extend_from_slice(&n.to_le_bytes()[..bytes]);
    }
    Ok(data)
}
