//! Tile registers, the operations on them that the kernels need, and the order in which a step of K uses them.
//!
//! ```text
//! tile    8 of them, 16 rows of 64 bytes: 16 × 16 sums, 16 rows × 64 of A, or 64 of K × 16 columns of B (K4N16)
//! dot     C[m][n] += Σ_k Σ_i A[m][4k + i] · B[k][4n + i]     exact modulo 2³², of any two signs
//! ```

use crate::epilogue::Sign;

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;

/// Bytes of a row of a tile: a cache line, of which only aligned ones are loaded at full speed.
pub(crate) const TILE_ROW_BYTES: usize = 64;

/// Bytes of a tile.
pub(crate) const TILE_BYTES: usize = TILE_ROWS * TILE_ROW_BYTES;

/// What `ldtilecfg` reads: which tiles there are, and their sizes.
#[repr(C, align(64))]
pub(crate) struct TileConfig {
    pub(crate) palette: u8,
    pub(crate) start_row: u8,
    reserved: [u8; 14],
    pub(crate) row_bytes: [u16; 16],
    pub(crate) rows: [u8; 16],
}

impl TileConfig {
    /// The eight tiles of palette 1, all of full size: what does not fill one is padded in memory.
    pub(crate) const FULL: Self = {
        let mut config =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut tile = 0;
        while tile < 8 {
            config.row_bytes[tile] = TILE_ROW_BYTES as u16;
            config.rows[tile] = TILE_ROWS as u8;
            tile += 1;
        }
        config
    };
}

const _: () = assert!(size_of::<TileConfig>() == 64);

/// The signs of the two operands of a product.
pub(crate) trait Signs {
    const A: Sign;
    const B: Sign;
}

/// The four pairs of signs.
macro_rules! signs {
    ($($name:ident: $a:ident, $b:ident;)+) => {$(
        pub(crate) struct $name;

        impl Signs for $name {
            const A: Sign = Sign::$a;
            const B: Sign = Sign::$b;
        }
    )+};
}
signs! {
    U8S8: U8, S8;
    S8S8: S8, S8;
}
#[cfg(test)]
signs! {
    U8U8: U8, U8;
    S8U8: S8, U8;
}

/// The tile registers of a thread, of the sizes of [`TileConfig::FULL`].
///
/// # Safety
/// Pointers are valid for 16 rows of 64 bytes, `stride` bytes apart; a stride of 0 reads one row 16 times.
pub(crate) trait Tiles {
    /// Tile `T` = the rows at `from`.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);

    /// The rows at `to` = tile `T`.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize);

    /// Tile `C` += tile `A` · tile `B`.
    unsafe fn dot<S: Signs, const C: usize, const A: usize, const B: usize>(&mut self);
}

/// Where the tiles of some rows of A are, for each step of 64 values of K.
#[derive(Clone, Copy)]
pub(crate) struct TileRows {
    /// The first tile's first row.
    pub(crate) first: *const u8,
    /// Bytes from one row of a tile to the next, from one tile to the next, and from one step to the next.
    pub(crate) row: usize,
    pub(crate) tile: usize,
    pub(crate) step: usize,
}

impl TileRows {
    /// The same from a later step on.
    pub(crate) fn after(self, steps: usize) -> Self {
        Self { first: self.first.wrapping_add(steps * self.step), ..self }
    }
}

/// Loads the accumulator `index`.
///
/// # Safety
/// As [`Tiles::load`].
#[inline(always)]
pub(crate) unsafe fn load_sums<T: Tiles>(
    tiles: &mut T,
    index: usize,
    from: *const u8,
    stride: usize,
) {
    // SAFETY: same contract.
    unsafe {
        match index {
            0 => tiles.load::<0>(from, stride),
            1 => tiles.load::<1>(from, stride),
            2 => tiles.load::<2>(from, stride),
            _ => tiles.load::<3>(from, stride),
        }
    }
}

/// Stores the accumulator `index`.
///
/// # Safety
/// As [`Tiles::store`].
#[inline(always)]
pub(crate) unsafe fn store_sums<T: Tiles>(tiles: &mut T, index: usize, to: *mut u8, stride: usize) {
    // SAFETY: same contract.
    unsafe {
        match index {
            0 => tiles.store::<0>(to, stride),
            1 => tiles.store::<1>(to, stride),
            2 => tiles.store::<2>(to, stride),
            _ => tiles.store::<3>(to, stride),
        }
    }
}

/// Adds a step of K to R × C accumulators, of which number r·C + c belongs to tile r of A and panel c of B: 2×2, which
/// loads a tile per product, the fewest that eight registers allow; 1×4 and narrower where rows or panels are left over.
///
/// # Safety
/// R tiles of A at `a`, `next` bytes apart with rows `row` bytes apart, and C of B, `panel` bytes apart, are readable.
#[inline(always)]
pub(crate) unsafe fn step<T: Tiles, S: Signs, const R: usize, const C: usize>(
    tiles: &mut T,
    a: *const u8,
    (row, next): (usize, usize),
    b: *const u8,
    panel: usize,
) {
    // SAFETY: same contract; pointers to tiles that the form does not have are not read.
    unsafe {
        let (a1, b1) = (a.wrapping_add(next), b.wrapping_add(panel));
        match (R, C) {
            (2, 2) => {
                tiles.load::<4>(a, row);
                tiles.load::<6>(b, TILE_ROW_BYTES);
                tiles.dot::<S, 0, 4, 6>();
                tiles.load::<7>(b1, TILE_ROW_BYTES);
                tiles.dot::<S, 1, 4, 7>();
                tiles.load::<5>(a1, row);
                tiles.dot::<S, 2, 5, 6>();
                tiles.dot::<S, 3, 5, 7>();
            }
            (2, 1) => {
                tiles.load::<6>(b, TILE_ROW_BYTES);
                tiles.load::<4>(a, row);
                tiles.dot::<S, 0, 4, 6>();
                tiles.load::<5>(a1, row);
                tiles.dot::<S, 1, 5, 6>();
            }
            _ => {
                const { assert!(R == 2 && C <= 2 || R == 1 && matches!(C, 1 | 2 | 4)) };
                tiles.load::<4>(a, row);
                tiles.load::<5>(b, TILE_ROW_BYTES);
                tiles.dot::<S, 0, 4, 5>();
                if C > 1 {
                    tiles.load::<6>(b1, TILE_ROW_BYTES);
                    tiles.dot::<S, 1, 4, 6>();
                }
                if C > 2 {
                    tiles.load::<7>(b.wrapping_add(2 * panel), TILE_ROW_BYTES);
                    tiles.dot::<S, 2, 4, 7>();
                    tiles.load::<5>(b.wrapping_add(3 * panel), TILE_ROW_BYTES);
                    tiles.dot::<S, 3, 4, 5>();
                }
            }
        }
    }
}
