//! f16 ↔ f32, through the `half` crate (F16C and NEON where the machine has them).

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::{KernelError, check_len};
use crate::par::Parallel;
use crate::split::{self, TASK_BYTES};

/// `y[i] = x[i]`, exactly; both have the same length.
///
/// # Errors
/// If the lengths differ.
pub fn f16_to_f32(par: &dyn Parallel, x: &[f16], y: &mut [f32]) -> Result<(), KernelError> {
    check_len("y", y.len(), x.len())?;
    const CHUNK: usize = TASK_BYTES / 4;
    split::chunks(par, y, CHUNK, |i, y| x[i * CHUNK..][..y.len()].convert_to_f32_slice(y));
    Ok(())
}

/// `y[i] = x[i]`, rounded half to even; both have the same length.
///
/// # Errors
/// If the lengths differ.
pub fn f32_to_f16(par: &dyn Parallel, x: &[f32], y: &mut [f16]) -> Result<(), KernelError> {
    check_len("y", y.len(), x.len())?;
    const CHUNK: usize = TASK_BYTES / 2;
    split::chunks(par, y, CHUNK, |i, y| y.convert_from_f32_slice(&x[i * CHUNK..][..y.len()]));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::split::testing::pool;

    #[test]
    fn every_f16_survives_the_round_trip() {
        let x: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|v| !v.is_nan()).collect();
        let mut wide = vec![0.0; x.len()];
        f16_to_f32(&pool(), &x, &mut wide).unwrap();
        assert_eq!(wide[x.iter().position(|v| v.to_bits() == 0x3c00).unwrap()], 1.0);
        let mut back = vec![f16::ZERO; x.len()];
        f32_to_f16(&pool(), &wide, &mut back).unwrap();
        assert!(x.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn ties_round_to_even() {
        let mut y = [f16::ZERO; 2];
        f32_to_f16(&pool(), &[2049.0, 2051.0], &mut y).unwrap();
        assert_eq!(y.map(f16::to_f32), [2048.0, 2052.0]);
    }
}
