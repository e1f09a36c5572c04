#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::cpu::Cpu;
use crate::par::Serial;
use crate::sign::Sign;
use crate::split::testing::{cpus, pool};

/// The elements of each output's window: (input value if inside the image) per position in the padded image.
fn windows(s: &PoolShape) -> Vec<Vec<Option<usize>>> {
    let mut all = Vec::new();
    for n in 0..s.batch {
        for oy in 0..s.out[0] {
            for ox in 0..s.out[1] {
                for c in 0..s.channels {
                    let mut window = Vec::new();
                    for ky in 0..s.kernel[0] {
                        for kx in 0..s.kernel[1] {
                            let y = (oy * s.stride[0] + ky * s.dilation[0]) as isize
                                - s.pads[0] as isize;
                            let x = (ox * s.stride[1] + kx * s.dilation[1]) as isize
                                - s.pads[1] as isize;
                            if y >= (s.height + s.pads[2]) as isize
                                || x >= (s.width + s.pads[3]) as isize
                            {
                                continue;
                            }
                            let inside = (0..s.height as isize).contains(&y)
                                && (0..s.width as isize).contains(&x);
                            window.push(inside.then(|| {
                                ((n * s.height + y as usize) * s.width + x as usize) * s.channels
                                    + c
                            }));
                        }
                    }
                    all.push(window);
                }
            }
        }
    }
    all
}

fn shape() -> impl Strategy<Value = PoolShape> {
    let axis = (1usize..4, 1usize..3, 1usize..3, 0usize..3, 0usize..3, 1usize..7, 0usize..2);
    (1usize..3, axis.clone(), axis, prop::sample::select(vec![1usize, 3, 31, 32, 63, 64, 65, 130]))
        .prop_map(|(batch, h, w, channels)| {
            let out = |a: &(usize, usize, usize, usize, usize, usize, usize)| {
                // One more than `floor` gives, as ceil_mode may ask for.
                (a.5 + a.3 + a.4).saturating_sub((a.0 - 1) * a.2 + 1) / a.1 + a.6
            };
            PoolShape {
                batch,
                height: h.5,
                width: w.5,
                channels,
                kernel: [h.0, w.0],
                stride: [h.1, w.1],
                dilation: [h.2, w.2],
                pads: [h.3, w.3, h.4, w.4],
                out: [out(&h), out(&w)],
            }
        })
}

fn bytes(n: usize, seed: u32) -> Vec<u8> {
    (0..n).map(|i| ((i as u32 ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn saturate(v: f32, z: i32, sign: Sign) -> i32 {
    (v.round_ties_even() as i64 + i64::from(z)).clamp(i64::from(sign.min()), i64::from(sign.max()))
        as i32
}

proptest! {
    #[test]
    fn every_isa_pools_as_defined(s in shape(), seed: u32, signed: bool, z: [u8; 2], ratio in 0.1f32..3.0) {
        let sign = if signed { Sign::S8 } else { Sign::U8 };
        let [zx, zy] = z.map(|z| sign.value(z));
        let (x, windows) = (bytes(s.in_len(), seed), windows(&s));
        let real: Vec<f32> = x.iter().map(|&v| sign.value(v) as f32 * 0.37).collect();
        prop_assert_eq!(windows.len(), s.out_len());
        for cpu in cpus() {
            let (mut y, mut y32) = (vec![0; s.out_len()], vec![0.0; s.out_len()]);
            MaxPool8::new(cpu, s, sign).unwrap().run(&pool(), &x, &mut y).unwrap();
            MaxPoolF32::new(cpu, s).unwrap().run(&pool(), &real, &mut y32).unwrap();
            for (i, w) in windows.iter().enumerate() {
                let max = w.iter().flatten().map(|&at| sign.value(x[at])).max();
                prop_assert_eq!(sign.value(y[i]), max.unwrap_or(sign.min()));
                prop_assert_eq!(y32[i], max.map_or(f32::NEG_INFINITY, |m| m as f32 * 0.37));
            }
            for include_pad in [false, true] {
                let (sx, sy) = (0.02 * ratio, 0.02);
                AveragePool8::new(cpu, s, sign, (sx, zx), (sy, zy), include_pad).unwrap().run(&pool(), &x, &mut y).unwrap();
                AveragePoolF32::new(cpu, s, include_pad).unwrap().run(&pool(), &real, &mut y32).unwrap();
                for (i, w) in windows.iter().enumerate() {
                    let n = if include_pad { w.len() } else { w.iter().flatten().count() };
                    let sum: i32 = w.iter().flatten().map(|&at| sign.value(x[at]) - zx).sum();
                    let m = if n == 0 { 0.0 } else { sx / (sy * n as f32) };
                    prop_assert_eq!(sign.value(y[i]), saturate(sum as f32 * m, zy, sign));
                    let sum: f32 = w.iter().flatten().fold(0.0, |sum, &at| sum + real[at]);
                    prop_assert_eq!(y32[i], sum / n.max(1) as f32);
                }
            }
        }
    }

    #[test]
    fn every_isa_takes_global_means_as_defined(
        batch in 0usize..3, pixels in 0usize..60, channels in 0usize..200, planes: bool, seed: u32, signed: bool,
        z: [u8; 2], ratio in 0.1f32..3.0,
    ) {
        let (batch, channels) = if planes { (batch * channels, 1) } else { (batch, channels) };
        let sign = if signed { Sign::S8 } else { Sign::U8 };
        let [zx, zy] = z.map(|z| sign.value(z));
        let x = bytes(batch * pixels * channels, seed);
        let (sx, sy) = (0.02 * ratio, 0.02);
        for cpu in cpus() {
            let mut y = vec![0; batch * channels];
            GlobalAveragePool8::new(cpu, [batch, pixels, channels], sign, (sx, zx), (sy, zy)).unwrap()
                .run(&pool(), &x, &mut y).unwrap();
            for (i, &y) in y.iter().enumerate() {
                let (n, c) = (i / channels, i % channels);
                let sum: i32 = (0..pixels).map(|p| sign.value(x[(n * pixels + p) * channels + c]) - zx).sum();
                let m = if pixels == 0 { 0.0 } else { sx / (sy * pixels as f32) };
                prop_assert_eq!(sign.value(y), saturate(sum as f32 * m, zy, sign));
            }
        }
    }
}

#[test]
fn large_pools_are_split_without_a_seam() {
    let (batch, pixels, channels) = (2, 500, 640);
    let x = bytes(batch * pixels * channels, 1);
    let p = GlobalAveragePool8::new(
        Cpu::detect(),
        [batch, pixels, channels],
        Sign::U8,
        (0.1, 3),
        (0.05, 7),
    )
    .unwrap();
    let (mut y, mut z) = (vec![0; batch * channels], vec![0; batch * channels]);
    p.run(&Serial, &x, &mut y).unwrap();
    p.run(&pool(), &x, &mut z).unwrap();
    assert_eq!(y, z);
}

/// Windows that hold nothing but padding give real 0, or the smallest code.
#[test]
fn an_empty_image_pools_to_padding() {
    let s = PoolShape {
        batch: 1,
        height: 0,
        width: 9,
        channels: 64,
        kernel: [1, 1],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [1, 0, 0, 0],
        out: [1, 9],
    };
    for cpu in cpus() {
        let (mut max, mut mean) = (vec![9; s.out_len()], vec![9; s.out_len()]);
        MaxPool8::new(cpu, s, Sign::U8).unwrap().run(&Serial, &[], &mut max).unwrap();
        let average = AveragePool8::new(cpu, s, Sign::U8, (0.1, 3), (0.1, 5), false);
        average.unwrap().run(&Serial, &[], &mut mean).unwrap();
        assert!(max.iter().all(|&v| v == 0) && mean.iter().all(|&v| v == 5));
    }
}

#[test]
fn unusable_shapes_are_refused() {
    let s = PoolShape {
        batch: 1,
        height: 4,
        width: 4,
        channels: 2,
        kernel: [2, 2],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [0; 4],
        out: [3, 3],
    };
    let cpu = Cpu::detect();
    for bad in [
        PoolShape { kernel: [0, 1], ..s },
        PoolShape { stride: [1, 0], ..s },
        PoolShape { dilation: [0, 1], ..s },
        PoolShape { batch: usize::MAX, ..s },
        PoolShape { out: [usize::MAX, 1], ..s },
        PoolShape { pads: [usize::MAX, 0, 0, 0], ..s },
        PoolShape { kernel: [usize::MAX, 1], ..s },
    ] {
        assert!(MaxPool8::new(cpu, bad, Sign::U8).is_err(), "{bad:?}");
    }
    let wide = PoolShape { kernel: [10_000, 10_000], ..s };
    assert!(AveragePool8::new(cpu, wide, Sign::U8, (1.0, 0), (1.0, 0), false).is_err());
    assert!(AveragePool8::new(cpu, s, Sign::U8, (0.0, 0), (1.0, 0), false).is_err());
    assert!(GlobalAveragePool8::new(cpu, [1, 1 << 30, 1], Sign::U8, (1.0, 0), (1.0, 0)).is_err());
    let max = MaxPool8::new(cpu, s, Sign::U8).unwrap();
    assert!(max.run(&Serial, &[0; 31], &mut [0; 18]).is_err());
    assert!(max.run(&Serial, &[0; 32], &mut [0; 17]).is_err());
}
