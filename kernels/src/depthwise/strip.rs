//! The loops of the ring method ([`super::ring`]), over one ISA's vectors.

use std::ops::Range;

use super::{
    lanes::{Lanes, Rounding},
    ring::VECTORS,
};
use crate::epilogue::{Epilogue, Quant, TileOut, finish_tile};

/// Segments are computed in blocks of 8, 4 and so many columns.
pub(super) const STEP: usize = 2;

/// The most 32-bit lanes of a vector.
const LANES: usize = 16;

/// A band of rows, a chunk of channels, a tile of columns.
pub(super) struct Strip<'a> {
    /// The image at the chunk's first channel.
    pub(super) image: *const u8,
    pub(super) in_h: usize,
    pub(super) in_w: usize,
    /// Bytes from pixel to pixel of the image.
    pub(super) pixel: usize,
    /// A pixel outside the image, at the chunk's first channel.
    pub(super) padding: *const u8,
    /// Padding rows above and columns to the left of the image.
    pub(super) pads: [usize; 2],
    /// Kernel rows, and cells that each spans.
    pub(super) kernel: [usize; 2],
    /// Vertical stride and dilation.
    pub(super) vertical: [usize; 2],
    /// Whether cells are squares of two rows and columns: then rows of the kernel and the ring are pairs of rows.
    pub(super) square: bool,
    /// Output rows.
    pub(super) rows: Range<usize>,
    /// Output columns; there may be more in the parts, which are not stored.
    pub(super) columns: Range<usize>,
    /// Output columns of a part, a multiple of [`STEP`].
    pub(super) segment: usize,
    /// Whether activations are s8.
    pub(super) signed: bool,
    pub(super) first_channel: usize,
    /// Channels of the chunk.
    pub(super) channels: usize,
    /// Room for `ring_rows` rows of `cells` cells, aligned to a vector.
    pub(super) ring: *mut u8,
    pub(super) ring_rows: usize,
    pub(super) cells: usize,
    /// Room for a pointer per kernel row and spanned cell.
    pub(super) taps: *mut *const u8,
    /// Of the chunk.
    pub(super) weights: *const u8,
    /// Bias of the chunk in the lanes of four vectors, then what its rounding has for each channel.
    pub(super) constants: *const u8,
    pub(super) epilogue: &'a Epilogue,
    /// Output and residual of the image at the chunk's first channel; pixels are `ldc` and `ldr` apart.
    pub(super) to: TileOut,
    /// Columns of an output row.
    pub(super) out_w: usize,
}

impl Strip<'_> {
    /// The first pixel of padded input row `row`, and how far they are apart.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> (*const u8, usize) {
        let iy = row.wrapping_sub(self.pads[0]);
        // Rows outside the image repeat one pixel of padding.
        if iy < self.in_h {
            (self.image.wrapping_add(iy * self.in_w * self.pixel), self.pixel)
        } else {
            (self.padding, 0)
        }
    }

    /// Two of the four vectors of the chunk's constants `kind`, of which bias is the first.
    ///
    /// # Safety
    /// The ISA is supported; there are such constants.
    #[inline(always)]
    pub(super) unsafe fn constants<I: Lanes>(&self, kind: usize, first: usize) -> [I::Vector; 2] {
        // SAFETY: same contract.
        unsafe {
            let at = self.constants.add((kind * VECTORS + first) * I::BYTES);
            [I::load(at), I::load(at.add(I::BYTES))]
        }
    }
}

/// Which pairs of padded columns are inside the image in every part: from the first part on, up to the last.
#[inline(always)]
pub(super) fn pairs_inside<const STRIDE: usize, const PARTS: usize>(s: &Strip<'_>) -> Range<usize> {
    let first = s.columns.start * STRIDE;
    let last = first + (PARTS - 1) * s.segment * STRIDE;
    let left = s.pads[1].saturating_sub(first).div_ceil(2);
    let right = (s.in_w + s.pads[1]).saturating_sub(last) / 2;
    left..right
}

/// Computes a strip, in blocks of `WIDE` columns, which are 4 or 8; with a quantization in registers, or the epilogue in
/// memory.
///
/// # Safety
/// The ISA is supported; the strip is what its fields say: an image and a padding pixel of `channels` readable bytes
/// at every pixel, room in the scratch, weights and constants of the chunk, an output and a residual of its own.
#[inline(always)]
pub(super) unsafe fn strip<
    I: Lanes,
    R: Rounding<I>,
    const STRIDE: usize,
    const PARTS: usize,
    const WIDE: usize,
>(
    s: &Strip<'_>,
    fused: Option<(&Quant, R)>,
) {
    let row_bytes = s.cells * VECTORS * I::BYTES;
    let slot = |row: usize| s.ring.wrapping_add(row * row_bytes);
    let mut next = 0;
    for oy in s.rows.clone() {
        let top = oy * s.vertical[0];
        let top_slot = top % s.ring_rows;
        let start = next.max(top);
        let mut free = start % s.ring_rows;
        next = top + s.ring_rows;
        // SAFETY: the ring has `ring_rows` rows, of which the last interleaved are those that the taps point to; blocks
        // cover the segment, the others are the caller's promises.
        unsafe {
            for row in start..next {
                if STRIDE == 2 && s.square {
                    interleave_squares::<I, PARTS>(s, row, slot(free));
                } else {
                    interleave::<I, STRIDE, PARTS>(s, row, slot(free));
                }
                free = if free + 1 == s.ring_rows { 0 } else { free + 1 };
            }
            point_taps::<I>(s, top_slot, row_bytes);
            let mut x = 0;
            if let Some((quant, rounding)) = fused {
                let how = (I::narrow(quant), rounding);
                while x + WIDE <= s.segment {
                    block::<I, R, STRIDE, PARTS, WIDE>(s, how, oy, x);
                    x += WIDE;
                }
                if WIDE > 4 && x + 4 <= s.segment {
                    block::<I, R, STRIDE, PARTS, 4>(s, how, oy, x);
                    x += 4;
                }
                if x < s.segment {
                    block::<I, R, STRIDE, PARTS, STEP>(s, how, oy, x);
                    x += STEP;
                }
            }
            while x < s.segment {
                spilled_block::<I, STRIDE, PARTS, STEP>(s, oy, x);
                x += STEP;
            }
        }
    }
}

/// Points the taps to the cells of the kernel's rows, the first of which is at `slot`.
///
/// # Safety
/// As [`strip`].
#[inline(always)]
unsafe fn point_taps<I: Lanes>(s: &Strip<'_>, mut slot: usize, row_bytes: usize) {
    let [kernel_rows, spanned] = s.kernel;
    let step = if s.square { 1 } else { I::COLUMNS / 2 };
    let mut tap = s.taps;
    for _ in 0..kernel_rows {
        for t in 0..spanned {
            let cells = s.ring.wrapping_add(slot * row_bytes);
            // SAFETY: there is room for a pointer per kernel row and spanned cell.
            unsafe {
                tap.write(cells.wrapping_add(t * step * VECTORS * I::BYTES));
                tap = tap.add(1);
            }
        }
        // A kernel of several rows spans more than a dilation, so that one turn of the ring is enough.
        slot += s.vertical[1];
        if slot >= s.ring_rows {
            slot -= s.ring_rows;
        }
    }
}

/// Writes the cells of padded input row `row`.
///
/// # Safety
/// As [`strip`]; room for a row of cells at `to`.
#[inline(always)]
unsafe fn interleave<I: Lanes, const STRIDE: usize, const PARTS: usize>(
    s: &Strip<'_>,
    row: usize,
    to: *mut u8,
) {
    let (start, pixel) = s.row(row);
    let Range { start: left, end: right } = pairs_inside::<STRIDE, PARTS>(s);
    // SAFETY: the caller's contract; a row of the image has `in_w` pixels.
    unsafe {
        let mut pair = columns::<I, STRIDE, PARTS, true>(s, (start, pixel), 0);
        let mut write = |q: usize, next| {
            store_cell::<I>(pair, next, to.wrapping_add(q * VECTORS * I::BYTES));
            pair = next;
        };
        let mut q = 0;
        while q < s.cells.min(left.saturating_sub(1)) {
            write(q, columns::<I, STRIDE, PARTS, true>(s, (start, pixel), 2 * q + 2));
            q += 1;
        }
        while q + 1 < right && q < s.cells {
            write(q, columns::<I, STRIDE, PARTS, false>(s, (start, pixel), 2 * q + 2));
            q += 1;
        }
        while q < s.cells {
            write(q, columns::<I, STRIDE, PARTS, true>(s, (start, pixel), 2 * q + 2));
            q += 1;
        }
    }
}

/// Writes the cells of a pair of padded input rows.
///
/// # Safety
/// As [`interleave`].
#[inline(always)]
unsafe fn interleave_squares<I: Lanes, const PARTS: usize>(
    s: &Strip<'_>,
    pair: usize,
    to: *mut u8,
) {
    let rows = [s.row(2 * pair), s.row(2 * pair + 1)];
    let inside = pairs_inside::<2, PARTS>(s);
    let left = inside.start.min(s.cells);
    let right = inside.end.clamp(left, s.cells);
    // SAFETY: the caller's contract.
    unsafe {
        squares::<I, PARTS, true>(s, rows, 0..left, to);
        squares::<I, PARTS, false>(s, rows, left..right, to);
        squares::<I, PARTS, true>(s, rows, right..s.cells, to);
    }
}

/// Some cells of [`interleave_squares`], `CHECK` as for [`columns`].
///
/// # Safety
/// As [`columns`]; room for a row of cells at `to`.
#[inline(always)]
unsafe fn squares<I: Lanes, const PARTS: usize, const CHECK: bool>(
    s: &Strip<'_>,
    [upper, lower]: [(*const u8, usize); 2],
    cells: Range<usize>,
    to: *mut u8,
) {
    for q in cells {
        // SAFETY: same contract.
        unsafe {
            let upper = columns::<I, 2, PARTS, CHECK>(s, upper, 2 * q);
            let lower = columns::<I, 2, PARTS, CHECK>(s, lower, 2 * q);
            store_cell::<I>(upper, lower, to.wrapping_add(q * VECTORS * I::BYTES));
        }
    }
}

/// # Safety
/// The ISA is supported; room for a cell.
#[inline(always)]
unsafe fn store_cell<I: Lanes>(pair: [I::Vector; 2], next: [I::Vector; 2], to: *mut u8) {
    // SAFETY: same contract.
    unsafe {
        let cell = I::cell(pair, next);
        for (g, vector) in cell.into_iter().enumerate() {
            I::store(vector, to.add(g * I::BYTES));
        }
    }
}

/// The pixels of a row under padded columns `first` and `first + 1` of every part, interleaved. Without `CHECK` all of
/// them are inside the image.
///
/// # Safety
/// As [`strip`]; the row's pixels are at `start`, `pixel` bytes apart.
#[inline(always)]
pub(super) unsafe fn columns<
    I: Lanes,
    const STRIDE: usize,
    const PARTS: usize,
    const CHECK: bool,
>(
    s: &Strip<'_>,
    (start, pixel): (*const u8, usize),
    first: usize,
) -> [I::Vector; 2] {
    let mut from = [[s.padding; PARTS]; 2];
    for (column, from) in from.iter_mut().enumerate() {
        for (part, from) in from.iter_mut().enumerate() {
            let x = (s.columns.start + part * s.segment) * STRIDE + first + column;
            let ix = x.wrapping_sub(s.pads[1]);
            debug_assert!(CHECK || ix < s.in_w);
            if !CHECK || ix < s.in_w {
                *from = start.wrapping_add(ix * pixel);
            }
        }
    }
    let flip = if s.signed { 0x80 } else { 0 };
    // SAFETY: columns inside the image are read there, those outside from the padding.
    unsafe {
        let [a, b] = from;
        I::pair(
            I::flip(I::gather::<PARTS>(a, s.channels), flip),
            I::flip(I::gather::<PARTS>(b, s.channels), flip),
        )
    }
}

/// Two of the four vectors of `PIXELS` accumulators.
///
/// # Safety
/// As [`strip`]; the taps point to cells of the columns from `x` on.
#[inline(always)]
unsafe fn half<I: Lanes, const STRIDE: usize, const PIXELS: usize>(
    s: &Strip<'_>,
    x: usize,
    first: usize,
) -> [[I::Vector; 2]; PIXELS] {
    let cell = VECTORS * I::BYTES;
    // SAFETY: weights and constants have four vectors, the taps cells, for all that is read.
    unsafe {
        let mut acc = [s.constants::<I>(0, first); PIXELS];
        let at = x * STRIDE / 2 * cell + first * I::BYTES;
        let mut weights = s.weights.add(first * I::BYTES);
        // Those of the second pixel of a cell are skipped.
        let next = if STRIDE == 2 && s.square { cell } else { 2 * cell };
        for tap in 0..s.kernel[0] * s.kernel[1] {
            let cells = (*s.taps.add(tap)).add(at);
            for g in 0..2 {
                let even = I::load(weights.add(g * I::BYTES));
                if STRIDE == 1 {
                    let odd = I::load(weights.add(cell + g * I::BYTES));
                    for pair in 0..PIXELS / 2 {
                        let columns = I::load(cells.add(pair * cell + g * I::BYTES));
                        acc[2 * pair][g] = I::dot(acc[2 * pair][g], columns, even);
                        acc[2 * pair + 1][g] = I::dot(acc[2 * pair + 1][g], columns, odd);
                    }
                } else {
                    for (pixel, acc) in acc.iter_mut().enumerate() {
                        let columns = I::load(cells.add(pixel * cell + g * I::BYTES));
                        acc[g] = I::dot(acc[g], columns, even);
                    }
                }
            }
            weights = weights.add(next);
        }
        acc
    }
}

/// The two vectors of [`half`], rounded.
///
/// # Safety
/// As [`half`]; `oy` is one of the strip's rows.
#[inline(always)]
unsafe fn rounded<
    I: Lanes,
    R: Rounding<I>,
    const STRIDE: usize,
    const PARTS: usize,
    const PIXELS: usize,
>(
    s: &Strip<'_>,
    rounding: R,
    (oy, x): (usize, usize),
    first: usize,
) -> [I::Vector; PIXELS] {
    // SAFETY: same contract.
    unsafe {
        let acc = half::<I, STRIDE, PIXELS>(s, x, first);
        let columns = rounding.columns(s, first);
        let mut rounded = [acc[0][0]; PIXELS];
        for (pixel, (rounded, acc)) in rounded.iter_mut().zip(acc).enumerate() {
            let pixel = rounding.pixel::<PARTS>(s, oy, x + pixel);
            *rounded = rounding.round(acc, columns, pixel, first);
        }
        rounded
    }
}

/// Computes and stores `PIXELS` columns from `x` on, in every part.
///
/// # Safety
/// As [`half`].
#[inline(always)]
unsafe fn block<
    I: Lanes,
    R: Rounding<I>,
    const STRIDE: usize,
    const PARTS: usize,
    const PIXELS: usize,
>(
    s: &Strip<'_>,
    (narrow, rounding): (I::Narrow, R),
    oy: usize,
    x: usize,
) {
    // SAFETY: columns beyond the tile's are not stored.
    unsafe {
        let low = rounded::<I, R, STRIDE, PARTS, PIXELS>(s, rounding, (oy, x), 0);
        let high = rounded::<I, R, STRIDE, PARTS, PIXELS>(s, rounding, (oy, x), 2);
        let bytes = I::bytes(narrow, low, high);
        store::<I, PARTS, PIXELS>(s, oy, x, bytes);
    }
}

/// Stores `PIXELS` columns from `x` on, in every part that has them.
///
/// # Safety
/// As [`strip`]; `oy` is one of its rows.
#[inline(always)]
pub(super) unsafe fn store<I: Lanes, const PARTS: usize, const PIXELS: usize>(
    s: &Strip<'_>,
    oy: usize,
    x: usize,
    bytes: [I::Vector; PIXELS],
) {
    let row = (oy - s.rows.start) * s.out_w;
    let first = s.columns.start + x;
    let last = first + (PARTS - 1) * s.segment + PIXELS;
    // SAFETY: columns beyond the tile's are not stored.
    unsafe {
        if last <= s.columns.end && s.channels == I::BYTES / PARTS {
            for part in 0..PARTS {
                let out = s.to.out.add((row + first + part * s.segment) * s.to.ldc);
                for (pixel, bytes) in bytes.into_iter().enumerate() {
                    let to = out.add(pixel * s.to.ldc);
                    I::scatter::<PARTS>(bytes, part, I::BYTES / PARTS, to);
                }
            }
            return;
        }
        for (pixel, bytes) in bytes.into_iter().enumerate() {
            for part in 0..PARTS {
                let column = first + part * s.segment + pixel;
                if column < s.columns.end {
                    let out = s.to.out.add((row + column) * s.to.ldc);
                    I::scatter::<PARTS>(bytes, part, s.channels, out);
                }
            }
        }
    }
}

/// The residual of column `x` of every part, as u8; any bytes where a part has none.
///
/// # Safety
/// As [`strip`]; `oy` is one of its rows, and there is a residual.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 adds in registers"))]
#[inline(always)]
pub(super) unsafe fn residual<I: Lanes, const PARTS: usize>(
    s: &Strip<'_>,
    (oy, x): (usize, usize),
    flip: u8,
) -> I::Vector {
    let row = (oy - s.rows.start) * s.out_w;
    let mut from = [s.to.residual; PARTS];
    for (part, from) in from.iter_mut().enumerate() {
        let column = (s.columns.start + part * s.segment + x).min(s.columns.end - 1);
        *from = from.wrapping_add((row + column) * s.to.ldr);
    }
    // SAFETY: the caller's contract, of a column that exists.
    unsafe { I::flip(I::gather::<PARTS>(from, s.channels), flip) }
}

/// [`block`] with the epilogue in memory.
///
/// # Safety
/// As [`half`].
#[inline(always)]
unsafe fn spilled_block<I: Lanes, const STRIDE: usize, const PARTS: usize, const PIXELS: usize>(
    s: &Strip<'_>,
    oy: usize,
    x: usize,
) {
    let row = (oy - s.rows.start) * s.out_w;
    let mut spilled = [[0i32; LANES * VECTORS]; PIXELS];
    // SAFETY: columns beyond the tile's are not stored.
    unsafe {
        for first in [0, 2] {
            let acc = half::<I, STRIDE, PIXELS>(s, x, first);
            for (acc, to) in acc.into_iter().zip(&mut spilled) {
                for (g, acc) in acc.into_iter().enumerate() {
                    I::spill(acc, to.as_mut_ptr().add(4 * (first + g)));
                }
            }
        }
        for (pixel, acc) in spilled.iter_mut().enumerate() {
            for (part, acc) in acc.chunks_exact_mut(I::BYTES / PARTS).take(PARTS).enumerate() {
                let column = s.columns.start + part * s.segment + x + pixel;
                if column < s.columns.end {
                    let TileOut { out, ldc, residual, ldr } = s.to;
                    let out = out.add((row + column) * ldc);
                    let residual = residual.wrapping_add((row + column) * ldr);
                    let to = TileOut { out, ldc, residual, ldr };
                    I::finish(s.epilogue, &mut acc[..s.channels], s.first_channel, to);
                }
            }
        }
    }
}

/// Runs the epilogue of one pixel's channels from `channel` on.
///
/// # Safety
/// `to` points at that channel of an exclusive output pixel, and of the residual.
#[inline(always)]
pub(super) unsafe fn finish(epilogue: &Epilogue, acc: &mut [i32], channel: usize, to: TileOut) {
    let cols = acc.len();
    // SAFETY: same contract.
    unsafe { finish_tile(epilogue, acc, cols, (channel, cols), to) }
}

/// Copies `len` bytes, 1 to 32.
///
/// # Safety
/// So many bytes are readable and writable.
#[inline(always)]
pub(super) unsafe fn copy_lanes(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match len {
            16.. => copy_ends::<[u8; 16]>(from, to, len),
            8.. => copy_ends::<[u8; 8]>(from, to, len),
            4.. => copy_ends::<[u8; 4]>(from, to, len),
            2.. => copy_ends::<[u8; 2]>(from, to, len),
            _ => to.write(from.read()),
        }
    }
}

/// Copies `len` bytes as the first and the last `T` of them, which may overlap.
///
/// # Safety
/// `T` is an array of bytes, of which `len` holds one or two; `len` bytes are readable and writable.
#[inline(always)]
unsafe fn copy_ends<T>(from: *const u8, to: *mut u8, len: usize) {
    let last = len - size_of::<T>();
    // SAFETY: both lie in the `len` bytes.
    unsafe {
        let end = from.add(last).cast::<T>().read_unaligned();
        to.cast::<T>().write_unaligned(from.cast::<T>().read_unaligned());
        to.add(last).cast::<T>().write_unaligned(end);
    }
}
