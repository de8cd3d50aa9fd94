//! Opening a model, and the one door to its tensors.

use crate::error::{Error, quote_path};
use crate::external::{External, parse_u64};
use crate::message::Message;
use crate::schema::{GraphProto, ModelProto, SparseTensorProto, TensorProto};
use crate::sniff::sniff;
use crate::wire::{MAX_PARSED_BYTES, Reader};
use crate::{decode, sparse};
use quantal_tensor::{Bytes, DType, Tensor};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A parsed model and the bytes that it refers to.
#[derive(Debug)]
pub struct Model {
    /// Its messages.
    pub proto: ModelProto,
    /// Where it came from; `None` if from memory.
    pub path: Option<PathBuf>,
    bytes: Bytes,
    external: External,
}

impl Model {
    /// Maps a file and reads everything in it but the data of tensors. Errors name the path.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_as(path, path, None)
    }

    /// Opens the file at `at` that will be at `path`, with the external data that will be at one path and lie at another.
    pub(crate) fn open_as(at: &Path, path: &Path, data: Option<(&Path, &Path)>) -> Result<Self, Error> {
        let file = open_regular(at)?;
        let bytes = Bytes::map(&file).map_err(|e| Error::read(path, &e))?;
        let parsed = read_model(&bytes).map_err(|error| match sniff(&bytes[..bytes.len().min(64)]) {
            Some((kind, hint)) => Error::NotAModel { path: quote_path(path), kind, hint },
            None => error.in_file(path),
        });
        let mut external = External::beside(at)?;
        if let Some((name, at)) = data {
            external.stand_in(&name.file_name().unwrap_or_default().to_string_lossy(), at)?;
        }
        Ok(Self { proto: parsed?, path: Some(path.to_owned()), bytes, external })
    }

    /// Reads a model from memory. Its tensors cannot lie in other files: there is no folder to look in.
    pub fn parse(bytes: Bytes) -> Result<Self, Error> {
        Ok(Self { proto: read_model(&bytes)?, path: None, bytes, external: External::none() })
    }

    /// Size of the file, and of what its graph says lies in others: each piece of a file once. What cannot be read as a
    /// piece is left out.
    pub fn total_bytes(&self) -> u64 {
        let mut pieces: BTreeMap<(&str, u64), u64> = BTreeMap::new();
        for t in self.proto.graph.iter().flat_map(|g| &g.initializer).filter(|t| t.is_external()) {
            let entry = |key: &str| t.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
            let number = |key: &str| entry(key).and_then(parse_u64);
            let length = || {
                let count = t.dims.iter().try_fold(1_u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?))?;
                count.checked_mul(DType::from_onnx(t.data_type)?.size() as u64)
            };
            if let (Some(location), Some(length)) = (entry("location"), number("length").or_else(length)) {
                let piece = pieces.entry((location, number("offset").unwrap_or(0))).or_default();
                *piece = length.max(*piece);
            }
        }
        pieces.into_values().fold(self.bytes.len() as u64, u64::saturating_add)
    }

    /// The graph.
    ///
    /// # Panics
    /// If `proto.graph` was taken out after the model was opened.
    pub fn graph(&self) -> &GraphProto {
        self.proto.graph.as_deref().expect("a model without a graph is refused when it is opened")
    }

    /// The elements of a tensor, checked against its dims. Every tensor goes through here: initializers, attributes,
    /// parts of sparse ones, in whatever graph. Large ones share the map if it happens to be aligned.
    pub fn tensor(&self, t: &TensorProto) -> Result<Tensor, Error> {
        decode::tensor(t, &self.external).map_err(|e| self.named(e))
    }

    /// A sparse tensor as a dense one, its indices checked: ascending, unique, in bounds.
    pub fn sparse_tensor(&self, t: &SparseTensorProto) -> Result<Tensor, Error> {
        sparse::densify(t, &self.external).map_err(|e| self.named(e))
    }

    /// Bytes of the file as they are; none if the range does not lie inside.
    pub fn span(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// The elements of an external tensor as they lie in its file.
    pub(crate) fn external_bytes(&self, t: &TensorProto) -> Result<Bytes, Error> {
        decode::external_bytes(t, &self.external).map_err(|e| self.named(e))
    }

    fn named(&self, error: Error) -> Error {
        match &self.path {
            Some(path) => error.in_file(path),
            None => error,
        }
    }
}

/// Opens a regular file for reading: never a device or a pipe, which could block or never end.
fn open_regular(path: &Path) -> Result<File, Error> {
    let not_a_model = |kind| Error::NotAModel { path: quote_path(path), kind, hint: "give the path of an .onnx file" };
    let meta = std::fs::metadata(path).map_err(|e| Error::read(path, &e))?;
    if meta.is_dir() {
        return Err(not_a_model("a directory"));
    }
    if !meta.is_file() {
        return Err(not_a_model("not a regular file"));
    }
    let file = File::open(path).map_err(|e| Error::read(path, &e))?;
    let meta = file.metadata().map_err(|e| Error::read(path, &e))?;
    if !meta.is_file() {
        return Err(not_a_model("not a regular file"));
    }
    if meta.len() == 0 {
        return Err(not_a_model("empty"));
    }
    Ok(file)
}

fn read_model(bytes: &Bytes) -> Result<ModelProto, Error> {
    let budget = Cell::new(MAX_PARSED_BYTES);
    let proto = ModelProto::read(Reader::new(bytes, &budget, ModelProto::KIND))?;
    if proto.graph.is_none() {
        return Err(Error::NoGraph);
    }
    Ok(proto)
}
