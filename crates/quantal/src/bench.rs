//! `quantal bench`: how long one inference takes, models in turns; where its time goes; and how fast kernels are.

pub mod kernels;
mod layers;
mod peak;
mod problem;
pub mod profile;

pub use peak::PeakRow;
pub use problem::{Problem, ShapeError};

use crate::engine::Engine;
use crate::error::Error;
use crate::model::Model;
use quantal_data::InputSpec;
use quantal_runtime::{Mode, Session};
use quantal_tensor::{DType, Tensor};
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

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Size of every free batch dimension (the first).
    pub batch: usize,
    /// Size of every other free dimension.
    pub free: usize,
    /// Seconds for each model.
    pub seconds: f64,
}

/// A turn of one model before the next has its own: short enough that a drift of the machine hits all alike.
const TURN: Duration = Duration::from_millis(250);
const FEWEST_RUNS: usize = 3;

/// Times the models in turns until each has had its seconds.
pub fn bench(models: &[Model], engine: Engine, options: BenchOptions) -> Result<Vec<BenchRow>, Error> {
    let mut lanes = Vec::with_capacity(models.len());
    for model in models {
        let session = model.session(Mode::Integer, engine)?;
        let feeds = synthetic_feeds(&model.inputs()?, options.batch, options.free)?;
        lanes.push((session, feeds));
    }
    let mut lanes: Vec<Lane> = lanes.iter_mut().map(|(session, feeds)| Lane::new(session, feeds)).collect();
    take_turns(&mut lanes, options.seconds)?;
    let named = |(model, lane): (&Model, &Lane)| BenchRow { model: model.name.clone(), ..lane.row(options.batch) };
    Ok(models.iter().zip(&lanes).map(named).collect())
}

/// Times sessions on the same feeds, in turns; the rows have no names.
pub(crate) fn time_sessions<const N: usize>(
    sessions: [&mut Session; N],
    feeds: &[(String, Tensor)],
    seconds: f64,
) -> Result<[BenchRow; N], Error> {
    let batch = feeds.first().and_then(|(_, t)| t.shape().first().copied()).unwrap_or(1);
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

/// Inputs made up for timing: floats spread over −1 … 1, integers 0 and 1 (valid as ids and as masks). The first free
/// dimension of each input is the batch, every other one `free`.
pub fn synthetic_feeds(inputs: &[InputSpec], batch: usize, free: usize) -> Result<Vec<(String, Tensor)>, Error> {
    let tensor = |spec: &InputSpec| {
        let size = |(i, d): (usize, &Option<usize>)| d.unwrap_or(if i == 0 { batch } else { free });
        let shape: Vec<usize> = spec.shape.iter().enumerate().map(size).collect();
        let mut t = Tensor::zeros(spec.dtype, &shape).map_err(|e| Error::job(e.to_string(), ""))?;
        let refused = |e: quantal_tensor::TensorError| Error::job(e.to_string(), "");
        // A fixed linear congruence: the same bytes on every machine.
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        match spec.dtype {
            DType::F32 => t.as_mut_slice::<f32>().map_err(refused)?.fill_with(|| next() as f32 / 8_388_608.0 - 1.0),
            DType::I64 => t.as_mut_slice::<i64>().map_err(refused)?.fill(1),
            DType::I32 => t.as_mut_slice::<i32>().map_err(refused)?.fill(1),
            DType::U8 => t.as_mut_slice::<u8>().map_err(refused)?.fill_with(|| next() as u8),
            _ => {}
        }
        Ok((spec.name.clone(), t))
    };
    inputs.iter().map(tensor).collect()
}
