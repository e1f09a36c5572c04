//! One row of activations to 8-bit codes: its range, then the codes, while the row is in L1.

use crate::multiversion::multiversion;
use crate::numeric::{clamp, rne};
use crate::simd::fold_lanes;

/// How a row was quantized: `x ≈ scale · (code − zero)`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Row {
    pub(super) scale: f32,
    pub(super) zero: i32,
}

impl Row {
    /// u8 quantization of values from `−down` to `up`, both not negative.
    pub(super) fn asymmetric((down, up): (f32, f32)) -> Self {
        let low = -down;
        let scale = if up == low { 1.0 } else { (up - low) / 255.0 };
        Self { scale, zero: rne(clamp(0.0 - low / scale, 0.0, 255.0)) }
    }
}

/// Running extremes, as many as the widest tier needs to hide the latency of its maximum.
const LANES: usize = 64;

/// The greatest `f(x)`, at least 0; NaN does not count.
#[inline(always)]
fn greatest<const N: usize>(x: &[f32], f: impl Fn(f32) -> [f32; N]) -> [f32; N] {
    // The order of the comparison makes it one `maxps`, which answers its second operand for a NaN.
    let above = |v: f32, best: f32| if v > best { v } else { best };
    let mut best = [[0.0f32; LANES]; N];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            let v = f(chunk[i]);
            for j in 0..N {
                best[j][i] = above(v[j], best[j][i]);
            }
        }
    }
    let mut all = best.map(|best| fold_lanes(best, |a, b| above(b, a)));
    for &x in rest {
        let v = f(x);
        for j in 0..N {
            all[j] = above(v[j], all[j]);
        }
    }
    all
}

multiversion!(pub(super) fn extent = extent_body(x: &[f32]) -> (f32, f32));
multiversion!(pub(super) fn symmetric = symmetric_body(x: &[f32], codes: &mut [u8], flip: u8) -> Row);
multiversion!(pub(super) fn asymmetric = asymmetric_body(x: &[f32], codes: &mut [u8], flip: u8, row: Row));

/// `(max(0, −min x), max(0, max x))`
#[inline(always)]
fn extent_body(x: &[f32]) -> (f32, f32) {
    let [down, up] = greatest(x, |v| [-v, v]);
    (down, up)
}

/// Symmetric s8 codes of `x`, XOR `flip`.
#[inline(always)]
fn symmetric_body(x: &[f32], codes: &mut [u8], flip: u8) -> Row {
    let [range] = greatest(x, |v| [v.abs()]);
    if range == 0.0 {
        codes.fill(flip);
        return Row { scale: 1.0, zero: 0 };
    }
    let inverse = 127.0 / range;
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = symmetric_code(x * inverse) as u8 ^ flip;
    }
    Row { scale: range / 127.0, zero: 0 }
}

/// The u8 codes of `x`, XOR `flip`.
#[inline(always)]
fn asymmetric_body(x: &[f32], codes: &mut [u8], flip: u8, row: Row) {
    let (low, high) = (-row.zero as f32, (255 - row.zero) as f32);
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = (rne(clamp(x / row.scale, low, high)) + row.zero) as u8 ^ flip;
    }
}

/// `clamp(round(v), −127, 127)`, halves away from zero; NaN gives −127.
#[inline(always)]
fn symmetric_code(v: f32) -> i32 {
    let v = clamp(v, -127.0, 127.0);
    // The largest float below ½: where v is a half, the sum is rounded up to the integer, and nowhere else.
    let v = v + 0.499_999_97f32.copysign(v);
    // SAFETY: `clamp` leaves neither NaN nor anything beyond ±127.
    unsafe { v.to_int_unchecked() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_away_from_zero() {
        let rounded = |v: f32| v.round().clamp(-127.0, 127.0) as i32;
        for i in -300..=300 {
            // A half, and its neighbours.
            let half = i as f32 / 2.0;
            for v in [half, half.next_up(), half.next_down()] {
                assert_eq!(symmetric_code(v), rounded(v), "{v}");
            }
        }
        for v in [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE] {
            assert_eq!(symmetric_code(v), rounded(v), "{v}");
        }
        assert_eq!(symmetric_code(f32::NAN), -127);
    }

    #[test]
    fn the_range_ignores_nan_and_includes_zero() {
        for cpu in crate::split::testing::cpus() {
            for len in [1, 63, 64, 65, 200] {
                let mut x = vec![f32::NAN; len];
                assert_eq!(extent(cpu, &x), (0.0, 0.0));
                x[len - 1] = 3.0;
                assert_eq!(extent(cpu, &x), (0.0, 3.0));
                x[0] = -7.0;
                assert_eq!(extent(cpu, &x).0, 7.0);
            }
        }
    }
}
