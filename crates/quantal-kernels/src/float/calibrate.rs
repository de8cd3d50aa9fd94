//! What calibration counts: the range of values, the means of their channels, and their histogram.

use super::lanes::{FloatIsa, LANES};
use super::rows::row;
use crate::{Isa, Threads};
use std::sync::Mutex;

/// What one pass over values finds.
#[derive(Clone, PartialEq, Debug)]
pub struct Survey {
    /// The smallest and the largest value; `None` if there is none, or one is not finite.
    pub range: Option<(f32, f32)>,
    /// Whether all values are finite.
    pub finite: bool,
    /// The wrapping sum of the values' bits: the same in any order, and another for almost any other values.
    pub checksum: u32,
    /// For each channel the sum of its values.
    pub sums: Vec<f64>,
    /// The extremes of each stretch, in order.
    stretches: Vec<Stretch>,
}

/// The extremes of some values next to each other, by their place modulo 16.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Stretch {
    start: usize,
    len: usize,
    low: [f32; LANES],
    high: [f32; LANES],
}

impl Survey {
    /// The values of `x`, of which this is the survey, that lie below `low` or above `high`. Cheap where they are few.
    pub fn beyond(&self, x: &[f32], low: f32, high: f32) -> Vec<f32> {
        let mut found = Vec::new();
        for s in &self.stretches {
            for l in 0..LANES {
                if s.low[l] < low || s.high[l] > high {
                    let lane = x[s.start..s.start + s.len].iter().skip(l).step_by(LANES);
                    found.extend(lane.filter(|&&x| x < low || x > high));
                }
            }
        }
        found
    }
}

/// Values that make a task: 256 KiB.
const TASK: usize = 1 << 16;
/// Values of a stretch, about.
const STRETCH: usize = 1 << 10;
/// Rows whose values are summed in f32 before the sum is added up in f64, about.
const ROWS: usize = 64;

/// One pass over `x`, whose value i belongs to channel `i / inner mod channels`: `inner` is 1 where channels are last.
///
/// # Panics
/// If there are no channels, or `inner` is 0.
pub fn survey(isa: Isa, x: &[f32], [channels, inner]: [usize; 2], threads: &Threads) -> Survey {
    assert!(channels > 0 && inner > 0, "values of no channel");
    // Rows of whole vectors: several times all channels, where their number does not fit; of one channel otherwise.
    let across = if inner == 1 { channels } else { 1 };
    let period = across * (LANES / gcd(across, LANES));
    let task = (TASK / period).max(1) * period;
    let runs = x.chunks(if inner == 1 { x.len().max(1) } else { inner }).enumerate();
    let tasks: Vec<(usize, &[f32])> =
        runs.flat_map(|(c, run)| run.chunks(task).map(move |x| (c % channels, x))).collect();
    let parts: Vec<Mutex<Option<Part>>> = tasks.iter().map(|_| Mutex::new(None)).collect();
    threads.parallel_for(tasks.len(), &|t| {
        let mut part = Part::new(period);
        let call = Pass { x: tasks[t].1, period, part: &raw mut part };
        // SAFETY: `part` is a local whose two lists have `period` values, a whole number of vectors.
        unsafe { (row(isa).survey)(&call) };
        *parts[t].lock().expect("nobody panics with it") = Some(part);
    });
    let sums = vec![0.0; channels];
    let mut found = Survey { range: None, finite: true, checksum: 0, sums, stretches: Vec::new() };
    let mut start = 0;
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    // In the order of the tasks, which follow from the sizes alone.
    for (part, (first, x)) in parts.into_iter().zip(tasks) {
        let part = part.into_inner().expect("nobody panics with it").expect("every task ran");
        (low, high) = (if part.low < low { part.low } else { low }, if part.high > high { part.high } else { high });
        found.finite &= part.finite;
        found.checksum = found.checksum.wrapping_add(part.checksum);
        for (i, sum) in part.sums.iter().enumerate() {
            found.sums[first + i % across] += sum;
        }
        found.stretches.extend(part.stretches.into_iter().map(|s| Stretch { start: s.start + start, ..s }));
        start += x.len();
    }
    found.range = (found.finite && !x.is_empty()).then_some((low, high));
    found
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What a task finds.
struct Part {
    low: f32,
    high: f32,
    finite: bool,
    checksum: u32,
    sums: Vec<f64>,
    rows: Vec<f32>,
    stretches: Vec<Stretch>,
}

impl Part {
    fn new(period: usize) -> Self {
        let (sums, rows) = (vec![0.0; period], vec![0.0; period]);
        let stretches = Vec::new();
        Self { low: f32::INFINITY, high: f32::NEG_INFINITY, finite: true, checksum: 0, sums, rows, stretches }
    }
}

/// A pass over the values of a task.
pub(super) struct Pass<'a> {
    x: &'a [f32],
    period: usize,
    part: *mut Part,
}

/// # Safety
/// `part` is good for writing, both its lists have `period` values, and `period` is a whole number of vectors.
#[inline(always)]
pub(super) unsafe fn survey_by<I: FloatIsa>(isa: I, p: &Pass<'_>) {
    // SAFETY: the contract of this function.
    let part = unsafe { &mut *p.part };
    let zero = isa.splat(0.0);
    // Becomes NaN, and stays it, where a value is not finite.
    let (mut poison, mut checksum) = (zero, zero);
    let whole = p.x.len() / p.period;
    let rows = (STRETCH / p.period).max(1);
    let together = ROWS.next_multiple_of(rows);
    for first in (0..whole).step_by(rows) {
        let last = whole.min(first + rows);
        let (mut low, mut high) = (isa.splat(f32::INFINITY), isa.splat(f32::NEG_INFINITY));
        for r in first..last {
            for v in (0..p.period).step_by(LANES) {
                // SAFETY: 16 values at v of row r, and as many sums, by the contract of this function.
                unsafe {
                    let x = isa.load(p.x.as_ptr().add(r * p.period + v));
                    low = isa.min(x, low);
                    high = isa.max(x, high);
                    poison = isa.fma(x, zero, poison);
                    checksum = isa.bits_add(checksum, x);
                    let sum = part.rows.as_mut_ptr().add(v);
                    isa.store(sum, isa.add(isa.load(sum), x));
                }
            }
        }
        let (start, len) = (first * p.period, (last - first) * p.period);
        part.stretches.push(Stretch { start, len, low: isa.lanes(low), high: isa.lanes(high) });
        if last.is_multiple_of(together) || last == whole {
            for (total, sum) in part.sums.iter_mut().zip(&mut part.rows) {
                *total += f64::from(*sum);
                *sum = 0.0;
            }
        }
    }
    part.finite = isa.lanes(poison).iter().all(|x| !x.is_nan());
    part.checksum = isa.lanes(checksum).iter().fold(0, |a: u32, x| a.wrapping_add(x.to_bits()));
    let rest = &p.x[whole * p.period..];
    if !rest.is_empty() {
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        for (i, (&x, total)) in rest.iter().zip(&mut part.sums).enumerate() {
            part.finite &= x.is_finite();
            part.checksum = part.checksum.wrapping_add(x.to_bits());
            let l = i % LANES;
            (low[l], high[l]) = (if x < low[l] { x } else { low[l] }, if x > high[l] { x } else { high[l] });
            *total += f64::from(x);
        }
        part.stretches.push(Stretch { start: whole * p.period, len: rest.len(), low, high });
    }
    for s in &part.stretches {
        part.low = s.low.iter().fold(part.low, |a, &x| if x < a { x } else { a });
        part.high = s.high.iter().fold(part.high, |a, &x| if x > a { x } else { a });
    }
}

/// Vectors whose bins are found at a time.
const VECTORS: usize = 64;

/// Counts values by sign and magnitude. Of `counts`, the first half of all but the last 16 holds positive values, bin i
/// those with `i ≤ |x|·inverse < i + 1` and the last one all larger ones, the second half negative values; the last 16
/// hold, together, the zeros. Each value counts `weight` times. `inverse` is a power of two: nothing is rounded.
///
/// # Panics
/// When there are no bins, or an odd number of them.
pub fn bin(isa: Isa, x: &[f32], inverse: f32, weight: u64, counts: &mut [u64]) {
    let side = counts.len().saturating_sub(LANES) / 2;
    assert!(side > 0 && counts.len() == 2 * side + LANES, "{} counts", counts.len());
    let mut index = [0; VECTORS * LANES];
    for x in x.chunks(index.len()) {
        let call = Bins { x, inverse, side: side as u32, index: index.as_mut_ptr() };
        // SAFETY: `index` has as many values as the longest chunk, a whole number of vectors.
        unsafe { (row(isa).bins)(&call) };
        for &i in &index[..x.len()] {
            counts[i as usize] += weight;
        }
    }
}

/// The bins of some values.
pub(super) struct Bins<'a> {
    x: &'a [f32],
    inverse: f32,
    side: u32,
    index: *mut u32,
}

/// # Safety
/// `index` is good for writing as many values as `x` has, rounded up to whole vectors.
#[inline(always)]
pub(super) unsafe fn bins<I: FloatIsa>(isa: I, b: &Bins<'_>) {
    let (zero, inverse, side) = (isa.splat(0.0), isa.splat(b.inverse), isa.splat_bits(b.side));
    let last = isa.splat((b.side - 1) as f32);
    // A counter for each lane: additions to one and the same would wait for each other, and half of the values after a
    // Relu are zeros.
    let lanes: [f32; LANES] = std::array::from_fn(|l| f32::from_bits(2 * b.side + l as u32));
    // SAFETY: 16 values.
    let zeros = unsafe { isa.load(lanes.as_ptr()) };
    for i in (0..b.x.len()).step_by(LANES) {
        let n = (b.x.len() - i).min(LANES);
        // SAFETY: i + n ≤ len, and the index has room for whole vectors.
        unsafe {
            let x = isa.load_part(b.x.as_ptr().add(i), n);
            let size = isa.abs(x);
            let bin = isa.truncate(isa.min(isa.mul(size, inverse), last));
            let bin = isa.bits_add(bin, isa.select_lt(x, zero, side, zero));
            isa.store(b.index.add(i).cast(), isa.select_lt(zero, size, bin, zeros));
        }
    }
}

/// Adds up the values of each channel, and their squares, at every `step`-th position of `x`, whose channels are last.
///
/// # Panics
/// If there is no channel, `step` is 0, or `sums` and `squares` have not one entry for each channel.
pub fn add_moments(isa: Isa, x: &[f32], step: usize, sums: &mut [f64], squares: &mut [f64]) {
    let channels = sums.len();
    assert!(channels > 0 && step > 0 && squares.len() == channels, "moments of {channels} channels");
    let call = Moments { x, step, channels, sums: sums.as_mut_ptr(), squares: squares.as_mut_ptr() };
    // SAFETY: both lists have `channels` entries, as asserted, and are not looked at before the call ends.
    unsafe { (row(isa).moments)(&call) };
}

/// The moments of each channel.
pub(super) struct Moments<'a> {
    x: &'a [f32],
    step: usize,
    channels: usize,
    sums: *mut f64,
    squares: *mut f64,
}

/// In plain Rust: the compiler makes vectors of 64 bits of it, which have no other use here.
///
/// # Safety
/// `sums` and `squares` are good for reading and writing `channels` values each.
#[inline(always)]
pub(super) unsafe fn moments<I: FloatIsa>(_: I, m: &Moments<'_>) {
    // SAFETY: the contract of this function.
    let lists = unsafe {
        [m.sums, m.squares].map(|list| std::slice::from_raw_parts_mut(list, m.channels).as_chunks_mut::<LANES>())
    };
    let [(sums, more_sums), (squares, more_squares)] = lists;
    for (c, (all_sums, all_squares)) in sums.iter_mut().zip(squares).enumerate() {
        // Locals, which stay in registers.
        let (mut sums, mut squares) = (*all_sums, *all_squares);
        for position in m.x.chunks_exact(m.channels).step_by(m.step) {
            for (l, &x) in position[c * LANES..][..LANES].iter().enumerate() {
                let x = f64::from(x);
                sums[l] += x;
                squares[l] += x * x;
            }
        }
        (*all_sums, *all_squares) = (sums, squares);
    }
    for position in m.x.chunks_exact(m.channels).step_by(m.step) {
        let rest = &position[m.channels - more_sums.len()..];
        for ((sum, square), &x) in more_sums.iter_mut().zip(&mut *more_squares).zip(rest) {
            let x = f64::from(x);
            *sum += x;
            *square += x * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::random;
    use super::*;

    /// Range, finiteness, checksum and sums, value by value.
    fn plain(x: &[f32], [channels, inner]: [usize; 2]) -> Survey {
        let mut sums = vec![0.0; channels];
        for (i, &x) in x.iter().enumerate() {
            sums[i / inner % channels] += f64::from(x);
        }
        let finite = x.iter().all(|x| x.is_finite());
        let range = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
        let checksum = x.iter().fold(0_u32, |a, x| a.wrapping_add(x.to_bits()));
        Survey { range: (finite && !x.is_empty()).then_some(range), finite, checksum, sums, stretches: Vec::new() }
    }

    #[test]
    fn a_survey_is_that_of_the_plain_loop_and_the_same_bits_everywhere() {
        let last = [(0, 1), (1, 1), (15, 1), (16, 16), (1000, 3), (48 * 200 + 5, 24), (300_000, 96), (65_537, 1001)];
        let inner = [(30, [2, 5]), (49 * 24, [24, 49]), (2 * 3 * 70_000, [3, 70_000])];
        for (n, size) in last.map(|(n, channels)| (n, [channels, 1])).into_iter().chain(inner) {
            let x = random(n, 3);
            let expected = plain(&x, size);
            let first = survey(Isa::PORTABLE, &x, size, &Threads::new(1));
            assert_eq!((first.range, first.finite, first.checksum), (expected.range, true, expected.checksum), "{n}");
            for (found, wanted) in first.sums.iter().zip(&expected.sums) {
                // Sums of 64 values below 1 in magnitude, each addition off by 2^-24 of the sum.
                assert!((found - wanted).abs() <= n as f64 * 64.0 * 2.0_f64.powi(-24), "{n} {size:?}");
            }
            for (low, high) in [(-0.99, 0.995), (-2.0, 2.0), (0.0, 0.0)] {
                let mut found = first.beyond(&x, low, high);
                let mut wanted: Vec<f32> = x.iter().copied().filter(|&x| x < low || x > high).collect();
                found.sort_by(f32::total_cmp);
                wanted.sort_by(f32::total_cmp);
                assert_eq!(found, wanted, "{n} {size:?}");
            }
            for isa in Isa::available() {
                for threads in [1, 3] {
                    assert_eq!(survey(isa, &x, size, &Threads::new(threads)), first, "{isa} {n}");
                }
            }
        }
    }

    #[test]
    fn moments_are_those_of_the_plain_loop_bit_for_bit() {
        for (positions, channels, step) in [(1, 1, 1), (7, 16, 1), (9, 40, 2), (100, 67, 3), (0, 5, 1)] {
            let x = random(positions * channels, 5);
            let mut expected = vec![[0.5, 2.0]; channels];
            for position in (0..positions).step_by(step) {
                for (c, [sum, square]) in expected.iter_mut().enumerate() {
                    let x = f64::from(x[position * channels + c]);
                    (*sum, *square) = (*sum + x, *square + x * x);
                }
            }
            for isa in Isa::available() {
                let (mut sums, mut squares) = (vec![0.5; channels], vec![2.0; channels]);
                add_moments(isa, &x, step, &mut sums, &mut squares);
                let found: Vec<[f64; 2]> = sums.into_iter().zip(squares).map(<[f64; 2]>::from).collect();
                assert_eq!(found, expected, "{isa} {positions} {channels} {step}");
            }
        }
    }

    #[test]
    fn one_value_that_is_not_finite_is_seen_wherever_it_is() {
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 17, 95, 96, 100] {
                    let mut x = random(101, 1);
                    x[at] = bad;
                    let found = survey(isa, &x, [48, 1], &Threads::new(1));
                    assert!(!found.finite && found.range.is_none(), "{isa} {bad} at {at}");
                }
            }
        }
    }

    #[test]
    fn values_are_counted_by_sign_and_magnitude() {
        // Bins of a quarter, four on each side.
        let mut x = vec![0.0, -0.0, 0.25, 0.249_999_98, 0.999, -0.999, -0.25, 1e-45, -1e-45, -1e-30];
        x.extend(vec![0.5; 3000]);
        x.extend(vec![0.0; 50]);
        for isa in Isa::available() {
            let mut counts = [0; 24];
            bin(isa, &x, 4.0, 3, &mut counts);
            assert_eq!(counts[..8], [2, 1, 3000, 1, 2, 1, 0, 1].map(|n| 3 * n), "{isa}");
            assert_eq!(counts[8..].iter().sum::<u64>(), 3 * 52, "{isa}");
            // What lies beyond is in the last bin.
            let mut counts = [0; 20];
            bin(isa, &[f32::MAX, -f32::MAX, f32::INFINITY, 1.0, -1e-45], 1.0, 1, &mut counts);
            assert_eq!(counts[..4], [0, 3, 1, 1], "{isa}");
            // The narrowest bins there are: denormals lie in the first one.
            let mut counts = [0; 24];
            bin(isa, &[f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 1e-45, 3e-38], 2.0_f32.powi(126), 1, &mut counts);
            assert_eq!(counts[..8], [1, 1, 1, 0, 0, 1, 0, 0], "{isa}");
        }
    }
}
