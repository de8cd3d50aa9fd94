//! How a product is cut: tasks of rows × panels, and inside a task tiles over a block of rows of A.
//!
//! A block of rows is put in the kernel's form once and then swept over all panels of the task, so it is read from L2
//! and a panel from L1. Rows that already lie as the kernel wants them are read in place.

use std::ops::Range;

use super::epilogue::{Block, Columns, RawEpilogue, finish};
use super::tile::TileArgs;
use crate::Threads;
use crate::arena::with_scratch;
use crate::conv::TapRows;
use crate::kernel::{Form, MAX_MR, MAX_TILE};
use crate::pack::{PackedB, put_codes};

/// Most bytes in a block of rows: half of the smallest L2 that we know, a quarter of most.
const BLOCK_BYTES: usize = 128 << 10;
/// Below this many products a call is not worth waking another thread.
const SERIAL_PRODUCTS: usize = 1 << 18;

/// Where the rows of A come from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// Rows `stride` apart; checked to lie inside `a` for every row of the job.
    Rows { a: &'a [u8], stride: usize },
    /// The taps of a convolution around each output pixel.
    Taps(&'a TapRows<'a>),
}

impl Source<'_> {
    /// The row of the output that row `r` of the product is.
    #[inline]
    fn pixel(&self, r: usize) -> usize {
        match self {
            Self::Rows { .. } => r,
            Self::Taps(taps) => taps.pixel(r),
        }
    }

    /// Puts rows `rows` in `form`, `stride` bytes apart, padded with zeros.
    fn fill(&self, rows: Range<usize>, k: usize, form: Form, flip: u8, to: &mut [u8], stride: usize) {
        match self {
            Self::Rows { a, stride: from } => {
                let used = k * 4 / form.kr();
                for (r, to) in rows.zip(to.chunks_exact_mut(stride)) {
                    if k > 0 {
                        put_codes(to, form, 0, &a[r * from..], k, flip);
                    }
                    to[used..].fill(0);
                }
            }
            Self::Taps(taps) => taps.fill(rows, form, flip, to, stride),
        }
    }
}

/// One product over some columns of the output.
pub(crate) struct Job<'a> {
    b: &'a PackedB,
    source: Source<'a>,
    /// What rows of A are xored with: 0x80 if they are s8.
    flip: u8,
    /// Zero point of A as u8.
    a_zero: i32,
    b_zero_points: &'a [i32],
    /// Whether any column of B has a zero point, as held.
    row_terms: bool,
    epilogue: &'a RawEpilogue,
    /// First column of the output.
    first: usize,
}

/// The accumulators of a tile, with room for the widest register to read past the narrowest tile.
#[repr(align(64))]
struct Sums([i32; MAX_TILE + 16]);

impl<'a> Job<'a> {
    /// A job whose output starts at column `first`; `b_zero_points` are those of its own columns.
    pub(crate) fn new(
        b: &'a PackedB,
        source: Source<'a>,
        a_signed: bool,
        a_zero_point: i32,
        b_zero_points: &'a [i32],
        epilogue: &'a RawEpilogue,
        first: usize,
    ) -> Self {
        let (flip, shift) = if a_signed { (0x80, 128) } else { (0, 0) };
        let none = if b_zero_points.is_empty() { b.shift() != 0 } else { false };
        let row_terms = none || b_zero_points.iter().any(|&z| z != b.shift());
        Self { b, source, flip, a_zero: a_zero_point + shift, b_zero_points, row_terms, epilogue, first }
    }

    /// `−z_b` of column `j`, as held.
    fn neg_zero_point(&self, j: usize) -> i32 {
        let own = match self.b_zero_points {
            [] => 0,
            [one] => *one,
            many => many[j],
        };
        self.b.shift() - own
    }

    /// The rows in place, if they already lie in the kernel's form.
    fn in_place(&self) -> Option<(&'a [u8], usize)> {
        match self.source {
            Source::Rows { a, stride } => {
                let k = self.b.k();
                (self.b.kernel().form == Form::Bytes && self.flip == 0 && k > 0 && k.is_multiple_of(4))
                    .then_some((a, stride))
            }
            Source::Taps(_) => None,
        }
    }

    /// Bytes from one filled row to the next: whole cache lines, and never whole pages, or rows would share L1 sets.
    fn row_bytes(&self) -> usize {
        let bytes = (4 * self.b.groups()).next_multiple_of(64);
        if bytes.is_multiple_of(1024) { bytes + 64 } else { bytes }
    }
}

/// Runs `job` over `m` rows.
pub(crate) fn run(job: &Job, m: usize, threads: &Threads) {
    let (kernel, panels) = (job.b.kernel(), job.b.panel_count());
    if m == 0 || panels == 0 {
        return;
    }
    let products = m.saturating_mul(job.b.k()).saturating_mul(job.b.n());
    let wanted = if products < SERIAL_PRODUCTS { 1 } else { threads.count() };
    let most_rows = (BLOCK_BYTES / job.row_bytes().max(1) / kernel.mr * kernel.mr).clamp(kernel.mr, 512);
    // Splitting rows makes each thread read all of B, splitting columns all of A: cut the larger one.
    let by_columns = wanted > 1 && m < job.b.n() / 2 && panels >= wanted;
    let (row_splits, column_splits) = if by_columns { (1, wanted) } else { (wanted.min(m.div_ceil(kernel.mr)), 1) };
    let blocks = m.div_ceil(most_rows).next_multiple_of(row_splits);
    let rows = m.div_ceil(blocks).next_multiple_of(kernel.mr);
    let blocks = m.div_ceil(rows);
    let task = |i: usize| {
        let (block, split) = (i % blocks, i / blocks);
        let rows = block * rows..m.min((block + 1) * rows);
        run_block(job, rows, split * panels / column_splits..(split + 1) * panels / column_splits);
    };
    let tasks = blocks * column_splits;
    if wanted == 1 {
        (0..tasks).for_each(task);
    } else {
        threads.parallel_for(tasks, &task);
    }
}

/// Computes `rows` × `panels` of the output.
fn run_block(job: &Job, rows: Range<usize>, panels: Range<usize>) {
    let (kernel, groups) = (job.b.kernel(), job.b.groups());
    let in_place = job.in_place();
    let stride = job.row_bytes();
    let filled = if in_place.is_some() { 0 } else { rows.len() * stride };
    let terms = if job.row_terms { (rows.len() * 4).next_multiple_of(64) } else { 0 };
    with_scratch(filled + terms, |scratch| {
        let (filled, terms) = scratch.split_at_mut(filled);
        let (base, stride) = if let Some((a, stride)) = in_place {
            (a[rows.start * stride..].as_ptr(), stride)
        } else {
            job.source.fill(rows.clone(), job.b.k(), kernel.form, job.flip, filled, stride);
            (filled.as_ptr(), stride)
        };
        // Scratch is aligned to cache lines, and so is what lies before the terms.
        #[allow(clippy::cast_ptr_alignment)]
        let terms = job.row_terms.then(|| {
            for (r, term) in terms.chunks_exact_mut(4).take(rows.len()).enumerate() {
                // SAFETY: a row is `4·groups` readable bytes, filled or, in place, checked to lie inside A.
                let row = unsafe { std::slice::from_raw_parts(base.add(r * stride), 4 * groups) };
                let sum = match kernel.form {
                    Form::Bytes => row.iter().map(|&x| i32::from(x)).sum::<i32>(),
                    Form::Pairs => row.iter().step_by(2).map(|&x| i32::from(x)).sum::<i32>(),
                };
                let term_of_row = sum.wrapping_sub((job.b.k() as i32).wrapping_mul(job.a_zero));
                term.copy_from_slice(&term_of_row.to_ne_bytes());
            }
            terms.as_ptr().cast::<i32>()
        });
        let mut sums = Sums([0; MAX_TILE + 16]);
        let tiles = rows.len().div_ceil(kernel.mr);
        for p in panels {
            let first = p * kernel.nr;
            let cols = kernel.nr.min(job.b.n() - first);
            let zero_point = |j: usize| if first + j < job.b.n() { job.neg_zero_point(first + j) } else { 0 };
            let column_sums = &job.b.column_sums(p)[..cols];
            // SAFETY: columns `first..first + cols` of the job are columns of the output that was checked.
            let columns = unsafe { Columns::new(job.epilogue, job.first + first, column_sums, job.a_zero, zero_point) };
            for t in 0..tiles {
                // Even tiles: 7 rows are 4 + 3, not 6 + 1.
                let (from, to) = (t * rows.len() / tiles, (t + 1) * rows.len() / tiles);
                let mut pointers = [std::ptr::null(); MAX_MR];
                let mut pixels = [0; MAX_MR];
                for r in from..to {
                    pointers[r - from] = base.wrapping_add(r * stride);
                    pixels[r - from] = job.source.pixel(rows.start + r);
                }
                let args = TileArgs {
                    rows: pointers.as_ptr(),
                    panel: job.b.panel(p).as_ptr(),
                    groups,
                    sums: sums.0.as_mut_ptr(),
                };
                let block = Block {
                    sums: sums.0.as_ptr(),
                    ld: kernel.nr,
                    rows: to - from,
                    cols,
                    first: job.first + first,
                    columns: &columns,
                    pixels: pixels.as_ptr(),
                    row_terms: terms.map_or(std::ptr::null(), |terms| terms.wrapping_add(from)),
                };
                // SAFETY: the kernel was selected for a detected `Isa`; a tile has 1 to `mr` rows, each `4·groups`
                // bytes long; a panel is `groups · nr · 4` bytes; `sums` holds the largest tile and a register more;
                // pixels and columns are those of the checked output, and no two tasks share one.
                unsafe {
                    kernel.tiles[to - from - 1](&args);
                    finish(job.b.isa(), &block, job.epilogue);
                }
            }
        }
    });
}
