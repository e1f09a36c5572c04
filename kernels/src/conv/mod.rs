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
//! | any other | im2col of a block of pixels that fits the cache, then GEMM, per group |

mod geometry;
mod im2col;

use std::{fmt, sync::Arc};

pub use self::geometry::{ConvGeometry, ConvSpec};
use self::im2col::Patches;
use crate::{
    Cpu, KernelError,
    depthwise::{Depthwise, PackedDepthwise},
    epilogue::{Epilogue, FixedPoint, OutSlice, Output, Requantize, Sign, TileOut},
    error::{check_at_least, check_len, checked_product},
    gemm::{PackedB, check_residual, expand_zero_points},
    par::{DisjointMut, Parallel, WorkerScratch, for_each_with_worker, for_macs},
};

/// The shape of convolution weights: `[out_c, in_c_per_group, kernel[0], kernel[1]]`, of `groups` groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvWeights {
    /// Output channels, over all groups.
    pub out_c: usize,
    /// Input channels of one group.
    pub in_c_per_group: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Groups, which divide `out_c`.
    pub groups: usize,
}

/// Convolution weights packed for one ISA, for images of any size. Immutable and shareable.
#[derive(Debug)]
pub struct PackedConv {
    shape: ConvWeights,
    a_sign: Sign,
    form: PackedForm,
}

enum PackedForm {
    /// One matrix per group, K in the order ky, kx, c.
    Gemm(Vec<PackedB>),
    Depthwise(PackedDepthwise),
}

impl fmt::Debug for PackedForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gemm(_) => "Gemm",
            Self::Depthwise(_) => "Depthwise",
        })
    }
}

impl PackedConv {
    /// Packs `weights`, in OIHW order of the given shape, for activations of `a_sign`.
    ///
    /// `w_zero` holds the weights' zero points, one per output channel or one for all; without it they are zero.
    ///
    /// # Errors
    /// If a size is zero where it must not be or overflows, `weights` or `w_zero` has another length, or the kernel is
    /// so large that a sum may not fit into an i32.
    pub fn pack(
        cpu: Cpu,
        weights: &[i8],
        shape: ConvWeights,
        w_zero: Option<&[i32]>,
        a_sign: Sign,
    ) -> Result<Self, KernelError> {
        let ConvWeights { out_c, in_c_per_group: in_c, kernel: [kh, kw], groups } = shape;
        if groups == 0 || out_c % groups != 0 {
            return Err(KernelError::invalid(
                "number of groups",
                groups,
                "a divisor of the output channels",
            ));
        }
        if kh == 0 || kw == 0 {
            return Err(KernelError::invalid("kernel", format!("{kh}x{kw}"), "at least 1 by 1"));
        }
        let k = checked_product("patch", &[kh, kw, in_c])?;
        check_len("weights", weights.len(), checked_product("weights", &[out_c, k])?)?;
        let w_zero = expand_zero_points(w_zero, out_c)?;
        let form = if in_c == 1 && groups > 1 {
            PackedForm::Depthwise(PackedDepthwise::pack(
                cpu,
                weights,
                out_c,
                shape.kernel,
                w_zero.as_deref(),
                a_sign,
            )?)
        } else {
            let n = out_c / groups;
            let pack = |group: usize| {
                let w_zero = w_zero.as_ref().map(|z| &z[group * n..(group + 1) * n]);
                PackedB::pack_from(cpu, k, n, w_zero, a_sign, |k_, o| {
                    let (tap, c) = (k_ / in_c, k_ % in_c);
                    weights[((group * n + o) * in_c + c) * kh * kw + tap]
                })
            };
            PackedForm::Gemm((0..groups).map(pack).collect::<Result<_, _>>()?)
        };
        Ok(Self { shape, a_sign, form })
    }

    /// The shape of the weights.
    pub fn shape(&self) -> &ConvWeights {
        &self.shape
    }

    /// How the activations' bytes are read.
    pub fn a_sign(&self) -> Sign {
        self.a_sign
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        match &self.form {
            PackedForm::Gemm(groups) => groups.iter().map(PackedB::bytes).sum(),
            PackedForm::Depthwise(packed) => packed.bytes(),
        }
    }

    /// `Σ (w − w_zero)` per output channel: `bias' = bias − z_x · sum` folds the activations' zero point.
    pub fn weight_sums(&self) -> Vec<i32> {
        match &self.form {
            PackedForm::Gemm(groups) => groups.iter().flat_map(PackedB::weight_sums).collect(),
            PackedForm::Depthwise(packed) => packed.weight_sums().to_vec(),
        }
    }
}

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
    /// One epilogue per group.
    Gemm(Vec<Epilogue>),
    Depthwise(Depthwise),
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
        let of_geometry = ConvWeights {
            out_c: spec.out_c,
            in_c_per_group: spec.in_c / spec.groups,
            kernel: spec.kernel,
            groups: spec.groups,
        };
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
            PackedForm::Gemm(groups) => {
                let n = spec.out_c / spec.groups;
                let epilogue = |(group, packed): (usize, &PackedB)| {
                    let channels = group * n..(group + 1) * n;
                    packed.epilogue(
                        &bias[channels.clone()],
                        &slice_output(output, channels, spec.out_c)?,
                    )
                };
                Form::Gemm(groups.iter().enumerate().map(epilogue).collect::<Result<_, _>>()?)
            }
            PackedForm::Depthwise(packed) => {
                Form::Depthwise(Depthwise::new(&geometry, packed, bias, pad_value, output)?)
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
        let per_worker = match &self.form {
            Form::Gemm(_) if self.geometry.is_pointwise() => 0,
            Form::Gemm(_) => Patches::new(&self.geometry, self.pad_value, threads).bytes(),
            Form::Depthwise(depthwise) => return depthwise.scratch_bytes(&self.geometry, threads),
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
            Form::Gemm(epilogues) => epilogues.first(),
            Form::Depthwise(depthwise) => Some(depthwise.epilogue()),
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
            (Form::Gemm(epilogues), PackedForm::Gemm(groups)) if geometry.is_pointwise() => {
                let core = groups[0].core(&epilogues[0]);
                let n = geometry.spec().out_c;
                crate::gemm::run_checked(
                    &core,
                    par,
                    geometry.pixels(),
                    (x, geometry.spec().in_c),
                    residual.map(|r| (r, n)),
                    (y, n),
                );
            }
            (Form::Gemm(epilogues), PackedForm::Gemm(groups)) => {
                self.run_im2col(par, x, residual, y, scratch, epilogues, groups);
            }
            (Form::Depthwise(depthwise), PackedForm::Depthwise(packed)) => {
                depthwise.run(geometry, packed, par, x, residual, y, scratch);
            }
            _ => unreachable!("a convolution has the form of its packed weights"),
        }
        Ok(())
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the checked arguments of `run` and the two halves of each group"
    )]
    fn run_im2col(
        &self,
        par: &dyn Parallel,
        x: &[u8],
        residual: Option<&[u8]>,
        y: &mut [u8],
        scratch: &mut [u8],
        epilogues: &[Epilogue],
        groups: &[PackedB],
    ) {
        let patches = Patches::new(&self.geometry, self.pad_value, par.threads().max(1));
        let out_c = self.geometry.spec().out_c;
        let n = out_c / groups.len();
        let element = epilogues[0].element_bytes();
        let pixels = self.geometry.pixels();
        let blocks = pixels.div_ceil(patches.pixels());
        let y = DisjointMut::new(y);
        let per_worker = WorkerScratch::new(scratch, patches.bytes(), par.threads().max(1));
        let par = for_macs(par, self.geometry.output_len().saturating_mul(patches.patch_bytes()));
        for_each_with_worker(par, blocks * groups.len(), &|worker, task| {
            let (group, block) = (task % groups.len(), task / groups.len());
            let rows = block * patches.pixels()..((block + 1) * patches.pixels()).min(pixels);
            // SAFETY: a worker runs one task at a time.
            let a = unsafe { per_worker.get(worker) };
            patches.gather(x, group, rows.clone(), a);
            let col = group * n;
            let residual = residual
                .map_or(std::ptr::null(), |r| r.as_ptr().wrapping_add(rows.start * out_c + col));
            let core = groups[group].core(&epilogues[group]);
            // SAFETY: tasks have disjoint pixels or channels; `run` checked the lengths of `y` and the residual, and
            // `gather` wrote one patch of K bytes per row. Weights were packed for an ISA that a `Cpu` proved.
            unsafe {
                let bytes = col * element..(col + n) * element;
                let ldc = out_c * element;
                let to =
                    TileOut { out: y.rect(rows.clone(), bytes, ldc), ldc, residual, ldr: out_c };
                core.block(
                    a.as_ptr(),
                    patches.patch_bytes(),
                    rows.len(),
                    0..core.layout.panels(),
                    to,
                );
            }
        });
    }
}

/// The part of a per-channel output description that belongs to `channels` of `all`.
fn slice_output(
    output: &Output,
    channels: std::ops::Range<usize>,
    all: usize,
) -> Result<Output, KernelError> {
    fn part<T: Clone>(
        values: &[T],
        channels: &std::ops::Range<usize>,
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
