//! Constant tensors: typed, shared, 64-byte aligned bytes.

use crate::{DType, Dim, ElemType, TensorType};
use bytemuck::{Pod, Zeroable};
use bytes::Bytes;
use thiserror::Error;

/// Alignment of every constant's first byte, in memory and in `.rq` files.
pub const ALIGN: usize = 64;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

/// Why bytes cannot become a tensor.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum TensorError {
    /// The byte length is not what type and shape need.
    #[error("{dtype}{dims:?} needs {needed} bytes, but {got} are there")]
    Length {
        /// Storage type.
        dtype: DType,
        /// Shape.
        dims: Vec<usize>,
        /// Bytes that type and shape need.
        needed: usize,
        /// Bytes that are there.
        got: usize,
    },
    /// The size does not fit the address space.
    #[error("{dtype}{dims:?} is too large for this machine")]
    TooLarge {
        /// Storage type.
        dtype: DType,
        /// Shape.
        dims: Vec<usize>,
    },
    /// A rank above [`crate::MAX_RANK`].
    #[error("rank {rank} is above the limit of {}", crate::MAX_RANK)]
    Rank {
        /// The rank.
        rank: usize,
    },
    /// The memory could not be had.
    #[error("no memory for {bytes} bytes")]
    NoMemory {
        /// Bytes asked for.
        bytes: usize,
    },
}

/// A dense row-major tensor. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    elem: ElemType,
    dims: Vec<usize>,
    data: Bytes,
}

impl Tensor {
    /// Takes `data` as it is when it is aligned to [`ALIGN`] (memory-mapped weights are), copies it
    /// otherwise. The length must be exactly what type and shape need.
    pub fn from_bytes(elem: ElemType, dims: Vec<usize>, data: Bytes) -> Result<Self, TensorError> {
        let needed = Self::byte_len(elem.dtype, &dims)?;
        if data.len() != needed {
            return Err(TensorError::Length { dtype: elem.dtype, dims, needed, got: data.len() });
        }
        let data = if data.as_ptr().addr().is_multiple_of(ALIGN) || data.is_empty() {
            data
        } else {
            aligned(&data)?
        };
        Ok(Tensor { elem, dims, data })
    }

    /// Copies `data`.
    pub fn copy_from(elem: ElemType, dims: Vec<usize>, data: &[u8]) -> Result<Self, TensorError> {
        let needed = Self::byte_len(elem.dtype, &dims)?;
        if data.len() != needed {
            return Err(TensorError::Length { dtype: elem.dtype, dims, needed, got: data.len() });
        }
        Ok(Tensor { elem, dims, data: aligned(data)? })
    }

    /// A plain tensor of Rust numbers.
    pub fn from_slice<T: Element>(dims: &[usize], data: &[T]) -> Result<Self, TensorError> {
        Self::copy_from(ElemType::plain(T::DTYPE), dims.to_vec(), bytemuck::cast_slice(data))
    }

    /// A plain rank-0 tensor.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self::from_slice(&[], &[value]).expect("a scalar has one element")
    }

    /// Zero bytes of the given type and shape.
    pub fn zeros(elem: ElemType, dims: Vec<usize>) -> Result<Self, TensorError> {
        let len = Self::byte_len(elem.dtype, &dims)?;
        let mut lines = Vec::new();
        let n = len.div_ceil(ALIGN);
        lines.try_reserve_exact(n).map_err(|_| TensorError::NoMemory { bytes: len })?;
        lines.resize(n, Line([0; ALIGN]));
        Ok(Tensor { elem, dims, data: Bytes::from_owner(Aligned { lines, len }) })
    }

    /// Bytes that a tensor of this type and shape takes.
    pub fn byte_len(dtype: DType, dims: &[usize]) -> Result<usize, TensorError> {
        if dims.len() > crate::MAX_RANK {
            return Err(TensorError::Rank { rank: dims.len() });
        }
        // A zero extent must not hide an overflow of the others.
        let product = |keep_zero: bool| {
            dims.iter()
                .try_fold(1usize, |n, &d| n.checked_mul(if keep_zero { d } else { d.max(1) }))
        };
        product(false)
            .and_then(|n| dtype.bytes_for(n))
            .filter(|&n| n <= isize::MAX as usize)
            .and_then(|_| product(true))
            .and_then(|n| dtype.bytes_for(n))
            .ok_or_else(|| TensorError::TooLarge { dtype, dims: dims.to_vec() })
    }

    /// The elements' type.
    pub fn elem(&self) -> &ElemType {
        &self.elem
    }

    /// The storage type.
    pub fn dtype(&self) -> DType {
        self.elem.dtype
    }

    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type as a value has it.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.elem.clone(), self.dims.iter().map(|&d| Dim::Fixed(d)).collect())
    }

    /// The bytes, row-major, little-endian, shared.
    pub fn bytes(&self) -> &Bytes {
        &self.data
    }

    /// The elements, if `T` is the storage type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        if T::DTYPE != self.elem.dtype {
            return None;
        }
        if self.data.is_empty() { Some(&[]) } else { bytemuck::try_cast_slice(&self.data).ok() }
    }

    /// The same bytes read as elements of another meaning. The storage size must be the same.
    pub fn with_elem(&self, elem: ElemType) -> Result<Self, TensorError> {
        Self::from_bytes(elem, self.dims.clone(), self.data.clone())
    }

    /// The same elements in another shape of equal size.
    pub fn with_dims(&self, dims: Vec<usize>) -> Result<Self, TensorError> {
        Self::from_bytes(self.elem.clone(), dims, self.data.clone())
    }

    /// Integer elements widened to `i64` (bool counts as 0 and 1); `None` for floats and 4-bit.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        fn widen<T: Element + Into<i64>>(t: &Tensor) -> Option<Vec<i64>> {
            Some(t.as_slice::<T>()?.iter().map(|&v| v.into()).collect())
        }
        match self.dtype() {
            DType::I8 => widen::<i8>(self),
            DType::U8 => widen::<u8>(self),
            DType::I16 => widen::<i16>(self),
            DType::U16 => widen::<u16>(self),
            DType::I32 => widen::<i32>(self),
            DType::I64 => widen::<i64>(self),
            DType::Bool => Some(self.data.iter().map(|&b| i64::from(b != 0)).collect()),
            _ => None,
        }
    }

    /// Float elements as `f32`; `None` for the others.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        match self.dtype() {
            DType::F32 => self.as_slice::<f32>().map(<[f32]>::to_vec),
            DType::F16 => Some(self.as_slice::<half::f16>()?.iter().map(|v| v.to_f32()).collect()),
            DType::F64 => Some(self.as_slice::<f64>()?.iter().map(|&v| v as f32).collect()),
            _ => None,
        }
    }
}

pub(crate) fn aligned(data: &[u8]) -> Result<Bytes, TensorError> {
    let mut lines: Vec<Line> = Vec::new();
    let n = data.len().div_ceil(ALIGN);
    lines.try_reserve_exact(n).map_err(|_| TensorError::NoMemory { bytes: data.len() })?;
    lines.resize(n, Line([0; ALIGN]));
    bytemuck::cast_slice_mut::<Line, u8>(&mut lines)[..data.len()].copy_from_slice(data);
    Ok(Bytes::from_owner(Aligned { lines, len: data.len() }))
}

/// A Rust number that is the element of a tensor.
pub trait Element: Pod {
    /// Its storage type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => {$(impl Element for $t { const DTYPE: DType = DType::$d; })*};
}
elements!(f32 => F32, half::f16 => F16, f64 => F64, i8 => I8, u8 => U8, i16 => I16, u16 => U16, i32 => I32, i64 => I64);
