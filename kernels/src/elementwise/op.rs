//! The loop around the arithmetic of two 8-bit operands, written once.

use super::affine::Affine;
use crate::broadcast::{Broadcast, Row};
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::multiversion::multiversion;
use crate::numeric::widen;
use crate::par::Parallel;
use crate::sign::{Sign, flipped};
use crate::simd::{Codes, MAX_LANES, Quad, Real, blocks, quads};

/// Arithmetic on the values of two codes, before the result is rounded to a code.
pub(super) trait Op: Copy + Sync {
    /// The definition.
    fn value<R: Real>(self, a: R, b: R) -> R;

    /// The values of the first codes of `a` and `b`, of type s8 if `S`, which are stored with the other signedness if
    /// `F`; in the order of [`Quad::store_lanes`].
    fn lanes<Q: Quad, const S: bool, const F: bool>(self, a: &[u8], b: &[u8]) -> Q;

    /// Whether [`lanes`](Self::lanes) gives the bits of [`value`](Self::value), all of them small enough to be rounded
    /// before they are limited.
    fn vectorizes(self) -> bool;
}

/// `y = clamp(rne(op(a, b)), min, max)` for codes of type `sign`, shapes paired by `shapes`. `op` is defined on
/// codes of type `domain`; the bounds are as stored. `affine`, if there is one, gives the same codes faster.
#[allow(clippy::too_many_arguments, reason = "an operation with its operands")]
pub(super) fn run<O: Op>(
    cpu: Cpu,
    op: O,
    affine: Option<&Affine>,
    (sign, domain): (Sign, Sign),
    (min, max): (i32, i32),
    par: &dyn Parallel,
    shapes: &Broadcast,
    a: &[u8],
    b: &[u8],
    y: &mut [u8],
) -> Result<(), KernelError> {
    shapes.run(par, a, b, y, |start, y| {
        shapes.rows(start, a, b, y, |row, y| {
            if !affine.is_some_and(|affine| affine.run(cpu, sign, row, y)) {
                signed_row(cpu, op, (sign, domain), (min, max), row, y);
            }
        });
    })
}

/// The codes of all pairs, counted from the least of `sign`: that of `a` and `b` is at `256·a + b`.
pub(super) fn all_pairs<O: Op>(
    cpu: Cpu,
    op: O,
    (sign, domain): (Sign, Sign),
    bounds: (i32, i32),
) -> Vec<u8> {
    let stored = |code: u8| if sign == Sign::S8 { code ^ 0x80 } else { code };
    let b: [u8; 256] = std::array::from_fn(|b| stored(b as u8));
    let mut codes = vec![0; 256 * 256];
    for (a, y) in (0..=u8::MAX).zip(codes.chunks_exact_mut(256)) {
        signed_row(cpu, op, (sign, domain), bounds, Row::ScalarA(stored(a), &b), y);
        y.iter_mut().for_each(|y| *y = stored(*y));
    }
    codes
}

fn signed_row<O: Op>(
    cpu: Cpu,
    op: O,
    (sign, domain): (Sign, Sign),
    (min, max): (i32, i32),
    row: Row<'_, u8, u8>,
    y: &mut [u8],
) {
    let shift = sign.shift_to(domain);
    let codes = Codes { zero_point: 0, min: min + shift, max: max + shift };
    match (domain, shift != 0) {
        (Sign::U8, false) => run_row::<O, false, false>(cpu, row, y, op, codes),
        (Sign::U8, true) => run_row::<O, false, true>(cpu, row, y, op, codes),
        (Sign::S8, false) => run_row::<O, true, false>(cpu, row, y, op, codes),
        (Sign::S8, true) => run_row::<O, true, true>(cpu, row, y, op, codes),
    }
}

fn run_row<O: Op, const S: bool, const F: bool>(
    cpu: Cpu,
    row: Row<'_, u8, u8>,
    y: &mut [u8],
    op: O,
    codes: Codes,
) {
    if op.vectorizes() {
        quad_row::<O, S, F>(cpu, row, y, op, codes);
    } else {
        plain_row::<O, S, F>(cpu, row, y, op, codes);
    }
}

quads!(fn quad_row[O: Op, const S: bool, const F: bool][O, S, F] = quad_row_body, plain_row_body(row: Row<'_, u8, u8>, y: &mut [u8], op: O, codes: Codes), y.len());
multiversion!(fn plain_row[O: Op, const S: bool, const F: bool][O, S, F] = plain_row_body(row: Row<'_, u8, u8>, y: &mut [u8], op: O, codes: Codes));

/// The definition. `S` and `F` are as for [`Op::lanes`].
#[inline(always)]
fn plain_row_body<O: Op, const S: bool, const F: bool>(
    row: Row<'_, u8, u8>,
    y: &mut [u8],
    op: O,
    codes: Codes,
) {
    let value = |stored: u8| widen::<S>(flipped::<F>(stored)) as f32;
    let code = |v: f32| flipped::<F>(codes.of(v) as u8);
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
fn quad_row_body<Q: Quad, O: Op, const S: bool, const F: bool>(
    row: Row<'_, u8, u8>,
    y: &mut [u8],
    op: O,
    codes: Codes,
) {
    // Where this is a constant it saves the loop an addition.
    let codes = Codes { zero_point: 0, ..codes };
    match row {
        Row::Both(a, b) => {
            for at in blocks(y.len(), Q::N) {
                op.lanes::<Q, S, F>(&a[at..], &b[at..]).store_lanes::<S, F>(codes, &mut y[at..]);
            }
        }
        Row::ScalarA(a, b) => {
            let a = [a; MAX_LANES];
            for at in blocks(y.len(), Q::N) {
                op.lanes::<Q, S, F>(&a, &b[at..]).store_lanes::<S, F>(codes, &mut y[at..]);
            }
        }
        Row::ScalarB(a, b) => {
            let b = [b; MAX_LANES];
            for at in blocks(y.len(), Q::N) {
                op.lanes::<Q, S, F>(&a[at..], &b).store_lanes::<S, F>(codes, &mut y[at..]);
            }
        }
    }
}
