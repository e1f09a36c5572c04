//! Weight-only GEMM: f32 activations times s8, s4 or u4 weights with a scale, and optionally a zero point, per block
//! of K and column; f32 output.
//!
//! ```text
//! y = bias[n]
//! for each block b of K, in order:
//!   p = 0
//!   for each k of the block, in order:  p = fma(x[m, k], f32(w[k, n] − z[b, n]), p)
//!   y = fma(p, scale[b, n], y)
//! ```
//! This is the definition of each output, `fma` rounding once and the difference being exact: columns are lanes of a
//! vector, nothing is re-associated, so the bits are the same on every ISA and for any number of rows and threads.
//! Only the sign and payload of a NaN may differ.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm;
mod kernel;
mod pack;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::Arc;

use self::kernel::{Block, Tile, run_panels};
pub use self::pack::{BlockWeights, PackedBlocks, WeightType};
use crate::{
    Cpu, KernelError,
    epilogue::{NR, per_column},
    error::{check_at_least, check_len, checked_span},
    grid::Grid,
    par::{DisjointMut, Parallel, for_each_with_worker, for_macs},
};

/// A multiplication of f32 activations by constant, blockwise quantized weights: see the module's docs.
///
/// ```
/// use std::sync::Arc;
/// use requant_kernels::{Cpu, par::Serial, weight_only::{BlockWeights, PackedBlocks, WeightOnlyGemm, WeightType}};
///
/// let weights = BlockWeights {
///     weight_type: WeightType::U4,
///     codes: &[0, 15, 8, 9], // two rows of K, two columns
///     k: 2,
///     n: 2,
///     transposed: false,
///     block: 32,
///     scales: &[0.5, 2.0],
///     zero_points: &[8, 8],
/// };
/// let gemm = WeightOnlyGemm::new(Cpu::detect(), Arc::new(PackedBlocks::pack(&weights)?), &[])?;
/// let mut y = [0.0; 2];
/// gemm.run(&Serial, 1, (&[1.0, 10.0], 2), (&mut y, 2))?;
/// assert_eq!(y, [-4.0, 34.0]);
/// # Ok::<(), requant_kernels::KernelError>(())
/// ```
#[derive(Debug)]
pub struct WeightOnlyGemm {
    tiles: &'static [Tile],
    packed: Arc<PackedBlocks>,
    /// Padded to whole panels.
    bias: Vec<f32>,
}

impl WeightOnlyGemm {
    /// Binds packed weights to a bias of N values or none, which counts as zeros.
    ///
    /// # Errors
    /// If the bias does not have N values.
    pub fn new(cpu: Cpu, packed: Arc<PackedBlocks>, bias: &[f32]) -> Result<Self, KernelError> {
        let n = packed.n();
        let bias = if bias.is_empty() { vec![0.0; n] } else { bias.to_vec() };
        check_len("bias", bias.len(), n)?;
        let tiles = kernel::tiles(cpu, packed.layout().four_bits);
        Ok(Self { tiles, bias: per_column("bias", &bias, n, 0.0)?, packed })
    }

    /// The weights.
    pub fn packed(&self) -> &Arc<PackedBlocks> {
        &self.packed
    }

    /// Computes `m` rows of `y` from as many of `x`; rows start `ldx` and `ldy` elements apart.
    ///
    /// # Errors
    /// If a slice is too short for its rows, or rows would overlap.
    pub fn run(
        &self,
        par: &dyn Parallel,
        m: usize,
        (x, ldx): (&[f32], usize),
        (y, ldy): (&mut [f32], usize),
    ) -> Result<(), KernelError> {
        let (k, n) = (self.packed.k(), self.packed.n());
        check_at_least("leading dimension of x", ldx, if m > 1 { k } else { 0 })?;
        check_at_least("leading dimension of y", ldy, if m > 1 { n } else { 0 })?;
        check_at_least("x", x.len(), checked_span("x", m, k, ldx)?)?;
        check_at_least("y", y.len(), checked_span("y", m, n, ldy)?)?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        // The distance of a single row, or of empty ones, to the next may be any number.
        let ldx = if m == 1 || k == 0 { k } else { ldx };
        let par = for_macs(par, m.saturating_mul(n).saturating_mul(k));
        let grid = Grid::new((m, n, k), size_of::<f32>(), par.threads());
        let y = DisjointMut::new(y);
        for_each_with_worker(par, grid.tasks(), &|_, task| {
            let (rows, panels) = grid.task(task);
            let cols = panels.start * NR..(panels.end * NR).min(n);
            let layout = self.packed.layout();
            let block = Block {
                x: x.as_ptr().wrapping_add(rows.start * ldx),
                ldx,
                layout,
                b: self.packed.panel(panels.start).as_ptr(),
                bias: self.bias[cols.start..].as_ptr(),
                rows: rows.len(),
                cols: cols.len(),
                // SAFETY: tasks are disjoint, and each runs once.
                y: unsafe { y.rect(rows.clone(), cols.clone(), ldy) },
                ldy,
            };
            // SAFETY: x and y span all rows (checked above), the weights and the bias hold all panels, y's rectangle
            // is ours, and the tiles are those of a `Cpu`.
            unsafe { run_panels(self.tiles, &block) }
        });
        Ok(())
    }
}
