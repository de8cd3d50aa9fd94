//! Elements moved or repeated: concatenated, transposed, tiled, between depth and space.

use super::contents::{Contents, Entry, MAX_ELEMENTS};
use super::dims::{add, multiply, show, unify_dim};
use super::{Context, Fact, InferError};
use crate::attrs::AttrError;
use crate::graph::Dim;
use crate::op::quant::normalize_axis;

/// Concat of the given inputs.
pub(super) fn concat(cx: &Context<'_>, inputs: &[usize]) -> Result<Fact, InferError> {
    let dtype = inputs.iter().find_map(|&i| cx.dtype(i));
    let Some(rank) = inputs.iter().find_map(|&i| cx.rank(i)) else { return Ok(Fact::new(dtype, None)) };
    let axis = cx.attrs().int("axis")?.ok_or(AttrError::Missing("axis"))?;
    let axis = normalize_axis(axis, rank)?;
    let mut total: Option<Vec<Dim>> = None;
    for &i in inputs {
        let unknown = vec![Dim::Unknown; rank];
        let next = cx.shape(i).unwrap_or(&unknown);
        if next.len() != rank {
            return Err(InferError::shape(format!("input {i} has {} dimensions, others have {rank}", next.len())));
        }
        total = Some(match total {
            None => next.to_vec(),
            Some(total) => {
                let join = |(d, (a, b)): (usize, (&Dim, &Dim))| {
                    if d == axis { Some(add(a, b)) } else { unify_dim(a, b) }
                };
                let joined: Option<_> = total.iter().zip(next).enumerate().map(join).collect();
                joined.ok_or_else(|| {
                    let (next, total) = (show(next), show(&total));
                    InferError::shape(format!("input {i} of shape {next} does not fit to {total} along axis {axis}"))
                })?
            }
        });
    }
    let contents = if rank == 1 && inputs.iter().all(|&i| cx.follows(i)) { joined_lists(cx, inputs) } else { None };
    Ok(Fact::new(dtype, total).holding(contents))
}

fn joined_lists(cx: &Context<'_>, inputs: &[usize]) -> Option<Contents> {
    let mut entries = Vec::new();
    for &i in inputs {
        entries.extend(cx.contents(i)?.entries);
        if entries.len() > MAX_ELEMENTS {
            return None;
        }
    }
    Contents::list(entries)
}

/// Axes in another order, reversed if none is given.
pub(super) fn transpose(cx: &Context<'_>) -> Result<Fact, InferError> {
    let given = cx.attrs().ints("perm")?;
    let Some(shape) = cx.shape(0) else {
        return Ok(Fact::new(cx.dtype(0), given.map(|p| vec![Dim::Unknown; p.len().min(MAX_ELEMENTS)])));
    };
    let order: Vec<usize> = match given {
        None => (0..shape.len()).rev().collect(),
        Some(perm) => {
            let mut seen = vec![false; shape.len()];
            let place = |&p: &i64| {
                let p = usize::try_from(p).ok().filter(|&p| p < seen.len())?;
                (!std::mem::replace(&mut seen[p], true)).then_some(p)
            };
            let order: Option<Vec<usize>> = perm.iter().map(place).collect();
            order.filter(|o| o.len() == shape.len()).ok_or_else(|| {
                let problem = format!("is {perm:?}, which does not order the {} dimensions of the input", shape.len());
                AttrError::Invalid { name: "perm", problem }
            })?
        }
    };
    let contents = if cx.follows(0) { cx.contents(0) } else { None };
    let contents = contents.filter(|c| c.shape.len() == order.len()).and_then(|c| {
        c.select(order.iter().map(|&p| c.shape[p]).collect(), |index| {
            let mut from = vec![0; order.len()];
            for (&i, &p) in index.iter().zip(&order) {
                from[p] = i;
            }
            Some(from)
        })
    });
    Ok(Fact::new(cx.dtype(0), Some(order.iter().map(|&p| shape[p].clone()).collect())).holding(contents))
}

/// Repeated along each axis.
pub(super) fn tile(cx: &Context<'_>) -> Result<Fact, InferError> {
    let Some(shape) = cx.shape(0) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let Some(repeats) = cx.contents(1).map(|c| c.entries) else {
        return Ok(Fact::new(cx.dtype(0), Some(vec![Dim::Unknown; shape.len()])));
    };
    if repeats.len() != shape.len() {
        let (found, rank) = (repeats.len(), shape.len());
        return Err(InferError::shape(format!("{found} repeats for a tensor of {rank} dimensions")));
    }
    if let Some(v) = repeats.iter().filter_map(Entry::int).find(|&v| v < 0) {
        return Err(InferError::shape(format!("a repeat is {v}")));
    }
    let tiled = shape.iter().zip(&repeats).map(|(d, r)| multiply(d, &r.to_dim())).collect();
    Ok(Fact::new(cx.dtype(0), Some(tiled)))
}

/// A triangle of each matrix.
pub(super) fn trilu(cx: &Context<'_>) -> Result<Fact, InferError> {
    if let Some(n) = cx.rank(0).filter(|&n| n < 2) {
        return Err(InferError::shape(format!("the input has {n} dimensions, must have at least 2")));
    }
    Ok(Fact::new(cx.dtype(0), cx.shape_vec(0)))
}

/// `[N, C, H, W]` and the block size, at least 1.
fn blocks<'a>(cx: &Context<'a>) -> Result<(Option<&'a [Dim]>, usize), InferError> {
    let size = cx.attrs().int("blocksize")?.ok_or(AttrError::Missing("blocksize"))?;
    // A block of 2^15 has 2^30 channels already.
    if !(1..=1 << 15).contains(&size) {
        let problem = format!("is {size}, must be at least 1 and at most 32768");
        return Err(AttrError::Invalid { name: "blocksize", problem }.into());
    }
    if let Some(n) = cx.rank(0).filter(|&n| n != 4) {
        return Err(InferError::shape(format!("the input has {n} dimensions, must have 4")));
    }
    Ok((cx.shape(0), size as usize))
}

fn divide(d: &Dim, by: usize, what: &str) -> Result<Dim, InferError> {
    match d {
        Dim::Known(n) if n.is_multiple_of(by) => Ok(Dim::Known(n / by)),
        Dim::Known(n) => Err(InferError::shape(format!("{what} {n} is no multiple of {by}"))),
        d if by == 1 => Ok(d.clone()),
        Dim::Symbol(_) | Dim::Unknown => Ok(Dim::Unknown),
    }
}

/// Channels become pixels.
pub(super) fn depth_to_space(cx: &Context<'_>) -> Result<Fact, InferError> {
    let (Some(s), b) = blocks(cx)? else { return Ok(Fact::new(cx.dtype(0), None)) };
    let times = Dim::Known(b);
    let c = divide(&s[1], b * b, "the number of channels")?;
    Ok(Fact::new(cx.dtype(0), Some(vec![s[0].clone(), c, multiply(&s[2], &times), multiply(&s[3], &times)])))
}

/// Pixels become channels.
pub(super) fn space_to_depth(cx: &Context<'_>) -> Result<Fact, InferError> {
    let (Some(s), b) = blocks(cx)? else { return Ok(Fact::new(cx.dtype(0), None)) };
    let (h, w) = (divide(&s[2], b, "the height")?, divide(&s[3], b, "the width")?);
    Ok(Fact::new(cx.dtype(0), Some(vec![s[0].clone(), multiply(&s[1], &Dim::Known(b * b)), h, w])))
}
