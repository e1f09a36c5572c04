//! Integer 2-D convolution of NHWC activations with OIHW s8 weights.
//!
//! `y[n, oy, ox, o] = epilogue(bias[o] + Σ x[n, iy, ix, c] · (w[o, c, ky, kx] − w_zero[o]))`, where pixels outside the
//! image read the stored value `pad_value` (the activations' zero point). As in [`crate::gemm`] the activations' zero
//! point is folded into the bias by the caller, with [`PackedConv::weight_sums`].
//!
//! | convolution | method |
//! | --- | --- |
//! | 1×1, stride 1, no padding, 1 group | GEMM on the activations in place |
//! | one input channel per group | depthwise kernels |
//! | 3×3, stride 1, 1 group, ISAs without dot products of bytes | Winograd's F(2×2, 3×3) |
//! | any other | GEMM tiles over a band of padded input rows, or over the image itself where nothing is padded |
//! | dilated kernel rows of odd channels, ISAs without such tiles | im2col of a block of pixels, then GEMM |
//! | enough of any other for tile registers, runs of a patch whole cache lines | tile registers over such a band |
//! | enough of any other for tile registers to outweigh the copies | im2col, whose patches start at cache lines |
//!
//! Groups of few columns share panels: each column reads the channels of its own (x86), or weights of several groups
//! form the diagonal blocks of one panel.

mod band;
mod geometry;
mod im2col;
pub(crate) mod kernel;
mod packed;
mod remainders;
mod short;
mod spread;
mod transpose;
mod winograd;

use std::{ops::Range, sync::Arc};

use self::{
    band::{Band, KOrder},
    im2col::{BlockSize, Patches},
    kernel::{band_block, spread_block},
    packed::{PackedForm, merged_groups},
    short::ShortSet,
    spread::Spread,
};
pub use self::{
    geometry::{ConvGeometry, ConvSpec, ConvWeights},
    packed::{Algorithm, PackedConv},
    transpose::{ConvTranspose, ConvTransposeSpec, ConvTransposeWeights, PackedConvTranspose},
};
pub(crate) use self::{
    kernel::{BandSet, band_set},
    remainders::Remainders,
};
use crate::{
    KernelError,
    cpu::Cpu,
    depthwise::Depthwise,
    epilogue::{Epilogue, FixedPoint, NR, OutSlice, Output, Requantize, TileOut},
    error::{check_at_least, check_len},
    gemm::{
        Core, PackedB,
        amx::{self, BandRows, TileState, TileUnit},
        check_residual,
        kernel::KernelSet,
    },
    par::{DisjointMut, Parallel, WorkerScratch, for_each_with_state, for_macs},
};

/// A convolution of images of one size.
#[derive(Debug)]
pub struct Conv {
    geometry: ConvGeometry,
    packed: Arc<PackedConv>,
    pad_value: u8,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// One epilogue per matrix.
    Gemm(Vec<Epilogue>, Method),
    Depthwise(Depthwise),
    /// With a pixel of padding.
    Winograd(Epilogue, Vec<u8>),
}

/// Where the GEMM's rows come from.
#[derive(Debug)]
enum Method {
    Pointwise,
    /// By tile registers, or not.
    Band(Box<Band>, Option<&'static TileUnit>),
    Im2col,
}

impl Conv {
    /// Binds packed weights to an image size, a bias of one value per output channel (`bias'` of the module docs), the
    /// raw byte read outside the image, and an output.
    ///
    /// # Errors
    /// If the geometry is not that of the weights, the bias or the output's per-channel values do not fit the output
    /// channels, or a bound or multiplier is out of range.
    pub fn new(
        geometry: ConvGeometry,
        packed: Arc<PackedConv>,
        bias: &[i32],
        pad_value: u8,
        output: &Output,
    ) -> Result<Self, KernelError> {
        let spec = geometry.spec();
        let of_geometry = spec.weights();
        if of_geometry != packed.shape {
            let value = format!("{of_geometry:?}");
            return Err(KernelError::invalid(
                "convolution",
                value,
                "of the shape of its packed weights",
            ));
        }
        check_len("bias", bias.len(), spec.out_c)?;
        let form = match &packed.form {
            PackedForm::Gemm { matrices, order, set, spread, .. } => {
                let n = spec.out_c / matrices.len().max(1);
                let epilogue = |(matrix, packed): (usize, &PackedB)| {
                    let channels = matrix * n..(matrix + 1) * n;
                    packed.epilogue(
                        &bias[channels.clone()],
                        &slice_output(output, channels, spec.out_c)?,
                    )
                };
                let epilogues =
                    matrices.iter().enumerate().map(epilogue).collect::<Result<Vec<_>, _>>()?;
                let band = |sign, exact| {
                    let new = |band_set| {
                        let window = geometry.window();
                        Band::new(band_set, sign, window, *order, set.kr, exact, pad_value)
                    };
                    set.band.map_or(Ok(None), new)
                };
                let unit = set.tiles_for(order.k()).filter(|_| {
                    spread.is_none()
                        && order.shared == 0
                        && amx::takes_patches(geometry.pixels(), n, order.k(), order.len)
                });
                let on_tiles = |unit| {
                    // Tiles take bytes of any sign as they are.
                    let as_it_is = set.band.and_then(|band| band.in_place);
                    let symmetric = epilogues.iter().all(|epilogue| epilogue.w_zero.is_none());
                    let on_band = match as_it_is.filter(|_| symmetric) {
                        Some(sign) => band(sign, false)?.and_then(Band::for_tiles),
                        None => None,
                    };
                    let copied = || {
                        amx::outweigh_copies(n, order.segments, order.len).then_some(Method::Im2col)
                    };
                    let on_band = on_band
                        .map(|band| Method::Band(Box::new(band), Some(unit)))
                        .or_else(copied);
                    Ok::<_, KernelError>(on_band)
                };
                let short = ShortSet::takes(set, order.k(), &epilogues);
                let method = if geometry.is_pointwise() && !short {
                    Method::Pointwise
                } else if let Some(method) = unit.map_or(Ok(None), on_tiles)? {
                    method
                } else {
                    let exact = spread.as_ref().is_none_or(|spread| spread.is_exact(n));
                    band(packed.a_sign, exact)?
                        .map_or(Method::Im2col, |band| Method::Band(Box::new(band), None))
                };
                Form::Gemm(epilogues, method)
            }
            PackedForm::Depthwise(packed) => {
                Form::Depthwise(Depthwise::new(&geometry, packed, bias, pad_value, output)?)
            }
            PackedForm::Winograd(_) => {
                let taps = spec.kernel[0] * spec.kernel[1];
                let epilogue = Epilogue::new(spec.out_c, bias.to_vec(), None, output)?
                    .of_products(taps * spec.in_c);
                Form::Winograd(epilogue, vec![pad_value; spec.in_c])
            }
        };
        Ok(Self { geometry, packed, pad_value, form })
    }

    /// The image size.
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// The weights.
    pub fn packed(&self) -> &Arc<PackedConv> {
        &self.packed
    }

    /// Bytes of scratch that [`Self::run`] needs for `threads` threads.
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        let per_worker = match (&self.form, &self.packed.form) {
            (Form::Gemm(_, Method::Band(band, _)), PackedForm::Gemm { matrices, .. }) => {
                band.bytes(self.split(band, matrices, threads).rows)
            }
            (Form::Gemm(_, Method::Im2col), PackedForm::Gemm { matrices, order, set, .. }) => {
                self.patches(set, matrices, *order, threads).bytes()
            }
            (Form::Depthwise(depthwise), _) => {
                return depthwise.scratch_bytes(&self.geometry, threads);
            }
            (Form::Winograd(..), PackedForm::Winograd(packed)) => {
                packed.scratch_bytes(&self.geometry, threads)
            }
            _ => 0,
        };
        per_worker.saturating_mul(threads.max(1))
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
        let geometry = &self.geometry;
        let some_epilogue = match &self.form {
            Form::Gemm(epilogues, _) => epilogues.first(),
            Form::Depthwise(depthwise) => Some(depthwise.epilogue()),
            Form::Winograd(epilogue, _) => Some(epilogue),
        };
        let Some(epilogue) = some_epilogue else { return Ok(()) };
        let y = y.into_bytes(epilogue)?;
        check_at_least("input", x.len(), geometry.input_len())?;
        check_at_least("output", y.len() / epilogue.element_bytes(), geometry.output_len())?;
        check_at_least("scratch", scratch.len(), self.scratch_bytes(par.threads()))?;
        check_residual(epilogue, residual.is_some())?;
        if let Some(residual) = residual {
            check_at_least("residual", residual.len(), geometry.output_len())?;
        }
        if geometry.output_len() == 0 {
            return Ok(());
        }
        let x = &x[..geometry.input_len()];
        match (&self.form, &self.packed.form) {
            (Form::Gemm(epilogues, method), PackedForm::Gemm { matrices, order, spread, .. }) => {
                let spread = spread.as_ref();
                let cores = Cores { matrices, epilogues, order: *order, spread };
                match method {
                    Method::Pointwise => {
                        let n = geometry.spec().out_c;
                        crate::gemm::run_checked(
                            &cores.core(0),
                            par,
                            geometry.pixels(),
                            (x, geometry.spec().in_c),
                            residual.map(|r| (r, n)),
                            (y, n),
                        );
                    }
                    Method::Band(band, tiles) => {
                        self.run_band(par, x, residual, y, scratch, cores, (band, *tiles));
                    }
                    Method::Im2col => self.run_im2col(par, x, residual, y, scratch, cores),
                }
            }
            (Form::Depthwise(depthwise), PackedForm::Depthwise(packed)) => {
                depthwise.run(geometry, packed, par, x, residual, y, scratch);
            }
            (Form::Winograd(epilogue, padding), PackedForm::Winograd(packed)) => {
                packed.run(geometry, epilogue, padding, par, x, residual, y, scratch);
            }
            _ => unreachable!("a convolution has the form of its packed weights"),
        }
        Ok(())
    }

    fn split(&self, band: &Band, matrices: &[PackedB], threads: usize) -> band::Split {
        let spec = self.geometry.spec();
        let macs = (spec.kernel[0] * spec.kernel[1] * (spec.in_c / spec.groups))
            .saturating_mul(spec.out_c);
        band.split(spec.batch, macs, units(matrices), threads.max(1))
    }

    fn patches(
        &self,
        set: &KernelSet,
        matrices: &[PackedB],
        order: KOrder,
        threads: usize,
    ) -> Patches<'_> {
        let channels = self.geometry.spec().in_c / matrices.len().max(1);
        let size = BlockSize::of(set, order.k());
        Patches::new(&self.geometry, order, channels, self.pad_value, threads, size)
    }

    #[allow(clippy::too_many_arguments, reason = "the checked arguments of `run`, and how")]
    fn run_band(
        &self,
        par: &dyn Parallel,
        x: &[u8],
        residual: Option<&[u8]>,
        y: &mut [u8],
        scratch: &mut [u8],
        cores: Cores<'_>,
        (band, tiles): (&Band, Option<&TileUnit>),
    ) {
        let Self { geometry, .. } = self;
        let ConvSpec { batch, in_h, in_w, in_c, out_c, .. } = *geometry.spec();
        let (out_h, out_w) = (geometry.out_h(), geometry.out_w());
        let split = self.split(band, cores.matrices, par.threads());
        let (n, channels) = (out_c / cores.matrices.len(), in_c / cores.matrices.len());
        let element = cores.epilogues[0].element_bytes();
        let ldc = out_c * element;
        let y = DisjointMut::new(y);
        let per_worker = WorkerScratch::new(scratch, band.bytes(split.rows), par.threads().max(1));
        let par = for_macs(par, geometry.output_len().saturating_mul(cores.order.k()));
        let state = |worker| (worker, TileState::Idle);
        let tasks = batch * split.bands * split.parts;
        for_each_with_state(par, tasks, &state, &|(worker, state), task| {
            let (task, part) = (task / split.parts, task % split.parts);
            let (image, first) = (task / split.bands, task % split.bands * split.rows);
            let rows = first..(first + split.rows).min(out_h);
            // SAFETY: a worker runs one task at a time.
            let scratch = unsafe { per_worker.get(*worker) };
            let values = band.fill(
                &x[image * in_h * in_w * in_c..][..in_h * in_w * in_c],
                rows.clone(),
                scratch,
            );
            let pixels = (image * out_h + rows.start) * out_w..(image * out_h + rows.end) * out_w;
            for unit in cores.units(split.units(part)) {
                let (matrix, panels) = unit;
                let core = cores.core(matrix);
                let cols = matrix * n + panels.start * NR..matrix * n + (panels.end * NR).min(n);
                let residual = residual.map_or(std::ptr::null(), |r| {
                    r.as_ptr().wrapping_add(pixels.start * out_c + cols.start)
                });
                let bytes = cols.start * element..cols.end * element;
                // SAFETY: tasks and units have disjoint pixels or columns; `run` checked the lengths of `y` and the
                // residual; the band holds the patches of these pixels and the channels of every matrix. Weights
                // were packed for an ISA that a `Cpu` proved.
                unsafe {
                    let out = y.rect(pixels.clone(), bytes, ldc);
                    let to = TileOut { out, ldc, residual, ldr: out_c };
                    let values = values.add(matrix * channels * band.set().value_bytes);
                    let (set, patch, pixels) = (band.set(), band.patch(), 0..pixels.len());
                    match (tiles, cores.spread) {
                        (Some(unit), _) => {
                            let band = BandRows { at: values, patch, rows: rows.len() };
                            unit.band(&core, state, band, panels, to);
                        }
                        (None, Some(s)) => {
                            spread_block(&core, s, values, patch, pixels, panels, to);
                        }
                        (None, None) => {
                            band_block(&core, set, values, patch, pixels, panels, to);
                        }
                    }
                }
            }
        });
    }

    fn run_im2col(
        &self,
        par: &dyn Parallel,
        x: &[u8],
        residual: Option<&[u8]>,
        y: &mut [u8],
        scratch: &mut [u8],
        cores: Cores<'_>,
    ) {
        let Cores { matrices, epilogues, order, .. } = cores;
        let set = cores.core(0).set;
        let cpu = Cpu::of(set.isa);
        let patches = self.patches(set, matrices, order, par.threads());
        let out_c = self.geometry.spec().out_c;
        let n = out_c / matrices.len();
        let element = epilogues[0].element_bytes();
        let pixels = self.geometry.pixels();
        let blocks = pixels.div_ceil(patches.pixels());
        let y = DisjointMut::new(y);
        let per_worker = WorkerScratch::new(scratch, patches.bytes(), par.threads().max(1));
        let par = for_macs(par, self.geometry.output_len().saturating_mul(order.k()));
        let state = |worker| (worker, TileState::Idle);
        for_each_with_state(par, blocks * matrices.len(), &state, &|(worker, state), task| {
            let (matrix, block) = (task % matrices.len(), task / matrices.len());
            let rows = block * patches.pixels()..((block + 1) * patches.pixels()).min(pixels);
            // SAFETY: a worker runs one task at a time.
            let scratch = unsafe { per_worker.get(*worker) };
            let col = matrix * n;
            let residual = residual
                .map_or(std::ptr::null(), |r| r.as_ptr().wrapping_add(rows.start * out_c + col));
            let core = cores.core(matrix);
            let panels = 0..core.layout.panels();
            let lda = patches.patch_bytes();
            let bytes = col * element..(col + n) * element;
            let ldc = out_c * element;
            // SAFETY: tasks have disjoint pixels or channels; `run` checked the lengths of `y` and the residual, and
            // `gather` writes one patch of K bytes per row. Weights were packed for an ISA that a `Cpu` proved; K is
            // large enough for tiles where they are asked.
            unsafe {
                let to =
                    TileOut { out: y.rect(rows.clone(), bytes, ldc), ldc, residual, ldr: out_c };
                match set.tiles_for(order.k()) {
                    Some(unit) => {
                        let mut gather = |some: Range<usize>| {
                            let some = rows.start + some.start..rows.start + some.end;
                            patches.gather(cpu, x, matrix, some, scratch).as_ptr()
                        };
                        unit.patches(&core, state, (&mut gather, lda), rows.len(), panels, to);
                    }
                    None => {
                        let a = patches.gather(cpu, x, matrix, rows.clone(), scratch);
                        core.block(state, a.as_ptr(), lda, rows.len(), panels, to);
                    }
                }
            }
        });
    }
}

/// The matrices of a convolution, with their epilogues.
#[derive(Clone, Copy)]
struct Cores<'a> {
    matrices: &'a [PackedB],
    epilogues: &'a [Epilogue],
    order: KOrder,
    spread: Option<&'a Spread>,
}

impl<'a> Cores<'a> {
    fn core(&self, matrix: usize) -> Core<'a> {
        self.matrices[matrix].core(&self.epilogues[matrix])
    }

    /// The matrices and panels of some [`units`].
    fn units(&self, units: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let panels = self.matrices[0].panels();
        let one = self.matrices.len() == 1;
        let whole = if one { 0..1 } else { units.clone() };
        let part = units.start * UNIT_PANELS..(units.end * UNIT_PANELS).min(panels);
        whole.map(move |matrix| (matrix, if one { part.clone() } else { 0..panels }))
    }
}

/// Panels of one matrix that stay in one task: those of the widest tile.
const UNIT_PANELS: usize = 4;

/// What weights can be cut into: the panels of one matrix, or whole matrices.
fn units(matrices: &[PackedB]) -> usize {
    match matrices {
        [one] => one.panels().div_ceil(UNIT_PANELS),
        _ => matrices.len(),
    }
}

/// The part of a per-channel output description that belongs to `channels` of `all`.
fn slice_output(
    output: &Output,
    channels: Range<usize>,
    all: usize,
) -> Result<Output, KernelError> {
    fn part<T: Clone>(
        values: &[T],
        channels: &Range<usize>,
        all: usize,
    ) -> Result<Vec<T>, KernelError> {
        if values.len() == 1 {
            return Ok(values.to_vec());
        }
        check_len("per-channel values", values.len(), all)?;
        Ok(values[channels.clone()].to_vec())
    }
    let fixed = |m: &[FixedPoint]| part(m, &channels, all);
    let mut output = output.clone();
    match &mut output {
        Output::I32 => {}
        Output::F32 { scales } => *scales = part(scales, &channels, all)?,
        Output::Quant8 { requantize, .. } => match requantize {
            Requantize::HalfEven(m) => *m = part(m, &channels, all)?,
            Requantize::TfliteDouble(m) | Requantize::TfliteSingle(m) => *m = fixed(m)?,
        },
    }
    Ok(output)
}
