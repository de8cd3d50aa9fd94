//! One output, cut into disjoint pieces that threads fill.

use crate::Threads;

/// Elements below which waking another thread costs more than it gains.
const SERIAL: usize = 1 << 15;

struct Base<T>(*mut T);
// SAFETY: only `for_chunks` holds one, and derives disjoint slices from it while it holds the borrow of the whole.
unsafe impl<T: Send> Sync for Base<T> {}

/// Calls `fill(i, chunk)` for each piece of `out` of `size` elements, the last one perhaps shorter. `work` is the number
/// of elementary operations in all; if there are few, one thread does them.
pub(crate) fn for_chunks<T: Send>(
    out: &mut [T],
    size: usize,
    work: usize,
    threads: &Threads,
    fill: impl Fn(usize, &mut [T]) + Sync,
) {
    let size = size.max(1);
    if work < SERIAL || threads.count() == 1 {
        out.chunks_mut(size).enumerate().for_each(|(i, chunk)| fill(i, chunk));
        return;
    }
    let (base, len) = (Base(out.as_mut_ptr()), out.len());
    let base = &base;
    threads.parallel_for(len.div_ceil(size), &|i| {
        let count = size.min(len - i * size);
        // SAFETY: chunk `i` is inside `out`, and `parallel_for` runs each `i` once, so no two slices overlap.
        fill(i, unsafe { std::slice::from_raw_parts_mut(base.0.add(i * size), count) });
    });
}

/// A number of rows of `row` operations that makes a task worth its hand-over and leaves a few tasks for each thread.
pub(crate) fn rows_per_task(rows: usize, row: usize, threads: &Threads) -> usize {
    let worth = (SERIAL / 4).div_ceil(row.max(1));
    worth.max(rows.div_ceil(4 * threads.count())).max(1)
}
