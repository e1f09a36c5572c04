//! The int16×int8 micro-kernel, written once: a register tile of MR rows × NV panels.
//!
//! ```text
//! for each tile of MR rows:
//!   sums[MR][NV·16] = bias                                               i64, in memory
//!   for each slice of KC values of K:
//!     acc[MR][NV] = 0                                                    i32, in registers
//!     for each pair of K:
//!       for each panel v: b[v] = load 2·16 weights
//!       for each row r:   a = broadcast 2 values;  acc[r][v] += dot(a, b[v])
//!     sums += acc
//!   requantize sums, row by row
//! ```

use crate::{
    Cpu,
    epilogue::NR,
    multiversion::{Tier, tier},
    numeric::{clamp, rne},
};

/// Values of K packed together.
pub(super) const KR: usize = 2;

/// Values of K that are summed in i32: 255 pairs of at most 2²³ each.
pub(super) const KC: usize = 510;
const _: () = assert!((KC / KR) as i64 * (1 << 23) <= i32::MAX as i64 && KC.is_multiple_of(KR));

/// The vector operations of one ISA. `Acc` and `B` span the 16 columns of a panel.
///
/// # Safety
/// Every method requires that the ISA's target features are supported; pointers must be valid for what is said.
/// Methods are `#[inline(always)]` and take the features of the entry point they end up in.
pub(super) trait Dot16 {
    /// Two activations, broadcast.
    type Splat: Copy;
    /// 2·16 weights.
    type B: Copy;
    /// 16 i32.
    type Acc: Copy;

    /// Zeros.
    unsafe fn zero() -> Self::Acc;
    /// Loads the 32 weights at `b`.
    unsafe fn load_b(b: *const i8) -> Self::B;
    /// Broadcasts a pair as memory holds it.
    unsafe fn splat(pair: i32) -> Self::Splat;
    /// `acc[j] += a[0]·b[j][0] + a[1]·b[j][1]`
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc;
    /// `to = from + acc`, 16 values.
    unsafe fn flush(acc: Self::Acc, from: *const i64, to: *mut i64);
    /// Calls [`Quant16::row`] under the ISA's target features.
    unsafe fn finish(quant: &Quant16, sums: &[i64], col: usize, c: &mut [i16]);
}

/// Requantization constants, lists padded to whole panels.
#[derive(Debug)]
pub(super) struct Quant16 {
    pub(super) bias: Vec<i64>,
    pub(super) multiplier: Multiplier16,
    pub(super) min: i16,
    pub(super) max: i16,
}

#[derive(Debug)]
pub(super) enum Multiplier16 {
    HalfEven(Vec<f32>),
    /// `(acc · factor + 2^(shift − 1)) >> shift`
    Tflite {
        factor: Vec<i64>,
        shift: Vec<i64>,
    },
}

impl Quant16 {
    /// Requantizes sums of the columns from `col` on: the definition, which LLVM vectorizes for each ISA.
    #[inline(always)]
    pub(super) fn row(&self, sums: &[i64], col: usize, c: &mut [i16]) {
        let n = c.len();
        let (sums, columns) = (&sums[..n], col..col + n);
        match &self.multiplier {
            Multiplier16::HalfEven(m) => {
                let (min, max) = (f32::from(self.min), f32::from(self.max));
                for ((c, sum), m) in c.iter_mut().zip(sums).zip(&m[columns]) {
                    *c = rne(clamp(*sum as f32 * m, min, max)) as i16;
                }
            }
            Multiplier16::Tflite { factor, shift } => {
                let (min, max) = (i64::from(self.min), i64::from(self.max));
                let constants = factor[columns.clone()].iter().zip(&shift[columns]);
                for ((c, sum), (factor, shift)) in c.iter_mut().zip(sums).zip(constants) {
                    let scaled = (sum * factor + (1 << (shift - 1))) >> shift;
                    *c = scaled.max(min).min(max) as i16;
                }
            }
        }
    }
}

/// Rows of A times neighbouring panels of B.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// `rows` rows of `k` values, `lda` apart.
    pub(super) a: *const i16,
    pub(super) lda: usize,
    pub(super) k: usize,
    /// The first panel; panels are `panel` bytes apart.
    pub(super) b: *const i8,
    pub(super) panel: usize,
    pub(super) quant: &'a Quant16,
    pub(super) rows: usize,
    /// First column, a multiple of 16, and how many columns there are.
    pub(super) col: usize,
    pub(super) cols: usize,
    /// At row 0, column `col`; rows `ldc` apart.
    pub(super) c: *mut i16,
    pub(super) ldc: usize,
}

/// # Safety
/// The tile's ISA is supported, the block is valid (see [`run_panels`]) with no more columns than the function has
/// panels, and MR divides its rows.
type Run = unsafe fn(&Block<'_>);

/// The tile functions for one number of rows.
#[derive(Debug)]
pub(super) struct Tile {
    pub(super) mr: usize,
    /// Numbers of panels, falling down to 1, and their functions.
    pub(super) widths: &'static [(usize, Run)],
}

/// The tiles of `cpu`, by falling MR down to 1.
pub(super) fn tiles(cpu: Cpu) -> &'static [Tile] {
    match tier(cpu) {
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Tier::Baseline if cpu.neon().is_some() => super::arm::NEON,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 if cpu.avx512vnni().is_some() => super::x86::AVX512_VNNI,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => super::x86::AVX512BW,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 if cpu.avxvnni().is_some() => super::x86::AVXVNNI,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => super::x86::AVX2,
        Tier::Baseline => super::scalar::SCALAR,
    }
}

/// Computes all rows and columns of a block.
///
/// # Safety
/// - The ISA of `tiles` is supported.
/// - A has `rows` rows of `k` readable values, `lda` apart; `b` has a panel for each 16 columns.
/// - The lists of `quant` reach to the last of these panels.
/// - C's `rows` × `cols` values may be written, and nobody else reads or writes them.
pub(super) unsafe fn run_panels(tiles: &[Tile], block: &Block<'_>) {
    let mut row = 0;
    for tile in tiles {
        let rows = (block.rows - row) / tile.mr * tile.mr;
        if rows == 0 {
            continue;
        }
        let mut col = 0;
        for (nv, run) in tile.widths {
            while (block.cols - col).div_ceil(NR) >= *nv {
                let part = Block {
                    a: block.a.wrapping_add(row * block.lda),
                    b: block.b.wrapping_add(col / NR * block.panel),
                    rows,
                    col: block.col + col,
                    cols: (block.cols - col).min(nv * NR),
                    c: block.c.wrapping_add(row * block.ldc + col),
                    ..*block
                };
                // SAFETY: a part of the block that the caller grants.
                unsafe { run(&part) };
                col += part.cols;
            }
        }
        row += rows;
    }
}

/// Computes a block, MR rows at a time.
///
/// # Safety
/// As [`Run`].
#[inline(always)]
pub(super) unsafe fn run_block<D: Dot16, const MR: usize, const NV: usize>(block: &Block<'_>) {
    for row in (0..block.rows).step_by(MR) {
        // SAFETY: MR divides the block's rows, so the tile's rows lie inside.
        unsafe { tile::<D, MR, NV>(block, row) }
    }
}

#[inline(always)]
unsafe fn tile<D: Dot16, const MR: usize, const NV: usize>(block: &Block<'_>, row: usize) {
    let Block { lda, k, b, panel, quant, col, cols, ldc, .. } = *block;
    let mut sums = [[[0i64; NR]; NV]; MR];
    // SAFETY: the tile's rows and columns lie in the block, whose pointers are valid (contract of `Run`); biases are
    // padded to whole panels; the features are the entry point's. Pairs are read where both values are inside of K.
    unsafe {
        let a = block.a.add(row * lda);
        // Without any K, too, the sums are started.
        for start in (0..k.max(1)).step_by(KC) {
            let len = (k - start).min(KC);
            let (a, b) = (a.add(start), b.add(start * NR));
            let mut acc = [[D::zero(); NV]; MR];
            for g in 0..len / KR {
                let (a, b) = (a.add(g * KR), b.add(g * NR * KR));
                step::<D, MR, NV, false>(&mut acc, (a, lda), (b, panel));
            }
            if !len.is_multiple_of(KR) {
                let last = len - 1;
                step::<D, MR, NV, true>(&mut acc, (a.add(last), lda), (b.add(last * NR), panel));
            }
            for (acc, sums) in acc.iter().zip(&mut sums) {
                for (v, (acc, sums)) in acc.iter().zip(sums).enumerate() {
                    let bias = quant.bias.as_ptr().add(col + v * NR);
                    let from = if start == 0 { bias } else { sums.as_ptr() };
                    D::flush(*acc, from, sums.as_mut_ptr());
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let c = std::slice::from_raw_parts_mut(block.c.add((row + r) * ldc), cols);
            D::finish(quant, sums.as_flattened(), col, c);
        }
    }
}

/// One pair of K; if `LAST`, only its first value exists in A.
///
/// # Safety
/// The features of `D` are supported; MR rows of A, `lda` apart, hold the pair, and NV panels of B its weights.
#[inline(always)]
unsafe fn step<D: Dot16, const MR: usize, const NV: usize, const LAST: bool>(
    acc: &mut [[D::Acc; NV]; MR],
    (a, lda): (*const i16, usize),
    (b, panel): (*const i8, usize),
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut bv = [D::load_b(b); NV];
        for (v, bv) in bv.iter_mut().enumerate().skip(1) {
            *bv = D::load_b(b.add(v * panel));
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            let a = a.add(r * lda);
            let pair = if LAST {
                let [low, high] = (*a).to_ne_bytes();
                i32::from_ne_bytes([low, high, 0, 0])
            } else {
                a.cast::<i32>().read_unaligned()
            };
            let av = D::splat(pair);
            for (acc, bv) in acc.iter_mut().zip(bv) {
                *acc = D::dot(*acc, av, bv);
            }
        }
    }
}

/// A list of [`Tile`]s, each compiled under the given attribute.
macro_rules! tiles16 {
    ($name:ident, #[$attr:meta] $dot:ty, [$($mr:literal x $widths:tt),+]) => {
        pub(super) static $name: &[$crate::gemm16::kernel::Tile] = &[$(
            $crate::gemm16::kernel::Tile {
                mr: $mr,
                widths: tiles16!(@widths #[$attr] $dot, $mr, $widths),
            }
        ),+];
    };
    (@widths #[$attr:meta] $dot:ty, $mr:literal, [$($nv:literal)+]) => {
        &[$(($nv, {
            #[$attr]
            unsafe fn run(block: &$crate::gemm16::kernel::Block<'_>) {
                // SAFETY: the caller keeps the contract of `Run`.
                unsafe { $crate::gemm16::kernel::run_block::<$dot, $mr, $nv>(block) }
            }
            run
        })),+]
    };
}
pub(super) use tiles16;
