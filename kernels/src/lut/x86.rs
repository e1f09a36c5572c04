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

/// 32 bytes at a time: sixteen `pshufb`, one per high nibble. The index of row `r` is `x ^ (r << 4)`,
/// saturated upwards so that `pshufb` gives 0 unless the high nibble is `r`; the rows are or-ed together.
#[target_feature(enable = "avx2")]
pub(super) fn map_avx2(x: &[u8], y: &mut [u8], table: &[u8; 256]) {
    let (rows, _) = table.as_chunks::<16>();
    let (xs, x_tail) = x.as_chunks::<32>();
    let (ys, y_tail) = y.as_chunks_mut::<32>();
    let lift = _mm256_set1_epi8(0x70);
    for (x, y) in xs.iter().zip(ys) {
        // SAFETY: `x` is a reference to 32 readable bytes; the load has no alignment demand.
        let v = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        let mut acc = _mm256_setzero_si256();
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: `row` is a reference to 16 readable bytes; the load has no alignment demand.
            let row = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(row.as_ptr().cast()) });
            let index =
                _mm256_adds_epu8(_mm256_xor_si256(v, _mm256_set1_epi8((r << 4) as i8)), lift);
            acc = _mm256_or_si256(acc, _mm256_shuffle_epi8(row, index));
        }
        // SAFETY: `y` is a reference to 32 writable bytes; the store has no alignment demand.
        unsafe { _mm256_storeu_si256(y.as_mut_ptr().cast(), acc) };
    }
    map_scalar(x_tail, y_tail, table);
}
