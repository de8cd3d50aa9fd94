//! How far two tensors are apart. Sums run in f64, in index order: the same figure on every machine.

/// Signal-to-quantization-noise ratio in decibels: `10·log10(Σ r² / Σ (r − x)²)`. Equal inputs give +∞; a silent
/// reference that is not met exactly gives −∞. `reference` and `x` have the same length.
pub fn sqnr_db(reference: &[f32], x: &[f32]) -> f64 {
    let mut noise = SqnrSums::default();
    noise.add(reference, x);
    noise.db()
}

/// The two sums of an SQNR, to be collected over many samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqnrSums {
    /// Σ r².
    pub signal: f64,
    /// Σ (r − x)².
    pub noise: f64,
}

impl SqnrSums {
    /// Adds one pair of tensors. Where both hold the same infinity, or NaN both, nothing differs and nothing is added.
    pub fn add(&mut self, reference: &[f32], x: &[f32]) {
        for (&r, &x) in reference.iter().zip(x) {
            if !r.is_finite() && (r == x || r.is_nan() && x.is_nan()) {
                continue;
            }
            let (r, d) = (f64::from(r), f64::from(r) - f64::from(x));
            self.signal += r * r;
            self.noise += d * d;
        }
    }

    /// The ratio in decibels.
    pub fn db(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_percent_noise_is_forty_decibels() {
        assert!((sqnr_db(&[1.0, -1.0], &[1.01, -1.01]) - 40.0).abs() < 1e-4);
        assert_eq!(sqnr_db(&[1.0], &[1.0]), f64::INFINITY);
        assert_eq!(sqnr_db(&[0.0], &[1.0]), f64::NEG_INFINITY);
        let masked = [f32::NEG_INFINITY, 1.0, f32::NAN];
        assert_eq!(sqnr_db(&masked, &masked), f64::INFINITY);
        assert!(sqnr_db(&masked, &[0.0, 1.0, 0.0]).is_nan(), "only where both do");
    }
}
