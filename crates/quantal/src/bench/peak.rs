//! The peak of an instruction on this machine, now: what a kernel's rate is a share of.

use quantal_kernels::gemm::Feed;
use quantal_kernels::{Isa, Threads, float};
use quantal_runtime::Unit;
use serde::Serialize;
use std::time::{Duration, Instant};

/// The measured peak of one instruction.
#[derive(Clone, Debug, Serialize)]
pub struct PeakRow {
    /// The instruction.
    pub instruction: &'static str,
    /// The instruction set that its kernels are for.
    pub level: &'static str,
    /// Operations a nanosecond, all threads together: two for each multiply-add.
    pub gops: f64,
}

/// Peaks, each measured when it is first asked for.
pub(super) struct Peaks<'t> {
    isa: Isa,
    threads: &'t Threads,
    rows: Vec<(PeakRow, bool)>,
}

/// Long enough that reading the clock and starting the threads cost nothing, short enough to fit between two
/// interruptions.
const SLICE: Duration = Duration::from_micros(500);
const SLICES: usize = 40;

impl<'t> Peaks<'t> {
    pub(super) fn new(isa: Isa, threads: &'t Threads) -> Self {
        Self { isa, threads, rows: Vec::new() }
    }

    /// Operations a nanosecond, all sums in registers; `None` where nothing measures it.
    pub(super) fn of(&mut self, unit: Unit) -> Option<f64> {
        let (instruction, level) = match unit {
            Unit::Codes(kernel) => (kernel.instruction, kernel.level.name()),
            Unit::F32 => ("f32 multiply-add", self.isa.level().name()),
        };
        let known = |(row, _): &&(PeakRow, bool)| row.instruction == instruction && row.level == level;
        if let Some((row, measured)) = self.rows.iter().find(known) {
            return measured.then_some(row.gops);
        }
        let isa = self.isa;
        let gops = match unit {
            Unit::Codes(kernel) => {
                let by = |feed| fastest(self.threads, &|rounds| kernel.peak_loop(isa, feed, rounds));
                Feed::ALL.into_iter().filter_map(by).reduce(f64::max)
            }
            Unit::F32 => fastest(self.threads, &|rounds| Some(float::fma_loop(isa, rounds))),
        };
        self.rows.push((PeakRow { instruction, level, gops: gops.unwrap_or(0.0) }, gops.is_some()));
        gops
    }

    /// Those that were measured.
    pub(super) fn rows(self) -> Vec<PeakRow> {
        self.rows.into_iter().filter_map(|(row, measured)| measured.then_some(row)).collect()
    }
}

/// The best rate of many slices: an interruption only ever makes one slower.
fn fastest(threads: &Threads, run: &(dyn Fn(u64) -> Option<u64> + Sync)) -> Option<f64> {
    let mut rounds = 1024;
    let start = Instant::now();
    let mut operations = run(rounds)?;
    let mut once = start.elapsed();
    while once < SLICE && rounds < 1 << 40 {
        rounds *= 2;
        let start = Instant::now();
        operations = run(rounds)?;
        once = start.elapsed();
    }
    let count = threads.count();
    let slice = |_| {
        let start = Instant::now();
        threads.parallel_for(count, &|_| _ = run(rounds));
        (count as u64 * operations) as f64 / start.elapsed().as_nanos().max(1) as f64
    };
    (0..SLICES).map(slice).reduce(f64::max)
}
