//! Pooling over windows and reduction over whole axes, in f32.

use super::Env;
use crate::ops::OpError;
use quantal_ir::Op;
use quantal_ir::op::pool::PoolAttrs;
use quantal_kernels::ConvGeometry;
use quantal_kernels::float::{self, Reduce as Kind};
use quantal_tensor::{DType, Tensor};

/// Pooling of a channels-last tensor with one or two spatial axes.
#[derive(Clone, Debug)]
pub struct Window {
    /// The window.
    pub attrs: PoolAttrs,
    /// What to take of it.
    pub kind: float::Pool,
}

impl Window {
    /// Pools `[N, H, W, C]` or `[N, W, C]`.
    pub(crate) fn run(&self, x: &Tensor, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let s = x.shape();
        let w = &self.attrs.window;
        let wrong = || OpError::invalid(format!("the window does not fit an input of shape {s:?} (channels last)"));
        let image = match (s, w.kernel.len()) {
            (&[n, width, c], 1) => [n, 1, width, c],
            (&[n, h, width, c], 2) => [n, h, width, c],
            _ => return Err(wrong()),
        };
        let values = x.get::<f32>().ok_or_else(|| OpError::dtype(Op::MaxPool, x.dtype()))?;
        let g = pool_geometry(&self.attrs, image).ok_or_else(wrong)?;
        let shape =
            if s.len() == 3 { vec![g.batch, g.w_out, g.c_out] } else { vec![g.batch, g.h_out, g.w_out, g.c_out] };
        let mut y = env.pool.tensor(DType::F32, &shape)?;
        float::pool(env.isa, self.kind, &g, values, y.as_mut_slice()?, env.threads);
        Ok(y)
    }
}

/// The geometry of a pooling window, its output sizes rounded up if the attributes say so.
pub(crate) fn pool_geometry(attrs: &PoolAttrs, image: [usize; 4]) -> Option<ConvGeometry> {
    let [batch, h, w, c] = image;
    let window = &attrs.window;
    let axis = |i: usize, size: usize| {
        let pads = window.padding(i, size)?;
        Some((
            window.kernel[i],
            window.strides[i],
            window.dilations[i],
            pads,
            window.output_size(i, size, attrs.ceil_mode)?,
        ))
    };
    let last = window.kernel.len().checked_sub(1)?;
    let vertical = if last == 0 { (1, 1, 1, (0, 0), 1) } else { axis(last - 1, h)? };
    let horizontal = axis(last, w)?;
    let g = ConvGeometry {
        batch,
        h,
        w,
        c_in: c,
        c_out: c,
        kernel: [vertical.0, horizontal.0],
        stride: [vertical.1, horizontal.1],
        dilation: [vertical.2, horizontal.2],
        pads: [vertical.3.0, horizontal.3.0, vertical.3.1, horizontal.3.1],
        groups: 1,
        h_out: vertical.4,
        w_out: horizontal.4,
    };
    g.valid().then_some(g)
}

/// Reduction over axes that lie next to each other in memory.
#[derive(Debug)]
pub struct Reduction {
    /// What to make of the values.
    pub kind: Kind,
    /// The first axis, in memory order.
    pub first: usize,
    /// How many axes.
    pub count: usize,
    /// Whether they stay, as 1.
    pub keep: bool,
}

impl Reduction {
    /// Reduces.
    pub(crate) fn run(&self, x: &Tensor, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let s = x.shape();
        let end = self.first + self.count;
        let values = x.get::<f32>().ok_or_else(|| OpError::dtype(Op::ReduceMean, x.dtype()))?;
        if end > s.len() {
            return Err(OpError::invalid(format!("cannot reduce axes {}..{end} of shape {s:?}", self.first)));
        }
        let product = |list: &[usize]| list.iter().product::<usize>();
        let axes = [product(&s[..self.first]), product(&s[self.first..end]), product(&s[end..])];
        let kept = if self.keep { vec![1; self.count] } else { Vec::new() };
        let shape = [&s[..self.first], &kept, &s[end..]].concat();
        let mut y = env.pool.tensor(DType::F32, &shape)?;
        float::reduce(env.isa, self.kind, values, axes, y.as_mut_slice()?, env.threads);
        Ok(y)
    }
}
