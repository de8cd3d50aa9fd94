//! Element by element: one input, or several that are broadcast.

use super::contents::{self, Contents};
use super::dims::{broadcast, show};
use super::{Context, Fact, InferError};
use crate::attrs::AttrError;
use crate::graph::Dim;
use crate::op::Op;
use quantal_tensor::DType;

/// Same type, same shape.
pub(super) fn unary(cx: &Context<'_>) -> Fact {
    let followed = matches!(cx.node.op, Op::Abs | Op::Ceil | Op::Floor | Op::Identity | Op::Neg | Op::Round | Op::Sqrt);
    let x = if followed { cx.contents(0) } else { None };
    let y = x.map(|x| contents::unary(cx.node.op, &x, cx.dtype(0)));
    Fact::new(cx.dtype(0), cx.shape_vec(0)).holding(y)
}

/// A truth value for each element.
pub(super) fn test(cx: &Context<'_>) -> Fact {
    let x = if cx.node.op == Op::Not { cx.contents(0) } else { None };
    let y = x.map(|x| contents::unary(cx.node.op, &x, Some(DType::Bool)));
    Fact::new(Some(DType::Bool), cx.shape_vec(0)).holding(y)
}

/// The data, and which elements were kept.
pub(super) fn dropout(cx: &Context<'_>) -> Vec<Fact> {
    let data = cx.contents(0).map(|x| contents::unary(cx.node.op, &x, cx.dtype(0)));
    vec![Fact::new(cx.dtype(0), cx.shape_vec(0)).holding(data), Fact::new(Some(DType::Bool), cx.shape_vec(0))]
}

/// Cast and `CastLike`.
pub(super) fn cast(cx: &Context<'_>) -> Result<Fact, InferError> {
    let to = if cx.node.op == Op::CastLike { cx.dtype(1) } else { Some(dtype_attr(cx, "to")?) };
    let y = cx.contents(0).map(|x| contents::unary(cx.node.op, &x, to));
    Ok(Fact::new(to, cx.shape_vec(0)).holding(y))
}

/// A required attribute that names an element type.
fn dtype_attr(cx: &Context<'_>, name: &'static str) -> Result<DType, AttrError> {
    optional_dtype(cx, name)?.ok_or(AttrError::Missing(name))
}

/// An attribute that names an element type; 0 stands for "not given".
pub(super) fn optional_dtype(cx: &Context<'_>, name: &'static str) -> Result<Option<DType>, AttrError> {
    let Some(code) = cx.attrs().int(name)?.filter(|&code| code != 0) else { return Ok(None) };
    match i32::try_from(code).ok().and_then(DType::from_onnx) {
        Some(dtype) => Ok(Some(dtype)),
        None => Err(AttrError::Invalid { name, problem: format!("is {code}, which is no element type") }),
    }
}

/// What the given inputs broadcast to; `None` if one of them is unknown.
fn broadcast_inputs(cx: &Context<'_>, inputs: &[usize]) -> Result<Option<Vec<Dim>>, InferError> {
    let mut total = Some(Vec::new());
    for &i in inputs {
        total = match (total, cx.shape(i)) {
            (Some(total), Some(shape)) => Some(broadcast(&total, shape)?),
            _ => None,
        };
    }
    Ok(total)
}

fn every(cx: &Context<'_>) -> Vec<usize> {
    (0..cx.node.inputs.len()).collect()
}

fn fold(cx: &Context<'_>, dtype: Option<DType>) -> Result<Option<Contents>, InferError> {
    let n = cx.node.inputs.len();
    if cx.node.op == Op::Mean || !(0..n).all(|i| cx.follows(i)) {
        return Ok(None);
    }
    let truncated_mod = cx.attrs().flag("fmod", false)?;
    let Some(inputs) = (0..n).map(|i| cx.contents(i)).collect::<Option<Vec<_>>>() else { return Ok(None) };
    Ok(contents::folded(cx.node.op, &inputs, dtype, truncated_mod))
}

/// Broadcast; the type is that of the inputs.
pub(super) fn arithmetic(cx: &Context<'_>) -> Result<Fact, InferError> {
    let inputs = if cx.node.op == Op::Pow { 1 } else { cx.node.inputs.len() };
    let dtype = (0..inputs).find_map(|i| cx.dtype(i));
    Ok(Fact::new(dtype, broadcast_inputs(cx, &every(cx))?).holding(fold(cx, dtype)?))
}

/// Broadcast; the result is a truth value.
pub(super) fn comparison(cx: &Context<'_>) -> Result<Fact, InferError> {
    let dtype = Some(DType::Bool);
    Ok(Fact::new(dtype, broadcast_inputs(cx, &every(cx))?).holding(fold(cx, dtype)?))
}

/// The slope is broadcast to the data, never the other way.
pub(super) fn prelu(cx: &Context<'_>) -> Result<Fact, InferError> {
    if let (Some(x), Some(slope)) = (cx.shape(0), cx.shape(1)) {
        fits_into(slope, x, "slope")?;
    }
    Ok(Fact::new(cx.dtype(0), cx.shape_vec(0)))
}

/// Refuses what does not broadcast to `target` without changing it.
pub(super) fn fits_into(shape: &[Dim], target: &[Dim], what: &str) -> Result<(), InferError> {
    let grows = |(a, b): (&Dim, &Dim)| matches!((a, b), (Dim::Known(m), Dim::Known(n)) if m != n && *m != 1);
    if shape.len() > target.len() || shape.iter().rev().zip(target.iter().rev()).any(grows) {
        let (shape, target) = (show(shape), show(target));
        return Err(InferError::shape(format!("{what} of shape {shape} does not broadcast to {target}")));
    }
    Ok(())
}

/// Where.
pub(super) fn choice(cx: &Context<'_>) -> Result<Fact, InferError> {
    let shape = broadcast_inputs(cx, &[0, 1, 2])?;
    let y = if (0..3).all(|i| cx.follows(i)) {
        match (cx.contents(0), cx.contents(1), cx.contents(2)) {
            (Some(c), Some(x), Some(y)) => contents::choose(&c, &x, &y),
            _ => None,
        }
    } else {
        None
    };
    Ok(Fact::new(cx.dtype(1).or(cx.dtype(2)), shape).holding(y))
}

/// `QLinearAdd`, `QLinearMul`: (a, scale, zero point, b, …).
pub(super) fn quantized_arithmetic(cx: &Context<'_>) -> Result<Fact, InferError> {
    Ok(Fact::new(cx.dtype(0).or(cx.dtype(3)), broadcast_inputs(cx, &[0, 3])?))
}

/// `QLinearWhere`: (condition, x, scale, zero point, y, …).
pub(super) fn quantized_choice(cx: &Context<'_>) -> Result<Fact, InferError> {
    Ok(Fact::new(cx.dtype(1).or(cx.dtype(4)), broadcast_inputs(cx, &[0, 1, 4])?))
}
