//! The right side of a matrix product, laid out for the tiles.

use super::lanes::LANES;
use super::scratch::{Line, values};
use super::tile::K_BLOCK;

/// A matrix `[k, n]` of any layout: element (i, j) at `data[i·stride_k + j·stride_n]`.
#[derive(Clone, Copy)]
pub struct BView<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Rows.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Distance between two rows, in elements.
    pub stride_k: usize,
    /// Distance between two columns, in elements.
    pub stride_n: usize,
}

/// A matrix `[k, n]` cut into blocks of rows, and each block into panels of 16 columns, the last one filled up with
/// zeros: a product reads it from beginning to end. The layout is the same for every instruction set.
#[derive(Clone, Default)]
pub struct PackedB {
    lines: Vec<Line>,
    k: usize,
    n: usize,
    /// Rows of a block; the last one may be lower.
    block: usize,
}

impl PackedB {
    /// Packs a matrix.
    ///
    /// # Panics
    /// When `data` is too short for the strides.
    pub fn pack(b: BView<'_>) -> Self {
        let mut packed = Self::default();
        packed.repack(b);
        packed
    }

    /// Packs another matrix, into the memory that is there: for products of two activations.
    ///
    /// # Panics
    /// When `data` is too short for the strides.
    pub fn repack(&mut self, b: BView<'_>) {
        self.resize(b.k, b.n, balanced(b.k));
        if b.stride_n == 1 {
            self.fill(|i, j, line| {
                let row = &b.data[i * b.stride_k + j..];
                if let Some(row) = row.first_chunk().filter(|_| j + LANES <= b.n) {
                    *line = *row;
                } else {
                    line[..b.n - j].copy_from_slice(&row[..b.n - j]);
                }
            });
        } else {
            self.fill(|i, j, line| {
                let from = b.data[i * b.stride_k + j * b.stride_n..].iter().step_by(b.stride_n);
                line.iter_mut().zip(from).take(b.n - j).for_each(|(to, x)| *to = *x);
            });
        }
    }

    /// Packs the matrix whose element (i, j) is `value(i, j)`.
    pub(super) fn from_fn(k: usize, n: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let mut packed = Self::default();
        packed.resize(k, n, balanced(k));
        packed.fill(|i, j, line| line.iter_mut().enumerate().take(n - j).for_each(|(l, x)| *x = value(i, j + l)));
        packed
    }

    /// Packs the matrix whose column j has row i at `data[j·stride_n + row(i)]`.
    pub(super) fn pack_rows(
        data: &[f32],
        (k, n, stride_n): (usize, usize, usize),
        row: impl Fn(usize) -> usize,
    ) -> Self {
        let mut packed = Self::default();
        packed.resize(k, n, balanced(k));
        packed.fill(|i, j, line| {
            let from = &data[j * stride_n + row(i)..];
            line.iter_mut().zip(from.iter().step_by(stride_n)).take(n - j).for_each(|(to, x)| *to = *x);
        });
        packed
    }

    /// Calls `line(i, j, …)` for each line: row i, columns from j. It finds zeros.
    fn fill(&mut self, line: impl Fn(usize, usize, &mut [f32; LANES])) {
        let (k, panels) = (self.k, self.n.div_ceil(LANES));
        let mut lines = self.lines.iter_mut();
        for k0 in (0..k).step_by(self.block) {
            for p in 0..panels {
                for i in k0..k.min(k0 + self.block) {
                    let to = lines.next().expect("a line per row and panel, by `resize`");
                    to.0 = [0.0; LANES];
                    line(i, p * LANES, &mut to.0);
                }
            }
        }
    }

    fn resize(&mut self, k: usize, n: usize, block: usize) {
        (self.k, self.n, self.block) = (k, n, block);
        let lines = n.div_ceil(LANES).checked_mul(k).expect("the matrix fits in memory");
        self.lines.resize(lines, Line::ZERO);
    }

    /// Rows.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The blocks of rows, as (begin, end); one that is empty where there are no rows.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.k.max(1)).step_by(self.block).map(|k0| (k0, self.k.min(k0 + self.block)))
    }

    /// Row `k` of panel `p`.
    pub(super) fn line(&self, k: usize, p: usize) -> &[f32; LANES] {
        let k0 = k / self.block * self.block;
        let height = self.block.min(self.k - k0);
        &self.lines[k0 * self.n.div_ceil(LANES) + p * height + k - k0].0
    }

    /// Panel `p` and those after it of the block of rows `k0 … k1`, each `(k1 − k0)·16` values.
    pub(super) fn panels(&self, (k0, k1): (usize, usize), p: usize) -> &[f32] {
        &values(&self.lines)[(k0 * self.n.div_ceil(LANES) + p * (k1 - k0)) * LANES..]
    }
}

/// The height of blocks of nearly equal height, none above `K_BLOCK`.
fn balanced(k: usize) -> usize {
    k.div_ceil(k.div_ceil(K_BLOCK).max(1)).max(1)
}
