//! Writing files so that nothing is lost, and tables for people.

use anyhow::{Context, Result};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file through a temporary one beside it, so that a reader sees the old or the new one
/// whole. An existing file is kept unless `force` is set.
pub(crate) fn write_atomic(
    path: &Path,
    force: bool,
    write: impl FnOnce(&mut std::fs::File) -> Result<()>,
) -> Result<()> {
    check_free(path, force)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let context = || format!("{}", path.display());
    let mut temporary = tempfile::NamedTempFile::new_in(folder).with_context(context)?;
    write(temporary.as_file_mut())?;
    temporary.as_file_mut().sync_all().with_context(context)?;
    if force {
        temporary.persist(path).map_err(|e| e.error).with_context(context)?;
    } else {
        temporary.persist_noclobber(path).map_err(|e| e.error).with_context(context)?;
    }
    Ok(())
}

/// Fails early when a file is there and may not be replaced.
pub(crate) fn check_free(path: &Path, force: bool) -> Result<()> {
    if !force && path.exists() {
        let source =
            io::Error::new(io::ErrorKind::AlreadyExists, "it exists: give --force to replace it");
        return Err(source).with_context(|| format!("{}", path.display()));
    }
    Ok(())
}

/// Prints rows as a table: the first column to the left, the others to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let mut out = io::stdout().lock();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (i, (cell, &w)) in cells.zip(&widths).enumerate() {
            if i == 0 {
                text.push_str(&format!("{cell:<w$}"));
            } else {
                text.push_str(&format!("  {cell:>w$}"));
            }
        }
        // A closed pipe is the reader's choice.
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
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
            |text: &'static str| move |f: &mut std::fs::File| Ok(f.write_all(text.as_bytes())?);
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
