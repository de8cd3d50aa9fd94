//! Products of matrices.

use super::dims::{broadcast, broadcast_dim, show, unify_dim};
use super::elementwise::fits_into;
use super::{Context, Fact, InferError};
use crate::attrs::AttrError;
use crate::graph::Dim;
use crate::op::einsum::{Equation, Label};
use crate::op::gemm::GemmAttrs;
use quantal_tensor::DType;
use std::collections::BTreeMap;

/// `MatMul` of inputs 0 and `b`, as numpy does it: vectors get a dimension for the time of the product.
pub(super) fn matmul(cx: &Context<'_>, b: usize, dtype: Option<DType>) -> Result<Fact, InferError> {
    let (Some(x), Some(y)) = (cx.shape(0), cx.shape(b)) else { return Ok(Fact::new(dtype, None)) };
    Ok(Fact::new(dtype, Some(matmul_shape(x, y)?)))
}

fn matmul_shape(x: &[Dim], y: &[Dim]) -> Result<Vec<Dim>, InferError> {
    let (Some((x_last, x_rest)), Some(y_last)) = (x.split_last(), y.last()) else {
        return Err(InferError::shape(format!("a scalar has no matrix product: {} and {}", show(x), show(y))));
    };
    let inner = if y.len() == 1 { y_last } else { &y[y.len() - 2] };
    if unify_dim(x_last, inner).is_none() {
        let text = format!("inner dimensions {x_last} and {inner} differ: {} and {}", show(x), show(y));
        return Err(InferError::shape(text));
    }
    let (rows, x_batch) = x_rest.split_last().map_or((None, x_rest), |(rows, batch)| (Some(rows), batch));
    let columns = (y.len() > 1).then_some(y_last);
    let mut out = broadcast(x_batch, &y[..y.len().saturating_sub(2)])?;
    out.extend(rows.into_iter().chain(columns).cloned());
    Ok(out)
}

/// `FusedMatMul`: a product of operands that are transposed first.
pub(super) fn fused_matmul(cx: &Context<'_>) -> Result<Fact, InferError> {
    let side = |i: usize, last: &str, batch: &str| -> Result<Option<Vec<Dim>>, InferError> {
        let Some(mut dims) = cx.shape_vec(i) else { return Ok(None) };
        let rank = dims.len();
        if cx.attrs().flag(batch, false)? && rank > 2 {
            dims[..rank - 1].rotate_left(1);
        }
        if cx.attrs().flag(last, false)? && rank > 1 {
            dims.swap(rank - 2, rank - 1);
        }
        Ok(Some(dims))
    };
    let (a, b) = (side(0, "transA", "transBatchA")?, side(1, "transB", "transBatchB")?);
    let (Some(a), Some(b)) = (a, b) else { return Ok(Fact::new(cx.dtype(0), None)) };
    Ok(Fact::new(cx.dtype(0), Some(matmul_shape(&a, &b)?)))
}

/// Gemm of inputs 0, `b` and `c`; `[M, N]`.
pub(super) fn gemm(cx: &Context<'_>, b: usize, c: usize, dtype: Option<DType>) -> Result<Fact, InferError> {
    let attrs = GemmAttrs::of(cx.attrs())?;
    let sides = |i: usize, transposed: bool| match cx.shape(i) {
        None => Ok((Dim::Unknown, Dim::Unknown)),
        Some([rows, columns]) if transposed => Ok((columns.clone(), rows.clone())),
        Some([rows, columns]) => Ok((rows.clone(), columns.clone())),
        Some(s) => Err(InferError::shape(format!("input {i} has {} dimensions, must have 2", s.len()))),
    };
    let ((m, k), (l, n)) = (sides(0, attrs.trans_a)?, sides(b, attrs.trans_b)?);
    if unify_dim(&k, &l).is_none() {
        return Err(InferError::shape(format!("inner dimensions {k} and {l} differ: {m} × {k} and {l} × {n}")));
    }
    let out = vec![m, n];
    if let Some(bias) = cx.shape(c) {
        fits_into(bias, &out, "a bias")?;
    }
    Ok(Fact::new(dtype, Some(out)))
}

/// (a, scale, zero point, b, scale, zero point, scale, zero point).
pub(super) fn qlinear_matmul(cx: &Context<'_>) -> Result<Fact, InferError> {
    matmul(cx, 3, cx.dtype(7).or(cx.dtype(0)))
}

/// (a, scale, zero point, b, scale, zero point, c, scale, zero point): float without the output's scale.
pub(super) fn qgemm(cx: &Context<'_>) -> Result<Fact, InferError> {
    let dtype = if cx.has(7) { cx.dtype(8).or(cx.dtype(0)) } else { Some(DType::F32) };
    gemm(cx, 3, 6, dtype)
}

/// Einsum.
pub(super) fn einsum(cx: &Context<'_>) -> Result<Fact, InferError> {
    let dtype = (0..cx.node.inputs.len()).find_map(|i| cx.dtype(i));
    let shapes: Option<Vec<&[Dim]>> = (0..cx.node.inputs.len()).map(|i| cx.shape(i)).collect();
    let Some(shapes) = shapes else {
        cx.attrs().str("equation")?.ok_or(AttrError::Missing("equation"))?;
        return Ok(Fact::new(dtype, None));
    };
    let equation = Equation::of(cx.attrs(), &shapes.iter().map(|s| s.len()).collect::<Vec<_>>())?;
    let sizes = einsum_sizes(&equation, &shapes)?;
    let shape = equation.output.iter().map(|l| sizes.get(l).cloned().unwrap_or(Dim::Unknown)).collect();
    Ok(Fact::new(dtype, Some(shape)))
}

/// The size of each label.
pub(crate) fn einsum_sizes(equation: &Equation, shapes: &[&[Dim]]) -> Result<BTreeMap<Label, Dim>, InferError> {
    let mut sizes: BTreeMap<Label, Dim> = BTreeMap::new();
    for (labels, shape) in equation.inputs.iter().zip(shapes) {
        for (&label, d) in labels.iter().zip(*shape) {
            let old = sizes.entry(label).or_insert(Dim::Known(1));
            *old = broadcast_dim(old, d).ok_or_else(|| {
                let name = if let Label::Letter(c) = label { (c as char).to_string() } else { "...".to_owned() };
                InferError::shape(format!("`{name}` is both {old} and {d}"))
            })?;
        }
    }
    Ok(sizes)
}
