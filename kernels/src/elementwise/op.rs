//! The loop around the arithmetic of two 8-bit operands, written once.

use crate::broadcast::{Broadcast, Row};
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::multiversion::multiversion;
use crate::numeric::widen;
use crate::par::Parallel;
use crate::sign::Sign;
use crate::simd::{Codes, Quad, Real, blocks, quads};

/// Arithmetic on the values of two codes, before the result is rounded to a code.
pub(super) trait Op: Copy + Sync {
    fn value<R: Real>(self, a: R, b: R) -> R;

    /// A bound of the magnitude of every value.
    fn limit(self) -> f64;

    /// What the result is above its stored code.
    #[inline(always)]
    fn shift(self) -> i32 {
        0
    }
}

/// An operation on codes that are stored with the other signedness, so that `shift` leads from what is stored to
/// its operands and results.
#[derive(Clone, Copy)]
struct Flipped<O> {
    op: O,
    shift: i32,
}

impl<O: Op> Op for Flipped<O> {
    #[inline(always)]
    fn value<R: Real>(self, a: R, b: R) -> R {
        let shift = R::splat(self.shift as f32);
        self.op.value(a.add(shift), b.add(shift))
    }

    fn limit(self) -> f64 {
        self.op.limit()
    }

    #[inline(always)]
    fn shift(self) -> i32 {
        self.shift
    }
}

/// `y = clamp(rne(op(a, b)), min, max)` for codes of type `sign`, shapes paired by `shapes`. `op` is defined on
/// codes of type `domain`; the bounds are as stored.
#[allow(clippy::too_many_arguments, reason = "an operation with its operands")]
pub(super) fn run<O: Op>(
    cpu: Cpu,
    op: O,
    (sign, domain): (Sign, Sign),
    bounds: (i32, i32),
    par: &dyn Parallel,
    shapes: &Broadcast,
    a: &[u8],
    b: &[u8],
    y: &mut [u8],
) -> Result<(), KernelError> {
    match sign.shift_to(domain) {
        0 => run_op(cpu, op, sign, bounds, par, shapes, a, b, y),
        shift => run_op(cpu, Flipped { op, shift }, sign, bounds, par, shapes, a, b, y),
    }
}

#[allow(clippy::too_many_arguments, reason = "an operation with its operands")]
fn run_op<O: Op>(
    cpu: Cpu,
    op: O,
    sign: Sign,
    (min, max): (i32, i32),
    par: &dyn Parallel,
    shapes: &Broadcast,
    a: &[u8],
    b: &[u8],
    y: &mut [u8],
) -> Result<(), KernelError> {
    let codes = Codes { zero_point: -op.shift(), min, max };
    // Where a value might not fit the vector conversion to s32 the loops clamp before they round.
    let fits = op.limit() < f64::from(i32::MAX);
    shapes.run(par, a, b, y, |start, y| {
        shapes.rows(start, a, b, y, |row, y| match (fits, sign) {
            (true, Sign::U8) => quad_row::<O, false>(cpu, row, y, op, codes),
            (true, Sign::S8) => quad_row::<O, true>(cpu, row, y, op, codes),
            (false, Sign::U8) => plain_row::<O, false>(cpu, row, y, op, codes),
            (false, Sign::S8) => plain_row::<O, true>(cpu, row, y, op, codes),
        });
    })
}

quads!(fn quad_row[O: Op, const S: bool][O, S] = quad_row_body, plain_row_body(row: Row<'_, u8, u8>, y: &mut [u8], op: O, codes: Codes), y.len());
multiversion!(fn plain_row[O: Op, const S: bool][O, S] = plain_row_body(row: Row<'_, u8, u8>, y: &mut [u8], op: O, codes: Codes));

/// The definition.
#[inline(always)]
fn plain_row_body<O: Op, const S: bool>(row: Row<'_, u8, u8>, y: &mut [u8], op: O, codes: Codes) {
    let value = |code: u8| widen::<S>(code) as f32;
    let code = |v: f32| codes.of(v) as u8;
    match row {
        Row::Both(a, b) => {
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                *y = code(op.value(value(a), value(b)));
            }
        }
        Row::ScalarA(a, b) => {
            for (y, &b) in y.iter_mut().zip(b) {
                *y = code(op.value(value(a), value(b)));
            }
        }
        Row::ScalarB(a, b) => {
            for (y, &a) in y.iter_mut().zip(a) {
                *y = code(op.value(value(a), value(b)));
            }
        }
    }
}

#[inline(always)]
fn quad_row_body<Q: Quad, O: Op, const S: bool>(
    row: Row<'_, u8, u8>,
    y: &mut [u8],
    op: O,
    codes: Codes,
) {
    // Where this is a constant it saves the loop an addition.
    let codes = Codes { zero_point: -op.shift(), ..codes };
    let splat = |code: u8| Q::splat(widen::<S>(code) as f32);
    match row {
        Row::Both(a, b) => {
            for at in blocks(y.len(), Q::N) {
                let (a, b) = (Q::codes::<S>(&a[at..]), Q::codes::<S>(&b[at..]));
                op.value(a, b).store_codes::<S>(codes, &mut y[at..]);
            }
        }
        Row::ScalarA(a, b) => {
            let a = splat(a);
            for at in blocks(y.len(), Q::N) {
                op.value(a, Q::codes::<S>(&b[at..])).store_codes::<S>(codes, &mut y[at..]);
            }
        }
        Row::ScalarB(a, b) => {
            let b = splat(b);
            for at in blocks(y.len(), Q::N) {
                op.value(Q::codes::<S>(&a[at..]), b).store_codes::<S>(codes, &mut y[at..]);
            }
        }
    }
}
