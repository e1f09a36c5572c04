//! Exit codes: the contract of `ux.md` A3.

use anyhow::Error;
use requant::ErrorKind;
use requant_ir::npz::NpzError;
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

/// The exit code of an error: the first cause that says what it is decides.
pub(crate) fn exit_code(error: &Error) -> u8 {
    error.chain().find_map(classify).unwrap_or(Exit::Malformed as u8)
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
            QuantizeError::UnknownNode { .. } | QuantizeError::Activation { .. } => {
                Exit::Usage as u8
            }
            QuantizeError::Nothing => Exit::Unsupported as u8,
            QuantizeError::Graph(e) => ErrorKind::from(e).exit_code(),
            QuantizeError::Compile(e) => ErrorKind::from(e).exit_code(),
            QuantizeError::Run { source, .. } => ErrorKind::from(source).exit_code(),
            _ => Exit::Malformed as u8,
        });
    }
    if let Some(e) = cause.downcast_ref::<NpzError>() {
        return Some(
            if matches!(e, NpzError::Io { .. }) { Exit::Io } else { Exit::Malformed } as u8
        );
    }
    if cause.downcast_ref::<image::ImageError>().is_some() {
        return Some(Exit::Malformed as u8);
    }
    cause.downcast_ref::<io::Error>().map(|_| Exit::Io as u8)
}
