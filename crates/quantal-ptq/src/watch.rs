//! Running a graph over samples and looking at its values: what all that learns from data has in common.
//!
//! Samples run beside each other, each in a session of its own, for there nobody waits at the end of each step. What is
//! kept of a value sees them in their order all the same: a sample that is ahead waits for its turn. So no sum depends on
//! which thread was faster.

use crate::constants;
use crate::error::{Error, Result};
use crate::observer::NotFinite;
use crate::progress::Progress;
use quantal_data::Sample;
use quantal_ir::{Graph, ValueId};
use quantal_kernels::Isa;
use quantal_runtime::session::Watched;
use quantal_runtime::{Mode, Program, Session, compile_observed};
use quantal_tensor::bytes::unused_bytes;
use quantal_tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

/// Samples that can be read again and again, always the same in the same order.
pub type Samples<'a> = dyn Fn() -> Stream<'a> + 'a;

/// One reading of them.
pub type Stream<'a> = Box<dyn Iterator<Item = Result<Sample, quantal_data::Error>> + Send + 'a>;

/// What it takes to run a graph over samples.
pub struct Runs<'a> {
    /// The samples. Read once for each pass, a few at a time, so that memory does not depend on their number.
    pub samples: &'a Samples<'a>,
    /// The instruction set.
    pub isa: Isa,
    /// Threads, all samples that run at a time together.
    pub threads: usize,
    /// Hears how far each pass is.
    pub progress: &'a mut dyn Progress,
}

/// What a look at a value says. The outer error ends the pass as it is. The inner one says that the value holds NaN or an
/// infinity, and that nothing of it was taken in: it is looked at again with zeros in their place, and the sample is to
/// blame if its outputs hold them too.
pub type Seen = Result<Result<(), NotFinite>, quantal_runtime::Error>;

/// A value that held NaN or an infinity in samples whose outputs are finite: padding that is masked later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The first of these samples.
    pub sample: String,
    /// Number of these samples.
    pub samples: usize,
    /// Whether an infinity was among what it held: codes cannot stand for it, where NaN in padding may become anything.
    pub infinite: bool,
}

/// What a pass saw.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// Number of samples.
    pub samples: usize,
    /// The watched values that were not finite everywhere.
    pub holes: BTreeMap<ValueId, Hole>,
}

impl Looked {
    /// Adds the values of one sample that were not finite, each with whether it held an infinity.
    fn add(&mut self, sample: &str, found: Vec<(ValueId, bool)>) {
        for (v, infinite) in found {
            let hole = Hole { sample: sample.to_owned(), samples: 0, infinite: false };
            let hole = self.holes.entry(v).or_insert(hole);
            hole.samples += 1;
            hole.infinite |= infinite;
        }
    }
}

/// Bytes that the values of all samples which run at a time may come to: where those of two need more, samples run one
/// after the other, on all threads.
const RUN_BYTES: usize = 256 << 20;

impl<'a> Runs<'a> {
    /// Number of samples, where it is known before they are read.
    pub fn count(&self) -> Option<usize> {
        (self.samples)().size_hint().1
    }

    /// One pass: runs `graph` over the samples as it is written, and calls `look` with what is `kept` of a value, the
    /// number of the sample and the value in it; for each value in the order of the samples. Where nothing is to be
    /// watched, no sample is read.
    pub fn watch<T: Send>(
        &mut self,
        stage: &str,
        graph: &Graph,
        kept: &mut BTreeMap<ValueId, T>,
        look: &(dyn Fn(&mut T, usize, &Watched<'_>) -> Seen + Sync),
    ) -> Result<Looked> {
        let Some(Pass { program, taps, samples }) = self.pass(stage, graph, kept.keys().copied().collect())? else {
            return Ok(Looked::default());
        };
        let turns: BTreeMap<ValueId, Turn<'_, T>> = kept.iter_mut().map(|(&v, kept)| (v, Turn::new(kept))).collect();
        let (samples, stopped) = (Mutex::new(samples.enumerate()), AtomicBool::new(false));
        let next = || if stopped.load(Ordering::Relaxed) { None } else { lock(&samples).next() };
        let run = |session: &mut Session, number: usize, sample: Result<Sample, quantal_data::Error>| {
            let _over = Over { turns: &turns, number, stopped: &stopped };
            let sample = sample?;
            let found = run(session, graph, &taps, &sample, &mut |seen| {
                turns[&seen.value].take(number, |kept| whole(seen, &mut |seen| look(kept, number, seen)))
            })?;
            Ok((sample.name, found))
        };
        // The largest sample so far tells how many may run at a time: the first runs alone.
        let mut session = Session::new(Arc::clone(&program), self.threads);
        let Some((_, first)) = next() else { return Err(Error::NoSamples) };
        let mut looked = Looked { samples: 1, holes: BTreeMap::new() };
        let (name, found) = run(&mut session, 0, first)?;
        looked.add(&name, found);
        self.progress.step();
        let unused = unused_bytes();
        let fit = |bytes| at_once(bytes, unused, self.threads);
        let largest = AtomicUsize::new(session.peak_bytes());
        let left = lock(&samples).size_hint().1.unwrap_or(usize::MAX);
        let at_once = fit(session.peak_bytes()).min(left.max(1));
        let sessions = if at_once == 1 {
            vec![session]
        } else {
            drop(session);
            let threads = |i| (self.threads + i) / at_once;
            (0..at_once).map(|i| Session::new(Arc::clone(&program), threads(i))).collect()
        };
        let mut failed = None::<(usize, Error)>;
        // In the order of samples, whoever was faster.
        let mut holes: BTreeMap<usize, (String, Vec<(ValueId, bool)>)> = BTreeMap::new();
        std::thread::scope(|scope| {
            let (sender, done) = mpsc::channel();
            for (i, mut session) in sessions.into_iter().enumerate() {
                let (sender, next, run, fit, largest) = (sender.clone(), &next, &run, &fit, &largest);
                scope.spawn(move || {
                    while i < fit(largest.load(Ordering::Relaxed))
                        && let Some((number, sample)) = next()
                    {
                        let result = run(&mut session, number, sample);
                        largest.fetch_max(session.peak_bytes(), Ordering::Relaxed);
                        // Nobody hears it if the calling thread has panicked.
                        if sender.send((number, result)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            for (number, result) in done {
                match result {
                    Ok(found) => {
                        looked.samples += 1;
                        if !found.1.is_empty() {
                            holes.insert(number, found);
                        }
                        self.progress.step();
                    }
                    // Of several the first in the order of samples: those before it have all begun.
                    Err(cause) => {
                        stopped.store(true, Ordering::Relaxed);
                        if failed.as_ref().is_none_or(|f| number < f.0) {
                            failed = Some((number, cause));
                        }
                    }
                }
            }
        });
        if let Some((_, cause)) = failed {
            return Err(cause);
        }
        for (name, found) in holes.into_values() {
            looked.add(&name, found);
        }
        self.progress.done();
        Ok(looked)
    }

    /// One pass for a `look` that is long or takes memory of its own: one sample after the other, each on all threads.
    /// Gives the number of samples.
    pub fn watch_in_turn(
        &mut self,
        stage: &str,
        graph: &Graph,
        taps: &[ValueId],
        look: &mut dyn FnMut(&Watched<'_>) -> Seen,
    ) -> Result<usize> {
        let Some(Pass { program, taps, samples }) = self.pass(stage, graph, taps.to_vec())? else { return Ok(0) };
        let mut session = Session::new(program, self.threads);
        let mut count = 0;
        for sample in samples {
            run(&mut session, graph, &taps, &sample?, &mut |seen| whole(seen, look))?;
            count += 1;
            self.progress.step();
        }
        self.progress.done();
        if count == 0 { Err(Error::NoSamples) } else { Ok(count) }
    }

    /// Begins a pass; `None` where nothing is to be watched.
    fn pass(&mut self, stage: &str, graph: &Graph, mut taps: Vec<ValueId>) -> Result<Option<Pass<'a>>> {
        taps.sort_unstable();
        taps.dedup();
        if taps.is_empty() {
            return Ok(None);
        }
        let program = compile_observed(graph, Mode::Simulate, self.isa, &taps);
        let program = Arc::new(program.map_err(|e| Error::Compile(Box::new(e)))?);
        let samples = (self.samples)();
        self.progress.begin(stage, samples.size_hint().1);
        Ok(Some(Pass { program, taps, samples }))
    }
}

/// A pass that begins.
struct Pass<'a> {
    program: Arc<Program>,
    taps: Vec<ValueId>,
    samples: Stream<'a>,
}

/// How many samples may run at a time, whose values take `bytes` each, where memory has `unused` left: at most one a
/// thread.
fn at_once(bytes: usize, unused: usize, threads: usize) -> usize {
    let most = RUN_BYTES.min(unused / Session::HELD_RATIO);
    (most / bytes.max(1)).clamp(1, threads.max(1))
}

/// Calls `look` on a value, and once more with zeros for NaN and infinities if it is not finite. `None` if it is
/// finite, else whether it holds an infinity.
fn whole(
    seen: &Watched<'_>,
    look: &mut dyn FnMut(&Watched<'_>) -> Seen,
) -> Result<Option<bool>, quantal_runtime::Error> {
    if look(seen)?.is_ok() {
        return Ok(None);
    }
    let values = seen.tensor.to_f32_vec().unwrap_or_default();
    let infinite = values.iter().any(|x| x.is_infinite());
    let finite: Vec<f32> = values.into_iter().map(|x| if x.is_finite() { x } else { 0.0 }).collect();
    let tensor = Tensor::from_slice(seen.tensor.shape(), &finite)?;
    // All values are finite now: what may still be refused is a sum that overflows.
    let _ = look(&Watched { tensor: &tensor, ..*seen })?;
    Ok(Some(infinite))
}

/// Runs one sample. Gives the values that were not finite though all outputs are, each with whether it held an infinity.
fn run(
    session: &mut Session,
    graph: &Graph,
    taps: &[ValueId],
    sample: &Sample,
    look: &mut dyn FnMut(&Watched<'_>) -> Result<Option<bool>, quantal_runtime::Error>,
) -> Result<Vec<(ValueId, bool)>> {
    let mut not_finite = Vec::new();
    let mut each = |seen: &Watched<'_>| {
        not_finite.extend(look(seen)?.map(|infinite| (seen.value, infinite)));
        Ok(())
    };
    let ran = session.run_watched(&sample.feeds, taps, &mut each);
    let name = || sample.name.escape_debug().to_string();
    let outputs = ran.map_err(|cause| Error::Run { sample: name(), cause: Box::new(cause) })?;
    let Some(&(first, _)) = not_finite.first() else { return Ok(not_finite) };
    if outputs.iter().all(|(_, t)| is_finite(t)) {
        return Ok(not_finite);
    }
    if let Some(constant) = constants::to_blame(graph, first) {
        return Err(constant);
    }
    let tensor = graph.value(first).name.escape_debug().to_string();
    Err(Error::ActivationsNotFinite { tensor, sample: name() })
}

fn is_finite(tensor: &Tensor) -> bool {
    match tensor.get::<f32>() {
        Some(values) => values.iter().all(|x| x.is_finite()),
        None if tensor.dtype().is_float() && tensor.dtype() != DType::F32 => {
            tensor.to_f32_vec().is_none_or(|values| values.iter().all(|x| x.is_finite()))
        }
        None => true,
    }
}

/// What is kept of one value, and the number of the sample whose turn it is to add to it.
struct Turn<'a, T> {
    kept: Mutex<(usize, &'a mut T)>,
    passed: Condvar,
}

impl<'a, T> Turn<'a, T> {
    fn new(kept: &'a mut T) -> Self {
        Self { kept: Mutex::new((0, kept)), passed: Condvar::new() }
    }

    /// Does the job of a sample when those before it have done theirs.
    fn take<R>(&self, number: usize, job: impl FnOnce(&mut T) -> R) -> R {
        let mut held = lock(&self.kept);
        while held.0 < number {
            held = self.passed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        let result = job(held.1);
        // Later samples may have had theirs since this one had its own.
        held.0 = held.0.max(number + 1);
        self.passed.notify_all();
        result
    }
}

/// Passes the turns that a sample has not taken, also when it fails: others wait for them.
struct Over<'a, 'k, T> {
    turns: &'a BTreeMap<ValueId, Turn<'k, T>>,
    number: usize,
    stopped: &'a AtomicBool,
}

impl<T> Drop for Over<'_, '_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stopped.store(true, Ordering::Relaxed);
        }
        for turn in self.turns.values() {
            turn.take(self.number, |_| ());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
