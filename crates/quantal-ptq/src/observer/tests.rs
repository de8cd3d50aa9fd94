use super::*;

fn noise(n: usize, seed: u32) -> Vec<f32> {
    // Sums of uniforms: roughly a bell.
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 2.0_f32.powi(24) - 0.5
    };
    (0..n).map(|_| (0..6).map(|_| next()).sum()).collect()
}

fn all() -> [Observer; 5] {
    [
        Observer::MinMax {},
        Observer::MovingAverage {},
        Observer::Percentile { percent: 99.0 },
        Observer::Mse { bins: 1024 },
        Observer::Entropy { bins: 1024, levels: 128 },
    ]
}

fn seen_by(observer: &Observer, samples: &[Vec<f32>]) -> Statistics {
    let mut s = Statistics::new(observer);
    for x in samples {
        observe(&mut s, x).unwrap();
    }
    s
}

fn observe(s: &mut Statistics, values: &[f32]) -> Result<(), NotFinite> {
    s.observe(Isa::PORTABLE, values, &survey(Isa::PORTABLE, values, [1, 1], &Threads::new(1)))
}

fn range_by(observer: Observer, values: &[f32]) -> Range {
    seen_by(&observer, &[values.to_vec()]).range(&observer, 255, false).unwrap()
}

#[test]
fn order_and_splits_do_not_show() {
    let samples: Vec<Vec<f32>> =
        (0..12).map(|i| noise(300, i).into_iter().map(|x| x * 3.0_f32.powi(i as i32 % 5)).collect()).collect();
    for observer in all() {
        let whole = seen_by(&observer, &samples);
        let mut shuffled = samples.clone();
        shuffled.reverse();
        shuffled.swap(2, 7);
        assert_eq!(seen_by(&observer, &shuffled), whole);
        let (mut a, b) = (seen_by(&observer, &samples[5..]), seen_by(&observer, &samples[..5]));
        a.merge(&b);
        assert_eq!(a, whole);
        assert_eq!(a.range(&observer, 255, false), whole.range(&observer, 255, false));
    }
}

#[test]
fn what_is_not_finite_is_refused_by_all() {
    for observer in all() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 16, 40] {
                let mut x = noise(41, 1);
                x[at] = bad;
                assert_eq!(observe(&mut Statistics::new(&observer), &x), Err(NotFinite));
            }
        }
    }
}

#[test]
fn constants_single_values_denormals_and_nothing_work() {
    for observer in all() {
        assert_eq!(Statistics::new(&observer).range(&observer, 255, false), None);
        for values in [vec![0.0; 9], vec![2.5; 9], vec![-2.5], vec![1e-40, -1e-42], vec![3e38, -3e38], vec![-0.0]] {
            let range = range_by(observer, &values);
            let (lo, hi) = values.iter().fold((0.0_f32, 0.0_f32), |(a, b), &x| (a.min(x), b.max(x)));
            assert!(lo <= range.min && range.min <= range.max && range.max <= hi, "{observer:?} {values:?} {range:?}");
            assert!(
                crate::recipe::Recipe::default().activations.scheme().params_of_range(range.min, range.max).is_some()
            );
        }
        assert!(range_by(observer, &[2.5; 9]).max > 2.49, "{observer:?} cuts a constant");
    }
}

#[test]
fn min_max_and_mean_are_what_they_say() {
    let samples = [vec![-1.0, 4.0], vec![-3.0, 1.0], vec![0.5, 1.0]];
    let s = seen_by(&Observer::MinMax {}, &samples);
    assert_eq!(s.range(&Observer::MinMax {}, 255, false), Some(Range { min: -3.0, max: 4.0 }));
    let s = seen_by(&Observer::MovingAverage {}, &samples);
    let mean = s.range(&Observer::MovingAverage {}, 255, false).unwrap();
    assert_eq!(mean, Range { min: (-3.5_f64 / 3.0) as f32, max: 2.0 });
}

#[test]
fn percentile_cuts_as_many_values_as_it_says() {
    // Few enough to be counted whole.
    let mut values = noise(12_000, 3);
    values.extend(vec![0.0; 3000]);
    let range = range_by(Observer::Percentile { percent: 98.0 }, &values);
    values.sort_by(f32::total_cmp);
    let (low, high) = (values[150], values[14_850]);
    // Off by less than two bins (the magnitudes reach 3, half of 8192 bins are in use) and the gap to the next value.
    assert!((range.min - low).abs() < 8e-3 && (range.max - high).abs() < 8e-3, "{range:?} {low} {high}");
    let whole = range_by(Observer::Percentile { percent: 100.0 }, &values);
    assert_eq!((whole.min, whole.max), (values[0], values[14_999]));
}

/// Mean squared error of quantizing `values` over `range`, by the normative arithmetic.
fn squared_error(values: &[f32], range: Range) -> f64 {
    let (s, z) = quantal_tensor::arith::range_to_qparams(range.min, range.max, 0, 255, false).unwrap();
    let error = |x: f32| {
        let q = quantal_tensor::arith::quantize(x, s, z, 0, 255);
        f64::from(x - quantal_tensor::arith::dequantize(q, s, z)).powi(2)
    };
    values.iter().map(|&x| error(x)).sum()
}

#[test]
fn mse_is_near_the_best_of_all_ranges() {
    for (low, high, zeros) in [(0, 0, 0), (0, 3, 8000), (5, 2, 0)] {
        let mut values = noise(20_000, 9);
        values.extend(vec![0.0; zeros]);
        if zeros > 0 {
            for x in &mut values {
                *x = x.max(0.0);
            }
        }
        values.extend((0..low).map(|i| -20.0 - i as f32).chain((0..high).map(|i| 9.0 + i as f32)));
        let found = range_by(Observer::Mse { bins: 2048 }, &values);
        let seen = range_of(Isa::PORTABLE, &values).unwrap().unwrap();
        let mut best = f64::INFINITY;
        for i in 1..=40 {
            for j in 1..=40 {
                let range = Range { min: seen.min * i as f32 / 40.0, max: seen.max * j as f32 / 40.0 };
                best = best.min(squared_error(&values, range));
            }
        }
        assert!(squared_error(&values, found) <= best * 1.03, "{found:?}: {} {best}", squared_error(&values, found));
    }
}

#[test]
fn entropy_cuts_a_lone_outlier_but_not_an_even_spread() {
    let mut values = noise(50_000, 5);
    values.push(60.0);
    let range = range_by(Observer::Entropy { bins: 2048, levels: 128 }, &values);
    assert!(range.max < 30.0 && range.max > 1.5, "{range:?}");
    let even: Vec<f32> = (0..100_000).map(|i| i as f32 / 1000.0).collect();
    let range = range_by(Observer::Entropy { bins: 2048, levels: 128 }, &even);
    assert!(range.max > 95.0, "{range:?}");
}

/// The histogram of one large tensor.
fn counted(values: &[f32]) -> Histogram {
    match seen_by(&Observer::Mse { bins: 512 }, &[values.to_vec()]) {
        Statistics::Histogram(h) => h,
        _ => unreachable!("an observer of the distribution"),
    }
}

#[test]
fn a_large_tensor_is_counted_by_an_even_part_of_it_and_its_outliers_one_by_one() {
    // Magnitudes up to 512 in the first half of the bins, by place: each bin is a piece of the tensor.
    let n = 1_000_003;
    let mut values: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 / n as f32).collect();
    values[777_777] = 3.0;
    values[12] = -3.5;
    let h = counted(&values);
    assert!(h.total().abs_diff(n as u64) < 64 * n as u64 / COUNTED as u64 + 64, "{}", h.total());
    let far: Vec<u64> = h.bins().filter(|b| !(0.0..2.5).contains(&b.0)).map(|b| b.1).collect();
    assert_eq!(far, [1, 1]);
    // Bins are 1/128 wide: 128 hold the others, evenly.
    for (low, count) in h.bins().filter(|b| (1.0..2.0).contains(&b.0)) {
        assert!(count.abs_diff(n as u64 / 128) <= 3 * 64 * 62, "{count} values at {low}");
    }
    // Small tensors are counted whole.
    values.truncate(COUNTED);
    assert_eq!(counted(&values).total(), COUNTED as u64);
}

#[test]
fn what_repeats_in_memory_is_met_at_every_phase() {
    // Channels last, each of a value of its own.
    let channels: Vec<f32> = (0..96 * 3136).map(|i| 256.0 + (i % 96) as f32).collect();
    let h = counted(&channels);
    let even = h.total() / 96;
    assert_eq!(h.bins().count(), 96);
    assert!(h.bins().all(|b| b.1 > even * 3 / 4 && b.1 < even * 5 / 4), "{:?}", h.bins().collect::<Vec<_>>());
}
