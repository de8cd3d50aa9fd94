//! Random numbers.

use super::dims::fixed;
use super::elementwise::optional_dtype;
use super::{Context, Fact, InferError};
use crate::attrs::AttrError;
use crate::graph::Dim;
use quantal_tensor::DType;

/// `RandomNormal` and `RandomUniform`: the shape is an attribute.
pub(super) fn given(cx: &Context<'_>) -> Result<Fact, InferError> {
    let shape = cx.attrs().ints("shape")?.ok_or(AttrError::Missing("shape"))?;
    let size = |&n: &i64| {
        usize::try_from(n)
            .map_err(|_| AttrError::Invalid { name: "shape", problem: format!("holds {n}, must be at least 0") })
    };
    let sizes = shape.iter().map(size).collect::<Result<Vec<_>, _>>()?;
    Ok(Fact::new(optional_dtype(cx, "dtype")?.or(Some(DType::F32)), Some(fixed(&sizes))))
}

/// The shape of the input, and its type unless the attribute names another.
pub(super) fn like(cx: &Context<'_>) -> Result<Fact, InferError> {
    Ok(Fact::new(optional_dtype(cx, "dtype")?.or(cx.dtype(0)), cx.shape_vec(0)))
}

/// `Multinomial`: as many classes for each row as are asked for.
pub(super) fn multinomial(cx: &Context<'_>) -> Result<Fact, InferError> {
    let n = cx.attrs().int_or("sample_size", 1)?;
    let count = usize::try_from(n)
        .map_err(|_| AttrError::Invalid { name: "sample_size", problem: format!("is {n}, must be at least 0") })?;
    let rows = match cx.shape(0) {
        None => Dim::Unknown,
        Some([rows, _]) => rows.clone(),
        Some(s) => return Err(InferError::shape(format!("the input has {} dimensions, must have 2", s.len()))),
    };
    Ok(Fact::new(optional_dtype(cx, "dtype")?.or(Some(DType::I32)), Some(vec![rows, Dim::Known(count)])))
}
