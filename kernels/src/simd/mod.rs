//! Registers for the memory-bound 8-bit kernels.
//!
//! A [`Quad`] is four registers of f32, which is what one register of bytes widens to. A kernel states its
//! arithmetic once over [`Real`], which f32 itself is too: the f32 instance is the definition, and the quads give
//! the same bits because every operation rounds alike in every lane.
//!
//! The baseline tier takes `wide`'s registers; fewer elements than fill one go through the definition.

mod aligned;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm;
pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_bytes;
pub(crate) use aligned::AlignedF32;
pub(crate) use portable::{BaselineBytes, BaselineQuad};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Quad4, Quad8, Quad16};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_bytes::{Bytes16, Bytes32, Bytes64};

use crate::numeric::{clamp, rne};
use crate::sign::Sign;

/// f32 arithmetic, in one lane or many.
pub(crate) trait Real: Copy {
    /// All lanes `v`.
    fn splat(v: f32) -> Self;
    /// `self + b`.
    fn add(self, b: Self) -> Self;
    /// `self − b`.
    fn sub(self, b: Self) -> Self;
    /// `self · b`.
    fn mul(self, b: Self) -> Self;
    /// `self / b`, a true division.
    fn div(self, b: Self) -> Self;
    /// `self · b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// `b` where that is less, else `self`: the lesser, and `self` where one is NaN.
    fn min(self, b: Self) -> Self;
    /// `b` where that is greater, else `self`.
    fn max(self, b: Self) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn splat(v: f32) -> Self {
        v
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self + b
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self - b
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self * b
    }

    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self / b
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        f32::mul_add(self, b, c)
    }

    #[inline(always)]
    fn min(self, b: Self) -> Self {
        if b < self { b } else { self }
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        if b > self { b } else { self }
    }
}

/// How real values become codes: `clamp(rne(v) + zero_point, min, max)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codes {
    pub(crate) zero_point: i32,
    pub(crate) min: i32,
    pub(crate) max: i32,
}

impl Codes {
    /// The code of one value: the definition. NaN gives the smallest.
    #[inline(always)]
    pub(crate) fn of(self, v: f32) -> i32 {
        let (lo, hi) = self.offsets();
        rne(clamp(v, lo, hi)) + self.zero_point
    }

    /// Whether the bounds are those of the type, which a saturating conversion keeps by itself.
    #[inline(always)]
    pub(crate) fn whole_type<const S: bool>(self) -> bool {
        let Self { min, max, .. } = self.of_whole_type::<S>();
        (self.min, self.max) == (min, max)
    }

    /// The bounds of the type instead.
    #[inline(always)]
    pub(crate) fn of_whole_type<const S: bool>(self) -> Self {
        let sign = if S { Sign::S8 } else { Sign::U8 };
        Self { min: sign.min(), max: sign.max(), ..self }
    }

    /// The bounds less the zero point.
    #[inline(always)]
    pub(crate) fn offsets(self) -> (f32, f32) {
        ((self.min - self.zero_point) as f32, (self.max - self.zero_point) as f32)
    }
}

/// As many f32 values as a register has bytes.
pub(crate) trait Quad: Real {
    /// How many.
    const N: usize;
    /// Whether [`mul_add`](Real::mul_add) is one instruction.
    const FUSES: bool;
    /// The register that `N` codes fill.
    type Bytes: Bytes;
    /// Running sums of `N` codes each, exact for [`MAX_SUM`] codes.
    type Sums: Copy;
    /// The values of the first `N` codes.
    fn codes<const S: bool>(x: &[u8]) -> Self;
    /// The first `N` values.
    fn load(x: &[f32]) -> Self;
    /// The first 16 values of each of `N / 16` rows, `stride` apart.
    fn load_rows(x: &[f32], stride: usize) -> Self;
    /// The first `N` values, rounded to f32.
    fn load_i32(x: &[i32]) -> Self;
    /// Writes the values to the first `N` places.
    fn store(self, y: &mut [f32]);
    /// Writes the codes of values below 2³¹, rounded and then saturated, to the first `N` bytes. NaN and values of
    /// −2³¹ and less give the smallest code.
    fn store_codes<const S: bool>(self, codes: Codes, y: &mut [u8]);
    /// The values of the first `N` codes, s8 if `S` and stored with the other signedness if `F`, times
    /// [`lane_unit`](Self::lane_unit), in the order that takes the fewest instructions.
    fn lane_codes<const S: bool, const F: bool>(x: &[u8]) -> Self;
    /// What [`lane_codes`](Self::lane_codes) multiplies by: a power of two up to 2²⁴.
    fn lane_unit<const S: bool>() -> f32;
    /// `(a − z₀)·(b − z₁)`, exactly, for the first `N` codes of `a` and `b`, which are as for `lane_codes`, as is the
    /// order. The zero points are codes.
    fn lane_products<const S: bool, const F: bool>(a: &[u8], b: &[u8], z: [i32; 2]) -> Self;
    /// As [`store_codes`](Self::store_codes) in the order of `lane_codes`, stored with the other signedness if `F`.
    fn store_lanes<const S: bool, const F: bool>(self, codes: Codes, y: &mut [u8]);
    /// Sums of nothing.
    fn no_sums() -> Self::Sums;
    /// Adds the first `N` codes.
    fn add_codes<const S: bool>(sums: Self::Sums, x: &[u8]) -> Self::Sums;
    /// The sums as f32, exactly.
    fn from_sums(sums: Self::Sums) -> Self;
    /// The least value; none may be NaN.
    fn least(self) -> f32;
    /// The greatest value; none may be NaN.
    fn greatest(self) -> f32;
    /// The sum of values whose sums are exact in any order.
    fn total(self) -> f32;
}

/// `f` of all lanes, in pairs.
#[inline(always)]
pub(crate) fn fold_lanes<const N: usize>(mut lanes: [f32; N], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = N;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] = f(lanes[i], lanes[i + n]);
        }
    }
    lanes[0]
}

/// Codes that fit into the 16 bits of a [`Quad::Sums`].
pub(crate) const MAX_SUM: usize = 128;

/// The largest [`Quad::N`].
pub(crate) const MAX_LANES: usize = 64;

/// A register of bytes.
pub(crate) trait Bytes: Copy {
    /// How many.
    const N: usize;
    /// The first `N` bytes.
    fn load(x: &[u8]) -> Self;
    /// Writes the first `N` bytes.
    fn store(self, y: &mut [u8]);
    /// Lane `a·B + b` of 16 bytes from `x + 16·a + stride·b`; `B` divides the number of lanes.
    ///
    /// # Safety
    /// All these bytes may be read.
    unsafe fn load_lanes<const B: usize>(x: *const u8, stride: usize) -> Self;
    /// Writes `B` lanes to each multiple of `stride`.
    ///
    /// # Safety
    /// All these bytes may be written.
    unsafe fn store_lanes<const B: usize>(self, y: *mut u8, stride: usize);
    /// The greater of each two codes, two's complement if `S`.
    fn max<const S: bool>(self, b: Self) -> Self;
    /// Elements of `E` bytes from `self` and `b` in turn, within every 16 bytes: those of the first eight bytes.
    fn unpack_low<const E: usize>(self, b: Self) -> Self;
    /// As [`unpack_low`](Self::unpack_low), those of the last eight.
    fn unpack_high<const E: usize>(self, b: Self) -> Self;
}

/// Where blocks of `n` start that cover `0..len` (`len ≥ n`): the last one overlaps its neighbour where `n` does
/// not divide `len`. A kernel whose output is not its input may compute elements twice.
#[inline(always)]
pub(crate) fn blocks(len: usize, n: usize) -> Blocks {
    assert!(len >= n);
    Blocks { next: 0, len, n }
}

/// See [`blocks`].
pub(crate) struct Blocks {
    next: usize,
    len: usize,
    n: usize,
}

impl Blocks {
    /// Those from `at` on, a multiple of `n`.
    #[inline(always)]
    pub(crate) fn from(self, at: usize) -> Self {
        Self { next: at, ..self }
    }
}

impl Iterator for Blocks {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        (self.next < self.len).then(|| {
            let at = self.next.min(self.len - self.n);
            self.next += self.n;
            at
        })
    }
}

/// `quads!(fn name[const S: bool][S] = body, plain(x: &[u8]), x.len());` defines `fn name<const S: bool>(cpu, x)`,
/// which runs `body::<Q, S>` with the widest [`Quad`] of `cpu` that so many elements fill, or `plain::<S>` where
/// there are too few.
macro_rules! quads {
    (fn $name:ident[$($decl:tt)*][$($use:tt)*] = $body:ident, $baseline:ident($($arg:ident: $ty:ty),* $(,)?), $len:expr) => {
        #[allow(clippy::too_many_arguments, reason = "the body decides its arguments; the entry only forwards them")]
        fn $name<$($decl)*>(cpu: $crate::cpu::Cpu, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn avx2<$($decl)*>($($arg: $ty),*) {
                match $len {
                    32.. => $body::<$crate::simd::Quad8, $($use)*>($($arg),*),
                    16.. => $body::<$crate::simd::Quad4, $($use)*>($($arg),*),
                    _ => $baseline::<$($use)*>($($arg),*),
                }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn avx512<$($decl)*>($($arg: $ty),*) {
                match $len {
                    64.. => $body::<$crate::simd::Quad16, $($use)*>($($arg),*),
                    32.. => $body::<$crate::simd::Quad8, $($use)*>($($arg),*),
                    16.. => $body::<$crate::simd::Quad4, $($use)*>($($arg),*),
                    _ => $baseline::<$($use)*>($($arg),*),
                }
            }
            match $crate::multiversion::tier(cpu) {
                $crate::multiversion::Tier::Baseline => match $len {
                    16.. => $body::<$crate::simd::BaselineQuad, $($use)*>($($arg),*),
                    _ => $baseline::<$($use)*>($($arg),*),
                },
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
pub(crate) use quads;
