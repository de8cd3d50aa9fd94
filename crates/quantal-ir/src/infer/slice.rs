//! Parts of a tensor, and a tensor with a border: Slice, Split, Pad.

use super::contents::Entry;
use super::dims::show;
use super::{Context, Fact, InferError, List, axis, normalize_axes};
use crate::attrs::AttrError;
use crate::graph::Dim;

/// Entries of a list that may be known in part: an attribute in old versions, input `i` in new ones.
fn entries(cx: &Context<'_>, name: &'static str, i: usize) -> Result<Option<Vec<Entry>>, InferError> {
    if let Some(values) = cx.attrs().ints(name)? {
        return Ok(Some(values.iter().map(|&v| Entry::Int(v)).collect()));
    }
    Ok(cx.contents(i).map(|c| c.entries))
}

/// Where a slice of a dimension of `size` starts, and how many it takes.
fn span(size: usize, start: i64, end: i64, step: i64) -> (i64, usize) {
    let n = i64::try_from(size).unwrap_or(i64::MAX);
    if n == 0 {
        return (0, 0);
    }
    let absolute = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (start, gap) = if step > 0 {
        let start = absolute(start).clamp(0, n);
        (start, absolute(end).clamp(0, n) - start)
    } else {
        let start = absolute(start).clamp(0, n - 1);
        (start, start - absolute(end).clamp(-1, n - 1))
    };
    (start, usize::try_from(gap.max(0).unsigned_abs().div_ceil(step.unsigned_abs())).unwrap_or(0))
}

/// Slice: from start to end by step along some axes.
pub(super) fn slice(cx: &Context<'_>) -> Result<Fact, InferError> {
    let (starts, ends) = (entries(cx, "starts", 1)?, entries(cx, "ends", 2)?);
    let axes = cx.list("axes", 3)?;
    let Some(shape) = cx.shape(0) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let rank = shape.len();
    let axes = match axes {
        List::Given(axes) => normalize_axes(&axes, rank)?,
        List::Absent => {
            let count = starts.as_ref().or(ends.as_ref()).map(Vec::len);
            let Some(count) = count else { return Ok(Fact::new(cx.dtype(0), Some(vec![Dim::Unknown; rank]))) };
            if count > rank {
                return Err(InferError::shape(format!("{count} starts for a tensor of {rank} dimensions")));
            }
            (0..count).collect()
        }
        List::Unknown => return Ok(Fact::new(cx.dtype(0), Some(vec![Dim::Unknown; rank]))),
    };
    let n = axes.len();
    let unknown = || vec![Entry::Unknown; n];
    let (starts, ends) = (starts.unwrap_or_else(unknown), ends.unwrap_or_else(unknown));
    let steps = if cx.has(4) { entries(cx, "steps", 4)?.unwrap_or_else(unknown) } else { vec![Entry::Int(1); n] };
    for (what, list) in [("starts", &starts), ("ends", &ends), ("steps", &steps)] {
        if list.len() != n {
            return Err(InferError::shape(format!("{} {what} for {n} axes", list.len())));
        }
    }
    if steps.contains(&Entry::Int(0)) {
        return Err(InferError::shape("a step is 0"));
    }
    let mut out = shape.to_vec();
    let mut takes = vec![(0, 1); rank];
    let mut exact = true;
    for (i, &a) in axes.iter().enumerate() {
        out[a] = match (&shape[a], &starts[i], &ends[i], &steps[i]) {
            (Dim::Known(size), Entry::Int(start), Entry::Int(end), Entry::Int(step)) => {
                let (start, count) = span(*size, *start, *end, *step);
                takes[a] = (start, *step);
                Dim::Known(count)
            }
            // From the first to the last, whatever the size is.
            (d, Entry::Int(0), Entry::Int(end), Entry::Int(1)) if *end >= i32::MAX.into() => d.clone(),
            (Dim::Symbol(s), Entry::Int(0), Entry::Symbol(end), Entry::Int(1)) if s == end => Dim::Symbol(s.clone()),
            _ => {
                exact = false;
                Dim::Unknown
            }
        };
    }
    let contents = if exact && cx.follows(0) { cx.contents(0) } else { None };
    let contents = contents.filter(|c| c.shape.len() == rank).and_then(|c| {
        c.select(super::dims::all_known(&out)?, |index| {
            let at = |(&i, &(start, step)): (&usize, &(i64, i64))| usize::try_from(start + i as i64 * step).ok();
            index.iter().zip(&takes).map(at).collect()
        })
    });
    Ok(Fact::new(cx.dtype(0), Some(out)).holding(contents))
}

/// Split: parts of given sizes, or as equal as can be.
pub(super) fn split(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let parts = cx.node.outputs.len();
    let sizes = cx.list("split", 1)?;
    let count = cx.attrs().int("num_outputs")?;
    let fact = |shape| Fact::new(cx.dtype(0), shape);
    let Some(shape) = cx.shape(0) else { return Ok(vec![fact(None); parts]) };
    let axis = axis(cx, 0, shape.len())?;
    if let Some(count) = count.filter(|&n| n != parts as i64) {
        let problem = format!("is {count}, the node has {parts} outputs");
        return Err(AttrError::Invalid { name: "num_outputs", problem }.into());
    }
    let sizes: Vec<Dim> = match sizes {
        List::Unknown => vec![Dim::Unknown; parts],
        List::Given(sizes) => given_sizes(&sizes, parts, &shape[axis])?,
        List::Absent => match &shape[axis] {
            Dim::Known(n) if count.is_none() && !n.is_multiple_of(parts.max(1)) => {
                return Err(InferError::shape(format!(
                    "dimension {axis} of {} has no {parts} equal parts",
                    show(shape)
                )));
            }
            Dim::Known(n) => {
                let chunk = n.div_ceil(parts.max(1));
                (0..parts).map(|i| Dim::Known(n.saturating_sub(i * chunk).min(chunk))).collect()
            }
            d if parts == 1 => vec![d.clone()],
            Dim::Symbol(_) | Dim::Unknown => vec![Dim::Unknown; parts],
        },
    };
    let whole = if cx.follows(0) { cx.contents(0) } else { None };
    let mut start = Some(0);
    let mut facts = Vec::with_capacity(parts);
    for size in sizes {
        let mut part = shape.to_vec();
        part[axis] = size.clone();
        let from = start;
        let contents = whole.as_ref().filter(|c| c.shape.len() == shape.len()).and_then(|c| {
            let from = from?;
            c.select(super::dims::all_known(&part)?, |index| {
                let mut index = index.to_vec();
                index[axis] += from;
                Some(index)
            })
        });
        start = start.zip(size.known()).and_then(|(a, b)| usize::checked_add(a, b));
        facts.push(fact(Some(part)).holding(contents));
    }
    Ok(facts)
}

fn given_sizes(sizes: &[i64], parts: usize, dim: &Dim) -> Result<Vec<Dim>, InferError> {
    if sizes.len() != parts {
        return Err(InferError::shape(format!("{} sizes for {parts} outputs", sizes.len())));
    }
    let mut total = 0_usize;
    for &v in sizes {
        let size = usize::try_from(v).map_err(|_| InferError::shape(format!("a part has the size {v}")))?;
        total = total.saturating_add(size);
    }
    match dim {
        Dim::Known(n) if *n != total => {
            Err(InferError::shape(format!("the parts have {total} together, the input {n}")))
        }
        _ => Ok(sizes.iter().map(|&v| Dim::Known(v as usize)).collect()),
    }
}

/// Pad: a border before and after some axes; a negative one cuts.
pub(super) fn pad(cx: &Context<'_>) -> Result<Fact, InferError> {
    let pads = entries(cx, "pads", 1)?;
    let axes = cx.list("axes", 3)?;
    let Some(shape) = cx.shape(0) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let rank = shape.len();
    let axes = match axes {
        List::Given(axes) => Some(normalize_axes(&axes, rank)?),
        List::Absent => Some((0..rank).collect()),
        List::Unknown => None,
    };
    let (Some(axes), Some(pads)) = (axes, pads) else {
        return Ok(Fact::new(cx.dtype(0), Some(vec![Dim::Unknown; rank])));
    };
    let n = axes.len();
    if pads.len() != 2 * n {
        return Err(InferError::shape(format!("{} pads for {n} axes, must be {}", pads.len(), 2 * n)));
    }
    let mut out = shape.to_vec();
    for (i, &a) in axes.iter().enumerate() {
        out[a] = match (&shape[a], &pads[i], &pads[n + i]) {
            (d, Entry::Int(0), Entry::Int(0)) => d.clone(),
            (Dim::Known(size), Entry::Int(before), Entry::Int(after)) => {
                let padded = i64::try_from(*size).ok().and_then(|s| s.checked_add(*before)?.checked_add(*after));
                padded.and_then(|p| usize::try_from(p).ok()).map(Dim::Known).ok_or_else(|| {
                    let shape = show(shape);
                    InferError::shape(format!("dimension {a} of {shape} cannot be padded by {before} and {after}"))
                })?
            }
            _ => Dim::Unknown,
        };
    }
    Ok(Fact::new(cx.dtype(0), Some(out)))
}
