//! Products of 8-bit codes by a stack of constant matrices, each packed once.

use super::Env;
use super::codes::{Codes, refused};
use super::product::{batch_shape, matrix_index};
use crate::ops::{Inputs, OpError, required};
use quantal_kernels::gemm::{Epilogue, GemmCall, gemm};
use quantal_kernels::pack::PackedB;
use quantal_tensor::{DType, Tensor};
use std::fmt;
use std::sync::Arc;

/// `x · B` for constant codes B `[…, k, n]`, with the leading dimensions broadcast; x is `[…, m, k]`.
pub struct QStack {
    /// What it reads.
    pub x: Codes,
    /// The leading dimensions of the weights.
    pub lead: Vec<usize>,
    /// The matrices, the last of the leading dimensions fastest.
    pub matrices: Vec<Arc<PackedB>>,
    /// Zero points of the weights: none if all are 0, one, or one for each column.
    pub b_zero_points: Vec<i32>,
    /// In units of the accumulator.
    pub bias: Option<Vec<i32>>,
    /// The result, and arith (3) for each column or for all; `None` for floats.
    pub y: Option<(Codes, Vec<f32>)>,
    /// What one step of the accumulator stands for, one or one for each column.
    pub scale: Vec<f32>,
}

impl fmt::Debug for QStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QStack").field("x", &self.x).field("lead", &self.lead).finish_non_exhaustive()
    }
}

impl QStack {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let tensor = required(inputs, 0)?;
        let a = self.x.read(tensor)?;
        let Some(first) = self.matrices.first() else { return Err(OpError::invalid("a stack of no matrices")) };
        let weights: Vec<usize> = self.lead.iter().copied().chain([first.k(), first.n()]).collect();
        let (batch, [m, k, n]) = batch_shape(tensor.shape(), &weights)?;
        let shape: Vec<usize> = batch.iter().copied().chain([m, n]).collect();
        let mut y = env.pool.tensor(self.y.as_ref().map_or(DType::F32, |y| y.0.dtype()), &shape)?;
        if y.is_empty() {
            return Ok(y);
        }

        let a_lead = &tensor.shape()[..tensor.rank() - 2];
        for i in 0..batch.iter().product() {
            let (from, to) = (matrix_index(i, &batch, a_lead) * m * k, i * m * n);
            let b = &self.matrices[matrix_index(i, &batch, &self.lead)];
            let bias = self.bias.as_deref();
            let epilogue = match &self.y {
                None => {
                    let out = &mut y.as_mut_slice::<f32>()?[to..][..m * n];
                    Epilogue::F32 { bias, scale: &self.scale, bias_f32: None, out, ldc: n }
                }
                Some((codes, multiplier)) => Epilogue::Codes {
                    bias,
                    multiplier,
                    zero_point: codes.affine.zero_point,
                    qmin: codes.affine.qmin,
                    qmax: codes.affine.qmax,
                    add: None,
                    table: None,
                    out: &mut codes.write(&mut y)?[to..][..m * n],
                    ldc: n,
                },
            };
            let call = GemmCall {
                a: &a[from..][..m * k],
                a_signed: self.x.signed,
                a_zero_point: self.x.affine.zero_point,
                m,
                row_stride: k,
                b,
                b_zero_points: &self.b_zero_points,
                epilogue,
            };
            gemm(call, env.threads).map_err(refused)?;
        }
        Ok(y)
    }
}
