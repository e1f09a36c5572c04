//! The transforms and products of a block of tiles, written once over the vector operations of [`Winograd`].

use std::ops::Range;

use crate::{
    Cpu,
    cpu::Isa,
    epilogue::{Epilogue, Keep, NR, Sign, TileOut},
    gemm::kernel::{Dot, Strided, finish, for_each_row},
};

/// Products of a tile and a pair of channels.
pub(super) const POINTS: usize = 16;

/// 16 sums of products.
pub(super) type Acc<W> = <<W as Winograd>::Dot as Dot>::Acc;

/// The vector operations of one ISA.
///
/// # Safety
/// Every method requires that the ISA's target features are supported; pointers must be valid for what is said.
/// Methods are `#[inline(always)]` and take the features of the entry point they end up in.
pub(super) trait Winograd: Sized {
    /// Products of i16 pairs, and the epilogue.
    type Dot: Dot<A = i16>;
    /// Some i16.
    type Values: Copy;
    /// How many.
    const LANES: usize;
    /// The most tiles that are multiplied at a time, up to 12.
    const MR: usize;

    /// The values of so many bytes, which are signed if `S8`.
    unsafe fn widen<const S8: bool>(bytes: *const u8) -> Self::Values;
    /// `a + b`
    unsafe fn add(a: Self::Values, b: Self::Values) -> Self::Values;
    /// `a − b`
    unsafe fn sub(a: Self::Values, b: Self::Values) -> Self::Values;
    /// Writes the values to `to`.
    unsafe fn store(values: Self::Values, to: *mut i16);

    /// Loads the weights of 16 columns and KR channels.
    unsafe fn weights(b: *const i16) -> <Self::Dot as Dot>::B;
    /// Adds the products of `groups` groups of KR channels of MR tiles and a panel.
    #[inline(always)]
    unsafe fn accumulate<const MR: usize>(
        acc: &mut [Acc<Self>; MR],
        a: Strided<i16>,
        b: *const i16,
        groups: usize,
    ) {
        for g in 0..groups {
            let k = g * Self::Dot::KR;
            // SAFETY: the caller grants so many groups, and the features.
            unsafe {
                let b = Self::weights(b.add(k * NR));
                for_each_row!(r < MR {
                    acc[r] = Self::Dot::dot(acc[r], Self::Dot::splat(a.at(r, k)), b);
                });
            }
        }
    }

    /// `a + b` modulo 2³²
    unsafe fn add_sums(a: Acc<Self>, b: Acc<Self>) -> Acc<Self>;
    /// `a − b` modulo 2³²
    unsafe fn sub_sums(a: Acc<Self>, b: Acc<Self>) -> Acc<Self>;
    /// `sums / 4 + bias`, of multiples of 4
    unsafe fn quarter(sums: Acc<Self>, bias: Acc<Self>) -> Acc<Self>;
}

/// Some consecutive tiles of an image, row by row, and what they read.
#[derive(Clone)]
pub(super) struct Tiles<'a> {
    /// `size[0] × size[1]` pixels of `channels` bytes.
    pub(super) image: &'a [u8],
    pub(super) size: [usize; 2],
    pub(super) channels: usize,
    /// Pixels above and to the left of the image.
    pub(super) pads: [usize; 2],
    /// A pixel outside.
    pub(super) padding: &'a [u8],
    pub(super) sign: Sign,
    /// Tiles of a row.
    pub(super) across: usize,
    pub(super) tiles: Range<usize>,
}

impl Tiles<'_> {
    /// Where the 4×4 pixels of a tile are.
    #[inline(always)]
    fn pixels(&self, tile: usize) -> [[*const u8; 4]; 4] {
        let Self { image, size: [height, width], channels, pads, .. } = *self;
        let top = (2 * (tile / self.across)).wrapping_sub(pads[0]);
        let left = (2 * (tile % self.across)).wrapping_sub(pads[1]);
        if top < height.saturating_sub(3) && left < width.saturating_sub(3) {
            let first = image[(top * width + left) * channels..].as_ptr();
            return std::array::from_fn(|i| {
                std::array::from_fn(|j| first.wrapping_add((i * width + j) * channels))
            });
        }
        std::array::from_fn(|i| {
            let y = top.wrapping_add(i);
            std::array::from_fn(|j| {
                let x = left.wrapping_add(j);
                if y < height && x < width {
                    image[(y * width + x) * channels..].as_ptr()
                } else {
                    self.padding.as_ptr()
                }
            })
        })
    }
}

/// A block of tiles by the weights of a panel.
pub(super) struct Panel<'a> {
    /// Point `p` of tile `t` at `p·point + t·row`.
    pub(super) inputs: *const i16,
    pub(super) row: usize,
    pub(super) point: usize,
    /// Groups of KR channels.
    pub(super) groups: usize,
    /// Of all points.
    pub(super) weights: *const i16,
    /// Room for 16 sums of each tile and point.
    pub(super) products: *mut i32,
    /// As in [`Tiles`].
    pub(super) tiles: Range<usize>,
    pub(super) across: usize,
    /// The tile row of `to`.
    pub(super) first_row: usize,
    /// Rows and columns of the output.
    pub(super) out: [usize; 2],
    pub(super) epilogue: &'a Epilogue,
    /// First column, a multiple of 16, and how many exist.
    pub(super) columns: (usize, usize),
    /// At the first pixel of tile row `first_row`.
    pub(super) to: TileOut,
}

/// The kernels of one ISA.
pub(super) struct WinogradSet {
    /// Channels that weights hold side by side.
    pub(super) kr: usize,
    /// The least number of input channels.
    pub(super) lanes: usize,
    /// Writes `Bᵀ d B` of point `p` and tile `t` to `p·point + t·row`.
    ///
    /// # Safety
    /// The set's ISA is supported; the image and the padding are as long as said, with at least `lanes` channels; there
    /// is room for the tiles.
    pub(super) transform: unsafe fn(tiles: &Tiles<'_>, to: *mut i16, row: usize, point: usize),
    /// Computes the outputs of a panel.
    ///
    /// # Safety
    /// The set's ISA is supported, the operands are as said, and the output of these tiles and columns is exclusive and
    /// aligned for its element type; with a residual, as much of it is readable.
    pub(super) panel: unsafe fn(&Panel<'_>),
}

impl WinogradSet {
    /// The kernels of `cpu`, if they are faster than those of the definition.
    pub(super) fn of(cpu: Cpu) -> Option<&'static Self> {
        match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&super::x86_avx2::SET),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bw => Some(&super::x86_avx512bw::SET),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon => Some(&super::arm_neon::SET),
            _ => None,
        }
    }
}

/// [`WinogradSet::transform`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn transform<W: Winograd>(
    tiles: &Tiles<'_>,
    to: *mut i16,
    row: usize,
    point: usize,
) {
    // SAFETY: same contract.
    unsafe {
        match tiles.sign {
            Sign::U8 => inputs::<W, false>(tiles, to, row, point),
            Sign::S8 => inputs::<W, true>(tiles, to, row, point),
        }
    }
}

/// `Bᵀ d B` of each tile, of bytes that are signed if `S8`.
#[inline(always)]
unsafe fn inputs<W: Winograd, const S8: bool>(
    tiles: &Tiles<'_>,
    to: *mut i16,
    row: usize,
    point: usize,
) {
    let channels = tiles.channels;
    for (t, tile) in tiles.tiles.clone().enumerate() {
        let pixels = tiles.pixels(tile);
        for c in (0..channels).step_by(W::LANES) {
            // The last values end with the pixel.
            let c = c.min(channels - W::LANES);
            // SAFETY: the channels `c..c + LANES` of pixels, and their place.
            unsafe {
                let column = |x: usize| pixels.map(|row| row[x].add(c));
                let store = |x: usize, values: [W::Values; 4]| {
                    for (y, values) in values.into_iter().enumerate() {
                        W::store(values, to.add((4 * y + x) * point + t * row + c));
                    }
                };
                let add = |a: [_; 4], b: [_; 4]| std::array::from_fn(|i| W::add(a[i], b[i]));
                let sub = |a: [_; 4], b: [_; 4]| std::array::from_fn(|i| W::sub(a[i], b[i]));
                let (v0, v2) = (input_column::<W, S8>(column(0)), input_column::<W, S8>(column(2)));
                store(0, sub(v0, v2));
                let v1 = input_column::<W, S8>(column(1));
                store(1, add(v1, v2));
                store(2, sub(v2, v1));
                store(3, sub(v1, input_column::<W, S8>(column(3))));
            }
        }
    }
}

/// The column of `Bᵀ d` that belongs to a column of d.
#[inline(always)]
unsafe fn input_column<W: Winograd, const S8: bool>(pixels: [*const u8; 4]) -> [W::Values; 4] {
    // SAFETY: the caller grants LANES bytes of each pixel and the features.
    unsafe {
        let [d0, d1, d2, d3] = pixels.map(|pixel| W::widen::<S8>(pixel));
        [W::sub(d0, d2), W::add(d1, d2), W::sub(d2, d1), W::sub(d1, d3)]
    }
}

/// [`WinogradSet::panel`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn panel<W: Winograd>(panel: &Panel<'_>) {
    let count = panel.tiles.len();
    let weights = panel.groups * W::Dot::KR * NR;
    for p in 0..POINTS {
        // SAFETY: point `p` of the operands, and the next `rows` of the tiles.
        unsafe {
            let a = Strided { first: panel.inputs.add(p * panel.point), stride: panel.row };
            let b = panel.weights.add(p * weights);
            let mut done = 0;
            // As even as possible: a tile of one row is bound by loading weights.
            for left in (1..=count.div_ceil(W::MR)).rev() {
                let rows = (count - done).div_ceil(left);
                let a = Strided { first: a.at(done, 0), ..a };
                let to = panel.products.add((done * POINTS + p) * NR);
                macro_rules! multiply {
                    ($($mr:literal)+) => {
                        match rows {
                            $($mr if $mr <= W::MR => multiply::<W, $mr>(a, b, panel.groups, to),)+
                            _ => unreachable!("there are at most MR rows"),
                        }
                    };
                }
                multiply!(1 2 3 4 5 6 7 8 9 10 11 12);
                done += rows;
            }
        }
    }
    // SAFETY: the products were written above; the tiles are the caller's.
    unsafe { outputs::<W>(panel) }
}

/// The products of a point and MR tiles by a panel.
#[inline(always)]
unsafe fn multiply<W: Winograd, const MR: usize>(
    a: Strided<i16>,
    b: *const i16,
    groups: usize,
    to: *mut i32,
) {
    const ZEROS: [i32; NR] = [0; NR];
    // SAFETY: `groups` groups of KR channels of MR rows and a panel, and the products' places.
    unsafe {
        let mut acc = [W::Dot::start(ZEROS.as_ptr()); MR];
        W::accumulate(&mut acc, a, b, groups);
        for_each_row!(r < MR { W::Dot::store(acc[r], to.add(r * POINTS * NR)); });
    }
}

/// `Aᵀ M A / 4` of each tile, and the epilogue.
#[inline(always)]
unsafe fn outputs<W: Winograd>(panel: &Panel<'_>) {
    let Panel { epilogue, columns, to, out: [out_h, out_w], .. } = *panel;
    for (t, tile) in panel.tiles.clone().enumerate() {
        let [top, left] = [2 * (tile / panel.across), 2 * (tile % panel.across)];
        // SAFETY: the products of tile `t`; biases are padded to whole panels; pixels inside the output, of which
        // `to` points at the first in row `2·first_row`.
        unsafe {
            let products = panel.products.add(t * POINTS * NR);
            let column = |x: usize| products.add(x * NR);
            let (m0, m1) = (output_column::<W>(column(0)), output_column::<W>(column(1)));
            let mut sums = [[W::add_sums(m0[0], m1[0]), m1[0]], [W::add_sums(m0[1], m1[1]), m1[1]]];
            let (m2, m3) = (output_column::<W>(column(2)), output_column::<W>(column(3)));
            let bias = W::Dot::start(epilogue.bias.as_ptr().add(columns.0));
            for (i, row) in sums.iter_mut().enumerate() {
                row[0] = W::quarter(W::add_sums(row[0], m2[i]), bias);
                row[1] = W::quarter(W::sub_sums(W::sub_sums(row[1], m2[i]), m3[i]), bias);
            }
            for (i, [first, second]) in sums.into_iter().enumerate() {
                if top + i < out_h {
                    let to = to.at_row((top + i - 2 * panel.first_row) * out_w + left);
                    if left + 1 < out_w {
                        let both = &mut [[first], [second]];
                        finish::<W::Dot, 2, 1>(both, epilogue, columns, to, |_| 0, &Keep);
                    } else {
                        finish::<W::Dot, 1, 1>(&mut [[first]], epilogue, columns, to, |_| 0, &Keep);
                    }
                }
            }
        }
    }
}

/// The column of `Aᵀ M` that belongs to the column of M at `products`.
#[inline(always)]
unsafe fn output_column<W: Winograd>(products: *const i32) -> [Acc<W>; 2] {
    // SAFETY: four points of a tile; the caller grants the features.
    unsafe {
        let m = |y: usize| W::Dot::start(products.add(4 * y * NR));
        let (m0, m1, m2, m3) = (m(0), m(1), m(2), m(3));
        [W::add_sums(m0, W::add_sums(m1, m2)), W::sub_sums(W::sub_sums(m1, m2), m3)]
    }
}

/// The [`WinogradSet`] of an ISA: the generic kernels compiled under the given attribute.
macro_rules! winograd_set {
    (#[$attr:meta] $ops:ty) => {{
        use $crate::{
            conv::winograd::kernel::{self, Panel, Tiles, Winograd, WinogradSet},
            gemm::kernel::Dot,
        };
        #[$attr]
        unsafe fn transform(tiles: &Tiles<'_>, to: *mut i16, row: usize, point: usize) {
            // SAFETY: same contract.
            unsafe { kernel::transform::<$ops>(tiles, to, row, point) }
        }
        #[$attr]
        unsafe fn panel(panel: &Panel<'_>) {
            // SAFETY: same contract.
            unsafe { kernel::panel::<$ops>(panel) }
        }
        WinogradSet {
            kr: <<$ops as Winograd>::Dot as Dot>::KR,
            lanes: <$ops as Winograd>::LANES,
            transform,
            panel,
        }
    }};
}
pub(super) use winograd_set;
