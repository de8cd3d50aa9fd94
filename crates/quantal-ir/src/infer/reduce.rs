//! One value from many along axes, and what walks along an axis.

use super::contents::{Contents, Entry};
use super::dims::show;
use super::{Context, Fact, InferError, List, axis, normalize_axes};
use crate::graph::Dim;
use crate::op::Op;
use crate::op::quant::normalize_axis;
use quantal_tensor::DType;

/// The reductions.
pub(super) fn reduce(cx: &Context<'_>) -> Result<Fact, InferError> {
    let keep = cx.attrs().flag("keepdims", true)?;
    let nothing_is_all = !cx.attrs().flag("noop_with_empty_axes", false)?;
    let axes = cx.list("axes", 1)?;
    let Some(shape) = cx.shape(0) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let axes = match axes {
        List::Given(axes) if !axes.is_empty() => normalize_axes(&axes, shape.len())?,
        List::Given(_) | List::Absent if nothing_is_all => (0..shape.len()).collect(),
        List::Given(_) | List::Absent => Vec::new(),
        List::Unknown => return Ok(Fact::new(cx.dtype(0), keep.then(|| vec![Dim::Unknown; shape.len()]))),
    };
    let out = without(shape, &axes, keep);
    let contents = if axes.len() == shape.len() && cx.follows(0) { total(cx, &out) } else { None };
    Ok(Fact::new(cx.dtype(0), Some(out)).holding(contents))
}

/// The shape with `axes` taken out, or made 1.
fn without(shape: &[Dim], axes: &[usize], keep: bool) -> Vec<Dim> {
    let dims = shape.iter().enumerate();
    if keep {
        dims.map(|(i, d)| if axes.contains(&i) { Dim::Known(1) } else { d.clone() }).collect()
    } else {
        dims.filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect()
    }
}

/// All elements in one, for the reductions that shapes are computed with.
fn total(cx: &Context<'_>, shape: &[Dim]) -> Option<Contents> {
    let op = match cx.node.op {
        Op::ReduceSum => Op::Add,
        Op::ReduceProd => Op::Mul,
        Op::ReduceMax => Op::Max,
        Op::ReduceMin => Op::Min,
        _ => return None,
    };
    let elements: Vec<Contents> = cx.contents(0)?.entries.into_iter().map(Contents::scalar).collect();
    super::contents::folded(op, &elements, cx.dtype(0), false)?.reshaped(super::dims::all_known(shape)?)
}

/// The index of the largest or smallest along an axis.
pub(super) fn arg(cx: &Context<'_>) -> Result<Fact, InferError> {
    let keep = cx.attrs().flag("keepdims", true)?;
    let shape = match cx.shape(0) {
        Some(shape) => Some(without(shape, &[axis(cx, 0, shape.len())?], keep)),
        None => None,
    };
    Ok(Fact::new(Some(DType::I64), shape))
}

/// Running sums along the axis in input 1.
pub(super) fn cum_sum(cx: &Context<'_>) -> Result<Fact, InferError> {
    if let (Some(axis), Some(rank)) = (cx.int(1), cx.rank(0)) {
        normalize_axis(axis, rank)?;
    }
    Ok(Fact::new(cx.dtype(0), cx.shape_vec(0)))
}

/// The k largest or smallest along an axis, and their indices.
pub(super) fn top_k(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let k = match cx.attrs().int("k")? {
        Some(k) => Some(Entry::Int(k)),
        None => cx.contents(1).and_then(|c| c.entries.into_iter().next()),
    };
    if let Some(Entry::Int(k @ ..0)) = k {
        return Err(InferError::shape(format!("k is {k}")));
    }
    let k = k.map_or(Dim::Unknown, |k| k.to_dim());
    let mut shape = cx.shape_vec(0);
    if let Some(shape) = &mut shape {
        let axis = axis(cx, -1, shape.len())?;
        if let (Dim::Known(k), Dim::Known(n)) = (&k, &shape[axis])
            && k > n
        {
            return Err(InferError::shape(format!("k is {k}, axis {axis} of {} has fewer", show(shape))));
        }
        shape[axis] = k;
    }
    Ok(vec![Fact::new(cx.dtype(0), shape.clone()), Fact::new(Some(DType::I64), shape)])
}
