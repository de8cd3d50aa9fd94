//! Softmax and normalization of the last axes, in f32.

use super::Env;
use crate::ops::OpError;
use quantal_ir::Op;
use quantal_kernels::float::{LayerNorm, layer_norm, softmax};
use quantal_tensor::{DType, Tensor};

/// What is done to each row.
#[derive(Clone, Debug)]
pub enum Rows {
    /// Softmax of the last axis.
    Softmax {
        /// Its logarithm.
        log: bool,
    },
    /// Layer or RMS normalization of the last `axes` axes.
    Norm {
        /// How many.
        axes: usize,
        /// A factor per element of a row.
        scale: Option<Vec<f32>>,
        /// An addend per element of a row.
        bias: Option<Vec<f32>>,
        /// Added to the mean square.
        epsilon: f32,
        /// Whether the mean stays.
        rms: bool,
    },
}

impl Rows {
    /// Applies it.
    pub(crate) fn run(&self, x: &Tensor, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let values = x.get::<f32>().ok_or_else(|| OpError::dtype(Op::Softmax, x.dtype()))?;
        let mut y = env.pool.tensor(DType::F32, x.shape())?;
        let out = y.as_mut_slice::<f32>()?;
        if values.is_empty() {
            return Ok(y);
        }
        let wrong = |n: usize| OpError::invalid(format!("cannot apply rows of {n} values to shape {:?}", x.shape()));
        match self {
            Self::Softmax { log } => {
                let columns = x.shape().last().copied().unwrap_or(1);
                softmax(env.isa, values, columns, *log, out, env.threads);
            }
            Self::Norm { axes, scale, bias, epsilon, rms } => {
                let lead = x.rank().checked_sub(*axes).ok_or_else(|| wrong(*axes))?;
                let columns = x.shape()[lead..].iter().product();
                if [scale, bias].into_iter().flatten().any(|v| v.len() != columns) {
                    return Err(wrong(scale.as_ref().map_or(0, Vec::len)));
                }
                let (scale, bias) = (scale.as_deref(), bias.as_deref());
                let norm = LayerNorm { scale, bias, epsilon: *epsilon, rms: *rms };
                layer_norm(env.isa, values, columns, norm, out, env.threads);
            }
        }
        Ok(y)
    }
}
