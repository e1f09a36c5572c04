//! The epilogue of a tile of accumulators in memory, in plain Rust.
//!
//! Every function is `#[inline(always)]`, so that each ISA's kernels compile it under their own target features and
//! LLVM vectorizes it for them; the arithmetic is IEEE single operations and integers, the same bits everywhere.

use super::{Epilogue, FixedPoint, Kind, Multiplier, NR, Quant, Residual, Sign};

/// `1.5·2²³`: adding it to a value of magnitude below 2²² rounds half to even, and leaves the integer in the low bits.
const ROUND_MAGIC: f32 = 12_582_912.0;

/// Where a tile's rows go: pointers to its first element, distances between rows in bytes.
#[derive(Clone, Copy)]
pub(crate) struct TileOut {
    pub(crate) out: *mut u8,
    pub(crate) ldc: usize,
    /// Read only where the epilogue has a residual.
    pub(crate) residual: *const u8,
    pub(crate) ldr: usize,
}

impl TileOut {
    /// The same columns from row `row` on.
    pub(crate) fn at_row(self, row: usize) -> Self {
        Self {
            out: self.out.wrapping_add(row * self.ldc),
            residual: self.residual.wrapping_add(row * self.ldr),
            ..self
        }
    }

    /// The same columns from `rows` rows before.
    pub(crate) fn back(self, rows: usize) -> Self {
        Self {
            out: self.out.wrapping_sub(rows * self.ldc),
            residual: self.residual.wrapping_sub(rows * self.ldr),
            ..self
        }
    }

    /// The same rows from `columns` columns on, of so many bytes each.
    pub(crate) fn at_column(self, columns: usize, element_bytes: usize) -> Self {
        Self {
            out: self.out.wrapping_add(columns * element_bytes),
            residual: self.residual.wrapping_add(columns),
            ..self
        }
    }
}

/// What becomes of the registers of rows that were written: by default nothing.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 tiles overlap"))]
pub(crate) trait Refill<Acc> {
    /// Whether all epilogues should be in registers: it pays where rows are refilled while others are finished, where they
    /// were loaded only to be, and where little code has products around it.
    const FUSED: bool = true;

    /// Refills `count` rows from `first` on.
    ///
    /// # Safety
    /// The target features of the accumulators' ISA are supported.
    #[inline(always)]
    unsafe fn rows<const MR: usize, const NV: usize>(
        &self,
        _acc: &mut [[Acc; NV]; MR],
        _first: usize,
        _count: usize,
    ) {
    }
}

/// Leaves them as they are, after products.
pub(crate) struct Keep;

impl<Acc> Refill<Acc> for Keep {
    const FUSED: bool = false;
}

/// Leaves them as they are: sums that lay in memory, or of a loop that other epilogues do not slow.
pub(crate) struct Loaded;

impl<Acc> Refill<Acc> for Loaded {}

/// Finishes a tile of `rows` × `cols` accumulators, which lie `width` apart in `acc`; its first column is `col`.
/// Zero-point terms are already subtracted.
///
/// # Safety
/// - `col + cols <= epilogue.n()`, `cols <= width`, and `acc` holds `rows · width` values.
/// - `to.out` may be written, and with a residual `to.residual` read, for `rows` rows of `cols` elements at their
///   distances, and nobody else reads or writes that output.
/// - `to.out` is aligned for the output's element type, and so is `to.ldc`.
#[inline(always)]
pub(crate) unsafe fn finish_tile(
    epilogue: &Epilogue,
    acc: &mut [i32],
    width: usize,
    (col, cols): (usize, usize),
    to: TileOut,
) {
    debug_assert!(col + cols <= epilogue.n() && cols <= width);
    for (r, acc) in acc.chunks_exact_mut(width).enumerate() {
        let acc = &mut acc[..cols];
        // SAFETY: row `r` of the region granted by the caller.
        let out = unsafe { to.out.add(r * to.ldc) };
        match &epilogue.kind {
            Kind::I32 => {
                // SAFETY: `cols` aligned elements of row `r`, exclusive (contract).
                let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<i32>(), cols) };
                out.copy_from_slice(acc);
            }
            Kind::F32 { scales } => {
                // SAFETY: as above.
                let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<f32>(), cols) };
                for ((out, acc), scale) in out.iter_mut().zip(&*acc).zip(&scales[col..col + cols]) {
                    *out = *acc as f32 * scale;
                }
            }
            Kind::Quant8(q) => {
                requantize_row(q, acc, col);
                // SAFETY: as above, bytes.
                let out = unsafe { std::slice::from_raw_parts_mut(out, cols) };
                match &q.residual {
                    None => store_row(acc, out),
                    Some(r2) => {
                        // SAFETY: row `r` of the residual, `cols` readable bytes (contract).
                        let other = unsafe {
                            std::slice::from_raw_parts(to.residual.add(r * to.ldr), cols)
                        };
                        add_residual(r2, q.sign, acc, other, out);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn store_row(acc: &[i32], out: &mut [u8]) {
    for (out, acc) in out.iter_mut().zip(acc) {
        *out = *acc as u8;
    }
}

/// Turns accumulators into clamped integers of the output's scale, zero point included.
#[inline(always)]
fn requantize_row(q: &Quant, acc: &mut [i32], col: usize) {
    let n = acc.len();
    match &q.multiplier {
        Multiplier::HalfEven { m, .. } => {
            let (low, high) = (q.low as f32, q.high as f32);
            for (acc, m) in acc.iter_mut().zip(&m[col..col + n]) {
                *acc = round_clamped(*acc as f32 * m, low, high) + q.zero_point;
            }
        }
        Multiplier::Double { m0, shift } => {
            for ((acc, m0), shift) in
                acc.iter_mut().zip(&m0[col..col + n]).zip(&shift[col..col + n])
            {
                let scaled = FixedPoint { m0: *m0, shift: *shift }.apply_double(*acc);
                *acc = scaled.max(q.low).min(q.high) + q.zero_point;
            }
        }
        Multiplier::Single { m0, shift } => {
            for ((acc, m0), shift) in
                acc.iter_mut().zip(&m0[col..col + n]).zip(&shift[col..col + n])
            {
                let scaled = FixedPoint { m0: *m0, shift: *shift }.apply_single(*acc);
                *acc = scaled.max(q.low).min(q.high) + q.zero_point;
            }
        }
    }
}

/// `rne(clamp(x, low, high))` for integers `low ≤ high` of magnitude below 2²²: the same as clamping after rounding.
#[inline(always)]
fn round_clamped(x: f32, low: f32, high: f32) -> i32 {
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    ((x + ROUND_MAGIC).to_bits() as i32).wrapping_sub(ROUND_MAGIC.to_bits() as i32)
}

#[inline(always)]
fn add_residual(r: &Residual, sign: Sign, own: &[i32], other: &[u8], out: &mut [u8]) {
    let (into, back) = r.shifts(sign);
    let (low, high) = ((r.min - back) as f32, (r.max - back) as f32);
    let into = into as f32;
    // In steps of a panel, so that conversions and the branch on signedness stay out of the arithmetic.
    for ((own, other), out) in own.chunks(NR).zip(other.chunks(NR)).zip(out.chunks_mut(NR)) {
        let mut theirs = [0.0f32; NR];
        match r.sign {
            Sign::U8 => theirs.iter_mut().zip(other).for_each(|(t, o)| *t = f32::from(*o)),
            Sign::S8 => theirs.iter_mut().zip(other).for_each(|(t, o)| *t = f32::from(*o as i8)),
        }
        for ((own, theirs), out) in own.iter().zip(theirs).zip(out) {
            let (own, theirs) = (*own as f32, theirs + into);
            let (a, b) = if r.conv_is_lhs { (own, theirs) } else { (theirs, own) };
            let sum = a.mul_add(r.scale_a, b.mul_add(r.scale_b, r.offset));
            *out = (round_clamped(sum, low, high) + back) as u8;
        }
    }
}
