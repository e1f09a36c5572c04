//! `requant demo`: the whole way on a model and data that the program carries.

use crate::data::inputs::{Feed, rows};
use crate::engine::{Compiled, EngineArgs, Loaded, Session};
use crate::output;
use anyhow::{Context, Result};
use bytes::Bytes;
use requant_ir::{Limits, Tensor, npz};
use requant_quantize::{QuantizeOptions, quantize};
use std::io::Cursor;
use std::time::Instant;

/// Three convolutions and two dense layers, trained on handwritten digits; ours.
const MODEL: &[u8] = include_bytes!("../../../tests/data/cnn/cnn_f32.onnx");
/// 200 training digits to calibrate with.
const CALIBRATION: &[u8] = include_bytes!("../../assets/mnist_calib200_28x28.npz");
/// 2,000 digits that neither training nor calibration saw.
const TEST: &[u8] = include_bytes!("../../assets/mnist_test2000_28x28.npz");
const INPUT: &str = "image";

/// Arguments of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    engine: EngineArgs,
}

struct Digits {
    images: Tensor,
    labels: Vec<u8>,
}

/// Digits as the model wants them: padded from 28 to 32, three equal channels, divided by 255.
fn digits(npz: &'static [u8], name: &str) -> Result<Digits> {
    let arrays = npz::read_npz_from(Cursor::new(npz), name, &Limits::default())?;
    let get = |key: &str| {
        let (_, t) = arrays
            .iter()
            .find(|(n, _)| n == key)
            .with_context(|| format!("{name} has no `{key}`"))?;
        t.as_slice::<u8>().with_context(|| format!("{name}: `{key}` is not u8"))
    };
    let (pixels, labels) = (get("x")?, get("y")?.to_vec());
    let n = labels.len();
    let mut data = vec![0.0f32; n * 32 * 32 * 3];
    for (i, &v) in pixels.iter().enumerate() {
        let (image, y, x) = (i / 784, i / 28 % 28, i % 28);
        let at = ((image * 32 + y + 2) * 32 + x + 2) * 3;
        data[at..at + 3].fill(f32::from(v) / 255.0);
    }
    Ok(Digits { images: Tensor::from_slice(&[n, 32, 32, 3], &data)?, labels })
}

/// Share of digits whose largest output is the label, in percent.
fn accuracy(session: &mut Session, digits: &Digits) -> Result<f64> {
    const BATCH: usize = 100;
    let mut right = 0;
    for (i, labels) in digits.labels.chunks(BATCH).enumerate() {
        let feed: Feed = vec![(INPUT.to_owned(), rows(&digits.images, i * BATCH, labels.len())?)];
        let outputs = session.run(&feed)?;
        let scores = outputs
            .first()
            .and_then(|(_, t)| t.to_f32())
            .context("the model has no float output")?;
        for (row, &label) in scores.chunks(10).zip(labels) {
            let best = (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b });
            right += usize::from(best == usize::from(label));
        }
    }
    Ok(100.0 * right as f64 / digits.labels.len() as f64)
}

/// Median time of one digit, in microseconds.
fn latency(session: &mut Session, digits: &Digits) -> Result<f64> {
    let feed: Feed = vec![(INPUT.to_owned(), rows(&digits.images, 0, 1)?)];
    session.set_shapes(&[feed[0].1.dims().to_vec()])?;
    session.prepare(&feed)?;
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < 200 || begin.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        session.run_prepared()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let calibration = digits(CALIBRATION, "calibration digits")?;
    let test = digits(TEST, "test digits")?;
    let float = Loaded::from_onnx_bytes(Bytes::from_static(MODEL), "the built-in model")?;

    let samples = (0..calibration.labels.len()).map(|i| -> Result<Feed> {
        Ok(vec![(INPUT.to_owned(), rows(&calibration.images, i, 1)?)])
    });
    let (model, report) =
        quantize::<anyhow::Error>(&float.model, samples, &QuantizeOptions::default())?;
    let file = crate::engine::to_bytes(&model)?;
    say!(
        "quantized with {} digits: {} integer nodes, {} float nodes",
        report.samples,
        report.integer_nodes,
        report.float_nodes.len()
    );
    let int8 = Loaded::from_rq_bytes(file, "the quantized model")?;

    let cpu = args.engine.cpu()?;
    say!(
        "instruction set {}, {} thread(s), {} test digits",
        cpu.isa(),
        args.engine.threads,
        test.labels.len()
    );
    let mut table = Vec::new();
    let mut figures = Vec::new();
    for (name, loaded) in [("float", &float), ("int8", &int8)] {
        let compiled = Compiled::new(loaded, &args.engine)?;
        let mut session = compiled.session();
        let accuracy = accuracy(&mut session, &test)?;
        let latency = latency(&mut session, &test)?;
        figures.push((loaded.file_bytes as f64, accuracy, latency));
        table.push(vec![
            name.to_owned(),
            output::thousands(loaded.file_bytes),
            format!("{accuracy:.2}"),
            format!("{latency:.1}"),
        ]);
    }
    let ((fs, fa, fl), (is, ia, il)) = (figures[0], figures[1]);
    table.push(vec![
        "int8 / float".to_owned(),
        format!("{:.3}x", is / fs),
        format!("{:+.2}", ia - fa),
        format!("{:.2}x", il / fl),
    ]);
    output::table(&["model", "bytes", "accuracy %", "latency us"], &table)?;
    Ok(())
}
