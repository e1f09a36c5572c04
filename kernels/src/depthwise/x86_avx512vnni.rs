//! Depthwise kernel, AVX-512 VNNI: quads of taps by `vpdpbusd`, 64 channels at a time.
//!
//! The bytes of four taps are interleaved, so that each 32-bit lane holds the four taps of one channel:
//!
//! ```text
//! t0..t3: 64 channels each            unpack bytes, then pairs of bytes, within 128-bit lanes b = 0..3
//! vector g, lane 4·b + i:             the taps of channel 16·b + 4·g + i
//! ```
//! Packing the four vectors back to bytes, again within 128-bit lanes, restores the channels' order. Weights are
//! packed in the same order:
//!
//! ```text
//! [C/64] chunks × [⌈taps/4⌉] quads × [4] vectors × [16] lanes × [4] taps      zeros beyond C and the last tap
//! ```
//! A last chunk of at most 32 channels repeats its weights in the upper half, which computes the next pixel.

use std::arch::x86_64::*;

use super::{
    Weights,
    table::{Kernel, Row},
};
use crate::{
    KernelError,
    epilogue::{Epilogue, Sign, TileOut, finish_tile, x86_avx512::Requantizer},
    error::checked_product,
};

/// Channels of a chunk, and bytes of a vector.
const CHUNK: usize = 64;

/// A last chunk of no more channels than this computes two pixels at a time, one per half of the vectors.
const HALF: usize = CHUNK / 2;

/// The channel, within its chunk of `channels`, of lane `lane` of vector `vector`.
const fn channel_of(vector: usize, lane: usize, channels: usize) -> usize {
    let channel = 16 * (lane / 4) + 4 * vector + lane % 4;
    if channels <= HALF { channel % HALF } else { channel }
}

fn packed_bytes(channels: usize, taps: usize) -> Result<usize, KernelError> {
    checked_product("packed weights", &[channels.div_ceil(CHUNK), taps.div_ceil(4), 4 * CHUNK])
}

fn pack(packed: &mut [i8], channels: usize, taps: usize, at: Weights<'_>) {
    let quads = taps.div_ceil(4);
    for (i, vector) in
        packed.chunks_exact_mut(CHUNK).take(channels.div_ceil(CHUNK) * quads * 4).enumerate()
    {
        let (first, quad, g) = (i / 4 / quads * CHUNK, i / 4 % quads, i % 4);
        for (lane, weights) in vector.chunks_exact_mut(4).enumerate() {
            let channel = first + channel_of(g, lane, channels - first);
            for (t, weight) in weights.iter_mut().enumerate() {
                let tap = quad * 4 + t;
                *weight = if tap < taps && channel < channels { at(channel, tap) as i8 } else { 0 };
            }
        }
    }
}

/// The per-channel values of the chunk that starts at `first`, as the four vectors see them.
fn in_lanes<T: Copy + Default>(values: &[T], first: usize, channels: usize) -> [[T; 16]; 4] {
    std::array::from_fn(|g| {
        std::array::from_fn(|lane| {
            values.get(first + channel_of(g, lane, channels - first)).copied().unwrap_or_default()
        })
    })
}

#[inline(always)]
unsafe fn load4(values: &[[i32; 16]; 4]) -> [__m512i; 4] {
    // SAFETY: each array holds 64 bytes; the caller grants the features.
    unsafe {
        [
            _mm512_loadu_si512(values[0].as_ptr().cast()),
            _mm512_loadu_si512(values[1].as_ptr().cast()),
            _mm512_loadu_si512(values[2].as_ptr().cast()),
            _mm512_loadu_si512(values[3].as_ptr().cast()),
        ]
    }
}

// How many channels of a chunk exist, as the argument WIDTH.
/// All of them.
const FULL: u8 = 0;
/// More than half of them.
const MASKED: u8 = 1;
/// Half of them or fewer: the vectors hold two pixels.
const TWO_PIXELS: u8 = 2;

/// `acc + Σ_taps x·w` of a chunk, of the pixel at `table`, or of that and the one at `second`; `mask` has the chunk's
/// existing channels.
///
/// # Safety
/// The features of [`row`]; taps of the tables point to pixels of which the masked bytes from `at` on are readable;
/// `weights` hold the chunk.
#[inline(always)]
unsafe fn accumulate<const WIDTH: u8, const SIGNED: bool>(
    (table, second): (*const *const u8, *const *const u8),
    taps: &[usize],
    at: usize,
    mask: u64,
    weights: *const i8,
    mut acc: [__m512i; 4],
) -> [__m512i; 4] {
    // SAFETY: the caller's contract, quad by quad.
    unsafe {
        for (quad, taps) in taps.chunks_exact(4).enumerate() {
            let mut x = [_mm512_setzero_si512(); 4];
            for (x, &tap) in x.iter_mut().zip(taps) {
                let pixel = (*table.add(tap)).add(at).cast::<i8>();
                *x = match WIDTH {
                    FULL => _mm512_loadu_si512(pixel.cast()),
                    TWO_PIXELS => {
                        let next = (*second.add(tap)).add(at).cast::<i8>();
                        _mm512_inserti64x4::<1>(
                            _mm512_castsi256_si512(_mm256_maskz_loadu_epi8(mask as u32, pixel)),
                            _mm256_maskz_loadu_epi8(mask as u32, next),
                        )
                    }
                    _ => _mm512_maskz_loadu_epi8(mask, pixel),
                };
                if SIGNED {
                    *x = _mm512_xor_si512(*x, _mm512_set1_epi8(-128));
                }
            }
            let low01 = _mm512_unpacklo_epi8(x[0], x[1]);
            let high01 = _mm512_unpackhi_epi8(x[0], x[1]);
            let low23 = _mm512_unpacklo_epi8(x[2], x[3]);
            let high23 = _mm512_unpackhi_epi8(x[2], x[3]);
            let quads = [
                _mm512_unpacklo_epi16(low01, low23),
                _mm512_unpackhi_epi16(low01, low23),
                _mm512_unpacklo_epi16(high01, high23),
                _mm512_unpackhi_epi16(high01, high23),
            ];
            for (g, (acc, x)) in acc.iter_mut().zip(quads).enumerate() {
                let w = _mm512_loadu_si512(weights.add((quad * 4 + g) * CHUNK).cast());
                *acc = _mm512_dpbusd_epi32(*acc, x, w);
            }
        }
    }
    acc
}

/// All pixels of the chunk of channels that starts at `channel`.
#[inline(always)]
unsafe fn chunk<const WIDTH: u8, const SIGNED: bool>(row: &Row<'_>, channel: usize) {
    let Row { table, taps, step, pixels, channels, epilogue, to, .. } = *row;
    let cols = (channels - channel).min(CHUNK);
    let mask = u64::MAX >> (CHUNK - cols);
    let together = if WIDTH == TWO_PIXELS { 2 } else { 1 };
    // SAFETY: contract of `Kernel::row`; the mask keeps loads and stores to existing channels.
    unsafe {
        let weights = row.weights.as_ptr().add(channel * taps.len());
        let bias = load4(&in_lanes(&epilogue.bias, channel, channels));
        let fused = epilogue
            .plain_half_even()
            .map(|(quant, multiplier)| (quant, in_lanes(multiplier, channel, channels)));
        let out = to.out.add(channel * epilogue.element_bytes());
        let tables =
            |pixel: usize, second: usize| (table.add(pixel * step), table.add(second * step));
        if let Some((quant, [m0, m1, m2, m3])) = &fused {
            let requantizer = Requantizer::new(quant.stored());
            let m = [
                _mm512_loadu_ps(m0.as_ptr()),
                _mm512_loadu_ps(m1.as_ptr()),
                _mm512_loadu_ps(m2.as_ptr()),
                _mm512_loadu_ps(m3.as_ptr()),
            ];
            for pixel in (0..pixels).step_by(together) {
                // A last pixel without a neighbour is computed, and stored, twice.
                let second = (pixel + 1).min(pixels - 1);
                let acc = accumulate::<WIDTH, SIGNED>(
                    tables(pixel, second),
                    taps,
                    channel,
                    mask,
                    weights,
                    bias,
                );
                let bytes = requantizer.bytes(acc, m);
                let first = out.add(pixel * to.ldc).cast::<i8>();
                match WIDTH {
                    FULL => _mm512_storeu_si512(first.cast(), bytes),
                    TWO_PIXELS => {
                        let mask = mask as u32;
                        _mm256_mask_storeu_epi8(first, mask, _mm512_castsi512_si256(bytes));
                        let second = out.add(second * to.ldc).cast::<i8>();
                        _mm256_mask_storeu_epi8(
                            second,
                            mask,
                            _mm512_extracti64x4_epi64::<1>(bytes),
                        );
                    }
                    _ => _mm512_mask_storeu_epi8(first, mask, bytes),
                }
            }
            return;
        }
        for pixel in (0..pixels).step_by(together) {
            let second = (pixel + 1).min(pixels - 1);
            let acc = accumulate::<WIDTH, SIGNED>(
                tables(pixel, second),
                taps,
                channel,
                mask,
                weights,
                bias,
            );
            let mut spilled = [0i32; CHUNK];
            let memory = spilled.as_mut_ptr();
            for (g, acc) in acc.into_iter().enumerate() {
                _mm_storeu_si128(memory.add(4 * g).cast(), _mm512_extracti32x4_epi32::<0>(acc));
                _mm_storeu_si128(
                    memory.add(16 + 4 * g).cast(),
                    _mm512_extracti32x4_epi32::<1>(acc),
                );
                _mm_storeu_si128(
                    memory.add(32 + 4 * g).cast(),
                    _mm512_extracti32x4_epi32::<2>(acc),
                );
                _mm_storeu_si128(
                    memory.add(48 + 4 * g).cast(),
                    _mm512_extracti32x4_epi32::<3>(acc),
                );
            }
            for (pixel, acc) in
                [pixel, second].into_iter().zip(spilled.chunks_exact_mut(CHUNK / together))
            {
                let residual = to.residual.wrapping_add(pixel * to.ldr + channel);
                let to = TileOut { out: out.add(pixel * to.ldc), residual, ..to };
                finish(epilogue, &mut acc[..cols], channel, to);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn finish(epilogue: &Epilogue, acc: &mut [i32], channel: usize, to: TileOut) {
    let cols = acc.len();
    // SAFETY: the caller grants an exclusive output pixel, and the residual.
    unsafe { finish_tile(epilogue, acc, cols, (channel, cols), to) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn row<const SIGNED: bool>(row: &Row<'_>) {
    for channel in (0..row.channels).step_by(CHUNK) {
        // SAFETY: same contract, the features are enabled here.
        unsafe {
            match row.channels - channel {
                CHUNK.. => chunk::<FULL, SIGNED>(row, channel),
                ..=HALF => chunk::<TWO_PIXELS, SIGNED>(row, channel),
                _ => chunk::<MASKED, SIGNED>(row, channel),
            }
        }
    }
}

static VNNI_U8: Kernel = Kernel { packed_bytes, pack, offset: 0, row: row::<false> };
static VNNI_S8: Kernel = Kernel { packed_bytes, pack, offset: 128, row: row::<true> };

/// The kernel for AVX-512 VNNI machines; weights must fit into s8.
pub(super) fn kernel(sign: Sign) -> &'static Kernel {
    match sign {
        Sign::U8 => &VNNI_U8,
        Sign::S8 => &VNNI_S8,
    }
}
