//! What the tests of several kernels share: seeded codes, and emulated registers.

use std::cell::Cell;

use crate::geometry::out_size;
use crate::{ConvGeometry, Isa};

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

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
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

/// Shapes that a test of windows draws: fewer under Miri, which takes a thousand times as long.
pub(crate) const DRAWS: u64 = if cfg!(miri) { 6 } else { 250 };

/// A window over small images, for a seed: sides of 1, strides, dilations and pads larger than the image, no images,
/// images or outputs without pixels, and outputs that hang over the padding are as frequent as the ordinary ones.
pub(crate) fn odd_window(random: &mut Seeded, [c_in, c_out, groups]: [usize; 3]) -> ConvGeometry {
    let batch = random.pick(&[0, 1, 1, 1, 2, 3]);
    let mut g = odd_sizes(random, batch, [c_in, c_out, groups]);
    for axis in 0..2 {
        let (size, pads) = ([g.h, g.w][axis], [g.pads[axis], g.pads[axis + 2]]);
        let whole = out_size(size, g.kernel[axis], g.stride[axis], g.dilation[axis], pads[0], pads[1]).unwrap_or(0);
        // Rounded up, if the last window still begins inside of the padded image.
        let hangs = whole > 0 && random.below(4) == 0 && whole * g.stride[axis] < size + pads[0] + pads[1];
        let out = whole + usize::from(hangs);
        if axis == 0 { g.h_out = out } else { g.w_out = out }
    }
    g
}

/// The same for a transposed convolution, with pixels of output padding; now and then of any size whatever.
pub(crate) fn odd_transposed(random: &mut Seeded, [c_in, c_out, groups]: [usize; 3]) -> ConvGeometry {
    let batch = random.pick(&[0, 1, 1, 1, 2, 3]);
    let mut g = odd_sizes(random, batch, [c_in, c_out, groups]);
    for axis in 0..2 {
        let reach = (g.kernel[axis] - 1) * g.dilation[axis] + 1;
        let output_padding = random.below(g.stride[axis].max(g.dilation[axis]));
        let all = [g.h, g.w][axis].saturating_sub(1) * g.stride[axis] + reach + output_padding;
        let usual = all.saturating_sub(g.pads[axis] + g.pads[axis + 2]);
        let any = random.below(12);
        let out = random.pick(&[usual, usual, usual, any]);
        if axis == 0 { g.h_out = out } else { g.w_out = out }
    }
    g
}

fn odd_sizes(random: &mut Seeded, batch: usize, [c_in, c_out, groups]: [usize; 3]) -> ConvGeometry {
    let mut side = || random.pick(&[0, 1, 1, 1, 1, 2, 3, 4, 7, 18]);
    let (h, w) = (side(), side());
    let mut two = |from: &[usize]| [random.pick(from), random.pick(from)];
    let kernel = two(&[1, 1, 2, 3, 3, 5]);
    let stride = two(&[1, 1, 2, 3, 20]);
    let dilation = two(&[1, 1, 1, 2, 9]);
    let [top, left] = two(&[0, 0, 1, 2, 6]);
    let [bottom, right] = two(&[0, 0, 1, 2, 6]);
    let pads = [top, left, bottom, right];
    ConvGeometry { batch, h, w, c_in, c_out, kernel, stride, dilation, pads, groups, h_out: 0, w_out: 0 }
}

/// Channels of the input and the output, and groups.
pub(crate) fn odd_channels(random: &mut Seeded) -> [usize; 3] {
    let groups = random.pick(&[1, 1, 1, 2, 3]);
    let (c, n) = (random.pick(&[1, 1, 2, 3, 8, 17, 33]), random.pick(&[1, 1, 2, 5, 16, 37, 66]));
    [c * groups, n * groups, groups]
}
