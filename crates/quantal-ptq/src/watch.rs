//! Running a graph over samples and looking at its values: what all that learns from data has in common.

use crate::error::{Error, Result};
use crate::observer::NotFinite;
use crate::progress::Progress;
use quantal_data::Sample;
use quantal_ir::{Graph, ValueId};
use quantal_kernels::Isa;
use quantal_runtime::session::Watched;
use quantal_runtime::{Mode, Session, compile_observed};

/// Samples that can be read again and again, always the same in the same order.
pub type Samples<'a> = dyn Fn() -> Box<dyn Iterator<Item = Result<Sample, quantal_data::Error>> + 'a> + 'a;

/// What it takes to run a graph over samples.
pub struct Runs<'a> {
    /// The samples. Read once for each pass, one by one, so that memory does not depend on their number.
    pub samples: &'a Samples<'a>,
    /// The instruction set.
    pub isa: Isa,
    /// Threads, the calling one included.
    pub threads: usize,
    /// Hears how far each pass is.
    pub progress: &'a mut dyn Progress,
}

/// Sees one value of one sample. The outer error ends the pass as it is; the inner one names the value and the sample.
pub type Look<'a> = dyn FnMut(&Watched<'_>) -> Result<Result<(), NotFinite>, quantal_runtime::Error> + 'a;

impl Runs<'_> {
    /// Number of samples, where it is known before they are read.
    pub fn count(&self) -> Option<usize> {
        (self.samples)().size_hint().1
    }

    /// One pass: runs `graph` over the samples as it is written, and calls `look` with each value of `taps`. Gives the
    /// number of samples. Where nothing is to be watched, no sample is read.
    pub fn watch(&mut self, stage: &str, graph: &Graph, taps: &[ValueId], look: &mut Look<'_>) -> Result<usize> {
        let mut taps = taps.to_vec();
        taps.sort_unstable();
        taps.dedup();
        if taps.is_empty() {
            return Ok(0);
        }
        let program =
            compile_observed(graph, Mode::Simulate, self.isa, &taps).map_err(|e| Error::Compile(Box::new(e)))?;
        let mut session = Session::new(program, self.threads);
        let samples = (self.samples)();
        self.progress.begin(stage, samples.size_hint().1);
        let mut count = 0;
        for sample in samples {
            let sample = sample?;
            let mut not_finite = None;
            let mut first = |seen: &Watched<'_>| {
                if look(seen)?.is_err() {
                    not_finite.get_or_insert(seen.value);
                }
                Ok(())
            };
            let ran = session.run_watched(&sample.feeds, &taps, &mut first);
            let name = || sample.name.escape_debug().to_string();
            if let Some(v) = not_finite {
                let tensor = graph.value(v).name.escape_debug().to_string();
                return Err(Error::ActivationsNotFinite { tensor, sample: name() });
            }
            ran.map_err(|cause| Error::Run { sample: name(), cause: Box::new(cause) })?;
            count += 1;
            self.progress.step();
        }
        self.progress.done();
        if count == 0 { Err(Error::NoSamples) } else { Ok(count) }
    }
}

#[cfg(test)]
pub(crate) mod tests;
