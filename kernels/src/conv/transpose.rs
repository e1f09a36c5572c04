//! Integer 2-D transposed convolution of NHWC activations: every input pixel times the kernel, added up where the copies
//! overlap.
//!
//! `y[n, oy, ox, o] = epilogue(bias[o] + Σ (x[n, iy, ix, c] − x_zero) · (w[c, o, ky, kx] − w_zero[o]))` over all pixels
//! and taps with `iy·stride + ky·dilation − pad = oy`, and the columns alike.
//!
//! Nothing is scattered: which taps meet an output row depends on `(oy + pad) mod stride` alone, so the output is
//! strides[0]·strides[1] ordinary convolutions of stride 1, each with the taps of its phase, whose pixels lie a stride
//! apart:
//! ```text
//! stride 2, kernel 3:   oy + pad even ▶ taps 2, 0 of rows q − 1, q        odd ▶ tap 1 of row q
//! ```

use std::sync::Arc;

use super::{
    band::{Band, KOrder, Split, Window},
    geometry::check_rows,
    kernel::band_block,
    merged_groups, slice_output,
};
use crate::{
    Cpu, KernelError,
    epilogue::{Epilogue, OutSlice, Output, Sign, TileOut},
    error::{check_at_least, check_backed, check_len, checked_product},
    gemm::{PackedB, check_residual, expand_zero_points, kernel::KernelSet},
    par::{DisjointMut, Parallel, WorkerScratch, for_each_with_worker, for_macs},
};

/// Phases that are packed, each on its own: far more than any network has.
const MAX_PHASES: usize = 1 << 12;

/// The shape of a transposed convolution's weights, in IOHW order `[in_c, out_c / groups, kernel[0], kernel[1]]`, and
/// what decides which of them meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvTransposeWeights {
    /// Input channels, over all groups.
    pub in_c: usize,
    /// Output channels, over all groups.
    pub out_c: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Output pixels from one input pixel to the next, down and right.
    pub strides: [usize; 2],
    /// Distances between taps, down and right.
    pub dilations: [usize; 2],
    /// Groups, which divide both channel counts.
    pub groups: usize,
}

impl ConvTransposeWeights {
    fn check(&self) -> Result<(), KernelError> {
        let Self { in_c, out_c, kernel, strides, dilations, groups } = *self;
        let sizes = [kernel, strides, dilations].concat();
        if groups == 0 || sizes.contains(&0) {
            return Err(KernelError::invalid(
                "kernel, strides, dilations and groups",
                format!("{self:?}"),
                "at least 1",
            ));
        }
        for (what, channels) in [("input channels", in_c), ("output channels", out_c)] {
            if channels % groups != 0 {
                let rule = "a multiple of the number of groups";
                return Err(KernelError::invalid(what, channels, rule));
            }
        }
        for axis in 0..2 {
            checked_product("dilated kernel", &[kernel[axis], dilations[axis]])?;
        }
        let phases = checked_product("phases", &strides)?;
        if phases > MAX_PHASES {
            return Err(KernelError::invalid("product of the strides", phases, "at most 4096"));
        }
        Ok(())
    }
}

/// The numbers that describe a transposed convolution of images of one size; activations are NHWC. A 1-D one has
/// height 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvTransposeSpec {
    /// Images.
    pub batch: usize,
    /// Rows and columns of an image, at least 1.
    pub image: [usize; 2],
    /// What is cut off the result: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Rows and columns added at the bottom and right of the result.
    pub output_padding: [usize; 2],
    /// The weights.
    pub weights: ConvTransposeWeights,
}

impl ConvTransposeSpec {
    /// Rows and columns of the result:
    /// `(image − 1)·stride + (kernel − 1)·dilation + 1 + output_padding − pads` per axis.
    ///
    /// # Errors
    /// If a number is zero that must not be, groups do not divide the channels, pads leave nothing of the result,
    /// dilation is out of all proportion to the images, or a tensor is larger than memory.
    pub fn output_size(&self) -> Result<[usize; 2], KernelError> {
        let Self { batch, image, pads, output_padding, weights } = *self;
        weights.check()?;
        let ConvTransposeWeights { in_c, out_c, kernel, strides, dilations, .. } = weights;
        let mut out = [0; 2];
        for axis in 0..2 {
            let overflow = KernelError::Overflow { what: "output" };
            let last = image[axis]
                .checked_sub(1)
                .ok_or_else(|| KernelError::invalid("image", format!("{image:?}"), "not empty"))?;
            let sizes = [
                checked_product("output", &[last, strides[axis]])?,
                (kernel[axis] - 1) * dilations[axis] + 1,
                output_padding[axis],
            ];
            let full = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
            let cut = pads[axis].checked_add(pads[axis + 2]).ok_or(overflow.clone())?;
            // Offsets of rows and columns are computed as isize.
            let full = checked_product("output", &[full.ok_or(overflow)?])?;
            out[axis] = full.checked_sub(cut).filter(|&size| size > 0).ok_or_else(|| {
                KernelError::invalid("pads", format!("{pads:?}"), "smaller than the result")
            })?;
        }
        let input = checked_product("input", &[batch, image[0], image[1], in_c])?;
        let output = checked_product("output", &[batch, out[0], out[1], out_c, 4])?;
        let reach = |axis: usize| out[axis].saturating_add(kernel[axis] * dilations[axis]);
        checked_product("padded image", &[reach(0), reach(1), in_c, 4])?;
        let taps = |axis: usize| (kernel[axis] - 1) * dilations[axis] / strides[axis] + 2;
        check_rows([taps(0), out[1] / strides[1] + taps(1)], in_c, input + output / 4)?;
        Ok(out)
    }
}

/// The taps along one axis that meet the outputs `o` with `(o + pad) mod stride = residue`.
#[derive(Debug, Clone, Copy)]
struct AxisPhase {
    residue: usize,
    /// The largest such tap, which meets the first input pixel, and how many there are, `step` apart.
    first: usize,
    count: usize,
    step: usize,
    /// Input pixels from one tap to the next smaller one.
    dilation: usize,
}

impl AxisPhase {
    /// Those of an axis, by residue.
    fn all(kernel: usize, stride: usize, dilation: usize) -> Vec<Self> {
        let (mut gcd, mut rest) = (stride, dilation);
        while rest != 0 {
            (gcd, rest) = (rest, gcd % rest);
        }
        let (step, dilated) = (stride / gcd, dilation / gcd);
        let without = |residue| Self { residue, first: 0, count: 0, step, dilation: dilated };
        let mut phases: Vec<Self> = (0..stride).map(without).collect();
        // Of a step of taps each has a residue of its own.
        for tap in 0..kernel.min(step) {
            let phase = &mut phases[tap * dilation % stride];
            phase.count = (kernel - tap).div_ceil(step);
            phase.first = tap + (phase.count - 1) * step;
        }
        phases
    }

    /// The tap at place `i`, in the order of the input pixels they meet.
    fn tap(&self, i: usize) -> usize {
        self.first - i * self.step
    }

    /// First output of this phase, the input pixel that `first` meets there, and the number of outputs.
    fn outputs(
        &self,
        (stride, dilation): (usize, usize),
        pad: usize,
        out: usize,
    ) -> (usize, isize, usize) {
        let first = (self.residue + stride - pad % stride) % stride;
        let shift = (first + pad - self.residue) / stride;
        let tap = (self.first * dilation) as isize - self.residue as isize;
        let origin = shift as isize - tap / stride as isize;
        (first, origin, out.saturating_sub(first).div_ceil(stride))
    }
}

/// The weights of one phase.
#[derive(Debug)]
struct PackedPhase {
    axes: [AxisPhase; 2],
    order: KOrder,
    /// One per group or some merged groups.
    matrices: Vec<PackedB>,
    /// `Σ (w − w_zero)` per output channel.
    sums: Vec<i32>,
}

/// Transposed convolution weights packed for one ISA, for images of any size. Immutable and shareable.
#[derive(Debug)]
pub struct PackedConvTranspose {
    shape: ConvTransposeWeights,
    a_sign: Sign,
    set: &'static KernelSet,
    phases: Vec<PackedPhase>,
}

impl PackedConvTranspose {
    /// Packs `weights`, in IOHW order of the given shape, for activations of `a_sign`.
    ///
    /// `w_zero` holds the weights' zero points, one per output channel or one for all; without it they are zero.
    ///
    /// # Errors
    /// If a number is zero that must not be or sizes overflow, groups do not divide the channels, `weights` or `w_zero`
    /// has another length, the kernel is so large that a sum may not fit into an i32, or a size is beyond 65,536 without
    /// weights.
    pub fn pack(
        cpu: Cpu,
        weights: &[i8],
        shape: ConvTransposeWeights,
        w_zero: Option<&[i32]>,
        a_sign: Sign,
    ) -> Result<Self, KernelError> {
        shape.check()?;
        let ConvTransposeWeights { in_c, out_c, kernel, strides, dilations, groups } = shape;
        let (in_group, out_group) = (in_c / groups, out_c / groups);
        let taps = checked_product("kernel", &kernel)?;
        check_len("weights", weights.len(), checked_product("weights", &[in_c, out_group, taps])?)?;
        check_backed("kernel", taps, weights.len())?;
        // Each phase has tables of its own.
        let (phases, backed) = (strides[0] * strides[1], weights.len() * strides[0] * strides[1]);
        check_backed("output channels of all phases", out_c.saturating_mul(phases), backed)?;
        check_backed("groups of all phases", groups.saturating_mul(phases), backed)?;
        let w_zero = expand_zero_points(w_zero, out_c)?;
        let cpu = with_bands(cpu);
        let set = KernelSet::of(cpu);
        let merged = if w_zero.is_none() { merged_groups(out_group, groups) } else { 1 };
        let (n, channels) = (merged * out_group, merged * in_group);
        let phase = |axes: [AxisPhase; 2]| {
            let neighbours = channels == in_c && axes[1].dilation == 1;
            let order = KOrder::new([axes[0].count, axes[1].count], channels, neighbours, set.kr);
            let at = |tap: usize, c: usize, o: usize| {
                let tap =
                    axes[0].tap(tap / axes[1].count) * kernel[1] + axes[1].tap(tap % axes[1].count);
                weights[(c * out_group + o) * taps + tap]
            };
            let pack = |matrix: usize| {
                let w_zero = w_zero.as_ref().map(|z| &z[matrix * n..(matrix + 1) * n]);
                PackedB::pack_from(cpu, (order.k(), n), order.k(), w_zero, a_sign, |k, o| {
                    match order.tap_and_channel(k) {
                        Some((tap, c)) if c / in_group == o / out_group => {
                            at(tap, matrix * channels + c, o % out_group)
                        }
                        _ => 0,
                    }
                })
            };
            let sum = |o: usize| -> i32 {
                let zero = w_zero.as_ref().map_or(0, |z| z[o]);
                let inputs = o / out_group * in_group..(o / out_group + 1) * in_group;
                inputs
                    .flat_map(|c| (0..axes[0].count * axes[1].count).map(move |tap| (tap, c)))
                    .map(|(tap, c)| i32::from(at(tap, c, o % out_group)) - zero)
                    .sum()
            };
            let matrices = (0..groups / merged).map(pack).collect::<Result<_, KernelError>>()?;
            Ok(PackedPhase { axes, order, matrices, sums: (0..out_c).map(sum).collect() })
        };
        let [rows, columns] =
            [0, 1].map(|axis| AxisPhase::all(kernel[axis], strides[axis], dilations[axis]));
        let phases = rows
            .iter()
            .flat_map(|&y| columns.iter().map(move |&x| [y, x]))
            .map(phase)
            .collect::<Result<_, _>>()?;
        Ok(Self { shape, a_sign, set, phases })
    }

    /// The shape of the weights.
    pub fn shape(&self) -> &ConvTransposeWeights {
        &self.shape
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.phases.iter().flat_map(|phase| &phase.matrices).map(PackedB::bytes).sum()
    }
}

/// `cpu`, or the most capable ISA below it whose kernels read bands.
fn with_bands(cpu: Cpu) -> Cpu {
    let reads = |cpu: &Cpu| KernelSet::of(*cpu).band.is_some();
    let lower = || {
        let isas = Cpu::available().into_iter().rev().filter(|&isa| isa < cpu.isa());
        isas.filter_map(|isa| Cpu::with_isa(isa).ok()).find(reads)
    };
    if reads(&cpu) { cpu } else { lower().unwrap_or(cpu) }
}

/// A transposed convolution of images of one size.
#[derive(Debug)]
pub struct ConvTranspose {
    spec: ConvTransposeSpec,
    out: [usize; 2],
    packed: Arc<PackedConvTranspose>,
    phases: Vec<Phase>,
}

/// A phase, bound to an image size: where its outputs are, and how they are computed.
#[derive(Debug)]
struct Phase {
    first: [usize; 2],
    count: [usize; 2],
    band: Band,
    epilogues: Vec<Epilogue>,
}

impl ConvTranspose {
    /// Binds packed weights to an image size, a bias of one value per output channel, the activations' zero point, and
    /// an output.
    ///
    /// # Errors
    /// If the sizes are unsound (see [`ConvTransposeSpec::output_size`]), the weights are of another shape, the zero
    /// point is outside its storage, the bias or the output's per-channel values do not fit the output channels, or a
    /// bound or multiplier is out of range.
    pub fn new(
        spec: ConvTransposeSpec,
        packed: Arc<PackedConvTranspose>,
        bias: &[i32],
        x_zero: i32,
        output: &Output,
    ) -> Result<Self, KernelError> {
        let out = spec.output_size()?;
        let ConvTransposeWeights { in_c, out_c, strides, dilations, .. } = spec.weights;
        if spec.weights != packed.shape {
            return Err(KernelError::invalid(
                "transposed convolution",
                format!("{:?}", spec.weights),
                "of the shape of its packed weights",
            ));
        }
        if !(packed.a_sign.min()..=packed.a_sign.max()).contains(&x_zero) {
            return Err(KernelError::invalid("zero point", x_zero, "within its storage type"));
        }
        check_len("bias", bias.len(), out_c)?;
        let phase = |phase: &PackedPhase| {
            let bias: Vec<i32> = bias
                .iter()
                .zip(&phase.sums)
                .map(|(b, sum)| b.wrapping_sub(x_zero.wrapping_mul(*sum)))
                .collect();
            let n = out_c / phase.matrices.len().max(1);
            let epilogue = |(matrix, packed): (usize, &PackedB)| {
                let channels = matrix * n..(matrix + 1) * n;
                let output = slice_output(output, channels.clone(), out_c)?;
                packed.epilogue(&bias[channels], &output)
            };
            let epilogues = phase.matrices.iter().enumerate().map(epilogue);
            let [y, x] = [0, 1].map(|axis| {
                let steps = (strides[axis], dilations[axis]);
                phase.axes[axis].outputs(steps, spec.pads[axis], out[axis])
            });
            let window = Window {
                image: spec.image,
                channels: in_c,
                origin: [y.1, x.1],
                kernel: phase.axes.map(|axis| axis.count),
                strides: [1, 1],
                dilations: phase.axes.map(|axis| axis.dilation),
                out: [y.2, x.2],
            };
            let (sign, kr, pad) = (packed.a_sign, packed.set.kr, x_zero as u8);
            let band = |set| Band::new(set, sign, window, phase.order, kr, true, pad);
            let band = packed.set.band.map_or(Ok(None), band)?;
            Ok(Phase {
                first: [y.0, x.0],
                count: [y.2, x.2],
                band: band.ok_or(KernelError::Overflow { what: "band" })?,
                epilogues: epilogues.collect::<Result<_, KernelError>>()?,
            })
        };
        let phases = packed.phases.iter().map(phase).collect::<Result<_, KernelError>>()?;
        Ok(Self { spec, out, packed, phases })
    }

    /// Rows and columns of the result.
    pub fn output_size(&self) -> [usize; 2] {
        self.out
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.spec.batch * self.spec.image[0] * self.spec.image[1] * self.spec.weights.in_c
    }

    /// Elements of the result.
    pub fn output_len(&self) -> usize {
        self.spec.batch * self.out[0] * self.out[1] * self.spec.weights.out_c
    }

    /// Bytes of scratch that [`Self::run`] needs for `threads` threads.
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        self.worker_bytes(threads).saturating_mul(threads.max(1))
    }

    fn worker_bytes(&self, threads: usize) -> usize {
        let bytes = |phase: usize| self.phases[phase].band.bytes(self.split(phase, threads).rows);
        (0..self.phases.len()).map(bytes).max().unwrap_or(0)
    }

    fn split(&self, phase: usize, threads: usize) -> Split {
        let macs = self.packed.phases[phase].order.k().saturating_mul(self.spec.weights.out_c);
        self.phases[phase].band.split(self.spec.batch, macs, 1, threads.max(1))
    }

    /// Computes `y` (NHWC) from the images `x` (NHWC, raw bytes).
    ///
    /// `residual` is the second operand of the output's residual addition, of `y`'s shape. `scratch` needs
    /// [`Self::scratch_bytes`] of `par.threads()`; its contents do not matter.
    ///
    /// # Errors
    /// If a slice is too short or of the wrong element type, or a residual is missing or not expected.
    pub fn run(
        &self,
        par: &dyn Parallel,
        x: &[u8],
        residual: Option<&[u8]>,
        y: OutSlice<'_>,
        scratch: &mut [u8],
    ) -> Result<(), KernelError> {
        let threads = par.threads().max(1);
        let Some(epilogue) = self.phases.first().and_then(|phase| phase.epilogues.first()) else {
            return Ok(());
        };
        let y = y.into_bytes(epilogue)?;
        check_at_least("input", x.len(), self.input_len())?;
        check_at_least("output", y.len() / epilogue.element_bytes(), self.output_len())?;
        check_at_least("scratch", scratch.len(), self.scratch_bytes(threads))?;
        check_residual(epilogue, residual.is_some())?;
        if let Some(residual) = residual {
            check_at_least("residual", residual.len(), self.output_len())?;
        }
        if self.output_len() == 0 {
            return Ok(());
        }
        let element = epilogue.element_bytes();
        let splits: Vec<Split> = (0..self.phases.len()).map(|p| self.split(p, threads)).collect();
        let most = splits.iter().map(|split| split.bands).max().unwrap_or(0);
        let y = DisjointMut::new(y);
        let per_worker = WorkerScratch::new(scratch, self.worker_bytes(threads), threads);
        let macs = |phase: &PackedPhase| phase.order.k().saturating_mul(self.output_len());
        let macs =
            self.packed.phases.iter().map(macs).fold(0, usize::saturating_add) / self.phases.len();
        let tasks = self.phases.len() * self.spec.batch * most;
        for_each_with_worker(for_macs(par, macs), tasks, &|worker, task| {
            let (phase, task) = (task % self.phases.len(), task / self.phases.len());
            let (image, band) = (task / most, task % most);
            let first = band * splits[phase].rows;
            let rows = first..(first + splits[phase].rows).min(self.phases[phase].count[0]);
            if rows.start >= rows.end {
                return;
            }
            // SAFETY: a worker runs one task at a time.
            let scratch = unsafe { per_worker.get(worker) };
            self.run_band(phase, image, rows, element, x, residual, &y, scratch);
        });
        Ok(())
    }

    /// Computes the rows `rows` of a phase's outputs.
    #[allow(clippy::too_many_arguments, reason = "the checked arguments of `run`, and which part")]
    fn run_band(
        &self,
        phase: usize,
        image: usize,
        rows: std::ops::Range<usize>,
        element: usize,
        x: &[u8],
        residual: Option<&[u8]>,
        y: &DisjointMut<'_, u8>,
        scratch: &mut [u8],
    ) {
        let ConvTransposeWeights { in_c, out_c, strides, .. } = self.spec.weights;
        let [in_h, in_w] = self.spec.image;
        let (packed, phase) = (&self.packed.phases[phase], &self.phases[phase]);
        let matrices = packed.matrices.len();
        let (n, channels) = (out_c / matrices, in_c / matrices);
        let set = phase.band.set();
        let image_bytes = in_h * in_w * in_c;
        let x = &x[image * image_bytes..][..image_bytes];
        let values = phase.band.fill(x, rows.clone(), scratch);
        let (width, ld) = (phase.count[1], strides[1] * out_c);
        for (i, row) in rows.enumerate() {
            let oy = phase.first[0] + row * strides[0];
            let pixel = (image * self.out[0] + oy) * self.out[1] + phase.first[1];
            for (matrix, (packed, epilogue)) in
                packed.matrices.iter().zip(&phase.epilogues).enumerate()
            {
                let core = packed.core(epilogue);
                let col = (pixel % strides[1]) * out_c + matrix * n;
                let slots = pixel / strides[1]..pixel / strides[1] + width;
                let residual = residual
                    .map_or(std::ptr::null(), |r| r.as_ptr().wrapping_add(slots.start * ld + col));
                // SAFETY: tasks, rows and matrices have disjoint pixels or channels; `run` checked the lengths of `y`
                // and the residual; the band holds the patches of these pixels and the channels of every matrix.
                // Weights were packed for an ISA that a `Cpu` proved.
                unsafe {
                    let bytes = col * element..(col + n) * element;
                    let out = y.rect(slots, bytes, ld * element);
                    let to = TileOut { out, ldc: ld * element, residual, ldr: ld };
                    let values = values.add(matrix * channels * set.value_bytes);
                    let pixels = i * width..(i + 1) * width;
                    band_block(
                        &core,
                        set,
                        values,
                        phase.band.patch(),
                        pixels,
                        0..packed.panels(),
                        to,
                    );
                }
            }
        }
    }
}
