//! `quantal bench`: times of models, profiles, and kernels; and how people read them.

use super::{engine, json, paths};
use crate::args::{BenchArgs, BenchWhat, KernelsArgs};
use crate::{limits, printer};
use quantal::bench::kernels::{self, KernelBench, ProblemRow, SLOWEST_PICK};
use quantal::bench::profile::{Profile, StepRow, profile, trace};
use quantal::bench::{Assumed, BenchRow, Fed, PeakRow, Sizes, synthetic_feeds};
use quantal::data::{DataSpec, Dataset, Preprocess, feeds_from_arrays, npz, shown};
use quantal::{Engine, Error, Model};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Size of every free dimension that is not the batch.
const FREE: usize = 128;

/// What was measured, and where.
#[derive(Serialize)]
struct Measured<T> {
    cpu: String,
    isa: String,
    threads: usize,
    #[serde(flatten)]
    results: T,
}

#[derive(Serialize)]
struct Times {
    results: Vec<BenchRow>,
}

#[derive(Serialize)]
struct Profiles {
    profiles: Vec<Profile>,
}

impl<T> Measured<T> {
    fn new(engine: Engine, results: T) -> Self {
        Self { cpu: limits::cpu_name(), isa: engine.isa.to_string(), threads: engine.threads, results }
    }

    /// The first line of each text.
    fn machine(&self) -> String {
        let s = if self.threads == 1 { "" } else { "s" };
        format!("{}, {}, {} thread{s}\n", self.cpu, self.isa, self.threads)
    }
}

pub(super) fn bench(a: &BenchArgs, as_json: bool) -> Result<String, Error> {
    if let Some(BenchWhat::Kernels(a)) = &a.what {
        return bench_kernels(a, as_json);
    }
    let engine = engine(&a.threads)?;
    let inputs: Vec<&Path> = a.models.iter().map(PathBuf::as_path).collect();
    paths::check_outputs(&inputs, &[a.trace.as_deref()])?;
    let models = a.models.iter().map(|p| Model::open(p)).collect::<Result<Vec<_>, _>>()?;
    let fed = feeds(a, &models)?;
    let models: Vec<(Model, Fed)> = models.into_iter().zip(fed).collect();
    if !a.profile && a.trace.is_none() {
        let report = Measured::new(engine, Times { results: quantal::bench::bench(&models, engine, a.seconds)? });
        return Ok(if as_json { json(&report) } else { times(&report) });
    }
    let profiles = models.iter().map(|(m, fed)| profile(m, fed, engine, a.seconds)).collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = &a.trace {
        quantal::save_text(path, &json(&trace(&profiles)))?;
    }
    let report = Measured::new(engine, Profiles { profiles });
    Ok(if as_json { json(&report) } else { profile_text(&report) })
}

/// What each model is fed: what was given, or what is made up.
fn feeds(a: &BenchArgs, models: &[Model]) -> Result<Vec<Fed>, Error> {
    let sizes = Sizes::new(a.sizes.iter().cloned());
    sizes.check(models)?;
    let preprocess = a.preprocess.as_deref().map(Preprocess::from_argument).transpose()?;
    let assumed = Assumed { batch: a.batch as usize, free: FREE };
    let of = |(model, path): (&Model, &PathBuf)| {
        let Some(data) = &a.data else { return synthetic_feeds(model, &sizes, assumed) };
        let feeds = if data.is_file() && data.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz")) {
            feeds_from_arrays(&shown(data), &npz::read_npz(data)?, &model.inputs()?)?
        } else {
            let beside = path.with_file_name("tokenizer.json");
            let tokenizer = beside.is_file().then_some(beside);
            let spec =
                DataSpec { path: data.clone(), preprocess: preprocess.clone(), tokenizer, ..DataSpec::default() };
            Dataset::open(&spec, &model.inputs()?)?.sample(0)?.feeds
        };
        Ok(Fed { feeds, assumed: Vec::new() })
    };
    models.iter().zip(&a.models).map(of).collect()
}

/// The sizes that were made up, a line where there are any.
fn assumed(model: &str, sizes: &[String]) -> String {
    if sizes.is_empty() {
        return String::new();
    }
    format!("{model}: free sizes taken as {} (--size NAME=N or --data gives others)\n", sizes.join(", "))
}

fn bench_kernels(a: &KernelsArgs, as_json: bool) -> Result<String, Error> {
    let engine = Engine::detect(usize::from(a.threads))?;
    let problems = match (a.shapes.as_slice(), a.check) {
        ([], true) => kernels::layers(),
        ([], false) => kernels::typical(),
        (shapes, _) => shapes.iter().map(|p| (*p, None)).collect(),
    };
    let report = Measured::new(engine, kernels::kernels(&problems, engine)?);
    let text = match (as_json, a.check) {
        (true, _) => json(&report),
        (false, true) => check_text(&report),
        (false, false) => kernels_text(&report),
    };
    let all = &report.results.problems;
    let slow = all.iter().filter(|p| p.pick_over_best > SLOWEST_PICK).count();
    if !a.check || slow == 0 {
        return Ok(text);
    }
    let most = 100.0 * (SLOWEST_PICK - 1.0);
    let message = format!("the pick is more than {most:.0} % slower than the best at {slow} of {} shapes", all.len());
    let hint = "`quantal bench kernels SHAPE` lists all kernels at a shape; run the check again on a quiet machine";
    // The table says where; a reader who left has seen enough of it.
    let _ = printer::out(&text);
    Err(Error::job(message, hint))
}

fn times(b: &Measured<Times>) -> String {
    let mut text = b.machine();
    let results = &b.results.results;
    text.extend(results.iter().map(|r| assumed(&r.model, &r.assumed)));
    let width = results.iter().map(|r| r.model.chars().count()).max().unwrap_or(0).max(5);
    let _ = writeln!(text, "{:width$}  wall ms: min  median     p90   cpu ms: min   runs", "model");
    for r in results {
        let (w, c) = (r.wall_ms, r.cpu_ms);
        let row = (w.min, w.median, w.p90, c.min, r.runs);
        let _ =
            writeln!(text, "{:width$}  {:12.3} {:7.3} {:7.3} {:13.3} {:6}", r.model, row.0, row.1, row.2, row.3, row.4);
    }
    if let [first, rest @ ..] = results.as_slice() {
        for r in rest {
            let ratio = first.wall_ms.median / r.wall_ms.median;
            let _ = writeln!(text, "{} is {ratio:.2} times as fast as {} (median wall time)", r.model, first.model);
        }
    }
    text
}

fn peaks_text(peaks: &[PeakRow]) -> String {
    let list: Vec<String> = peaks.iter().map(|p| format!("{} {:.0} ({})", p.instruction, p.gops, p.level)).collect();
    if list.is_empty() { String::new() } else { format!("measured peaks, GOP/s: {}\n", list.join(", ")) }
}

fn profile_text(b: &Measured<Profiles>) -> String {
    let mut t = b.machine();
    for p in &b.results.profiles {
        let _ = writeln!(
            t,
            "\n{}: a run takes {:.3} ms (least {:.3}), its steps {:.3} ms; medians of {} runs, batch {}",
            p.model, p.wall_ms.median, p.wall_ms.min, p.steps_ms, p.runs, p.batch
        );
        t += &assumed(&p.model, &p.assumed);
        t += &peaks_text(&p.peaks);
        let column = |of: fn(&StepRow) -> usize| p.steps.iter().map(of).max().unwrap_or(0);
        let kernel = column(|s| s.kernel.len()).max(6);
        let shape = column(|s| s.shape.len()).max(5);
        let _ = writeln!(
            t,
            "       µs     least  share   GOP/s  peak        MB    GB/s  {:kernel$}  {:shape$}  node",
            "kernel", "shape"
        );
        for s in &p.steps {
            let _ = write!(
                t,
                "{:9.1} {:9.1} {:5.1} % {:>7} {:>5} {:9.3} {:7.1}  {:kernel$}  {:shape$}  {} {}",
                s.time_us,
                s.least_us,
                100.0 * s.share,
                or_dash(s.gops.map(|g| format!("{g:.1}"))),
                or_dash(s.peak_share.map(|p| format!("{:.0} %", 100.0 * p))),
                s.bytes as f64 / 1e6,
                s.gbytes_per_s,
                s.kernel,
                s.shape,
                s.op.escape_debug(),
                s.node.escape_debug(),
            );
            if let Some(reason) = &s.float {
                let _ = write!(t, "  float: {reason}");
            }
            t.push('\n');
        }
        t += "by kind of step\n       µs  share   GOP/s  steps        MB\n";
        for k in &p.kinds {
            let gops = or_dash(k.gops.map(|g| format!("{g:.1}")));
            let (share, mb) = (100.0 * k.share, k.bytes as f64 / 1e6);
            let _ = writeln!(t, "{:9.1} {share:5.1} % {gops:>7} {:6} {mb:9.3}  {}", k.time_us, k.count, k.step);
        }
        let (float, time) =
            p.steps.iter().filter(|s| s.float.is_some()).fold((0, 0.0), |(n, t), s| (n + 1, t + s.share));
        let _ = writeln!(t, "{float} steps in float take {:.1} % of the time", 100.0 * time);
    }
    t
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn kernels_text(b: &Measured<KernelBench>) -> String {
    let mut t = b.machine();
    t += &peaks_text(&b.results.peaks);
    let names = b.results.problems.iter().flat_map(|p| &p.rows).map(|r| r.kernel.len());
    let width = names.max().unwrap_or(0).max(6);
    for p in &b.results.problems {
        let _ = writeln!(t, "\n{}   {} MACs", p.shape, super::text::count(p.macs));
        let _ = writeln!(t, "  {:width$}  {:10}  GOP/s   peak         µs", "kernel", "level");
        for r in &p.rows {
            let peak = or_dash(r.peak_share.map(|s| format!("{:.0} %", 100.0 * s)));
            let pick = match (r.pick, r.pick_for_small) {
                (true, _) => "  <--",
                (false, true) => "  <-- where neighbouring weights are small",
                (false, false) => "",
            };
            let (gops, us) = (r.gops, r.time_us);
            let _ = writeln!(t, "  {:width$}  {:10} {gops:6.1} {peak:>6} {us:10.2}{pick}", r.kernel, r.level);
        }
    }
    t
}

fn check_text(b: &Measured<KernelBench>) -> String {
    let mut t = b.machine();
    t += &peaks_text(&b.results.peaks);
    let problems = &b.results.problems;
    let shape = problems.iter().map(|p| p.shape.len()).max().unwrap_or(0).max(5);
    let _ = writeln!(t, "{:shape$}   GOP/s   peak  over best  pick", "shape");
    let mut network = None;
    for p in problems {
        if p.network.is_some() && p.network != network {
            network = p.network;
            let _ = writeln!(t, "{}", network.unwrap_or_default());
        }
        t += &check_line(p, shape);
    }
    let worst = problems.iter().map(|p| p.pick_over_best).fold(1.0, f64::max);
    let _ = writeln!(t, "{} shapes; the slowest pick takes {worst:.2} times as long as the best", problems.len());
    t
}

fn check_line(p: &ProblemRow, shape: usize) -> String {
    let Some(pick) = p.rows.iter().find(|r| r.pick) else { return String::new() };
    let peak = or_dash(pick.peak_share.map(|s| format!("{:.0} %", 100.0 * s)));
    let slow = match p.rows.first() {
        Some(best) if p.pick_over_best > SLOWEST_PICK => format!("  slower than {} ({})", best.kernel, best.level),
        _ => String::new(),
    };
    format!("{:shape$} {:7.1} {peak:>6} {:10.2}  {}{slow}\n", p.shape, pick.gops, p.pick_over_best, pick.kernel)
}
