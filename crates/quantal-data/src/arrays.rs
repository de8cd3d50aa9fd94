//! Many samples in one file: arrays that are split along their first dimension.

use crate::error::{Error, one_line, shown};
use crate::files;
use crate::fit::{InputSpec, find, fit};
use crate::{labels, npy, npz};
use quantal_tensor::{Bytes, Tensor};
use std::path::Path;

/// Arrays of labels that may lie beside the inputs.
const LABEL_ARRAYS: &[&str] = &["label", "labels", "y", "target", "targets"];

/// The arrays of one file, matched to the inputs.
pub(crate) struct Stack {
    arrays: Vec<(InputSpec, Tensor)>,
    /// Elements of the first dimension that make one sample; `None`: the file is one sample as it is.
    batch: Option<usize>,
    pub(crate) rows: usize,
    pub(crate) labels: Option<Vec<u32>>,
}

impl Stack {
    /// Opens an `.npy` (mapped, not read) or `.npz` file.
    pub(crate) fn open(path: &Path, inputs: &[InputSpec], is_npz: bool) -> Result<Self, Error> {
        let name = shown(path);
        let mut arrays = if is_npz {
            npz::read_npz(path)?
        } else {
            let (file, len) = files::open(path)?;
            let bytes = if len == 0 { Bytes::zeroed(0).map_err(Error::memory(&name))? } else { map(path, &file)? };
            vec![(String::new(), npy::from_bytes(&name, &bytes)?)]
        };
        let label = take_label(&mut arrays, inputs);
        let arrays: Vec<(InputSpec, Tensor)> = matched(&name, arrays, inputs, Naming::Any)?;
        let firsts: Vec<Option<usize>> = arrays.iter().map(|(_, t)| t.shape().first().copied()).collect();
        let batches: Vec<Option<usize>> = arrays.iter().map(|(i, _)| i.shape.first().map(|d| d.unwrap_or(1))).collect();
        let same =
            |list: &[Option<usize>]| list.first().copied().flatten().filter(|f| list.iter().all(|x| *x == Some(*f)));
        let split = same(&firsts).zip(same(&batches)).filter(|&(rows, batch)| batch > 0 && rows.is_multiple_of(batch));
        let (rows, batch) = split.map_or((1, None), |(rows, batch)| (rows / batch, Some(batch)));
        let labels = match label {
            Some(tensor) => Some(labels::from_tensor(&name, &tensor)?),
            None => None,
        };
        if let Some(labels) = labels.as_ref().filter(|l| l.len() != rows) {
            let message = format!("{} labels for {rows} samples", labels.len());
            return Err(Error::Labels { path: name, line: None, message });
        }
        Ok(Self { arrays, batch, rows, labels })
    }

    /// The feeds of one sample.
    pub(crate) fn row(&self, path: &str, i: usize) -> Result<Vec<(String, Tensor)>, Error> {
        let feed = |(input, array): &(InputSpec, Tensor)| {
            let part = match self.batch {
                Some(batch) => slice(array, i * batch, batch).map_err(Error::tensor(path))?,
                None => array.clone(),
            };
            Ok((input.name.clone(), fit(path, input, part)?))
        };
        self.arrays.iter().map(feed).collect()
    }
}

fn map(path: &Path, file: &std::fs::File) -> Result<Bytes, Error> {
    Bytes::map(file).map_err(|e| Error::io(path, &e))
}

/// `count` elements of the first dimension, sharing the bytes.
fn slice(array: &Tensor, from: usize, count: usize) -> Result<Tensor, quantal_tensor::TensorError> {
    let mut shape = array.shape().to_vec();
    let one = shape[1..].iter().product::<usize>() * array.dtype().size();
    shape[0] = count;
    let bytes = array.clone().into_bytes().slice(from * one..(from + count) * one);
    Tensor::from_bytes(array.dtype(), &shape, bytes.expect("the rows were counted from this shape"))
}

/// Takes the array of labels out, if there is one that no input is named like.
pub(crate) fn take_label(arrays: &mut Vec<(String, Tensor)>, inputs: &[InputSpec]) -> Option<Tensor> {
    let is_label = |name: &str| LABEL_ARRAYS.contains(&name) && !inputs.iter().any(|i| i.name == name);
    let at = arrays.iter().position(|(name, _)| is_label(name))?;
    // Alone in the file, it is the data of a model with one input.
    (arrays.len() > 1).then(|| arrays.remove(at).1)
}

/// How strictly the only array must be named like the only input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By any name: a file of features, where the shape tells enough.
    Any,
    /// By the input's name, or the name that numpy gives to an array without one.
    Strict,
}

/// Each input with its array.
pub(crate) fn matched(
    path: &str,
    mut arrays: Vec<(String, Tensor)>,
    inputs: &[InputSpec],
    naming: Naming,
) -> Result<Vec<(InputSpec, Tensor)>, Error> {
    if let ([input], [(name, _)]) = (inputs, arrays.as_mut_slice()) {
        if naming == Naming::Any || matches!(name.as_str(), "" | "arr_0") {
            name.clone_from(&input.name);
        }
    } else if arrays.len() == 1 && arrays[0].0.is_empty() {
        let names: Vec<String> = inputs.iter().map(|i| format!("`{}`", one_line(&i.name))).collect();
        let message = format!("it has {} inputs ({}), and one array feeds one", inputs.len(), names.join(", "));
        return Err(Error::Inputs { kind: "an .npy file", message });
    }
    inputs.iter().map(|input| Ok((input.clone(), find(path, &arrays, input)?.clone()))).collect()
}
