//! Reading files that nobody vouches for: regular files only, sizes checked first.

use crate::error::{Error, shown};
use quantal_tensor::Bytes;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most that a text file of samples is read to: ten million sentences.
pub(crate) const MAX_TEXT_BYTES: u64 = 1 << 30;
/// The most that labels and lists of samples are read to: millions of paths.
pub(crate) const MAX_TABLE_BYTES: u64 = 256 << 20;
/// The most that a tokenizer is read to: the largest in use have 40 MiB.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 128 << 20;
/// The most that a preprocessing is read to.
pub(crate) const MAX_PREPROCESS_BYTES: u64 = 1 << 20;

/// Opens a regular file and gives its length. Pipes and devices are refused before they can block or never end.
pub(crate) fn open(path: &Path) -> Result<(File, u64), Error> {
    let io = |e: std::io::Error| Error::io(path, &e);
    // Asked before opening: to open a pipe without a writer blocks.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::NotAFile { path: shown(path) });
    }
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    Ok((file, len))
}

/// A text file of at most `limit` bytes, read as a whole; `what` it is, for messages: "the recipe".
///
/// # Errors
/// If it is no regular file, larger, cannot be read, or is not UTF-8.
pub fn read_text(path: &Path, what: &'static str, limit: u64) -> Result<String, Error> {
    let bytes = read(path, what, limit)?;
    String::from_utf8(bytes).map_err(|_| Error::array(&shown(path), format!("{what} is not UTF-8 text")))
}

/// A whole file of at most `limit` bytes; `what` it is, for messages.
pub(crate) fn read(path: &Path, what: &'static str, limit: u64) -> Result<Vec<u8>, Error> {
    let (file, len) = open(path)?;
    let too_large = || Error::TooLarge { path: shown(path), what, limit };
    if len > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, &e))?;
    if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
}

/// A whole file in budgeted, aligned memory.
pub(crate) fn read_bytes(path: &Path) -> Result<Bytes, Error> {
    let (mut file, len) = open(path)?;
    let name = shown(path);
    let len = usize::try_from(len).map_err(|_| Error::array(&name, "the file is too large"))?;
    let mut bytes = Bytes::zeroed(len).map_err(Error::memory(&name))?;
    let buffer = bytes.make_mut().map_err(Error::memory(&name))?;
    file.read_exact(buffer).map_err(|e| Error::io(path, &e))?;
    Ok(bytes)
}

/// The regular files of a folder, and of its subfolders if it holds none of the wanted ones itself, one level deep.
/// Paths are relative to `root` and sorted. Hidden files and links that lead nowhere are passed over.
pub(crate) fn list(root: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let mut folders = Vec::new();
    scan(root, Path::new(""), &mut files, Some(&mut folders))?;
    if !files.iter().any(|f| wanted(f)) {
        for folder in folders {
            scan(root, &folder, &mut files, None)?;
        }
    }
    files.sort();
    Ok(files)
}

fn scan(
    root: &Path,
    under: &Path,
    files: &mut Vec<PathBuf>,
    mut folders: Option<&mut Vec<PathBuf>>,
) -> Result<(), Error> {
    let at = root.join(under);
    for entry in fs::read_dir(&at).map_err(|e| Error::io(&at, &e))? {
        let entry = entry.map_err(|e| Error::io(&at, &e))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let Ok(kind) = entry.file_type() else { continue };
        let relative = under.join(entry.file_name());
        if kind.is_dir() {
            if let Some(folders) = &mut folders {
                folders.push(relative);
            }
        } else if fs::metadata(entry.path()).is_ok_and(|m| m.is_file()) {
            files.push(relative);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_up_to_a_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.toml");
        fs::write(&path, "x = 1").unwrap();
        assert_eq!(read_text(&path, "the recipe", 5).unwrap(), "x = 1");
        let error = read_text(&path, "the recipe", 4).unwrap_err();
        assert!(error.to_string().contains("the recipe is larger than 4 bytes"), "{error}");
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(read_text(&path, "the recipe", 5).unwrap_err().to_string().contains("not UTF-8"));
        for not_a_file in [folder.path(), Path::new("/dev/zero")] {
            if not_a_file.exists() {
                assert!(matches!(read_text(not_a_file, "the recipe", 5), Err(Error::NotAFile { .. })));
            }
        }
    }
}
