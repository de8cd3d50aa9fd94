//! Development tasks. `cargo xtask dag` checks what the compiler does not: the order of the crates, and that every package
//! takes the lints of the workspace. `cargo xtask fuzz` runs the fuzz targets.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a terminal tool: its output is what it is for")]

mod dag;
mod fuzz;
mod lints;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use toml::Table;

const USAGE: &str = "usage: cargo xtask dag     check the order of the crates and their lints
       cargo xtask fuzz [TARGET...] [--seconds N | --count N] [--seed N] [--cases FOLDER] [FILE...]
                           run fuzz targets, all if none is named, on mutants of their seeds or on files";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the repository's root");
    let (done, problems) = match words.split_first() {
        Some((task, [])) if task == "dag" => {
            let problems = dag::check(root).and_then(|mut problems| {
                problems.extend(lints::check(root)?);
                Ok(problems)
            });
            ("dag: every crate stands on earlier ones only, and all take the lints of the workspace", problems)
        }
        Some((task, rest)) if task == "fuzz" => ("fuzz: no target failed", fuzz::run(root, rest)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match problems {
        Ok(problems) if problems.is_empty() => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Ok(problems) => {
            for problem in &problems {
                eprintln!("error: {problem}");
            }
            ExitCode::FAILURE
        }
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The entries of a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let fail = |e: std::io::Error| format!("cannot list `{}`: {e}", folder.display());
    let listed: Result<Vec<_>, _> = std::fs::read_dir(folder).map_err(fail)?.map(|e| e.map(|e| e.path())).collect();
    let mut listed = listed.map_err(fail)?;
    listed.sort();
    Ok(listed)
}

/// A parsed `Cargo.toml`.
fn manifest(path: &Path) -> Result<Table, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read `{}`: {e}", path.display()))?;
    text.parse().map_err(|e| format!("cannot parse `{}`: {e}", path.display()))
}
