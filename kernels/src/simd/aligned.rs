//! Parameters that kernels load again and again: loads that cross cache lines take twice as long.

use std::ops::Deref;

use wide::bytemuck::{cast_slice, cast_slice_mut};

use crate::gemm::pack::AlignedBytes;

/// Values from the start of a cache line on.
#[derive(Clone, Debug)]
pub(crate) struct AlignedF32 {
    bytes: AlignedBytes,
    len: usize,
}

impl From<&[f32]> for AlignedF32 {
    fn from(values: &[f32]) -> Self {
        let mut bytes = AlignedBytes::zeroed(size_of_val(values));
        cast_slice_mut(bytes.as_mut_slice())[..values.len()].copy_from_slice(values);
        Self { bytes, len: values.len() }
    }
}

impl Deref for AlignedF32 {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        &cast_slice(self.bytes.as_slice())[..self.len]
    }
}
