//! Exit codes: the contract of `ux.md` A3.

use anyhow::Error;
use requant::ErrorKind;
use requant_ir::TensorError;
use requant_ir::npz::{NpyError, NpzError};
use requant_quantize::QuantizeError;
use std::fmt;
use std::io;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// A comparison or an assertion failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Something cannot be read or written.
    Io = 3,
    /// A file is malformed.
    Malformed = 4,
    /// Valid, but not supported here.
    Unsupported = 5,
    /// A limit of size, memory or time is exceeded.
    Limit = 6,
    /// A fault of the program itself.
    Internal = 70,
}

/// A failure whose exit code the program itself decides.
#[derive(Debug)]
pub(crate) struct Stop {
    exit: Exit,
    message: String,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}

/// The command line is at fault.
pub(crate) fn usage(message: impl Into<String>) -> Error {
    Stop { exit: Exit::Usage, message: message.into() }.into()
}

/// A comparison or an assertion did not hold.
pub(crate) fn failed(message: impl Into<String>) -> Error {
    Stop { exit: Exit::Failed, message: message.into() }.into()
}

/// A model is not as it must be.
pub(crate) fn malformed(message: impl Into<String>) -> Error {
    Stop { exit: Exit::Malformed, message: message.into() }.into()
}

/// Something would be too large.
pub(crate) fn limit(message: impl Into<String>) -> Error {
    Stop { exit: Exit::Limit, message: message.into() }.into()
}

/// The exit code of an error: the first cause that says what it is decides.
pub(crate) fn exit_code(error: &Error) -> u8 {
    error.chain().find_map(classify).unwrap_or(Exit::Internal as u8)
}

/// The error with its causes, none said twice: some messages hold the next one's text or repeat the
/// name of the file.
pub(crate) fn message(error: &Error) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if last.ends_with(&cause) {
            continue;
        }
        let names_it =
            cause.starts_with(&format!("{last}: ")) || cause.contains(&format!("`{last}`"));
        if !last.is_empty() && names_it {
            text.truncate(text.len() - last.len());
        } else if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
        last = cause;
    }
    text
}

fn of_io(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::OutOfMemory { Exit::Limit } else { Exit::Io }
}

fn classify(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(stop) = cause.downcast_ref::<Stop>() {
        return Some(stop.exit as u8);
    }
    if let Some(e) = cause.downcast_ref::<requant::Error>() {
        return Some(e.kind().exit_code());
    }
    if let Some(e) = cause.downcast_ref::<QuantizeError>() {
        return Some(match e {
            QuantizeError::UnknownNode { .. }
            | QuantizeError::Activation { .. }
            | QuantizeError::NotFinite { .. }
            | QuantizeError::NotObserved { .. } => Exit::Usage as u8,
            QuantizeError::Nothing => Exit::Unsupported as u8,
            QuantizeError::Graph(e) => ErrorKind::from(e).exit_code(),
            QuantizeError::Compile(e) => ErrorKind::from(e).exit_code(),
            QuantizeError::Run { source, .. } => ErrorKind::from(source).exit_code(),
            _ => Exit::Malformed as u8,
        });
    }
    if let Some(e) = cause.downcast_ref::<NpzError>() {
        return Some(match e {
            NpzError::Io { source, .. } => of_io(source),
            NpzError::Array { source, .. } => match source {
                NpyError::Io(source) => of_io(source),
                NpyError::Limit { .. } | NpyError::Tensor(TensorError::NoMemory { .. }) => {
                    Exit::Limit
                }
                _ => Exit::Malformed,
            },
            _ => Exit::Malformed,
        } as u8);
    }
    if let Some(e) = cause.downcast_ref::<image::ImageError>() {
        return Some(match e {
            image::ImageError::IoError(e) if e.kind() != io::ErrorKind::UnexpectedEof => of_io(e),
            image::ImageError::Limits(_) => Exit::Limit,
            image::ImageError::Unsupported(_) => Exit::Unsupported,
            _ => Exit::Malformed,
        } as u8);
    }
    if let Some(TensorError::NoMemory { .. }) = cause.downcast_ref() {
        return Some(Exit::Limit as u8);
    }
    cause.downcast_ref::<io::Error>().map(|e| of_io(e) as u8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use anyhow::Context;

    fn io(kind: io::ErrorKind) -> io::Error {
        io::Error::new(kind, "so it is")
    }

    #[test]
    fn no_memory_is_a_limit_and_the_unclassified_a_fault() {
        let npz = |kind| Error::from(NpzError::Io { file: "f".into(), source: io(kind) });
        assert_eq!(exit_code(&npz(io::ErrorKind::OutOfMemory)), 6);
        assert_eq!(exit_code(&npz(io::ErrorKind::NotFound)), 3);
        assert_eq!(exit_code(&anyhow::anyhow!("what is this")), 70);
        assert_eq!(exit_code(&usage("no").context("outer")), 2);
    }

    #[test]
    fn causes_that_are_said_already_are_left_out() {
        let source = io(io::ErrorKind::NotFound);
        let e = Error::from(NpzError::Io { file: "f.npz".into(), source }).context("f.npz");
        assert_eq!(message(&e), "f.npz: so it is");
        let e: Result<(), _> = Err(io(io::ErrorKind::Other));
        assert_eq!(message(&e.context("a").context("b").unwrap_err()), "b: a: so it is");
    }
}
