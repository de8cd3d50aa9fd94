//! The transforms of F(4×4, 3×3) in f32, with the points 0, ±3/4, ±3/2 and ∞: their constants are exact, and the error
//! is half of that with the usual 0, ±1, ±2 and about twice that of the direct sum (what makes points good: Barabasz
//! et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020).
//!
//! In one dimension, four outputs of three taps are `y = Aᵀ[(G w) ⊙ (Bᵀ x)]`. With points 0, ±a, ±b and ∞:
//!
//! ```text
//!      a²b²   0   −a²−b²    0    1  0          1/a²b²   0      0            1  1  1  1  1  0
//!       0   ∓ab²    −b²    ±a    1  0     G =  g(±a, b)               Aᵀ =  0  a −a  b −b  0
//! Bᵀ =  0   ∓a²b    −a²    ±b    1  0          g(±b, a)                     0  a² a² b² b² 0
//!       0    a²b²    0   −a²−b²  0  1            0      0      1            0  a³−a³ b³−b³ 1
//!
//! g(p, q) = (1, p, p²) / 2p²(p² − q²)
//! ```

// Indices are rows and columns of a tile.
#![allow(clippy::needless_range_loop)]

use super::super::lanes::{FloatIsa, LANES};
use super::super::tile::load;
use crate::winograd::{IN, OUT, POSITIONS};

const A: f32 = 0.75;
const B: f32 = 1.5;

/// `G w Gᵀ` for the taps of sixteen columns, row by row, each rounded once.
pub(super) fn weights(taps: &[[f32; LANES]; 9]) -> [[f32; LANES]; POSITIONS] {
    let g = g();
    let mut half = [[[0.0_f64; LANES]; 3]; IN];
    for (y, x, k) in (0..IN).flat_map(|y| (0..3).flat_map(move |x| (0..3).map(move |k| (y, x, k)))) {
        for l in 0..LANES {
            half[y][x][l] += g[y][k] * f64::from(taps[3 * k + x][l]);
        }
    }
    let mut all = [[0.0; LANES]; POSITIONS];
    for (y, x) in (0..IN).flat_map(|y| (0..IN).map(move |x| (y, x))) {
        for l in 0..LANES {
            let sum = g[x][0] * half[y][0][l] + g[x][1] * half[y][1][l] + g[x][2] * half[y][2][l];
            all[y * IN + x][l] = sum as f32;
        }
    }
    all
}

fn g() -> [[f64; 3]; IN] {
    let (a, b) = (f64::from(A), f64::from(B));
    let row = |p: f64, q: f64| [1.0, p, p * p].map(|power| power / (2.0 * p * p * (p * p - q * q)));
    [[1.0 / (a * a * b * b), 0.0, 0.0], row(a, b), row(-a, b), row(b, a), row(-b, a), [0.0, 0.0, 1.0]]
}

/// The window of a tile and where its transform goes.
pub(in super::super) struct TileIn<'a> {
    /// The channels of each pixel, row by row.
    pub(super) pixels: &'a [*const f32; POSITIONS],
    /// The first channel to take.
    pub(super) first: usize,
    /// How many.
    pub(super) channels: usize,
    /// Takes them at each position, rounded up to whole vectors.
    pub(super) to: &'a [*mut f32; POSITIONS],
}

/// Writes `Bᵀ x B`.
///
/// # Safety
/// The pointers of `t` are good for what [`TileIn`] says.
#[inline(always)]
pub(in super::super) unsafe fn tile_in<I: FloatIsa>(isa: I, t: &TileIn<'_>) {
    for c in (0..t.channels).step_by(LANES) {
        let n = LANES.min(t.channels - c);
        let mut half = [[isa.splat(0.0); IN]; IN];
        for x in 0..IN {
            let mut column = [isa.splat(0.0); IN];
            for y in 0..IN {
                // SAFETY: the caller's promise.
                column[y] = unsafe { load(isa, t.pixels[y * IN + x].add(t.first + c), n) };
            }
            let column = input_axis(isa, column);
            for y in 0..IN {
                half[y][x] = column[y];
            }
        }
        for y in 0..IN {
            let row = input_axis(isa, half[y]);
            for x in 0..IN {
                // SAFETY: the caller's promise.
                unsafe { isa.store(t.to[y * IN + x].add(c), row[x]) };
            }
        }
    }
}

/// `Bᵀ d`.
#[inline(always)]
fn input_axis<I: FloatIsa>(isa: I, d: [I::V; IN]) -> [I::V; IN] {
    let [plus_a, minus_a] = input_pair(isa, A, B, d);
    let [plus_b, minus_b] = input_pair(isa, B, A, d);
    let (product, sum) = (isa.splat(A * A * B * B), isa.splat(-A * A - B * B));
    let first = isa.fma(product, d[0], isa.fma(sum, d[2], d[4]));
    let last = isa.fma(product, d[1], isa.fma(sum, d[3], d[5]));
    [first, plus_a, minus_a, plus_b, minus_b, last]
}

/// The rows of `Bᵀ d` for the points `±p`, the others being `±q`.
#[inline(always)]
fn input_pair<I: FloatIsa>(isa: I, p: f32, q: f32, d: [I::V; IN]) -> [I::V; 2] {
    let others = isa.splat(-q * q);
    let (even, odd) = (isa.fma(others, d[2], d[4]), isa.fma(others, d[1], d[3]));
    [isa.fma(isa.splat(p), odd, even), isa.fma(isa.splat(-p), odd, even)]
}

/// The products of a tile and what becomes of them.
pub(in super::super) struct TileOut {
    /// The products of each position, `stride` apart.
    pub(super) products: *const f32,
    pub(super) stride: usize,
    /// Columns: output channels.
    pub(super) columns: usize,
    /// Rows and columns of the tile that are in the image.
    pub(super) size: [usize; 2],
    /// A value for each column, or null.
    pub(super) bias: *const f32,
    /// As `to`, or null.
    pub(super) residual: *const f32,
    /// Distances of rows and of pixels of the residual.
    pub(super) residual_strides: [usize; 2],
    /// The range that results are held to.
    pub(super) clamp: (f32, f32),
    /// Takes the columns of each pixel in the image.
    pub(super) to: *mut f32,
    /// Distances of its rows and of its pixels.
    pub(super) strides: [usize; 2],
}

/// Writes `clamp(Aᵀ m A + bias + residual)`.
///
/// # Safety
/// The pointers of `t` are good for what [`TileOut`] says, products in whole vectors.
#[inline(always)]
pub(in super::super) unsafe fn tile_out<I: FloatIsa>(isa: I, t: &TileOut) {
    let (low, high) = (isa.splat(t.clamp.0), isa.splat(t.clamp.1));
    for c in (0..t.columns).step_by(LANES) {
        let n = LANES.min(t.columns - c);
        let mut half = [[isa.splat(0.0); IN]; OUT];
        for x in 0..IN {
            let mut column = [isa.splat(0.0); IN];
            for y in 0..IN {
                // SAFETY: the caller's promise.
                column[y] = unsafe { isa.load(t.products.add((y * IN + x) * t.stride + c)) };
            }
            let column = output_axis(isa, column);
            for y in 0..OUT {
                half[y][x] = column[y];
            }
        }
        // SAFETY: the caller's promise.
        let bias = if t.bias.is_null() { None } else { Some(unsafe { load(isa, t.bias.add(c), n) }) };
        for y in 0..t.size[0] {
            let row = output_axis(isa, half[y]);
            for x in 0..t.size[1] {
                let mut sum = row[x];
                if let Some(bias) = bias {
                    sum = isa.add(sum, bias);
                }
                // SAFETY: the caller's promise; the pixel is in the image.
                unsafe {
                    if !t.residual.is_null() {
                        let at = y * t.residual_strides[0] + x * t.residual_strides[1] + c;
                        sum = isa.add(sum, load(isa, t.residual.add(at), n));
                    }
                    // NaN stays: it is the second operand.
                    sum = isa.min(high, isa.max(low, sum));
                    let to = t.to.add(y * t.strides[0] + x * t.strides[1] + c);
                    if n == LANES { isa.store(to, sum) } else { isa.store_part(to, sum, n) }
                }
            }
        }
    }
}

/// `Aᵀ m`.
#[inline(always)]
fn output_axis<I: FloatIsa>(isa: I, m: [I::V; IN]) -> [I::V; OUT] {
    let (sum_a, difference_a) = (isa.add(m[1], m[2]), isa.sub(m[1], m[2]));
    let (sum_b, difference_b) = (isa.add(m[3], m[4]), isa.sub(m[3], m[4]));
    let cubes = isa.fma(isa.splat(B * B * B), difference_b, m[5]);
    [
        isa.add(m[0], isa.add(sum_a, sum_b)),
        isa.fma(isa.splat(A), difference_a, isa.mul(isa.splat(B), difference_b)),
        isa.fma(isa.splat(A * A), sum_a, isa.mul(isa.splat(B * B), sum_b)),
        isa.fma(isa.splat(A * A * A), difference_a, cubes),
    ]
}
