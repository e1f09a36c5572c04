//! Random models that obey every rule of [`crate::verify`], for property tests of this and other
//! crates. They cover the whole of the IR, not what can be run: operands without a type stand where
//! an operator wants one that a random value would not have.

use crate::{
    BinaryKind, ConvAttrs, DType, Dim, ElemType, Graph, IntClamp, Layout, Model, Node, Op, PadMode,
    Padding, PoolAttrs, PoolKind, QOut, Quant, QuantParams, ReduceKind, Residual, Rounding, Tensor,
    TensorType, UnaryKind, Value, ValueId,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::sync::Arc;

/// Models of one or two graphs.
pub fn model() -> impl Strategy<Value = Model> {
    let pairs = vec((name(), name()), 0..3);
    (name(), vec(graph(), 1..3), pairs).prop_map(|(producer, graphs, metadata)| Model {
        producer,
        graphs,
        metadata,
    })
}

/// Names of all sorts, not empty.
pub fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z][a-z0-9_]{0,6}",
        1 => "[/A-Za-z0-9_.]{1,12}",
        1 => "\\PC{1,4}",
        1 => any::<char>().prop_map(String::from),
    ]
}

/// Constants of any type; some are large enough to lie outside of the message.
pub fn constant() -> impl Strategy<Value = Tensor> {
    let dims = prop_oneof![
        8 => vec(0usize..4, 0..5),
        1 => vec(1usize..4, 6..9),
        1 => (4000usize..5000).prop_map(|n| vec![n]),
    ];
    (dims, select(&DType::ALL[..]))
        .prop_flat_map(|(dims, dtype)| {
            let shape = dims.iter().map(|&d| Dim::Fixed(d)).collect::<Vec<_>>();
            (Just(dims), elem(dtype, shape))
        })
        .prop_flat_map(|(dims, elem)| tensor(elem, dims))
}

/// A tensor of this type and shape with random bits.
pub fn tensor(elem: ElemType, dims: Vec<usize>) -> impl Strategy<Value = Tensor> {
    let len = Tensor::byte_len(elem.dtype, &dims).expect("tests ask for small tensors");
    let bytes = prop_oneof![
        3 => vec(any::<u8>(), len),
        1 => any::<u8>().prop_map(move |b| vec![b; len]),
    ];
    bytes.prop_map(move |mut bytes| {
        if elem.dtype == DType::Bool {
            bytes.iter_mut().for_each(|b| *b &= 1);
        }
        if elem.quant.as_ref().is_some_and(|q| q.narrow_range) {
            raise_lowest(elem.dtype, &mut bytes);
        }
        let odd = dims.iter().product::<usize>() % 2 == 1;
        if elem.dtype.bits() == 4 && odd {
            *bytes.last_mut().expect("an odd number is not 0") &= 15;
        }
        Tensor::copy_from(elem.clone(), dims.clone(), &bytes).expect("the length is right")
    })
}

/// Replaces each lowest value, which a narrow range lacks, by the next.
fn raise_lowest(dtype: DType, bytes: &mut [u8]) {
    match dtype {
        DType::U4 => bytes.iter_mut().for_each(|b| *b |= 0x11),
        DType::I4 => {
            for b in bytes {
                let raise = |n: u8| if n == 8 { 9 } else { n };
                *b = raise(*b & 15) | raise(*b >> 4) << 4;
            }
        }
        DType::U8 => bytes.iter_mut().for_each(|b| *b = (*b).max(1)),
        DType::U16 => bytes.iter_mut().step_by(2).for_each(|b| *b |= 1),
        _ => {
            // Signed: the lowest is 0x80 in the last byte of each element and 0 below.
            for element in bytes.chunks_mut(dtype.bits() as usize / 8) {
                let (last, below) = element.split_last_mut().expect("elements have bytes");
                if *last == 0x80 && below.iter().all(|&b| b == 0) {
                    *last = 0x81;
                }
            }
        }
    }
}

/// Finite and positive, subnormal numbers too.
fn scale() -> impl Strategy<Value = f32> {
    prop_oneof![
        3 => 1e-6f32..10.0,
        1 => (1..f32::INFINITY.to_bits()).prop_map(f32::from_bits),
    ]
}

/// Finite, −0 and subnormal numbers too.
fn finite() -> impl Strategy<Value = f32> {
    use proptest::num::f32::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL};
    prop_oneof![POSITIVE | NEGATIVE | NORMAL | SUBNORMAL, Just(-0.0), Just(1.0)]
}

/// Elements of a storage type for a tensor of this shape, perhaps quantized.
pub fn elem(dtype: DType, dims: Vec<Dim>) -> BoxedStrategy<ElemType> {
    let Some((low, high)) = dtype.quant_range() else {
        return Just(ElemType::plain(dtype)).boxed();
    };
    let expressed = prop_oneof![4 => Just(DType::F32), 1 => Just(DType::F16)];
    (any::<bool>(), expressed, 0..4u8, any::<Index>(), 1usize..5)
        .prop_flat_map(move |(narrow_range, expressed, form, axis, size)| {
            let low = low + i32::from(narrow_range);
            let axis = axis.index(dims.len().max(1));
            // Pairs of parameters; extents that are not known leave it to anyone.
            let extents: Vec<usize> = dims.iter().map(|d| d.fixed().unwrap_or(2)).collect();
            let pairs = match form {
                2 if !extents.is_empty() => extents[axis],
                3 if !extents.is_empty() => {
                    let others: usize = extents.iter().product::<usize>() / extents[axis].max(1);
                    others * extents[axis].div_ceil(size)
                }
                _ => 1,
            };
            // Large shapes would have millions of blocks.
            let form = if dims.is_empty() || pairs > 1000 { form.min(1) } else { form };
            let pairs = if form < 2 { 1 } else { pairs };
            let zeros = prop_oneof![vec(low..=high, pairs), Just(vec![low.max(0); pairs])];
            (vec(scale(), pairs), zeros).prop_map(move |(scales, zeros)| {
                let params = match form {
                    0 | 1 => QuantParams::PerTensor { scale: scales[0], zero_point: zeros[0] },
                    2 => QuantParams::PerAxis {
                        axis,
                        scales: scales.into(),
                        zero_points: zeros.into(),
                    },
                    _ => QuantParams::PerBlock {
                        axis,
                        size,
                        scales: scales.into(),
                        zero_points: zeros.into(),
                    },
                };
                let quant = (form > 0).then_some(Quant { expressed, params, narrow_range });
                ElemType { dtype, quant }
            })
        })
        .boxed()
}

/// `s8` or `u8` with one scale.
pub fn quantized_8bit() -> impl Strategy<Value = ElemType> {
    prop_oneof![
        (scale(), -128..=127i32).prop_map(|(s, z)| ElemType::per_tensor(DType::I8, s, z)),
        (scale(), 0..=255i32).prop_map(|(s, z)| ElemType::per_tensor(DType::U8, s, z)),
    ]
}

fn dims() -> impl Strategy<Value = Vec<Dim>> {
    let dim = prop_oneof![
        4 => (0usize..100).prop_map(Dim::Fixed),
        1 => name().prop_map(|n| Dim::Symbol(Arc::from(n))),
        1 => Just(Dim::Unknown),
    ];
    vec(dim, 0..5)
}

/// Types of any sort.
pub fn tensor_type() -> impl Strategy<Value = TensorType> {
    let ranked = (dims(), select(&DType::ALL[..])).prop_flat_map(|(dims, dtype)| {
        elem(dtype, dims.clone()).prop_map(move |elem| TensorType::new(elem, dims.clone()))
    });
    let unranked =
        select(&DType::ALL[..]).prop_map(|d| TensorType { elem: ElemType::plain(d), dims: None });
    prop_oneof![4 => ranked, 1 => unranked]
}

fn clamp(dtype: DType) -> impl Strategy<Value = Option<IntClamp>> {
    let (low, high) = dtype.quant_range().expect("a storage type of quantized values");
    proptest::option::of(
        (low..=high, low..=high).prop_map(|(a, b)| IntClamp { min: a.min(b), max: a.max(b) }),
    )
}

fn q_out() -> impl Strategy<Value = QOut> {
    quantized_8bit().prop_flat_map(|elem| {
        (clamp(elem.dtype), select(&Rounding::ALL[..])).prop_map(move |(clamp, rounding)| QOut {
            elem: elem.clone(),
            clamp,
            rounding,
        })
    })
}

fn layout() -> impl Strategy<Value = Layout> {
    select(&Layout::ALL[..])
}

fn padding(n: usize, most: usize) -> impl Strategy<Value = Padding> {
    prop_oneof![
        2 => vec(0..=most, 2 * n).prop_map(Padding::Explicit),
        1 => Just(Padding::SameUpper),
        1 => Just(Padding::SameLower),
    ]
}

fn conv() -> impl Strategy<Value = ConvAttrs> {
    (1usize..4)
        .prop_flat_map(|n| {
            (vec(1usize..4, n), padding(n, 3), vec(1usize..3, n), 1usize..4, layout())
        })
        .prop_map(|(strides, padding, dilations, groups, layout)| ConvAttrs {
            strides,
            padding,
            dilations,
            groups,
            layout,
        })
}

fn pool(kind: impl Strategy<Value = PoolKind>) -> impl Strategy<Value = PoolAttrs> {
    let windows = (1usize..4).prop_flat_map(|n| {
        (vec(2usize..5, n), vec(1usize..4, n), padding(n, 1), vec(1usize..3, n))
    });
    (kind, windows, any::<bool>(), layout()).prop_map(
        |(kind, (kernel, strides, padding, dilations), ceil_mode, layout)| PoolAttrs {
            kind,
            kernel,
            strides,
            padding,
            dilations,
            ceil_mode,
            layout,
        },
    )
}

fn average() -> impl Strategy<Value = PoolKind> {
    any::<bool>().prop_map(|count_include_pad| PoolKind::Average { count_include_pad })
}

fn axis() -> impl Strategy<Value = i64> {
    -8i64..8
}

fn axes(least: usize) -> impl Strategy<Value = Vec<i64>> {
    proptest::sample::subsequence((-8i64..8).collect::<Vec<_>>(), least..=8)
}

fn unary() -> impl Strategy<Value = UnaryKind> {
    (select(&UnaryKind::ALL[..]), finite(), finite(), any::<bool>()).prop_map(
        |(kind, a, b, inf)| match kind {
            UnaryKind::LeakyRelu { .. } => UnaryKind::LeakyRelu { alpha: a },
            UnaryKind::Elu { .. } => UnaryKind::Elu { alpha: a },
            UnaryKind::HardSigmoid { .. } => UnaryKind::HardSigmoid { alpha: a, beta: b },
            UnaryKind::Clip { .. } if inf => UnaryKind::Clip { min: f32::NEG_INFINITY, max: b },
            UnaryKind::Clip { .. } => UnaryKind::Clip { min: a, max: b },
            plain => plain,
        },
    )
}

/// Operators of every sort with attributes that the verifier takes, where operands have no type.
pub fn op() -> BoxedStrategy<Op> {
    let flag = any::<bool>;
    let movement = prop_oneof![
        Just(Op::Identity),
        flag().prop_map(|allow_zero| Op::Reshape { allow_zero }),
        (-8i64..=8).prop_map(|axis| Op::Flatten { axis }),
        axes(0).prop_map(|axes| Op::Squeeze { axes }),
        axes(1).prop_map(|axes| Op::Unsqueeze { axes }),
        Just((0..5usize).collect::<Vec<_>>())
            .prop_shuffle()
            .prop_map(|perm| Op::Transpose { perm }),
        axis().prop_map(|axis| Op::Concat { axis }),
        (axis(), vec(0i64..100, 0..4)).prop_map(|(axis, sizes)| Op::Split { axis, sizes }),
        axis().prop_map(|axis| Op::Gather { axis }),
        select(vec![Op::Slice, Op::Expand, Op::Tile, Op::Size, Op::Range, Op::Where, Op::MatMul]),
        select(&PadMode::ALL[..]).prop_map(|mode| Op::Pad { mode }),
        select(&DType::ALL[..]).prop_map(|to| Op::Cast { to }),
        tensor_type().prop_map(|ty| Op::Reinterpret { out: ty.elem }),
        (any::<i64>(), any::<Option<i64>>()).prop_map(|(start, end)| Op::Shape { start, end }),
        select(&DType::ALL[..])
            .prop_flat_map(|dtype| tensor(ElemType::plain(dtype), vec![1]))
            .prop_map(|value| Op::ConstantOfShape { value }),
    ];
    let max_or_average = prop_oneof![Just(PoolKind::Max), average()];
    let float = prop_oneof![
        conv().prop_map(Op::Conv),
        (finite(), finite(), flag(), flag()).prop_map(|(alpha, beta, trans_a, trans_b)| {
            Op::Gemm { alpha, beta, trans_a, trans_b }
        }),
        pool(max_or_average).prop_map(Op::Pool),
        (select(&ReduceKind::ALL[..]), axes(0), flag())
            .prop_map(|(kind, axes, keep_dims)| Op::Reduce { kind, axes, keep_dims }),
        (axis(), flag()).prop_map(|(axis, keep_dims)| Op::ArgMax { axis, keep_dims }),
        unary().prop_map(Op::Unary),
        select(&BinaryKind::ALL[..]).prop_map(Op::Binary),
        (finite(), layout()).prop_map(|(e, layout)| Op::BatchNorm { epsilon: e.abs(), layout }),
        (axis(), finite()).prop_map(|(axis, e)| Op::LayerNorm { axis, epsilon: e.abs() }),
        (axis(), flag()).prop_map(|(axis, flatten)| Op::Softmax { axis, flatten }),
    ];
    let residual = (quantized_8bit(), flag()).prop_flat_map(|(inner, conv_is_lhs)| {
        clamp(inner.dtype).prop_map(move |inner_clamp| Residual {
            inner: inner.clone(),
            inner_clamp,
            conv_is_lhs,
        })
    });
    let add_or_mul = select(vec![BinaryKind::Add, BinaryKind::Mul]);
    let quantized = prop_oneof![
        q_out().prop_map(|out| Op::Quantize { out: out.elem, clamp: out.clamp }),
        Just(Op::Dequantize),
        q_out().prop_map(Op::Requantize),
        (conv(), q_out(), flag(), proptest::option::of(residual)).prop_map(
            |(conv, out, zero_folded, residual)| Op::QConv { conv, out, zero_folded, residual }
        ),
        (flag(), finite(), q_out(), flag()).prop_map(|(trans_b, alpha, out, zero_folded)| {
            Op::QMatMul { trans_b, alpha, out, zero_folded }
        }),
        (add_or_mul, flag(), q_out()).prop_map(|(kind, flipped, out)| Op::QBinary {
            kind,
            flipped,
            out
        }),
        (pool(average()), q_out()).prop_map(|(pool, out)| Op::QPool { pool, out }),
        (axes(0), flag(), q_out()).prop_map(|(axes, keep_dims, out)| Op::QMean {
            axes,
            keep_dims,
            out
        }),
        (axis(), q_out()).prop_map(|(axis, out)| Op::QSoftmax { axis, out }),
        (vec(any::<u8>(), 256), quantized_8bit()).prop_map(|(bytes, out)| {
            let table: [u8; 256] = bytes.try_into().expect("256 bytes were asked for");
            Op::Lut { table: Arc::new(table), out }
        }),
    ];
    let custom = (name(), name(), any::<u32>(), vec(any::<u8>(), 0..40))
        .prop_map(|(domain, name, version, payload)| Op::Custom { domain, name, version, payload });
    prop_oneof![15 => movement, 10 => float, 10 => quantized, 1 => custom].boxed()
}

/// Operands, required ones first, and results of an operator; the last number is of operands that
/// may be added.
fn operands(op: &Op) -> (usize, usize, usize) {
    match op {
        Op::Split { sizes, .. } => (1, sizes.len().max(1), 0),
        Op::Concat { .. } => (2, 1, 0),
        Op::Slice | Op::Pad { .. } => (3, 1, 1),
        Op::Range | Op::Where => (3, 1, 0),
        Op::BatchNorm { .. } => (5, 1, 0),
        Op::QConv { residual: Some(_), .. } => (4, 1, 0),
        Op::Conv(_) | Op::Gemm { .. } | Op::LayerNorm { .. } | Op::QMatMul { .. } => (2, 1, 1),
        Op::QConv { .. } => (2, 1, 1),
        Op::Reshape { .. }
        | Op::Gather { .. }
        | Op::Expand
        | Op::Tile
        | Op::MatMul
        | Op::Binary(_)
        | Op::QBinary { .. } => (2, 1, 0),
        Op::Custom { .. } => (0, 2, 3),
        _ => (1, 1, 0),
    }
}

/// What a node is made of before its operands are known.
type Recipe = (Op, Vec<Index>, Vec<bool>, Option<String>, Vec<String>);

fn recipe() -> impl Strategy<Value = Recipe> {
    let picks = vec(any::<Index>(), 8);
    let present = vec(any::<bool>(), 8);
    (op(), picks, present, proptest::option::of(name()), vec(name(), 0..3))
}

/// One graph. Its values are not in the order in which the text form mentions them.
pub fn graph() -> impl Strategy<Value = Graph> {
    let inputs = vec((name(), proptest::option::of(tensor_type())), 1..4);
    let constants = vec((name(), constant()), 0..4);
    (name(), inputs, constants, vec(recipe(), 0..8), vec(any::<Index>(), 0..4)).prop_map(
        |(name, inputs, constants, recipes, outputs)| {
            let mut graph = Graph { name, ..Graph::default() };
            for (name, data) in constants {
                define(&mut graph, name, Some(data.ty()), Some(data));
            }
            for (name, ty) in inputs {
                let id = define(&mut graph, name, ty, None);
                graph.inputs.push(id);
            }
            // Nobody checks the operands' types here, so those with a known type go to operators
            // that take any.
            let untyped = define(&mut graph, "untyped".into(), None, None);
            graph.inputs.push(untyped);
            for recipe in recipes {
                add_node(&mut graph, untyped, recipe);
            }
            let n = graph.values.len();
            graph.outputs = outputs.iter().map(|i| ValueId(i.index(n) as u32)).collect();
            graph
        },
    )
}

fn define(
    graph: &mut Graph,
    name: String,
    ty: Option<TensorType>,
    data: Option<Tensor>,
) -> ValueId {
    let mut unique = name;
    while graph.values.iter().any(|v| v.name == unique) {
        unique.push('_');
    }
    graph.add_value(Value { name: unique, ty, data })
}

fn add_node(graph: &mut Graph, untyped: ValueId, recipe: Recipe) {
    let (op, picks, present, name, origin) = recipe;
    let (required, results, optional) = operands(&op);
    let takes_any = matches!(
        op,
        Op::Identity
            | Op::Custom { .. }
            | Op::Where
            | Op::MatMul
            | Op::Expand
            | Op::Binary(_)
            | Op::Size
            | Op::Cast { .. }
            | Op::Unary(_)
    );
    let untyped_values: Vec<ValueId> = (0..graph.values.len() as u32)
        .map(ValueId)
        .filter(|id| graph.values[id.index()].ty.is_none())
        .collect();
    let inputs = (0..required + optional)
        .map(|i| {
            let pick = picks[i % picks.len()];
            if i >= required && !present[i] {
                None
            } else if takes_any {
                Some(ValueId(pick.index(graph.values.len()) as u32))
            } else {
                Some(
                    untyped_values
                        .get(pick.index(untyped_values.len()))
                        .copied()
                        .unwrap_or(untyped),
                )
            }
        })
        .collect();
    let outputs: Vec<ValueId> = (0..results)
        .map(|i| {
            let base = name.clone().unwrap_or_else(|| "v".into());
            let ty = result_type(&op).filter(|_| present[7 - i]);
            define(graph, base, ty, None)
        })
        .collect();
    let first = graph.values[outputs[0].index()].name.clone();
    let mut node_name = if present[0] { first } else { format!("node {}", graph.nodes.len()) };
    while graph.nodes.iter().any(|n| n.name == node_name) {
        node_name.push('\'');
    }
    graph.nodes.push(Node { name: node_name, op, inputs, outputs, origin });
}

/// The type that an operator says its result has, of any shape.
fn result_type(op: &Op) -> Option<TensorType> {
    let elem = match op {
        Op::Quantize { out, .. } | Op::Lut { out, .. } => out,
        Op::Requantize(out)
        | Op::QConv { out, .. }
        | Op::QMatMul { out, .. }
        | Op::QBinary { out, .. }
        | Op::QPool { out, .. }
        | Op::QMean { out, .. }
        | Op::QSoftmax { out, .. } => &out.elem,
        _ => return None,
    };
    Some(TensorType { elem: elem.clone(), dims: None })
}
