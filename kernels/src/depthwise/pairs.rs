//! Depthwise kernels on pairs of taps: i16 weights, two products per i32 step. Holds weights with zero points too,
//! because `w − w_zero` fits into an i16.
//!
//! ```text
//! [C/16] blocks × [⌈taps/2⌉] pairs × [16] channels × [2] taps, i16       zeros beyond C and the last tap
//! ```

use std::mem::MaybeUninit;

use wide::{i16x8, i32x4, u8x16};

use super::{
    Weights,
    table::{Kernel, Row},
};
use crate::{
    KernelError,
    epilogue::{NR, Sign, TileOut, finish_tile},
    error::checked_product,
    simd::portable::widen16,
};

/// Channels finished at a time.
const CHUNK: usize = 64;

/// One ISA's accumulation of 16 channels.
pub(super) trait Pairs {
    /// `acc[c] = bias[c] + Σ_taps x[tap][c]·w[tap][c]` for 16 channels, of which `lanes` may be read from the pixels,
    /// `at` bytes into each; `table` and `taps` as in [`Row`], `weights` of this block.
    ///
    /// # Safety
    /// The ISA is supported; `table[tap]` points to `at + lanes` readable bytes for every tap; `weights` hold a
    /// block, `bias` 16 values, `acc` room for 16.
    unsafe fn accumulate(
        table: *const *const u8,
        taps: &[usize],
        at: usize,
        lanes: usize,
        weights: *const i16,
        bias: *const i32,
        acc: *mut i32,
    );
    /// Calls [`finish`] under the ISA's target features.
    ///
    /// # Safety
    /// That of [`finish`].
    unsafe fn finish(row: &Row<'_>, acc: &mut [i32], channel: usize, to: TileOut);
}

pub(super) fn packed_bytes(channels: usize, taps: usize) -> Result<usize, KernelError> {
    checked_product(
        "packed weights",
        &[channels.div_ceil(NR), taps.div_ceil(2), NR * 2 * size_of::<i16>()],
    )
}

pub(super) fn pack(packed: &mut [i8], channels: usize, taps: usize, at: Weights<'_>) {
    let values = packed.chunks_exact_mut(size_of::<i16>());
    let pairs = taps.div_ceil(2);
    for (i, value) in values.take(channels.div_ceil(NR) * pairs * NR * 2).enumerate() {
        let (tap, c) = (i / (NR * 2) % pairs * 2 + i % 2, i / (NR * 2) / pairs * NR + i / 2 % NR);
        let weight = if tap < taps && c < channels { at(c, tap) } else { 0 };
        for (byte, part) in value.iter_mut().zip(weight.to_ne_bytes()) {
            *byte = part as i8;
        }
    }
}

/// [`Kernel::row`] for `P`.
///
/// # Safety
/// That of [`Kernel::row`].
#[inline(always)]
pub(super) unsafe fn row<P: Pairs>(row: &Row<'_>) {
    let taps = &row.taps[..row.tap_count.next_multiple_of(2)];
    let block_len = taps.len() * NR;
    let weights = row.weights.as_ptr().cast::<i16>();
    for channel in (0..row.channels).step_by(CHUNK) {
        let cols = (row.channels - channel).min(CHUNK);
        for pixel in 0..row.pixels {
            let mut acc = MaybeUninit::<[i32; CHUNK]>::uninit();
            // SAFETY: blocks and biases exist for all channels rounded up to 16; the table and the output are valid
            // for every pixel (contract of `Kernel::row`).
            unsafe {
                let table = row.table.add(pixel * row.step);
                let memory = acc.as_mut_ptr().cast::<i32>();
                for block in (0..cols).step_by(NR) {
                    let at = channel + block;
                    P::accumulate(
                        table,
                        taps,
                        at,
                        (cols - block).min(NR),
                        weights.add(at / NR * block_len),
                        row.epilogue.bias.as_ptr().add(at),
                        memory.add(block),
                    );
                }
                let acc = std::slice::from_raw_parts_mut(memory, cols);
                let TileOut { out, ldc, residual, ldr } = row.to;
                let out = out.add(pixel * ldc + channel * row.epilogue.element_bytes());
                let residual = residual.wrapping_add(pixel * ldr + channel);
                P::finish(row, acc, channel, TileOut { out, ldc, residual, ldr });
            }
        }
    }
}

/// Runs the epilogue of one pixel's channels from `channel` on.
///
/// # Safety
/// `to` points at that channel of an exclusive output pixel, and of the residual.
#[inline(always)]
pub(super) unsafe fn finish(row: &Row<'_>, acc: &mut [i32], channel: usize, to: TileOut) {
    let cols = acc.len();
    // SAFETY: same contract.
    unsafe { finish_tile(row.epilogue, acc, cols, (channel, cols), to) }
}

/// The first `lanes` bytes at `src`, zeros beyond.
///
/// # Safety
/// `lanes ≤ 16` bytes at `src` are readable.
#[inline(always)]
pub(super) unsafe fn load16(src: *const u8, lanes: usize) -> [u8; NR] {
    // Two reads that overlap where there are fewer than 16 or 8 bytes: both hold the same bytes there.
    // SAFETY: reads end at `lanes` bytes at most (contract).
    unsafe {
        match lanes {
            16.. => src.cast::<[u8; NR]>().read_unaligned(),
            8.. => {
                let low = u64::from_le_bytes(src.cast::<[u8; 8]>().read_unaligned());
                let high =
                    u64::from_le_bytes(src.add(lanes - 8).cast::<[u8; 8]>().read_unaligned());
                (u128::from(low) | (u128::from(high) << 64) >> (8 * (16 - lanes))).to_le_bytes()
            }
            4.. => {
                let low = u32::from_le_bytes(src.cast::<[u8; 4]>().read_unaligned());
                let high =
                    u32::from_le_bytes(src.add(lanes - 4).cast::<[u8; 4]>().read_unaligned());
                let both = u64::from(low) | (u64::from(high) << 32) >> (8 * (8 - lanes));
                u128::from(both).to_le_bytes()
            }
            _ => {
                let mut bytes = [0; NR];
                for (i, byte) in bytes.iter_mut().enumerate().take(lanes) {
                    *byte = src.add(i).read();
                }
                bytes
            }
        }
    }
}

struct Portable<const SIGNED: bool>;

impl<const SIGNED: bool> Pairs for Portable<SIGNED> {
    #[inline(always)]
    unsafe fn accumulate(
        table: *const *const u8,
        taps: &[usize],
        at: usize,
        lanes: usize,
        weights: *const i16,
        bias: *const i32,
        acc: *mut i32,
    ) {
        // SAFETY: the caller's contract, pair by pair.
        unsafe {
            let mut sums = bias.cast::<[i32x4; 4]>().read_unaligned();
            for (pair, taps) in taps.chunks_exact(2).enumerate() {
                let x0 = u8x16::new(load16((*table.add(taps[0])).add(at), lanes));
                let x1 = u8x16::new(load16((*table.add(taps[1])).add(at), lanes));
                let w = weights.add(pair * NR * 2).cast::<[i16x8; 4]>().read_unaligned();
                let [x0, x1] = [u8x16::unpack_low(x0, x1), u8x16::unpack_high(x0, x1)];
                let x = [widen16::<SIGNED>(x0), widen16::<SIGNED>(x1)];
                for ((sums, x), w) in sums.iter_mut().zip(x.as_flattened()).zip(w) {
                    *sums += x.dot(w);
                }
            }
            acc.cast::<[i32x4; 4]>().write_unaligned(sums);
        }
    }

    unsafe fn finish(row: &Row<'_>, acc: &mut [i32], channel: usize, to: TileOut) {
        // SAFETY: same contract.
        unsafe { finish(row, acc, channel, to) }
    }
}

unsafe fn portable_row<const SIGNED: bool>(r: &Row<'_>) {
    // SAFETY: same contract; no features are needed.
    unsafe { row::<Portable<SIGNED>>(r) }
}

static PORTABLE_U8: Kernel = Kernel { packed_bytes, pack, offset: 0, row: portable_row::<false> };
static PORTABLE_S8: Kernel = Kernel { packed_bytes, pack, offset: 0, row: portable_row::<true> };

/// The kernel on `wide`'s registers.
pub(super) fn portable(sign: Sign) -> &'static Kernel {
    match sign {
        Sign::U8 => &PORTABLE_U8,
        Sign::S8 => &PORTABLE_S8,
    }
}
