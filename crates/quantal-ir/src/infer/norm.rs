//! Normalizations and softmax: the shape stays; the parameters must fit it.

use super::dims::show;
use super::elementwise::{fits_into, optional_dtype};
use super::{Context, Fact, InferError, axis};
use crate::attrs::AttrError;
use crate::graph::Dim;
use quantal_tensor::DType;

fn same(cx: &Context<'_>) -> Fact {
    Fact::new(cx.dtype(0), cx.shape_vec(0))
}

/// The channels of `[N, C, …]`; unknown if the shape is.
fn channels(cx: &Context<'_>) -> Result<Dim, InferError> {
    match cx.shape(0) {
        None => Ok(Dim::Unknown),
        Some([_, c, ..]) => Ok(c.clone()),
        // A batch of vectors of one channel.
        Some([_]) => Ok(Dim::Known(1)),
        Some(s) => Err(InferError::shape(format!("the input has {} dimensions, must have at least 2", s.len()))),
    }
}

/// Refuses input `i` unless it has one element for each channel.
fn one_per_channel(cx: &Context<'_>, i: usize, channels: &Dim) -> Result<(), InferError> {
    match (cx.shape(i), channels) {
        (Some([Dim::Known(n)]), Dim::Known(c)) if n != c => {
            Err(InferError::shape(format!("input {i} has {n} elements, there are {c} channels")))
        }
        (None | Some([_]), _) => Ok(()),
        (Some(s), _) => Err(InferError::shape(format!("input {i} has shape {}, must have 1 dimension", show(s)))),
    }
}

/// `BatchNormalization`: the data, and in training the running mean and variance.
pub(super) fn batch(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let channels = channels(cx)?;
    (1..5).try_for_each(|i| one_per_channel(cx, i, &channels))?;
    let statistic = |i: usize| Fact::new(cx.dtype(i), Some(vec![channels.clone()]));
    Ok(vec![same(cx), statistic(3), statistic(4), statistic(3), statistic(4)])
}

/// `InstanceNormalization`.
pub(super) fn instance(cx: &Context<'_>) -> Result<Fact, InferError> {
    let channels = channels(cx)?;
    (1..3).try_for_each(|i| one_per_channel(cx, i, &channels))?;
    Ok(same(cx))
}

/// `GroupNormalization`: a scale for each channel, in its first version for each group.
pub(super) fn group(cx: &Context<'_>) -> Result<Fact, InferError> {
    let groups = cx.attrs().int("num_groups")?.ok_or(AttrError::Missing("num_groups"))?;
    let groups = usize::try_from(groups).ok().filter(|&g| g > 0).ok_or_else(|| AttrError::Invalid {
        name: "num_groups",
        problem: format!("is {groups}, must be at least 1"),
    })?;
    let channels = channels(cx)?;
    if let Dim::Known(c) = channels
        && !c.is_multiple_of(groups)
    {
        return Err(InferError::shape(format!("{c} channels do not divide into {groups} groups")));
    }
    let scales = if cx.graph.opset() < 21 { Dim::Known(groups) } else { channels };
    (1..3).try_for_each(|i| one_per_channel(cx, i, &scales))?;
    Ok(same(cx))
}

/// The dimensions from `axis` on are normalized together.
fn check_scale(cx: &Context<'_>) -> Result<Option<usize>, InferError> {
    let Some(x) = cx.shape(0) else { return Ok(None) };
    let axis = axis(cx, -1, x.len())?;
    for (i, what) in [(1, "scale"), (2, "bias")] {
        if let Some(s) = cx.shape(i) {
            fits_into(s, x, what)?;
        }
    }
    Ok(Some(axis))
}

/// `LayerNormalization`: the data, its mean and the inverse of its deviation.
pub(super) fn layer(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let axis = check_scale(cx)?;
    let stash = optional_dtype(cx, "stash_type")?.or(Some(DType::F32));
    let shape = cx.shape_vec(0).zip(axis).map(|(mut shape, axis)| {
        shape[axis..].fill(Dim::Known(1));
        shape
    });
    let statistic = Fact::new(stash, shape);
    Ok(vec![same(cx), statistic.clone(), statistic])
}

/// `RMSNormalization`.
pub(super) fn rms(cx: &Context<'_>) -> Result<Fact, InferError> {
    check_scale(cx)?;
    Ok(same(cx))
}

/// LRN.
pub(super) fn lrn(cx: &Context<'_>) -> Result<Fact, InferError> {
    let size = cx.attrs().int("size")?.ok_or(AttrError::Missing("size"))?;
    if size < 1 {
        return Err(AttrError::Invalid { name: "size", problem: format!("is {size}, must be at least 1") }.into());
    }
    Ok(same(cx))
}

/// Softmax and its logarithm.
pub(super) fn softmax(cx: &Context<'_>) -> Result<Fact, InferError> {
    if let Some(rank) = cx.rank(0).filter(|&rank| rank > 0) {
        axis(cx, -1, rank)?;
    }
    Ok(same(cx))
}
