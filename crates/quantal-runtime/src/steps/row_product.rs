//! Dynamic quantization by rows, and products of such rows by constant codes.

use super::Env;
use super::codes::refused;
use crate::ops::{Inputs, OpError, required};
use quantal_ir::Op;
use quantal_kernels::gemm::{Epilogue, GemmCall, gemm};
use quantal_kernels::pack::PackedB;
use quantal_kernels::row_quantize::{quantize_rows, scale_rows};
use quantal_tensor::tensor::element_count;
use quantal_tensor::{DType, Tensor};
use std::fmt;
use std::sync::Arc;

/// The zero point of the codes of rows.
const MIDDLE: i32 = 128;

/// The codes of `[…, k]` floats and the scale of each row, `[…, 1]`: arith (11).
pub(crate) fn quantize(inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Vec<Tensor>, OpError> {
    let x = required(inputs, 0)?;
    let values = x.get::<f32>().ok_or_else(|| OpError::dtype(Op::QuantizeLinear, x.dtype()))?;
    let Some((&columns, lead)) = x.shape().split_last() else {
        return Err(OpError::invalid("cannot quantize one number by rows"));
    };
    let narrow: Vec<usize> = lead.iter().copied().chain([1]).collect();
    let (mut codes, mut scales) = (env.pool.tensor(DType::U8, x.shape())?, env.pool.tensor(DType::F32, &narrow)?);
    let (q, s) = (codes.as_mut_slice()?, scales.as_mut_slice()?);
    quantize_rows(env.isa, values, columns, s, q, env.threads).map_err(refused)?;
    Ok(vec![codes, scales])
}

/// `(codes · B) · s_w · s + bias` for rows of codes and their scales; s8 weights around 0.
pub struct RowProduct {
    /// The weights.
    pub b: Arc<PackedB>,
    /// One, or one for each column.
    pub scale: Vec<f32>,
    /// One for each column.
    pub bias: Option<Vec<f32>>,
}

impl fmt::Debug for RowProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowProduct").field("k", &self.b.k()).field("n", &self.b.n()).finish_non_exhaustive()
    }
}

impl RowProduct {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let (codes, scales) = (required(inputs, 0)?, required(inputs, 1)?);
        let (k, n) = (self.b.k(), self.b.n());
        let wrong = || OpError::invalid(format!("cannot multiply shape {:?} by [{k}, {n}]", codes.shape()));
        let (Some((&last, lead)), Some(a), Some(s)) =
            (codes.shape().split_last(), codes.get::<u8>(), scales.get::<f32>())
        else {
            return Err(wrong());
        };
        let m = element_count(lead).filter(|&m| last == k && s.len() == m).ok_or_else(wrong)?;
        let shape: Vec<usize> = lead.iter().copied().chain([n]).collect();
        let mut y = env.pool.tensor(DType::F32, &shape)?;
        let out = y.as_mut_slice::<f32>()?;
        let epilogue = Epilogue::F32 { bias: None, scale: &self.scale, bias_f32: None, out, ldc: n };
        let call = GemmCall {
            a,
            a_signed: false,
            a_zero_point: MIDDLE,
            m,
            row_stride: k,
            b: &self.b,
            b_zero_points: &[],
            epilogue,
        };
        gemm(call, env.threads).map_err(refused)?;
        scale_rows(env.isa, y.as_mut_slice()?, n, s, self.bias.as_deref(), env.threads).map_err(refused)?;
        Ok(y)
    }
}
