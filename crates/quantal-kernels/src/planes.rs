//! Copies of channels-last images of codes that a convolution reads in place of the image: padded, or with the planes of
//! a third axis side by side.

use crate::Threads;
use crate::chunks::{for_chunks, rows_per_task};
use crate::error::{KernelError, check_length};

const TOO_LARGE: KernelError = KernelError::Geometry("the size of an image overflows");

/// The taps of a window along the third axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taps {
    /// Planes that a window sees.
    pub kernel: usize,
    /// Planes from one window to the next.
    pub stride: usize,
    /// Planes from one tap to the next.
    pub dilation: usize,
    /// Planes before the first, as if they were there.
    pub pad: usize,
    /// Number of windows.
    pub windows: usize,
}

/// Puts the planes that each window sees side by side, tap by tap within each group of channels:
/// `[batch, depth, pixels, groups, c]` becomes `[batch, windows, pixels, groups, kernel, c]`. What lies outside is `fill`.
///
/// # Errors
/// If a slice is shorter than the dimensions say.
pub fn side_by_side(
    x: &[u8],
    [batch, depth, pixels, groups, c]: [usize; 5],
    taps: Taps,
    fill: u8,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let Taps { kernel, stride, dilation, pad, windows } = taps;
    let plane = [pixels, groups, c].into_iter().try_fold(1, usize::checked_mul).ok_or(TOO_LARGE)?;
    let wide = plane.checked_mul(kernel).ok_or(TOO_LARGE)?;
    let whole = |planes: usize, of: usize| batch.checked_mul(planes)?.checked_mul(of);
    let len = whole(windows, wide).ok_or(TOO_LARGE)?;
    check_length("the input", x.len(), whole(depth, plane).ok_or(TOO_LARGE)?)?;
    check_length("the output", out.len(), len)?;
    if len == 0 {
        return Ok(());
    }

    for_chunks(&mut out[..len], wide, len / 4, threads, |i, out| {
        let (image, window) = (i / windows, i % windows);
        for tap in 0..kernel {
            let at = (window * stride + tap * dilation).checked_sub(pad).filter(|&at| at < depth);
            let from = at.map(|at| &x[(image * depth + at) * plane..][..plane]);
            let parts = out.chunks_exact_mut(kernel * c).map(|all| &mut all[tap * c..][..c]);
            match from {
                None => parts.for_each(|to| to.fill(fill)),
                Some(from) => parts.zip(from.chunks_exact(c)).for_each(|(to, from)| to.copy_from_slice(from)),
            }
        }
    });
    Ok(())
}

/// An image `[batch, h, w, c]` with `pads` (top, left, bottom, right) of `fill` around it.
///
/// # Errors
/// If a slice is shorter than the dimensions say.
pub fn pad(
    x: &[u8],
    [batch, h, w, c]: [usize; 4],
    [top, left, bottom, right]: [usize; 4],
    fill: u8,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let sum = |a: usize, b: usize, c: usize| a.checked_add(b)?.checked_add(c);
    let product = |sizes: [usize; 4]| sizes.into_iter().try_fold(1, usize::checked_mul);
    let lines = sum(top, h, bottom).ok_or(TOO_LARGE)?;
    let line = sum(left, w, right).and_then(|n| n.checked_mul(c)).ok_or(TOO_LARGE)?;
    let len = product([batch, lines, line, 1]).ok_or(TOO_LARGE)?;
    check_length("the input", x.len(), product([batch, h, w, c]).ok_or(TOO_LARGE)?)?;
    check_length("the output", out.len(), len)?;
    if len == 0 {
        return Ok(());
    }

    let rows = rows_per_task(batch * lines, line, threads);
    for_chunks(&mut out[..len], rows * line, len / 4, threads, |i, out| {
        for (j, out) in out.chunks_exact_mut(line).enumerate() {
            let (image, y) = ((i * rows + j) / lines, (i * rows + j) % lines);
            let Some(y) = y.checked_sub(top).filter(|&y| y < h) else {
                out.fill(fill);
                continue;
            };
            let (before, rest) = out.split_at_mut(left * c);
            let (inside, after) = rest.split_at_mut(w * c);
            before.fill(fill);
            inside.copy_from_slice(&x[(image * h + y) * w * c..][..w * c]);
            after.fill(fill);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_lie_side_by_side_tap_by_tap() {
        // Two images of 3 planes, 2 pixels, 2 groups of 1 channel.
        let x: Vec<u8> = (0..24).collect();
        let taps = Taps { kernel: 2, stride: 2, dilation: 1, pad: 1, windows: 2 };
        let mut out = vec![0; 2 * 2 * 2 * 2 * 2];
        side_by_side(&x, [2, 3, 2, 2, 1], taps, 99, &mut out, &Threads::new(2)).unwrap();
        // The first window sees padding and plane 0, the second planes 1 and 2.
        assert_eq!(out[..8], [99, 0, 99, 1, 99, 2, 99, 3]);
        assert_eq!(out[8..16], [4, 8, 5, 9, 6, 10, 7, 11]);
        assert_eq!(out[16..24], [99, 12, 99, 13, 99, 14, 99, 15]);
        assert!(side_by_side(&x, [2, 4, 2, 2, 1], taps, 0, &mut out, &Threads::new(1)).is_err());
        assert!(side_by_side(&x, [2, 3, 2, 2, 1], taps, 0, &mut out[1..], &Threads::new(1)).is_err());
    }

    #[test]
    fn images_are_padded_on_each_side() {
        let x: Vec<u8> = (1..=8).collect();
        let mut out = vec![0; 2 * 3 * 4];
        pad(&x, [2, 2, 2, 1], [0, 1, 1, 1], 7, &mut out, &Threads::new(2)).unwrap();
        assert_eq!(out[..12], [7, 1, 2, 7, 7, 3, 4, 7, 7, 7, 7, 7]);
        assert_eq!(out[12..], [7, 5, 6, 7, 7, 7, 8, 7, 7, 7, 7, 7]);
        assert!(pad(&x, [2, 2, 3, 1], [0; 4], 7, &mut out, &Threads::new(1)).is_err());
        assert!(pad(&x, [2, 2, 2, 1], [9, 0, 0, 0], 7, &mut out, &Threads::new(1)).is_err());
    }
}
