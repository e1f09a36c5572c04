//! Kernels of [`Affine`].

use std::arch::x86_64::*;

use super::affine::Affine;
use crate::broadcast::Row;
use crate::cpu::{Cpu, Isa};
use crate::simd::blocks;

/// Runs the widest kernel of `cpu` that the row fills; false if there is none. `S`: codes are s8.
pub(super) fn run<const S: bool>(
    cpu: Cpu,
    affine: &Affine,
    row: Row<'_, u8, u8>,
    y: &mut [u8],
) -> bool {
    match (cpu.isa(), y.len()) {
        (_, ..32) | (Isa::Scalar, _) => return false,
        // SAFETY: these ISAs are reported where AVX-512 F, BW and VNNI were detected.
        (Isa::Avx512Vnni | Isa::Amx, 64..) => unsafe { avx512vnni::<S>(affine, row, y) },
        // SAFETY: as above, without VNNI.
        (Isa::Avx512Bw, 64..) => unsafe { avx512bw::<S>(affine, row, y) },
        // SAFETY: all others have AVX2.
        _ => unsafe { avx2::<S>(affine, row, y) },
    }
    true
}

/// Defines a kernel. `expand` makes two registers of words [a, b] of one of bytes [a, b], whose sums `upper` joins: the
/// upper words, in the order of the bytes.
macro_rules! kernel {
    ($name:ident, $features:literal, $n:literal, $si:ty, [$load:ident, $store:ident, $splat8:ident, $splat16:ident, $splat32:ident],
     [$xor:ident, $low8:ident, $high8:ident, $maddubs:ident, $add16:ident, $mulhi16:ident, $packus16:ident, $min8:ident, $max8:ident],
     [$expand:ident, $dot:ident, $upper:ident]) => {
        #[target_feature(enable = $features)]
        fn $name<const S: bool>(affine: &Affine, row: Row<'_, u8, u8>, y: &mut [u8]) {
            let pair16 = |[a, b]: [i16; 2]| $splat32(i32::from(a as u16) | i32::from(b) << 16);
            let [high_a, high_b] = affine.high.map(|m| i16::from(m as u8));
            let (high, low) = ($splat16(high_a | high_b << 8), pair16(affine.low));
            let (offset, to_code) = ($splat32(affine.offset), $splat16(affine.to_code));
            let (min, max) = ($splat8(affine.bounds.0 as i8), $splat8(affine.bounds.1 as i8));
            let all_codes = affine.bounds == (0, 255);
            // Codes counted from the least.
            let flip = $splat8(if S { -128 } else { 0 });
            let counted = |v: $si| if S { $xor(v, flip) } else { v };
            let load = |x: &[u8]| {
                let x = &x[..$n];
                // SAFETY: `x` has a whole register's bytes.
                counted(unsafe { $load(x.as_ptr().cast()) })
            };
            let words = |codes: $si| {
                let [x0, x1] = $expand(codes);
                let rest = $upper($dot(offset, x0, low), $dot(offset, x1, low));
                $mulhi16($add16($maddubs(codes, high), rest), to_code)
            };
            let sum = |a: $si, b: $si| $packus16(words($low8(a, b)), words($high8(a, b)));
            let store = |v: $si, y: &mut [u8]| {
                let v = if all_codes { v } else { $min8($max8(v, min), max) };
                let y = &mut y[..$n];
                // SAFETY: `y` has a whole register's bytes.
                unsafe { $store(y.as_mut_ptr().cast(), counted(v)) };
            };
            match row {
                Row::Both(a, b) => {
                    for at in blocks(y.len(), $n) {
                        store(sum(load(&a[at..]), load(&b[at..])), &mut y[at..]);
                    }
                }
                Row::ScalarA(a, b) => {
                    let a = counted($splat8(a as i8));
                    for at in blocks(y.len(), $n) {
                        store(sum(a, load(&b[at..])), &mut y[at..]);
                    }
                }
                Row::ScalarB(a, b) => {
                    let b = counted($splat8(b as i8));
                    for at in blocks(y.len(), $n) {
                        store(sum(load(&a[at..]), b), &mut y[at..]);
                    }
                }
            }
        }
    };
}

/// The kernel of one of the AVX-512 tiers.
macro_rules! kernel512 {
    ($name:ident, $features:literal, $dot:ident) => {
        kernel!(
            $name,
            $features,
            64,
            __m512i,
            [
                _mm512_loadu_si512,
                _mm512_storeu_si512,
                _mm512_set1_epi8,
                _mm512_set1_epi16,
                _mm512_set1_epi32
            ],
            [
                _mm512_xor_si512,
                _mm512_unpacklo_epi8,
                _mm512_unpackhi_epi8,
                _mm512_maddubs_epi16,
                _mm512_add_epi16,
                _mm512_mulhi_epi16,
                _mm512_packus_epi16,
                _mm512_min_epu8,
                _mm512_max_epu8
            ],
            [expand_avx512, $dot, upper_avx512]
        );
    };
}

kernel512!(avx512vnni, "avx512f,avx512bw,avx512vnni", _mm512_dpwssd_epi32);
kernel512!(avx512bw, "avx512f,avx512bw", dot_avx512bw);
kernel!(
    avx2,
    "avx2",
    32,
    __m256i,
    [
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_set1_epi8,
        _mm256_set1_epi16,
        _mm256_set1_epi32
    ],
    [
        _mm256_xor_si256,
        _mm256_unpacklo_epi8,
        _mm256_unpackhi_epi8,
        _mm256_maddubs_epi16,
        _mm256_add_epi16,
        _mm256_mulhi_epi16,
        _mm256_packus_epi16,
        _mm256_min_epu8,
        _mm256_max_epu8
    ],
    [expand_avx2, dot_avx2, upper_avx2]
);

/// The first four pairs of each 16 bytes, and the others.
#[target_feature(enable = "avx512bw")]
#[inline]
fn expand_avx512(codes: __m512i) -> [__m512i; 2] {
    let zero = _mm512_setzero_si512();
    [_mm512_unpacklo_epi8(codes, zero), _mm512_unpackhi_epi8(codes, zero)]
}

#[target_feature(enable = "avx512bw")]
#[inline]
fn upper_avx512(x0: __m512i, x1: __m512i) -> __m512i {
    // In each 16 bytes the upper words of four sums of either register; the second one's words count from 32 on.
    let from = |lane: i64| {
        let first = 8 * lane + 1;
        let four = first | (first + 2) << 16 | (first + 4) << 32 | (first + 6) << 48;
        [four, four + 0x0020_0020_0020_0020]
    };
    let [[a, b], [c, d], [e, f], [g, h]] = [from(0), from(1), from(2), from(3)];
    _mm512_permutex2var_epi16(x0, _mm512_setr_epi64(a, b, c, d, e, f, g, h), x1)
}

#[target_feature(enable = "avx512bw")]
#[inline]
fn dot_avx512bw(sum: __m512i, x: __m512i, m: __m512i) -> __m512i {
    _mm512_add_epi32(sum, _mm512_madd_epi16(x, m))
}

/// The even pairs and the odd ones.
#[target_feature(enable = "avx2")]
#[inline]
fn expand_avx2(codes: __m256i) -> [__m256i; 2] {
    let even = _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    let odd = _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
    [
        _mm256_shuffle_epi8(codes, _mm256_broadcastsi128_si256(even)),
        _mm256_shuffle_epi8(codes, _mm256_broadcastsi128_si256(odd)),
    ]
}

#[target_feature(enable = "avx2")]
#[inline]
fn upper_avx2(even: __m256i, odd: __m256i) -> __m256i {
    _mm256_blend_epi16::<0b1010_1010>(_mm256_srli_epi32::<16>(even), odd)
}

#[target_feature(enable = "avx2")]
#[inline]
fn dot_avx2(sum: __m256i, x: __m256i, m: __m256i) -> __m256i {
    _mm256_add_epi32(sum, _mm256_madd_epi16(x, m))
}
