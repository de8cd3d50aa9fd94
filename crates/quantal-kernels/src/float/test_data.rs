//! Values for the tests of this folder.

/// `n` values in −1 … 1 with all 24 bits in use, from a fixed seed.
pub(super) fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1 << 23) as f32) - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// Asserts that both hold the same bits; any NaN equals any other.
pub(super) fn assert_same_bits(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let same = g.to_bits() == e.to_bits() || g.is_nan() && e.is_nan();
        assert!(same, "{what}: [{i}] is {g:e}, not {e:e}");
    }
}
