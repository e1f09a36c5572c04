//! What happens to an i32 accumulator: nothing, scaling to f32, or requantization to 8 bits.
//!
//! Three requantizations exist because three sources define them (docs of each [`Requantize`] variant); they differ
//! in up to 3 % of values, so the mode is part of an op's meaning.
//!
//! The scalar definitions in this module are what every ISA computes, bit for bit.

pub use crate::sign::Sign;
use crate::{KernelError, error::check_len};

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub(crate) mod arm_neon;
mod finish;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_fused;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_rows;
pub(crate) use finish::{Keep, Loaded, Refill, TileOut, finish_tile};

/// Columns of a weight panel; per-column constants are padded to a multiple of it.
pub(crate) const NR: usize = 16;

/// No accumulator is larger.
const TWO_31: f64 = 2_147_483_648.0;

/// A positive real multiplier `m0 · 2^(shift − 31)` with `m0` in `[2^30, 2^31)`, or zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedPoint {
    m0: i32,
    shift: i32,
}

impl FixedPoint {
    /// The nearest fixed-point multiplier, as TFLite's `QuantizeMultiplier` finds it: the mantissa is rounded half
    /// away from zero; below 2⁻³² the multiplier is zero.
    ///
    /// # Errors
    /// If `real` is negative, not finite, or 2³⁰ and more.
    pub fn from_real(real: f64) -> Result<Self, KernelError> {
        let refuse =
            || KernelError::invalid("multiplier", real, "finite, not negative and below 2^30");
        if !(0.0..1_073_741_824.0).contains(&real) {
            return Err(refuse());
        }
        if real < f64::MIN_POSITIVE {
            return Ok(Self { m0: 0, shift: 0 });
        }
        // frexp: real = mantissa · 2^shift with mantissa in [0.5, 1).
        let bits = real.to_bits();
        let mut shift = (bits >> 52) as i32 - 1022;
        let mantissa = f64::from_bits((bits & !(0x7ff << 52)) | (1022 << 52));
        let mut m0 = (mantissa * 2_147_483_648.0).round() as i64;
        if m0 == 1 << 31 {
            m0 /= 2;
            shift += 1;
        }
        if shift < -31 {
            return Ok(Self { m0: 0, shift: 0 });
        }
        Self::new(m0 as i32, shift).map_err(|_| refuse())
    }

    /// The multiplier of given parts.
    ///
    /// # Errors
    /// Unless `m0` is 0 or in `[2^30, 2^31)`, and `shift` in −31 … 30.
    pub fn new(m0: i32, shift: i32) -> Result<Self, KernelError> {
        if m0 != 0 && m0 < 1 << 30 {
            return Err(KernelError::invalid("m0", m0, "0 or in [2^30, 2^31)"));
        }
        if !(-31..=30).contains(&shift) {
            return Err(KernelError::invalid("shift", shift, "in -31 ... 30"));
        }
        Ok(Self { m0, shift })
    }

    /// The mantissa, a Q31 number.
    pub fn m0(self) -> i32 {
        self.m0
    }

    /// The exponent; positive shifts left.
    pub fn shift(self) -> i32 {
        self.shift
    }

    /// `TfliteDouble`: a rounding doubling high multiply of `acc << max(shift, 0)`, then a rounding right shift by
    /// `max(−shift, 0)`, half away from zero (gemmlowp's `SaturatingRoundingDoublingHighMul`,
    /// `RoundingDivideByPOT`).
    #[inline(always)]
    pub fn apply_double(self, acc: i32) -> i32 {
        let left = self.shift.max(0) as u32;
        let right = (-self.shift).max(0) as u32;
        let high =
            ((i64::from(acc.wrapping_shl(left)) * i64::from(self.m0) + (1 << 30)) >> 31) as i32;
        let mask = ((1u32 << right) - 1) as i32;
        let remainder = high & mask;
        let threshold = (mask >> 1) + i32::from(high < 0);
        (high >> right) + i32::from(remainder > threshold)
    }

    /// `TfliteSingle`: `(acc · m0 + 2^(30 − shift)) >> (31 − shift)`, saturated to i32.
    #[inline(always)]
    pub fn apply_single(self, acc: i32) -> i32 {
        let total = (31 - self.shift) as u32;
        let shifted = (i64::from(acc) * i64::from(self.m0) + (1i64 << (total - 1))) >> total;
        shifted.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
    }
}

/// How an accumulator becomes an integer of the output's scale; one multiplier per output channel, or one for all.
#[derive(Debug, Clone, PartialEq)]
pub enum Requantize {
    /// `rne(f32(acc) · m)`: ONNX. `rne` rounds half to even; the product is rounded to f32 before.
    HalfEven(Vec<f32>),
    /// [`FixedPoint::apply_double`]: LiteRT's reference kernels.
    TfliteDouble(Vec<FixedPoint>),
    /// [`FixedPoint::apply_single`]: LiteRT built with single rounding.
    TfliteSingle(Vec<FixedPoint>),
}

/// A second 8-bit operand added to the requantized result, as ONNX Runtime's `QLinearAdd` does:
/// `y = clamp(rne(fma(a, scale_a, fma(b, scale_b, offset))), min, max)` with a true fused multiply-add, where of
/// `a` and `b` one is the convolution's own result, already rounded and clamped, the other the residual's stored value.
/// Of an operand or result with another sign than `domain`, 128 more or less than what is stored takes part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Residual {
    /// How the residual's bytes are read.
    pub sign: Sign,
    /// The signedness of the integers that the addition is defined on.
    pub domain: Sign,
    /// True if the convolution's result is `a`, the first operand of the addition.
    pub conv_is_lhs: bool,
    /// Factor of the first operand, `s_a / s_y`.
    pub scale_a: f32,
    /// Factor of the second operand, `s_b / s_y`.
    pub scale_b: f32,
    /// Both zero points, scaled, and the output's.
    pub offset: f32,
    /// Lower bound of `y`, as stored.
    pub min: i32,
    /// Upper bound of `y`, as stored.
    pub max: i32,
}

impl Residual {
    /// What leads from stored values of the residual to those that are added, and from sums to stored values of
    /// sign `out`.
    pub(crate) fn shifts(&self, out: Sign) -> (i32, i32) {
        (self.sign.shift_to(self.domain), self.domain.shift_to(out))
    }
}

/// What to write for each accumulator `acc = bias + Σ a·(w − z_w)`.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// The accumulator itself.
    I32,
    /// `f32(acc) · scale`, one rounding each.
    F32 {
        /// One per output channel, or one for all.
        scales: Vec<f32>,
    },
    /// `clamp(requantize(acc) + zero_point, min, max)`, stored as `sign`, after the optional residual.
    Quant8 {
        /// How the written bytes will be read.
        sign: Sign,
        /// Multipliers and rounding.
        requantize: Requantize,
        /// Added after rounding; that of the op's own result where there is a residual.
        zero_point: i32,
        /// Lower bound in stored units; of the op's own result where there is a residual.
        min: i32,
        /// Upper bound in stored units; of the op's own result where there is a residual.
        max: i32,
        /// The addition that follows, if any.
        residual: Option<Residual>,
    },
}

/// Where a kernel writes, of the element type that its [`Output`] says.
#[derive(Debug)]
pub enum OutSlice<'a> {
    /// For [`Output::I32`].
    I32(&'a mut [i32]),
    /// For [`Output::F32`].
    F32(&'a mut [f32]),
    /// For [`Output::Quant8`], raw bytes.
    Quant8(&'a mut [u8]),
}

impl<'a> From<&'a mut [i32]> for OutSlice<'a> {
    fn from(slice: &'a mut [i32]) -> Self {
        Self::I32(slice)
    }
}

impl<'a> From<&'a mut [f32]> for OutSlice<'a> {
    fn from(slice: &'a mut [f32]) -> Self {
        Self::F32(slice)
    }
}

impl<'a> From<&'a mut [u8]> for OutSlice<'a> {
    fn from(slice: &'a mut [u8]) -> Self {
        Self::Quant8(slice)
    }
}

impl<'a> OutSlice<'a> {
    /// The bytes of the slice, if its element type is the one `epilogue` writes.
    pub(crate) fn into_bytes(self, epilogue: &Epilogue) -> Result<&'a mut [u8], KernelError> {
        let (bytes, name, matches) = match self {
            Self::I32(s) => (as_bytes_mut(s), "i32", matches!(epilogue.kind, Kind::I32)),
            Self::F32(s) => (as_bytes_mut(s), "f32", matches!(epilogue.kind, Kind::F32 { .. })),
            Self::Quant8(s) => (s, "8-bit", matches!(epilogue.kind, Kind::Quant8 { .. })),
        };
        let rule = "the element type that the op's output was built for";
        if matches { Ok(bytes) } else { Err(KernelError::invalid("output slice", name, rule)) }
    }
}

/// The bytes of a slice of 32-bit numbers.
pub(crate) fn as_bytes_mut<T: Word>(slice: &mut [T]) -> &mut [u8] {
    let bytes = size_of_val(slice);
    // SAFETY: same memory, same lifetime; `Word` types have no padding and any bytes are a value of theirs.
    unsafe { std::slice::from_raw_parts_mut(slice.as_mut_ptr().cast(), bytes) }
}

/// Plain 32-bit numbers.
pub(crate) trait Word: Copy {}
impl Word for i32 {}
impl Word for f32 {}

/// An [`Output`] checked and laid out for kernels: every per-column array is padded to whole panels.
#[derive(Debug, Clone)]
pub(crate) struct Epilogue {
    /// What accumulators start from; includes the term that undoes a sign flip of the activations.
    pub(crate) bias: Vec<i32>,
    /// Zero point of each weight column where any is not zero.
    pub(crate) w_zero: Option<Vec<i32>>,
    pub(crate) kind: Kind,
    n: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    I32,
    F32 { scales: Vec<f32> },
    Quant8(Quant),
}

/// Requantization constants; bounds are relative to the zero point so that clamping precedes adding it.
#[derive(Debug, Clone)]
pub(crate) struct Quant {
    pub(crate) multiplier: Multiplier,
    pub(crate) zero_point: i32,
    /// `min − zero_point`
    pub(crate) low: i32,
    /// `max − zero_point`
    pub(crate) high: i32,
    /// How the stored bytes are read.
    pub(crate) sign: Sign,
    pub(crate) residual: Option<Residual>,
    /// Whether sums with the residual fit an i32.
    pub(crate) sum_fits: bool,
}

/// What packing to bytes adds to integers and clamps them to, all as unsigned bytes; `flip` then gives them their sign.
#[derive(Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) zero_point: i16,
    pub(crate) low: u8,
    pub(crate) high: u8,
    pub(crate) flip: u8,
}

impl Quant {
    /// What is added to integers last, and the bounds of stored values: of the op's own result, or of the sum where there
    /// is a residual.
    pub(crate) fn last(&self) -> (i32, i32, i32) {
        match &self.residual {
            None => (self.zero_point, self.low + self.zero_point, self.high + self.zero_point),
            Some(residual) => (residual.shifts(self.sign).1, residual.min, residual.max),
        }
    }

    /// [`Self::last`] as unsigned bytes.
    pub(crate) fn stored(&self) -> Stored {
        let (zero_point, low, high) = self.last();
        let (shift, flip) = match self.sign {
            Sign::U8 => (0, 0),
            Sign::S8 => (128, 0x80),
        };
        Stored {
            zero_point: (zero_point + shift) as i16,
            low: (low + shift) as u8,
            high: (high + shift) as u8,
            flip,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Multiplier {
    HalfEven {
        m: Vec<f32>,
        /// Whether products with sums fit an i32.
        fits: bool,
    },
    Double {
        m0: Vec<i32>,
        shift: Vec<i32>,
    },
    Single {
        m0: Vec<i32>,
        shift: Vec<i32>,
    },
}

impl Epilogue {
    /// Checks `output` for `n` columns; `bias` must hold `n` values.
    pub(crate) fn new(
        n: usize,
        bias: Vec<i32>,
        w_zero: Option<&[i32]>,
        output: &Output,
    ) -> Result<Self, KernelError> {
        check_len("bias", bias.len(), n)?;
        let kind = match output {
            Output::I32 => Kind::I32,
            Output::F32 { scales } => Kind::F32 { scales: per_column("scales", scales, n, 0.0)? },
            Output::Quant8 { sign, requantize, zero_point, min, max, residual } => {
                // With a residual the inner result is not stored and may have the other signedness.
                let stored = if residual.is_some() {
                    Sign::S8.min()..=Sign::U8.max()
                } else {
                    sign.min()..=sign.max()
                };
                check_range("min and max", *min, *max, &stored)?;
                if !(Sign::S8.min()..=Sign::U8.max()).contains(zero_point) {
                    return Err(KernelError::invalid("zero point", zero_point, "in -128 ... 255"));
                }
                if let Some(r) = residual {
                    check_range(
                        "min and max after the residual",
                        r.min,
                        r.max,
                        &(sign.min()..=sign.max()),
                    )?;
                    for (what, value) in
                        [("scale_a", r.scale_a), ("scale_b", r.scale_b), ("offset", r.offset)]
                    {
                        check_finite(what, value)?;
                    }
                }
                Kind::Quant8(Quant {
                    multiplier: Multiplier::new(requantize, n)?,
                    zero_point: *zero_point,
                    low: min - zero_point,
                    high: max - zero_point,
                    sign: *sign,
                    residual: *residual,
                    sum_fits: residual.is_none_or(|r| {
                        let [a, b, c] =
                            [r.scale_a, r.scale_b, r.offset].map(|x| f64::from(x.abs()));
                        512.0 * (a + b) + c < f64::from(1 << 30)
                    }),
                })
            }
        };
        let w_zero = w_zero.map(|z| per_column("weight zero points", z, n, 0)).transpose()?;
        let bias = per_column("bias", &bias, n, 0)?;
        Ok(Self { bias, w_zero, kind, n })
    }

    /// The sums alone, of `n` columns, without a bias.
    pub(crate) fn sums(n: usize) -> Self {
        Self { bias: vec![0; n.next_multiple_of(NR)], w_zero: None, kind: Kind::I32, n }
    }

    /// For sums of `k` products of a byte with a weight of at most 9 bits, which allow multipliers of 1 and more. Biases
    /// near 2³¹ come with tiny ones: channels that are always zero are quantized so.
    pub(crate) fn of_products(mut self, k: usize) -> Self {
        if let Kind::Quant8(Quant { multiplier: Multiplier::HalfEven { m, fits }, .. }) =
            &mut self.kind
        {
            let products = k as f64 * 256.0 * 512.0;
            *fits = m.iter().zip(&self.bias).all(|(m, bias)| {
                // With room for what rounding to f32 adds; sums are taken modulo 2³².
                let most = (products + f64::from(bias.unsigned_abs())) * 1.001;
                f64::from(m.abs()) * most.min(TWO_31) < TWO_31
            });
        }
        self
    }

    /// Columns.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Bytes of one output element.
    pub(crate) fn element_bytes(&self) -> usize {
        match self.kind {
            Kind::I32 | Kind::F32 { .. } => 4,
            Kind::Quant8(_) => 1,
        }
    }

    pub(crate) fn residual(&self) -> Option<&Residual> {
        match &self.kind {
            Kind::Quant8(q) => q.residual.as_ref(),
            _ => None,
        }
    }

    /// Whether all that is to do, once zero-point terms are subtracted, is [`Requantize::HalfEven`] whose products
    /// certainly fit an i32: the form that kernels fuse into registers.
    pub(crate) fn plain_half_even(&self) -> Option<(&Quant, &[f32])> {
        match &self.kind {
            Kind::Quant8(
                q @ Quant {
                    multiplier: Multiplier::HalfEven { m, fits: true }, residual: None, ..
                },
            ) => Some((q, m)),
            _ => None,
        }
    }
}

impl Multiplier {
    fn new(requantize: &Requantize, n: usize) -> Result<Self, KernelError> {
        let parts = |m: &[FixedPoint]| -> Result<_, KernelError> {
            let m = per_column("multipliers", m, n, FixedPoint { m0: 0, shift: 0 })?;
            Ok((m.iter().map(|m| m.m0).collect(), m.iter().map(|m| m.shift).collect()))
        };
        Ok(match requantize {
            Requantize::HalfEven(m) => {
                m.iter().try_for_each(|&m| check_finite("multiplier", m))?;
                let fits = m.iter().all(|m| m.abs() < 1.0);
                Self::HalfEven { m: per_column("multipliers", m, n, 0.0)?, fits }
            }
            Requantize::TfliteDouble(m) => {
                let (m0, shift) = parts(m)?;
                Self::Double { m0, shift }
            }
            Requantize::TfliteSingle(m) => {
                let (m0, shift) = parts(m)?;
                Self::Single { m0, shift }
            }
        })
    }
}

/// `values`, of which there are `n` or one for all columns, padded with `pad` to whole panels.
pub(crate) fn per_column<T: Copy>(
    what: &'static str,
    values: &[T],
    n: usize,
    pad: T,
) -> Result<Vec<T>, KernelError> {
    let mut padded = match *values {
        [one] => vec![one; n],
        _ => {
            check_len(what, values.len(), n)?;
            values.to_vec()
        }
    };
    padded.resize(n.next_multiple_of(NR), pad);
    Ok(padded)
}

fn check_finite(what: &'static str, value: f32) -> Result<(), KernelError> {
    if value.is_finite() { Ok(()) } else { Err(KernelError::invalid(what, value, "finite")) }
}

fn check_range(
    what: &'static str,
    min: i32,
    max: i32,
    stored: &std::ops::RangeInclusive<i32>,
) -> Result<(), KernelError> {
    if min <= max && stored.contains(&min) && stored.contains(&max) {
        return Ok(());
    }
    Err(KernelError::invalid(
        what,
        format!("{min} ... {max}"),
        "ordered and within the storage type",
    ))
}
