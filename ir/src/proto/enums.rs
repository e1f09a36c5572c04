//! Enums of the model to and from those of the schema, where 0 is nothing's number.

use super::decode::{Fault, Part, malformed, required};
use super::pb;
use crate::{BinaryKind, DType, Layout, PadMode, PoolKind, ReduceKind, Rounding, UnaryKind};

/// An enum with a number in the schema.
pub(super) trait Numbered: Sized {
    /// What it is called in errors.
    const WHAT: &'static str;
    fn number(self) -> i32;
    /// `None` for 0 and for numbers of later versions.
    fn from_number(number: i32) -> Option<Self>;
}

macro_rules! numbered {
    ($what:literal, $ours:ty, $theirs:ty, $($a:pat = $make:expr => $b:ident),* $(,)?) => {
        impl Numbered for $ours {
            const WHAT: &'static str = $what;

            fn number(self) -> i32 {
                match self { $($a => <$theirs>::$b as i32),* }
            }

            fn from_number(number: i32) -> Option<Self> {
                match <$theirs>::try_from(number).ok()? {
                    <$theirs>::Unspecified => None,
                    $(<$theirs>::$b => Some($make)),*
                }
            }
        }
    };
}

macro_rules! same_names {
    ($what:literal, $ours:ident, $($name:ident),* $(,)?) => {
        numbered!($what, $ours, pb::$ours, $($ours::$name = $ours::$name => $name),*);
    };
}

same_names!("storage type", DType, F32, F16, F64, I4, U4, I8, U8, I16, U16, I32, I64, Bool);
same_names!("layout", Layout, ChannelsFirst, ChannelsLast);
same_names!("rounding", Rounding, HalfEven, TfliteDouble, TfliteSingle);
same_names!("padding mode", PadMode, Constant, Reflect, Edge);
same_names!("reduction", ReduceKind, Mean, Sum, Max, Min, Prod);
same_names!(
    "binary operator",
    BinaryKind,
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
    PRelu,
    And,
    Or,
    Xor,
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
);

numbered!(
    "pool",
    PoolKind,
    pb::PoolKind,
    PoolKind::Max = PoolKind::Max => Max,
    PoolKind::Average { count_include_pad: false } =
        PoolKind::Average { count_include_pad: false } => Average,
    PoolKind::Average { count_include_pad: true } =
        PoolKind::Average { count_include_pad: true } => AverageCountPad,
);

macro_rules! unary {
    ($($plain:ident),*; $($with:ident { $($field:ident),* }),*) => {
        pub(super) fn unary_to_pb(kind: UnaryKind) -> pb::Unary {
            match kind {
                $(UnaryKind::$plain => {
                    pb::Unary { kind: pb::UnaryKind::$plain as i32, ..Default::default() }
                })*
                $(UnaryKind::$with { $($field),* } => pb::Unary {
                    kind: pb::UnaryKind::$with as i32,
                    $($field: Some($field),)*
                    ..Default::default()
                },)*
            }
        }

        pub(super) fn unary_from_pb(unary: &pb::Unary) -> Part<UnaryKind> {
            match pb::UnaryKind::try_from(unary.kind) {
                Ok(pb::UnaryKind::Unspecified) => malformed("the operator is not specified"),
                $(Ok(pb::UnaryKind::$plain) => Ok(UnaryKind::$plain),)*
                $(Ok(pb::UnaryKind::$with) => Ok(UnaryKind::$with {
                    $($field: *required(&unary.$field, stringify!($field))?),*
                }),)*
                Err(_) => Err(Fault::Newer(format!("unary operator {}", unary.kind))),
            }
        }
    };
}

unary!(
    Relu, Sigmoid, Tanh, Exp, Log, Sqrt, Reciprocal, Neg, Abs, Sign, Floor, Ceil, Round, Erf,
    HardSwish, Silu, Softplus, Sin, Cos, Not;
    LeakyRelu { alpha }, Elu { alpha }, HardSigmoid { alpha, beta }, Clip { min, max }
);

/// 0 means unspecified, which is why no enum of the model has that number.
#[cfg(test)]
mod tests {
    use super::*;

    fn all_come_back<T: Numbered + Copy + PartialEq + std::fmt::Debug>(all: &[T]) {
        for &v in all {
            assert_ne!(v.number(), 0);
            assert_eq!(T::from_number(v.number()), Some(v));
        }
        assert_eq!(T::from_number(0), None);
        assert_eq!(T::from_number(all.len() as i32 + 1), None);
    }

    #[test]
    fn every_value_has_its_own_number() {
        all_come_back(&DType::ALL);
        all_come_back(&Layout::ALL);
        all_come_back(&Rounding::ALL);
        all_come_back(&PadMode::ALL);
        all_come_back(&ReduceKind::ALL);
        all_come_back(&BinaryKind::ALL);
        let average = |count_include_pad| PoolKind::Average { count_include_pad };
        all_come_back(&[PoolKind::Max, average(false), average(true)]);
        for kind in UnaryKind::ALL {
            assert_eq!(unary_from_pb(&unary_to_pb(kind)).ok(), Some(kind));
        }
        assert!(matches!(unary_from_pb(&pb::Unary::default()), Err(Fault::Malformed(_))));
        let newer = pb::Unary { kind: 1000, ..Default::default() };
        assert!(matches!(unary_from_pb(&newer), Err(Fault::Newer(_))));
        let clip = pb::Unary { kind: pb::UnaryKind::Clip as i32, ..Default::default() };
        assert!(matches!(unary_from_pb(&clip), Err(Fault::Malformed(_))));
    }
}
