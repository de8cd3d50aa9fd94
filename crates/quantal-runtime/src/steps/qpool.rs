//! Pooling and means of codes, channels-last.

use super::Env;
use super::codes::{Codes, written};
use super::pool::pool_geometry;
use crate::ops::{Inputs, OpError, required};
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

/// Pooling over one or two spatial axes.
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
        let (x, s) = (self.x.read(tensor)?, tensor.shape());
        let wrong = || OpError::invalid(format!("the window does not fit an input of shape {s:?} (channels last)"));
        let image = match (s, self.attrs.window.kernel.len()) {
            (&[n, width, c], 1) => [n, 1, width, c],
            (&[n, h, width, c], 2) => [n, h, width, c],
            _ => return Err(wrong()),
        };
        let g = pool_geometry(&self.attrs, image).ok_or_else(wrong)?;
        let shape =
            if s.len() == 3 { vec![g.batch, g.w_out, g.c_out] } else { vec![g.batch, g.h_out, g.w_out, g.c_out] };
        let (a, b) = (self.x, self.y);
        let divisor = if self.attrs.count_include_pad { Divisor::Padded } else { Divisor::Inside };
        let scales = [a.affine.scale, b.affine.scale];
        written(b, &shape, env, |out, env| match self.kind {
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
        })
    }
}

/// The mean over all axes between the first and the last of a channels-last tensor, or over the last axis.
#[derive(Clone, Copy, Debug)]
pub struct QMean {
    /// What it reads.
    pub x: Codes,
    /// What it writes.
    pub y: Codes,
    /// Whether the reduced axes stay, as 1.
    pub keep: bool,
    /// Whether the last axis is reduced instead of those between.
    pub last: bool,
}

impl QMean {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let tensor = required(inputs, 0)?;
        let (x, s) = (self.x.read(tensor)?, tensor.shape());
        let [first, between @ .., last] = s else {
            return Err(OpError::invalid(format!("cannot reduce shape {s:?}")));
        };
        let sizes = if self.last {
            [first * between.iter().product::<usize>(), *last, 1]
        } else {
            [*first, between.iter().product(), *last]
        };
        let shape: Vec<usize> = match (self.last, self.keep) {
            (true, true) => s[..s.len() - 1].iter().copied().chain([1]).collect(),
            (true, false) => s[..s.len() - 1].to_vec(),
            (false, true) => [*first].into_iter().chain(between.iter().map(|_| 1)).chain([*last]).collect(),
            (false, false) => vec![*first, *last],
        };
        let (a, b) = (self.x, self.y);
        let scales = [a.affine.scale, b.affine.scale];
        written(b, &shape, env, |out, env| {
            pooling::mean(env.isa, x, a.signed, a.affine.zero_point, sizes, scales, b.out(), out, env.threads)
        })
    }
}
