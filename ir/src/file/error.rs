//! What can be wrong with a `.rq` file.

use crate::verify::{Place, Rule};
use crate::{ErrorKind, TextError, VerifyError};
use std::fmt;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A `.rq` file that cannot be read or written.
#[derive(Debug, Error)]
pub struct FileError {
    /// The file, if the bytes came from one.
    pub file: Option<PathBuf>,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}", file.display(), self.problem),
            None => self.problem.fmt(f),
        }
    }
}

impl From<Problem> for FileError {
    fn from(problem: Problem) -> Self {
        FileError { file: None, problem }
    }
}

/// What is wrong with a `.rq` file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Problem {
    /// The operating system's answer.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A folder, pipe or device.
    #[error("not a regular file")]
    NotRegular,
    /// The file would be replaced.
    #[error("the file exists; ask for overwriting to replace it")]
    Exists,
    /// Something else than a `.rq` file.
    #[error("not a .rq file")]
    NotRq,
    /// The file ends before its parts do.
    #[error("the file is cut short; fetch it again")]
    Truncated,
    /// A header that no writer writes.
    #[error("the header is damaged: {what}")]
    Header {
        /// What is wrong.
        what: &'static str,
    },
    /// Bytes are not what was written.
    #[error("the checksum of the {part} is wrong: the file is damaged; fetch it again")]
    Checksum {
        /// Which part.
        part: &'static str,
    },
    /// Something that later versions have.
    #[error("{place}this needs a newer reader: {what} is not known to this version")]
    Newer {
        /// What.
        what: String,
        /// Where.
        place: Place,
    },
    /// More than [`crate::Limits`] allow.
    #[error("{got} {what} are above the limit of {limit}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        got: u64,
        /// How many there may be.
        limit: u64,
    },
    /// Not a message of the schema.
    #[error("the message is malformed: {reason}")]
    Protobuf {
        /// What is wrong.
        reason: String,
    },
    /// A message that stands for no model.
    #[error("{place}{reason}")]
    Model {
        /// What is wrong.
        reason: String,
        /// Where.
        place: Place,
    },
    /// A model that breaks a rule.
    #[error(transparent)]
    Invalid(#[from] VerifyError),
}

impl FileError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match &self.problem {
            Problem::Io(_) | Problem::NotRegular | Problem::Exists => ErrorKind::Io,
            Problem::Newer { .. } => ErrorKind::Unsupported,
            Problem::Limit { .. } => ErrorKind::Limit,
            Problem::Invalid(e) => e.kind(),
            Problem::NotRq
            | Problem::Truncated
            | Problem::Header { .. }
            | Problem::Checksum { .. }
            | Problem::Protobuf { .. }
            | Problem::Model { .. } => ErrorKind::Malformed,
        }
    }
}

impl VerifyError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match *self.rule {
            Rule::Limit { .. } => ErrorKind::Limit,
            _ => ErrorKind::Malformed,
        }
    }
}

impl TextError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            TextError::Syntax { .. } => ErrorKind::Malformed,
            TextError::Invalid(e) => e.kind(),
        }
    }
}
