//! Convolutions of 8-bit codes, channels-last.

use super::Env;
use super::codes::{Codes, End};
use super::conv::geometry;
use crate::ops::{Inputs, OpError, optional, required};
use quantal_ir::op::conv::{ConvAttrs, ConvTransposeAttrs};
use quantal_kernels::ConvGeometry;
use quantal_kernels::conv::{ConvCall, PackedConv, conv};
use quantal_kernels::dwconv::{DwConvCall, PackedDwConv, dwconv};
use quantal_tensor::Tensor;
use std::fmt;

/// Packed weights, and which kernel family reads them.
pub enum Packed {
    /// Any groups.
    Dense(Box<PackedConv>),
    /// One input and one output channel a group.
    Depthwise(Box<PackedDwConv>),
    /// A transposed convolution, with what its output size follows from.
    Transposed(Box<PackedConv>, ConvTransposeAttrs),
}

/// A convolution of codes over one or two spatial axes.
pub struct QConv {
    /// Window and groups, with padding resolved.
    pub attrs: ConvAttrs,
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

    /// Convolves `[N, H, W, C]` or `[N, W, C]`; `under` is the input that the result is [written over](Self::under).
    pub(crate) fn run(&self, under: Option<Tensor>, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let begun = usize::from(self.end.under() == Some(0));
        let tensor = required(inputs, begun)?;
        let (x, s, spatial) = (self.x.read(tensor)?, tensor.shape(), self.attrs.window.kernel.len());
        if s.len() != spatial + 2 || s[spatial + 1] != self.c_in {
            let text =
                format!("expects {spatial} spatial axes and {} channels, found {s:?} (channels last)", self.c_in);
            return Err(OpError::Invalid(text));
        }
        let image = if spatial == 1 { [s[0], 1, s[1], s[2]] } else { [s[0], s[1], s[2], s[3]] };
        let g = match &self.weights {
            Packed::Dense(_) | Packed::Depthwise(_) => {
                geometry(&self.attrs.window, image, self.c_out, self.attrs.group)
            }
            Packed::Transposed(w, attrs) => transposed_geometry(attrs, image, w.geometry()),
        };
        let g = g.ok_or_else(|| {
            OpError::invalid(format!("the window does not fit an input of shape {s:?} (channels last)"))
        })?;
        let shape = match spatial {
            1 => vec![g.batch, g.w_out, g.c_out],
            _ => vec![g.batch, g.h_out, g.w_out, g.c_out],
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
