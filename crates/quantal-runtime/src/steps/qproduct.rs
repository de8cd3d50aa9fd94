//! Matrix products of 8-bit codes: by a constant matrix packed once, or of two run-time tensors.

use super::Env;
use super::codes::{Codes, End, refused};
use super::product::batch_shape;
use crate::ops::strides::contiguous;
use crate::ops::{Inputs, OpError, optional, required};
use quantal_kernels::gemm::{BatchCall, Dim, Epilogue, GemmCall, batch as batch_product, gemm};
use quantal_kernels::pack::{BView, PackedB};
use quantal_tensor::tensor::element_count;
use quantal_tensor::{DType, Tensor};
use std::fmt;
use std::sync::Arc;

/// `x · B` for constant codes B `[k, n]`; x is `[…, k]`.
pub struct QProduct {
    /// What it reads.
    pub x: Codes,
    /// The weights.
    pub b: Arc<PackedB>,
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
    /// Multiplies; `under` is the input that the result is [written over](End::under).
    pub(crate) fn run(&self, under: Option<Tensor>, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let tensor = required(inputs, 0)?;
        let (a, k, n) = (self.x.read(tensor)?, self.b.k(), self.b.n());
        let wrong = || OpError::invalid(format!("cannot multiply shape {:?} by [{k}, {n}]", tensor.shape()));
        let Some((&last, lead)) = tensor.shape().split_last() else { return Err(wrong()) };
        let m = element_count(lead).filter(|_| last == k).ok_or_else(wrong)?;
        let mut shape = lead.to_vec();
        shape.push(n);
        let (a_signed, a_zero_point, b_zero_points) = (self.x.signed, self.x.affine.zero_point, &self.b_zero_points);
        self.end.finish(self.bias.as_deref(), optional(inputs, 1), &shape, under, env, |epilogue, env| {
            let b = &self.b;
            gemm(GemmCall { a, a_signed, a_zero_point, m, row_stride: k, b, b_zero_points, epilogue }, env.threads)
        })
    }
}

/// A product of two run-time tensors of codes of at least two dimensions, each perhaps transposed on the way: such moves
/// become strides.
#[derive(Debug)]
pub struct QMatMul {
    /// The left one.
    pub a: Codes,
    /// The right one.
    pub b: Codes,
    /// How the axes of a are read, as Transpose has it; the last one stays last.
    pub a_perm: Option<Vec<usize>>,
    /// How the axes of b are read.
    pub b_perm: Option<Vec<usize>>,
    /// How the axes of the result are written; the last one stays last.
    pub y_perm: Option<Vec<usize>>,
    /// The result, and arith (3); `None` for floats.
    pub y: Option<(Codes, f32)>,
    /// What one step of the accumulator stands for: `s_a · s_b`, and the factor that follows.
    pub scale: f32,
}

/// Dimensions and strides of a tensor as its axes are read.
struct View {
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl View {
    fn new(shape: &[usize], perm: Option<&[usize]>) -> Result<Self, OpError> {
        let strides: Vec<usize> = contiguous(shape).into_iter().map(isize::cast_unsigned).collect();
        let Some(perm) = perm else { return Ok(Self { shape: shape.to_vec(), strides }) };
        if perm.len() != shape.len() || perm.iter().any(|&p| p >= shape.len()) {
            return Err(OpError::invalid(format!("cannot transpose shape {shape:?} by {perm:?}")));
        }
        Ok(Self {
            shape: perm.iter().map(|&p| shape[p]).collect(),
            strides: perm.iter().map(|&p| strides[p]).collect(),
        })
    }

    /// Elements from one index to the next along axis `i` of a batch of `rank` dimensions; 0 where it is broadcast.
    fn step(&self, i: usize, rank: usize) -> usize {
        let own = (i + self.shape.len()).checked_sub(rank + 2);
        own.filter(|&j| self.shape[j] != 1).map_or(0, |j| self.strides[j])
    }
}

impl QMatMul {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let (x, w) = (required(inputs, 0)?, required(inputs, 1)?);
        let (a, b) = (self.a.read(x)?, self.b.read(w)?);
        let (va, vb) = (View::new(x.shape(), self.a_perm.as_deref())?, View::new(w.shape(), self.b_perm.as_deref())?);
        let (batch, [m, k, n]) = batch_shape(&va.shape, &vb.shape)?;
        let lead = batch.len();
        let result: Vec<usize> = batch.iter().copied().chain([m, n]).collect();
        let shape: Vec<usize> = match &self.y_perm {
            None => result,
            Some(perm) if perm.len() == lead + 2 => perm.iter().map(|&p| result[p]).collect(),
            Some(perm) => return Err(OpError::invalid(format!("cannot transpose shape {result:?} by {perm:?}"))),
        };
        // Where each axis of the result goes is the inverse of where each of the output comes from.
        let inverse = self.y_perm.as_ref().map(|perm| {
            let mut inverse = vec![0; perm.len()];
            perm.iter().enumerate().for_each(|(j, &p)| inverse[p] = j);
            inverse
        });
        let vy = View::new(&shape, inverse.as_deref())?;
        let mut y = env.pool.tensor(self.y.map_or(DType::F32, |y| y.0.dtype()), &shape)?;
        if y.is_empty() {
            return Ok(y);
        }
        let dim = |i: usize| Dim { count: batch[i], a: va.step(i, lead), b: vb.step(i, lead), out: vy.strides[i] };
        let dims: Vec<Dim> = (0..lead).map(dim).collect();
        let ldc = if m == 1 { n } else { vy.strides[lead] };
        let epilogue = match &self.y {
            None => Epilogue::F32 {
                bias: None,
                scale: std::slice::from_ref(&self.scale),
                bias_f32: None,
                out: y.as_mut_slice::<f32>()?,
                ldc,
            },
            Some((codes, multiplier)) => Epilogue::Codes {
                bias: None,
                multiplier: std::slice::from_ref(multiplier),
                zero_point: codes.affine.zero_point,
                qmin: codes.affine.qmin,
                qmax: codes.affine.qmax,
                add: None,
                table: None,
                out: codes.write(&mut y)?,
                ldc,
            },
        };
        let [b_k, b_n] = [vb.strides[vb.strides.len() - 2], vb.strides[vb.strides.len() - 1]];
        let call = BatchCall {
            isa: env.isa,
            a,
            a_signed: self.a.signed,
            a_zero_point: self.a.affine.zero_point,
            a_stride: va.strides[va.strides.len() - 2],
            m,
            b: BView { bytes: b, signed: self.b.signed, k, n, stride_k: b_k, stride_n: b_n },
            b_zero_point: self.b.affine.zero_point,
            dims: &dims,
            epilogue,
        };
        batch_product(call, env.threads).map_err(refused)?;
        Ok(y)
    }
}
