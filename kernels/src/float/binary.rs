//! f32 functions of two tensors with NumPy broadcasting.

use crate::broadcast::Broadcast;
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::multiversion::multiversion;
use crate::par::Parallel;

/// An arithmetic function of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    /// `a + b`.
    Add,
    /// `a − b`.
    Sub,
    /// `a·b`.
    Mul,
    /// `a/b`.
    Div,
    /// The smaller one; `b` if either is NaN.
    Min,
    /// The larger one; `b` if either is NaN.
    Max,
    /// `a` if positive, else `a·b`: PRelu with slope `b`.
    PRelu,
}

/// A binary operation on two shapes.
#[derive(Clone, Debug)]
pub struct Binary {
    cpu: Cpu,
    op: BinaryOp,
    shapes: Broadcast,
}

impl Binary {
    /// `op` on operands paired by `shapes`.
    pub fn new(cpu: Cpu, op: BinaryOp, shapes: Broadcast) -> Self {
        Self { cpu, op, shapes }
    }

    /// `y = op(a, b)`.
    ///
    /// # Errors
    /// If a slice is not of the length that its shape says.
    pub fn run(
        &self,
        par: &dyn Parallel,
        a: &[f32],
        b: &[f32],
        y: &mut [f32],
    ) -> Result<(), KernelError> {
        self.shapes
            .run(par, a, b, y, |start, y| binary(self.cpu, self.op, &self.shapes, start, a, b, y))
    }
}

multiversion!(fn binary = binary_body(op: BinaryOp, shapes: &Broadcast, start: usize, a: &[f32], b: &[f32], y: &mut [f32]));

#[inline(always)]
fn binary_body(
    op: BinaryOp,
    shapes: &Broadcast,
    start: usize,
    a: &[f32],
    b: &[f32],
    y: &mut [f32],
) {
    match op {
        BinaryOp::Add => shapes.map(start, a, b, y, |a, b| a + b),
        BinaryOp::Sub => shapes.map(start, a, b, y, |a, b| a - b),
        BinaryOp::Mul => shapes.map(start, a, b, y, |a, b| a * b),
        BinaryOp::Div => shapes.map(start, a, b, y, |a, b| a / b),
        BinaryOp::Min => shapes.map(start, a, b, y, |a, b| if a < b { a } else { b }),
        BinaryOp::Max => shapes.map(start, a, b, y, |a, b| if a > b { a } else { b }),
        BinaryOp::PRelu => shapes.map(start, a, b, y, |a, b| if a > 0.0 { a } else { a * b }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::split::testing::{cpus, pool};
    use proptest::prelude::*;

    type Case = (BinaryOp, fn(f32, f32) -> f32);

    proptest! {
        #[test]
        fn every_isa_computes_each_pair(
            a in prop::collection::vec(-9f32..9.0, 1..80), b in -9f32..9.0, ones in 1usize..4,
        ) {
            let table: [Case; 7] = [
                (BinaryOp::Add, |a, b| a + b),
                (BinaryOp::Sub, |a, b| a - b),
                (BinaryOp::Mul, |a, b| a * b),
                (BinaryOp::Div, |a, b| a / b),
                (BinaryOp::Min, f32::min),
                (BinaryOp::Max, f32::max),
                (BinaryOp::PRelu, |a, b| if a > 0.0 { a } else { a * b }),
            ];
            for cpu in cpus() {
                for (op, f) in table {
                    let mut y = vec![0.0; a.len()];
                    let full: Vec<f32> = a.iter().rev().copied().collect();
                    Binary::new(cpu, op, Broadcast::elementwise(a.len())).run(&pool(), &a, &full, &mut y).unwrap();
                    prop_assert!(y.iter().zip(a.iter().zip(&full)).all(|(&y, (&a, &b))| y == f(a, b)), "{op:?}");
                    let shapes = Broadcast::new(&vec![1; ones], &[a.len()]).unwrap();
                    Binary::new(cpu, op, shapes).run(&pool(), &[b], &a, &mut y).unwrap();
                    prop_assert!(y.iter().zip(&a).all(|(&y, &a)| y == f(b, a)), "{op:?}");
                }
            }
        }
    }
}
