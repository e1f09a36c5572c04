//! f32 functions of one tensor.

use crate::cpu::Cpu;
use crate::error::{KernelError, check_len};
use crate::math;
use crate::multiversion::multiversion;
use crate::numeric::clamp;
use crate::par::Parallel;
use crate::split::{self, TASK_BYTES};

/// An elementwise function. [`eval`](Self::eval) is its definition; the slice forms give the same bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// `max(x, 0)`; NaN gives 0.
    Relu,
    /// `min(max(x, lo), hi)`; NaN gives `lo`.
    Clip {
        /// Lower bound.
        lo: f32,
        /// Upper bound.
        hi: f32,
    },
    /// `x` if positive, else `alpha·x`.
    LeakyRelu {
        /// Slope for negative `x`.
        alpha: f32,
    },
    /// `x` if positive, else `alpha·(eˣ − 1)`.
    Elu {
        /// Factor for negative `x`.
        alpha: f32,
    },
    /// `1/(1 + e⁻ˣ)`.
    Sigmoid,
    /// `min(max(alpha·x + beta, 0), 1)`.
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at 0.
        beta: f32,
    },
    /// `x·min(max(x/6 + ½, 0), 1)`, with `x/6` as `x` times f32(1/6).
    HardSwish,
    /// `x·sigmoid(x)`.
    Silu,
    /// `x·½·(1 + erf(x/√2))`.
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
    /// Error function.
    Erf,
    /// eˣ.
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// `1/x`.
    Reciprocal,
    /// `−x`.
    Neg,
    /// `|x|`.
    Abs,
    /// `x·x`.
    Square,
    /// Largest integer not above `x`.
    Floor,
    /// Smallest integer not below `x`.
    Ceil,
    /// Nearest integer, ties to even.
    Round,
}

/// `$apply(slices, f)` with the function `f` of `$op`: one list serves every kind of loop, and the choice is made outside of it.
macro_rules! with_function {
    ($op:expr, $apply:ident($($slice:expr),*)) => {
        match $op {
            Unary::Relu => $apply($($slice),*, |x| if x > 0.0 { x } else { 0.0 }),
            Unary::Clip { lo, hi } => $apply($($slice),*, move |x| clamp(x, lo, hi)),
            Unary::LeakyRelu { alpha } => $apply($($slice),*, move |x| if x > 0.0 { x } else { alpha * x }),
            Unary::Elu { alpha } => $apply($($slice),*, move |x| if x > 0.0 { x } else { alpha * (math::exp(x) - 1.0) }),
            Unary::Sigmoid => $apply($($slice),*, math::sigmoid),
            Unary::HardSigmoid { alpha, beta } => $apply($($slice),*, move |x| clamp(alpha * x + beta, 0.0, 1.0)),
            Unary::HardSwish => $apply($($slice),*, |x| x * clamp(x * (1.0 / 6.0) + 0.5, 0.0, 1.0)),
            Unary::Silu => $apply($($slice),*, |x| x * math::sigmoid(x)),
            Unary::Gelu => $apply($($slice),*, |x| x * 0.5 * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2))),
            Unary::Tanh => $apply($($slice),*, math::tanh),
            Unary::Erf => $apply($($slice),*, math::erf),
            Unary::Exp => $apply($($slice),*, math::exp),
            Unary::Log => $apply($($slice),*, math::log),
            Unary::Sqrt => $apply($($slice),*, f32::sqrt),
            Unary::Reciprocal => $apply($($slice),*, |x| 1.0 / x),
            Unary::Neg => $apply($($slice),*, |x: f32| -x),
            Unary::Abs => $apply($($slice),*, f32::abs),
            Unary::Square => $apply($($slice),*, |x| x * x),
            Unary::Floor => $apply($($slice),*, f32::floor),
            Unary::Ceil => $apply($($slice),*, f32::ceil),
            Unary::Round => $apply($($slice),*, f32::round_ties_even),
        }
    };
}

impl Unary {
    /// The function of one value.
    pub fn eval(self, x: f32) -> f32 {
        let mut y = [x];
        map_in_place_body(self, &mut y);
        y[0]
    }

    /// `y[i] = f(x[i])`; both have the same length.
    ///
    /// # Errors
    /// If the lengths differ.
    pub fn run(
        self,
        cpu: Cpu,
        par: &dyn Parallel,
        x: &[f32],
        y: &mut [f32],
    ) -> Result<(), KernelError> {
        check_len("y", y.len(), x.len())?;
        const CHUNK: usize = TASK_BYTES / 4;
        split::chunks(par, y, CHUNK, |i, y| map(cpu, self, &x[i * CHUNK..][..y.len()], y));
        Ok(())
    }

    /// `y[i] = f(y[i])`.
    pub fn run_in_place(self, cpu: Cpu, par: &dyn Parallel, y: &mut [f32]) {
        split::chunks(par, y, TASK_BYTES / 4, |_, y| map_in_place(cpu, self, y));
    }
}

multiversion!(fn map = map_body(op: Unary, x: &[f32], y: &mut [f32]));
multiversion!(fn map_in_place = map_in_place_body(op: Unary, y: &mut [f32]));

#[inline(always)]
fn map_body(op: Unary, x: &[f32], y: &mut [f32]) {
    with_function!(op, each(x, y));
}

#[inline(always)]
fn map_in_place_body(op: Unary, y: &mut [f32]) {
    with_function!(op, each_in_place(y));
}

#[inline(always)]
fn each(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = f(x);
    }
}

#[inline(always)]
fn each_in_place(y: &mut [f32], f: impl Fn(f32) -> f32) {
    for y in y {
        *y = f(*y);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::split::testing::{cpus, pool};
    use proptest::prelude::*;

    const ALL: [Unary; 21] = [
        Unary::Relu,
        Unary::Clip { lo: -0.5, hi: 6.0 },
        Unary::LeakyRelu { alpha: 0.1 },
        Unary::Elu { alpha: 0.7 },
        Unary::Sigmoid,
        Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Unary::HardSwish,
        Unary::Silu,
        Unary::Gelu,
        Unary::Tanh,
        Unary::Erf,
        Unary::Exp,
        Unary::Log,
        Unary::Sqrt,
        Unary::Reciprocal,
        Unary::Neg,
        Unary::Abs,
        Unary::Square,
        Unary::Floor,
        Unary::Ceil,
        Unary::Round,
    ];

    proptest! {
        #[test]
        fn every_isa_gives_the_bits_of_the_definition(
            x in prop::collection::vec(prop_oneof![any::<f32>(), -20f32..20.0], 0..100),
        ) {
            for op in ALL {
                // NaN payloads and signs are the one thing IEEE 754 leaves open.
                let canonical = |v: f32| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() };
                let want: Vec<u32> = x.iter().map(|&x| canonical(op.eval(x))).collect();
                for cpu in cpus() {
                    let mut y = vec![0.0; x.len()];
                    op.run(cpu, &pool(), &x, &mut y).unwrap();
                    prop_assert!(y.iter().map(|&v| canonical(v)).eq(want.iter().copied()), "{op:?} {}", cpu.isa());
                    y.copy_from_slice(&x);
                    op.run_in_place(cpu, &pool(), &mut y);
                    prop_assert!(y.iter().map(|&v| canonical(v)).eq(want.iter().copied()), "{op:?} {}", cpu.isa());
                }
            }
        }
    }

    #[test]
    fn values_by_hand() {
        let cases = [
            (Unary::Relu, -1.0, 0.0),
            (Unary::Clip { lo: 0.0, hi: 6.0 }, 7.0, 6.0),
            (Unary::LeakyRelu { alpha: 0.5 }, -2.0, -1.0),
            (Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }, 1.0, 0.7),
            (Unary::HardSwish, 3.0, 3.0),
            (Unary::HardSwish, -3.0, 0.0),
            (Unary::Sigmoid, 0.0, 0.5),
            (Unary::Gelu, 0.0, 0.0),
            (Unary::Exp, 1.0, std::f32::consts::E),
            (Unary::Sqrt, 9.0, 3.0),
            (Unary::Round, 2.5, 2.0),
            (Unary::Square, -3.0, 9.0),
        ];
        for (op, x, y) in cases {
            assert!((op.eval(x) - y).abs() <= 1e-6, "{op:?}({x}) = {}", op.eval(x));
        }
    }
}
