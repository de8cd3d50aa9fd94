//! Fuzzing with the runner in `fuzz/`: builds it, and runs all targets beside each other, or those that are named.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Runs the targets among `words`, all if there are none, with the options and files among them. The names of those that
/// failed.
pub(crate) fn run(root: &Path, words: &[String]) -> Result<Vec<String>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // With debug assertions and checks for overflow: what they find is a fault, too.
    let built = Command::new(cargo).args(["build", "--quiet", "--package", "quantal-fuzz"]).current_dir(root).status();
    if !built.map_err(|e| format!("cannot run cargo: {e}"))?.success() {
        return Err("the runner cannot be built".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let runner = target.join("debug").join(format!("quantal-fuzz{}", std::env::consts::EXE_SUFFIX));
    let fail = |e: std::io::Error| format!("cannot run `{}`: {e}", runner.display());
    let listed = Command::new(&runner).arg("list").output().map_err(fail)?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let all: Vec<&str> = listed.split_whitespace().collect();
    let (named, rest): (Vec<&String>, Vec<&String>) = words.iter().partition(|w| all.contains(&w.as_str()));
    let mut waiting: VecDeque<&str> =
        if named.is_empty() { all.into() } else { named.iter().map(|name| name.as_str()).collect() };
    let most = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut running: Vec<(&str, Child)> = Vec::new();
    let mut failed = Vec::new();
    while !(waiting.is_empty() && running.is_empty()) {
        while running.len() < most
            && let Some(name) = waiting.pop_front()
        {
            running.push((name, Command::new(&runner).arg(name).args(&rest).spawn().map_err(fail)?));
        }
        let mut left = Vec::new();
        for (name, mut child) in running {
            match child.try_wait().map_err(fail)? {
                None => left.push((name, child)),
                Some(status) if status.success() => {}
                Some(status) => {
                    let what = format!("fuzz target `{name}` failed ({status})");
                    // What ends the process itself leaves no word of its own.
                    let hint = if status.code().is_none() { ": see target/fuzz/*.current" } else { "" };
                    failed.push(format!("{what}{hint}"));
                }
            }
        }
        running = left;
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(failed)
}
