//! The only place that prints.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// Longest message that goes to a person whole; names from a file can be long.
const MAX_MESSAGE: usize = 1_500;

/// Writes a result to stdout. A closed pipe is the reader's choice, not a failure.
pub(crate) fn out(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => failure(&[format!("cannot write the result: {e}")], None, false),
    }
}

/// Whether people watch: progress is drawn for them alone.
pub(crate) fn watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Prints a failure, its causes and what to do, and gives exit code 1; 2 if the command meant nothing.
pub(crate) fn failure(causes: &[String], hint: Option<&str>, usage: bool) -> ExitCode {
    let mut text = String::new();
    for (i, cause) in causes.iter().enumerate() {
        text += if i == 0 { "error: " } else { "  caused by: " };
        text.extend(cause.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE));
        text.push('\n');
    }
    if let Some(hint) = hint {
        text.extend(["\nhint: ", hint, "\n"]);
    }
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(if usage { 2 } else { 1 })
}

/// Prints what is wrong with the command line.
pub(crate) fn usage(text: &str) {
    let plain: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let _ = std::io::stderr().lock().write_all(plain.as_bytes());
}
