//! A file is written whole or not at all.

use crate::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Puts `bytes` at `path`: see [`save_atomic_with`].
pub fn save_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    save_atomic_with(path, |out| out.write_all(bytes))
}

/// Puts what `write` writes at `path`. It goes to a hidden file in the same folder, to the disk, and only then takes
/// the name: whoever looks at `path` sees the old file or all of the new one. After an error the hidden file is gone.
pub fn save_atomic_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    Pending::write(path, write)?.commit()
}

/// A whole new file that does not have its name yet. Dropped without [`Pending::commit`], it leaves no trace.
pub(crate) struct Pending<'a> {
    target: &'a Path,
    temp: Temp,
}

impl<'a> Pending<'a> {
    pub(crate) fn write(target: &'a Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Self, Error> {
        let fail = |e: io::Error| Error::write(target, &e);
        // Renaming over a device or a pipe would replace it by a file.
        if target.metadata().is_ok_and(|meta| !meta.is_file()) {
            return Err(fail(io::Error::other("it exists and is not a regular file")));
        }
        let temp = Temp::create(target).map_err(fail)?;
        let mut out = BufWriter::with_capacity(1 << 16, &temp.file);
        write(&mut out).and_then(|()| out.flush()).map_err(fail)?;
        drop(out);
        temp.file.sync_all().map_err(fail)?;
        Ok(Self { target, temp })
    }

    /// Where it lies until then.
    pub(crate) fn path(&self) -> &Path {
        &self.temp.path
    }

    /// Takes the name.
    pub(crate) fn commit(self) -> Result<(), Error> {
        std::fs::rename(&self.temp.path, self.target).map_err(|e| Error::write(self.target, &e))?;
        // The name is safe once the folder is; some file systems cannot sync one, and the file itself is whole already.
        // Miri opens no folders.
        if !cfg!(miri)
            && let Ok(folder) = File::open(folder_of(self.target))
        {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file that is removed when it goes out of scope, unless it was renamed.
struct Temp {
    file: File,
    path: PathBuf,
}

impl Temp {
    fn create(target: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().ok_or_else(|| io::Error::other("it has no file name"))?.to_string_lossy();
        // File names end at 255 bytes almost everywhere: a long one is cut, the numbers keep it unique.
        let name: String = name.chars().take(40).collect();
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder_of(target).join(format!(".{name}.{}-{number}.tmp", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file, path }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // After the rename there is nothing under this name.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.bin");
        save_atomic(&path, b"old").unwrap();
        let failed = save_atomic_with(&path, |out| {
            out.write_all(&vec![7; 1 << 20])?;
            Err(io::Error::other("disk full"))
        });
        assert!(failed.unwrap_err().to_string().contains("disk full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        save_atomic(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no litter");
    }

    #[test]
    fn only_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        assert!(save_atomic(folder.path(), b"x").is_err());
        assert!(save_atomic(Path::new("/dev/null"), b"x").is_err());
        assert!(save_atomic(&folder.path().join("missing/x"), b"x").is_err());
        assert!(save_atomic(&folder.path().join(format!("{}.onnx", "n".repeat(240))), b"x").is_ok(), "a long name");
    }
}
