//! Pointers to values at even distances.

/// Rows of A, or panels of B: values at a pointer, so many from one to the next.
#[derive(Clone, Copy)]
pub(crate) struct Strided<T> {
    pub(crate) first: *const T,
    pub(crate) stride: usize,
}

impl<T> Strided<T> {
    /// A pointer to value `offset` of row or panel `index`.
    ///
    /// # Safety
    /// The value exists.
    #[inline(always)]
    pub(crate) unsafe fn at(self, index: usize, offset: usize) -> *const T {
        // SAFETY: the caller's contract.
        unsafe { self.first.add(index * self.stride + offset) }
    }

    /// The same from value `offset` on.
    ///
    /// # Safety
    /// The value exists.
    #[inline(always)]
    pub(crate) unsafe fn skip(self, offset: usize) -> Self {
        // SAFETY: the caller's contract.
        unsafe { Self { first: self.first.add(offset), ..self } }
    }
}
