//! One loop body, one instance per ISA.
//!
//! A kernel whose loops LLVM vectorizes well is written once as an `#[inline(always)]` body in plain Rust.
//! [`multiversion!`] wraps it in one function per ISA tier: inlining puts the body under that tier's
//! `#[target_feature]`, so the same source becomes SSE2, AVX2, AVX-512 or NEON code.
//! Rust never contracts or reorders float operations, therefore every instance gives the same bits.

use crate::cpu::Cpu;
#[cfg(target_arch = "x86_64")]
use crate::cpu::Isa;

/// The instances [`multiversion!`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// What the target guarantees: SSE2 on x86-64, NEON on aarch64.
    Baseline,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The widest tier that `cpu` has.
pub(crate) fn tier(cpu: Cpu) -> Tier {
    match cpu.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => Tier::Avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bw | Isa::Avx512Vnni | Isa::Amx => Tier::Avx512,
        _ => Tier::Baseline,
    }
}

/// `multiversion!(fn name[const S: bool] = body(x: &[u8], y: &mut [u8]) -> R);` defines
/// `fn name<const S: bool>(cpu: Cpu, x: &[u8], y: &mut [u8]) -> R`, which runs `body` compiled for the
/// tier of `cpu`. Generic parameters must be inferable from the arguments or be repeated in a second
/// bracket (`[const S: bool][S]`) to be passed on by name.
macro_rules! multiversion {
    ($vis:vis fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {
        multiversion!($vis fn $name[][] = $body($($arg: $ty),*) $(-> $ret)?);
    };
    ($vis:vis fn $name:ident[$($decl:tt)*][$($use:tt)*] = $body:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {
        #[allow(clippy::too_many_arguments, reason = "the body decides its arguments; the entry only forwards them")]
        $vis fn $name<$($decl)*>(cpu: $crate::cpu::Cpu, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn avx2<$($decl)*>($($arg: $ty),*) $(-> $ret)? {
                $body::<$($use)*>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn avx512<$($decl)*>($($arg: $ty),*) $(-> $ret)? {
                $body::<$($use)*>($($arg),*)
            }
            match $crate::multiversion::tier(cpu) {
                $crate::multiversion::Tier::Baseline => $body::<$($use)*>($($arg),*),
                // SAFETY: `cpu` reports this tier only where its features were detected (cpu.rs).
                #[cfg(target_arch = "x86_64")]
                $crate::multiversion::Tier::Avx2 => unsafe { avx2::<$($use)*>($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::multiversion::Tier::Avx512 => unsafe { avx512::<$($use)*>($($arg),*) },
            }
        }
    };
}
pub(crate) use multiversion;
