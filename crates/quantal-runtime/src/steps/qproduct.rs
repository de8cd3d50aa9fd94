//! Matrix products of 8-bit codes: by a constant matrix packed once, or of two run-time tensors.

use super::Env;
use super::codes::{Codes, End, refused};
use super::product::{batch_shape, matrix_index};
use crate::ops::{Inputs, OpError, optional, required};
use quantal_kernels::gemm::{Epilogue, GemmCall, gemm};
use quantal_kernels::pack::{BView, PackedB};
use quantal_tensor::tensor::element_count;
use quantal_tensor::{DType, Tensor};
use std::fmt;

/// `x · B` for constant codes B `[k, n]`; x is `[…, k]`.
pub struct QProduct {
    /// What it reads.
    pub x: Codes,
    /// The weights.
    pub b: PackedB,
    /// Zero points of the weights: none if all are 0, one, or one for each column.
    pub b_zero_points: Vec<i32>,
    /// In units of the accumulator.
    pub bias: Option<Vec<i32>>,
    /// What becomes of the sums. The step reads x and, if an addition was fused, the other tensor.
    pub end: End,
}

impl fmt::Debug for QProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QProduct").field("x", &self.x).field("end", &self.end).finish_non_exhaustive()
    }
}

impl QProduct {
    /// Multiplies.
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let tensor = required(inputs, 0)?;
        let (a, k, n) = (self.x.read(tensor)?, self.b.k(), self.b.n());
        let wrong = || OpError::invalid(format!("cannot multiply shape {:?} by [{k}, {n}]", tensor.shape()));
        let Some((&last, lead)) = tensor.shape().split_last() else { return Err(wrong()) };
        let m = element_count(lead).filter(|_| last == k).ok_or_else(wrong)?;
        let mut shape = lead.to_vec();
        shape.push(n);
        let (a_signed, a_zero_point, b_zero_points) = (self.x.signed, self.x.affine.zero_point, &self.b_zero_points);
        self.end.finish(self.bias.as_deref(), optional(inputs, 1), &shape, env, |epilogue, env| {
            let b = &self.b;
            gemm(GemmCall { a, a_signed, a_zero_point, m, row_stride: k, b, b_zero_points, epilogue }, env.threads)
        })
    }
}

/// A product of two run-time tensors of codes of at least two dimensions.
#[derive(Debug)]
pub struct QMatMul {
    /// The left one.
    pub a: Codes,
    /// The right one.
    pub b: Codes,
    /// The result, and arith (3); `None` for floats at scale `s_a · s_b`.
    pub y: Option<(Codes, f32)>,
}

impl QMatMul {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let (x, w) = (required(inputs, 0)?, required(inputs, 1)?);
        let (a, b) = (self.a.read(x)?, self.b.read(w)?);
        let (mut shape, [m, k, n]) = batch_shape(x.shape(), w.shape())?;
        let batch = shape.clone();
        shape.extend([m, n]);
        let dtype = self.y.map_or(DType::F32, |y| y.0.dtype());
        let mut y = env.pool.tensor(dtype, &shape)?;
        if y.is_empty() {
            return Ok(y);
        }
        let (a_lead, b_lead) = (&x.shape()[..x.rank() - 2], &w.shape()[..w.rank() - 2]);
        let (mut packed, mut packed_at) = (PackedB::empty(env.isa), None);
        let (float_scale, matrices) = ([self.a.affine.scale * self.b.affine.scale], batch.iter().product());
        for i in 0..matrices {
            let (ia, ib) = (matrix_index(i, &batch, a_lead), matrix_index(i, &batch, b_lead));
            if packed_at != Some(ib) {
                packed.repack(&BView::new(&b[ib * k * n..][..k * n], self.b.signed, k, n)).map_err(refused)?;
                packed_at = Some(ib);
            }
            let at = i * m * n..(i + 1) * m * n;
            let epilogue = match &self.y {
                None => Epilogue::F32 {
                    bias: None,
                    scale: &float_scale,
                    bias_f32: None,
                    out: &mut y.as_mut_slice::<f32>()?[at],
                    ldc: n,
                },
                Some((codes, multiplier)) => Epilogue::Codes {
                    bias: None,
                    multiplier: std::slice::from_ref(multiplier),
                    zero_point: codes.affine.zero_point,
                    qmin: codes.affine.qmin,
                    qmax: codes.affine.qmax,
                    add: None,
                    table: None,
                    out: &mut codes.write(&mut y)?[at],
                    ldc: n,
                },
            };
            let call = GemmCall {
                a: &a[ia * m * k..][..m * k],
                a_signed: self.a.signed,
                a_zero_point: self.a.affine.zero_point,
                m,
                row_stride: k,
                b: &packed,
                b_zero_points: &[self.b.affine.zero_point],
                epilogue,
            };
            gemm(call, env.threads).map_err(refused)?;
        }
        Ok(y)
    }
}
