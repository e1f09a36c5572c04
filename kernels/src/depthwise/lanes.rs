//! What the loops of the ring method need of an ISA's vectors, and of the epilogues that stay in them.

use super::{ring::VECTORS, strip::Strip};
use crate::epilogue::{Epilogue, Quant, TileOut};

/// One ISA's vectors, of [`Self::BYTES`] bytes. Every function needs the ISA to be supported.
pub(super) trait Lanes: Sized {
    type Vector: Copy;
    /// Constants of the epilogue.
    type Narrow: Copy;
    /// Bytes of a vector.
    const BYTES: usize;
    /// Columns of a cell.
    const COLUMNS: usize;

    /// # Safety
    /// [`Self::BYTES`] readable bytes.
    unsafe fn load(from: *const u8) -> Self::Vector;
    /// # Safety
    /// [`Self::BYTES`] writable bytes.
    unsafe fn store(vector: Self::Vector, to: *mut u8);
    /// Equal parts of a vector, of which `lanes` bytes each are read.
    ///
    /// # Safety
    /// `lanes` readable bytes at every pointer, no more than a part has.
    unsafe fn gather<const PARTS: usize>(from: [*const u8; PARTS], lanes: usize) -> Self::Vector;
    /// Writes the first `lanes` bytes of part `part` of `PARTS`.
    ///
    /// # Safety
    /// `lanes` writable bytes, no more than a part has.
    unsafe fn scatter<const PARTS: usize>(
        bytes: Self::Vector,
        part: usize,
        lanes: usize,
        to: *mut u8,
    );
    /// Writes 128-bit block `b` to `to + 64·b`.
    ///
    /// # Safety
    /// `4·BYTES` writable bytes, of which a quarter is written.
    unsafe fn spill(acc: Self::Vector, to: *mut i32);
    /// # Safety
    /// See the trait.
    unsafe fn flip(bytes: Self::Vector, by: u8) -> Self::Vector;
    /// Interleaves the bytes of two columns within 128-bit blocks: low halves, high halves.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn pair(a: Self::Vector, b: Self::Vector) -> [Self::Vector; 2];
    /// The cell of a pair of columns and, if it has as many, the next pair.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn cell(pair: [Self::Vector; 2], next: [Self::Vector; 2]) -> [Self::Vector; VECTORS];
    /// `acc + Σ cell·weights` per lane.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn dot(acc: Self::Vector, cell: Self::Vector, w: Self::Vector) -> Self::Vector;
    /// # Safety
    /// See the trait.
    unsafe fn narrow(quant: &Quant) -> Self::Narrow;
    /// `rne(f32(acc)·m)` of two vectors as i16, saturated, within 128-bit blocks.
    ///
    /// # Safety
    /// See the trait; no product leaves i32.
    unsafe fn round(acc: [Self::Vector; 2], m: [Self::Vector; 2]) -> Self::Vector;
    /// Pairs of vectors of [`Self::round`] as stored bytes, within 128-bit blocks.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn bytes<const N: usize>(
        n: Self::Narrow,
        low: [Self::Vector; N],
        high: [Self::Vector; N],
    ) -> [Self::Vector; N];
    /// Calls [`super::strip::finish`] under the ISA's target features.
    ///
    /// # Safety
    /// That of [`super::strip::finish`].
    unsafe fn finish(epilogue: &Epilogue, acc: &mut [i32], channel: usize, to: TileOut);
}

/// What makes integers of accumulators in registers.
pub(super) trait Rounding<I: Lanes>: Copy {
    /// What it has for two vectors of channels.
    type Columns: Copy;
    /// What it has for a pixel.
    type Pixel: Copy;

    /// # Safety
    /// The ISA is supported; the strip has the constants that [`super::ring::Fused`] says.
    unsafe fn columns(self, s: &Strip<'_>, first: usize) -> Self::Columns;
    /// # Safety
    /// As [`super::strip::strip`]; `oy` is one of its rows.
    unsafe fn pixel<const PARTS: usize>(self, s: &Strip<'_>, oy: usize, x: usize) -> Self::Pixel;
    /// Vectors `first` and `first + 1` of accumulators, before the zero point of [`Lanes::narrow`]: as i16, saturated,
    /// within 128-bit blocks.
    ///
    /// # Safety
    /// The ISA is supported; the epilogue is that of the rounding.
    unsafe fn round(
        self,
        acc: [I::Vector; 2],
        columns: Self::Columns,
        pixel: Self::Pixel,
        first: usize,
    ) -> I::Vector;
}

/// [`Epilogue::plain_half_even`].
#[derive(Clone, Copy)]
pub(super) struct HalfEven;

impl<I: Lanes> Rounding<I> for HalfEven {
    type Columns = [I::Vector; 2];
    type Pixel = ();

    #[inline(always)]
    unsafe fn columns(self, s: &Strip<'_>, first: usize) -> [I::Vector; 2] {
        // SAFETY: same contract.
        unsafe { s.constants::<I>(1, first) }
    }

    #[inline(always)]
    unsafe fn pixel<const PARTS: usize>(self, _s: &Strip<'_>, _oy: usize, _x: usize) {}

    #[inline(always)]
    unsafe fn round(
        self,
        acc: [I::Vector; 2],
        m: [I::Vector; 2],
        _pixel: (),
        _first: usize,
    ) -> I::Vector {
        // SAFETY: same contract; no product leaves i32.
        unsafe { I::round(acc, m) }
    }
}
