//! Quantize (f32 → integer), dequantize (integer → f32) and requantize (s32 → 8 bit; 8 bit → 8 bit is a
//! [`Lut`](crate::lut::Lut); any other pair a [`Rescale`]).
//!
//! Rounding is half to even throughout, and a value is clamped *before* it becomes an integer, so that
//! infinities saturate and NaN gives the smallest code. This is what ONNX Runtime computes
//! (`MlasQuantizeLinear`: `maxps`, `minps`, `cvtps2dq`, add the zero point), checked against it.

mod dequantize;
mod dynamic;
mod from_f32;
mod requantize;
mod rescale;
#[cfg(test)]
mod tests;

pub(crate) use dequantize::value;
pub use dequantize::{Codes, Dequantize};
pub use dynamic::{DynamicQuantize, RowQuantization};
pub use from_f32::Quantize;
pub use requantize::Requantize;
pub(crate) use requantize::requantized;
pub use rescale::{CodesMut, Rescale};

use crate::error::KernelError;
use crate::sign::Sign;

/// Fails unless `scale` is finite and positive.
pub(crate) fn check_scale(what: &'static str, scale: f32) -> Result<(), KernelError> {
    if scale.is_finite() && scale > 0.0 {
        Ok(())
    } else {
        Err(KernelError::invalid(what, scale, "finite and positive"))
    }
}

/// Fails unless `code` is in `min..=max`.
pub(crate) fn check_code(
    what: &'static str,
    code: i32,
    (min, max): (i32, i32),
) -> Result<(), KernelError> {
    if (min..=max).contains(&code) {
        Ok(())
    } else {
        Err(KernelError::invalid(what, code, "a value of the quantized type"))
    }
}

/// Fails unless `min` and `max` are ordered values of a type.
pub(crate) fn check_bounds(min: i32, max: i32, of: (i32, i32)) -> Result<(), KernelError> {
    check_code("the lower clamp bound", min, of)?;
    check_code("the upper clamp bound", max, of)?;
    if min <= max {
        Ok(())
    } else {
        Err(KernelError::invalid("the lower clamp bound", min, "at most the upper one"))
    }
}

fn type_range(sign: Sign) -> (i32, i32) {
    (sign.min(), sign.max())
}
