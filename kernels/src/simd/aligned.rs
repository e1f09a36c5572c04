//! Parameters that kernels load again and again: loads that cross cache lines take twice as long.

use std::ops::Deref;

/// Values from the start of a cache line on.
#[derive(Clone, Debug)]
pub(crate) struct AlignedF32 {
    lines: Vec<Line>,
    len: usize,
}

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl From<&[f32]> for AlignedF32 {
    fn from(values: &[f32]) -> Self {
        let mut lines = vec![Line([0.0; 16]); values.len().div_ceil(16)];
        for (line, values) in lines.iter_mut().zip(values.chunks(16)) {
            line.0[..values.len()].copy_from_slice(values);
        }
        Self { lines, len: values.len() }
    }
}

impl Deref for AlignedF32 {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        // SAFETY: the lines are arrays of f32 without gaps, at least `len` of them together.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}
