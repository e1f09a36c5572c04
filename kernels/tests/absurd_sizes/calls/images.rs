//! Kernels on images.

use std::sync::Arc;

use requant_kernels::{
    conv::{
        Conv, ConvGeometry, ConvSpec, ConvTranspose, ConvTransposeSpec, ConvTransposeWeights,
        PackedConv, PackedConvTranspose,
    },
    epilogue::Output,
    float::{Activation, ConvF32, DepthwiseF32},
    pool::{AveragePool8, AveragePoolF32, GlobalAveragePool8, MaxPool8, MaxPoolF32, PoolShape},
    resize::{Bilinear8, BilinearF32, Coordinates, Nearest, NearestRounding, ResizeShape},
};

use super::numbers::{
    MOST, Numbers, Outcome, is_between, product, run_with, run_with_scratch, skipped, with_output,
};

fn conv_spec(n: &mut Numbers<'_>) -> ConvSpec {
    let groups = n.any();
    let scale = |channels: usize, whole: bool| {
        if whole { channels } else { channels.saturating_mul(groups) }
    };
    ConvSpec {
        batch: n.any(),
        in_h: n.any(),
        in_w: n.any(),
        in_c: scale(n.any(), n.flag()),
        out_c: scale(n.any(), n.flag()),
        kernel: n.pair(),
        strides: n.pair(),
        dilations: n.pair(),
        pads: n.four(),
        groups,
    }
}

pub(super) fn conv(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, sign, spec) = (n.cpu(), n.sign(), conv_spec(n));
    let shape = spec.weights();
    let [kh, kw] = spec.kernel;
    let weights = n.operand(&[spec.out_c, shape.in_c_per_group, kh, kw], 1i8);
    let w_zero = [1];
    let w_zero = n.flag().then_some(&w_zero[..]);
    let packed = Arc::new(PackedConv::pack(cpu, &weights, shape, w_zero, sign)?);
    let geometry = ConvGeometry::new(spec)?;
    let row = [spec.in_w, spec.pads[1], spec.pads[3]]
        .iter()
        .fold(0usize, |sum, &x| sum.saturating_add(x));
    if is_between(&[row, spec.in_c.max(8)]) {
        return skipped();
    }
    let (output, bias) = (n.output(), n.operand(&[spec.out_c], 7));
    let conv = Conv::new(geometry, packed, &bias, 1, &output)?;
    let threads = n.threads();
    let lens = [geometry.input_len(), geometry.output_len()];
    run_with_scratch(lens, conv.scratch_bytes(threads.0), |len, scratch| {
        let (x, mut scratch) = (vec![1; len(0)], vec![0; scratch]);
        with_output!(output, len(1), |y| conv.run(&threads, &x, None, y, &mut scratch))
    })
}

pub(super) fn conv_transpose(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, sign, groups) = (n.cpu(), n.sign(), n.any());
    let scale = |channels: usize, whole: bool| {
        if whole { channels } else { channels.saturating_mul(groups) }
    };
    let weights = ConvTransposeWeights {
        in_c: scale(n.any(), n.flag()),
        out_c: scale(n.any(), n.flag()),
        kernel: n.pair(),
        strides: n.pair(),
        dilations: n.pair(),
        groups,
    };
    let [kh, kw] = weights.kernel;
    let values = n.operand(&[weights.in_c, weights.out_c / groups.max(1), kh, kw], 1i8);
    let w_zero = [1];
    let w_zero = n.flag().then_some(&w_zero[..]);
    let packed = Arc::new(PackedConvTranspose::pack(cpu, &values, weights, w_zero, sign)?);
    let spec = ConvTransposeSpec {
        batch: n.any(),
        image: n.pair(),
        pads: n.four(),
        output_padding: n.pair(),
        weights,
    };
    let [_, columns] = spec.output_size()?;
    if is_between(&[columns, weights.in_c.max(8)]) {
        return skipped();
    }
    let (output, bias) = (n.output(), n.operand(&[weights.out_c], 7));
    let conv = ConvTranspose::new(spec, packed, &bias, 1, &output)?;
    let threads = n.threads();
    let lens = [conv.input_len(), conv.output_len()];
    run_with_scratch(lens, conv.scratch_bytes(threads.0), |len, scratch| {
        let (x, mut scratch) = (vec![1; len(0)], vec![0; scratch]);
        with_output!(output, len(1), |y| conv.run(&threads, &x, None, y, &mut scratch))
    })
}

pub(super) fn conv_f32(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, spec) = (n.cpu(), conv_spec(n));
    let geometry = ConvGeometry::new(spec)?;
    let [kh, kw] = spec.kernel;
    let weights = n.operand(&[spec.out_c, spec.in_c / spec.groups, kh, kw], 1.0);
    let bias = if n.flag() { n.operand(&[spec.out_c], 1.0) } else { Vec::new() };
    let conv = ConvF32::new(cpu, geometry, &weights, &bias, Activation::NONE)?;
    let threads = n.threads();
    let lens = [geometry.input_len(), geometry.output_len()];
    run_with_scratch(lens, conv.scratch_len(threads.0), |len, scratch| {
        let (x, mut y) = (vec![1.0; len(0)], vec![0.0; len(1)]);
        conv.run(&threads, &x, &mut y, &mut vec![0.0; scratch])
    })
}

pub(super) fn depthwise_f32(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, mut spec) = (n.cpu(), conv_spec(n));
    spec.in_c = spec.groups;
    let geometry = ConvGeometry::new(spec)?;
    let [kh, kw] = spec.kernel;
    let weights = n.operand(&[spec.out_c, 1, kh, kw], 1.0);
    let bias = if n.flag() { n.operand(&[spec.out_c], 1.0) } else { Vec::new() };
    let conv = DepthwiseF32::new(cpu, geometry, &weights, &bias, Activation::NONE)?;
    run_with(&[geometry.input_len(), geometry.output_len()], |len| {
        conv.run(&n.threads(), &vec![1.0; len(0)], &mut vec![0.0; len(1)])
    })
}

pub(super) fn pool(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, sign, which) = (n.cpu(), n.sign(), n.byte());
    let [batch, height, width, channels] = n.four();
    let (kernel, stride, dilation, pads, out) = (n.pair(), n.pair(), n.pair(), n.four(), n.pair());
    let shape = PoolShape { batch, height, width, channels, kernel, stride, dilation, pads, out };
    let (side, threads, include_pad) = ((0.5, 1), n.threads(), n.flag());
    // A window that is read in full of an image is work of its size.
    if is_between(&kernel) && product(&[batch, height, width, channels]) != Some(0) {
        return skipped();
    }
    let codes = |run: &dyn Fn(&[u8], &mut [u8]) -> Outcome| {
        let lens = [shape.in_len(), shape.out_len()];
        run_with(&lens, |len| run(&vec![1; len(0)], &mut vec![0; len(1)]))
    };
    let floats = |run: &dyn Fn(&[f32], &mut [f32]) -> Outcome| {
        let lens = [shape.in_len(), shape.out_len()];
        run_with(&lens, |len| run(&vec![1.0; len(0)], &mut vec![0.0; len(1)]))
    };
    match which % 4 {
        0 => {
            let pool = MaxPool8::new(cpu, shape, sign)?;
            codes(&|x, y| pool.run(&threads, x, y))
        }
        1 => {
            let pool = MaxPoolF32::new(cpu, shape)?;
            floats(&|x, y| pool.run(&threads, x, y))
        }
        2 => {
            let pool = AveragePool8::new(cpu, shape, sign, side, side, include_pad)?;
            codes(&|x, y| pool.run(&threads, x, y))
        }
        _ => {
            let pool = AveragePoolF32::new(cpu, shape, include_pad)?;
            floats(&|x, y| pool.run(&threads, x, y))
        }
    }
}

pub(super) fn global_pool(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, sign, side, dims) = (n.cpu(), n.sign(), (0.5, 1), [n.any(), n.any(), n.any()]);
    let pool = GlobalAveragePool8::new(cpu, dims, sign, side, side)?;
    let (x, y) = (n.operand(&dims, 1), n.operand(&[dims[0], dims[2]], 0));
    let fits = |dims: &[usize]| product(dims).is_some_and(|len| len <= MOST);
    let outcome = pool.run(&n.threads(), &x, &mut y.clone());
    assert_eq!(outcome.is_ok(), fits(&dims) && fits(&[dims[0], dims[2]]), "{dims:?}");
    outcome
}

fn resize_shape(n: &mut Numbers<'_>) -> (ResizeShape, Coordinates) {
    let ([batch, height, width, channels], out, scales) = (n.four(), n.pair(), [n.any(), n.any()]);
    let scales = scales.map(|scale| scale as f32 / 2.0);
    let coordinates = match n.byte() % 3 {
        0 => Coordinates::Asymmetric,
        1 => Coordinates::HalfPixel,
        _ => Coordinates::AlignCorners,
    };
    (ResizeShape { batch, height, width, channels, out, scales }, coordinates)
}

pub(super) fn nearest(n: &mut Numbers<'_>) -> Outcome {
    let ((shape, coordinates), element) = (resize_shape(n), n.any());
    let rounding = match n.byte() % 4 {
        0 => NearestRounding::PreferFloor,
        1 => NearestRounding::PreferCeil,
        2 => NearestRounding::Floor,
        _ => NearestRounding::Ceil,
    };
    if is_between(&shape.out[..1]) || is_between(&shape.out[1..]) {
        return skipped();
    }
    let resize = Nearest::new(shape, coordinates, rounding, element)?;
    run_with(&[shape.in_len() * element, shape.out_len() * element], |len| {
        resize.run(&n.threads(), &vec![1; len(0)], &mut vec![0; len(1)])
    })
}

pub(super) fn bilinear(n: &mut Numbers<'_>) -> Outcome {
    let (cpu, (shape, coordinates), floats) = (n.cpu(), resize_shape(n), n.flag());
    if is_between(&shape.out[..1]) || is_between(&shape.out[1..]) {
        return skipped();
    }
    if floats {
        let resize = BilinearF32::new(cpu, shape, coordinates)?;
        return run_with(&[shape.in_len(), shape.out_len()], |len| {
            resize.run(&n.threads(), &vec![1.0; len(0)], &mut vec![0.0; len(1)])
        });
    }
    let resize = Bilinear8::new(cpu, shape, coordinates, n.sign())?;
    run_with(&[shape.in_len(), shape.out_len()], |len| {
        resize.run(&n.threads(), &vec![1; len(0)], &mut vec![0; len(1)])
    })
}
