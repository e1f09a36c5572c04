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
    /// Whether it makes a difference what L1 is to keep: if not, one form of code is enough.
    const KEEPS: bool;

    /// Tile `T` = the rows at `from`.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);

    /// The same of rows that L1 need not keep.
    unsafe fn load_far<const T: usize>(&mut self, from: *const u8, stride: usize);

    /// Tile `T` = 0.
    unsafe fn zero<const T: usize>(&mut self);

    /// The rows at `to` = tile `T`.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize);

    /// Tile `C` += tile `A` · tile `B`.
    unsafe fn dot<S: Signs, const C: usize, const A: usize, const B: usize>(&mut self);
}

/// Where the tiles of some rows of A are, for each step of 64 values of K.
#[derive(Clone, Copy)]
pub(crate) struct TileRows {
    /// The first tile's first row, in the first step.
    pub(crate) first: *const u8,
    /// Bytes from one row of a tile to the next, and from one tile to the next.
    pub(crate) row: usize,
    pub(crate) tile: usize,
    /// Bytes from one step to the next, or in a band from the first to each.
    pub(crate) step: usize,
    pub(crate) steps: *const usize,
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

/// Sets the accumulator `index` to 0.
///
/// # Safety
/// As [`Tiles::zero`].
#[inline(always)]
pub(crate) unsafe fn zero_sums<T: Tiles>(tiles: &mut T, index: usize) {
    // SAFETY: same contract.
    unsafe {
        match index {
            0 => tiles.zero::<0>(),
            1 => tiles.zero::<1>(),
            2 => tiles.zero::<2>(),
            _ => tiles.zero::<3>(),
        }
    }
}

/// The tiles of a step of K: R of A, and C of B, `panel` bytes apart.
#[derive(Clone, Copy)]
pub(crate) struct StepTiles {
    pub(crate) a: *const u8,
    /// Bytes from one row of A to the next, and from one tile to the next.
    pub(crate) row: usize,
    pub(crate) tile: usize,
    pub(crate) b: *const u8,
    pub(crate) panel: usize,
}

/// Loads a tile that L1 is to keep, or need not.
#[inline(always)]
unsafe fn load<T: Tiles, const REG: usize>(
    tiles: &mut T,
    (from, stride): (*const u8, usize),
    stays: bool,
) {
    // SAFETY: that of the callers.
    unsafe {
        if stays {
            tiles.load::<REG>(from, stride);
        } else {
            tiles.load_far::<REG>(from, stride);
        }
    }
}

impl StepTiles {
    /// Loads the tile `r` of A: into register 4 + r.
    #[inline(always)]
    unsafe fn load_a<T: Tiles, const STAYS: u8, const REG: usize>(&self, tiles: &mut T, r: usize) {
        let from = self.a.wrapping_add(r * self.tile);
        // SAFETY: that of the callers.
        unsafe {
            load::<T, REG>(
                tiles,
                (from, self.row),
                !(STAYS == PANELS || STAYS == HALF_ROWS && r == 1),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_b<T: Tiles, const STAYS: u8, const REG: usize>(&self, tiles: &mut T, c: usize) {
        let from = self.b.wrapping_add(c * self.panel);
        // SAFETY: that of the callers.
        unsafe { load::<T, REG>(tiles, (from, TILE_ROW_BYTES), matches!(STAYS, PANELS | BOTH)) }
    }

    /// Those of the next step, where A is at `a`.
    #[inline(always)]
    pub(crate) fn next(self, a: *const u8) -> Self {
        Self { a, b: self.b.wrapping_add(TILE_BYTES), ..self }
    }
}

// A step adds to R × C accumulators, of which number r·C + c belongs to tile r of A and panel c of B: 2×2, which loads a
// tile per product, the fewest that eight registers allow; 1×4 and narrower where rows or panels are left over. Tiles of
// A are in registers 4 and 5. Those of B are in 6 and 7, or with one tile of A in 5, 6 and 7, and the fourth in 5 again.
// Every register is loaded for the next step as soon as its last product is under way. `STAYS` says what stays in L1 while
// the other passes.

/// A group's rows stay while panels pass over them, its first tile does, all panels while groups do, or both; and rows of a
/// band.
pub(crate) const ROWS: u8 = 0;
pub(crate) const HALF_ROWS: u8 = 1;
pub(crate) const PANELS: u8 = 2;
pub(crate) const BOTH: u8 = 3;
pub(crate) const BAND: u8 = 4;

/// Whether a block may be one of a band: there is code for only such ones, and for only others, of the largest blocks.
pub(crate) const fn of_band(stays: u8, tiles: (usize, usize)) -> bool {
    stays == BAND || !matches!(tiles, (2, 2))
}

/// Loads what a block's first step starts with.
///
/// # Safety
/// The tiles of the step are readable.
#[inline(always)]
pub(crate) unsafe fn first_loads<T: Tiles, const STAYS: u8, const R: usize, const C: usize>(
    tiles: &mut T,
    step: &StepTiles,
) {
    const { assert!(R == 2 && C <= 2 || R == 1 && matches!(C, 1 | 2 | 4)) };
    // SAFETY: same contract.
    unsafe {
        step.load_a::<T, STAYS, 4>(tiles, 0);
        if R == 2 {
            step.load_b::<T, STAYS, 6>(tiles, 0);
            if C == 2 {
                step.load_b::<T, STAYS, 7>(tiles, 1);
            }
            step.load_a::<T, STAYS, 5>(tiles, 1);
        } else {
            step.load_b::<T, STAYS, 5>(tiles, 0);
            if C > 1 {
                step.load_b::<T, STAYS, 6>(tiles, 1);
            }
            if C > 2 {
                step.load_b::<T, STAYS, 7>(tiles, 2);
            }
        }
    }
}

/// Adds the product of the accumulator `i`.
///
/// # Safety
/// As [`Tiles::dot`].
#[inline(always)]
pub(crate) unsafe fn multiply<T: Tiles, S: Signs, const R: usize, const C: usize>(
    tiles: &mut T,
    i: usize,
) {
    // SAFETY: same contract.
    unsafe {
        match (R, i) {
            (2, 0) => tiles.dot::<S, 0, 4, 6>(),
            (2, 1) if C == 2 => tiles.dot::<S, 1, 4, 7>(),
            (2, 1) => tiles.dot::<S, 1, 5, 6>(),
            (2, 2) => tiles.dot::<S, 2, 5, 6>(),
            (2, _) => tiles.dot::<S, 3, 5, 7>(),
            (_, 0) => tiles.dot::<S, 0, 4, 5>(),
            (_, 1) => tiles.dot::<S, 1, 4, 6>(),
            (_, 2) => tiles.dot::<S, 2, 4, 7>(),
            _ => tiles.dot::<S, 3, 4, 5>(),
        }
    }
}

/// Loads what comes next into the registers that the product of the accumulator `i` was the last to need: of this step,
/// or of the next.
///
/// # Safety
/// As [`first_loads`], of both steps.
#[inline(always)]
pub(crate) unsafe fn next_loads<T: Tiles, const STAYS: u8, const R: usize, const C: usize>(
    tiles: &mut T,
    i: usize,
    now: &StepTiles,
    next: &StepTiles,
) {
    // SAFETY: same contract.
    unsafe {
        if (R, C, i) == (1, 4, 0) {
            now.load_b::<T, STAYS, 5>(tiles, 3);
        }
        match (R, C, i) {
            (2, 2, 1) | (2, 1, 0) => next.load_a::<T, STAYS, 4>(tiles, 0),
            (2, 2, 2) => next.load_b::<T, STAYS, 6>(tiles, 0),
            (2, 2, 3) => {
                next.load_b::<T, STAYS, 7>(tiles, 1);
                next.load_a::<T, STAYS, 5>(tiles, 1);
            }
            (2, 1, 1) => {
                next.load_b::<T, STAYS, 6>(tiles, 0);
                next.load_a::<T, STAYS, 5>(tiles, 1);
            }
            (1, 1, 0) => {
                next.load_a::<T, STAYS, 4>(tiles, 0);
                next.load_b::<T, STAYS, 5>(tiles, 0);
            }
            (1, 2, 0) => next.load_b::<T, STAYS, 5>(tiles, 0),
            (1, 2, 1) => {
                next.load_b::<T, STAYS, 6>(tiles, 1);
                next.load_a::<T, STAYS, 4>(tiles, 0);
            }
            (1, 4, 1) => next.load_b::<T, STAYS, 6>(tiles, 1),
            (1, 4, 2) => next.load_b::<T, STAYS, 7>(tiles, 2),
            (1, 4, 3) => {
                next.load_b::<T, STAYS, 5>(tiles, 0);
                next.load_a::<T, STAYS, 4>(tiles, 0);
            }
            _ => {}
        }
    }
}
