#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::cpu::Cpu;
use crate::par::Serial;
use crate::sign::Sign;
use crate::split::testing::{cpus, pool};
use proptest::prelude::*;

fn sign() -> impl Strategy<Value = Sign> {
    any::<bool>().prop_map(|s| if s { Sign::S8 } else { Sign::U8 })
}

fn scale() -> impl Strategy<Value = f32> {
    prop_oneof![
        1e-4f32..10.0,
        Just(0.5),
        Just(1.0),
        Just(f32::MIN_POSITIVE),
        Just(1e-45),
        Just(f32::MAX)
    ]
}

/// Values around the codes, ties included, and everything else a float can be.
fn values() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(
        prop_oneof![any::<f32>(), -300f32..300.0, (-600i32..600).prop_map(|i| i as f32 / 2.0)],
        0..200,
    )
}

/// The formula in its own words: divide, saturate, round half to even.
fn naive(x: f32, scale: f32, zero_point: i32, (min, max): (i32, i32)) -> i32 {
    let v = x / scale;
    if v.is_nan() {
        return min;
    }
    v.clamp((min - zero_point) as f32, (max - zero_point) as f32).round_ties_even() as i32
        + zero_point
}

proptest! {
    #[test]
    fn every_isa_quantizes_as_defined(x in values(), s in scale(), sign in sign(), z: u8, narrow: [u8; 2]) {
        let z = sign.value(z);
        let n = narrow.map(|b| sign.value(b));
        for bounds in [(sign.min(), sign.max()), (n[0].min(n[1]), n[0].max(n[1]))] {
            for cpu in cpus() {
                let q = Quantize::new(cpu, s, z, sign).unwrap().bounds(bounds.0, bounds.1).unwrap();
                let mut y = vec![0; x.len()];
                q.run(&Serial, &x, &mut y).unwrap();
                for (&y, &x) in y.iter().zip(&x) {
                    prop_assert_eq!(sign.value(y), naive(x, s, z, bounds), "{} {}", x, cpu.isa());
                    prop_assert_eq!(q.code(x), sign.value(y));
                }
            }
        }
    }

    #[test]
    fn codes_change_where_division_says(s in prop_oneof![1e-4f32..10.0, 1e-17f32..1e-16, Just(0.1), Just(1e18), Just(1e-30)]) {
        let around = |code: i32| {
            let x = ((code as f32 + 0.5) * s).abs().to_bits();
            (x - 6..=x + 6).map(move |bits| f32::from_bits(bits).copysign(code as f32 + 0.5))
        };
        let x: Vec<f32> = (-257..257).flat_map(around).collect();
        for (sign, z) in [(Sign::U8, 0), (Sign::U8, 255), (Sign::S8, -3)] {
            for cpu in cpus() {
                let mut y = vec![0; x.len()];
                Quantize::new(cpu, s, z, sign).unwrap().run(&Serial, &x, &mut y).unwrap();
                for (&y, &x) in y.iter().zip(&x) {
                    prop_assert_eq!(sign.value(y), naive(x, s, z, (sign.min(), sign.max())), "{} {}", x, cpu.isa());
                }
            }
        }
    }

    #[test]
    fn corrected_quotients_are_those_of_division(s in scale(), x in values(), spread in any::<u32>()) {
        if let Some(reciprocal) = from_f32::reciprocal(s) {
            // Values of every mantissa, and those next to where codes change.
            let near = (0..256).map(|code| f32::from_bits(((code as f32 + 0.5) * s).to_bits() + spread % 3 - 1));
            let any = (0..200).map(|i: u32| ((i * 40_503) ^ spread).wrapping_mul(2_654_435_761) as f32 * 1e-8 * s);
            for x in x.into_iter().map(|x| x * s).chain(near).chain(any) {
                if x.abs() < 1024.0 * s && x.abs() > 1e-6 * s {
                    let quotient = from_f32::quotient(x, reciprocal);
                    prop_assert_eq!(from_f32::corrected(x, quotient, -s, reciprocal[0]), x / s, "{} / {}", x, s);
                }
            }
        }
    }

    #[test]
    fn every_isa_quantizes_to_16_bits(x in values(), s in scale(), z: i16) {
        for cpu in cpus() {
            let mut y = vec![0; x.len()];
            Quantize::new_s16(cpu, s, i32::from(z)).unwrap().run_s16(&Serial, &x, &mut y).unwrap();
            for (&y, &x) in y.iter().zip(&x) {
                prop_assert_eq!(i32::from(y), naive(x, s, i32::from(z), (-32768, 32767)), "{} {}", x, cpu.isa());
            }
        }
    }

    #[test]
    fn every_isa_dequantizes_and_requantizes_as_defined(
        q in prop::collection::vec(any::<i32>(), 0..150), s in prop::collection::vec(1e-6f32..10.0, 1..4), z: u8,
        inner in 1usize..4, sign in sign(), narrow: [u8; 2],
    ) {
        let axis = s.len();
        let len = q.len() / (axis * inner) * (axis * inner);
        let q = &q[..len];
        let bytes: Vec<u8> = q.iter().map(|&q| q as u8).collect();
        let words: Vec<i16> = q.iter().map(|&q| q as i16).collect();
        let zs: Vec<i32> = (0..axis).map(|i| i32::from(z) + i as i32).collect();
        let at = |i: usize| i / inner % axis;
        for cpu in cpus() {
            let d = Dequantize::per_axis(cpu, s.clone(), zs.clone(), inner).unwrap();
            for (codes, value) in [
                (Codes::U8(&bytes), &(|i: usize| i32::from(bytes[i])) as &dyn Fn(usize) -> i32),
                (Codes::S8(&bytes), &|i| i32::from(bytes[i] as i8)),
                (Codes::S16(&words), &|i| i32::from(words[i])),
                (Codes::S32(q), &|i| q[i]),
            ] {
                let mut y = vec![0.0; len];
                d.run(&Serial, codes, &mut y).unwrap();
                for (i, &y) in y.iter().enumerate() {
                    prop_assert_eq!(y, value(i).wrapping_sub(zs[at(i)]) as f32 * s[at(i)]);
                }
            }
            let (z, n) = (sign.value(z), narrow.map(|b| sign.value(b)));
            let bounds = (n[0].min(n[1]), n[0].max(n[1]));
            let r = Requantize::new(cpu, s.clone(), z, sign, bounds).unwrap();
            let mut y = vec![0; len];
            r.run(&Serial, q, &mut y).unwrap();
            for (i, &y) in y.iter().enumerate() {
                prop_assert_eq!(sign.value(y), naive(q[i] as f32 * s[i % axis], 1.0, z, bounds));
            }
        }
    }
}

proptest! {
    #[test]
    fn every_isa_quantizes_rows_as_the_formula_says(
        columns in 1usize..400, rows in 0usize..4, seed: u32, signed: bool, spread in 0usize..4, special: bool,
    ) {
        let sign = if signed { Sign::S8 } else { Sign::U8 };
        let mut x: Vec<f32> = (0..rows * columns)
            .map(|i| {
                let v = ((i as u32 ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 4e6;
                v * [1.0, 1e-3, 0.0, 1e30][spread] - [2.0, 1e-3, 0.0, 0.0][spread]
            })
            .collect();
        if special && !x.is_empty() {
            let n = x.len();
            (x[0], x[n / 2]) = (f32::NAN, -0.0);
        }
        let min = sign.min();
        let mut want = Vec::new();
        let mut want_rows = Vec::new();
        for x in x.chunks(columns) {
            let lo = x.iter().fold(0f32, |a, &b| a.min(b));
            let hi = x.iter().fold(0f32, |a, &b| a.max(b));
            let scale = if hi == lo { 1.0 } else { (hi - lo) / 255.0 };
            let z = (-lo / scale).clamp(0.0, 255.0).round_ties_even() as i32;
            let codes: Vec<i32> = x.iter().map(|&x| naive(x, scale, z, (0, 255)) + min).collect();
            want_rows.push(RowQuantization { scale, zero_point: z + min, sum: codes.iter().sum() });
            want.extend(codes.iter().map(|&code| code as u8));
        }
        for cpu in cpus() {
            for par in [&Serial as &dyn crate::par::Parallel, &pool()] {
                let (mut y, mut found) = (vec![0; x.len()], vec![RowQuantization::default(); rows]);
                DynamicQuantize::new(cpu, sign, columns).unwrap().run(par, &x, &mut y, &mut found).unwrap();
                prop_assert_eq!(&y, &want, "{}", cpu.isa());
                prop_assert_eq!(&found, &want_rows, "{}", cpu.isa());
            }
        }
    }

    #[test]
    fn long_rows_equal_the_definition(len in 0usize..700, at in 0usize..20, s in 1e-3f32..0.9, z: u8, signed: bool) {
        let sign = if signed { Sign::S8 } else { Sign::U8 };
        let z = sign.value(z);
        let acc: Vec<i32> =
            (0..len + at).map(|i| (i as i32).wrapping_mul(0x9E3779B1u32 as i32) >> 20).collect();
        let acc = &acc[at..];
        let real: Vec<f32> = acc.iter().map(|&a| a as f32 * 0.37).collect();
        let bytes: Vec<u8> = acc.iter().map(|&a| a as u8).collect();
        let codes = if signed { Codes::S8(&bytes) } else { Codes::U8(&bytes) };
        let ms: Vec<f32> = (0..len).map(|i| s + i as f32 * 1e-4).collect();
        let zs: Vec<i32> = (0..len).map(|i| z + i as i32 % 3).collect();
        let bounds = (sign.min(), sign.max());
        for cpu in cpus() {
            let (mut y, mut f) = (vec![0; len], vec![0.0; len]);
            Quantize::new(cpu, s, z, sign).unwrap().run(&Serial, &real, &mut y).unwrap();
            prop_assert!(y.iter().zip(&real).all(|(&y, &x)| sign.value(y) == naive(x, s, z, bounds)));
            Requantize::new(cpu, vec![s], z, sign, bounds).unwrap().run(&Serial, acc, &mut y).unwrap();
            prop_assert!(y.iter().zip(acc).all(|(&y, &a)| sign.value(y) == naive(a as f32 * s, 1.0, z, bounds)));
            // A zero point beyond what f32 subtracts exactly takes another loop.
            for z in [z, 1 << 25] {
                Dequantize::per_tensor(cpu, s, z).unwrap().run(&Serial, codes, &mut f).unwrap();
                prop_assert!(f.iter().zip(&bytes).all(|(&f, &q)| f == (sign.value(q) - z) as f32 * s));
            }
            if len > 0 {
                Requantize::new(cpu, ms.clone(), z, sign, bounds).unwrap().run(&Serial, acc, &mut y).unwrap();
                for (i, &y) in y.iter().enumerate() {
                    prop_assert_eq!(sign.value(y), naive(acc[i] as f32 * ms[i], 1.0, z, bounds));
                }
                let d = Dequantize::per_axis(cpu, ms.clone(), zs.clone(), 1).unwrap();
                d.run(&Serial, codes, &mut f).unwrap();
                for (i, &f) in f.iter().enumerate() {
                    prop_assert_eq!(f, (sign.value(bytes[i]) - zs[i]) as f32 * ms[i]);
                }
            }
        }
    }
}

#[test]
fn every_8_bit_code_survives_dequantize_and_quantize() {
    let q: Vec<u8> = (0..=255).collect();
    for cpu in cpus() {
        for (sign, z, codes) in [(Sign::U8, 7, Codes::U8(&q)), (Sign::S8, -3, Codes::S8(&q))] {
            for s in [0.1f32, 1.0 / 3.0, 1e-3, 123.456] {
                let (mut x, mut back) = (vec![0.0; 256], vec![0; 256]);
                Dequantize::per_tensor(cpu, s, z).unwrap().run(&Serial, codes, &mut x).unwrap();
                Quantize::new(cpu, s, z, sign).unwrap().run(&Serial, &x, &mut back).unwrap();
                assert_eq!(q, back);
            }
        }
    }
}

#[test]
fn long_slices_are_split_without_a_seam() {
    let x: Vec<f32> = (0..200_000).map(|i| i as f32 * 0.001 - 50.0).collect();
    let q = Quantize::new(Cpu::detect(), 0.3, 100, Sign::U8).unwrap();
    let (mut y, mut z) = (vec![0; x.len()], vec![0; x.len()]);
    q.run(&Serial, &x, &mut y).unwrap();
    q.run(&pool(), &x, &mut z).unwrap();
    assert_eq!(y, z);
    assert!(y.iter().zip(&x).all(|(&y, &x)| i32::from(y) == naive(x, 0.3, 100, (0, 255))));
    let d = Dequantize::per_axis(Cpu::detect(), vec![0.5, 0.25], vec![], 1000).unwrap();
    let (mut a, mut b) = (vec![0.0; y.len()], vec![0.0; y.len()]);
    d.run(&Serial, Codes::U8(&y), &mut a).unwrap();
    d.run(&pool(), Codes::U8(&y), &mut b).unwrap();
    assert_eq!(a, b);
    assert_eq!((a[999], a[1000]), (f32::from(y[999]) * 0.5, f32::from(y[1000]) * 0.25));
}

#[test]
fn bad_parameters_are_refused() {
    let cpu = Cpu::detect();
    for s in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(Quantize::new(cpu, s, 0, Sign::U8).is_err());
        assert!(Dequantize::per_tensor(cpu, s, 0).is_err());
    }
    assert!(Quantize::new(cpu, 1.0, 256, Sign::U8).is_err());
    assert!(Quantize::new(cpu, 1.0, 0, Sign::U8).unwrap().bounds(5, 4).is_err());
    let s16 = Quantize::new_s16(cpu, 1.0, 0).unwrap();
    assert!(s16.run(&Serial, &[], &mut []).is_err());
    assert!(Quantize::new(cpu, 1.0, 0, Sign::U8).unwrap().run_s16(&Serial, &[], &mut []).is_err());
    assert!(s16.run_s16(&Serial, &[1.0], &mut []).is_err());
    assert!(Dequantize::per_axis(cpu, vec![1.0; 3], vec![0; 2], 1).is_err());
    let three = Dequantize::per_axis(cpu, vec![1.0; 3], vec![], 2).unwrap();
    assert!(three.run(&Serial, Codes::U8(&[0; 9]), &mut [0.0; 9]).is_err());
    assert!(DynamicQuantize::new(cpu, Sign::U8, 0).is_err());
    assert!(DynamicQuantize::new(cpu, Sign::U8, usize::MAX).is_err());
    let rows = &mut [RowQuantization::default(); 2];
    let dynamic = DynamicQuantize::new(cpu, Sign::U8, 3).unwrap();
    assert!(dynamic.run(&Serial, &[0.0; 5], &mut [0; 6], rows).is_err());
    assert!(dynamic.run(&Serial, &[0.0; 6], &mut [0; 5], rows).is_err());
    assert!(Requantize::new(cpu, vec![], 0, Sign::U8, (0, 255)).is_err());
    assert!(Requantize::new(cpu, vec![f32::NAN], 0, Sign::U8, (0, 255)).is_err());
}

proptest! {
    #[test]
    fn rescaling_is_dequantizing_and_quantizing(
        q in prop::collection::vec(any::<i32>(), 0..3000), s in 1e-4f32..10.0, t in scale(), z: u8, sign in sign(),
    ) {
        let bytes: Vec<u8> = q.iter().map(|&q| q as u8).collect();
        let shorts: Vec<i16> = q.iter().map(|&q| q as i16).collect();
        for cpu in cpus() {
            let from = Dequantize::per_tensor(cpu, s, i32::from(z) - 100).unwrap();
            let to8 = Quantize::new(cpu, t, sign.value(z), sign).unwrap();
            let to16 = Quantize::new_s16(cpu, t, 100 * i32::from(z) - 9000).unwrap();
            for codes in [Codes::U8(&bytes), Codes::S8(&bytes), Codes::S16(&shorts), Codes::S32(&q)] {
                let mut x = vec![0.0; q.len()];
                from.run(&Serial, codes, &mut x).unwrap();
                let (mut want, mut y) = (vec![0; q.len()], vec![1; q.len()]);
                to8.run(&Serial, &x, &mut want).unwrap();
                let rescale = Rescale::new(from.clone(), to8).unwrap();
                rescale.run(&Serial, codes, CodesMut::Bits8(&mut y)).unwrap();
                prop_assert!(y == want, "{codes:?} to 8 bits on {}", cpu.isa());
                let (mut want, mut y) = (vec![0; q.len()], vec![1; q.len()]);
                to16.run_s16(&Serial, &x, &mut want).unwrap();
                let rescale = Rescale::new(from.clone(), to16).unwrap();
                rescale.run(&Serial, codes, CodesMut::S16(&mut y)).unwrap();
                prop_assert!(y == want, "{codes:?} to s16 on {}", cpu.isa());
            }
        }
    }
}

#[test]
fn accumulators_requantize_to_s16_by_the_multiplier() {
    // several tasks
    let acc = [i32::MIN, -70_001, -1, 0, 1, 50_000, 12_345_678, i32::MAX].repeat(10_000);
    let cpu = Cpu::detect();
    let (by, to) = (Dequantize::per_tensor(cpu, 0.01, 0), Quantize::new_s16(cpu, 1.0, 7));
    let mut y = vec![0; acc.len()];
    let rescale = Rescale::new(by.unwrap(), to.unwrap()).unwrap();
    rescale.run(&pool(), Codes::S32(&acc), CodesMut::S16(&mut y)).unwrap();
    assert_eq!(y, [-32768, -693, 7, 7, 7, 507, 32767, 32767].repeat(10_000));
}

#[test]
fn rescaling_refuses_what_does_not_fit() {
    let cpu = Cpu::detect();
    let from = Dequantize::per_tensor(cpu, 0.5, 0).unwrap();
    let per_axis = Dequantize::per_axis(cpu, vec![0.5; 3], vec![], 1).unwrap();
    let to = Quantize::new(cpu, 0.5, 0, Sign::S8).unwrap();
    assert!(Rescale::new(per_axis, to).is_err());
    let rescale = Rescale::new(from, to).unwrap();
    assert!(rescale.run(&Serial, Codes::S16(&[1]), CodesMut::S16(&mut [0])).is_err());
    assert!(rescale.run(&Serial, Codes::S16(&[1]), CodesMut::Bits8(&mut [0, 0])).is_err());
}
