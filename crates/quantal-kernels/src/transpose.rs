//! Moves between channels-first and channels-last: the transpose of a batch of matrices.

use crate::Threads;
use crate::chunks::for_chunks;
use crate::error::{KernelError, check_length};

/// Side of the square that is moved at once: a cache line of bytes.
const SQUARE: usize = 64;

/// Most planes that are read side by side: red, green, blue and alpha.
pub(crate) const MAX_PLANES: usize = 4;
/// Elements of a plane in one task.
const BAND: usize = 1 << 12;

/// `out[o, c, r] = x[o, r, c]` for `[outer, rows, cols]` elements of any plain type. `[N, C, H·W]` to `[N, H·W, C]` has
/// `rows = C`; the way back has `rows = H·W`.
///
/// # Errors
/// If a slice is shorter than the dimensions say.
pub fn transpose<T: Copy + Send + Sync>(
    x: &[T],
    [outer, rows, cols]: [usize; 3],
    out: &mut [T],
    threads: &Threads,
) -> Result<(), KernelError> {
    let n = outer.checked_mul(rows).and_then(|v| v.checked_mul(cols)).unwrap_or(usize::MAX);
    check_length("the input", x.len(), n)?;
    check_length("the output", out.len(), n)?;
    if n == 0 {
        return Ok(());
    }
    // A task writes whole squares of one matrix where a matrix is large, and whole matrices where it is not.
    let band = SQUARE * rows;
    for slab in 0..outer {
        let (x, out) = (&x[slab * rows * cols..][..rows * cols], &mut out[slab * rows * cols..][..rows * cols]);
        if let 2..=MAX_PLANES = rows {
            for_chunks(out, BAND * rows, rows * cols, threads, |i, out| {
                let count = out.len() / rows;
                let mut planes = [&[][..]; MAX_PLANES];
                for (r, plane) in planes.iter_mut().enumerate().take(rows) {
                    *plane = &x[r * cols + i * BAND..][..count];
                }
                interleave(&planes[..rows], out);
            });
            continue;
        }
        for_chunks(out, band, rows * cols, threads, |i, out| {
            let first = i * SQUARE;
            let width = out.len() / rows;
            for top in (0..rows).step_by(SQUARE) {
                let height = SQUARE.min(rows - top);
                for c in 0..width {
                    let to = &mut out[c * rows + top..][..height];
                    let from = x[top * cols + first + c..].iter().step_by(cols);
                    to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
                }
            }
        });
    }
    Ok(())
}

/// `out[i, r] = planes[r][i]`, for at most [`MAX_PLANES`] planes of the same length. Inlined, to be compiled for the
/// instruction set of the caller.
#[inline(always)]
pub(crate) fn interleave<T: Copy>(planes: &[&[T]], out: &mut [T]) {
    match *planes {
        [a] => out.copy_from_slice(a),
        [a, b] => out.as_chunks_mut::<2>().0.iter_mut().zip(a.iter().zip(b)).for_each(|(to, (a, b))| *to = [*a, *b]),
        [a, b, c] => {
            let from = a.iter().zip(b).zip(c);
            out.as_chunks_mut::<3>().0.iter_mut().zip(from).for_each(|(to, ((a, b), c))| *to = [*a, *b, *c]);
        }
        [a, b, c, d] => {
            let from = a.iter().zip(b).zip(c).zip(d);
            out.as_chunks_mut::<4>().0.iter_mut().zip(from).for_each(|(to, (((a, b), c), d))| *to = [*a, *b, *c, *d]);
        }
        _ => debug_assert!(planes.is_empty(), "at most {MAX_PLANES} planes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_lands_on_its_mirror_place() {
        for [outer, rows, cols] in
            [[1, 1, 1], [2, 3, 200], [1, 65, 64], [3, 129, 7], [1, 500, 130], [2, 3, 9001], [2, 4, 5], [1, 2, 4097]]
        {
            let x: Vec<u32> = (0..(outer * rows * cols) as u32).collect();
            let mut y = vec![0; x.len()];
            transpose(&x, [outer, rows, cols], &mut y, &Threads::new(2)).unwrap();
            for (i, &v) in x.iter().enumerate() {
                let (o, r, c) = (i / (rows * cols), i / cols % rows, i % cols);
                assert_eq!(y[(o * cols + c) * rows + r], v, "[{outer}, {rows}, {cols}] at {i}");
            }
        }
    }
}
