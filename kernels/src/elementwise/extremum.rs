//! The lesser or greater of two 8-bit tensors that share scale and zero point.
//!
//! With positive scales codes are ordered as their values are, so the extremum is one of the two codes; a change
//! of scale or type afterwards, or a clamp, is a function of one code and thus a [`Lut`], exactly.

use crate::broadcast::Broadcast;
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::lut::Lut;
use crate::multiversion::multiversion;
use crate::numeric::widen;
use crate::par::{Parallel, Serial};
use crate::sign::Sign;

/// Which of two codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extremum {
    /// The lesser.
    Min,
    /// The greater.
    Max,
}

/// `y = f(min(a, b))` or `y = f(max(a, b))`, where `f` is the identity or a table.
#[derive(Clone, Debug)]
pub struct QExtremum {
    cpu: Cpu,
    which: Extremum,
    sign: Sign,
    then: Option<Lut>,
}

impl QExtremum {
    /// `a` and `b` are codes of type `sign` with the same scale and zero point. `then` turns the chosen code into
    /// that of the output, if the output has other parameters ([`Lut::requantize`]).
    pub fn new(cpu: Cpu, which: Extremum, sign: Sign, then: Option<Lut>) -> Self {
        Self { cpu, which, sign, then }
    }

    /// Computes `y`, shapes paired by `shapes`.
    ///
    /// # Errors
    /// If a slice is not of the length that `shapes` says.
    pub fn run(
        &self,
        par: &dyn Parallel,
        shapes: &Broadcast,
        a: &[u8],
        b: &[u8],
        y: &mut [u8],
    ) -> Result<(), KernelError> {
        shapes.run(par, a, b, y, |start, y| {
            match (self.which, self.sign) {
                (Extremum::Min, Sign::U8) => {
                    extremum::<false, false>(self.cpu, shapes, start, a, b, y)
                }
                (Extremum::Min, Sign::S8) => {
                    extremum::<false, true>(self.cpu, shapes, start, a, b, y)
                }
                (Extremum::Max, Sign::U8) => {
                    extremum::<true, false>(self.cpu, shapes, start, a, b, y)
                }
                (Extremum::Max, Sign::S8) => {
                    extremum::<true, true>(self.cpu, shapes, start, a, b, y)
                }
            }
            if let Some(lut) = &self.then {
                lut.run_in_place(&Serial, y);
            }
        })
    }
}

multiversion!(fn extremum[const MAX: bool, const S: bool][MAX, S] = extremum_body(shapes: &Broadcast, start: usize, a: &[u8], b: &[u8], y: &mut [u8]));

#[inline(always)]
fn extremum_body<const MAX: bool, const S: bool>(
    shapes: &Broadcast,
    start: usize,
    a: &[u8],
    b: &[u8],
    y: &mut [u8],
) {
    shapes.map(start, a, b, y, |a, b| if (widen::<S>(a) < widen::<S>(b)) == MAX { b } else { a });
}
