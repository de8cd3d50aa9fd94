//! Philox 4×32-10: four random words for each counter under a key.

/// The generator under a key.
#[derive(Debug, Clone)]
pub(super) struct Philox {
    key: [u32; 2],
}

impl Philox {
    pub(super) fn new(key: u64) -> Self {
        Self { key: [key as u32, (key >> 32) as u32] }
    }

    /// The words of a counter.
    fn block(&self, mut counter: [u32; 4]) -> [u32; 4] {
        let wide = |a: u32, b: u32| {
            let product = u64::from(a) * u64::from(b);
            ((product >> 32) as u32, product as u32)
        };
        let mut key = self.key;
        for round in 0..10 {
            if round > 0 {
                key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
            }
            let (high_0, low_0) = wide(0xD251_1F53, counter[0]);
            let (high_1, low_1) = wide(0xCD9E_8D57, counter[2]);
            counter = [high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0];
        }
        counter
    }

    /// Two numbers of 53 bits in `[0, 1)`.
    fn pair(&self, at: u64) -> [f64; 2] {
        let w = self.block([at as u32, (at >> 32) as u32, 0, 0]);
        let unit = |high: u32, low: u32| {
            let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
            bits as f64 / (1_u64 << 53) as f64
        };
        [unit(w[0], w[1]), unit(w[2], w[3])]
    }

    /// Numbers spread evenly over `[0, 1)`, without an end.
    pub(super) fn uniform(&self) -> impl Iterator<Item = f64> + '_ {
        (0_u64..).flat_map(|at| self.pair(at))
    }

    /// Two normal numbers of mean 0 and deviation 1 (Box and Muller 1958), the same on every machine.
    pub(super) fn normal_pair(&self, at: u64) -> [f64; 2] {
        let [u, v] = self.pair(at);
        // 1 − u is never 0.
        let radius = (-2.0 * libm::log(1.0 - u)).sqrt();
        let angle = 2.0 * std::f64::consts::PI * v;
        [radius * libm::cos(angle), radius * libm::sin(angle)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_published_generator() {
        // Known answers of Random123, philox4x32 with 10 rounds.
        let of = |key: [u32; 2], counter| Philox { key }.block(counter);
        assert_eq!(of([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(of([u32::MAX; 2], [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(of([0xa409_3822, 0x299f_31d0], pi), answer);
    }
}
