//! The two 8-bit storages, and the exact change between them.
//!
//! `u8 ↔ s8` is `XOR 0x80` with the zero point moved by 128: the real value is unchanged.

use crate::cpu::Cpu;
use crate::multiversion::multiversion;

/// How the bytes of an activation are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sign {
    /// 0 … 255
    U8,
    /// −128 … 127, two's complement
    S8,
}

impl Sign {
    /// The smallest stored value.
    pub const fn min(self) -> i32 {
        match self {
            Self::U8 => 0,
            Self::S8 => -128,
        }
    }

    /// The largest stored value.
    pub const fn max(self) -> i32 {
        match self {
            Self::U8 => 255,
            Self::S8 => 127,
        }
    }

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::U8 => Self::S8,
            Self::S8 => Self::U8,
        }
    }

    /// What leads from stored values to those of the same bytes, flipped, as `domain` has them: 0 or ±128.
    pub const fn shift_to(self, domain: Sign) -> i32 {
        domain.min() - self.min()
    }

    /// The value of the raw byte `byte`.
    #[inline(always)]
    pub const fn value(self, byte: u8) -> i32 {
        match self {
            Self::U8 => byte as i32,
            Self::S8 => byte as i8 as i32,
        }
    }
}

/// `byte`, flipped between u8 and s8 if `F`.
#[inline(always)]
pub(crate) const fn flipped<const F: bool>(byte: u8) -> u8 {
    if F { byte ^ 0x80 } else { byte }
}

/// Flips every byte of `src` between u8 and s8 into `dst`.
///
/// # Panics
/// If the lengths differ.
pub fn flip(cpu: Cpu, src: &[u8], dst: &mut [u8]) {
    assert_eq!(src.len(), dst.len(), "source and destination of a sign flip have one length");
    flip_slice(cpu, src, dst);
}

multiversion!(fn flip_slice = flip_slice_body(src: &[u8], dst: &mut [u8]));
multiversion!(fn flip_slice_in_place = flip_slice_in_place_body(bytes: &mut [u8]));

#[inline(always)]
fn flip_slice_body(src: &[u8], dst: &mut [u8]) {
    for (d, s) in dst.iter_mut().zip(src) {
        *d = s ^ 0x80;
    }
}

#[inline(always)]
fn flip_slice_in_place_body(bytes: &mut [u8]) {
    for byte in bytes {
        *byte ^= 0x80;
    }
}

/// Flips every byte between u8 and s8 in place.
pub fn flip_in_place(cpu: Cpu, bytes: &mut [u8]) {
    flip_slice_in_place(cpu, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::testing::cpus;

    #[test]
    fn flip_moves_every_value_by_128() {
        for cpu in cpus() {
            for len in (0..140).chain([256]) {
                let all: Vec<u8> = (0..len).map(|i| (i * 3) as u8).collect();
                let mut flipped = vec![0; len];
                flip(cpu, &all, &mut flipped);
                for (&u, &s) in all.iter().zip(&flipped) {
                    assert_eq!(Sign::U8.value(u) - 128, Sign::S8.value(s), "{}", cpu.isa());
                }
                flip_in_place(cpu, &mut flipped);
                assert_eq!(flipped, all, "{}", cpu.isa());
            }
        }
    }
}
