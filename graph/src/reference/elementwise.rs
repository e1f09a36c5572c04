//! Elementwise operators of plain numbers.

use super::data::{Units, from_units, tensor};
use super::movement::broadcast_to;
use super::{Cx, EvalError};
use half::f16;
use requant_ir::{BinaryKind, DType, Op, Tensor, TensorType, UnaryKind};
use requant_kernels::float::Unary;

pub(super) fn eval(cx: &Cx<'_>, op: &Op, ty: &TensorType) -> Result<Tensor, EvalError> {
    let dims = cx.dims(ty)?;
    let numbers = |i| {
        let tensor = cx.get(i)?;
        Numbers::of(tensor).ok_or_else(|| cx.storage(tensor))
    };
    match op {
        Op::Cast { .. } => numbers(0)?.into_tensor(cx, ty, dims),
        Op::Where => {
            let wide = |i: usize| -> Result<_, EvalError> {
                let part = cx.get(i)?;
                let units = Units::of(part);
                let index: Vec<usize> = (0..part.len()).collect();
                Ok((units, broadcast_to(&index, part.dims(), &dims)))
            };
            let ((condition, c), (x, xi), (y, yi)) = (wide(0)?, wide(1)?, wide(2)?);
            let mut bytes = Vec::new();
            for (i, c) in c.into_iter().enumerate() {
                let (from, at) = if condition.bytes[c] != 0 { (&x, xi[i]) } else { (&y, yi[i]) };
                bytes.extend_from_slice(&from.bytes[at * from.size..][..from.size]);
            }
            from_units(&ty.elem, dims, &bytes)
        }
        Op::Unary(kind) => match numbers(0)? {
            Numbers::Int(mut values) => {
                values.iter_mut().for_each(|v| *v = unary_int(*kind, *v));
                Numbers::Int(values).into_tensor(cx, ty, dims)
            }
            Numbers::Float(mut values) if ty.dtype() == DType::F64 => {
                values.iter_mut().for_each(|v| *v = unary_f64(*kind, *v));
                tensor(&ty.elem, dims, &values)
            }
            Numbers::Float(_) => {
                let mut values = cx.f32s(0)?.into_owned();
                values.iter_mut().for_each(|v| *v = unary_f32(*kind, *v));
                cx.floats(&ty.elem, dims, &values)
            }
        },
        Op::Binary(kind) => {
            let (a, b) = (cx.get(0)?, cx.get(1)?);
            match (numbers(0)?, numbers(1)?) {
                (Numbers::Int(x), Numbers::Int(y)) => {
                    let x = broadcast_to(&x, a.dims(), &dims);
                    let y = broadcast_to(&y, b.dims(), &dims);
                    let value = |(x, y): (i64, i64)| binary_int(cx, *kind, x, y);
                    let values = x.into_iter().zip(y).map(value).collect::<Result<_, _>>()?;
                    Numbers::Int(values).into_tensor(cx, ty, dims)
                }
                (Numbers::Float(x), Numbers::Float(y)) => {
                    let x = broadcast_to(&x, a.dims(), &dims);
                    let y = broadcast_to(&y, b.dims(), &dims);
                    let double = a.dtype() == DType::F64;
                    let pairs = x.into_iter().zip(y);
                    if let Some(compare) = comparison(*kind) {
                        let values = pairs.map(|(x, y)| i64::from(compare(x, y))).collect();
                        return Numbers::Int(values).into_tensor(cx, ty, dims);
                    }
                    let values = pairs.map(|(x, y)| {
                        if double {
                            binary_f64(*kind, x, y)
                        } else {
                            f64::from(binary_f32(*kind, x as f32, y as f32))
                        }
                    });
                    Numbers::Float(values.collect()).into_tensor(cx, ty, dims)
                }
                _ => Err(cx.storage(b)),
            }
        }
        _ => Err(EvalError::Unresolved { op: cx.op }),
    }
}

/// The elements of a plain tensor, exactly.
pub(super) enum Numbers {
    Int(Vec<i64>),
    Float(Vec<f64>),
}

impl Numbers {
    pub(super) fn of(tensor: &Tensor) -> Option<Self> {
        Some(match tensor.dtype() {
            DType::F32 => {
                Self::Float(tensor.as_slice::<f32>()?.iter().map(|&v| v.into()).collect())
            }
            DType::F16 => {
                Self::Float(tensor.as_slice::<f16>()?.iter().map(|&v| v.into()).collect())
            }
            DType::F64 => Self::Float(tensor.as_slice::<f64>()?.to_vec()),
            _ => Self::Int(tensor.to_i64()?),
        })
    }

    /// In another storage: floats become integers by truncation and saturate, integers wrap around,
    /// `bool` is whether a number is not 0.
    pub(super) fn into_tensor(
        self,
        cx: &Cx<'_>,
        ty: &TensorType,
        dims: Vec<usize>,
    ) -> Result<Tensor, EvalError> {
        macro_rules! convert {
            ($t:ty) => {{
                let values: Vec<$t> = match self {
                    Numbers::Int(values) => values.into_iter().map(|v| v as $t).collect(),
                    Numbers::Float(values) => values.into_iter().map(|v| v as $t).collect(),
                };
                tensor(&ty.elem, dims, &values)
            }};
        }
        match ty.dtype() {
            DType::F32 => convert!(f32),
            DType::F64 => convert!(f64),
            DType::F16 => {
                let half = match self {
                    Numbers::Int(v) => v.into_iter().map(|v| f16::from_f64(v as f64)).collect(),
                    Numbers::Float(v) => v.into_iter().map(f16::from_f64).collect::<Vec<_>>(),
                };
                tensor(&ty.elem, dims, &half)
            }
            DType::I8 => convert!(i8),
            DType::U8 => convert!(u8),
            DType::I16 => convert!(i16),
            DType::U16 => convert!(u16),
            DType::I32 => convert!(i32),
            DType::I64 => convert!(i64),
            DType::Bool => {
                let bits: Vec<u8> = match self {
                    Numbers::Int(v) => v.into_iter().map(|v| u8::from(v != 0)).collect(),
                    Numbers::Float(v) => v.into_iter().map(|v| u8::from(v != 0.0)).collect(),
                };
                tensor(&ty.elem, dims, &bits)
            }
            dtype => Err(EvalError::Storage { op: cx.op, dtype }),
        }
    }
}

fn unary_int(kind: UnaryKind, v: i64) -> i64 {
    match kind {
        UnaryKind::Not => i64::from(v == 0),
        UnaryKind::Neg => v.wrapping_neg(),
        UnaryKind::Abs => v.wrapping_abs(),
        UnaryKind::Sign => v.signum(),
        UnaryKind::Relu => v.max(0),
        UnaryKind::Clip { min, max } => v.max(min.ceil() as i64).min(max.floor() as i64),
        // Inference lets no other function have integers.
        _ => v,
    }
}

/// The function of one f32: the kernels' own where there is one.
pub(super) fn unary_f32(kind: UnaryKind, v: f32) -> f32 {
    use UnaryKind as K;
    let kernel = match kind {
        K::Relu => Unary::Relu,
        K::Sigmoid => Unary::Sigmoid,
        K::Tanh => Unary::Tanh,
        K::Exp => Unary::Exp,
        K::Log => Unary::Log,
        K::Sqrt => Unary::Sqrt,
        K::Reciprocal => Unary::Reciprocal,
        K::Neg => Unary::Neg,
        K::Abs => Unary::Abs,
        K::Floor => Unary::Floor,
        K::Ceil => Unary::Ceil,
        K::Round => Unary::Round,
        K::Erf => Unary::Erf,
        K::HardSwish => Unary::HardSwish,
        K::Silu => Unary::Silu,
        K::LeakyRelu { alpha } => Unary::LeakyRelu { alpha },
        K::Elu { alpha } => Unary::Elu { alpha },
        K::HardSigmoid { alpha, beta } => Unary::HardSigmoid { alpha, beta },
        K::Clip { min, max } => Unary::Clip { lo: min, hi: max },
        K::Sign | K::Softplus | K::Sin | K::Cos | K::Not => {
            return unary_f64(kind, f64::from(v)) as f32;
        }
    };
    kernel.eval(v)
}

fn unary_f64(kind: UnaryKind, v: f64) -> f64 {
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    match kind {
        UnaryKind::Relu => {
            if v > 0.0 {
                v
            } else {
                0.0
            }
        }
        UnaryKind::Sigmoid => sigmoid(v),
        UnaryKind::Tanh => v.tanh(),
        UnaryKind::Exp => v.exp(),
        UnaryKind::Log => v.ln(),
        UnaryKind::Sqrt => v.sqrt(),
        UnaryKind::Reciprocal => 1.0 / v,
        UnaryKind::Neg => -v,
        UnaryKind::Abs => v.abs(),
        UnaryKind::Sign => {
            if v == 0.0 {
                v
            } else {
                v.signum()
            }
        }
        UnaryKind::Floor => v.floor(),
        UnaryKind::Ceil => v.ceil(),
        UnaryKind::Round => v.round_ties_even(),
        // f32's precision is all there is of these.
        UnaryKind::Erf => f64::from(Unary::Erf.eval(v as f32)),
        UnaryKind::HardSwish => v * (v / 6.0 + 0.5).clamp(0.0, 1.0),
        UnaryKind::Silu => v * sigmoid(v),
        UnaryKind::Softplus => v.max(0.0) + (-v.abs()).exp().ln_1p(),
        UnaryKind::Sin => v.sin(),
        UnaryKind::Cos => v.cos(),
        UnaryKind::Not => f64::from(v == 0.0),
        UnaryKind::LeakyRelu { alpha } => {
            if v > 0.0 {
                v
            } else {
                f64::from(alpha) * v
            }
        }
        UnaryKind::Elu { alpha } => {
            if v > 0.0 {
                v
            } else {
                f64::from(alpha) * v.exp_m1()
            }
        }
        UnaryKind::HardSigmoid { alpha, beta } => {
            (f64::from(alpha) * v + f64::from(beta)).clamp(0.0, 1.0)
        }
        UnaryKind::Clip { min, max } => v.max(min.into()).min(max.into()),
    }
}

/// A comparison of floats, if the kind is one.
fn comparison(kind: BinaryKind) -> Option<fn(f64, f64) -> bool> {
    Some(match kind {
        BinaryKind::Equal => |a, b| a == b,
        BinaryKind::Less => |a, b| a < b,
        BinaryKind::LessOrEqual => |a, b| a <= b,
        BinaryKind::Greater => |a, b| a > b,
        BinaryKind::GreaterOrEqual => |a, b| a >= b,
        _ => return None,
    })
}

fn binary_int(cx: &Cx<'_>, kind: BinaryKind, a: i64, b: i64) -> Result<i64, EvalError> {
    Ok(match kind {
        BinaryKind::Add => a.wrapping_add(b),
        BinaryKind::Sub => a.wrapping_sub(b),
        BinaryKind::Mul => a.wrapping_mul(b),
        BinaryKind::Div if b == 0 => return Err(EvalError::DivisionByZero { op: cx.op }),
        BinaryKind::Div => a.wrapping_div(b),
        BinaryKind::Pow => match u32::try_from(b) {
            Ok(b) => a.wrapping_pow(b),
            Err(_) => (a as f64).powf(b as f64) as i64,
        },
        BinaryKind::Min => a.min(b),
        BinaryKind::Max => a.max(b),
        BinaryKind::PRelu => {
            if a > 0 {
                a
            } else {
                a.wrapping_mul(b)
            }
        }
        BinaryKind::And => i64::from(a != 0 && b != 0),
        BinaryKind::Or => i64::from(a != 0 || b != 0),
        BinaryKind::Xor => i64::from((a != 0) != (b != 0)),
        BinaryKind::Equal => i64::from(a == b),
        BinaryKind::Less => i64::from(a < b),
        BinaryKind::LessOrEqual => i64::from(a <= b),
        BinaryKind::Greater => i64::from(a > b),
        BinaryKind::GreaterOrEqual => i64::from(a >= b),
    })
}

/// As `requant_kernels::float::Binary`; powers through f64, so that they are the same everywhere.
fn binary_f32(kind: BinaryKind, a: f32, b: f32) -> f32 {
    match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
        BinaryKind::Div => a / b,
        BinaryKind::Min => {
            if a < b {
                a
            } else {
                b
            }
        }
        BinaryKind::Max => {
            if a > b {
                a
            } else {
                b
            }
        }
        BinaryKind::PRelu => {
            if a > 0.0 {
                a
            } else {
                a * b
            }
        }
        _ => binary_f64(kind, a.into(), b.into()) as f32,
    }
}

fn binary_f64(kind: BinaryKind, a: f64, b: f64) -> f64 {
    match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
        BinaryKind::Div => a / b,
        BinaryKind::Pow => a.powf(b),
        BinaryKind::Min => {
            if a < b {
                a
            } else {
                b
            }
        }
        BinaryKind::Max => {
            if a > b {
                a
            } else {
                b
            }
        }
        BinaryKind::PRelu => {
            if a > 0.0 {
                a
            } else {
                a * b
            }
        }
        // Comparisons and logic have no float result.
        _ => f64::NAN,
    }
}
