//! Attributes of convolutions and pools: strides, padding, dilations.

use super::super::cx::Cx;
use super::super::error::{Failure, malformed, of_operand, unsupported};
use crate::{ConvAttrs, Layout, Padding, PoolAttrs, PoolKind};

struct Window {
    kernel: Option<Vec<usize>>,
    strides: Vec<usize>,
    padding: Padding,
    dilations: Vec<usize>,
}

/// `spatial` is the number of spatial axes where an operand tells it; otherwise the attributes do.
fn window(cx: &mut Cx<'_, '_>, spatial: Option<usize>) -> Result<Window, Failure> {
    let kernel = extents(cx, "kernel_shape", 1)?;
    let strides = extents(cx, "strides", 1)?;
    let dilations = extents(cx, "dilations", 1)?;
    let pads = extents(cx, "pads", 0)?;
    let known = [&kernel, &strides, &dilations].into_iter().find_map(|v| Some(v.as_ref()?.len()));
    let Some(n) = spatial.or(known).or(pads.as_ref().map(|p| p.len() / 2)) else {
        return of_operand("an operand of unknown rank");
    };
    for (name, list, len) in [
        ("kernel_shape", &kernel, n),
        ("strides", &strides, n),
        ("dilations", &dilations, n),
        ("pads", &pads, 2 * n),
    ] {
        if let Some(list) = list
            && list.len() != len
        {
            return malformed(format!("{} `{name}`, but {len} are needed", list.len()));
        }
    }
    if n == 0 {
        return malformed("no spatial axis");
    }
    if n > 2 {
        return unsupported(format!("{n} spatial axes"));
    }
    // `pads` has no meaning beside an automatic padding; ONNX Runtime ignores it too.
    let padding = match cx.attrs.string("auto_pad")?.unwrap_or("NOTSET") {
        "NOTSET" | "" => Padding::Explicit(pads.unwrap_or_else(|| vec![0; 2 * n])),
        "VALID" => Padding::Explicit(vec![0; 2 * n]),
        "SAME_UPPER" => Padding::SameUpper,
        "SAME_LOWER" => Padding::SameLower,
        other => return malformed(format!("`auto_pad` is `{other}`")),
    };
    Ok(Window {
        kernel,
        strides: strides.unwrap_or_else(|| vec![1; n]),
        padding,
        dilations: dilations.unwrap_or_else(|| vec![1; n]),
    })
}

/// Numbers of at least `min`, and below 2³¹ so that sums and products with extents stay in range.
fn extents(cx: &mut Cx<'_, '_>, name: &str, min: i64) -> Result<Option<Vec<usize>>, Failure> {
    let Some(list) = cx.attrs.ints(name)? else { return Ok(None) };
    let checked = list.iter().map(|&v| {
        if v < min || v > i64::from(i32::MAX) {
            return malformed(format!("`{name}` has {v}, at least {min} expected"));
        }
        Ok(v as usize)
    });
    checked.collect::<Result<_, _>>().map(Some)
}

/// Geometry of a convolution with weights of shape `weights`, as far as it is known.
pub(super) fn conv(
    cx: &mut Cx<'_, '_>,
    x_rank: Option<usize>,
    w_rank: Option<usize>,
    weights: Option<&[usize]>,
) -> Result<ConvAttrs, Failure> {
    let Some(spatial) = w_rank.or(x_rank).map(|r| r.checked_sub(2)) else {
        return of_operand("operands of unknown rank");
    };
    let Some(spatial) = spatial else { return malformed("weights without spatial axes") };
    let w = window(cx, Some(spatial))?;
    if let (Some(kernel), Some(dims)) = (&w.kernel, weights)
        && dims.get(2..) != Some(kernel.as_slice())
    {
        return malformed(format!("`kernel_shape` is {kernel:?}, but the weights are {dims:?}"));
    }
    let groups = match cx.attrs.int_or("group", 1)? {
        g if g < 1 => return malformed(format!("`group` is {g}, at least 1 expected")),
        g => usize::try_from(g).or_else(|_| malformed(format!("`group` is {g}")))?,
    };
    Ok(ConvAttrs {
        strides: w.strides,
        padding: w.padding,
        dilations: w.dilations,
        groups,
        layout: Layout::ChannelsFirst,
    })
}

/// Geometry of a pool.
pub(super) fn pool(
    cx: &mut Cx<'_, '_>,
    x_rank: Option<usize>,
    kind: PoolKind,
    layout: Layout,
) -> Result<PoolAttrs, Failure> {
    let spatial = match x_rank {
        Some(r) if r < 3 => return malformed("an operand without spatial axes"),
        r => r.map(|r| r - 2),
    };
    let ceil_mode = cx.attrs.flag("ceil_mode", false)?;
    let w = window(cx, spatial)?;
    let Some(kernel) = w.kernel else { return malformed("attribute `kernel_shape` is missing") };
    Ok(PoolAttrs {
        kind,
        kernel,
        strides: w.strides,
        padding: w.padding,
        dilations: w.dilations,
        ceil_mode,
        layout,
    })
}
