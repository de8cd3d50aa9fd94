//! `Pad`: grows or, with negative amounts, crops the ends of axes.

use crate::ops::OpError;
use crate::ops::dispatch::{cells, cells_mut, for_cell};
use crate::ops::strides::{axis, axis_flags, contiguous, integers};
use quantal_tensor::Tensor;

/// What fills the new places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PadMode {
    /// One value.
    Constant,
    /// The input mirrored at its first and last element.
    Reflect,
    /// The first or last element.
    Edge,
    /// The input again.
    Wrap,
}

/// Where a place of a padded axis comes from; `None` for the constant.
fn source(mode: PadMode, place: i64, size: i64) -> Option<i64> {
    if (0..size).contains(&place) {
        return Some(place);
    }
    match mode {
        PadMode::Constant => None,
        PadMode::Edge => Some(place.clamp(0, size - 1)),
        PadMode::Wrap => Some(place.rem_euclid(size)),
        PadMode::Reflect if size == 1 => Some(0),
        PadMode::Reflect => {
            let period = 2 * (size - 1);
            let p = place.rem_euclid(period);
            Some(p.min(period - p))
        }
    }
}

/// `pads` holds the amounts before, then those behind, each axis (or each of `axes`).
pub(super) fn pad(
    x: &Tensor,
    pads: &Tensor,
    value: Option<&Tensor>,
    axes: Option<&Tensor>,
    mode: PadMode,
) -> Result<Tensor, OpError> {
    let rank = x.rank();
    let pads = integers(pads, "pads")?;
    let axes = axes.map(|t| integers(t, "axes")).transpose()?.unwrap_or_else(|| (0..rank as i64).collect());
    if pads.len() != 2 * axes.len() {
        return Err(OpError::invalid(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    axis_flags(&axes, rank)?;
    let mut before = vec![0; rank];
    let mut shape = x.shape().to_vec();
    for (i, &a) in axes.iter().enumerate() {
        let (a, first, last) = (axis(a, rank)?, pads[i], pads[axes.len() + i]);
        let size = i128::from(first) + x.shape()[a] as i128 + i128::from(last);
        shape[a] = usize::try_from(size)
            .map_err(|_| OpError::invalid(format!("pads {first} and {last} leave {size} of axis {a}")))?;
        before[a] = first;
        if mode != PadMode::Constant && x.shape()[a] == 0 && shape[a] > 0 {
            return Err(OpError::invalid(format!("axis {a} is empty, there is nothing to pad it with")));
        }
    }
    if pads.iter().all(|&p| p == 0) {
        return Ok(x.clone());
    }
    if let Some(v) = value
        && (v.dtype() != x.dtype() || v.len() != 1)
    {
        let found = format!("{} {:?}", v.dtype(), v.shape());
        return Err(OpError::invalid(format!("the constant must be one {}, found {found}", x.dtype())));
    }
    let mut out = Tensor::zeros(x.dtype(), &shape)?;
    if out.is_empty() {
        return Ok(out);
    }
    for_cell!(x.dtype().size(), T => {
        let value = value.map_or_else(<T as bytemuck::Zeroable>::zeroed, |v| cells::<T>(v)[0]);
        fill(cells::<T>(x), x.shape(), &shape, &before, mode, value, cells_mut::<T>(&mut out)?);
    });
    Ok(out)
}

fn fill<T: Copy>(x: &[T], from: &[usize], to: &[usize], before: &[i64], mode: PadMode, value: T, out: &mut [T]) {
    // Trailing axes that stay as they are move together; the innermost loop runs over the last axis that does not.
    let Some(last) = (0..from.len()).rev().find(|&i| from[i] != to[i] || before[i] != 0) else { return };
    let block: usize = to[last + 1..].iter().product();
    let strides = contiguous(from);
    let run = source_runs(mode, from[last], to[last], before[last]);
    // Where each index of the outer axes comes from, as an offset; `None` is the constant.
    let tables: Vec<Vec<Option<usize>>> = (0..last)
        .map(|i| {
            let place = |o: usize| source(mode, (o as i64).wrapping_sub(before[i]), from[i] as i64);
            (0..to[i]).map(|o| place(o).map(|s| s as usize * strides[i] as usize)).collect()
        })
        .collect();
    let mut position = vec![0; last];
    for row in out.chunks_exact_mut(to[last] * block) {
        let start = position.iter().zip(&tables).try_fold(0, |sum, (&p, table): (&usize, _)| table[p].map(|o| sum + o));
        let mut rest = row;
        for &(at, step, n) in &run {
            let (part, tail) = rest.split_at_mut(n * block);
            rest = tail;
            match (start, at) {
                (Some(start), Some(at)) if step == 1 => {
                    let at = start + at * block;
                    part.copy_from_slice(&x[at..at + n * block]);
                }
                (Some(start), Some(at)) => {
                    for (j, piece) in part.chunks_exact_mut(block).enumerate() {
                        let at = start + (at as isize + j as isize * step) as usize * block;
                        piece.copy_from_slice(&x[at..at + block]);
                    }
                }
                _ => part.fill(value),
            }
        }
        for i in (0..last).rev() {
            position[i] += 1;
            if position[i] < to[i] {
                break;
            }
            position[i] = 0;
        }
    }
}

/// A padded axis as runs: where each starts in the source (`None` for the constant), its step there, its length.
fn source_runs(mode: PadMode, from: usize, to: usize, before: i64) -> Vec<(Option<usize>, isize, usize)> {
    let mut runs: Vec<(Option<usize>, isize, usize)> = Vec::new();
    for o in 0..to {
        let at = source(mode, (o as i64).wrapping_sub(before), from as i64).map(|s| s as usize);
        if let Some((start, step, n)) = runs.last_mut() {
            match (*start, at) {
                (None, None) => {
                    *n += 1;
                    continue;
                }
                (Some(s), Some(at)) if *n == 1 && at.abs_diff(s) <= 1 => {
                    (*step, *n) = (at as isize - s as isize, 2);
                    continue;
                }
                (Some(s), Some(at)) if at as isize == s as isize + *step * *n as isize => {
                    *n += 1;
                    continue;
                }
                _ => {}
            }
        }
        runs.push((at, 1, 1));
    }
    runs
}
