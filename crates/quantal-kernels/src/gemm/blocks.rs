//! How a product is cut: tasks of rows × panels, and inside a task tiles over a block of rows of A.
//!
//! A block of rows is laid out once as the kernel wants it and then swept over all panels of the task, so it is read from
//! L2 and a panel from L1.

use std::cell::Cell;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::amx::Configured;
use super::epilogue::{Block, Columns, NO_ROW, RawEpilogue, finish};
use super::source::{Laid, Source, Wanted, with_laid};
use super::tile::TileArgs;
use crate::arena::with_scratch;
use crate::kernel::{Form, GemmKernel, MAX_TILE};
use crate::pack::PackedB;
use crate::{Level, Threads};

/// Most bytes in a block of rows: half of the smallest L2 that we know, a quarter of most.
const BLOCK_BYTES: usize = 128 << 10;
/// The same where there is AMX, and with it 2 MiB of L2.
const AMX_BLOCK_BYTES: usize = 512 << 10;
/// Most rows in a block, so that the lists of its rows stay in L1.
const MOST_ROWS: usize = 512;
/// Below this many products a call is not worth waking another thread.
const SERIAL_PRODUCTS: usize = 1 << 18;
/// The same where there is AMX.
const AMX_SERIAL_PRODUCTS: usize = 1 << 21;
/// Weights that each of several threads may as well read for itself: those of ResNet-50 up to 1024 × 512 gained, those
/// of transformers from 768 × 768 lost.
const SMALL_B: usize = 512 << 10;
/// Products of AMX that take as long as the end of a sum.
const AMX_END_PRODUCTS: usize = 128;

/// One product over some columns of the output.
pub(crate) struct Job<'a> {
    b: &'a PackedB,
    /// The kernel that `b` was packed for, or one that reads the same panels.
    kernel: &'static GemmKernel,
    source: Source<'a>,
    /// Whether tiles read s8.
    signed: bool,
    /// How tiles want the rows of A.
    wanted: Wanted,
    /// Zero point of A as tiles read it.
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
        let kernel = match source {
            Source::Rows(rows) => b.kernel_for(rows.m),
            Source::Image(_) => b.kernel(),
        };
        let (signed, flip, shift) = kernel.row_codes.of(a_signed);
        let wanted = Wanted::new(b, kernel, flip);
        let none = if b_zero_points.is_empty() { b.shift() != 0 } else { false };
        let row_terms = none || b_zero_points.iter().any(|&z| z != b.shift());
        let a_zero = a_zero_point + shift;
        Self { b, kernel, source, signed, wanted, a_zero, b_zero_points, row_terms, epilogue, first }
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

    /// Sets what the columns of panel `p` add and multiply by.
    fn set_columns(&self, p: usize, columns: &mut Columns) {
        let nr = self.kernel.nr;
        let first = p * nr;
        let sums = &self.b.column_sums(p)[..nr.min(self.b.n() - first)];
        let zero_point = |j: usize| self.neg_zero_point(first + j);
        // SAFETY: columns `first..first + sums.len()` of the job are columns of the output that was checked.
        unsafe { columns.set(self.epilogue, self.first + first, sums, self.a_zero, zero_point) };
    }

    /// The terms of the rows of `laid`: their sums less `k` zero points.
    fn terms(&self, laid: &mut Laid) {
        let Wanted { form, run, span, .. } = self.wanted;
        let less = (self.b.k() as i32).wrapping_mul(self.a_zero);
        let Laid { starts, stride, pixels, offsets, terms } = laid;
        for (r, &pixel) in pixels.iter().enumerate() {
            let start = starts[r / run].wrapping_add(r % run * *stride);
            let mut sum = 0_i32;
            for &offset in offsets.iter().filter(|_| pixel != NO_ROW) {
                // SAFETY: a row that is in the output has `span` elements at each of its offsets, in A or in the
                // scratch of the block, as `Source::lay` put them.
                let codes =
                    unsafe { std::slice::from_raw_parts(start.wrapping_add(offset), span * form.element_bytes()) };
                let part: i32 = match form {
                    Form::Bytes if self.signed => codes.iter().map(|&x| i32::from(x as i8)).sum(),
                    Form::Bytes => codes.iter().map(|&x| i32::from(x)).sum(),
                    Form::Pairs => codes.iter().step_by(2).map(|&x| i32::from(x)).sum(),
                };
                sum = sum.wrapping_add(part);
            }
            terms.push(sum.wrapping_sub(less));
        }
    }
}

/// Runs `job`.
///
/// # Panics
/// When it would write outside of the rows and columns that its epilogue was checked for.
pub(crate) fn run(job: &Job, threads: &Threads) {
    let (kernel, panels) = (job.kernel, job.b.panel_count());
    let (units, unit_rows) = (job.source.units(), job.source.unit_rows());
    let m = units * unit_rows;
    if m == 0 || panels == 0 {
        return;
    }
    job.epilogue.assert_holds(job.source.output_end(), job.first + job.b.n());
    let (block_bytes, serial) = match kernel.level {
        Level::Amx => (AMX_BLOCK_BYTES, AMX_SERIAL_PRODUCTS),
        Level::Portable | Level::Avx2 | Level::AvxVnni | Level::Avx512Vnni | Level::Neon | Level::NeonDot => {
            (BLOCK_BYTES, SERIAL_PRODUCTS)
        }
    };
    let depth = job.b.k() + if kernel.level == Level::Amx { AMX_END_PRODUCTS } else { 0 };
    let products = m.saturating_mul(depth).saturating_mul(job.b.n());
    let wanted = if products < serial { 1 } else { threads.count() };
    // Rows are cut by whole tiles, between threads by whole runs, images by whole lines.
    let tile = if unit_rows == 1 { kernel.mr } else { 1 };
    let piece = if unit_rows == 1 && kernel.run > 1 { kernel.run } else { tile };
    // Splitting rows makes each thread read all of B, splitting columns all of A: cut the larger one. But what was cut by
    // columns before lies in two cores' caches, which is slower to read than a small B, if there are rows for all.
    let small = job.b.k() * job.b.n() <= SMALL_B && units.div_ceil(piece) >= 2 * wanted;
    let by_columns = wanted > 1 && m < job.b.n() / if small { 8 } else { 2 } && panels >= wanted;
    let whole = if wanted > 1 && !by_columns { piece } else { tile };
    let most = block_bytes / job.source.unit_bytes(&job.wanted).max(1);
    let most = (most / whole * whole).clamp(whole, MOST_ROWS.div_ceil(unit_rows).max(whole));
    let (row_splits, column_splits) = if by_columns { (1, wanted) } else { (wanted.min(units.div_ceil(whole)), 1) };
    let blocks = units.div_ceil(most).next_multiple_of(row_splits);
    let block = units.div_ceil(blocks).next_multiple_of(whole);
    let blocks = units.div_ceil(block);
    // Blocks of one thread: the first of them finds B in no cache near it.
    let own = blocks.div_ceil(row_splits);
    with_columns(panels, |columns| {
        columns.iter_mut().enumerate().for_each(|(p, columns)| job.set_columns(p, columns));
        let columns = &*columns;
        let task = |i: usize| {
            let (b, split) = (i % blocks, i / blocks);
            let units = b * block..units.min((b + 1) * block);
            let panels = split * panels / column_splits..(split + 1) * panels / column_splits;
            run_block(job, columns, b % own == 0, units, panels);
        };
        let tasks = blocks * column_splits;
        if wanted == 1 {
            (0..tasks).for_each(task);
        } else {
            threads.parallel_for(tasks, &task);
        }
    });
}

thread_local! {
    static COLUMNS: Cell<Vec<Columns>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` on the columns of `panels` panels, holding whatever the last user left. A nested use gets some of its own.
fn with_columns(panels: usize, work: impl FnOnce(&mut [Columns])) {
    let mut columns = COLUMNS.take();
    if columns.len() < panels {
        columns.resize_with(panels, || Columns::NONE);
    }
    work(&mut columns[..panels]);
    COLUMNS.set(columns);
}

/// Computes `units` × `panels` of the output.
fn run_block(job: &Job, columns: &[Columns], cold: bool, units: Range<usize>, panels: Range<usize>) {
    with_scratch(job.source.scratch_bytes(&units, &job.wanted), |scratch| {
        with_laid(|laid| {
            #[cfg(debug_assertions)]
            let bounds = scratch.as_ptr_range();
            job.source.lay(units, &job.wanted, scratch, laid);
            #[cfg(debug_assertions)]
            job.source.assert_readable(laid, &job.wanted, bounds);
            if job.row_terms {
                job.terms(laid);
            }
            sweep(job, columns, cold, laid, panels);
        });
    });
}

/// Computes the rows of `laid` × `panels`.
fn sweep(job: &Job, all_columns: &[Columns], cold: bool, laid: &Laid, panels: Range<usize>) {
    let kernel = job.kernel;
    #[cfg(target_arch = "x86_64")]
    let _configured = Configured::new(kernel);
    // Tiles are ended while the next ones are computed: their stores have left the core by then, and the two overlap. A
    // few small ones are ended together, or it would cost as much to begin as to do.
    let together = MAX_TILE / (kernel.mr * kernel.nr);
    let mut sums = [const { Sums([0; MAX_TILE + 16]) }; 2];
    let mut pending: Option<Block> = None;
    let mut turn = 0;
    let runs = laid.starts.len();
    let tiles = runs.div_ceil(kernel.tiles.len());
    for p in panels.clone() {
        let first = p * kernel.nr;
        let cols = kernel.nr.min(job.b.n() - first);
        let columns = &all_columns[p];
        let next = if cold && p + 1 < panels.end { Some(job.b.panel(p + 1)) } else { None };
        let mut args = TileArgs {
            starts: std::ptr::null(),
            stride: laid.stride,
            offsets: laid.offsets.as_ptr(),
            spans: job.b.spans(),
            groups: job.wanted.span_bytes / 4,
            places: job.b.places(p),
            panel: job.b.panel(p).as_ptr(),
            init: columns.add.as_ptr(),
            sums: std::ptr::null_mut(),
            cols,
            ahead: std::ptr::null(),
            signed: job.signed,
        };
        // Even tiles: 7 rows are 4 + 3, not 6 + 1. The longer ones come first.
        let (least, longer) = (runs / tiles, runs % tiles);
        let (mut from, mut ended) = (0, 0);
        for t in 0..tiles {
            let count = least + usize::from(t < longer);
            args.starts = laid.starts[from..from + count].as_ptr();
            args.sums = sums[turn].0[(from - ended) * kernel.run * kernel.nr..].as_mut_ptr();
            args.ahead = next.map_or(std::ptr::null(), |next| ahead(next, t, tiles));
            from += count;
            // SAFETY: the kernel was selected for a detected `Isa`; a tile has a table entry for its 1 or more runs; all
            // that it reads of A was laid out by the source for `job.wanted`, which is of the same B; a panel has at
            // least as many steps; `sums` holds `together` of the largest tiles and a register more.
            unsafe { kernel.tiles[count - 1](&args) };
            if (t + 1) % together != 0 && t + 1 != tiles {
                continue;
            }
            let rows = ended * kernel.run..from * kernel.run;
            let terms = if job.row_terms { laid.terms[rows.clone()].as_ptr() } else { std::ptr::null() };
            let block = Block {
                sums: sums[turn].0.as_ptr(),
                ld: kernel.nr,
                rows: rows.len(),
                cols,
                first: job.first + first,
                columns,
                summed: true,
                pixels: laid.pixels[rows].as_ptr(),
                row_terms: terms,
            };
            turn = 1 - turn;
            ended = from;
            if let Some(block) = pending.replace(block) {
                // SAFETY: the sums of the block are there; pixels and columns are those of the checked output, and no two
                // tasks share one.
                unsafe { finish(job.b.isa(), &block, job.epilogue) };
            }
        }
    }
    if let Some(block) = pending {
        // SAFETY: as above.
        unsafe { finish(job.b.isa(), &block, job.epilogue) };
    }
}

/// What tile `t` of `tiles` fetches of the panel after its own: the first tiles of a panel fetch a share each.
fn ahead(next: &[u8], t: usize, tiles: usize) -> *const u8 {
    // A tile fetches 512 or 1024 bytes for each 2048 that it reads.
    let (shares, share, odd) = if tiles < 4 { (2, next.len() / 2, 1) } else { (4, next.len() / 4, 0) };
    if t >= shares { std::ptr::null() } else { next.as_ptr().wrapping_add(t * share + odd) }
}
