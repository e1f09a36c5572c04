//! The micro-kernel of convolutions of few channels per group: tiles of 16 columns that belong to several groups.
//!
//! In a dense tile every column reads the same activations, so of a panel over several groups all but the diagonal
//! blocks are zeros. Here each column gets those of its own group, by a permutation of 16 neighbouring channels:
//! ```text
//! 4 channels per group, KR = 4:   channels  0123 4567 89ab cdef
//! vector of a tap                 columns   0 1 2 3 read 0123, 4 5 6 7 read 4567, …
//! ```

use super::kernel::{BandBlock, BandKernel};
#[cfg(target_arch = "x86_64")]
use crate::gemm::{
    x86_avx2::Avx2, x86_avx512bw::Avx512Bw, x86_avx512vnni::Avx512Vnni, x86_avxvnni::AvxVnni,
};
use crate::{
    cpu::Isa,
    epilogue::{Keep, NR},
    gemm::kernel::{Dot, KernelSet, finish, for_each_row, start},
};

/// Where the activations of the 16 columns are: the index of their group of KR among those of 16 channels.
pub(crate) type Lanes = [i32; NR];

/// How the groups of a convolution lie in panels.
#[derive(Debug, Clone)]
pub(crate) struct Spread {
    pub(super) set: &'static SpreadSet,
    value_bytes: usize,
    /// Channels and columns of a group, which for less than KR channels is made of some of the convolution's.
    pub(super) channels: usize,
    pub(super) columns: usize,
    /// For each KR channels of a group.
    pub(super) lanes: Vec<Lanes>,
}

impl Spread {
    /// How `groups` groups of `channels` and `columns` are spread over panels, if they can be.
    pub(super) fn new(
        gemm: &KernelSet,
        groups: usize,
        channels: usize,
        columns: usize,
    ) -> Option<Self> {
        let set = SpreadSet::of(gemm.isa)?;
        let value_bytes = gemm.band?.value_bytes;
        let kr = gemm.kr;
        let merged = if channels > 0 && kr.is_multiple_of(channels) { kr / channels } else { 1 };
        let (channels, columns) = (channels * merged, columns * merged);
        let fits = groups > merged
            && groups.is_multiple_of(merged)
            && channels > 0
            && channels.is_multiple_of(kr)
            && (channels..NR).contains(&columns)
            && NR.is_multiple_of(columns);
        let lane = |column: usize, k: usize| (column / columns * (channels / kr) + k) as i32;
        let lanes = |k: usize| std::array::from_fn(|column| lane(column, k));
        fits.then(|| Self {
            set,
            value_bytes,
            channels,
            columns,
            lanes: (0..channels / kr).map(lanes).collect(),
        })
    }

    /// Where the channels that panel `panel` reads start in a pixel.
    pub(super) fn first_byte(&self, panel: usize) -> usize {
        panel * NR / self.columns * self.channels * self.value_bytes
    }

    /// Whether panels of `n` columns read nothing but the channels of their groups.
    pub(super) fn is_exact(&self, n: usize) -> bool {
        self.channels == self.columns && n.is_multiple_of(NR)
    }
}

/// The kernels of one ISA, by falling MR down to 1.
#[derive(Debug)]
pub(crate) struct SpreadSet {
    pub(super) tiles: &'static [BandKernel],
}

impl SpreadSet {
    /// The kernels for weights packed and bands filled for `isa`.
    fn of(isa: Isa) -> Option<&'static Self> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&AVX2),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Some(&AVXVNNI),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bw => Some(&AVX512BW),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Amx => Some(&AVX512VNNI),
            _ => None,
        }
    }
}

/// [`Dot`] with activations of its own for each column.
trait SpreadDot: Dot {
    /// `acc[j] += Σ_r a[lanes[j]·KR + r]·b[j][r]`, exact modulo 2³².
    ///
    /// # Safety
    /// 16 values at `a` are readable, all lanes lie among them; the ISA's target features are supported.
    unsafe fn spread_dot(acc: Self::Acc, a: *const Self::A, lanes: &Lanes, b: Self::B)
    -> Self::Acc;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Avx2, Avx512Bw, Avx512Vnni, AvxVnni, Dot, Lanes, SpreadDot};

    /// The lanes of 16 channels.
    #[inline(always)]
    unsafe fn zmm(channels: __m512i, lanes: &Lanes) -> __m512i {
        // SAFETY: the caller grants the features; lanes are 64 bytes.
        unsafe { _mm512_permutexvar_epi32(_mm512_loadu_si512(lanes.as_ptr().cast()), channels) }
    }

    /// The same in two registers.
    #[inline(always)]
    unsafe fn ymms(channels: __m256i, lanes: &Lanes) -> [__m256i; 2] {
        let lanes = lanes.as_ptr();
        // SAFETY: as above.
        unsafe {
            [lanes, lanes.add(8)].map(|lanes| {
                _mm256_permutevar8x32_epi32(channels, _mm256_loadu_si256(lanes.cast()))
            })
        }
    }

    impl SpreadDot for Avx512Vnni {
        #[inline(always)]
        unsafe fn spread_dot(acc: Self::Acc, a: *const u8, lanes: &Lanes, b: Self::B) -> Self::Acc {
            // SAFETY: the caller grants 16 bytes and the features.
            unsafe {
                Self::dot(acc, zmm(_mm512_castsi128_si512(_mm_loadu_si128(a.cast())), lanes), b)
            }
        }
    }

    impl SpreadDot for Avx512Bw {
        #[inline(always)]
        unsafe fn spread_dot(
            acc: Self::Acc,
            a: *const i16,
            lanes: &Lanes,
            b: Self::B,
        ) -> Self::Acc {
            // SAFETY: the caller grants 32 bytes and the features.
            unsafe {
                Self::dot(acc, zmm(_mm512_castsi256_si512(_mm256_loadu_si256(a.cast())), lanes), b)
            }
        }
    }

    impl SpreadDot for AvxVnni {
        #[inline(always)]
        unsafe fn spread_dot(acc: Self::Acc, a: *const u8, lanes: &Lanes, b: Self::B) -> Self::Acc {
            // SAFETY: the caller grants 16 bytes and the features.
            unsafe {
                let a = ymms(_mm256_castsi128_si256(_mm_loadu_si128(a.cast())), lanes);
                [
                    _mm256_dpbusd_avx_epi32(acc[0], a[0], b[0]),
                    _mm256_dpbusd_avx_epi32(acc[1], a[1], b[1]),
                ]
            }
        }
    }

    impl SpreadDot for Avx2 {
        #[inline(always)]
        unsafe fn spread_dot(
            acc: Self::Acc,
            a: *const i16,
            lanes: &Lanes,
            b: Self::B,
        ) -> Self::Acc {
            // SAFETY: the caller grants 32 bytes and the features.
            unsafe {
                let a = ymms(_mm256_loadu_si256(a.cast()), lanes);
                [
                    _mm256_add_epi32(acc[0], _mm256_madd_epi16(a[0], b[0])),
                    _mm256_add_epi32(acc[1], _mm256_madd_epi16(a[1], b[1])),
                ]
            }
        }
    }
}

/// Computes a block of one panel, MR pixels at a time.
///
/// # Safety
/// As [`BandKernel::run`], of a block with lanes, of which each segment has 16 readable values.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has these kernels"))]
#[inline(always)]
unsafe fn run_spread<D: SpreadDot, const MR: usize>(block: &BandBlock<'_>) {
    let BandBlock { band, patch, b, col, cols, epilogue, to, lanes, .. } = *block;
    let mut walk = patch.steps.walk(block.first);
    for done in (0..block.pixels).step_by(MR) {
        let offsets: [usize; MR] = walk.next();
        // SAFETY: `done + MR <= block.pixels`; the segments of these pixels are readable, the panel holds a group of KR
        // for each and each of the lanes, and the tile's output is exclusive; the features are the entry point's.
        unsafe {
            let mut acc = start::<D, MR, 1>(epilogue, col);
            let mut weights = b;
            for &segment in patch.segments {
                let tap = band.cast::<D::A>().wrapping_add(segment);
                for lanes in lanes {
                    let bv = D::load_b(weights);
                    weights = weights.add(NR * D::KR);
                    for_each_row!(r < MR {
                        let a = tap.wrapping_add(offsets[r]);
                        acc[r][0] = D::spread_dot(acc[r][0], a, lanes, bv);
                    });
                }
            }
            // Weights with zero points are not packed in this form.
            finish::<D, MR, 1>(&mut acc, epilogue, (col, cols), to.at_row(done), |_| 0, &Keep);
        }
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! spread_set {
    ($name:ident, #[$attr:meta] $dot:ty, [$($mr:literal),+]) => {
        static $name: SpreadSet = SpreadSet {
            tiles: &[$({
                #[$attr]
                unsafe fn run(block: &BandBlock<'_>) {
                    // SAFETY: the caller keeps the contract of `BandKernel::run`.
                    unsafe { run_spread::<$dot, $mr>(block) }
                }
                BandKernel { mr: $mr, run }
            }),+],
        };
    };
}

#[cfg(target_arch = "x86_64")]
spread_set!(
    AVX512VNNI,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    Avx512Vnni,
    [12, 4, 1]
);
#[cfg(target_arch = "x86_64")]
spread_set!(
    AVX2,
    #[target_feature(enable = "avx2,fma")]
    Avx2,
    [4, 1]
);
#[cfg(target_arch = "x86_64")]
spread_set!(
    AVXVNNI,
    #[target_feature(enable = "avxvnni,avx2,fma")]
    AvxVnni,
    [4, 1]
);
#[cfg(target_arch = "x86_64")]
spread_set!(
    AVX512BW,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    Avx512Bw,
    [12, 4, 1]
);
