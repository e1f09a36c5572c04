//! What an ISA supplies to the GEMM tiles: a handful of vector operations.

use super::kernel::{Rows, Spill, Strided, group};
use crate::epilogue::{NR, Quant, Refill, Sign, Stored, TileOut};

/// The vector operations of one ISA. `Acc` and `B` span the 16 columns of a panel.
///
/// # Safety
/// Every method requires that the ISA's target features are supported; pointers must be valid for what is said.
/// Methods are `#[inline(always)]` and take the features of the entry point they end up in.
pub(crate) trait Dot {
    /// Consecutive values of K that one weight load holds per column.
    const KR: usize;
    /// The sign of activations that are read in place; others, or all, are staged through [`Dot::stage`].
    const IN_PLACE: Option<Sign>;
    /// Whether rows are staged before they come here, unless they can be read in place to their end.
    const WHOLE_ROWS: bool = false;
    /// With how many values of K and more rows may be staged by tiles, through [`Block::ring`]: tiles of fewer take so
    /// little time that finding their operands in that order costs more.
    const RING_K: usize = usize::MAX;
    /// The sign that [`Dot::stage`] gives to bytes.
    const STAGED_AS: Option<Sign> = Self::IN_PLACE;
    /// Whether accumulators stay one row each, so that rows may come from anywhere: [`group`] by itself is enough.
    const ROW_BY_ROW: bool = true;
    /// Whether K may come in several parts, through [`Block::partial`]; tiles are one panel wide then.
    const PARTIAL: bool = false;
    /// How many [`Dot::A`] an activation is, so that K counts as many times.
    const A_PER_VALUE: usize = 1;
    /// An activation as the dot product reads it, or a part.
    type A: Copy + Into<i32>;
    /// KR activations, broadcast.
    type Splat: Copy;
    /// 16·KR weights.
    type B: Copy;
    /// 16 accumulators.
    type Acc: Copy;

    /// Accumulators that start from the 16 biases at `bias`.
    unsafe fn start(bias: *const i32) -> Self::Acc;
    /// Loads the 16·KR weights at `b`.
    unsafe fn load_b(b: *const i8) -> Self::B;
    /// Broadcasts the KR activations at `a`.
    unsafe fn splat(a: *const Self::A) -> Self::Splat;
    /// `acc[j] += Σ_r a[r]·b[j][r]`, exact modulo 2³².
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc;
    /// Adds `groups` groups of K to a tile: rows of A by panels of B. ISAs whose instructions take more than one group,
    /// or more than one row, at a time bring their own.
    #[inline(always)]
    unsafe fn accumulate<const MR: usize, const NV: usize>(
        acc: &mut [[Self::Acc; NV]; MR],
        a: Strided<Self::A>,
        b: Strided<i8>,
        groups: usize,
    ) where
        Self: Sized,
    {
        for g in 0..groups {
            // SAFETY: same contract.
            unsafe {
                let (a, b) = (a.skip(g * Self::KR), b.skip(g * NR * Self::KR));
                group::<Self, MR, NV>(acc, |r| a.at(r, 0), b);
            }
        }
    }
    /// Brings the accumulators of a tile from rows into the order that [`Dot::accumulate`] works in.
    #[inline(always)]
    unsafe fn pair_rows<const MR: usize, const NV: usize>(_acc: &mut [[Self::Acc; NV]; MR]) {}
    /// Undoes [`Dot::pair_rows`].
    #[inline(always)]
    unsafe fn unpair_rows<const MR: usize, const NV: usize>(_acc: &mut [[Self::Acc; NV]; MR]) {}
    /// Writes the 16 accumulators to `out`.
    unsafe fn store(acc: Self::Acc, out: *mut i32);
    /// `acc`, which is computed where this is called: LLVM would let products wait for the loop that goes on with them.
    #[inline(always)]
    unsafe fn pin(acc: Self::Acc) -> Self::Acc {
        acc
    }
    /// The sum of two sets of accumulators.
    #[inline(always)]
    unsafe fn add(acc: Self::Acc, other: Self::Acc) -> Self::Acc {
        let (mut sum, mut more) = ([0; NR], [0; NR]);
        // SAFETY: the arrays hold 16 values; the caller grants the features.
        unsafe {
            Self::store(acc, sum.as_mut_ptr());
            Self::store(other, more.as_mut_ptr());
            sum.iter_mut().zip(more).for_each(|(s, m): (&mut i32, i32)| *s = s.wrapping_add(m));
            Self::start(sum.as_ptr())
        }
    }
    /// `acc[j] − sum · zeros[j]`.
    #[inline(always)]
    unsafe fn sub_zeros(acc: Self::Acc, sum: i32, zeros: *const i32) -> Self::Acc {
        let mut values = [0; NR];
        // SAFETY: the array and `zeros` hold 16 values; the caller grants the features.
        unsafe {
            Self::store(acc, values.as_mut_ptr());
            let zeros = std::slice::from_raw_parts(zeros, NR);
            values.iter_mut().zip(zeros).for_each(|(v, z): (&mut i32, &i32)| {
                *v = v.wrapping_sub(sum.wrapping_mul(*z));
            });
            Self::start(values.as_ptr())
        }
    }
    /// Converts the `len` raw bytes at `src` into `len` rounded up to KR values at `dst`.
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut Self::A);
    /// [`Dot::stage`] of whole rows, `ld` bytes apart at `to`, so that the rows of a tile are beside each other.
    #[inline(always)]
    unsafe fn stage_rows(rows: &Rows, to: *mut u8, ld: usize) {
        for r in 0..rows.count {
            // SAFETY: row `r` of those granted, and its place in `to`.
            unsafe {
                Self::stage(rows.a.add(r * rows.lda), rows.k, rows.sign, to.add(r * ld).cast());
            }
        }
    }
    /// Writes `f32(acc[j]) · scales[j]` to `out`.
    #[inline(always)]
    unsafe fn store_scaled(acc: Self::Acc, scales: *const f32, out: *mut f32) {
        let mut values = [0; NR];
        // SAFETY: the array, `scales` and `out` hold 16 values; the caller grants the features.
        unsafe {
            Self::store(acc, values.as_mut_ptr());
            for (j, value) in values.into_iter().enumerate() {
                out.add(j).write(value as f32 * *scales.add(j));
            }
        }
    }
    /// Whether [`Dot::requantize`] takes tiles of any width, for those who have no other way.
    const REQUANTIZES: bool = false;
    /// Writes a tile whose epilogue is a plain `HalfEven`: `multiplier` and `out` belong to its first column,
    /// `cols` of the NV·16 columns exist. Refills rows that are written if the tile is whole
    /// and it has [`Dot::WHOLE_ROWS`]. Answers false,
    /// having done nothing, where the ISA has no such form.
    unsafe fn requantize<const MR: usize, const NV: usize>(
        _acc: &mut [[Self::Acc; NV]; MR],
        _stored: Stored,
        _multiplier: *const f32,
        _cols: usize,
        _out: *mut u8,
        _ldc: usize,
        _refill: &impl Refill<Self::Acc>,
    ) -> bool {
        false
    }
    /// The same of other 8-bit outputs, of a tile whose first column is `col` and all of whose columns exist.
    #[inline(always)]
    unsafe fn quantize<const MR: usize, const NV: usize, R: Refill<Self::Acc>>(
        _acc: &mut [[Self::Acc; NV]; MR],
        _quant: &Quant,
        _col: usize,
        _to: TileOut,
        _refill: &R,
    ) -> bool {
        false
    }
    /// Calls [`Spill::finish`] under the ISA's target features.
    unsafe fn finish(spill: Spill<'_>);
}

/// What [`Dot::stage`] adds to activations of `sign`, to be undone in the bias.
pub(crate) const fn stage_offset(staged_as: Option<Sign>, sign: Sign) -> i32 {
    match (staged_as, sign) {
        (Some(Sign::U8), Sign::S8) => 128,
        (Some(Sign::S8), Sign::U8) => -128,
        _ => 0,
    }
}

/// [`Dot::stage`] for kernels on i16 operands: sign or zero extension, zeros up to a multiple of `kr`.
#[inline(always)]
pub(crate) unsafe fn stage_i16(src: *const u8, len: usize, sign: Sign, dst: *mut i16, kr: usize) {
    // SAFETY: the caller grants `len` readable bytes and room for `len` rounded up to `kr` values.
    let (src, dst) = unsafe {
        (
            std::slice::from_raw_parts(src, len),
            std::slice::from_raw_parts_mut(dst, len.next_multiple_of(kr)),
        )
    };
    let (values, padding) = dst.split_at_mut(len);
    match sign {
        Sign::U8 => values.iter_mut().zip(src).for_each(|(d, s)| *d = i16::from(*s)),
        Sign::S8 => values.iter_mut().zip(src).for_each(|(d, s)| *d = i16::from(*s as i8)),
    }
    padding.fill(0);
}

/// [`Dot::stage`] for kernels on bytes: `XOR mask`, zeros up to a multiple of `kr`.
#[inline(always)]
pub(crate) unsafe fn stage_bytes(src: *const u8, len: usize, mask: u8, dst: *mut u8, kr: usize) {
    // SAFETY: as in `stage_i16`.
    let (src, dst) = unsafe {
        (
            std::slice::from_raw_parts(src, len),
            std::slice::from_raw_parts_mut(dst, len.next_multiple_of(kr)),
        )
    };
    let (values, padding) = dst.split_at_mut(len);
    values.iter_mut().zip(src).for_each(|(d, s)| *d = s ^ mask);
    padding.fill(0);
}
