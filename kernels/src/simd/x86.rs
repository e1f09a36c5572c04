//! The registers of SSE, AVX2 and AVX-512.
//!
//! Only functions that enable the features of a tier may use its types: everything here is inlined into them, and
//! they are reached through a [`Cpu`](crate::Cpu) that reports the tier. The 16-byte types belong to AVX2.

use std::arch::x86_64::*;

use super::x86_bytes::{Bytes16, Bytes32, Bytes64};
use super::{Codes, Quad, Real, fold_lanes};

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
     [$zero:ident, $add16:ident, $xor:ident],
     [$spread:ident, $shuffle8:ident, $low8:ident, $high8:ident, $low16:ident, $high16:ident,
      $sub16:ident, $mul16:ident, $mulhi16:ident],
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

        impl $name {
            /// The first `N` bytes, of the other signedness if `F`.
            #[inline(always)]
            fn bytes<const F: bool>(x: &[u8]) -> $si {
                let x = &x[..$n];
                // SAFETY: as above, and `x` has a whole register's bytes.
                unsafe {
                    let x = $load_si(x.as_ptr().cast());
                    if F { $xor(x, $splat8(-128)) } else { x }
                }
            }

            /// The values of a register.
            #[inline(always)]
            fn lanes(v: $ps) -> [f32; $n / 4] {
                let mut lanes = [0.0; $n / 4];
                // SAFETY: as above, and `lanes` has a whole register's elements.
                unsafe { $store_ps(lanes.as_mut_ptr(), v) };
                lanes
            }

            /// The codes, packed within lanes of 16 bytes.
            #[inline(always)]
            fn packed<const S: bool>(self, codes: Codes) -> $si {
                let [v0, v1, v2, v3] = self.0;
                // The conversion rounds half to even and gives −2³¹ for what does not fit; every pack saturates.
                // SAFETY: as above.
                unsafe {
                    let zero_point = $splat16(codes.zero_point as i16);
                    let low = $adds16($pack32($to_i32(v0), $to_i32(v1)), zero_point);
                    let high = $adds16($pack32($to_i32(v2), $to_i32(v3)), zero_point);
                    let bytes = if S { $packs16(low, high) } else { $packus16(low, high) };
                    if codes.whole_type::<S>() {
                        bytes
                    } else {
                        let (min, max) = ($splat8(codes.min as i8), $splat8(codes.max as i8));
                        if S {
                            $min_i8($max_i8(bytes, min), max)
                        } else {
                            $min_u8($max_u8(bytes, min), max)
                        }
                    }
                }
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
            fn load_rows(x: &[f32], stride: usize) -> Self {
                let x = &x[..stride.saturating_mul($n / 16 - 1).saturating_add(16)];
                let rows = [0, 1, 2, 3].map(|i| $n / 4 * i).map(|i| i / 16 * stride + i % 16);
                // SAFETY: as above, and the last row has 16 values, as those before it have.
                unsafe { Self(parts4!(rows, |at| $load_ps(x.as_ptr().add(*at)))) }
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
                // SAFETY: as above, and `y` has a whole register's bytes.
                unsafe { $store_si(y.as_mut_ptr().cast(), $order(self.packed::<S>(codes))) };
            }

            #[inline(always)]
            fn lane_codes<const S: bool, const F: bool>(x: &[u8]) -> Self {
                let byte = if S { 3 } else { 0 };
                // SAFETY: as above.
                unsafe {
                    let x = Self::bytes::<F>(x);
                    let rows = [0, 1, 2, 3];
                    Self(parts4!(rows, |i| $to_ps($shuffle8(x, $spread(spread(*i, byte))))))
                }
            }

            #[inline(always)]
            fn lane_unit<const S: bool>() -> f32 {
                if S { 16_777_216.0 } else { 1.0 }
            }

            #[inline(always)]
            fn lane_products<const S: bool, const F: bool>(
                a: &[u8],
                b: &[u8],
                z: [i32; 2],
            ) -> Self {
                // Codes of either type are as far from their zero point as u8 codes, 128 more, from theirs.
                let shift = if S { 128 } else { 0 };
                // SAFETY: as above.
                unsafe {
                    let (a, b) = if S != F {
                        (Self::bytes::<true>(a), Self::bytes::<true>(b))
                    } else {
                        (Self::bytes::<false>(a), Self::bytes::<false>(b))
                    };
                    let (zero, za) = ($zero(), $splat16((z[0] + shift) as i16));
                    let zb = $splat16((z[1] + shift) as i16);
                    let (a0, a1) = ($sub16($low8(a, zero), za), $sub16($high8(a, zero), za));
                    let (b0, b1) = ($sub16($low8(b, zero), zb), $sub16($high8(b, zero), zb));
                    let (p0, q0) = ($mul16(a0, b0), $mulhi16(a0, b0));
                    let (p1, q1) = ($mul16(a1, b1), $mulhi16(a1, b1));
                    Self([
                        $to_ps($low16(p0, q0)),
                        $to_ps($high16(p0, q0)),
                        $to_ps($low16(p1, q1)),
                        $to_ps($high16(p1, q1)),
                    ])
                }
            }

            #[inline(always)]
            fn store_lanes<const S: bool, const F: bool>(self, codes: Codes, y: &mut [u8]) {
                let y = &mut y[..$n];
                // SAFETY: as above, and `y` has a whole register's bytes.
                unsafe {
                    let bytes = self.packed::<S>(codes);
                    let bytes = if F { $xor(bytes, $splat8(-128)) } else { bytes };
                    $store_si(y.as_mut_ptr().cast(), bytes);
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

            #[inline(always)]
            fn least(self) -> f32 {
                let [a, b, c, d] = self.0;
                // SAFETY: as above.
                let least = unsafe { $min($min(a, b), $min(c, d)) };
                fold_lanes(Self::lanes(least), Real::min)
            }

            #[inline(always)]
            fn greatest(self) -> f32 {
                let [a, b, c, d] = self.0;
                // SAFETY: as above.
                let greatest = unsafe { $max($max(a, b), $max(c, d)) };
                fold_lanes(Self::lanes(greatest), Real::max)
            }

            #[inline(always)]
            fn total(self) -> f32 {
                let [a, b, c, d] = self.0;
                // SAFETY: as above.
                let total = unsafe { $add($add(a, b), $add(c, d)) };
                fold_lanes(Self::lanes(total), Real::add)
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
    [_mm_setzero_si128, _mm_add_epi16, _mm_xor_si128],
    [
        spread_sse,
        _mm_shuffle_epi8,
        _mm_unpacklo_epi8,
        _mm_unpackhi_epi8,
        _mm_unpacklo_epi16,
        _mm_unpackhi_epi16,
        _mm_sub_epi16,
        _mm_mullo_epi16,
        _mm_mulhi_epi16
    ],
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
    [_mm256_setzero_si256, _mm256_add_epi16, _mm256_xor_si256],
    [
        _mm256_broadcastsi128_si256,
        _mm256_shuffle_epi8,
        _mm256_unpacklo_epi8,
        _mm256_unpackhi_epi8,
        _mm256_unpacklo_epi16,
        _mm256_unpackhi_epi16,
        _mm256_sub_epi16,
        _mm256_mullo_epi16,
        _mm256_mulhi_epi16
    ],
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
    [_mm512_setzero_si512, _mm512_add_epi16, _mm512_xor_si512],
    [
        _mm512_broadcast_i32x4,
        _mm512_shuffle_epi8,
        _mm512_unpacklo_epi8,
        _mm512_unpackhi_epi8,
        _mm512_unpacklo_epi16,
        _mm512_unpackhi_epi16,
        _mm512_sub_epi16,
        _mm512_mullo_epi16,
        _mm512_mulhi_epi16
    ],
    [widen32_avx512, widen16_avx512, split32_avx512, order_avx512]
);

/// The control of a byte shuffle that puts bytes `4i` to `4i + 3` of 16 into `byte` of four s32, and zeros beside.
#[target_feature(enable = "sse2")]
#[inline]
fn spread(i: i32, byte: i32) -> __m128i {
    let other = -1 ^ (0xff << (8 * byte));
    let [a, b, c, d] = [0, 1, 2, 3].map(|j| other | ((4 * i + j) << (8 * byte)));
    _mm_setr_epi32(a, b, c, d)
}

/// A register of one lane of 16 bytes.
#[target_feature(enable = "sse2")]
#[inline]
fn spread_sse(lane: __m128i) -> __m128i {
    lane
}

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
