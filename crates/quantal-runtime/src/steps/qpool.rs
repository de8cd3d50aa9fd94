//! Pooling and means of codes, channels-last.

use super::Env;
use super::codes::{Codes, written};
use super::pool::pool_geometry;
use crate::ops::{Inputs, OpError, required};
use quantal_ir::op::conv::Window;
use quantal_ir::op::pool::PoolAttrs;
use quantal_kernels::pooling::{self, Divisor};
use quantal_tensor::Tensor;

/// Which summary of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The largest code.
    Max,
    /// The mean, arith (5).
    Average,
}

/// Pooling over one or two spatial axes; the largest codes also over three.
#[derive(Clone, Debug)]
pub struct QPool {
    /// Which.
    pub kind: Kind,
    /// The window.
    pub attrs: PoolAttrs,
    /// What it reads.
    pub x: Codes,
    /// What it writes.
    pub y: Codes,
}

impl QPool {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let tensor = required(inputs, 0)?;
        let s = tensor.shape();
        let wrong = || OpError::invalid(format!("the window does not fit an input of shape {s:?} (channels last)"));
        match (s, self.attrs.window.kernel.len()) {
            (&[n, width, c], 1) => {
                let y = self.pool(tensor, &self.attrs, [n, 1, width, c], env)?.ok_or_else(wrong)?;
                let shape = [n, y.shape()[2], c];
                Ok(y.reshaped(&shape)?)
            }
            (&[n, h, width, c], 2) => self.pool(tensor, &self.attrs, [n, h, width, c], env)?.ok_or_else(wrong),
            (&[n, d, h, width, c], 3) if self.kind == Kind::Max => {
                // The largest of a box is the largest along its third axis of the largest of each plane.
                let (inner, outer) = (axes(&self.attrs, &[1, 2]), axes(&self.attrs, &[0]));
                let planes = n.checked_mul(d).ok_or_else(wrong)?;
                let pooled = self.pool(tensor, &inner, [planes, h, width, c], env)?.ok_or_else(wrong)?;
                let [h, width] = [pooled.shape()[1], pooled.shape()[2]];
                let along = PoolAttrs { window: upright(&outer.window), ..outer };
                let y = self.pool(&pooled, &along, [n, d, h * width, c], env)?.ok_or_else(wrong)?;
                let shape = [n, y.shape()[1], h, width, c];
                Ok(y.reshaped(&shape)?)
            }
            _ => Err(wrong()),
        }
    }

    /// Pools the codes of `x` as images `[N, H, W, C]`; `None` if the window does not fit.
    fn pool(
        &self,
        x: &Tensor,
        attrs: &PoolAttrs,
        image: [usize; 4],
        env: &mut Env<'_>,
    ) -> Result<Option<Tensor>, OpError> {
        let x = self.x.read(x)?;
        let Some(g) = pool_geometry(attrs, image) else { return Ok(None) };
        let shape = [g.batch, g.h_out, g.w_out, g.c_out];
        let (a, b) = (self.x, self.y);
        let divisor = if attrs.count_include_pad { Divisor::Padded } else { Divisor::Inside };
        let scales = [a.affine.scale, b.affine.scale];
        let y = written(b, &shape, env, |out, env| match self.kind {
            Kind::Max => pooling::max_pool(env.isa, x, a.signed, &g, out, env.threads),
            Kind::Average => pooling::avg_pool(
                env.isa,
                x,
                a.signed,
                a.affine.zero_point,
                scales,
                &g,
                divisor,
                b.out(),
                out,
                env.threads,
            ),
        })?;
        Ok(Some(y))
    }
}

/// The attributes of pooling along some of its axes.
fn axes(attrs: &PoolAttrs, which: &[usize]) -> PoolAttrs {
    let of = |list: &[usize]| which.iter().map(|&i| list[i]).collect::<Vec<_>>();
    let w = &attrs.window;
    let window = Window {
        kernel: of(&w.kernel),
        strides: of(&w.strides),
        dilations: of(&w.dilations),
        pads_begin: of(&w.pads_begin),
        pads_end: of(&w.pads_end),
        auto_pad: w.auto_pad,
    };
    PoolAttrs { window, ..attrs.clone() }
}

/// A window along one axis as the vertical one of two.
fn upright(window: &Window) -> Window {
    let with = |list: &[usize], other: usize| vec![list[0], other];
    Window {
        kernel: with(&window.kernel, 1),
        strides: with(&window.strides, 1),
        dilations: with(&window.dilations, 1),
        pads_begin: with(&window.pads_begin, 0),
        pads_end: with(&window.pads_end, 0),
        auto_pad: window.auto_pad,
    }
}

/// The mean over axes that lie next to each other.
#[derive(Clone, Copy, Debug)]
pub struct QMean {
    /// What it reads.
    pub x: Codes,
    /// What it writes.
    pub y: Codes,
    /// The first of the axes, as they lie in memory.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// Whether they stay, as 1.
    pub keep: bool,
}

impl QMean {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let tensor = required(inputs, 0)?;
        let (x, s) = (self.x.read(tensor)?, tensor.shape());
        let end = self.first + self.count;
        if end > s.len() {
            return Err(OpError::invalid(format!("cannot reduce axes {}..{end} of shape {s:?}", self.first)));
        }
        let (before, reduced, after) = (&s[..self.first], &s[self.first..end], &s[end..]);
        let sizes = [before, reduced, after].map(|sizes| sizes.iter().product());
        let kept = if self.keep { vec![1; self.count] } else { Vec::new() };
        let shape = [before, &kept, after].concat();
        let (a, b) = (self.x, self.y);
        let scales = [a.affine.scale, b.affine.scale];
        written(b, &shape, env, |out, env| {
            pooling::mean(env.isa, x, a.signed, a.affine.zero_point, sizes, scales, b.out(), out, env.threads)
        })
    }
}
