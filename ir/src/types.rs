//! Tensor types: storage, shape and quantization.

use crate::DType;
use std::fmt;
use std::sync::Arc;

/// The largest rank any tensor may have.
pub const MAX_RANK: usize = 8;

/// One extent of a shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// Known.
    Fixed(usize),
    /// Named: equal names are equal extents, bound at compile time or at the first run.
    Symbol(Arc<str>),
    /// Nothing is known.
    Unknown,
}

impl Dim {
    /// The extent if it is known.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Fixed(n) => Some(*n),
            _ => None,
        }
    }

    /// True when both are certainly the same extent.
    pub fn same(&self, other: &Dim) -> bool {
        self == other && *self != Dim::Unknown
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Dim::Fixed(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(s) => f.write_str(s),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// `real = scale · (q − zero_point)`, with one pair for the tensor, an axis or a block.
#[derive(Clone, Debug, PartialEq)]
pub enum QuantParams {
    /// One pair for the whole tensor.
    PerTensor {
        /// Finite and positive.
        scale: f32,
        /// Within the storage type's range.
        zero_point: i32,
    },
    /// One pair for each index along `axis`.
    PerAxis {
        /// The axis, counted from the front.
        axis: usize,
        /// As many as the extent of `axis`.
        scales: Arc<[f32]>,
        /// As many as `scales`.
        zero_points: Arc<[i32]>,
    },
    /// One pair for each run of `size` elements along `axis` (weight-only quantization);
    /// row-major over the tensor's shape with `axis` divided by `size`.
    PerBlock {
        /// The axis that is cut into blocks.
        axis: usize,
        /// Elements of a block along `axis`.
        size: usize,
        /// One for each block.
        scales: Arc<[f32]>,
        /// As many as `scales`.
        zero_points: Arc<[i32]>,
    },
}

/// What the stored integers mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Quant {
    /// The float type that is stood for.
    pub expressed: DType,
    /// Scales and zero points.
    pub params: QuantParams,
    /// The lowest storage value is not used (s8 weights in [−127, 127]).
    pub narrow_range: bool,
}

impl Quant {
    /// f32 values, one pair for the tensor.
    pub fn per_tensor(scale: f32, zero_point: i32) -> Self {
        Quant {
            expressed: DType::F32,
            params: QuantParams::PerTensor { scale, zero_point },
            narrow_range: false,
        }
    }

    /// f32 values, one pair for each index along `axis`.
    pub fn per_axis(
        axis: usize,
        scales: impl Into<Arc<[f32]>>,
        zero_points: impl Into<Arc<[i32]>>,
    ) -> Self {
        Quant {
            expressed: DType::F32,
            params: QuantParams::PerAxis {
                axis,
                scales: scales.into(),
                zero_points: zero_points.into(),
            },
            narrow_range: false,
        }
    }

    /// Scale and zero point when there is one pair.
    pub fn as_per_tensor(&self) -> Option<(f32, i32)> {
        match self.params {
            QuantParams::PerTensor { scale, zero_point } => Some((scale, zero_point)),
            _ => None,
        }
    }

    /// All scales in order.
    pub fn scales(&self) -> &[f32] {
        match &self.params {
            QuantParams::PerTensor { scale, .. } => std::slice::from_ref(scale),
            QuantParams::PerAxis { scales, .. } | QuantParams::PerBlock { scales, .. } => scales,
        }
    }

    /// All zero points in order.
    pub fn zero_points(&self) -> &[i32] {
        match &self.params {
            QuantParams::PerTensor { zero_point, .. } => std::slice::from_ref(zero_point),
            QuantParams::PerAxis { zero_points, .. }
            | QuantParams::PerBlock { zero_points, .. } => zero_points,
        }
    }

    /// The axis of per-axis parameters.
    pub fn axis(&self) -> Option<usize> {
        match self.params {
            QuantParams::PerAxis { axis, .. } => Some(axis),
            _ => None,
        }
    }
}

/// Storage and meaning of the elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ElemType {
    /// How an element is stored.
    pub dtype: DType,
    /// What stored integers mean; `None` for plain numbers.
    pub quant: Option<Quant>,
}

impl ElemType {
    /// Plain numbers.
    pub const fn plain(dtype: DType) -> Self {
        ElemType { dtype, quant: None }
    }

    /// Quantized with one scale and zero point.
    pub fn per_tensor(dtype: DType, scale: f32, zero_point: i32) -> Self {
        ElemType { dtype, quant: Some(Quant::per_tensor(scale, zero_point)) }
    }

    /// Scale and zero point when the elements are quantized with one pair.
    pub fn as_per_tensor(&self) -> Option<(f32, i32)> {
        self.quant.as_ref().and_then(Quant::as_per_tensor)
    }
}

/// The type of a value: elements and shape.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorType {
    /// The elements.
    pub elem: ElemType,
    /// The extents; `None` when not even the rank is known.
    pub dims: Option<Vec<Dim>>,
}

impl TensorType {
    /// A type with known or symbolic extents.
    pub fn new(elem: ElemType, dims: Vec<Dim>) -> Self {
        TensorType { elem, dims: Some(dims) }
    }

    /// Plain numbers with all extents known.
    pub fn fixed(dtype: DType, dims: &[usize]) -> Self {
        Self::new(ElemType::plain(dtype), dims.iter().map(|&d| Dim::Fixed(d)).collect())
    }

    /// The storage type.
    pub fn dtype(&self) -> DType {
        self.elem.dtype
    }

    /// The quantization, if any.
    pub fn quant(&self) -> Option<&Quant> {
        self.elem.quant.as_ref()
    }

    /// The rank, if known.
    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    /// All extents when every one is known.
    pub fn fixed_dims(&self) -> Option<Vec<usize>> {
        self.dims.as_ref()?.iter().map(Dim::fixed).collect()
    }

    /// Number of elements when every extent is known and the product fits `usize`.
    pub fn elements(&self) -> Option<usize> {
        self.dims.as_ref()?.iter().try_fold(1usize, |n, d| n.checked_mul(d.fixed()?))
    }
}
