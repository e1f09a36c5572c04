//! The tile registers of the processor.
//!
//! Their intrinsics are not stable, so each operation is an `asm!` of one instruction. Tiles keep their contents from
//! one block to the next: the compiler knows these registers as clobbers only, so it never puts anything into them,
//! and every block that may change one says so. Blocks are not `pure`, which keeps them in the order of the source.

use std::{arch::asm, marker::PhantomData};

use super::tiles::{Signs, TileConfig, Tiles};
use crate::epilogue::Sign;

/// The calling thread's tile registers: configured while this lives, released with it.
pub(crate) struct Processor {
    /// The state belongs to the thread.
    not_send: PhantomData<*mut ()>,
}

/// `asm!` of an instruction that changes no flags, no stack and at most tile registers.
macro_rules! tile_asm {
    ($text:literal $(, $($operand:tt)*)?) => {
        asm!(
            $text, $($($operand)*,)?
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags)
        )
    };
}

impl Processor {
    /// Configures the tile registers.
    ///
    /// # Safety
    /// AMX-INT8 is supported, and this process may use it.
    pub(crate) unsafe fn configure() -> Self {
        const CONFIG: &TileConfig = &TileConfig::FULL;
        // SAFETY: the caller grants the instructions; the configuration is one of palette 1, which they all have.
        unsafe { tile_asm!("ldtilecfg [{config}]", config = in(reg) CONFIG) };
        Self { not_send: PhantomData }
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        // SAFETY: tiles exist where they have been configured.
        unsafe { tile_asm!("tilerelease") };
    }
}

impl Tiles for Processor {
    const KEEPS: bool = true;

    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: tiles are configured while `self` lives; the caller grants the rows.
        unsafe {
            tile_asm!("tileloadd tmm{t}, [{from} + {stride}]",
                t = const T, from = in(reg) from, stride = in(reg) stride);
        }
    }

    #[inline(always)]
    unsafe fn load_far<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: as above.
        unsafe {
            tile_asm!("tileloaddt1 tmm{t}, [{from} + {stride}]",
                t = const T, from = in(reg) from, stride = in(reg) stride);
        }
    }

    #[inline(always)]
    unsafe fn zero<const T: usize>(&mut self) {
        // SAFETY: as above.
        unsafe { tile_asm!("tilezero tmm{t}", t = const T) }
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: as above.
        unsafe {
            tile_asm!("tilestored [{to} + {stride}], tmm{t}",
                t = const T, to = in(reg) to, stride = in(reg) stride);
        }
    }

    #[inline(always)]
    unsafe fn dot<S: Signs, const C: usize, const A: usize, const B: usize>(&mut self) {
        macro_rules! dot {
            ($text:literal) => {
                // SAFETY: tiles are configured while `self` lives, each of full size, so any three fit.
                unsafe { tile_asm!($text, c = const C, a = const A, b = const B) }
            };
        }
        match (S::A, S::B) {
            (Sign::U8, Sign::S8) => dot!("tdpbusd tmm{c}, tmm{a}, tmm{b}"),
            (Sign::S8, Sign::S8) => dot!("tdpbssd tmm{c}, tmm{a}, tmm{b}"),
            (Sign::U8, Sign::U8) => dot!("tdpbuud tmm{c}, tmm{a}, tmm{b}"),
            (Sign::S8, Sign::U8) => dot!("tdpbsud tmm{c}, tmm{a}, tmm{b}"),
        }
    }
}
