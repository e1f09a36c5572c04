//! What a kernel refuses, and why.

/// A problem that a kernel cannot or must not compute.
///
/// Every entry point of this crate checks its arguments and answers with one of these; none of them panics on, or
/// reads beyond, what it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The sum over K could leave the range of an i32 accumulator.
    #[error(
        "a sum over K = {k} can overflow a 32-bit accumulator, at most {limit} is exact; split K or compute this op in float"
    )]
    KTooLarge {
        /// Length of the sum.
        k: usize,
        /// The largest exact length for these operand types and zero points.
        limit: usize,
    },
    /// A slice is shorter than the problem needs, or not of the length it must have.
    #[error("{what} holds {got} elements where {need} are needed")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Elements found.
        got: usize,
        /// Elements needed.
        need: usize,
    },
    /// A parameter is outside the range in which the operation is defined.
    #[error("{what} is {value}, but must be {rule}")]
    Invalid {
        /// Which parameter.
        what: &'static str,
        /// Its value, as text.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// An element that the operation is not defined for: the data is at fault, not the call.
    #[error("{what} is {value}, but must be {rule}")]
    Value {
        /// Which element.
        what: &'static str,
        /// Its value.
        value: i64,
        /// What it must be.
        rule: &'static str,
    },
    /// A size computed from the arguments does not fit into memory.
    #[error("the size of {what} overflows")]
    Overflow {
        /// Which size.
        what: &'static str,
    },
}

impl KernelError {
    pub(crate) fn invalid(what: &'static str, value: impl ToString, rule: &'static str) -> Self {
        Self::Invalid { what, value: value.to_string(), rule }
    }
}

/// Fails unless `got` is exactly `need`.
pub(crate) fn check_len(what: &'static str, got: usize, need: usize) -> Result<(), KernelError> {
    if got == need { Ok(()) } else { Err(KernelError::Length { what, got, need }) }
}

/// Fails unless `got` is at least `need`.
pub(crate) fn check_at_least(
    what: &'static str,
    got: usize,
    need: usize,
) -> Result<(), KernelError> {
    if got >= need { Ok(()) } else { Err(KernelError::Length { what, got, need }) }
}

/// The product of `factors`, or an error naming `what`; the limit is `isize::MAX`, that of every allocation. It holds for
/// the product of any of the factors: that of a tensor without elements does not overflow either where its strides, or
/// the bytes of its rows, would.
pub(crate) fn checked_product(what: &'static str, factors: &[usize]) -> Result<usize, KernelError> {
    let mut sizes = factors.iter().filter(|&&factor| factor != 0);
    let product = sizes
        .try_fold(1usize, |product, &factor| product.checked_mul(factor))
        .filter(|&product| isize::try_from(product).is_ok())
        .ok_or(KernelError::Overflow { what })?;
    Ok(if factors.contains(&0) { 0 } else { product })
}

/// The product of `factors`, or `usize::MAX` if it is larger.
pub(crate) fn saturating_product(factors: &[usize]) -> usize {
    if factors.contains(&0) { 0 } else { factors.iter().copied().fold(1, usize::saturating_mul) }
}

/// Fails if `size`, for each of which tables have an entry, is far more than the `elements` of the operand that it is a
/// dimension of: beside a dimension of 0 any number is possible, and no operand as large as the tables.
pub(crate) fn check_backed(
    what: &'static str,
    size: usize,
    elements: usize,
) -> Result<(), KernelError> {
    const UNBACKED: usize = 1 << 16;
    if size <= elements.max(UNBACKED) {
        return Ok(());
    }
    Err(KernelError::invalid(what, size, "at most 65536 where the weights have no elements"))
}

/// Elements spanned by `rows` rows of `cols` elements that start `ld` apart.
pub(crate) fn checked_span(
    what: &'static str,
    rows: usize,
    cols: usize,
    ld: usize,
) -> Result<usize, KernelError> {
    if rows == 0 || cols == 0 {
        return Ok(0);
    }
    // The distance of a single row to the next may be any number.
    let last = if rows == 1 { 0 } else { checked_product(what, &[rows - 1, ld])? };
    last.checked_add(cols)
        .filter(|&span| isize::try_from(span).is_ok())
        .ok_or(KernelError::Overflow { what })
}
