//! QuantizeLinear and DequantizeLinear: which elements share a scale, read off the shapes.

use crate::attrs::{AttrError, Attrs};
use quantal_tensor::Granularity;

/// The granularity of a Q or DQ node whose data has `rank` dimensions and whose scale has shape `scale`.
pub fn granularity(attrs: &Attrs, rank: usize, scale: &[usize]) -> Result<Granularity, AttrError> {
    let block = attrs.int_or("block_size", 0)?;
    if block < 0 {
        return Err(AttrError::Invalid { name: "block_size", problem: format!("is {block}, must not be negative") });
    }
    if block == 0 && scale.len() <= 1 && scale.iter().all(|&n| n == 1) {
        return Ok(Granularity::PerTensor);
    }
    let axis = normalize_axis(attrs.int_or("axis", 1)?, rank)?;
    Ok(if block > 0 { Granularity::PerBlock { axis, size: block as usize } } else { Granularity::PerChannel { axis } })
}

/// An axis counted from the end if negative, checked against `rank`.
pub fn normalize_axis(axis: i64, rank: usize) -> Result<usize, AttrError> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_start).ok().filter(|&a| a < rank).ok_or_else(|| AttrError::Invalid {
        name: "axis",
        problem: format!("is {axis}, the tensor has {rank} dimensions"),
    })
}
