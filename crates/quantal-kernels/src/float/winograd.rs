//! 3×3 convolutions of stride 1 by Winograd's F(4×4, 3×3): 36 products for the 144 of a tile of 4 × 4 outputs.
//!
//! A task takes some tiles, transforms their windows into 36 matrices `[tiles, c_in]` that stay in cache, and for some
//! columns at a time multiplies each of them by its matrix of weights and transforms the products back.

#[cfg(test)]
mod tests;
pub(super) mod transform;

use super::gemm::{Block, Epilogue, NO_CLAMP, TALLEST};
use super::lanes::LANES;
use super::pack::PackedB;
use super::rows::Row;
use super::scratch::{Shared, with_scratch};
use super::tile::{A_STRIDE, K_BLOCK};
use super::unary;
use crate::winograd::{POSITIONS, Tile, covers_well, for_blocks, is_plain, tile_count};
use crate::{ConvGeometry, KernelError, Threads};
use std::ops::Range;
use transform::{TileIn, TileOut, weights};

/// Columns that are multiplied and transformed back at a time.
const COLUMNS: usize = 64;
/// Values of transformed windows and of products in a task, about: 1 MiB, to stay in a level-2 cache.
const TASK_VALUES: usize = 1 << 18;

/// Weights of a position, at most: 38 MB of all.
const MOST_WEIGHTS: usize = 512 * 512;

/// Weights `[c_out, c_in, 3, 3]`, transformed and packed: for some columns at a time a matrix of 36 times `c_in` rows.
pub(super) struct PackedTiles {
    columns: Vec<PackedB>,
    c_in: usize,
    c_out: usize,
}

/// Whether tiles serve `g` better than windows, by shape alone: enough channels to be worth the transforms, little
/// that hangs over the edge, and enough tiles to be worth weights of four times the size, the more so where these
/// leave a level-2 cache.
pub(super) fn serves(g: &ConvGeometry) -> bool {
    // First: with no channels, nothing bounds the sizes of an image.
    if !is_plain(g) || g.c_in.min(g.c_out) < LANES || g.batch == 0 {
        return false;
    }
    let fewest = if g.c_in * g.c_out <= 128 * 128 { 4 } else { 9 };
    covers_well(g)
        && tile_count(g) >= fewest
        && g.c_in.is_multiple_of(blocks(g.c_in))
        && g.c_in * g.c_out <= MOST_WEIGHTS
}

/// Blocks of channels that a tile's rows are cut into.
fn blocks(c_in: usize) -> usize {
    c_in.div_ceil(K_BLOCK)
}

impl PackedTiles {
    /// Packs a weight for a geometry that tiles serve.
    pub(super) fn pack(g: &ConvGeometry, weight: &[f32]) -> Result<Self, KernelError> {
        let (c_in, c_out) = (g.c_in, g.c_out);
        let of = |first: usize| -> Result<PackedB, KernelError> {
            let n = COLUMNS.min(c_out - first);
            let mut packed = PackedB::zeroed(POSITIONS * c_in, n, c_in / blocks(c_in))?;
            for (p, c) in (0..n.div_ceil(LANES)).flat_map(|p| (0..c_in).map(move |c| (p, c))) {
                let mut taps = [[0.0; LANES]; 9];
                for l in 0..LANES.min(n - p * LANES) {
                    let own = &weight[((first + p * LANES + l) * c_in + c) * 9..][..9];
                    taps.iter_mut().zip(own).for_each(|(tap, &w)| tap[l] = w);
                }
                for (i, line) in weights(&taps).iter().enumerate() {
                    *packed.line_mut(i * c_in + c, p) = *line;
                }
            }
            Ok(packed)
        };
        let columns = (0..c_out).step_by(COLUMNS).map(of).collect::<Result<_, _>>()?;
        Ok(Self { columns, c_in, c_out })
    }

    /// Whether it is packed for this geometry.
    pub(super) fn fits(&self, g: &ConvGeometry) -> bool {
        is_plain(g) && (self.c_in, self.c_out) == (g.c_in, g.c_out)
    }
}

/// Convolves `x`, split over the threads.
///
/// # Safety
/// `x` covers the input of `g`, for which `weight` is packed; `out` is good for writing its output; the epilogue's
/// slices cover that.
pub(super) unsafe fn tiles(
    row: &Row,
    g: &ConvGeometry,
    x: &[f32],
    weight: &PackedTiles,
    epilogue: &Epilogue<'_>,
    out: Shared,
    threads: &Threads,
) {
    let most = (TASK_VALUES / (POSITIONS * (g.c_in + COLUMNS))).max(TALLEST);
    let parts = (tile_count(g), weight.columns.len());
    for_blocks(parts, (row.tile_rows, most), threads, &|tiles, parts| {
        // SAFETY: the contract of this function; no two tasks share tiles and columns.
        unsafe { Job { row, g, x, weight, epilogue, out }.run(tiles, parts) };
    });
}

struct Job<'a> {
    row: &'a Row,
    g: &'a ConvGeometry,
    x: &'a [f32],
    weight: &'a PackedTiles,
    epilogue: &'a Epilogue<'a>,
    out: Shared,
}

impl Job<'_> {
    /// Computes some tiles of some parts of the columns.
    ///
    /// # Safety
    /// As for `tiles`.
    unsafe fn run(&self, tiles: Range<usize>, parts: Range<usize>) {
        let &Self { row, g, x, weight, .. } = self;
        let (count, blocks) = (tiles.len(), blocks(g.c_in));
        let depth = g.c_in / blocks;
        // Rows of a block have room for that many matrices side by side.
        let beside = K_BLOCK / depth.next_multiple_of(LANES);
        let matrices = (POSITIONS * blocks).div_ceil(beside) * count * A_STRIDE;
        let at = |i: usize| i / beside * count * A_STRIDE + i % beside * depth.next_multiple_of(LANES);
        let products = POSITIONS * count * COLUMNS;
        with_scratch(matrices + products + g.c_in, |scratch| {
            let (matrices, rest) = scratch.split_at_mut(matrices);
            let (products, outside) = rest.split_at_mut(products);
            outside[..g.c_in].fill(0.0);
            for (t, i) in tiles.clone().enumerate() {
                let pixels = Tile::new(g, i).pixels(g, x, outside);
                for b in 0..blocks {
                    let to = std::array::from_fn(|p| matrices[at(p * blocks + b) + t * A_STRIDE..].as_mut_ptr());
                    let call = TileIn { pixels: &pixels, first: b * depth, channels: depth, to: &to };
                    // SAFETY: each pixel has `c_in` values, and a row has room for each matrix in whole vectors.
                    unsafe { (row.tile_in)(&call) };
                }
            }
            for part in parts {
                let b = &weight.columns[part];
                for (i, rows) in b.blocks().enumerate() {
                    let (position, inner) = (i / blocks, i % blocks);
                    let out = Shared::new(&mut products[position * count * COLUMNS..][..count * COLUMNS]);
                    let (epilogue, columns) = (&Epilogue::NONE, (0, b.n()));
                    let block = Block { row, b, column: 0, epilogue, out, ldc: COLUMNS, rows: (0, count), columns };
                    // SAFETY: the matrix has `count` rows as deep as the block of `b`, and there is room for as many
                    // products in each column.
                    unsafe { block.sweep(&matrices[at(i)..], rows, inner == 0, inner + 1 == blocks) };
                }
                for (t, i) in tiles.clone().enumerate() {
                    // SAFETY: the products of this tile at all positions are there; the rest is this function's
                    // contract.
                    unsafe { self.finish(&Tile::new(g, i), &products[t * COLUMNS..], count, part * COLUMNS, b.n()) };
                }
            }
        });
    }

    /// Makes the outputs of a tile, `columns` of them from the `first`, of its products.
    ///
    /// # Safety
    /// As for `tiles`; `products` holds them `count` rows apart at each position.
    unsafe fn finish(&self, tile: &Tile, products: &[f32], count: usize, first: usize, columns: usize) {
        let &Self { row, g, epilogue, .. } = self;
        let pixel = tile.pixel(g, 0, 0);
        let residual = epilogue.residual.map(|r| (r.data[pixel * r.row_stride + first..].as_ptr(), r.row_stride));
        let plain = epilogue.activation.is_none();
        let call = TileOut {
            products: products.as_ptr(),
            stride: count * COLUMNS,
            columns,
            size: tile.size,
            bias: epilogue.bias.map_or(std::ptr::null(), |bias| bias[first..].as_ptr()),
            residual: residual.map_or(std::ptr::null(), |(data, _)| data),
            residual_strides: residual.map_or([0; 2], |(_, stride)| [g.w_out * stride, stride]),
            clamp: if plain { epilogue.clamp } else { NO_CLAMP },
            to: self.out.at(pixel * g.c_out + first),
            strides: [g.w_out * g.c_out, g.c_out],
        };
        // SAFETY: the caller's promise; products of part of a vector are followed by others of their row.
        unsafe { (row.tile_out)(&call) };
        if let Some(activation) = epilogue.activation {
            for (y, x) in (0..tile.size[0]).flat_map(|y| (0..tile.size[1]).map(move |x| (y, x))) {
                let at = self.out.at(tile.pixel(g, y, x) * g.c_out + first);
                // SAFETY: a pixel of this tile, which is this task's own.
                let values = unsafe { std::slice::from_raw_parts_mut(at, columns) };
                unary::apply(row, activation, epilogue.clamp, values);
            }
        }
    }
}
