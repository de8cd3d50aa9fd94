//! Development tasks: `cargo xtask dag` checks what the compiler does not, the order of the crates and the rooms of
//! `unsafe`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a terminal tool: its output is what it is for")]

mod dag;
mod safety;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask dag    check the order of the crates and where `unsafe` stands";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments != ["dag"] {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the repository's root");
    match dag::check(root).and_then(|mut problems| {
        problems.extend(safety::check(root)?);
        Ok(problems)
    }) {
        Ok(problems) if problems.is_empty() => {
            println!("dag: every crate stands on earlier ones only, and `unsafe` is in its rooms");
            ExitCode::SUCCESS
        }
        Ok(problems) => {
            for problem in &problems {
                eprintln!("error: {problem}");
            }
            eprintln!("\n{} found; the law is in xtask/src/dag.rs and xtask/src/safety.rs", problems.len());
            ExitCode::FAILURE
        }
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
