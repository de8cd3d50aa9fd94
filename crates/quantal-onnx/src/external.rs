//! External data: the one place that opens a file because a model says so.
//!
//! A location is a name inside the model's folder. It is checked as text (nothing absolute, no `..`, no markers), then
//! as a file: after all links are resolved it must still lie in the folder, or in the real folder of a model that is
//! itself a link (as model caches make them).

use crate::error::{Error, io_text};
use quantal_tensor::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Where external files may lie, and those already mapped.
#[derive(Debug, Default)]
pub(crate) struct External {
    /// The model's folder as named, where locations are looked up.
    base: Option<PathBuf>,
    /// Canonical folders that a file may lie in.
    roots: Vec<PathBuf>,
    maps: Mutex<BTreeMap<PathBuf, Bytes>>,
    /// A file that is there before it has its name: the location, and its contents.
    pending: Option<(String, Bytes)>,
}

impl External {
    /// For a model from memory: every location is refused.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// For a model at `path`.
    pub(crate) fn beside(path: &Path) -> Result<Self, Error> {
        let base = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut roots = vec![base.canonicalize().map_err(|e| Error::read(&base, &e))?];
        let real = path.canonicalize().map_err(|e| Error::read(path, &e))?;
        if let Some(folder) = real.parent().filter(|&folder| folder != roots[0]) {
            roots.push(folder.to_owned());
        }
        Ok(Self { base: Some(base), roots, maps: Mutex::default(), pending: None })
    }

    /// `offset..offset + length` of the file at `location`; to its end if there is no length.
    pub(crate) fn read(&self, location: &str, offset: u64, length: Option<u64>) -> Result<Bytes, String> {
        let map = self.map(location)?;
        let total = map.len() as u64;
        let left = total.checked_sub(offset).ok_or_else(|| format!("offset {offset} is beyond its {total} bytes"))?;
        let length = length.unwrap_or(left);
        if length > left {
            return Err(format!("{length} bytes at offset {offset} reach beyond its {total} bytes"));
        }
        // Both are at most the length of a map, so they are usizes.
        let (start, length) = (offset as usize, length as usize);
        map.slice(start..start + length).ok_or_else(|| "the range does not lie in the file".into())
    }

    /// Takes the file at `path` for the one at `location`, which is not there yet.
    pub(crate) fn stand_in(&mut self, location: &str, path: &Path) -> Result<(), Error> {
        let file = File::open(path).map_err(|e| Error::read(path, &e))?;
        let bytes = Bytes::map(&file).map_err(|e| Error::read(path, &e))?;
        self.pending = Some((location.to_owned(), bytes));
        Ok(())
    }

    fn map(&self, location: &str) -> Result<Bytes, String> {
        if let Some((name, bytes)) = &self.pending
            && name == location
        {
            return Ok(bytes.clone());
        }
        let base = self.base.as_ref().ok_or("a model that is not in a file cannot have external data")?;
        check_location(location)?;
        let say = |e: std::io::Error| io_text(&e);
        // The link's own folder first, then the folder of the model that it leads to.
        let found = std::iter::once(base).chain(&self.roots).find_map(|f| f.join(location).canonicalize().ok());
        let real = match found {
            Some(real) => real,
            None => base.join(location).canonicalize().map_err(say)?,
        };
        if !self.roots.iter().any(|root| real.starts_with(root)) {
            return Err("it leads out of the folder of the model".into());
        }
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = maps.get(&real) {
            return Ok(map.clone());
        }
        // Looked at before it is opened: opening a pipe would wait for a writer.
        if !real.metadata().map_err(say)?.is_file() {
            return Err("it is not a regular file".into());
        }
        let file = File::open(&real).map_err(say)?;
        let meta = file.metadata().map_err(say)?;
        if !meta.is_file() {
            return Err("it is not a regular file".into());
        }
        let map = match meta.len() {
            0 => Bytes::zeroed(0).map_err(|e| e.to_string())?,
            _ => Bytes::map(&file).map_err(say)?,
        };
        maps.insert(real, map.clone());
        Ok(map)
    }
}

/// Refuses all but plain relative names with `/` between, on every system alike.
fn check_location(location: &str) -> Result<(), String> {
    let problem = if location.is_empty() {
        "the location is empty"
    } else if location.contains('\0') {
        "the location holds a NUL byte"
    } else if location.contains("_ORT_MEM_ADDR_") {
        "the location names an address in memory, not a file"
    } else if location.contains('\\') {
        "the location holds a backslash"
    } else if location.starts_with('/') || location.as_bytes().get(1) == Some(&b':') {
        "the location is absolute"
    } else if location.split('/').any(|part| part == "..") {
        "the location leads out of its folder by `..`"
    } else {
        return Ok(());
    };
    Err(problem.into())
}

/// A decimal number, and nothing else: no sign, no space.
pub(crate) fn parse_u64(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}
