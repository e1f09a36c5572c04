//! Depthwise convolution of any kernel, stride and dilation: a row of output pixels is computed at a time, through a
//! table of pointers to input pixels.
//!
//! ```text
//! table[ky][x]   the input pixel under tap row ky and padded column x, or a pixel of pad_value outside the image
//! pixel ox, tap (ky, kx) → table[ky][ox·stride + kx·dilation]
//! ```
//! so that stride, dilation and padding cost nothing in the kernels, which see a list of taps per pixel.

use super::{Run, Weights, pairs};
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use super::{arm_dotprod, arm_neon};
#[cfg(target_arch = "x86_64")]
use super::{x86_avx2, x86_avx512vnni};
use crate::{
    Cpu, KernelError,
    conv::ConvGeometry,
    epilogue::{Epilogue, Sign, TileOut},
    gemm::pack::AlignedBytes,
    par::{DisjointMut, WorkerScratch, for_each_with_worker},
};

/// A row of output pixels, for the kernels.
pub(super) struct Row<'a> {
    /// The table, at the first pixel's column.
    pub(super) table: *const *const u8,
    /// Where in the table the taps of a pixel are, padded with valid entries to a multiple of 4.
    pub(super) taps: &'a [usize],
    /// Taps without the padding.
    pub(super) tap_count: usize,
    /// Table entries from one output pixel to the next.
    pub(super) step: usize,
    pub(super) pixels: usize,
    pub(super) channels: usize,
    pub(super) weights: &'a [i8],
    pub(super) epilogue: &'a Epilogue,
    /// Output and residual at the first pixel; pixels are `ldc` and `ldr` apart.
    pub(super) to: TileOut,
}

/// Packs the weights `at(channel, tap)` of so many channels and taps.
type Pack = fn(packed: &mut [i8], channels: usize, taps: usize, at: Weights<'_>);

/// A depthwise kernel and the weights it wants.
pub(super) struct Kernel {
    /// Bytes of packed weights for so many channels and taps.
    pub(super) packed_bytes: fn(channels: usize, taps: usize) -> Result<usize, KernelError>,
    pub(super) pack: Pack,
    /// What the kernel adds to every activation, to be undone in the bias.
    pub(super) offset: i32,
    /// # Safety
    /// The ISA of the kernel is supported, the row is valid: pointers of the table to `channels` readable bytes for
    /// every tap of every pixel, weights packed by `pack`, an exclusive output.
    pub(super) row: unsafe fn(&Row<'_>),
}

impl Kernel {
    /// The kernel for `cpu`; `wide` weights do not fit into s8.
    fn of(cpu: Cpu, sign: Sign, wide: bool) -> &'static Self {
        #[cfg(target_arch = "x86_64")]
        {
            if cpu.avx512vnni().is_some() && !wide {
                return x86_avx512vnni::kernel(sign);
            }
            if cpu.avx2().is_some() {
                return x86_avx2::kernel(sign);
            }
        }
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        {
            if cpu.dotprod().is_some() && !wide {
                return arm_dotprod::kernel(sign);
            }
            if cpu.neon().is_some() {
                return arm_neon::kernel(sign, wide);
            }
        }
        let _ = (cpu, wide);
        pairs::portable(sign)
    }
}

/// Depthwise weights packed for one ISA's kernel.
pub(super) struct PackedTable {
    kernel: &'static Kernel,
    data: AlignedBytes,
}

impl PackedTable {
    pub(super) fn pack(
        cpu: Cpu,
        sign: Sign,
        wide: bool,
        channels: usize,
        taps: usize,
        at: Weights<'_>,
    ) -> Result<Self, KernelError> {
        let kernel = Kernel::of(cpu, sign, wide);
        let mut data = AlignedBytes::zeroed((kernel.packed_bytes)(channels, taps)?);
        (kernel.pack)(data.as_mut_slice(), channels, taps, at);
        Ok(Self { kernel, data })
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.as_slice().len()
    }

    /// What the kernel adds to every activation.
    pub(super) fn offset(&self) -> i32 {
        self.kernel.offset
    }
}

/// The taps of a convolution, as places in the table.
#[derive(Debug)]
pub(super) struct TableConv {
    taps: Vec<usize>,
    /// Entries of a table row: padded columns that some tap reads.
    columns: usize,
}

impl TableConv {
    pub(super) fn new(geometry: &ConvGeometry) -> Self {
        let spec = geometry.spec();
        let [kh, kw] = spec.kernel;
        let columns = (geometry.out_w() - 1) * spec.strides[1] + (kw - 1) * spec.dilations[1] + 1;
        let mut taps: Vec<usize> =
            (0..kh * kw).map(|tap| tap / kw * columns + tap % kw * spec.dilations[1]).collect();
        taps.resize(taps.len().next_multiple_of(4), 0);
        Self { taps, columns }
    }

    /// Bytes of one worker's table, with room to align it.
    pub(super) fn scratch_bytes(&self, geometry: &ConvGeometry) -> usize {
        (self.columns * geometry.spec().kernel[0] + 1) * size_of::<*const u8>()
    }

    pub(super) fn run(
        &self,
        run: &Run<'_>,
        packed: &PackedTable,
        y: &mut [u8],
        scratch: &mut [u8],
    ) {
        let Run { geometry, epilogue, par, .. } = *run;
        let spec = geometry.spec();
        let (out_h, out_w, channels) = (geometry.out_h(), geometry.out_w(), spec.out_c);
        let row_bytes = out_w * channels * epilogue.element_bytes();
        let per_worker =
            WorkerScratch::new(scratch, self.scratch_bytes(geometry), par.threads().max(1));
        let y = DisjointMut::new(y);
        for_each_with_worker(par, spec.batch * out_h, &|worker, row| {
            // SAFETY: a worker runs one task at a time.
            let table = unsafe { per_worker.get(worker) };
            // SAFETY: any bytes are a valid pointer value; they are all overwritten before one is read.
            let (_, table, _) = unsafe { table.align_to_mut::<*const u8>() };
            let table = &mut table[..self.columns * spec.kernel[0]];
            self.fill_table(run, row / out_h, row % out_h, table);
            // SAFETY: tasks are different rows of the output.
            let out = unsafe { y.slice(row * row_bytes..(row + 1) * row_bytes) }.as_mut_ptr();
            let residual = run
                .residual
                .map_or(std::ptr::null(), |r| r.as_ptr().wrapping_add(row * out_w * channels));
            let row = Row {
                table: table.as_ptr(),
                taps: &self.taps,
                tap_count: spec.kernel[0] * spec.kernel[1],
                step: spec.strides[1],
                pixels: out_w,
                channels,
                weights: packed.data.as_slice(),
                epilogue,
                to: TileOut {
                    out,
                    ldc: channels * epilogue.element_bytes(),
                    residual,
                    ldr: channels,
                },
            };
            // SAFETY: the table holds pointers to whole pixels for every tap and column; weights were packed by this
            // kernel for an ISA that a `Cpu` proved; the output row is exclusive, the residual was checked.
            unsafe { (packed.kernel.row)(&row) };
        });
    }

    fn fill_table(&self, run: &Run<'_>, image: usize, oy: usize, table: &mut [*const u8]) {
        let spec = run.geometry.spec();
        let (in_h, in_w, channels) = (spec.in_h, spec.in_w, spec.out_c);
        let [top, left, ..] = spec.pads;
        let outside = run.padding.as_ptr();
        for (ky, entries) in table.chunks_exact_mut(self.columns).enumerate() {
            let iy = (oy * spec.strides[0] + ky * spec.dilations[0]).wrapping_sub(top);
            if iy >= in_h {
                entries.fill(outside);
                continue;
            }
            let row = &run.x[(image * in_h + iy) * in_w * channels..][..in_w * channels];
            let left = left.min(entries.len());
            let (before, entries) = entries.split_at_mut(left);
            let (inside, after) = entries.split_at_mut(in_w.min(entries.len()));
            before.fill(outside);
            for (entry, pixel) in inside.iter_mut().zip(row.chunks_exact(channels)) {
                *entry = pixel.as_ptr();
            }
            after.fill(outside);
        }
    }
}
