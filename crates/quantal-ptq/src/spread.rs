//! How well codes would hold what a normalization reads.
//!
//! A normalization divides each row by its deviation, and the rounding of the row with it. So what counts is the variance
//! of a row against that of rounding, and no row may be lost among the others: where tokens are classified by the first
//! of them, outputs depend on that one alone, and before a transformer's first blocks it may be a hundred times smaller
//! than the rest. Rows are told apart by their position, and the smallest decides.

/// The variance of rows at each position, and the range that codes would have to cover.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    /// For each position, the squared deviations from the means of rows, and the number of values.
    squares: Vec<(f64, u64)>,
    min: f32,
    max: f32,
}

impl Spread {
    /// Takes in a tensor of shape (…, positions, columns), whose rows are its last axis. With two axes or fewer there is
    /// one position: what else there is are samples.
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

    /// The variance of rows at the position where it is smallest against that of rounding to `levels` steps over the whole
    /// range, in decibels. Rows that do not vary have nothing to lose; infinite where none does.
    pub fn sqnr_db(&self, levels: u32) -> f64 {
        let step = (f64::from(self.max) - f64::from(self.min)) / f64::from(levels);
        let variances = self.squares.iter().filter(|(squares, _)| *squares > 0.0).map(|(s, n)| s / *n as f64);
        10.0 * libm::log10(12.0 * variances.fold(f64::INFINITY, f64::min) / (step * step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faintest_position_decides_whatever_the_others_are() {
        // Two samples of three positions. Deviations of 1, 0.1 and 1 about means that do not count; the range is 255.
        let mut spread = Spread::default();
        for far in [-100.0, 153.0] {
            let rows = [[9.0, 11.0], [4.9, 5.1], [far, far + 2.0]];
            spread.add(rows.as_flattened(), &[1, 3, 2]);
        }
        assert!((spread.sqnr_db(255) - 10.0 * (12.0_f64 * 0.01).log10()).abs() < 1e-4, "{}", spread.sqnr_db(255));
    }
}
