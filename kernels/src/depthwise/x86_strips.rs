//! The strips of the ring method on x86: by rounding, stride and parts.

use std::arch::x86_64::*;

use super::{
    direct::{direct, fits},
    lanes::{HalfEven, Lanes, Rounding},
    ring::{Fused, RingKernel, Strips},
    strip::{Strip, residual, strip},
    x86_ring::{Ymm, Zmm},
};
use crate::epilogue::{
    Kind, Multiplier, Quant, Residual, Sign, x86_avx2, x86_avx512, x86_fused::Sum,
    x86_rows::Lanes as Rows,
};

/// The vectors on which epilogues are defined.
///
/// # Safety
/// Every function requires the ISA to be supported.
trait InRows: Lanes {
    type Rows: Rows;

    /// [`Rows::double`] of two vectors, as i16, saturated, within 128-bit blocks.
    unsafe fn double(
        acc: [Self::Vector; 2],
        m0: [Self::Vector; 2],
        shift: [Self::Vector; 2],
    ) -> Self::Vector;
    /// [`Sum::add`] of two vectors, the same way.
    unsafe fn sum(
        sum: Sum<'_, Self::Rows>,
        acc: [Self::Vector; 2],
        m: [Self::Vector; 2],
        residual: [Self::Vector; 2],
    ) -> Self::Vector;
    /// Bytes 0 … 7 of every 128-bit block, or 8 … 15 if `upper`, as i32 of two vectors.
    unsafe fn widen(bytes: Self::Vector, upper: bool) -> [Self::Vector; 2];
}

/// [`Fused::Double`].
#[derive(Clone, Copy)]
struct Double;

impl<I: InRows> Rounding<I> for Double {
    type Columns = [[I::Vector; 2]; 2];
    type Pixel = ();

    #[inline(always)]
    unsafe fn columns(self, s: &Strip<'_>, first: usize) -> Self::Columns {
        // SAFETY: same contract.
        unsafe { [s.constants::<I>(1, first), s.constants::<I>(2, first)] }
    }

    #[inline(always)]
    unsafe fn pixel<const PARTS: usize>(self, _s: &Strip<'_>, _oy: usize, _x: usize) {}

    #[inline(always)]
    unsafe fn round(
        self,
        acc: [I::Vector; 2],
        [m0, shift]: Self::Columns,
        _pixel: (),
        _first: usize,
    ) -> I::Vector {
        // SAFETY: same contract.
        unsafe { I::double(acc, m0, shift) }
    }
}

/// [`Fused::Sum`] with the bytes of a residual, flipped to u8.
#[derive(Clone, Copy)]
struct WithResidual<S> {
    sum: S,
    flip: u8,
}

impl<I: InRows> Rounding<I> for WithResidual<Sum<'_, I::Rows>> {
    type Columns = [I::Vector; 2];
    type Pixel = I::Vector;

    #[inline(always)]
    unsafe fn columns(self, s: &Strip<'_>, first: usize) -> [I::Vector; 2] {
        // SAFETY: same contract.
        unsafe { s.constants::<I>(1, first) }
    }

    #[inline(always)]
    unsafe fn pixel<const PARTS: usize>(self, s: &Strip<'_>, oy: usize, x: usize) -> I::Vector {
        // SAFETY: same contract.
        unsafe { residual::<I, PARTS>(s, (oy, x), self.flip) }
    }

    #[inline(always)]
    unsafe fn round(
        self,
        acc: [I::Vector; 2],
        m: [I::Vector; 2],
        residual: I::Vector,
        first: usize,
    ) -> I::Vector {
        // SAFETY: same contract.
        unsafe { I::sum(self.sum, acc, m, I::widen(residual, first > 0)) }
    }
}

impl InRows for Zmm {
    type Rows = x86_avx512::Zmm;

    #[inline(always)]
    unsafe fn double(acc: [__m512i; 2], m0: [__m512i; 2], shift: [__m512i; 2]) -> __m512i {
        let [acc, m0, shift] = [acc, m0, shift].map(|pair| pair.map(Self::Rows::of));
        // SAFETY: the caller grants the features.
        unsafe {
            let a = acc[0].double(m0[0], shift[0]);
            let b = acc[1].double(m0[1], shift[1]);
            _mm512_packs_epi32(a.acc(), b.acc())
        }
    }

    #[inline(always)]
    unsafe fn sum(
        sum: Sum<'_, Self::Rows>,
        acc: [__m512i; 2],
        m: [__m512i; 2],
        residual: [__m512i; 2],
    ) -> __m512i {
        let [acc, residual] = [acc, residual].map(|pair| pair.map(Self::Rows::of));
        // SAFETY: the caller grants the features.
        unsafe {
            let a = sum.add(acc[0], _mm512_castsi512_ps(m[0]), residual[0]);
            let b = sum.add(acc[1], _mm512_castsi512_ps(m[1]), residual[1]);
            _mm512_packs_epi32(a.acc(), b.acc())
        }
    }

    #[inline(always)]
    unsafe fn widen(bytes: __m512i, upper: bool) -> [__m512i; 2] {
        // SAFETY: the caller grants the features.
        unsafe {
            let zero = _mm512_setzero_si512();
            let words = if upper {
                _mm512_unpackhi_epi8(bytes, zero)
            } else {
                _mm512_unpacklo_epi8(bytes, zero)
            };
            [_mm512_unpacklo_epi16(words, zero), _mm512_unpackhi_epi16(words, zero)]
        }
    }
}

impl<const VNNI: bool> InRows for Ymm<VNNI> {
    type Rows = x86_avx2::Ymms;

    #[inline(always)]
    unsafe fn double(acc: [__m256i; 2], m0: [__m256i; 2], shift: [__m256i; 2]) -> __m256i {
        let [acc, m0, shift] = [acc, m0, shift].map(Self::Rows::of);
        // SAFETY: the caller grants the features.
        unsafe {
            let [a, b] = acc.double(m0, shift).acc();
            _mm256_packs_epi32(a, b)
        }
    }

    #[inline(always)]
    unsafe fn sum(
        sum: Sum<'_, Self::Rows>,
        acc: [__m256i; 2],
        m: [__m256i; 2],
        residual: [__m256i; 2],
    ) -> __m256i {
        let [acc, residual] = [acc, residual].map(Self::Rows::of);
        // SAFETY: the caller grants the features.
        unsafe {
            let m = (_mm256_castsi256_ps(m[0]), _mm256_castsi256_ps(m[1]));
            let [a, b] = sum.add(acc, m, residual).acc();
            _mm256_packs_epi32(a, b)
        }
    }

    #[inline(always)]
    unsafe fn widen(bytes: __m256i, upper: bool) -> [__m256i; 2] {
        // SAFETY: the caller grants the features.
        unsafe {
            let zero = _mm256_setzero_si256();
            let words = if upper {
                _mm256_unpackhi_epi8(bytes, zero)
            } else {
                _mm256_unpacklo_epi8(bytes, zero)
            };
            [_mm256_unpacklo_epi16(words, zero), _mm256_unpackhi_epi16(words, zero)]
        }
    }
}

/// The strips of one ISA: a macro, so that each is compiled under the ISA's features.
macro_rules! strips {
    ($name:ident, #[$features:meta] $lanes:ty, $wide:literal, [$($parts:literal)+]) => {
        mod $name {
            use super::*;

            #[$features]
            unsafe fn half_even<const STRIDE: usize, const PARTS: usize>(s: &Strip<'_>) {
                // SAFETY: same contract, the features are enabled here.
                unsafe {
                    let fused = s.epilogue.plain_half_even().map(|(quant, _)| (quant, HalfEven));
                    run::<$lanes, HalfEven, STRIDE, PARTS, $wide>(s, fused)
                }
            }

            #[$features]
            unsafe fn double<const STRIDE: usize, const PARTS: usize>(s: &Strip<'_>) {
                let Kind::Quant8(quant) = &s.epilogue.kind else { return };
                // SAFETY: same contract, the features are enabled here.
                unsafe { run::<$lanes, Double, STRIDE, PARTS, 4>(s, Some((quant, Double))) }
            }

            #[$features]
            unsafe fn sum<const STRIDE: usize, const PARTS: usize>(s: &Strip<'_>) {
                let Kind::Quant8(quant) = &s.epilogue.kind else { return };
                let (Multiplier::HalfEven { m, .. }, Some(residual)) =
                    (&quant.multiplier, &quant.residual)
                else {
                    return;
                };
                let flip = if residual.sign == Sign::S8 { 0x80 } else { 0 };
                let residual = &Residual { sign: Sign::U8, ..*residual };
                // SAFETY: same contract, the features are enabled here.
                unsafe {
                    let rounding = WithResidual { sum: Sum::new(m, quant, residual), flip };
                    run::<$lanes, _, STRIDE, PARTS, 4>(s, Some((quant, rounding)))
                }
            }

            pub(super) static STRIPS: [Strips; Fused::KINDS] = [
                [&[$(half_even::<1, $parts>),+], &[$(half_even::<2, $parts>),+]],
                [&[$(double::<1, $parts>),+], &[$(double::<2, $parts>),+]],
                [&[$(sum::<1, $parts>),+], &[$(sum::<2, $parts>),+]],
            ];
        }
    };
}

/// Computes a strip the way that suits it.
///
/// # Safety
/// As [`strip`].
#[inline(always)]
unsafe fn run<
    I: Lanes,
    R: Rounding<I>,
    const STRIDE: usize,
    const PARTS: usize,
    const WIDE: usize,
>(
    s: &Strip<'_>,
    fused: Option<(&Quant, R)>,
) {
    // SAFETY: same contract.
    unsafe {
        match fused {
            Some(fused) if STRIDE == 2 && fits::<I>(s) => direct::<I, R, PARTS>(s, fused),
            _ => strip::<I, R, STRIDE, PARTS, WIDE>(s, fused),
        }
    }
}

strips!(
    avx512vnni,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    Zmm, 8, [1 2 4]
);
strips!(avxvnni, #[target_feature(enable = "avxvnni,avx2,fma")] Ymm<true>, 4, [1 2]);
strips!(avx2, #[target_feature(enable = "avx2,fma")] Ymm<false>, 4, [1 2]);

pub(super) static AVX512VNNI: RingKernel =
    RingKernel { vector: 64, columns: 4, strips: avx512vnni::STRIPS };

pub(super) static AVXVNNI: RingKernel =
    RingKernel { vector: 32, columns: 4, strips: avxvnni::STRIPS };

pub(super) static AVX2: RingKernel = RingKernel { vector: 32, columns: 2, strips: avx2::STRIPS };
