//! The right side of a matrix product, laid out for the tiles.

use super::lanes::LANES;
use super::tile::K_BLOCK;
use crate::arena::Lines;
use crate::error::KernelError;

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
#[derive(Default)]
pub struct PackedB {
    panels: Lines,
    k: usize,
    n: usize,
    /// Rows of a block; the last one may be lower.
    block: usize,
}

impl PackedB {
    /// Packs a matrix that is read in every run.
    ///
    /// # Errors
    /// If memory runs out.
    ///
    /// # Panics
    /// When `data` is too short for the strides.
    pub fn pack(b: BView<'_>) -> Result<Self, KernelError> {
        let mut packed = Self { panels: Lines::Lasting(None), ..Self::default() };
        packed.repack(b)?;
        Ok(packed)
    }

    /// Packs another matrix, into the memory that is there: for products of two activations.
    ///
    /// # Errors
    /// If memory runs out.
    ///
    /// # Panics
    /// When `data` is too short for the strides.
    pub fn repack(&mut self, b: BView<'_>) -> Result<(), KernelError> {
        self.resize(b.k, b.n, balanced(b.k))?;
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
            self.fill_columns(b.data, b.stride_n, 1, b.stride_k);
        }
        Ok(())
    }

    /// Packs the matrix whose element (i, j) is `value(i, j)`.
    pub(super) fn from_fn(k: usize, n: usize, value: impl Fn(usize, usize) -> f32) -> Result<Self, KernelError> {
        let mut packed = Self::zeroed(k, n, balanced(k))?;
        packed.fill(|i, j, line| line.iter_mut().enumerate().take(n - j).for_each(|(l, x)| *x = value(i, j + l)));
        Ok(packed)
    }

    /// A matrix of zeros, in blocks of `block` rows.
    pub(super) fn zeroed(k: usize, n: usize, block: usize) -> Result<Self, KernelError> {
        let mut packed = Self { panels: Lines::Lasting(None), ..Self::default() };
        packed.resize(k, n, block)?;
        Ok(packed)
    }

    /// Packs the matrix `[k, n]` whose columns are `[k / taps, taps]` in `data`, one after the other, and have their rows
    /// in the order (tap, channel).
    pub(super) fn from_taps(data: &[f32], (k, n): (usize, usize), taps: usize) -> Result<Self, KernelError> {
        let mut packed = Self::zeroed(k, n, balanced(k))?;
        packed.fill_columns(data, k, taps, taps);
        Ok(packed)
    }

    /// Fills in the matrix whose column j has row tap·channels + c at `data[j·stride_n + c·stride + tap]`.
    fn fill_columns(&mut self, data: &[f32], stride_n: usize, taps: usize, stride: usize) {
        let channels = self.k / taps;
        for p in 0..self.n.div_ceil(LANES) {
            let mut block = [[0.0; LANES]; LANES];
            // All taps of a few channels at a time: columns lie so far apart that lines of them put each other out of the
            // cache before the next row could use them.
            for c0 in (0..channels).step_by(LANES) {
                let rows = LANES.min(channels - c0);
                for tap in 0..taps {
                    for j in p * LANES..self.n.min((p + 1) * LANES) {
                        let from = j * stride_n + c0 * stride + tap;
                        let from = &data[from..=from + (rows - 1) * stride];
                        block[..rows].iter_mut().enumerate().for_each(|(r, row)| row[j % LANES] = from[r * stride]);
                    }
                    for (r, row) in block[..rows].iter().enumerate() {
                        let at = self.at(tap * channels + c0 + r, p);
                        values_mut(&mut self.panels)[at..][..LANES].copy_from_slice(row);
                    }
                }
            }
        }
    }

    /// Calls `line(i, j, …)` for each line: row i, columns from j. It finds zeros.
    fn fill(&mut self, line: impl Fn(usize, usize, &mut [f32; LANES])) {
        let (k, panels) = (self.k, self.n.div_ceil(LANES));
        let mut lines = values_mut(&mut self.panels).as_chunks_mut().0.iter_mut();
        for k0 in (0..k).step_by(self.block) {
            for p in 0..panels {
                for i in k0..k.min(k0 + self.block) {
                    let to = lines.next().expect("a line per row and panel, by `resize`");
                    *to = [0.0; LANES];
                    line(i, p * LANES, to);
                }
            }
        }
    }

    fn resize(&mut self, k: usize, n: usize, block: usize) -> Result<(), KernelError> {
        let bytes = n.div_ceil(LANES).checked_mul(k).and_then(|lines| lines.checked_mul(size_of::<[f32; LANES]>()));
        let bytes = bytes.unwrap_or(usize::MAX);
        self.panels.reserve(bytes).ok_or(KernelError::OutOfMemory { bytes })?;
        (self.k, self.n, self.block) = (k, n, block);
        Ok(())
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
        values(&self.panels)[self.at(k, p)..].first_chunk().expect("lines are whole")
    }

    /// The same to be filled in.
    pub(super) fn line_mut(&mut self, k: usize, p: usize) -> &mut [f32; LANES] {
        let at = self.at(k, p);
        values_mut(&mut self.panels)[at..].first_chunk_mut().expect("lines are whole")
    }

    /// Where row `k` of panel `p` begins.
    fn at(&self, k: usize, p: usize) -> usize {
        let k0 = k / self.block * self.block;
        let height = self.block.min(self.k - k0);
        (k0 * self.n.div_ceil(LANES) + p * height + k - k0) * LANES
    }

    /// Panel `p` and those after it of the block of rows `k0 … k1`, each `(k1 − k0)·16` values.
    pub(super) fn panels(&self, (k0, k1): (usize, usize), p: usize) -> &[f32] {
        &values(&self.panels)[(k0 * self.n.div_ceil(LANES) + p * (k1 - k0)) * LANES..]
    }
}

fn values(lines: &Lines) -> &[f32] {
    let bytes = lines.bytes();
    // SAFETY: `resize` reserved them, which aligns them to 64, and any four bytes are an f32.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<f32>()) }
}

fn values_mut(lines: &mut Lines) -> &mut [f32] {
    let bytes = lines.bytes_mut();
    // SAFETY: as in `values`.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<f32>()) }
}

/// The height of blocks of nearly equal height, none above `K_BLOCK`.
fn balanced(k: usize) -> usize {
    k.div_ceil(k.div_ceil(K_BLOCK).max(1)).max(1)
}
