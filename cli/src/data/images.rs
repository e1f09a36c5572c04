//! Images to input tensors.

use crate::error::usage;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use requant_ir::{DType, Dim, Tensor, TensorType};
use std::path::{Path, PathBuf};

/// Where the channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageLayout {
    /// `[1, C, H, W]`
    Nchw,
    /// `[1, H, W, C]`
    Nhwc,
}

/// How pixels become numbers.
#[derive(Clone, Debug, Args)]
pub(crate) struct ImageOptions {
    /// Subtracted from each pixel (0 to 255): one value or one per channel
    #[arg(long, value_delimiter = ',', default_value = "0", allow_hyphen_values = true, value_parser = finite)]
    mean: Vec<f32>,
    /// What the difference is divided by: one value or one per channel
    #[arg(long, value_delimiter = ',', default_value = "1", allow_hyphen_values = true, value_parser = divisor)]
    scale: Vec<f32>,
    /// Axis order of the input [default: from the model's shape]
    #[arg(long)]
    layout: Option<ImageLayout>,
    /// Channels in blue, green, red order
    #[arg(long)]
    bgr: bool,
}

fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(v) if v.is_finite() => Ok(v),
        _ => Err("not a finite number".to_owned()),
    }
}

fn divisor(text: &str) -> Result<f32, String> {
    finite(text).and_then(|v| if v == 0.0 { Err("nothing divides by 0".to_owned()) } else { Ok(v) })
}

impl ImageOptions {
    /// Reads an image as the input `ty` of a model: float inputs get `(pixel − mean) / scale`,
    /// u8 inputs the pixels. The size must be the model's where the model fixes it.
    pub(crate) fn load(&self, path: &Path, name: &str, ty: &TensorType) -> Result<Tensor> {
        let fixed = |axis: usize| ty.dims.as_ref().and_then(|d| d.get(axis)).and_then(Dim::fixed);
        if ty.rank() != Some(4) {
            return Err(usage(format!("input `{name}` is not an image: its rank is not 4")));
        }
        let layout = self.layout.unwrap_or(match (fixed(1), fixed(3)) {
            (Some(1 | 3), _) => ImageLayout::Nchw,
            (_, Some(1 | 3)) => ImageLayout::Nhwc,
            _ => ImageLayout::Nchw,
        });
        let (c_axis, h_axis, w_axis) = match layout {
            ImageLayout::Nchw => (1, 2, 3),
            ImageLayout::Nhwc => (3, 1, 2),
        };
        let mut reader = image::ImageReader::open(path)
            .with_context(|| format!("{}", path.display()))?
            .with_guessed_format()
            .with_context(|| format!("{}", path.display()))?;
        let mut limits = image::Limits::default();
        limits.max_image_width = Some(1 << 15);
        limits.max_image_height = Some(1 << 15);
        limits.max_alloc = Some(1 << 30);
        reader.limits(limits);
        let image = reader.decode().with_context(|| format!("{}", path.display()))?;
        let (w, h) = (image.width() as usize, image.height() as usize);
        for (axis, got, what) in [(h_axis, h, "high"), (w_axis, w, "wide")] {
            if let Some(want) = fixed(axis)
                && want != got
            {
                return Err(usage(format!(
                    "{}: the image is {got} pixels {what}, input `{name}` wants {want}: resize it first",
                    path.display()
                )));
            }
        }
        let channels = fixed(c_axis).unwrap_or(3);
        let pixels = match channels {
            1 => image.to_luma8().into_raw(),
            3 => image.to_rgb8().into_raw(),
            n => {
                return Err(usage(format!("input `{name}` has {n} channels: images have 1 or 3")));
            }
        };
        let dims = match layout {
            ImageLayout::Nchw => [1, channels, h, w],
            ImageLayout::Nhwc => [1, h, w, channels],
        };
        let source = |i: usize| {
            let (pixel, c) = match layout {
                ImageLayout::Nchw => (i % (h * w), i / (h * w)),
                ImageLayout::Nhwc => (i / channels, i % channels),
            };
            let c = if self.bgr { channels - 1 - c } else { c };
            (pixels[pixel * channels + c], c)
        };
        match ty.dtype() {
            DType::U8 => {
                let data: Vec<u8> = (0..pixels.len()).map(|i| source(i).0).collect();
                Ok(Tensor::from_slice(&dims, &data)?)
            }
            DType::F32 => {
                let per_channel = |v: &[f32], what: &str| match v.len() {
                    1 => Ok(vec![v[0]; channels]),
                    n if n == channels => Ok(v.to_vec()),
                    n => Err(usage(format!("--{what} has {n} values for {channels} channels"))),
                };
                let (mean, scale) =
                    (per_channel(&self.mean, "mean")?, per_channel(&self.scale, "scale")?);
                let data: Vec<f32> = (0..pixels.len())
                    .map(|i| {
                        let (v, c) = source(i);
                        (f32::from(v) - mean[c]) / scale[c]
                    })
                    .collect();
                Ok(Tensor::from_slice(&dims, &data)?)
            }
            other => {
                Err(usage(format!("input `{name}` is {other}: images fill f32 and u8 inputs")))
            }
        }
    }
}

/// True for the extensions that are read as images.
pub(crate) fn is_image(path: &Path) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| ["png", "jpg", "jpeg"].contains(&e.to_ascii_lowercase().as_str()))
}

/// The images of a folder in the order of their names.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry.with_context(|| format!("{}", folder.display()))?.path();
        if path.is_file() && is_image(&path) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(usage(format!("{}: no .png or .jpg in this folder", folder.display())));
    }
    Ok(files)
}
