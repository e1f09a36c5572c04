//! Tensor elements in files beside the model.
//!
//! A model is untrusted, so what it names must not lead out of its folder: only relative locations
//! without `..`, no symbolic link in any component, regular files only. On Unix every component is
//! opened relative to the one before it without following links, so nothing can be exchanged between
//! check and use.

use super::error::{ExternalError, ImportError};
use super::proto::StringStringEntryProto;
use crate::Limits;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// The files that a model's tensors refer to, opened once each.
pub(super) struct ExternalFiles {
    folder: Option<PathBuf>,
    open: BTreeMap<PathBuf, (File, u64)>,
    /// Bytes read so far, the model file's included: several tensors may name one range.
    total: u64,
    limit: u64,
}

impl ExternalFiles {
    /// `folder` holds the model, whose own size counts towards the limit.
    pub(super) fn new(folder: Option<&Path>, model_bytes: u64, limits: &Limits) -> Self {
        ExternalFiles {
            folder: folder.map(Path::to_owned),
            open: BTreeMap::new(),
            total: model_bytes,
            limit: limits.file_bytes,
        }
    }

    /// Reads the `needed` bytes that `entries` describe.
    pub(super) fn read(
        &mut self,
        tensor: &str,
        entries: &[StringStringEntryProto],
        needed: u64,
    ) -> Result<Vec<u8>, ImportError> {
        let fail = |source| ImportError::External { tensor: tensor.to_owned(), source };
        let range = Range::parse(entries).map_err(fail)?;
        let path = relative(range.location).map_err(fail)?;
        let cannot_read =
            |source| fail(ExternalError::Read { location: range.location.to_owned(), source });
        if !self.open.contains_key(&path) {
            let Some(folder) = &self.folder else {
                return Err(fail(ExternalError::NoFolder { location: range.location.to_owned() }));
            };
            let file = open_inside(folder, &path).map_err(|e| {
                fail(match e {
                    OpenError::Refused(reason) => {
                        ExternalError::Location { location: range.location.to_owned(), reason }
                    }
                    OpenError::Io(source) => {
                        ExternalError::Read { location: range.location.to_owned(), source }
                    }
                })
            })?;
            let size = file.metadata().map_err(cannot_read)?.len();
            self.open.insert(path.clone(), (file, size));
        }
        let (file, size) = self.open.get_mut(&path).expect("inserted above");
        range.check(needed, *size).map_err(fail)?;
        self.total = self.total.saturating_add(needed);
        if self.total > self.limit {
            return Err(ImportError::Limit {
                what: "bytes of the model with its external data".into(),
                needed: self.total,
                limit: self.limit,
            });
        }
        let mut data = Vec::new();
        let length = usize::try_from(needed).unwrap_or(usize::MAX);
        data.try_reserve_exact(length)
            .map_err(|_| cannot_read(io::ErrorKind::OutOfMemory.into()))?;
        file.seek(SeekFrom::Start(range.offset)).map_err(cannot_read)?;
        file.take(needed).read_to_end(&mut data).map_err(cannot_read)?;
        if data.len() != length {
            return Err(cannot_read(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(data)
    }
}

/// The keys of one tensor's `external_data`.
struct Range<'a> {
    location: &'a str,
    offset: u64,
    /// Up to the end of the file when absent.
    length: Option<u64>,
}

impl<'a> Range<'a> {
    /// The set of keys is closed: a key that is not understood could change what is meant.
    fn parse(entries: &'a [StringStringEntryProto]) -> Result<Self, ExternalError> {
        const KEYS: [&str; 4] = ["location", "offset", "length", "checksum"];
        let mut found: [Option<&str>; 4] = [None; 4];
        for entry in entries {
            let Some(slot) = KEYS.iter().position(|k| *k == entry.key) else {
                return Err(ExternalError::Keys(format!("unknown key `{}`", entry.key)));
            };
            if found[slot].replace(&entry.value).is_some() {
                return Err(ExternalError::Keys(format!("key `{}` is given twice", entry.key)));
            }
        }
        let number = |key: &str, text: &str| match text.parse::<u64>() {
            // `parse` would take a sign.
            Ok(n) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
            _ => Err(ExternalError::Keys(format!("`{key}` is `{text}`, not a number of bytes"))),
        };
        let [location, offset, length, _checksum] = found;
        Ok(Range {
            location: location
                .ok_or_else(|| ExternalError::Keys("the key `location` is missing".into()))?,
            offset: offset.map_or(Ok(0), |t| number("offset", t))?,
            length: length.map(|t| number("length", t)).transpose()?,
        })
    }

    fn check(&self, needed: u64, size: u64) -> Result<(), ExternalError> {
        let Range { location, offset, length } = self;
        let available = size.checked_sub(*offset).ok_or_else(|| {
            ExternalError::Range(format!(
                "offset {offset} is beyond the end of `{location}` ({size} bytes)"
            ))
        })?;
        let length = length.unwrap_or(available);
        if length > available {
            return Err(ExternalError::Range(format!(
                "{length} bytes from offset {offset} reach beyond the end of `{location}` ({size} bytes)"
            )));
        }
        if length != needed {
            return Err(ExternalError::Range(format!(
                "{length} bytes of `{location}` are given, but type and shape need {needed}"
            )));
        }
        Ok(())
    }
}

/// The location as a path of plain names.
fn relative(location: &str) -> Result<PathBuf, ExternalError> {
    let refuse = |reason| Err(ExternalError::Location { location: location.to_owned(), reason });
    if location.contains('\\') || location.contains('\0') {
        return refuse("it has a backslash or a null character");
    }
    let mut path = PathBuf::new();
    for component in Path::new(location).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return refuse("it has a `..`"),
            Component::RootDir | Component::Prefix(_) => return refuse("it is not relative"),
        }
    }
    if path.as_os_str().is_empty() {
        return refuse("it names no file");
    }
    Ok(path)
}

enum OpenError {
    Refused(&'static str),
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(e: io::Error) -> Self {
        OpenError::Io(e)
    }
}

const LINK: &str = "a symbolic link is on the way; put a copy of the file there instead";
#[cfg(unix)]
const HARD_LINK: &str = "the file has several names (hard links); put a copy of it there instead";
const NOT_REGULAR: &str = "it is not a regular file";

#[cfg(unix)]
fn open_inside(folder: &Path, path: &Path) -> Result<File, OpenError> {
    use rustix::fs::{Mode, OFlags, openat};
    let name = |e: rustix::io::Errno| match e {
        rustix::io::Errno::LOOP => OpenError::Refused(LINK),
        // With O_DIRECTORY a link to a folder is "not a directory" before it is a link.
        rustix::io::Errno::NOTDIR => OpenError::Refused(
            "a component is not a folder, or is a symbolic link; put a copy of the file there instead",
        ),
        other => OpenError::Io(other.into()),
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut at = File::open(folder)?;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let last = components.peek().is_none();
        // NONBLOCK: opening a FIFO must not wait for a writer.
        let kind = if last { OFlags::NONBLOCK } else { OFlags::DIRECTORY };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY | kind;
        at = openat(&at, component.as_os_str(), flags, Mode::empty()).map_err(name)?.into();
    }
    let metadata = at.metadata()?;
    if !metadata.is_file() {
        return Err(OpenError::Refused(NOT_REGULAR));
    }
    // A hard link can name a file of another folder.
    if std::os::unix::fs::MetadataExt::nlink(&metadata) > 1 {
        return Err(OpenError::Refused(HARD_LINK));
    }
    Ok(at)
}

#[cfg(not(unix))]
fn open_inside(folder: &Path, path: &Path) -> Result<File, OpenError> {
    let mut full = folder.to_owned();
    for component in path.components() {
        full.push(component);
        if full.symlink_metadata()?.is_symlink() {
            return Err(OpenError::Refused(LINK));
        }
    }
    if !full.canonicalize()?.starts_with(folder.canonicalize()?) {
        return Err(OpenError::Refused("it is outside of the model's folder"));
    }
    if !full.metadata()?.is_file() {
        return Err(OpenError::Refused(NOT_REGULAR));
    }
    Ok(File::open(full)?)
}
