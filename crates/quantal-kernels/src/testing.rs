//! What the tests of several kernels share: seeded codes, and emulated registers.

use std::cell::Cell;

use crate::Isa;

thread_local! {
    static EMULATED_LANES: Cell<usize> = const { Cell::new(0) };
}

/// How many lanes `isa_fn!` emulates at the portable level on this thread; 0 for what users get.
pub(crate) fn emulated_lanes() -> usize {
    EMULATED_LANES.get()
}

/// Runs `test` on every instruction set of this CPU, and then on emulated registers as wide as those it may lack. (Only
/// this thread emulates; workers of a pool do what users get.)
pub(crate) fn on_every_width(test: impl Fn(Isa)) {
    Isa::available().into_iter().for_each(&test);
    emulate(8, || test(Isa::PORTABLE));
    emulate(16, || test(Isa::PORTABLE));
}

/// Runs `test` with the portable level on `lanes` emulated lanes.
pub(crate) fn emulate(lanes: usize, test: impl Fn()) {
    EMULATED_LANES.set(lanes);
    test();
    EMULATED_LANES.set(0);
}

/// A xorshift generator: the same numbers on every machine.
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) as usize) % n
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.next() >> 40) as u8).collect()
    }

    pub(crate) fn float(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / 16_777_216.0
    }
}

/// Rows of `n` elements, each with `gap` more that nobody may touch after it.
pub(crate) fn apart<T: Copy>(rows: &[T], n: usize, gap: usize, untouched: T) -> Vec<T> {
    rows.chunks(n).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(untouched, gap))).collect()
}

/// The code that a byte holds.
pub(crate) fn code(byte: u8, signed: bool) -> i32 {
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}
