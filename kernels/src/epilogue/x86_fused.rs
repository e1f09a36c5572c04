//! The epilogues of 8-bit outputs that x86 tiles finish in registers: what makes integers of accumulators. Packing adds the
//! zero point and clamps, for four of them at a time and with saturation, so that integers need not be clamped before.

use super::{Quant, Residual, x86_rows::Lanes};

/// What makes integers of accumulators, before the zero point of [`Quant::stored`].
///
/// # Safety
/// Methods require the features of `V`, and are `#[inline(always)]` to take them.
pub(crate) trait Scale<V>: Copy {
    /// What it needs of 16 columns.
    type Columns: Copy;

    /// Those from column `col` on, the first of a panel.
    unsafe fn columns(self, col: usize) -> Self::Columns;
    /// `residual` points to 16 values if there is one.
    unsafe fn apply(self, acc: V, columns: Self::Columns, residual: *const u8) -> V;
}

/// [`super::Requantize::HalfEven`] whose products fit an i32.
#[derive(Clone, Copy)]
pub(crate) struct HalfEven {
    pub(crate) m: *const f32,
}

impl<V: Lanes> Scale<V> for HalfEven {
    type Columns = V::Floats;

    #[inline(always)]
    unsafe fn columns(self, col: usize) -> V::Floats {
        // SAFETY: multipliers are padded to whole panels; the caller grants the features.
        unsafe { V::load_floats(self.m.add(col)) }
    }

    #[inline(always)]
    unsafe fn apply(self, acc: V, m: V::Floats, _residual: *const u8) -> V {
        // SAFETY: the caller grants the features.
        unsafe { V::nearest(V::mul(acc.floats(), m)) }
    }
}

/// The same, clamped, and a residual added.
#[derive(Clone, Copy)]
pub(crate) struct Sum<'a, V: Lanes> {
    own: HalfEven,
    residual: &'a Residual,
    low: V,
    high: V,
    zero_point: V,
    into: V,
}

impl<'a, V: Lanes> Sum<'a, V> {
    #[inline(always)]
    pub(crate) unsafe fn new(m: &[f32], quant: &Quant, residual: &'a Residual) -> Self {
        let (into, _) = residual.shifts(quant.sign);
        // SAFETY: the caller grants the features.
        unsafe {
            Self {
                own: HalfEven { m: m.as_ptr() },
                residual,
                low: V::splat(quant.low),
                high: V::splat(quant.high),
                zero_point: V::splat(quant.zero_point),
                into: V::splat(into),
            }
        }
    }
}

impl<V: Lanes> Scale<V> for Sum<'_, V> {
    type Columns = V::Floats;

    #[inline(always)]
    unsafe fn columns(self, col: usize) -> V::Floats {
        // SAFETY: same contract.
        unsafe { Scale::<V>::columns(self.own, col) }
    }

    #[inline(always)]
    unsafe fn apply(self, acc: V, m: V::Floats, residual: *const u8) -> V {
        // SAFETY: the caller grants 16 values of the residual and the features.
        unsafe { self.add(acc, m, V::load_bytes(residual, self.residual.sign)) }
    }
}

impl<V: Lanes> Sum<'_, V> {
    /// [`Scale::apply`], given the values of the residual.
    ///
    /// # Safety
    /// The features of `V` are supported.
    #[inline(always)]
    pub(crate) unsafe fn add(self, acc: V, m: V::Floats, residual: V) -> V {
        let Residual { conv_is_lhs, scale_a, scale_b, offset, .. } = *self.residual;
        // SAFETY: the caller grants the features.
        unsafe {
            let own = self.own.apply(acc, m, std::ptr::null()).clamp(self.low, self.high);
            let own = V::add(own, self.zero_point).floats();
            let theirs = residual.add(self.into).floats();
            let (a, b) = if conv_is_lhs { (own, theirs) } else { (theirs, own) };
            let (scale_a, scale_b) = (V::splat_float(scale_a), V::splat_float(scale_b));
            let inner = V::fused(b, scale_b, V::splat_float(offset));
            V::nearest(V::fused(a, scale_a, inner))
        }
    }
}

/// [`super::Requantize::TfliteDouble`].
#[derive(Clone, Copy)]
pub(crate) struct Double<'a> {
    pub(crate) m0: &'a [i32],
    pub(crate) shift: &'a [i32],
}

impl<V: Lanes> Scale<V> for Double<'_> {
    type Columns = (V, V);

    #[inline(always)]
    unsafe fn columns(self, col: usize) -> (V, V) {
        // SAFETY: multipliers are padded to whole panels; the caller grants the features.
        unsafe { (V::load(self.m0.as_ptr().add(col)), V::load(self.shift.as_ptr().add(col))) }
    }

    #[inline(always)]
    unsafe fn apply(self, acc: V, (m0, shift): (V, V), _residual: *const u8) -> V {
        // SAFETY: the caller grants the features.
        unsafe { acc.double(m0, shift) }
    }
}

/// `$body` with the `$scale` of a `$quant` that is not a plain `HalfEven`; answers false where there is none: such tiles
/// are left to [`super::x86_rows`]. A macro, because closures are not generic.
macro_rules! scaled {
    ($quant:ident, $vectors:ty, |$scale:ident| $body:expr) => {{
        use $crate::epilogue::{
            Multiplier,
            x86_fused::{Double, Sum},
        };
        match (&$quant.multiplier, &$quant.residual) {
            (Multiplier::HalfEven { m, fits: true }, Some(residual)) if $quant.sum_fits => {
                let $scale = Sum::<$vectors>::new(m, $quant, residual);
                $body;
                true
            }
            (Multiplier::Double { m0, shift }, None) => {
                let $scale = Double { m0, shift };
                $body;
                true
            }
            _ => false,
        }
    }};
}
pub(crate) use scaled;
