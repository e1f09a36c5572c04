//! int16×int8 GEMM: s16 activations with zero point 0, s8 weights with zero point 0, s64 bias, s16 output.
//!
//! ```text
//! acc[m, n] = bias[n] + Σ_k a[m, k] · w[k, n]                            exact, in i64
//! y[m, n]   = clamp(requantize(acc[m, n]), min, max)                     docs of Requantize16
//! ```
//! Weights are packed as [`crate::gemm`] does for KR = 2: `[N/16] panels × [⌈K/2⌉] pairs × [16] columns × [2]`, s8,
//! zeros beyond K and N. A pair of products is at most 2·2¹⁵·2⁷ = 2²³ in magnitude, so 255 of them fit an i32 with
//! room to spare: kernels sum 510 values of K in i32 registers and then add these to i64 sums.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm;
mod kernel;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::{fmt, sync::Arc};

use crate::{
    Cpu, KernelError,
    epilogue::{FixedPoint, NR, per_column},
    error::{check_at_least, check_backed, check_len, checked_product, checked_span},
    gemm::pack::{AlignedBytes, PanelLayout},
    grid::Grid,
    par::{DisjointMut, Parallel, for_each_with_worker, for_macs},
};
use kernel::{Block, Multiplier16, Quant16, Tile, run_panels};

/// Largest magnitude of an accumulator, that of LiteRT's requantization.
const ACC_LIMIT: i64 = 1 << 47;

/// How a 64-bit accumulator becomes an s16; one multiplier per output column, or one for all.
#[derive(Debug, Clone, PartialEq)]
pub enum Requantize16 {
    /// `rne(f32(acc) · m)`: the conversion and the product round to f32, half to even.
    HalfEven(Vec<f32>),
    /// LiteRT's int16x8 kernels (`MultiplyByQuantizedMultiplier` of an int64): the mantissa is rounded to 15 bits,
    /// `r = min((m0 + 2¹⁵) >> 16, 2¹⁵ − 1)`, and the result is `(acc · r + 2^(14 − shift)) >> (15 − shift)`.
    /// `shift` is at most 7. What leaves an i32, which LiteRT asserts not to happen, saturates.
    Tflite16x8(Vec<FixedPoint>),
}

/// s8 weights of shape K × N, packed for multiplication with s16 activations. Immutable and shareable.
pub struct PackedB16 {
    layout: PanelLayout,
    data: AlignedBytes,
}

impl fmt::Debug for PackedB16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedB16").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl PackedB16 {
    /// Packs `b`, row-major `[k, n]`, or `[n, k]` if `transposed`. All ISAs read this packing.
    ///
    /// # Errors
    /// If `b` is not `k·n` long, sizes overflow, N is beyond 65,536 without elements of `b`, or K is beyond 2²⁴, where a
    /// sum could leave 47 bits.
    pub fn pack(b: &[i8], k: usize, n: usize, transposed: bool) -> Result<Self, KernelError> {
        check_len("weights", b.len(), checked_product("weights", &[k, n])?)?;
        check_backed("columns of weights", n, b.len())?;
        let limit = 1 << 24;
        if k > limit {
            return Err(KernelError::KTooLarge { k, limit });
        }
        let layout = PanelLayout::new(k, n, kernel::KR)?;
        let mut data = AlignedBytes::zeroed(layout.bytes());
        layout.pack(
            data.as_mut_slice(),
            |k_, n_| {
                if transposed { b[n_ * k + k_] } else { b[k_ * n + n_] }
            },
        );
        Ok(Self { layout, data })
    }

    /// Rows of B.
    pub fn k(&self) -> usize {
        self.layout.k
    }

    /// Columns of B.
    pub fn n(&self) -> usize {
        self.layout.n
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.layout.bytes()
    }
}

/// A multiplication of s16 activations by constant s8 weights, to s16: see the module's docs.
///
/// ```
/// use std::sync::Arc;
/// use requant_kernels::{Cpu, gemm16::{Gemm16, PackedB16, Requantize16}, par::Serial};
///
/// let weights = Arc::new(PackedB16::pack(&[1, 2, 3, 4], 2, 2, false)?);
/// let halves = Requantize16::HalfEven(vec![0.5]);
/// let gemm = Gemm16::new(Cpu::detect(), weights, &[0, 1000], &halves, (i16::MIN, i16::MAX))?;
/// let mut y = [0; 2];
/// gemm.run(&Serial, 1, (&[100, -10], 2), (&mut y, 2))?;
/// assert_eq!(y, [35, 580]);
/// # Ok::<(), requant_kernels::KernelError>(())
/// ```
#[derive(Debug)]
pub struct Gemm16 {
    tiles: &'static [Tile],
    packed: Arc<PackedB16>,
    quant: Quant16,
}

impl Gemm16 {
    /// Binds packed weights to a bias of N values or none, a requantization, and the bounds of the output.
    ///
    /// # Errors
    /// If a list's length does not fit the weights, a multiplier is not finite or shifts left by more than 7, the
    /// bounds are not ordered, or a bias is so large that a sum could leave 47 bits.
    pub fn new(
        cpu: Cpu,
        packed: Arc<PackedB16>,
        bias: &[i64],
        requantize: &Requantize16,
        (min, max): (i16, i16),
    ) -> Result<Self, KernelError> {
        let n = packed.n();
        let sum_limit = packed.k() as i64 * (1 << 22);
        if let Some(b) = bias.iter().find(|b| b.unsigned_abs() >= (ACC_LIMIT - sum_limit) as u64) {
            return Err(KernelError::invalid("a bias", b, "so small that every sum fits 47 bits"));
        }
        if min > max {
            return Err(KernelError::invalid("the lower bound", min, "at most the upper one"));
        }
        let bias = if bias.is_empty() { vec![0; n] } else { bias.to_vec() };
        check_len("bias", bias.len(), n)?;
        let multiplier = match requantize {
            Requantize16::HalfEven(m) => {
                if let Some(m) = m.iter().find(|m| !m.is_finite()) {
                    return Err(KernelError::invalid("a multiplier", m, "finite"));
                }
                Multiplier16::HalfEven(per_column("multipliers", m, n, 0.0)?)
            }
            Requantize16::Tflite16x8(m) => {
                if let Some(m) = m.iter().find(|m| m.shift() > 7) {
                    return Err(KernelError::invalid("a shift", m.shift(), "at most 7"));
                }
                let factor = |m: &FixedPoint| ((i64::from(m.m0()) + (1 << 15)) >> 16).min(0x7fff);
                let factors: Vec<i64> = m.iter().map(factor).collect();
                let shifts: Vec<i64> = m.iter().map(|m| i64::from(15 - m.shift())).collect();
                Multiplier16::Tflite {
                    factor: per_column("multipliers", &factors, n, 0)?,
                    shift: per_column("multipliers", &shifts, n, 1)?,
                }
            }
        };
        let quant = Quant16 { bias: per_column("bias", &bias, n, 0)?, multiplier, min, max };
        Ok(Self { tiles: kernel::tiles(cpu), packed, quant })
    }

    /// The weights.
    pub fn packed(&self) -> &Arc<PackedB16> {
        &self.packed
    }

    /// Computes `m` rows of C from as many of A; rows start `lda` and `ldc` elements apart.
    ///
    /// # Errors
    /// If a slice is too short for its rows, or rows would overlap.
    pub fn run(
        &self,
        par: &dyn Parallel,
        m: usize,
        (a, lda): (&[i16], usize),
        (c, ldc): (&mut [i16], usize),
    ) -> Result<(), KernelError> {
        let PanelLayout { k, n, .. } = self.packed.layout;
        check_at_least("leading dimension of A", lda, if m > 1 { k } else { 0 })?;
        check_at_least("leading dimension of C", ldc, if m > 1 { n } else { 0 })?;
        check_at_least("A", a.len(), checked_span("A", m, k, lda)?)?;
        check_at_least("C", c.len(), checked_span("C", m, n, ldc)?)?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        // The distance of a single row, or of empty ones, to the next may be any number.
        let lda = if m == 1 || k == 0 { k } else { lda };
        let par = for_macs(par, m.saturating_mul(n).saturating_mul(k));
        let grid = Grid::new((m, n, k), size_of::<i16>(), par.threads());
        let (c, packed) = (DisjointMut::new(c), self.packed.data.as_slice());
        let panel = self.packed.layout.panel_bytes();
        for_each_with_worker(par, grid.tasks(), &|_, task| {
            let (rows, panels) = grid.task(task);
            let cols = panels.start * NR..(panels.end * NR).min(n);
            // SAFETY: tasks are disjoint, and each runs once.
            let c = unsafe { c.rect(rows.clone(), cols.clone(), ldc) };
            let block = Block {
                a: a.as_ptr().wrapping_add(rows.start * lda),
                lda,
                k,
                b: packed[panels.start * panel..].as_ptr(),
                panel,
                quant: &self.quant,
                rows: rows.len(),
                col: cols.start,
                cols: cols.len(),
                c,
                ldc,
            };
            // SAFETY: A and C span all rows (checked above), the weights hold all panels, C's rectangle is ours, the
            // quantization's lists are padded to whole panels, and the tiles are those of a `Cpu`.
            unsafe { run_panels(self.tiles, &block) }
        });
        Ok(())
    }
}
