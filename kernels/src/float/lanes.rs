//! Vectors of f32 for kernels with a register tile.
//!
//! The baseline tier takes `wide`'s type; above it, where `wide` cannot follow run-time detection, the tier's
//! registers.

use crate::numeric::fused;

/// A fixed number of f32 values.
pub(super) trait Lanes: Copy {
    /// How many.
    const N: usize;
    /// All lanes `v`.
    fn splat(v: f32) -> Self;
    /// The first `N` elements of `x`.
    fn load(x: &[f32]) -> Self;
    /// Writes the first `N` elements of `y`.
    fn store(self, y: &mut [f32]);
    /// `self·b + c`, rounded once on every tier.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// Limits every lane to `[lo, hi]`; NaN gives a bound.
    fn clamp(self, lo: Self, hi: Self) -> Self;
}

/// One lane, for tensors with fewer channels than a vector.
impl Lanes for f32 {
    const N: usize = 1;

    #[inline(always)]
    fn splat(v: f32) -> Self {
        v
    }

    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        x[0]
    }

    #[inline(always)]
    fn store(self, y: &mut [f32]) {
        y[0] = self;
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        self.mul_add(b, c)
    }

    #[inline(always)]
    fn clamp(self, lo: Self, hi: Self) -> Self {
        crate::numeric::clamp(self, lo, hi)
    }
}

impl Lanes for wide::f32x8 {
    const N: usize = 8;

    #[inline(always)]
    fn splat(v: f32) -> Self {
        Self::splat(v)
    }

    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        let mut lanes = [0.0; 8];
        lanes.copy_from_slice(&x[..8]);
        Self::from(lanes)
    }

    #[inline(always)]
    fn store(self, y: &mut [f32]) {
        y[..8].copy_from_slice(&self.to_array());
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            return wide::f32x8::mul_add(self, b, c);
        }
        // Without the instruction `wide` rounds twice.
        let (a, b, mut c) = (self.to_array(), b.to_array(), c.to_array());
        c.iter_mut().zip(a).zip(b).for_each(|((c, a), b)| *c = fused(a, b, *c));
        Self::from(c)
    }

    #[inline(always)]
    fn clamp(self, lo: Self, hi: Self) -> Self {
        self.fast_max(lo).fast_min(hi)
    }
}

/// The registers of the x86 tiers. `array`s of f32 in their place would be vectorized too, but count as so
/// many scalar steps before that, that LLVM does not unroll the loops around them.
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{F32x8, F32x16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    macro_rules! lanes {
        ($name:ident, $register:ty, $n:literal, $doc:literal,
         $splat:ident, $load:ident, $store:ident, $fma:ident, $min:ident, $max:ident) => {
            #[doc = $doc]
            #[derive(Clone, Copy)]
            pub(in crate::float) struct $name($register);

            // Only functions that enable the tier's features may use this type: everything here is inlined into
            // them, and they are reached through a `Cpu` that reports the tier.
            impl Lanes for $name {
                const N: usize = $n;

                #[inline(always)]
                fn splat(v: f32) -> Self {
                    // SAFETY: the tier's features are enabled (see above).
                    Self(unsafe { $splat(v) })
                }

                #[inline(always)]
                fn load(x: &[f32]) -> Self {
                    let x = &x[..$n];
                    // SAFETY: the tier's features are enabled, and `x` has a whole register's elements.
                    Self(unsafe { $load(x.as_ptr()) })
                }

                #[inline(always)]
                fn store(self, y: &mut [f32]) {
                    let y = &mut y[..$n];
                    // SAFETY: the tier's features are enabled, and `y` has a whole register's elements.
                    unsafe { $store(y.as_mut_ptr(), self.0) }
                }

                #[inline(always)]
                fn mul_add(self, b: Self, c: Self) -> Self {
                    // SAFETY: the tier's features are enabled (see above).
                    Self(unsafe { $fma(self.0, b.0, c.0) })
                }

                #[inline(always)]
                fn clamp(self, lo: Self, hi: Self) -> Self {
                    // SAFETY: the tier's features are enabled (see above).
                    Self(unsafe { $min($max(self.0, lo.0), hi.0) })
                }
            }
        };
    }

    lanes!(
        F32x8,
        __m256,
        8,
        "Eight lanes of AVX2 with FMA.",
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_min_ps,
        _mm256_max_ps
    );
    lanes!(
        F32x16,
        __m512,
        16,
        "Sixteen lanes of AVX-512.",
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_min_ps,
        _mm512_max_ps
    );
}
