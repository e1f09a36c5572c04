//! Depthwise convolution: channel c of the output depends on channel c of the input alone.
//!
//! A row of output pixels is computed at a time, through a table of pointers to input pixels:
//!
//! ```text
//! table[ky][x]   the input pixel under tap row ky and padded column x, or a pixel of pad_value outside the image
//! pixel ox, tap (ky, kx) → table[ky][ox·stride + kx·dilation]
//! ```
//! so that stride, dilation and padding cost nothing in the kernels, which see a list of taps per pixel.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm_dotprod;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm_neon;
mod pairs;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512vnni;

use crate::{
    Cpu, Isa, KernelError,
    conv::ConvGeometry,
    epilogue::{Epilogue, Output, Sign, TileOut},
    gemm::{check_k, pack::AlignedBytes},
    par::{DisjointMut, Parallel, WorkerScratch, for_each_with_worker, for_macs},
};

/// A row of output pixels, for the kernels.
pub(crate) struct Row<'a> {
    /// The table, at the first pixel's column.
    table: *const *const u8,
    /// Where in the table the taps of a pixel are, padded with valid entries to a multiple of 4.
    taps: &'a [usize],
    /// Taps without the padding.
    tap_count: usize,
    /// Table entries from one output pixel to the next.
    step: usize,
    pixels: usize,
    channels: usize,
    weights: &'a [i8],
    epilogue: &'a Epilogue,
    /// Output and residual at the first pixel; pixels are `ldc` and `ldr` apart.
    to: TileOut,
}

/// Packs the weights `at(channel, tap)` of so many channels and taps.
type Pack = fn(packed: &mut [i8], channels: usize, taps: usize, at: &dyn Fn(usize, usize) -> i16);

/// A depthwise kernel and the weights it wants.
struct Kernel {
    /// Bytes of packed weights for so many channels and taps.
    packed_bytes: fn(channels: usize, taps: usize) -> Result<usize, KernelError>,
    pack: Pack,
    /// What the kernel adds to every activation, to be undone in the bias.
    offset: i32,
    /// # Safety
    /// The ISA of the kernel is supported, the row is valid: pointers of the table to `channels` readable bytes for
    /// every tap of every pixel, weights packed by `pack`, an exclusive output.
    row: unsafe fn(&Row<'_>),
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

/// Depthwise weights packed for one ISA.
pub(crate) struct PackedDepthwise {
    kernel: &'static Kernel,
    data: AlignedBytes,
    /// `Σ (w − w_zero)` per channel.
    sums: Vec<i32>,
}

impl PackedDepthwise {
    /// Packs weights `[channels, taps]`, with one zero point per channel.
    pub(crate) fn pack(
        cpu: Cpu,
        weights: &[i8],
        channels: usize,
        taps: usize,
        w_zero: Option<&[i32]>,
        sign: Sign,
    ) -> Result<Self, KernelError> {
        check_k(taps, sign, w_zero.unwrap_or_default())?;
        // Within ±(128 + 256): an i16.
        let at = |c: usize, tap: usize| {
            i16::from(weights[c * taps + tap]) - w_zero.map_or(0, |z| z[c] as i16)
        };
        // −128 is one too many for pairs of taps in i16, which plain NEON adds up.
        let wide = w_zero.is_some() || (cpu.isa() == Isa::Neon && weights.contains(&i8::MIN));
        let kernel = Kernel::of(cpu, sign, wide);
        let mut data = AlignedBytes::zeroed((kernel.packed_bytes)(channels, taps)?);
        (kernel.pack)(data.as_mut_slice(), channels, taps, &at);
        let sums =
            (0..channels).map(|c| (0..taps).map(|tap| i32::from(at(c, tap))).sum()).collect();
        Ok(Self { kernel, data, sums })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.as_slice().len()
    }

    pub(crate) fn weight_sums(&self) -> &[i32] {
        &self.sums
    }
}

/// A depthwise convolution of images of one size.
#[derive(Debug)]
pub(crate) struct Depthwise {
    epilogue: Epilogue,
    /// A pixel outside the image.
    padding: Vec<u8>,
    taps: Vec<usize>,
    /// Entries of a table row: padded columns that some tap reads.
    columns: usize,
}

impl Depthwise {
    pub(crate) fn new(
        geometry: &ConvGeometry,
        packed: &PackedDepthwise,
        bias: &[i32],
        pad_value: u8,
        output: &Output,
    ) -> Result<Self, KernelError> {
        let spec = geometry.spec();
        let [kh, kw] = spec.kernel;
        let offset = packed.kernel.offset;
        let bias = bias
            .iter()
            .zip(&packed.sums)
            .map(|(b, sum)| b.wrapping_sub(offset.wrapping_mul(*sum)))
            .collect();
        let epilogue = Epilogue::new(spec.out_c, bias, None, output)?;
        let columns = (geometry.out_w() - 1) * spec.strides[1] + (kw - 1) * spec.dilations[1] + 1;
        let mut taps: Vec<usize> =
            (0..kh * kw).map(|tap| tap / kw * columns + tap % kw * spec.dilations[1]).collect();
        taps.resize(taps.len().next_multiple_of(4), 0);
        Ok(Self { epilogue, padding: vec![pad_value; spec.in_c], taps, columns })
    }

    pub(crate) fn epilogue(&self) -> &Epilogue {
        &self.epilogue
    }

    /// Bytes of one worker's table, with room to align it.
    pub(crate) fn scratch_bytes(&self, geometry: &ConvGeometry) -> usize {
        (self.columns * geometry.spec().kernel[0] + 1) * size_of::<*const u8>()
    }

    /// Runs on arguments that the caller has checked: whole images, and scratch for every worker.
    #[allow(
        clippy::too_many_arguments,
        reason = "the checked arguments of `Conv::run` and the two halves of it"
    )]
    pub(crate) fn run(
        &self,
        geometry: &ConvGeometry,
        packed: &PackedDepthwise,
        par: &dyn Parallel,
        x: &[u8],
        residual: Option<&[u8]>,
        y: &mut [u8],
        scratch: &mut [u8],
    ) {
        let spec = geometry.spec();
        let (out_h, out_w, channels) = (geometry.out_h(), geometry.out_w(), spec.out_c);
        let row_bytes = out_w * channels * self.epilogue.element_bytes();
        let per_worker =
            WorkerScratch::new(scratch, self.scratch_bytes(geometry), par.threads().max(1));
        let y = DisjointMut::new(y);
        let par =
            for_macs(par, geometry.output_len().saturating_mul(spec.kernel[0] * spec.kernel[1]));
        for_each_with_worker(par, spec.batch * out_h, &|worker, row| {
            // SAFETY: a worker runs one task at a time.
            let table = unsafe { per_worker.get(worker) };
            // SAFETY: any bytes are a valid pointer value; they are all overwritten before one is read.
            let (_, table, _) = unsafe { table.align_to_mut::<*const u8>() };
            let table = &mut table[..self.columns * spec.kernel[0]];
            self.fill_table(geometry, x, row / out_h, row % out_h, table);
            // SAFETY: tasks are different rows of the output.
            let out = unsafe { y.slice(row * row_bytes..(row + 1) * row_bytes) }.as_mut_ptr();
            let residual = residual
                .map_or(std::ptr::null(), |r| r.as_ptr().wrapping_add(row * out_w * channels));
            let row = Row {
                table: table.as_ptr(),
                taps: &self.taps,
                tap_count: spec.kernel[0] * spec.kernel[1],
                step: spec.strides[1],
                pixels: out_w,
                channels,
                weights: packed.data.as_slice(),
                epilogue: &self.epilogue,
                to: TileOut {
                    out,
                    ldc: channels * self.epilogue.element_bytes(),
                    residual,
                    ldr: channels,
                },
            };
            // SAFETY: the table holds pointers to whole pixels for every tap and column; weights were packed by this
            // kernel for an ISA that a `Cpu` proved; the output row is exclusive, the residual was checked.
            unsafe { (packed.kernel.row)(&row) };
        });
    }

    fn fill_table(
        &self,
        geometry: &ConvGeometry,
        x: &[u8],
        image: usize,
        oy: usize,
        table: &mut [*const u8],
    ) {
        let spec = geometry.spec();
        let (in_h, in_w, channels) = (spec.in_h, spec.in_w, spec.in_c);
        let [top, left, ..] = spec.pads;
        let outside = self.padding.as_ptr();
        for (ky, entries) in table.chunks_exact_mut(self.columns).enumerate() {
            let iy = (oy * spec.strides[0] + ky * spec.dilations[0]).wrapping_sub(top);
            if iy >= in_h {
                entries.fill(outside);
                continue;
            }
            let row = &x[(image * in_h + iy) * in_w * channels..][..in_w * channels];
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
