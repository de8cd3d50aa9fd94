//! Labels: a CSV of files and classes, or a list in the samples' order.

use crate::error::{Error, first_names, one_line, shown};
use crate::{files, idx, npz};
use quantal_tensor::Tensor;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The label of each of `samples` (paths relative to the data folder), `None` where the file lists none. A line names a
/// sample by its path, or by its file name alone where that is unambiguous. Lines may name more files than there are
/// samples, or fewer; both at once is refused, for then the names are those of other data.
pub(crate) fn for_files(path: &Path, samples: &[PathBuf]) -> Result<Vec<Option<u32>>, Error> {
    let rows = read_csv(path)?;
    let mut by_path: BTreeMap<String, Option<usize>> = BTreeMap::new();
    let mut by_name: BTreeMap<String, Option<usize>> = BTreeMap::new();
    for (i, sample) in samples.iter().enumerate() {
        let name = sample.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (map, key) in [(&mut by_path, normal(&sample.to_string_lossy())), (&mut by_name, name)] {
            map.entry(key).and_modify(|e| *e = None).or_insert(Some(i));
        }
    }
    let mut labels = vec![None; samples.len()];
    let mut missing = Vec::new();
    let total = rows.len();
    for (line, file, label) in rows {
        let key = normal(&file);
        let name = key.rsplit('/').next().unwrap_or_default();
        // `train/images/a.png` is `a.png` and `images/a.png`, but `dog/1.png` is not `cat/1.png`.
        let is_under = |&i: &usize| {
            let own = normal(&samples[i].to_string_lossy());
            !key.contains('/') || key.ends_with(&format!("/{own}"))
        };
        let by_tail = || by_name.get(name).copied().flatten().filter(is_under);
        let Some(i) = by_path.get(&key).copied().flatten().or_else(by_tail) else {
            missing.push(file);
            continue;
        };
        if labels[i].is_some_and(|l| l != label) {
            let message = format!("`{}` already has another label", one_line(&file));
            return Err(Error::Labels { path: shown(path), line: Some(line), message });
        }
        labels[i] = Some(label);
    }
    let unlabelled = labels.iter().filter(|l| l.is_none()).count();
    if !missing.is_empty() && unlabelled > 0 {
        return Err(Error::LabelsOfOtherData {
            path: shown(path),
            count: missing.len(),
            total,
            first: first_names(&missing),
            unlabelled,
            samples: samples.len(),
        });
    }
    Ok(labels)
}

/// The labels of samples that have no file name, in their order: an `.npy` of integers, an IDX file of labels, or a CSV
/// whose last column holds them.
pub(crate) fn in_order(path: &Path, samples: usize) -> Result<Vec<u32>, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let labels = if name.ends_with(".npy") {
        from_tensor(&shown(path), &npz::read_npy(path)?)?
    } else if name.contains("idx1") {
        idx::read(path, 1)?.bytes.iter().map(|&b| u32::from(b)).collect()
    } else {
        read_csv(path)?.into_iter().map(|(_, _, label)| label).collect()
    };
    if labels.len() != samples {
        let message = format!("{} labels for {samples} samples", labels.len());
        return Err(Error::Labels { path: shown(path), line: None, message });
    }
    Ok(labels)
}

/// An array of integers as labels.
pub(crate) fn from_tensor(path: &str, tensor: &Tensor) -> Result<Vec<u32>, Error> {
    let bad = |message: String| Error::Labels { path: path.to_owned(), line: None, message };
    let values = (!tensor.dtype().is_float()).then(|| tensor.to_i64_vec()).flatten();
    let values = values.ok_or_else(|| bad(format!("labels are integers, found {}", tensor.dtype())))?;
    values.into_iter().map(|v| u32::try_from(v).map_err(|_| bad(format!("{v} is not a class")))).collect()
}

/// One spelling for one path: `/` between folders, no `./` in front.
fn normal(path: &str) -> String {
    let path = path.replace('\\', "/");
    path.strip_prefix("./").unwrap_or(&path).to_owned()
}

/// Line, file and label of each row. The header is optional.
fn read_csv(path: &Path) -> Result<Vec<(u64, String, u32)>, Error> {
    const FILE_COLUMNS: &[&str] = &["file", "path", "filename", "file_name", "image", "name"];
    const LABEL_COLUMNS: &[&str] = &["label", "class", "target", "y", "label_id", "class_id"];
    let bytes = files::read(path, "the table of labels", files::MAX_TABLE_BYTES)?;
    let bad = |line: Option<u64>, message: String| Error::Labels { path: shown(path), line, message };
    let text = std::str::from_utf8(&bytes).map_err(|_| bad(None, "the file is not UTF-8 text".to_owned()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let mut rows = Vec::new();
    let mut columns: Option<(usize, usize)> = None;
    for record in reader.records() {
        let record = record.map_err(|e| bad(None, one_line(&e.to_string())))?;
        let line = record.position().map(csv::Position::line);
        let (file, label) = *columns.get_or_insert((0, record.len().saturating_sub(1)));
        let Some(text) = record.get(label) else {
            return Err(bad(line, format!("{} columns, the label is in column {}", record.len(), label + 1)));
        };
        match text.parse() {
            Ok(value) => rows.push((line.unwrap_or(0), record.get(file).unwrap_or_default().to_owned(), value)),
            Err(_) if rows.is_empty() && line == Some(1) => {
                let find = |names: &[&str]| record.iter().position(|c| names.contains(&c.to_lowercase().as_str()));
                let label = find(LABEL_COLUMNS).ok_or_else(|| {
                    bad(line, format!("`{}` is neither a label nor the header `file,label`", one_line(text)))
                })?;
                columns = Some((find(FILE_COLUMNS).unwrap_or(0), label));
            }
            Err(_) => return Err(bad(line, format!("`{}` is not an integer label", one_line(text)))),
        }
    }
    if rows.is_empty() {
        return Err(bad(None, "the file holds no labels".to_owned()));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(csv: &str, samples: &[&str]) -> Result<Vec<Option<u32>>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.csv");
        std::fs::write(&path, csv).unwrap();
        for_files(&path, &samples.iter().map(PathBuf::from).collect::<Vec<_>>())
    }

    #[test]
    fn rows_find_their_samples_by_path_or_name() {
        assert_eq!(
            join("file,label\nb.png,2\na.png,1\n", &["a.png", "b.png", "c.png"]).unwrap(),
            [Some(1), Some(2), None]
        );
        assert_eq!(join("a.png,1", &["a.png"]).unwrap(), [Some(1)]);
        // The labels of the whole set beside a part of it.
        assert_eq!(join("a.png,1\nb.png,2\nc.png,3", &["b.png"]).unwrap(), [Some(2)]);
        assert_eq!(join("\u{feff}class,path\n7,\"./x/a, b.png\"\n", &["x/a, b.png"]).unwrap(), [Some(7)]);
        assert_eq!(join("path,class\ntrain/images/a.png,3", &["a.png"]).unwrap(), [Some(3)]);
        assert_eq!(join("file,label\nx/a.png,1\ny/a.png,2", &["x/a.png", "y/a.png"]).unwrap(), [Some(1), Some(2)]);
        assert_eq!(join("file,label\nx/a.png,1\ny/a.png,2", &["x/a.png"]).unwrap(), [Some(1)]);
    }

    #[test]
    fn what_does_not_join_is_an_error_that_names_it() {
        let error = join("file,label\na.png,1\ngone.png,2\nlost.png,2\n", &["a.png", "new.png"]).unwrap_err();
        let Error::LabelsOfOtherData { count, total, first, unlabelled, samples, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((*count, *total, first.as_str()), (2, 3, "`gone.png`, `lost.png`"));
        assert_eq!((*unlabelled, *samples), (1, 2));
        assert!(join("a.png,1\na.png,2", &["a.png"]).is_err());
        assert!(matches!(join("y/a.png,2", &["x/a.png"]), Err(Error::LabelsOfOtherData { .. })));
        assert!(join("file,label\na.png,cat", &["a.png"]).unwrap_err().to_string().contains("line 2"));
        // The bare name is in two folders.
        assert!(join("a.png,1", &["x/a.png", "y/a.png"]).is_err());
        for broken in ["", "file,label\n", "\0\u{1}garbage", "a.png,-1", "a.png"] {
            assert!(join(broken, &["a.png"]).is_err(), "{broken:?}");
        }
    }
}
