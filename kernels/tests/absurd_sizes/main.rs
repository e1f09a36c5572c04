//! Sizes, steps and strides that make no sense: every kernel refuses them or copes, and none panics or asks for memory
//! beyond that of its operands. Panics for overflow are where overflow is checked: in `cargo test` without `--release`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;

use std::{collections::BTreeMap, sync::Arc};

use proptest::{prelude::*, test_runner::Config};
use requant_kernels::{
    Cpu, KernelError,
    broadcast::Broadcast,
    conv::{ConvGeometry, ConvSpec, ConvTransposeWeights, PackedConv, PackedConvTranspose},
    epilogue::{Output, Sign},
    float::{Activation, ConvF32, Reduce, ReduceOp},
    gemm::{DynamicGemm, PackedB},
    gemm16::{Gemm16, PackedB16, Requantize16},
    layout::StridedCopy,
    par::Serial,
    pool::{MaxPool8, PoolShape},
    quantize::Dequantize,
    softmax::Softmax,
    testing::LimitedMemory,
    weight_only::{BlockWeights, PackedBlocks, WeightType},
};

use calls::{CALLS, call};

#[global_allocator]
static MEMORY: LimitedMemory = LimitedMemory { most: 1 << 28 };

const HUGE: usize = 1 << 40;

/// 10,000 cases, unless `PROPTEST_CASES` says otherwise.
fn config() -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|c| c.parse().ok());
    Config { cases: cases.unwrap_or(10_000), failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_numbers(bytes in prop::collection::vec(any::<u8>(), 1..64)) {
        let _ = call(&bytes);
    }
}

/// Guards the test above against calls that are all refused, or none.
#[test]
fn every_kernel_runs_and_is_refused() {
    let mut counts = BTreeMap::from_iter(CALLS.iter().map(|(name, _)| (*name, [0u32; 2])));
    let mut state = 1u64;
    for i in 0..2000 * CALLS.len() {
        let mut bytes = [0; 64];
        for byte in &mut bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        bytes[0] = (i % CALLS.len()) as u8;
        let (name, outcome) = call(&bytes);
        counts.get_mut(name).unwrap()[usize::from(outcome.is_ok())] += 1;
    }
    for (name, [refused, ran]) in counts {
        assert!(refused > 50 && ran > 50, "{name}: {refused} refused, {ran} ran");
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, KernelError>, of: &str) {
    match result {
        Err(KernelError::Invalid { what, .. }) => assert_eq!(what, of),
        other => panic!("{other:?} instead of an error about {of}"),
    }
}

#[test]
fn columns_of_matrices_without_rows_are_few() {
    let cpu = Cpu::detect();
    let pack = |n| PackedB::pack(cpu, &[], 0, n, false, None, Sign::U8);
    refused(pack(HUGE), "columns of weights");
    assert_eq!(pack(1000).unwrap().n(), 1000);
    refused(PackedB16::pack(&[], 0, HUGE, true), "columns of weights");
    let none = BlockWeights {
        weight_type: WeightType::S4,
        codes: &[],
        k: 0,
        n: HUGE,
        transposed: false,
        block: 32,
        scales: &[],
        zero_points: &[],
    };
    refused(PackedBlocks::pack(&none), "columns of weights");
    let n = DynamicGemm::new(cpu, (0, HUGE), (Sign::U8, 0), (Sign::S8, 0), &[], &Output::I32);
    refused(n, "columns of B");
}

#[test]
fn convolutions_without_weights_are_small() {
    let cpu = Cpu::detect();
    let empty = ConvSpec {
        batch: 1,
        in_h: 1,
        in_w: 1,
        in_c: 0,
        out_c: 8,
        kernel: [1, 1],
        strides: [1, 1],
        dilations: [1, 1],
        pads: [0; 4],
        groups: 1,
    };
    let pack = |spec: ConvSpec| PackedConv::pack(cpu, &[], spec.weights(), None, Sign::U8);
    assert!(pack(empty).is_ok());
    refused(pack(ConvSpec { out_c: HUGE, ..empty }), "output channels");
    refused(pack(ConvSpec { out_c: 0, groups: HUGE, ..empty }), "number of groups");
    refused(pack(ConvSpec { kernel: [1 << 20; 2], ..empty }), "kernel");
    let deep = pack(ConvSpec { in_c: HUGE, out_c: 0, ..empty });
    assert!(matches!(deep, Err(KernelError::KTooLarge { k: HUGE, .. })), "{deep:?}");

    let geometry = ConvGeometry::new(ConvSpec { out_c: HUGE, ..empty }).unwrap();
    refused(ConvF32::new(cpu, geometry, &[], &[], Activation::NONE), "output channels");

    let shape = ConvTransposeWeights {
        in_c: 0,
        out_c: 8,
        kernel: [1, 1],
        strides: [1, 1],
        dilations: [1, 1],
        groups: 1,
    };
    let pack = |shape| PackedConvTranspose::pack(cpu, &[], shape, None, Sign::U8);
    assert!(pack(shape).is_ok());
    let (channels, groups) = ("output channels of all phases", "groups of all phases");
    refused(pack(ConvTransposeWeights { out_c: HUGE, ..shape }), channels);
    refused(pack(ConvTransposeWeights { strides: [64; 2], out_c: 1 << 16, ..shape }), channels);
    refused(pack(ConvTransposeWeights { out_c: 0, groups: HUGE, ..shape }), groups);
    refused(pack(ConvTransposeWeights { kernel: [HUGE, 1], ..shape }), "kernel");
}

#[test]
fn distances_that_nobody_goes_may_be_any_number() {
    let packed = Arc::new(PackedB16::pack(&[], 0, 2, false).unwrap());
    let halves = Requantize16::HalfEven(vec![0.5]);
    let gemm = Gemm16::new(Cpu::detect(), packed, &[4, 6], &halves, (-9, 9)).unwrap();
    let mut y = [0; 6];
    gemm.run(&Serial, 3, (&[], usize::MAX), (&mut y, 2)).unwrap();
    assert_eq!(y, [2, 3, 2, 3, 2, 3]);

    let step = [isize::MAX, 1];
    let row = StridedCopy::slice(Cpu::detect(), &[4, 3], &[2, 0], &[1, 3], &step, 1).unwrap();
    let mut y = [0; 3];
    row.run(&Serial, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], &mut y).unwrap();
    assert_eq!(y, [6, 7, 8]);
}

#[test]
fn nothing_is_done_in_no_time_however_often() {
    let sum = Reduce::new(Cpu::detect(), ReduceOp::Sum, &[HUGE, 3, 0], &[0, 2]).unwrap();
    let mut y = [1.0; 3];
    sum.run(&Serial, &[], &mut y).unwrap();
    assert_eq!(y, [0.0; 3]);

    let rows = PoolShape {
        batch: 1,
        height: HUGE,
        width: 0,
        channels: 2,
        kernel: [HUGE, 1],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [0, 1, 0, 0],
        out: [1, 1],
    };
    let mut y = [9; 2];
    MaxPool8::new(Cpu::detect(), rows, Sign::U8).unwrap().run(&Serial, &[], &mut y).unwrap();
    assert_eq!(y, [0; 2]);
}

#[test]
fn sizes_overflow_beside_a_zero_too() {
    let cpu = Cpu::detect();
    let overflows = |result: Result<(), KernelError>| {
        assert!(matches!(result, Err(KernelError::Overflow { .. })), "{result:?}");
    };
    overflows(Broadcast::new(&[0, HUGE, HUGE], &[0, HUGE, HUGE]).map(drop));
    overflows(StridedCopy::transpose(Cpu::detect(), &[0, HUGE, HUGE], &[2, 1, 0], 1).map(drop));
    overflows(Reduce::new(cpu, ReduceOp::Max, &[0, HUGE, HUGE], &[2]).map(drop));
    overflows(Softmax::new(cpu, usize::MAX / 4).map(drop));
    overflows(Dequantize::per_axis(cpu, vec![0.5; 2], Vec::new(), usize::MAX).map(drop));
}
