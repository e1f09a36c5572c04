//! Random convolutions, with what the definition makes of them.

use super::int8_common::*;
use proptest::prelude::*;
use requant_kernels::{
    Cpu,
    conv::{Algorithm, Conv, ConvGeometry, ConvSpec, PackedConv},
    epilogue::{Output, Sign},
    par::{Parallel, Serial},
};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) spec: ConvSpec,
    pub(crate) sign: Sign,
    pub(crate) x: Vec<u8>,
    pub(crate) w: Vec<i8>,
    pub(crate) w_zero: Option<Vec<i32>>,
    pub(crate) bias: Vec<i32>,
    pub(crate) pad_value: u8,
    pub(crate) output: Output,
    pub(crate) residual: Vec<u8>,
}

impl Problem {
    pub(crate) fn expected(&self) -> Vec<u32> {
        let ConvSpec {
            batch,
            in_h,
            in_w,
            in_c,
            out_c,
            kernel: [kh, kw],
            strides,
            dilations,
            pads,
            groups,
        } = self.spec;
        let geometry = ConvGeometry::new(self.spec).unwrap();
        let (icg, ocg) = (in_c / groups, out_c / groups);
        let mut y = Vec::new();
        for (n, oy) in (0..batch).flat_map(|n| (0..geometry.out_h()).map(move |oy| (n, oy))) {
            for (ox, o) in (0..geometry.out_w()).flat_map(|ox| (0..out_c).map(move |o| (ox, o))) {
                let zero = self.w_zero.as_ref().map_or(0, |z| z[if z.len() == 1 { 0 } else { o }]);
                let mut sum = i64::from(self.bias[o]);
                for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
                    let iy = (oy * strides[0] + ky * dilations[0]) as i64 - pads[0] as i64;
                    let ix = (ox * strides[1] + kx * dilations[1]) as i64 - pads[1] as i64;
                    let inside = (0..in_h as i64).contains(&iy) && (0..in_w as i64).contains(&ix);
                    for c in 0..icg {
                        let at = ((n * in_h) as i64 + iy) * (in_w * in_c) as i64 + ix * in_c as i64;
                        let byte = if inside {
                            self.x[at as usize + o / ocg * icg + c]
                        } else {
                            self.pad_value
                        };
                        let weight = self.w[((o * icg + c) * kh + ky) * kw + kx];
                        sum += value(self.sign, byte) * (i64::from(weight) - i64::from(zero));
                    }
                }
                let residual = adds_residual(&self.output).then(|| self.residual[y.len()]);
                y.push(finish(&self.output, sum as i32, o, residual));
            }
        }
        y
    }

    pub(crate) fn check(&self, cpu: Cpu, par: &dyn Parallel, expected: &[u32]) {
        for algorithm in [Algorithm::Direct, Algorithm::Winograd] {
            let w_zero = self.w_zero.as_deref();
            let weights = self.spec.weights();
            let packed =
                PackedConv::pack_with(cpu, &self.w, weights, w_zero, self.sign, algorithm).unwrap();
            if packed.algorithm() == algorithm {
                self.check_packed(packed, cpu, par, expected);
            }
        }
    }

    pub(crate) fn check_packed(
        &self,
        packed: PackedConv,
        cpu: Cpu,
        par: &dyn Parallel,
        expected: &[u32],
    ) {
        let geometry = ConvGeometry::new(self.spec).unwrap();
        assert_eq!(expected.len(), geometry.output_len());
        let (algorithm, packed) = (packed.algorithm(), Arc::new(packed));
        let conv = Conv::new(geometry, packed, &self.bias, self.pad_value, &self.output).unwrap();
        let mut scratch = vec![0x33; conv.scratch_bytes(par.threads())];
        let residual = adds_residual(&self.output).then_some(&*self.residual);
        let y = with_output(&self.output, expected.len(), |y| {
            conv.run(par, &self.x, residual, y, &mut scratch)
        });
        for (i, &expected) in expected.iter().enumerate() {
            let (isa, threads) = (cpu.isa(), par.threads());
            let how = format!("{algorithm:?} on {isa} with {threads} threads");
            assert_eq!(bits(&y, i), expected, "element {i}, {how}");
        }
    }

    pub(crate) fn check_everywhere(&self) {
        let expected = self.expected();
        for cpu in cpus() {
            self.check(cpu, &Serial, &expected);
        }
    }
}

pub(crate) fn with_data(spec: ConvSpec) -> impl Strategy<Value = Problem> {
    let geometry = ConvGeometry::new(spec).unwrap();
    let weights_len = spec.out_c * (spec.in_c / spec.groups) * spec.kernel[0] * spec.kernel[1];
    (
        (signs(), bytes(geometry.input_len()), weights(weights_len), zero_points(spec.out_c)),
        biases(spec.out_c),
        (any::<u8>(), outputs(spec.out_c), bytes(geometry.output_len())),
    )
        .prop_map(move |((sign, x, w, w_zero), bias, (pad_value, output, residual))| Problem {
            spec,
            sign,
            x,
            w,
            w_zero,
            bias,
            pad_value,
            output,
            residual,
        })
}

/// The specification, if its kernel fits the padded image.
pub(crate) fn fitting(spec: ConvSpec) -> Option<ConvSpec> {
    ConvGeometry::new(spec).ok().map(|_| spec)
}

/// Specifications whose kernel fits the padded image; `channels` gives (in_c, out_c, groups).
pub(crate) fn specs(
    channels: impl Strategy<Value = (usize, usize, usize)>,
) -> impl Strategy<Value = ConvSpec> {
    specs_of((1usize..12, 1usize..12), channels, (two(5), two(3), two(3)))
}

/// The same of some image heights and widths, and kernels, strides and dilations.
pub(crate) fn specs_of(
    image: impl Strategy<Value = (usize, usize)>,
    channels: impl Strategy<Value = (usize, usize, usize)>,
    steps: impl Strategy<Value = ([usize; 2], [usize; 2], [usize; 2])>,
) -> impl Strategy<Value = ConvSpec> {
    (1usize..3, image, channels, steps, pads()).prop_filter_map(
        "the kernel fits",
        |(batch, (in_h, in_w), (in_c, out_c, groups), (kernel, strides, dilations), pads)| {
            let spec = ConvSpec {
                batch,
                in_h,
                in_w,
                in_c,
                out_c,
                kernel,
                strides,
                dilations,
                pads,
                groups,
            };
            fitting(spec)
        },
    )
}

/// Two numbers from 1 to `most`.
pub(crate) fn two(most: usize) -> impl Strategy<Value = [usize; 2]> {
    (1..=most, 1..=most).prop_map(|(a, b)| [a, b])
}

/// So many channels in each of one or two groups, for [`specs`].
pub(crate) fn grouped(
    in_c: impl Strategy<Value = usize>,
    out_c: impl Strategy<Value = usize>,
) -> impl Strategy<Value = (usize, usize, usize)> {
    (in_c, out_c, 1usize..3).prop_map(|(i, o, g)| (i * g, o * g, g))
}

pub(crate) fn problems(
    channels: impl Strategy<Value = (usize, usize, usize)>,
) -> impl Strategy<Value = Problem> {
    specs(channels).prop_flat_map(with_data)
}

/// Depthwise convolutions of the strides and dilations of real models, on rows of several blocks of columns, with
/// channels around the sizes of vectors.
pub(crate) fn wide_depthwise() -> impl Strategy<Value = Problem> {
    let channels =
        prop_oneof![2usize..70, Just(96), Just(112), Just(127), Just(144), Just(176), Just(192)];
    let kernel = prop_oneof![4 => Just(3usize), 4 => Just(5), 1 => Just(7), 1 => 1usize..9];
    (1usize..10, 1usize..60, channels, (kernel.clone(), kernel), 1usize..3, 1usize..3, pads())
        .prop_filter_map(
            "the kernel fits",
            |(in_h, in_w, channels, kernel, stride, dilation, pads)| {
                let spec = ConvSpec {
                    batch: 1,
                    in_h,
                    in_w,
                    in_c: channels,
                    out_c: channels,
                    kernel: [kernel.0, kernel.1],
                    strides: [stride; 2],
                    dilations: [dilation, 1],
                    pads,
                    groups: channels,
                };
                fitting(spec)
            },
        )
        .prop_flat_map(with_data)
}

/// Depthwise convolutions of stride 2 in both directions, of kernels that are cut into squares.
pub(crate) fn depthwise_squares() -> impl Strategy<Value = Problem> {
    let channels = prop_oneof![2usize..70, Just(112), Just(144)];
    let kernel = (4usize..9, prop_oneof![2 => Just(5usize), 1 => Just(4), 1 => 1usize..10]);
    (1usize..3, 1usize..24, 1usize..60, channels, kernel, pads())
        .prop_filter_map("the kernel fits", |(batch, in_h, in_w, channels, kernel, pads)| {
            let spec = ConvSpec {
                batch,
                in_h,
                in_w,
                in_c: channels,
                out_c: channels,
                kernel: [kernel.0, kernel.1],
                strides: [2, 2],
                dilations: [1, 1],
                pads,
                groups: channels,
            };
            fitting(spec)
        })
        .prop_flat_map(with_data)
}
