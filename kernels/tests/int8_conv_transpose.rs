//! Integer transposed convolution: every ISA and thread count against the definition.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod int8_common;

use std::sync::Arc;

use int8_common::*;
use proptest::prelude::*;
use requant_kernels::{
    Cpu,
    conv::{ConvTranspose, ConvTransposeSpec, ConvTransposeWeights, PackedConvTranspose},
    epilogue::{OutSlice, Output, Sign},
    par::{Parallel, Serial},
    testing::{Flush, Guarded},
};

#[derive(Debug, Clone)]
struct Problem {
    spec: ConvTransposeSpec,
    sign: Sign,
    x: Vec<u8>,
    x_zero: i32,
    w: Vec<i8>,
    w_zero: Option<Vec<i32>>,
    bias: Vec<i32>,
    output: Output,
    residual: Vec<u8>,
}

fn input_len(spec: &ConvTransposeSpec) -> usize {
    spec.batch * spec.image[0] * spec.image[1] * spec.weights.in_c
}

fn output_len(spec: &ConvTransposeSpec) -> usize {
    let [h, w] = spec.output_size().unwrap();
    spec.batch * h * w * spec.weights.out_c
}

impl Problem {
    /// Scatters every input pixel, as the operation is defined.
    fn expected(&self) -> Vec<u32> {
        let ConvTransposeSpec { batch, image: [in_h, in_w], pads, weights, .. } = self.spec;
        let ConvTransposeWeights { in_c, out_c, kernel: [kh, kw], strides, dilations, groups } =
            weights;
        let [out_h, out_w] = self.spec.output_size().unwrap();
        let (icg, ocg) = (in_c / groups, out_c / groups);
        let mut sums: Vec<i64> = (0..batch * out_h * out_w)
            .flat_map(|_| self.bias.iter().map(|&b| i64::from(b)))
            .collect();
        for (n, iy) in (0..batch).flat_map(|n| (0..in_h).map(move |iy| (n, iy))) {
            for (ix, ky) in (0..in_w).flat_map(|ix| (0..kh).map(move |ky| (ix, ky))) {
                for (kx, c) in (0..kw).flat_map(|kx| (0..in_c).map(move |c| (kx, c))) {
                    let oy = (iy * strides[0] + ky * dilations[0]).wrapping_sub(pads[0]);
                    let ox = (ix * strides[1] + kx * dilations[1]).wrapping_sub(pads[1]);
                    if oy >= out_h || ox >= out_w {
                        continue;
                    }
                    let x = value(self.sign, self.x[((n * in_h + iy) * in_w + ix) * in_c + c]);
                    for j in 0..ocg {
                        let o = c / icg * ocg + j;
                        let zero =
                            self.w_zero.as_ref().map_or(0, |z| z[if z.len() == 1 { 0 } else { o }]);
                        let w = self.w[((c * ocg + j) * kh + ky) * kw + kx];
                        sums[((n * out_h + oy) * out_w + ox) * out_c + o] +=
                            (x - i64::from(self.x_zero)) * (i64::from(w) - i64::from(zero));
                    }
                }
            }
        }
        let finish = |(i, sum): (usize, &i64)| {
            let residual = adds_residual(&self.output).then(|| self.residual[i]);
            finish(&self.output, *sum as i32, i % out_c, residual)
        };
        sums.iter().enumerate().map(finish).collect()
    }

    fn check(&self, cpu: Cpu, par: &dyn Parallel, expected: &[u32]) {
        let packed = PackedConvTranspose::pack(
            cpu,
            &self.w,
            self.spec.weights,
            self.w_zero.as_deref(),
            self.sign,
        )
        .unwrap();
        let packed = Arc::new(packed);
        let conv =
            ConvTranspose::new(self.spec, packed, &self.bias, self.x_zero, &self.output).unwrap();
        assert_eq!(expected.len(), conv.output_len());
        let mut scratch = vec![0x33; conv.scratch_bytes(par.threads())];
        let residual = adds_residual(&self.output).then_some(&*self.residual);
        let y = with_output(&self.output, expected.len(), |y| {
            conv.run(par, &self.x, residual, y, &mut scratch)
        });
        for (i, &expected) in expected.iter().enumerate() {
            let (isa, threads) = (cpu.isa(), par.threads());
            assert_eq!(bits(&y, i), expected, "element {i} on {isa} with {threads} threads");
        }
    }
}

fn with_data(spec: ConvTransposeSpec) -> impl Strategy<Value = Problem> {
    let ConvTransposeWeights { in_c, out_c, kernel, groups, .. } = spec.weights;
    let weights_len = in_c * out_c / groups * kernel[0] * kernel[1];
    (
        (signs(), bytes(input_len(&spec)), weights(weights_len), zero_points(out_c)),
        biases(out_c),
        (0i32..256, outputs(out_c), bytes(output_len(&spec))),
    )
        .prop_map(move |((sign, x, w, w_zero), bias, (x_zero, output, residual))| Problem {
            spec,
            sign,
            x,
            x_zero: x_zero + sign.min(),
            w,
            w_zero,
            bias,
            output,
            residual,
        })
}

fn specs() -> impl Strategy<Value = ConvTransposeSpec> {
    let two = |most: usize| (1..=most, 1..=most).prop_map(|(a, b)| [a, b]);
    let channels = prop_oneof![
        2 => (1usize..20, 1usize..40, Just(1)),
        1 => (1usize..5, 1usize..5, 1usize..6).prop_map(|(i, o, g)| (i * g, o * g, g)),
    ];
    let sizes = (1usize..3, two(7), channels, two(5), two(4), two(3));
    (sizes, pads(), (0usize..3, 0usize..3)).prop_filter_map(
        "something is left of the result",
        |((batch, image, (in_c, out_c, groups), kernel, strides, dilations), pads, padding)| {
            let weights = ConvTransposeWeights { in_c, out_c, kernel, strides, dilations, groups };
            let output_padding = [padding.0, padding.1];
            let spec = ConvTransposeSpec { batch, image, pads, output_padding, weights };
            spec.output_size().ok().map(|_| spec)
        },
    )
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn transposed_convolutions_match_the_definition(problem in specs().prop_flat_map(with_data)) {
        let expected = problem.expected();
        for cpu in cpus() {
            problem.check(cpu, &Serial, &expected);
        }
    }
}

/// The decoders of detection and segmentation networks, a 1-D one, and one that is cut into tasks.
fn larger() -> impl Strategy<Value = Problem> {
    let spec = |image, in_c, out_c, kernel, stride, pad| ConvTransposeSpec {
        batch: 2,
        image,
        pads: [pad; 4],
        output_padding: [0; 2],
        weights: ConvTransposeWeights {
            in_c,
            out_c,
            kernel: [kernel; 2],
            strides: [stride; 2],
            dilations: [1; 2],
            groups: 1,
        },
    };
    let line = spec([1, 50], 24, 20, 4, 2, 1);
    let line = ConvTransposeSpec {
        pads: [0, 1, 0, 1],
        weights: ConvTransposeWeights { kernel: [1, 4], strides: [1, 2], ..line.weights },
        ..line
    };
    prop_oneof![
        Just(spec([20, 19], 24, 24, 2, 2, 0)),
        Just(spec([20, 19], 24, 1, 2, 2, 0)),
        Just(spec([12, 13], 40, 70, 4, 2, 1)),
        Just(spec([12, 13], 33, 70, 3, 2, 1)),
        Just(line),
    ]
    .prop_flat_map(with_data)
}

proptest! {
    #![proptest_config(config(20))]

    #[test]
    fn no_result_depends_on_the_number_of_threads(problem in larger()) {
        let expected = problem.expected();
        for cpu in cpus() {
            for par in pools() {
                problem.check(cpu, &*par, &expected);
            }
        }
    }
}

#[test]
fn no_kernel_touches_memory_beyond_its_operands() {
    let spec = |in_c, out_c, groups, kernel, stride, pad| ConvTransposeSpec {
        batch: 1,
        image: [4, 5],
        pads: [pad; 4],
        output_padding: [1; 2],
        weights: ConvTransposeWeights {
            in_c,
            out_c,
            kernel: [kernel; 2],
            strides: [stride; 2],
            dilations: [1; 2],
            groups,
        },
    };
    for spec in [
        spec(4, 7, 1, 2, 2, 0),
        spec(5, 7, 1, 3, 2, 1),
        spec(3, 65, 1, 4, 2, 1),
        spec(8, 18, 1, 1, 3, 0),
        spec(6, 4, 2, 3, 1, 1),
        spec(5, 5, 5, 4, 3, 2),
    ] {
        let ConvTransposeWeights { in_c, out_c, kernel, groups, .. } = spec.weights;
        let len = in_c * out_c / groups * kernel[0] * kernel[1];
        for cpu in cpus() {
            for sign in [Sign::U8, Sign::S8] {
                for zero in [0, 1] {
                    for flush in [Flush::Start, Flush::End] {
                        // Every product is zero, so the result is that of the bias.
                        let x = Guarded::new(&vec![3; input_len(&spec)], flush);
                        let residual = Guarded::new(&vec![60; output_len(&spec)], flush);
                        let packed = PackedConvTranspose::pack(
                            cpu,
                            &vec![1; len],
                            spec.weights,
                            Some(&[zero]),
                            sign,
                        )
                        .unwrap();
                        let (packed, bias) = (Arc::new(packed), vec![40; out_c]);
                        for output in every_output() {
                            let given = adds_residual(&output).then_some(&*residual);
                            let expected = finish(&output, 40, 0, given.map(|_| 60));
                            let conv = ConvTranspose::new(spec, packed.clone(), &bias, 3, &output)
                                .unwrap();
                            let mut scratch = Guarded::new(&vec![0; conv.scratch_bytes(1)], flush);
                            let len = output_len(&spec);
                            let y = with_guarded_output(&output, len, flush, |y| {
                                conv.run(&Serial, &x, given, y, &mut scratch)
                            });
                            assert!(all_are(&y, expected), "{spec:?} on {}", cpu.isa());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let cpu = Cpu::detect();
    let weights = ConvTransposeWeights {
        in_c: 4,
        out_c: 6,
        kernel: [3, 3],
        strides: [2, 2],
        dilations: [1, 1],
        groups: 2,
    };
    let spec = ConvTransposeSpec {
        batch: 1,
        image: [3, 3],
        pads: [0; 4],
        output_padding: [0; 2],
        weights,
    };
    assert_eq!(spec.output_size().unwrap(), [7, 7]);
    for bad in [
        ConvTransposeSpec { image: [0, 3], ..spec },
        ConvTransposeSpec { pads: [5; 4], ..spec },
        ConvTransposeSpec { pads: [usize::MAX, 0, 1, 0], ..spec },
        ConvTransposeSpec { image: [usize::MAX / 2; 2], ..spec },
        ConvTransposeSpec { output_padding: [usize::MAX; 2], ..spec },
        ConvTransposeSpec { weights: ConvTransposeWeights { groups: 0, ..weights }, ..spec },
        ConvTransposeSpec { weights: ConvTransposeWeights { groups: 4, ..weights }, ..spec },
        ConvTransposeSpec { weights: ConvTransposeWeights { strides: [0, 1], ..weights }, ..spec },
        ConvTransposeSpec {
            weights: ConvTransposeWeights { strides: [1 << 20; 2], ..weights },
            ..spec
        },
        ConvTransposeSpec {
            weights: ConvTransposeWeights { dilations: [usize::MAX; 2], ..weights },
            ..spec
        },
        // A small result of taps that are so far apart that no memory could hold the rows between them.
        ConvTransposeSpec {
            pads: [1 << 25; 4],
            weights: ConvTransposeWeights { dilations: [1 << 25; 2], ..weights },
            ..spec
        },
    ] {
        assert!(bad.output_size().is_err(), "{bad:?}");
    }
    let pack = |len, zero: Option<&[i32]>| {
        PackedConvTranspose::pack(cpu, &vec![0; len], weights, zero, Sign::U8)
    };
    assert!(pack(107, None).is_err());
    assert!(pack(108, Some(&[1, 2])).is_err());
    let packed = Arc::new(pack(108, None).unwrap());
    let other =
        ConvTransposeSpec { weights: ConvTransposeWeights { kernel: [9, 1], ..weights }, ..spec };
    let new = |spec, bias: &[i32], zero| {
        ConvTranspose::new(spec, packed.clone(), bias, zero, &Output::I32)
    };
    assert!(new(other, &[0; 6], 0).is_err());
    assert!(new(spec, &[0; 5], 0).is_err());
    assert!(new(spec, &[0; 6], 256).is_err());
    let conv = new(spec, &[0; 6], 0).unwrap();
    let mut scratch = vec![0; conv.scratch_bytes(1)];
    let mut y = [0i32; 294];
    assert!(conv.run(&Serial, &[0; 36], None, OutSlice::I32(&mut y), &mut scratch).is_ok());
    assert!(conv.run(&Serial, &[0; 35], None, OutSlice::I32(&mut y), &mut scratch).is_err());
    assert!(conv.run(&Serial, &[0; 36], None, OutSlice::I32(&mut y[1..]), &mut scratch).is_err());
    assert!(conv.run(&Serial, &[0; 36], None, OutSlice::I32(&mut y), &mut scratch[1..]).is_err());
    assert!(
        conv.run(&Serial, &[0; 36], Some(&[0; 294]), OutSlice::I32(&mut y), &mut scratch).is_err()
    );
    assert!(
        conv.run(&Serial, &[0; 36], None, OutSlice::Quant8(&mut [0; 294]), &mut scratch).is_err()
    );
}
