//! Moving elements without changing them: transpose, slice, expand, concat, pad, gather.
//!
//! Tensors are bytes plus an element size, so that one copy serves every type.

mod concat;
mod gather;
mod pad;
mod run;
mod strided;
mod thin;
mod tile;

pub use concat::Concat;
pub use gather::Gather;
pub use pad::Pad;
pub use strided::StridedCopy;

pub(crate) use run::{Runs, copy_run, copy_short};

use crate::broadcast::MAX_RANK;
use crate::error::{KernelError, checked_product};

/// Bytes of a tensor of shape `dims`, or why there is no such tensor.
fn tensor_bytes(what: &'static str, dims: &[usize], element: usize) -> Result<usize, KernelError> {
    if dims.len() > MAX_RANK {
        return Err(KernelError::invalid("the rank of a copy", dims.len(), "at most 8"));
    }
    if element == 0 {
        return Err(KernelError::invalid("the element size", element, "positive"));
    }
    checked_product(what, &[dims, &[element]].concat())
}
