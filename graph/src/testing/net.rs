//! Random small nets: a list of steps, each applied to the value so far where it fits.
//!
//! Every operator is evaluated as it is added, so that the graph is always valid and scales fit the
//! values they quantize.

use super::Random;
use crate::{Graph, reference};
use proptest::prelude::*;
use requant_ir::{
    BinaryKind, ConvAttrs, DType, ElemType, Layout, Model, Node, Op, PadMode, Padding, PoolAttrs,
    PoolKind, ReduceKind, Tensor, UnaryKind, Value, ValueId,
};
use std::fmt;

/// A graph and inputs for it.
#[derive(Clone)]
pub struct Case {
    /// The graph.
    pub graph: Graph,
    /// Its inputs.
    pub inputs: Vec<(String, Tensor)>,
}

impl Case {
    /// The inputs as [`reference::run`] takes them.
    pub fn feeds(&self) -> Vec<(&str, Tensor)> {
        self.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect()
    }
}

/// The model's text, so that a failing case can be read.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.graph.to_model())
    }
}

/// One thing that happens to the value so far.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Step {
    Conv {
        channels: usize,
        kernel: usize,
        stride: usize,
        padded: bool,
        bias: bool,
    },
    Depthwise {
        padded: bool,
        bias: bool,
    },
    /// The weights of the convolution before, again.
    SharedConv,
    BatchNorm,
    Activation(UnaryKind),
    /// A constant of one number (rank 0 or 1) or one for each channel.
    Constant {
        kind: BinaryKind,
        shape: usize,
        constant_first: bool,
    },
    /// Adds, multiplies or concatenates the value last saved.
    Join {
        kind: usize,
        saved_first: bool,
    },
    Square,
    MaxPool,
    AveragePool {
        include_pad: bool,
    },
    Mean,
    Pad {
        value: bool,
    },
    TransposeThereAndBack,
    ReshapeThereAndBack,
    Identity,
    Softmax,
    Dense {
        units: usize,
        bias: bool,
    },
    Save,
    /// The value so far is an output, too.
    Output,
}

fn activation() -> impl Strategy<Value = UnaryKind> {
    prop::sample::select(vec![
        UnaryKind::Relu,
        UnaryKind::Relu,
        UnaryKind::Clip { min: 0.0, max: 6.0 },
        UnaryKind::Clip { min: -0.3, max: 0.7 },
        UnaryKind::Sigmoid,
        UnaryKind::Tanh,
        UnaryKind::HardSwish,
        UnaryKind::Silu,
        UnaryKind::LeakyRelu { alpha: 0.1 },
    ])
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(vec![
        BinaryKind::Add,
        BinaryKind::Mul,
        BinaryKind::Sub,
        BinaryKind::Div,
    ]);
    prop_oneof![
        5 => (1..5usize, prop::sample::select(vec![1usize, 3]), 1..3usize, any::<bool>(), any::<bool>())
            .prop_map(|(channels, kernel, stride, padded, bias)| Step::Conv { channels, kernel, stride, padded, bias }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(padded, bias)| Step::Depthwise { padded, bias }),
        1 => Just(Step::SharedConv),
        2 => Just(Step::BatchNorm),
        4 => activation().prop_map(Step::Activation),
        2 => (kind, 0..3usize, any::<bool>())
            .prop_map(|(kind, shape, constant_first)| Step::Constant { kind, shape, constant_first }),
        3 => (0..3usize, any::<bool>()).prop_map(|(kind, saved_first)| Step::Join { kind, saved_first }),
        1 => Just(Step::Square),
        1 => Just(Step::MaxPool),
        1 => any::<bool>().prop_map(|include_pad| Step::AveragePool { include_pad }),
        1 => Just(Step::Mean),
        2 => any::<bool>().prop_map(|value| Step::Pad { value }),
        1 => Just(Step::TransposeThereAndBack),
        1 => Just(Step::ReshapeThereAndBack),
        1 => Just(Step::Identity),
        1 => Just(Step::Softmax),
        2 => (1..5usize, any::<bool>()).prop_map(|(units, bias)| Step::Dense { units, bias }),
        3 => Just(Step::Save),
        1 => Just(Step::Output),
    ]
}

/// Float nets and nets with quantize and dequantize around every operator.
pub fn case() -> impl Strategy<Value = Case> {
    any::<bool>().prop_flat_map(of)
}

/// Float nets.
pub fn float_case() -> impl Strategy<Value = Case> {
    of(false)
}

/// Nets with quantize and dequantize around every operator.
pub fn qdq_case() -> impl Strategy<Value = Case> {
    of(true)
}

fn of(qdq: bool) -> impl Strategy<Value = Case> {
    (any::<u64>(), prop::collection::vec(step(), 1..9)).prop_map(move |(seed, steps)| {
        let mut net = Net::new(seed, qdq);
        for step in steps {
            net.step(step);
        }
        net.finish()
    })
}

/// A net under construction; values are known for its one input.
struct Net {
    graph: requant_ir::Graph,
    tensors: Vec<Tensor>,
    random: Random,
    qdq: bool,
    now: ValueId,
    saved: Option<ValueId>,
    /// Weights (as the convolution reads them) and attributes of the last convolution.
    last_conv: Option<(ConvAttrs, ValueId)>,
}

impl Net {
    fn new(seed: u64, qdq: bool) -> Self {
        let mut random = Random::new(seed);
        let dims =
            [1 + random.below(2), 1 + random.below(4), 3 + random.below(5), 3 + random.below(5)];
        let values = random.floats(dims.iter().product(), 3.0);
        let input = Tensor::from_slice(&dims, &values).expect("the shape is of the values");
        let mut net = Net {
            graph: requant_ir::Graph { name: "main".into(), ..Default::default() },
            tensors: Vec::new(),
            random,
            qdq,
            now: ValueId(0),
            saved: None,
            last_conv: None,
        };
        net.now = net.value("x", input, false);
        net.graph.inputs.push(net.now);
        net.now = net.annotated(net.now);
        net
    }

    fn value(&mut self, name: &str, tensor: Tensor, constant: bool) -> ValueId {
        let name = if self.tensors.is_empty() {
            name.to_owned()
        } else {
            format!("{name}{}", self.tensors.len())
        };
        let data = constant.then(|| tensor.clone());
        let is_input = self.tensors.is_empty();
        let ty = (constant || is_input).then(|| tensor.ty());
        self.tensors.push(tensor);
        self.graph.add_value(Value { name, ty, data })
    }

    fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.value(name, tensor, true)
    }

    fn dims(&self, id: ValueId) -> &[usize] {
        self.tensors[id.index()].dims()
    }

    /// Adds an operator; `None` where it cannot take these operands.
    fn node(&mut self, op: Op, operands: &[ValueId]) -> Option<ValueId> {
        let tensors: Vec<_> = operands.iter().map(|o| Some(&self.tensors[o.index()])).collect();
        let result = reference::eval(&op, &tensors).ok()?.pop()?;
        let output = self.value(op.mnemonic(), result, false);
        self.graph.nodes.push(Node {
            name: format!("n{}", output.0),
            op,
            inputs: operands.iter().copied().map(Some).collect(),
            outputs: vec![output],
            origin: Vec::new(),
        });
        Some(output)
    }

    /// Quantizes and dequantizes a value if this is such a net.
    fn annotated(&mut self, value: ValueId) -> ValueId {
        let tensor = &self.tensors[value.index()];
        let Some(numbers) = tensor.as_slice::<f32>().filter(|_| self.qdq) else { return value };
        let low = numbers.iter().fold(0.0f32, |m, v| m.min(*v)).max(-1e6);
        let high = numbers.iter().fold(0.0f32, |m, v| m.max(*v)).min(1e6);
        let scale = ((high - low) / 255.0).max(1e-4);
        let zero = ((-low / scale).round_ties_even() as i32).clamp(0, 255);
        let channels = tensor.dims().get(1).copied().unwrap_or(0);
        let out = match self.random.below(8) {
            0 | 1 => ElemType::per_tensor(DType::I8, low.abs().max(high).max(0.01) / 127.0, 0),
            2 | 3 => ElemType::per_tensor(DType::I8, scale, zero - 128),
            // Rare in models, but valid.
            4 if channels > 0 => {
                let (dtype, by) = [(DType::U8, 0), (DType::I8, 128)][self.random.below(2)];
                let scales: Vec<f32> =
                    (0..channels).map(|i| scale * (1.0 + 0.1 * i as f32)).collect();
                let zeros: Vec<i32> =
                    (0..channels).map(|i| (zero + i as i32).min(255) - by).collect();
                ElemType { dtype, quant: Some(requant_ir::Quant::per_axis(1, scales, zeros)) }
            }
            _ => ElemType::per_tensor(DType::U8, scale, zero),
        };
        let quantized = self.node(Op::Quantize { out, clamp: None }, &[value]);
        quantized.and_then(|q| self.node(Op::Dequantize, &[q])).unwrap_or(value)
    }

    /// Weights, per tensor or per channel of `axis` if this is a quantized net.
    fn weights(&mut self, dims: &[usize], axis: usize) -> ValueId {
        let count: usize = dims.iter().product();
        if !self.qdq {
            let numbers = self.random.floats(count, 1.0);
            let tensor = Tensor::from_slice(dims, &numbers).expect("the shape is of the values");
            return self.constant("w", tensor);
        }
        let codes: Vec<u8> = (0..count).map(|_| self.random.next_u64() as u8).collect();
        let elem = match self.random.below(3) {
            0 => ElemType::per_tensor(DType::U8, 0.01, 120),
            1 => ElemType::per_tensor(DType::I8, 0.01, 0),
            _ => {
                let scales: Vec<f32> =
                    (0..dims[axis]).map(|_| 0.004 + 0.01 * self.random.signed().abs()).collect();
                let zeros = vec![0; scales.len()];
                let quant = Some(requant_ir::Quant::per_axis(axis, scales, zeros));
                ElemType { dtype: DType::I8, quant }
            }
        };
        let tensor = Tensor::copy_from(elem, dims.to_vec(), &codes).expect("a byte for each");
        let constant = self.constant("w", tensor);
        self.node(Op::Dequantize, &[constant]).unwrap_or(constant)
    }

    /// A bias; in a quantized net s32 with the product of the scales where `x` and `w` have one.
    fn bias(&mut self, count: usize, x: ValueId, w: ValueId) -> ValueId {
        let scales = |net: &Net, id: ValueId| -> Option<Vec<f32>> {
            let node = net.graph.nodes.iter().find(|n| n.outputs == [id])?;
            let source = (*node.inputs.first()?)?;
            matches!(node.op, Op::Dequantize).then_some(())?;
            Some(net.tensors[source.index()].elem().quant.as_ref()?.scales().to_vec())
        };
        if let (Some(x), Some(w)) = (scales(self, x), scales(self, w)) {
            let scales: Vec<f32> = w.iter().map(|w| x[0] * w).collect();
            let codes: Vec<i32> =
                (0..count).map(|_| (self.random.signed() * 3000.0) as i32).collect();
            let elem = if scales.len() == 1 {
                ElemType::per_tensor(DType::I32, scales[0], 0)
            } else {
                let zeros = vec![0; scales.len()];
                ElemType {
                    dtype: DType::I32,
                    quant: Some(requant_ir::Quant::per_axis(0, scales, zeros)),
                }
            };
            let bytes: Vec<u8> = codes.iter().flat_map(|c| c.to_le_bytes()).collect();
            let tensor = Tensor::copy_from(elem, vec![count], &bytes).expect("four bytes each");
            let constant = self.constant("b", tensor);
            return self.node(Op::Dequantize, &[constant]).unwrap_or(constant);
        }
        let numbers = self.random.floats(count, 1.0);
        self.constant("b", Tensor::from_slice(&[count], &numbers).expect("as many as the extent"))
    }

    fn conv(&mut self, dims: &[usize], conv: ConvAttrs, bias: bool) -> Option<ValueId> {
        let w = self.weights(dims, 0);
        self.last_conv = Some((conv.clone(), w));
        if bias {
            let b = self.bias(dims[0], self.now, w);
            return self.node(Op::Conv(conv), &[self.now, w, b]);
        }
        self.node(Op::Conv(conv), &[self.now, w])
    }

    fn step(&mut self, step: Step) {
        let x = self.now;
        match step {
            Step::Save => self.saved = Some(x),
            Step::Output => {
                if !self.graph.outputs.contains(&x) && !self.graph.inputs.contains(&x) {
                    self.graph.outputs.push(x);
                }
            }
            _ => {
                let values = self.tensors.len();
                if let Some(result) = self.apply(step, x)
                    && self.tensors[result.index()].len() <= 4096
                {
                    self.now = self.annotated(result);
                } else {
                    self.forget(values);
                }
            }
        }
    }

    /// Takes back everything from value `values` on.
    fn forget(&mut self, values: usize) {
        self.tensors.truncate(values);
        self.graph.values.truncate(values);
        let kept = |id: &ValueId| id.index() < values;
        self.graph.nodes.retain(|n| n.outputs.iter().all(kept));
        self.last_conv.take_if(|(_, w)| !kept(w));
    }

    fn apply(&mut self, step: Step, x: ValueId) -> Option<ValueId> {
        let dims = self.dims(x).to_vec();
        let window = |padded: bool| Padding::Explicit(vec![usize::from(padded); 4]);
        let conv = |stride: usize, padding: Padding, groups: usize| ConvAttrs {
            strides: vec![stride; 2],
            padding,
            dilations: vec![1; 2],
            groups,
            layout: Layout::ChannelsFirst,
        };
        let channels = *dims.get(1)?;
        match step {
            Step::Conv { channels: outputs, kernel, stride, padded, bias } => {
                let padded = padded && kernel == 3;
                let weights = [outputs, channels, kernel, kernel];
                self.conv(&weights, conv(stride, window(padded), 1), bias)
            }
            Step::Depthwise { padded, bias } => {
                self.conv(&[channels, 1, 3, 3], conv(1, window(padded), channels), bias)
            }
            Step::SharedConv => {
                let (conv, w) = self.last_conv.clone()?;
                self.node(Op::Conv(conv), &[x, w])
            }
            Step::BatchNorm => {
                let parameters: Vec<ValueId> = [0.5, 0.0, 0.0, 1.0]
                    .into_iter()
                    .map(|least| {
                        let numbers: Vec<f32> =
                            (0..channels).map(|_| least + self.random.signed().abs()).collect();
                        let tensor = Tensor::from_slice(&[channels], &numbers);
                        self.constant("bn", tensor.expect("one for each channel"))
                    })
                    .collect();
                let op = Op::BatchNorm { epsilon: 1e-5, layout: Layout::ChannelsFirst };
                self.node(op, &[vec![x], parameters].concat())
            }
            Step::Activation(kind) => self.node(Op::Unary(kind), &[x]),
            Step::Constant { kind, shape, constant_first } => {
                let ones = vec![1; dims.len().saturating_sub(2)];
                let shape = [vec![], vec![1], [vec![channels], ones].concat()][shape].clone();
                let count = shape.iter().product();
                let numbers: Vec<f32> =
                    self.random.floats(count, 1.0).iter().map(|v| v + v.signum() * 0.5).collect();
                let c = self.constant("c", Tensor::from_slice(&shape, &numbers).ok()?);
                let operands = if constant_first { [c, x] } else { [x, c] };
                self.node(Op::Binary(kind), &operands)
            }
            Step::Join { kind, saved_first } => {
                let saved = self.saved.unwrap_or(x);
                let operands = if saved_first { [saved, x] } else { [x, saved] };
                let op = [
                    Op::Binary(BinaryKind::Add),
                    Op::Binary(BinaryKind::Mul),
                    Op::Concat { axis: 1 },
                ];
                self.node(op[kind].clone(), &operands)
            }
            Step::Square => self.node(Op::Binary(BinaryKind::Mul), &[x, x]),
            Step::MaxPool => self.node(pool(PoolKind::Max), &[x]),
            Step::AveragePool { include_pad } => {
                self.node(pool(PoolKind::Average { count_include_pad: include_pad }), &[x])
            }
            Step::Mean => {
                let op = Op::Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keep_dims: true };
                self.node(op, &[x])
            }
            Step::Pad { value } => {
                let pads = self.ints(&[0, 0, 1, 0, 0, 0, 1, 2]);
                let mut operands = vec![x, pads];
                if value {
                    operands.push(self.constant("v", Tensor::scalar(0.25f32)));
                }
                self.node(Op::Pad { mode: PadMode::Constant }, &operands)
            }
            Step::TransposeThereAndBack => {
                let there = self.node(Op::Transpose { perm: vec![0, 2, 3, 1] }, &[x])?;
                let there = self.node(Op::Unary(UnaryKind::Relu), &[there])?;
                self.node(Op::Transpose { perm: vec![0, 3, 1, 2] }, &[there])
            }
            Step::ReshapeThereAndBack => {
                let flat = self.ints(&[0, -1]);
                let back: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
                let back = self.ints(&back);
                let flat = self.node(Op::Reshape { allow_zero: false }, &[x, flat])?;
                self.node(Op::Reshape { allow_zero: false }, &[flat, back])
            }
            Step::Identity => self.node(Op::Identity, &[x]),
            Step::Softmax => self.node(Op::Softmax { axis: 1, flatten: false }, &[x]),
            Step::Dense { units, bias } => {
                let flat = self.node(Op::Flatten { axis: 1 }, &[x])?;
                let flat = self.annotated(flat);
                let inputs = *self.dims(flat).get(1)?;
                let w = self.weights(&[units, inputs], 0);
                let mut operands = vec![flat, w];
                if bias {
                    operands.push(self.bias(units, flat, w));
                }
                let op = Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: true };
                self.node(op, &operands)
            }
            Step::Save | Step::Output => None,
        }
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        let tensor = Tensor::from_slice(&[values.len()], values);
        self.constant("s", tensor.expect("as many as the extent"))
    }

    fn finish(mut self) -> Case {
        if !self.graph.outputs.contains(&self.now) {
            self.graph.outputs.push(self.now);
        }
        let inputs = vec![("x".to_owned(), self.tensors[0].clone())];
        let model = Model { graphs: vec![self.graph], ..Model::default() };
        let graph = Graph::from_model(&model);
        Case { graph: graph.expect("every operator was evaluated"), inputs }
    }
}

fn pool(kind: PoolKind) -> Op {
    Op::Pool(PoolAttrs {
        kind,
        kernel: vec![2, 2],
        strides: vec![2, 1],
        padding: Padding::Explicit(vec![0, 1, 1, 0]),
        dilations: vec![1, 1],
        ceil_mode: false,
        layout: Layout::ChannelsFirst,
    })
}
