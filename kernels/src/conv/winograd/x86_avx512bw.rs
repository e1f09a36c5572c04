//! Winograd on AVX-512 without VNNI: `vpmaddwd` of pairs of channels, tile 12×16. Inputs are transformed as on AVX2.

use std::arch::x86_64::*;

use super::kernel::{Winograd, WinogradSet, winograd_set};
use crate::gemm::{x86_avx2::Avx2, x86_avx512bw::Avx512Bw};

impl Winograd for Avx512Bw {
    type Dot = Self;
    type Values = __m256i;
    const LANES: usize = Avx2::LANES;
    const MR: usize = 12;

    #[inline(always)]
    unsafe fn widen<const S8: bool>(bytes: *const u8) -> __m256i {
        // SAFETY: same contract.
        unsafe { Avx2::widen::<S8>(bytes) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: same contract.
        unsafe { <Avx2 as Winograd>::add(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: same contract.
        unsafe { Avx2::sub(a, b) }
    }

    #[inline(always)]
    unsafe fn store(values: __m256i, to: *mut i16) {
        // SAFETY: same contract.
        unsafe { <Avx2 as Winograd>::store(values, to) }
    }

    #[inline(always)]
    unsafe fn weights(b: *const i16) -> __m512i {
        // SAFETY: the caller grants 32 values and the features.
        unsafe { _mm512_loadu_si512(b.cast()) }
    }

    #[inline(always)]
    unsafe fn add_sums(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub_sums(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn quarter(sums: __m512i, bias: __m512i) -> __m512i {
        // SAFETY: the caller grants the features.
        unsafe { _mm512_add_epi32(_mm512_srai_epi32::<2>(sums), bias) }
    }
}

pub(super) static SET: WinogradSet = winograd_set!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    Avx512Bw
);
