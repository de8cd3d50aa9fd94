//! `quantal bench --profile`: where the time of one inference goes, step by step; and as a trace.

use super::peak::{PeakRow, Peaks};
use super::{Fed, Spread, batch_of, spread};
use crate::engine::Engine;
use crate::error::Error;
use crate::model::Model;
use quantal_kernels::Threads;
use quantal_runtime::{Mode, Program, Status, StepTime};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Where the time of one model goes.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// The model.
    pub model: String,
    /// Samples in one inference.
    pub batch: usize,
    /// Sizes of inputs that were made up, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
    /// Inferences profiled.
    pub runs: usize,
    /// Wall-clock time of one inference that is not profiled, in turns with those that are, in milliseconds.
    pub wall_ms: Spread,
    /// The median times of all steps together, in milliseconds.
    pub steps_ms: f64,
    /// Peaks of the instructions that multiply and add, all threads together.
    pub peaks: Vec<PeakRow>,
    /// The steps, in the order in which they run.
    pub steps: Vec<StepRow>,
    /// The same by kind of step, longest first.
    pub kinds: Vec<KindRow>,
    /// The run whose time is the median: what [`trace`] shows.
    #[serde(skip)]
    run: Vec<StepTime>,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct StepRow {
    /// The node that it stands for.
    pub node: String,
    /// The node's operator.
    pub op: String,
    /// The kind of step.
    pub step: &'static str,
    /// The row of the kernel table; the kind of step where there is none.
    pub kernel: &'static str,
    /// The problem, as [`quantal_runtime::Work`] writes it.
    pub shape: String,
    /// The median, in microseconds.
    pub time_us: f64,
    /// The least, in microseconds: where other work interrupts most runs, the truer figure.
    pub least_us: f64,
    /// The part of all steps' time.
    pub share: f64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Operations a nanosecond of the median, two for each multiply-accumulate; `None` where there are none.
    pub gops: Option<f64>,
    /// The part of the instruction's measured peak.
    pub peak_share: Option<f64>,
    /// Bytes of inputs, outputs and weights.
    pub bytes: u64,
    /// Bytes a nanosecond.
    pub gbytes_per_s: f64,
    /// Why the node runs in float, if it does.
    pub float: Option<String>,
}

/// All steps of a kind.
#[derive(Clone, Debug, Serialize)]
pub struct KindRow {
    /// The kind.
    pub step: &'static str,
    /// How many there are.
    pub count: usize,
    /// Their median times together, in microseconds.
    pub time_us: f64,
    /// The part of all steps' time.
    pub share: f64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Operations a nanosecond; `None` where there are none.
    pub gops: Option<f64>,
    /// Bytes of inputs, outputs and weights.
    pub bytes: u64,
}

const FEWEST_RUNS: usize = 3;

/// Profiles a model for `seconds` on what it is fed.
///
/// # Errors
/// If the model does not compile or run.
pub fn profile(model: &Model, fed: &Fed, engine: Engine, seconds: f64) -> Result<Profile, Error> {
    let mut session = model.session(Mode::Integer, engine)?;
    let feeds = &fed.feeds;
    for _ in 0..2 {
        session.run(feeds)?;
    }
    let budget = Duration::from_secs_f64(seconds.max(0.0));
    let (start, mut plain, mut runs) = (Instant::now(), Vec::new(), Vec::new());
    while runs.len() < FEWEST_RUNS || start.elapsed() < budget {
        let once = Instant::now();
        session.run(feeds)?;
        plain.push(once.elapsed());
        runs.push(session.run_profiled(feeds)?.1);
    }
    let threads = Threads::new(engine.threads);
    let mut peaks = Peaks::new(engine.isa, &threads);
    let mut steps = rows(session.program(), &runs, &mut peaks);
    let all: f64 = steps.iter().map(|s| s.time_us).sum();
    for step in &mut steps {
        step.share = step.time_us / all;
    }
    Ok(Profile {
        model: model.name.clone(),
        batch: batch_of(feeds),
        assumed: fed.assumed.clone(),
        runs: runs.len(),
        wall_ms: spread(plain.into_iter()),
        steps_ms: all / 1e3,
        peaks: peaks.rows(),
        kinds: kinds(&steps, all),
        steps,
        run: median_run(runs),
    })
}

fn rows(program: &Program, runs: &[Vec<StepTime>], peaks: &mut Peaks<'_>) -> Vec<StepRow> {
    let Some(first) = runs.first() else { return Vec::new() };
    let row = |(i, s): (usize, &StepTime)| {
        let mut times: Vec<u64> = runs.iter().filter_map(|run| Some(run.get(i)?.nanoseconds)).collect();
        times.sort_unstable();
        // A step that only hands on a tensor can be shorter than the clock's step.
        let nanoseconds = times[times.len() / 2].max(1) as f64;
        let gops = (s.work.macs > 0).then(|| 2.0 * s.work.macs as f64 / nanoseconds);
        let peak = s.work.unit.and_then(|unit| peaks.of(unit));
        let float = match program.coverage.row(s.node).map(|row| &row.status) {
            Some(Status::Float { reason }) => Some(reason.to_string()),
            Some(
                Status::Integer { .. } | Status::Fused { .. } | Status::Folded | Status::Moves | Status::Refused { .. },
            )
            | None => None,
        };
        StepRow {
            node: s.name.to_string(),
            op: s.op.to_string(),
            step: s.step,
            kernel: s.work.kernel,
            shape: s.work.shape.clone(),
            time_us: nanoseconds / 1e3,
            least_us: times[0] as f64 / 1e3,
            share: 0.0,
            macs: s.work.macs,
            gops,
            peak_share: gops.zip(peak).map(|(gops, peak)| gops / peak),
            bytes: s.work.bytes,
            gbytes_per_s: s.work.bytes as f64 / nanoseconds,
            float,
        }
    };
    first.iter().enumerate().map(row).collect()
}

fn kinds(steps: &[StepRow], all: f64) -> Vec<KindRow> {
    let mut kinds: BTreeMap<&'static str, KindRow> = BTreeMap::new();
    for s in steps {
        let none = KindRow { step: s.step, count: 0, time_us: 0.0, share: 0.0, macs: 0, gops: None, bytes: 0 };
        let kind = kinds.entry(s.step).or_insert(none);
        kind.count += 1;
        kind.time_us += s.time_us;
        kind.macs += s.macs;
        kind.bytes += s.bytes;
    }
    let mut kinds: Vec<KindRow> = kinds.into_values().collect();
    for kind in &mut kinds {
        kind.share = kind.time_us / all;
        kind.gops = (kind.macs > 0).then(|| 2.0 * kind.macs as f64 / (1e3 * kind.time_us));
    }
    kinds.sort_by(|a, b| b.time_us.total_cmp(&a.time_us));
    kinds
}

/// The run whose steps together take the median time.
fn median_run(mut runs: Vec<Vec<StepTime>>) -> Vec<StepTime> {
    runs.sort_by_key(|run| run.iter().map(|s| s.nanoseconds).sum::<u64>());
    let middle = runs.len() / 2;
    runs.into_iter().nth(middle).unwrap_or_default()
}

/// Steps on a time line, in the format of Chrome's trace viewer, which Perfetto reads as well.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// How the viewer prints times; those of events are in microseconds whatever this says.
    #[serde(rename = "displayTimeUnit")]
    unit: &'static str,
    #[serde(rename = "traceEvents")]
    events: Vec<Event>,
}

#[derive(Clone, Debug, Serialize)]
struct Event {
    name: String,
    cat: &'static str,
    /// `X`: a whole event; `M`: the name of a process.
    ph: &'static str,
    ts: f64,
    dur: f64,
    /// The model, counted from 1.
    pid: usize,
    tid: usize,
    args: BTreeMap<&'static str, String>,
}

/// One run of each model, as a process of its own, all from time 0 on.
pub fn trace(profiles: &[Profile]) -> Trace {
    let mut events = Vec::new();
    for (pid, profile) in (1..).zip(profiles) {
        let name = BTreeMap::from([("name", profile.model.clone())]);
        let process = "process_name".to_owned();
        events.push(Event { name: process, cat: "model", ph: "M", ts: 0.0, dur: 0.0, pid, tid: 1, args: name });
        for (s, row) in profile.run.iter().zip(&profile.steps) {
            let mut args = BTreeMap::from([("op", row.op.clone()), ("kernel", row.kernel.to_owned())]);
            args.insert("shape", row.shape.clone());
            args.insert("bytes", row.bytes.to_string());
            if row.macs > 0 {
                args.insert("macs", row.macs.to_string());
            }
            if let Some(reason) = &row.float {
                args.insert("float", reason.clone());
            }
            events.push(Event {
                name: row.node.clone(),
                cat: row.step,
                ph: "X",
                ts: s.start_nanoseconds as f64 / 1e3,
                dur: s.nanoseconds as f64 / 1e3,
                pid,
                tid: 1,
                args,
            });
        }
    }
    Trace { unit: "ns", events }
}
