//! `QuantizeLinear`, `DequantizeLinear` and their like.

use super::dims::show;
use super::elementwise::optional_dtype;
use super::{Context, Fact, InferError, layout};
use crate::graph::Dim;
use crate::op::quant::normalize_axis;
use quantal_tensor::DType;

/// Float to integer: the type of the zero point, else `output_dtype`, else uint8.
pub(super) fn quantize(cx: &Context<'_>) -> Result<Fact, InferError> {
    check_scale(cx)?;
    let given = optional_dtype(cx, "output_dtype")?;
    let dtype = if cx.has(2) { cx.dtype(2).or(given) } else { given.or(Some(DType::U8)) };
    Ok(Fact::new(dtype, cx.shape_vec(0)))
}

/// Integer to float: `output_dtype`, else the type of the scale.
pub(super) fn dequantize(cx: &Context<'_>) -> Result<Fact, InferError> {
    check_scale(cx)?;
    if let (Some(data), Some(zero_point)) = (cx.dtype(0), cx.dtype(2))
        && data != zero_point
    {
        return Err(InferError::shape(format!(
            "the data is {data}, its zero point {zero_point}: both must have one type"
        )));
    }
    Ok(Fact::new(optional_dtype(cx, "output_dtype")?.or(cx.dtype(1)), cx.shape_vec(0)))
}

/// A scale for everything, for each channel, or for each block.
fn check_scale(cx: &Context<'_>) -> Result<(), InferError> {
    let block = cx.attrs().int_or("block_size", 0)?;
    if block < 0 {
        return Err(InferError::shape(format!("attribute `block_size` is {block}, must not be negative")));
    }
    let Some(scale) = cx.shape(1) else { return Ok(()) };
    if let Some(zero_point) = cx.shape(2) {
        let differs = |(a, b): (&Dim, &Dim)| matches!((a, b), (Dim::Known(m), Dim::Known(n)) if m != n);
        let single = |s: &[Dim]| s.iter().all(|d| *d == Dim::Known(1));
        let same = scale.len() == zero_point.len() && !scale.iter().zip(zero_point).any(differs);
        if !(same || single(scale) && single(zero_point)) {
            let (scale, zero_point) = (show(scale), show(zero_point));
            return Err(InferError::shape(format!("scale has shape {scale}, zero point {zero_point}")));
        }
    }
    let Some(x) = cx.shape(0) else { return Ok(()) };
    if block == 0 {
        return check_channels(cx, x, scale);
    }
    if scale.len() != x.len() {
        let (found, rank) = (scale.len(), x.len());
        return Err(InferError::shape(format!("scale of blocks has {found} dimensions, the data has {rank}")));
    }
    let axis = normalize_axis(cx.attrs().int_or("axis", 1)?, x.len())?;
    for (i, (d, s)) in x.iter().zip(scale).enumerate() {
        if let (Dim::Known(n), Dim::Known(found)) = (d, s) {
            let wanted = if i == axis { n.div_ceil(block as usize) } else { *n };
            if *found != wanted {
                let (scale, x) = (show(scale), show(x));
                return Err(InferError::shape(format!(
                    "scale of shape {scale} does not fit {x} in blocks of {block} along axis {axis}: \
                     dimension {i} is {found}, must be {wanted}"
                )));
            }
        }
    }
    Ok(())
}

fn check_channels(cx: &Context<'_>, x: &[Dim], scale: &[Dim]) -> Result<(), InferError> {
    match scale {
        [] | [Dim::Known(1) | Dim::Symbol(_) | Dim::Unknown] => Ok(()),
        [Dim::Known(found)] => {
            let axis = normalize_axis(cx.attrs().int_or("axis", 1)?, x.len())?;
            match &x[axis] {
                Dim::Known(n) if n != found => {
                    let x = show(x);
                    Err(InferError::shape(format!("{found} scales for {n} channels along axis {axis} of {x}")))
                }
                _ => Ok(()),
            }
        }
        _ => Err(InferError::shape(format!("scale has {} dimensions, must have at most 1", scale.len()))),
    }
}

/// Quantized data, its scale and its zero point.
pub(super) fn dynamic(cx: &Context<'_>) -> Vec<Fact> {
    let scalar = |dtype| Fact::new(Some(dtype), Some(Vec::new()));
    vec![Fact::new(Some(DType::U8), cx.shape_vec(0)), scalar(DType::F32), scalar(DType::U8)]
}

/// `QLinearConcat`: (scale, zero point), then (data, scale, zero point) for each part.
pub(super) fn concat(cx: &Context<'_>) -> Result<Fact, InferError> {
    let n = cx.node.inputs.len();
    if n % 3 != 2 {
        return Err(InferError::shape(format!("{n} inputs, must be 2 and 3 for each part")));
    }
    let data: Vec<usize> = (2..n).step_by(3).collect();
    layout::concat(cx, &data)
}
