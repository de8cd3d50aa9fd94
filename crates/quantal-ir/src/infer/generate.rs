//! Tensors made from attributes, from shapes or from indices.

use super::contents::{Contents, Entry, MAX_ELEMENTS};
use super::dims::{fixed, product_dim};
use super::elementwise::optional_dtype;
use super::{Context, Fact, InferError};
use crate::attrs::{Attr, AttrError};
use crate::graph::Dim;
use quantal_tensor::DType;

/// Constant, in each of its ways to say it.
pub(super) fn constant(cx: &Context<'_>) -> Result<Fact, InferError> {
    let list = |n: usize| Some(fixed(&[n]));
    for (name, attr) in cx.attrs().iter() {
        return Ok(match (name, attr) {
            ("value" | "sparse_value", Attr::Tensor(t)) => {
                Fact::new(Some(t.dtype()), Some(fixed(t.shape()))).holding(Contents::of_tensor(t))
            }
            ("value_int", Attr::Int(v)) => {
                Fact::new(Some(DType::I64), Some(Vec::new())).holding(Some(Contents::scalar(Entry::Int(*v))))
            }
            ("value_float", Attr::Float(v)) => {
                Fact::new(Some(DType::F32), Some(Vec::new())).holding(Some(Contents::scalar(Entry::Float(*v))))
            }
            ("value_ints", Attr::Ints(v)) => {
                let entries = if v.len() <= MAX_ELEMENTS {
                    Contents::list(v.iter().map(|&v| Entry::Int(v)).collect())
                } else {
                    None
                };
                Fact::new(Some(DType::I64), list(v.len())).holding(entries)
            }
            ("value_floats", Attr::Floats(v)) => Fact::new(Some(DType::F32), list(v.len())),
            ("value_string", Attr::Str(_)) => Fact::new(Some(DType::String), Some(Vec::new())),
            ("value_strings", Attr::Strs(v)) => Fact::new(Some(DType::String), list(v.len())),
            _ => continue,
        });
    }
    Err(AttrError::Missing("value").into())
}

/// The shape that a tensor of integers asks for: its length is the rank.
pub(super) fn shape_from(cx: &Context<'_>, i: usize) -> Result<Option<Vec<Dim>>, InferError> {
    if let Some(wanted) = cx.contents(i) {
        if let Some(v) = wanted.entries.iter().filter_map(Entry::int).find(|&v| v < 0) {
            return Err(InferError::shape(format!("the shape asked for holds {v}")));
        }
        return Ok(Some(wanted.entries.iter().map(Entry::to_dim).collect()));
    }
    match cx.shape(i) {
        Some([Dim::Known(n)]) if *n <= MAX_ELEMENTS => Ok(Some(vec![Dim::Unknown; *n])),
        Some([_]) | None => Ok(None),
        Some(s) => Err(InferError::shape(format!("the shape is a tensor of {} dimensions, must have 1", s.len()))),
    }
}

/// One value everywhere.
pub(super) fn constant_of_shape(cx: &Context<'_>) -> Result<Fact, InferError> {
    let value = cx.attrs().tensor("value")?;
    if let Some(t) = value.filter(|t| t.len() != 1) {
        let problem = format!("has {} elements, must have 1", t.len());
        return Err(AttrError::Invalid { name: "value", problem }.into());
    }
    let dtype = value.map_or(DType::F32, |t| t.dtype());
    let shape = shape_from(cx, 0)?;
    let entry = match value {
        Some(t) => Contents::of_tensor(t).map(|c| c.entries[0].clone()),
        None => Some(Entry::Float(0.0)),
    };
    let sizes = shape.as_ref().and_then(|s| s.iter().map(Dim::known).collect::<Option<Vec<_>>>());
    let filled = entry.zip(sizes).and_then(|(entry, sizes)| {
        let one = Contents { shape: vec![1; sizes.len()], entries: vec![entry] };
        one.broadcast(&sizes)
    });
    Ok(Fact::new(Some(dtype), shape).holding(filled))
}

/// Ones on a diagonal.
pub(super) fn eye_like(cx: &Context<'_>) -> Result<Fact, InferError> {
    if let Some(n) = cx.rank(0).filter(|&n| n != 2) {
        return Err(InferError::shape(format!("the input has {n} dimensions, must have 2")));
    }
    Ok(Fact::new(optional_dtype(cx, "dtype")?.or(cx.dtype(0)), cx.shape_vec(0)))
}

/// One column of indices for each element that is not 0.
pub(super) fn non_zero(cx: &Context<'_>) -> Fact {
    let rows = cx.rank(0).filter(|&n| n > 0).map_or(Dim::Unknown, Dim::Known);
    Fact::new(Some(DType::I64), Some(vec![rows, Dim::Unknown]))
}

/// A new axis of `depth`.
pub(super) fn one_hot(cx: &Context<'_>) -> Result<Fact, InferError> {
    let depth = match cx.contents(1).as_ref().map(|c| c.entries.as_slice()) {
        Some([Entry::Float(v)]) if *v >= 0.0 && *v < i32::MAX as f32 => Dim::Known(*v as usize),
        Some([Entry::Int(v)]) if *v < 0 => return Err(InferError::shape(format!("depth is {v}"))),
        Some([entry]) => entry.to_dim(),
        Some(_) | None => Dim::Unknown,
    };
    let Some(mut shape) = cx.shape_vec(0) else { return Ok(Fact::new(cx.dtype(2), None)) };
    let axis = super::axis(cx, -1, shape.len() + 1)?;
    shape.insert(axis, depth);
    Ok(Fact::new(cx.dtype(2), Some(shape)))
}

/// From start to limit.
pub(super) fn range(cx: &Context<'_>) -> Result<Fact, InferError> {
    let one = |i: usize| {
        let c = cx.contents(i)?;
        if let [entry] = c.entries.as_slice() { Some(entry.clone()) } else { None }
    };
    let mut values = None;
    let length = match (one(0), one(1), one(2)) {
        (_, _, Some(Entry::Int(0))) => return Err(InferError::shape("delta is 0")),
        (Some(Entry::Int(start)), Some(Entry::Int(limit)), Some(Entry::Int(delta))) => {
            let (gap, step) = (i128::from(limit) - i128::from(start), i128::from(delta));
            let n = if (gap > 0) == (step > 0) { (gap.abs() + step.abs() - 1) / step.abs() } else { 0 };
            if n <= MAX_ELEMENTS as i128 {
                values = Contents::list((0..n).map(|i| Entry::Int((i128::from(start) + i * step) as i64)).collect());
            }
            i64::try_from(n).map_or(Dim::Unknown, |n| Dim::Known(n as usize))
        }
        (Some(Entry::Float(start)), Some(Entry::Float(limit)), Some(Entry::Float(delta))) => {
            let n = (f64::from(limit - start) / f64::from(delta)).ceil();
            if n.is_finite() && n < i32::MAX.into() { Dim::Known(n.max(0.0) as usize) } else { Dim::Unknown }
        }
        (Some(Entry::Int(0)), Some(limit @ Entry::Symbol(_)), Some(Entry::Int(1))) => limit.to_dim(),
        _ => Dim::Unknown,
    };
    let dtype = cx.dtype(0).or(cx.dtype(1)).or(cx.dtype(2));
    Ok(Fact::new(dtype, Some(vec![length])).holding(values))
}

/// The dimensions as numbers.
pub(super) fn shape(cx: &Context<'_>) -> Result<Fact, InferError> {
    let (start, end) = (cx.attrs().int_or("start", 0)?, cx.attrs().int("end")?);
    let Some(shape) = cx.shape(0) else {
        return Ok(Fact::new(Some(DType::I64), Some(vec![Dim::Unknown])));
    };
    let rank = shape.len() as i64;
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (clamp(start), clamp(end.unwrap_or(rank)));
    let part = &shape[start..end.max(start)];
    let entries =
        if part.len() <= MAX_ELEMENTS { Contents::list(part.iter().map(Entry::of_dim).collect()) } else { None };
    Ok(Fact::new(Some(DType::I64), Some(fixed(&[part.len()]))).holding(entries))
}

/// The number of elements.
pub(super) fn size(cx: &Context<'_>) -> Fact {
    let count = cx.shape(0).map(|s| Contents::scalar(Entry::of_dim(&product_dim(s))));
    Fact::new(Some(DType::I64), Some(Vec::new())).holding(count)
}
