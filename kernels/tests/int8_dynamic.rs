//! Products of two activations, of which B is packed at run time: every ISA and thread count against the definition.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod int8_common;

use int8_common::*;
use proptest::prelude::*;
use requant_kernels::{
    Cpu,
    epilogue::{OutSlice, Output, Requantize, Sign},
    gemm::DynamicGemm,
    par::{Parallel, Serial},
    testing::{Flush, Guarded},
};

#[derive(Debug, Clone)]
struct Problem {
    m: usize,
    n: usize,
    k: usize,
    gaps: [usize; 3],
    signs: (Sign, Sign),
    zeros: (u8, u8),
    transposed: bool,
    batch: usize,
    /// Whether all products share an operand.
    shared: (bool, bool),
    a: Vec<u8>,
    b: Vec<u8>,
    bias: Vec<i32>,
    output: Output,
}

impl Problem {
    fn lda(&self) -> usize {
        self.k + self.gaps[0]
    }

    fn ldb(&self) -> usize {
        self.gaps[1] + if self.transposed { self.k } else { self.n }
    }

    fn ldc(&self) -> usize {
        self.n + self.gaps[2]
    }

    /// Rows of B as they are stored.
    fn b_rows(&self) -> usize {
        if self.transposed { self.n } else { self.k }
    }

    /// Where the operands of product `i` begin.
    fn start(&self, i: usize) -> (usize, usize) {
        let at = |shared: bool, len: usize| if shared { 0 } else { i * len };
        (at(self.shared.0, self.m * self.lda()), at(self.shared.1, self.b_rows() * self.ldb()))
    }

    /// What row `r`, column `c` of product `i` must be.
    fn expected(&self, i: usize, r: usize, c: usize) -> u32 {
        let ((a, b), (za, zb)) = (self.start(i), self.zeros);
        let (za, zb) = (value(self.signs.0, za), value(self.signs.1, zb));
        let sum: i64 = (0..self.k)
            .map(|k| {
                let (row, column) = if self.transposed { (c, k) } else { (k, c) };
                let b = value(self.signs.1, self.b[b + row * self.ldb() + column]);
                (value(self.signs.0, self.a[a + r * self.lda() + k]) - za) * (b - zb)
            })
            .sum();
        finish(&self.output, (sum + i64::from(self.bias[c])) as i32, c, None)
    }

    fn gemm(&self, cpu: Cpu) -> DynamicGemm {
        let ((a, b), (za, zb)) = (self.signs, self.zeros);
        let zero = |sign, zero| value(sign, zero) as i32;
        let (a, b) = ((a, zero(a, za)), (b, zero(b, zb)));
        DynamicGemm::new(cpu, (self.k, self.n), a, b, &self.bias, &self.output).unwrap()
    }

    fn run(&self, cpu: Cpu, par: &dyn Parallel) -> Buffer {
        let gemm = self.gemm(cpu);
        let starts: Vec<_> = (0..self.batch).map(|i| self.start(i)).collect();
        let mut scratch = vec![0xa5; gemm.scratch_bytes(par.threads())];
        let (a, b) = ((&*self.a, self.lda()), (&*self.b, self.ldb()));
        with_output(&self.output, self.batch * self.m * self.ldc(), |y| {
            let c = (y, self.ldc());
            gemm.run(par, self.m, &starts, a, b, self.transposed, c, &mut scratch)
        })
    }

    fn check_everywhere(&self) {
        let (n, ldc) = (self.n, self.ldc());
        let cells = self.batch * self.m * ldc;
        let at = |i: usize| (i / ldc / self.m, i / ldc % self.m, i % ldc);
        let expected: Vec<Option<u32>> =
            (0..cells).map(at).map(|(i, r, c)| (c < n).then(|| self.expected(i, r, c))).collect();
        let pools = pools();
        for cpu in cpus() {
            for par in &pools {
                let y = self.run(cpu, &**par);
                for (i, expected) in expected.iter().enumerate() {
                    let (isa, threads) = (cpu.isa(), par.threads());
                    assert_eq!(
                        bits(&y, i),
                        expected.unwrap_or_else(|| untouched(&y)),
                        "{:?} on {isa} with {threads} threads",
                        at(i)
                    );
                }
            }
        }
    }
}

fn problems(
    m: impl Strategy<Value = usize>,
    n: impl Strategy<Value = usize>,
    k: impl Strategy<Value = usize>,
) -> impl Strategy<Value = Problem> {
    let gaps = [0usize..9, 0..9, 0..3];
    let form = (any::<bool>(), 0usize..5, any::<(bool, bool)>(), any::<(u8, u8)>());
    let output = |n| outputs(n).prop_filter("no residual", |output| !adds_residual(output));
    (m, n, k, gaps, (signs(), signs()), form).prop_flat_map(
        move |(m, n, k, gaps, signs, (transposed, batch, shared, zeros))| {
            let a = bytes(batch * m * (k + gaps[0]));
            let b = bytes(batch * (k.max(n) + gaps[1]) * k.max(n));
            (a, b, biases(n), output(n)).prop_map(move |(a, b, bias, output)| Problem {
                m,
                n,
                k,
                gaps,
                signs,
                zeros,
                transposed,
                batch,
                shared,
                a,
                b,
                bias,
                output,
            })
        },
    )
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn two_activations_multiply_with_their_zero_points(problem in problems(1usize..20, 1usize..50, 0usize..60)) {
        problem.check_everywhere();
    }
}

proptest! {
    #![proptest_config(config(24))]

    /// K that tile registers are for, and products that are worth several threads.
    #[test]
    fn long_products_of_activations_match_the_definition(problem in problems(5usize..70, 17usize..70, 64usize..200)) {
        problem.check_everywhere();
    }
}

/// Heads of attention: products of a size that threads share, each by itself, or one among them.
#[test]
fn threads_share_products_and_rows() {
    for (batch, m, n, k) in [(5, 96, 80, 64), (1, 200, 70, 130), (2, 130, 33, 192)] {
        let noise = |len: usize, by: usize| (0..len).map(|i| (i * by % 251) as u8).collect();
        for (transposed, signs) in [(false, (Sign::U8, Sign::S8)), (true, (Sign::S8, Sign::U8))] {
            Problem {
                m,
                n,
                k,
                gaps: [0; 3],
                signs,
                zeros: (131, 7),
                transposed,
                batch,
                shared: (false, false),
                a: noise(batch * m * k, 89),
                b: noise(batch * n * k, 57),
                bias: (0..n as i32).collect(),
                output: Output::Quant8 {
                    sign: Sign::S8,
                    requantize: Requantize::HalfEven(vec![1.0 / 4096.0]),
                    zero_point: 3,
                    min: -100,
                    max: 110,
                    residual: None,
                },
            }
            .check_everywhere();
        }
    }
}

/// Operands, results and scratch against unreadable pages at either end.
#[test]
fn no_product_touches_memory_beyond_its_operands() {
    for (m, n, k) in [(1, 1, 1), (3, 17, 5), (13, 33, 66), (49, 40, 130)] {
        for (flush, transposed) in
            [Flush::Start, Flush::End].into_iter().flat_map(|f| [(f, false), (f, true)])
        {
            let (a, b) =
                (Guarded::new(&vec![9; m * k], flush), Guarded::new(&vec![3; n * k], flush));
            let mut y = Guarded::new(&vec![0; m * n], flush);
            for cpu in cpus() {
                let output = Output::Quant8 {
                    sign: Sign::U8,
                    requantize: Requantize::HalfEven(vec![1.0]),
                    zero_point: 0,
                    min: 0,
                    max: 255,
                    residual: None,
                };
                let bias = vec![50 - 16 * k as i32; n];
                let (za, zb) = ((Sign::U8, 1), (Sign::S8, 1));
                let gemm = DynamicGemm::new(cpu, (k, n), za, zb, &bias, &output).unwrap();
                let mut scratch = Guarded::new(&vec![0; gemm.scratch_bytes(1)], flush);
                let (rows, columns) = ((&*a, k), (&*b, if transposed { k } else { n }));
                let c = (OutSlice::Quant8(&mut y), n);
                gemm.run(&Serial, m, &[(0, 0)], rows, columns, transposed, c, &mut scratch)
                    .unwrap();
                assert!(y.iter().all(|&y| y == 50), "{} {m}x{n}x{k}", cpu.isa());
                y.fill(0);
            }
        }
    }
}
