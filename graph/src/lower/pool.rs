//! Pools and reductions.

use super::conv::Window;
use super::elementwise::{codes, half_even, only};
use super::requant::affine8;
use super::{Builder, Reason, Site};
use crate::exec::step::Kernel;
use requant_ir::{DType, Layout, Op, PoolAttrs, PoolKind, QOut, ReduceKind};
use requant_kernels::conv::ConvSpec;
use requant_kernels::float::{Reduce, ReduceOp};
use requant_kernels::pool::{
    AveragePool8, AveragePoolF32, GlobalAveragePool8, MaxPool8, MaxPoolF32, PoolShape,
};
use requant_kernels::sign::Sign;

pub(super) fn lower(b: &mut Builder<'_>, site: &Site<'_>) -> Result<(), Reason> {
    match site.op {
        Op::Pool(pool) => windowed(b, site, pool, None),
        Op::QPool { pool, out } => match whole_image(site, pool)? {
            Some(axes) => mean(b, site, &axes, out),
            None => windowed(b, site, pool, Some(out)),
        },
        Op::QMean { axes, out, .. } => {
            let rank = site.dims(0)?.len();
            let axes = axes.iter().map(|&a| Site::axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
            mean(b, site, &axes, out)
        }
        Op::Reduce { kind, axes, .. } => reduce(b, site, *kind, axes),
        _ => Err(Reason::new("not a pool")),
    }
}

fn windowed(
    b: &mut Builder<'_>,
    site: &Site<'_>,
    pool: &PoolAttrs,
    out: Option<&QOut>,
) -> Result<(), Reason> {
    let (x, y) = (site.dims(0)?, site.out_dims(0)?);
    let window =
        Window::new(&x, &pool.kernel, &pool.strides, &pool.dilations, &pool.padding, pool.layout)?;
    let spatial = match pool.layout {
        Layout::ChannelsFirst => &y[2..],
        Layout::ChannelsLast => &y[1..y.len() - 1],
    };
    let ConvSpec { batch, in_h, in_w, in_c, kernel, strides, dilations, pads, .. } = window.spec;
    let shape = PoolShape {
        batch,
        height: in_h,
        width: in_w,
        channels: in_c,
        kernel,
        stride: strides,
        dilation: dilations,
        pads,
        out: if spatial.len() == 1 { [1, spatial[0]] } else { [spatial[0], spatial[1]] },
    };
    let cpu = b.target.cpu;
    let (kernel, element) = match (pool.kind, out, codes(site, 0)?) {
        (PoolKind::Max, None, Some(sign)) => {
            (Kernel::QMaxPool(Box::new(MaxPool8::new(cpu, shape, sign)?)), DType::U8)
        }
        (PoolKind::Max, None, None) => {
            only(site, 0, DType::F32)?;
            (Kernel::MaxPool(Box::new(MaxPoolF32::new(cpu, shape)?)), DType::F32)
        }
        (PoolKind::Average { count_include_pad }, None, None) => {
            only(site, 0, DType::F32)?;
            let pool = AveragePoolF32::new(cpu, shape, count_include_pad)?;
            (Kernel::AveragePool(Box::new(pool)), DType::F32)
        }
        (PoolKind::Average { count_include_pad }, Some(out), Some(_)) => {
            let (sign, from, to) = sides(site, out)?;
            let pool = AveragePool8::new(cpu, shape, sign, from, to, count_include_pad)?;
            (Kernel::QAveragePool(Box::new(pool)), DType::U8)
        }
        _ => return Err(Reason::new("no kernel computes this kind of pool on these types")),
    };
    let from = b.read(site, 0)?;
    let from = window.to_channels_last(b, from, &x, element)?;
    let to = b.output(site, 0);
    window.around(b, to, &y, element, |b, to| b.step(kernel, [from], to, 0))
}

/// Storage of operand and result, then scale and zero point of each.
type Sides = (Sign, (f32, i32), (f32, i32));

/// Scale and zero point of an average's operand and result, which share one storage type.
fn sides(site: &Site<'_>, out: &QOut) -> Result<Sides, Reason> {
    half_even(out)?;
    if out.clamp.is_some() {
        return Err(Reason::new("no pool kernel clamps its result"));
    }
    let (x_sign, sx, zx) = affine8(&site.ty(0)?.elem)?;
    let (sign, sy, zy) = affine8(&out.elem)?;
    if x_sign != sign {
        return Err(Reason::new("s8 and u8 meet in one operation"));
    }
    Ok((sign, (sx, zx), (sy, zy)))
}

/// The spatial axes, if the one window is the whole image without padding.
fn whole_image(site: &Site<'_>, pool: &PoolAttrs) -> Result<Option<Vec<usize>>, Reason> {
    let (x, y) = (site.dims(0)?, site.out_dims(0)?);
    let axes: Vec<usize> = match pool.layout {
        Layout::ChannelsFirst => (2..x.len()).collect(),
        Layout::ChannelsLast => (1..x.len() - 1).collect(),
    };
    let unpadded = match &pool.padding {
        requant_ir::Padding::Explicit(pads) => pads.iter().all(|&p| p == 0),
        _ => false,
    };
    let whole = axes.iter().zip(&pool.kernel).all(|(&a, &k)| x[a] == k && y[a] == 1);
    let dense = pool.dilations.iter().all(|&d| d == 1);
    Ok((unpadded && whole && dense).then_some(axes))
}

/// The mean over adjacent axes.
fn mean(b: &mut Builder<'_>, site: &Site<'_>, axes: &[usize], out: &QOut) -> Result<(), Reason> {
    let dims = site.dims(0)?;
    let mut axes = if axes.is_empty() { (0..dims.len()).collect() } else { axes.to_vec() };
    axes.sort_unstable();
    let (Some(&first), Some(&last)) = (axes.first(), axes.last()) else {
        return Err(Reason::new("a mean of a scalar"));
    };
    if last - first + 1 != axes.len() {
        return Err(Reason::new("the reduced axes are not adjacent"));
    }
    let (sign, from, to) = sides(site, out)?;
    let shape = [
        dims[..first].iter().product(),
        dims[first..=last].iter().product(),
        dims[last + 1..].iter().product(),
    ];
    let pool = GlobalAveragePool8::new(b.target.cpu, shape, sign, from, to)?;
    let x = b.read(site, 0)?;
    let y = b.output(site, 0);
    b.step(Kernel::QGlobalAveragePool(Box::new(pool)), [x], y, 0);
    Ok(())
}

fn reduce(
    b: &mut Builder<'_>,
    site: &Site<'_>,
    kind: ReduceKind,
    axes: &[i64],
) -> Result<(), Reason> {
    only(site, 0, DType::F32)?;
    let op = match kind {
        ReduceKind::Mean => ReduceOp::Mean,
        ReduceKind::Sum => ReduceOp::Sum,
        ReduceKind::Max => ReduceOp::Max,
        ReduceKind::Min => ReduceOp::Min,
        ReduceKind::Prod => return Err(Reason::new("no kernel computes products along an axis")),
    };
    let dims = site.dims(0)?;
    let axes: Vec<usize> = match axes {
        [] => (0..dims.len()).collect(),
        axes => axes.iter().map(|&a| Site::axis(a, dims.len())).collect::<Result<_, _>>()?,
    };
    let kernel = Kernel::Reduce(Box::new(Reduce::new(b.target.cpu, op, &dims, &axes)?));
    let x = b.read(site, 0)?;
    let y = b.output(site, 0);
    b.step(kernel, [x], y, 0);
    Ok(())
}
