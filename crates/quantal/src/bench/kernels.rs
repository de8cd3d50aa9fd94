//! `quantal bench kernels`: every kernel of the table at a shape, and whether dispatch picks the fastest.
//!
//! Codes and weights are made up, and every run reads the same ones: what is measured is the kernel with its operands
//! as near as the caches hold them. On one thread times are CPU times, so that other work on the machine counts little.

use super::layers::{NETWORKS, TYPICAL};
use super::peak::{PeakRow, Peaks};
use super::{Problem, thread_cpu_time};
use crate::engine::Engine;
use crate::error::Error;
use quantal_kernels::conv::winograd::WINOGRAD_KERNELS;
use quantal_kernels::conv::{ConvCall, PackedConv, conv};
use quantal_kernels::dwconv::{DwConvCall, PackedDwConv, dwconv};
use quantal_kernels::gemm::{Epilogue, GemmCall, gemm};
use quantal_kernels::kernel::{GemmKernel, KERNELS, Steps, select};
use quantal_kernels::pack::{BView, PackedB};
use quantal_kernels::{Isa, KernelError, Threads};
use quantal_runtime::Unit;
use serde::Serialize;
use std::time::{Duration, Instant};

/// One kernel at one problem.
#[derive(Clone, Debug, Serialize)]
pub struct KernelRow {
    /// Its name.
    pub kernel: &'static str,
    /// The instruction set that it is for.
    pub level: &'static str,
    /// The least time of one run, in microseconds.
    pub time_us: f64,
    /// Operations a nanosecond, two for each multiply-accumulate of the problem as it is defined.
    pub gops: f64,
    /// The same, of its instruction alone, all sums in registers; `None` where nothing measures it.
    pub peak_gops: Option<f64>,
    /// The part of the peak that it reaches. A kernel that needs fewer multiplications than the definition may pass 1.
    pub peak_share: Option<f64>,
    /// Whether it takes as many steps whatever the weights are, or fewest where neighbours are small.
    pub even_steps: bool,
    /// Whether dispatch picks it for any weights.
    pub pick: bool,
    /// Whether dispatch picks it for weights whose neighbours are small.
    pub pick_for_small: bool,
}

/// All kernels at one problem, fastest first.
#[derive(Clone, Debug, Serialize)]
pub struct ProblemRow {
    /// The problem.
    pub shape: String,
    /// The network that has such a layer, if the problem comes from the list.
    pub network: Option<&'static str>,
    /// Its multiply-accumulates.
    pub macs: u64,
    /// The kernels.
    pub rows: Vec<KernelRow>,
    /// Time of the pick over that of the fastest, the worse of the two kinds of weights: 1 where it is the fastest.
    pub pick_over_best: f64,
}

/// Every kernel at every problem.
#[derive(Clone, Debug, Serialize)]
pub struct KernelBench {
    /// Peaks of all threads together.
    pub peaks: Vec<PeakRow>,
    /// The problems, in order.
    pub problems: Vec<ProblemRow>,
}

/// A pick this much slower than the best is a wrong one.
pub const SLOWEST_PICK: f64 = 1.10;

/// One kernel's turn before the next has its own.
const TURN: Duration = Duration::from_micros(1_500);
const ROUNDS: usize = 12;
/// Who takes so many times as long as the best after the first rounds is not asked again.
const HOPELESS: f64 = 2.5;
const FAIR_ROUNDS: usize = 3;
/// How often a pick that looks too slow is looked at again: noise only ever adds time.
const SECOND_LOOKS: usize = 4;

/// The problems that are timed when none is given.
pub fn typical() -> Vec<(Problem, Option<&'static str>)> {
    TYPICAL.iter().map(|text| (listed(text), None)).collect()
}

/// The layers of real networks, with the network that has each.
pub fn layers() -> Vec<(Problem, Option<&'static str>)> {
    let of = |&(network, layers): &(&'static str, &[&str])| {
        layers.iter().map(|text| (listed(text), Some(network))).collect::<Vec<_>>()
    };
    NETWORKS.iter().flat_map(of).collect()
}

fn listed(text: &str) -> Problem {
    Problem::parse(text).expect("a test reads every line of the lists")
}

/// Times every kernel that `engine` can run at each problem, in turns.
///
/// # Errors
/// If there is no memory for a problem.
pub fn kernels(problems: &[(Problem, Option<&'static str>)], engine: Engine) -> Result<KernelBench, Error> {
    let threads = Threads::new(engine.threads);
    let mut peaks = Peaks::new(engine.isa, &threads);
    let mut rows = Vec::with_capacity(problems.len());
    for (problem, network) in problems {
        let row = at(problem, *network, engine.isa, &threads, &mut peaks);
        rows.push(row.map_err(|e| Error::job(format!("{problem}: {e}"), "give a smaller shape"))?);
    }
    Ok(KernelBench { peaks: peaks.rows(), problems: rows })
}

/// One kernel with its packed weights.
struct Contestant {
    name: &'static str,
    level: &'static str,
    unit: Unit,
    even_steps: bool,
    weights: Packed,
    /// Nanoseconds of the fastest run.
    least: f64,
}

enum Packed {
    Product(PackedB),
    Conv(Box<PackedConv>),
    Depthwise(Box<PackedDwConv>),
}

/// Codes, weights and room for the results of a problem.
struct Operands {
    a: Vec<u8>,
    multiplier: Vec<f32>,
    bias: Vec<i32>,
    out: Vec<u8>,
}

fn at(
    problem: &Problem,
    network: Option<&'static str>,
    isa: Isa,
    threads: &Threads,
    peaks: &mut Peaks<'_>,
) -> Result<ProblemRow, KernelError> {
    let (mut operands, [small, any]) = make_up(problem);
    let mut contestants = contestants(problem, isa, &small)?;
    let picks = [pick(problem, isa, &any)?, pick(problem, isa, &small)?];
    let mut looks = 0;
    loop {
        for round in 0..ROUNDS {
            let best = contestants.iter().map(|c| c.least).fold(f64::INFINITY, f64::min);
            for c in &mut contestants {
                if (round < FAIR_ROUNDS && looks == 0) || c.least <= HOPELESS * best {
                    c.least = c.least.min(turn(problem, &c.weights, &mut operands, threads));
                }
            }
        }
        looks += 1;
        if looks > SECOND_LOOKS || pick_over_best(&contestants, picks) <= SLOWEST_PICK {
            break;
        }
    }
    let pick_over_best = pick_over_best(&contestants, picks);
    contestants.sort_by(|a, b| a.least.total_cmp(&b.least));
    let row = |c: &Contestant| {
        let gops = 2.0 * problem.macs() as f64 / c.least;
        let peak_gops = peaks.of(c.unit);
        KernelRow {
            kernel: c.name,
            level: c.level,
            time_us: c.least / 1e3,
            gops,
            peak_gops,
            peak_share: peak_gops.map(|peak| gops / peak),
            even_steps: c.even_steps,
            pick: (c.name, c.level) == picks[0],
            pick_for_small: (c.name, c.level) == picks[1],
        }
    };
    let rows = contestants.iter().map(row).collect();
    Ok(ProblemRow { shape: problem.to_string(), network, macs: problem.macs(), rows, pick_over_best })
}

/// How much longer the picks take than the best that is for their weights.
fn pick_over_best(contestants: &[Contestant], [any, small]: [(&str, &str); 2]) -> f64 {
    let over = |pick: (&str, &str), all: bool| {
        let able = || contestants.iter().filter(move |c| all || c.even_steps);
        let best = able().map(|c| c.least).fold(f64::INFINITY, f64::min);
        able().find(|c| (c.name, c.level) == pick).map_or(1.0, |c| c.least / best)
    };
    over(any, false).max(over(small, true))
}

/// Operands of a problem, and two sets of weights: small ones that suit every kernel, and any.
fn make_up(problem: &Problem) -> (Operands, [Vec<u8>; 2]) {
    let (elements, weights, n, results) = match problem {
        Problem::Product { m, n, k } => (m * k, k * n, *n, m * n),
        Problem::Conv(g) | Problem::Depthwise(g) => {
            (g.batch * g.h * g.w * g.c_in, g.k() * g.c_out, g.c_out, g.pixels_out() * g.c_out)
        }
    };
    let operands = Operands {
        a: (0..elements).map(|i| (i * 7919) as u8).collect(),
        multiplier: vec![1e-4; n],
        bias: vec![5; n],
        out: vec![0; results],
    };
    let codes = |most: i32| (0..weights).map(|i| ((i * 7919 % (2 * most as usize + 1)) as i32 - most) as u8).collect();
    (operands, [codes(64), codes(127)])
}

fn contestants(problem: &Problem, isa: Isa, weights: &[u8]) -> Result<Vec<Contestant>, KernelError> {
    let new = |kernel: &'static GemmKernel, weights: Packed| Contestant {
        name: kernel.name,
        level: kernel.level.name(),
        unit: Unit::Codes(kernel),
        even_steps: kernel.steps == Steps::Even,
        weights,
        least: f64::INFINITY,
    };
    let rows = KERNELS.iter().copied().filter(|k| isa.can_run(k.level));
    match problem {
        Problem::Product { n, k, .. } => {
            let b = BView::new(weights, true, *k, *n);
            rows.map(|kernel| Ok(new(kernel, Packed::Product(PackedB::pack_for(isa, kernel, &b)?)))).collect()
        }
        Problem::Conv(g) => {
            let winograd = WINOGRAD_KERNELS.iter().map(|w| &w.product).filter(|k| isa.can_run(k.level));
            let direct = rows.map(|kernel| (kernel, PackedConv::pack_for(isa, kernel, g, weights, true)));
            // Those are for some windows only, and for weights whose sums are not too large.
            let other = winograd.map(|kernel| (kernel, PackedConv::pack_for(isa, kernel, g, weights, true)));
            let other = other.filter(|(_, packed)| !matches!(packed, Err(KernelError::Geometry(_))));
            direct.chain(other).map(|(kernel, packed)| Ok(new(kernel, Packed::Conv(Box::new(packed?))))).collect()
        }
        // Each instruction set has its own; what bounds it is the vectors' dot product.
        Problem::Depthwise(g) => (Isa::available().into_iter().filter(|have| *have <= isa))
            .map(|have| {
                let packed = PackedDwConv::pack(have, g, weights, true, &[])?;
                let (name, level) = (packed.kernel(), have.level().name());
                let row = select(have.level().of_vectors(), g.c_in);
                Ok(Contestant { name, level, ..new(row, Packed::Depthwise(Box::new(packed))) })
            })
            .collect(),
    }
}

/// Name and level of the kernel that these weights, or so few rows, get.
fn pick(problem: &Problem, isa: Isa, weights: &[u8]) -> Result<(&'static str, &'static str), KernelError> {
    let of = |kernel: &'static GemmKernel| (kernel.name, kernel.level.name());
    Ok(match problem {
        Problem::Product { m, n, k } => of(PackedB::pack(isa, &BView::new(weights, true, *k, *n))?.kernel_for(*m)),
        Problem::Conv(g) => of(PackedConv::pack(isa, g, weights, true)?.kernel_for(g.pixels_out())),
        Problem::Depthwise(g) => (PackedDwConv::pack(isa, g, weights, true, &[])?.kernel(), isa.level().name()),
    })
}

/// Nanoseconds of one run: the mean of as many as fit into a turn.
fn turn(problem: &Problem, weights: &Packed, operands: &mut Operands, threads: &Threads) -> f64 {
    let clock = Clock::start(threads);
    let mut runs = 0_u32;
    loop {
        // Reading the clock costs as much as a small product.
        for _ in 0..=runs / 8 {
            run(problem, weights, operands, threads).expect("the operands were made for the problem");
            runs += 1;
        }
        let spent = clock.elapsed();
        if spent >= TURN {
            return spent.as_nanos() as f64 / f64::from(runs);
        }
    }
}

/// CPU time of this thread where it works alone, else the clock on the wall.
enum Clock {
    Cpu(Duration),
    Wall(Instant),
}

impl Clock {
    fn start(threads: &Threads) -> Self {
        match thread_cpu_time() {
            Some(now) if threads.count() == 1 => Self::Cpu(now),
            _ => Self::Wall(Instant::now()),
        }
    }

    fn elapsed(&self) -> Duration {
        match self {
            Self::Cpu(start) => thread_cpu_time().unwrap_or_default().saturating_sub(*start),
            Self::Wall(start) => start.elapsed(),
        }
    }
}

fn run(problem: &Problem, weights: &Packed, operands: &mut Operands, threads: &Threads) -> Result<(), KernelError> {
    const ZERO_POINT: i32 = 3;
    let Operands { a, multiplier, bias, out } = operands;
    let epilogue = Epilogue::Codes {
        bias: Some(bias),
        multiplier,
        zero_point: ZERO_POINT,
        qmin: 0,
        qmax: 255,
        add: None,
        table: None,
        out,
        ldc: bias.len(),
    };
    match (problem, weights) {
        (Problem::Product { m, k, .. }, Packed::Product(b)) => gemm(
            GemmCall {
                a,
                a_signed: false,
                a_zero_point: ZERO_POINT,
                m: *m,
                row_stride: *k,
                b,
                b_zero_points: &[],
                epilogue,
            },
            threads,
        ),
        (Problem::Conv(g), Packed::Conv(weights)) => conv(
            ConvCall {
                x: a,
                x_signed: false,
                x_zero_point: ZERO_POINT,
                geometry: g,
                weights,
                w_zero_points: &[],
                epilogue,
            },
            threads,
        ),
        (Problem::Depthwise(g), Packed::Depthwise(weights)) => dwconv(
            DwConvCall { x: a, x_signed: false, x_zero_point: ZERO_POINT, geometry: g, weights, epilogue },
            threads,
        ),
        _ => Err(KernelError::Geometry("weights of another problem")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contestant(name: &'static str, even_steps: bool, least: f64) -> Contestant {
        let weights = Packed::Product(PackedB::empty(Isa::PORTABLE));
        Contestant { name, level: "avx2", unit: Unit::F32, even_steps, weights, least }
    }

    #[test]
    fn a_pick_is_judged_among_kernels_that_are_for_its_weights() {
        let all =
            [contestant("pairs", false, 50.0), contestant("wide", true, 110.0), contestant("narrow", true, 100.0)];
        let judge = |any, small| pick_over_best(&all, [(any, "avx2"), (small, "avx2")]);
        assert_eq!(judge("narrow", "pairs"), 1.0);
        assert_eq!(judge("wide", "pairs"), 1.1);
        assert_eq!(judge("narrow", "narrow"), 2.0);
    }
}
