//! GEMM micro-kernel, AVX-VNNI: the 256-bit VEX form of `vpdpbusd`, tile 6×16, KR = 4.
//!
//! Operands, packing and arithmetic are those of AVX-512 VNNI; a panel takes two registers.

use std::arch::x86_64::*;

use super::kernel::{Dot, Spill, kernel_set, stage_bytes};
use crate::epilogue::{
    NR, Quant, Refill, Sign, Stored, TileOut,
    x86_avx2::{Ymms, requantize_tile},
    x86_fused::{HalfEven, scaled},
    x86_rows::finish_rows,
};

pub(crate) struct AvxVnni;

impl Dot for AvxVnni {
    const KR: usize = 4;
    const IN_PLACE: Option<Sign> = Some(Sign::U8);
    const WHOLE_ROWS: bool = true;
    const RING_K: usize = 128;
    type A = u8;
    type Splat = __m256i;
    type B = [__m256i; 2];
    type Acc = [__m256i; 2];

    #[inline(always)]
    unsafe fn load_b(b: *const i8) -> Self::B {
        // SAFETY: the caller grants 64 bytes and the features.
        unsafe { [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn splat(a: *const u8) -> Self::Splat {
        // SAFETY: the caller grants 4 bytes and the features.
        unsafe { _mm256_set1_epi32(a.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc {
        // SAFETY: the caller grants the features.
        unsafe {
            [_mm256_dpbusd_avx_epi32(acc[0], a, b[0]), _mm256_dpbusd_avx_epi32(acc[1], a, b[1])]
        }
    }

    #[inline(always)]
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut u8) {
        let mask = if sign == Sign::S8 { 0x80 } else { 0 };
        // SAFETY: `len` readable bytes, and as many writable ones, rounded up to KR; the caller grants the features.
        unsafe {
            if len < 32 {
                return stage_bytes(src, len, mask, dst, Self::KR);
            }
            let flip = _mm256_set1_epi8(mask as i8);
            for at in (0..len).step_by(32) {
                // The last vector ends with the row.
                let at = at.min(len - 32);
                let bytes = _mm256_loadu_si256(src.add(at).cast());
                _mm256_storeu_si256(dst.add(at).cast(), _mm256_xor_si256(bytes, flip));
            }
            for at in len..len.next_multiple_of(Self::KR) {
                dst.add(at).write(0);
            }
        }
    }

    super::x86_ymms::accumulators!(6);
}

kernel_set!(
    staged #[target_feature(enable = "avxvnni,avx2,fma")] AvxVnni, AvxVnni,
    [6 x 1, 4 x 1, 2 x 1 x 2, 1 x 1 x 4]
);
