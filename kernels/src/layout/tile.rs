//! Transposing in square tiles of 16-byte rows, with `wide`'s registers on every tier.

use wide::{u8x16, u16x8, u32x4};

/// Bytes of a tile's row, one register.
const ROW: usize = 16;

/// A tile: as many rows as elements fit into one; the rest is unused.
type Tile = [[u8; ROW]; ROW];

/// `y[a·y_stride + b] = x[a + b·x_stride]` for a < `a_len`, b < `b_len`.
pub(super) fn transpose_tiles<const E: usize>(
    x: &[[u8; E]],
    x_stride: usize,
    y: &mut [[u8; E]],
    y_stride: usize,
    a_len: usize,
    b_len: usize,
) {
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
