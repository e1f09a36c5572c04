//! Tile registers in software: the same loops run, and are tested, where no AMX is.

use super::tiles::{Signs, TILE_ROW_BYTES, TILE_ROWS, TileConfig, Tiles};
use crate::epilogue::Sign;

/// Eight tiles as the architecture defines them. Whatever the processor would refuse is a panic.
pub(crate) struct Model {
    config: TileConfig,
    tiles: [[[u8; TILE_ROW_BYTES]; TILE_ROWS]; 8],
}

impl Model {
    /// Configures the tiles, which are zeros then.
    pub(crate) fn configure(config: TileConfig) -> Self {
        assert!(config.palette == 1 && config.start_row == 0, "palette 1 has tiles");
        let sizes = config.row_bytes.iter().zip(config.rows).enumerate();
        for (tile, (&bytes, rows)) in sizes {
            let fits = usize::from(bytes) <= TILE_ROW_BYTES && usize::from(rows) <= TILE_ROWS;
            assert!(fits && (bytes == 0) == (rows == 0), "a tile's size");
            assert!(tile < 8 || rows == 0, "palette 1 has eight tiles");
        }
        Self { config, tiles: [[[0; TILE_ROW_BYTES]; TILE_ROWS]; 8] }
    }

    /// Rows and bytes of a row of a tile.
    fn size(&self, tile: usize) -> (usize, usize) {
        let size = (self.config.rows[tile].into(), self.config.row_bytes[tile].into());
        assert!(size != (0, 0), "tile {tile} is configured");
        size
    }
}

fn value(sign: Sign, byte: u8) -> i32 {
    match sign {
        Sign::U8 => i32::from(byte),
        Sign::S8 => i32::from(byte as i8),
    }
}

impl Tiles for Model {
    const KEEPS: bool = false;

    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        let (rows, bytes) = self.size(T);
        self.tiles[T] = [[0; TILE_ROW_BYTES]; TILE_ROWS];
        for (r, row) in self.tiles[T][..rows].iter_mut().enumerate() {
            // SAFETY: the caller grants the rows.
            let from = unsafe { std::slice::from_raw_parts(from.add(r * stride), bytes) };
            row[..bytes].copy_from_slice(from);
        }
    }

    unsafe fn load_far<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: same contract.
        unsafe { self.load::<T>(from, stride) }
    }

    unsafe fn zero<const T: usize>(&mut self) {
        self.size(T);
        self.tiles[T] = [[0; TILE_ROW_BYTES]; TILE_ROWS];
    }

    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        let (rows, bytes) = self.size(T);
        for (r, row) in self.tiles[T][..rows].iter().enumerate() {
            // SAFETY: the caller grants the rows.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), to.add(r * stride), bytes) };
        }
    }

    unsafe fn dot<S: Signs, const C: usize, const A: usize, const B: usize>(&mut self) {
        let ((rows, c_bytes), (a_rows, a_bytes), (b_rows, b_bytes)) =
            (self.size(C), self.size(A), self.size(B));
        assert!(C != A && C != B && A != B, "three tiles");
        assert!(rows == a_rows && c_bytes == b_bytes && a_bytes == 4 * b_rows, "tiles fit");
        assert!(c_bytes % 4 == 0 && a_bytes % 4 == 0, "whole sums");
        let (a, b) = (self.tiles[A], self.tiles[B]);
        for (row, a) in self.tiles[C][..rows].iter_mut().zip(a) {
            let sums = row.as_chunks_mut::<4>().0;
            for (n, sum) in sums[..c_bytes / 4].iter_mut().enumerate() {
                let mut total = i32::from_le_bytes(*sum);
                for k in 0..a_bytes {
                    let b = value(S::B, b[k / 4][4 * n + k % 4]);
                    total = total.wrapping_add(value(S::A, a[k]) * b);
                }
                *sum = total.to_le_bytes();
            }
        }
        self.tiles[C][rows..].fill([0; TILE_ROW_BYTES]);
    }
}
