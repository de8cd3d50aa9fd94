//! Runs a fuzz target on mutants of its seeds, for so many seconds or inputs: a plain runner for a stable toolchain.
//!
//! A panic, an input that takes too long and memory beyond its limit are failures: the input is kept, and its path is
//! printed. The input that is running lies in a file as well, for what ends the process itself.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a terminal tool: its output is what it is for")]

use quantal_fuzz::mutate::{Noise, mutate};
use quantal_fuzz::{TARGETS, Target, seeds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const USAGE: &str = "usage: quantal-fuzz TARGET [--seconds N | --count N] [--seed N] [--cases FOLDER] [FILE...]
       with files: runs the target on them instead of on mutants";

/// An input that takes longer than this hangs: budgets are meant for 10 s of an optimized build on a machine of its own.
const LONGEST: Duration = Duration::from_mins(1);
/// Memory that tensors may take, and that the process may.
const TENSOR_BYTES: usize = 256 << 20;
const PROCESS_KIB: u64 = 1 << 20;
/// As the command has it: deep graphs recurse in their subgraphs.
const STACK_BYTES: usize = 64 << 20;

/// Where the last panic was, and what it said.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

struct Args {
    target: &'static Target,
    seconds: u64,
    count: u64,
    seed: u64,
    cases: Option<PathBuf>,
    files: Vec<PathBuf>,
}

impl Args {
    fn parse() -> Option<Self> {
        let mut words = std::env::args().skip(1);
        let name = words.next()?;
        let target = TARGETS.iter().find(|t| t.name == name)?;
        let mut args = Self { target, seconds: 60, count: u64::MAX, seed: 1, cases: None, files: Vec::new() };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--seconds" => args.seconds = words.next()?.parse().ok()?,
                "--count" => (args.count, args.seconds) = (words.next()?.parse().ok()?, u64::MAX),
                "--seed" => args.seed = words.next()?.parse().ok()?,
                "--cases" => args.cases = Some(words.next()?.into()),
                _ if word.starts_with('-') => return None,
                _ => args.files.push(word.into()),
            }
        }
        Some(args)
    }
}

fn main() -> ExitCode {
    let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    if std::env::args().skip(1).eq(["list"]) {
        println!("{}", names.join("\n"));
        return ExitCode::SUCCESS;
    }
    let Some(args) = Args::parse() else {
        eprintln!("{USAGE}\ntargets: {}", names.join(", "));
        return ExitCode::from(2);
    };
    quantal_fuzz::targets::limit_memory(TENSOR_BYTES);
    std::panic::set_hook(Box::new(|info| {
        // Caught where the library is called; one that is not ends the target all the same.
        if info.location().is_some_and(|at| at.file().contains("/tokenizers-")) {
            return;
        }
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.to_string());
    }));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = root.join("../target/fuzz");
    if let Err(e) = std::fs::create_dir_all(&kept) {
        eprintln!("error: cannot make {}: {e}", kept.display());
        return ExitCode::FAILURE;
    }
    let begun = Arc::new(AtomicU64::new(0));
    let (worker_begun, (sender, done)) = (Arc::clone(&begun), std::sync::mpsc::channel());
    let target = args.target;
    let current = kept.join(format!("{}.current", target.name));
    let worker_current = current.clone();
    let job = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        // Nobody hears it if the watching thread has given up.
        let _ = sender.send(work(&args, &root.join("seeds"), &worker_current, &worker_begun));
    });
    if let Err(e) = job {
        eprintln!("error: cannot start a thread: {e}");
        return ExitCode::FAILURE;
    }
    let mut last = (0, Instant::now());
    loop {
        match done.recv_timeout(Duration::from_millis(200)) {
            Ok(Ok(report)) => {
                println!("fuzz {}: {report}", target.name);
                let _ = std::fs::remove_file(&current);
                return ExitCode::SUCCESS;
            }
            Ok(Err(problem)) => return failed(target, &problem, &current),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                return failed(target, "the runner itself stopped", &current);
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
        }
        let number = begun.load(Ordering::Relaxed);
        if number != last.0 {
            last = (number, Instant::now());
        } else if last.1.elapsed() > LONGEST {
            return failed(target, &format!("no end after {} s", LONGEST.as_secs()), &current);
        }
    }
}

/// Keeps the input that was running and says how to run it again.
fn failed(target: &Target, problem: &str, current: &Path) -> ExitCode {
    let bytes = std::fs::read(current).unwrap_or_default();
    let name = format!("{}-{:016x}", target.name, fnv(&bytes));
    let path = current.with_file_name(name);
    let kept = if std::fs::rename(current, &path).is_ok() { &path } else { current };
    eprintln!("fuzz {}: FAILED: {problem}\n  again: cargo xtask fuzz {} {}", target.name, target.name, kept.display());
    ExitCode::FAILURE
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Runs inputs until enough are done. The report, or what went wrong with the input in `current`.
fn work(args: &Args, folder: &Path, current: &Path, begun: &AtomicU64) -> Result<String, String> {
    let start = Instant::now();
    let run = |bytes: &[u8]| {
        begun.fetch_add(1, Ordering::Relaxed);
        std::fs::write(current, bytes).map_err(|e| format!("cannot write {}: {e}", current.display()))?;
        let ended = catch_unwind(AssertUnwindSafe(|| (args.target.run)(bytes)));
        let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
        if ended.is_err() || panic.is_some() {
            return Err(panic.unwrap_or_else(|| "it panicked".to_owned()));
        }
        match peak_kib() {
            peak if peak > PROCESS_KIB => Err(format!("the process took {} MiB", peak >> 10)),
            _ => Ok(()),
        }
    };
    if !args.files.is_empty() {
        for file in &args.files {
            let bytes = std::fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
            run(&bytes)?;
        }
        return Ok(format!("{} files", args.files.len()));
    }
    let all = seeds::of(args.target, folder, args.cases.as_deref());
    if all.is_empty() {
        return Err("no seeds".to_owned());
    }
    // Good files first, unless there are thousands: those of the cases have their own checks.
    for seed in all.iter().take(200) {
        run(seed)?;
    }
    let mut noise = Noise(args.seed);
    let mut count = 0;
    while count < args.count && start.elapsed().as_secs() < args.seconds {
        let (seed, other) = (noise.pick(&all).clone(), noise.pick(&all).clone());
        run(&mutate(args.target.form, &seed, &other, &mut noise))?;
        count += 1;
    }
    let (seeds, seconds) = (all.len(), start.elapsed().as_secs());
    Ok(format!("{count} mutants of {seeds} seeds in {seconds} s, seed {}, peak {} MiB", args.seed, peak_kib() >> 10))
}

/// The most memory that the process held so far; 0 where the system does not say.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}
