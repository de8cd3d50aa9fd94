//! Attention and rotary embedding.

use super::dims::{add, multiply, show};
use super::{Context, Fact, InferError};
use crate::attrs::AttrError;
use crate::graph::Dim;

/// Batch, heads, length and head size.
type Heads = [Dim; 4];

/// Input `i` as heads: `[batch, heads, length, size]`, or `[batch, length, heads · size]` with the number of heads in
/// an attribute.
fn heads(cx: &Context<'_>, i: usize, attribute: &'static str) -> Result<Heads, InferError> {
    let count = cx.attrs().int(attribute)?;
    let count =
        match count {
            None => None,
            Some(n) => Some(usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| AttrError::Invalid {
                name: attribute,
                problem: format!("is {n}, must be at least 1"),
            })?),
        };
    match (cx.shape(i), count) {
        (None, _) => Ok([Dim::Unknown, count.map_or(Dim::Unknown, Dim::Known), Dim::Unknown, Dim::Unknown]),
        (Some([batch, heads, length, size]), _) => Ok([batch, heads, length, size].map(Dim::clone)),
        (Some([batch, length, hidden]), Some(count)) => {
            let size = match hidden {
                Dim::Known(n) if n.is_multiple_of(count) => Dim::Known(n / count),
                Dim::Known(n) => {
                    return Err(InferError::shape(format!("input {i} has {n} features, no multiple of {count} heads")));
                }
                d if count == 1 => d.clone(),
                Dim::Symbol(_) | Dim::Unknown => Dim::Unknown,
            };
            Ok([batch.clone(), Dim::Known(count), length.clone(), size])
        }
        (Some([_, _, _]), None) => Err(AttrError::Missing(attribute).into()),
        (Some(s), _) => Err(InferError::shape(format!("input {i} has shape {}, must have 3 or 4 dimensions", show(s)))),
    }
}

/// Attention: the output, the keys and values with those of the past, and the product of queries and keys.
pub(super) fn attention(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let [batch, q_heads, length, q_size] = heads(cx, 0, "q_num_heads")?;
    let [_, k_heads, k_length, k_size] = heads(cx, 1, "kv_num_heads")?;
    let [_, v_heads, v_length, v_size] = heads(cx, 2, "kv_num_heads")?;
    if let (Dim::Known(q), Dim::Known(k)) = (&q_size, &k_size)
        && q != k
    {
        return Err(InferError::shape(format!("heads of the queries have size {q}, of the keys {k}")));
    }
    if let (Dim::Known(q), Dim::Known(k)) = (&q_heads, &k_heads)
        && (*k == 0 || !q.is_multiple_of(*k))
    {
        return Err(InferError::shape(format!("{q} query heads do not share {k} key heads evenly")));
    }
    let with_past = |now: &Dim, past: usize| match cx.shape(past) {
        Some([_, _, length, _]) => add(length, now),
        Some(_) => Dim::Unknown,
        None if cx.has(past) => Dim::Unknown,
        None => now.clone(),
    };
    let (k_total, v_total) = (with_past(&k_length, 4), with_past(&v_length, 5));
    let y = match cx.rank(0) {
        Some(3) => Some(vec![batch.clone(), length.clone(), multiply(&q_heads, &v_size)]),
        Some(_) => Some(vec![batch.clone(), q_heads.clone(), length.clone(), v_size.clone()]),
        None => None,
    };
    Ok(vec![
        Fact::new(cx.dtype(0), y),
        Fact::new(cx.dtype(1), Some(vec![batch.clone(), k_heads, k_total.clone(), k_size])),
        Fact::new(cx.dtype(2), Some(vec![batch.clone(), v_heads, v_total, v_size])),
        Fact::new(cx.dtype(0), Some(vec![batch, q_heads, length, k_total])),
    ])
}

/// The shape stays.
pub(super) fn rotary(cx: &Context<'_>) -> Result<Fact, InferError> {
    match cx.shape(0) {
        Some([_, _, _]) if cx.attrs().int_or("num_heads", 0)? < 1 => Err(AttrError::Missing("num_heads").into()),
        None | Some([_, _, _] | [_, _, _, _]) => Ok(Fact::new(cx.dtype(0), cx.shape_vec(0))),
        Some(s) => Err(InferError::shape(format!("the input has {} dimensions, must have 3 or 4", s.len()))),
    }
}
