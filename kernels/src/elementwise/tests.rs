#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::broadcast::Broadcast;
use crate::lut::Lut;
use crate::par::Serial;
use crate::quantize::Quantize;
use crate::sign::Sign;
use crate::split::testing::{cpus, pool};

/// Every pair of 8-bit codes.
fn pairs() -> (Vec<u8>, Vec<u8>) {
    (0..=u16::MAX).map(|i| ((i >> 8) as u8, i as u8)).unzip()
}

fn saturate(v: f32, (min, max): (i32, i32)) -> u8 {
    v.round_ties_even().clamp(min as f32, max as f32) as i32 as u8
}

fn sign_and_codes() -> impl Strategy<Value = (Sign, [i32; 3], (i32, i32))> {
    (any::<bool>(), any::<[u8; 3]>(), any::<[u8; 2]>()).prop_map(|(s, z, [p, q])| {
        let sign = if s { Sign::S8 } else { Sign::U8 };
        let (p, q) = (sign.value(p), sign.value(q));
        let bounds = if p % 2 == 0 { (sign.min(), sign.max()) } else { (p.min(q), p.max(q)) };
        (sign, z.map(|z| sign.value(z)), bounds)
    })
}

/// The same codes in the other storage.
fn flipped(codes: &[u8]) -> Vec<u8> {
    codes.iter().map(|code| code ^ 0x80).collect()
}

fn flipped_bounds(sign: Sign, (min, max): (i32, i32)) -> (Sign, (i32, i32)) {
    let shift = sign.shift_to(sign.other());
    (sign.other(), (min + shift, max + shift))
}

fn scale() -> impl Strategy<Value = f32> {
    prop_oneof![0.001f32..0.5, Just(0.25), Just(0.5), Just(1.0), Just(1e-6), Just(300.0)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_isa_adds_all_pairs_as_defined(
        (sign, [za, zb, zy], bounds) in sign_and_codes(), sa in scale(), sb in scale(), sy in scale(), inner_a: bool,
    ) {
        let k = qadd_constants(sa, za, sb, zb, sy, zy);
        let (a, b) = pairs();
        let want: Vec<u8> = a.iter().zip(&b).map(|(&a, &b)| {
            let (a, b) = (sign.value(a) as f32, sign.value(b) as f32);
            let t = if inner_a { b.mul_add(k.rb, a.mul_add(k.ra, k.c)) } else { a.mul_add(k.ra, b.mul_add(k.rb, k.c)) };
            saturate(t, bounds)
        }).collect();
        let order = if inner_a { AddOrder::InnerA } else { AddOrder::InnerB };
        for cpu in cpus() {
            let mut y = vec![0; a.len()];
            QAdd::new(cpu, sign, k, bounds).unwrap().order(order)
                .run(&pool(), &Broadcast::elementwise(a.len()), &a, &b, &mut y).unwrap();
            prop_assert!(y == want, "{}", cpu.isa());
            let (other, bounds) = flipped_bounds(sign, bounds);
            QAdd::flipped(cpu, other, k, bounds).unwrap().order(order)
                .run(&pool(), &Broadcast::elementwise(a.len()), &flipped(&a), &flipped(&b), &mut y).unwrap();
            prop_assert!(y == flipped(&want), "{} flipped", cpu.isa());
        }
    }

    #[test]
    fn every_isa_multiplies_all_pairs_as_defined(
        (sign, [za, zb, zy], bounds) in sign_and_codes(), sa in scale(), sb in scale(), sy in scale(),
    ) {
        let m = qmul_multiplier(sa, sb, sy);
        let (a, b) = pairs();
        let want: Vec<u8> = a.iter().zip(&b).map(|(&a, &b)| {
            let p = (sign.value(a) - za) * (sign.value(b) - zb);
            saturate(p as f32 * m + zy as f32, bounds)
        }).collect();
        for cpu in cpus() {
            let mut y = vec![0; a.len()];
            QMul::new(cpu, sign, m, (za, zb, zy), bounds).unwrap()
                .run(&pool(), &Broadcast::elementwise(a.len()), &a, &b, &mut y).unwrap();
            prop_assert!(y == want, "{}", cpu.isa());
            let (other, bounds) = flipped_bounds(sign, bounds);
            let shift = sign.shift_to(other);
            QMul::new(cpu, other, m, (za + shift, zb + shift, zy + shift), bounds).unwrap().flipped()
                .run(&pool(), &Broadcast::elementwise(a.len()), &flipped(&a), &flipped(&b), &mut y).unwrap();
            prop_assert!(y == flipped(&want), "{} flipped", cpu.isa());
        }
    }

    #[test]
    fn every_isa_subtracts_all_pairs_as_defined(
        (sign, [za, zb, zy], bounds) in sign_and_codes(), sa in scale(), sb in scale(), sy in scale(),
    ) {
        let k = qsub_constants(sa, za, sb, zb, sy, zy);
        let (ra, rb) = (sa / sy, -(sb / sy));
        prop_assert_eq!((k.ra, k.rb), (ra, rb));
        prop_assert_eq!(k.c, zy as f32 - ra.mul_add(za as f32, rb * zb as f32));
        let (a, b) = pairs();
        let want: Vec<u8> = a.iter().zip(&b).map(|(&a, &b)| {
            let (a, b) = (sign.value(a) as f32, sign.value(b) as f32);
            saturate(a.mul_add(ra, b.mul_add(rb, k.c)), bounds)
        }).collect();
        for cpu in cpus() {
            let mut y = vec![0; a.len()];
            QAdd::new(cpu, sign, k, bounds).unwrap()
                .run(&pool(), &Broadcast::elementwise(a.len()), &a, &b, &mut y).unwrap();
            prop_assert!(y == want, "{}", cpu.isa());
        }
    }

    #[test]
    fn every_isa_takes_the_extremum_of_all_pairs(
        (sign, [z, zy, _], _) in sign_and_codes(), s in scale(), sy in scale(), requantize: bool, max: bool,
    ) {
        let (a, b) = pairs();
        let to = Quantize::new(crate::Cpu::detect(), sy, zy, sign).unwrap();
        let want: Vec<u8> = a.iter().zip(&b).map(|(&a, &b)| {
            let (a, b) = (sign.value(a), sign.value(b));
            let v = if max { a.max(b) } else { a.min(b) };
            if requantize { to.code((v - z) as f32 * s) as u8 } else { v as u8 }
        }).collect();
        for cpu in cpus() {
            let lut = requantize.then(|| Lut::requantize(cpu, (sign, s, z), &to).unwrap());
            let which = if max { Extremum::Max } else { Extremum::Min };
            let mut y = vec![0; a.len()];
            QExtremum::new(cpu, which, sign, lut)
                .run(&pool(), &Broadcast::elementwise(a.len()), &a, &b, &mut y).unwrap();
            prop_assert!(y == want, "{}", cpu.isa());
        }
    }

    #[test]
    fn tails_and_single_operands_equal_the_definition(
        len in 0usize..300, at in 0usize..70, (sign, [za, zb, zy], bounds) in sign_and_codes(), single in 0usize..3,
        sa in scale(), sb in scale(), sy in scale(),
    ) {
        let bytes = |seed: usize, n: usize| (0..n).map(|i| ((i + seed) * 0x9E3779B1) as u8).collect::<Vec<u8>>();
        let (a, b) = (bytes(1, len + at), bytes(7, len + at));
        let (a, b) = (&a[at..], &b[at..]);
        let (a, b, shapes) = match single {
            1 if len > 0 => (&a[..1], b, Broadcast::new(&[1], &[len]).unwrap()),
            2 if len > 0 => (a, &b[..1], Broadcast::new(&[len], &[1]).unwrap()),
            _ => (a, b, Broadcast::elementwise(len)),
        };
        let k = qadd_constants(sa, za, sb, zb, sy, zy);
        let m = qmul_multiplier(sa, sb, sy);
        let operand = |codes: &[u8], i: usize| sign.value(if codes.len() == 1 { codes[0] } else { codes[i] }) as f32;
        let want = (0..len).map(|i| {
            let (a, b) = (operand(a, i), operand(b, i));
            let sum = a.mul_add(k.ra, b.mul_add(k.rb, k.c));
            let product = (a - za as f32) * (b - zb as f32) * m + zy as f32;
            (saturate(sum, bounds), saturate(product, bounds))
        });
        let want: (Vec<u8>, Vec<u8>) = want.unzip();
        let run = |cpu| {
            let (mut sum, mut product) = (vec![0; len], vec![0; len]);
            QAdd::new(cpu, sign, k, bounds).unwrap().run(&Serial, &shapes, a, b, &mut sum).unwrap();
            QMul::new(cpu, sign, m, (za, zb, zy), bounds).unwrap()
                .run(&Serial, &shapes, a, b, &mut product).unwrap();
            (sum, product)
        };
        for cpu in cpus() {
            prop_assert_eq!(&run(cpu), &want, "{}", cpu.isa());
        }
    }

    #[test]
    fn broadcast_operands_give_what_repeated_ones_give(
        dims in prop::collection::vec(1usize..20, 1..4), cut in 0usize..4, ones in any::<[bool; 3]>(), seed: u8,
    ) {
        let small: Vec<usize> =
            dims.iter().zip(ones).map(|(&d, one)| if one { 1 } else { d }).skip(cut.min(dims.len())).collect();
        let shapes = Broadcast::new(&dims, &small).unwrap();
        let bytes = |n: usize| (0..n).map(|i| (i as u8).wrapping_mul(37) ^ seed).collect::<Vec<u8>>();
        let (a, b) = (bytes(dims.iter().product()), bytes(small.iter().product()));
        let mut repeated = vec![0; a.len()];
        shapes.map(0, &a, &b, &mut repeated, |_, b| b);
        let k = qadd_constants(0.1, 3, 0.07, 9, 0.15, 100);
        for cpu in cpus() {
            let (mut y, mut want) = (vec![0; a.len()], vec![0; a.len()]);
            let add = QAdd::new(cpu, Sign::U8, k, (0, 255)).unwrap();
            add.run(&Serial, &shapes, &a, &b, &mut y).unwrap();
            add.run(&Serial, &Broadcast::elementwise(a.len()), &a, &repeated, &mut want).unwrap();
            prop_assert_eq!(&y, &want);
            let mul = QMul::new(cpu, Sign::S8, 0.01, (1, -2, 3), (-128, 127)).unwrap();
            mul.run(&Serial, &shapes, &a, &b, &mut y).unwrap();
            mul.run(&Serial, &Broadcast::elementwise(a.len()), &a, &repeated, &mut want).unwrap();
            prop_assert_eq!(&y, &want);
        }
    }
}

/// Outputs of onnxruntime 1.32 (x86-64, AVX2 kernel), where orders of evaluation differ in the last bit.
#[test]
fn add_rounds_as_onnxruntime_does() {
    for (sign, [sa, sb, sy], [za, zb, zy], cases) in ort_cases::ADD {
        let (sa, sb, sy) = (f32::from_bits(*sa), f32::from_bits(*sb), f32::from_bits(*sy));
        for &(a, b, want) in *cases {
            let add = QAdd::new(
                crate::Cpu::detect(),
                *sign,
                qadd_constants(sa, *za, sb, *zb, sy, *zy),
                (sign.min(), sign.max()),
            );
            let mut y = [0];
            add.unwrap().run(&Serial, &Broadcast::elementwise(1), &[a], &[b], &mut y).unwrap();
            assert_eq!(y[0], want, "{a} + {b} at {sa} {sb} {sy}");
        }
    }
    for (sign, [sa, sb, sy], [za, zb, zy], cases) in ort_cases::MUL {
        let (sa, sb, sy) = (f32::from_bits(*sa), f32::from_bits(*sb), f32::from_bits(*sy));
        for &(a, b, want) in *cases {
            let mul = QMul::new(
                crate::Cpu::detect(),
                *sign,
                qmul_multiplier(sa, sb, sy),
                (*za, *zb, *zy),
                (sign.min(), sign.max()),
            );
            let mut y = [0];
            mul.unwrap().run(&Serial, &Broadcast::elementwise(1), &[a], &[b], &mut y).unwrap();
            assert_eq!(y[0], want, "{a} × {b} at {sa} {sb} {sy}");
        }
    }
}

/// Ratios whose sums leave s32 take the loop that clamps first.
#[test]
fn sums_beyond_s32_saturate() {
    let a: Vec<u8> = (0..=255).collect();
    for cpu in cpus() {
        for (sb, want) in [(1e9, 255), (-1e9, 0)] {
            let k = qadd_constants(1e9, 0, sb, 0, 1.0, 7);
            let mut y = vec![9; 256];
            QAdd::new(cpu, Sign::U8, k, (0, 255))
                .unwrap()
                .run(&Serial, &Broadcast::new(&[256], &[1]).unwrap(), &a, &[255], &mut y)
                .unwrap();
            assert_eq!((y[0], y[254]), (want, want), "{}", cpu.isa());
        }
    }
}

/// Ratios that cannot be divided by 2²⁴ take the loop without units.
#[test]
fn ratios_near_the_least_f32_are_exact() {
    let a: Vec<u8> = (0..=255).collect();
    for cpu in cpus() {
        let (ra, rb, c) = (f32::MIN_POSITIVE, 0.5, 0.0);
        let add = QAdd::new(cpu, Sign::S8, QAddConstants { ra, rb, c }, (-128, 127)).unwrap();
        let mut y = vec![9; 256];
        add.run(&Serial, &Broadcast::elementwise(256), &[1; 256], &a, &mut y).unwrap();
        let want = |b: u8| (f32::from(b as i8) * 0.5).round_ties_even() as i32 as u8;
        assert_eq!(y, a.iter().map(|&b| want(b)).collect::<Vec<u8>>(), "{}", cpu.isa());
    }
}

#[test]
fn bad_parameters_are_refused() {
    let cpu = crate::Cpu::detect();
    let k = qadd_constants(0.1, 0, 0.1, 0, 0.1, 0);
    assert!(QAdd::new(cpu, Sign::U8, k, (-1, 255)).is_err());
    assert!(QAdd::new(cpu, Sign::U8, k, (9, 8)).is_err());
    assert!(QAdd::new(cpu, Sign::U8, QAddConstants { c: f32::NAN, ..k }, (0, 255)).is_err());
    assert!(QAdd::new(cpu, Sign::U8, QAddConstants { ra: f32::INFINITY, ..k }, (0, 255)).is_err());
    assert!(QMul::new(cpu, Sign::S8, 1.0, (128, 0, 0), (-128, 127)).is_err());
    assert!(QMul::new(cpu, Sign::S8, 0.0, (0, 0, 0), (-128, 127)).is_err());
    let add = QAdd::new(cpu, Sign::U8, k, (0, 255)).unwrap();
    assert!(add.run(&Serial, &Broadcast::elementwise(2), &[0, 0], &[0], &mut [0, 0]).is_err());
}
