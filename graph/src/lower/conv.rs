//! Convolutions: window geometry, channels-last order around the kernels, epilogues.

use super::requant::{accumulator, affine8, folded_bias};
use super::weights::Weights;
use super::{Builder, Place, Reason, Site, float, movement};
use crate::exec::step::{Kernel, ProductResult};
use crate::infer;
use requant_ir::{ConvAttrs, DType, Layout, Op, Padding, QOut, Residual};
use requant_kernels::conv::{Conv, ConvGeometry, ConvSpec};

pub(super) fn lower(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), Reason> {
    match site.op {
        Op::QConv { conv, out, zero_folded, residual } => {
            integer(b, site, conv, out, *zero_folded, residual.as_ref())
        }
        Op::Conv(conv) => float::conv(b, site, conv),
        _ => Err(Reason::new("not a convolution")),
    }
}

fn integer(
    b: &mut Builder<'_>,
    site: &Site<'_>,
    attrs: &ConvAttrs,
    out: &QOut,
    zero_folded: bool,
    residual: Option<&Residual>,
) -> Result<(), Reason> {
    let window = Window::of_conv(attrs, &site.dims(0)?, &site.dims(1)?)?;
    let (x_sign, x_scale, x_zero) = affine8(&site.ty(0)?.elem)?;
    let (weights, w_scales) = constant_weights(site, 1)?;
    let packed = b.target.weights.conv(b.target.cpu, &weights, window.spec.weights(), x_sign)?;
    let bias = folded_bias(site, 2, x_zero, zero_folded, &packed.weight_sums())?;
    let residual_ty = if residual.is_some() { Some(&site.ty(3)?.elem) } else { None };
    let output = accumulator(x_scale, w_scales, out, residual.zip(residual_ty))?;
    let geometry = ConvGeometry::new(window.spec)?;
    let conv = Conv::new(geometry, packed, &bias, x_zero as u8, &output)?;
    let scratch = conv.scratch_bytes(b.target.threads);

    b.fate().macs = window.macs(&geometry);
    let x = b.read(site, 0)?;
    let mut reads = vec![window.to_channels_last(b, x, &site.dims(0)?, DType::U8)?];
    if residual.is_some() {
        if site.dims(3)? != site.out_dims(0)? {
            return Err(Reason::new("the residual operand is broadcast"));
        }
        let r = b.read(site, 3)?;
        reads.push(window.to_channels_last(b, r, &site.dims(3)?, DType::U8)?);
    }
    let y = b.output(site, 0);
    let result = ProductResult::new(&out.elem);
    let element = if result == ProductResult::Accumulators { DType::I32 } else { DType::U8 };
    window.around(b, y, &site.out_dims(0)?, element, |b, y| {
        b.step(Kernel::QConv(Box::new(conv), result), reads, y, scratch);
    })
}

/// Constant 8-bit weights and their scales; per-axis ones must belong to the output channels (axis 0).
fn constant_weights<'g>(site: &Site<'g>, i: usize) -> Result<(Weights<'g>, &'g [f32]), Reason> {
    let constant = site.constant(i).ok_or_else(|| Reason::new("the weights are not a constant"))?;
    let weights = Weights::new(constant).ok_or_else(|| {
        Reason::new(format!(
            "no integer kernel takes {} weights of this quantization",
            constant.dtype()
        ))
    })?;
    let quant = constant
        .elem()
        .quant
        .as_ref()
        .ok_or_else(|| Reason::new("the weights are not quantized"))?;
    if quant.axis().is_some_and(|a| a != 0) {
        return Err(Reason::new(
            "the weights are quantized along an axis that is not the output channel",
        ));
    }
    Ok((weights, quant.scales()))
}

/// A convolution's or pool's geometry in the kernels' terms.
pub(super) struct Window {
    pub(super) spec: ConvSpec,
    layout: Layout,
}

impl Window {
    pub(super) fn of_conv(attrs: &ConvAttrs, x: &[usize], w: &[usize]) -> Result<Self, Reason> {
        let kernel = w.get(2..).ok_or_else(|| Reason::new("the weights have no spatial axes"))?;
        let window =
            Self::new(x, kernel, &attrs.strides, &attrs.dilations, &attrs.padding, attrs.layout)?;
        Ok(Window { spec: ConvSpec { out_c: w[0], groups: attrs.groups, ..window.spec }, ..window })
    }

    /// One or two spatial axes; one is taken as an image of height 1. `out_c` and `groups` are those of a
    /// depthwise operation.
    pub(super) fn new(
        x: &[usize],
        kernel: &[usize],
        strides: &[usize],
        dilations: &[usize],
        padding: &Padding,
        layout: Layout,
    ) -> Result<Self, Reason> {
        let spatial = x.len().saturating_sub(2);
        if !(1..=2).contains(&spatial)
            || [kernel, strides, dilations].iter().any(|v| v.len() != spatial)
        {
            return Err(Reason::new(format!(
                "kernels have one or two spatial axes, this has {spatial}"
            )));
        }
        let (size, channels) = match layout {
            Layout::ChannelsFirst => (&x[2..], x[1]),
            Layout::ChannelsLast => (&x[1..x.len() - 1], x[x.len() - 1]),
        };
        let mut pads = vec![0; 2 * spatial];
        for (i, (&size, &kernel)) in size.iter().zip(kernel).enumerate() {
            // The number of windows is the caller's business, and with it rounding up.
            let axis =
                infer::window(i, spatial, size, kernel, (strides, dilations), padding, false)
                    .ok_or_else(|| Reason::new("the window does not fit the input"))?;
            (pads[i], pads[spatial + i]) = (axis.begin, axis.end);
        }
        let pair = |v: &[usize], one: usize| match *v {
            [w] => [one, w],
            [h, w] => [h, w],
            _ => [one, one],
        };
        let ([top, left], [bottom, right]) = (pair(&pads[..spatial], 0), pair(&pads[spatial..], 0));
        let [in_h, in_w] = pair(size, 1);
        Ok(Window {
            spec: ConvSpec {
                batch: x[0],
                in_h,
                in_w,
                in_c: channels,
                out_c: channels,
                kernel: pair(kernel, 1),
                strides: pair(strides, 1),
                dilations: pair(dilations, 1),
                pads: [top, left, bottom, right],
                groups: channels.max(1),
            },
            layout,
        })
    }

    pub(super) fn macs(&self, geometry: &ConvGeometry) -> u64 {
        let ConvSpec { in_c, kernel, groups, .. } = self.spec;
        geometry.output_len() as u64 * (in_c / groups.max(1) * kernel[0] * kernel[1]) as u64
    }

    /// `x` of shape `dims` in channels-last order, through a copy if it is not.
    pub(super) fn to_channels_last(
        &self,
        b: &mut Builder<'_>,
        x: Place,
        dims: &[usize],
        element: DType,
    ) -> Result<Place, Reason> {
        match self.layout {
            Layout::ChannelsLast => Ok(x),
            Layout::ChannelsFirst => {
                let perm: Vec<usize> = [0].into_iter().chain(2..dims.len()).chain([1]).collect();
                let y = b.buffer(x.bytes);
                movement::transpose(b, x, dims, &perm, element, y)?;
                Ok(y)
            }
        }
    }

    /// Lets `emit` write the result `y` of shape `dims` in channels-last order, and copies it to the
    /// operator's own order if that is another.
    pub(super) fn around<'g>(
        &self,
        b: &mut Builder<'g>,
        y: Place,
        dims: &[usize],
        element: DType,
        emit: impl FnOnce(&mut Builder<'g>, Place),
    ) -> Result<(), Reason> {
        match self.layout {
            Layout::ChannelsLast => emit(b, y),
            Layout::ChannelsFirst => {
                let rank = dims.len();
                let last = b.buffer(y.bytes);
                emit(b, last);
                let inner: Vec<usize> = [dims[0]]
                    .into_iter()
                    .chain(dims[2..].iter().copied())
                    .chain([dims[1]])
                    .collect();
                let perm: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
                movement::transpose(b, last, &inner, &perm, element, y)?;
            }
        }
        Ok(())
    }
}
