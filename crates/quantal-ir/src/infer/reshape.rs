//! The same elements under other dimensions.

use super::contents::{Contents, Entry};
use super::dims::{all_known, broadcast, product, product_dim, quotient, show};
use super::generate::shape_from;
use super::{Context, Fact, InferError, List, normalize_axes};
use crate::graph::Dim;
use crate::op::quant::normalize_axis;

/// The contents of input 0 under the output's shape, where both are known.
fn carry(cx: &Context<'_>, shape: Option<&[Dim]>) -> Option<Contents> {
    if !cx.follows(0) {
        return None;
    }
    cx.contents(0)?.reshaped(all_known(shape?)?)
}

fn moved(cx: &Context<'_>, shape: Option<Vec<Dim>>) -> Fact {
    let contents = carry(cx, shape.as_deref());
    Fact::new(cx.dtype(0), shape).holding(contents)
}

/// Reshape: 0 copies a dimension, -1 takes what is left.
pub(super) fn reshape(cx: &Context<'_>) -> Result<Fact, InferError> {
    let target = match (cx.attrs().ints("shape")?, cx.contents(1)) {
        (Some(v), _) => Some(v.iter().map(|&v| Entry::Int(v)).collect()),
        (None, c) => c.map(|c| c.entries),
    };
    let allow_zero = cx.attrs().flag("allowzero", false)?;
    let shape = match target.filter(|t: &Vec<Entry>| t.len() <= super::MAX_RANK) {
        Some(target) => Some(resolve(cx.shape(0), &target, allow_zero)?),
        None => match cx.shape(1) {
            Some([Dim::Known(n)]) if *n <= super::contents::MAX_ELEMENTS => Some(vec![Dim::Unknown; *n]),
            Some(_) | None => None,
        },
    };
    Ok(moved(cx, shape))
}

fn resolve(input: Option<&[Dim]>, target: &[Entry], allow_zero: bool) -> Result<Vec<Dim>, InferError> {
    let mut shape = Vec::with_capacity(target.len());
    let (mut taken, mut fixed) = (Vec::new(), Vec::new());
    let (mut rest, mut minus_ones) = (Vec::new(), 0);
    for (i, entry) in target.iter().enumerate() {
        match entry {
            Entry::Int(0) if !allow_zero => {
                let missing =
                    |n| InferError::shape(format!("entry {i} of the shape is 0, the input has {n} dimensions"));
                let copied = input.map(|input| input.get(i).cloned().ok_or_else(|| missing(input.len())));
                shape.push(copied.transpose()?.unwrap_or(Dim::Unknown));
                taken.push(i);
            }
            Entry::Int(v) if *v < -1 => return Err(InferError::shape(format!("entry {i} of the shape is {v}"))),
            Entry::Int(-1) | Entry::Float(_) | Entry::Unknown => {
                minus_ones += usize::from(*entry == Entry::Int(-1));
                rest.push(i);
                shape.push(Dim::Unknown);
            }
            Entry::Int(_) | Entry::Symbol(_) => {
                shape.push(entry.to_dim());
                fixed.push(entry.to_dim());
            }
        }
    }
    if minus_ones > 1 {
        return Err(InferError::shape(format!("the shape has {minus_ones} entries -1, may have 1")));
    }
    let Some(input) = input else { return Ok(shape) };
    // Copied dimensions cancel, known or not.
    let left: Vec<Dim> = input.iter().enumerate().filter(|(i, _)| !taken.contains(i)).map(|(_, d)| d.clone()).collect();
    let misfit = |shape: &[Dim]| InferError::shape(format!("{} does not reshape to {}", show(input), show(shape)));
    let (Some(total), Some(part)) = (product(&left), product(&fixed)) else { return Ok(shape) };
    match rest.as_slice() {
        [] if total.1.is_empty() && part.1.is_empty() && total.0 != part.0 => {
            let (found, wanted) = (total.0, part.0);
            let why = misfit(&shape);
            return Err(InferError::shape(format!("{why}: {found} elements, {wanted} asked for")));
        }
        [one] => match quotient(&total, &part) {
            Some(d) => shape[*one] = d,
            None if total.1.is_empty() && part.1.is_empty() && part.0 != 0 => {
                let (found, wanted) = (total.0, part.0);
                let why = misfit(&shape);
                return Err(InferError::shape(format!("{why}: {found} elements are no multiple of {wanted}")));
            }
            None => {}
        },
        _ => {}
    }
    Ok(shape)
}

/// Two dimensions: those before `axis`, and the rest.
pub(super) fn flatten(cx: &Context<'_>) -> Result<Fact, InferError> {
    let axis = cx.attrs().int_or("axis", 1)?;
    let Some(shape) = cx.shape(0) else {
        return Ok(Fact::new(cx.dtype(0), Some(vec![Dim::Unknown, Dim::Unknown])));
    };
    // The axis may be the rank itself: then the second dimension is 1.
    let axis = if axis == shape.len() as i64 { shape.len() } else { normalize_axis(axis, shape.len())? };
    let (outer, inner) = shape.split_at(axis);
    Ok(moved(cx, Some(vec![product_dim(outer), product_dim(inner)])))
}

/// Without the given dimensions of size 1, or without all such.
pub(super) fn squeeze(cx: &Context<'_>) -> Result<Fact, InferError> {
    let Some(shape) = cx.shape(0) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let drop = match cx.list("axes", 1)? {
        List::Given(axes) => normalize_axes(&axes, shape.len())?,
        List::Absent if all_known(shape).is_some() => (0..shape.len()).filter(|&i| shape[i] == Dim::Known(1)).collect(),
        List::Absent | List::Unknown => return Ok(Fact::new(cx.dtype(0), None)),
    };
    if let Some(&i) = drop.iter().find(|&&i| shape[i].known().is_some_and(|n| n != 1)) {
        return Err(InferError::shape(format!("dimension {i} of {} is not 1", show(shape))));
    }
    let kept = shape.iter().enumerate().filter(|(i, _)| !drop.contains(i)).map(|(_, d)| d.clone());
    Ok(moved(cx, Some(kept.collect())))
}

/// With dimensions of size 1 at the given places of the output.
pub(super) fn unsqueeze(cx: &Context<'_>) -> Result<Fact, InferError> {
    let (Some(shape), axes) = (cx.shape(0), cx.list("axes", 1)?) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let axes = match axes {
        List::Given(axes) => axes,
        List::Absent => return Err(crate::attrs::AttrError::Missing("axes").into()),
        List::Unknown => return Ok(Fact::new(cx.dtype(0), None)),
    };
    let new = normalize_axes(&axes, shape.len() + axes.len())?;
    let mut old = shape.iter().cloned();
    let place = |i| if new.contains(&i) { Dim::Known(1) } else { old.next().unwrap_or(Dim::Unknown) };
    let shape = (0..shape.len() + axes.len()).map(place).collect();
    Ok(moved(cx, Some(shape)))
}

/// Broadcast to a shape, which may itself be smaller.
pub(super) fn expand(cx: &Context<'_>) -> Result<Fact, InferError> {
    let shape = match (cx.shape(0), shape_from(cx, 1)?) {
        (Some(x), Some(wanted)) => Some(broadcast(x, &wanted)?),
        _ => None,
    };
    let sizes = shape.as_ref().and_then(|s| all_known(s));
    let contents = sizes.and_then(|s| if cx.follows(0) { cx.contents(0)?.broadcast(&s) } else { None });
    Ok(Fact::new(cx.dtype(0), shape).holding(contents))
}
