//! f32 convolution over NHWC: 1×1 as a matrix product, others by im2col in blocks of output pixels.

use super::gemm::{Matrix, blocks, product};
use super::{Activation, DepthwiseF32};
use crate::conv::{ConvGeometry, ConvSpec};
use crate::cpu::Cpu;
use crate::error::{KernelError, check_at_least, check_backed, check_len, checked_product};
use crate::par::Parallel;
use crate::split;

/// f32 elements of patches per block: they should stay in L2, and the weights that each block packs anew
/// should meet many of them.
const BLOCK: usize = 256 * 1024;

/// A convolution with packed weights.
#[derive(Clone, Debug)]
pub struct ConvF32 {
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Depthwise(DepthwiseF32),
    Gemm(GemmConv),
}

#[derive(Clone, Debug)]
struct GemmConv {
    cpu: Cpu,
    geometry: ConvGeometry,
    /// `[groups][kh·kw·in_c/groups][out_c/groups]`
    weights: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
}

/// The length checks of weights `[out_c, in_c/groups, kh, kw]` and bias; returns the bias, zeros if empty.
pub(super) fn check_weights(
    geometry: &ConvGeometry,
    weights: &[f32],
    bias: &[f32],
) -> Result<Vec<f32>, KernelError> {
    let ConvSpec { in_c, out_c, kernel, groups, .. } = *geometry.spec();
    let of = [out_c, in_c / groups, kernel[0], kernel[1]];
    check_len("weights", weights.len(), checked_product("weights", &of)?)?;
    check_backed("output channels", out_c, weights.len())?;
    if bias.is_empty() {
        return Ok(vec![0.0; out_c]);
    }
    check_len("bias", bias.len(), out_c)?;
    Ok(bias.to_vec())
}

impl ConvF32 {
    /// `weights` is `[out_c, in_c/groups, kh, kw]` (OIHW), packed here once; `bias` has one value per output
    /// channel or is empty.
    ///
    /// # Errors
    /// If a length does not fit.
    pub fn new(
        cpu: Cpu,
        geometry: ConvGeometry,
        weights: &[f32],
        bias: &[f32],
        activation: Activation,
    ) -> Result<Self, KernelError> {
        let ConvSpec { in_c, out_c, kernel, groups, .. } = *geometry.spec();
        if groups > 1 && groups == in_c {
            let depthwise = DepthwiseF32::new(cpu, geometry, weights, bias, activation)?;
            return Ok(Self { form: Form::Depthwise(depthwise) });
        }
        let bias = check_weights(&geometry, weights, bias)?;
        let (n, cg, taps) = (out_c / groups, in_c / groups, kernel[0] * kernel[1]);
        let mut packed = vec![0.0; weights.len()];
        // Without channels there is nothing to pack.
        for (o, w) in weights.chunks((cg * taps).max(1)).enumerate() {
            let group = &mut packed[o / n * (taps * cg * n)..][..taps * cg * n];
            for (c, w) in w.chunks(taps).enumerate() {
                for (t, &w) in w.iter().enumerate() {
                    group[(t * cg + c) * n + o % n] = w;
                }
            }
        }
        Ok(Self { form: Form::Gemm(GemmConv { cpu, geometry, weights: packed, bias, activation }) })
    }

    /// f32 elements of scratch that [`run`](Self::run) takes for `threads` workers.
    pub fn scratch_len(&self, threads: usize) -> usize {
        match &self.form {
            Form::Depthwise(_) => 0,
            Form::Gemm(conv) => conv.block_len().saturating_mul(threads.max(1)),
        }
    }

    /// Computes `y` (NHWC) from `x` (NHWC); `scratch` is for [`scratch_len`](Self::scratch_len) elements.
    ///
    /// # Errors
    /// If a slice does not have the geometry's length, or `scratch` is too short for one worker.
    pub fn run(
        &self,
        par: &dyn Parallel,
        x: &[f32],
        y: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), KernelError> {
        match &self.form {
            Form::Depthwise(depthwise) => depthwise.run(par, x, y),
            Form::Gemm(conv) => conv.run(par, x, y, scratch),
        }
    }
}

impl GemmConv {
    /// Length of a patch of one group.
    fn k(&self) -> usize {
        let ConvSpec { in_c, kernel, groups, .. } = *self.geometry.spec();
        kernel[0] * kernel[1] * (in_c / groups)
    }

    /// Output pixels per block, by the shape alone.
    fn block_pixels(&self) -> usize {
        let ConvSpec { out_c, groups, .. } = *self.geometry.spec();
        if self.geometry.is_pointwise() {
            return blocks(self.geometry.pixels(), out_c, self.k())[0];
        }
        let in_cache = (BLOCK / self.k().max(1)).clamp(64, 1024) / 16 * 16;
        let shared = blocks(self.geometry.pixels(), out_c / groups, self.k())[0];
        in_cache.min(shared.max(16))
    }

    fn block_len(&self) -> usize {
        if self.geometry.is_pointwise() { 0 } else { self.block_pixels() * self.k() }
    }

    fn run(
        &self,
        par: &dyn Parallel,
        x: &[f32],
        y: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), KernelError> {
        check_len("x", x.len(), self.geometry.input_len())?;
        check_len("y", y.len(), self.geometry.output_len())?;
        check_at_least("scratch", scratch.len(), self.block_len())?;
        if y.is_empty() {
            return Ok(());
        }
        let ConvSpec { in_c, out_c, groups, .. } = *self.geometry.spec();
        let (k, n) = (self.k(), out_c / groups);
        let pointwise = self.geometry.is_pointwise();
        let block = [
            self.block_pixels(),
            if pointwise { blocks(self.geometry.pixels(), n, k)[1] } else { n },
        ];
        split::rects_with(par, y, out_c, block, scratch, self.block_len(), |mut rect, patches| {
            let group = rect.cols.start / n;
            let b = Matrix { data: &self.weights[group * k * n..][..k * n], row: n, column: 1 };
            let b = b.right_of(rect.cols.start % n);
            let a = if pointwise {
                Matrix { data: &x[rect.rows.start * in_c..], row: k, column: 1 }
            } else {
                self.gather(x, group, rect.rows.clone(), patches);
                Matrix { data: patches, row: k, column: 1 }
            };
            product(self.cpu, &mut rect, a, b, k, 1.0);
            let bias = &self.bias[rect.cols.clone()];
            self.activation.finish(&mut rect, bias);
        });
        Ok(())
    }

    /// Writes the patches of the output pixels `pixels` (of all images, counted through), rows of K elements
    /// in the order ky, kx, channel.
    fn gather(&self, x: &[f32], group: usize, pixels: std::ops::Range<usize>, patches: &mut [f32]) {
        let ConvSpec { in_h, in_w, in_c, kernel, strides, dilations, pads, groups, .. } =
            *self.geometry.spec();
        let cg = in_c / groups;
        if cg == 0 {
            return;
        }
        let (out_h, out_w) = (self.geometry.out_h(), self.geometry.out_w());
        let mut taps = patches.chunks_exact_mut(kernel[1] * cg);
        for pixel in pixels {
            let (image, oy, ox) = (pixel / (out_h * out_w), pixel / out_w % out_h, pixel % out_w);
            for ky in 0..kernel[0] {
                let Some(row) = taps.next() else { return };
                let iy = (oy * strides[0] + ky * dilations[0]).wrapping_sub(pads[0]);
                if iy >= in_h {
                    row.fill(0.0);
                    continue;
                }
                let x = &x[(image * in_h + iy) * in_w * in_c..][..in_w * in_c];
                let left = (ox * strides[1]).wrapping_sub(pads[1]);
                // With all channels and no dilation the taps of a kernel row are one run of memory.
                if groups == 1 && dilations[1] == 1 && left < in_w && left + kernel[1] <= in_w {
                    row.copy_from_slice(&x[left * cg..][..row.len()]);
                    continue;
                }
                for (kx, tap) in row.chunks_exact_mut(cg).enumerate() {
                    let ix = left.wrapping_add(kx * dilations[1]);
                    if ix < in_w {
                        tap.copy_from_slice(&x[ix * in_c + group * cg..][..cg]);
                    } else {
                        tap.fill(0.0);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::par::Serial;
    use crate::split::testing::{cpus, pool};
    use proptest::prelude::*;

    /// The definition in f64.
    fn naive(g: &ConvGeometry, x: &[f32], w: &[f32], bias: &[f32], act: Activation) -> Vec<f64> {
        let ConvSpec { batch, in_h, in_w, in_c, out_c, kernel, strides, dilations, pads, groups } =
            *g.spec();
        let (cg, n) = (in_c / groups, out_c / groups);
        let mut y = Vec::with_capacity(g.output_len());
        for b in 0..batch {
            for oy in 0..g.out_h() {
                for ox in 0..g.out_w() {
                    for o in 0..out_c {
                        let mut sum = f64::from(bias[o]);
                        for ky in 0..kernel[0] {
                            for kx in 0..kernel[1] {
                                let iy =
                                    (oy * strides[0] + ky * dilations[0]).wrapping_sub(pads[0]);
                                let ix =
                                    (ox * strides[1] + kx * dilations[1]).wrapping_sub(pads[1]);
                                if iy >= in_h || ix >= in_w {
                                    continue;
                                }
                                for c in 0..cg {
                                    let xv =
                                        x[((b * in_h + iy) * in_w + ix) * in_c + o / n * cg + c];
                                    let wv = w[((o * cg + c) * kernel[0] + ky) * kernel[1] + kx];
                                    sum += f64::from(xv) * f64::from(wv);
                                }
                            }
                        }
                        y.push(sum.clamp(f64::from(act.lo), f64::from(act.hi)));
                    }
                }
            }
        }
        y
    }

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let step = |i: usize| (i as u32).wrapping_add(seed).wrapping_mul(2_654_435_761);
        (0..n).map(|i| (step(i) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    fn geometry() -> impl Strategy<Value = ConvGeometry> {
        let axis = (1usize..4, 1usize..3, 1usize..3, 0usize..3, 0usize..3, 1usize..14);
        (
            1usize..3,
            axis.clone(),
            axis,
            1usize..5,
            1usize..5,
            prop::sample::select(vec![1usize, 2, 3, 5, 9, 17]),
            0..4,
        )
            .prop_map(|(batch, h, w, cg, og, groups, form)| {
                let (cg, og, groups) = match form {
                    0 => (cg * groups, og * groups, 1),
                    1 => (1, 1, groups),
                    2 => (1, og, groups),
                    _ => (cg, og, groups),
                };
                let spec = ConvSpec {
                    batch,
                    in_h: h.5 + (h.0 - 1) * h.2,
                    in_w: w.5 + (w.0 - 1) * w.2,
                    in_c: cg * groups,
                    out_c: og * groups,
                    kernel: [h.0, w.0],
                    strides: [h.1, w.1],
                    dilations: [h.2, w.2],
                    pads: [h.3, w.3, h.4, w.4],
                    groups,
                };
                ConvGeometry::new(spec).unwrap()
            })
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(g in geometry(), seed: u32, relu: bool) {
            let ConvSpec { in_c, out_c, kernel, groups, .. } = *g.spec();
            let x = noise(g.input_len(), seed);
            let w = noise(out_c * (in_c / groups) * kernel[0] * kernel[1], seed ^ 77);
            let bias = noise(out_c, seed ^ 99);
            let act = if relu { Activation { lo: 0.0, hi: 1.5 } } else { Activation::NONE };
            let want = naive(&g, &x, &w, &bias, act);
            let mut first: Option<Vec<f32>> = None;
            for cpu in cpus() {
                let conv = ConvF32::new(cpu, g, &w, &bias, act).unwrap();
                let (mut y, mut z) = (vec![9.0; want.len()], vec![9.0; want.len()]);
                conv.run(&Serial, &x, &mut y, &mut vec![0.0; conv.scratch_len(1)]).unwrap();
                conv.run(&pool(), &x, &mut z, &mut vec![0.0; conv.scratch_len(3)]).unwrap();
                prop_assert_eq!(&y, &z, "threads");
                prop_assert_eq!(&y, first.get_or_insert_with(|| y.clone()), "{}", cpu.isa());
                for (&y, &w) in y.iter().zip(&want) {
                    prop_assert!((f64::from(y) - w).abs() < 1e-4, "{} {y} {w}", cpu.isa());
                }
            }
        }
    }

    const SPEC: ConvSpec = ConvSpec {
        batch: 1,
        in_h: 4,
        in_w: 4,
        in_c: 2,
        out_c: 3,
        kernel: [3, 3],
        strides: [1, 1],
        dilations: [1, 1],
        pads: [0; 4],
        groups: 1,
    };

    #[test]
    fn of_no_channels_the_bias_is_left() {
        let g = ConvGeometry::new(ConvSpec { in_c: 0, ..SPEC }).unwrap();
        for cpu in cpus() {
            let conv = ConvF32::new(cpu, g, &[], &[1.0, 2.0, 3.0], Activation::NONE).unwrap();
            let mut y = [9.0; 12];
            conv.run(&Serial, &[], &mut y, &mut vec![0.0; conv.scratch_len(1)]).unwrap();
            assert_eq!(y, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        }
    }

    #[test]
    fn lengths_are_checked() {
        let g = ConvGeometry::new(SPEC).unwrap();
        let new = |w: usize, b: usize| {
            ConvF32::new(Cpu::detect(), g, &vec![0.0; w], &vec![0.0; b], Activation::NONE)
        };
        assert!(new(53, 3).is_err() && new(54, 2).is_err());
        let conv = new(54, 0).unwrap();
        let (x, mut y, mut s) = ([0.0; 32], [0.0; 12], vec![0.0; conv.scratch_len(1)]);
        conv.run(&Serial, &x, &mut y, &mut s).unwrap();
        assert!(conv.run(&Serial, &x[1..], &mut y, &mut s).is_err());
        assert!(conv.run(&Serial, &x, &mut y[1..], &mut s).is_err());
        assert!(conv.run(&Serial, &x, &mut y, &mut s[1..]).is_err());
    }
}
