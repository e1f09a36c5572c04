//! `requant compare`

use crate::data::inputs::{self, Feed, InputArgs};
use crate::engine::{self, Compiled, EngineArgs, Loaded};
use crate::{error, output};
use anyhow::Result;
use requant_ir::{Limits, Tensor};
use std::path::PathBuf;

/// Arguments of `compare`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model that is taken as right
    reference: PathBuf,
    /// The model that is judged
    candidate: PathBuf,
    /// A data set: an .npz batched on axis 0, or a folder of images [default: random values]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Use the first N samples only
    #[arg(long, value_name = "N", value_parser = engine::samples)]
    samples: Option<usize>,
    /// Fail (exit 1) if any value differs by more
    #[arg(long, value_name = "X", value_parser = threshold, allow_hyphen_values = true)]
    max_abs: Option<f64>,
    /// Fail (exit 1) if an output's signal-to-noise ratio is lower, in dB
    #[arg(long, value_name = "DB", value_parser = threshold, allow_hyphen_values = true)]
    min_snr: Option<f64>,
    /// Fail (exit 1) if fewer samples have the same largest value, in percent
    #[arg(long, value_name = "PERCENT", value_parser = threshold, allow_hyphen_values = true)]
    min_top1: Option<f64>,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// A number that values can be compared with.
fn threshold(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if !x.is_nan() => Ok(x),
        _ => Err("not a number".to_owned()),
    }
}

/// Differences of one output over all samples.
#[derive(Default)]
pub(crate) struct Difference {
    pub(crate) max_abs: f64,
    signal: f64,
    noise: f64,
    pub(crate) rows: usize,
    pub(crate) same_top1: usize,
}

impl Difference {
    /// Takes in a pair of outputs. Top-1 is over the last axis.
    pub(crate) fn add(&mut self, reference: &Tensor, candidate: &Tensor) -> Result<()> {
        if reference.dims() != candidate.dims() {
            let (a, b) = (reference.dims(), candidate.dims());
            return Err(error::failed(format!("shapes differ: {a:?} and {b:?}")));
        }
        let (a, b) = (numbers(reference)?, numbers(candidate)?);
        for (&x, &y) in a.iter().zip(&b) {
            // Equal infinities, too, differ by nothing.
            let d = if x == y || (x.is_nan() && y.is_nan()) { 0.0 } else { (x - y).abs() };
            // NaN on one side only is the largest difference there is.
            self.max_abs = if d.is_nan() { f64::INFINITY } else { self.max_abs.max(d) };
            self.signal += x * x;
            self.noise += d * d;
        }
        let width = reference.dims().last().copied().unwrap_or(1).max(1);
        for (x, y) in a.chunks(width).zip(b.chunks(width)) {
            self.rows += 1;
            // A row with NaN on one side only has no largest value to agree on.
            let nan = |row: &[f64]| row.iter().any(|v| v.is_nan());
            self.same_top1 += usize::from(argmax(x) == argmax(y) && nan(x) == nan(y));
        }
        Ok(())
    }

    pub(crate) fn snr_db(&self) -> f64 {
        match self.noise {
            0.0 => f64::INFINITY,
            n if n.is_nan() => f64::NEG_INFINITY,
            n => 10.0 * (self.signal / n).log10(),
        }
    }

    pub(crate) fn top1_percent(&self) -> f64 {
        100.0 * self.same_top1 as f64 / self.rows.max(1) as f64
    }
}

/// Index of the first largest value.
pub(crate) fn argmax(row: &[f64]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &v)| if v > row[best] { i } else { best })
}

pub(crate) fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    if let Some(v) = t.as_slice::<f64>() {
        return Ok(v.to_vec());
    }
    if let Some(v) = t.to_f32() {
        return Ok(v.into_iter().map(f64::from).collect());
    }
    match t.to_i64() {
        Some(v) => Ok(v.into_iter().map(|v| v as f64).collect()),
        None => Err(error::usage(format!("tensors of type {} cannot be compared", t.dtype()))),
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let reference = Loaded::open(&args.reference)?;
    let candidate = Loaded::open(&args.candidate)?;
    let signature = inputs::signature(&reference.model)?;
    let other = inputs::signature(&candidate.model)?;
    if signature.len() != other.len() {
        let (a, b) = (signature.len(), other.len());
        return Err(error::usage(format!("the models have {a} and {b} inputs")));
    }
    let limits = Limits::default();
    let feeds: Box<dyn Iterator<Item = Result<Feed>>> =
        match (&args.data, args.input.inputs.is_empty()) {
            (Some(_), false) => return Err(error::usage("give --data or -i, not both")),
            (Some(path), true) => {
                let samples = args.input.samples(path, &signature, args.samples, &limits)?;
                Box::new((0..samples.len()).map(move |i| samples.get(i)))
            }
            (None, false) => Box::new(std::iter::once(args.input.load(&signature, &limits))),
            (None, true) => {
                let signature = signature.clone();
                Box::new((0..args.samples.unwrap_or(8)).map(move |seed| {
                    let shapes = inputs::shapes(&signature, &[])?;
                    inputs::random_feed(&signature, &shapes, seed as u64 * 1000)
                }))
            }
        };
    let a = Compiled::new(&reference, &args.engine)?;
    let b = Compiled::new(&candidate, &args.engine)?;
    let (mut a, mut b) = (a.session(), b.session());
    let mut names = Vec::new();
    let mut differences: Vec<Difference> = Vec::new();
    for feed in feeds {
        let feed = feed?;
        let renamed: Feed =
            feed.iter().zip(&other).map(|((_, t), (name, _))| (name.clone(), t.clone())).collect();
        let (x, y) = (a.run(&feed)?, b.run(&renamed)?);
        if x.len() != y.len() {
            let (a, b) = (x.len(), y.len());
            return Err(error::usage(format!("the models have {a} and {b} outputs")));
        }
        differences.resize_with(x.len(), Difference::default);
        for (d, ((name, x), (_, y))) in differences.iter_mut().zip(x.iter().zip(&y)) {
            d.add(x, y).map_err(|e| e.context(format!("output `{name}`")))?;
        }
        names = x.into_iter().map(|(n, _)| n).collect();
    }
    let rows: Vec<Vec<String>> = names
        .iter()
        .zip(&differences)
        .map(|(name, d)| {
            vec![
                name.clone(),
                d.rows.to_string(),
                format!("{:.6}", d.max_abs),
                format!("{:.2}", d.snr_db()),
                format!("{:.2}", d.top1_percent()),
            ]
        })
        .collect();
    output::table(&["output", "rows", "max abs", "SNR dB", "top-1 same %"], &rows)?;
    for (name, d) in names.iter().zip(&differences) {
        let broken = [
            args.max_abs
                .filter(|&m| d.max_abs > m)
                .map(|m| format!("max abs {:.6} is above {m}", d.max_abs)),
            args.min_snr
                .filter(|&m| d.snr_db() < m)
                .map(|m| format!("SNR {:.2} dB is below {m}", d.snr_db())),
            args.min_top1
                .filter(|&m| d.top1_percent() < m)
                .map(|m| format!("top-1 agreement {:.2} % is below {m}", d.top1_percent())),
        ];
        if let Some(reason) = broken.into_iter().flatten().next() {
            return Err(error::failed(format!("output `{name}`: {reason}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn equal_outputs_have_no_noise() {
        let t = Tensor::from_slice(&[2, 3], &[1.0f32, 2.0, 3.0, 3.0, 2.0, 1.0]).unwrap();
        let mut d = Difference::default();
        d.add(&t, &t).unwrap();
        assert_eq!((d.max_abs, d.rows, d.same_top1), (0.0, 2, 2));
        assert_eq!(d.snr_db(), f64::INFINITY);
    }

    #[test]
    fn differences_are_counted() {
        let a = Tensor::from_slice(&[2, 2], &[1.0f32, 0.0, 0.0, 1.0]).unwrap();
        let b = Tensor::from_slice(&[2, 2], &[1.0f32, 0.0, 1.0, 0.0]).unwrap();
        let mut d = Difference::default();
        d.add(&a, &b).unwrap();
        assert_eq!((d.max_abs, d.rows, d.same_top1), (1.0, 2, 1));
        assert!(d.snr_db().abs() < 1e-12);
        let nan = Tensor::from_slice(&[2, 2], &[f32::NAN, 0.0, 1.0, 0.0]).unwrap();
        d.add(&a, &nan).unwrap();
        assert_eq!((d.max_abs, d.rows, d.same_top1), (f64::INFINITY, 4, 1));
        assert!(d.add(&a, &Tensor::scalar(1.0f32)).is_err());
    }
}
