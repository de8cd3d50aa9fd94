//! The right side of a matrix product, laid out for the tiles.

use super::lanes::LANES;
use super::scratch::{Line, values};

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

/// A matrix `[k, n]` cut into panels of 16 columns, each `[k, 16]`, the last one filled up with zeros. The layout is
/// the same for every instruction set.
#[derive(Clone, Default)]
pub struct PackedB {
    lines: Vec<Line>,
    k: usize,
    n: usize,
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
        if b.stride_n == 1 {
            self.resize(b.k, b.n);
            for (p, panel) in self.lines.chunks_exact_mut(b.k.max(1)).enumerate() {
                let columns = (b.n - p * LANES).min(LANES);
                for (i, line) in panel.iter_mut().enumerate() {
                    let row = &b.data[i * b.stride_k + p * LANES..][..columns];
                    if let Ok(row) = <&[f32; LANES]>::try_from(row) {
                        line.0 = *row;
                    } else {
                        line.0 = [0.0; LANES];
                        line.0[..columns].copy_from_slice(row);
                    }
                }
            }
        } else {
            self.fill(b.k, b.n, |i, j| b.data[i * b.stride_k + j * b.stride_n]);
        }
    }

    /// Packs the matrix whose element (i, j) is `value(i, j)`.
    pub(super) fn from_fn(k: usize, n: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let mut packed = Self::default();
        packed.fill(k, n, value);
        packed
    }

    fn fill(&mut self, k: usize, n: usize, value: impl Fn(usize, usize) -> f32) {
        self.resize(k, n);
        for (p, panel) in self.lines.chunks_exact_mut(k.max(1)).enumerate() {
            let columns = (n - p * LANES).min(LANES);
            for (i, line) in panel.iter_mut().enumerate() {
                line.0 = [0.0; LANES];
                for j in 0..columns {
                    line.0[j] = value(i, p * LANES + j);
                }
            }
        }
    }

    fn resize(&mut self, k: usize, n: usize) {
        (self.k, self.n) = (k, n);
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

    /// The panels, each `k · 16` values.
    pub(super) fn values(&self) -> &[f32] {
        values(&self.lines)
    }
}
