//! 3×3 convolutions of stride 1 by Winograd's F(4×4, 3×3): 36 products for the 144 of a tile of 4 × 4 outputs, and yet
//! the exact sums, bit for bit those of the direct convolution.
//!
//! The transforms are integer matrices (`transform.rs`), so nothing is rounded. What is wider than 32 bits wraps around,
//! as additions, products and the exact division at the end all hold modulo 2³²; packing proves for each column of
//! weights that its sums are small enough to be told apart.
//!
//! A task takes some tiles, transforms their inputs into 36 matrices `[tiles, c_in]` that stay in L2, and for each panel
//! of columns multiplies each of them by its matrix of weights, transforms the products back and ends the sums as any
//! other kernel does.

mod lanes;
mod rows;
#[cfg(test)]
mod tests;
mod transform;

use std::ops::Range;

use crate::arena::{Lines, with_scratch};
use crate::error::KernelError;
use crate::gemm::epilogue::{Block, Columns, RawEpilogue, finish};
use crate::gemm::tile::{TileArgs, fetch};
use crate::kernel::{MAX_MR, cost};
use crate::winograd::{IN, OUT, POSITIONS, Tile, covers_well, for_blocks, is_plain, tile_count};
use crate::{ConvGeometry, Isa, Level, Threads};
pub use rows::{WINOGRAD_KERNELS, WinogradKernel};
use transform::{InputArgs, MOST_SUM, OutputArgs};

/// Most bytes of transformed input and of products in a task: they are to stay in L2 beside the weights that stream by.
const BLOCK_BYTES: usize = 512 << 10;
/// What products start from.
const ZEROS: &[i32] = &[0; MAX_COLUMNS];
/// Offsets of a row whose elements all lie together.
const ONE_SPAN: &[usize] = &[0];
/// No kernel has more columns than this.
const MAX_COLUMNS: usize = 64;

/// The kernel that serves `g`, if there is one for `isa` and it is worth its transforms: over enough channels, where the
/// tiles do not hang far over the edge, and no more of them than make weights that a cache holds. Where a direct sum has
/// an instruction for bytes, pairs of i16 take it twice as many, and the gain is smaller.
pub fn select(isa: Isa, g: &ConvGeometry) -> Option<&'static WinogradKernel> {
    let (fewest_channels, most_weights) = match isa.level() {
        Level::AvxVnni | Level::Avx512Vnni => (32, 128 * 128),
        Level::Portable | Level::Avx2 | Level::Amx | Level::Neon | Level::NeonDot => (16, 256 * 256),
    };
    let deep = g.c_in.min(g.c_out) >= fewest_channels && g.c_in * g.c_out <= most_weights;
    let kernels = WINOGRAD_KERNELS.iter().copied().filter(|k| k.product.level == isa.level());
    kernels.filter(|_| is_plain(g) && covers_well(g) && deep).min_by_key(|k| cost(&k.product, g.c_out))
}

/// Weights `[c_out, c_in, 3, 3]`, transformed and packed: for each panel of columns and each position, steps of two
/// channels, each of `nr` times two i16.
pub(super) struct PackedWinograd {
    isa: Isa,
    kernel: &'static WinogradKernel,
    /// What was subtracted from each code to make it s8: 0 or 128.
    shift: i32,
    panels: Lines,
    /// Σ of the codes as held, for each column.
    column_sums: Vec<i32>,
}

impl PackedWinograd {
    /// `None` if a sum could be too large for it.
    ///
    /// # Errors
    /// If `g` is no 3×3 convolution of stride 1, `isa` lacks what the kernel needs, or memory runs out.
    pub(super) fn pack(
        isa: Isa,
        kernel: &'static WinogradKernel,
        g: &ConvGeometry,
        weights: &[u8],
        signed: bool,
    ) -> Result<Option<Self>, KernelError> {
        if !is_plain(g) || !isa.can_run(kernel.product.level) {
            return Err(KernelError::Geometry("the kernel is not for this convolution, or not for this CPU"));
        }
        let (flip, shift) = if signed { (0, 0) } else { (0x80, 128) };
        let held = |w: u8| i32::from((w ^ flip) as i8);
        let mut column_sums = Vec::with_capacity(g.c_out);
        for column in weights[..g.c_out * g.c_in * 9].chunks_exact(g.c_in * 9) {
            let (mut up, mut down) = (0_u64, 0_u64);
            for &w in column {
                up += held(w).max(0) as u64;
                down += held(w).min(0).unsigned_abs() as u64;
            }
            if 255 * up.max(down) >= MOST_SUM {
                return Ok(None);
            }
            column_sums.push(up as i32 - down as i32);
        }
        let (nr, steps) = (kernel.product.nr, g.c_in.div_ceil(2));
        let matrix = 4 * nr * steps;
        let bytes = g.c_out.div_ceil(nr) * POSITIONS * matrix;
        let mut panels = Lines::Lasting(None);
        let room = panels.reserve(bytes).ok_or(KernelError::OutOfMemory { bytes })?;
        for (o, column) in weights.chunks_exact(g.c_in * 9).take(g.c_out).enumerate() {
            let panel = &mut room[o / nr * POSITIONS * matrix..];
            for (c, w) in column.chunks_exact(9).enumerate() {
                let taps = std::array::from_fn(|y| std::array::from_fn(|x| held(w[3 * y + x])));
                let at = c / 2 * 4 * nr + o % nr * 4 + c % 2 * 2;
                for (i, w) in transform::weights(taps).as_flattened().iter().enumerate() {
                    panel[i * matrix + at..][..2].copy_from_slice(&w.to_ne_bytes());
                }
            }
        }
        Ok(Some(Self { isa, kernel, shift, panels, column_sums }))
    }

    pub(super) fn kernel(&self) -> &'static WinogradKernel {
        self.kernel
    }
}

/// One convolution, its lengths checked.
pub(super) struct Job<'a> {
    pub(super) weights: &'a PackedWinograd,
    pub(super) g: &'a ConvGeometry,
    pub(super) x: &'a [u8],
    /// What codes of x are xored with: 0x80 if they are s8.
    pub(super) flip: u8,
    /// The zero point of x as u8.
    pub(super) x_zero: i32,
    pub(super) w_zero_points: &'a [i32],
    pub(super) epilogue: &'a RawEpilogue,
}

/// Computes `job`.
///
/// # Panics
/// When the pixels and channels of the output are not those that the epilogue was checked for.
pub(super) fn run(job: &Job, threads: &Threads) {
    let (g, product) = (job.g, &job.weights.kernel.product);
    job.epilogue.assert_holds(g.pixels_out(), g.c_out);
    let most = (BLOCK_BYTES / (POSITIONS * (row_bytes(g.c_in) + 4 * product.nr))).clamp(MAX_MR, 64);
    let parts = (tile_count(g), g.c_out.div_ceil(product.nr));
    for_blocks(parts, (product.mr, most), threads, &|tiles, panels| run_block(job, tiles, panels));
}

/// Bytes from one row of a transformed input to the next: whole registers, whole cache lines, and an odd number of
/// them, or the rows and positions would share L1 sets.
fn row_bytes(channels: usize) -> usize {
    let lines = (2 * channels).div_ceil(64);
    64 * (lines | 1)
}

/// Computes `tiles` × `panels` of the output.
fn run_block(job: &Job, tiles: Range<usize>, panels: Range<usize>) {
    let &Job { weights, g, .. } = job;
    let WinogradKernel { product, input, output } = weights.kernel;
    let nr = product.nr;
    let row = row_bytes(g.c_in);
    let count = tiles.len();
    let (transformed, products) = (POSITIONS * count * row, POSITIONS * count * nr * 4);
    let outside = g.c_in.next_multiple_of(64);
    with_scratch(transformed + products + outside, |scratch| {
        let (transformed, rest) = scratch.split_at_mut(transformed);
        let (products, outside) = rest.split_at_mut(products);
        outside.fill(job.x_zero as u8 ^ job.flip);
        let zero = |j: usize| match job.w_zero_points {
            [] => 0,
            [one] => *one,
            many => many[j],
        };
        let row_terms = job.w_zero_points.iter().any(|&z| z != weights.shift)
            || (job.w_zero_points.is_empty() && weights.shift != 0);
        let mut terms = Vec::new();
        for (t, i) in tiles.clone().enumerate() {
            let tile = Tile::new(g, i);
            let pixels = tile.pixels(g, job.x, outside);
            let args = InputArgs {
                pixels: &pixels,
                channels: g.c_in,
                flip: job.flip,
                to: transformed[t * row..].as_mut_ptr().cast(),
                stride: count * row / 2,
            };
            // SAFETY: the kernel is one of a detected `Isa`. Each pixel has `c_in` codes, sliced in `Tile::pixels` or
            // filled above, and a row of the 36 · `count` has room for `c_in` i16 in whole cache lines.
            unsafe { input(&args) };
            if row_terms {
                // SAFETY: as above.
                terms.push(unsafe { window_terms(job, &tile, &pixels) });
            }
        }
        let products: *mut i32 = products.as_mut_ptr().cast();
        let mut sums = Sums([0; (OUT * OUT + 3) * MAX_COLUMNS]);
        let mut columns = Columns::NONE;
        let matrix = 4 * nr * g.c_in.div_ceil(2);
        let groups = count.div_ceil(product.mr);
        for p in panels {
            let first = p * nr;
            let cols = nr.min(g.c_out - first);
            let neg_zero_point = |j: usize| weights.shift - zero(first + j);
            let column_sums = &weights.column_sums[first..first + cols];
            // SAFETY: columns `first..first + cols` are columns of the output that was checked.
            unsafe { columns.set(job.epilogue, first, column_sums, job.x_zero, neg_zero_point) };
            let panel = &weights.panels.bytes()[p * POSITIONS * matrix..][..POSITIONS * matrix];
            for (i, panel) in panel.chunks_exact(matrix).enumerate() {
                for t in 0..groups {
                    // A share of the next matrix, which follows this one.
                    let share = matrix / groups;
                    let next = panel.as_ptr().wrapping_add(matrix + t * share);
                    (0..share).step_by(64).for_each(|line| fetch(next.wrapping_add(line)));
                    // Even groups: 7 rows are 4 + 3, not 6 + 1.
                    let (from, to) = (t * count / groups, (t + 1) * count / groups);
                    let mut rows = [std::ptr::null(); MAX_MR];
                    for r in from..to {
                        rows[r - from] = transformed[(i * count + r) * row..].as_ptr();
                    }
                    let args = TileArgs {
                        starts: rows.as_ptr(),
                        stride: 0,
                        offsets: ONE_SPAN.as_ptr(),
                        spans: 1,
                        places: std::ptr::null(),
                        groups: matrix / (4 * nr),
                        panel: panel.as_ptr(),
                        init: ZEROS.as_ptr(),
                        sums: products.wrapping_add((i * count + from) * nr),
                        cols: nr,
                        ahead: std::ptr::null(),
                        signed: false,
                    };
                    // SAFETY: as above; a tile has 1 to `mr` rows of `c_in` i16, rounded up to pairs, and there is
                    // room for `count` rows of `nr` products at each position.
                    unsafe { product.tiles[to - from - 1](&args) };
                }
            }
            for (t, i) in tiles.clone().enumerate() {
                let tile = Tile::new(g, i);
                let [height, width] = tile.size;
                let mut pixels = [0; OUT * OUT];
                for (i, pixel) in pixels[..height * width].iter_mut().enumerate() {
                    *pixel = tile.pixel(g, i / width, i % width);
                }
                let args = OutputArgs {
                    products: products.wrapping_add(t * nr),
                    stride: count * nr,
                    columns: nr,
                    to: sums.0.as_mut_ptr(),
                    width,
                };
                let block = Block {
                    sums: sums.0.as_ptr(),
                    ld: nr,
                    rows: height * width,
                    cols,
                    first,
                    columns: &columns,
                    summed: false,
                    pixels: pixels.as_ptr(),
                    row_terms: terms.get(t).map_or(std::ptr::null(), |terms| terms.as_ptr()),
                };
                // SAFETY: as above; the products of all positions are written, `sums` holds 16 + 3 pixels of the most
                // columns, and the pixels and columns are those of the checked output, which no two tasks share.
                unsafe {
                    output(&args);
                    finish(weights.isa, &block, job.epilogue);
                }
            }
        }
    });
}

/// The sums of a tile.
#[repr(align(64))]
struct Sums([i32; (OUT * OUT + 3) * MAX_COLUMNS]);

/// `Σ x − 9 · c_in · z_x` over the window of each output of `tile`, rows without gaps: the factors of the weights' zero
/// points.
///
/// # Safety
/// Each of `pixels` has the codes of a pixel.
unsafe fn window_terms(job: &Job, tile: &Tile, pixels: &[*const u8; POSITIONS]) -> [i32; OUT * OUT] {
    let sums = pixels.map(|pixel| {
        // SAFETY: the caller's promise.
        let codes = unsafe { std::slice::from_raw_parts(pixel, job.g.c_in) };
        codes.iter().map(|&x| i32::from(x ^ job.flip) - job.x_zero).sum::<i32>()
    });
    let [height, width] = tile.size;
    let mut terms = [0; OUT * OUT];
    for (i, term) in terms[..height * width].iter_mut().enumerate() {
        let first = i / width * IN + i % width;
        *term = (0..9).map(|tap| sums[first + tap / 3 * IN + tap % 3]).sum();
    }
    terms
}
