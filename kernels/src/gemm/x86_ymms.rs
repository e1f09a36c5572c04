//! What the 256-bit tiers do alike with two registers of 8 accumulators.

use std::arch::{asm, x86_64::__m256i};

/// The methods of [`super::kernel::Dot`] that do not depend on how products are formed; tiles of `$fused` rows finish all
/// 8-bit outputs in registers. Names are those that the tiers' files import.
macro_rules! accumulators {
    ($fused:pat) => {
        #[inline(always)]
        unsafe fn start(bias: *const i32) -> Self::Acc {
            // SAFETY: the caller grants 16 values and the features.
            unsafe { [_mm256_loadu_si256(bias.cast()), _mm256_loadu_si256(bias.add(8).cast())] }
        }

        #[inline(always)]
        unsafe fn store(acc: Self::Acc, out: *mut i32) {
            // SAFETY: the caller grants room for 16 values and the features.
            unsafe {
                _mm256_storeu_si256(out.cast(), acc[0]);
                _mm256_storeu_si256(out.add(8).cast(), acc[1]);
            }
        }

        #[inline(always)]
        unsafe fn pin(acc: Self::Acc) -> Self::Acc {
            // SAFETY: the caller grants the feature.
            unsafe { $crate::gemm::x86_ymms::pin(acc) }
        }

        #[inline(always)]
        unsafe fn add(acc: Self::Acc, other: Self::Acc) -> Self::Acc {
            // SAFETY: the caller grants the features.
            unsafe { [_mm256_add_epi32(acc[0], other[0]), _mm256_add_epi32(acc[1], other[1])] }
        }

        #[inline(always)]
        unsafe fn sub_zeros(acc: Self::Acc, sum: i32, zeros: *const i32) -> Self::Acc {
            // SAFETY: the caller grants 16 values and the features.
            unsafe {
                let sum = _mm256_set1_epi32(sum);
                let z = [_mm256_loadu_si256(zeros.cast()), _mm256_loadu_si256(zeros.add(8).cast())];
                [
                    _mm256_sub_epi32(acc[0], _mm256_mullo_epi32(sum, z[0])),
                    _mm256_sub_epi32(acc[1], _mm256_mullo_epi32(sum, z[1])),
                ]
            }
        }

        #[inline(always)]
        unsafe fn store_scaled(acc: Self::Acc, scales: *const f32, out: *mut f32) {
            // SAFETY: the caller grants 16 values at either pointer and the features.
            unsafe {
                let (a, b) = (_mm256_cvtepi32_ps(acc[0]), _mm256_cvtepi32_ps(acc[1]));
                _mm256_storeu_ps(out, _mm256_mul_ps(a, _mm256_loadu_ps(scales)));
                _mm256_storeu_ps(out.add(8), _mm256_mul_ps(b, _mm256_loadu_ps(scales.add(8))));
            }
        }

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
                    && matches!(MR, $fused)
                    && scaled!(quant, Ymms, |scale| {
                        requantize_tile(acc, quant.stored(), scale, (col, NV * NR), to, refill)
                    })
            }
        }

        #[inline(always)]
        unsafe fn finish(spill: Spill<'_>) {
            #[target_feature(enable = "avx2,fma")]
            unsafe fn finish(spill: Spill<'_>) {
                let Spill { epilogue, acc, width, columns, to } = spill;
                // SAFETY: same contract; the features are enabled here.
                unsafe { finish_rows::<Ymms>(epilogue, acc, width, columns, to) }
            }
            // SAFETY: same contract; the caller grants the features.
            unsafe { finish(spill) }
        }
    };
}
pub(crate) use accumulators;

/// [`super::kernel::Dot::pin`].
#[inline]
#[target_feature(enable = "avx")]
pub(crate) fn pin([mut low, mut high]: [__m256i; 2]) -> [__m256i; 2] {
    // SAFETY: no instruction.
    unsafe {
        asm!("/* {0} {1} */", inout(ymm_reg) low, inout(ymm_reg) high,
             options(nomem, nostack, preserves_flags));
    }
    [low, high]
}
