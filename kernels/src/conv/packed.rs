//! Convolution weights, packed.

use std::fmt;

use super::{ConvWeights, band::KOrder, spread::Spread, winograd::PackedWinograd};
use crate::{
    Cpu, KernelError,
    depthwise::PackedDepthwise,
    epilogue::{NR, Sign},
    error::{check_backed, check_len, checked_product},
    gemm::{PackedB, check_k, expand_zero_points, kernel::KernelSet},
};

/// How a convolution multiplies; results are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// As the definition does.
    Direct,
    /// By Winograd's F(2×2, 3×3), which is faster wherever it applies; elsewhere as the definition does.
    Winograd,
}

/// Convolution weights packed for one ISA, for images of any size. Immutable and shareable.
#[derive(Debug)]
pub struct PackedConv {
    pub(super) shape: ConvWeights,
    pub(super) a_sign: Sign,
    pub(super) form: PackedForm,
}

pub(super) enum PackedForm {
    /// One matrix per group or some merged groups; `Σ (w − w_zero)` per output channel.
    Gemm {
        matrices: Vec<PackedB>,
        order: KOrder,
        set: &'static KernelSet,
        sums: Vec<i32>,
        /// The groups of one matrix for all of them, of which each column holds the weights of its own.
        spread: Option<Spread>,
    },
    Depthwise(PackedDepthwise),
    Winograd(PackedWinograd),
}

impl fmt::Debug for PackedForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gemm { .. } => "Gemm",
            Self::Depthwise(_) => "Depthwise",
            Self::Winograd(_) => "Winograd",
        })
    }
}

impl PackedConv {
    /// Packs `weights`, in OIHW order of the given shape, for activations of `a_sign`, by the algorithm that is fastest.
    ///
    /// `w_zero` holds the weights' zero points, one per output channel or one for all; without it they are zero.
    ///
    /// # Errors
    /// If a size is zero where it must not be or overflows, `weights` or `w_zero` has another length, the kernel is so
    /// large that a sum may not fit into an i32, or a size is beyond 65,536 without weights.
    pub fn pack(
        cpu: Cpu,
        weights: &[i8],
        shape: ConvWeights,
        w_zero: Option<&[i32]>,
        a_sign: Sign,
    ) -> Result<Self, KernelError> {
        Self::pack_with(cpu, weights, shape, w_zero, a_sign, Algorithm::Winograd)
    }

    /// [`Self::pack`] for the given algorithm.
    ///
    /// # Errors
    /// As there.
    pub fn pack_with(
        cpu: Cpu,
        weights: &[i8],
        shape: ConvWeights,
        w_zero: Option<&[i32]>,
        a_sign: Sign,
        algorithm: Algorithm,
    ) -> Result<Self, KernelError> {
        let ConvWeights { out_c, in_c_per_group: in_c, kernel: [kh, kw], groups, .. } = shape;
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
        check_backed("output channels", out_c, weights.len())?;
        check_backed("number of groups", groups, weights.len())?;
        check_backed("kernel", kh * kw, weights.len())?;
        let w_zero = expand_zero_points(w_zero, out_c)?;
        check_k(k, w_zero.as_deref().unwrap_or_default())?;
        let winograd = || match algorithm {
            Algorithm::Direct => Ok(None),
            Algorithm::Winograd => {
                PackedWinograd::pack(cpu, weights, shape, w_zero.as_deref(), a_sign)
            }
        };
        let form = if in_c == 1 && groups > 1 {
            PackedForm::Depthwise(PackedDepthwise::pack(
                cpu,
                weights,
                out_c,
                shape.kernel,
                w_zero.as_deref(),
                a_sign,
            )?)
        } else if let Some(packed) = winograd()? {
            PackedForm::Winograd(packed)
        } else {
            let set = KernelSet::of(cpu);
            let n = out_c / groups;
            let spread = match w_zero {
                None => Spread::new(set, groups, in_c, n),
                Some(_) => None,
            };
            let merged = if w_zero.is_none() { merged_groups(n, groups) } else { 1 };
            // Groups of a matrix, and those that a column reads the channels of.
            let (merged, read) = match &spread {
                Some(spread) => (groups, spread.channels / in_c),
                None => (merged, merged),
            };
            let (n, channels) = (merged * n, read * in_c);
            let all = checked_product("input channels", &[groups, in_c])?;
            let neighbours = channels == all && spread.is_none();
            let order = KOrder::new(shape.kernel, channels, neighbours, set.kr);
            let order = if neighbours && shape.dilations[1] == 1 && set.band.is_some() {
                order.sharing(set.kr, shape.strides[1].saturating_mul(channels))
            } else {
                order
            };
            // Where the values of a column come from: its group, and the index among its weights.
            let sources: Vec<Option<(usize, usize)>> = (0..order.k())
                .map(|k| order.tap_and_channel(k))
                .map(|k| k.map(|(tap, c)| (c / in_c, c % in_c * kh * kw + tap)))
                .collect();
            let pack = |matrix: usize| {
                let groups: Vec<usize> = (0..n).map(|o| o / (out_c / groups) % read).collect();
                let w_zero = w_zero.as_ref().map(|z| &z[matrix * n..(matrix + 1) * n]);
                PackedB::pack_from(cpu, (order.k(), n), in_c * kh * kw, w_zero, a_sign, |k, o| {
                    match sources[k] {
                        Some((group, i)) if group == groups[o] => {
                            weights[(matrix * n + o) * in_c * kh * kw + i]
                        }
                        _ => 0,
                    }
                })
            };
            let matrices = (0..groups / merged).map(pack).collect::<Result<_, _>>()?;
            let sum = |o: usize| -> i32 {
                let zero = w_zero.as_ref().map_or(0, |z| z[o]);
                weights[o * k..(o + 1) * k].iter().map(|&w| i32::from(w) - zero).sum()
            };
            PackedForm::Gemm { matrices, order, set, sums: (0..out_c).map(sum).collect(), spread }
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

    /// How it multiplies.
    pub fn algorithm(&self) -> Algorithm {
        match self.form {
            PackedForm::Winograd(_) => Algorithm::Winograd,
            _ => Algorithm::Direct,
        }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        match &self.form {
            PackedForm::Gemm { matrices, .. } => matrices.iter().map(PackedB::bytes).sum(),
            PackedForm::Depthwise(packed) => packed.bytes(),
            PackedForm::Winograd(packed) => packed.bytes(),
        }
    }

    /// `Σ (w − w_zero)` per output channel: `bias' = bias − z_x · sum` folds the activations' zero point.
    pub fn weight_sums(&self) -> Vec<i32> {
        match &self.form {
            PackedForm::Gemm { sums, .. } => sums.clone(),
            PackedForm::Depthwise(packed) => packed.weight_sums().to_vec(),
            PackedForm::Winograd(packed) => packed.sums.clone(),
        }
    }
}

/// How many of `groups` groups of `n` columns share a panel: the most that fit it and divide them.
pub(super) fn merged_groups(n: usize, groups: usize) -> usize {
    let most = (NR / n.max(1)).clamp(1, groups.max(1));
    (1..=most).rev().find(|merged| groups.is_multiple_of(*merged)).unwrap_or(1)
}
