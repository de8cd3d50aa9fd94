//! What a sample looks like, in figures that a person can picture.

use super::{Dataset, Sample, Source};
use quantal_tensor::Tensor;
use std::collections::BTreeSet;

/// One level of 8 bits, and half of one for rounding: what JPEG makes of black and white.
const GREY_LEVEL: f32 = 1.5 / 255.0;

impl Dataset {
    /// Figures of one sample of this data, by name, always the same ones.
    ///
    /// - Of images, before normalization, where black is 0 and white is 1: `brightness` and `contrast`, the mean and the
    ///   standard deviation of the pixels; `black` and `white`, the shares of them at either end; `roughness`, 0 where shades
    ///   change slowly and 1 where a pixel has nothing to do with the next.
    /// - Of text: `tokens`, their number, and `variety`, the share of them that are different.
    /// - Of arrays: `mean` and `deviation` of the first input, in its own units; `repeated`, the share of its values that
    ///   are one of the six most common.
    pub fn figures(&self, sample: &Sample) -> Vec<(&'static str, f64)> {
        let Some((_, first)) = sample.feeds.first() else { return Vec::new() };
        match &self.source {
            Source::Images(_, plan) | Source::Idx(_, plan) => {
                let (planes, width) = plan.planes(first);
                of_image(&planes, width)
            }
            Source::Text(text) => of_tokens(&text.tokens(&sample.feeds)),
            Source::Npz(_) | Source::Npy(_) | Source::Raw(..) | Source::Stack(_) => {
                of_array(Tensor::to_f32_vec(first).unwrap_or_default())
            }
        }
    }
}

fn moments(values: &[f32]) -> [f64; 2] {
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    [mean, variance.sqrt()]
}

fn of_tokens(tokens: &[i64]) -> Vec<(&'static str, f64)> {
    let count = tokens.len() as f64;
    let different = tokens.iter().collect::<BTreeSet<_>>().len() as f64;
    vec![("tokens", count), ("variety", different / count.max(1.0))]
}

/// Of an image whose three channels were normalized each in its own way, the values that black and white became.
const COMMON: usize = 6;

fn of_array(mut values: Vec<f32>) -> Vec<(&'static str, f64)> {
    let [mean, deviation] = moments(&values);
    values.sort_by(f32::total_cmp);
    let mut runs: Vec<usize> = values.chunk_by(|a, b| a == b).map(<[f32]>::len).collect();
    runs.sort_by_key(|&n| std::cmp::Reverse(n));
    let common: usize = runs.iter().take(COMMON).sum();
    vec![("mean", mean), ("deviation", deviation), ("repeated", common as f64 / values.len().max(1) as f64)]
}

fn of_image(planes: &[Vec<f32>], width: usize) -> Vec<(&'static str, f64)> {
    let all = planes.concat();
    let [brightness, contrast] = moments(&all);
    let share = |is: &dyn Fn(f32) -> bool| all.iter().filter(|v| is(**v)).count() as f64 / all.len().max(1) as f64;
    vec![
        ("brightness", brightness),
        ("contrast", contrast),
        ("black", share(&|v| v < GREY_LEVEL)),
        ("white", share(&|v| v > 1.0 - GREY_LEVEL)),
        ("roughness", if contrast > 0.0 { steps(planes, width) / (2.0 * contrast * contrast) } else { 0.0 }),
    ]
}

/// The mean squared difference of a pixel from the next, to the right and below. Half of it by the variance is von
/// Neumann's ratio (*Distribution of the Ratio of the Mean Square Successive Difference to the Variance*, 1941).
fn steps(planes: &[Vec<f32>], width: usize) -> f64 {
    let (mut sum, mut count) = (0.0, 0_u64);
    for plane in planes {
        for (i, &v) in plane.iter().enumerate() {
            let right = plane.get(i + 1).filter(|_| (i + 1) % width != 0);
            for &next in right.into_iter().chain(plane.get(i + width)) {
                sum += f64::from(next - v).powi(2);
                count += 1;
            }
        }
    }
    sum / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_tokens_and_arrays_count_what_comes_again() {
        let figure = |of: Vec<(&'static str, f64)>| of.into_iter().map(|f| f.1).collect::<Vec<_>>();
        assert_eq!(figure(of_tokens(&[7, 7, 7, 9])), [4.0, 0.5]);
        // 16 values twice each: six of them are 12 of 32.
        let twice = (0..32).map(|i| (i % 16) as f32).collect();
        assert_eq!(figure(of_array(twice))[2], 12.0 / 32.0);
        assert_eq!(figure(of_array(vec![2.5; 8])), [2.5, 0.0, 1.0]);
    }

    #[test]
    fn figures_of_patterns_are_those_that_follow_from_their_definition() {
        let of = |pixel: &dyn Fn(usize, usize) -> f32| {
            let plane = (0..64).map(|i| pixel(i % 8, i / 8)).collect();
            of_image(&[plane], 8).into_iter().map(|f| f.1).collect::<Vec<_>>()
        };
        // Brightness, contrast, black, white, roughness.
        assert_eq!(of(&|_, _| 1.0), [1.0, 0.0, 0.0, 1.0, 0.0]);
        // Each pixel differs by 1 from its neighbours, by 0.5 from the mean.
        assert_eq!(of(&|x, y| ((x + y) % 2) as f32), [0.5, 0.5, 0.5, 0.5, 2.0]);
        assert_eq!(of(&|x, _| (x % 2) as f32), [0.5, 0.5, 0.5, 0.5, 1.0]);
        // Of 8 · 7 steps in each direction, 8 differ in one alone.
        assert_eq!(of(&|x, _| if x < 4 { 0.25 } else { 0.75 }), [0.5, 0.25, 0.0, 0.0, 8.0 / 112.0 * 2.0]);
    }
}
