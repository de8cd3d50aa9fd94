//! The `quantal` command: reads the arguments, does the job, prints the result.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 the command line is wrong, or a
//! recipe or preprocessing that it names.

mod args;
mod jobs;
mod limits;
mod printer;

use args::Args;
use clap::Parser;
use clap::error::ErrorKind;
use std::any::Any;
use std::process::ExitCode;
use std::sync::Mutex;

/// Deep graphs recurse in their subgraphs: more room than a main thread has by default.
const STACK_BYTES: usize = 64 << 20;

const NO_VERB: &str = "error: no command given\n\nhint: `quantal quickstart` shows the whole story; `quantal --help` lists the commands\n";

/// Where an internal failure happened, noted by the panic hook.
static PANIC_AT: Mutex<String> = Mutex::new(String::new());

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) if e.use_stderr() => {
            // Without a verb clap shows the help alone; what is wrong comes first here as everywhere.
            let missing = e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            let text = if missing { NO_VERB.to_owned() } else { e.render().to_string() };
            printer::usage(&text);
            return ExitCode::from(2);
        }
        // Help and version were asked for.
        Err(e) => return printer::out(&e.render().to_string()),
    };
    // A panic is a bug of ours, whatever the input; the user gets one clear message all the same.
    std::panic::set_hook(Box::new(|info| {
        // A scope says again what one of its threads has said.
        if info.payload().downcast_ref::<&str>() == Some(&"a scoped thread panicked") {
            return;
        }
        if let (Some(at), Ok(mut place)) = (info.location(), PANIC_AT.lock()) {
            *place = format!("{}:{}", at.file(), at.line());
        }
    }));
    let job = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || jobs::run(&args));
    match job.map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        Ok(Err(panic)) => internal_error(&*panic),
        Err(e) => printer::failure(&[format!("cannot start a thread: {e}")], None, false),
    }
}

fn internal_error(panic: &(dyn Any + Send)) -> ExitCode {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    let place = PANIC_AT.lock().map(|p| p.clone()).unwrap_or_default();
    let message = format!("internal error in {place}: {}", text.escape_debug());
    printer::failure(
        &[message],
        Some("this is a bug in quantal: please report it with the command and the model"),
        false,
    )
}
