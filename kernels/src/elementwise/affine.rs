//! Sums of two scaled codes in integers: `clamp((a·mₐ + b·m_b + c) >> s)` where the definition adds in f32.
//!
//! Only 65,536 results are defined. Multipliers of some 22 bits give them all, unless many sums lie halfway between codes
//! (`(a + b) / 2` does): of 1500 random pairs of scales 98 in 100 have such integers, nine in ten the nearest ones.
//! [`Affine::find`] tries every pair, so that nothing rests on an estimate of errors.
//!
//! A multiplier is `high·2¹⁶ + low`. `vpmaddubsw` makes words of the high parts' products, a product of words with
//! 32-bit sums the rest, of which a carry into those words is left:
//!
//! ```text
//! sum >> 16 = a·high_a + b·high_b + ((a·low_a + b·low_b + c) >> 16)
//! ```

use crate::broadcast::Row;
use crate::cpu::Cpu;
use crate::multiversion::multiversion;
use crate::sign::Sign;

#[cfg(target_arch = "x86_64")]
use super::affine_x86 as x86;

/// The integers; codes are counted from the least of their type.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no other kernels"))]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Affine {
    pub(super) high: [i8; 2],
    pub(super) low: [i16; 2],
    pub(super) offset: i32,
    /// What brings a sum's upper word to a code, in 2⁻¹⁶.
    pub(super) to_code: i16,
    pub(super) bounds: (u8, u8),
}

/// How far from the nearest multipliers others are tried.
const STEPS: [i64; 3] = [0, 1, -1];

impl Affine {
    /// The integers that give `codes`, the results of all pairs (`codes[256·a + b]`), which are limited to `bounds` and
    /// come from about `a·r₀ + b·r₁ + r₂`; `None` where none are found or this CPU has no kernel for them.
    pub(super) fn find(cpu: Cpu, r: [f64; 3], bounds: (u8, u8), codes: &[u8]) -> Option<Self> {
        cpu.avx2()?;
        // As many bits as leave room for all sums; others would be less exact.
        let bits = (2..8).rev().find(|&bits| Self::nearest(r, bits, bounds).is_some())?;
        let [ma, mb, c] = scaled(r, bits);
        for da in STEPS {
            for db in STEPS {
                let m = [ma + da, mb + db];
                let (least, most) = offsets(cpu, codes, m, 16 + bits, bounds);
                if least <= most
                    && let Some(affine) = Self::new(m, c.clamp(least, most), bits, bounds)
                {
                    return Some(affine);
                }
            }
        }
        None
    }

    fn nearest(r: [f64; 3], bits: u32, bounds: (u8, u8)) -> Option<Self> {
        let [ma, mb, c] = scaled(r, bits);
        Self::new([ma, mb], c, bits, bounds)
    }

    /// Sums have `bits` of fraction in their upper words. `None` if something overflows for some pair.
    fn new(m: [i64; 2], offset: i64, bits: u32, bounds: (u8, u8)) -> Option<Self> {
        let high = m.map(|m| (m + (1 << 15)) >> 16);
        let low = [m[0] - (high[0] << 16), m[1] - (high[1] << 16)];
        let sums = |m: [i64; 2], c: i64| {
            let end = |f: fn(i64, i64) -> i64| c + 255 * (f(m[0], 0) + f(m[1], 0));
            [end(i64::min), end(i64::max)]
        };
        sums(high, 0).iter().try_for_each(|&sum| i16::try_from(sum).map(drop)).ok()?;
        sums(low, offset).iter().try_for_each(|&sum| i32::try_from(sum).map(drop)).ok()?;
        sums(m, offset).iter().try_for_each(|&sum| i32::try_from(sum).map(drop)).ok()?;
        Some(Self {
            high: [i8::try_from(high[0]).ok()?, i8::try_from(high[1]).ok()?],
            low: [i16::try_from(low[0]).ok()?, i16::try_from(low[1]).ok()?],
            offset: i32::try_from(offset).ok()?,
            to_code: 1 << (16 - bits),
            bounds,
        })
    }

    /// The results of a row of codes of type `sign`; false where the row is too short for the kernels.
    pub(super) fn run(&self, cpu: Cpu, sign: Sign, row: Row<'_, u8, u8>, y: &mut [u8]) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match sign {
            Sign::U8 => x86::run::<false>(cpu, self, row, y),
            Sign::S8 => x86::run::<true>(cpu, self, row, y),
        };
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (cpu, sign, row, y);
            false
        }
    }
}

/// Multipliers and constant with `16 + bits` of fraction, the latter with a half for rounding.
fn scaled([ra, rb, c]: [f64; 3], bits: u32) -> [i64; 3] {
    // What is limited here is far too large, and sums of it do not overflow.
    let scaled = |v: f64| (v * f64::from(1 << (16 + bits))).clamp(-1e12, 1e12).round() as i64;
    [scaled(ra), scaled(rb), scaled(c + 0.5)]
}

multiversion!(fn offsets = offsets_body(codes: &[u8], m: [i64; 2], shift: u32, bounds: (u8, u8)) -> (i64, i64));

/// Which offsets give `codes`: from the first to the second, where that is not less.
#[inline(always)]
fn offsets_body(codes: &[u8], m: [i64; 2], shift: u32, (min, max): (u8, u8)) -> (i64, i64) {
    let (mut least, mut most) = (i64::MIN, i64::MAX);
    for (a, codes) in (0..).zip(codes.chunks_exact(256)) {
        for (b, &code) in (0..).zip(codes) {
            let first = (i64::from(code) << shift) - (a * m[0] + b * m[1]);
            let last = first + (1 << shift) - 1;
            // Sums below the least code, or above the greatest, are limited.
            least = least.max(if code > min { first } else { i64::MIN });
            most = most.min(if code < max { last } else { i64::MAX });
        }
        if least > most {
            break;
        }
    }
    (least, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::testing::cpus;

    /// The codes of all pairs by the definition of an addition.
    fn sums([ra, rb, c]: [f32; 3], (min, max): (u8, u8)) -> Vec<u8> {
        let code = |v: f32| v.round_ties_even().clamp(f32::from(min), f32::from(max)) as u8;
        let sum = |a: u8, b: u8| f32::from(a).mul_add(ra, f32::from(b).mul_add(rb, c));
        (0..=255).flat_map(|a| (0..=255).map(move |b| code(sum(a, b)))).collect()
    }

    fn find(cpu: Cpu, r: [f32; 3], bounds: (u8, u8), codes: &[u8]) -> Option<Affine> {
        Affine::find(cpu, r.map(f64::from), bounds, codes)
    }

    #[test]
    fn integers_are_found_for_most_scales_and_give_all_pairs() {
        let all: Vec<u8> = (0..=255).collect();
        let flip = |codes: &[u8], s: bool| -> Vec<u8> {
            codes.iter().map(|code| if s { code ^ 0x80 } else { *code }).collect()
        };
        let mut found = 0;
        for i in 1u16..=24 {
            let fraction = |k: f32| (k * f32::from(i)).fract();
            let [ra, rb] = [0.754_877, 0.569_84].map(|k| 0.1 + 1.2 * fraction(k));
            let r = [ra, if i % 4 == 3 { -rb } else { rb }, 100.0 * fraction(0.618_034) - 30.0];
            let bounds = if i % 3 == 0 { (12, 200) } else { (0, 255) };
            let codes = sums(r, bounds);
            for cpu in cpus().into_iter().filter(|cpu| cpu.avx2().is_some()) {
                let Some(affine) = find(cpu, r, bounds, &codes) else { continue };
                found += 1;
                for (a, want) in (0u8..=255).zip(codes.chunks_exact(256)) {
                    for (sign, s) in [(Sign::U8, false), (Sign::S8, true)] {
                        let (a, b, want) = (flip(&[a], s)[0], flip(&all, s), flip(want, s));
                        let mut y = [[0; 256]; 3];
                        assert!(affine.run(cpu, sign, Row::ScalarA(a, &b), &mut y[0]));
                        assert!(affine.run(cpu, sign, Row::Both(&[a; 256], &b), &mut y[1]));
                        for (b, y) in b.iter().zip(y[2].chunks_exact_mut(1)) {
                            let mut many = [0; 45];
                            assert!(affine.run(cpu, sign, Row::ScalarB(&[a; 45], *b), &mut many));
                            assert!(many.iter().all(|code| *code == many[0]));
                            y[0] = many[0];
                        }
                        assert!(y.iter().all(|y| y[..] == want), "{} {r:?}", cpu.isa());
                    }
                }
            }
        }
        let kernels = cpus().iter().filter(|cpu| cpu.avx2().is_some()).count();
        assert!(found >= 20 * kernels, "{found} of {}", 24 * kernels);
    }

    #[test]
    fn halves_and_sums_that_overflow_are_refused() {
        for r in [[0.5, 0.5, 0.0], [300.0, 1.0, 0.0], [1.0, -1e30, 0.0], [1.0, 1.0, 1e9]] {
            let codes = sums(r, (0, 255));
            for cpu in cpus() {
                assert_eq!(find(cpu, r, (0, 255), &codes), None, "{} {r:?}", cpu.isa());
            }
        }
    }

    #[test]
    fn a_row_too_short_for_the_kernels_is_left() {
        for cpu in cpus() {
            let r = [0.713, 0.642, -3.1];
            if let Some(affine) = find(cpu, r, (0, 255), &sums(r, (0, 255))) {
                let mut y = [7; 31];
                assert!(!affine.run(cpu, Sign::U8, Row::ScalarA(9, &[3; 31]), &mut y));
                assert_eq!(y, [7; 31]);
            }
        }
    }
}
