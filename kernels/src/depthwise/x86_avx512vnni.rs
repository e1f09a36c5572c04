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

use std::{arch::x86_64::*, mem::MaybeUninit};

use super::{Kernel, Row};
use crate::{
    KernelError,
    epilogue::{Epilogue, Sign, TileOut, finish_tile, x86_avx512::Requantizer},
    error::checked_product,
};

/// Channels of a chunk.
const CHUNK: usize = 64;

/// The channel, within its chunk, of lane `lane` of vector `vector`.
const fn channel_of(vector: usize, lane: usize) -> usize {
    16 * (lane / 4) + 4 * vector + lane % 4
}

fn packed_bytes(channels: usize, taps: usize) -> Result<usize, KernelError> {
    checked_product("packed weights", &[channels.div_ceil(CHUNK), taps.div_ceil(4), 4 * CHUNK])
}

fn pack(packed: &mut [i8], channels: usize, taps: usize, at: &dyn Fn(usize, usize) -> i16) {
    let quads = taps.div_ceil(4);
    for (i, vector) in
        packed.chunks_exact_mut(CHUNK).take(channels.div_ceil(CHUNK) * quads * 4).enumerate()
    {
        let (chunk, quad, g) = (i / 4 / quads, i / 4 % quads, i % 4);
        for (lane, weights) in vector.chunks_exact_mut(4).enumerate() {
            let channel = chunk * CHUNK + channel_of(g, lane);
            for (t, weight) in weights.iter_mut().enumerate() {
                let tap = quad * 4 + t;
                *weight = if tap < taps && channel < channels { at(channel, tap) as i8 } else { 0 };
            }
        }
    }
}

/// Up to 64 per-channel values from `channel` on, as the four vectors see them.
fn in_lanes<T: Copy + Default>(values: &[T], channel: usize) -> [[T; 16]; 4] {
    std::array::from_fn(|g| {
        std::array::from_fn(|lane| {
            values.get(channel + channel_of(g, lane)).copied().unwrap_or_default()
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

/// `acc + Σ_taps x·w` of one chunk of one pixel; `mask` has the chunk's existing channels.
///
/// # Safety
/// The features of [`row`]; taps of the table point to pixels of which the masked bytes from `at` on are readable;
/// `weights` hold the chunk.
#[inline(always)]
unsafe fn accumulate<const FULL: bool, const SIGNED: bool>(
    table: *const *const u8,
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
                *x = if FULL {
                    _mm512_loadu_si512(pixel.cast())
                } else {
                    _mm512_maskz_loadu_epi8(mask, pixel)
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

/// All pixels of one chunk of channels.
#[inline(always)]
unsafe fn chunk<const FULL: bool, const SIGNED: bool>(row: &Row<'_>, channel: usize) {
    let Row { table, taps, step, pixels, channels, epilogue, to, .. } = *row;
    let cols = (channels - channel).min(CHUNK);
    let mask = u64::MAX >> (CHUNK - cols);
    // SAFETY: contract of `Kernel::row`; the mask keeps loads and stores to existing channels.
    unsafe {
        let weights = row.weights.as_ptr().add(channel * taps.len());
        let bias = load4(&in_lanes(&epilogue.bias, channel));
        let out = to.out.add(channel * epilogue.element_bytes());
        if let Some((quant, multiplier)) = epilogue.plain_half_even() {
            let requantizer = Requantizer::new(quant);
            let [m0, m1, m2, m3] = &in_lanes(multiplier, channel);
            let m = [
                _mm512_loadu_ps(m0.as_ptr()),
                _mm512_loadu_ps(m1.as_ptr()),
                _mm512_loadu_ps(m2.as_ptr()),
                _mm512_loadu_ps(m3.as_ptr()),
            ];
            for pixel in 0..pixels {
                let acc = accumulate::<FULL, SIGNED>(
                    table.add(pixel * step),
                    taps,
                    channel,
                    mask,
                    weights,
                    bias,
                );
                let bytes = requantizer.bytes(acc, m);
                let out = out.add(pixel * to.ldc);
                if FULL {
                    _mm512_storeu_si512(out.cast(), bytes);
                } else {
                    _mm512_mask_storeu_epi8(out.cast(), mask, bytes);
                }
            }
            return;
        }
        for pixel in 0..pixels {
            let acc = accumulate::<FULL, SIGNED>(
                table.add(pixel * step),
                taps,
                channel,
                mask,
                weights,
                bias,
            );
            let mut spilled = MaybeUninit::<[i32; CHUNK]>::uninit();
            let memory = spilled.as_mut_ptr().cast::<i32>();
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
            let residual = to.residual.wrapping_add(pixel * to.ldr + channel);
            let to = TileOut { out: out.add(pixel * to.ldc), residual, ..to };
            finish(epilogue, std::slice::from_raw_parts_mut(memory, cols), channel, to);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn finish(epilogue: &Epilogue, acc: &mut [i32], channel: usize, to: TileOut) {
    let cols = acc.len();
    // SAFETY: the caller grants an exclusive output pixel, and the residual.
    unsafe { finish_tile(epilogue, acc, cols, (channel, cols), to, |_| 0) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn row<const SIGNED: bool>(row: &Row<'_>) {
    for channel in (0..row.channels).step_by(CHUNK) {
        // SAFETY: same contract, the features are enabled here.
        unsafe {
            if row.channels - channel >= CHUNK {
                chunk::<true, SIGNED>(row, channel);
            } else {
                chunk::<false, SIGNED>(row, channel);
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
