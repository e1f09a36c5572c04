//! Files that appear whole or not at all.

use super::{FileError, Problem};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Lets `write` fill a temporary file in `path`'s folder and renames it to `path`. An existing file
/// is replaced only if `overwrite` says so.
pub fn write_atomically(
    path: &Path,
    overwrite: bool,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), FileError> {
    let attempt = || {
        // Asked first so that nothing is written in vain; asked again when renaming.
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(Problem::Exists);
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".requant-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // What creating the file itself would ask for; the umask applies.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(folder)?;
        let mut buffered = BufWriter::new(temporary.as_file());
        write(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        temporary.as_file().sync_all()?;
        let renamed =
            if overwrite { temporary.persist(path) } else { temporary.persist_noclobber(path) };
        match renamed {
            Ok(_) => Ok(()),
            Err(e) if !overwrite && e.error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Problem::Exists)
            }
            Err(e) => Err(Problem::Io(e.error)),
        }
    };
    attempt().map_err(|problem| FileError { file: Some(path.to_owned()), problem })
}
