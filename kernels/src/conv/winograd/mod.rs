//! Winograd's F(2×2, 3×3) in integers: 3×3 convolutions of unit stride with 16 multiplications where the definition
//! takes 36, and the same bits.
//!
//! ```text
//! a tile is 2×2 outputs, of the 4×4 inputs d:     y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A
//!
//!      ⎡1  0 −1  0⎤          ⎡2  0  0⎤
//! Bᵀ = ⎢0  1  1  0⎥     2G = ⎢1  1  1⎥     Aᵀ = ⎡1  1  1  0⎤
//!      ⎢0 −1  1  0⎥          ⎢1 −1  1⎥          ⎣0  1 −1 −1⎦
//!      ⎣0  1  0 −1⎦          ⎣0  0  2⎦
//! ```
//! The sum over channels makes each of the 16 points of ⊙ a matrix product, of tiles by output channels.
//!
//! Why it is exact. With 2G the halves of G are gone and the result is 4·y, which a shift divides without a rest.
//! - V = Bᵀ d B adds four bytes: |V| ≤ 4·255. U = 2G g 2Gᵀ adds at most nine weights: |U| ≤ 9·384, where a zero point
//!   is subtracted from the weights before. Both fit i16, and two products of them i32.
//! - Sums of products are taken modulo 2³², as is everything after them, so only 4·y must fit: |y| < 2²⁹. That holds
//!   where Σ |w|·255 of an output channel is less, as for any weights of up to 1,827 channels; others are refused.
//!
//! ```text
//! for each block of tiles, as many as keep V in L2:
//!   V[16][tiles][C] = Bᵀ d B
//!   for each panel of 16 output channels:
//!     M[tiles][16][16 channels] = V[p] · U[p]  for each point p
//!     for each tile:  Aᵀ M A / 4, and the epilogue
//! ```

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm_neon;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512bw;

use std::ops::Range;

use self::kernel::{POINTS, Panel, Tiles, WinogradSet};
use super::{ConvGeometry, ConvSpec, ConvWeights};
use crate::{
    Cpu, KernelError,
    epilogue::{Epilogue, NR, Sign, TileOut},
    error::checked_product,
    gemm::{
        check_k,
        pack::{ALIGN, AlignedBytes},
    },
    par::{DisjointMut, Parallel, WorkerScratch, for_each_with_worker, for_macs, tasks_for},
};

/// Bytes of transformed inputs that should stay in L2 while all panels pass over them.
const BLOCK_BYTES: usize = 256 * 1024;

/// The most tiles of a block: their products of a panel, 1 KB each, stay in L1 or little beyond.
const BLOCK_TILES: usize = 48;

/// The least tiles of a block and of a task, where there are so many: panels of weights are read once for each block.
const LEAST_TILES: usize = 12;

/// Panels of a task, where there are so many: the inputs are transformed once for each task.
const LEAST_PANELS: usize = 2;

/// 3×3 weights, transformed and packed for one ISA.
pub(super) struct PackedWinograd {
    set: &'static WinogradSet,
    in_c: usize,
    out_c: usize,
    a_sign: Sign,
    /// `[N/16] panels × [16] points × [⌈C/KR⌉] groups × [16] columns × [KR]` of i16
    data: AlignedBytes,
    /// `Σ (w − w_zero)` per output channel
    pub(super) sums: Vec<i32>,
}

impl PackedWinograd {
    /// Transforms `weights`, of checked length and with one zero point per output channel or none; or nothing if the
    /// ISA has no such kernels or the convolution is not one for them.
    ///
    /// # Errors
    /// If the kernel is larger than what the definition is computed for.
    pub(super) fn pack(
        cpu: Cpu,
        weights: &[i8],
        shape: ConvWeights,
        w_zero: Option<&[i32]>,
        a_sign: Sign,
    ) -> Result<Option<Self>, KernelError> {
        let ConvWeights { out_c, in_c_per_group: in_c, kernel, groups, strides, dilations } = shape;
        let Some(set) = WinogradSet::of(cpu) else { return Ok(None) };
        if kernel != [3, 3]
            || (groups, strides, dilations) != (1, [1, 1], [1, 1])
            || in_c < set.lanes
        {
            return Ok(None);
        }
        check_k(9 * in_c, w_zero.unwrap_or_default())?;
        let value = |o: usize, c: usize, tap: usize| {
            i32::from(weights[(o * in_c + c) * 9 + tap]) - w_zero.map_or(0, |z| z[o])
        };
        let values =
            |o: usize| (0..in_c).flat_map(move |c| (0..9).map(move |tap| value(o, c, tap)));
        let most = i64::from(a_sign.max().max(-a_sign.min()));
        let fits = |o: usize| values(o).map(|w| i64::from(w.abs())).sum::<i64>() * most < 1 << 29;
        if !(0..out_c).all(fits) {
            return Ok(None);
        }
        let (groups, panels) = (in_c.div_ceil(set.kr), out_c.div_ceil(NR));
        let point = groups * set.kr * NR;
        let bytes = checked_product("packed weights", &[panels, POINTS, point, size_of::<i16>()])?;
        let mut data = AlignedBytes::zeroed(bytes);
        // SAFETY: bytes at multiples of 64 are aligned for i16, of which every bit pattern is one.
        let (_, packed, _) = unsafe { data.as_mut_slice().align_to_mut::<i16>() };
        for o in 0..out_c {
            for c in 0..in_c {
                let at = o / NR * POINTS * point + (c / set.kr * NR + o % NR) * set.kr + c % set.kr;
                let transformed = transform_weights(std::array::from_fn(|tap| value(o, c, tap)));
                for (p, u) in transformed.into_iter().enumerate() {
                    packed[at + p * point] = u as i16;
                }
            }
        }
        let sums = (0..out_c).map(|o| values(o).sum()).collect();
        Ok(Some(Self { set, in_c, out_c, a_sign, data, sums }))
    }

    /// Bytes of memory held.
    pub(super) fn bytes(&self) -> usize {
        self.data.as_slice().len()
    }

    /// Values from one point of a panel to the next.
    fn point_weights(&self) -> usize {
        self.in_c.next_multiple_of(self.set.kr) * NR
    }

    /// Values from one transformed tile to the next: whole cache lines.
    fn row(&self) -> usize {
        self.in_c.next_multiple_of(ALIGN / size_of::<i16>())
    }

    /// Values from one point of a block of `tiles` transformed tiles to the next: an odd number of cache lines, so that
    /// the points of a tile do not meet in one set of L1.
    fn point(&self, tiles: usize) -> usize {
        const LINE: usize = ALIGN / size_of::<i16>();
        ((tiles * self.row() / LINE) | 1) * LINE
    }

    fn panels(&self) -> usize {
        self.out_c.div_ceil(NR)
    }

    /// Bytes of scratch for blocks of `tiles` tiles.
    fn block_bytes(&self, tiles: usize) -> usize {
        POINTS * (self.point(tiles) * size_of::<i16>() + tiles * NR * size_of::<i32>()) + ALIGN
    }

    /// How a convolution is cut into tasks and blocks for `threads` threads.
    fn split(&self, geometry: &ConvGeometry, threads: usize) -> Split {
        let batch = geometry.spec().batch;
        let [down, across] = [geometry.out_h(), geometry.out_w()].map(|size| size.div_ceil(2));
        let tiles = batch.saturating_mul(down).saturating_mul(across);
        let macs = tiles.saturating_mul(POINTS * self.in_c).saturating_mul(self.out_c);
        let wanted = tasks_for(threads, macs);
        let shared = (batch * down).div_ceil(wanted);
        let rows = shared.max(LEAST_TILES.div_ceil(across.max(1))).clamp(1, down.max(1));
        let bands = down.div_ceil(rows);
        let most_parts = (self.panels() / LEAST_PANELS).max(1);
        let parts = wanted.div_ceil((batch * bands).max(1)).clamp(1, most_parts);
        let panels = self.panels().div_ceil(parts).max(1);
        let most = BLOCK_BYTES / (POINTS * self.row() * size_of::<i16>());
        let most = most.clamp(LEAST_TILES, BLOCK_TILES);
        let task = (rows * across).max(1);
        let block = task.div_ceil(task.div_ceil(most));
        Split { down, across, rows, bands, panels, parts: self.panels().div_ceil(panels), block }
    }

    /// Bytes of scratch that [`Self::run`] needs for each of `threads` threads.
    pub(super) fn scratch_bytes(&self, geometry: &ConvGeometry, threads: usize) -> usize {
        self.block_bytes(self.split(geometry, threads).block)
    }

    /// Computes `y` from `x`, all of checked length; `epilogue` is that of all output channels, `padding` a pixel outside
    /// the image.
    #[allow(clippy::too_many_arguments, reason = "the checked arguments of `Conv::run`, and how")]
    pub(super) fn run(
        &self,
        geometry: &ConvGeometry,
        epilogue: &Epilogue,
        padding: &[u8],
        par: &dyn Parallel,
        x: &[u8],
        residual: Option<&[u8]>,
        y: &mut [u8],
        scratch: &mut [u8],
    ) {
        let ConvSpec { batch, in_h, in_w, in_c, out_c, pads, .. } = *geometry.spec();
        let (out_h, out_w) = (geometry.out_h(), geometry.out_w());
        assert!(in_c == self.in_c && padding.len() == in_c);
        assert!(out_c == self.out_c && epilogue.n() == out_c);
        let split = self.split(geometry, par.threads());
        let element = epilogue.element_bytes();
        let ldc = out_c * element;
        let bytes = self.block_bytes(split.block);
        let per_worker = WorkerScratch::new(scratch, bytes, par.threads().max(1));
        let y = DisjointMut::new(y);
        let par = for_macs(par, geometry.output_len().saturating_mul(9 * in_c));
        for_each_with_worker(par, batch * split.bands * split.parts, &|worker, task| {
            let (band, part) = (task / split.parts, task % split.parts);
            let (image, first) = (band / split.bands, band % split.bands * split.rows);
            let rows = first..(first + split.rows).min(split.down);
            let panels = part * split.panels..((part + 1) * split.panels).min(self.panels());
            let cols = panels.start * NR..(panels.end * NR).min(out_c);
            let pixels = (image * out_h + 2 * rows.start) * out_w
                ..(image * out_h + (2 * rows.end).min(out_h)) * out_w;
            // SAFETY: tasks have disjoint pixels or columns.
            let out =
                unsafe { y.rect(pixels.clone(), cols.start * element..cols.end * element, ldc) };
            let residual = residual.map_or(std::ptr::null(), |r| {
                r.as_ptr().wrapping_add(pixels.start * out_c + cols.start)
            });
            let to = TileOut { out, ldc, residual, ldr: out_c };
            // SAFETY: a worker runs one task at a time.
            let scratch = unsafe { per_worker.get(worker) };
            let tiles = Tiles {
                image: &x[image * in_h * in_w * in_c..][..in_h * in_w * in_c],
                size: [in_h, in_w],
                channels: in_c,
                pads: [pads[0], pads[1]],
                padding,
                sign: self.a_sign,
                across: split.across,
                tiles: 0..0,
            };
            let all = rows.start * split.across..rows.end * split.across;
            for start in all.clone().step_by(split.block) {
                let tiles = Tiles { tiles: start..(start + split.block).min(all.end), ..tiles };
                self.block(
                    &tiles,
                    rows.start,
                    [out_h, out_w],
                    panels.clone(),
                    epilogue,
                    to,
                    scratch,
                );
            }
        });
    }

    /// Computes a block of tiles, of the panels `panels`. `to` points at the first output pixel of the tile row
    /// `first_row` and the first of these columns, which the caller has for itself.
    #[allow(clippy::too_many_arguments, reason = "a block of a task of `run`")]
    fn block(
        &self,
        tiles: &Tiles<'_>,
        first_row: usize,
        out: [usize; 2],
        panels: Range<usize>,
        epilogue: &Epilogue,
        to: TileOut,
        scratch: &mut [u8],
    ) {
        let count = tiles.tiles.len();
        let point = self.point(count);
        let start = scratch.as_ptr().align_offset(ALIGN);
        let scratch = &mut scratch[start..][..self.block_bytes(count) - ALIGN];
        let (inputs, products) = scratch.split_at_mut(POINTS * point * size_of::<i16>());
        let inputs = inputs.as_mut_ptr().cast::<i16>();
        // SAFETY: `tiles` describes an image of checked length; there is room for so many tiles, and the set is one
        // that a `Cpu` proved.
        unsafe { (self.set.transform)(tiles, inputs, self.row(), point) };
        for p in panels.clone() {
            let shift = (p - panels.start) * NR;
            let panel = Panel {
                inputs,
                row: self.row(),
                point,
                groups: self.in_c.div_ceil(self.set.kr),
                weights: self.data.as_slice()
                    [p * POINTS * self.point_weights() * size_of::<i16>()..]
                    .as_ptr()
                    .cast(),
                products: products.as_mut_ptr().cast(),
                tiles: tiles.tiles.clone(),
                across: tiles.across,
                first_row,
                out,
                epilogue,
                columns: (p * NR, (self.out_c - p * NR).min(NR)),
                to: TileOut {
                    out: to.out.wrapping_add(shift * epilogue.element_bytes()),
                    residual: to.residual.wrapping_add(shift),
                    ..to
                },
            };
            // SAFETY: the transformed inputs were written above, weights hold POINTS points of every panel, and the
            // output of these tiles and columns is the caller's.
            unsafe { (self.set.panel)(&panel) };
        }
    }
}

/// How a convolution is cut into tasks.
struct Split {
    /// Tiles of an image.
    down: usize,
    across: usize,
    /// Rows of tiles of a task.
    rows: usize,
    /// Tasks of an image, one below the other.
    bands: usize,
    /// Panels of a task.
    panels: usize,
    /// Parts that the panels are cut into.
    parts: usize,
    /// Tiles of a block.
    block: usize,
}

/// `2G g 2Gᵀ`, both row by row.
fn transform_weights(g: [i32; 9]) -> [i32; POINTS] {
    let line = |a: i32, b: i32, c: i32| [2 * a, a + b + c, a - b + c, 2 * c];
    let columns: [[i32; 4]; 3] = std::array::from_fn(|x| line(g[x], g[3 + x], g[6 + x]));
    let row = |y: usize| line(columns[0][y], columns[1][y], columns[2][y]);
    std::array::from_fn(|p| row(p / 4)[p % 4])
}
