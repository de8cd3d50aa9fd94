//! Selection along one axis.

use super::scattered::{Combine, scatter};
use crate::ops::OpError;
use crate::ops::dispatch::{cells, cells_mut, for_cell};
use crate::ops::strides::{Nest, axis, contiguous, count, index, integers};
use quantal_tensor::Tensor;

/// Slices of `x` along an axis, in the shape of `indices`.
pub(super) fn gather(x: &Tensor, indices: &Tensor, at: i64) -> Result<Tensor, OpError> {
    let at = axis(at, x.rank())?;
    let size = x.shape()[at];
    let places = integers(indices, "indices")?.iter().map(|&i| index(i, size)).collect::<Result<Vec<_>, _>>()?;
    let shape = [&x.shape()[..at], indices.shape(), &x.shape()[at + 1..]].concat();
    let mut out = Tensor::zeros(x.dtype(), &shape)?;
    if out.is_empty() {
        return Ok(out);
    }
    let block = count(&x.shape()[at + 1..])?;
    for_cell!(x.dtype().size(), T => {
        let slabs = cells::<T>(x).chunks_exact(size * block);
        for (to, slab) in cells_mut::<T>(&mut out)?.chunks_exact_mut(places.len() * block).zip(slabs) {
            if block == 1 {
                to.iter_mut().zip(&places).for_each(|(o, &p)| *o = slab[p]);
            } else {
                let blocks = to.chunks_exact_mut(block).zip(&places);
                blocks.for_each(|(o, &p)| o.copy_from_slice(&slab[p * block..][..block]));
            }
        }
    });
    Ok(out)
}

/// For each element of `indices`, the offset in `x` of the element with the same position, but with the index along
/// the axis.
fn element_places(x: &Tensor, indices: &Tensor, at: i64) -> Result<Vec<usize>, OpError> {
    let at = axis(at, x.rank())?;
    let fits = indices.rank() == x.rank()
        && indices.shape().iter().zip(x.shape()).enumerate().all(|(i, (a, b))| i == at || a <= b);
    if !fits {
        let text = format!("indices of shape {:?} do not lie in shape {:?}", indices.shape(), x.shape());
        return Err(OpError::invalid(text));
    }
    let list = integers(indices, "indices")?;
    let mut strides = contiguous(x.shape());
    let along = std::mem::replace(&mut strides[at], 0) as usize;
    let nest = Nest::new(indices.shape(), [&strides]);
    let (n, [step]) = nest.inner();
    let size = x.shape()[at];
    let mut places = Vec::with_capacity(list.len());
    let mut failed = None;
    let mut rest = list.chunks_exact(n.max(1));
    nest.rows(|[start]| {
        for (j, &i) in rest.next().into_iter().flatten().enumerate() {
            match index(i, size) {
                Ok(i) => places.push(start + j * step as usize + i * along),
                Err(e) => failed = failed.take().or(Some(e)),
            }
        }
    });
    failed.map_or(Ok(places), Err)
}

pub(super) fn gather_elements(x: &Tensor, indices: &Tensor, at: i64) -> Result<Tensor, OpError> {
    let places = element_places(x, indices, at)?;
    let mut out = Tensor::zeros(x.dtype(), indices.shape())?;
    for_cell!(x.dtype().size(), T => {
        let x = cells::<T>(x);
        cells_mut::<T>(&mut out)?.iter_mut().zip(&places).for_each(|(o, &p)| *o = x[p]);
    });
    Ok(out)
}

pub(super) fn scatter_elements(
    x: &Tensor,
    indices: &Tensor,
    updates: &Tensor,
    at: i64,
    combine: Combine,
) -> Result<Tensor, OpError> {
    let places = element_places(x, indices, at)?;
    if updates.shape() != indices.shape() {
        let text = format!("updates of shape {:?} for indices of shape {:?}", updates.shape(), indices.shape());
        return Err(OpError::invalid(text));
    }
    scatter(x, &places, 1, updates, combine)
}
