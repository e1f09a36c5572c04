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

/// `a·b + c`, rounded once, for the baseline tier: where it has no such instruction, `mul_add` is a call of the C
/// library for each value, which may be very slow.
#[inline(always)]
pub(crate) fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        fused_in_f64(a, b, c)
    }
}

/// The product is exact in f64. Its sum with `c` is rounded to odd, that is, an inexact sum takes the neighbour whose
/// last bit is set, so that rounding it again, to f32, is as good as rounding the true sum (Boldo and Melquiond,
/// Emulation of FMA and correctly rounded sums, 2008).
#[inline(always)]
fn fused_in_f64(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // What `sum` lacks, exactly (Knuth's TwoSum); NaN where it is not finite.
    let shifted = sum - product;
    let error = (product - (sum - shifted)) + (c - shifted);
    let inexact = u64::from(error.abs() > 0.0);
    let away_from_zero = (error.to_bits() ^ sum.to_bits()) >> 63;
    let odd = (sum.to_bits() - (inexact & away_from_zero)) | inexact;
    f64::from_bits(odd) as f32
}

/// The value of an 8-bit code: two's complement if `S`, else unsigned.
#[inline(always)]
pub(crate) fn widen<const S: bool>(code: u8) -> i32 {
    if S { i32::from(code as i8) } else { i32::from(code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    fn same(a: f32, b: f32, c: f32) -> bool {
        let (got, want) = (fused_in_f64(a, b, c), a.mul_add(b, c));
        got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan()
    }

    #[test]
    fn fused_is_exact_at_ties_of_f32_and_at_special_values() {
        let ulp = |k: i32| f32::powi(2.0, k);
        let mut values = vec![0.0f32, 1.0, 3.0, 255.0, ulp(-24) * 3.0, f32::MAX, f32::MIN_POSITIVE];
        values.extend([f32::from_bits(1), f32::from_bits(0x007f_ffff), f32::INFINITY, f32::NAN]);
        // 1 + 2⁻²⁴ + 2⁻⁵⁴ is no tie of f32, but is one once it is rounded to f64
        values.extend([1.0 + ulp(-23), 1.0 - ulp(-24), ulp(-24), ulp(-27), ulp(-54), ulp(-126)]);
        values.extend([1.0 + ulp(-12), ulp(-75), ulp(24) + 2.0, ulp(24) - 1.0, ulp(100)]);
        for i in 0..values.len() {
            values.push(-values[i]);
        }
        for &a in &values {
            for &b in &values {
                for &c in &values {
                    assert!(same(a, b, c), "{a:e} · {b:e} + {c:e}");
                }
            }
        }
        let (a, c) = (1.0 + ulp(-12), ulp(-54));
        assert_ne!((f64::from(a) * f64::from(a) + f64::from(c)) as f32, fused_in_f64(a, a, c));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn fused_is_the_fused_multiply_add(
            a in any::<u32>(), b in any::<u32>(), c in any::<u32>(), code in -512i16..512, near in -40i32..40,
        ) {
            let [a, b, c] = [a, b, c].map(f32::from_bits);
            prop_assert!(same(a, b, c), "{a:e} · {b:e} + {c:e}");
            prop_assert!(same(f32::from(code), b, c), "{code} · {b:e} + {c:e}");
            // an addend of about the product's size
            let c = f32::from_bits((a * b * f32::powi(2.0, near)).to_bits() ^ (c.to_bits() & 0x807f_ffff));
            prop_assert!(same(a, b, c), "{a:e} · {b:e} + {c:e}");
        }
    }

    #[test]
    fn clamp_of_nan_is_the_lower_bound() {
        assert_eq!(clamp(f32::NAN, -3.0, 5.0), -3.0);
        assert_eq!(clamp(f32::INFINITY, -3.0, 5.0), 5.0);
        assert_eq!(clamp(f32::NEG_INFINITY, -3.0, 5.0), -3.0);
    }
}
