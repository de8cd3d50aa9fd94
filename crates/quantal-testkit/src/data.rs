//! Seeded data: the same on every machine.

use quantal_tensor::Tensor;

/// `count` values spread evenly over −1 … 1, in an order that the seed picks.
pub fn uniform(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678_9ABC_DEF1);
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// A tensor of such values.
///
/// # Panics
/// If there is no memory for it.
pub fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_slice(shape, &uniform(shape.iter().product(), seed)).expect("the slice fits the shape")
}
