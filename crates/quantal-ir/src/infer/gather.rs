//! Elements chosen by indices.

use super::contents::{Contents, Entry};
use super::dims::{show, unify_dim};
use super::{Context, Fact, InferError, axis};
use crate::attrs::AttrError;
use crate::graph::Dim;

/// Slices of the data along one axis.
pub(super) fn gather(cx: &Context<'_>) -> Result<Fact, InferError> {
    let Some(data) = cx.shape(0) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let axis = axis(cx, 0, data.len())?;
    let indices = if cx.follows(1) { cx.contents(1) } else { None };
    if let (Some(indices), Dim::Known(n)) = (&indices, &data[axis]) {
        let outside = |&v: &i64| i64::try_from(*n).is_ok_and(|n| v >= n || v < -n);
        if let Some(v) = indices.entries.iter().filter_map(Entry::int).find(outside) {
            return Err(InferError::shape(format!("index {v} is outside of dimension {axis} of {}", show(data))));
        }
    }
    let shape = cx.shape(1).map(|i| [&data[..axis], i, &data[axis + 1..]].concat());
    let contents = if cx.follows(0) { indices.zip(cx.contents(0)) } else { None };
    let contents = contents.and_then(|(indices, data)| chosen(&data, &indices, axis));
    Ok(Fact::new(cx.dtype(0), shape).holding(contents))
}

fn chosen(data: &Contents, indices: &Contents, axis: usize) -> Option<Contents> {
    let picks = indices.ints()?;
    let n = *data.shape.get(axis)? as i64;
    let shape = [&data.shape[..axis], &indices.shape, &data.shape[axis + 1..]].concat();
    let inner = axis + indices.shape.len();
    data.select(shape, |index| {
        let flat = index[axis..inner].iter().zip(&indices.shape).fold(0, |flat, (&i, &n)| flat * n + i);
        let pick = picks[flat];
        let pick = usize::try_from(if pick < 0 { pick + n } else { pick }).ok()?;
        Some([&index[..axis], &[pick], &index[inner..]].concat())
    })
}

fn same_rank(cx: &Context<'_>) -> Result<(), InferError> {
    match (cx.rank(0), cx.rank(1)) {
        (Some(data), Some(indices)) if data != indices => {
            Err(InferError::shape(format!("the indices have {indices} dimensions, the data {data}")))
        }
        (Some(rank), _) => axis(cx, 0, rank).map(|_| ()),
        (None, _) => Ok(()),
    }
}

/// One element for each index.
pub(super) fn gather_elements(cx: &Context<'_>) -> Result<Fact, InferError> {
    same_rank(cx)?;
    Ok(Fact::new(cx.dtype(0), cx.shape_vec(1)))
}

/// The data with some elements replaced.
pub(super) fn scatter_elements(cx: &Context<'_>) -> Result<Fact, InferError> {
    same_rank(cx)?;
    if let (Some(indices), Some(updates)) = (cx.shape(1), cx.shape(2)) {
        must_be_equal(updates, indices, "the updates")?;
    }
    Ok(Fact::new(cx.dtype(0), cx.shape_vec(0)))
}

fn must_be_equal(found: &[Dim], wanted: &[Dim], what: &str) -> Result<(), InferError> {
    if found.len() != wanted.len() || found.iter().zip(wanted).any(|(a, b)| unify_dim(a, b).is_none()) {
        return Err(InferError::shape(format!("{what} have shape {}, must have {}", show(found), show(wanted))));
    }
    Ok(())
}

/// What one index tuple of a `GatherND` or `ScatterND` selects: the dimensions of the data behind `batch` + tuple.
fn selected<'a>(data: &'a [Dim], indices: &[Dim], batch: usize) -> Result<Option<&'a [Dim]>, InferError> {
    let Some(tuple) = indices.last() else { return Err(InferError::shape("the indices have no dimension")) };
    let Dim::Known(tuple) = tuple else { return Ok(None) };
    tuple.checked_add(batch).and_then(|n| data.get(n..)).map(Some).ok_or_else(|| {
        let rank = data.len();
        InferError::shape(format!("indices of {tuple} for data of {rank} dimensions, {batch} of them batch"))
    })
}

/// One slice for each index tuple.
pub(super) fn gather_nd(cx: &Context<'_>) -> Result<Fact, InferError> {
    let batch = cx.attrs().int_or("batch_dims", 0)?;
    let (Some(data), Some(indices)) = (cx.shape(0), cx.shape(1)) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let most = data.len().min(indices.len().saturating_sub(1));
    let batch = usize::try_from(batch).ok().filter(|&b| b <= most).ok_or_else(|| AttrError::Invalid {
        name: "batch_dims",
        problem: format!("is {batch}, must be between 0 and {most}"),
    })?;
    let inner = selected(data, indices, batch)?;
    let outer = &indices[..indices.len().saturating_sub(1)];
    Ok(Fact::new(cx.dtype(0), inner.map(|inner| [outer, inner].concat())))
}

/// The data with some slices replaced.
pub(super) fn scatter_nd(cx: &Context<'_>) -> Result<Fact, InferError> {
    if let (Some(data), Some(indices)) = (cx.shape(0), cx.shape(1)) {
        let inner = selected(data, indices, 0)?;
        if let (Some(inner), Some(updates)) = (inner, cx.shape(2)) {
            let outer = &indices[..indices.len().saturating_sub(1)];
            must_be_equal(updates, &[outer, inner].concat(), "the updates")?;
        }
    }
    Ok(Fact::new(cx.dtype(0), cx.shape_vec(0)))
}
