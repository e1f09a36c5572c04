//! Hybrid (dynamic) GEMM: f32 activations are quantized at run time, multiplied by packed s8 weights, and the exact
//! sums scaled back to f32.
//!
//! ```text
//! for each block of rows:                                  a task; its codes stay in L2
//!   for each row m:  (scale[m], zero[m]) = range of x[m, ·];  a[m, ·] = quantize(x[m, ·])
//!   acc[m, n] = Σ_k (a[m, k] − zero[m]) · (w[k, n] − w_zero[n])            exact, in i32
//!   y[m, n]   = f32(acc[m, n]) · (scale[m] · w_scale[n]) + bias[n]
//! ```
//! The float operations are these, in this order: the two scales are multiplied first, the conversion, both
//! multiplications and the addition round once each, and none is fused. So the bits are the same on every ISA; only
//! the sign and payload of a NaN may differ. This is the order of LiteRT's `MatrixBatchVectorMultiplyAccumulate` and
//! of ONNX Runtime's `MatMulIntegerToFloat`.

mod quantize;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::{
    Cpu, KernelError,
    epilogue::{OutSlice, Output, per_column},
    error::{check_at_least, check_len, checked_product, checked_span},
    gemm::{Gemm, PackedB},
    multiversion::multiversion,
    par::{Parallel, Serial},
    quantize::check_scale,
    sign::Sign,
    split,
};
use quantize::{Row, asymmetric, extent, symmetric};

/// Most rows of a block.
const ROWS: usize = 48;

/// Codes of a block, which the GEMM goes over once per panel of weights: they should stay in L2.
const BLOCK_BYTES: usize = 256 * 1024;

/// How activations become integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DynamicQuantization {
    /// s8 with zero point 0 and one scale per row, as LiteRT's hybrid ops (`SymmetricQuantizeFloats`):
    /// `r = max|x|`, `scale = r / 127`, `q = clamp(round(x · (127 / r)), −127, 127)`, halves away from zero.
    /// A row of zeros has scale 1.
    SymmetricPerRow,
    /// u8 with one scale and zero point per row: the formula of [`Self::AsymmetricPerTensor`] for each row.
    AsymmetricPerRow,
    /// u8 with one scale and zero point for all rows, as ONNX' `DynamicQuantizeLinear` in ONNX Runtime:
    /// `lo = min(0, min x)`, `hi = max(0, max x)`, `scale = (hi − lo) / 255`, `z = rne(clamp(0 − lo / scale, 0, 255))`,
    /// `q = clamp(rne(x / scale) + z, 0, 255)`, halves to even. All zeros have scale 1.
    AsymmetricPerTensor,
}

/// f32 activations times packed s8 weights, f32 output: see the module's docs.
///
/// NaN does not count in a row's range and becomes the smallest code; infinite ranges follow IEEE arithmetic, so
/// their outputs are infinite or NaN.
///
/// ```
/// use std::sync::Arc;
/// use requant_kernels::{Cpu, gemm::PackedB, hybrid::{DynamicQuantization, HybridGemm}, par::Serial, sign::Sign};
///
/// let cpu = Cpu::detect();
/// let weights = PackedB::pack(cpu, &[1, 2, 3, 4], 2, 2, false, None, Sign::U8)?;
/// let gemm = HybridGemm::new(cpu, Arc::new(weights), DynamicQuantization::SymmetricPerRow, &[0.5], &[0.0, 1.0])?;
/// let (mut y, mut scratch) = ([0.0; 2], vec![0; gemm.scratch_bytes(1, 1)]);
/// gemm.run(&Serial, 1, (&[127.0, -127.0], 2), (&mut y, 2), &mut scratch)?;
/// assert_eq!(y, [-127.0, -126.0]);
/// # Ok::<(), requant_kernels::KernelError>(())
/// ```
#[derive(Debug)]
pub struct HybridGemm {
    cpu: Cpu,
    gemm: Gemm,
    quantization: DynamicQuantization,
    columns: Columns,
}

/// What the scaling of a row needs of each column.
#[derive(Debug)]
struct Columns {
    scales: Vec<f32>,
    /// `Σ_k (w − w_zero)`
    sums: Vec<i32>,
    bias: Vec<f32>,
}

impl HybridGemm {
    /// Binds packed weights to their scales, one per column or one for all, and a bias of N values or none, which
    /// counts as zeros.
    ///
    /// The activations' sign that `packed` was made for only decides how codes are stored: all results are the same,
    /// but the sign that the ISA reads in place is faster (u8 on x86, s8 on Arm).
    ///
    /// # Errors
    /// If a scale is not finite and positive, or a list's length does not fit the weights.
    pub fn new(
        cpu: Cpu,
        packed: Arc<PackedB>,
        quantization: DynamicQuantization,
        w_scales: &[f32],
        bias: &[f32],
    ) -> Result<Self, KernelError> {
        let n = packed.n();
        w_scales.iter().try_for_each(|&s| check_scale("a weight scale", s))?;
        let scales = per_column("weight scales", w_scales, n, 0.0)?;
        let bias = if bias.is_empty() { vec![0.0; n] } else { bias.to_vec() };
        check_len("bias", bias.len(), n)?;
        let columns = Columns { scales, sums: packed.weight_sums(), bias };
        let gemm = Gemm::new(packed, &vec![0; n], &Output::I32)?;
        Ok(Self { cpu, gemm, quantization, columns })
    }

    /// The weights.
    pub fn packed(&self) -> &Arc<PackedB> {
        self.gemm.packed()
    }

    /// Bytes of scratch that [`Self::run`] needs for `m` rows on `threads` threads.
    pub fn scratch_bytes(&self, m: usize, threads: usize) -> usize {
        let rows = self.block_rows();
        let workers = threads.clamp(1, m.div_ceil(rows).max(1));
        rows.min(m).saturating_mul(self.packed().k()).saturating_mul(workers)
    }

    /// Rows that are quantized and multiplied at a time.
    fn block_rows(&self) -> usize {
        (BLOCK_BYTES / self.packed().k().max(1) / 12 * 12).clamp(12, ROWS)
    }

    /// Computes `m` rows of `y` from as many of `x`; rows start `ldx` and `ldy` elements apart. `scratch` needs
    /// [`Self::scratch_bytes`] for the threads of `par`; its contents do not matter.
    ///
    /// # Errors
    /// If a slice is too short for its rows, or rows would overlap.
    pub fn run(
        &self,
        par: &dyn Parallel,
        m: usize,
        (x, ldx): (&[f32], usize),
        (y, ldy): (&mut [f32], usize),
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        let (k, n) = (self.packed().k(), self.packed().n());
        check_at_least("leading dimension of x", ldx, if m > 1 { k } else { 0 })?;
        check_at_least("leading dimension of y", ldy, if m > 1 { n } else { 0 })?;
        let (x_span, y_span) = (checked_span("x", m, k, ldx)?, checked_span("y", m, n, ldy)?);
        check_at_least("x", x.len(), x_span)?;
        check_at_least("y", y.len(), y_span)?;
        checked_product("scratch", &[self.block_rows(), k, par.threads()])?;
        check_at_least("scratch", scratch.len(), self.scratch_bytes(m, par.threads()))?;
        if y_span == 0 {
            return Ok(());
        }
        let (x, y) = (&x[..x_span], &mut y[..y_span]);
        // A single row, or empty ones, may come with any distance to the next.
        let (ldx, ldy) = (if m > 1 && k > 0 { ldx } else { k }, if m > 1 { ldy } else { n });
        let shared = (self.quantization == DynamicQuantization::AsymmetricPerTensor)
            .then(|| Row::asymmetric(self.extent(par, m, (x, ldx))));

        let rows = self.block_rows();
        let block = |par: &dyn Parallel, i: usize, y: &mut [f32], codes: &mut [u8]| {
            let x = x.get(i * rows * ldx..).unwrap_or_default();
            self.block(par, (x, ldx), (y, ldy), shared, codes)
        };
        let chunk = rows.saturating_mul(ldy);
        if m.div_ceil(rows) < par.threads() {
            // Too few blocks for the threads: each is shared out along its columns.
            for (i, y) in y.chunks_mut(chunk).enumerate() {
                block(par, i, y, scratch)?;
            }
            return Ok(());
        }
        let failed = std::sync::OnceLock::new();
        split::chunks_with(par, y, chunk, scratch, rows.min(m) * k, |i, y, codes| {
            if let Err(error) = block(&Serial, i, y, codes) {
                failed.get_or_init(|| error);
            }
        });
        failed.into_inner().map_or(Ok(()), Err)
    }

    /// Computes the rows of `y`, which ends with its last row.
    fn block(
        &self,
        par: &dyn Parallel,
        (x, ldx): (&[f32], usize),
        (y, ldy): (&mut [f32], usize),
        shared: Option<Row>,
        codes: &mut [u8],
    ) -> Result<(), KernelError> {
        let (k, n) = (self.packed().k(), self.packed().n());
        let count = (y.len() - n) / ldy + 1;
        let mut rows = [Row::default(); ROWS];
        for (r, row) in rows[..count].iter_mut().enumerate() {
            let x = if k == 0 { &[] } else { &x[r * ldx..][..k] };
            *row = self.quantize(x, shared, &mut codes[r * k..][..k]);
        }
        self.gemm.run(par, count, codes, k, None, OutSlice::I32(as_sums(y)), ldy)?;
        let per_task = split::rows_per_task(4 * n);
        split::chunks(par, y, per_task * ldy, |i, y| {
            for (y, row) in y.chunks_mut(ldy).zip(&rows[i * per_task..]) {
                scale(self.cpu, &mut y[..n], *row, &self.columns);
            }
        });
        Ok(())
    }

    /// Writes the codes of one row as the weights' packing wants them stored.
    fn quantize(&self, x: &[f32], shared: Option<Row>, codes: &mut [u8]) -> Row {
        let symmetric_codes = self.quantization == DynamicQuantization::SymmetricPerRow;
        // u8 and s8 codes of one value differ by 128, in the value and in the zero point.
        let (flip, shift) = match (self.packed().a_sign(), symmetric_codes) {
            (Sign::U8, true) => (0x80, 128),
            (Sign::S8, false) => (0x80, -128),
            _ => (0, 0),
        };
        let row = if symmetric_codes {
            symmetric(self.cpu, x, codes, flip)
        } else {
            let row = shared.unwrap_or_else(|| Row::asymmetric(extent(self.cpu, x)));
            asymmetric(self.cpu, x, codes, flip, row);
            row
        };
        Row { zero: row.zero + shift, ..row }
    }

    /// `(max(0, −min x), max(0, max x))` of all rows.
    fn extent(&self, par: &dyn Parallel, m: usize, (x, ldx): (&[f32], usize)) -> (f32, f32) {
        let k = self.packed().k();
        if k == 0 {
            return (0.0, 0.0);
        }
        // Floats that are not negative are ordered as their bits are.
        let (down, up) = (AtomicU32::new(0), AtomicU32::new(0));
        let rows = split::rows_per_task(4 * k);
        par.for_each(m.div_ceil(rows), &|task| {
            for r in task * rows..m.min((task + 1) * rows) {
                let row = extent(self.cpu, &x[r * ldx..][..k]);
                down.fetch_max(row.0.to_bits(), Ordering::Relaxed);
                up.fetch_max(row.1.to_bits(), Ordering::Relaxed);
            }
        });
        (f32::from_bits(down.into_inner()), f32::from_bits(up.into_inner()))
    }
}

/// The memory of `y` as the i32 that the GEMM leaves there, to be scaled in place.
fn as_sums(y: &mut [f32]) -> &mut [i32] {
    // SAFETY: f32 and i32 have one size and alignment, and any bits are a value of either; `y` stays borrowed.
    unsafe { std::slice::from_raw_parts_mut(y.as_mut_ptr().cast(), y.len()) }
}

multiversion!(fn scale = scale_body(y: &mut [f32], row: Row, columns: &Columns));

/// Turns the `Σ a·(w − w_zero)` in `y` into outputs.
#[inline(always)]
fn scale_body(y: &mut [f32], row: Row, columns: &Columns) {
    let n = y.len();
    let Columns { scales, sums, bias } = columns;
    for (((y, s), sum), bias) in y.iter_mut().zip(&scales[..n]).zip(&sums[..n]).zip(&bias[..n]) {
        let acc = (y.to_bits() as i32).wrapping_sub(row.zero.wrapping_mul(*sum));
        *y = acc as f32 * (row.scale * s) + bias;
    }
}
