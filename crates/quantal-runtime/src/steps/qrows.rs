//! Softmax and normalization of codes along the last axis.

use super::Env;
use super::codes::{Codes, written};
use crate::ops::strides::{broadcast_shape, broadcast_strides, copy_view};
use crate::ops::{Inputs, OpError, optional, required};
use quantal_ir::Op;
use quantal_kernels::eltwise::Operand;
use quantal_kernels::layer_norm::{LayerNorm, layer_norm};
use quantal_kernels::softmax::{Mask, softmax};
use quantal_tensor::tensor::element_count;
use quantal_tensor::{DType, Tensor, arith};
use std::fmt;

/// Softmax over the last axis, arith (8).
#[derive(Debug)]
pub struct QSoftmax {
    /// What it reads.
    pub x: Codes,
    /// What it writes.
    pub y: Codes,
    /// `arith::softmax_table` of the input's scale, or `arith::softmax_mask_table` where a mask of floats is added.
    pub table: Vec<u32>,
    /// Whether the second input is a mask, in floats, which broadcasts with the codes.
    pub masked: bool,
}

impl QSoftmax {
    /// For these encodings, without a mask.
    pub fn new(x: Codes, y: Codes) -> Self {
        Self { x, y, table: arith::softmax_table(x.affine.scale).to_vec(), masked: false }
    }

    /// With a mask; `None` if the scale of x is too small for a table.
    pub fn masked(x: Codes, y: Codes) -> Option<Self> {
        Some(Self { x, y, table: arith::softmax_mask_table(x.affine.scale)?, masked: true })
    }

    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let tensor = required(inputs, 0)?;
        let (a, b) = (self.x, self.y);
        let x = a.read(tensor)?;
        if !self.masked {
            let cols = tensor.shape().last().copied().unwrap_or(1);
            return written(b, tensor.shape(), env, |out, env| {
                softmax(env.isa, &self.table, x, a.signed, None, cols, b.affine.scale, b.out(), out, env.threads)
            });
        }
        let mask = optional(inputs, 1).ok_or_else(|| OpError::invalid("the mask is missing"))?;
        let shape = broadcast_shape(&[tensor.shape(), mask.shape()])?;
        let (cols, lead) = (shape.last().copied().unwrap_or(1), shape.len().saturating_sub(1));
        let spread;
        let x = if tensor.shape() == shape {
            x
        } else {
            let mut y = env.pool.tensor(DType::U8, &shape)?;
            copy_view(x, 0, &shape, &broadcast_strides(tensor.shape(), &shape), y.as_mut_slice::<u8>()?);
            spread = y;
            spread.bytes()
        };
        let values = mask.get::<f32>().ok_or_else(|| OpError::dtype(Op::Softmax, mask.dtype()))?;
        let term = |m: &f32| arith::softmax_mask(*m, a.affine.scale);
        // A mask that is the same for all columns stands for as many.
        let repeat = if mask.shape().last() == Some(&cols) { 1 } else { cols };
        let terms: Vec<i32> = values.iter().flat_map(|m| std::iter::repeat_n(term(m), repeat)).collect();
        let row_shape = mask.shape().split_last().map_or(&[][..], |s| s.1);
        let strides = broadcast_strides(row_shape, &shape[..lead]);
        let count = element_count(&shape[..lead]).unwrap_or(0);
        let own: Vec<u32> = (0..element_count(row_shape).unwrap_or(0) as u32).collect();
        let mut rows = vec![0; count];
        copy_view(&own, 0, &shape[..lead], &strides, &mut rows);
        let mask = Some(Mask { terms: &terms, rows: &rows });
        written(b, &shape, env, |out, env| {
            softmax(env.isa, &self.table, x, a.signed, mask, cols, b.affine.scale, b.out(), out, env.threads)
        })
    }
}

/// Layer or RMS normalization of the last axis, arith (10).
pub struct QNorm {
    /// What it reads.
    pub x: Codes,
    /// What it writes.
    pub y: Codes,
    /// `γ / s_y` of each column.
    pub factor: Vec<f32>,
    /// `β / s_y` of each column.
    pub addend: Vec<f32>,
    /// Added to the mean square.
    pub epsilon: f32,
    /// Whether the mean stays.
    pub rms: bool,
}

impl fmt::Debug for QNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QNorm").field("x", &self.x).field("y", &self.y).finish_non_exhaustive()
    }
}

impl QNorm {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let tensor = required(inputs, 0)?;
        let codes = self.x.read(tensor)?;
        if tensor.shape().last() != Some(&self.factor.len()) {
            let text = format!("cannot normalize rows of {} values of shape {:?}", self.factor.len(), tensor.shape());
            return Err(OpError::Invalid(text));
        }
        let (x, y) = (self.x, self.y);
        let operand = Operand { codes, signed: x.signed, zero_point: x.affine.zero_point };
        let norm = LayerNorm {
            scale_x: x.affine.scale,
            factor: &self.factor,
            addend: &self.addend,
            epsilon: self.epsilon,
            rms: self.rms,
        };
        written(y, tensor.shape(), env, |out, env| layer_norm(env.isa, operand, norm, y.out(), out, env.threads))
    }
}
