//! Packed weights, made once per constant and shared by every plan and session of a model.

use bytes::Bytes;
use requant_ir::Tensor;
use requant_kernels::conv::{ConvWeights, PackedConv};
use requant_kernels::gemm::PackedB;
use requant_kernels::sign::Sign;
use requant_kernels::{Cpu, KernelError};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a constant is packed; with the constant's identity, the key of a packed weight.
#[derive(Clone, Debug, PartialEq)]
enum Packing {
    Matrix { k: usize, n: usize, transposed: bool, zero_points: Vec<i32>, a_sign: Sign },
    Conv { shape: ConvWeights, zero_points: Vec<i32>, a_sign: Sign },
}

#[derive(Clone)]
enum Packed {
    Matrix(Arc<PackedB>),
    Conv(Arc<PackedConv>),
}

/// One constant and its packed forms. Holding the constant keeps its address from being reused.
struct Entry {
    _constant: Bytes,
    forms: Vec<(Packing, Packed)>,
}

/// The packed weights of one model for one ISA.
///
/// Constants are told apart by where their bytes lie, which clones of a tensor share: no hashing of
/// megabytes, and two nodes that read one constant share one packed form.
#[derive(Default)]
pub(crate) struct WeightCache {
    entries: Mutex<BTreeMap<(usize, usize), Entry>>,
}

impl WeightCache {
    /// A `[k, n]` (`[n, k]` if `transposed`) matrix of 8-bit weights for activations of `a_sign`.
    pub(crate) fn matrix(
        &self,
        cpu: Cpu,
        weights: &Weights<'_>,
        (k, n): (usize, usize),
        transposed: bool,
        a_sign: Sign,
    ) -> Result<Arc<PackedB>, KernelError> {
        let packing =
            Packing::Matrix { k, n, transposed, zero_points: weights.zero_points.clone(), a_sign };
        let packed = self.get(weights.constant, packing, || {
            let zero_points = weights.nonzero();
            PackedB::pack(cpu, &weights.signed(), k, n, transposed, zero_points, a_sign)
                .map(|p| Packed::Matrix(Arc::new(p)))
        })?;
        match packed {
            Packed::Matrix(packed) => Ok(packed),
            Packed::Conv(_) => unreachable!("a packing has one kind of packed form"),
        }
    }

    /// Convolution weights `[O, I/groups, kh, kw]` for activations of `a_sign`.
    pub(crate) fn conv(
        &self,
        cpu: Cpu,
        weights: &Weights<'_>,
        shape: ConvWeights,
        a_sign: Sign,
    ) -> Result<Arc<PackedConv>, KernelError> {
        let packing = Packing::Conv { shape, zero_points: weights.zero_points.clone(), a_sign };
        let packed = self.get(weights.constant, packing, || {
            PackedConv::pack(cpu, &weights.signed(), shape, weights.nonzero(), a_sign)
                .map(|p| Packed::Conv(Arc::new(p)))
        })?;
        match packed {
            Packed::Conv(packed) => Ok(packed),
            Packed::Matrix(_) => unreachable!("a packing has one kind of packed form"),
        }
    }

    /// Bytes of all packed weights.
    pub(crate) fn bytes(&self) -> usize {
        let of = |packed: &Packed| match packed {
            Packed::Matrix(p) => p.bytes(),
            Packed::Conv(p) => p.bytes(),
        };
        self.lock().values().flat_map(|e| &e.forms).map(|(_, packed)| of(packed)).sum()
    }

    fn get(
        &self,
        constant: &Tensor,
        packing: Packing,
        pack: impl FnOnce() -> Result<Packed, KernelError>,
    ) -> Result<Packed, KernelError> {
        let bytes = constant.bytes();
        let mut entries = self.lock();
        let entry = entries
            .entry((bytes.as_ptr().addr(), bytes.len()))
            .or_insert_with(|| Entry { _constant: bytes.clone(), forms: Vec::new() });
        if let Some((_, packed)) = entry.forms.iter().find(|(p, _)| *p == packing) {
            return Ok(packed.clone());
        }
        let packed = pack()?;
        entry.forms.push((packing, packed.clone()));
        Ok(packed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(usize, usize), Entry>> {
        // A panic while packing leaves the map as it was.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 8-bit weights as the kernels take them: s8, with zero points to match.
pub(crate) struct Weights<'a> {
    constant: &'a Tensor,
    unsigned: bool,
    zero_points: Vec<i32>,
}

impl<'a> Weights<'a> {
    /// `constant` as weights; `None` unless it is s8 or u8 and quantized per tensor or per axis.
    ///
    /// u8 weights become s8 by moving values and zero points by 128, which changes no difference `w − z_w`.
    pub(crate) fn new(constant: &'a Tensor) -> Option<Self> {
        let quant = constant.elem().quant.as_ref()?;
        let unsigned = match constant.dtype() {
            requant_ir::DType::I8 => false,
            requant_ir::DType::U8 => true,
            _ => return None,
        };
        if matches!(quant.params, requant_ir::QuantParams::PerBlock { .. }) {
            return None;
        }
        let shift = if unsigned { 128 } else { 0 };
        let zero_points = quant.zero_points().iter().map(|z| z - shift).collect();
        Some(Weights { constant, unsigned, zero_points })
    }

    fn signed(&self) -> Cow<'_, [i8]> {
        let bytes: &[u8] = self.constant.bytes();
        if self.unsigned {
            Cow::Owned(bytes.iter().map(|b| (b ^ 0x80) as i8).collect())
        } else {
            Cow::Borrowed(bytemuck::cast_slice(bytes))
        }
    }

    fn nonzero(&self) -> Option<&[i32]> {
        self.zero_points.iter().any(|&z| z != 0).then_some(self.zero_points.as_slice())
    }
}
