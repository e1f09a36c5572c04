//! Writing files so that nothing is lost, lines for people and scripts, and tables.

use anyhow::{Context, Result};
use requant_ir::file::write_atomically;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// A line of the result, to standard output.
macro_rules! say {
    () => { $crate::output::line(format_args!(""))? };
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*))? };
}

/// A line that is not the result, to standard error.
macro_rules! note {
    ($($text:tt)*) => { $crate::output::remark(format_args!($($text)*)) };
}

/// Writes a line to standard output. A reader that closes the pipe has seen enough: no failure.
pub(crate) fn line(text: fmt::Arguments<'_>) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e).context("standard output"),
        _ => Ok(()),
    }
}

/// Writes a line to standard error, if it can be written.
pub(crate) fn remark(text: fmt::Arguments<'_>) {
    let mut out = io::stderr().lock();
    let _ = out.write_fmt(text).and_then(|()| out.write_all(b"\n"));
}

/// Writes a file through a temporary one beside it, so that a reader sees the old or the new one
/// whole. An existing file is kept unless `force` is set.
pub(crate) fn write_atomic(
    path: &Path,
    force: bool,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<()>,
) -> Result<()> {
    check_free(path, force)?;
    let mut failure = None;
    let written = write_atomically(path, force, |file| {
        write(file).map_err(|e| {
            failure = Some(e);
            io::Error::other("the content could not be written")
        })
    });
    match failure {
        Some(e) => Err(e.context(path.display().to_string())),
        None => Ok(written.map_err(requant::Error::from)?),
    }
}

/// Fails early when a file is there and may not be replaced. Links, pipes, devices and folders are
/// never replaced.
pub(crate) fn check_free(path: &Path, force: bool) -> Result<()> {
    let reason = match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
            return match folder {
                Some(p) if !p.is_dir() => Err(e).with_context(|| format!("folder {}", p.display())),
                _ => Ok(()),
            };
        }
        Err(e) => return Err(e).with_context(|| format!("{}", path.display())),
        Ok(found) if !found.is_file() => "it exists and is not a regular file: choose another name",
        Ok(_) if !force => "it exists: give --force to replace it",
        Ok(_) => return Ok(()),
    };
    let source = io::Error::new(io::ErrorKind::AlreadyExists, reason);
    Err(source).with_context(|| format!("{}", path.display()))
}

/// Prints rows as a table: the first column to the left, the others to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| -> Result<()> {
        let mut text = String::new();
        for (i, (cell, &w)) in cells.zip(&widths).enumerate() {
            if i == 0 {
                text.push_str(&format!("{cell:<w$}"));
            } else {
                text.push_str(&format!("  {cell:>w$}"));
            }
        }
        say!("{}", text.trim_end());
        Ok(())
    };
    line(&mut header.iter().copied())?;
    rows.iter().try_for_each(|row| line(&mut row.iter().map(String::as_str)))
}

/// `1,234,567`
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn groups_of_three() {
        assert_eq!([0, 999, 1000, 1234567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn an_existing_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let put =
            |text: &'static str| move |f: &mut BufWriter<&File>| Ok(f.write_all(text.as_bytes())?);
        write_atomic(&path, false, put("one")).unwrap();
        assert!(write_atomic(&path, false, put("two")).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        write_atomic(&path, true, put("three")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three");
        assert!(write_atomic(&path, true, |_| anyhow::bail!("no")).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
