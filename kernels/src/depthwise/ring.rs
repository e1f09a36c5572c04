//! Depthwise convolution by a ring of interleaved rows, for horizontal stride 1 and 2.
//!
//! A cell holds neighbouring columns of some channels, interleaved so that every 32-bit lane has the columns of one
//! channel: four bytes for `vpdpbusd`, two i16 for `vpmaddwd`. Cells start at every second column. An input row is
//! interleaved once and serves every output row that sees it, and at stride 1 two output pixels:
//!
//! ```text
//! columns        0 1 2 3 4 5 6 7 …
//! cell 0         └─────┘                  pixel 0: w0 w1 w2 0       pixel 1: 0 w0 w1 w2
//! cell 1             └─────┘              pixel 2: w0 w1 w2 0       pixel 3: 0 w0 w1 w2
//! ```
//! A wider kernel reads further cells of the row. The last rows, as many as the kernel is high, lie in a ring that
//! stays in the L1 cache: a task works through a band of rows, one chunk of channels and one tile of columns at a time.
//!
//! At stride 2 in both directions cells may be squares of two rows and two columns instead. A kernel of 5×5 reads 9 of
//! them, not 10, and every input pixel is in one, not in two.
//!
//! A chunk is one vector of channels. Where fewer are left a vector holds 2 or 4 parts, each with the same channels of
//! its own segment of the tile's columns.
//!
//! ```text
//! column a, column b              unpack bytes, then pairs of bytes, within 128-bit blocks b = 0..
//! vector g of a cell, lane 4·b + i      channel 16·b + 4·g + i
//! ```
//! Packing the four vectors of a pixel to bytes, again within 128-bit blocks, restores the channels' order. Weights:
//!
//! ```text
//! chunks × [kernel rows × cells of a row] × [2] pixels of a cell × [4] vectors of 32-bit lanes
//! ```

use std::ops::Range;

use super::{
    Run, Weights,
    strip::{STEP, Strip},
};
use crate::{
    Cpu, Isa, KernelError,
    conv::ConvGeometry,
    epilogue::{Epilogue, Kind, Multiplier, Quant, Sign, TileOut},
    error::checked_product,
    gemm::pack::AlignedBytes,
    par::{DisjointMut, WorkerScratch, for_each_with_worker, tasks_for},
};

/// Bytes of a ring that leave room in the L1 cache for what else a row needs.
const RING_BYTES: usize = 24 << 10;

/// Bytes of ring that tiling cannot avoid for kernels of many rows, above which another method is better.
const MOST_RING_BYTES: usize = 1 << 20;

/// Bytes of image that a band should not exceed, so that all chunks find it in the L2 cache.
const BAND_BYTES: usize = 256 << 10;

/// Output rows of a band at least: the first ones interleave rows that the band before has interleaved too.
const BAND_ROWS: usize = 8;

/// Channels of a 128-bit block, and of a part at most where there are several.
const BLOCK: usize = 16;

/// Where workers' rings start: a cache line, and the widest vector.
const SCRATCH_ALIGN: usize = 64;

/// Vectors of a cell.
pub(super) const VECTORS: usize = 4;

/// One ISA's kernels.
pub(super) struct RingKernel {
    /// Bytes of a vector.
    pub(super) vector: usize,
    /// Columns of a cell: 4, or 2 as i16.
    pub(super) columns: usize,
    /// By [`Fused`].
    pub(super) strips: [Strips; Fused::KINDS],
}

/// By stride − 1 and log₂ of the parts.
///
/// # Safety
/// The ISA is supported, and the strip as [`RingConv::run`] makes it.
pub(super) type Strips = [&'static [unsafe fn(&Strip<'_>)]; 2];

/// Which epilogue kernels are for; those without one for it do it in memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fused {
    /// Plain half even, with multipliers as the second constants; or any that no kernel has in registers.
    HalfEven,
    /// TFLite's double rounding, with mantissas and shifts as the second and third constants.
    Double,
    /// Half even and a residual.
    Sum,
}

impl Fused {
    pub(super) const KINDS: usize = 3;

    fn of(epilogue: &Epilogue) -> Self {
        match &epilogue.kind {
            Kind::Quant8(q) => match (&q.multiplier, &q.residual) {
                (Multiplier::Double { .. }, None) => Self::Double,
                (Multiplier::HalfEven { fits: true, .. }, Some(_)) if q.sum_fits => Self::Sum,
                _ => Self::HalfEven,
            },
            _ => Self::HalfEven,
        }
    }
}

/// What there is for each channel: bias, and two more of [`Fused`].
const CONSTANTS: usize = 3;

impl RingKernel {
    /// The kernel for `cpu`, if it has one; `wide` weights do not fit into s8.
    fn of(cpu: Cpu, wide: bool) -> Option<&'static Self> {
        #[cfg(target_arch = "x86_64")]
        {
            if cpu.avx512vnni().is_some() && !wide {
                return Some(&super::x86_strips::AVX512VNNI);
            }
            if cpu.avxvnni().is_some() && !wide {
                return Some(&super::x86_strips::AVXVNNI);
            }
            if cpu.avx2().is_some() {
                return Some(&super::x86_strips::AVX2);
            }
        }
        let _ = wide;
        (cpu.isa() == Isa::Scalar).then_some(&super::portable_ring::PORTABLE)
    }

    /// Bytes of a cell.
    fn cell(&self) -> usize {
        VECTORS * self.vector
    }

    /// Cells that a row of the kernel spans, counted in steps of whole cells; enough for both pixels of a cell.
    fn spanned(&self, kernel_width: usize) -> usize {
        (kernel_width + 1).div_ceil(self.columns)
    }
}

/// Channels that vectors hold together.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    index: usize,
    first: usize,
    channels: usize,
    /// log₂ of the parts.
    parts: u32,
}

/// The chunks of `channels`: whole vectors, then parts of 32 and 16 channels, whatever wastes fewer lanes.
fn chunks(channels: usize, vector: usize) -> impl Iterator<Item = Chunk> {
    let mut first = 0;
    let next = move || {
        let left = channels - first;
        let mut width = vector;
        while width > BLOCK && left <= width - BLOCK {
            width /= 2;
        }
        let chunk = Chunk {
            index: 0,
            first,
            channels: left.min(width),
            parts: (vector / width).trailing_zeros(),
        };
        first += chunk.channels;
        (left > 0).then_some(chunk)
    };
    std::iter::from_fn(next).enumerate().map(|(index, chunk)| Chunk { index, ..chunk })
}

impl Chunk {
    /// The channel of lane `lane` of vector `vector`, if there is one.
    fn channel_of(&self, vector: usize, lane: usize, bytes: usize) -> Option<usize> {
        let channel = (BLOCK * (lane / 4) + 4 * vector + lane % 4) % (bytes >> self.parts);
        (channel < self.channels).then_some(self.first + channel)
    }

    /// Writes `value(channel)` to every lane of four vectors, zeros where there is no channel.
    fn fill_lanes(&self, to: &mut [i8], value: impl Fn(usize) -> [u8; 4]) {
        let bytes = to.len() / VECTORS;
        for (i, lane) in to.chunks_exact_mut(4).enumerate() {
            let value =
                self.channel_of(i * 4 / bytes, i % (bytes / 4), bytes).map_or([0; 4], &value);
            lane.copy_from_slice(&value.map(|byte| byte as i8));
        }
    }
}

/// Weights packed for one ISA.
pub(super) struct PackedRing {
    kernel: &'static RingKernel,
    sign: Sign,
    /// Kernel height and width.
    size: [usize; 2],
    data: AlignedBytes,
}

impl PackedRing {
    pub(super) fn pack(
        cpu: Cpu,
        sign: Sign,
        wide: bool,
        channels: usize,
        [kh, kw]: [usize; 2],
        at: Weights<'_>,
    ) -> Result<Option<Self>, KernelError> {
        let Some(kernel) = RingKernel::of(cpu, wide) else { return Ok(None) };
        let (spanned, cell) = (kernel.spanned(kw), kernel.cell());
        let chunk_bytes = checked_product("packed weights", &[kh, spanned, 2, cell])?;
        let count = chunks(channels, kernel.vector).count();
        let mut data =
            AlignedBytes::zeroed(checked_product("packed weights", &[count, chunk_bytes])?);
        for chunk in chunks(channels, kernel.vector) {
            let packed = &mut data.as_mut_slice()[chunk.index * chunk_bytes..][..chunk_bytes];
            for (i, vectors) in packed.chunks_exact_mut(cell).enumerate() {
                let (pixel, t, ky) = (i % 2, i / 2 % spanned, i / 2 / spanned);
                let weight = |channel: usize, column: usize| {
                    let kx = (t * kernel.columns + column).checked_sub(pixel);
                    kx.filter(|&kx| kx < kw).map_or(0, |kx| at(channel, ky * kw + kx))
                };
                chunk.fill_lanes(vectors, |channel| match kernel.columns {
                    4 => std::array::from_fn(|column| weight(channel, column) as u8),
                    _ => {
                        let [a, b] = [0, 1].map(|column| weight(channel, column).to_ne_bytes());
                        [a[0], a[1], b[0], b[1]]
                    }
                });
            }
        }
        Ok(Some(Self { kernel, sign, size: [kh, kw], data }))
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.as_slice().len()
    }

    /// Kernel rows times the cells that each spans.
    fn taps(&self) -> usize {
        self.size[0] * self.kernel.spanned(self.size[1])
    }

    /// Bytes of the weights of a chunk.
    fn chunk_bytes(&self) -> usize {
        self.taps() * 2 * self.kernel.cell()
    }

    /// What the kernel adds to every activation: it flips s8 to u8.
    pub(super) fn offset(&self) -> i32 {
        match self.sign {
            Sign::U8 => 0,
            Sign::S8 => 128,
        }
    }

    /// Whether the ring can compute a convolution.
    pub(super) fn fits(&self, geometry: &ConvGeometry) -> bool {
        let spec = geometry.spec();
        let fits = |parts| self.tiling(geometry, parts).ring_bytes(self.kernel) <= MOST_RING_BYTES;
        matches!(spec.strides[1], 1 | 2) && spec.dilations[1] == 1 && (0..3).all(fits)
    }

    /// Whether cells are squares: where a kernel has fewer of them.
    fn is_square(&self, geometry: &ConvGeometry) -> bool {
        let spec = geometry.spec();
        self.kernel.columns == 4
            && spec.strides == [2, 2]
            && spec.dilations == [1, 1]
            && self.squares().iter().product::<usize>() < self.taps()
    }

    /// The square cells under a kernel: rows and columns of them.
    fn squares(&self) -> [usize; 2] {
        self.size.map(|size| size.div_ceil(2))
    }

    /// The weights of a chunk for square cells.
    fn square_weights<'a>(&'a self, chunk: &Chunk) -> impl Iterator<Item = i8> + use<'a> {
        let weights = &self.data.as_slice()[chunk.index * self.chunk_bytes()..];
        let (spanned, cell) = (self.kernel.spanned(self.size[1]), self.kernel.cell());
        let [kh, kw] = self.size;
        let [rows, columns] = self.squares();
        let lanes = (0..rows * columns).flat_map(move |i| (0..cell / 4).map(move |lane| (i, lane)));
        lanes.flat_map(move |(i, lane)| {
            let (top, left) = (i / columns * 2, i % columns * 2);
            [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(y, x)| {
                let (ky, kx) = (top + y, left + x);
                let tap = (ky * spanned + kx / 4) * 2 * cell + lane * 4 + kx % 4;
                if ky < kh && kx < kw { weights[tap] } else { 0 }
            })
        })
    }

    /// How the columns are cut where vectors hold `1 << parts` parts.
    fn tiling(&self, geometry: &ConvGeometry, parts: u32) -> Tiling {
        let spec = geometry.spec();
        let (rows, beyond) = if self.is_square(geometry) {
            let [rows, spanned] = self.squares();
            (rows, spanned - 1)
        } else {
            let rows = (self.size[0] - 1).saturating_mul(spec.dilations[0]).saturating_add(1);
            // Beyond the cells of the pixels themselves.
            (rows, (self.kernel.spanned(self.size[1]) - 1) * self.kernel.columns / 2)
        };
        let per_cell = 2 / spec.strides[1].min(2);
        let cells = RING_BYTES / self.kernel.cell().saturating_mul(rows);
        let most = (cells.saturating_sub(beyond) * per_cell).max(8);
        let columns = geometry.out_w().div_ceil(1 << parts);
        let tiles = columns.div_ceil(most);
        let segment = columns.div_ceil(tiles).next_multiple_of(STEP);
        Tiling { rows, segment, width: segment << parts, cells: segment / per_cell + beyond }
    }
}

/// The size of a ring and of the columns that it serves.
struct Tiling {
    /// Rows of the ring.
    rows: usize,
    /// Output columns of a part.
    segment: usize,
    /// Output columns of all parts.
    width: usize,
    /// Cells of a row.
    cells: usize,
}

impl Tiling {
    fn ring_bytes(&self, kernel: &RingKernel) -> usize {
        self.rows.saturating_mul(self.cells).saturating_mul(kernel.cell())
    }
}

/// The per-channel constants of a ring convolution.
pub(super) struct RingConv {
    /// [`CONSTANTS`] of each chunk.
    constants: AlignedBytes,
    /// Weights of each chunk for square cells, where they are.
    squares: Option<AlignedBytes>,
    /// Bytes of one worker's ring and pointers, with room to align them.
    scratch: usize,
}

impl std::fmt::Debug for RingConv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingConv").finish_non_exhaustive()
    }
}

impl RingConv {
    /// `epilogue` holds the bias that undoes the packed weights' offset.
    pub(super) fn new(geometry: &ConvGeometry, packed: &PackedRing, epilogue: &Epilogue) -> Self {
        let cell = packed.kernel.cell();
        let channels = geometry.spec().out_c;
        let count = chunks(channels, packed.kernel.vector).count();
        let mut constants = AlignedBytes::zeroed(count * CONSTANTS * cell);
        let lanes = constants.as_mut_slice().chunks_exact_mut(CONSTANTS * cell);
        for (chunk, to) in chunks(channels, packed.kernel.vector).zip(lanes) {
            let (bias, to) = to.split_at_mut(cell);
            chunk.fill_lanes(bias, |c| epilogue.bias[c].to_ne_bytes());
            let (second, third) = to.split_at_mut(cell);
            match &epilogue.kind {
                Kind::Quant8(Quant { multiplier: Multiplier::HalfEven { m, .. }, .. }) => {
                    chunk.fill_lanes(second, |c| m[c].to_ne_bytes());
                }
                Kind::Quant8(Quant { multiplier: Multiplier::Double { m0, shift }, .. }) => {
                    chunk.fill_lanes(second, |c| m0[c].to_ne_bytes());
                    chunk.fill_lanes(third, |c| shift[c].to_ne_bytes());
                }
                _ => {}
            }
        }
        let ring = |parts| packed.tiling(geometry, parts).ring_bytes(packed.kernel);
        let ring = (0..3).map(ring).max().unwrap_or(0);
        let scratch = ring + packed.taps() * size_of::<*const u8>() + SCRATCH_ALIGN;
        let squares = packed.is_square(geometry).then(|| {
            let [rows, columns] = packed.squares();
            let mut squares = AlignedBytes::zeroed(count * rows * columns * cell);
            let weights =
                chunks(channels, packed.kernel.vector).flat_map(|c| packed.square_weights(&c));
            squares.as_mut_slice().iter_mut().zip(weights).for_each(|(to, weight)| *to = weight);
            squares
        });
        Self { constants, squares, scratch }
    }

    pub(super) fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    pub(super) fn run(&self, run: &Run<'_>, packed: &PackedRing, y: &mut [u8], scratch: &mut [u8]) {
        let Run { geometry, epilogue, padding, par, x, residual } = *run;
        let spec = geometry.spec();
        let (out_w, channels, kernel) = (geometry.out_w(), spec.out_c, packed.kernel);
        let split = Split::new(geometry, kernel.vector, par.threads().max(1));
        let per_worker = WorkerScratch::new(scratch, self.scratch, par.threads().max(1));
        let element = epilogue.element_bytes();
        let y = DisjointMut::new(y);
        let strips = kernel.strips[Fused::of(epilogue) as usize];
        let (weights, size, vertical) = match &self.squares {
            Some(squares) => (squares, packed.squares(), [1, 1]),
            None => (
                &packed.data,
                [packed.size[0], kernel.spanned(packed.size[1])],
                [spec.strides[0], spec.dilations[0]],
            ),
        };
        let chunk_bytes = match &self.squares {
            Some(_) => size[0] * size[1] * kernel.cell(),
            None => packed.chunk_bytes(),
        };
        for_each_with_worker(par, split.tasks(), &|worker, task| {
            // SAFETY: a worker runs one task at a time.
            let scratch = unsafe { per_worker.get(worker) };
            let aligned = scratch.as_ptr().align_offset(SCRATCH_ALIGN);
            let ring = scratch[aligned..].as_mut_ptr();
            let (image, rows, group) = split.task(task);
            let image_bytes = spec.in_h * spec.in_w * channels;
            let x = &x[image * image_bytes..][..image_bytes];
            let first = (image * geometry.out_h() + rows.start) * out_w;
            for chunk in chunks(channels, kernel.vector).skip(group.start).take(group.len()) {
                let (tiling, at) = (packed.tiling(geometry, chunk.parts), chunk.first);
                let cols = at * element..(at + chunk.channels) * element;
                // SAFETY: tasks are different rows or channels.
                let out =
                    unsafe { y.rect(first..first + rows.len() * out_w, cols, channels * element) };
                let residual = residual
                    .map_or(std::ptr::null(), |r| r.as_ptr().wrapping_add(first * channels + at));
                for left in (0..out_w).step_by(tiling.width) {
                    let strip = Strip {
                        image: x.as_ptr().wrapping_add(at),
                        in_h: spec.in_h,
                        in_w: spec.in_w,
                        pixel: channels,
                        padding: padding[at..].as_ptr(),
                        pads: [spec.pads[0], spec.pads[1]],
                        kernel: size,
                        vertical,
                        square: self.squares.is_some(),
                        rows: rows.clone(),
                        columns: left..(left + tiling.width).min(out_w),
                        segment: tiling.segment,
                        signed: packed.sign == Sign::S8,
                        first_channel: at,
                        channels: chunk.channels,
                        ring,
                        ring_rows: tiling.rows,
                        cells: tiling.cells,
                        taps: ring.wrapping_add(tiling.ring_bytes(kernel)).cast(),
                        weights: weights.as_slice()[chunk.index * chunk_bytes..].as_ptr().cast(),
                        constants: self.constants.as_slice()
                            [chunk.index * CONSTANTS * kernel.cell()..]
                            .as_ptr()
                            .cast(),
                        epilogue,
                        to: TileOut { out, ldc: channels * element, residual, ldr: channels },
                        out_w,
                    };
                    // SAFETY: weights were packed for an ISA that a `Cpu` proved; the image is whole, the scratch has
                    // room for the ring and the pointers, the output is exclusive, the residual was checked.
                    unsafe {
                        (strips[spec.strides[1] - 1][chunk.parts as usize])(&strip);
                    }
                }
            }
        });
    }
}

/// How a convolution is cut into tasks: images, bands of rows, groups of chunks.
struct Split {
    bands: usize,
    groups: usize,
    batch: usize,
    out_h: usize,
    chunks: usize,
}

impl Split {
    fn new(geometry: &ConvGeometry, vector: usize, threads: usize) -> Self {
        let spec = geometry.spec();
        let (out_h, chunks) = (geometry.out_h(), chunks(spec.out_c, vector).count());
        let macs = geometry.output_len().saturating_mul(spec.kernel[0] * spec.kernel[1]);
        let wanted = tasks_for(threads, macs);
        let row_bytes = (spec.in_w * spec.out_c).saturating_mul(spec.strides[0]);
        let for_cache = out_h.div_ceil((BAND_BYTES / row_bytes.max(1)).max(BAND_ROWS));
        let bands = (out_h / BAND_ROWS).min(wanted.div_ceil(spec.batch)).max(for_cache).max(1);
        let groups = (wanted / (spec.batch * bands)).clamp(1, chunks.max(1));
        Self { bands, groups, batch: spec.batch, out_h, chunks }
    }

    fn tasks(&self) -> usize {
        self.batch * self.bands * self.groups
    }

    /// The image, output rows and chunks of a task.
    fn task(&self, task: usize) -> (usize, Range<usize>, Range<usize>) {
        let (group, band) = (task % self.groups, task / self.groups % self.bands);
        let part = |of: usize, i: usize, parts: usize| of * i / parts..of * (i + 1) / parts;
        (
            task / self.groups / self.bands,
            part(self.out_h, band, self.bands),
            part(self.chunks, group, self.groups),
        )
    }
}
