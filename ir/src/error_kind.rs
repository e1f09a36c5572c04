//! What sort of failure an error is.

/// The sort of a failure, for callers that act on it: programs map it to exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A file cannot be read or written.
    Io,
    /// The input breaks the rules of its format.
    Malformed,
    /// The input is valid, but asks for something that is not supported.
    Unsupported,
    /// The input asks for more than [`crate::Limits`] allow.
    Limit,
}
