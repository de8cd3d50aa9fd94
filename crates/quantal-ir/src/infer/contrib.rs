//! Operators of ONNX Runtime (com.microsoft): normalizations with their sums, attention with its heads, packed weights.

use super::dims::{add, multiply, product_dim, show, unify_dim};
use super::{Context, Fact, InferError};
use crate::attrs::AttrError;
use crate::graph::Dim;
use quantal_tensor::DType;

/// The first input's type and shape.
pub(super) fn same(cx: &Context<'_>) -> Fact {
    Fact::new(cx.dtype(0), cx.shape_vec(0))
}

/// An attribute that must be given and be at least 1.
fn positive(cx: &Context<'_>, name: &'static str) -> Result<usize, InferError> {
    let n = cx.attrs().int(name)?.ok_or(AttrError::Missing(name))?;
    let size = usize::try_from(n).ok().filter(|&n| n > 0);
    Ok(size.ok_or_else(|| AttrError::Invalid { name, problem: format!("is {n}, must be at least 1") })?)
}

/// Batch, length and features of an input of 3 dimensions.
fn sequence(cx: &Context<'_>, i: usize) -> Result<[Dim; 3], InferError> {
    match cx.shape(i) {
        None => Ok([Dim::Unknown, Dim::Unknown, Dim::Unknown]),
        Some([b, s, d]) => Ok([b, s, d].map(Dim::clone)),
        Some(s) => Err(InferError::shape(format!("input {i} has shape {}, must have 3 dimensions", show(s)))),
    }
}

/// `whole / parts`, where that is known.
fn part(whole: &Dim, parts: usize) -> Result<Dim, InferError> {
    match whole.known() {
        Some(n) if !n.is_multiple_of(parts) => {
            Err(InferError::shape(format!("{n} features do not divide into {parts} heads")))
        }
        Some(n) => Ok(Dim::Known(n / parts)),
        None => Ok(Dim::Unknown),
    }
}

/// The normalized sum, its statistics, and the sum itself.
pub(super) fn skip_norm(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let last = cx.shape(0).and_then(<[Dim]>::last);
    if let (Some(width), Some([scale])) = (last, cx.shape(2))
        && unify_dim(width, scale).is_none()
    {
        return Err(InferError::shape(format!("the scale has {scale} elements for rows of {width}")));
    }
    let statistics = cx.shape_vec(0).map(|mut shape| {
        if let Some(last) = shape.last_mut() {
            *last = Dim::Known(1);
        }
        shape
    });
    let statistic = Fact::new(Some(DType::F32), statistics);
    Ok(vec![same(cx), statistic.clone(), statistic, same(cx)])
}

/// The normalized sum of embeddings, the length of each sequence, and the sum itself.
pub(super) fn embed_norm(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let (batch, length) = match cx.shape(0) {
        None => (Dim::Unknown, Dim::Unknown),
        Some([b, s]) => (b.clone(), s.clone()),
        Some(s) => return Err(InferError::shape(format!("input_ids has shape {}, must have 2 dimensions", show(s)))),
    };
    let width = match cx.shape(2) {
        None => Dim::Unknown,
        Some([_, width]) => width.clone(),
        Some(s) => {
            return Err(InferError::shape(format!("the embedding has shape {}, must have 2 dimensions", show(s))));
        }
    };
    let rows = Fact::new(cx.dtype(2), Some(vec![batch.clone(), length, width]));
    Ok(vec![rows.clone(), Fact::new(Some(DType::I32), Some(vec![batch])), rows])
}

/// A product by weights of N columns.
pub(super) fn matmul_nbits(cx: &Context<'_>) -> Result<Fact, InferError> {
    let (columns, inner) = (positive(cx, "N")?, positive(cx, "K")?);
    let shape = match cx.shape_vec(0) {
        None => None,
        Some(mut shape) => {
            let last = shape.last_mut().ok_or_else(|| InferError::shape("a scalar has no matrix product"))?;
            if last.known().is_some_and(|k| k != inner) {
                return Err(InferError::shape(format!("inner dimensions {last} and {inner} differ")));
            }
            *last = Dim::Known(columns);
            Some(shape)
        }
    };
    Ok(Fact::new(cx.dtype(0), shape))
}

/// Rows of a table of quantized blocks; a byte of the last dimension holds two numbers where they have 4 bits.
pub(super) fn gather_blocks(cx: &Context<'_>) -> Result<Fact, InferError> {
    let (Some(data), Some(indices)) = (cx.shape(0), cx.shape(1)) else { return Ok(Fact::new(cx.dtype(2), None)) };
    let axis = crate::op::quant::normalize_axis(cx.attrs().int_or("gather_axis", 0)?, data.len())?;
    let mut data = data.to_vec();
    if cx.dtype(0) == Some(DType::U8)
        && cx.attrs().int_or("bits", 4)? == 4
        && let Some(last) = data.last_mut()
    {
        *last = multiply(last, &Dim::Known(2));
    }
    Ok(Fact::new(cx.dtype(2), Some([&data[..axis], indices, &data[axis + 1..]].concat())))
}

/// Attention with its own weights: the output, and keys and values stacked.
pub(super) fn attention(cx: &Context<'_>, dtype: Option<DType>) -> Result<Vec<Fact>, InferError> {
    let heads = positive(cx, "num_heads")?;
    let [batch, length, _] = sequence(cx, 0)?;
    let sizes = cx.attrs().ints("qkv_hidden_sizes")?.filter(|s| !s.is_empty());
    let width = match (sizes, cx.shape(1)) {
        (Some(&[_, _, v]), _) => usize::try_from(v).map_or(Dim::Unknown, Dim::Known),
        (Some(_), _) => {
            let problem = "must hold three sizes".to_owned();
            return Err(AttrError::Invalid { name: "qkv_hidden_sizes", problem }.into());
        }
        (None, Some([_, all])) => part(all, 3)?,
        (None, None) => Dim::Unknown,
        (None, Some(s)) => {
            return Err(InferError::shape(format!("the weights have shape {}, must have 2 dimensions", show(s))));
        }
    };
    let size = part(&width, heads)?;
    let past = if cx.node.op == crate::Op::QAttention { 8 } else { 4 };
    let total = match cx.shape(past) {
        Some([_, _, _, past, _]) => add(past, &length),
        _ if cx.has(past) => Dim::Unknown,
        _ => length.clone(),
    };
    let present = vec![Dim::Known(2), batch.clone(), Dim::Known(heads), total, size];
    Ok(vec![Fact::new(dtype, Some(vec![batch, length, width])), Fact::new(dtype, Some(present))])
}

/// Attention between given queries, keys and values.
pub(super) fn multi_head(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let heads = positive(cx, "num_heads")?;
    let dtype = cx.dtype(0);
    if cx.rank(0).is_some_and(|r| r != 3) || !cx.has(1) || !cx.has(2) {
        return Ok(vec![Fact::new(dtype, None)]);
    }
    let [batch, length, hidden] = sequence(cx, 0)?;
    let side = |i: usize| -> Result<[Dim; 2], InferError> {
        Ok(match cx.shape(i) {
            Some([_, _, length, size]) => [length.clone(), size.clone()],
            Some([_, length, hidden]) => [length.clone(), part(hidden, heads)?],
            _ => [Dim::Unknown, Dim::Unknown],
        })
    };
    let [keys, _] = side(1)?;
    let [values, v_size] = side(2)?;
    let total = |now: &Dim, past: usize| match cx.shape(past) {
        Some([_, _, past, _]) => add(past, now),
        _ if cx.has(past) => Dim::Unknown,
        _ => now.clone(),
    };
    let width = multiply(&Dim::Known(heads), &v_size);
    let present = |total: Dim, size: Dim| Some(vec![batch.clone(), Dim::Known(heads), total, size]);
    let (k_total, v_total) = (total(&keys, 6), total(&values, 7));
    Ok(vec![
        Fact::new(dtype, Some(vec![batch.clone(), length.clone(), width])),
        Fact::new(dtype, present(k_total.clone(), part(&hidden, heads)?)),
        Fact::new(dtype, present(v_total, v_size)),
        Fact::new(dtype, present(length, k_total)),
    ])
}

/// Attention whose query heads share key heads; without keys, the first input holds queries, keys and values.
pub(super) fn group_query(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let (heads, kv_heads) = (positive(cx, "num_heads")?, positive(cx, "kv_num_heads")?);
    if !heads.is_multiple_of(kv_heads) {
        return Err(InferError::shape(format!("{heads} query heads do not share {kv_heads} key heads evenly")));
    }
    let [batch, length, hidden] = sequence(cx, 0)?;
    let size = part(&hidden, if cx.has(1) { heads } else { heads + 2 * kv_heads })?;
    let width = product_dim(&[Dim::Known(heads), size.clone()]);
    let present = Fact::new(cx.dtype(0), Some(vec![batch.clone(), Dim::Known(kv_heads), Dim::Unknown, size]));
    Ok(vec![Fact::new(cx.dtype(0), Some(vec![batch, length, width])), present.clone(), present])
}

/// An LSTM whose weights are `[directions, inputs, 4 · hidden]` in 8 bits.
pub(super) fn quantized_lstm(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let directions = match cx.attrs().str_or("direction", "forward")? {
        "forward" | "reverse" => 1,
        "bidirectional" => 2,
        other => {
            let problem = format!("is unknown: {}", other.escape_debug());
            return Err(AttrError::Invalid { name: "direction", problem }.into());
        }
    };
    let hidden = Dim::Known(positive(cx, "hidden_size")?);
    let [steps, batch, _] = sequence(cx, 0)?;
    let last = Fact::new(cx.dtype(0), Some(vec![Dim::Known(directions), batch.clone(), hidden.clone()]));
    let all = Fact::new(cx.dtype(0), Some(vec![steps, Dim::Known(directions), batch, hidden]));
    Ok(vec![all, last.clone(), last])
}
