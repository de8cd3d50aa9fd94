//! How well codes would hold what a normalization reads.
//!
//! A normalization brings rows to one variance, and their rounding with them. So what counts is the variance of a row
//! against that of rounding, and no row may be lost among the others: where tokens are classified by the first of them,
//! outputs depend on that one alone, and before a transformer's first blocks it may be a hundred times smaller than the
//! rest. Rows are told apart by their position, and the smallest decides.

/// The variance of rows at each position, and the range that codes would have to cover.
#[derive(Clone, Debug)]
pub struct Spread {
    /// What the normalization adds to a variance.
    epsilon: f64,
    /// For each position, the squared deviations from the means of rows, and the number of values.
    squares: Vec<(f64, u64)>,
    min: f32,
    max: f32,
}

impl Spread {
    /// Nothing seen yet, before a normalization with this `epsilon`.
    pub fn new(epsilon: f32) -> Self {
        Self { epsilon: f64::from(epsilon), squares: Vec::new(), min: 0.0, max: 0.0 }
    }

    /// Takes in a tensor whose rows are its last axis and whose positions are the axis before it: tokens, or the columns
    /// of an image with channels last. With two axes or fewer there is one position: what else there is are samples.
    pub fn add(&mut self, values: &[f32], shape: &[usize]) {
        let columns = shape.last().copied().unwrap_or(1).max(1);
        let positions = if let [_, .., positions, _] = *shape { positions } else { 1 };
        if self.squares.len() < positions {
            self.squares.resize(positions, (0.0, 0));
        }
        for (i, row) in values.chunks(columns).enumerate() {
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / row.len() as f64;
            let (squares, count) = &mut self.squares[i % positions];
            for &v in row {
                let d = f64::from(v) - mean;
                *squares += d * d;
                (self.min, self.max) = (self.min.min(v), self.max.max(v));
            }
            *count += row.len() as u64;
        }
    }

    /// The variance of rows at the position where it is smallest against that of rounding to `levels` steps over the
    /// whole range, in decibels. A position whose variance is below epsilon does not count, for the normalization does
    /// not bring it out; infinite where none counts.
    pub fn sqnr_db(&self, levels: u32) -> f64 {
        let step = (f64::from(self.max) - f64::from(self.min)) / f64::from(levels);
        let variances = self.squares.iter().filter(|(_, n)| *n > 0).map(|(s, n)| s / *n as f64);
        let faintest = variances.filter(|v| *v > self.epsilon).fold(f64::INFINITY, f64::min);
        10.0 * libm::log10(12.0 * faintest / (step * step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deviations of 1, 0.1, `last` and 1 about means that do not count, at four positions; the range is 255.
    fn spread(shape: &[usize], last: f32) -> Spread {
        let mut spread = Spread::new(1e-5);
        for far in [-100.0, 153.0] {
            let rows = [[9.0, 11.0], [4.9, 5.1], [7.0 - last, 7.0 + last], [far, far + 2.0]];
            spread.add(rows.as_flattened(), shape);
        }
        spread
    }

    #[test]
    fn the_faintest_position_decides_whatever_the_others_are() {
        let db = |variance: f64| 10.0 * (12.0 * variance).log10();
        for (shape, last, variance) in [
            (&[1, 4, 2][..], 1.0, 0.01),
            // Faint rows that epsilon keeps faint, and rows that do not vary.
            (&[1, 4, 2], 1e-3, 0.01),
            (&[1, 4, 2], 0.0, 0.01),
            // Two columns of an image: rows 0 and 2, rows 1 and 3.
            (&[1, 2, 2, 2], 1.0, 0.505),
            // Four samples of one position.
            (&[4, 2], 1.0, 0.7525),
        ] {
            let found = spread(shape, last).sqnr_db(255);
            assert!((found - db(variance)).abs() < 1e-3, "{shape:?} {last}: {found} dB, not {}", db(variance));
        }
        assert_eq!(Spread::new(1e-5).sqnr_db(255), f64::INFINITY);
    }
}
