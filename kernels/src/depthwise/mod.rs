//! Depthwise convolution: output channel c depends on input channel c / m alone, for a channel multiplier m.
//!
//! | convolution | method |
//! | --- | --- |
//! | horizontal stride 1 or 2, no horizontal dilation, not NEON | ring of interleaved rows ([`ring`]) |
//! | of these, three rows at stride 2 with AVX-512 VNNI | the same cells, used at once ([`direct`]) |
//! | any other | table of pointers to the pixels under each tap ([`table`]) |
//!
//! With a multiplier above 1 the image is first written out with every channel m times, which makes it 1.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm_dotprod;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm_neon;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 has kernels of it"))]
mod direct;
mod lanes;
mod pairs;
mod portable_ring;
mod ring;
mod strip;
mod table;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512vnni;
#[cfg(target_arch = "x86_64")]
mod x86_ring;
#[cfg(target_arch = "x86_64")]
mod x86_strips;

use self::{
    ring::{PackedRing, RingConv},
    table::{PackedTable, TableConv},
};
use crate::{
    Cpu, Isa, KernelError,
    conv::ConvGeometry,
    epilogue::{Epilogue, Output, Sign},
    gemm::check_k,
    par::{DisjointMut, Parallel, for_each_with_worker, for_macs},
};

/// The weights, less their zero points, by channel and tap.
type Weights<'a> = &'a dyn Fn(usize, usize) -> i16;

/// Depthwise weights packed for one ISA. Which method runs depends on the strides too, so they are packed for both.
pub(crate) struct PackedDepthwise {
    ring: Option<PackedRing>,
    table: PackedTable,
    /// `Σ (w − w_zero)` per channel.
    sums: Vec<i32>,
}

impl PackedDepthwise {
    /// Packs weights `[channels, kernel height, kernel width]`, with one zero point per channel.
    pub(crate) fn pack(
        cpu: Cpu,
        weights: &[i8],
        channels: usize,
        kernel: [usize; 2],
        w_zero: Option<&[i32]>,
        sign: Sign,
    ) -> Result<Self, KernelError> {
        let taps = kernel[0] * kernel[1];
        check_k(taps, w_zero.unwrap_or_default())?;
        // Within ±(128 + 256): an i16.
        let at = |c: usize, tap: usize| {
            i16::from(weights[c * taps + tap]) - w_zero.map_or(0, |z| z[c] as i16)
        };
        // −128 is one too many for pairs of taps in i16, which plain NEON adds up.
        let wide = w_zero.is_some() || (cpu.isa() == Isa::Neon && weights.contains(&i8::MIN));
        Ok(Self {
            ring: PackedRing::pack(cpu, sign, wide, channels, kernel, &at)?,
            table: PackedTable::pack(cpu, sign, wide, channels, taps, &at)?,
            sums: (0..channels).map(|c| (0..taps).map(|tap| i32::from(at(c, tap))).sum()).collect(),
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.table.bytes() + self.ring.as_ref().map_or(0, PackedRing::bytes)
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
    /// Output channels per input channel.
    multiplier: usize,
    method: Method,
}

#[derive(Debug)]
enum Method {
    Ring(RingConv),
    Table(TableConv),
}

/// What both methods work on: arguments that [`crate::conv::Conv::run`] has checked, for a multiplier of 1.
struct Run<'a> {
    geometry: &'a ConvGeometry,
    epilogue: &'a Epilogue,
    padding: &'a [u8],
    par: &'a dyn Parallel,
    x: &'a [u8],
    residual: Option<&'a [u8]>,
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
        let ring = packed.ring.as_ref().filter(|ring| ring.fits(geometry));
        let offset = ring.map_or(packed.table.offset(), PackedRing::offset);
        let bias = bias
            .iter()
            .zip(&packed.sums)
            .map(|(b, sum)| b.wrapping_sub(offset.wrapping_mul(*sum)))
            .collect();
        let taps = spec.kernel[0] * spec.kernel[1];
        let epilogue = Epilogue::new(spec.out_c, bias, None, output)?.of_products(taps);
        let method = match ring {
            Some(ring) => Method::Ring(RingConv::new(geometry, ring, &epilogue)),
            None => Method::Table(TableConv::new(geometry)),
        };
        let padding = vec![pad_value; spec.out_c];
        Ok(Self { epilogue, padding, multiplier: spec.out_c / spec.in_c, method })
    }

    pub(crate) fn epilogue(&self) -> &Epilogue {
        &self.epilogue
    }

    /// Bytes of scratch for `threads` threads.
    pub(crate) fn scratch_bytes(&self, geometry: &ConvGeometry, threads: usize) -> usize {
        let per_worker = match &self.method {
            Method::Ring(ring) => ring.scratch_bytes(),
            Method::Table(table) => table.scratch_bytes(geometry),
        };
        per_worker.saturating_mul(threads.max(1)).saturating_add(self.repeated_bytes(geometry))
    }

    /// Bytes of the image with repeated channels, where there is a multiplier.
    fn repeated_bytes(&self, geometry: &ConvGeometry) -> usize {
        if self.multiplier == 1 { 0 } else { geometry.input_len().saturating_mul(self.multiplier) }
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
        let par =
            for_macs(par, geometry.output_len().saturating_mul(spec.kernel[0] * spec.kernel[1]));
        let (repeated, scratch) = scratch.split_at_mut(self.repeated_bytes(geometry));
        let x = if self.multiplier == 1 {
            x
        } else {
            let rows = spec.batch * spec.in_h;
            repeat_channels(par, x, self.multiplier, (rows, spec.in_w * spec.in_c), repeated);
            repeated
        };
        let run =
            Run { geometry, epilogue: &self.epilogue, padding: &self.padding, par, x, residual };
        match (&self.method, &packed.ring) {
            (Method::Ring(ring), Some(packed)) => ring.run(&run, packed, y, scratch),
            (Method::Table(table), _) => table.run(&run, &packed.table, y, scratch),
            _ => unreachable!("a convolution has the method that its weights were packed for"),
        }
    }
}

/// Writes every byte of `x`, which has so many rows of `row` bytes, `times` times.
fn repeat_channels(
    par: &dyn Parallel,
    x: &[u8],
    times: usize,
    (rows, row): (usize, usize),
    to: &mut [u8],
) {
    let to = DisjointMut::new(to);
    for_each_with_worker(par, rows, &|_, task| {
        let x = &x[task * row..][..row];
        // SAFETY: tasks are different rows.
        let to = unsafe { to.slice(task * row * times..(task + 1) * row * times) };
        match times {
            2 => x.iter().zip(to.as_chunks_mut::<2>().0).for_each(|(x, to)| *to = [*x; 2]),
            4 => x.iter().zip(to.as_chunks_mut::<4>().0).for_each(|(x, to)| *to = [*x; 4]),
            _ => x.iter().zip(to.chunks_exact_mut(times)).for_each(|(x, to)| to.fill(*x)),
        }
    });
}
