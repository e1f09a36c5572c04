//! The words that stand for enum values in the text form.

use crate::{BinaryKind, Layout, PadMode, ReduceKind, Rounding, UnaryKind};

impl UnaryKind {
    /// One of every kind, parameters 0.
    pub const ALL: [UnaryKind; 24] = [
        UnaryKind::Relu,
        UnaryKind::Sigmoid,
        UnaryKind::Tanh,
        UnaryKind::Exp,
        UnaryKind::Log,
        UnaryKind::Sqrt,
        UnaryKind::Reciprocal,
        UnaryKind::Neg,
        UnaryKind::Abs,
        UnaryKind::Sign,
        UnaryKind::Floor,
        UnaryKind::Ceil,
        UnaryKind::Round,
        UnaryKind::Erf,
        UnaryKind::HardSwish,
        UnaryKind::Silu,
        UnaryKind::Softplus,
        UnaryKind::Sin,
        UnaryKind::Cos,
        UnaryKind::Not,
        UnaryKind::LeakyRelu { alpha: 0.0 },
        UnaryKind::Elu { alpha: 0.0 },
        UnaryKind::HardSigmoid { alpha: 0.0, beta: 0.0 },
        UnaryKind::Clip { min: 0.0, max: 0.0 },
    ];

    /// The mnemonic: `relu`, `hard_swish`, …
    pub const fn name(self) -> &'static str {
        match self {
            UnaryKind::Relu => "relu",
            UnaryKind::Sigmoid => "sigmoid",
            UnaryKind::Tanh => "tanh",
            UnaryKind::Exp => "exp",
            UnaryKind::Log => "log",
            UnaryKind::Sqrt => "sqrt",
            UnaryKind::Reciprocal => "reciprocal",
            UnaryKind::Neg => "neg",
            UnaryKind::Abs => "abs",
            UnaryKind::Sign => "sign",
            UnaryKind::Floor => "floor",
            UnaryKind::Ceil => "ceil",
            UnaryKind::Round => "round",
            UnaryKind::Erf => "erf",
            UnaryKind::HardSwish => "hard_swish",
            UnaryKind::Silu => "silu",
            UnaryKind::Softplus => "softplus",
            UnaryKind::Sin => "sin",
            UnaryKind::Cos => "cos",
            UnaryKind::Not => "not",
            UnaryKind::LeakyRelu { .. } => "leaky_relu",
            UnaryKind::Elu { .. } => "elu",
            UnaryKind::HardSigmoid { .. } => "hard_sigmoid",
            UnaryKind::Clip { .. } => "clip",
        }
    }
}

impl BinaryKind {
    /// Every kind.
    pub const ALL: [BinaryKind; 16] = [
        BinaryKind::Add,
        BinaryKind::Sub,
        BinaryKind::Mul,
        BinaryKind::Div,
        BinaryKind::Pow,
        BinaryKind::Min,
        BinaryKind::Max,
        BinaryKind::PRelu,
        BinaryKind::And,
        BinaryKind::Or,
        BinaryKind::Xor,
        BinaryKind::Equal,
        BinaryKind::Less,
        BinaryKind::LessOrEqual,
        BinaryKind::Greater,
        BinaryKind::GreaterOrEqual,
    ];

    /// The mnemonic: `add`, `less_or_equal`, …
    pub const fn name(self) -> &'static str {
        self.names().0
    }

    /// The mnemonic of the quantized form: `qadd`, …
    pub const fn quantized_name(self) -> &'static str {
        self.names().1
    }

    const fn names(self) -> (&'static str, &'static str) {
        match self {
            BinaryKind::Add => ("add", "qadd"),
            BinaryKind::Sub => ("sub", "qsub"),
            BinaryKind::Mul => ("mul", "qmul"),
            BinaryKind::Div => ("div", "qdiv"),
            BinaryKind::Pow => ("pow", "qpow"),
            BinaryKind::Min => ("min", "qmin"),
            BinaryKind::Max => ("max", "qmax"),
            BinaryKind::PRelu => ("prelu", "qprelu"),
            BinaryKind::And => ("and", "qand"),
            BinaryKind::Or => ("or", "qor"),
            BinaryKind::Xor => ("xor", "qxor"),
            BinaryKind::Equal => ("equal", "qequal"),
            BinaryKind::Less => ("less", "qless"),
            BinaryKind::LessOrEqual => ("less_or_equal", "qless_or_equal"),
            BinaryKind::Greater => ("greater", "qgreater"),
            BinaryKind::GreaterOrEqual => ("greater_or_equal", "qgreater_or_equal"),
        }
    }
}

impl ReduceKind {
    /// Every kind.
    pub const ALL: [ReduceKind; 5] =
        [ReduceKind::Mean, ReduceKind::Sum, ReduceKind::Max, ReduceKind::Min, ReduceKind::Prod];

    /// The mnemonic: `reduce_mean`, …
    pub const fn name(self) -> &'static str {
        match self {
            ReduceKind::Mean => "reduce_mean",
            ReduceKind::Sum => "reduce_sum",
            ReduceKind::Max => "reduce_max",
            ReduceKind::Min => "reduce_min",
            ReduceKind::Prod => "reduce_prod",
        }
    }
}

impl Layout {
    /// Both.
    pub const ALL: [Layout; 2] = [Layout::ChannelsFirst, Layout::ChannelsLast];

    /// `channels_first` or `channels_last`.
    pub const fn name(self) -> &'static str {
        match self {
            Layout::ChannelsFirst => "channels_first",
            Layout::ChannelsLast => "channels_last",
        }
    }
}

impl PadMode {
    /// Every mode.
    pub const ALL: [PadMode; 3] = [PadMode::Constant, PadMode::Reflect, PadMode::Edge];

    /// `constant`, `reflect` or `edge`.
    pub const fn name(self) -> &'static str {
        match self {
            PadMode::Constant => "constant",
            PadMode::Reflect => "reflect",
            PadMode::Edge => "edge",
        }
    }
}

impl Rounding {
    /// Every mode.
    pub const ALL: [Rounding; 3] =
        [Rounding::HalfEven, Rounding::TfliteDouble, Rounding::TfliteSingle];

    /// `half_even`, `tflite_double` or `tflite_single`.
    pub const fn name(self) -> &'static str {
        match self {
            Rounding::HalfEven => "half_even",
            Rounding::TfliteDouble => "tflite_double",
            Rounding::TfliteSingle => "tflite_single",
        }
    }
}
