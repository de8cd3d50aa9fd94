//! PRelu of codes with a slope for each column.

use super::Env;
use super::codes::{Codes, written};
use crate::ops::{Inputs, OpError, required};
use quantal_kernels::prelu::{PRelu, prelu};
use quantal_tensor::Tensor;
use std::fmt;

/// PRelu of a tensor that is rows of as many codes as there are slopes.
pub struct QPRelu {
    /// What it reads.
    pub x: Codes,
    /// What it writes.
    pub y: Codes,
    /// The multiplier of positive values, arith (3).
    pub positive: f32,
    /// The multiplier of negative values for each column of a row.
    pub negative: Vec<f32>,
}

impl fmt::Debug for QPRelu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QPRelu").field("x", &self.x).field("y", &self.y).finish_non_exhaustive()
    }
}

impl QPRelu {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let tensor = required(inputs, 0)?;
        let call = PRelu {
            x: self.x.read(tensor)?,
            signed: self.x.signed,
            zero_point: self.x.affine.zero_point,
            positive: self.positive,
            negative: &self.negative,
        };
        written(self.y, tensor.shape(), env, |out, env| prelu(env.isa, call, self.y.out(), out, env.threads))
    }
}
