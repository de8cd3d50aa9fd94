//! Accuracy, with the uncertainty that the number of samples leaves.

/// How often a classifier is right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// Share of samples whose label has the highest score, 0 to 1.
    pub top1: f64,
    /// Share of samples whose label is among the five highest scores.
    pub top5: f64,
    /// Number of samples.
    pub count: usize,
    /// 95 % confidence interval of `top1` (Wilson).
    pub ci95: (f64, f64),
}

impl Accuracy {
    /// From the rank (see [`rank`]) of each sample's label.
    pub fn from_ranks(ranks: &[usize]) -> Self {
        let within = |k: usize| ranks.iter().filter(|&&r| r < k).count();
        let count = ranks.len();
        let share = |hits: usize| if count == 0 { 0.0 } else { hits as f64 / count as f64 };
        Self { top1: share(within(1)), top5: share(within(5)), count, ci95: wilson95(within(1), count) }
    }
}

/// How many classes score above `label`: 0 is a top-1 hit, below k a top-k hit. Of equal scores the lower index comes
/// first, as in numpy's `argmax`. A label that is out of range or scores NaN ranks last.
pub fn rank(scores: &[f32], label: u32) -> usize {
    let label = label as usize;
    match scores.get(label) {
        Some(&own) if !own.is_nan() => {
            scores.iter().enumerate().filter(|&(i, &s)| s > own || s.is_nan() || (s == own && i < label)).count()
        }
        _ => usize::MAX,
    }
}

/// The Wilson score interval at 95 % of `hits` out of `count`: `(0, 1)` where there is nothing to go by.
///
/// ```text
/// (p + z²/2n ± z·sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n),  z = 1.95996
/// ```
pub fn wilson95(hits: usize, count: usize) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    if count == 0 {
        return (0.0, 1.0);
    }
    let n = count as f64;
    let p = hits as f64 / n;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let center = p + Z * Z / (2.0 * n);
    let scale = 1.0 + Z * Z / n;
    (((center - half) / scale).max(0.0), ((center + half) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_argmax() {
        let scores = [0.1, 0.7, 0.7, 0.2, 0.0, -1.0];
        assert_eq!([0, 1, 2, 3, 5].map(|l| rank(&scores, l)), [3, 0, 1, 2, 5]);
        assert_eq!(rank(&scores, 6), usize::MAX);
        assert_eq!(rank(&[f32::NAN, 1.0], 0), usize::MAX);
        assert_eq!(rank(&[f32::NAN, 1.0], 1), 1);
        let accuracy = Accuracy::from_ranks(&[0, 0, 4, 5]);
        assert_eq!((accuracy.top1, accuracy.top5, accuracy.count), (0.5, 0.75, 4));
    }

    #[test]
    fn the_interval_is_wilsons() {
        // Brown, Cai, DasGupta 2001: at p = 0 it is (0, z²/(n + z²)).
        let (low, high) = wilson95(0, 10);
        let z2 = 1.959_963_984_540_054_f64.powi(2);
        assert!(low == 0.0 && (high - z2 / (10.0 + z2)).abs() < 1e-12);
        let (low, high) = wilson95(50, 100);
        assert!((low + high - 1.0).abs() < 1e-12 && (low - 0.4038).abs() < 1e-4);
        assert_eq!(wilson95(0, 0), (0.0, 1.0));
    }
}
