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
    /// x86-64 with AMX-INT8.
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
            Self::Amx => false,
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
    #[error("this processor does not support {isa}; available here: {}", names(&Cpu::available()))]
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
            Ok(Self { isa })
        }
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
        Self { isa: Self::available().pop().unwrap_or(Isa::Scalar) }
    }

    /// Proof that AVX2 and FMA may be used.
    pub fn avx2(self) -> Option<Avx2> {
        matches!(self.isa, Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Bw | Isa::Avx512Vnni)
            .then_some(Avx2(()))
    }

    /// Proof that AVX-VNNI, AVX2 and FMA may be used.
    pub fn avxvnni(self) -> Option<AvxVnni> {
        (self.isa == Isa::AvxVnni).then_some(AvxVnni(()))
    }

    /// Proof that AVX-512 F, BW, DQ, VL and VNNI may be used (and AVX2 and FMA).
    pub fn avx512vnni(self) -> Option<Avx512Vnni> {
        (self.isa == Isa::Avx512Vnni).then_some(Avx512Vnni(()))
    }

    /// Proof that AVX-512 VBMI may be used, which not every machine with AVX-512 VNNI has.
    pub fn avx512vbmi(self) -> Option<Avx512Vbmi> {
        #[cfg(target_arch = "x86_64")]
        if self.isa == Isa::Avx512Vnni && is_x86_feature_detected!("avx512vbmi") {
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
        assert_eq!(Cpu::with_isa(Isa::Amx), Err(IsaError::NotBuilt { isa: Isa::Amx }));
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
