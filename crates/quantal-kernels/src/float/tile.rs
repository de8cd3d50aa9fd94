//! The tile: a few rows of A times one or two panels of B, the one inner loop of matrix products and convolutions.

use super::lanes::{FloatIsa, LANES};
use super::scratch::prefetch;

/// Values of a row of A that a tile takes at once.
pub(super) const K_BLOCK: usize = 256;

/// Distance between two rows of the A block. A constant, so that the rows of a tile are displacements from one
/// register; 16 more than a block holds, which spreads rows over cache sets and lets copies overshoot.
pub(super) const A_STRIDE: usize = K_BLOCK + LANES;

/// What to compute: `c[r][j] = epilogue(c[r][j] + Σ_k a[r][k]·b[k][j])`, the sum as a chain in order.
pub(super) struct Tile {
    /// `rows` rows of `k` values, `A_STRIDE` apart.
    pub(super) a: *const f32,
    /// A panel of `k` lines of 16 for each 16 values of `width`, `panel_stride` apart.
    pub(super) b: *const f32,
    pub(super) panel_stride: usize,
    /// Any address, brought nearer while the tile computes, and how many bytes further with each step.
    pub(super) ahead: *const f32,
    pub(super) ahead_step: usize,
    pub(super) k: usize,
    /// 1 to `ROWS` of the instruction set.
    pub(super) rows: usize,
    /// 1 to `16·VECTORS` of the instruction set.
    pub(super) width: usize,
    /// `rows` rows of `width` values, `c_stride` apart.
    pub(super) c: *mut f32,
    pub(super) c_stride: usize,
    /// Whether the chain goes on from what `c` holds, or begins at 0.
    pub(super) accumulate: bool,
    /// Whether the chain ends here, so that the epilogue follows.
    pub(super) last: bool,
    /// `width` values added to each row, or null.
    pub(super) bias: *const f32,
    /// As `c`, `residual_stride` apart, or null.
    pub(super) residual: *const f32,
    pub(super) residual_stride: usize,
    /// The range that results are held to.
    pub(super) clamp: (f32, f32),
}

/// Computes the tile.
///
/// # Safety
/// The pointers are good for what the fields say, `c` for writing and apart from the others.
#[inline(always)]
pub(super) unsafe fn tile<I: FloatIsa>(isa: I, t: &Tile) {
    macro_rules! sizes {
        ($($rows:literal)*) => {
            match (t.rows, t.width.div_ceil(LANES)) {
                $(
                    // SAFETY: the contract of this function, the sizes being the fields'.
                    ($rows, 1) if $rows <= I::ROWS => unsafe { sized::<I, $rows, 1>(isa, t) },
                    // SAFETY: as above.
                    ($rows, 2) if $rows <= I::ROWS && I::VECTORS > 1 => unsafe { sized::<I, $rows, 2>(isa, t) },
                )*
                _ => unreachable!("a tile of {}x{}", t.rows, t.width),
            }
        };
    }
    sizes!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

#[inline(always)]
unsafe fn sized<I: FloatIsa, const ROWS: usize, const VECTORS: usize>(isa: I, t: &Tile) {
    let mut acc = [[isa.splat(0.0); VECTORS]; ROWS];
    // The last vector of a row may be a part.
    let count = |v| if v + 1 < VECTORS { LANES } else { t.width - v * LANES };
    // SAFETY: all offsets below are within what the fields of `Tile` promise: row r < ROWS = t.rows, lanes of vector
    // v < VECTORS up to t.width, step k < t.k.
    unsafe {
        if t.accumulate {
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    acc[r][v] = load(isa, t.c.add(r * t.c_stride + v * LANES), count(v));
                }
            }
        }
        let (mut a, mut b, mut ahead) = (t.a, t.b, t.ahead);
        for _ in 0..t.k {
            let mut line = [isa.splat(0.0); VECTORS];
            for v in 0..VECTORS {
                line[v] = isa.load(b.add(v * t.panel_stride));
            }
            for r in 0..ROWS {
                let x = isa.splat(*a.add(r * A_STRIDE));
                for v in 0..VECTORS {
                    acc[r][v] = isa.fma(x, line[v], acc[r][v]);
                }
            }
            prefetch(ahead);
            ahead = ahead.wrapping_byte_add(t.ahead_step);
            a = a.add(1);
            b = b.add(LANES);
        }
        if t.last {
            if !t.bias.is_null() {
                for v in 0..VECTORS {
                    let bias = load(isa, t.bias.add(v * LANES), count(v));
                    for r in 0..ROWS {
                        acc[r][v] = isa.add(acc[r][v], bias);
                    }
                }
            }
            if !t.residual.is_null() {
                for r in 0..ROWS {
                    for v in 0..VECTORS {
                        let x = load(isa, t.residual.add(r * t.residual_stride + v * LANES), count(v));
                        acc[r][v] = isa.add(acc[r][v], x);
                    }
                }
            }
            if t.clamp != (f32::NEG_INFINITY, f32::INFINITY) {
                let (low, high) = (isa.splat(t.clamp.0), isa.splat(t.clamp.1));
                for r in 0..ROWS {
                    for v in 0..VECTORS {
                        // NaN stays: it is the second operand.
                        acc[r][v] = isa.min(high, isa.max(low, acc[r][v]));
                    }
                }
            }
        }
        for r in 0..ROWS {
            for v in 0..VECTORS {
                let to = t.c.add(r * t.c_stride + v * LANES);
                if count(v) == LANES {
                    isa.store(to, acc[r][v]);
                } else {
                    isa.store_part(to, acc[r][v], count(v));
                }
            }
        }
    }
}

/// The first `n` ≤ 16 values from memory.
///
/// # Safety
/// `p` is good for reading `n` values.
#[inline(always)]
pub(super) unsafe fn load<I: FloatIsa>(isa: I, p: *const f32, n: usize) -> I::V {
    // SAFETY: the contract of this function.
    unsafe { if n == LANES { isa.load(p) } else { isa.load_part(p, n) } }
}
