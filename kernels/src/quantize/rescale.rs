//! Codes → codes of another type or scale, where one of them has 16 or 32 bits; of 8 bits to 8 bits, a
//! [`Lut`](crate::lut::Lut) is faster.

use super::{Codes, Dequantize, Quantize};
use crate::error::{KernelError, check_len};
use crate::par::Parallel;
use crate::split;

/// Values in f32 between the two steps, on the stack and in L1.
const BLOCK: usize = 1024;

/// Codes of a task.
const TASK: usize = 32 * BLOCK;

/// Where codes are written.
#[derive(Debug)]
pub enum CodesMut<'a> {
    /// 8-bit codes, of the sign that the quantization was made for.
    Bits8(&'a mut [u8]),
    /// 16-bit codes.
    S16(&'a mut [i16]),
}

/// `y = quantize(dequantize(q))`, the bits of one after the other, without the tensor between them. A [`Dequantize`] of
/// zero point 0 and a [`Quantize`] of scale 1 requantize s32 by the multiplier that the former has as its scale.
#[derive(Clone, Debug)]
pub struct Rescale {
    from: Dequantize,
    to: Quantize,
}

impl Rescale {
    /// From the codes of `from` to those of `to`.
    ///
    /// # Errors
    /// If `from` has a scale for each index of an axis.
    pub fn new(from: Dequantize, to: Quantize) -> Result<Self, KernelError> {
        if from.is_per_tensor() {
            Ok(Self { from, to })
        } else {
            Err(KernelError::invalid("the dequantization", "per axis", "per tensor"))
        }
    }

    /// Rescales `q` to `y`; both have the same length.
    ///
    /// # Errors
    /// If the lengths differ, or `y` is not of the type that the quantization was made for.
    pub fn run(
        &self,
        par: &dyn Parallel,
        q: Codes<'_>,
        y: CodesMut<'_>,
    ) -> Result<(), KernelError> {
        match y {
            CodesMut::Bits8(y) => {
                self.to.check_8_bit()?;
                self.blocks(par, q, y, |x, y| self.to.slice(x, y))
            }
            CodesMut::S16(y) => {
                self.to.check_s16()?;
                self.blocks(par, q, y, |x, y| self.to.slice_s16(x, y))
            }
        }
    }

    fn blocks<T: Send>(
        &self,
        par: &dyn Parallel,
        q: Codes<'_>,
        y: &mut [T],
        quantize: impl Fn(&[f32], &mut [T]) + Sync,
    ) -> Result<(), KernelError> {
        check_len("y", y.len(), q.len())?;
        split::chunks(par, y, TASK, |task, y| {
            let mut values = [0.0; BLOCK];
            for (block, y) in y.chunks_mut(BLOCK).enumerate() {
                let values = &mut values[..y.len()];
                self.from.slice(q, task * TASK + block * BLOCK, values);
                quantize(values, y);
            }
        });
        Ok(())
    }
}
