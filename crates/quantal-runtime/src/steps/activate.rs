//! Functions of each element in f32, in any layout; in place where nobody reads the input again.

use super::Env;
use crate::ops::OpError;
use quantal_kernels::float::{Unary, unary, unary_in_place};
use quantal_tensor::{DType, Tensor};

/// What is done to each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// A function.
    Unary(Unary),
    /// Held to a range; NaN stays NaN.
    Clamp(f32, f32),
}

impl Function {
    /// Applies it to a tensor that nobody else needs.
    pub(crate) fn run_in_place(self, mut x: Tensor, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        if x.dtype() != DType::F32 {
            return Err(OpError::invalid(format!("expects float32, found {}", x.dtype())));
        }
        let values = x.as_mut_slice::<f32>()?;
        match self {
            Self::Unary(function) => unary_in_place(env.isa, function, values, env.threads),
            Self::Clamp(low, high) => values.iter_mut().for_each(|v| *v = clamp(*v, low, high)),
        }
        Ok(x)
    }

    /// Applies it to a copy.
    pub(crate) fn run(self, x: &Tensor, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let values = x.get::<f32>().ok_or_else(|| OpError::invalid(format!("expects float32, found {}", x.dtype())))?;
        let mut y = env.pool.tensor(DType::F32, x.shape())?;
        let out = y.as_mut_slice::<f32>()?;
        match self {
            Self::Unary(function) => unary(env.isa, function, values, out, env.threads),
            Self::Clamp(low, high) => out.iter_mut().zip(values).for_each(|(o, v)| *o = clamp(*v, low, high)),
        }
        Ok(y)
    }
}

/// NaN stays: a comparison with it is false.
fn clamp(v: f32, low: f32, high: f32) -> f32 {
    let v = if v < low { low } else { v };
    if v > high { high } else { v }
}
