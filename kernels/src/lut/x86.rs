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

/// 64 bytes at a time without VBMI: two `vpermi2w` find the words of the even bytes, two those of the odd ones. A
/// word holds the entries of two indices that differ in bit 6, so that the low 6 bits of an index find it.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn map_words(x: &[u8], y: &mut [u8], table: &[u8; 256]) {
    let (t, _) = table.as_chunks::<64>();
    let [low, high] = [words(&t[0], &t[1]), words(&t[2], &t[3])];
    let odd = _mm512_set1_epi16(-256);
    let look = |v: __m512i| {
        let of = |index, bit7| {
            let a = _mm512_permutex2var_epi16(low[0], index, low[1]);
            let b = _mm512_permutex2var_epi16(high[0], index, high[1]);
            _mm512_mask_blend_epi16(bit7, a, b)
        };
        let bit = |n: i32| _mm512_test_epi16_mask(v, _mm512_set1_epi16((1 << n) as i16));
        let (evens, odds) = (of(v, bit(7)), of(_mm512_srli_epi16::<8>(v), bit(15)));
        let evens = _mm512_mask_srli_epi16::<8>(evens, bit(6), evens);
        let odds = _mm512_mask_slli_epi16::<8>(odds, !bit(14), odds);
        _mm512_ternarylogic_epi32::<0xca>(odd, odds, evens)
    };
    let (xs, x_tail) = x.as_chunks::<64>();
    let (ys, y_tail) = y.as_chunks_mut::<64>();
    for (x, y) in xs.iter().zip(ys) {
        let r = look(load64(x));
        // SAFETY: `y` is a reference to 64 writable bytes; the store has no alignment demand.
        unsafe { _mm512_storeu_si512(y.as_mut_ptr().cast(), r) };
    }
    map_scalar(x_tail, y_tail, table);
}

/// `a` in the low bytes of 64 words, `b` in the high ones.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn words(a: &[u8; 64], b: &[u8; 64]) -> [__m512i; 2] {
    let mut words = [[0; 64]; 2];
    let pairs = a.iter().zip(b).flat_map(|(&a, &b)| [a, b]);
    words.as_flattened_mut().iter_mut().zip(pairs).for_each(|(word, byte)| *word = byte);
    [load64(&words[0]), load64(&words[1])]
}

/// 32 bytes at a time: sixteen `pshufb`, one per high nibble. `pshufb` gives 0 where the top bit of its index is set,
/// so with 16 less for each row an index below the row's drops out; entries that are the differences of neighbours
/// then add up (by XOR) to the one wanted. That is for four rows at a time, whose sums are selected by the top two bits.
#[target_feature(enable = "avx2")]
pub(super) fn map_avx2(x: &[u8], y: &mut [u8], table: &[u8; 256]) {
    let rows = differences(table);
    let (xs, x_tail) = x.as_chunks::<32>();
    let (ys, y_tail) = y.as_chunks_mut::<32>();
    for (x, y) in xs.iter().zip(ys) {
        // SAFETY: `x` is a reference to 32 readable bytes; the load has no alignment demand.
        let v = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        let index = _mm256_and_si256(v, _mm256_set1_epi8(0x3f));
        let index = [0, 16, 32, 48].map(|row| _mm256_sub_epi8(index, _mm256_set1_epi8(row)));
        let four = |i: usize| {
            let row = |j: usize| _mm256_shuffle_epi8(rows[4 * i + j], index[j]);
            _mm256_xor_si256(_mm256_xor_si256(row(0), row(1)), _mm256_xor_si256(row(2), row(3)))
        };
        // Selections look at the top bit of a byte; the shift of 16 bits brings bit 6 there.
        let bit6 = _mm256_slli_epi16::<1>(v);
        let low = _mm256_blendv_epi8(four(0), four(1), bit6);
        let high = _mm256_blendv_epi8(four(2), four(3), bit6);
        let r = _mm256_blendv_epi8(low, high, v);
        // SAFETY: `y` is a reference to 32 writable bytes; the store has no alignment demand.
        unsafe { _mm256_storeu_si256(y.as_mut_ptr().cast(), r) };
    }
    map_scalar(x_tail, y_tail, table);
}

/// 16 entries in both halves of a register, each row but every fourth as its difference from the row before.
#[target_feature(enable = "avx2")]
#[inline]
fn differences(table: &[u8; 256]) -> [__m256i; 16] {
    let (rows, _) = table.as_chunks::<16>();
    std::array::from_fn(|i| {
        let before = if i % 4 == 0 { [0; 16] } else { rows[i - 1] };
        let row: [u8; 16] = std::array::from_fn(|j| rows[i][j] ^ before[j]);
        // SAFETY: `row` is 16 readable bytes; the load has no alignment demand.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(row.as_ptr().cast()) })
    })
}
