//! What the AVX-512 tiers do alike with a register of 16 accumulators.

use std::arch::{asm, x86_64::__m512i};

/// The methods of [`super::kernel::Dot`] that do not depend on how products are formed. Names are those that the tiers'
/// files import.
macro_rules! accumulators {
    () => {
        #[inline(always)]
        unsafe fn start(bias: *const i32) -> Self::Acc {
            // SAFETY: the caller grants 16 values and the features.
            unsafe { _mm512_loadu_si512(bias.cast()) }
        }

        #[inline(always)]
        unsafe fn store(acc: Self::Acc, out: *mut i32) {
            // SAFETY: the caller grants room for 16 values and the features.
            unsafe { _mm512_storeu_si512(out.cast(), acc) }
        }

        #[inline(always)]
        unsafe fn pin(acc: Self::Acc) -> Self::Acc {
            // SAFETY: the caller grants the feature.
            unsafe { $crate::gemm::x86_zmm::pin(acc) }
        }

        #[inline(always)]
        unsafe fn add(acc: Self::Acc, other: Self::Acc) -> Self::Acc {
            // SAFETY: the caller grants the features.
            unsafe { _mm512_add_epi32(acc, other) }
        }

        #[inline(always)]
        unsafe fn sub_zeros(acc: Self::Acc, sum: i32, zeros: *const i32) -> Self::Acc {
            // SAFETY: the caller grants 16 values and the features.
            unsafe {
                let zeros = _mm512_loadu_si512(zeros.cast());
                _mm512_sub_epi32(acc, _mm512_mullo_epi32(_mm512_set1_epi32(sum), zeros))
            }
        }

        #[inline(always)]
        unsafe fn store_scaled(acc: Self::Acc, scales: *const f32, out: *mut f32) {
            // SAFETY: the caller grants 16 values at either pointer and the features.
            unsafe {
                _mm512_storeu_ps(
                    out,
                    _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_loadu_ps(scales)),
                )
            }
        }

        const REQUANTIZES: bool = true;

        #[inline(always)]
        unsafe fn requantize<const MR: usize, const NV: usize>(
            acc: &mut [[Self::Acc; NV]; MR],
            stored: Stored,
            multiplier: *const f32,
            cols: usize,
            out: *mut u8,
            ldc: usize,
            refill: &impl Refill<Self::Acc>,
        ) -> bool {
            let to = TileOut { out, ldc, residual: std::ptr::null(), ldr: 0 };
            // SAFETY: same contract; multipliers are padded to whole panels.
            unsafe {
                requantize_tile(acc, stored, HalfEven { m: multiplier }, (0, cols), to, refill)
            };
            true
        }

        #[inline(always)]
        unsafe fn quantize<const MR: usize, const NV: usize, R: Refill<Self::Acc>>(
            acc: &mut [[Self::Acc; NV]; MR],
            quant: &Quant,
            col: usize,
            to: TileOut,
            refill: &R,
        ) -> bool {
            // SAFETY: same contract.
            unsafe {
                // Others would grow more than they gain.
                R::FUSED
                    && MR >= 8
                    && NV == 2
                    && scaled!(quant, Zmm, |scale| {
                        requantize_tile(acc, quant.stored(), scale, (col, NV * NR), to, refill)
                    })
            }
        }

        #[inline(always)]
        unsafe fn finish(spill: Spill<'_>) {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            unsafe fn finish(spill: Spill<'_>) {
                let Spill { epilogue, acc, width, columns, to } = spill;
                // SAFETY: same contract; the features are enabled here.
                unsafe { finish_rows::<Zmm>(epilogue, acc, width, columns, to) }
            }
            // SAFETY: same contract; the caller grants the features.
            unsafe { finish(spill) }
        }
    };
}
pub(crate) use accumulators;

/// [`super::kernel::Dot::pin`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn pin(mut acc: __m512i) -> __m512i {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(zmm_reg) acc, options(nomem, nostack, preserves_flags)) };
    acc
}
