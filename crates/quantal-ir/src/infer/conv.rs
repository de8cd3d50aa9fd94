//! Windows: convolutions, integer or not, and pooling.

use super::dims::{all_known, multiply, show};
use super::{Context, Fact, InferError};
use crate::attrs::AttrError;
use crate::graph::Dim;
use crate::op::Op;
use crate::op::conv::{AutoPad, ConvAttrs, ConvTransposeAttrs, Window};
use crate::op::pool::PoolAttrs;
use quantal_tensor::DType;

/// Which inputs of a convolution are what.
pub(super) struct Places {
    weight: usize,
    bias: Option<usize>,
}

impl Places {
    /// (x, w, bias).
    pub(super) const FLOAT: Self = Self { weight: 1, bias: Some(2) };
    /// (x, w, zero points).
    pub(super) const INTEGER: Self = Self { weight: 1, bias: None };
    /// (x, scale, zero point, w, scale, zero point, scale, zero point, bias).
    const QLINEAR: Self = Self { weight: 3, bias: Some(8) };
}

/// `[N, C, spatial…]`, checked to have at least one spatial axis and as many dimensions as the weight.
fn shapes<'a>(cx: &Context<'a>, weight: usize) -> Result<(Option<&'a [Dim]>, Option<&'a [Dim]>), InferError> {
    let (x, w) = (cx.shape(0), cx.shape(weight));
    if let (Some(x), Some(w)) = (x, w)
        && x.len() != w.len()
    {
        let text = format!("the weight has {} dimensions, the input {}: {} and {}", w.len(), x.len(), show(w), show(x));
        return Err(InferError::shape(text));
    }
    if let Some(s) = x.or(w).filter(|s| s.len() < 3) {
        return Err(InferError::shape(format!("the input has {} dimensions, must have at least 3", s.len())));
    }
    Ok((x, w))
}

fn check_bias(cx: &Context<'_>, bias: Option<usize>, channels: &Dim) -> Result<(), InferError> {
    let Some(bias) = bias.and_then(|i| cx.shape(i)) else { return Ok(()) };
    match (bias, channels) {
        ([Dim::Known(n)], Dim::Known(m)) if n != m => {
            Err(InferError::shape(format!("the bias has {n} elements, there are {m} output channels")))
        }
        ([_], _) => Ok(()),
        _ => Err(InferError::shape(format!("the bias has shape {}, must have 1 dimension", show(bias)))),
    }
}

/// Conv and `ConvInteger`; `[N, M, spatial…]`.
pub(super) fn conv(cx: &Context<'_>, places: &Places, dtype: Option<DType>) -> Result<Fact, InferError> {
    let (x, w) = shapes(cx, places.weight)?;
    let Some(rank) = x.or(w).map(<[Dim]>::len) else { return Ok(Fact::new(dtype, None)) };
    let channels = w.map_or(Dim::Unknown, |w| w[0].clone());
    check_bias(cx, places.bias, &channels)?;
    let sizes = w.and_then(|w| all_known(&w[2..]));
    let group = match (w, &sizes) {
        (Some(w), Some(kernel)) => {
            // Channel counts do not matter to the attributes; they are checked below.
            let shape: Vec<usize> = [0, 0].iter().chain(kernel).copied().collect();
            let conv = ConvAttrs::of(cx.attrs(), &shape)?;
            check_groups(x.map(|x| &x[1]), &w[1], &channels, conv.group)?;
            Some(conv)
        }
        _ => None,
    };
    let unknown = vec![Dim::Unknown; rank];
    let x = x.unwrap_or(&unknown);
    let window = match group {
        Some(conv) => Some(conv.window),
        None if cx.attrs().get("kernel_shape").is_some() => Some(Window::of(cx.attrs(), None)?),
        None => None,
    };
    let mut out = vec![x[0].clone(), channels];
    out.extend(spatial(window.as_ref(), &x[2..], false)?);
    Ok(Fact::new(dtype, Some(out)))
}

fn check_groups(c_in: Option<&Dim>, per_group: &Dim, c_out: &Dim, group: usize) -> Result<(), InferError> {
    if let (Some(Dim::Known(c)), Dim::Known(k)) = (c_in, per_group)
        && k.checked_mul(group) != Some(*c)
    {
        return Err(InferError::shape(format!(
            "the input has {c} channels, the weight takes {k} in each of {group} groups"
        )));
    }
    match c_out {
        Dim::Known(m) if !m.is_multiple_of(group) => {
            Err(InferError::shape(format!("{m} output channels do not divide into {group} groups")))
        }
        _ => Ok(()),
    }
}

/// The sizes that a window leaves of each spatial axis.
fn spatial(window: Option<&Window>, sizes: &[Dim], ceil: bool) -> Result<Vec<Dim>, InferError> {
    let Some(window) = window else { return Ok(vec![Dim::Unknown; sizes.len()]) };
    if window.kernel.len() != sizes.len() {
        let (found, wanted) = (window.kernel.len(), sizes.len());
        return Err(InferError::shape(format!("the kernel has {found} dimensions, the input {wanted} spatial axes")));
    }
    sizes.iter().enumerate().map(|(i, d)| window_dim(window, i, d, ceil)).collect()
}

fn window_dim(window: &Window, i: usize, dim: &Dim, ceil: bool) -> Result<Dim, InferError> {
    let Dim::Known(size) = dim else {
        // With stride 1 and padding that makes up for the kernel, the size stays what it is.
        let same = match window.auto_pad {
            AutoPad::SameUpper | AutoPad::SameLower => true,
            AutoPad::Valid => window.extent(i) == Some(1),
            AutoPad::Explicit => {
                let pads = window.pads_begin[i].checked_add(window.pads_end[i]);
                pads.and_then(|p| p.checked_add(1)) == window.extent(i)
            }
        };
        return Ok(if same && window.strides[i] == 1 { dim.clone() } else { Dim::Unknown });
    };
    window.output_size(i, *size, ceil).map(Dim::Known).ok_or_else(|| {
        let (kernel, dilation) = (window.kernel[i], window.dilations[i]);
        let (before, after) = window.padding(i, *size).unwrap_or((0, 0));
        InferError::shape(format!(
            "a kernel of {kernel} with dilation {dilation} does not fit into {size} padded by {before} and {after} \
             along spatial axis {i}"
        ))
    })
}

/// `QLinearConv`: the type is that of the output's zero point.
pub(super) fn qlinear(cx: &Context<'_>) -> Result<Fact, InferError> {
    if let (Some([Dim::Known(scales)]), Some([Dim::Known(channels), ..])) = (cx.shape(4), cx.shape(3))
        && *scales != 1
        && scales != channels
    {
        let text = format!("the weight has {scales} scales, there are {channels} output channels");
        return Err(InferError::shape(text));
    }
    conv(cx, &Places::QLINEAR, cx.dtype(7).or(cx.dtype(0)))
}

/// `ConvTranspose`: the weight is `[C, M / group, k…]`.
pub(super) fn transposed(cx: &Context<'_>) -> Result<Fact, InferError> {
    let (x, w) = shapes(cx, 1)?;
    let (Some(x), Some(w)) = (x, w) else {
        return Ok(Fact::new(cx.dtype(0), x.or(w).map(|s| vec![Dim::Unknown; s.len()])));
    };
    let mut out = vec![x[0].clone(), Dim::Unknown];
    let Some(kernel) = all_known(&w[2..]) else {
        out.resize(x.len(), Dim::Unknown);
        return Ok(Fact::new(cx.dtype(0), Some(out)));
    };
    let shape: Vec<usize> = [0, 0].iter().chain(&kernel).copied().collect();
    let attrs = ConvTransposeAttrs::of(cx.attrs(), &shape)?;
    let group = attrs.conv.group;
    if let (Dim::Known(c), Dim::Known(k)) = (&x[1], &w[0]) {
        if c != k {
            return Err(InferError::shape(format!("the input has {c} channels, the weight takes {k}")));
        }
        if !c.is_multiple_of(group) {
            return Err(InferError::shape(format!("{c} input channels do not divide into {group} groups")));
        }
    }
    out[1] = multiply(&w[1], &Dim::Known(group));
    check_bias(cx, Some(2), &out[1])?;
    for (i, d) in x[2..].iter().enumerate() {
        out.push(match d {
            Dim::Known(size) => attrs.axis(i, *size).map(|(_, _, n)| Dim::Known(n)).ok_or_else(|| {
                InferError::shape(format!("padding takes away all that {size} gives along spatial axis {i}"))
            })?,
            Dim::Symbol(_) | Dim::Unknown => attrs.output_shape.as_ref().map_or(Dim::Unknown, |s| Dim::Known(s[i])),
        });
    }
    Ok(Fact::new(cx.dtype(0), Some(out)))
}

/// `[N, spatial…, C]` rather than `[N, C, spatial…]`: an attribute of Microsoft's integer pooling.
fn channels_last(cx: &Context<'_>) -> Result<bool, AttrError> {
    let integer = matches!(cx.node.op, Op::QLinearAveragePool | Op::QLinearGlobalAveragePool);
    Ok(integer && cx.attrs().flag("channels_last", false)?)
}

/// The range of the spatial axes.
fn spatial_axes(cx: &Context<'_>, rank: usize) -> Result<std::ops::Range<usize>, InferError> {
    if rank < 3 {
        return Err(InferError::shape(format!("the input has {rank} dimensions, must have at least 3")));
    }
    Ok(if channels_last(cx)? { 1..rank - 1 } else { 2..rank })
}

/// Pooling with a window.
pub(super) fn pool(cx: &Context<'_>) -> Result<Fact, InferError> {
    let attrs = PoolAttrs::of(cx.attrs())?;
    let Some(x) = cx.shape(0) else {
        return Ok(Fact::new(cx.dtype(0), Some(vec![Dim::Unknown; attrs.window.kernel.len() + 2])));
    };
    let axes = spatial_axes(cx, x.len())?;
    let mut out = x.to_vec();
    let sizes = spatial(Some(&attrs.window), &x[axes.clone()], attrs.ceil_mode)?;
    out.splice(axes, sizes);
    Ok(Fact::new(cx.dtype(0), Some(out)))
}

/// `MaxPool`: the maxima, and where they stood.
pub(super) fn max_pool(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let values = pool(cx)?;
    let indices = Fact::new(Some(DType::I64), values.shape.clone());
    Ok(vec![values, indices])
}

/// Pooling over all of the image.
pub(super) fn global_pool(cx: &Context<'_>) -> Result<Fact, InferError> {
    let Some(mut out) = cx.shape_vec(0) else { return Ok(Fact::new(cx.dtype(0), None)) };
    let axes = spatial_axes(cx, out.len())?;
    out[axes].fill(Dim::Known(1));
    Ok(Fact::new(cx.dtype(0), Some(out)))
}
