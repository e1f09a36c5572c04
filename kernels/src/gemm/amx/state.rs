//! The tile registers of a worker, and the kernel sets that have tiles.
#![cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    allow(unused_imports, unused_macros, reason = "there are no such sets, but in tests")
)]

use super::{
    Code, Operands, TileUnit, multiply_all,
    pending::Pending,
    plan::Plan,
    run,
    shifted::Shift,
    tiles::{S8S8, Signs, Tiles, U8S8},
};
#[cfg(any(test, feature = "testing"))]
use super::{model::Model, tiles::TileConfig};
#[cfg(any(test, feature = "testing"))]
use crate::cpu::Cpu;
use crate::{
    cpu::Isa,
    epilogue::Sign,
    gemm::{driver::Core, kernel::KernelSet},
};

/// The tile registers of a thread while it works on a matrix: configured when first needed, released when dropped.
pub(crate) enum TileState {
    /// Not needed yet.
    Idle,
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Processor(super::asm::Processor),
    #[cfg(any(test, feature = "testing"))]
    Model(Box<Model>),
}

/// A kernel set with tiles: those of `$base`, whose `Dot` is `$dot`, and a [`TileUnit`] on what `$tiles` finds in a
/// [`TileState`].
macro_rules! tile_set {
    (#[$attr:meta] $base:expr, $dot:ty, $tiles:expr) => {
        KernelSet {
            tiles_unit: Some(&TileUnit {
                run: {
                    #[$attr]
                    unsafe fn part(pending: &mut Pending<'_>) {
                        // SAFETY: the caller keeps the contract of `FinishPart`.
                        unsafe { pending.part::<$dot>() }
                    }
                    #[$attr]
                    unsafe fn all<T: Tiles, S: Signs>(
                        tiles: &mut T,
                        core: &Core<'_>,
                        operands: Operands<'_>,
                        plan: &Plan,
                        scratch: &mut [i8],
                    ) {
                        // SAFETY: the caller keeps the contract of `run`.
                        unsafe {
                            multiply_all::<T, S, $dot>(tiles, core, operands, plan, scratch, part)
                        }
                    }
                    #[$attr]
                    unsafe fn shift(shift: &Shift, from: &[i8], to: &mut [i8]) {
                        shift.panels(from, to);
                    }
                    unsafe fn block(
                        core: &Core<'_>,
                        state: &mut TileState,
                        operands: Operands<'_>,
                    ) {
                        // SAFETY: the caller keeps the contract of `TileUnit::run`, whose ISA has the features.
                        unsafe {
                            let tiles = $tiles(state);
                            match core.a_sign {
                                Sign::U8 => run(tiles, core, operands, Code { all: all::<_, U8S8>, shift }),
                                Sign::S8 => run(tiles, core, operands, Code { all: all::<_, S8S8>, shift }),
                            }
                        }
                    }
                    block
                },
            }),
            ..$base
        }
    };
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) static SET: KernelSet = KernelSet {
    isa: Isa::Amx,
    ..tile_set!(
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
        crate::gemm::x86_avx512vnni::SET,
        crate::gemm::x86_avx512vnni::Avx512Vnni,
        processor
    )
};

/// The processor's tiles, configured now if they were not.
///
/// # Safety
/// AMX-INT8 is supported, and this process may use it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
unsafe fn processor(state: &mut TileState) -> &mut super::asm::Processor {
    if !matches!(state, TileState::Processor(_)) {
        // SAFETY: same contract.
        *state = TileState::Processor(unsafe { super::asm::Processor::configure() });
    }
    match state {
        TileState::Processor(tiles) => tiles,
        _ => unreachable!("set above"),
    }
}

/// The kernels of `cpu` with tiles in software, if its weights have the layout of tiles.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn modelled(cpu: Cpu) -> Option<&'static KernelSet> {
    /// The model's tiles, configured now if they were not.
    ///
    /// # Safety
    /// None: the model is safe to use anywhere, but the processor's tiles are not.
    unsafe fn model(state: &mut TileState) -> &mut Model {
        if !matches!(state, TileState::Model(_)) {
            *state = TileState::Model(Box::new(Model::configure(TileConfig::FULL)));
        }
        match state {
            TileState::Model(tiles) => tiles,
            _ => unreachable!("set above"),
        }
    }
    match cpu.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => {
            static SET: KernelSet = tile_set!(
                #[target_feature(
                    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"
                )]
                crate::gemm::x86_avx512vnni::SET,
                crate::gemm::x86_avx512vnni::Avx512Vnni,
                model
            );
            Some(&SET)
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Isa::NeonDotprod => {
            static SET: KernelSet = tile_set!(
                #[target_feature(enable = "neon,dotprod")]
                crate::gemm::arm_dotprod::SET,
                crate::gemm::arm_dotprod::Dotprod,
                model
            );
            Some(&SET)
        }
        _ => None,
    }
}
