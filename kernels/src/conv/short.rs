//! The micro-kernel of patches of few values, such as those of a first layer: tiles without a loop over K.
//!
//! Half of what such a tile does is its epilogue. Where nothing but the next tile follows it, and no branch, the
//! processor overlaps both by itself.

use super::kernel::{BandBlock, BandKernel, Patch};
#[cfg(target_arch = "x86_64")]
use crate::gemm::x86_avx512vnni::Avx512Vnni;
use crate::{
    cpu::Isa,
    epilogue::{Epilogue, Keep, NR},
    gemm::{
        Core,
        kernel::{Dot, KernelSet, Strided, for_each_row, group, start},
    },
};

/// Pixels of a tile.
const MR: usize = 4;

/// The most groups of KR.
const GROUPS: usize = 16;

/// The fewest panels of a tile: with one, broadcasts would take as long as products.
const MIN_PANELS: usize = 2;

/// The kernels of one ISA, by panels from [`MIN_PANELS`] on and groups from 1 on.
#[derive(Debug)]
pub(super) struct ShortSet([[BandKernel; GROUPS]; 3]);

impl ShortSet {
    /// The kernels for `groups` groups of KR on `isa`.
    fn of(isa: Isa, groups: usize) -> Option<&'static Self> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Amx => (1..=GROUPS).contains(&groups).then_some(&AVX512VNNI),
            _ => {
                let _ = groups;
                None
            }
        }
    }

    /// The kernels for products of `core` with the pixels of `patch`.
    pub(super) fn for_patch(core: &Core<'_>, patch: Patch<'_>) -> Option<Tiles> {
        let groups = patch.groups(core.set.kr);
        let set = Self::of(core.set.isa, groups).filter(|_| is_plain(core.epilogue))?;
        Some(Tiles { set, groups })
    }

    /// Whether there are kernels for products of patches of `k` values, and none on tile registers.
    pub(super) fn takes(set: &KernelSet, k: usize, epilogues: &[Epilogue]) -> bool {
        k.is_multiple_of(set.kr)
            && set.tiles_for(k).is_none()
            && epilogues.iter().all(|e| e.n() > (MIN_PANELS - 1) * NR)
            && Self::of(set.isa, k / set.kr).is_some()
            && epilogues.iter().all(is_plain)
    }
}

/// Whether kernels can do an epilogue.
fn is_plain(epilogue: &Epilogue) -> bool {
    epilogue.w_zero.is_none() && epilogue.plain_half_even().is_some()
}

/// The kernels for some number of groups.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    set: &'static ShortSet,
    groups: usize,
}

impl Tiles {
    /// The kernel of so many panels, if there is one.
    pub(super) fn of_panels(self, panels: usize) -> &'static [BandKernel] {
        let of_panels = panels.checked_sub(MIN_PANELS).and_then(|i| self.set.0.get(i));
        of_panels.map_or(&[], |kernels| std::slice::from_ref(&kernels[self.groups - 1]))
    }
}

/// Computes a block, 4 pixels at a time.
///
/// # Safety
/// As [`BandKernel::run`], of a block of `G` groups of KR whose epilogue is a plain `HalfEven`.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has these kernels"))]
#[inline(always)]
unsafe fn run_short<D: Dot, const NV: usize, const G: usize>(block: &BandBlock<'_>) {
    let BandBlock { band, patch, col, cols, epilogue, .. } = *block;
    let Some((quant, multiplier)) = epilogue.plain_half_even() else { return };
    let mut groups = [band.cast::<D::A>(); G];
    let per_segment = patch.len.div_ceil(D::KR);
    let runs = patch.segments.iter().flat_map(|at| (0..per_segment).map(move |g| at + g * D::KR));
    for (group, offset) in groups.iter_mut().zip(runs.chain(patch.shared.iter().copied())) {
        *group = group.wrapping_add(offset);
    }
    // Values that stores to the output cannot change: vectors of them stay in registers over the loop.
    let stored = quant.stored();
    let mut walk = patch.steps.walk(block.first);
    // SAFETY: the block's pixels are whole tiles; their groups are readable, the panels hold as many, and the output is
    // exclusive (contract of `band_block`); multipliers are padded to whole panels; the features are the entry point's.
    unsafe {
        let panels = Strided { first: block.b, stride: block.panel };
        for pixel in (0..block.pixels).step_by(MR) {
            let offsets: [usize; MR] = walk.next();
            let mut acc = start::<D, MR, NV>(epilogue, col);
            for_each_row!(g < G {
                let row = |r: usize| groups[g].wrapping_add(offsets[r]);
                group::<D, MR, NV>(&mut acc, row, panels.skip(g * NR * D::KR));
            });
            let to = block.to.at_row(pixel);
            let m = multiplier.as_ptr().add(col);
            D::requantize(&mut acc, stored, m, cols, to.out, to.ldc, &Keep);
        }
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! short_set {
    ($name:ident, #[$attr:meta] $dot:ty) => {
        short_set!(@ $name, #[$attr] $dot, [2 3 4], [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16]);
    };
    (@ $name:ident, #[$attr:meta] $dot:ty, [$($nv:literal)+], $groups:tt) => {
        static $name: ShortSet = {
            #[$attr]
            unsafe fn run<const NV: usize, const G: usize>(block: &BandBlock<'_>) {
                // SAFETY: the caller keeps the contract of `BandKernel::run`.
                unsafe { run_short::<$dot, NV, G>(block) }
            }
            ShortSet([$(short_set!(@panels $nv, $groups)),+])
        };
    };
    (@panels $nv:literal, [$($g:literal)+]) => {
        [$(BandKernel { mr: MR, run: run::<$nv, $g> }),+]
    };
}

#[cfg(target_arch = "x86_64")]
short_set!(
    AVX512VNNI,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    Avx512Vnni
);
