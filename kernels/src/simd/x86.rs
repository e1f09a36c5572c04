//! The registers of SSE, AVX2 and AVX-512.
//!
//! Only functions that enable the features of a tier may use its types: everything here is inlined into them, and
//! they are reached through a [`Cpu`](crate::Cpu) that reports the tier. The 16-byte types belong to AVX2.

use std::arch::x86_64::*;

use super::{Bytes, Codes, Quad, Real};

/// An expression of each of the four parts. Closures would have to be inlined to have the caller's features.
macro_rules! parts4 {
    ($parts:ident, |$p:ident| $value:expr) => {{
        let [a, b, c, d] = [&$parts[0], &$parts[1], &$parts[2], &$parts[3]];
        [
            {
                let $p = a;
                $value
            },
            {
                let $p = b;
                $value
            },
            {
                let $p = c;
                $value
            },
            {
                let $p = d;
                $value
            },
        ]
    }};
}

/// Defines the quad of one register width.
macro_rules! quad {
    ($name:ident, $bytes:ident, $doc:literal, $n:literal, $ps:ty, $si:ty,
     [$splat:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $fma:ident, $min:ident, $max:ident],
     [$load_ps:ident, $store_ps:ident, $load_si:ident, $store_si:ident],
     [$to_ps:ident, $to_i32:ident, $pack32:ident, $packs16:ident, $packus16:ident, $adds16:ident],
     [$splat8:ident, $splat16:ident, $max_u8:ident, $min_u8:ident, $max_i8:ident, $min_i8:ident],
     [$zero:ident, $add16:ident],
     [$widen32:ident, $widen16:ident, $split32:ident, $order:ident]) => {
        #[doc = $doc]
        #[derive(Clone, Copy)]
        pub(crate) struct $name([$ps; 4]);

        impl Real for $name {
            #[inline(always)]
            fn splat(v: f32) -> Self {
                // SAFETY: the tier's features are enabled (head of this module).
                Self([unsafe { $splat(v) }; 4])
            }

            #[inline(always)]
            fn add(self, b: Self) -> Self {
                let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, b.0);
                // SAFETY: as above.
                unsafe { Self([$add(a0, b0), $add(a1, b1), $add(a2, b2), $add(a3, b3)]) }
            }

            #[inline(always)]
            fn sub(self, b: Self) -> Self {
                let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, b.0);
                // SAFETY: as above.
                unsafe { Self([$sub(a0, b0), $sub(a1, b1), $sub(a2, b2), $sub(a3, b3)]) }
            }

            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, b.0);
                // SAFETY: as above.
                unsafe { Self([$mul(a0, b0), $mul(a1, b1), $mul(a2, b2), $mul(a3, b3)]) }
            }

            #[inline(always)]
            fn div(self, b: Self) -> Self {
                let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, b.0);
                // SAFETY: as above.
                unsafe { Self([$div(a0, b0), $div(a1, b1), $div(a2, b2), $div(a3, b3)]) }
            }

            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                let ([a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3]) = (self.0, b.0, c.0);
                // SAFETY: as above.
                unsafe {
                    Self([$fma(a0, b0, c0), $fma(a1, b1, c1), $fma(a2, b2, c2), $fma(a3, b3, c3)])
                }
            }

            #[inline(always)]
            fn min(self, b: Self) -> Self {
                // The instruction gives its second operand where one is NaN.
                let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, b.0);
                // SAFETY: as above.
                unsafe { Self([$min(b0, a0), $min(b1, a1), $min(b2, a2), $min(b3, a3)]) }
            }

            #[inline(always)]
            fn max(self, b: Self) -> Self {
                let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (self.0, b.0);
                // SAFETY: as above.
                unsafe { Self([$max(b0, a0), $max(b1, a1), $max(b2, a2), $max(b3, a3)]) }
            }
        }

        impl Quad for $name {
            const N: usize = $n;
            const FUSES: bool = true;
            type Bytes = $bytes;
            type Sums = [$si; 2];

            #[inline(always)]
            fn codes<const S: bool>(x: &[u8]) -> Self {
                let (parts, _) = x[..$n].as_chunks::<{ $n / 4 }>();
                // SAFETY: as above.
                unsafe { Self(parts4!(parts, |p| $to_ps($widen32::<S>(p)))) }
            }

            #[inline(always)]
            fn load(x: &[f32]) -> Self {
                let (parts, _) = x[..$n].as_chunks::<{ $n / 4 }>();
                // SAFETY: as above, and each part has a whole register's elements.
                unsafe { Self(parts4!(parts, |p| $load_ps(p.as_ptr()))) }
            }

            #[inline(always)]
            fn load_i32(x: &[i32]) -> Self {
                let (parts, _) = x[..$n].as_chunks::<{ $n / 4 }>();
                // SAFETY: as above.
                unsafe { Self(parts4!(parts, |p| $to_ps($load_si(p.as_ptr().cast())))) }
            }

            #[inline(always)]
            fn store(self, y: &mut [f32]) {
                let (parts, _) = y[..$n].as_chunks_mut::<{ $n / 4 }>();
                for (part, v) in parts.iter_mut().zip(self.0) {
                    // SAFETY: as above, and each part has a whole register's elements.
                    unsafe { $store_ps(part.as_mut_ptr(), v) };
                }
            }

            #[inline(always)]
            fn store_codes<const S: bool>(self, codes: Codes, y: &mut [u8]) {
                let y = &mut y[..$n];
                let [v0, v1, v2, v3] = self.0;
                // The conversion rounds half to even and gives −2³¹ for what does not fit; every pack saturates.
                // SAFETY: as above, and `y` has a whole register's bytes.
                unsafe {
                    let zero_point = $splat16(codes.zero_point as i16);
                    let low = $adds16($pack32($to_i32(v0), $to_i32(v1)), zero_point);
                    let high = $adds16($pack32($to_i32(v2), $to_i32(v3)), zero_point);
                    let bytes = if S { $packs16(low, high) } else { $packus16(low, high) };
                    let bytes = if codes.whole_type::<S>() {
                        bytes
                    } else {
                        let (min, max) = ($splat8(codes.min as i8), $splat8(codes.max as i8));
                        if S {
                            $min_i8($max_i8(bytes, min), max)
                        } else {
                            $min_u8($max_u8(bytes, min), max)
                        }
                    };
                    $store_si(y.as_mut_ptr().cast(), $order(bytes));
                }
            }

            #[inline(always)]
            fn no_sums() -> Self::Sums {
                // SAFETY: as above.
                [unsafe { $zero() }; 2]
            }

            #[inline(always)]
            fn add_codes<const S: bool>(sums: Self::Sums, x: &[u8]) -> Self::Sums {
                let (halves, _) = x[..$n].as_chunks::<{ $n / 2 }>();
                // SAFETY: as above.
                unsafe {
                    [
                        $add16(sums[0], $widen16::<S>(&halves[0])),
                        $add16(sums[1], $widen16::<S>(&halves[1])),
                    ]
                }
            }

            #[inline(always)]
            fn from_sums([low, high]: Self::Sums) -> Self {
                // SAFETY: as above.
                unsafe {
                    let ([a, b], [c, d]) = ($split32(low), $split32(high));
                    Self([$to_ps(a), $to_ps(b), $to_ps(c), $to_ps(d)])
                }
            }
        }
    };
}

quad!(
    Quad4,
    Bytes16,
    "16 values in SSE registers, on the AVX2 tier.",
    16,
    __m128,
    __m128i,
    [
        _mm_set1_ps,
        _mm_add_ps,
        _mm_sub_ps,
        _mm_mul_ps,
        _mm_div_ps,
        _mm_fmadd_ps,
        _mm_min_ps,
        _mm_max_ps
    ],
    [_mm_loadu_ps, _mm_storeu_ps, _mm_loadu_si128, _mm_storeu_si128],
    [
        _mm_cvtepi32_ps,
        _mm_cvtps_epi32,
        _mm_packs_epi32,
        _mm_packs_epi16,
        _mm_packus_epi16,
        _mm_adds_epi16
    ],
    [_mm_set1_epi8, _mm_set1_epi16, _mm_max_epu8, _mm_min_epu8, _mm_max_epi8, _mm_min_epi8],
    [_mm_setzero_si128, _mm_add_epi16],
    [widen32_sse, widen16_sse, split32_sse, order_sse]
);
quad!(
    Quad8,
    Bytes32,
    "32 values in AVX2 registers.",
    32,
    __m256,
    __m256i,
    [
        _mm256_set1_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_fmadd_ps,
        _mm256_min_ps,
        _mm256_max_ps
    ],
    [_mm256_loadu_ps, _mm256_storeu_ps, _mm256_loadu_si256, _mm256_storeu_si256],
    [
        _mm256_cvtepi32_ps,
        _mm256_cvtps_epi32,
        _mm256_packs_epi32,
        _mm256_packs_epi16,
        _mm256_packus_epi16,
        _mm256_adds_epi16
    ],
    [
        _mm256_set1_epi8,
        _mm256_set1_epi16,
        _mm256_max_epu8,
        _mm256_min_epu8,
        _mm256_max_epi8,
        _mm256_min_epi8
    ],
    [_mm256_setzero_si256, _mm256_add_epi16],
    [widen32_avx2, widen16_avx2, split32_avx2, order_avx2]
);
quad!(
    Quad16,
    Bytes64,
    "64 values in AVX-512 registers.",
    64,
    __m512,
    __m512i,
    [
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_fmadd_ps,
        _mm512_min_ps,
        _mm512_max_ps
    ],
    [_mm512_loadu_ps, _mm512_storeu_ps, _mm512_loadu_si512, _mm512_storeu_si512],
    [
        _mm512_cvtepi32_ps,
        _mm512_cvtps_epi32,
        _mm512_packs_epi32,
        _mm512_packs_epi16,
        _mm512_packus_epi16,
        _mm512_adds_epi16
    ],
    [
        _mm512_set1_epi8,
        _mm512_set1_epi16,
        _mm512_max_epu8,
        _mm512_min_epu8,
        _mm512_max_epi8,
        _mm512_min_epi8
    ],
    [_mm512_setzero_si512, _mm512_add_epi16],
    [widen32_avx512, widen16_avx512, split32_avx512, order_avx512]
);

/// Codes to s32.
#[target_feature(enable = "avx2")]
#[inline]
fn widen32_sse<const S: bool>(x: &[u8; 4]) -> __m128i {
    let x = _mm_cvtsi32_si128(i32::from_le_bytes(*x));
    if S { _mm_cvtepi8_epi32(x) } else { _mm_cvtepu8_epi32(x) }
}

/// Codes to s16.
#[target_feature(enable = "avx2")]
#[inline]
fn widen16_sse<const S: bool>(x: &[u8; 8]) -> __m128i {
    let x = load8(x);
    if S { _mm_cvtepi8_epi16(x) } else { _mm_cvtepu8_epi16(x) }
}

/// s16 to s32.
#[target_feature(enable = "avx2")]
#[inline]
fn split32_sse(x: __m128i) -> [__m128i; 2] {
    [_mm_cvtepi16_epi32(x), _mm_cvtepi16_epi32(_mm_unpackhi_epi64(x, x))]
}

/// Bytes packed in one 16-byte lane are in order.
#[target_feature(enable = "avx2")]
#[inline]
fn order_sse(x: __m128i) -> __m128i {
    x
}

/// As [`widen32_sse`].
#[target_feature(enable = "avx2")]
#[inline]
fn widen32_avx2<const S: bool>(x: &[u8; 8]) -> __m256i {
    let x = load8(x);
    if S { _mm256_cvtepi8_epi32(x) } else { _mm256_cvtepu8_epi32(x) }
}

/// As [`widen16_sse`].
#[target_feature(enable = "avx2")]
#[inline]
fn widen16_avx2<const S: bool>(x: &[u8; 16]) -> __m256i {
    let x = load16(x);
    if S { _mm256_cvtepi8_epi16(x) } else { _mm256_cvtepu8_epi16(x) }
}

/// As [`split32_sse`].
#[target_feature(enable = "avx2")]
#[inline]
fn split32_avx2(x: __m256i) -> [__m256i; 2] {
    let high = _mm256_extracti128_si256::<1>(x);
    [_mm256_cvtepi16_epi32(_mm256_castsi256_si128(x)), _mm256_cvtepi16_epi32(high)]
}

/// Puts bytes in order that were packed from four registers within 16-byte lanes.
#[target_feature(enable = "avx2")]
#[inline]
fn order_avx2(x: __m256i) -> __m256i {
    _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// As [`widen32_sse`].
#[target_feature(enable = "avx512f")]
#[inline]
fn widen32_avx512<const S: bool>(x: &[u8; 16]) -> __m512i {
    let x = load16(x);
    if S { _mm512_cvtepi8_epi32(x) } else { _mm512_cvtepu8_epi32(x) }
}

/// As [`widen16_sse`].
#[target_feature(enable = "avx512bw")]
#[inline]
fn widen16_avx512<const S: bool>(x: &[u8; 32]) -> __m512i {
    // SAFETY: `x` is a reference to 32 readable bytes; the load has no alignment demand.
    let x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
    if S { _mm512_cvtepi8_epi16(x) } else { _mm512_cvtepu8_epi16(x) }
}

/// As [`split32_sse`].
#[target_feature(enable = "avx512f")]
#[inline]
fn split32_avx512(x: __m512i) -> [__m512i; 2] {
    let high = _mm512_extracti64x4_epi64::<1>(x);
    [_mm512_cvtepi16_epi32(_mm512_castsi512_si256(x)), _mm512_cvtepi16_epi32(high)]
}

/// As [`order_avx2`].
#[target_feature(enable = "avx512f")]
#[inline]
fn order_avx512(x: __m512i) -> __m512i {
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(order, x)
}

/// The bytes, and zeros above.
#[target_feature(enable = "sse2")]
#[inline]
fn load8(x: &[u8; 8]) -> __m128i {
    // SAFETY: `x` is a reference to 8 readable bytes; the load has no alignment demand.
    unsafe { _mm_loadl_epi64(x.as_ptr().cast()) }
}

#[target_feature(enable = "sse2")]
#[inline]
fn load16(x: &[u8; 16]) -> __m128i {
    // SAFETY: `x` is a reference to 16 readable bytes; the load has no alignment demand.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

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
