//! One step of a plan: a kernel with everything resolved, and how it is run.

use super::arena::{Arena, Readable};
use super::error::RunError;
use requant_ir::{DType, ElemType, Op, Tensor, TensorType};
use requant_kernels::broadcast::Broadcast;
use requant_kernels::conv::Conv;
use requant_kernels::elementwise::{QAdd, QMul};
use requant_kernels::epilogue::OutSlice;
use requant_kernels::float::{Binary, ConvF32, GemmF32, Reduce, Unary};
use requant_kernels::gemm::{DynamicGemm, Gemm};
use requant_kernels::layout::{Concat, Gather, Pad, StridedCopy};
use requant_kernels::lut::Lut;
use requant_kernels::par::Parallel;
use requant_kernels::pool::{
    AveragePool8, AveragePoolF32, GlobalAveragePool8, MaxPool8, MaxPoolF32,
};
use requant_kernels::quantize::{Codes, Dequantize, Quantize, Requantize};
use requant_kernels::softmax::{Softmax, Softmax8};
use requant_kernels::{Cpu, KernelError};
use smallvec::SmallVec;
use std::ops::Range;

/// What kind of work a node became, from the cheapest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Nothing: the result is the operand's bytes.
    View,
    /// Bytes are moved.
    Movement,
    /// Integer arithmetic, or the conversion from and to it.
    Integer,
    /// Float arithmetic.
    Float,
    /// The reference interpreter.
    Fallback,
}

impl Class {
    /// The name that `explain` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Class::View => "view",
            Class::Movement => "movement",
            Class::Integer => "integer",
            Class::Float => "float",
            Class::Fallback => "fallback",
        }
    }
}

/// Where a step reads an operand, or a caller an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Arena(Range<usize>),
    Constant { index: usize, range: Range<usize> },
    Input { index: usize, range: Range<usize> },
}

impl Source {
    pub(crate) fn len(&self) -> usize {
        let (Source::Arena(range) | Source::Constant { range, .. } | Source::Input { range, .. }) =
            self;
        range.len()
    }
}

/// A kernel with its operands' addresses.
pub(crate) struct Step {
    pub(crate) kernel: Kernel,
    pub(crate) reads: SmallVec<[Source; 4]>,
    /// In the arena. All but [`Kernel::Fallback`] write one block.
    pub(crate) writes: SmallVec<[Range<usize>; 1]>,
    pub(crate) scratch: Range<usize>,
    /// Index of the node that it computes.
    pub(crate) node: usize,
}

/// Storage of the element that dequantization reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeType {
    U8,
    S8,
    S16,
    S32,
}

/// What an integer product writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProductResult {
    /// 8-bit codes.
    Codes,
    /// Its s32 accumulators.
    Accumulators,
}

impl ProductResult {
    /// Of the result type of an operator.
    pub(crate) fn new(elem: &ElemType) -> Self {
        if elem.dtype == DType::I32 { Self::Accumulators } else { Self::Codes }
    }

    fn of(self, y: &mut [u8]) -> OutSlice<'_> {
        match self {
            Self::Codes => OutSlice::Quant8(y),
            Self::Accumulators => OutSlice::I32(as_mut(y)),
        }
    }
}

/// Every kernel call there is.
#[derive(Debug)]
pub(crate) enum Kernel {
    // Bytes.
    Copy,
    StridedCopy(Box<StridedCopy>),
    Concat(Box<Concat>),
    Gather(Gather),
    /// The value is the bytes of one element.
    Pad(Box<Pad>, SmallVec<[u8; 8]>),
    // Integers.
    QConv(Box<Conv>, ProductResult),
    QGemm {
        gemm: Box<Gemm>,
        m: usize,
        k: usize,
        n: usize,
        result: ProductResult,
    },
    QMatMul {
        gemm: Box<DynamicGemm>,
        batches: MatMulBatches,
        trans_b: bool,
        result: ProductResult,
    },
    QAdd(Box<(QAdd, Broadcast)>),
    QMul(Box<(QMul, Broadcast)>),
    QMaxPool(Box<MaxPool8>),
    QAveragePool(Box<AveragePool8>),
    QGlobalAveragePool(Box<GlobalAveragePool8>),
    QSoftmax(Box<(Softmax8, Quantize)>),
    Lut(Box<Lut>),
    Quantize(Box<Quantize>),
    QuantizeS16(Box<Quantize>),
    Dequantize(Box<Dequantize>, CodeType),
    Requantize(Box<Requantize>),
    // Floats.
    Conv(Box<ConvF32>),
    /// Reads a, b and perhaps a bias.
    Gemm(Box<GemmF32>),
    Unary(Unary, Cpu),
    Binary(Box<Binary>),
    Reduce(Box<Reduce>),
    MaxPool(Box<MaxPoolF32>),
    AveragePool(Box<AveragePoolF32>),
    Softmax(Box<Softmax>),
    /// The reference interpreter.
    Fallback(Box<Fallback>),
}

/// A batched product of two matrices of the given extents; where each batch begins, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MatMulBatches {
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    /// Offsets of a and b; the results follow one another.
    starts: Vec<(usize, usize)>,
}

impl MatMulBatches {
    /// NumPy's matmul of operands of at least two axes (one axis for `a`: a row); `None` unless they fit.
    pub(crate) fn new(a: &[usize], b: &[usize], trans_b: bool) -> Option<Self> {
        let ([a_batch @ .., m, k], [b_batch @ .., rows, cols]) = (a, b) else { return None };
        let (k_b, n) = if trans_b { (*cols, *rows) } else { (*rows, *cols) };
        if *k != k_b {
            return None;
        }
        let shapes = Broadcast::new(a_batch, b_batch).ok()?;
        let count = shapes.dims().iter().product();
        let starts = (0..count)
            .map(|i| {
                (
                    broadcast_index(shapes.dims(), a_batch, i) * m * k,
                    broadcast_index(shapes.dims(), b_batch, i) * k * n,
                )
            })
            .collect();
        Some(MatMulBatches { m: *m, k: *k, n, starts })
    }

    pub(crate) fn macs(&self) -> u64 {
        self.starts.len() as u64 * self.m as u64 * self.k as u64 * self.n as u64
    }
}

/// The flat index in `dims` of element `i` of `shape`, to which `dims` is broadcast.
fn broadcast_index(shape: &[usize], dims: &[usize], mut i: usize) -> usize {
    let (mut index, mut stride) = (0, 1);
    for (back, &extent) in shape.iter().rev().enumerate() {
        let coordinate = i % extent;
        i /= extent;
        if let Some(&d) = dims.len().checked_sub(back + 1).and_then(|at| dims.get(at)) {
            index += if d == 1 { 0 } else { coordinate * stride };
            stride *= d;
        }
    }
    index
}

/// An operator for the reference interpreter.
#[derive(Debug)]
pub(crate) struct Fallback {
    pub(crate) op: Op,
    pub(crate) operands: Vec<Option<FallbackOperand>>,
    pub(crate) results: Vec<TensorType>,
}

/// An operand of the reference interpreter; values come from the step's reads, in order.
#[derive(Debug)]
pub(crate) enum FallbackOperand {
    Constant(Tensor),
    Value { elem: ElemType, dims: Vec<usize> },
}

impl Kernel {
    pub(crate) fn class(&self) -> Class {
        use Kernel::*;
        match self {
            Copy | StridedCopy(_) | Concat(_) | Gather(_) | Pad(..) => Class::Movement,
            QConv(..)
            | QGemm { .. }
            | QMatMul { .. }
            | QAdd(_)
            | QMul(_)
            | QMaxPool(_)
            | QAveragePool(_)
            | QGlobalAveragePool(_)
            | QSoftmax(_)
            | Lut(_)
            | Quantize(_)
            | QuantizeS16(_)
            | Dequantize(..)
            | Requantize(_) => Class::Integer,
            Conv(_) | Gemm(_) | Unary(..) | Binary(_) | Reduce(_) | MaxPool(_) | AveragePool(_)
            | Softmax(_) => Class::Float,
            Fallback(_) => Class::Fallback,
        }
    }

    /// The kernel's name, without the instruction set.
    pub(crate) fn name(&self) -> &'static str {
        use Kernel::*;
        match self {
            Copy => "copy",
            StridedCopy(_) => "strided-copy",
            Concat(_) => "concat",
            Gather(_) => "gather",
            Pad(..) => "pad",
            QConv(conv, _) => {
                let spec = conv.geometry().spec();
                if spec.groups == spec.in_c && spec.groups == spec.out_c && spec.groups > 1 {
                    "qconv-depthwise"
                } else if spec.kernel == [1, 1]
                    && spec.strides == [1, 1]
                    && spec.pads == [0; 4]
                    && spec.groups == 1
                {
                    "qconv-pointwise"
                } else {
                    "qconv-im2col"
                }
            }
            QGemm { .. } => "qgemm",
            QMatMul { .. } => "qmatmul",
            QAdd(_) => "qadd",
            QMul(_) => "qmul",
            QMaxPool(_) => "qpool-max",
            QAveragePool(_) => "qpool-average",
            QGlobalAveragePool(_) => "qpool-global",
            QSoftmax(_) => "qsoftmax",
            Lut(_) => "lut",
            Quantize(_) | QuantizeS16(_) => "quantize",
            Dequantize(..) => "dequantize",
            Requantize(_) => "requantize",
            Conv(_) => "conv",
            Gemm(_) => "gemm",
            Unary(..) => "unary",
            Binary(_) => "binary",
            Reduce(_) => "reduce",
            MaxPool(_) => "pool-max",
            AveragePool(_) => "pool-average",
            Softmax(_) => "softmax",
            Fallback(_) => "reference",
        }
    }

    /// Whether the result may take the place of the only operand.
    pub(crate) fn runs_in_place(&self) -> bool {
        matches!(self, Kernel::Lut(_) | Kernel::Unary(..))
    }
}

/// What steps read besides the arena.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) constants: &'a [Tensor],
    pub(crate) inputs: &'a [super::input::Input],
}

impl<'a> Surroundings<'a> {
    /// The bytes at `source`, if that is not the arena.
    pub(crate) fn outside(self, source: &Source) -> Option<&'a [u8]> {
        match source {
            Source::Arena(_) => None,
            Source::Constant { index, range } => {
                Some(&self.constants[*index].bytes()[range.clone()])
            }
            Source::Input { index, range } => Some(&self.inputs[*index].bytes()[range.clone()]),
        }
    }
}

/// Why a step failed; the session adds the node's name.
pub(crate) enum StepError {
    Kernel(KernelError),
    Fallback(super::fallback::FallbackError),
}

impl From<KernelError> for StepError {
    fn from(e: KernelError) -> Self {
        StepError::Kernel(e)
    }
}

impl StepError {
    pub(crate) fn at(self, node: &str) -> RunError {
        let node = node.to_owned();
        match self {
            StepError::Kernel(source @ KernelError::Value { .. }) => {
                RunError::Value { node, source }
            }
            StepError::Kernel(source) => RunError::Kernel { node, source },
            StepError::Fallback(e) => e.at(node),
        }
    }
}

impl Step {
    /// Runs the step.
    pub(crate) fn run(
        &self,
        arena: &mut Arena,
        around: Surroundings<'_>,
        par: &dyn Parallel,
    ) -> Result<(), StepError> {
        if let Kernel::Fallback(fallback) = &self.kernel {
            return fallback.run(self, arena, around).map_err(StepError::Fallback);
        }
        let out = &self.writes[0];
        if self.kernel.runs_in_place() && self.reads[0] == Source::Arena(out.clone()) {
            self.run_in_place(&mut arena.bytes_mut()[out.clone()], par);
            return Ok(());
        }
        let ([y, scratch], readable) = arena.split(&[out.clone(), self.scratch.clone()]);
        let operands = Operands { step: self, readable, around };
        self.compute(operands, y, scratch, par)?;
        Ok(())
    }

    fn run_in_place(&self, y: &mut [u8], par: &dyn Parallel) {
        match &self.kernel {
            Kernel::Lut(lut) => lut.run_in_place(par, y),
            Kernel::Unary(f, cpu) => f.run_in_place(*cpu, par, as_mut(y)),
            _ => unreachable!("guarded by `runs_in_place`"),
        }
    }

    fn compute(
        &self,
        x: Operands<'_>,
        y: &mut [u8],
        scratch: &mut [u8],
        par: &dyn Parallel,
    ) -> Result<(), KernelError> {
        match &self.kernel {
            Kernel::Copy => y.copy_from_slice(x.get(0)),
            Kernel::StridedCopy(copy) => copy.run(par, x.get(0), y)?,
            Kernel::Concat(concat) => {
                let parts: SmallVec<[&[u8]; 8]> = (0..self.reads.len()).map(|i| x.get(i)).collect();
                concat.run(par, &parts, y)?;
            }
            Kernel::Gather(gather) => gather.run(par, x.get(0), as_ref(x.get(1)), y)?,
            Kernel::Pad(pad, value) => pad.run(par, x.get(0), value, y)?,
            Kernel::QConv(conv, result) => {
                let residual = (self.reads.len() > 1).then(|| x.get(1));
                conv.run(par, x.get(0), residual, result.of(y), scratch)?;
            }
            Kernel::QGemm { gemm, m, k, n, result } => {
                gemm.run(par, *m, x.get(0), *k, None, result.of(y), *n)?;
            }
            Kernel::QMatMul { gemm, batches, trans_b, result } => {
                let MatMulBatches { m, k, n, starts } = batches;
                let ldb = if *trans_b { *k } else { *n };
                let (a, b) = ((x.get(0), *k), (x.get(1), ldb));
                gemm.run(par, *m, starts, a, b, *trans_b, (result.of(y), *n), scratch)?;
            }
            Kernel::QAdd(add) => add.0.run(par, &add.1, x.get(0), x.get(1), y)?,
            Kernel::QMul(mul) => mul.0.run(par, &mul.1, x.get(0), x.get(1), y)?,
            Kernel::QMaxPool(pool) => pool.run(par, x.get(0), y)?,
            Kernel::QAveragePool(pool) => pool.run(par, x.get(0), y)?,
            Kernel::QGlobalAveragePool(pool) => pool.run(par, x.get(0), y)?,
            Kernel::QSoftmax(s) => s.0.run(par, &s.1, x.get(0), y, as_mut(scratch))?,
            Kernel::Lut(lut) => lut.run(par, x.get(0), y)?,
            Kernel::Quantize(q) => q.run(par, x.f32(0), y)?,
            Kernel::QuantizeS16(q) => q.run_s16(par, x.f32(0), as_mut(y))?,
            Kernel::Dequantize(dq, from) => {
                let codes = match from {
                    CodeType::U8 => Codes::U8(x.get(0)),
                    CodeType::S8 => Codes::S8(x.get(0)),
                    CodeType::S16 => Codes::S16(as_ref(x.get(0))),
                    CodeType::S32 => Codes::S32(as_ref(x.get(0))),
                };
                dq.run(par, codes, as_mut(y))?;
            }
            Kernel::Requantize(r) => r.run(par, as_ref(x.get(0)), y)?,
            Kernel::Conv(conv) => conv.run(par, x.f32(0), as_mut(y), as_mut(scratch))?,
            Kernel::Gemm(gemm) => {
                let bias = if self.reads.len() > 2 { x.f32(2) } else { &[] };
                gemm.run(par, x.f32(0), x.f32(1), bias, as_mut(y))?;
            }
            Kernel::Unary(f, cpu) => f.run(*cpu, par, x.f32(0), as_mut(y))?,
            Kernel::Binary(f) => f.run(par, x.f32(0), x.f32(1), as_mut(y))?,
            Kernel::Reduce(f) => f.run(par, x.f32(0), as_mut(y))?,
            Kernel::MaxPool(pool) => pool.run(par, x.f32(0), as_mut(y))?,
            Kernel::AveragePool(pool) => pool.run(par, x.f32(0), as_mut(y))?,
            Kernel::Softmax(f) => f.run(par, x.f32(0), as_mut(y))?,
            Kernel::Fallback(_) => unreachable!("run by the caller"),
        }
        Ok(())
    }
}

/// What a step reads.
#[derive(Clone, Copy)]
struct Operands<'a> {
    step: &'a Step,
    readable: Readable<'a>,
    around: Surroundings<'a>,
}

impl<'a> Operands<'a> {
    fn get(&self, i: usize) -> &'a [u8] {
        match &self.step.reads[i] {
            Source::Arena(range) => self.readable.get(range.clone()),
            other => self.around.outside(other).expect("not in the arena"),
        }
    }

    fn f32(&self, i: usize) -> &'a [f32] {
        as_ref(self.get(i))
    }
}

/// Bytes as numbers. Blocks begin at multiples of 64, views at multiples of an element: never misaligned.
fn as_ref<T: bytemuck::Pod>(bytes: &[u8]) -> &[T] {
    if bytes.is_empty() { &[] } else { bytemuck::cast_slice(bytes) }
}

/// As [`as_ref`].
fn as_mut<T: bytemuck::Pod>(bytes: &mut [u8]) -> &mut [T] {
    if bytes.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(bytes) }
}
