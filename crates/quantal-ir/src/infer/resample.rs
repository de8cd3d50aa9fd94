//! Images at other sizes, regions of them, and boxes.

use super::contents::Entry;
use super::dims::show;
use super::{Context, Fact, InferError, normalize_axes};
use crate::attrs::AttrError;
use crate::graph::Dim;
use quantal_tensor::DType;

/// Sizes beyond this are none that a tensor here can have.
const MAX_SIZE: f32 = i32::MAX as f32;

/// A dimension times a scale, rounded down as ONNX says, in f32 as the scale is.
fn scaled(dim: &Dim, scale: &Entry) -> Result<Dim, InferError> {
    match (dim, scale) {
        (_, Entry::Float(s)) if !(*s > 0.0 && s.is_finite()) => Err(InferError::shape(format!("a scale is {s}"))),
        (d, Entry::Float(1.0)) => Ok(d.clone()),
        (Dim::Known(n), Entry::Float(s)) => {
            let size = (*n as f32 * s).floor();
            Ok(if size < MAX_SIZE { Dim::Known(size as usize) } else { Dim::Unknown })
        }
        _ => Ok(Dim::Unknown),
    }
}

fn scale_axes(shape: &[Dim], axes: &[usize], scales: &[Entry]) -> Result<Vec<Dim>, InferError> {
    if scales.len() != axes.len() {
        return Err(InferError::shape(format!("{} scales for {} axes", scales.len(), axes.len())));
    }
    let mut out = shape.to_vec();
    for (&a, scale) in axes.iter().zip(scales) {
        out[a] = scaled(&shape[a], scale)?;
    }
    Ok(out)
}

/// Resize by scales or to sizes: (x, roi, scales, sizes), or (x, scales) in version 10.
pub(super) fn resize(cx: &Context<'_>) -> Result<Fact, InferError> {
    let Some(shape) = cx.shape(0) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let axes = match cx.attrs().ints("axes")? {
        Some(axes) => normalize_axes(axes, shape.len())?,
        None => (0..shape.len()).collect(),
    };
    let mut unknown = shape.to_vec();
    for &a in &axes {
        unknown[a] = Dim::Unknown;
    }
    let empty = |i: usize| cx.shape(i) == Some(&[Dim::Known(0)]);
    let scales = if cx.node.inputs.len() == 2 { 1 } else { 2 };
    let out = if cx.has(3) && !empty(3) {
        if cx.has(2) && !empty(2) {
            return Err(InferError::shape("both scales and sizes are given"));
        }
        match cx.contents(3) {
            None => unknown,
            Some(c) if c.entries.len() != axes.len() => {
                return Err(InferError::shape(format!("{} sizes for {} axes", c.entries.len(), axes.len())));
            }
            Some(c) => resize_to(cx, shape, &axes, &c.entries)?,
        }
    } else if cx.has(scales) && !empty(scales) {
        match cx.contents(scales) {
            None => unknown,
            Some(c) => scale_axes(shape, &axes, &c.entries)?,
        }
    } else {
        return Err(InferError::shape("neither scales nor sizes are given"));
    };
    Ok(Fact::new(cx.dtype(0), Some(out)))
}

fn resize_to(cx: &Context<'_>, shape: &[Dim], axes: &[usize], sizes: &[Entry]) -> Result<Vec<Dim>, InferError> {
    if let Some(v) = sizes.iter().filter_map(Entry::int).find(|&v| v < 0) {
        return Err(InferError::shape(format!("a size is {v}")));
    }
    let mut out = shape.to_vec();
    let larger = match cx.attrs().str_or("keep_aspect_ratio_policy", "stretch")? {
        "stretch" => {
            for (&a, size) in axes.iter().zip(sizes) {
                out[a] = size.to_dim();
            }
            return Ok(out);
        }
        "not_larger" => false,
        "not_smaller" => true,
        other => {
            let problem = format!("is unknown: {}", other.escape_debug());
            return Err(AttrError::Invalid { name: "keep_aspect_ratio_policy", problem }.into());
        }
    };
    let ratio = |(&a, size): (&usize, &Entry)| {
        let n = shape[a].known().filter(|&n| n > 0)?;
        Some(size.int()? as f32 / n as f32)
    };
    let ratios: Option<Vec<f32>> = axes.iter().zip(sizes).map(ratio).collect();
    let pick = |r: Vec<f32>| r.into_iter().reduce(if larger { f32::max } else { f32::min });
    let scale = ratios.and_then(pick);
    for &a in axes {
        // Halves round up.
        let size = scale.zip(shape[a].known()).map(|(s, n)| (s * n as f32 + 0.5).floor());
        out[a] = size.filter(|&s| s < MAX_SIZE).map_or(Dim::Unknown, |s| Dim::Known(s as usize));
    }
    Ok(out)
}

/// Upsample: a scale for each dimension, as an attribute or an input.
pub(super) fn upsample(cx: &Context<'_>) -> Result<Fact, InferError> {
    let scales = match cx.attrs().floats("scales")? {
        Some(s) => Some(s.iter().map(|&v| Entry::Float(v)).collect::<Vec<_>>()),
        None => cx.contents(1).map(|c| c.entries),
    };
    let Some(shape) = cx.shape(0) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let out = match scales {
        Some(scales) => scale_axes(shape, &(0..shape.len()).collect::<Vec<_>>(), &scales)?,
        None => vec![Dim::Unknown; shape.len()],
    };
    Ok(Fact::new(cx.dtype(0), Some(out)))
}

/// `GridSample`: `[N, C, …]` at the points of `[N, …, 2 or 3]`.
pub(super) fn grid_sample(cx: &Context<'_>) -> Result<Fact, InferError> {
    let (Some(x), Some(grid)) = (cx.shape(0), cx.shape(1)) else { return Ok(Fact::new(cx.dtype(0), None)) };
    if x.len() < 3 || grid.len() != x.len() {
        let (grid, x) = (show(grid), show(x));
        return Err(InferError::shape(format!("a grid of shape {grid} for an input of shape {x}")));
    }
    let (points, axes) = (&grid[grid.len() - 1], x.len() - 2);
    if points.known().is_some_and(|n| n != axes) {
        return Err(InferError::shape(format!("points of the grid have {points} coordinates, the input {axes} axes")));
    }
    Ok(Fact::new(cx.dtype(0), Some([&x[..2], &grid[1..grid.len() - 1]].concat())))
}

/// `RoiAlign`: `[regions, C, height, width]`.
pub(super) fn roi_align(cx: &Context<'_>) -> Result<Fact, InferError> {
    let size = |name: &'static str| {
        let v = cx.attrs().int_or(name, 1)?;
        let size = usize::try_from(v).ok().filter(|&n| n > 0).map(Dim::Known);
        size.ok_or_else(|| AttrError::Invalid { name, problem: format!("is {v}, must be at least 1") })
    };
    let (height, width) = (size("output_height")?, size("output_width")?);
    let channels = match cx.shape(0) {
        None => Dim::Unknown,
        Some([_, c, _, _]) => c.clone(),
        Some(s) => return Err(InferError::shape(format!("the input has {} dimensions, must have 4", s.len()))),
    };
    let regions = match (cx.shape(1), cx.shape(2)) {
        (Some([n, _]), _) | (None, Some([n])) => n.clone(),
        (None, None) => Dim::Unknown,
        (Some(s), _) => {
            return Err(InferError::shape(format!("regions have shape {}, must have 2 dimensions", show(s))));
        }
        (None, Some(s)) => {
            return Err(InferError::shape(format!("batch indices have shape {}, must have 1 dimension", show(s))));
        }
    };
    Ok(Fact::new(cx.dtype(0), Some(vec![regions, channels, height, width])))
}

/// (batch, class, box) of each box that is kept.
pub(super) fn non_max_suppression(cx: &Context<'_>) -> Result<Fact, InferError> {
    for i in 0..2 {
        if let Some(n) = cx.rank(i).filter(|&n| n != 3) {
            return Err(InferError::shape(format!("input {i} has {n} dimensions, must have 3")));
        }
    }
    if cx.has(2) && cx.int(2) == Some(0) {
        return Ok(Fact::new(Some(DType::I64), Some(vec![Dim::Known(0), Dim::Known(3)])));
    }
    Ok(Fact::new(Some(DType::I64), Some(vec![Dim::Unknown, Dim::Known(3)])))
}
