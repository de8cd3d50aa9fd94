//! A loop that does nothing but a kernel's dot products in registers: what benches measure the peak with.

use super::tile::{Dot, Reg};
use crate::simd::Simd;

/// Sums that grow side by side: enough to hide the latency, few enough for the registers, of which AVX-512 has 32.
const fn chains<D: Dot>() -> usize {
    if D::Lanes::LANES >= 16 { 24 } else { 12 }
}

/// Multiply-adds in a round of [`peak`].
pub(crate) const fn multiply_adds<D: Dot>() -> u64 {
    (chains::<D>() * D::Lanes::LANES * D::FORM.kr()) as u64
}

/// Runs so many rounds.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn peak<D: Dot>(rounds: u64) {
    // SAFETY: the contract of this function.
    unsafe {
        if chains::<D>() == 24 {
            run::<D, 24>(rounds);
        } else {
            run::<D, 12>(rounds);
        }
    }
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn run<D: Dot, const N: usize>(rounds: u64) {
    // SAFETY: the contract of this function.
    unsafe {
        let b = D::Lanes::splat(std::hint::black_box(0x0102_0301));
        let mut acc = [D::Lanes::splat(std::hint::black_box(0x0203_0102)); N];
        for _ in 0..rounds {
            for i in 0..N {
                // The other operand is a sum that changes from round to round: a fixed product would be hoisted.
                acc[i] = D::dot(acc[i], acc[(i + 1) % N], b);
            }
        }
        let sum = acc.into_iter().fold(b, |sum: Reg<D>, chain| D::Lanes::add(sum, chain));
        std::hint::black_box(sum);
    }
}
