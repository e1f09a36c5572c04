//! The input syntax that every verb shares.
//!
//! `-i FILE.npz` gives arrays by tensor name, or `in0, in1, …` in graph order; `-i name=@FILE` one
//! array or image; `-i name=zeros` and `-i name=random` make values.

use super::images::{self, ImageOptions};
use crate::error::{limit, malformed, usage};
use anyhow::{Context, Result};
use clap::Args;
use requant_ir::npz::{read_npy, read_npz};
use requant_ir::{DType, Dim, ElemType, Limits, Model, Tensor, TensorType};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Inputs by name, in graph order.
pub(crate) type Feed = Vec<(String, Tensor)>;

/// Where inputs come from.
#[derive(Clone, Debug, Args)]
pub(crate) struct InputArgs {
    /// INPUTS.npz, name=@FILE.npy, name=@FILE.png, name=zeros or name=random; may be repeated
    #[arg(short = 'i', long = "input", value_name = "SOURCE")]
    pub(crate) inputs: Vec<String>,
    #[command(flatten)]
    pub(crate) image: ImageOptions,
}

/// A named extent binding: `name=1x3x640x640`.
#[derive(Clone, Debug)]
pub(crate) struct ShapeArg {
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
}

impl std::str::FromStr for ShapeArg {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (name, dims) = s.rsplit_once('=').ok_or("expected name=1x3x224x224")?;
        let dims = dims
            .split('x')
            .map(|d| d.parse::<usize>().map_err(|_| format!("`{d}` is not an extent")))
            .collect::<Result<_, _>>()?;
        Ok(ShapeArg { name: name.to_owned(), dims })
    }
}

/// Name and type of each input of a model's main graph, in graph order.
pub(crate) fn signature(model: &Model) -> Result<Vec<(String, TensorType)>> {
    let graph = model.graphs.first().ok_or_else(|| malformed("the model has no graph"))?;
    graph
        .inputs
        .iter()
        .map(|&id| {
            let value = graph
                .value(id)
                .ok_or_else(|| malformed("the model names an input that is not there"))?;
            let ty = value.ty.clone();
            let ty = ty.ok_or_else(|| malformed(format!("input `{}` has no type", value.name)))?;
            Ok((value.name.clone(), ty))
        })
        .collect()
}

/// A shape for an input: what `--shape` says, else the model's with 1 for every open extent.
pub(crate) fn concrete(name: &str, ty: &TensorType, shapes: &[ShapeArg]) -> Result<Vec<usize>> {
    if let Some(s) = shapes.iter().find(|s| s.name == name) {
        return Ok(s.dims.clone());
    }
    let dims = ty
        .dims
        .as_ref()
        .ok_or_else(|| usage(format!("give --shape {name}=… : its rank is open")))?;
    Ok(dims.iter().map(|d| d.fixed().unwrap_or(1)).collect())
}

/// [`concrete`] shapes of all inputs, in graph order.
pub(crate) fn shapes(
    signature: &[(String, TensorType)],
    given: &[ShapeArg],
) -> Result<Vec<Vec<usize>>> {
    signature.iter().map(|(name, ty)| concrete(name, ty, given)).collect()
}

/// Rejects `--shape` names that the model does not have or that are there twice, and extents that no
/// tensor has.
pub(crate) fn check_shapes(signature: &[(String, TensorType)], shapes: &[ShapeArg]) -> Result<()> {
    for (i, s) in shapes.iter().enumerate() {
        let (_, ty) = &signature[find(signature, &s.name)?];
        if shapes[..i].iter().any(|earlier| earlier.name == s.name) {
            return Err(usage(format!("--shape {} is given twice", s.name)));
        }
        Tensor::byte_len(ty.dtype(), &s.dims)
            .map_err(|e| usage(format!("--shape {}: {e}", s.name)))?;
    }
    Ok(())
}

/// Fails if the bytes of a made-up input are more than this process can well have.
fn check_bytes(ty: &TensorType, dims: &[usize]) -> Result<usize> {
    let bytes = Tensor::byte_len(ty.dtype(), dims).map_err(|e| limit(e.to_string()))?;
    // It is copied into the session.
    let most = requant::default_arena_bytes().unwrap_or(usize::MAX) / 3;
    if bytes > most {
        return Err(limit(format!("an input of {bytes} bytes is above the limit of {most}")));
    }
    Ok(bytes)
}

impl InputArgs {
    /// The inputs for one run.
    pub(crate) fn load(&self, signature: &[(String, TensorType)], limits: &Limits) -> Result<Feed> {
        let mut given = BTreeMap::new();
        for source in &self.inputs {
            for (index, tensor) in self.load_source(source, signature, limits)? {
                if given.insert(index, tensor).is_some() {
                    return Err(usage(format!("input `{}` is given twice", signature[index].0)));
                }
            }
        }
        let missing: Vec<&str> = (0..signature.len())
            .filter(|i| !given.contains_key(i))
            .map(|i| signature[i].0.as_str())
            .collect();
        if !missing.is_empty() {
            return Err(usage(format!(
                "no value for input `{}`: give it with -i",
                missing.join("`, `")
            )));
        }
        Ok(given.into_iter().map(|(i, t)| (signature[i].0.clone(), t)).collect())
    }

    fn load_source(
        &self,
        source: &str,
        signature: &[(String, TensorType)],
        limits: &Limits,
    ) -> Result<Vec<(usize, Tensor)>> {
        if !source.contains('=') || Path::new(source).is_file() {
            let path = Path::new(source);
            regular(path)?;
            return match extension(path).as_str() {
                "npz" => by_name(read_npz(path, limits)?, signature),
                _ if signature.len() == 1 => {
                    Ok(vec![(0, self.load_file(path, &signature[0].0, &signature[0].1, limits)?)])
                }
                _ => Err(usage(format!(
                    "`{source}`: the model has several inputs: write name=@{source}"
                ))),
            };
        }
        let (name, value) = source.rsplit_once('=').unwrap_or((source, ""));
        let index = find(signature, name)?;
        let ty = &signature[index].1;
        let tensor = match value {
            "zeros" => {
                let dims = concrete(name, ty, &[])?;
                check_bytes(ty, &dims)?;
                Tensor::zeros(ElemType::plain(ty.dtype()), dims)?
            }
            "random" => random(ty, &concrete(name, ty, &[])?, index as u64)?,
            _ => match value.strip_prefix('@') {
                Some(path) => self.load_file(Path::new(path), name, ty, limits)?,
                None => {
                    return Err(usage(format!(
                        "`{source}`: write name=@FILE, name=zeros or name=random"
                    )));
                }
            },
        };
        Ok(vec![(index, tensor)])
    }

    fn load_file(
        &self,
        path: &Path,
        name: &str,
        ty: &TensorType,
        limits: &Limits,
    ) -> Result<Tensor> {
        regular(path)?;
        match extension(path).as_str() {
            "npy" => Ok(read_npy(path, limits)?),
            "npz" => {
                let mut arrays = read_npz(path, limits)?;
                match arrays.iter().position(|(n, _)| n == name) {
                    Some(i) => Ok(arrays.swap_remove(i).1),
                    None if arrays.len() == 1 => Ok(arrays.swap_remove(0).1),
                    None => Err(usage(format!("{}: no array `{name}` in it", path.display()))),
                }
            }
            _ if images::is_image(path) => self.image.load(path, name, ty),
            "bin" => {
                let data = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
                let dims = concrete(name, ty, &[])?;
                Tensor::copy_from(ElemType::plain(ty.dtype()), dims, &data)
                    .map_err(|e| usage(format!("{}: {e}", path.display())))
            }
            other => {
                Err(usage(format!("{}: cannot read inputs from `.{other}` files", path.display())))
            }
        }
    }

    /// The samples of a data set: an `.npz` whose arrays are batched on axis 0, or a folder of
    /// images. Each sample has the batch extent that the model fixes, else 1; `limit` takes the
    /// first ones only.
    pub(crate) fn samples(
        &self,
        data: &Path,
        signature: &[(String, TensorType)],
        limit: Option<usize>,
        limits: &Limits,
    ) -> Result<Samples> {
        let at_most = |n: usize| limit.map_or(n, |l| n.min(l));
        if data.is_dir() {
            let [(name, ty)] = signature else {
                return Err(usage("a folder of images feeds models of one input: give an .npz"));
            };
            let mut files = images::list(data)?;
            files.truncate(at_most(files.len()));
            return Ok(Samples::Images {
                files,
                name: name.clone(),
                ty: ty.clone(),
                options: self.image.clone(),
            });
        }
        regular(data)?;
        if extension(data) != "npz" {
            return Err(usage(format!(
                "{}: data is an .npz or a folder of images",
                data.display()
            )));
        }
        let mut arrays = by_name(read_npz(data, limits)?, signature)?;
        arrays.sort_by_key(|(i, _)| *i);
        if arrays.len() != signature.len() {
            return Err(usage(format!(
                "{}: it does not hold every input of the model",
                data.display()
            )));
        }
        let batch = signature
            .iter()
            .find_map(|(_, ty)| ty.dims.as_ref()?.first()?.fixed())
            .unwrap_or(1)
            .max(1);
        let total = arrays.first().and_then(|(_, t)| t.dims().first().copied()).unwrap_or(0);
        if let Some((i, t)) = arrays.iter().find(|(_, t)| t.dims().first() != Some(&total)) {
            return Err(usage(format!(
                "{}: array `{}` has shape {:?}: every array needs {total} samples on axis 0",
                data.display(),
                signature[*i].0,
                t.dims()
            )));
        }
        if total < batch {
            return Err(usage(format!(
                "{}: {total} samples are less than the model's batch of {batch}",
                data.display()
            )));
        }
        if limit.is_none() && !total.is_multiple_of(batch) {
            note!(
                "{}: the model takes {batch} samples at a time, the last {} of {total} are left out",
                data.display(),
                total % batch
            );
        }
        let arrays = arrays.into_iter().map(|(i, t)| (signature[i].0.clone(), t)).collect();
        Ok(Samples::Arrays { arrays, batch, count: at_most(total / batch) })
    }
}

/// Samples of a data set, loaded one at a time.
pub(crate) enum Samples {
    Images { files: Vec<PathBuf>, name: String, ty: TensorType, options: ImageOptions },
    Arrays { arrays: Feed, batch: usize, count: usize },
}

impl Samples {
    pub(crate) fn len(&self) -> usize {
        match self {
            Samples::Images { files, .. } => files.len(),
            Samples::Arrays { count, .. } => *count,
        }
    }

    pub(crate) fn get(&self, index: usize) -> Result<Feed> {
        match self {
            Samples::Images { files, name, ty, options } => {
                Ok(vec![(name.clone(), options.load(&files[index], name, ty)?)])
            }
            Samples::Arrays { arrays, batch, .. } => arrays
                .iter()
                .map(|(name, t)| Ok((name.clone(), rows(t, index * batch, *batch)?)))
                .collect(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Feed>> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// `count` rows of axis 0 from `start` on.
pub(crate) fn rows(t: &Tensor, start: usize, count: usize) -> Result<Tensor> {
    let total = t.dims().first().copied().unwrap_or(0);
    if start + count > total {
        return Err(usage(format!("sample {start} is beyond the {total} that are there")));
    }
    let row = t.bytes().len() / total;
    let mut dims = t.dims().to_vec();
    dims[0] = count;
    Ok(Tensor::from_bytes(
        t.elem().clone(),
        dims,
        t.bytes().slice(start * row..(start + count) * row),
    )?)
}

/// Matches arrays to inputs by name, or by `in0, in1, …` in graph order.
fn by_name(
    arrays: Vec<(String, Tensor)>,
    signature: &[(String, TensorType)],
) -> Result<Vec<(usize, Tensor)>> {
    let positional = |name: &str| name.strip_prefix("in").and_then(|n| n.parse::<usize>().ok());
    let names_match = arrays.iter().any(|(n, _)| signature.iter().any(|(s, _)| s == n));
    if !names_match && !arrays.is_empty() && arrays.iter().all(|(n, _)| positional(n).is_some()) {
        return arrays
            .into_iter()
            .map(|(n, t)| match positional(&n) {
                Some(i) if i < signature.len() => Ok((i, t)),
                _ => Err(usage(format!("`{n}`: the model has {} inputs", signature.len()))),
            })
            .collect();
    }
    arrays.into_iter().map(|(n, t)| Ok((find(signature, &n)?, t))).collect()
}

fn find(signature: &[(String, TensorType)], name: &str) -> Result<usize> {
    signature.iter().position(|(s, _)| s == name).ok_or_else(|| {
        let nearest = signature.iter().min_by_key(|(s, _)| distance(s, name));
        let hint = nearest.map(|(s, _)| format!(": did you mean `{s}`?")).unwrap_or_default();
        usage(format!("the model has no input `{name}`{hint}"))
    })
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Fails for pipes and devices: opening them may wait for ever.
fn regular(path: &Path) -> Result<()> {
    let context = || format!("{}", path.display());
    if std::fs::metadata(path).with_context(context)?.is_file() {
        return Ok(());
    }
    Err(std::io::Error::other("not a regular file")).with_context(context)
}

fn extension(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// Reproducible values: floats in [−1, 1), all bytes for 8-bit types, small non-negative integers
/// for the others (they are often indices).
pub(crate) fn random(ty: &TensorType, dims: &[usize], seed: u64) -> Result<Tensor> {
    let dtype = ty.dtype();
    let bytes = check_bytes(ty, dims)?;
    let mut state = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut next = move || {
        // splitmix64
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let unit = |r: u64| (r >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    let n: usize = dims.iter().product();
    let mut data = Vec::new();
    data.try_reserve_exact(bytes).map_err(|_| limit(format!("no memory for {bytes} bytes")))?;
    for _ in 0..n {
        let r = next();
        match dtype {
            DType::F32 => data.extend_from_slice(&unit(r).to_le_bytes()),
            DType::F64 => data.extend_from_slice(&f64::from(unit(r)).to_le_bytes()),
            DType::I8 | DType::U8 => data.push(r as u8),
            DType::Bool => data.push((r & 1) as u8),
            DType::I16 | DType::U16 => data.extend_from_slice(&((r % 100) as u16).to_le_bytes()),
            DType::I32 => data.extend_from_slice(&((r % 100) as i32).to_le_bytes()),
            DType::I64 => data.extend_from_slice(&((r % 100) as i64).to_le_bytes()),
            DType::F16 | DType::I4 | DType::U4 => {
                return Err(usage(format!("random values of type {dtype} are not supported")));
            }
        }
    }
    Ok(Tensor::copy_from(ElemType::plain(dtype), dims.to_vec(), &data)?)
}

/// [`random`] values for every input, of these shapes in graph order.
pub(crate) fn random_feed(
    signature: &[(String, TensorType)],
    shapes: &[Vec<usize>],
    seed: u64,
) -> Result<Feed> {
    let feed = signature.iter().zip(shapes).zip(seed..);
    feed.map(|(((name, ty), dims), seed)| Ok((name.clone(), random(ty, dims, seed)?))).collect()
}

/// True when an input has an extent that only a run can tell.
pub(crate) fn is_open(ty: &TensorType) -> bool {
    ty.dims.as_ref().is_none_or(|d| d.iter().any(|d| !matches!(d, Dim::Fixed(_))))
}
