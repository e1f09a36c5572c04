//! Depthwise kernel, AVX2: pairs of taps by `vpmaddwd` on i16, 16 channels at a time.
//!
//! The bytes of two taps are interleaved before they are widened, so that channels keep their order.

use std::arch::x86_64::*;

use super::{
    pairs::{Pairs, finish, load16, pack, packed_bytes, row},
    table::{Kernel, Row},
};
use crate::epilogue::{NR, Sign, TileOut};

struct Avx2<const SIGNED: bool>;

impl<const SIGNED: bool> Pairs for Avx2<SIGNED> {
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
        // SAFETY: the caller's contract, pair by pair; the features are the entry point's.
        unsafe {
            let mut sums =
                [_mm256_loadu_si256(bias.cast()), _mm256_loadu_si256(bias.add(8).cast())];
            for (pair, taps) in taps.chunks_exact(2).enumerate() {
                let x0 = load16((*table.add(taps[0])).add(at), lanes);
                let x1 = load16((*table.add(taps[1])).add(at), lanes);
                let x0 = _mm_loadu_si128(x0.as_ptr().cast());
                let x1 = _mm_loadu_si128(x1.as_ptr().cast());
                let both = [_mm_unpacklo_epi8(x0, x1), _mm_unpackhi_epi8(x0, x1)];
                for (half, both) in both.into_iter().enumerate() {
                    let x = if SIGNED {
                        _mm256_cvtepi8_epi16(both)
                    } else {
                        _mm256_cvtepu8_epi16(both)
                    };
                    let w = _mm256_loadu_si256(weights.add(pair * NR * 2 + half * NR).cast());
                    sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(x, w));
                }
            }
            _mm256_storeu_si256(acc.cast(), sums[0]);
            _mm256_storeu_si256(acc.add(8).cast(), sums[1]);
        }
    }

    #[inline(always)]
    unsafe fn finish(row: &Row<'_>, acc: &mut [i32], channel: usize, to: TileOut) {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn with_features(row: &Row<'_>, acc: &mut [i32], channel: usize, to: TileOut) {
            // SAFETY: same contract.
            unsafe { finish(row, acc, channel, to) }
        }
        // SAFETY: same contract; the caller grants the features.
        unsafe { with_features(row, acc, channel, to) }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_row<const SIGNED: bool>(r: &Row<'_>) {
    // SAFETY: same contract, the features are enabled here.
    unsafe { row::<Avx2<SIGNED>>(r) }
}

static AVX2_U8: Kernel = Kernel { packed_bytes, pack, offset: 0, row: avx2_row::<false> };
static AVX2_S8: Kernel = Kernel { packed_bytes, pack, offset: 0, row: avx2_row::<true> };

/// The kernel for AVX2 machines.
pub(super) fn kernel(sign: Sign) -> &'static Kernel {
    match sign {
        Sign::U8 => &AVX2_U8,
        Sign::S8 => &AVX2_S8,
    }
}
