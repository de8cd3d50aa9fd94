//! What a sample looks like, in figures that a person can picture.

use super::{Dataset, Sample, Source};
use crate::text;
use quantal_tensor::Tensor;

/// One level of 8 bits, and half of one for rounding: what JPEG makes of black and white.
const GREY_LEVEL: f32 = 1.5 / 255.0;

impl Dataset {
    /// Figures of one sample of this data, by name, always the same ones.
    ///
    /// - Of images, before normalization, where black is 0 and white is 1: `brightness` and `contrast`, the mean and the
    ///   standard deviation of the pixels; `black` and `white`, the shares of them at either end; `roughness`, 0 where shades
    ///   change slowly and 1 where a pixel has nothing to do with the next.
    /// - Of text: `tokens`.
    /// - Of arrays: `mean` and `deviation` of the first input, in its own units.
    pub fn figures(&self, sample: &Sample) -> Vec<(&'static str, f64)> {
        let Some((_, first)) = sample.feeds.first() else { return Vec::new() };
        match &self.source {
            Source::Images(_, plan) | Source::Idx(_, plan) => {
                let (planes, width) = plan.planes(first);
                of_image(&planes, width)
            }
            Source::Text(_) => vec![("tokens", text::length(&sample.feeds) as f64)],
            Source::Npz(_) | Source::Npy(_) | Source::Raw(..) | Source::Stack(_) => {
                let [mean, deviation] = moments(&Tensor::to_f32_vec(first).unwrap_or_default());
                vec![("mean", mean), ("deviation", deviation)]
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
