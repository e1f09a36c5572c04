//! Transcendental functions of f32, one code path for every ISA.
//!
//! Polynomials in plain multiplications and additions, without fused ones: the same bits wherever they are
//! compiled, and free of branches, so that loops over them vectorize. Sources: Cephes (`expf`, `logf`,
//! `tanhf`) and N. Juffa's `erff`, whose fused steps are split here. Errors are given in units in the last
//! place (ulp) of the result and checked in the tests.

/// 1.5·2²³; see `numeric::rne`.
const ROUND: f32 = 12_582_912.0;
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// Horner's rule; coefficients from the highest power down.
#[inline(always)]
fn horner<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut p = coefficients[0];
    for &c in &coefficients[1..] {
        p = p * x + c;
    }
    p
}

/// 2ⁿ for −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

/// eˣ, at most 2 ulp; 0 below about −103.97, infinity above 88.72.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Beyond these bounds the result is 0 or infinity already.
    let t = if x > -104.0 { x } else { -104.0 };
    let t = if t < 89.0 { t } else { 89.0 };
    let shifted = t * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let i = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let y = exp_of_rest((t - n * LN2_HI) - n * LN2_LO);
    // In two steps, since 2ⁿ itself need not be a normal number; only the second one can round.
    let half = i >> 1;
    let y = y * power_of_two(half) * power_of_two(i - half);
    if x.is_nan() { x } else { y }
}

/// [`exp`] of what is not positive, at most 2 ulp; below −87 the result, under 2⁻¹²⁵, becomes 0. As 2ⁿ is normal, the sum
/// that rounds t·log₂e brings n + 127 into its place: two thirds of the instructions.
#[inline(always)]
pub(crate) fn exp_not_positive(t: f32) -> f32 {
    const ROUND_BIASED: f32 = ROUND + 127.0;
    let shifted = t * std::f32::consts::LOG2_E + ROUND_BIASED;
    let n = shifted - ROUND_BIASED;
    let y = exp_of_rest((t - n * LN2_HI) - n * LN2_LO) * f32::from_bits(shifted.to_bits() << 23);
    if t < -87.0 { 0.0 } else { y }
}

/// eʳ for |r| ≤ ½·ln 2, and a little beyond.
#[inline(always)]
fn exp_of_rest(r: f32) -> f32 {
    let p = horner(
        r,
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1],
    );
    p * (r * r) + r + 1.0
}

/// Natural logarithm, at most 2 ulp; −∞ of 0, NaN of a negative number.
#[inline(always)]
pub fn log(x: f32) -> f32 {
    let subnormal = x < f32::MIN_POSITIVE;
    let scaled = if subnormal { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits() as i32;
    // m in [√½, √2), scaled = m·2ᵉ.
    let e = bits.wrapping_sub(0x3f35_04f3) >> 23;
    let m = f32::from_bits(bits.wrapping_sub(e << 23) as u32);
    let e = e as f32 - if subnormal { 23.0 } else { 0.0 };
    let r = m - 1.0;
    let z = r * r;
    let p = horner(
        r,
        [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_84e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_4e-1,
            -2.499_999_4e-1,
            3.333_333e-1,
        ],
    );
    let y = p * r * z + LN2_LO * e - 0.5 * z;
    let y = r + y + LN2_HI * e;
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x >= 0.0 { y } else { f32::NAN }
}

/// 1 / (1 + e⁻ˣ), at most 3 ulp for x > −88; below it the result, under 2⁻¹²⁶, becomes 0.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent, at most 2 ulp.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let p = horner(
        z,
        [-5.704_988_6e-3, 2.063_908_8e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1],
    );
    let small = p * z * x + x;
    let large = (1.0 - 2.0 / (exp(a + a) + 1.0)).copysign(x);
    if a < 0.625 { small } else { large }
}

/// Error function, at most 3 ulp.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let (t, s) = (x.abs(), x * x);
    let high = horner(t, [-1.728_534_7e-5, 3.831_972_6e-4]);
    let low = horner(t, [-3.883_964_4e-3, 2.425_462_2e-2]);
    let p = high * s + low;
    let p = horner(t, [p, -1.067_778_8e-1, -6.348_469e-1, -1.287_175_1e-1]);
    let large = (1.0 - exp(p * t - t)).copysign(x);
    let q = horner(
        s,
        [
            -5.967_617e-4,
            4.991_194_2e-3,
            -2.676_813_5e-2,
            1.128_199_25e-1,
            -3.761_253_4e-1,
            1.283_791_7e-1,
        ],
    );
    let small = q * x + x;
    if t > 0.927_734_4 { large } else { small }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance of `got` from `want` in ulp of f32 at `want`; subnormal results count in the smallest ulp.
    fn ulp(got: f32, want: f64) -> f64 {
        let exponent = (want.abs().log2().floor() as i32).max(-126);
        (f64::from(got) - want).abs() / 2f64.powi(exponent - 23)
    }

    /// The largest error of `f` over `n` points of `[lo, hi]`.
    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, lo: f32, hi: f32) -> f64 {
        const N: i32 = 400_000;
        (0..=N)
            .map(|i| {
                let x = lo + (hi - lo) * (i as f32 / N as f32);
                ulp(f(x), exact(f64::from(x)))
            })
            .fold(0.0, f64::max)
    }

    /// erf by its Maclaurin series, good to 1e-13 for |x| < 4.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while f64::abs(term) > 1e-18 * f64::abs(sum) && n < 200.0 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn errors_are_within_what_the_docs_say() {
        assert!(worst(exp, f64::exp, -103.0, 88.7) <= 2.0);
        assert!(worst(exp, f64::exp, -1.0, 1.0) <= 2.0);
        assert!(worst(exp_not_positive, f64::exp, -87.0, 0.0) <= 2.0);
        assert!(worst(log, f64::ln, 1e-3, 0.99) <= 2.0);
        assert!(worst(log, f64::ln, 1.01, 1e6) <= 2.0);
        assert!(worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -87.0, 40.0) <= 3.0);
        assert!(worst(tanh, f64::tanh, 1e-6, 10.0) <= 2.0);
        assert!(worst(tanh, f64::tanh, -0.7, -1e-6) <= 2.0);
        assert!(worst(erf, erf_series, 1e-6, 3.5) <= 3.0);
        assert!(worst(erf, erf_series, -1.2, -1e-6) <= 3.0);
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-104.5), 0.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp_not_positive(0.0), 1.0);
        for x in [f32::NEG_INFINITY, f32::MIN, -1e30, -104.0, -87.1] {
            assert_eq!(exp_not_positive(x).to_bits(), 0);
        }
        // Whatever a NaN carries.
        for bits in (0x7f80_0001..=0x7fff_ffff).step_by(511).chain([0xffc0_0000, 0xff80_01ff]) {
            assert!(exp_not_positive(f32::from_bits(bits)).is_nan());
        }
        assert_eq!(log(1.0), 0.0);
        assert_eq!(log(0.0), f32::NEG_INFINITY);
        assert_eq!(log(f32::INFINITY), f32::INFINITY);
        assert!(log(-1.0).is_nan() && log(f32::NAN).is_nan() && log(f32::NEG_INFINITY).is_nan());
        assert!(ulp(log(1e-42), f64::from(1e-42f32).ln()) <= 2.0);
        for f in [sigmoid as fn(f32) -> f32, tanh, erf] {
            assert_eq!(f(f32::INFINITY), 1.0);
            assert!(f(f32::NAN).is_nan());
        }
        assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(erf(f32::NEG_INFINITY), -1.0);
        assert_eq!((tanh(0.0), erf(0.0)), (0.0, 0.0));
    }
}
