//! Vectors of f32 for kernels with a register tile.
//!
//! The baseline tier takes `wide`'s type; above it, where `wide` cannot follow run-time detection, plain
//! arrays become the tier's registers, because everything here is inlined into the tier's function.

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
    /// `self·b + c`, fused where the tier has the instruction.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// Limits every lane to `[lo, hi]`; NaN gives a bound.
    fn clamp(self, lo: Self, hi: Self) -> Self;

    /// The elements of `x`, fewer than `N`, then zeros.
    #[inline(always)]
    fn load_part(x: &[f32]) -> Self {
        let mut full = [0.0; 16];
        full[..x.len()].copy_from_slice(x);
        Self::load(&full)
    }

    /// Writes all elements of `y`, fewer than `N`.
    #[inline(always)]
    fn store_part(self, y: &mut [f32]) {
        let mut full = [0.0; 16];
        self.store(&mut full);
        y.copy_from_slice(&full[..y.len()]);
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
        wide::f32x8::mul_add(self, b, c)
    }

    #[inline(always)]
    fn clamp(self, lo: Self, hi: Self) -> Self {
        self.fast_max(lo).fast_min(hi)
    }
}

/// `N` lanes of a tier with fused multiply-add.
#[derive(Clone, Copy)]
pub(super) struct Fused<const N: usize>([f32; N]);

impl<const N: usize> Lanes for Fused<N> {
    const N: usize = N;

    #[inline(always)]
    fn splat(v: f32) -> Self {
        Self([v; N])
    }

    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        let mut lanes = [0.0; N];
        lanes.copy_from_slice(&x[..N]);
        Self(lanes)
    }

    #[inline(always)]
    fn store(self, y: &mut [f32]) {
        y[..N].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }

    #[inline(always)]
    fn clamp(self, lo: Self, hi: Self) -> Self {
        Self(std::array::from_fn(|i| crate::numeric::clamp(self.0[i], lo.0[i], hi.0[i])))
    }
}
