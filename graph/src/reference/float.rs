//! Float operators. Sums of products are accumulated in f64 and rounded once.

use super::elementwise::Numbers;
use super::movement::{broadcast_to, permute};
use super::window::{Convolution, pool};
use super::{Cx, EvalError};
use crate::infer::axis_index;
use requant_ir::{Layout, Op, PoolKind, ReduceKind, Tensor, TensorType};
use requant_kernels::Cpu;
use requant_kernels::float::{Reduce, ReduceOp};
use requant_kernels::par::Serial;
use requant_kernels::softmax::Softmax;

pub(super) fn eval(cx: &Cx<'_>, op: &Op, ty: &TensorType) -> Result<Tensor, EvalError> {
    let dims = cx.dims(ty)?;
    let x = cx.get(0)?;
    let values = match op {
        Op::Conv(conv) => {
            let w = cx.get(1)?;
            let convolution = Convolution::new(cx, conv, x.dims(), w.dims(), &dims)?;
            let bias = cx.optional(2).map(|_| cx.f32s(2)).transpose()?;
            let (weights, row) = (cx.f32s(1)?, convolution.patch_len());
            let mut y = vec![0.0; dims.iter().product()];
            convolution.run(&cx.f32s(0)?, 0.0, |patch, channel, at| {
                let sum = dot(patch, &weights[channel * row..][..row]);
                y[at] = (sum + bias.as_ref().map_or(0.0, |b| f64::from(b[channel]))) as f32;
            });
            y
        }
        Op::MatMul => {
            let product = Product::new(cx, false, &dims)?;
            let (a, b) = (cx.f32s(0)?, product.columns(&cx.f32s(1)?));
            let mut y = Vec::with_capacity(dims.iter().product());
            product.run(&a, &b, |row, column, _| y.push(dot(row, column) as f32));
            y
        }
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            gemm(cx, &dims, (*alpha, *beta), (*trans_a, *trans_b))?
        }
        Op::Pool(attributes) => match attributes.kind {
            PoolKind::Max if x.elem().quant.is_some() => {
                let lowest = x.dtype().quant_range().map_or(0, |(min, _)| min);
                let mut y = vec![0; dims.iter().product()];
                pool(cx, attributes, (&cx.codes(0)?, x.dims()), &dims, |window, _, at| {
                    y[at] = window.iter().copied().max().unwrap_or(lowest);
                })?;
                return cx.stored(&ty.elem, dims, &y);
            }
            PoolKind::Max => {
                let mut y = vec![0.0; dims.iter().product()];
                pool(cx, attributes, (&cx.f32s(0)?, x.dims()), &dims, |window, _, at| {
                    let larger = |a, &b| if b > a { b } else { a };
                    y[at] = window.iter().fold(f32::NEG_INFINITY, larger);
                })?;
                y
            }
            PoolKind::Average { count_include_pad } => {
                let mut y = vec![0.0; dims.iter().product()];
                pool(cx, attributes, (&cx.f32s(0)?, x.dims()), &dims, |window, padded, at| {
                    let count = if count_include_pad { padded } else { window.len() }.max(1);
                    // From +0, as if padding were added too: `sum` starts at −0, which shows where all are −0.
                    y[at] = window.iter().fold(0.0, |sum, v| sum + v) / count as f32;
                })?;
                y
            }
        },
        Op::Reduce { kind, axes, .. } => return reduce(cx, ty, dims, *kind, axes),
        Op::ArgMax { axis, .. } => return arg_max(cx, ty, dims, *axis),
        Op::BatchNorm { epsilon, layout } => batch_norm(cx, *epsilon, *layout)?,
        Op::LayerNorm { axis, epsilon } => layer_norm(cx, *axis, *epsilon)?,
        Op::Softmax { axis, flatten } => softmax(x.dims(), &cx.f32s(0)?, *axis, *flatten)?,
        _ => return Err(EvalError::Unresolved { op: cx.op }),
    };
    cx.floats(&ty.elem, dims, &values)
}

/// The sum of products in f64, in eight interleaved partial sums.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(&a, &b)| f64::from(a) * f64::from(b));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

/// NumPy's matmul of operands 0 and 1: rows of `a` times columns of `b`.
pub(super) struct Product {
    k: usize,
    n: usize,
    rows: usize,
    trans_b: bool,
    /// For each result matrix, which matrix of `a` and of `b` it comes from.
    batches: Vec<(usize, usize)>,
}

impl Product {
    pub(super) fn new(cx: &Cx<'_>, trans_b: bool, y: &[usize]) -> Result<Self, EvalError> {
        let (a, b) = (cx.get(0)?.dims(), cx.get(1)?.dims());
        let (k, rows) = (a[a.len() - 1], if a.len() > 1 { a[a.len() - 2] } else { 1 });
        let n = match (b.len(), trans_b) {
            (1, _) => 1,
            (r, false) => b[r - 1],
            (r, true) => b[r - 2],
        };
        cx.work(&[y.iter().product(), k])?;
        let lead = |d: &[usize]| d[..d.len().saturating_sub(2)].to_vec();
        let (a, b) = (lead(a), lead(b));
        let matrices = y.len()
            - usize::from(cx.get(0)?.dims().len() > 1)
            - usize::from(cx.get(1)?.dims().len() > 1);
        let index = |d: &[usize]| {
            let all: Vec<usize> = (0..d.iter().product()).collect();
            broadcast_to(&all, d, &y[..matrices])
        };
        let batches = index(&a).into_iter().zip(index(&b)).collect();
        Ok(Product { k, n, rows, trans_b, batches })
    }

    /// The columns of `b` one after the other.
    pub(super) fn columns<T: Copy>(&self, b: &[T]) -> Vec<T> {
        if self.trans_b || b.is_empty() {
            return b.to_vec();
        }
        let matrices = b.len() / (self.k * self.n);
        permute(b, &[matrices, self.k, self.n], &[0, 2, 1])
    }

    /// Calls `product(row, column, index of the column)` for every result in order.
    pub(super) fn run<T>(
        &self,
        a: &[T],
        columns: &[T],
        mut product: impl FnMut(&[T], &[T], usize),
    ) {
        for &(i, j) in &self.batches {
            for row in 0..self.rows {
                let row = &a[(i * self.rows + row) * self.k..][..self.k];
                for n in 0..self.n {
                    product(row, &columns[(j * self.n + n) * self.k..][..self.k], n);
                }
            }
        }
    }
}

fn gemm(
    cx: &Cx<'_>,
    dims: &[usize],
    (alpha, beta): (f32, f32),
    (trans_a, trans_b): (bool, bool),
) -> Result<Vec<f32>, EvalError> {
    let (a, b) = (cx.get(0)?, cx.get(1)?);
    let in_rows = |values: &[f32], dims: &[usize], swap: bool| {
        if swap { permute(values, dims, &[1, 0]) } else { values.to_vec() }
    };
    let rows = in_rows(&cx.f32s(0)?, a.dims(), trans_a);
    let columns = in_rows(&cx.f32s(1)?, b.dims(), !trans_b);
    let k = a.dims()[usize::from(!trans_a)];
    cx.work(&[dims[0], dims[1], k])?;
    let c = match cx.optional(2) {
        Some(c) => broadcast_to(&cx.f32s(2)?, c.dims(), dims),
        None => vec![0.0; dims[0] * dims[1]],
    };
    let row = |m: usize| &rows[m * k..][..k];
    let value = |(i, &c): (usize, &f32)| {
        let product = dot(row(i / dims[1]), &columns[i % dims[1] * k..][..k]);
        (f64::from(alpha) * product + f64::from(beta) * f64::from(c)) as f32
    };
    Ok(c.iter().enumerate().map(value).collect())
}

/// The reduced axes as indices.
pub(super) fn reduced_axes(
    cx: &Cx<'_>,
    axes: &[i64],
    rank: usize,
) -> Result<Vec<usize>, EvalError> {
    if axes.is_empty() {
        return Ok((0..rank).collect());
    }
    let index = |&a: &i64| axis_index(a, rank).ok_or(EvalError::Unresolved { op: cx.op });
    axes.iter().map(index).collect()
}

/// `values` with the axes `last` moved to the end: rows of what is reduced together.
pub(super) fn in_rows<T: Copy>(values: &[T], dims: &[usize], last: &[usize]) -> Vec<T> {
    let kept = (0..dims.len()).filter(|a| !last.contains(a));
    let reduced = (0..dims.len()).filter(|a| last.contains(a));
    permute(values, dims, &kept.chain(reduced).collect::<Vec<_>>())
}

fn reduce(
    cx: &Cx<'_>,
    ty: &TensorType,
    dims: Vec<usize>,
    kind: ReduceKind,
    axes: &[i64],
) -> Result<Tensor, EvalError> {
    let x = cx.get(0)?;
    let axes = reduced_axes(cx, axes, x.dims().len())?;
    let op = match kind {
        ReduceKind::Mean => Some(ReduceOp::Mean),
        ReduceKind::Sum => Some(ReduceOp::Sum),
        ReduceKind::Max => Some(ReduceOp::Max),
        ReduceKind::Min => Some(ReduceOp::Min),
        ReduceKind::Prod => None,
    };
    if let (Some(op), true) = (op, ty.dtype().is_float()) {
        let mut y = vec![0.0; dims.iter().product()];
        Reduce::new(Cpu::detect(), op, x.dims(), &axes)?.run(&Serial, &cx.f32s(0)?, &mut y)?;
        return cx.floats(&ty.elem, dims, &y);
    }
    let count: usize = axes.iter().map(|&a| x.dims()[a]).product();
    let row = |i: usize| i * count..(i + 1) * count;
    let results = 0..dims.iter().product();
    match Numbers::of(x).ok_or_else(|| cx.storage(x))? {
        Numbers::Int(values) => {
            let rows = in_rows(&values, x.dims(), &axes);
            let value = |i| {
                let row = rows[row(i)].iter().copied();
                match kind {
                    ReduceKind::Max => row.max().unwrap_or(i64::MIN),
                    ReduceKind::Min => row.min().unwrap_or(i64::MAX),
                    ReduceKind::Prod => row.fold(1, i64::wrapping_mul),
                    ReduceKind::Sum | ReduceKind::Mean => row.fold(0, i64::wrapping_add),
                }
            };
            Numbers::Int(results.map(value).collect()).into_tensor(cx, ty, dims)
        }
        Numbers::Float(values) => {
            let rows = in_rows(&values, x.dims(), &axes);
            let product = |i| rows[row(i)].iter().fold(1.0f32, |p, &v| p * v as f32);
            cx.floats(&ty.elem, dims, &results.map(product).collect::<Vec<_>>())
        }
    }
}

fn arg_max(cx: &Cx<'_>, ty: &TensorType, dims: Vec<usize>, axis: i64) -> Result<Tensor, EvalError> {
    let x = cx.get(0)?;
    let axes = reduced_axes(cx, &[axis], x.dims().len())?;
    let extent = x.dims()[axes[0]];
    if extent == 0 {
        return Err(EvalError::Index { op: cx.op, index: 0, extent });
    }
    let values = match Numbers::of(x).ok_or_else(|| cx.storage(x))? {
        // f64 holds what is compared here but for s64 beyond 2⁵³.
        Numbers::Int(values) => {
            return arg_max_rows(cx, ty, dims, &in_rows(&values, x.dims(), &axes), extent);
        }
        Numbers::Float(values) => values,
    };
    arg_max_rows(cx, ty, dims, &in_rows(&values, x.dims(), &axes), extent)
}

fn arg_max_rows<T: PartialOrd>(
    cx: &Cx<'_>,
    ty: &TensorType,
    dims: Vec<usize>,
    rows: &[T],
    extent: usize,
) -> Result<Tensor, EvalError> {
    let first =
        |row: &[T]| (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    let indices = rows.chunks(extent).map(|row| first(row) as i64).collect();
    Numbers::Int(indices).into_tensor(cx, ty, dims)
}

fn batch_norm(cx: &Cx<'_>, epsilon: f32, layout: Layout) -> Result<Vec<f32>, EvalError> {
    let x = cx.get(0)?.dims();
    let axis = if layout == Layout::ChannelsFirst { 1 } else { x.len() - 1 };
    let inner: usize = x[axis + 1..].iter().product();
    let [scale, bias, mean, variance] = [cx.f32s(1)?, cx.f32s(2)?, cx.f32s(3)?, cx.f32s(4)?];
    let wide = |v: &[f32], c: usize| f64::from(v[c]);
    let normalized = |(i, &v): (usize, &f32)| {
        let c = i / inner % x[axis];
        let deviation = (wide(&variance, c) + f64::from(epsilon)).sqrt();
        let centred = f64::from(v) - wide(&mean, c);
        (centred / deviation * wide(&scale, c) + wide(&bias, c)) as f32
    };
    Ok(cx.f32s(0)?.iter().enumerate().map(normalized).collect())
}

fn layer_norm(cx: &Cx<'_>, axis: i64, epsilon: f32) -> Result<Vec<f32>, EvalError> {
    let x = cx.get(0)?.dims();
    let axis = axis_index(axis, x.len()).ok_or(EvalError::Unresolved { op: cx.op })?;
    let normalized = &x[axis..];
    let count: usize = normalized.iter().product();
    let wide = |i: usize| -> Result<Vec<f32>, EvalError> {
        Ok(broadcast_to(&cx.f32s(i)?, cx.get(i)?.dims(), normalized))
    };
    let scale = wide(1)?;
    let bias = match cx.optional(2) {
        Some(_) => wide(2)?,
        None => vec![0.0; count],
    };
    let mut y = Vec::with_capacity(x.iter().product());
    for row in cx.f32s(0)?.chunks(count.max(1)) {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / count as f64;
        let squares = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
        let deviation = (squares / count as f64 + f64::from(epsilon)).sqrt();
        for ((&v, &scale), &bias) in row.iter().zip(&scale).zip(&bias) {
            let v = (f64::from(v) - mean) / deviation;
            y.push((v * f64::from(scale) + f64::from(bias)) as f32);
        }
    }
    Ok(y)
}

/// Softmax along `axis`, or over all axes from it on together.
pub(super) fn softmax(
    dims: &[usize],
    x: &[f32],
    axis: i64,
    flatten: bool,
) -> Result<Vec<f32>, EvalError> {
    let op = "softmax";
    let whole = i64::try_from(dims.len()).is_ok_and(|rank| rank == axis);
    let axis = if whole { Some(dims.len()) } else { axis_index(axis, dims.len()) };
    let axis = axis.ok_or(EvalError::Unresolved { op })?;
    let (count, inner) = if flatten {
        (dims[axis..].iter().product(), 1)
    } else {
        (dims[axis], dims[axis + 1..].iter().product())
    };
    if x.is_empty() {
        return Ok(Vec::new());
    }
    let outer = x.len() / (count * inner);
    let rows = permute(x, &[outer, count, inner], &[0, 2, 1]);
    let mut y = vec![0.0; x.len()];
    Softmax::new(Cpu::detect(), count)?.run(&Serial, &rows, &mut y)?;
    Ok(permute(&y, &[outer, inner, count], &[0, 2, 1]))
}
