//! Storage types of tensors.

use std::fmt;
use std::str::FromStr;

/// How one element is stored.
///
/// The quantized types (`I4` … `I32`) say nothing about the real values they stand for: that is
/// [`crate::Quant`], which is part of the tensor's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// IEEE 754 binary64.
    F64,
    /// Signed 4-bit, two elements a byte, low nibble first.
    I4,
    /// Unsigned 4-bit, two elements a byte, low nibble first.
    U4,
    /// Signed 8-bit.
    I8,
    /// Unsigned 8-bit.
    U8,
    /// Signed 16-bit.
    I16,
    /// Unsigned 16-bit.
    U16,
    /// Signed 32-bit.
    I32,
    /// Signed 64-bit.
    I64,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Every type, in declaration order.
    pub const ALL: [DType; 12] = [
        DType::F32,
        DType::F16,
        DType::F64,
        DType::I4,
        DType::U4,
        DType::I8,
        DType::U8,
        DType::I16,
        DType::U16,
        DType::I32,
        DType::I64,
        DType::Bool,
    ];

    /// The name used in the text form: `f32`, `s8`, `u8`, `bool`, …
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::F64 => "f64",
            DType::I4 => "s4",
            DType::U4 => "u4",
            DType::I8 => "s8",
            DType::U8 => "u8",
            DType::I16 => "s16",
            DType::U16 => "u16",
            DType::I32 => "s32",
            DType::I64 => "s64",
            DType::Bool => "bool",
        }
    }

    /// Bits of one element.
    pub const fn bits(self) -> u32 {
        match self {
            DType::I4 | DType::U4 => 4,
            DType::I8 | DType::U8 | DType::Bool => 8,
            DType::F16 | DType::I16 | DType::U16 => 16,
            DType::F32 | DType::I32 => 32,
            DType::F64 | DType::I64 => 64,
        }
    }

    /// Bytes that `elements` elements take; `None` when the product does not fit `usize`.
    pub const fn bytes_for(self, elements: usize) -> Option<usize> {
        match self.bits() {
            4 => Some(elements.div_ceil(2)),
            bits => elements.checked_mul(bits as usize / 8),
        }
    }

    /// `f16`, `f32` or `f64`.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::F64)
    }

    /// The integers a quantized tensor may be stored in, with their range; `None` for the others.
    pub const fn quant_range(self) -> Option<(i32, i32)> {
        match self {
            DType::I4 => Some((-8, 7)),
            DType::U4 => Some((0, 15)),
            DType::I8 => Some((i8::MIN as i32, i8::MAX as i32)),
            DType::U8 => Some((0, u8::MAX as i32)),
            DType::I16 => Some((i16::MIN as i32, i16::MAX as i32)),
            DType::U16 => Some((0, u16::MAX as i32)),
            DType::I32 => Some((i32::MIN, i32::MAX)),
            _ => None,
        }
    }

    /// `s8` or `u8`: what the int8 kernels take as activations.
    pub const fn is_8bit(self) -> bool {
        matches!(self, DType::I8 | DType::U8)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        DType::ALL.into_iter().find(|d| d.name() == s).ok_or(())
    }
}
