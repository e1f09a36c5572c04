//! The vectors of the ring method on x86: 64 bytes with AVX-512 VNNI, 32 with AVX-VNNI and AVX2.

use std::arch::x86_64::*;

use super::{
    lanes::Lanes,
    pairs::load16,
    ring::VECTORS,
    strip::{copy_lanes, finish},
};
use crate::epilogue::{Epilogue, Quant, Sign, TileOut};

/// What a result is clamped to and how it is packed, in registers.
#[derive(Clone, Copy)]
pub(super) struct Narrow<V> {
    zero_point: V,
    low: V,
    high: V,
    signed: bool,
}

/// [`Quant::last`] in the types of the vectors.
fn last(quant: &Quant) -> (i16, [i8; 2]) {
    let (zero_point, low, high) = quant.last();
    (zero_point as i16, [low, high].map(|bound| bound as u8 as i8))
}

/// 64 bytes.
pub(super) struct Zmm;

impl Lanes for Zmm {
    type Vector = __m512i;
    type Narrow = Narrow<__m512i>;
    const BYTES: usize = 64;
    const COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(vector: __m512i, to: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe { _mm512_storeu_si512(to.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn gather<const PARTS: usize>(from: [*const u8; PARTS], lanes: usize) -> __m512i {
        let mask = u64::MAX >> (64 - lanes);
        // SAFETY: the mask keeps loads to the bytes that the caller grants.
        unsafe {
            match PARTS {
                1 => _mm512_maskz_loadu_epi8(mask, from[0].cast()),
                2 => {
                    let low = _mm256_maskz_loadu_epi8(mask as u32, from[0].cast());
                    let high = _mm256_maskz_loadu_epi8(mask as u32, from[1].cast());
                    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
                }
                _ => {
                    let mask = mask as u16;
                    let x = _mm512_castsi128_si512(_mm_maskz_loadu_epi8(mask, from[0].cast()));
                    let b = _mm_maskz_loadu_epi8(mask, from[1].cast());
                    let c = _mm_maskz_loadu_epi8(mask, from[2].cast());
                    let d = _mm_maskz_loadu_epi8(mask, from[3].cast());
                    let x = _mm512_inserti32x4::<1>(x, b);
                    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(x, c), d)
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn scatter<const PARTS: usize>(bytes: __m512i, part: usize, lanes: usize, to: *mut u8) {
        let mask = u64::MAX >> (64 - lanes);
        // SAFETY: the mask keeps stores to the bytes that the caller grants.
        unsafe {
            match PARTS {
                1 if lanes == 64 => _mm512_storeu_si512(to.cast(), bytes),
                1 => _mm512_mask_storeu_epi8(to.cast(), mask, bytes),
                2 => {
                    let half = if part == 0 {
                        _mm512_castsi512_si256(bytes)
                    } else {
                        _mm512_extracti64x4_epi64::<1>(bytes)
                    };
                    if lanes == 32 {
                        _mm256_storeu_si256(to.cast(), half);
                    } else {
                        _mm256_mask_storeu_epi8(to.cast(), mask as u32, half);
                    }
                }
                _ => {
                    let block = match part {
                        0 => _mm512_castsi512_si128(bytes),
                        1 => _mm512_extracti32x4_epi32::<1>(bytes),
                        2 => _mm512_extracti32x4_epi32::<2>(bytes),
                        _ => _mm512_extracti32x4_epi32::<3>(bytes),
                    };
                    if lanes == 16 {
                        _mm_storeu_si128(to.cast(), block);
                    } else {
                        _mm_mask_storeu_epi8(to.cast(), mask as u16, block);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn spill(acc: __m512i, to: *mut i32) {
        // SAFETY: the caller's contract.
        unsafe {
            _mm_storeu_si128(to.cast(), _mm512_castsi512_si128(acc));
            _mm_storeu_si128(to.add(16).cast(), _mm512_extracti32x4_epi32::<1>(acc));
            _mm_storeu_si128(to.add(32).cast(), _mm512_extracti32x4_epi32::<2>(acc));
            _mm_storeu_si128(to.add(48).cast(), _mm512_extracti32x4_epi32::<3>(acc));
        }
    }

    #[inline(always)]
    unsafe fn flip(bytes: __m512i, by: u8) -> __m512i {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_xor_si512(bytes, _mm512_set1_epi8(by as i8)) }
    }

    #[inline(always)]
    unsafe fn pair(a: __m512i, b: __m512i) -> [__m512i; 2] {
        // SAFETY: the caller grants the features.
        unsafe { [_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)] }
    }

    #[inline(always)]
    unsafe fn cell(pair: [__m512i; 2], next: [__m512i; 2]) -> [__m512i; VECTORS] {
        // SAFETY: the caller grants the features.
        unsafe {
            [
                _mm512_unpacklo_epi16(pair[0], next[0]),
                _mm512_unpackhi_epi16(pair[0], next[0]),
                _mm512_unpacklo_epi16(pair[1], next[1]),
                _mm512_unpackhi_epi16(pair[1], next[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn dot(acc: __m512i, cell: __m512i, w: __m512i) -> __m512i {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_dpbusd_epi32(acc, cell, w) }
    }

    #[inline(always)]
    unsafe fn narrow(quant: &Quant) -> Self::Narrow {
        let (zero_point, [low, high]) = last(quant);
        // SAFETY: the caller grants the features.
        unsafe {
            Narrow {
                zero_point: _mm512_set1_epi16(zero_point),
                low: _mm512_set1_epi8(low),
                high: _mm512_set1_epi8(high),
                signed: quant.sign == Sign::S8,
            }
        }
    }

    #[inline(always)]
    unsafe fn round(acc: [__m512i; 2], m: [__m512i; 2]) -> __m512i {
        // SAFETY: the caller grants the features.
        unsafe {
            let m = [_mm512_castsi512_ps(m[0]), _mm512_castsi512_ps(m[1])];
            let a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[0]), m[0]));
            let b = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[1]), m[1]));
            _mm512_packs_epi32(a, b)
        }
    }

    #[inline(always)]
    unsafe fn bytes<const N: usize>(
        n: Self::Narrow,
        low: [__m512i; N],
        high: [__m512i; N],
    ) -> [__m512i; N] {
        let mut bytes = low;
        // SAFETY: the caller grants the features.
        unsafe {
            for (bytes, high) in bytes.iter_mut().zip(high) {
                let low = _mm512_adds_epi16(*bytes, n.zero_point);
                let high = _mm512_adds_epi16(high, n.zero_point);
                *bytes = if n.signed {
                    let bytes = _mm512_packs_epi16(low, high);
                    _mm512_min_epi8(_mm512_max_epi8(bytes, n.low), n.high)
                } else {
                    let bytes = _mm512_packus_epi16(low, high);
                    _mm512_min_epu8(_mm512_max_epu8(bytes, n.low), n.high)
                };
            }
        }
        bytes
    }

    #[inline(always)]
    unsafe fn finish(epilogue: &Epilogue, acc: &mut [i32], channel: usize, to: TileOut) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn with_features(epilogue: &Epilogue, acc: &mut [i32], channel: usize, to: TileOut) {
            // SAFETY: same contract.
            unsafe { finish(epilogue, acc, channel, to) }
        }
        // SAFETY: same contract; the caller grants the features.
        unsafe { with_features(epilogue, acc, channel, to) }
    }
}

/// `VNNI` tells quads of bytes from pairs of i16.
pub(super) struct Ymm<const VNNI: bool>;

impl<const VNNI: bool> Lanes for Ymm<VNNI> {
    type Vector = __m256i;
    type Narrow = Narrow<__m256i>;
    const BYTES: usize = 32;
    const COLUMNS: usize = if VNNI { 4 } else { 2 };

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m256i {
        // SAFETY: the caller's contract.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(vector: __m256i, to: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe { _mm256_storeu_si256(to.cast(), vector) }
    }

    #[inline(always)]
    unsafe fn gather<const PARTS: usize>(from: [*const u8; PARTS], lanes: usize) -> __m256i {
        // SAFETY: the caller's contract, for 16 bytes at a time.
        unsafe {
            if PARTS == 1 && lanes == 32 {
                return _mm256_loadu_si256(from[0].cast());
            }
            let blocks = if PARTS == 1 {
                [load16(from[0], 16), load16(from[0].add(16), lanes - 16)]
            } else {
                [load16(from[0], lanes), load16(from[PARTS - 1], lanes)]
            };
            let low = _mm_loadu_si128(blocks[0].as_ptr().cast());
            let high = _mm_loadu_si128(blocks[1].as_ptr().cast());
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
        }
    }

    #[inline(always)]
    unsafe fn scatter<const PARTS: usize>(bytes: __m256i, part: usize, lanes: usize, to: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe {
            if PARTS == 1 && lanes == 32 {
                _mm256_storeu_si256(to.cast(), bytes);
            } else if PARTS == 2 && lanes == 16 {
                let block = if part == 0 {
                    _mm256_castsi256_si128(bytes)
                } else {
                    _mm256_extracti128_si256::<1>(bytes)
                };
                _mm_storeu_si128(to.cast(), block);
            } else {
                let mut memory = [0u8; 32];
                _mm256_storeu_si256(memory.as_mut_ptr().cast(), bytes);
                let from = memory.as_ptr().add(part * 16);
                copy_lanes(from, to, lanes);
            }
        }
    }

    #[inline(always)]
    unsafe fn spill(acc: __m256i, to: *mut i32) {
        // SAFETY: the caller's contract.
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(acc));
            _mm_storeu_si128(to.add(16).cast(), _mm256_extracti128_si256::<1>(acc));
        }
    }

    #[inline(always)]
    unsafe fn flip(bytes: __m256i, by: u8) -> __m256i {
        // SAFETY: the caller grants the features.
        unsafe { _mm256_xor_si256(bytes, _mm256_set1_epi8(by as i8)) }
    }

    #[inline(always)]
    unsafe fn pair(a: __m256i, b: __m256i) -> [__m256i; 2] {
        // SAFETY: the caller grants the features.
        unsafe { [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)] }
    }

    #[inline(always)]
    unsafe fn cell(pair: [__m256i; 2], next: [__m256i; 2]) -> [__m256i; VECTORS] {
        // SAFETY: the caller grants the features.
        unsafe {
            if VNNI {
                [
                    _mm256_unpacklo_epi16(pair[0], next[0]),
                    _mm256_unpackhi_epi16(pair[0], next[0]),
                    _mm256_unpacklo_epi16(pair[1], next[1]),
                    _mm256_unpackhi_epi16(pair[1], next[1]),
                ]
            } else {
                let zero = _mm256_setzero_si256();
                [
                    _mm256_unpacklo_epi8(pair[0], zero),
                    _mm256_unpackhi_epi8(pair[0], zero),
                    _mm256_unpacklo_epi8(pair[1], zero),
                    _mm256_unpackhi_epi8(pair[1], zero),
                ]
            }
        }
    }

    #[inline(always)]
    unsafe fn dot(acc: __m256i, cell: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller grants the features.
        unsafe {
            if VNNI {
                _mm256_dpbusd_avx_epi32(acc, cell, w)
            } else {
                _mm256_add_epi32(acc, _mm256_madd_epi16(cell, w))
            }
        }
    }

    #[inline(always)]
    unsafe fn narrow(quant: &Quant) -> Self::Narrow {
        let (zero_point, [low, high]) = last(quant);
        // SAFETY: the caller grants the features.
        unsafe {
            Narrow {
                zero_point: _mm256_set1_epi16(zero_point),
                low: _mm256_set1_epi8(low),
                high: _mm256_set1_epi8(high),
                signed: quant.sign == Sign::S8,
            }
        }
    }

    #[inline(always)]
    unsafe fn round(acc: [__m256i; 2], m: [__m256i; 2]) -> __m256i {
        // SAFETY: the caller grants the features.
        unsafe {
            let m = [_mm256_castsi256_ps(m[0]), _mm256_castsi256_ps(m[1])];
            let a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(acc[0]), m[0]));
            let b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(acc[1]), m[1]));
            _mm256_packs_epi32(a, b)
        }
    }

    #[inline(always)]
    unsafe fn bytes<const N: usize>(
        n: Self::Narrow,
        low: [__m256i; N],
        high: [__m256i; N],
    ) -> [__m256i; N] {
        let mut bytes = low;
        // SAFETY: the caller grants the features.
        unsafe {
            for (bytes, high) in bytes.iter_mut().zip(high) {
                let low = _mm256_adds_epi16(*bytes, n.zero_point);
                let high = _mm256_adds_epi16(high, n.zero_point);
                *bytes = if n.signed {
                    let bytes = _mm256_packs_epi16(low, high);
                    _mm256_min_epi8(_mm256_max_epi8(bytes, n.low), n.high)
                } else {
                    let bytes = _mm256_packus_epi16(low, high);
                    _mm256_min_epu8(_mm256_max_epu8(bytes, n.low), n.high)
                };
            }
        }
        bytes
    }

    #[inline(always)]
    unsafe fn finish(epilogue: &Epilogue, acc: &mut [i32], channel: usize, to: TileOut) {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn with_features(epilogue: &Epilogue, acc: &mut [i32], channel: usize, to: TileOut) {
            // SAFETY: same contract.
            unsafe { finish(epilogue, acc, channel, to) }
        }
        // SAFETY: same contract; the caller grants the features.
        unsafe { with_features(epilogue, acc, channel, to) }
    }
}
