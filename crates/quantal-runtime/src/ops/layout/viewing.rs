//! Moves that are a copy of the input seen through other dimensions and strides.

use crate::ops::dispatch::{cells, cells_mut, for_cell};
use crate::ops::strides::{
    axis, axis_flags, broadcast_shape, broadcast_strides, contiguous, copy_view, dims_from, integer, integers,
};
use crate::ops::{Inputs, OpError, optional, required};
use quantal_tensor::Tensor;

/// A tensor of `shape` filled from the view of `x` under `dims` (as many elements) and `strides`.
fn copied(x: &Tensor, shape: &[usize], offset: usize, dims: &[usize], strides: &[isize]) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(x.dtype(), shape)?;
    for_cell!(x.dtype().size(), T => copy_view(cells::<T>(x), offset, dims, strides, cells_mut::<T>(&mut out)?));
    Ok(out)
}

pub(super) fn transpose(x: &Tensor, perm: Option<&[i64]>) -> Result<Tensor, OpError> {
    let rank = x.rank();
    let perm: Vec<usize> = match perm {
        None => (0..rank).rev().collect(),
        Some(perm) => {
            let order = perm.iter().map(|&p| axis(p, rank)).collect::<Result<Vec<_>, _>>();
            match order {
                Ok(order) if order.len() == rank && axis_flags(perm, rank).is_ok() => order,
                _ => {
                    return Err(OpError::invalid(format!("perm {perm:?} is no order of {rank} dimensions")));
                }
            }
        }
    };
    let own = contiguous(x.shape());
    let dims: Vec<usize> = perm.iter().map(|&p| x.shape()[p]).collect();
    let moved = perm.iter().copied().filter(|&p| x.shape()[p] != 1);
    if moved.is_sorted() {
        return Ok(x.clone().reshaped(&dims)?);
    }
    let strides: Vec<isize> = perm.iter().map(|&p| own[p]).collect();
    copied(x, &dims, 0, &dims, &strides)
}

pub(super) fn expand(x: &Tensor, shape: &Tensor) -> Result<Tensor, OpError> {
    let wanted = dims_from(&integers(shape, "the shape")?)?;
    let shape = broadcast_shape(&[x.shape(), &wanted])?;
    if shape == x.shape() {
        return Ok(x.clone());
    }
    copied(x, &shape, 0, &shape, &broadcast_strides(x.shape(), &shape))
}

pub(super) fn tile(x: &Tensor, repeats: &Tensor) -> Result<Tensor, OpError> {
    let repeats = dims_from(&integers(repeats, "repeats")?)?;
    if repeats.len() != x.rank() {
        let text = format!("{} repeats for {} dimensions", repeats.len(), x.rank());
        return Err(OpError::invalid(text));
    }
    let own = contiguous(x.shape());
    let (mut shape, mut dims, mut strides) = (Vec::new(), Vec::new(), Vec::new());
    for ((&d, &r), &s) in x.shape().iter().zip(&repeats).zip(&own) {
        shape.push(d.checked_mul(r).ok_or_else(|| OpError::invalid(format!("{d} repeated {r} times is too large")))?);
        dims.extend([r, d]);
        strides.extend([0, s]);
    }
    copied(x, &shape, 0, &dims, &strides)
}

pub(super) fn slice(x: &Tensor, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
    let starts = integers(required(inputs, 1)?, "starts")?;
    let ends = integers(required(inputs, 2)?, "ends")?;
    let axes = optional(inputs, 3).map(|t| integers(t, "axes")).transpose()?;
    let steps = optional(inputs, 4).map(|t| integers(t, "steps")).transpose()?;
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        let lens = [starts.len(), ends.len(), axes.len(), steps.len()];
        return Err(OpError::invalid(format!("starts, ends, axes and steps are of different lengths: {lens:?}")));
    }
    axis_flags(&axes, x.rank())?;
    let (mut shape, mut strides, mut offset) = (x.shape().to_vec(), contiguous(x.shape()), 0_isize);
    for (((&start, &end), &a), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let a = axis(a, x.rank())?;
        let size = x.shape()[a] as i64;
        let from_start = |i: i64| if i < 0 { i.saturating_add(size) } else { i };
        // Walking backwards, the place before the first element is a valid end.
        let (low, high) = match step {
            0 => return Err(OpError::invalid(format!("the step along axis {a} is 0"))),
            1.. => (0, size),
            _ => (-1, size - 1),
        };
        let first = from_start(start).clamp(low.max(0).min(high), high);
        let last = from_start(end).clamp(low, high);
        let span = if step > 0 { last - first } else { first - last };
        shape[a] = (span.max(0) as u64).div_ceil(step.unsigned_abs()) as usize;
        offset = offset.wrapping_add((first as isize).wrapping_mul(strides[a]));
        strides[a] = strides[a].wrapping_mul(step as isize);
    }
    if shape == x.shape() && steps.iter().all(|&s| s > 0) {
        return Ok(x.clone());
    }
    copied(x, &shape, offset as usize, &shape, &strides)
}

/// The dimensions of an image tensor `[N, C, H, W]`.
fn image(x: &Tensor) -> Result<[usize; 4], OpError> {
    <[usize; 4]>::try_from(x.shape())
        .map_err(|_| OpError::invalid(format!("the input must be [N, C, H, W], found shape {:?}", x.shape())))
}

/// The input cut into `cut`, those dimensions put in the order `perm`, then joined to `shape`.
fn cut_and_join(x: &Tensor, cut: [usize; 6], perm: [usize; 6], shape: [Option<usize>; 4]) -> Result<Tensor, OpError> {
    let too_large = || OpError::invalid(format!("blocks of shape {:?} are too large", x.shape()));
    let [Some(n), Some(c), Some(h), Some(w)] = shape else { return Err(too_large()) };
    let own = contiguous(&cut);
    copied(x, &[n, c, h, w], 0, &perm.map(|p| cut[p]), &perm.map(|p| own[p]))
}

pub(super) fn depth_to_space(x: &Tensor, block: usize, column_first: bool) -> Result<Tensor, OpError> {
    let [n, c, h, w] = image(x)?;
    let area = block * block;
    if !c.is_multiple_of(area) {
        return Err(OpError::invalid(format!("{c} channels are no multiple of {block} x {block}")));
    }
    let depth = c / area;
    let shape = [Some(n), Some(depth), h.checked_mul(block), w.checked_mul(block)];
    if column_first {
        cut_and_join(x, [n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3], shape)
    } else {
        cut_and_join(x, [n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2], shape)
    }
}

pub(super) fn space_to_depth(x: &Tensor, block: usize, column_first: bool) -> Result<Tensor, OpError> {
    let [n, c, h, w] = image(x)?;
    if !h.is_multiple_of(block) || !w.is_multiple_of(block) {
        return Err(OpError::invalid(format!("{h} x {w} is no multiple of {block} x {block}")));
    }
    let (h, w) = (h / block, w / block);
    let shape = [Some(n), c.checked_mul(block * block), Some(h), Some(w)];
    let perm = if column_first { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
    cut_and_join(x, [n, c, h, block, w, block], perm, shape)
}

/// The part of each matrix on and above (or below) the `k`-th diagonal; the rest becomes zero.
pub(super) fn trilu(x: &Tensor, k: Option<&Tensor>, upper: bool) -> Result<Tensor, OpError> {
    let k = k.map_or(Ok(0), |t| integer(t, "k"))?;
    let &[.., rows, columns] = x.shape() else {
        return Err(OpError::invalid(format!("the input must hold matrices, found shape {:?}", x.shape())));
    };
    let mut out = Tensor::zeros(x.dtype(), x.shape())?;
    if out.is_empty() {
        return Ok(out);
    }
    for_cell!(x.dtype().size(), T => {
        let rows_out = cells_mut::<T>(&mut out)?.chunks_exact_mut(columns);
        for (i, (o, v)) in rows_out.zip(cells::<T>(x).chunks_exact(columns)).enumerate() {
            let diagonal = k.saturating_add((i % rows) as i64);
            if upper {
                let first = diagonal.clamp(0, columns as i64) as usize;
                o[first..].copy_from_slice(&v[first..]);
            } else {
                let end = diagonal.saturating_add(1).clamp(0, columns as i64) as usize;
                o[..end].copy_from_slice(&v[..end]);
            }
        }
    });
    Ok(out)
}
