//! Depthwise kernels, NEON: 16 channels of two pixels at a time, requantized in registers: fewer channels only where the
//! epilogue is a plain `HalfEven`.
//!
//! | weights | packed | per 16 channels |
//! | --- | --- | --- |
//! | s8, none −128 | `[C/16][⌈taps/2⌉][2 taps][16]` s8 | products of two taps added in i16, `smull`, `smlal`, `saddw` |
//! | others | `[C/16][taps][16]` i16 | activations widened, `smlal` |
//!
//! Two products fit an i16 because 2·128·127 does.

use std::arch::aarch64::*;

use super::{
    pairs::load16,
    table::{Kernel, Row},
};
use crate::{
    KernelError,
    epilogue::{
        Kind, NR, Sign, TileOut,
        arm_neon::{HalfEven, quantize_tile, requantize_tile},
        finish_tile,
    },
    error::checked_product,
};

/// Accumulators of 16 channels.
pub(super) type Sums = [int32x4_t; 4];

// How 16 channels of a pixel are read, as the argument READ.
/// All of them exist.
pub(super) const ALL: u8 = 0;
/// The first eight do.
const EIGHT: u8 = 1;
/// Fewer do, and 16 others before them, so that 16 bytes can be read that end with the pixel.
const END: u8 = 2;
/// The pixel has fewer than 16 channels.
const SHORT: u8 = 3;

/// One ISA's accumulation of 16 channels of two pixels.
pub(super) trait Channels {
    /// Taps are padded to a multiple of this.
    const TAPS: usize;
    /// Bytes of a weight.
    const WEIGHT: usize;

    /// `acc + Σ_taps x[tap]·w[tap]` of both pixels, of which `lanes` channels from `at` on exist; tables and `taps` as in
    /// [`Row`], `weights` of this block.
    ///
    /// # Safety
    /// The ISA is supported; every tap of the tables points to a pixel that [`load`] may read `at` bytes in; `weights`
    /// hold a block.
    unsafe fn accumulate<const READ: u8>(
        tables: [*const *const u8; 2],
        taps: &[usize],
        at: usize,
        lanes: usize,
        weights: *const i8,
        acc: [Sums; 2],
    ) -> [Sums; 2];
}

/// [`Kernel::row`] for `C`.
///
/// # Safety
/// That of [`Kernel::row`].
#[inline(always)]
pub(super) unsafe fn row<C: Channels>(row: &Row<'_>) {
    for channel in (0..row.channels).step_by(NR) {
        // SAFETY: same contract.
        unsafe {
            match row.channels - channel {
                NR.. => block::<C, ALL>(row, channel),
                8 => block::<C, EIGHT>(row, channel),
                _ if channel > 0 => block::<C, END>(row, channel),
                _ => block::<C, SHORT>(row, channel),
            }
        }
    }
}

/// All pixels of the 16 channels, or the rest of them, that start at `channel`.
///
/// # Safety
/// That of [`Kernel::row`]; the channels may be read as READ says.
#[inline(always)]
unsafe fn block<C: Channels, const READ: u8>(row: &Row<'_>, channel: usize) {
    let Row { table, channels, epilogue, to, .. } = *row;
    let taps = &row.taps[..row.tap_count.next_multiple_of(C::TAPS)];
    let lanes = (channels - channel).min(NR);
    // SAFETY: blocks, biases and multipliers exist for all channels rounded up to 16; the table and the output are
    // valid for every pixel (contract of `Kernel::row`); NEON is part of the target.
    unsafe {
        let weights = row.weights.as_ptr().add(channel * taps.len() * C::WEIGHT);
        let bias = epilogue.bias.as_ptr().add(channel);
        let bias = [
            vld1q_s32(bias),
            vld1q_s32(bias.add(4)),
            vld1q_s32(bias.add(8)),
            vld1q_s32(bias.add(12)),
        ];
        let out = to.out.add(channel * epilogue.element_bytes());
        let plain = epilogue.plain_half_even();
        let plain =
            plain.map(|(quant, m)| (quant.stored(), HalfEven { m: m.as_ptr().add(channel) }));
        for pixel in (0..row.pixels).step_by(2) {
            // A last pixel without a neighbour is computed, and stored, twice.
            let both = [pixel, (pixel + 1).min(row.pixels - 1)];
            let tables = both.map(|pixel| table.add(pixel * row.step));
            let sums = C::accumulate::<READ>(tables, taps, channel, lanes, weights, [bias; 2]);
            let rows = TileOut {
                out: out.add(both[0] * to.ldc),
                ldc: (both[1] - both[0]) * to.ldc,
                residual: to.residual.wrapping_add(both[0] * to.ldr + channel),
                ldr: (both[1] - both[0]) * to.ldr,
            };
            if let Some((stored, scale)) = plain {
                requantize_tile(&sums.map(|sums| [sums]), stored, scale, (0, lanes), rows);
                continue;
            }
            if lanes == NR
                && let Kind::Quant8(quant) = &epilogue.kind
                && quantize_tile(&sums.map(|sums| [sums]), quant, channel, rows)
            {
                continue;
            }
            for (pixel, sums) in both.into_iter().zip(sums) {
                let out = out.add(pixel * to.ldc);
                let mut spilled = [0i32; NR];
                for (v, sums) in sums.into_iter().enumerate() {
                    vst1q_s32(spilled.as_mut_ptr().add(4 * v), sums);
                }
                let residual = to.residual.wrapping_add(pixel * to.ldr + channel);
                let to = TileOut { out, residual, ..to };
                finish_tile(epilogue, &mut spilled[..lanes], lanes, (channel, lanes), to);
            }
        }
    }
}

/// The bytes of 16 channels at `pixel`, zeros beyond `lanes`.
///
/// # Safety
/// `lanes` bytes are readable, and with END 16 that end with them; with ALL `lanes` is 16, with EIGHT 8.
#[inline(always)]
pub(super) unsafe fn load<const READ: u8>(pixel: *const u8, lanes: usize) -> uint8x16_t {
    const PLACES: [u8; NR] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    // SAFETY: the caller's contract; NEON is part of the target.
    unsafe {
        match READ {
            ALL => vld1q_u8(pixel),
            EIGHT => vcombine_u8(vld1_u8(pixel), vdup_n_u8(0)),
            END => {
                // Places past 15 give zeros.
                let before = NR - lanes;
                let places = vaddq_u8(vld1q_u8(PLACES.as_ptr()), vdupq_n_u8(before as u8));
                vqtbl1q_u8(vld1q_u8(pixel.sub(before)), places)
            }
            _ => vld1q_u8(load16(pixel, lanes).as_ptr()),
        }
    }
}

/// Bytes of `signed` or unsigned activations as s8, less [`offset`].
#[inline(always)]
pub(super) fn as_s8<const SIGNED: bool>(x: uint8x16_t) -> int8x16_t {
    // SAFETY: NEON is part of the target.
    unsafe { vreinterpretq_s8_u8(if SIGNED { x } else { veorq_u8(x, vdupq_n_u8(0x80)) }) }
}

/// What [`as_s8`] adds to every activation.
pub(super) const fn offset(signed: bool) -> i32 {
    if signed { 0 } else { -128 }
}

/// s8 weights of which none is −128.
struct TapPairs<const SIGNED: bool>;

impl<const SIGNED: bool> Channels for TapPairs<SIGNED> {
    const TAPS: usize = 2;
    const WEIGHT: usize = 1;

    #[inline(always)]
    unsafe fn accumulate<const READ: u8>(
        tables: [*const *const u8; 2],
        taps: &[usize],
        at: usize,
        lanes: usize,
        weights: *const i8,
        mut acc: [Sums; 2],
    ) -> [Sums; 2] {
        // SAFETY: the caller's contract, pair by pair; NEON is part of the target.
        unsafe {
            for (pair, taps) in taps.chunks_exact(2).enumerate() {
                let w0 = vld1q_s8(weights.add(pair * 2 * NR));
                let w1 = vld1q_s8(weights.add((pair * 2 + 1) * NR));
                for (acc, table) in acc.iter_mut().zip(tables) {
                    let x0 = as_s8::<SIGNED>(load::<READ>((*table.add(taps[0])).add(at), lanes));
                    let x1 = as_s8::<SIGNED>(load::<READ>((*table.add(taps[1])).add(at), lanes));
                    let low = vmull_s8(vget_low_s8(x0), vget_low_s8(w0));
                    let low = vmlal_s8(low, vget_low_s8(x1), vget_low_s8(w1));
                    let high = vmlal_high_s8(vmull_high_s8(x0, w0), x1, w1);
                    *acc = [
                        vaddw_s16(acc[0], vget_low_s16(low)),
                        vaddw_high_s16(acc[1], low),
                        vaddw_s16(acc[2], vget_low_s16(high)),
                        vaddw_high_s16(acc[3], high),
                    ];
                }
            }
        }
        acc
    }
}

/// Weights that fit an i16.
struct Wide<const SIGNED: bool>;

impl<const SIGNED: bool> Channels for Wide<SIGNED> {
    const TAPS: usize = 1;
    const WEIGHT: usize = 2;

    #[inline(always)]
    unsafe fn accumulate<const READ: u8>(
        tables: [*const *const u8; 2],
        taps: &[usize],
        at: usize,
        lanes: usize,
        weights: *const i8,
        mut acc: [Sums; 2],
    ) -> [Sums; 2] {
        let weights = weights.cast::<i16>();
        // SAFETY: the caller's contract, tap by tap; NEON is part of the target.
        unsafe {
            for (i, &tap) in taps.iter().enumerate() {
                let w0 = vld1q_s16(weights.add(i * NR));
                let w1 = vld1q_s16(weights.add(i * NR + NR / 2));
                for (acc, table) in acc.iter_mut().zip(tables) {
                    let x = load::<READ>((*table.add(tap)).add(at), lanes);
                    let [low, high] = if SIGNED {
                        let x = vreinterpretq_s8_u8(x);
                        [vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)]
                    } else {
                        [vmovl_u8(vget_low_u8(x)), vmovl_high_u8(x)]
                            .map(|x| vreinterpretq_s16_u16(x))
                    };
                    *acc = [
                        vmlal_s16(acc[0], vget_low_s16(low), vget_low_s16(w0)),
                        vmlal_high_s16(acc[1], low, w0),
                        vmlal_s16(acc[2], vget_low_s16(high), vget_low_s16(w1)),
                        vmlal_high_s16(acc[3], high, w1),
                    ];
                }
            }
        }
        acc
    }
}

/// Bytes of weights whose taps are padded to a multiple of `together`.
pub(super) fn block_bytes(
    channels: usize,
    taps: usize,
    together: usize,
    weight: usize,
) -> Result<usize, KernelError> {
    let taps = taps.div_ceil(together) * together;
    checked_product("packed weights", &[channels.div_ceil(NR), taps, NR * weight])
}

fn packed_bytes<C: Channels>(channels: usize, taps: usize) -> Result<usize, KernelError> {
    block_bytes(channels, taps, C::TAPS, C::WEIGHT)
}

/// Taps one after the other, each of 16 channels.
fn pack<C: Channels>(
    packed: &mut [i8],
    channels: usize,
    taps: usize,
    at: &dyn Fn(usize, usize) -> i16,
) {
    let padded = taps.next_multiple_of(C::TAPS);
    let values = packed.chunks_exact_mut(C::WEIGHT);
    for (i, value) in values.take(channels.div_ceil(NR) * padded * NR).enumerate() {
        let (tap, c) = (i / NR % padded, i / NR / padded * NR + i % NR);
        let weight = if tap < taps && c < channels { at(c, tap) } else { 0 };
        // A narrow weight is the low byte.
        for (byte, part) in value.iter_mut().zip(weight.to_le_bytes()) {
            *byte = part as i8;
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn neon_row<C: Channels>(r: &Row<'_>) {
    // SAFETY: same contract, the feature is enabled here.
    unsafe { row::<C>(r) }
}

const fn kernel_of<C: Channels>(offset: i32) -> Kernel {
    Kernel { packed_bytes: packed_bytes::<C>, pack: pack::<C>, offset, row: neon_row::<C> }
}

static PAIRS_U8: Kernel = kernel_of::<TapPairs<false>>(offset(false));
static PAIRS_S8: Kernel = kernel_of::<TapPairs<true>>(offset(true));
static WIDE_U8: Kernel = kernel_of::<Wide<false>>(0);
static WIDE_S8: Kernel = kernel_of::<Wide<true>>(0);

/// The kernel for machines with NEON; `wide` if a weight is −128 or does not fit an s8.
pub(super) fn kernel(sign: Sign, wide: bool) -> &'static Kernel {
    match (sign, wide) {
        (Sign::U8, false) => &PAIRS_U8,
        (Sign::S8, false) => &PAIRS_S8,
        (Sign::U8, true) => &WIDE_U8,
        (Sign::S8, true) => &WIDE_S8,
    }
}
