//! Between floats and codes.

use super::Env;
use super::codes::{Codes, refused, written};
use crate::layout::{Layout, moved};
use crate::ops::{Inputs, OpError, required};
use quantal_ir::Op;
use quantal_kernels::quantize;
use quantal_tensor::{DType, Tensor};

/// One of the two directions, by arith (1) or (2), for one scale.
#[derive(Clone, Copy, Debug)]
pub enum Edge {
    /// Floats to codes.
    Quantize(Codes),
    /// The same, from the standard layout to channels-last.
    QuantizeMoved(Codes),
    /// Codes to floats.
    Dequantize(Codes),
}

impl Edge {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let x = required(inputs, 0)?;
        match self {
            Self::Quantize(codes) => {
                let values = x.get::<f32>().ok_or_else(|| OpError::dtype(Op::QuantizeLinear, x.dtype()))?;
                let (scale, out_codes) = (codes.affine.scale, codes.out());
                written(*codes, x.shape(), env, |out, env| {
                    quantize::quantize(env.isa, values, scale, out_codes, out, env.threads)
                })
            }
            Self::QuantizeMoved(codes) => {
                let values = x.get::<f32>().ok_or_else(|| OpError::dtype(Op::QuantizeLinear, x.dtype()))?;
                let (&[batch, channels, ref image @ ..], true) = (x.shape(), x.rank() >= 3) else {
                    return Self::Quantize(*codes).run(inputs, env);
                };
                if channels > quantize::MAX_INTERLEAVED {
                    let y = Self::Quantize(*codes).run(inputs, env)?;
                    let to = moved(&y, Layout::ChannelsLast, env.pool, env.threads)?;
                    env.pool.count(&y);
                    env.pool.give_back(y);
                    return Ok(to);
                }
                let size = [batch, channels, image.iter().product()];
                let (scale, out_codes) = (codes.affine.scale, codes.out());
                written(*codes, &Layout::ChannelsLast.physical(x.shape()), env, |out, env| {
                    quantize::quantize_interleaved(env.isa, values, size, scale, out_codes, out, env.threads)
                })
            }
            Self::Dequantize(codes) => {
                let bytes = codes.read(x)?;
                let mut y = env.pool.tensor(DType::F32, x.shape())?;
                let (scale, zero_point) = (codes.affine.scale, codes.affine.zero_point);
                let out = y.as_mut_slice::<f32>()?;
                quantize::dequantize(env.isa, bytes, codes.signed, scale, zero_point, out, env.threads)
                    .map_err(refused)?;
                Ok(y)
            }
        }
    }
}
