//! What is wrong with an output path, before any work is done.

use quantal::Error;
use quantal::data::shown;
use std::path::{Path, PathBuf};

/// Refuses outputs that are an input, that are each other, or that cannot be written because of where they are.
pub(super) fn check_outputs(inputs: &[&Path], outputs: &[Option<&Path>]) -> Result<(), Error> {
    let mut taken: Vec<PathBuf> = inputs.iter().filter_map(|p| p.canonicalize().ok()).collect();
    for path in outputs.iter().flatten() {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(real) = folder.canonicalize() else {
            let message = format!("cannot write {}: there is no folder {}", shown(path), shown(folder));
            return Err(Error::usage(message, "make the folder first"));
        };
        if path.is_dir() {
            return Err(Error::usage(
                format!("cannot write {}: it is a folder", shown(path)),
                "give the name of a file",
            ));
        }
        let whole = path.canonicalize().unwrap_or_else(|_| real.join(path.file_name().unwrap_or_default()));
        if taken.contains(&whole) {
            let message = format!("{} would overwrite another file of this command", shown(path));
            return Err(Error::usage(message, "give it a name of its own"));
        }
        taken.push(whole);
    }
    Ok(())
}
