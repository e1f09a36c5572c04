//! s32 → 8 bit.

use super::{check_bounds, check_code, type_range};
use crate::cpu::Cpu;
use crate::error::{KernelError, check_at_least, check_len};
use crate::numeric::{clamp, rne};
use crate::par::Parallel;
use crate::sign::Sign;
use crate::simd::{AlignedF32, Codes, Quad, blocks, quads};
use crate::split::{self, TASK_BYTES};

/// `y = clamp(rne(f32(acc) · m) + zero_point, min, max)`, s32 accumulators to 8 bits in `HalfEven` rounding
/// (numerics.md; `MlasRequantizeOutput`). `m` is one value or one per index of the last axis.
#[derive(Clone, Debug)]
pub struct Requantize {
    cpu: Cpu,
    multipliers: AlignedF32,
    /// Whether every multiplier is below 1, so that no product leaves s32 before it is limited.
    small: bool,
    sign: Sign,
    zero_point: i32,
    min: i32,
    max: i32,
}

impl Requantize {
    /// Output to `sign`'s type, limited to `[min, max]`.
    ///
    /// # Errors
    /// If there is no multiplier, one is not finite, or `zero_point`, `min`, `max` do not fit the type.
    pub fn new(
        cpu: Cpu,
        multipliers: Vec<f32>,
        zero_point: i32,
        sign: Sign,
        (min, max): (i32, i32),
    ) -> Result<Self, KernelError> {
        check_at_least("multipliers", multipliers.len(), 1)?;
        if let Some(m) = multipliers.iter().find(|m| !m.is_finite()) {
            return Err(KernelError::invalid("a multiplier", m, "finite"));
        }
        check_code("the zero point", zero_point, type_range(sign))?;
        check_bounds(min, max, type_range(sign))?;
        let small = multipliers.iter().all(|m| m.abs() < 1.0);
        Ok(Self { cpu, multipliers: multipliers[..].into(), small, sign, zero_point, min, max })
    }

    /// Requantizes `acc` to `y`; both have the same length, a multiple of the number of multipliers.
    ///
    /// # Errors
    /// If the lengths do not fit.
    pub fn run(&self, par: &dyn Parallel, acc: &[i32], y: &mut [u8]) -> Result<(), KernelError> {
        check_len("y", y.len(), acc.len())?;
        let axis = self.multipliers.len();
        let codes = Codes { zero_point: self.zero_point, min: self.min, max: self.max };
        if axis == 1 {
            split::chunks(par, y, TASK_BYTES, |i, y| {
                let acc = &acc[i * TASK_BYTES..][..y.len()];
                self.part(acc, y, codes);
            });
            return Ok(());
        }
        if !y.len().is_multiple_of(axis) {
            return Err(KernelError::invalid(
                "the length",
                y.len(),
                "a multiple of the number of multipliers",
            ));
        }
        let rows = split::rows_per_task(axis);
        split::chunks(par, y, rows * axis, |i, y| {
            let acc = &acc[i * rows * axis..][..y.len()];
            self.part(acc, y, codes);
        });
        Ok(())
    }

    fn part(&self, acc: &[i32], y: &mut [u8], codes: Codes) {
        match (self.sign, self.small) {
            (Sign::U8, true) => self.part_of::<false, true>(acc, y, codes),
            (Sign::U8, false) => self.part_of::<false, false>(acc, y, codes),
            (Sign::S8, true) => self.part_of::<true, true>(acc, y, codes),
            (Sign::S8, false) => self.part_of::<true, false>(acc, y, codes),
        }
    }

    fn part_of<const S: bool, const SMALL: bool>(&self, acc: &[i32], y: &mut [u8], codes: Codes) {
        match self.multipliers[..] {
            [m] => requantize_span::<S, SMALL>(self.cpu, acc, y, m, codes),
            ref m => requantize_rows::<S, SMALL>(self.cpu, acc, y, m, codes),
        }
    }
}

quads!(fn requantize_span[const S: bool, const SMALL: bool][S, SMALL] = requantize_span_quads, requantize_span_body(acc: &[i32], y: &mut [u8], m: f32, codes: Codes), y.len());
quads!(fn requantize_rows[const S: bool, const SMALL: bool][S, SMALL] = requantize_rows_quads, requantize_rows_body(acc: &[i32], y: &mut [u8], m: &[f32], codes: Codes), m.len());

/// One requantized value; `lo` and `hi` are the bounds less the zero point.
#[inline(always)]
pub(crate) fn requantized(acc: i32, m: f32, zero_point: i32, lo: f32, hi: f32) -> u8 {
    (rne(clamp(acc as f32 * m, lo, hi)) + zero_point) as u8
}

#[inline(always)]
fn requantize_span_body<const S: bool, const SMALL: bool>(
    acc: &[i32],
    y: &mut [u8],
    m: f32,
    codes: Codes,
) {
    for (y, &acc) in y.iter_mut().zip(acc) {
        *y = codes.of(acc as f32 * m) as u8;
    }
}

#[inline(always)]
fn requantize_rows_body<const S: bool, const SMALL: bool>(
    acc: &[i32],
    y: &mut [u8],
    m: &[f32],
    codes: Codes,
) {
    for (acc, y) in acc.chunks(m.len()).zip(y.chunks_mut(m.len())) {
        for ((y, &acc), &m) in y.iter_mut().zip(acc).zip(m) {
            *y = codes.of(acc as f32 * m) as u8;
        }
    }
}

#[inline(always)]
fn requantize_span_quads<Q: Quad, const S: bool, const SMALL: bool>(
    acc: &[i32],
    y: &mut [u8],
    m: f32,
    codes: Codes,
) {
    let (acc, m, hi) = (&acc[..y.len()], Q::splat(m), Q::splat(codes.offsets().1));
    for at in blocks(y.len(), Q::N) {
        let v = Q::load_i32(&acc[at..]).mul(m);
        let v = if SMALL { v } else { v.min(hi) };
        v.store_codes::<S>(codes, &mut y[at..]);
    }
}

#[inline(always)]
fn requantize_rows_quads<Q: Quad, const S: bool, const SMALL: bool>(
    acc: &[i32],
    y: &mut [u8],
    m: &[f32],
    codes: Codes,
) {
    let hi = Q::splat(codes.offsets().1);
    for (acc, y) in acc.chunks_exact(m.len()).zip(y.chunks_exact_mut(m.len())) {
        for at in blocks(m.len(), Q::N) {
            let v = Q::load_i32(&acc[at..]).mul(Q::load(&m[at..]));
            let v = if SMALL { v } else { v.min(hi) };
            v.store_codes::<S>(codes, &mut y[at..]);
        }
    }
}
