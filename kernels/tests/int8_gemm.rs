//! Integer GEMM: every ISA and thread count against the definition.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod int8_common;

use std::sync::Arc;

use int8_common::*;
use proptest::prelude::*;
use requant_kernels::{
    Cpu, Isa, KernelError,
    epilogue::{FixedPoint, OutSlice, Output, Requantize, Residual, Sign},
    gemm::{Gemm, PackedB},
    par::{Parallel, Serial},
    testing::{Flush, Guarded},
};

#[derive(Debug, Clone)]
struct Problem {
    m: usize,
    n: usize,
    k: usize,
    lda: usize,
    ldc: usize,
    ldr: usize,
    transposed: bool,
    sign: Sign,
    a: Vec<u8>,
    b: Vec<i8>,
    w_zero: Option<Vec<i32>>,
    bias: Vec<i32>,
    output: Output,
    residual: Vec<u8>,
}

impl Problem {
    fn weight(&self, k: usize, n: usize) -> i64 {
        let b = if self.transposed { self.b[n * self.k + k] } else { self.b[k * self.n + n] };
        let zero = self.w_zero.as_ref().map_or(0, |z| z[if z.len() == 1 { 0 } else { n }]);
        i64::from(b) - i64::from(zero)
    }

    fn expected(&self, m: usize, n: usize) -> u32 {
        let sum: i64 = (0..self.k)
            .map(|k| value(self.sign, self.a[m * self.lda + k]) * self.weight(k, n))
            .sum();
        let acc = (sum + i64::from(self.bias[n])) as i32;
        let residual = adds_residual(&self.output).then(|| self.residual[m * self.ldr + n]);
        finish(&self.output, acc, n, residual)
    }

    fn pack(&self, cpu: Cpu) -> PackedB {
        let w_zero = self.w_zero.as_deref();
        PackedB::pack(cpu, &self.b, self.k, self.n, self.transposed, w_zero, self.sign).unwrap()
    }

    fn run(&self, packed: PackedB, par: &dyn Parallel) -> Buffer {
        let gemm = Gemm::new(Arc::new(packed), &self.bias, &self.output).unwrap();
        let residual = adds_residual(&self.output).then_some((&*self.residual, self.ldr));
        with_output(&self.output, self.m * self.ldc, |y| {
            gemm.run(par, self.m, &self.a, self.lda, residual, y, self.ldc)
        })
    }

    fn check(&self, cpu: Cpu, par: &dyn Parallel) {
        let k = self.k;
        let packed = self.pack(cpu);
        for (n, sum) in packed.weight_sums().into_iter().enumerate() {
            assert_eq!(i64::from(sum), (0..k).map(|k| self.weight(k, n)).sum::<i64>());
        }
        let y = self.run(packed, par);
        for i in 0..self.m * self.ldc {
            let (m, n) = (i / self.ldc, i % self.ldc);
            let expected = if n < self.n { self.expected(m, n) } else { untouched(&y) };
            let (isa, threads) = (cpu.isa(), par.threads());
            assert_eq!(
                bits(&y, i),
                expected,
                "row {m}, column {n} on {isa} with {threads} threads"
            );
        }
    }
}

fn problems(
    m: impl Strategy<Value = usize>,
    n: impl Strategy<Value = usize>,
    k: impl Strategy<Value = usize>,
) -> impl Strategy<Value = Problem> {
    (m, n, k, 0usize..9, 0usize..9, 0usize..9, any::<bool>(), signs()).prop_flat_map(
        |(m, n, k, a_pad, c_pad, r_pad, transposed, sign)| {
            let (lda, ldc, ldr) = (k + a_pad, n + c_pad, n + r_pad);
            let operands = (bytes(m * lda), weights(k * n), zero_points(n), bytes(m * ldr));
            (operands, biases(n), outputs(n)).prop_map(
                move |((a, b, w_zero, residual), bias, output)| Problem {
                    m,
                    n,
                    k,
                    lda,
                    ldc,
                    ldr,
                    transposed,
                    sign,
                    a,
                    b,
                    w_zero,
                    bias,
                    output,
                    residual,
                },
            )
        },
    )
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn every_isa_matches_the_definition(problem in problems(0usize..26, 0usize..100, 0usize..70)) {
        for cpu in cpus() {
            problem.check(cpu, &Serial);
        }
    }
}

proptest! {
    #![proptest_config(config(60))]

    /// Several tiles of rows, which overlap, and are staged while others are computed.
    #[test]
    fn tiles_follow_each_other(problem in problems(24usize..90, 1usize..100, 1usize..200)) {
        for cpu in cpus() {
            problem.check(cpu, &Serial);
        }
    }
}

proptest! {
    #![proptest_config(config(12))]

    /// Weights larger than caches, and K longer than what is widened or staged at a time.
    #[test]
    fn large_products_are_those_of_the_portable_kernels(problem in problems(1usize..150, 100usize..700, 1000usize..2600)) {
        let bits = |cpu: Cpu, par: &dyn Parallel| -> Vec<u32> {
            let y = problem.run(problem.pack(cpu), par);
            (0..problem.m * problem.ldc).map(|i| bits(&y, i)).collect()
        };
        let scalar = bits(Cpu::with_isa(Isa::Scalar).unwrap(), &Serial);
        for cpu in cpus() {
            prop_assert!(bits(cpu, &Serial) == scalar, "{}", cpu.isa());
            let two = pools().swap_remove(1);
            prop_assert!(bits(cpu, &*two) == scalar, "{} on two threads", cpu.isa());
        }
    }

    /// So few rows and columns that threads share K.
    #[test]
    fn threads_share_the_depth_of_a_product(problem in problems(4usize..40, 33usize..49, 4096usize..4400)) {
        for cpu in cpus() {
            for par in pools().into_iter().skip(1) {
                problem.check(cpu, &*par);
            }
        }
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn no_result_depends_on_the_number_of_threads(problem in problems(1usize..120, 1usize..300, 200usize..400)) {
        for cpu in cpus() {
            for par in pools() {
                problem.check(cpu, &*par);
            }
        }
    }

    #[test]
    fn long_sums_are_staged_and_summed_exactly(problem in problems(1usize..14, 1usize..40, 500usize..1100)) {
        for cpu in cpus() {
            problem.check(cpu, &Serial);
        }
    }
}

/// All 65,536 products of a u8 or s8 activation and an s8 weight, by what computes one value of K, a few and a tail, and
/// whole tiles; with and without −128, for which some ISAs have kernels of their own.
#[test]
fn every_single_product_is_exact() {
    for cpu in cpus() {
        for (sign, k, least) in [Sign::U8, Sign::S8]
            .into_iter()
            .flat_map(|sign| [1, 11, 64].map(|k| (sign, k)))
            .flat_map(|(sign, k)| [i8::MIN, -127].map(|least| (sign, k, least)))
        {
            let a: Vec<u8> = (0..=255).flat_map(|a| vec![a; k]).collect();
            let columns: Vec<i8> = (least..=127).collect();
            let (b, n) = (columns.repeat(k), columns.len());
            let packed = Arc::new(PackedB::pack(cpu, &b, k, n, false, None, sign).unwrap());
            let gemm = Gemm::new(packed, &vec![0; n], &Output::I32).unwrap();
            let mut y = vec![0; 256 * n];
            gemm.run(&Serial, 256, &a, k, None, OutSlice::I32(&mut y), n).unwrap();
            for (i, &y) in y.iter().enumerate() {
                let expected = k as i64 * value(sign, (i / n) as u8) * i64::from(columns[i % n]);
                assert_eq!(i64::from(y), expected, "{} {sign:?} {k} {}", cpu.isa(), i);
            }
        }
    }
}

/// All combinations of extreme operands, over K long enough for several groups and a tail.
#[test]
fn extreme_operands_never_saturate() {
    for cpu in cpus() {
        for sign in [Sign::U8, Sign::S8] {
            for a in [0u8, 1, 0x7f, 0x80, 0xff] {
                for b in [i8::MIN, -127, -1, 1, i8::MAX] {
                    for k in [1, 2, 3, 4, 5, 8, 63, 1029] {
                        let packed = Arc::new(
                            PackedB::pack(cpu, &vec![b; k * 17], k, 17, false, None, sign).unwrap(),
                        );
                        let gemm = Gemm::new(packed, &[7; 17], &Output::I32).unwrap();
                        let m = 31;
                        let mut y = vec![0; m * 17];
                        gemm.run(&Serial, m, &vec![a; m * k], k, None, OutSlice::I32(&mut y), 17)
                            .unwrap();
                        let expected = k as i64 * value(sign, a) * i64::from(b) + 7;
                        assert!(
                            y.iter().all(|&y| i64::from(y) == expected),
                            "{} {sign:?} {a} {b} {k}",
                            cpu.isa()
                        );
                    }
                }
            }
        }
    }
}

/// Every number of rows around the tiles' heights: paths for few rows are separate code.
#[test]
fn every_number_of_rows_and_panels_gives_the_same_rows() {
    let (k, n, most) = (37, 150, 40);
    let a: Vec<u8> = (0..most * k).map(|i| (i * 89 % 251) as u8).collect();
    let b: Vec<i8> = (0..k * n).map(|i| (i * 57 % 255) as i8).collect();
    let m: Vec<f32> = (0..n).map(|n| 0.001 + n as f32 * 1e-5).collect();
    for cpu in cpus() {
        for sign in [Sign::U8, Sign::S8] {
            for n in [1, 15, 16, 17, 32, 33, 48, 64, 65, 80, 150] {
                let packed =
                    Arc::new(PackedB::pack(cpu, &b[..k * n], k, n, true, None, sign).unwrap());
                let output = Output::Quant8 {
                    sign: Sign::U8,
                    requantize: Requantize::HalfEven(m[..n].to_vec()),
                    zero_point: 100,
                    min: 3,
                    max: 250,
                    residual: None,
                };
                let gemm = Gemm::new(packed, &vec![-900; n], &output).unwrap();
                for rows in 1..=most {
                    let mut y = vec![0; rows * n];
                    gemm.run(&Serial, rows, &a, k, None, OutSlice::Quant8(&mut y), n).unwrap();
                    for (i, &y) in y.iter().enumerate() {
                        let (r, c) = (i / n, i % n);
                        let sum: i64 = (0..k)
                            .map(|k_| value(sign, a[r * k + k_]) * i64::from(b[c * k + k_]))
                            .sum();
                        let expected = finish(&output, sum as i32 - 900, c, None);
                        assert_eq!(u32::from(y), expected, "{} rows {rows} of {n}", cpu.isa());
                    }
                }
            }
        }
    }
}

/// What properties meet by chance: each rounding, and a residual, in tiles of every height and in the last columns.
#[test]
fn every_epilogue_of_tiles_of_every_height() {
    // Six panels, the last of which is not whole: pairs of panels that follow each other.
    let n = 88;
    let shift = |i: usize| FixedPoint::new(i32::MAX - i as i32 * 1_000_003, i as i32 % 3 - 8);
    let fixed: Vec<FixedPoint> = (0..n).map(|i| shift(i).unwrap()).collect();
    let roundings = [
        Requantize::HalfEven((0..n).map(|i| 0.002 + i as f32 * 1e-4).collect()),
        Requantize::TfliteDouble(fixed.clone()),
        Requantize::TfliteSingle(fixed),
    ];
    let forms = roundings.into_iter().flat_map(|r| [(r.clone(), false), (r, true)]);
    for ((requantize, adds), sign) in
        forms.flat_map(|form| [Sign::U8, Sign::S8].map(|sign| (form.clone(), sign)))
    {
        let residual = Residual {
            sign: sign.other(),
            domain: Sign::S8,
            conv_is_lhs: sign == Sign::U8,
            scale_a: 0.75,
            scale_b: -0.5,
            offset: 3.5,
            min: sign.min() + 4,
            max: sign.max(),
        };
        for (m, k) in [1, 2, 3, 4, 6, 8, 9, 13, 24, 26].into_iter().flat_map(|m| [(m, 37), (m, 70)])
        {
            let problem = Problem {
                m,
                n,
                k,
                lda: k,
                ldc: n + 3,
                ldr: n + 1,
                transposed: true,
                sign,
                a: (0..m * k).map(|i| (i * 89 % 251) as u8).collect(),
                b: (0..k * n).map(|i| (i * 57 % 255) as i8).collect(),
                w_zero: None,
                bias: (0..n as i32).map(|n| 97 * n - 2000).collect(),
                output: Output::Quant8 {
                    sign,
                    requantize: requantize.clone(),
                    zero_point: sign.min() + 100,
                    min: sign.min() + 3,
                    max: sign.max() - 2,
                    residual: adds.then_some(residual),
                },
                residual: (0..m * (n + 1)).map(|i| (i * 101 % 256) as u8).collect(),
            };
            for cpu in cpus() {
                problem.check(cpu, &Serial);
            }
        }
    }
}

/// By as many streams of weights as the processor likes, and by as many as others do.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_single_row_is_read_by_one_stream_or_several() {
    for (n, k) in [(16, 37), (70, 130), (75, 64), (1060, 130)] {
        let problem = Problem {
            m: 1,
            n,
            k,
            lda: k,
            ldc: n,
            ldr: n,
            transposed: false,
            sign: Sign::U8,
            a: (0..k).map(|i| (i * 89 % 251) as u8).collect(),
            b: (0..k * n).map(|i| (i * 57 % 255) as i8).collect(),
            w_zero: None,
            bias: vec![5; n],
            output: Output::I32,
            residual: vec![],
        };
        for one in [Some(true), Some(false), None] {
            requant_kernels::testing::read_l2_by_one_stream(one);
            cpus().into_iter().for_each(|cpu| problem.check(cpu, &Serial));
        }
    }
}

/// More rows than are staged at a time, and more columns than sums wait for between parts of K.
#[test]
fn rows_columns_and_depth_are_cut_at_once() {
    let (m, n) = (500, 1100);
    for (k, w_zero) in [(500, None), (1030, None), (1030, Some(&[3][..]))] {
        let a: Vec<u8> = (0..m * k).map(|i| (i * 89 % 251) as u8).collect();
        let b: Vec<i8> = (0..k * n).map(|i| (i * 57 % 255) as i8).collect();
        let product = |cpu: Cpu| {
            let packed = PackedB::pack(cpu, &b, k, n, false, w_zero, Sign::S8).unwrap();
            let gemm = Gemm::new(Arc::new(packed), &vec![5; n], &Output::I32).unwrap();
            let mut y = vec![0; m * n];
            gemm.run(&Serial, m, &a, k, None, OutSlice::I32(&mut y), n).unwrap();
            y
        };
        let scalar = product(Cpu::with_isa(Isa::Scalar).unwrap());
        for cpu in cpus() {
            assert!(product(cpu) == scalar, "{}", cpu.isa());
        }
    }
}

/// Rows whole cache lines apart, which begin within a line: where tiles are, weights may move instead. K and what lies
/// before an unreadable page decide where.
#[test]
fn many_rows_that_begin_beyond_a_line() {
    let (m, n) = (470, 20);
    let cases = [
        (100, 128, 0),
        (127, 128, 0),
        (128, 192, 1),
        (128, 128, 62),
        (191, 192, 7),
        (1300, 1344, 40),
    ];
    for (k, lda, after) in cases {
        let len = (m - 1) * lda + k;
        let a: Vec<u8> = (0..len + after).map(|i| (i * 89 % 251) as u8).collect();
        let a = &Guarded::new(&a, Flush::End)[..len];
        let b: Vec<i8> = (0..k * n).map(|i| (i * 57 % 255) as i8).collect();
        let output = Output::Quant8 {
            sign: Sign::S8,
            requantize: Requantize::HalfEven(vec![1.0 / 4096.0]),
            zero_point: 3,
            min: -100,
            max: 110,
            residual: None,
        };
        let product = |cpu: Cpu, sign: Sign| {
            let packed = Arc::new(PackedB::pack(cpu, &b, k, n, false, None, sign).unwrap());
            let (mut codes, mut sums) = (vec![0; m * n], vec![0; m * n]);
            let gemm = Gemm::new(packed.clone(), &vec![-7; n], &output).unwrap();
            gemm.run(&Serial, m, a, lda, None, OutSlice::Quant8(&mut codes), n).unwrap();
            let gemm = Gemm::new(packed, &vec![-7; n], &Output::I32).unwrap();
            gemm.run(&Serial, m, a, lda, None, OutSlice::I32(&mut sums), n).unwrap();
            (codes, sums)
        };
        for sign in [Sign::U8, Sign::S8] {
            let scalar = product(Cpu::with_isa(Isa::Scalar).unwrap(), sign);
            for cpu in cpus() {
                assert!(product(cpu, sign) == scalar, "{} {sign:?} {k}", cpu.isa());
            }
        }
    }
}

/// Operands against unreadable pages at either end, at every alignment that K and N give them.
#[test]
fn no_kernel_touches_memory_beyond_its_operands() {
    for cpu in cpus() {
        for sign in [Sign::U8, Sign::S8] {
            for (m, n, k) in [
                (1, 1, 1),
                (1, 70, 3),
                (3, 17, 5),
                (13, 33, 7),
                (25, 47, 66),
                (7, 64, 130),
                (12, 32, 259),
                (49, 33, 41),
                (23, 17, 7),
                (24, 64, 19),
                (26, 88, 70),
            ] {
                let b = vec![1i8; k * n];
                let packed = |w_zero: Option<&[i32]>| {
                    Arc::new(PackedB::pack(cpu, &b, k, n, false, w_zero, sign).unwrap())
                };
                // Sums are 50 in either form.
                let forms =
                    [(packed(Some(&[1])), vec![50; n]), (packed(None), vec![50 - 9 * k as i32; n])];
                for flush in [Flush::Start, Flush::End] {
                    let a = Guarded::new(&vec![9; m * k], flush);
                    let residual = Guarded::new(&vec![77; m * n], flush);
                    for output in every_output() {
                        let with_residual = adds_residual(&output);
                        let expected = finish(&output, 50, 0, with_residual.then_some(77));
                        for (packed, bias) in &forms {
                            let gemm = Gemm::new(packed.clone(), bias, &output).unwrap();
                            let given = with_residual.then_some((&*residual, n));
                            let y = with_guarded_output(&output, m * n, flush, |y| {
                                gemm.run(&Serial, m, &a, k, given, y, n)
                            });
                            let isa = cpu.isa();
                            assert!(all_are(&y, expected), "{isa} {m}x{n}x{k} {output:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn sums_that_could_overflow_are_refused() {
    let cpu = Cpu::detect();
    for sign in [Sign::U8, Sign::S8] {
        let pack = |k, zero: &[i32]| {
            PackedB::pack(cpu, &vec![0; k], k, 1, false, Some(zero), sign).map(|_| ())
        };
        assert_eq!(pack(65_793, &[0]), Ok(()));
        assert_eq!(pack(65_794, &[0]), Err(KernelError::KTooLarge { k: 65_794, limit: 65_793 }));
        assert!(matches!(pack(65_793, &[5]), Err(KernelError::KTooLarge { .. })));
    }
}

#[test]
fn the_longest_sum_of_extremes_is_exact() {
    for cpu in cpus() {
        let k = 65_793;
        for (sign, a) in [(Sign::U8, 255u8), (Sign::S8, 0x80)] {
            let packed =
                Arc::new(PackedB::pack(cpu, &vec![-128; k], k, 1, false, None, sign).unwrap());
            let gemm = Gemm::new(packed, &[0], &Output::I32).unwrap();
            let mut y = [0];
            gemm.run(&Serial, 1, &vec![a; k], k, None, OutSlice::I32(&mut y), 1).unwrap();
            assert_eq!(i64::from(y[0]), k as i64 * value(sign, a) * -128, "{}", cpu.isa());
        }
    }
}

#[test]
fn distances_of_rows_that_nothing_follows_do_not_matter() {
    for cpu in cpus() {
        let packed = Arc::new(PackedB::pack(cpu, &[1; 12], 4, 3, false, None, Sign::U8).unwrap());
        let gemm = Gemm::new(packed, &[0; 3], &Output::I32).unwrap();
        let (mut y, most) = ([0; 3], usize::MAX);
        gemm.run(&Serial, 1, &[1; 4], most, None, OutSlice::I32(&mut y), most).unwrap();
        assert_eq!(y, [4; 3]);

        let empty = Arc::new(PackedB::pack(cpu, &[], 0, 3, false, None, Sign::U8).unwrap());
        let gemm = Gemm::new(empty, &[7; 3], &Output::I32).unwrap();
        let mut y = [0; 90];
        gemm.run(&Serial, 30, &[], most, None, OutSlice::I32(&mut y), 3).unwrap();
        assert_eq!(y, [7; 90]);
    }
}

#[test]
fn short_or_mistyped_operands_are_refused() {
    let packed =
        Arc::new(PackedB::pack(Cpu::detect(), &[1; 12], 4, 3, false, None, Sign::U8).unwrap());
    let gemm = Gemm::new(packed.clone(), &[0; 3], &Output::I32).unwrap();
    let mut y = vec![0i32; 6];
    let mut run =
        |m, a: &[u8], lda, ldc| gemm.run(&Serial, m, a, lda, None, OutSlice::I32(&mut y), ldc);
    assert!(run(2, &[0; 8], 4, 3).is_ok());
    assert!(run(2, &[0; 7], 4, 3).is_err());
    assert!(run(2, &[0; 8], 3, 3).is_err());
    assert!(run(2, &[0; 8], 4, 2).is_err());
    assert!(run(3, &[0; 12], 4, 3).is_err());
    assert!(run(2, &[0; 8], usize::MAX, 3).is_err());
    assert!(run(usize::MAX, &[0; 8], 4, 3).is_err());
    let mut bytes = [0u8; 6];
    assert!(gemm.run(&Serial, 2, &[0; 8], 4, None, OutSlice::Quant8(&mut bytes), 3).is_err());
    assert!(
        gemm.run(&Serial, 2, &[0; 8], 4, Some((&[0; 6], 3)), OutSlice::I32(&mut [0; 6]), 3)
            .is_err()
    );
    assert!(Gemm::new(packed.clone(), &[0; 2], &Output::I32).is_err());
    assert!(Gemm::new(packed.clone(), &[0; 3], &Output::F32 { scales: vec![1.0; 2] }).is_err());
    let quant = |m: f32, min, max| Output::Quant8 {
        sign: Sign::U8,
        requantize: Requantize::HalfEven(vec![m]),
        zero_point: 0,
        min,
        max,
        residual: None,
    };
    assert!(Gemm::new(packed.clone(), &[0; 3], &quant(1.0, 0, 255)).is_ok());
    for bad in [
        quant(f32::NAN, 0, 255),
        quant(1.0, -1, 255),
        quant(1.0, 9, 8),
        quant(f32::INFINITY, 0, 255),
    ] {
        assert!(Gemm::new(packed.clone(), &[0; 3], &bad).is_err(), "{bad:?}");
    }
}
