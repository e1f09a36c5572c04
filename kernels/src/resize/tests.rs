#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::cpu::Cpu;
use crate::par::Serial;
use crate::sign::Sign;
use crate::split::testing::{cpus, pool};

fn coordinates() -> impl Strategy<Value = Coordinates> {
    prop_oneof![
        Just(Coordinates::Asymmetric),
        Just(Coordinates::HalfPixel),
        Just(Coordinates::AlignCorners)
    ]
}

fn shape() -> impl Strategy<Value = ResizeShape> {
    let channels = prop::sample::select(vec![1usize, 3, 15, 16, 24, 33, 64, 70, 130, 1100]);
    (1usize..3, 1usize..7, 1usize..7, channels, [1usize..12, 1usize..12]).prop_map(
        |(batch, height, width, channels, out)| ResizeShape {
            batch,
            height,
            width,
            channels,
            out,
            scales: [out[0] as f32 / height as f32, out[1] as f32 / width as f32],
        },
    )
}

fn bytes(n: usize, seed: u32) -> Vec<u8> {
    (0..n).map(|i| ((i as u32 ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// The position by the formula in its own words.
fn position(c: Coordinates, o: usize, s: &ResizeShape, axis: usize) -> f32 {
    let (size, out) = ([s.height, s.width][axis], s.out[axis]);
    let scale = out as f32 / size as f32;
    let at = match c {
        Coordinates::Asymmetric => o as f32 / scale,
        Coordinates::HalfPixel => (o as f32 + 0.5) / scale - 0.5,
        Coordinates::AlignCorners if out == 1 => 0.0,
        Coordinates::AlignCorners => o as f32 * (size as f32 - 1.0) / (out as f32 - 1.0),
    };
    at.max(0.0).min(size as f32 - 1.0)
}

/// Calls `f(output index, (image, oy, ox, c))` for every output element.
fn each_output(s: &ResizeShape, mut f: impl FnMut(usize, [usize; 4])) {
    let mut at = 0;
    for n in 0..s.batch {
        for oy in 0..s.out[0] {
            for ox in 0..s.out[1] {
                for c in 0..s.channels {
                    f(at, [n, oy, ox, c]);
                    at += 1;
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn nearest_copies_the_pixel_of_the_definition(s in shape(), c in coordinates(), seed: u32, element in 1usize..5) {
        let x = bytes(s.in_len() * element, seed);
        for rounding in [
            NearestRounding::PreferFloor, NearestRounding::PreferCeil, NearestRounding::Floor, NearestRounding::Ceil,
        ] {
            let nearest = Nearest::new(s, c, rounding, element).unwrap();
            let (mut y, mut z) = (vec![0; s.out_len() * element], vec![0; s.out_len() * element]);
            nearest.run(&Serial, &x, &mut y).unwrap();
            nearest.run(&pool(), &x, &mut z).unwrap();
            prop_assert_eq!(&y, &z);
            let pixel = |at: f32, size: usize| {
                let half = at.fract() == 0.5;
                let at = match rounding {
                    NearestRounding::PreferFloor if half => at.floor(),
                    NearestRounding::PreferCeil if half => at.ceil(),
                    NearestRounding::PreferFloor | NearestRounding::PreferCeil => at.round(),
                    NearestRounding::Floor => at.floor(),
                    NearestRounding::Ceil => at.ceil(),
                };
                (at as usize).min(size - 1)
            };
            each_output(&s, |i, [n, oy, ox, ch]| {
                let iy = pixel(position(c, oy, &s, 0), s.height);
                let ix = pixel(position(c, ox, &s, 1), s.width);
                let at = ((n * s.height + iy) * s.width + ix) * s.channels + ch;
                assert_eq!(y[i * element..][..element], x[at * element..][..element]);
            });
        }
    }

    #[test]
    fn every_isa_blends_as_defined(s in shape(), c in coordinates(), seed: u32, signed: bool) {
        let sign = if signed { Sign::S8 } else { Sign::U8 };
        let x = bytes(s.in_len(), seed);
        let real: Vec<f32> = x.iter().map(|&x| sign.value(x) as f32 * 0.37).collect();
        let (mut want8, mut want) = (vec![0; s.out_len()], vec![0.0; s.out_len()]);
        each_output(&s, |i, [n, oy, ox, ch]| {
            let (py, px) = (position(c, oy, &s, 0), position(c, ox, &s, 1));
            let (iy, ix) = (py as usize, px as usize);
            let (g, f) = (py - py.floor(), px - px.floor());
            let at = |dy: usize, dx: usize| {
                let (iy, ix) = ((iy + dy).min(s.height - 1), (ix + dx).min(s.width - 1));
                ((n * s.height + iy) * s.width + ix) * s.channels + ch
            };
            let blend = |v: &dyn Fn(usize) -> f32| {
                let top = v(at(0, 0)) * (1.0 - f) + v(at(0, 1)) * f;
                let bottom = v(at(1, 0)) * (1.0 - f) + v(at(1, 1)) * f;
                top * (1.0 - g) + bottom * g
            };
            want8[i] = blend(&|at| sign.value(x[at]) as f32).round_ties_even() as i32 as u8;
            want[i] = blend(&|at| real[at]);
        });
        for cpu in cpus() {
            for par in [&Serial as &dyn Parallel, &pool()] {
                let (mut y8, mut y) = (vec![0; s.out_len()], vec![0.0; s.out_len()]);
                Bilinear8::new(cpu, s, c, sign).unwrap().run(par, &x, &mut y8).unwrap();
                BilinearF32::new(cpu, s, c).unwrap().run(par, &real, &mut y).unwrap();
                prop_assert_eq!(&y8, &want8, "{}", cpu.isa());
                prop_assert_eq!(&y, &want, "{}", cpu.isa());
            }
        }
    }
}

#[test]
fn the_same_size_is_a_copy() {
    let s = ResizeShape {
        batch: 2,
        height: 5,
        width: 4,
        channels: 17,
        out: [5, 4],
        scales: [1.0, 1.0],
    };
    let x = bytes(s.in_len(), 1);
    for c in [Coordinates::Asymmetric, Coordinates::HalfPixel, Coordinates::AlignCorners] {
        let mut y = vec![0; s.out_len()];
        Bilinear8::new(Cpu::detect(), s, c, Sign::S8).unwrap().run(&Serial, &x, &mut y).unwrap();
        assert_eq!(x, y);
        let nearest = Nearest::new(s, c, NearestRounding::PreferFloor, 1).unwrap();
        nearest.run(&Serial, &x, &mut y).unwrap();
        assert_eq!(x, y);
    }
}

#[test]
fn unusable_shapes_are_refused() {
    let s =
        ResizeShape { batch: 1, height: 2, width: 2, channels: 1, out: [4, 4], scales: [2.0, 2.0] };
    let new = |s| BilinearF32::new(Cpu::detect(), s, Coordinates::HalfPixel);
    assert!(new(ResizeShape { scales: [0.0, 1.0], ..s }).is_err());
    assert!(new(ResizeShape { scales: [f32::NAN, 1.0], ..s }).is_err());
    assert!(new(ResizeShape { height: 0, ..s }).is_err());
    assert!(new(ResizeShape { batch: usize::MAX, ..s }).is_err());
    assert!(new(ResizeShape { out: [usize::MAX, 1], ..s }).is_err());
    assert!(new(ResizeShape { height: 0, out: [0, 4], ..s }).is_ok());
    let resize = new(s).unwrap();
    assert!(resize.run(&Serial, &[0.0; 3], &mut [0.0; 16]).is_err());
    assert!(resize.run(&Serial, &[0.0; 4], &mut [0.0; 15]).is_err());
}
