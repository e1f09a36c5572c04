//! Integer convolution: every ISA, method and thread count against the definition.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../int8_common/mod.rs"]
mod int8_common;
mod problem;

use std::sync::Arc;

use int8_common::*;
use problem::*;
use proptest::prelude::*;
use requant_kernels::{
    Cpu,
    conv::{Algorithm, Conv, ConvGeometry, ConvSpec, ConvWeights, PackedConv},
    epilogue::{OutSlice, Output, Sign},
    par::Serial,
    testing::{Flush, Guarded},
};

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn dense_convolutions_match_the_definition(problem in problems((1usize..20, 1usize..40, Just(1)))) {
        problem.check_everywhere();
    }

    #[test]
    fn depthwise_convolutions_match_the_definition(
        problem in problems((2usize..150).prop_map(|c| (c, c, c)))
    ) {
        problem.check_everywhere();
    }

    #[test]
    fn depthwise_convolutions_with_a_multiplier_match_the_definition(
        problem in problems((2usize..40, 2usize..6).prop_map(|(c, m)| (c, m * c, c)))
    ) {
        problem.check_everywhere();
    }

    #[test]
    fn depthwise_convolutions_of_wide_images_match_the_definition(problem in wide_depthwise()) {
        problem.check_everywhere();
    }

    #[test]
    fn depthwise_convolutions_of_squares_match_the_definition(problem in depthwise_squares()) {
        problem.check_everywhere();
    }

    #[test]
    fn grouped_convolutions_match_the_definition(
        problem in problems((1usize..5, 1usize..5, 1usize..6).prop_map(|(i, o, g)| (i * g, o * g, g)))
    ) {
        problem.check_everywhere();
    }
}

/// Convolutions that Winograd is for: odd and even sizes, some smaller than a tile, channels around the sizes of vectors.
fn unit_stride() -> impl Strategy<Value = Problem> {
    let channels = prop_oneof![8usize..50, Just(64), Just(127)];
    (1usize..3, 1usize..15, 1usize..15, channels, 1usize..40, pads())
        .prop_filter_map("the kernel fits", |(batch, in_h, in_w, in_c, out_c, pads)| {
            let spec = ConvSpec {
                batch,
                in_h,
                in_w,
                in_c,
                out_c,
                kernel: [3, 3],
                strides: [1, 1],
                dilations: [1, 1],
                pads,
                groups: 1,
            };
            fitting(spec)
        })
        .prop_flat_map(with_data)
}

proptest! {
    #![proptest_config(config(60))]

    /// Enough channels for tile registers, around whole cache lines.
    #[test]
    fn convolutions_of_many_channels_match_the_definition(
        problem in problems(
            grouped(prop_oneof![Just(64usize), 30..70usize], prop_oneof![Just(64usize), 16..100usize])
        )
    ) {
        problem.check_everywhere();
    }
}

/// Patches of whole cache lines, in rows of about one tile of pixels, or two, or three.
fn lines() -> impl Strategy<Value = Problem> {
    let image = (1usize..5, prop_oneof![11usize..20, 22usize..34, 44usize..52]);
    let channels = grouped(prop_oneof![3 => Just(64usize), 1 => Just(128)], 14usize..70);
    let kernels = prop_oneof![4 => Just([3usize; 2]), 1 => two(5)];
    specs_of(image, channels, (kernels, two(2), two(2)))
        .prop_map(|spec| ConvSpec { in_w: spec.in_w * spec.strides[1], ..spec })
        .prop_flat_map(with_data)
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn convolutions_of_whole_lines_match_the_definition(problem in lines()) {
        problem.check_everywhere();
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn unit_stride_convolutions_match_the_definition(problem in unit_stride()) {
        problem.check_everywhere();
    }
}

/// First layers, whose kernel rows end in parts of groups of K, and pointwise layers of few channels.
fn short_patches() -> impl Strategy<Value = Problem> {
    let first = (1usize..6, (1usize..8, 1usize..8), 1usize..4, pads())
        .prop_map(|(in_c, (kh, kw), stride, pads)| (in_c, [kh, kw], stride, pads));
    let pointwise = (1usize..18).prop_map(|quads| (4 * quads, [1, 1], 1, [0; 4]));
    let layer = prop_oneof![3 => first, 1 => pointwise];
    (1usize..3, 1usize..10, 1usize..40, 1usize..150, layer)
        .prop_filter_map("the kernel fits", |(batch, in_h, in_w, out_c, layer)| {
            let (in_c, kernel, stride, pads) = layer;
            let spec = ConvSpec {
                batch,
                in_h,
                in_w,
                in_c,
                out_c,
                kernel,
                strides: [stride; 2],
                dilations: [1, 1],
                pads,
                groups: 1,
            };
            fitting(spec)
        })
        .prop_flat_map(with_data)
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn convolutions_of_short_patches_match_the_definition(problem in short_patches()) {
        problem.check_everywhere();
    }
}

/// Convolutions of which a panel of weights holds whole groups.
fn few_channels() -> impl Strategy<Value = (usize, usize, usize)> {
    let sizes = prop_oneof![Just((1, 2)), Just((2, 2)), Just((4, 4)), Just((4, 8)), Just((8, 8))];
    (sizes, 1usize..20).prop_map(|((i, o), groups)| (i * groups, o * groups, groups))
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn groups_of_few_channels_match_the_definition(problem in problems(few_channels())) {
        problem.check_everywhere();
    }
}

/// Convolutions of a size that is cut into tasks.
fn larger() -> impl Strategy<Value = Problem> {
    let spec = |kernel, stride, in_c, out_c, groups| ConvSpec {
        batch: 2,
        in_h: 19,
        in_w: 17,
        in_c,
        out_c,
        kernel: [kernel, kernel],
        strides: [stride, stride],
        dilations: [1, 1],
        pads: [kernel / 2; 4],
        groups,
    };
    // A 1-D convolution is one of images of height 1.
    let line = ConvSpec {
        in_h: 1,
        in_w: 300,
        kernel: [1, 3],
        pads: [0, 1, 0, 1],
        ..spec(3, 1, 40, 50, 1)
    };
    prop_oneof![
        Just(spec(1, 1, 40, 70, 1)),
        Just(spec(1, 2, 64, 65, 1)),
        Just(spec(3, 2, 3, 128, 1)),
        Just(spec(3, 1, 16, 20, 1)),
        Just(spec(3, 1, 96, 96, 96)),
        Just(spec(5, 2, 130, 130, 130)),
        Just(spec(3, 1, 300, 300, 300)),
        Just(spec(3, 2, 40, 120, 40)),
        Just(spec(3, 1, 12, 32, 4)),
        Just(spec(3, 1, 70, 140, 1)),
        Just(spec(3, 2, 64, 48, 1)),
        Just(spec(3, 1, 128, 100, 2)),
        Just(spec(3, 1, 16, 200, 1)),
        Just(spec(3, 2, 128, 128, 32)),
        // Rows of tiles that overlap, and of one that reads on behind them.
        Just(ConvSpec { in_w: 27, ..spec(3, 1, 64, 40, 1) }),
        Just(ConvSpec { in_w: 13, ..spec(3, 1, 64, 80, 1) }),
        Just(ConvSpec { in_w: 28, ..spec(3, 1, 128, 100, 2) }),
        Just(line),
        Just(ConvSpec { dilations: [1, 2], ..line }),
        // More weights, and more of K, than tile registers are given at a time.
        Just(ConvSpec { batch: 1, in_h: 9, in_w: 7, ..spec(3, 2, 192, 800, 1) }),
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
    let spec = |in_c, out_c, groups, kernel, pad, stride| ConvSpec {
        batch: 1,
        in_h: 6,
        in_w: 7,
        in_c,
        out_c,
        kernel: [kernel, kernel],
        strides: [stride, stride],
        dilations: [1, 1],
        pads: [pad; 4],
        groups,
    };
    for spec in [
        spec(5, 7, 1, 1, 0, 1),
        spec(5, 7, 1, 1, 0, 2),
        spec(8, 48, 1, 1, 0, 1),
        spec(64, 70, 1, 1, 0, 1),
        spec(5, 64, 1, 5, 2, 3),
        spec(3, 32, 1, 3, 1, 2),
        spec(7, 18, 1, 3, 0, 1),
        spec(2, 2, 2, 3, 1, 1),
        spec(17, 17, 17, 3, 0, 1),
        spec(65, 65, 65, 5, 2, 2),
        spec(17, 17, 17, 3, 1, 1),
        spec(33, 33, 33, 3, 1, 2),
        spec(40, 40, 40, 5, 1, 1),
        spec(64, 64, 64, 3, 1, 1),
        spec(80, 80, 80, 3, 0, 2),
        spec(9, 27, 9, 3, 1, 1),
        spec(6, 6, 6, 3, 2, 3),
        spec(6, 4, 2, 3, 1, 1),
        spec(4, 8, 4, 3, 1, 1),
        spec(4, 4, 2, 3, 1, 1),
        spec(8, 8, 2, 3, 1, 2),
        spec(20, 20, 5, 3, 0, 1),
        spec(32, 32, 8, 3, 0, 1),
        spec(64, 33, 1, 3, 1, 1),
        spec(36, 20, 1, 3, 0, 1),
        spec(8, 16, 1, 3, 0, 1),
        spec(16, 1, 1, 3, 0, 1),
        spec(19, 35, 1, 3, 1, 1),
        spec(33, 32, 1, 3, 0, 1),
        ConvSpec { in_w: 13, ..spec(64, 33, 1, 3, 1, 1) },
        ConvSpec { in_w: 25, ..spec(64, 17, 1, 3, 1, 1) },
        ConvSpec { in_w: 25, ..spec(128, 32, 2, 3, 1, 1) },
        spec(33, 80, 1, 3, 0, 1),
        spec(19, 80, 1, 3, 1, 1),
        // A step that is never taken.
        ConvSpec { batch: 5, in_h: 3, in_w: 3, strides: [1, 1 << 59], ..spec(64, 64, 1, 3, 0, 1) },
        ConvSpec { dilations: [2, 2], ..spec(64, 33, 1, 3, 1, 1) },
        ConvSpec { dilations: [1, 2], ..spec(3, 32, 1, 3, 1, 2) },
        ConvSpec { dilations: [2, 1], ..spec(33, 33, 33, 3, 1, 1) },
        ConvSpec { dilations: [2, 3], ..spec(8, 8, 2, 2, 0, 1) },
    ] {
        let geometry = ConvGeometry::new(spec).unwrap();
        let k = spec.in_c / spec.groups * spec.kernel[0] * spec.kernel[1];
        for cpu in cpus() {
            for sign in [Sign::U8, Sign::S8] {
                for zero in [0, 1] {
                    for flush in [Flush::Start, Flush::End] {
                        let x = Guarded::new(&vec![3; geometry.input_len()], flush);
                        let residual = Guarded::new(&vec![60; geometry.output_len()], flush);
                        let weights = vec![1; spec.out_c * k];
                        let packed =
                            PackedConv::pack(cpu, &weights, spec.weights(), Some(&[zero]), sign)
                                .unwrap();
                        let packed = Arc::new(packed);
                        let bias = vec![40 - 3 * k as i32 * (1 - zero); spec.out_c];
                        for output in every_output() {
                            let given = adds_residual(&output).then_some(&*residual);
                            let expected = finish(&output, 40, 0, given.map(|_| 60));
                            let conv =
                                Conv::new(geometry, packed.clone(), &bias, 3, &output).unwrap();
                            let mut scratch = Guarded::new(&vec![0; conv.scratch_bytes(1)], flush);
                            let len = geometry.output_len();
                            let y = with_guarded_output(&output, len, flush, |y| {
                                conv.run(&Serial, &x, given, y, &mut scratch)
                            });
                            let isa = cpu.isa();
                            assert!(all_are(&y, expected), "{spec:?} on {isa}, {output:?}");
                        }
                    }
                }
            }
        }
    }
}

/// A 3×3 convolution of unit stride whose every byte is `x` and whose weights are `w` times a tap's.
fn constant(in_c: usize, image: [usize; 2], x: u8, w: i8, taps: [i8; 9]) -> Problem {
    let spec = ConvSpec {
        batch: 1,
        in_h: image[0],
        in_w: image[1],
        in_c,
        out_c: 2,
        kernel: [3, 3],
        strides: [1, 1],
        dilations: [1, 1],
        pads: [0, 1, 1, 0],
        groups: 1,
    };
    let len = spec.in_h * spec.in_w * in_c;
    Problem {
        spec,
        sign: Sign::U8,
        x: vec![x; len],
        w: (0..2 * in_c).flat_map(|_| taps.map(|tap| w * tap)).collect(),
        w_zero: None,
        bias: vec![7, -7],
        pad_value: 255,
        output: Output::I32,
        residual: Vec::new(),
    }
}

#[test]
fn sums_that_four_times_would_overflow_are_computed_directly() {
    let algorithm = |problem: &Problem, cpu| {
        let (weights, zero) = (problem.spec.weights(), problem.w_zero.as_deref());
        PackedConv::pack(cpu, &problem.w, weights, zero, problem.sign).unwrap().algorithm()
    };
    let has_winograd = |cpu| algorithm(&constant(16, [3, 3], 0, 1, [1; 9]), cpu);
    for (in_c, w_zero, fits) in
        [(1827, 0, true), (1828, 0, false), (913, 128, true), (914, 128, false)]
    {
        let mut problem = constant(in_c, [4, 5], 255, -128, [1; 9]);
        problem.w_zero = Some(vec![w_zero]);
        problem.check_everywhere();
        for cpu in cpus() {
            let expected = if fits { has_winograd(cpu) } else { Algorithm::Direct };
            assert_eq!(algorithm(&problem, cpu), expected, "{in_c} channels on {}", cpu.isa());
        }
    }
    // What is too large for the definition is so everywhere.
    let problem = constant(7311, [3, 3], 0, 1, [0; 9]);
    for cpu in cpus() {
        let packed = PackedConv::pack(cpu, &problem.w, problem.spec.weights(), None, Sign::U8);
        assert!(packed.is_err(), "on {}", cpu.isa());
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let cpu = Cpu::detect();
    let spec = ConvSpec {
        batch: 1,
        in_h: 4,
        in_w: 4,
        in_c: 2,
        out_c: 3,
        kernel: [3, 3],
        strides: [1, 1],
        dilations: [1, 1],
        pads: [1; 4],
        groups: 1,
    };
    let geometry = ConvGeometry::new(spec).unwrap();
    let pack = |len, shape, zero: Option<&[i32]>| {
        PackedConv::pack(cpu, &vec![0; len], shape, zero, Sign::U8)
    };
    assert!(pack(53, spec.weights(), None).is_err());
    assert!(pack(54, ConvWeights { groups: 0, ..spec.weights() }, None).is_err());
    assert!(pack(54, ConvWeights { groups: 2, ..spec.weights() }, None).is_err());
    assert!(pack(0, ConvWeights { kernel: [0, 3], ..spec.weights() }, None).is_err());
    assert!(pack(54, spec.weights(), Some(&[1, 2])).is_err());
    let packed = Arc::new(pack(54, spec.weights(), None).unwrap());
    for other in [
        ConvSpec { kernel: [1, 3], ..spec },
        ConvSpec { strides: [2, 1], ..spec },
        ConvSpec { dilations: [1, 2], ..spec },
    ] {
        let other = ConvGeometry::new(other).unwrap();
        assert!(Conv::new(other, packed.clone(), &[0; 3], 0, &Output::I32).is_err());
    }
    assert!(Conv::new(geometry, packed.clone(), &[0; 2], 0, &Output::I32).is_err());
    let conv = Conv::new(geometry, packed, &[0; 3], 0, &Output::I32).unwrap();
    let mut scratch = vec![0; conv.scratch_bytes(1)];
    let mut y = [0i32; 48];
    assert!(conv.run(&Serial, &[0; 32], None, OutSlice::I32(&mut y), &mut scratch).is_ok());
    assert!(conv.run(&Serial, &[0; 31], None, OutSlice::I32(&mut y), &mut scratch).is_err());
    assert!(conv.run(&Serial, &[0; 32], None, OutSlice::I32(&mut y[1..]), &mut scratch).is_err());
    assert!(conv.run(&Serial, &[0; 32], None, OutSlice::I32(&mut y), &mut scratch[1..]).is_err());
    assert!(
        conv.run(&Serial, &[0; 32], Some(&[0; 48]), OutSlice::I32(&mut y), &mut scratch).is_err()
    );
    assert!(
        conv.run(&Serial, &[0; 32], None, OutSlice::Quant8(&mut [0; 48]), &mut scratch).is_err()
    );
}
