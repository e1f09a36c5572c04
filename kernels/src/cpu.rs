//! Which instruction set the kernels use: detected once, lowered (never raised) by `REQUANT_ISA` or the caller.
//!
//! A [`Cpu`] can only be made for an ISA that this build has kernels for and this machine supports, so holding one
//! proves that its kernels may run: every `SAFETY` comment about target features leads here.

use std::{fmt, str::FromStr, sync::OnceLock};

/// The environment variable that selects an ISA by name.
pub const ISA_VARIABLE: &str = "REQUANT_ISA";

/// An instruction set tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, any machine.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with the 256-bit VEX form of `vpdpbusd`.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ and VL, without VNNI.
    Avx512Bw,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512Vnni,
    /// x86-64 with AMX-INT8, and all of [`Isa::Avx512Vnni`], on Linux.
    Amx,
    /// AArch64 with NEON, which all of them have.
    Neon,
    /// AArch64 with `sdot`.
    NeonDotprod,
    /// AArch64 with `smmla` (and `sdot`).
    NeonI8mm,
}

impl Isa {
    /// Every ISA, from the least to the most capable of its architecture.
    pub const ALL: [Self; 9] = [
        Self::Scalar,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512Bw,
        Self::Avx512Vnni,
        Self::Amx,
        Self::Neon,
        Self::NeonDotprod,
        Self::NeonI8mm,
    ];

    /// The name used by `REQUANT_ISA`, profiles and benchmarks.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512Bw => "avx512bw",
            Self::Avx512Vnni => "avx512vnni",
            Self::Amx => "amx",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::NeonI8mm => "neon-i8mm",
        }
    }

    /// Whether this build of the crate has kernels for the ISA.
    const fn is_built(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Avx2 | Self::AvxVnni | Self::Avx512Bw | Self::Avx512Vnni => {
                cfg!(target_arch = "x86_64")
            }
            Self::Neon | Self::NeonDotprod | Self::NeonI8mm => {
                cfg!(all(target_arch = "aarch64", target_endian = "little"))
            }
            Self::Amx => cfg!(all(target_arch = "x86_64", target_os = "linux")),
        }
    }

    /// Whether this machine and operating system have every feature that the ISA's kernels enable.
    fn is_supported(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_supported() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bw => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                Self::Avx512Bw.is_supported() && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Self::Avx512Vnni.is_supported() && amx::is_usable(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => {
                Self::Neon.is_supported() && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => {
                Self::NeonDotprod.is_supported() && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            _ => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| IsaError::Unknown { name: name.to_owned() })
    }
}

/// Why an ISA cannot be used; the message lists those that can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// No ISA has this name.
    #[error("no instruction set is called \"{name}\"; available here: {}", names(&Cpu::available()))]
    Unknown {
        /// The name as given.
        name: String,
    },
    /// The ISA exists, but this build has no kernels for it.
    #[error("this build has no kernels for {isa}; available here: {}", names(&Cpu::available()))]
    NotBuilt {
        /// The ISA asked for.
        isa: Isa,
    },
    /// This build has kernels for the ISA, but the processor or operating system lacks it.
    #[error("this machine does not support {isa}; available here: {}", names(&Cpu::available()))]
    NotSupported {
        /// The ISA asked for.
        isa: Isa,
    },
}

fn names(isas: &[Isa]) -> String {
    isas.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}

/// The instruction set that kernels are chosen for.
///
/// Results never depend on it, only speed does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    isa: Isa,
    #[cfg(any(test, feature = "testing"))]
    modelled_tiles: bool,
}

impl Cpu {
    /// The best available ISA, or the one named by `REQUANT_ISA` if that is available. Detected once per process.
    ///
    /// An unusable `REQUANT_ISA` is ignored here; programs that want to report it call [`Cpu::from_env`] first.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Cpu> = OnceLock::new();
        *DETECTED.get_or_init(|| Self::from_env().unwrap_or_else(|_| Self::best()))
    }

    /// The ISA named by `REQUANT_ISA`, or the best available one where the variable is unset or empty.
    ///
    /// # Errors
    /// If the variable holds a name that is unknown, or of an ISA that is not built or not supported here.
    pub fn from_env() -> Result<Self, IsaError> {
        match std::env::var_os(ISA_VARIABLE) {
            Some(name) if !name.is_empty() => Self::with_isa(name.to_string_lossy().parse()?),
            _ => Ok(Self::best()),
        }
    }

    /// The given ISA.
    ///
    /// # Errors
    /// If this build has no kernels for `isa`, or this machine does not support it.
    pub fn with_isa(isa: Isa) -> Result<Self, IsaError> {
        if !isa.is_built() {
            Err(IsaError::NotBuilt { isa })
        } else if !isa.is_supported() {
            Err(IsaError::NotSupported { isa })
        } else {
            Ok(Self::of(isa))
        }
    }

    /// For an ISA that was found supported.
    pub(crate) const fn of(isa: Isa) -> Self {
        Self {
            isa,
            #[cfg(any(test, feature = "testing"))]
            modelled_tiles: false,
        }
    }

    /// The same, for tests: with the tile registers of AMX in software, where `self` stores weights as those do.
    #[cfg(any(test, feature = "testing"))]
    pub fn with_modelled_tiles(self) -> Option<Self> {
        let modelled = crate::gemm::amx::modelled(self).is_some();
        modelled.then_some(Self { modelled_tiles: true, ..self })
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn has_modelled_tiles(self) -> bool {
        self.modelled_tiles
    }

    /// The ISAs that are built and supported here, least capable first; always holds [`Isa::Scalar`].
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_built() && isa.is_supported()).collect()
    }

    /// The ISAs that this build has kernels for.
    pub fn built() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_built()).collect()
    }

    /// The chosen ISA.
    pub const fn isa(self) -> Isa {
        self.isa
    }

    fn best() -> Self {
        Self::of(Self::available().pop().unwrap_or(Isa::Scalar))
    }

    /// Proof that AVX2 and FMA may be used.
    pub fn avx2(self) -> Option<Avx2> {
        matches!(self.isa, Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Bw | Isa::Avx512Vnni | Isa::Amx)
            .then_some(Avx2(()))
    }

    /// Proof that AVX-VNNI, AVX2 and FMA may be used.
    pub fn avxvnni(self) -> Option<AvxVnni> {
        (self.isa == Isa::AvxVnni).then_some(AvxVnni(()))
    }

    /// Proof that AVX-512 F, BW, DQ, VL and VNNI may be used (and AVX2 and FMA).
    pub fn avx512vnni(self) -> Option<Avx512Vnni> {
        matches!(self.isa, Isa::Avx512Vnni | Isa::Amx).then_some(Avx512Vnni(()))
    }

    /// Proof that AVX-512 VBMI may be used, which not every machine with AVX-512 VNNI has.
    pub fn avx512vbmi(self) -> Option<Avx512Vbmi> {
        #[cfg(target_arch = "x86_64")]
        if self.avx512vnni().is_some() && is_x86_feature_detected!("avx512vbmi") {
            return Some(Avx512Vbmi(()));
        }
        None
    }

    /// Proof that NEON may be used.
    pub fn neon(self) -> Option<Neon> {
        matches!(self.isa, Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm).then_some(Neon(()))
    }

    /// Proof that `sdot` may be used (and NEON).
    pub fn dotprod(self) -> Option<Dotprod> {
        matches!(self.isa, Isa::NeonDotprod | Isa::NeonI8mm).then_some(Dotprod(()))
    }
}

/// Whether the processor's tiles may be used: what CPUID says of them, and then the kernel, which has to be asked.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use std::{
        arch::{
            asm,
            x86_64::{__cpuid, __cpuid_count},
        },
        sync::OnceLock,
    };

    /// Whether processor, operating system and kernel agree. Asked once per process: the permission is the process's,
    /// so it is asked for before any thread may need it, and holds for all of them.
    pub(super) fn is_usable() -> bool {
        static USABLE: OnceLock<bool> = OnceLock::new();
        *USABLE.get_or_init(|| is_supported() && is_enabled() && is_permitted())
    }

    /// AMX-TILE and AMX-INT8, with the tiles of palette 1: eight of 16 rows of 64 bytes.
    #[allow(unused_unsafe, reason = "newer compilers know that every x86-64 has CPUID")]
    fn is_supported() -> bool {
        // SAFETY: every x86-64 has CPUID; leaves beyond the last read as another's values, so it is asked first.
        unsafe {
            let last = __cpuid(0).eax;
            if last < 0x1d {
                return false;
            }
            let features = __cpuid_count(7, 0).edx;
            let palette = __cpuid_count(0x1d, 1);
            let (bytes, tiles) = (palette.eax >> 16, palette.ebx >> 16);
            let (row_bytes, rows) = (palette.ebx & 0xffff, palette.ecx & 0xffff);
            features >> 24 & 1 == 1
                && features >> 25 & 1 == 1
                && __cpuid_count(0x1d, 0).eax >= 1
                && (bytes, tiles, row_bytes, rows) == (1024, 8, 64, 16)
        }
    }

    /// Whether the operating system keeps tiles of different programs apart.
    fn is_enabled() -> bool {
        const TILES: u32 = 1 << 17 | 1 << 18;
        #[allow(unused_unsafe, reason = "as above")]
        // SAFETY: as above.
        let has_xgetbv = unsafe { __cpuid(1) }.ecx >> 27 & 1 == 1;
        if !has_xgetbv {
            return false;
        }
        let low: u32;
        // SAFETY: the operating system has enabled the instruction, which reads a register.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags));
        }
        low & TILES == TILES
    }

    /// Asks the kernel for the permission to use tiles, which are too large for the signal frames of old programs.
    fn is_permitted() -> bool {
        const ARCH_PRCTL: isize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const XTILEDATA: usize = 18;
        let answer: isize;
        // SAFETY: the call changes nothing but a permission; one that the kernel does not know answers with an error.
        // The kernel keeps all registers but rax, rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inout("rax") ARCH_PRCTL => answer,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XTILEDATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        answer == 0
    }

    #[cfg(test)]
    #[test]
    fn permission_is_refused_where_there_are_no_tiles() {
        assert!(is_supported() && is_enabled() || !is_permitted() && !is_usable());
    }
}

/// Whether the processor reads L2 faster by one stream than by several: AMD's (measured on Zen 5, by a tenth), where
/// Emerald Rapids reads it by four streams a sixth faster than by one. Asked once: in a virtual machine CPUID takes
/// microseconds.
#[cfg(target_arch = "x86_64")]
pub(crate) fn reads_l2_by_one_stream() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    #[cfg(any(test, feature = "testing"))]
    if let Some(answer) = *BY_ONE_STREAM.read().unwrap_or_else(|e| e.into_inner()) {
        return answer;
    }
    *ANSWER.get_or_init(|| {
        #[allow(unused_unsafe, reason = "newer compilers know that every x86-64 has CPUID")]
        // SAFETY: every x86-64 has CPUID and its first leaf.
        let maker = unsafe { std::arch::x86_64::__cpuid(0) };
        [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    })
}

/// What tests want to hear instead.
#[cfg(all(target_arch = "x86_64", any(test, feature = "testing")))]
pub(crate) static BY_ONE_STREAM: std::sync::RwLock<Option<bool>> = std::sync::RwLock::new(None);

/// Proof that AVX2 and FMA are supported: only a [`Cpu`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

/// Proof that AVX-VNNI, AVX2 and FMA are supported: only a [`Cpu`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct AvxVnni(());

/// Proof that AVX-512 F, BW, DQ, VL, VNNI, AVX2 and FMA are supported: only a [`Cpu`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Avx512Vnni(());

/// Proof that AVX-512 VBMI is supported beside what [`Avx512Vnni`] proves: only a [`Cpu`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Avx512Vbmi(());

/// Proof that NEON is supported: only a [`Cpu`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Neon(());

/// Proof that `sdot` and NEON are supported: only a [`Cpu`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Dotprod(());

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn names_parse_back_and_are_the_documented_ones() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse::<Isa>().unwrap(), isa);
        }
        assert_eq!(
            names(&Isa::ALL),
            "scalar, avx2, avxvnni, avx512bw, avx512vnni, amx, neon, neon-dotprod, neon-i8mm"
        );
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_alternatives() {
        let error = "AVX2".parse::<Isa>().unwrap_err();
        assert_eq!(error, IsaError::Unknown { name: "AVX2".to_owned() });
        assert!(error.to_string().contains("scalar"), "{error}");
    }

    #[test]
    fn what_is_not_built_or_not_here_is_refused_by_reason() {
        let elsewhere = if cfg!(target_arch = "x86_64") { Isa::Neon } else { Isa::Amx };
        assert_eq!(Cpu::with_isa(elsewhere), Err(IsaError::NotBuilt { isa: elsewhere }));
        for isa in Isa::ALL {
            match Cpu::with_isa(isa) {
                Ok(cpu) => assert!(cpu.isa() == isa && Cpu::available().contains(&isa)),
                Err(IsaError::NotBuilt { .. }) => assert!(!Cpu::built().contains(&isa)),
                Err(error) => assert!(
                    Cpu::built().contains(&isa) && !Cpu::available().contains(&isa),
                    "{error}"
                ),
            }
        }
    }

    #[test]
    fn scalar_is_everywhere_and_detection_picks_something_available() {
        assert_eq!(Cpu::available()[0], Isa::Scalar);
        assert!(Cpu::available().contains(&Cpu::detect().isa()));
    }
}
