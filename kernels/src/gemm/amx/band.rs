//! Patches that tiles read from a band of padded input rows as they lie there, if each of their runs is whole lines.
//!
//! ```text
//! step of K   64 channels of one tap: of every pixel a line
//! tile        16 neighbouring pixels of an output row
//! output row  as many tiles as it takes: the last one ends with the row, so that it may begin inside the one before;
//!             a row of fewer pixels is one tile that reads on behind it
//! ```
//! All 16 rows of every tile are finished, in order: what a tile computes once more is the same again, and what it reads
//! behind a short row is written to pixels of the next one, which come right after and replace it. Only of the last tile
//! no row too many is finished: if a row has half as many pixels as a tile, nothing is written that belongs to others.

use super::{
    plan::{GROUP_BYTES, GROUP_CONFLICT_BYTES},
    tiles::{TILE_ROW_BYTES, TILE_ROWS},
};
use crate::conv::kernel::{Patch, PixelSteps};

/// The fewest pixels of a row.
pub(super) const LEAST_WIDTH: usize = TILE_ROWS / 2;

/// Which share of the rows of tiles must be pixels of their own, in tenths.
const LEAST_TENTHS: usize = 7;

/// Whole rows of output pixels whose patches lie in a band.
#[derive(Clone, Copy)]
pub(crate) struct BandRows<'a> {
    /// The patch of the first pixel, at offset 0.
    pub(crate) at: *const u8,
    pub(crate) patch: Patch<'a>,
    /// Output rows.
    pub(crate) rows: usize,
}

/// One or two tiles.
pub(super) struct BandGroup {
    pub(super) first: *const u8,
    /// Bytes to the second tile.
    pub(super) tile: usize,
    /// The first tile's first pixel.
    pub(super) pixel: usize,
    /// Rows to finish, and how many pixels the second tile begins before the first one's end.
    pub(super) rows: usize,
    pub(super) back: usize,
}

/// Whether tiles can read such patches from a band, and are full enough. Two of them stay in L1 whatever K is.
pub(crate) fn takes_band(patch: &Patch<'_>) -> bool {
    let Patch { steps: PixelSteps { width, step, row_step }, segments, len, shared, .. } = *patch;
    let whole = |bytes: usize| bytes.is_multiple_of(TILE_ROW_BYTES);
    let tiles = width.div_ceil(TILE_ROWS);
    whole(len | step | row_step)
        && segments.iter().all(|&at| whole(at))
        && shared.is_empty()
        && width * 10 >= tiles * TILE_ROWS * LEAST_TENTHS
        && !step.is_multiple_of(GROUP_CONFLICT_BYTES)
        && group_bytes(patch) <= GROUP_BYTES
}

/// Values that tiles may read behind a band.
pub(crate) fn band_slack(PixelSteps { width, step, .. }: PixelSteps) -> usize {
    TILE_ROWS.saturating_sub(width).saturating_mul(step)
}

/// Bytes of a band that two tiles read, if all of their lines are different.
fn group_bytes(Patch { steps, segments, len, .. }: &Patch<'_>) -> usize {
    let tile = (TILE_ROWS - 1).saturating_mul(steps.step.min(*len)).saturating_add(*len);
    tile.saturating_mul(2 * segments.len())
}

impl BandRows<'_> {
    fn tiles_per_row(&self) -> usize {
        self.patch.steps.width.div_ceil(TILE_ROWS)
    }

    /// Rows of all tiles.
    pub(super) fn tile_rows(&self) -> usize {
        self.rows * self.tiles_per_row() * TILE_ROWS
    }

    /// The row and column of a tile's first pixel.
    fn place(&self, tile: usize) -> (usize, usize) {
        let (row, i) = (tile / self.tiles_per_row(), tile % self.tiles_per_row());
        (row, (i * TILE_ROWS).min(self.patch.steps.width.saturating_sub(TILE_ROWS)))
    }

    /// The tiles from `row` of their rows on.
    pub(super) fn group(&self, row: usize) -> BandGroup {
        let PixelSteps { width, step, row_step } = self.patch.steps;
        let all = self.rows * self.tiles_per_row();
        let tile = row / TILE_ROWS;
        let two = tile + 1 < all;
        let [(y, x), (next_y, next_x)] = [tile, tile + usize::from(two)].map(|t| self.place(t));
        let [at, next_at] = [(y, x), (next_y, next_x)].map(|(y, x)| y * row_step + x * step);
        let [pixel, next] = [y * width + x, next_y * width + next_x];
        let last = if tile + 2 < all { TILE_ROWS } else { TILE_ROWS.min(width) };
        BandGroup {
            first: self.at.wrapping_add(at),
            tile: next_at - at,
            pixel,
            rows: if two { TILE_ROWS + last } else { last },
            back: if two { pixel + TILE_ROWS - next } else { 0 },
        }
    }
}
