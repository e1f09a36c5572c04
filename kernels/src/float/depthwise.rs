//! f32 depthwise convolution over NHWC, vectorized over channels.
//!
//! `y[c] = clamp(bias[c] + Σ_taps x[tap][c]·w[tap][c])`, taps in the order ky, kx, the bias first. Weights are
//! packed `[kh·kw][channels]`. Four neighbouring outputs share each weight vector where their windows lie
//! inside the image.

use super::lanes::{Fused, Lanes};
use super::{Activation, conv::check_weights};
use crate::conv::{ConvGeometry, ConvSpec};
use crate::cpu::Cpu;
use crate::error::{KernelError, check_len};
use crate::multiversion::{Tier, tier};
use crate::par::Parallel;
use crate::split;

/// Outputs computed together.
const PIXELS: usize = 4;

/// A depthwise convolution: as many groups as input channels.
#[derive(Clone, Debug)]
pub struct DepthwiseF32 {
    cpu: Cpu,
    geometry: ConvGeometry,
    weights: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
}

impl DepthwiseF32 {
    /// `weights` is `[out_c, 1, kh, kw]` (OIHW), `bias` one value per output channel or empty.
    ///
    /// # Errors
    /// If the convolution is not depthwise or a length does not fit.
    pub fn new(
        cpu: Cpu,
        geometry: ConvGeometry,
        weights: &[f32],
        bias: &[f32],
        activation: Activation,
    ) -> Result<Self, KernelError> {
        let ConvSpec { in_c, out_c, kernel, groups, .. } = *geometry.spec();
        if groups != in_c {
            return Err(KernelError::invalid(
                "the number of groups",
                groups,
                "the number of input channels",
            ));
        }
        let bias = check_weights(&geometry, weights, bias)?;
        let taps = kernel[0] * kernel[1];
        let mut packed = vec![0.0; weights.len()];
        for (c, w) in weights.chunks(taps).enumerate() {
            for (t, &w) in w.iter().enumerate() {
                packed[t * out_c + c] = w;
            }
        }
        Ok(Self { cpu, geometry, weights: packed, bias, activation })
    }

    /// Computes `y` (NHWC) from `x` (NHWC).
    ///
    /// # Errors
    /// If a slice is not of the geometry's length.
    pub fn run(&self, par: &dyn Parallel, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        check_len("x", x.len(), self.geometry.input_len())?;
        check_len("y", y.len(), self.geometry.output_len())?;
        if y.is_empty() {
            return Ok(());
        }
        let ConvSpec { out_c, kernel, .. } = *self.geometry.spec();
        let row = self.geometry.out_w() * out_c;
        let rows = split::rows_per_task(row * kernel[0] * kernel[1]);
        split::chunks(par, y, rows * row, |i, y| {
            for (r, y) in y.chunks_mut(row).enumerate() {
                self.row(i * rows + r, x, y);
            }
        });
        Ok(())
    }

    fn row(&self, row: usize, x: &[f32], y: &mut [f32]) {
        let ConvSpec { in_c, out_c, .. } = *self.geometry.spec();
        match tier(self.cpu) {
            _ if in_c != out_c => row_multiplied(self, row, x, y),
            Tier::Baseline => row_by::<wide::f32x8>(self, row, x, y),
            // SAFETY: `cpu` reports this tier only where its features were detected (cpu.rs).
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => unsafe { row_avx2(self, row, x, y) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => unsafe { row_avx512(self, row, x, y) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn row_avx2(conv: &DepthwiseF32, row: usize, x: &[f32], y: &mut [f32]) {
    row_by::<Fused<8>>(conv, row, x, y);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn row_avx512(conv: &DepthwiseF32, row: usize, x: &[f32], y: &mut [f32]) {
    row_by::<Fused<16>>(conv, row, x, y);
}

/// Taps of one axis, `k` of `kernel`, that meet the image from output `o` on.
fn taps(spec: &ConvSpec, axis: usize, o: usize) -> std::ops::Range<usize> {
    let size = [spec.in_h, spec.in_w][axis];
    let (start, step) = (o * spec.strides[axis], spec.dilations[axis]);
    let below = |limit: usize| limit.saturating_sub(start).div_ceil(step).min(spec.kernel[axis]);
    below(spec.pads[axis])..below(spec.pads[axis] + size)
}

/// One output row with one output channel per input channel.
#[inline(always)]
fn row_by<V: Lanes>(conv: &DepthwiseF32, row: usize, x: &[f32], y: &mut [f32]) {
    let spec = conv.geometry.spec();
    let (image, oy) = (row / conv.geometry.out_h(), row % conv.geometry.out_h());
    let ky = taps(spec, 0, oy);
    let image =
        &x[image * spec.in_h * spec.in_w * spec.in_c..][..spec.in_h * spec.in_w * spec.in_c];
    let (c, whole) = (spec.in_c, 0..spec.kernel[1]);
    let mut ox = 0;
    while ox < conv.geometry.out_w() {
        let together = ox + PIXELS <= conv.geometry.out_w()
            && taps(spec, 1, ox) == whole
            && taps(spec, 1, ox + PIXELS - 1) == whole;
        if together {
            pixels::<V, PIXELS>(
                conv,
                image,
                (oy, ox),
                ky.clone(),
                whole.clone(),
                &mut y[ox * c..][..PIXELS * c],
            );
            ox += PIXELS;
        } else {
            pixels::<V, 1>(
                conv,
                image,
                (oy, ox),
                ky.clone(),
                taps(spec, 1, ox),
                &mut y[ox * c..][..c],
            );
            ox += 1;
        }
    }
}

/// `P` neighbouring outputs, all of whose windows meet the image in the taps `ky` × `kx`.
#[inline(always)]
fn pixels<V: Lanes, const P: usize>(
    conv: &DepthwiseF32,
    image: &[f32],
    (oy, ox): (usize, usize),
    ky: std::ops::Range<usize>,
    kx: std::ops::Range<usize>,
    y: &mut [f32],
) {
    let ConvSpec { in_w, in_c: channels, kernel, strides, dilations, pads, .. } =
        *conv.geometry.spec();
    let (lo, hi) = (V::splat(conv.activation.lo), V::splat(conv.activation.hi));
    let first = ox * strides[1];
    for c in (0..channels).step_by(V::N) {
        let n = V::N.min(channels - c);
        let load = |x: &[f32]| if n == V::N { V::load(x) } else { V::load_part(&x[..n]) };
        let mut acc = [load(&conv.bias[c..]); P];
        for ky in ky.clone() {
            let iy = oy * strides[0] + ky * dilations[0] - pads[0];
            let x = &image[iy * in_w * channels..][..in_w * channels];
            let w = &conv.weights[ky * kernel[1] * channels..][..kernel[1] * channels];
            for kx in kx.clone() {
                let ix = first + kx * dilations[1] - pads[1];
                let w = load(&w[kx * channels + c..]);
                for (p, acc) in acc.iter_mut().enumerate() {
                    *acc = load(&x[(ix + p * strides[1]) * channels + c..]).mul_add(w, *acc);
                }
            }
        }
        for (acc, y) in acc.iter().zip(y.chunks_exact_mut(channels)) {
            let v = acc.clamp(lo, hi);
            if n == V::N { v.store(&mut y[c..]) } else { v.store_part(&mut y[c..][..n]) }
        }
    }
}

/// One output row with several output channels per input channel, a rare form.
fn row_multiplied(conv: &DepthwiseF32, row: usize, x: &[f32], y: &mut [f32]) {
    let spec = conv.geometry.spec();
    let (image, oy) = (row / conv.geometry.out_h(), row % conv.geometry.out_h());
    let multiplier = spec.out_c / spec.in_c;
    for (ox, y) in y.chunks_exact_mut(spec.out_c).enumerate() {
        y.copy_from_slice(&conv.bias);
        for ky in taps(spec, 0, oy) {
            let iy = oy * spec.strides[0] + ky * spec.dilations[0] - spec.pads[0];
            for kx in taps(spec, 1, ox) {
                let ix = ox * spec.strides[1] + kx * spec.dilations[1] - spec.pads[1];
                let x = &x[((image * spec.in_h + iy) * spec.in_w + ix) * spec.in_c..][..spec.in_c];
                let w = &conv.weights[(ky * spec.kernel[1] + kx) * spec.out_c..][..spec.out_c];
                for ((y, w), x) in
                    y.chunks_exact_mut(multiplier).zip(w.chunks_exact(multiplier)).zip(x)
                {
                    y.iter_mut().zip(w).for_each(|(y, w)| *y += w * x);
                }
            }
        }
        y.iter_mut().for_each(|y| *y = conv.activation.apply(*y));
    }
}
