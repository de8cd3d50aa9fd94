//! A part of the samples, by a list of their names.

use crate::error::{Error, first_names, shown};
use crate::files;
use std::collections::BTreeSet;
use std::path::Path;

/// The indices of the samples that the file `list` names, one a line, in the order of the samples. All must be there:
/// with a part of them the data would be another than the one that was chosen.
pub(super) fn members(list: &Path, names: impl Iterator<Item = String>) -> Result<Vec<usize>, Error> {
    let bad = |message: String| Error::List { path: shown(list), message };
    let bytes = files::read(list, "the list", files::MAX_TABLE_BYTES)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| bad("the file is not UTF-8 text".to_owned()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let wanted: BTreeSet<&str> = text.lines().filter(|l| !l.is_empty()).collect();
    if wanted.is_empty() {
        return Err(bad("the file names no sample".to_owned()));
    }
    let mut left = wanted.clone();
    let members = names.enumerate().filter(|(_, name)| left.remove(name.as_str())).map(|(i, _)| i).collect();
    if left.is_empty() {
        return Ok(members);
    }
    let (count, first): (usize, Vec<&str>) = (left.len(), left.into_iter().collect());
    Err(bad(format!("{count} of {} names are not in the data, the first: {}", wanted.len(), first_names(&first))))
}
