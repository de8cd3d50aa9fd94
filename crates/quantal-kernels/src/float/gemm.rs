//! Matrix products, and the driver that convolutions share: blocks of A gathered, panels of B swept, tile by tile.

use super::gather::{Gather, Source};
use super::lanes::LANES;
use super::pack::PackedB;
use super::rows::{Row, row};
use super::scratch::{Shared, prefetch, with_scratch};
use super::tile::{A_STRIDE, Tile};
use super::unary::Unary;
use crate::{Isa, Threads};

/// The left matrix `[m, k]` of any layout: element (i, j) at `data[i·row_stride + j·col_stride]`. `k` is that of the
/// right matrix.
#[derive(Clone, Copy)]
pub struct AView<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Rows.
    pub m: usize,
    /// Distance between two rows, in elements.
    pub row_stride: usize,
    /// Distance between two columns, in elements.
    pub col_stride: usize,
}

/// What happens to a sum before it is stored: `clamp(activation(sum + bias + residual))`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// One value per column (output channel).
    pub bias: Option<&'a [f32]>,
    /// A tensor of the output's shape.
    pub residual: Option<Residual<'a>>,
    /// The function applied to each element.
    pub activation: Option<Unary>,
    /// The range that results are held to; infinite ends do nothing. NaN stays NaN.
    pub clamp: (f32, f32),
}

/// A matrix of the output's shape that is added to it: row i begins at `data[i·row_stride]`.
#[derive(Clone, Copy)]
pub struct Residual<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distance between two rows, in elements.
    pub row_stride: usize,
}

impl Epilogue<'_> {
    /// Nothing: the sums as they are.
    pub const NONE: Self = Self { bias: None, residual: None, activation: None, clamp: NO_CLAMP };

    /// Asserts that the slices cover an output of `m` rows and `n` columns.
    pub(super) fn assert_covers(&self, m: usize, n: usize) {
        if let Some(bias) = self.bias {
            assert!(bias.len() >= n, "a bias of {} values for {n} columns", bias.len());
        }
        if let Some(r) = self.residual {
            assert_matrix(r.data.len(), m, r.row_stride, n, 1, "the residual");
        }
    }
}

pub(super) const NO_CLAMP: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);

/// Asserts that a matrix of these strides lies within `len` elements.
pub(super) fn assert_matrix(len: usize, m: usize, row_stride: usize, n: usize, col_stride: usize, what: &str) {
    if m > 0 && n > 0 {
        let last = (m - 1).checked_mul(row_stride).zip((n - 1).checked_mul(col_stride));
        let last = last.and_then(|(r, c)| r.checked_add(c));
        assert!(last.is_some_and(|last| last < len), "{what}: {len} elements do not hold {m}x{n}");
    }
}

/// `out[i, j] = epilogue(Σ_k a[i, k]·b[k, j])`, row i of `out` beginning at `i·ldc`.
///
/// # Panics
/// When a slice is too short for the shapes, or `ldc < n`.
pub fn gemm(
    isa: Isa,
    a: AView<'_>,
    b: &PackedB,
    epilogue: &Epilogue<'_>,
    out: &mut [f32],
    ldc: usize,
    threads: &Threads,
) {
    assert_matrix(a.data.len(), a.m, a.row_stride, b.k(), a.col_stride, "the left matrix");
    assert_matrix(out.len(), a.m, ldc, b.n(), 1, "the output");
    assert!(ldc >= b.n(), "rows of the output overlap");
    epilogue.assert_covers(a.m, b.n());
    let part = Part { source: Source::Matrix(a), b, column: 0 };
    // SAFETY: `a` lies within its data, the output and the epilogue's slices cover m x n, rows of the output are
    // disjoint: asserted above.
    unsafe { products(row(isa), a.m, &[part], epilogue, Shared::new(out), ldc, threads) };
}

/// One of several products that fill an output side by side: the groups of a convolution.
pub(super) struct Part<'a> {
    pub(super) source: Source<'a>,
    pub(super) b: &'a PackedB,
    /// The first output column.
    pub(super) column: usize,
}

/// Rows of A that a task gathers at once, at most: 179 KiB, for the level-2 cache.
const M_BLOCK: usize = 168;

const LINE_BYTES: usize = size_of::<[f32; LANES]>();

/// Multiplications worth a task of their own: some microseconds.
const TASK_WORK: usize = 1 << 17;

/// Computes the products, split over the threads.
///
/// # Safety
/// Each source has `m` rows of `b.k()`; `out` is good for writing m rows of `ldc`, the columns of the parts being
/// disjoint and below `ldc`; the epilogue's slices cover them.
pub(super) unsafe fn products(
    row: &Row,
    m: usize,
    parts: &[Part<'_>],
    epilogue: &Epilogue<'_>,
    out: Shared,
    ldc: usize,
    threads: &Threads,
) {
    let Some(n) = parts.iter().map(|p| p.b.n()).max() else { return };
    if m == 0 || n == 0 {
        return;
    }
    let k = parts[0].b.k();
    let work = m.saturating_mul(n).saturating_mul(k.max(1)).saturating_mul(parts.len());
    let wanted = if threads.count() == 1 { 1 } else { (4 * threads.count()).min(work / TASK_WORK + 1) };
    // Columns are split before rows become few: a block of rows is what makes a panel worth reading.
    let mut row_blocks = m.div_ceil(M_BLOCK);
    let column_blocks = wanted.div_ceil(row_blocks * parts.len()).min(n.div_ceil(4 * LANES)).max(1);
    if row_blocks * column_blocks * parts.len() < wanted {
        row_blocks = wanted.div_ceil(column_blocks * parts.len()).min(m.div_ceil(2 * row.tile_rows));
    }
    let rows = m.div_ceil(row_blocks).next_multiple_of(row.tile_rows);
    let row_blocks = m.div_ceil(rows);
    let columns = n.div_ceil(column_blocks).next_multiple_of(row.tile_vectors * LANES);
    let column_blocks = n.div_ceil(columns);

    threads.parallel_for(parts.len() * row_blocks * column_blocks, &|task| {
        let (column, rest) = (task % column_blocks, task / column_blocks);
        let (first, part) = (rest % row_blocks, &parts[rest / row_blocks]);
        let (r0, c0) = (first * rows, column * columns);
        let block = Block {
            row,
            b: part.b,
            column: part.column,
            epilogue,
            out,
            ldc,
            rows: (r0, m.min(r0 + rows)),
            columns: (c0.min(part.b.n()), part.b.n().min(c0 + columns)),
        };
        with_scratch((block.rows.1 - block.rows.0) * A_STRIDE, |a| {
            // SAFETY: rows and columns lie within m and n; blocks are disjoint; the rest is this function's contract.
            unsafe { block.run(part.source, a) };
        });
    });
}

/// Values that [`rows`] works on.
pub(super) const SCRATCH: usize = (M_BLOCK + TALLEST) * A_STRIDE;
/// The tallest tile of any instruction set.
pub(super) const TALLEST: usize = 14;

/// Computes rows `begin … end` of one product on this thread, the first of them at the beginning of `out`.
///
/// # Safety
/// The source has these rows of `b.k()`; `out` is good for writing as many of `ldc`; the epilogue's slices cover them.
pub(super) unsafe fn rows(
    row: &Row,
    part: &Part<'_>,
    epilogue: &Epilogue<'_>,
    (begin, end): (usize, usize),
    out: Shared,
    ldc: usize,
    a: &mut [f32],
) {
    if begin == end {
        return;
    }
    let blocks = (end - begin).div_ceil(M_BLOCK);
    let height = (end - begin).div_ceil(blocks).next_multiple_of(row.tile_rows);
    for first in (begin..end).step_by(height) {
        let rows = (first, end.min(first + height));
        let (b, column, columns) = (part.b, part.column, (0, part.b.n()));
        let block = Block { row, b, column, epilogue, out: out.back(begin * ldc), ldc, rows, columns };
        // SAFETY: the contract of this function; `out` begins with row `begin`.
        unsafe { block.run(part.source, a) };
    }
}

/// A block of the output: rows and columns as (begin, end).
pub(super) struct Block<'a> {
    pub(super) row: &'a Row,
    pub(super) b: &'a PackedB,
    /// The output column of the first column of `b`.
    pub(super) column: usize,
    pub(super) epilogue: &'a Epilogue<'a>,
    pub(super) out: Shared,
    pub(super) ldc: usize,
    pub(super) rows: (usize, usize),
    pub(super) columns: (usize, usize),
}

impl Block<'_> {
    /// # Safety
    /// As for `products`, for this block.
    unsafe fn run(&self, source: Source<'_>, a: &mut [f32]) {
        let count = self.rows.1 - self.rows.0;
        if self.columns.0 >= self.columns.1 {
            return;
        }
        assert!(a.len() >= count * A_STRIDE, "room for the rows");
        let k = self.b.k();
        // An empty block where K = 0 still writes the epilogue of 0.
        for block in self.b.blocks() {
            let to = a.as_mut_ptr();
            let (first, k0, depth) = (self.rows.0, block.0, block.1 - block.0);
            let gather = Gather { source, first, count, k0, k: depth, to };
            // SAFETY: the rows lie within the source by the contract, the block within k; `a` has count·A_STRIDE values,
            // asserted above.
            unsafe {
                (self.row.gather)(&gather);
                self.sweep(a, block, block.0 == 0, block.1 == k);
            }
        }
        if let Some(activation) = self.epilogue.activation {
            let width = self.columns.1 - self.columns.0;
            for r in self.rows.0..self.rows.1 {
                let at = self.out.at(r * self.ldc + self.column + self.columns.0);
                // SAFETY: this row of the block, which is this task's own.
                let x = unsafe { std::slice::from_raw_parts_mut(at, width) };
                super::unary::apply(self.row, activation, self.epilogue.clamp, x);
            }
        }
    }

    /// Multiplies a gathered block of rows by every panel of a block of B, the `first` or `last` of those whose products
    /// make one sum.
    ///
    /// # Safety
    /// As for `products`; `a` holds the rows' columns of the block.
    pub(super) unsafe fn sweep(&self, a: &[f32], block: (usize, usize), first: bool, last: bool) {
        let k = block.1 - block.0;
        let panel_stride = k * LANES;
        let count = self.rows.1 - self.rows.0;
        // Tiles of nearly equal height: a low last tile would waste the registers.
        let tiles = count.div_ceil(self.row.tile_rows);
        let tile_width = self.row.tile_vectors * LANES;
        let widths = (self.columns.1 - self.columns.0).div_ceil(tile_width);
        for (w, t) in (0..widths).flat_map(|w| (0..tiles).map(move |t| (w, t))) {
            let column = self.columns.0 + w * tile_width;
            let width = (self.columns.1 - column).min(tile_width);
            let b = self.b.panels(block, column / LANES);
            let (r0, r1) = (t * count / tiles, (t + 1) * count / tiles);
            let (global, out_column) = (self.rows.0 + r0, self.column + column);
            let bias = self.epilogue.bias.map_or(std::ptr::null(), |bias| bias[out_column..].as_ptr());
            let residual = self.epilogue.residual.map_or((std::ptr::null(), 0), |r| {
                (r.data[global * r.row_stride + out_column..].as_ptr(), r.row_stride)
            });
            let plain = self.epilogue.activation.is_none();
            // While the tiles of a panel compute, the next panels come nearer: a share with each tile, some bytes with
            // each step.
            let ahead_step = if tiles == 1 { 0 } else { width.div_ceil(LANES) * LINE_BYTES / tiles };
            let next = b.as_ptr().wrapping_add(panel_stride * width.div_ceil(LANES));
            let tile = Tile {
                a: a[r0 * A_STRIDE..].as_ptr(),
                b: b.as_ptr(),
                panel_stride,
                ahead: next.wrapping_byte_add(t * k * ahead_step),
                ahead_step,
                k,
                rows: r1 - r0,
                width,
                c: self.out.at(global * self.ldc + out_column),
                c_stride: self.ldc,
                accumulate: !first,
                last,
                bias,
                residual: residual.0,
                residual_stride: residual.1,
                clamp: if plain { self.epilogue.clamp } else { NO_CLAMP },
            };
            for r in 0..if first { tile.rows } else { 0 } {
                for v in (0..width).step_by(LANES) {
                    prefetch(tile.c.wrapping_add(r * self.ldc + v));
                }
            }
            // SAFETY: `a` has the rows, `b` the panels (column is a multiple of 16, the width does not pass the last
            // panel); C, bias and residual cover `width` columns.
            unsafe { (self.row.tile)(&tile) };
        }
    }
}

#[cfg(test)]
mod tests;
