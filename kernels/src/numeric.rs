//! Scalar float steps that decide integers, each written once so that every kernel takes the same bits.

/// 1.5·2²³: adding it to |v| < 2²² leaves `v`, rounded half to even, in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;

/// `rne(v)` as an integer, for |v| < 2²². Two plain vector instructions on every ISA, where
/// `round_ties_even` is a library call on SSE2.
#[inline(always)]
pub(crate) fn rne(v: f32) -> i32 {
    ((v + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

/// `v` limited to `[lo, hi]`; NaN gives `lo`, as `maxps(v, lo)` and MLAS' `fmaxnm(v, lo)` do.
#[inline(always)]
pub(crate) fn clamp(v: f32, lo: f32, hi: f32) -> f32 {
    let v = if v > lo { v } else { lo };
    if v < hi { v } else { hi }
}

/// The value of an 8-bit code: two's complement if `S`, else unsigned.
#[inline(always)]
pub(crate) fn widen<const S: bool>(code: u8) -> i32 {
    if S { i32::from(code as i8) } else { i32::from(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rne_is_round_half_to_even() {
        for i in -9000..=9000 {
            let v = i as f32 / 4.0;
            assert_eq!(rne(v), v.round_ties_even() as i32, "{v}");
        }
        for v in [
            65535.5f32,
            -65535.5,
            4_194_303.0,
            -4_194_303.0,
            0.49999997,
            -0.49999997,
            f32::MIN_POSITIVE,
        ] {
            assert_eq!(rne(v), v.round_ties_even() as i32, "{v}");
        }
    }

    #[test]
    fn clamp_of_nan_is_the_lower_bound() {
        assert_eq!(clamp(f32::NAN, -3.0, 5.0), -3.0);
        assert_eq!(clamp(f32::INFINITY, -3.0, 5.0), 5.0);
        assert_eq!(clamp(f32::NEG_INFINITY, -3.0, 5.0), -3.0);
    }
}
