//! Sums of rows of A, which zero points of weights are multiplied with.

use super::kernel::Rows;
use crate::epilogue::Sign;

/// [`super::kernel::KernelSet::row_sums`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn row_sums(rows: &Rows, sums: *mut i32) {
    for r in 0..rows.count {
        // SAFETY: row `r` of those granted, `k` bytes, and its place in `sums`.
        unsafe {
            let row = std::slice::from_raw_parts(rows.a.add(r * rows.lda), rows.k);
            sums.add(r).write(match rows.sign {
                Sign::U8 => sum::<0>(row),
                Sign::S8 => sum::<0x80>(row) - 128 * rows.k as i32,
            });
        }
    }
}

/// The sum of bytes XOR `FLIP`.
#[inline(always)]
fn sum<const FLIP: u8>(bytes: &[u8]) -> i32 {
    let one_by_one = |bytes: &[u8]| bytes.iter().map(|b| i32::from(b ^ FLIP)).sum::<i32>();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // Of short rows, LLVM would add up too many one by one.
        let (blocks, rest) = bytes.as_chunks::<16>();
        // SAFETY: SSE2 is part of the target; each load is of a whole block.
        let whole = unsafe {
            let (flip, zero) = (_mm_set1_epi8(FLIP as i8), _mm_setzero_si128());
            let mut sums = zero;
            for block in blocks {
                let block = _mm_xor_si128(_mm_loadu_si128(block.as_ptr().cast()), flip);
                sums = _mm_add_epi64(sums, _mm_sad_epu8(block, zero));
            }
            _mm_cvtsi128_si32(_mm_add_epi64(sums, _mm_unpackhi_epi64(sums, sums)))
        };
        whole + one_by_one(rest)
    }
    #[cfg(not(target_arch = "x86_64"))]
    one_by_one(bytes)
}
