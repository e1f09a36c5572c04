//! The epilogues that are not fused into registers, on x86 vectors: a tile of accumulators in memory, finished row by
//! row, 16 columns at a time. Written once over the vector operations of [`Lanes`].
//!
//! Rounding to nearest even is that of `vcvtps2dq`. A value is clamped before it is converted, so that the conversion
//! cannot overflow; bounds are integers, for which clamping and rounding commute.

use std::mem::MaybeUninit;

use super::{Epilogue, Kind, Multiplier, NR, Quant, Sign, TileOut};

/// 16 accumulators, and what an ISA does to them.
///
/// # Safety
/// Every method requires the ISA's features; pointers are valid for 16 elements, of any alignment. Methods are
/// `#[inline(always)]` and take the features of the entry point they end up in.
pub(crate) trait Lanes: Copy {
    /// 16 floats.
    type Floats: Copy;
    /// 16 accumulators of a tile.
    type Acc: Copy;

    fn of(acc: Self::Acc) -> Self;
    fn acc(self) -> Self::Acc;

    unsafe fn load(from: *const i32) -> Self;
    unsafe fn store(self, to: *mut i32);
    unsafe fn splat(value: i32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn clamp(self, low: Self, high: Self) -> Self;
    /// [`super::FixedPoint::apply_double`].
    unsafe fn double(self, m0: Self, shift: Self) -> Self;
    /// [`super::FixedPoint::apply_single`], clamped.
    unsafe fn single(self, m0: Self, shift: Self, low: Self, high: Self) -> Self;
    unsafe fn floats(self) -> Self::Floats;
    unsafe fn load_floats(from: *const f32) -> Self::Floats;
    unsafe fn store_floats(x: Self::Floats, to: *mut f32);
    unsafe fn splat_float(value: f32) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a · b + c`, rounded once.
    unsafe fn fused(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Clamped, then rounded half to even.
    unsafe fn round(x: Self::Floats, low: Self::Floats, high: Self::Floats) -> Self;
    /// Rounded half to even, of values that fit.
    unsafe fn nearest(x: Self::Floats) -> Self;
    unsafe fn load_bytes(from: *const u8, sign: Sign) -> Self;
    /// Writes the low bytes.
    unsafe fn store_bytes(self, to: *mut u8);
}

/// For each 16 columns of a tile runs `$columns`, and then `$body` for each row: with its accumulators, and pointers to
/// 16 elements each of its output and residual. Rows of a last, partial panel go through memory of their own, which
/// keeps calls out of the loop over rows: they would spill every constant. A macro, because closures would not take the
/// caller's target features.
macro_rules! for_each_part {
    ($tile:ident, $ty:ty, |$col:ident| { $($columns:tt)* },
     |$acc:ident, $out:ident, $residual:ident| $body:block) => {
        let rows = $tile.acc.len() / $tile.width;
        for i in 0..$tile.cols.div_ceil(NR) {
            let $col = $tile.col + i * NR;
            let len = ($tile.cols - i * NR).min(NR);
            $($columns)*
            let mut whole = MaybeUninit::<[$ty; NR * MAX_ROWS]>::uninit();
            let mut others = MaybeUninit::<[u8; NR * MAX_ROWS]>::uninit();
            let TileOut { out, ldc, residual, ldr } = $tile.to;
            let (out, residual) =
                (out.add(i * NR * size_of::<$ty>()), residual.wrapping_add(i * NR));
            let mut to = TileOut { out, ldc, residual, ldr };
            if len < NR {
                to.out = whole.as_mut_ptr().cast();
                to.ldc = size_of::<[$ty; NR]>();
                if $tile.has_residual {
                    let copied = others.write([0; NR * MAX_ROWS]).as_mut_ptr();
                    copy_rows((residual, ldr), (copied, NR), rows, len);
                    (to.residual, to.ldr) = (copied.cast_const(), NR);
                }
            }
            for r in 0..rows {
                let $acc = V::load($tile.acc.as_ptr().add(r * $tile.width + i * NR));
                let $out = to.out.add(r * to.ldc).cast::<$ty>();
                let $residual = to.residual.wrapping_add(r * to.ldr);
                $body
            }
            if len < NR {
                copy_rows((to.out, to.ldc), (out, ldc), rows, len * size_of::<$ty>());
            }
        }
    };
}

/// The most rows of a tile.
const MAX_ROWS: usize = 16;

/// Copies `rows` rows of `len` bytes, at their distances.
///
/// # Safety
/// The rows can be read, and written.
#[inline(never)]
unsafe fn copy_rows(from: (*const u8, usize), to: (*mut u8, usize), rows: usize, len: usize) {
    for r in 0..rows {
        // SAFETY: row `r` of those granted.
        unsafe { std::ptr::copy_nonoverlapping(from.0.add(r * from.1), to.0.add(r * to.1), len) }
    }
}

/// A tile of accumulators in memory.
struct Tile<'a> {
    acc: &'a [i32],
    width: usize,
    col: usize,
    cols: usize,
    to: TileOut,
    has_residual: bool,
}

/// [`super::finish_tile`] on the vectors `V`, of accumulators from which zero-point terms are already subtracted.
///
/// # Safety
/// - As [`super::finish_tile`]; `width` is a multiple of 16, and `acc` holds whole rows of it.
/// - The features of `V` are supported.
#[inline(always)]
pub(crate) unsafe fn finish_rows<V: Lanes>(
    epilogue: &Epilogue,
    acc: &[i32],
    width: usize,
    (col, cols): (usize, usize),
    to: TileOut,
) {
    assert!(acc.len() <= MAX_ROWS * width);
    let tile = Tile { acc, width, col, cols, to, has_residual: epilogue.residual().is_some() };
    // SAFETY: the caller's contract; per-column values are padded to whole panels, so 16 can be read from any panel's
    // first column.
    unsafe {
        match &epilogue.kind {
            Kind::I32 => {
                for_each_part!(tile, i32, |_col| {}, |acc, out, _residual| {
                    V::store(acc, out);
                });
            }
            Kind::F32 { scales } => {
                for_each_part!(
                    tile,
                    f32,
                    |col| {
                        let scales = V::load_floats(scales.as_ptr().add(col));
                    },
                    |acc, out, _residual| {
                        V::store_floats(V::mul(acc.floats(), scales), out);
                    }
                );
            }
            Kind::Quant8(q) => match &q.multiplier {
                Multiplier::HalfEven { m, .. } => quantize(&tile, q, HalfEven::<V>::new(m, q)),
                Multiplier::Double { m0, shift } => {
                    quantize(&tile, q, Fixed::<V, true>::new(m0, shift, q));
                }
                Multiplier::Single { m0, shift } => {
                    quantize(&tile, q, Fixed::<V, false>::new(m0, shift, q));
                }
            },
        }
    }
}

/// Scaling, rounding and clamping of accumulators, before the zero point.
trait Rounding<V>: Copy {
    /// The multipliers of 16 columns.
    type Columns: Copy;

    /// Those of the columns from `col` on, the first of a panel.
    unsafe fn columns(self, col: usize) -> Self::Columns;
    unsafe fn apply(self, acc: V, columns: Self::Columns) -> V;
}

#[derive(Clone, Copy)]
struct HalfEven<'a, V: Lanes> {
    m: &'a [f32],
    low: V::Floats,
    high: V::Floats,
}

impl<'a, V: Lanes> HalfEven<'a, V> {
    #[inline(always)]
    unsafe fn new(m: &'a [f32], q: &Quant) -> Self {
        // SAFETY: the caller grants the features.
        unsafe {
            Self { m, low: V::splat_float(q.low as f32), high: V::splat_float(q.high as f32) }
        }
    }
}

impl<V: Lanes> Rounding<V> for HalfEven<'_, V> {
    type Columns = V::Floats;

    #[inline(always)]
    unsafe fn columns(self, col: usize) -> V::Floats {
        // SAFETY: multipliers are padded to whole panels; the caller grants the features.
        unsafe { V::load_floats(self.m.as_ptr().add(col)) }
    }

    #[inline(always)]
    unsafe fn apply(self, acc: V, m: V::Floats) -> V {
        // SAFETY: the caller grants the features.
        unsafe { V::round(V::mul(acc.floats(), m), self.low, self.high) }
    }
}

/// The two fixed-point roundings.
#[derive(Clone, Copy)]
struct Fixed<'a, V: Lanes, const DOUBLE: bool> {
    m0: &'a [i32],
    shift: &'a [i32],
    low: V,
    high: V,
}

impl<'a, V: Lanes, const DOUBLE: bool> Fixed<'a, V, DOUBLE> {
    #[inline(always)]
    unsafe fn new(m0: &'a [i32], shift: &'a [i32], q: &Quant) -> Self {
        // SAFETY: the caller grants the features.
        unsafe { Self { m0, shift, low: V::splat(q.low), high: V::splat(q.high) } }
    }
}

impl<V: Lanes, const DOUBLE: bool> Rounding<V> for Fixed<'_, V, DOUBLE> {
    type Columns = (V, V);

    #[inline(always)]
    unsafe fn columns(self, col: usize) -> (V, V) {
        // SAFETY: multipliers are padded to whole panels; the caller grants the features.
        unsafe { (V::load(self.m0.as_ptr().add(col)), V::load(self.shift.as_ptr().add(col))) }
    }

    #[inline(always)]
    unsafe fn apply(self, acc: V, (m0, shift): (V, V)) -> V {
        // SAFETY: the caller grants the features.
        unsafe {
            if DOUBLE {
                acc.double(m0, shift).clamp(self.low, self.high)
            } else {
                acc.single(m0, shift, self.low, self.high)
            }
        }
    }
}

/// The 8-bit outputs of a tile.
#[inline(always)]
unsafe fn quantize<V: Lanes>(tile: &Tile<'_>, q: &Quant, rounding: impl Rounding<V>) {
    // SAFETY: the contract of `finish_rows`.
    unsafe {
        let zero_point = V::splat(q.zero_point);
        let Some(r) = &q.residual else {
            for_each_part!(
                tile,
                u8,
                |col| {
                    let columns = rounding.columns(col);
                },
                |acc, out, _residual| {
                    rounding.apply(acc, columns).add(zero_point).store_bytes(out);
                }
            );
            return;
        };
        let (scale_a, scale_b) = (V::splat_float(r.scale_a), V::splat_float(r.scale_b));
        let offset = V::splat_float(r.offset);
        let (into, back) = r.shifts(q.sign);
        let low = V::splat_float((r.min - back) as f32);
        let high = V::splat_float((r.max - back) as f32);
        let (into, back) = (V::splat(into), V::splat(back));
        for_each_part!(
            tile,
            u8,
            |col| {
                let columns = rounding.columns(col);
            },
            |acc, out, residual| {
                let own = rounding.apply(acc, columns).add(zero_point).floats();
                let theirs = V::load_bytes(residual, r.sign).add(into).floats();
                let (a, b) = if r.conv_is_lhs { (own, theirs) } else { (theirs, own) };
                let sum = V::fused(a, scale_a, V::fused(b, scale_b, offset));
                V::round(sum, low, high).add(back).store_bytes(out);
            }
        );
    }
}
