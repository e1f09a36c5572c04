//! Registers of bytes of SSE, AVX2 and AVX-512; who may use them is said in [`super::x86`].

use std::arch::x86_64::*;

use super::Bytes;

/// Defines the bytes of one register width.
macro_rules! bytes {
    ($name:ident, $doc:literal, $n:literal, $si:ty,
     [$load:ident, $store:ident, $load_lanes:ident, $store_lanes:ident],
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
            unsafe fn load_lanes<const B: usize>(x: *const u8, stride: usize) -> Self {
                // SAFETY: the tier's features are enabled; the rest is the caller's promise.
                Self(unsafe { $load_lanes::<B>(x, stride) })
            }

            #[inline(always)]
            unsafe fn store_lanes<const B: usize>(self, y: *mut u8, stride: usize) {
                // SAFETY: as above.
                unsafe { $store_lanes::<B>(self.0, y, stride) }
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
    [_mm_loadu_si128, _mm_storeu_si128, load_lanes_sse, store_lanes_sse],
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
    [_mm256_loadu_si256, _mm256_storeu_si256, load_lanes_avx2, store_lanes_avx2],
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
    [_mm512_loadu_si512, _mm512_storeu_si512, load_lanes_avx512, store_lanes_avx512],
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

/// [`Bytes::load_lanes`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_lanes_sse<const B: usize>(x: *const u8, _stride: usize) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_loadu_si128(x.cast()) }
}

/// As [`load_lanes_sse`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load_lanes_avx2<const B: usize>(x: *const u8, stride: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        match B {
            1 => _mm256_loadu_si256(x.cast()),
            _ => _mm256_loadu2_m128i(x.add(stride).cast(), x.cast()),
        }
    }
}

/// As [`load_lanes_sse`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_lanes_avx512<const B: usize>(x: *const u8, stride: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        if B == 1 {
            return _mm512_loadu_si512(x.cast());
        }
        let lane = |i: usize| _mm_loadu_si128(x.add(i / B * 16 + i % B * stride).cast());
        let x = _mm512_castsi128_si512(lane(0));
        let x = _mm512_inserti32x4::<1>(x, lane(1));
        let x = _mm512_inserti32x4::<2>(x, lane(2));
        _mm512_inserti32x4::<3>(x, lane(3))
    }
}

/// [`Bytes::store_lanes`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store_lanes_sse<const B: usize>(v: __m128i, y: *mut u8, _stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { _mm_storeu_si128(y.cast(), v) }
}

/// As [`store_lanes_sse`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store_lanes_avx2<const B: usize>(v: __m256i, y: *mut u8, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match B {
            1 => _mm256_storeu2_m128i(y.add(stride).cast(), y.cast(), v),
            _ => _mm256_storeu_si256(y.cast(), v),
        }
    }
}

/// As [`store_lanes_sse`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store_lanes_avx512<const B: usize>(v: __m512i, y: *mut u8, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match B {
            1 => {
                _mm_storeu_si128(y.cast(), _mm512_castsi512_si128(v));
                _mm_storeu_si128(y.add(stride).cast(), _mm512_extracti32x4_epi32::<1>(v));
                _mm_storeu_si128(y.add(2 * stride).cast(), _mm512_extracti32x4_epi32::<2>(v));
                _mm_storeu_si128(y.add(3 * stride).cast(), _mm512_extracti32x4_epi32::<3>(v));
            }
            2 => {
                _mm256_storeu_si256(y.cast(), _mm512_castsi512_si256(v));
                _mm256_storeu_si256(y.add(stride).cast(), _mm512_extracti64x4_epi64::<1>(v));
            }
            _ => _mm512_storeu_si512(y.cast(), v),
        }
    }
}
