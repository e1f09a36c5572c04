//! f32 depthwise convolution over NHWC, vectorized over channels.
//!
//! `y[c] = clamp(bias[c] + Σ_taps x[tap][c]·w[tap][c])`, taps in the order ky, kx, the bias first. Weights are
//! packed `[kh·kw][channels]`. The common windows compute four neighbouring outputs together, with a row of
//! weights in registers.

use std::ops::Range;

use super::lanes::Lanes;
#[cfg(target_arch = "x86_64")]
use super::lanes::{F32x8, F32x16};
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
        // Enough rows that those which windows share are read from memory once.
        let rows = split::rows_per_task(row * kernel[0] * kernel[1]).max(4 * kernel[0]);
        split::chunks(par, y, rows * row, |i, y| {
            self.rows(i * rows, x, y);
        });
        Ok(())
    }

    /// The output rows (of all images, counted through) from `first` on that `y` holds.
    fn rows(&self, first: usize, x: &[f32], y: &mut [f32]) {
        let ConvSpec { in_c, out_c, .. } = *self.geometry.spec();
        match tier(self.cpu) {
            _ if in_c != out_c => rows_multiplied(self, first, x, y),
            Tier::Baseline => rows_by::<wide::f32x8, 1>(self, first, x, y),
            // SAFETY: `cpu` reports this tier only where its features were detected (cpu.rs).
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => unsafe { rows_avx2(self, first, x, y) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => unsafe { rows_avx512(self, first, x, y) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn rows_avx2(conv: &DepthwiseF32, first: usize, x: &[f32], y: &mut [f32]) {
    rows_by::<F32x8, 2>(conv, first, x, y);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn rows_avx512(conv: &DepthwiseF32, first: usize, x: &[f32], y: &mut [f32]) {
    rows_by::<F32x16, 2>(conv, first, x, y);
}

/// Taps of one axis, `k` of `kernel`, that meet the image from output `o` on.
fn taps(spec: &ConvSpec, axis: usize, o: usize) -> Range<usize> {
    let size = [spec.in_h, spec.in_w][axis];
    let (start, step) = (o * spec.strides[axis], spec.dilations[axis]);
    let below = |limit: usize| limit.saturating_sub(start).div_ceil(step).min(spec.kernel[axis]);
    below(spec.pads[axis])..below(spec.pads[axis] + size)
}

/// Output rows with one output channel per input channel. Channels are the outer loop, so that the few rows
/// of input that neighbouring windows share stay in L1; a last block that would be partial overlaps the one
/// before it.
#[inline(always)]
fn rows_by<V: Lanes, const VECTORS: usize>(
    conv: &DepthwiseF32,
    first: usize,
    x: &[f32],
    y: &mut [f32],
) {
    let channels = conv.geometry.spec().in_c;
    let width = VECTORS * V::N;
    if channels >= width {
        for c in (0..channels).step_by(width) {
            block_rows::<V, VECTORS>(conv, first, x, y, c.min(channels - width));
        }
    } else if channels >= V::N {
        for c in (0..channels).step_by(V::N) {
            block_rows::<V, 1>(conv, first, x, y, c.min(channels - V::N));
        }
    } else {
        (0..channels).for_each(|c| block_rows::<f32, 1>(conv, first, x, y, c));
    }
}

/// `VECTORS` vectors of channels from `c` on of [`rows_by`].
#[inline(always)]
fn block_rows<V: Lanes, const VECTORS: usize>(
    conv: &DepthwiseF32,
    first: usize,
    x: &[f32],
    y: &mut [f32],
    c: usize,
) {
    let spec = conv.geometry.spec();
    let (channels, out_w) = (spec.in_c, conv.geometry.out_w());
    let image_len = spec.in_h * spec.in_w * channels;
    let form = (spec.kernel[1], spec.strides[1], spec.dilations[1]);
    let tiled = matches!(form, (3 | 5, 1 | 2, 1)) && out_w >= PIXELS;
    for (r, y) in y.chunks_exact_mut(out_w * channels).enumerate() {
        let (image, oy) =
            ((first + r) / conv.geometry.out_h(), (first + r) % conv.geometry.out_h());
        let image = &x[image * image_len..][..image_len];
        let ky = taps(spec, 0, oy);
        for ox in (0..out_w).step_by(if tiled { PIXELS } else { 1 }) {
            // A last tile that would be partial overlaps the one before it, too.
            let ox = if tiled { ox.min(out_w - PIXELS) } else { ox };
            let (at, ky, y) = ((oy, ox), ky.clone(), &mut y[ox * channels..]);
            match form {
                (3, 1, 1) if tiled => tile::<V, VECTORS, 3, 1>(conv, image, at, ky, c, y),
                (3, 2, 1) if tiled => tile::<V, VECTORS, 3, 2>(conv, image, at, ky, c, y),
                (5, 1, 1) if tiled => tile::<V, VECTORS, 5, 1>(conv, image, at, ky, c, y),
                (5, 2, 1) if tiled => tile::<V, VECTORS, 5, 2>(conv, image, at, ky, c, y),
                _ => pixel::<V, VECTORS>(conv, image, at, ky, c, y),
            }
        }
    }
}

/// [`PIXELS`] neighbouring outputs of an undilated window `KW` wide in steps of `STRIDE`; `y` begins with the
/// first of them. Each input vector is loaded once for all outputs that it belongs to; every output still
/// adds its taps in order.
#[inline(always)]
fn tile<V: Lanes, const VECTORS: usize, const KW: usize, const STRIDE: usize>(
    conv: &DepthwiseF32,
    image: &[f32],
    (oy, ox): (usize, usize),
    ky: Range<usize>,
    c: usize,
    y: &mut [f32],
) {
    let ConvSpec { in_w, in_c: channels, strides, dilations, pads, .. } = *conv.geometry.spec();
    let mut acc = [load::<V, VECTORS>(&conv.bias[c..]); PIXELS];
    for ky in ky {
        let iy = oy * strides[0] + ky * dilations[0] - pads[0];
        let row = &image[iy * in_w * channels..][..in_w * channels];
        let mut w = [[V::splat(0.0); VECTORS]; KW];
        for (k, w) in w.iter_mut().enumerate() {
            *w = load(&conv.weights[(ky * KW + k) * channels + c..]);
        }
        for column in 0..(PIXELS - 1) * STRIDE + KW {
            // Columns to the left of the image wrap around.
            let ix = (ox * STRIDE + column).wrapping_sub(pads[1]);
            if ix < in_w {
                let x = load::<V, VECTORS>(&row[ix * channels + c..]);
                for (p, acc) in acc.iter_mut().enumerate() {
                    let k = column.wrapping_sub(p * STRIDE);
                    if k < KW {
                        for v in 0..VECTORS {
                            acc[v] = x[v].mul_add(w[k][v], acc[v]);
                        }
                    }
                }
            }
        }
    }
    finish(conv, &acc, c, y);
}

/// One output of any window; `y` begins with it.
#[inline(always)]
fn pixel<V: Lanes, const VECTORS: usize>(
    conv: &DepthwiseF32,
    image: &[f32],
    (oy, ox): (usize, usize),
    ky: Range<usize>,
    c: usize,
    y: &mut [f32],
) {
    let spec = conv.geometry.spec();
    let ConvSpec { in_w, in_c: channels, kernel, strides, dilations, pads, .. } = *spec;
    let mut acc = load::<V, VECTORS>(&conv.bias[c..]);
    for ky in ky {
        let iy = oy * strides[0] + ky * dilations[0] - pads[0];
        for kx in taps(spec, 1, ox) {
            let ix = ox * strides[1] + kx * dilations[1] - pads[1];
            let x = load::<V, VECTORS>(&image[(iy * in_w + ix) * channels + c..]);
            let w = load::<V, VECTORS>(&conv.weights[(ky * kernel[1] + kx) * channels + c..]);
            for v in 0..VECTORS {
                acc[v] = x[v].mul_add(w[v], acc[v]);
            }
        }
    }
    finish(conv, &[acc], c, y);
}

/// `VECTORS` vectors from the beginning of `x`.
#[inline(always)]
fn load<V: Lanes, const VECTORS: usize>(x: &[f32]) -> [V; VECTORS] {
    let x = &x[..VECTORS * V::N];
    let mut vectors = [V::splat(0.0); VECTORS];
    for (v, vector) in vectors.iter_mut().enumerate() {
        *vector = V::load(&x[v * V::N..]);
    }
    vectors
}

/// Stores the sums of neighbouring outputs within the activation's limits; `y` begins with the first output.
#[inline(always)]
fn finish<V: Lanes, const P: usize, const VECTORS: usize>(
    conv: &DepthwiseF32,
    acc: &[[V; VECTORS]; P],
    c: usize,
    y: &mut [f32],
) {
    let channels = conv.geometry.spec().in_c;
    let (lo, hi) = (V::splat(conv.activation.lo), V::splat(conv.activation.hi));
    for (p, acc) in acc.iter().enumerate() {
        let y = &mut y[p * channels + c..][..VECTORS * V::N];
        for (v, acc) in acc.iter().enumerate() {
            acc.clamp(lo, hi).store(&mut y[v * V::N..]);
        }
    }
}

/// Output rows with several output channels per input channel, a rare form.
fn rows_multiplied(conv: &DepthwiseF32, first: usize, x: &[f32], y: &mut [f32]) {
    let spec = conv.geometry.spec();
    let multiplier = spec.out_c / spec.in_c;
    for (pixel, y) in y.chunks_exact_mut(spec.out_c).enumerate() {
        let (row, ox) = (first + pixel / conv.geometry.out_w(), pixel % conv.geometry.out_w());
        let (image, oy) = (row / conv.geometry.out_h(), row % conv.geometry.out_h());
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
