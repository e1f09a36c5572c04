//! 256-entry lookup: any function of one 8-bit tensor, exactly.
//!
//! The table is indexed by the input *byte*: for s8 data entry 0x80 belongs to −128. AVX-512 VBMI looks 64
//! bytes up with two `vpermi2b` and a blend by the top bit; AVX2 and NEON look every byte up in all 16-byte
//! (`pshufb`) or 64-byte (`tbl`, `tbx`) sub-tables and select.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::cpu::Cpu;
use crate::error::{KernelError, check_len};
use crate::par::Parallel;
use crate::quantize::{Quantize, check_code, check_scale, value};
use crate::sign::Sign;
use crate::split::{self, TASK_BYTES};

/// A table from byte to byte.
#[derive(Clone, Debug)]
pub struct Lut {
    lookup: Lookup,
    table: Box<[u8; 256]>,
}

/// How this machine looks a table up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lookup {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512Bw,
    #[cfg(target_arch = "x86_64")]
    Avx512Vbmi,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Lut {
    /// A lookup in `table`.
    pub fn new(cpu: Cpu, table: [u8; 256]) -> Self {
        Self { lookup: Lookup::of(cpu), table: Box::new(table) }
    }

    /// A lookup in the table of `f`, called with every byte.
    pub fn from_fn(cpu: Cpu, mut f: impl FnMut(u8) -> u8) -> Self {
        Self::new(cpu, std::array::from_fn(|i| f(i as u8)))
    }

    /// Codes to codes: dequantized with (`scale`, `zero_point`), then quantized by `to`. Exact for any pair of
    /// 8-bit types and scales, being defined code by code; a clamp is in `to`.
    ///
    /// # Errors
    /// If `scale` is not finite and positive, `zero_point` is not of type `sign`, or `to` was made for s16.
    pub fn requantize(
        cpu: Cpu,
        (sign, scale, zero_point): (Sign, f32, i32),
        to: &Quantize,
    ) -> Result<Self, KernelError> {
        check_scale("the scale", scale)?;
        check_code("the zero point", zero_point, (sign.min(), sign.max()))?;
        to.check_8_bit()?;
        Ok(Self::from_fn(cpu, |b| to.code(value(sign.value(b), scale, zero_point)) as u8))
    }

    /// The table.
    pub fn table(&self) -> &[u8; 256] {
        &self.table
    }

    /// `y[i] = table[x[i]]`; both have the same length.
    ///
    /// # Errors
    /// If the lengths differ.
    pub fn run(&self, par: &dyn Parallel, x: &[u8], y: &mut [u8]) -> Result<(), KernelError> {
        check_len("y", y.len(), x.len())?;
        split::chunks(par, y, TASK_BYTES, |i, y| {
            self.lookup.map(&x[i * TASK_BYTES..][..y.len()], y, &self.table)
        });
        Ok(())
    }

    /// `y[i] = table[y[i]]`.
    pub fn run_in_place(&self, par: &dyn Parallel, y: &mut [u8]) {
        const BLOCK: usize = 1024;
        split::chunks(par, y, TASK_BYTES, |_, y| {
            for y in y.chunks_mut(BLOCK) {
                let mut x = [0; BLOCK];
                x[..y.len()].copy_from_slice(y);
                self.lookup.map(&x[..y.len()], y, &self.table);
            }
        });
    }
}

impl Lookup {
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(unused_variables))]
    fn of(cpu: Cpu) -> Self {
        #[cfg(target_arch = "x86_64")]
        match crate::multiversion::tier(cpu) {
            crate::multiversion::Tier::Baseline => {}
            crate::multiversion::Tier::Avx2 => return Self::Avx2,
            // VBMI is younger than AVX-512BW, and no tier of its own.
            crate::multiversion::Tier::Avx512 if cpu.avx512vbmi().is_some() => {
                return Self::Avx512Vbmi;
            }
            crate::multiversion::Tier::Avx512 => return Self::Avx512Bw,
        }
        #[cfg(target_arch = "aarch64")]
        if cpu.isa() != crate::cpu::Isa::Scalar {
            return Self::Neon;
        }
        Self::Scalar
    }

    /// `y[i] = table[x[i]]` for slices of one length.
    fn map(self, x: &[u8], y: &mut [u8], table: &[u8; 256]) {
        assert_eq!(x.len(), y.len());
        match self {
            Self::Scalar => map_scalar(x, y, table),
            // SAFETY: `of` gives this only where AVX2 was detected.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::map_avx2(x, y, table) },
            // SAFETY: `of` gives this only where AVX-512 F and BW were detected.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bw => unsafe { x86::map_words(x, y, table) },
            // SAFETY: `of` gives this only where AVX-512 BW and VBMI were detected.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vbmi => unsafe { x86::map_vbmi(x, y, table) },
            // SAFETY: `of` gives this only where NEON is there, which aarch64 guarantees.
            #[cfg(target_arch = "aarch64")]
            Self::Neon => unsafe { arm::map_neon(x, y, table) },
        }
    }
}

/// The definition.
fn map_scalar(x: &[u8], y: &mut [u8], table: &[u8; 256]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = table[usize::from(x)];
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
    use super::*;
    use crate::par::Serial;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_isa_equals_the_table(x in prop::collection::vec(any::<u8>(), 0..700), seed: u64) {
            let f = |b: u8| (u64::from(b).wrapping_add(1).wrapping_mul(seed | 1) >> 29) as u8;
            for cpu in crate::split::testing::cpus() {
                let lut = Lut::from_fn(cpu, f);
                let mut y = vec![0; x.len()];
                lut.run(&Serial, &x, &mut y).unwrap();
                let want: Vec<u8> = x.iter().map(|&b| f(b)).collect();
                prop_assert_eq!(&y, &want);
                let mut z = x.clone();
                lut.run_in_place(&Serial, &mut z);
                prop_assert_eq!(&z, &want);
            }
        }
    }

    #[test]
    fn requantizes_every_code_as_the_two_steps_do() {
        let cpu = Cpu::detect();
        let codes: Vec<u8> = (0..=255).collect();
        for (from, to) in [(Sign::U8, Sign::S8), (Sign::S8, Sign::U8), (Sign::S8, Sign::S8)] {
            for (s, z, sy, zy) in [(0.1f32, 5, 0.1f32, 5), (0.03, 100, 0.07, -3), (1.0, 0, 0.5, 9)]
            {
                let (z, zy) = (z.clamp(from.min(), from.max()), zy.clamp(to.min(), to.max()));
                let quantize = Quantize::new(cpu, sy, zy, to).unwrap();
                let lut = Lut::requantize(cpu, (from, s, z), &quantize).unwrap();
                let mut y = vec![0; 256];
                lut.run(&Serial, &codes, &mut y).unwrap();
                for (&b, &y) in codes.iter().zip(&y) {
                    let v = ((from.value(b) - z) as f32 * s / sy).round_ties_even() as i32 + zy;
                    assert_eq!(to.value(y), v.clamp(to.min(), to.max()));
                }
            }
        }
        let s16 = Quantize::new_s16(cpu, 1.0, 0).unwrap();
        assert!(Lut::requantize(cpu, (Sign::U8, 1.0, 0), &s16).is_err());
        assert!(Lut::requantize(cpu, (Sign::U8, 0.0, 0), &s16).is_err());
    }

    #[test]
    fn lengths_must_agree() {
        let lut = Lut::from_fn(Cpu::detect(), |b| b);
        assert!(lut.run(&Serial, &[1, 2], &mut [0]).is_err());
    }
}
