//! Convolution in f32 on channels-last tensors.

use super::Env;
use super::codes::refused;
use super::tail::Tail;
use crate::ops::{Inputs, OpError, optional, required};
use crate::packings::Packings;
use quantal_ir::op::conv::{ConvAttrs, Window};
use quantal_kernels::ConvGeometry;
use quantal_kernels::float::{PackedConv, PackedDw, Stage, conv, conv_dw, dwconv};
use quantal_tensor::{DType, Tensor};
use std::fmt;
use std::sync::Arc;

/// A convolution over one or two spatial axes, its weight packed.
pub struct Conv {
    pub(crate) attrs: ConvAttrs,
    pub(crate) c_in: usize,
    c_out: usize,
    weight: Arc<Packed>,
    /// A dense convolution of one group, before this depthwise one: the value between them is not made whole.
    pub(crate) before: Option<Box<Conv>>,
    /// What follows the sum. The step reads x and, if the tail says so, a residual, both channels-last.
    pub tail: Tail,
}

enum Packed {
    Dense(PackedConv),
    Depthwise(PackedDw),
}

impl fmt::Debug for Conv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conv").field("attrs", &self.attrs).field("tail", &self.tail).finish_non_exhaustive()
    }
}

impl Conv {
    /// Packs a weight `[C_out, C_in / group, k…]` with one or two spatial axes, whose `sizes` in the input are known or
    /// free.
    pub(crate) fn new(
        packings: &Packings,
        attrs: ConvAttrs,
        sizes: &[Option<usize>],
        weight: &Arc<Tensor>,
        bias: Option<Vec<f32>>,
    ) -> Result<Self, OpError> {
        let shape = weight.shape();
        let values = weight.get::<f32>().ok_or_else(|| OpError::invalid("the weight is not float32"))?;
        let (c_out, c_in) = (shape[0], shape[1].saturating_mul(attrs.group));
        let wrong = || {
            OpError::invalid(format!(
                "a weight of shape {shape:?} does not fit the window or the {} groups",
                attrs.group
            ))
        };
        if bias.as_ref().is_some_and(|b| b.len() != c_out) {
            return Err(OpError::invalid(format!("the bias must have {c_out} values")));
        }
        let geometry = packing_geometry(&attrs.window, sizes, c_in, c_out, attrs.group).ok_or_else(wrong)?;
        let weight = packings.get(weight, &geometry, || {
            let packed = if geometry.is_depthwise() {
                PackedDw::pack(&geometry, values).map(Packed::Depthwise)
            } else {
                PackedConv::pack(&geometry, values).map(Packed::Dense)
            };
            packed.map_err(refused)
        })?;
        Ok(Self { weight, attrs, c_in, c_out, before: None, tail: Tail { bias, ..Tail::default() } })
    }

    /// Output channels.
    pub fn channels_out(&self) -> usize {
        self.c_out
    }

    /// Whether this one, with no other before it, may run together with `before`, whose result it alone reads.
    pub(crate) fn may_follow(&self, before: &Self) -> bool {
        let images = self.attrs.window.kernel.len() == 2 && before.attrs.window.kernel.len() == 2;
        let kinds = (&*before.weight, &*self.weight);
        images
            && !before.tail.residual
            && matches!(kinds, (Packed::Dense(first), Packed::Depthwise(_)) if first.goes_in_strips())
    }

    /// Convolves `[N, H, W, C]` or `[N, W, C]`.
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let x = required(inputs, 0)?;
        let values = x.get::<f32>().ok_or_else(|| OpError::dtype(quantal_ir::Op::Conv, x.dtype()))?;
        let first = match self.before.as_deref() {
            Some(before) => Some((before, before.geometry(x.shape())?)),
            None => None,
        };
        let g = match &first {
            Some((_, f)) => self.geometry(&[f.batch, f.h_out, f.w_out, f.c_out])?,
            None => self.geometry(x.shape())?,
        };
        let shape = self.shape(&g);
        let mut y = env.pool.tensor(DType::F32, &shape)?;
        let epilogue = self.tail.epilogue(optional(inputs, 1), &shape, g.c_out)?;
        let out = y.as_mut_slice()?;
        let before = first.as_ref().map(|(before, f)| (&*before.weight, &before.tail, f));
        match (&*self.weight, before) {
            (Packed::Depthwise(weight), Some((Packed::Dense(w), tail, f))) => {
                let before = Stage { geometry: f, weight: w, epilogue: tail.epilogue(None, &[], f.c_out)? };
                let own = Stage { geometry: &g, weight, epilogue };
                conv_dw(env.isa, values, &before, &own, out, env.threads);
            }
            (Packed::Dense(weight), _) => conv(env.isa, &g, values, weight, &epilogue, out, env.threads),
            (Packed::Depthwise(weight), _) => dwconv(env.isa, &g, values, weight, &epilogue, out, env.threads),
        }
        Ok(y)
    }

    /// The geometry on an input of shape `[N, H, W, C]` or `[N, W, C]`.
    fn geometry(&self, s: &[usize]) -> Result<ConvGeometry, OpError> {
        let spatial = self.attrs.window.kernel.len();
        if s.len() != spatial + 2 || s[spatial + 1] != self.c_in {
            let text =
                format!("expects {spatial} spatial axes and {} channels, found {s:?} (channels last)", self.c_in);
            return Err(OpError::Invalid(text));
        }
        let image = if spatial == 1 { [s[0], 1, s[1], s[2]] } else { [s[0], s[1], s[2], s[3]] };
        geometry(&self.attrs.window, image, self.c_out, self.attrs.group)
            .ok_or_else(|| OpError::invalid(format!("the window does not fit an input of shape {s:?} (channels last)")))
    }

    fn shape(&self, g: &ConvGeometry) -> Vec<usize> {
        match self.attrs.window.kernel.len() {
            1 => vec![g.batch, g.w_out, g.c_out],
            _ => vec![g.batch, g.h_out, g.w_out, g.c_out],
        }
    }

    /// The shape of the result on an input of shape `x`, if it fits.
    pub(crate) fn shape_out(&self, x: &[usize]) -> Option<Vec<usize>> {
        self.geometry(x).ok().map(|g| self.shape(&g))
    }
}

/// The geometry of a window over one or two spatial axes on `[N, H, W, C]`.
pub(crate) fn geometry(w: &Window, image: [usize; 4], c_out: usize, groups: usize) -> Option<ConvGeometry> {
    let [_, height, width, _] = image;
    if w.kernel.len() == 1 {
        let (left, right) = w.padding(0, width)?;
        let (stride, dilation) = ([1, w.strides[0]], [1, w.dilations[0]]);
        return ConvGeometry::new(image, c_out, [1, w.kernel[0]], stride, dilation, [0, left, 0, right], groups);
    }
    let ((top, bottom), (left, right)) = (w.padding(0, height)?, w.padding(1, width)?);
    let two = |list: &[usize]| Some([*list.first()?, *list.get(1)?]);
    let (stride, dilation) = (two(&w.strides)?, two(&w.dilations)?);
    ConvGeometry::new(image, c_out, two(&w.kernel)?, stride, dilation, [top, left, bottom, right], groups)
}

/// A geometry to pack weights for: the taps, channels and explicit padding of a window on an image of sides `sizes`,
/// which choose a kernel. Sides that are free are taken to be large.
pub(crate) fn packing_geometry(
    w: &Window,
    sizes: &[Option<usize>],
    c_in: usize,
    c_out: usize,
    groups: usize,
) -> Option<ConvGeometry> {
    const LARGE: usize = 64;
    let side = |i: usize| {
        let size = sizes.get(i).copied().flatten().unwrap_or(LARGE);
        Some(size.max(w.extent(i)?))
    };
    let image = match w.kernel.len() {
        1 => [1, 1, side(0)?, c_in],
        _ => [1, side(0)?, side(1)?, c_in],
    };
    geometry(w, image, c_out, groups)
}
