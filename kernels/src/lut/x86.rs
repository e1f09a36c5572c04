//! x86 lookups in a 256-entry table.

use std::arch::x86_64::*;

use super::map_scalar;

/// 64 bytes at a time: two `vpermi2b` over 128 entries each, blended by the top index bit.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn map_vbmi(x: &[u8], y: &mut [u8], table: &[u8; 256]) {
    let (t, _) = table.as_chunks::<64>();
    let [t0, t1, t2, t3] = [load64(&t[0]), load64(&t[1]), load64(&t[2]), load64(&t[3])];
    let look = |v: __m512i| {
        let low = _mm512_permutex2var_epi8(t0, v, t1);
        let high = _mm512_permutex2var_epi8(t2, v, t3);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(v), low, high)
    };
    let (xs, x_tail) = x.as_chunks::<64>();
    let (ys, y_tail) = y.as_chunks_mut::<64>();
    for (x, y) in xs.iter().zip(ys) {
        let r = look(load64(x));
        // SAFETY: `y` is a reference to 64 writable bytes; the store has no alignment demand.
        unsafe { _mm512_storeu_si512(y.as_mut_ptr().cast(), r) };
    }
    if !x_tail.is_empty() {
        let mask = (1u64 << x_tail.len()) - 1;
        // SAFETY: the mask selects exactly the bytes of `x_tail`, and masked-off bytes are not touched.
        let v = unsafe { _mm512_maskz_loadu_epi8(mask, x_tail.as_ptr().cast()) };
        // SAFETY: as above; `y_tail` is as long as `x_tail`, because the slices are.
        unsafe { _mm512_mask_storeu_epi8(y_tail.as_mut_ptr().cast(), mask, look(v)) };
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load64(p: &[u8; 64]) -> __m512i {
    // SAFETY: `p` is a reference to 64 readable bytes; the load has no alignment demand.
    unsafe { _mm512_loadu_si512(p.as_ptr().cast()) }
}

/// 32 bytes at a time: sixteen `pshufb`, one per high nibble, and a tree of selections by the bits of the high
/// nibble. The first level costs an "or": `pshufb` gives 0 where the top bit of its index is set, so that bit is
/// made from bit 4, one way for even rows and the other for odd ones.
#[target_feature(enable = "avx2")]
pub(super) fn map_avx2(x: &[u8], y: &mut [u8], table: &[u8; 256]) {
    let (rows, _) = table.as_chunks::<16>();
    let (xs, x_tail) = x.as_chunks::<32>();
    let (ys, y_tail) = y.as_chunks_mut::<32>();
    let top = _mm256_set1_epi8(-128);
    for (x, y) in xs.iter().zip(ys) {
        // SAFETY: `x` is a reference to 32 readable bytes; the load has no alignment demand.
        let v = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        // Shifts of 16 bits bring the wanted bit of every byte to its top; selections look at nothing else.
        let bit4 = _mm256_and_si256(_mm256_slli_epi16::<3>(v), top);
        let even = _mm256_or_si256(_mm256_andnot_si256(top, v), bit4);
        let odd = _mm256_xor_si256(even, top);
        let [bit5, bit6] = [_mm256_slli_epi16::<2>(v), _mm256_slli_epi16::<1>(v)];
        let index = [even, odd, bit5, bit6];
        let r = _mm256_blendv_epi8(eight(rows, 0, index), eight(rows, 8, index), v);
        // SAFETY: `y` is a reference to 32 writable bytes; the store has no alignment demand.
        unsafe { _mm256_storeu_si256(y.as_mut_ptr().cast(), r) };
    }
    map_scalar(x_tail, y_tail, table);
}

/// What rows `i` to `i + 7` give for those bytes whose bit 7 selects this half of the table.
#[target_feature(enable = "avx2")]
#[inline]
fn eight(rows: &[[u8; 16]], i: usize, index: [__m256i; 4]) -> __m256i {
    _mm256_blendv_epi8(four(rows, i, index), four(rows, i + 4, index), index[3])
}

#[target_feature(enable = "avx2")]
#[inline]
fn four(rows: &[[u8; 16]], i: usize, index: [__m256i; 4]) -> __m256i {
    _mm256_blendv_epi8(pair(rows, i, index), pair(rows, i + 2, index), index[2])
}

#[target_feature(enable = "avx2")]
#[inline]
fn pair(rows: &[[u8; 16]], i: usize, [even, odd, ..]: [__m256i; 4]) -> __m256i {
    let low = _mm256_shuffle_epi8(row(&rows[i]), even);
    _mm256_or_si256(low, _mm256_shuffle_epi8(row(&rows[i + 1]), odd))
}

/// 16 entries of the table in both halves of a register.
#[target_feature(enable = "avx2")]
#[inline]
fn row(row: &[u8; 16]) -> __m256i {
    // SAFETY: `row` is a reference to 16 readable bytes; the load has no alignment demand.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(row.as_ptr().cast()) })
}
