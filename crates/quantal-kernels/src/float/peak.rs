//! A loop that does nothing but multiply and add in registers: what benches measure the peak with.

use super::lanes::{FloatIsa, LANES};
use super::rows::row;
use crate::Isa;

/// How often to go round, and where a result goes that keeps the loop alive.
pub(super) struct Peak {
    rounds: u64,
    sink: *mut f32,
}

/// Chains per round: enough to hide the latency, few enough for the registers.
const fn chains(tile_vectors: usize) -> u64 {
    if tile_vectors == 1 { 6 } else { 12 }
}

/// # Safety
/// `sink` is good for writing 16 values.
#[inline(always)]
pub(super) unsafe fn peak<I: FloatIsa>(isa: I, p: &Peak) {
    // SAFETY: the contract of this function.
    unsafe {
        if chains(I::VECTORS) == 6 {
            run::<I, 6>(isa, p);
        } else {
            run::<I, 12>(isa, p);
        }
    }
}

#[inline(always)]
unsafe fn run<I: FloatIsa, const N: usize>(isa: I, p: &Peak) {
    let (by, plus) = (isa.splat(std::hint::black_box(0.5)), isa.splat(std::hint::black_box(1.0)));
    let mut acc = [plus; N];
    for _ in 0..p.rounds {
        for chain in &mut acc {
            *chain = isa.fma(*chain, by, plus);
        }
    }
    let mut sum = plus;
    for chain in acc {
        sum = isa.add(sum, chain);
    }
    // SAFETY: the contract of `peak`.
    unsafe { isa.store(p.sink, sum) };
}

/// Runs `rounds` rounds of independent fused multiply-adds on registers and gives the floating-point operations done
/// (two for each): divided by the time it took, the peak of this core.
pub fn fma_loop(isa: Isa, rounds: u64) -> u64 {
    let row = row(isa);
    let mut sink = [0.0; LANES];
    // SAFETY: `sink` has 16 values.
    unsafe { (row.peak)(&Peak { rounds, sink: sink.as_mut_ptr() }) };
    std::hint::black_box(sink);
    2 * rounds * LANES as u64 * chains(row.tile_vectors)
}
