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
        s.observe(Isa::PORTABLE, x).unwrap();
    }
    s
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
                assert_eq!(Statistics::new(&observer).observe(Isa::PORTABLE, &x), Err(NotFinite));
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
    let mut values = noise(20_000, 3);
    values.extend(vec![0.0; 5000]);
    let range = range_by(Observer::Percentile { percent: 98.0 }, &values);
    values.sort_by(f32::total_cmp);
    let (low, high) = (values[250], values[24_750]);
    // Off by less than two bins: the magnitudes reach 3, half of 8192 bins are in use.
    assert!((range.min - low).abs() < 2e-3 && (range.max - high).abs() < 2e-3, "{range:?} {low} {high}");
    let whole = range_by(Observer::Percentile { percent: 100.0 }, &values);
    assert_eq!((whole.min, whole.max), (values[0], values[24_999]));
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
