//! What the integer and the float F(4×4, 3×3) have in common: tiles of 4 × 4 outputs over windows of 6 × 6 inputs
//! (Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", 2015).

use crate::{ConvGeometry, Threads};
use std::ops::Range;

/// Outputs of a tile along one axis.
pub(crate) const OUT: usize = 4;
/// Inputs of a tile along one axis, and products of a one-dimensional transform.
pub(crate) const IN: usize = 6;
/// Products of a tile.
pub(crate) const POSITIONS: usize = IN * IN;

/// Whether the transforms fit.
pub(crate) fn is_plain(g: &ConvGeometry) -> bool {
    g.kernel == [3, 3] && g.stride == [1, 1] && g.dilation == [1, 1] && g.groups == 1
}

/// Whether at most as much of the tiles hangs over the edge as lies in the image.
pub(crate) fn covers_well(g: &ConvGeometry) -> bool {
    let covered = |n: usize| n.div_ceil(OUT) * OUT;
    covered(g.h_out) * covered(g.w_out) <= 2 * g.h_out * g.w_out
}

/// Splits `tiles` × `panels` of columns over the threads: into blocks of at most `most` tiles, or fewer where that many
/// threads share them. With fewer than two runs of `rows` tiles for each thread columns are split instead, for each
/// task of such a split transforms the same tiles.
pub(crate) fn for_blocks(
    (tiles, panels): (usize, usize),
    (rows, most): (usize, usize),
    threads: &Threads,
    run: &(dyn Fn(Range<usize>, Range<usize>) + Sync),
) {
    if tiles == 0 || panels == 0 {
        return;
    }
    let column_splits = if tiles >= 2 * rows * threads.count() { 1 } else { threads.count().min(panels) };
    let row_splits = if column_splits == 1 { threads.count() } else { 1 };
    let blocks = tiles.div_ceil(most).next_multiple_of(row_splits).min(tiles);
    let part = |i: usize, count: usize, all: usize| i * all / count..(i + 1) * all / count;
    threads.parallel_for(blocks * column_splits, &|task| {
        run(part(task % blocks, blocks, tiles), part(task / blocks, column_splits, panels));
    });
}

/// Number of tiles that cover the output.
pub(crate) fn tile_count(g: &ConvGeometry) -> usize {
    g.batch * g.h_out.div_ceil(OUT) * g.w_out.div_ceil(OUT)
}

/// A tile of the output and the window of the input over it.
pub(crate) struct Tile {
    /// The image it is in.
    pub(crate) image: usize,
    /// Its first row and column.
    pub(crate) at: [usize; 2],
    /// Rows and columns inside the image.
    pub(crate) size: [usize; 2],
}

impl Tile {
    /// Tile `i` of the [`tile_count`] of `g`.
    pub(crate) fn new(g: &ConvGeometry, i: usize) -> Self {
        let (down, across) = (g.h_out.div_ceil(OUT), g.w_out.div_ceil(OUT));
        let at = [i / across % down * OUT, i % across * OUT];
        Self { image: i / (across * down), at, size: [(g.h_out - at[0]).min(OUT), (g.w_out - at[1]).min(OUT)] }
    }

    /// Where the channels of its window lie in `x`; `outside` for those of pixels that are not in the image.
    pub(crate) fn pixels<T>(&self, g: &ConvGeometry, x: &[T], outside: &[T]) -> [*const T; POSITIONS] {
        std::array::from_fn(|i| {
            let row = (self.at[0] + i / IN).wrapping_sub(g.pads[0]);
            let column = (self.at[1] + i % IN).wrapping_sub(g.pads[1]);
            if row >= g.h || column >= g.w {
                return outside.as_ptr();
            }
            x[((self.image * g.h + row) * g.w + column) * g.c_in..][..g.c_in].as_ptr()
        })
    }

    /// The output pixel at a row and a column of it.
    pub(crate) fn pixel(&self, g: &ConvGeometry, y: usize, x: usize) -> usize {
        (self.image * g.h_out + self.at[0] + y) * g.w_out + self.at[1] + x
    }
}
