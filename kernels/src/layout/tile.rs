//! Transposing in tiles.
//!
//! A tile of 16-byte rows, as many as elements fit into one, is transposed by interleaving row `i` with row
//! `i + half` until every element has arrived. Registers of 32 or 64 bytes hold several such tiles, one per 16-byte
//! lane: lanes are loaded from several places of the input's rows and stored as longer pieces of fewer output rows, or
//! the other way round where output rows are short.

use std::mem::MaybeUninit;

use super::thin::thin;
use crate::cpu::Cpu;
use crate::multiversion::{Tier, tier};
use crate::simd::{BaselineBytes, Bytes, blocks};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Bytes16, Bytes32, Bytes64};

/// Bytes of a tile's row, one register.
const ROW: usize = 16;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Two matrices, each the other's transpose: `y[a·y_stride + b] = x[a + b·x_stride]` for a < `a_len`, b < `b_len`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transpose {
    pub(super) x_stride: usize,
    pub(super) y_stride: usize,
    pub(super) a_len: usize,
    pub(super) b_len: usize,
}

impl Transpose {
    /// Writes `y`.
    pub(super) fn run<const E: usize>(self, cpu: Cpu, x: &[[u8; E]], y: &mut [[u8; E]]) {
        let Self { x_stride, y_stride, a_len, b_len } = self;
        assert!(fits(x.len(), b_len, x_stride, a_len) && fits(y.len(), a_len, y_stride, b_len));
        let done = match tier(cpu) {
            _ if !matches!(E, 1 | 2 | 4) => false,
            // SAFETY: both matrices lie in their slices. `cpu` reports this tier only where its features were
            // detected (cpu.rs).
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => unsafe { avx2::<E>(self, x.as_ptr().cast(), y.as_mut_ptr().cast()) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => unsafe { avx512::<E>(self, x.as_ptr().cast(), y.as_mut_ptr().cast()) },
            // SAFETY: as above.
            Tier::Baseline => unsafe {
                walk::<BaselineBytes, 1, E>(self, x.as_ptr().cast(), y.as_mut_ptr().cast())
            },
        };
        if !(done || thin(self, cpu, x, y)) {
            transpose_plain(self, x, y);
        }
    }
}

/// Whether `rows` rows of `columns` elements, `stride` apart, are at most `len` elements.
fn fits(len: usize, rows: usize, stride: usize, columns: usize) -> bool {
    let end = |rows: usize| rows.checked_mul(stride)?.checked_add(columns);
    rows == 0 || end(rows - 1).is_some_and(|end| end <= len)
}

/// # Safety
/// The tier's features are there; the rest as for [`walk`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const E: usize>(t: Transpose, x: *const u8, y: *mut u8) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        walk::<Bytes32, 2, E>(t, x, y)
            || walk::<Bytes32, 1, E>(t, x, y)
            || walk::<Bytes16, 1, E>(t, x, y)
    }
}

/// # Safety
/// As for [`avx2`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<const E: usize>(t: Transpose, x: *const u8, y: *mut u8) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        walk::<Bytes64, 4, E>(t, x, y)
            || walk::<Bytes64, 2, E>(t, x, y)
            || walk::<Bytes64, 1, E>(t, x, y)
            || walk::<Bytes16, 1, E>(t, x, y)
    }
}

/// The statement for every row below `$n`, without a loop that might keep the rows in memory.
macro_rules! each_row {
    (|$j:ident| $n:expr, $body:expr) => {
        each_row!(@ $j $n, $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $j:ident $n:expr, $body:expr; $($i:literal)*) => {
        $(if $i < $n {
            let $j = $i;
            $body;
        })*
    };
}

/// Interleaves each listed row with the one `$half` further: one of log2(rows) rounds.
macro_rules! interleave {
    ($rows:expr, $half:literal; $($i:literal)*) => {{
        let rows = $rows;
        [$(
            rows[$i].unpack_low::<E>(rows[$i + $half]),
            rows[$i].unpack_high::<E>(rows[$i + $half]),
        )*]
    }};
}

/// Bytes of the input's rows that are staged at once.
const STAGED: usize = 256;

/// Rows that are staged at once.
const STAGED_ROWS: usize = 64;

/// Transposes, unless the matrix is smaller than a tile, one of `B` lanes along `b`. A tile reads a part of a cache line
/// of each of its rows; where the cache cannot hold these lines until the next tiles read the rest of them, the rows
/// are copied first.
///
/// # Safety
/// The features of `V`'s tier are there. `x` has `b_len` readable rows of `a_len` elements, `x_stride` apart; `y` has
/// `a_len` writable rows of `b_len`, `y_stride` apart.
#[inline(always)]
unsafe fn walk<V: Bytes, const B: usize, const E: usize>(
    t: Transpose,
    x: *const u8,
    y: *mut u8,
) -> bool {
    if t.a_len < V::N / B / E || t.b_len < B * ROW / E {
        return false;
    }
    let staged = [STAGED / E, STAGED_ROWS];
    if !conflict(t.x_stride * E, t.b_len.min(LINE / E)) || t.a_len < staged[0] {
        // SAFETY: the caller's promise, and a tile fits.
        unsafe { tiles::<V, B, E>(t, x, y) };
        return true;
    }
    let mut rows = MaybeUninit::<[[u8; STAGED]; STAGED_ROWS]>::uninit();
    let rows: *mut u8 = rows.as_mut_ptr().cast();
    let b_len = t.b_len.min(staged[1]);
    let part = Transpose { x_stride: staged[0], y_stride: t.y_stride, a_len: staged[0], b_len };
    for b in blocks(t.b_len, b_len) {
        for a in blocks(t.a_len, staged[0]) {
            // SAFETY: the block lies in the matrices, and its rows fit into `rows`; no tile is larger than a block.
            unsafe {
                for r in 0..b_len {
                    let x = x.add(((b + r) * t.x_stride + a) * E);
                    std::ptr::copy_nonoverlapping(x, rows.add(r * STAGED), STAGED);
                }
                tiles::<V, B, E>(part, rows, y.add((a * t.y_stride + b) * E));
            }
        }
    }
    true
}

/// Bytes of a cache of 8 ways of 4 KiB.
const CACHE: usize = 8 << 12;

/// Whether lines of so many rows, `stride` bytes apart, displace each other from the cache.
fn conflict(stride: usize, rows: usize) -> bool {
    rows * apart(stride) > CACHE
}

/// Bytes of a way of the cache for each of its lines that such rows use.
fn apart(stride: usize) -> usize {
    1 << stride.trailing_zeros().clamp(6, 12)
}

/// Transposes in tiles.
///
/// # Safety
/// As for [`walk`], of a matrix that a tile fits into.
#[inline(always)]
unsafe fn tiles<V: Bytes, const B: usize, const E: usize>(t: Transpose, x: *const u8, y: *mut u8) {
    // Tiles with short rows fill a line of `y` one after the other. Where rows of `y` displace each other from the cache,
    // only so many are written at a time.
    let (tile, line) = ([V::N / B / E, B * ROW / E], t.b_len.min(LINE / E));
    let few = (CACHE / 2 / apart(t.y_stride * E)).clamp(tile[0], tile[0].max(16));
    let some = if conflict(t.y_stride * E, t.a_len) { few.min(t.a_len) } else { t.a_len };
    for first in blocks(t.a_len, some) {
        for line_at in blocks(t.b_len, line) {
            for a in blocks(some, tile[0]) {
                for b in blocks(line, tile[1]) {
                    let (a, b) = (first + a, line_at + b);
                    // SAFETY: the tile from `a` and `b` lies in the matrices.
                    unsafe {
                        tile_at::<V, B, E>(
                            x.add((b * t.x_stride + a) * E),
                            t.x_stride * E,
                            y.add((a * t.y_stride + b) * E),
                            t.y_stride * E,
                        );
                    }
                }
            }
        }
    }
}

/// Transposes one tile; strides are in bytes.
///
/// # Safety
/// The features of `V`'s tier are there, and `x` and `y` have the rows of a tile, so far apart.
#[inline(always)]
unsafe fn tile_at<V: Bytes, const B: usize, const E: usize>(
    x: *const u8,
    x_stride: usize,
    y: *mut u8,
    y_stride: usize,
) {
    let short = ROW / E;
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [V::load_lanes::<B>(x, short * x_stride); ROW];
        each_row!(|j| short, {
            rows[j] = V::load_lanes::<B>(x.add(j * x_stride), short * x_stride)
        });
        let rows = transpose_lanes::<V, E>(rows);
        each_row!(|i| short, rows[i].store_lanes::<B>(y.add(i * y_stride), short * y_stride));
    }
}

/// Transposes the tile in each lane; its rows are the first `16 / E` registers.
#[inline(always)]
fn transpose_lanes<V: Bytes, const E: usize>(rows: [V; ROW]) -> [V; ROW] {
    match E {
        1 => {
            let rows = interleave!(rows, 8; 0 1 2 3 4 5 6 7);
            let rows = interleave!(rows, 8; 0 1 2 3 4 5 6 7);
            let rows = interleave!(rows, 8; 0 1 2 3 4 5 6 7);
            interleave!(rows, 8; 0 1 2 3 4 5 6 7)
        }
        2 => {
            let r = interleave!(rows, 4; 0 1 2 3);
            let r = interleave!(r, 4; 0 1 2 3);
            let [a, b, c, d, e, f, g, h] = interleave!(r, 4; 0 1 2 3);
            [a, b, c, d, e, f, g, h, a, b, c, d, e, f, g, h]
        }
        _ => {
            let r = interleave!(rows, 2; 0 1);
            let [a, b, c, d] = interleave!(r, 2; 0 1);
            [a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d]
        }
    }
}

/// The definition.
fn transpose_plain<const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) {
    for a in 0..t.a_len {
        for b in 0..t.b_len {
            y[a * t.y_stride + b] = x[a + b * t.x_stride];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::testing::cpus;
    use crate::testing::{Flush, Guarded};
    use proptest::prelude::*;

    /// Compares with the definition, between unreadable pages.
    fn check<const E: usize>(t: Transpose, flush: Flush) {
        let len = ((t.b_len - 1) * t.x_stride + t.a_len) * E;
        let x: Vec<u8> =
            (0..len).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let x = Guarded::new(&x, flush);
        let x = x.as_chunks::<E>().0;
        let zeros = vec![0; ((t.a_len - 1) * t.y_stride + t.b_len) * E];
        let mut want = zeros.clone();
        transpose_plain::<E>(t, x, want.as_chunks_mut().0);
        for cpu in cpus() {
            let mut y = Guarded::new(&zeros, flush);
            t.run::<E>(cpu, x, y.as_chunks_mut().0);
            assert!(*y == *want, "{t:?} of {E} bytes on {}", cpu.isa());
        }
    }

    fn check_all(t: Transpose) {
        for flush in [Flush::Start, Flush::End] {
            check::<1>(t, flush);
            check::<2>(t, flush);
            check::<4>(t, flush);
            check::<8>(t, flush);
        }
    }

    proptest! {
        #[test]
        fn every_isa_transposes_and_writes_nothing_else(
            a_len in 1usize..140, b_len in 1usize..140, x_more in 0usize..90, y_more in 0usize..90,
        ) {
            check_all(Transpose { x_stride: a_len + x_more, y_stride: b_len + y_more, a_len, b_len });
        }

        #[test]
        fn images_of_few_channels(n in 1usize..6, pixels in 1usize..300, more in 0usize..3) {
            check_all(Transpose { x_stride: n, y_stride: pixels + more, a_len: n, b_len: pixels });
            check_all(Transpose { x_stride: pixels + more, y_stride: n, a_len: pixels, b_len: n });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn rows_that_share_places_of_the_cache(
            a_len in 200usize..600, b_len in 10usize..200, x_stride in 0usize..2, y_stride in 0usize..2,
        ) {
            let stride = |share, len| if share == 1 { 1024 } else { len };
            let (x_stride, y_stride) = (stride(x_stride, a_len), stride(y_stride, b_len));
            check_all(Transpose { x_stride, y_stride, a_len, b_len });
        }
    }

    #[test]
    #[should_panic = "fits"]
    fn a_matrix_that_does_not_fit_is_refused() {
        let t = Transpose { x_stride: usize::MAX, y_stride: 1, a_len: 1, b_len: 3 };
        t.run::<1>(Cpu::detect(), &[[0]; 9], &mut [[0]; 9]);
    }
}
