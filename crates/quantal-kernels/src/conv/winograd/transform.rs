//! The three transforms of F(4×4, 3×3), in integers (Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", 2015, section 4.1, with the fractions cleared).
//!
//! In one dimension, with the points 0, ±1, ±2 and ∞, four outputs of three taps are `y = Aᵀ[(G w) ⊙ (Bᵀ x)]`. Here `G` is
//! scaled by 24, and its middle rows, which have 4 in common, by 6: all of it stays whole, and small.
//!
//! ```text
//!      4  0 −5  0  1  0        6  0  0         1  4  4  1  1  0    24 y0
//!      0 −4 −4  1  1  0       −1 −1 −1         0  2 −2  1 −1  0    12 y1
//! Bᵀ = 0  4 −4 −1  1  0   G = −1  1 −1    Aᵀ = 0  1  1  1  1  0     6 y2
//!      0 −2 −1  2  1  0        1  2  4         0  1 −1  2 −2  1     6 y3
//!      0  2 −1 −2  1  0        1 −2  4
//!      0  4  0 −5  0  1        0  0  6
//! ```
//!
//! A code of 0 … 255 becomes at most 10 · 10 / 2 · 255 = 12,750 in magnitude and a weight at most 7 · 7 · 128 = 6,272: both
//! are i16. The outputs come out as `9 · 2^s · y` modulo 2³², which gives `y` where it has at most 32 − s bits; the most
//! that s can be is 6.

// Indices are rows and columns of a tile.
#![allow(clippy::needless_range_loop)]

use super::lanes::Shorts;
use crate::winograd::{IN, OUT, POSITIONS};

/// Sums of this magnitude and above are not recovered.
pub(super) const MOST_SUM: u64 = 1 << 25;
/// 9 · 954,437,177 = 2³³ + 1.
const INVERSE_OF_9: i32 = 954_437_177;
/// `log2` of what an output is scaled by besides 3, along one axis.
const SHIFTS: [u32; OUT] = [3, 2, 1, 1];

/// `G w Gᵀ` for the taps of one pair of channels, row by row.
pub(super) fn weights(w: [[i32; 3]; 3]) -> [[i16; IN]; IN] {
    let g = |[a, b, c]: [i32; 3]| [6 * a, -a - b - c, -a + b - c, a + 2 * b + 4 * c, a - 2 * b + 4 * c, 6 * c];
    let rows = w.map(g);
    let columns: [[i32; IN]; IN] = std::array::from_fn(|x| g([rows[0][x], rows[1][x], rows[2][x]]));
    std::array::from_fn(|y| std::array::from_fn(|x| columns[x][y] as i16))
}

/// One tile of the input and where its transform goes.
pub(super) struct InputArgs<'a> {
    /// The channels of each pixel, row by row.
    pub(super) pixels: &'a [*const u8; POSITIONS],
    /// How many.
    pub(super) channels: usize,
    /// What a code is xored with.
    pub(super) flip: u8,
    /// Takes `channels` elements, rounded up to whole registers, at each position.
    pub(super) to: *mut i16,
    /// Elements from one position to the next.
    pub(super) stride: usize,
}

/// Writes `Bᵀ x B`.
///
/// # Safety
/// As [`Simd`](crate::simd::Simd), and the pointers of `args` hold what [`InputArgs`] says.
#[inline(always)]
pub(super) unsafe fn input<S: Shorts>(args: &InputArgs) {
    const WIDEST: usize = 32;
    let wide = 2 * S::LANES;
    for c in (0..args.channels).step_by(wide) {
        let left = args.channels - c;
        // SAFETY: `c + wide` is at most the channels, or what is left of them is copied to where whole registers are.
        unsafe {
            let to = args.to.add(c);
            if left >= wide {
                input_chunk::<S>(args.pixels, c, args.flip, to, args.stride);
            } else {
                let mut rest = [[0_u8; WIDEST]; POSITIONS];
                let mut pixels = [std::ptr::null(); POSITIONS];
                for i in 0..POSITIONS {
                    std::ptr::copy_nonoverlapping(args.pixels[i].add(c), rest[i].as_mut_ptr(), left);
                    pixels[i] = rest[i].as_ptr();
                }
                input_chunk::<S>(&pixels, 0, args.flip, to, args.stride);
            }
        }
    }
}

/// One register of channels, from the `c`th on.
///
/// # Safety
/// As [`input`].
#[inline(always)]
unsafe fn input_chunk<S: Shorts>(pixels: &[*const u8; POSITIONS], c: usize, flip: u8, to: *mut i16, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let flip = S::splat_short(i16::from(flip));
        let mut half = [[S::splat(0); IN]; IN];
        for x in 0..IN {
            let mut column = [S::splat(0); IN];
            for y in 0..IN {
                column[y] = S::xor(S::widen(pixels[y * IN + x].add(c)), flip);
            }
            let column = input_axis::<S>(column);
            for y in 0..IN {
                half[y][x] = column[y];
            }
        }
        for y in 0..IN {
            let row = input_axis::<S>(half[y]);
            for x in 0..IN {
                S::store(to.add((y * IN + x) * stride).cast(), row[x]);
            }
        }
    }
}

/// `Bᵀ d` on i16.
///
/// # Safety
/// As [`Shorts`].
#[inline(always)]
unsafe fn input_axis<S: Shorts>(d: [S::I; IN]) -> [S::I; IN] {
    // SAFETY: handed on.
    unsafe {
        let even = S::sub_short(d[4], d[2]);
        let odd = S::sub_short(d[3], d[1]);
        let odd_2 = S::add_short(odd, odd);
        let even_4 = S::sub_short(d[4], S::times_4_short(d[2]));
        let odd_4 = S::sub_short(d[3], S::times_4_short(d[1]));
        [
            S::add_short(S::times_4_short(S::sub_short(d[0], d[2])), even),
            S::add_short(even_4, odd_4),
            S::sub_short(even_4, odd_4),
            S::add_short(even, odd_2),
            S::sub_short(even, odd_2),
            S::sub_short(S::sub_short(d[5], d[3]), S::add_short(odd_2, odd_2)),
        ]
    }
}

/// The products of one tile and where its sums go.
pub(super) struct OutputArgs {
    /// `columns` i32 at each position.
    pub(super) products: *const i32,
    /// Elements from one position to the next.
    pub(super) stride: usize,
    /// Columns, whole registers.
    pub(super) columns: usize,
    /// Takes the sums of `4 · width` pixels and of three more.
    pub(super) to: *mut i32,
    /// Pixels of a row to keep, 1 to 4: rows are written without gaps.
    pub(super) width: usize,
}

/// Writes the sums of a tile.
///
/// # Safety
/// As [`Simd`](crate::simd::Simd), and the pointers of `args` hold what [`OutputArgs`] says.
#[inline(always)]
pub(super) unsafe fn output<S: Shorts>(args: &OutputArgs) {
    for col in (0..args.columns).step_by(S::LANES) {
        // SAFETY: the caller's promise. Pixels that are not kept go where later ones or nothing else lies.
        unsafe {
            let mut half = [[S::splat(0); IN]; OUT];
            for x in 0..IN {
                let mut column = [S::splat(0); IN];
                for y in 0..IN {
                    column[y] = S::load(args.products.add((y * IN + x) * args.stride + col));
                }
                let column = output_axis::<S>(column);
                for y in 0..OUT {
                    half[y][x] = column[y];
                }
            }
            let inverse = S::splat(INVERSE_OF_9);
            for y in 0..OUT {
                let row = output_axis::<S>(half[y]);
                for x in 0..OUT {
                    let sum = S::shift_right(S::mul(row[x], inverse), SHIFTS[y] + SHIFTS[x]);
                    S::store(args.to.add((y * args.width + x) * args.columns + col), sum);
                }
            }
        }
    }
}

/// `Aᵀ m` on i32.
///
/// # Safety
/// As [`Shorts`].
#[inline(always)]
unsafe fn output_axis<S: Shorts>(m: [S::I; IN]) -> [S::I; OUT] {
    // SAFETY: handed on.
    unsafe {
        let (sum, difference) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (sum_2, difference_2) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        let sum_both = S::add(sum, sum_2);
        let twice = S::add(sum, sum);
        let difference_both = S::add(difference, difference_2);
        [
            S::add(S::add(m[0], sum_both), S::add(twice, sum)),
            S::add(difference_both, difference),
            sum_both,
            S::add(S::add(difference_both, difference_2), m[5]),
        ]
    }
}
