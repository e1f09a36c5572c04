//! f16 ↔ f32: F16C and AVX-512 instructions where the machine has them, else the `half` crate.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::cpu::Cpu;
use crate::error::{KernelError, check_len};
#[cfg(target_arch = "x86_64")]
use crate::multiversion::Tier;
use crate::multiversion::tier;
use crate::par::Parallel;
use crate::split::{self, TASK_BYTES};

/// `y[i] = x[i]`, exactly; both have the same length.
///
/// # Errors
/// If the lengths differ.
pub fn f16_to_f32(
    cpu: Cpu,
    par: &dyn Parallel,
    x: &[f16],
    y: &mut [f32],
) -> Result<(), KernelError> {
    check_len("y", y.len(), x.len())?;
    const CHUNK: usize = TASK_BYTES / 4;
    let convert = Convert::of(cpu);
    split::chunks(par, y, CHUNK, |i, y| {
        convert.widen(x[i * CHUNK..][..y.len()].reinterpret_cast(), y);
    });
    Ok(())
}

/// `y[i] = x[i]`, rounded half to even; both have the same length.
///
/// # Errors
/// If the lengths differ.
pub fn f32_to_f16(
    cpu: Cpu,
    par: &dyn Parallel,
    x: &[f32],
    y: &mut [f16],
) -> Result<(), KernelError> {
    check_len("y", y.len(), x.len())?;
    const CHUNK: usize = TASK_BYTES / 2;
    let convert = Convert::of(cpu);
    split::chunks(par, y, CHUNK, |i, y| {
        convert.narrow(&x[i * CHUNK..][..y.len()], y.reinterpret_cast_mut());
    });
    Ok(())
}

/// How an ISA converts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Convert {
    Half,
    #[cfg(target_arch = "x86_64")]
    F16c,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Convert {
    fn of(cpu: Cpu) -> Self {
        match tier(cpu) {
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 if is_x86_feature_detected!("f16c") => Self::F16c,
            _ => Self::Half,
        }
    }

    fn widen(self, x: &[u16], y: &mut [f32]) {
        match self {
            Self::Half => x.reinterpret_cast::<f16>().convert_to_f32_slice(y),
            // SAFETY: `of` gives this only where F16C was detected.
            #[cfg(target_arch = "x86_64")]
            Self::F16c => unsafe { x86::widen_f16c(x, y) },
            // SAFETY: `of` gives this only where AVX-512 F was detected.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { x86::widen_avx512(x, y) },
        }
    }

    fn narrow(self, x: &[f32], y: &mut [u16]) {
        match self {
            Self::Half => y.reinterpret_cast_mut::<f16>().convert_from_f32_slice(x),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::F16c => unsafe { x86::narrow_f16c(x, y) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { x86::narrow_avx512(x, y) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{HalfBitsSliceExt, HalfFloatSliceExt, f16};

    /// Defines both directions in registers of `$n` f32 values; what is left over goes through `half`.
    macro_rules! convert {
        ($widen:ident, $narrow:ident, $features:literal, $n:literal,
         [$load_half:ident, $store_half:ident, $load:ident, $store:ident, $to_f32:ident, $to_f16:ident]) => {
            #[target_feature(enable = $features)]
            pub(super) fn $widen(x: &[u16], y: &mut [f32]) {
                let (xs, x_tail) = x.as_chunks::<$n>();
                let (ys, y_tail) = y.as_chunks_mut::<$n>();
                for (x, y) in xs.iter().zip(ys) {
                    // SAFETY: `x` is a reference to a register's elements; the load has no alignment demand.
                    let v = unsafe { $load_half(x.as_ptr().cast()) };
                    // SAFETY: as above, for `y` and the store.
                    unsafe { $store(y.as_mut_ptr(), $to_f32(v)) };
                }
                x_tail.reinterpret_cast::<f16>().convert_to_f32_slice(y_tail);
            }

            #[target_feature(enable = $features)]
            pub(super) fn $narrow(x: &[f32], y: &mut [u16]) {
                let (xs, x_tail) = x.as_chunks::<$n>();
                let (ys, y_tail) = y.as_chunks_mut::<$n>();
                for (x, y) in xs.iter().zip(ys) {
                    // SAFETY: `x` is a reference to a register's elements; the load has no alignment demand.
                    let v = unsafe { $load(x.as_ptr()) };
                    let v = $to_f16::<_MM_FROUND_TO_NEAREST_INT>(v);
                    // SAFETY: as above, for `y` and the store.
                    unsafe { $store_half(y.as_mut_ptr().cast(), v) };
                }
                y_tail.reinterpret_cast_mut::<f16>().convert_from_f32_slice(x_tail);
            }
        };
    }

    convert!(
        widen_f16c,
        narrow_f16c,
        "avx,f16c",
        8,
        [
            _mm_loadu_si128,
            _mm_storeu_si128,
            _mm256_loadu_ps,
            _mm256_storeu_ps,
            _mm256_cvtph_ps,
            _mm256_cvtps_ph
        ]
    );
    convert!(
        widen_avx512,
        narrow_avx512,
        "avx512f",
        16,
        [
            _mm256_loadu_si256,
            _mm256_storeu_si256,
            _mm512_loadu_ps,
            _mm512_storeu_ps,
            _mm512_cvtph_ps,
            _mm512_cvtps_ph
        ]
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::split::testing::{cpus, pool};

    #[test]
    fn every_f16_survives_the_round_trip() {
        let x: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|v| !v.is_nan()).collect();
        for cpu in cpus() {
            let mut wide = vec![0.0; x.len()];
            f16_to_f32(cpu, &pool(), &x, &mut wide).unwrap();
            assert_eq!(wide[x.iter().position(|v| v.to_bits() == 0x3c00).unwrap()], 1.0);
            let mut back = vec![f16::ZERO; x.len()];
            f32_to_f16(cpu, &pool(), &wide, &mut back).unwrap();
            assert!(x.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    fn ties_round_to_even() {
        for cpu in cpus() {
            let mut y = [f16::ZERO; 2];
            f32_to_f16(cpu, &pool(), &[2049.0, 2051.0], &mut y).unwrap();
            assert_eq!(y.map(f16::to_f32), [2048.0, 2052.0]);
        }
    }

    #[test]
    fn every_isa_converts_as_half_does() {
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        // Around every f16, halfway to the next one, and bits at random.
        let floats: Vec<f32> = halves
            .iter()
            .flat_map(|&h| {
                let bits = f16::from_bits(h).to_f32().to_bits();
                [
                    bits,
                    bits ^ 1,
                    bits | 0x1000,
                    bits | 0xfff,
                    u32::from(h).wrapping_mul(2_654_435_761),
                ]
            })
            .map(f32::from_bits)
            .filter(|v| !v.is_nan())
            .collect();
        for cpu in cpus() {
            let convert = Convert::of(cpu);
            for len in (0..40).chain([halves.len()]) {
                let mut y = vec![0.0; len];
                convert.widen(&halves[..len], &mut y);
                assert!(y.iter().zip(&halves).all(|(y, &h)| {
                    let want = f16::from_bits(h);
                    y.to_bits() == want.to_f32().to_bits() || y.is_nan() && want.is_nan()
                }));
            }
            for len in (0..40).chain([floats.len()]) {
                let mut y = vec![0; len];
                convert.narrow(&floats[..len], &mut y);
                assert!(y.iter().zip(&floats).all(|(&y, &f)| y == f16::from_f32(f).to_bits()));
            }
        }
    }
}
