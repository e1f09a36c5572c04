//! Registers of bytes of SSE, AVX2 and AVX-512; who may use them is said in [`super::x86`].

use std::arch::x86_64::*;

use super::Bytes;
use super::x86::load16;

/// Defines the bytes of one register width.
macro_rules! bytes {
    ($name:ident, $doc:literal, $n:literal, $si:ty,
     [$load:ident, $store:ident, $from_lanes:ident],
     [$max_u8:ident, $max_i8:ident],
     [$low8:ident, $high8:ident, $low16:ident, $high16:ident, $low32:ident, $high32:ident]) => {
        #[doc = $doc]
        #[derive(Clone, Copy)]
        pub(crate) struct $name($si);

        impl Bytes for $name {
            const N: usize = $n;

            #[inline(always)]
            fn load(x: &[u8]) -> Self {
                let x = &x[..$n];
                // SAFETY: the tier's features are enabled (head of this module), and `x` has a register's bytes.
                Self(unsafe { $load(x.as_ptr().cast()) })
            }

            #[inline(always)]
            fn store(self, y: &mut [u8]) {
                let y = &mut y[..$n];
                // SAFETY: as above.
                unsafe { $store(y.as_mut_ptr().cast(), self.0) }
            }

            #[inline(always)]
            fn load_lanes(x: &[u8], stride: usize) -> Self {
                let mut lanes = [[0; 16]; $n / 16];
                for (i, lane) in lanes.iter_mut().enumerate() {
                    lane.copy_from_slice(&x[i * stride..][..16]);
                }
                // SAFETY: the tier's features are enabled.
                Self(unsafe { $from_lanes(&lanes) })
            }

            #[inline(always)]
            fn max<const S: bool>(self, b: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { if S { $max_i8(self.0, b.0) } else { $max_u8(self.0, b.0) } })
            }

            #[inline(always)]
            fn unpack_low<const E: usize>(self, b: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe {
                    match E {
                        1 => $low8(self.0, b.0),
                        2 => $low16(self.0, b.0),
                        _ => $low32(self.0, b.0),
                    }
                })
            }

            #[inline(always)]
            fn unpack_high<const E: usize>(self, b: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe {
                    match E {
                        1 => $high8(self.0, b.0),
                        2 => $high16(self.0, b.0),
                        _ => $high32(self.0, b.0),
                    }
                })
            }
        }
    };
}

bytes!(
    Bytes16,
    "16 bytes, on the AVX2 tier.",
    16,
    __m128i,
    [_mm_loadu_si128, _mm_storeu_si128, from_lanes_sse],
    [_mm_max_epu8, _mm_max_epi8],
    [
        _mm_unpacklo_epi8,
        _mm_unpackhi_epi8,
        _mm_unpacklo_epi16,
        _mm_unpackhi_epi16,
        _mm_unpacklo_epi32,
        _mm_unpackhi_epi32
    ]
);
bytes!(
    Bytes32,
    "32 bytes of AVX2.",
    32,
    __m256i,
    [_mm256_loadu_si256, _mm256_storeu_si256, from_lanes_avx2],
    [_mm256_max_epu8, _mm256_max_epi8],
    [
        _mm256_unpacklo_epi8,
        _mm256_unpackhi_epi8,
        _mm256_unpacklo_epi16,
        _mm256_unpackhi_epi16,
        _mm256_unpacklo_epi32,
        _mm256_unpackhi_epi32
    ]
);
bytes!(
    Bytes64,
    "64 bytes of AVX-512.",
    64,
    __m512i,
    [_mm512_loadu_si512, _mm512_storeu_si512, from_lanes_avx512],
    [_mm512_max_epu8, _mm512_max_epi8],
    [
        _mm512_unpacklo_epi8,
        _mm512_unpackhi_epi8,
        _mm512_unpacklo_epi16,
        _mm512_unpackhi_epi16,
        _mm512_unpacklo_epi32,
        _mm512_unpackhi_epi32
    ]
);

/// The register of some 16-byte lanes.
#[target_feature(enable = "avx2")]
#[inline]
fn from_lanes_sse([a]: &[[u8; 16]; 1]) -> __m128i {
    load16(a)
}

/// As [`from_lanes_sse`].
#[target_feature(enable = "avx2")]
#[inline]
fn from_lanes_avx2([a, b]: &[[u8; 16]; 2]) -> __m256i {
    _mm256_set_m128i(load16(b), load16(a))
}

/// As [`from_lanes_sse`].
#[target_feature(enable = "avx512f")]
#[inline]
fn from_lanes_avx512([a, b, c, d]: &[[u8; 16]; 4]) -> __m512i {
    let x = _mm512_castsi128_si512(load16(a));
    let x = _mm512_inserti32x4::<1>(x, load16(b));
    let x = _mm512_inserti32x4::<2>(x, load16(c));
    _mm512_inserti32x4::<3>(x, load16(d))
}
