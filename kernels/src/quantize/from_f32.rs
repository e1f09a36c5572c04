//! f32 → 8 bit and s16.
//!
//! The division is what takes longest. `x / scale` differs from `fma(x, r, x·r')`, where `r + r'` is `1 / scale` to 48
//! bits, for very few `x`, and a code differs only if such an `x` is next to where codes change: 256 places, which
//! [`same_codes`] tries before a quantization does without them. Another two fused operations make the quotient of any
//! `x` right ([`corrected`]).

use super::{check_bounds, check_code, check_scale, type_range};
use crate::cpu::Cpu;
use crate::error::{KernelError, check_len};
use crate::multiversion::multiversion;
use crate::numeric::fused;
use crate::par::Parallel;
use crate::sign::Sign;
use crate::simd::{Codes, Quad, Real, blocks, quads};
use crate::split::{self, TASK_BYTES};

/// `y = clamp(rne(x / scale) + zero_point, min, max)`: the division is a true f32 division.
#[derive(Clone, Copy, Debug)]
pub struct Quantize {
    cpu: Cpu,
    scale: f32,
    /// How values are divided by the scale.
    division: Division,
    zero_point: i32,
    type_range: (i32, i32),
    min: i32,
    max: i32,
}

/// A division by the scale for 8-bit codes.
#[derive(Clone, Copy, Debug)]
enum Division {
    /// The definition.
    True,
    /// Multiplying by the reciprocal in two parts, and correcting the quotient.
    Corrected([f32; 2]),
    /// Multiplying only, which has been seen to give the same codes.
    Multiplied([f32; 2]),
}

impl Quantize {
    /// Quantization to `sign`'s 8-bit type.
    ///
    /// # Errors
    /// If `scale` is not finite and positive, or `zero_point` is outside the type.
    pub fn new(cpu: Cpu, scale: f32, zero_point: i32, sign: Sign) -> Result<Self, KernelError> {
        check_scale("the scale", scale)?;
        check_code("the zero point", zero_point, type_range(sign))?;
        let mut quantize = Self::unchecked(cpu, scale, zero_point, type_range(sign));
        if let Division::Corrected(reciprocal) = quantize.division
            && same_codes(scale, reciprocal)
        {
            quantize.division = Division::Multiplied(reciprocal);
        }
        Ok(quantize)
    }

    /// Quantization to s16; see [`run_s16`](Self::run_s16).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_s16(cpu: Cpu, scale: f32, zero_point: i32) -> Result<Self, KernelError> {
        let type_range = (i32::from(i16::MIN), i32::from(i16::MAX));
        check_scale("the scale", scale)?;
        check_code("the zero point", zero_point, type_range)?;
        Ok(Self::unchecked(cpu, scale, zero_point, type_range))
    }

    /// As [`new`](Self::new) for parameters that a kernel has found itself, perhaps for few values.
    pub(super) fn unchecked(cpu: Cpu, scale: f32, zero_point: i32, (min, max): (i32, i32)) -> Self {
        let division = match reciprocal(scale) {
            Some(reciprocal) => Division::Corrected(reciprocal),
            None => Division::True,
        };
        Self { cpu, scale, division, zero_point, type_range: (min, max), min, max }
    }

    /// Scale and zero point.
    pub(super) fn parameters(&self) -> (f32, i32) {
        (self.scale, self.zero_point)
    }

    /// Limits the result to the codes `[min, max]` (a relu or clip that follows, rounded by this quantization).
    ///
    /// # Errors
    /// If `min > max` or a bound is outside the type.
    pub fn bounds(mut self, min: i32, max: i32) -> Result<Self, KernelError> {
        check_bounds(min, max, self.type_range)?;
        (self.min, self.max) = (min, max);
        Ok(self)
    }

    /// Quantizes `x` to 8-bit codes in `y`; both have the same length.
    ///
    /// # Errors
    /// If the lengths differ or `self` was made for s16.
    pub fn run(&self, par: &dyn Parallel, x: &[f32], y: &mut [u8]) -> Result<(), KernelError> {
        self.check_8_bit()?;
        check_len("y", y.len(), x.len())?;
        split::chunks(par, y, TASK_BYTES, |i, y| {
            let x = &x[i * TASK_BYTES..][..y.len()];
            self.slice(x, y);
        });
        Ok(())
    }

    /// Quantizes on the calling thread, after [`check_8_bit`](Self::check_8_bit).
    pub(crate) fn slice(&self, x: &[f32], y: &mut [u8]) {
        if self.type_range.0 < 0 {
            quantize8::<true>(self.cpu, x, y, self);
        } else {
            quantize8::<false>(self.cpu, x, y, self);
        }
    }

    /// Fails if `self` was made for s16.
    pub(crate) fn check_8_bit(&self) -> Result<(), KernelError> {
        if self.type_range.1 > 255 {
            return Err(KernelError::invalid(
                "the output",
                "8 bits wide",
                "s16, as this quantization was made for",
            ));
        }
        Ok(())
    }

    /// Quantizes `x` to s16; both have the same length.
    ///
    /// # Errors
    /// If the lengths differ or `self` was made for 8 bits.
    pub fn run_s16(&self, par: &dyn Parallel, x: &[f32], y: &mut [i16]) -> Result<(), KernelError> {
        self.check_s16()?;
        check_len("y", y.len(), x.len())?;
        split::chunks(par, y, TASK_BYTES, |i, y| {
            let x = &x[i * TASK_BYTES..][..y.len()];
            self.slice_s16(x, y);
        });
        Ok(())
    }

    /// Quantizes on the calling thread, after [`check_s16`](Self::check_s16).
    pub(super) fn slice_s16(&self, x: &[f32], y: &mut [i16]) {
        quantize16(self.cpu, x, y, self);
    }

    /// Fails if `self` was made for 8 bits.
    pub(super) fn check_s16(&self) -> Result<(), KernelError> {
        if self.type_range.1 <= 255 {
            return Err(KernelError::invalid(
                "the output",
                "s16",
                "8 bits wide, as this quantization was made for",
            ));
        }
        Ok(())
    }

    /// The code of one value: the definition, which the slice forms follow bit for bit.
    #[inline(always)]
    pub fn code(&self, x: f32) -> i32 {
        self.codes().of(x / self.scale)
    }

    #[inline(always)]
    fn codes(&self) -> Codes {
        Codes { zero_point: self.zero_point, min: self.min, max: self.max }
    }
}

quads!(fn quantize8[const S: bool][S] = quantize8_quads, quantize8_body(x: &[f32], y: &mut [u8], q: &Quantize), y.len());
multiversion!(fn quantize16 = quantize16_body(x: &[f32], y: &mut [i16], q: &Quantize));

/// `1 / scale` in two parts, unless quotients might come near to where f32 ends: then nothing overflows, and what
/// underflows is far below a half.
pub(super) fn reciprocal(scale: f32) -> Option<[f32; 2]> {
    let r = 1.0 / f64::from(scale);
    let reciprocal = [r as f32, (r - f64::from(r as f32)) as f32];
    (1e-18..1e18).contains(&scale).then_some(reciprocal)
}

/// Whether multiplying by the reciprocal gives the 8-bit codes that dividing by `scale` gives.
///
/// Both quotients are within 2⁻²⁴ and a little more of the true one. Three units in the last place from where the true
/// one is a half and codes change, they are on the same side of it.
fn same_codes(scale: f32, reciprocal: [f32; 2]) -> bool {
    let same = |x: f32| (x / scale).round_ties_even() == quotient(x, reciprocal).round_ties_even();
    let same_around = |code: i16| {
        let bits = ((f32::from(code) + 0.5) * scale).to_bits();
        (bits - 3..=bits + 3).all(|bits| same(f32::from_bits(bits)))
    };
    // Negative values have the same quotients but for the sign.
    (0..256).all(same_around)
}

/// `x / scale` by its `reciprocal`.
#[inline(always)]
pub(super) fn quotient(x: f32, [high, low]: [f32; 2]) -> f32 {
    fused(x, high, x * low)
}

/// `x / −minus_scale`, rounded as the division is, from its `quotient`. That is one of the two neighbours of the true
/// one, so that the remainder is exact; with the nearest reciprocal, what it adds to the quotient rounds as it should
/// (Markstein 1990).
#[inline(always)]
pub(super) fn corrected<R: Real>(x: R, quotient: R, minus_scale: R, reciprocal: R) -> R {
    quotient.mul_add(minus_scale, x).mul_add(reciprocal, quotient)
}

/// A value of so many scales is beyond every code, and its quotient an s32.
const BEYOND: f32 = 1024.0;

#[inline(always)]
fn quantize8_quads<Q: Quad, const S: bool>(x: &[f32], y: &mut [u8], q: &Quantize) {
    let (x, codes) = (&x[..y.len()], q.codes());
    let beyond = Q::splat(BEYOND * q.scale);
    // NaN becomes the smallest code, and so may large negative values on their way.
    match q.division {
        Division::Multiplied(reciprocal) if Q::FUSES => {
            // Bounds known to the compiler leave no branch in the loop.
            if codes.whole_type::<S>() {
                multiply_quads::<Q, S>(x, y, reciprocal, beyond, codes.of_whole_type::<S>());
            } else {
                multiply_quads::<Q, S>(x, y, reciprocal, beyond, codes);
            }
        }
        Division::Corrected(reciprocal) if Q::FUSES => {
            let ([high, low], minus_scale) = (reciprocal.map(Q::splat), Q::splat(-q.scale));
            for at in blocks(y.len(), Q::N) {
                let x = Q::load(&x[at..]).min(beyond);
                let v = corrected(x, x.mul_add(high, x.mul(low)), minus_scale, high);
                v.store_codes::<S>(codes, &mut y[at..]);
            }
        }
        _ => {
            let (scale, hi) = (Q::splat(q.scale), Q::splat(codes.offsets().1));
            for at in blocks(y.len(), Q::N) {
                let v = Q::load(&x[at..]).div(scale).min(hi);
                v.store_codes::<S>(codes, &mut y[at..]);
            }
        }
    }
}

/// Two blocks at a time: one alone leaves the units that it needs first idle at its end.
#[inline(always)]
fn multiply_quads<Q: Quad, const S: bool>(
    x: &[f32],
    y: &mut [u8],
    reciprocal: [f32; 2],
    beyond: Q,
    codes: Codes,
) {
    let [high, low] = reciprocal.map(Q::splat);
    let pairs = y.len() / (2 * Q::N) * (2 * Q::N);
    for at in (0..pairs).step_by(2 * Q::N) {
        let next = at + Q::N;
        let (x0, x1) = (Q::load(&x[at..]).min(beyond), Q::load(&x[next..]).min(beyond));
        let (v0, v1) = (x0.mul(low), x1.mul(low));
        let (v0, v1) = (x0.mul_add(high, v0), x1.mul_add(high, v1));
        v0.store_codes::<S>(codes, &mut y[at..]);
        v1.store_codes::<S>(codes, &mut y[next..]);
    }
    for at in blocks(y.len(), Q::N).from(pairs) {
        let x = Q::load(&x[at..]).min(beyond);
        x.mul_add(high, x.mul(low)).store_codes::<S>(codes, &mut y[at..]);
    }
}

#[inline(always)]
fn quantize8_body<const S: bool>(x: &[f32], y: &mut [u8], q: &Quantize) {
    let q = *q;
    for (y, &x) in y.iter_mut().zip(x) {
        *y = q.code(x) as u8;
    }
}

#[inline(always)]
fn quantize16_body(x: &[f32], y: &mut [i16], q: &Quantize) {
    let q = *q;
    for (y, &x) in y.iter_mut().zip(x) {
        *y = q.code(x) as i16;
    }
}
