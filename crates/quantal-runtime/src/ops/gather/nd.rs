//! Selection by tuples of indices, the last axis of the index tensor.

use super::scattered::{Combine, scatter};
use crate::ops::OpError;
use crate::ops::dispatch::{cells, cells_mut, for_cell};
use crate::ops::strides::{contiguous, count, index, integers};
use quantal_tensor::Tensor;

/// Offsets in a tensor of `shape` of the blocks that the tuples of `width` name, each below the batch that it is in:
/// the leading `batch` axes are shared by the tensor and the tuples.
fn block_places(shape: &[usize], tuples: &[i64], width: usize, batch: usize) -> Result<Vec<usize>, OpError> {
    let strides = contiguous(shape);
    let batches = count(&shape[..batch])?;
    let per_batch = (tuples.len() / width).checked_div(batches).unwrap_or(0).max(1);
    let batch_size = count(&shape[batch..])?;
    let place = |(n, tuple): (usize, &[i64])| {
        let mut at = n / per_batch * batch_size;
        for (k, &i) in tuple.iter().enumerate() {
            at += index(i, shape[batch + k])? * strides[batch + k] as usize;
        }
        Ok(at)
    };
    tuples.chunks_exact(width).enumerate().map(place).collect()
}

pub(super) fn gather_nd(x: &Tensor, indices: &Tensor, batch_dims: i64) -> Result<Tensor, OpError> {
    let tuples = integers(indices, "indices")?;
    let fails = || {
        let (a, b) = (x.shape(), indices.shape());
        OpError::invalid(format!(
            "indices of shape {b:?} do not name parts of shape {a:?} with {batch_dims} batch axes"
        ))
    };
    let (Some((&width, lead)), Ok(batch)) = (indices.shape().split_last(), usize::try_from(batch_dims)) else {
        return Err(fails());
    };
    if batch > lead.len() || batch >= x.rank() || !(1..=x.rank() - batch).contains(&width) {
        return Err(fails());
    }
    if x.shape()[..batch] != lead[..batch] {
        return Err(fails());
    }
    let rest = &x.shape()[batch + width..];
    let mut out = Tensor::zeros(x.dtype(), &[lead, rest].concat())?;
    if tuples.is_empty() {
        return Ok(out);
    }
    let places = block_places(x.shape(), &tuples, width, batch)?;
    let block = count(rest)?;
    if block == 0 {
        return Ok(out);
    }
    for_cell!(x.dtype().size(), T => {
        let x = cells::<T>(x);
        let blocks = cells_mut::<T>(&mut out)?.chunks_exact_mut(block).zip(&places);
        blocks.for_each(|(o, &p)| o.copy_from_slice(&x[p..p + block]));
    });
    Ok(out)
}

pub(super) fn scatter_nd(x: &Tensor, indices: &Tensor, updates: &Tensor, combine: Combine) -> Result<Tensor, OpError> {
    let tuples = integers(indices, "indices")?;
    let fails = || {
        let (a, b, c) = (x.shape(), indices.shape(), updates.shape());
        OpError::invalid(format!("indices of shape {b:?} and updates of shape {c:?} do not fit shape {a:?}"))
    };
    let Some((&width, lead)) = indices.shape().split_last() else { return Err(fails()) };
    if !(1..=x.rank()).contains(&width) {
        return Err(fails());
    }
    let rest = &x.shape()[width..];
    if updates.shape() != [lead, rest].concat() {
        return Err(fails());
    }
    if tuples.is_empty() {
        return Ok(x.clone());
    }
    let places = block_places(x.shape(), &tuples, width, 0)?;
    scatter(x, &places, count(rest)?, updates, combine)
}
