//! The bytes of one input of a session.

use super::arena::Arena;
use requant_ir::Tensor;

/// Lent by a tensor, or the session's own.
pub(crate) enum Input {
    /// Nothing is given yet.
    Missing,
    /// Shares the caller's bytes.
    Tensor(Tensor),
    /// Memory of the session and how many bytes of it count.
    Own(Arena, usize),
}

impl Input {
    /// The bytes; empty while nothing is given.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Input::Missing => &[],
            Input::Tensor(tensor) => tensor.bytes(),
            Input::Own(memory, len) => &memory.bytes()[..*len],
        }
    }

    /// Own memory of `len` bytes; allocated once, then reused. `None` when it cannot be had.
    pub(crate) fn own(&mut self, len: usize) -> Option<&mut [u8]> {
        if !matches!(self, Input::Own(_, had) if *had == len) {
            *self = Input::Own(Arena::new(len)?, len);
        }
        match self {
            Input::Own(memory, len) => Some(&mut memory.bytes_mut()[..*len]),
            _ => None,
        }
    }
}
