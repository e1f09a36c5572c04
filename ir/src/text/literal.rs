//! Elements of constants as text, exact in both directions.

use super::TextOptions;
use crate::{DType, Element, Tensor};
use half::f16;
use std::fmt::Write;

/// An element that has an exact decimal (or, for NaN, bit) form.
pub(super) trait Literal: Element + PartialEq {
    fn write(self, out: &mut String);
    fn read(text: &str) -> Option<Self>;
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Literal for $t {
            fn write(self, out: &mut String) {
                push(out, format_args!("{self}"));
            }

            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}
integers!(i8, u8, i16, u16, i32, i64);

macro_rules! floats {
    ($($t:ty as $bits:ty, $shown:ty);*) => {$(
        impl Literal for $t {
            fn write(self, out: &mut String) {
                if self.is_nan() {
                    push(out, format_args!("nan_{:x}", self.to_bits()));
                } else {
                    // `{:?}` is the shortest decimal that reads back as the same number.
                    push(out, format_args!("{:?}", <$shown>::from(self)));
                }
            }

            fn read(text: &str) -> Option<Self> {
                if let Some(bits) = text.strip_prefix("nan_") {
                    let bits = <$bits>::from_str_radix(bits, 16).ok()?;
                    return Some(<$t>::from_bits(bits)).filter(|v| v.is_nan());
                }
                let digits = text.trim_start_matches('-');
                if !digits.starts_with(|c: char| c.is_ascii_digit()) && digits != "inf" {
                    return None;
                }
                text.parse().ok()
            }
        }
    )*};
}
floats!(f16 as u16, f32; f32 as u32, f32; f64 as u64, f64);

pub(super) fn push(out: &mut String, args: std::fmt::Arguments<'_>) {
    out.write_fmt(args).expect("a string takes everything");
}

/// `[a, b]`
pub(super) fn write_list<T: Literal>(out: &mut String, items: &[T]) {
    out.push('[');
    for (i, &item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        item.write(out);
    }
    out.push(']');
}

/// `#` and the checksum of bytes that are left out.
pub(super) fn write_elided(out: &mut String, bytes: &[u8]) {
    push(out, format_args!("#{:08x}", crc32c::crc32c(bytes)));
}

pub(super) fn write_hex(out: &mut String, bytes: &[u8]) {
    out.push_str("hex \"");
    bytes.iter().for_each(|b| push(out, format_args!("{b:02x}")));
    out.push('"');
}

pub(super) fn read_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| (c as char).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[hi, lo]| Some((digit(hi)? * 16 + digit(lo)?) as u8)).collect()
}

/// The elements of a tensor: a list if short, `fill(x)` if all the same, else hex or left out.
pub(super) fn write_elements(out: &mut String, tensor: &Tensor, options: &TextOptions) {
    let short = options.elide_over.unwrap_or(16);
    match tensor.dtype() {
        DType::F32 => write_numbers::<f32>(out, tensor, short, options),
        DType::F16 => write_numbers::<f16>(out, tensor, short, options),
        DType::F64 => write_numbers::<f64>(out, tensor, short, options),
        DType::I8 => write_numbers::<i8>(out, tensor, short, options),
        DType::U8 => write_numbers::<u8>(out, tensor, short, options),
        DType::I16 => write_numbers::<i16>(out, tensor, short, options),
        DType::U16 => write_numbers::<u16>(out, tensor, short, options),
        DType::I32 => write_numbers::<i32>(out, tensor, short, options),
        DType::I64 => write_numbers::<i64>(out, tensor, short, options),
        DType::Bool => write_bytes(out, tensor, tensor.bytes(), short, options),
        DType::I4 | DType::U4 if tensor.len() > short => write_long(out, tensor, options),
        DType::I4 => {
            let nibbles: Vec<i8> = nibbles(tensor).map(|n| ((n << 4) as i8) >> 4).collect();
            write_list(out, &nibbles);
        }
        DType::U4 => write_list(out, &nibbles(tensor).collect::<Vec<u8>>()),
    }
}

fn nibbles(tensor: &Tensor) -> impl Iterator<Item = u8> {
    tensor.bytes().iter().flat_map(|b| [b & 15, b >> 4]).take(tensor.len())
}

fn write_numbers<T: Literal>(out: &mut String, t: &Tensor, short: usize, options: &TextOptions) {
    write_bytes(out, t, t.as_slice::<T>().expect("asked for its own type"), short, options);
}

fn write_bytes<T: Literal>(
    out: &mut String,
    tensor: &Tensor,
    items: &[T],
    short: usize,
    options: &TextOptions,
) {
    if items.len() <= short {
        return write_list(out, items);
    }
    let first = bytemuck::bytes_of(&items[0]);
    // Bits, not values: −0 is not 0.
    if items.iter().all(|v| bytemuck::bytes_of(v) == first) {
        out.push_str("fill(");
        items[0].write(out);
        out.push(')');
    } else {
        write_long(out, tensor, options);
    }
}

fn write_long(out: &mut String, tensor: &Tensor, options: &TextOptions) {
    match options.elide_over {
        Some(_) => write_elided(out, tensor.bytes()),
        None => write_hex(out, tensor.bytes()),
    }
}

/// Stored bytes of the numbers in `items`; the error is the index of the first bad one.
pub(super) fn read_elements(dtype: DType, items: &[&str]) -> Result<Vec<u8>, usize> {
    fn read<T: Literal>(items: &[&str]) -> Result<Vec<u8>, usize> {
        let mut out = Vec::with_capacity(std::mem::size_of_val(items));
        for (i, item) in items.iter().enumerate() {
            out.extend_from_slice(bytemuck::bytes_of(&T::read(item).ok_or(i)?));
        }
        Ok(out)
    }
    fn read_nibbles(items: &[&str], range: std::ops::RangeInclusive<i8>) -> Result<Vec<u8>, usize> {
        let mut out = vec![0u8; items.len().div_ceil(2)];
        for (i, item) in items.iter().enumerate() {
            let v = i8::read(item).filter(|v| range.contains(v)).ok_or(i)?;
            out[i / 2] |= (v as u8 & 15) << (i % 2 * 4);
        }
        Ok(out)
    }
    match dtype {
        DType::F32 => read::<f32>(items),
        DType::F16 => read::<f16>(items),
        DType::F64 => read::<f64>(items),
        DType::I4 => read_nibbles(items, -8..=7),
        DType::U4 => read_nibbles(items, 0..=15),
        DType::I8 => read::<i8>(items),
        DType::U8 => read::<u8>(items),
        DType::I16 => read::<i16>(items),
        DType::U16 => read::<u16>(items),
        DType::I32 => read::<i32>(items),
        DType::I64 => read::<i64>(items),
        DType::Bool => items
            .iter()
            .enumerate()
            .map(|(i, item)| match *item {
                "0" | "false" => Ok(0),
                "1" | "true" => Ok(1),
                _ => Err(i),
            })
            .collect(),
    }
}
