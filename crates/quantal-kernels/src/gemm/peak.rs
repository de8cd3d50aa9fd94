//! Loops that do nothing but a kernel's dot products, all sums in registers: what benches measure the peak with.

use super::tile::{Dot, Reg, chains};
use crate::simd::Simd;

/// Where the changing operand of each dot product comes from. A fixed one would let the compiler compute one product for
/// all sums; which of the two costs nothing depends on the instruction and the CPU, so the peak is the better one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feed {
    /// Another sum, as the round before left it.
    Registers,
    /// The first cache.
    Cache,
}

impl Feed {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Registers, Self::Cache];
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
pub(crate) unsafe fn peak<D: Dot>(feed: Feed, rounds: u64) {
    // SAFETY: the contract of this function.
    unsafe {
        if chains::<D>() == 24 {
            run::<D, 24>(feed, rounds);
        } else {
            run::<D, 12>(feed, rounds);
        }
    }
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn run<D: Dot, const N: usize>(feed: Feed, rounds: u64) {
    // SAFETY: the contract of this function; `b` is a local that outlives the reads.
    unsafe {
        let b = D::Lanes::splat(std::hint::black_box(0x0102_0301));
        let a = D::Lanes::splat(std::hint::black_box(0x0203_0102));
        let mut acc = [a; N];
        match feed {
            Feed::Registers => {
                for _ in 0..rounds {
                    for i in 0..N {
                        // Not a ring: that would wait for the latency of whole dot products.
                        acc[i] = D::dot(acc[i], acc[(i + 1).min(N - 1)], b);
                    }
                }
            }
            Feed::Cache => {
                for _ in 0..rounds {
                    for chain in &mut acc {
                        *chain = D::dot(*chain, a, std::ptr::read_volatile(&raw const b));
                    }
                }
            }
        }
        let sum = acc.into_iter().fold(b, |sum: Reg<D>, chain| D::Lanes::add(sum, chain));
        std::hint::black_box(sum);
    }
}
