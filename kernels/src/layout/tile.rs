//! Transposing in tiles.
//!
//! A tile of 16-byte rows, as many as elements fit into one, is transposed by interleaving row `i` with row
//! `i + half` until every element has arrived. Registers of 32 or 64 bytes hold several such tiles, one per 16-byte
//! lane: lanes are loaded from several rows of the input and stored as one longer piece of an output row. The
//! baseline tier has `wide`'s registers.

use wide::{u8x16, u16x8, u32x4};

use crate::cpu::Cpu;
#[cfg(target_arch = "x86_64")]
use crate::multiversion::Tier;
use crate::multiversion::tier;
use crate::simd::{Bytes, blocks};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Bytes16, Bytes32, Bytes64};

/// Bytes of a tile's row, one register.
const ROW: usize = 16;

/// A tile: as many rows as elements fit into one; the rest is unused.
type Tile = [[u8; ROW]; ROW];

/// Two matrices, each the other's transpose: `y[a·y_stride + b] = x[a + b·x_stride]` for a < `a_len`, b < `b_len`.
#[derive(Clone, Copy)]
pub(super) struct Transpose {
    pub(super) x_stride: usize,
    pub(super) y_stride: usize,
    pub(super) a_len: usize,
    pub(super) b_len: usize,
}

impl Transpose {
    /// Writes `y`.
    pub(super) fn run<const E: usize>(self, cpu: Cpu, x: &[[u8; E]], y: &mut [[u8; E]]) {
        match tier(cpu) {
            // SAFETY: `cpu` reports this tier only where its features were detected (cpu.rs).
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 if matches!(E, 1 | 2 | 4) => unsafe { avx2(self, x, y) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 if matches!(E, 1 | 2 | 4) => unsafe { avx512(self, x, y) },
            _ => transpose_tiles(self, x, y),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) {
    if !(wide_tiles::<Bytes32, E>(t, x, y) || wide_tiles::<Bytes16, E>(t, x, y)) {
        transpose_tiles(t, x, y);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) {
    let done = wide_tiles::<Bytes64, E>(t, x, y)
        || wide_tiles::<Bytes32, E>(t, x, y)
        || wide_tiles::<Bytes16, E>(t, x, y);
    if !done {
        transpose_tiles(t, x, y);
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

/// Transposes, unless the matrix is smaller than a tile.
#[inline(always)]
fn wide_tiles<V: Bytes, const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) -> bool {
    let Transpose { x_stride, y_stride, a_len, b_len } = t;
    let (long, short) = (V::N / E, ROW / E);
    if a_len < short || b_len < long {
        return false;
    }
    for b in blocks(b_len, long) {
        for a in blocks(a_len, short) {
            let (x, lanes) = (&x[b * x_stride + a..], short * x_stride * E);
            let mut rows = [V::load_lanes(x.as_flattened(), lanes); ROW];
            each_row!(|j| short, {
                rows[j] = V::load_lanes(x[j * x_stride..].as_flattened(), lanes)
            });
            let rows = transpose_lanes::<V, E>(rows);
            let y = &mut y[a * y_stride + b..];
            each_row!(|i| short, rows[i].store(y[i * y_stride..].as_flattened_mut()));
        }
    }
    true
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

fn transpose_tiles<const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) {
    let Transpose { x_stride, y_stride, a_len, b_len } = t;
    let side = ROW / E;
    let (a_whole, b_whole) = (a_len - a_len % side, b_len - b_len % side);
    for a in (0..a_whole).step_by(side) {
        for b in (0..b_whole).step_by(side) {
            let mut tile = [[0; ROW]; ROW];
            for (j, row) in tile.iter_mut().enumerate().take(side) {
                row.copy_from_slice(x[(b + j) * x_stride + a..][..side].as_flattened());
            }
            let tile = transpose::<E>(&tile);
            for (i, row) in tile.iter().enumerate().take(side) {
                y[(a + i) * y_stride + b..][..side].as_flattened_mut().copy_from_slice(row);
            }
        }
    }
    for a in 0..a_len {
        for b in if a < a_whole { b_whole } else { 0 }..b_len {
            y[a * y_stride + b] = x[a + b * x_stride];
        }
    }
}

/// The transpose of a tile of `E`-byte elements.
#[inline(always)]
fn transpose<const E: usize>(tile: &Tile) -> Tile {
    match E {
        1 => transpose_bytes(tile),
        2 => transpose_pairs(tile),
        4 => transpose_quads(tile),
        _ => transpose_any::<E>(tile),
    }
}

/// Four rounds of interleaving row `i` with row `i + 8`.
#[inline(always)]
fn transpose_bytes(tile: &Tile) -> Tile {
    let mut rows = tile.map(u8x16::new);
    for _ in 0..4 {
        let from = rows;
        for i in 0..8 {
            rows[2 * i] = u8x16::unpack_low(from[i], from[i + 8]);
            rows[2 * i + 1] = u8x16::unpack_high(from[i], from[i + 8]);
        }
    }
    rows.map(u8x16::to_array)
}

#[inline(always)]
fn transpose_pairs(tile: &Tile) -> Tile {
    let mut rows = [u16x8::default(); 8];
    for (row, bytes) in rows.iter_mut().zip(tile) {
        let mut lanes = [0; 8];
        for (lane, b) in lanes.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *lane = u16::from_ne_bytes(*b);
        }
        *row = u16x8::new(lanes);
    }
    let mut out = *tile;
    for (out, row) in out.iter_mut().zip(u16x8::transpose(rows)) {
        for (b, lane) in out.as_chunks_mut::<2>().0.iter_mut().zip(row.to_array()) {
            *b = lane.to_ne_bytes();
        }
    }
    out
}

#[inline(always)]
fn transpose_quads(tile: &Tile) -> Tile {
    let mut rows = [u32x4::default(); 4];
    for (row, bytes) in rows.iter_mut().zip(tile) {
        let mut lanes = [0; 4];
        for (lane, b) in lanes.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *lane = u32::from_ne_bytes(*b);
        }
        *row = u32x4::new(lanes);
    }
    let mut out = *tile;
    for (out, row) in out.iter_mut().zip(u32x4::transpose(rows)) {
        for (b, lane) in out.as_chunks_mut::<4>().0.iter_mut().zip(row.to_array()) {
            *b = lane.to_ne_bytes();
        }
    }
    out
}

#[inline(always)]
fn transpose_any<const E: usize>(tile: &Tile) -> Tile {
    let mut out = *tile;
    for (i, out) in out.iter_mut().enumerate().take(ROW / E) {
        for (j, out) in out.as_chunks_mut::<E>().0.iter_mut().enumerate() {
            *out = tile[j].as_chunks::<E>().0[i];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::testing::cpus;
    use proptest::prelude::*;

    fn check<const E: usize>(t: Transpose) {
        let bytes = |n: usize| -> Vec<[u8; E]> {
            (0..n * E)
                .map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect::<Vec<u8>>()
                .as_chunks()
                .0
                .to_vec()
        };
        let x = bytes((t.b_len - 1) * t.x_stride + t.a_len);
        for cpu in cpus() {
            let mut y = vec![[0; E]; (t.a_len - 1) * t.y_stride + t.b_len];
            t.run(cpu, &x, &mut y);
            for (i, y) in y.iter().enumerate() {
                let (a, b) = (i / t.y_stride, i % t.y_stride);
                let want = if b < t.b_len { x[a + b * t.x_stride] } else { [0; E] };
                assert_eq!(*y, want, "{} at {a}, {b}", cpu.isa());
            }
        }
    }

    proptest! {
        #[test]
        fn every_isa_transposes_and_writes_nothing_else(
            a_len in 1usize..140, b_len in 1usize..140, x_more in 0usize..90, y_more in 0usize..90,
        ) {
            let t = Transpose { x_stride: a_len + x_more, y_stride: b_len + y_more, a_len, b_len };
            check::<1>(t);
            check::<2>(t);
            check::<4>(t);
            check::<8>(t);
        }
    }
}
