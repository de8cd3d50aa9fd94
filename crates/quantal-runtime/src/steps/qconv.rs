//! Convolutions of 8-bit codes, channels-last.
//!
//! Kernels know images of two axes. Over three axes, the planes that a window sees are put side by side as channels,
//! and each position of the window along the third axis is an image. Padding that follows from an image's size is
//! written around the image first, since packed weights hold the offsets of their taps.

use super::Env;
use super::codes::{Codes, End, refused};
use super::conv::geometry;
use crate::ops::{Inputs, OpError, optional, required};
use quantal_ir::op::conv::{AutoPad, ConvAttrs, ConvTransposeAttrs, Window};
use quantal_kernels::ConvGeometry;
use quantal_kernels::conv::{ConvCall, PackedConv, conv};
use quantal_kernels::dwconv::{DwConvCall, PackedDwConv, dwconv};
use quantal_kernels::planes::{self, Taps};
use quantal_tensor::{DType, Tensor};
use std::fmt;
use std::sync::Arc;

/// Packed weights, and which kernel family reads them.
pub enum Packed {
    /// Any groups.
    Dense(Arc<PackedConv>),
    /// One input and one output channel a group.
    Depthwise(Arc<PackedDwConv>),
    /// A transposed convolution, with what its output size follows from.
    Transposed(Arc<PackedConv>, ConvTransposeAttrs),
}

/// A convolution of codes over one to three spatial axes.
pub struct QConv {
    /// Window and groups. Padding is explicit, unless it follows from the size of each image.
    pub attrs: ConvAttrs,
    /// The window over the last two axes (or the only one) that the weights are packed for.
    pub flat: Window,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// What it reads.
    pub x: Codes,
    /// The weights.
    pub weights: Packed,
    /// Zero points of the weights: none if all are 0, one, or one for each output channel.
    pub w_zero_points: Vec<i32>,
    /// In units of the accumulator.
    pub bias: Option<Vec<i32>>,
    /// What becomes of the sums. The step reads x and, if an addition was fused, the other tensor.
    pub end: End,
}

impl fmt::Debug for QConv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QConv")
            .field("attrs", &self.attrs)
            .field("x", &self.x)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl QConv {
    /// The kernel's name, for coverage and profiles.
    pub fn kernel(&self) -> &'static str {
        match &self.weights {
            Packed::Dense(w) | Packed::Transposed(w, _) => w.kernel().name,
            Packed::Depthwise(w) => w.kernel(),
        }
    }

    /// The input that the result can be written over, as [`End::under`]; kernels of depthwise convolutions read a residual
    /// after they have written some of it.
    pub(crate) fn under(&self) -> Option<usize> {
        let added = matches!(self.weights, Packed::Depthwise(_)) && self.end.columns().is_none();
        self.end.under().filter(|_| !added)
    }

    /// Convolves `[N, D, H, W, C]`, `[N, H, W, C]` or `[N, W, C]`; `under` is the input that the result is
    /// [written over](Self::under).
    pub(crate) fn run(&self, under: Option<Tensor>, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let begun = usize::from(self.end.under() == Some(0));
        let tensor = required(inputs, begun)?;
        let (x, s, spatial) = (self.x.read(tensor)?, tensor.shape(), self.attrs.window.kernel.len());
        if s.len() != spatial + 2 || s[spatial + 1] != self.c_in {
            let text =
                format!("expects {spatial} spatial axes and {} channels, found {s:?} (channels last)", self.c_in);
            return Err(OpError::Invalid(text));
        }
        let wrong = || OpError::invalid(format!("the window does not fit an input of shape {s:?} (channels last)"));
        let mut image = match *s {
            [n, w, c] => [n, 1, w, c],
            [n, h, w, c] => [n, h, w, c],
            [n, d, h, w, c] => [n.checked_mul(d).ok_or_else(wrong)?, h, w, c],
            _ => return Err(wrong()),
        };
        let padded = self.padded(x, &mut image, env)?;
        let x = padded.as_ref().map_or(x, Tensor::bytes);
        let windows = if spatial == 3 { self.attrs.window.output_size(0, s[1], false) } else { Some(1) };
        let windows = windows.ok_or_else(wrong)?;
        let side_by_side = if spatial == 3 { self.side_by_side(x, s[1], windows, &mut image, env)? } else { None };
        let x = side_by_side.as_ref().map_or(x, Tensor::bytes);

        let g = match &self.weights {
            Packed::Dense(_) | Packed::Depthwise(_) => geometry(&self.flat, image, self.c_out, self.attrs.group),
            Packed::Transposed(w, attrs) => transposed_geometry(attrs, image, w.geometry()),
        };
        let g = g.ok_or_else(wrong)?;
        let shape = match spatial {
            1 => vec![g.batch, g.w_out, g.c_out],
            2 => vec![g.batch, g.h_out, g.w_out, g.c_out],
            _ => vec![s[0], windows, g.h_out, g.w_out, g.c_out],
        };
        let (x_signed, x_zero_point) = (self.x.signed, self.x.affine.zero_point);
        let residual = optional(inputs, begun + 1);
        self.end.finish(self.bias.as_deref(), residual, &shape, under, env, |epilogue, env| match &self.weights {
            Packed::Dense(weights) | Packed::Transposed(weights, _) => {
                let w_zero_points = &self.w_zero_points;
                conv(
                    ConvCall { x, x_signed, x_zero_point, geometry: &g, weights, w_zero_points, epilogue },
                    env.threads,
                )
            }
            Packed::Depthwise(weights) => {
                dwconv(DwConvCall { x, x_signed, x_zero_point, geometry: &g, weights, epilogue }, env.threads)
            }
        })
    }
}

impl QConv {
    /// The images with the padding that follows from their size around them, and what they measure then; `None` if
    /// there is none to add.
    fn padded(&self, x: &[u8], image: &mut [usize; 4], env: &mut Env<'_>) -> Result<Option<Tensor>, OpError> {
        let window = &self.attrs.window;
        if window.auto_pad == AutoPad::Explicit {
            return Ok(None);
        }
        let [n, h, w, c] = *image;
        let last = window.kernel.len() - 1;
        let overflow = || OpError::invalid("the padding overflows");
        let (left, right) = window.padding(last, w).ok_or_else(overflow)?;
        let vertical = if last == 0 { Some((0, 0)) } else { window.padding(last - 1, h) };
        let (top, bottom) = vertical.ok_or_else(overflow)?;
        let pads = [top, left, bottom, right];
        if pads == [0; 4] {
            return Ok(None);
        }
        let sum = |a: usize, b: usize, c: usize| a.checked_add(b)?.checked_add(c);
        let to = [n, sum(top, h, bottom).ok_or_else(overflow)?, sum(left, w, right).ok_or_else(overflow)?, c];
        let mut out = env.pool.tensor(DType::U8, &to)?;
        planes::pad(x, *image, pads, self.zero(), out.as_mut_slice::<u8>()?, env.threads).map_err(refused)?;
        *image = to;
        Ok(Some(out))
    }

    /// The planes that each of `windows` windows along the first of three axes sees, as channels of an image; `None` if
    /// each sees the plane of its own index alone.
    fn side_by_side(
        &self,
        x: &[u8],
        depth: usize,
        windows: usize,
        image: &mut [usize; 4],
        env: &mut Env<'_>,
    ) -> Result<Option<Tensor>, OpError> {
        let window = &self.attrs.window;
        let overflow = || OpError::invalid("the images of a third axis overflow");
        let (pad, _) = window.padding(0, depth).ok_or_else(overflow)?;
        let (kernel, stride, dilation) = (window.kernel[0], window.strides[0], window.dilations[0]);
        if (kernel, stride, pad, windows) == (1, 1, 0, depth) {
            return Ok(None);
        }
        let [every_plane, h, w, c] = *image;
        let batch = every_plane.checked_div(depth).unwrap_or(0);
        let images = batch.checked_mul(windows).ok_or_else(overflow)?;
        let to = [images, h, w, c.checked_mul(kernel).ok_or_else(overflow)?];
        let mut out = env.pool.tensor(DType::U8, &to)?;
        let pixels = h.checked_mul(w).ok_or_else(overflow)?;
        let sizes = [batch, depth, pixels, self.attrs.group, c / self.attrs.group];
        let taps = Taps { kernel, stride, dilation, pad, windows };
        planes::side_by_side(x, sizes, taps, self.zero(), out.as_mut_slice::<u8>()?, env.threads).map_err(refused)?;
        *image = to;
        Ok(Some(out))
    }

    /// The byte of the code of real 0.
    fn zero(&self) -> u8 {
        self.x.affine.zero_point as u8
    }
}

/// The geometry of a transposed convolution on `[N, H, W, C]`, as its kernel wants it: the output's sizes are given.
pub(crate) fn transposed_geometry(
    attrs: &ConvTransposeAttrs,
    [batch, h, w, _]: [usize; 4],
    packed: &ConvGeometry,
) -> Option<ConvGeometry> {
    let one = attrs.conv.window.kernel.len() == 1;
    let h_out = if one { 1 } else { attrs.axis(0, h)?.2 };
    let w_out = attrs.axis(usize::from(!one), w)?.2;
    Some(ConvGeometry { batch, h, w, h_out, w_out, ..*packed })
}
