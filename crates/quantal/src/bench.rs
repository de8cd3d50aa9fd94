//! `quantal bench`: how long one inference takes, models in turns; where its time goes; and how fast kernels are.

mod feeds;
pub mod kernels;
mod layers;
mod peak;
mod problem;
pub mod profile;

pub use feeds::{Assumed, Fed, Sizes, synthetic_feeds};
pub use peak::PeakRow;
pub use problem::{Problem, ShapeError};

use crate::engine::Engine;
use crate::error::Error;
use crate::model::Model;
use quantal_runtime::{Mode, Session};
use quantal_tensor::Tensor;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Times of one model.
#[derive(Clone, Debug, Serialize)]
pub struct BenchRow {
    /// The model.
    pub model: String,
    /// Samples in one inference.
    pub batch: usize,
    /// Inferences timed.
    pub runs: usize,
    /// Sizes of inputs that were made up, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
    /// Wall-clock time of one inference, in milliseconds.
    pub wall_ms: Spread,
    /// CPU time of the whole process for one inference, in milliseconds.
    pub cpu_ms: Spread,
}

/// Smallest, median and spread of a list of times.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// The smallest: the fairest figure on a busy machine.
    pub min: f64,
    /// The median.
    pub median: f64,
    /// The 90th percentile.
    pub p90: f64,
}

/// A turn of one model before the next has its own: short enough that a drift of the machine hits all alike.
const TURN: Duration = Duration::from_millis(250);
const FEWEST_RUNS: usize = 3;

/// Times the models in turns until each has had its `seconds`, each on what it is fed.
///
/// # Errors
/// If a model does not compile or run.
pub fn bench(models: &[(Model, Fed)], engine: Engine, seconds: f64) -> Result<Vec<BenchRow>, Error> {
    let sessions = models.iter().map(|(model, _)| model.session(Mode::Integer, engine));
    let mut sessions = sessions.collect::<Result<Vec<_>, _>>()?;
    let lanes = sessions.iter_mut().zip(models).map(|(session, (_, fed))| Lane::new(session, &fed.feeds));
    let mut lanes: Vec<Lane<'_>> = lanes.collect();
    take_turns(&mut lanes, seconds)?;
    let named = |((model, fed), lane): (&(Model, Fed), &Lane<'_>)| BenchRow {
        model: model.name.clone(),
        assumed: fed.assumed.clone(),
        ..lane.row(batch_of(&fed.feeds))
    };
    Ok(models.iter().zip(&lanes).map(named).collect())
}

/// Samples in one inference: the first dimension of the first input.
fn batch_of(feeds: &[(String, Tensor)]) -> usize {
    feeds.first().and_then(|(_, t)| t.shape().first().copied()).unwrap_or(1)
}

/// Times sessions on the same feeds, in turns; the rows have no names.
pub(crate) fn time_sessions<const N: usize>(
    sessions: [&mut Session; N],
    feeds: &[(String, Tensor)],
    seconds: f64,
) -> Result<[BenchRow; N], Error> {
    let batch = batch_of(feeds);
    let mut lanes = sessions.map(|session| Lane::new(session, feeds));
    take_turns(&mut lanes, seconds)?;
    Ok(lanes.map(|lane| lane.row(batch)))
}

fn take_turns(lanes: &mut [Lane<'_>], seconds: f64) -> Result<(), Error> {
    for lane in lanes.iter_mut() {
        // The first runs size buffers and warm caches.
        lane.session.run(lane.feeds)?;
        lane.session.run(lane.feeds)?;
    }
    let budget = Duration::from_secs_f64(seconds.max(0.0));
    while lanes.iter().any(|l| l.times.len() < FEWEST_RUNS || l.spent < budget) {
        for lane in lanes.iter_mut() {
            lane.turn(TURN.min(budget))?;
        }
    }
    Ok(())
}

struct Lane<'a> {
    session: &'a mut Session,
    feeds: &'a [(String, Tensor)],
    /// Wall and CPU time of each run.
    times: Vec<(Duration, Duration)>,
    spent: Duration,
}

impl<'a> Lane<'a> {
    fn new(session: &'a mut Session, feeds: &'a [(String, Tensor)]) -> Self {
        Self { session, feeds, times: Vec::new(), spent: Duration::ZERO }
    }

    fn row(&self, batch: usize) -> BenchRow {
        BenchRow {
            model: String::new(),
            batch,
            runs: self.times.len(),
            assumed: Vec::new(),
            wall_ms: spread(self.times.iter().map(|t| t.0)),
            cpu_ms: spread(self.times.iter().map(|t| t.1)),
        }
    }

    fn turn(&mut self, length: Duration) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let (wall, cpu) = (Instant::now(), process_cpu_time());
            self.session.run(self.feeds)?;
            self.times.push((wall.elapsed(), process_cpu_time().saturating_sub(cpu)));
            if start.elapsed() >= length {
                break;
            }
        }
        self.spent += start.elapsed();
        Ok(())
    }
}

/// CPU time that this process has used, on all threads.
#[cfg(unix)]
fn process_cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

#[cfg(not(unix))]
fn process_cpu_time() -> Duration {
    Duration::ZERO
}

/// CPU time that this thread has used, where the system tells it.
#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems do not tell")]
fn thread_cpu_time() -> Option<Duration> {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Some(Duration::new(t.tv_sec as u64, t.tv_nsec as u32))
}

#[cfg(not(unix))]
fn thread_cpu_time() -> Option<Duration> {
    None
}

fn spread(times: impl Iterator<Item = Duration>) -> Spread {
    let mut ms: Vec<f64> = times.map(|t| t.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let at = |q: f64| ms.get(((ms.len().saturating_sub(1)) as f64 * q).round() as usize).copied().unwrap_or(0.0);
    Spread { min: at(0.0), median: at(0.5), p90: at(0.9) }
}
