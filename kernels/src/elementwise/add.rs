//! `y = clamp(rne(a·ra + b·rb + c))`, 8 bit + 8 bit → 8 bit.
//!
//! ONNX Runtime's AVX2 kernel (`MlasQLinearAdd*KernelAvx2`) defines the arithmetic: raw codes as f32, two
//! fused multiply-adds, zero points folded into one constant. Checked against onnxruntime 1.32 on all
//! 256×256 operand pairs of 250 random parameter sets: no difference. (On Arm ONNX Runtime adds in fixed point,
//! with other results; here every ISA takes the x86 form.)

use super::affine::Affine;
use super::op::{self, Op};
use crate::broadcast::Broadcast;
use crate::cpu::Cpu;
use crate::error::KernelError;
use crate::par::Parallel;
use crate::quantize::{check_bounds, check_scale};
use crate::sign::Sign;
use crate::simd::{Quad, Real};

/// The three constants of a quantized addition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QAddConstants {
    /// `s_a / s_y`.
    pub ra: f32,
    /// `s_b / s_y`, negated in a subtraction.
    pub rb: f32,
    /// `z_y − (ra·z_a + rb·z_b)`.
    pub c: f32,
}

/// The constants as ONNX Runtime's release build forms them.
///
/// Its source says `z_y − (ra·z_a + rb·z_b)`; the compiler contracts the inner sum, so that the order is
/// `z_y − fma(ra, z_a, rb·z_b)`, every step in f32. Other orders change one result in some 10⁷.
pub fn qadd_constants(sa: f32, za: i32, sb: f32, zb: i32, sy: f32, zy: i32) -> QAddConstants {
    let (ra, rb) = (sa / sy, sb / sy);
    let c = zy as f32 - ra.mul_add(za as f32, rb * zb as f32);
    QAddConstants { ra, rb, c }
}

/// The constants of `y = a − b`: an addition with the ratio of `b` negated, `rne(fma(a, ra, fma(b, −rb, c)))`.
pub fn qsub_constants(sa: f32, za: i32, sb: f32, zb: i32, sy: f32, zy: i32) -> QAddConstants {
    qadd_constants(sa, za, -sb, zb, sy, zy)
}

/// Which operand's product joins the constant first.
///
/// ONNX Runtime adds `b` first, except where `a` is a single element of a row ([`Broadcast::scalar_a`]); rows
/// being those of the layout it runs in, NCHW in a graph without layout change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AddOrder {
    /// `fma(a, ra, fma(b, rb, c))`.
    #[default]
    InnerB,
    /// `fma(b, rb, fma(a, ra, c))`.
    InnerA,
}

/// Quantized addition; the head of its module has the arithmetic.
#[derive(Clone, Copy, Debug)]
pub struct QAdd {
    cpu: Cpu,
    sign: Sign,
    domain: Sign,
    k: QAddConstants,
    order: AddOrder,
    bounds: (i32, i32),
    /// Integers that give the same codes.
    affine: Option<Affine>,
}

impl QAdd {
    /// `a`, `b` and `y` are of type `sign`; the result is limited to `[min, max]`.
    ///
    /// # Errors
    /// If a ratio is not finite and positive (that of `b` may be negative), `c` is not finite, or a bound is outside the type.
    pub fn new(
        cpu: Cpu,
        sign: Sign,
        k: QAddConstants,
        bounds: (i32, i32),
    ) -> Result<Self, KernelError> {
        Self::in_domain(cpu, (sign, sign), k, bounds)
    }

    /// The same, of operands and a result that are stored with the other signedness than `k` was made for.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn flipped(
        cpu: Cpu,
        sign: Sign,
        k: QAddConstants,
        bounds: (i32, i32),
    ) -> Result<Self, KernelError> {
        Self::in_domain(cpu, (sign, sign.other()), k, bounds)
    }

    fn in_domain(
        cpu: Cpu,
        (sign, domain): (Sign, Sign),
        k: QAddConstants,
        bounds: (i32, i32),
    ) -> Result<Self, KernelError> {
        check_scale("the scale ratio of a", k.ra)?;
        check_scale("the scale ratio of b", k.rb.abs())?;
        if !k.c.is_finite() {
            return Err(KernelError::invalid(
                "the constant of a quantized addition",
                k.c,
                "finite",
            ));
        }
        check_bounds(bounds.0, bounds.1, (sign.min(), sign.max()))?;
        let order = AddOrder::InnerB;
        Ok(Self { cpu, sign, domain, k, order, bounds, affine: None }.in_integers())
    }

    /// Takes the other order of additions.
    #[must_use]
    pub fn order(self, order: AddOrder) -> Self {
        Self { order, ..self }.in_integers()
    }

    /// Looks for integers that give the same codes.
    fn in_integers(self) -> Self {
        let Self { cpu, sign, domain, k, bounds, .. } = self;
        if cpu.avx2().is_none() {
            return self;
        }
        let signs = (sign, domain);
        let codes = match self.order {
            AddOrder::InnerB => op::all_pairs(cpu, k, signs, bounds),
            AddOrder::InnerA => op::all_pairs(cpu, InnerA(k), signs, bounds),
        };
        let QAddConstants { ra, rb, c } = k;
        let (ra, rb, least) = (f64::from(ra), f64::from(rb), f64::from(domain.min()));
        let r = [ra, rb, f64::from(c) + least * (ra + rb - 1.0)];
        let counted = |bound: i32| (bound - sign.min()) as u8;
        let bounds = (counted(bounds.0), counted(bounds.1));
        Self { affine: Affine::find(cpu, r, bounds, &codes), ..self }
    }

    /// `y = a + b` (or `a − b`, as the constants say) in real values, shapes paired by `shapes`.
    ///
    /// # Errors
    /// If a slice is not of the length that `shapes` says.
    pub fn run(
        &self,
        par: &dyn Parallel,
        shapes: &Broadcast,
        a: &[u8],
        b: &[u8],
        y: &mut [u8],
    ) -> Result<(), KernelError> {
        let Self { cpu, sign, domain, k, bounds, .. } = *self;
        let (sign, affine) = ((sign, domain), self.affine.as_ref());
        match self.order {
            AddOrder::InnerB => op::run(cpu, k, affine, sign, bounds, par, shapes, a, b, y),
            AddOrder::InnerA => op::run(cpu, InnerA(k), affine, sign, bounds, par, shapes, a, b, y),
        }
    }
}

impl QAddConstants {
    /// The constants for operands `unit` times as large, a power of two.
    #[inline(always)]
    fn per(self, unit: f32) -> Self {
        Self { ra: self.ra / unit, rb: self.rb / unit, c: self.c }
    }
}

impl Op for QAddConstants {
    #[inline(always)]
    fn value<R: Real>(self, a: R, b: R) -> R {
        a.mul_add(R::splat(self.ra), b.mul_add(R::splat(self.rb), R::splat(self.c)))
    }

    #[inline(always)]
    fn lanes<Q: Quad, const S: bool, const F: bool>(self, a: &[u8], b: &[u8]) -> Q {
        let (a, b) = (Q::lane_codes::<S, F>(a), Q::lane_codes::<S, F>(b));
        self.per(Q::lane_unit::<S>()).value(a, b)
    }

    fn vectorizes(self) -> bool {
        // Units are at most 2²⁴, by which these ratios can be divided exactly.
        let exact = |ratio: f32| ratio.abs() >= f32::MIN_POSITIVE * 16_777_216.0;
        let largest = 256.0 * (f64::from(self.ra.abs()) + f64::from(self.rb.abs()));
        exact(self.ra) && exact(self.rb) && largest + f64::from(self.c.abs()) < f64::from(i32::MAX)
    }
}

/// The other [`AddOrder`].
#[derive(Clone, Copy)]
struct InnerA(QAddConstants);

impl Op for InnerA {
    #[inline(always)]
    fn value<R: Real>(self, a: R, b: R) -> R {
        let QAddConstants { ra, rb, c } = self.0;
        b.mul_add(R::splat(rb), a.mul_add(R::splat(ra), R::splat(c)))
    }

    #[inline(always)]
    fn lanes<Q: Quad, const S: bool, const F: bool>(self, a: &[u8], b: &[u8]) -> Q {
        let (a, b) = (Q::lane_codes::<S, F>(a), Q::lane_codes::<S, F>(b));
        Self(self.0.per(Q::lane_unit::<S>())).value(a, b)
    }

    fn vectorizes(self) -> bool {
        self.0.vectorizes()
    }
}
