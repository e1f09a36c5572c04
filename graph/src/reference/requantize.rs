//! From accumulators to stored integers.

use super::EvalError;
use requant_ir::{DType, IntClamp, QOut, Rounding};
use requant_kernels::elementwise::{QAddConstants, qadd_constants};
use requant_kernels::epilogue::FixedPoint;

/// Inclusive bounds in stored units: the type's, narrowed by `clamp`.
pub(super) fn bounds(dtype: DType, clamp: Option<IntClamp>) -> (i32, i32) {
    let (low, high) = dtype.quant_range().unwrap_or((i32::MIN, i32::MAX));
    clamp.map_or((low, high), |c| (c.min.max(low), c.max.min(high)))
}

/// `clamp(rne(real) + zero)`; NaN gives the lower bound. Bounds are applied before the value becomes
/// an integer, so that infinities saturate.
pub(super) fn round_to(real: f32, zero: i32, (low, high): (i32, i32)) -> i32 {
    let relative = |bound: i32| (i64::from(bound) - i64::from(zero)) as f32;
    let (min, max) = (relative(low), relative(high));
    let real = if real > min { real } else { min };
    let real = if real < max { real } else { max };
    let sum = real.round_ties_even() as i64 + i64::from(zero);
    sum.clamp(low.into(), high.into()) as i32
}

/// How sums become stored integers: one multiplier for each channel, or one for all.
pub(super) struct Requantizer {
    multipliers: Multipliers,
    zero: i32,
    bounds: (i32, i32),
}

enum Multipliers {
    /// s32 results: the sum itself.
    None,
    HalfEven(Vec<f32>),
    Double(Vec<FixedPoint>),
    Single(Vec<FixedPoint>),
}

impl Requantizer {
    /// For sums of scale `first · second[c]`, or of scale `first` without `second`, and a result of type
    /// `out`, per tensor. Products are formed in this order, in f32 for ONNX and in f64 for TFLite.
    pub(super) fn new(first: f32, second: Option<&[f32]>, out: &QOut) -> Result<Self, EvalError> {
        let bounds = bounds(out.elem.dtype, out.clamp);
        let (scale, zero) = out.elem.as_per_tensor().unwrap_or((1.0, 0));
        let fixed = |real: f64| FixedPoint::from_real(real / f64::from(scale));
        let half_even = || match second {
            None => vec![first / scale],
            Some(w) => w.iter().map(|w| first * w / scale).collect(),
        };
        let fixed = || match second {
            None => Ok(vec![fixed(f64::from(first))?]),
            Some(w) => w.iter().map(|&w| fixed(f64::from(first) * f64::from(w))).collect(),
        };
        let multipliers = match out.rounding {
            _ if out.elem.dtype == DType::I32 => Multipliers::None,
            Rounding::HalfEven => Multipliers::HalfEven(half_even()),
            Rounding::TfliteDouble => Multipliers::Double(fixed().map_err(EvalError::Kernel)?),
            Rounding::TfliteSingle => Multipliers::Single(fixed().map_err(EvalError::Kernel)?),
        };
        let zero = if matches!(multipliers, Multipliers::None) { 0 } else { zero };
        Ok(Requantizer { multipliers, zero, bounds })
    }

    /// The stored integer for a sum of channel `channel`.
    pub(super) fn apply(&self, sum: i32, channel: usize) -> i32 {
        fn of<T: Copy>(values: &[T], channel: usize) -> T {
            values[if values.len() == 1 { 0 } else { channel }]
        }
        let (low, high) = self.bounds;
        let rounded = match &self.multipliers {
            Multipliers::None => return sum.clamp(low, high),
            Multipliers::HalfEven(m) => {
                return round_to(sum as f32 * of(m, channel), self.zero, self.bounds);
            }
            Multipliers::Double(m) => of(m, channel).apply_double(sum),
            Multipliers::Single(m) => of(m, channel).apply_single(sum),
        };
        let sum = i64::from(rounded) + i64::from(self.zero);
        sum.clamp(low.into(), high.into()) as i32
    }
}

/// An operand or result of arithmetic that is defined on 8-bit integers of one signedness.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub(super) scale: f32,
    /// Zero point as stored.
    pub(super) zero: i32,
    /// What leads from stored integers to those of the definition: 0 or ±128.
    pub(super) shift: i32,
}

impl Side {
    /// For a tensor stored as `dtype` with `(scale, zero)`, where the arithmetic is defined on `domain`.
    pub(super) fn new((scale, zero): (f32, i32), dtype: DType, domain: DType) -> Side {
        let shift = match (dtype, domain) {
            (DType::U8, DType::I8) => -128,
            (DType::I8, DType::U8) => 128,
            _ => 0,
        };
        Side { scale, zero, shift }
    }

    pub(super) fn scale_and_zero(self) -> (f32, i32) {
        (self.scale, self.zero + self.shift)
    }
}

/// Addition of stored integers: ONNX Runtime's `QLinearAdd`.
pub(super) struct Adder {
    constants: QAddConstants,
    /// What leads from stored integers to those that the addition is defined on, for both operands and the result.
    shifts: [i32; 3],
    /// Add the second operand last.
    lhs_first: bool,
    bounds: (i32, i32),
}

impl Adder {
    /// `y = a + b` with bounds in stored units. ONNX Runtime adds the second operand's product to the constant
    /// first, except where only the first is a single element of a row (`lhs_first`).
    pub(super) fn new(a: Side, b: Side, y: Side, bounds: (i32, i32), lhs_first: bool) -> Self {
        let shifts = [a.shift, b.shift, y.shift];
        let ((sa, za), (sb, zb)) = (a.scale_and_zero(), b.scale_and_zero());
        let (sy, zy) = y.scale_and_zero();
        let constants = qadd_constants(sa, za, sb, zb, sy, zy);
        Adder { constants, shifts, lhs_first, bounds }
    }

    pub(super) fn apply(&self, a: i32, b: i32) -> i32 {
        let QAddConstants { ra, rb, c } = self.constants;
        let [to_a, to_b, to_y] = self.shifts;
        let (a, b) = ((a + to_a) as f32, (b + to_b) as f32);
        let sum = if self.lhs_first {
            b.mul_add(rb, a.mul_add(ra, c))
        } else {
            a.mul_add(ra, b.mul_add(rb, c))
        };
        round_to(sum, -to_y, self.bounds)
    }
}
