//! Matrix products in f32: by a constant matrix packed once, or of two run-time tensors.

use super::Env;
use super::codes::refused;
use super::tail::Tail;
use crate::ops::{Inputs, OpError, optional, required};
use crate::packings::Packings;
use quantal_ir::Op;
use quantal_kernels::float::{AView, BView, Epilogue, PackedB, gemm};
use quantal_tensor::tensor::element_count;
use quantal_tensor::{DType, Tensor};
use std::fmt;
use std::sync::Arc;

/// `x · B + bias …` for a constant matrix B `[k, n]`; x is `[…, k]`, or `[k, m]` if it is given transposed.
pub struct Product {
    b: Arc<PackedB>,
    /// Whether x is `[k, m]`.
    pub transposed: bool,
    /// What follows the sum. The step reads x and, if the tail says so, a residual.
    pub tail: Tail,
}

impl fmt::Debug for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Product").field("tail", &self.tail).finish_non_exhaustive()
    }
}

impl Product {
    /// Packs `b`, given as `[k, n]`, or as `[n, k]` if `b_transposed`, its elements times `factor`.
    pub(crate) fn new(
        packings: &Packings,
        b: &Arc<Tensor>,
        b_transposed: bool,
        factor: f32,
        transposed: bool,
    ) -> Result<Self, OpError> {
        let wrong =
            || OpError::invalid(format!("a matrix of float32 is needed, found {} of {:?}", b.dtype(), b.shape()));
        let (&[rows, columns], Some(data)) = (b.shape(), b.get::<f32>()) else { return Err(wrong()) };
        let (k, n) = if b_transposed { (columns, rows) } else { (rows, columns) };
        let (stride_k, stride_n) = if b_transposed { (1, columns) } else { (columns, 1) };
        let b = packings.get(b, &(b_transposed, factor.to_bits()), || {
            let scaled: Tensor;
            let data = if factor == 1.0 {
                data
            } else {
                let mut copy = Tensor::zeros(DType::F32, &[data.len()])?;
                copy.as_mut_slice::<f32>()?.iter_mut().zip(data).for_each(|(to, v)| *to = v * factor);
                scaled = copy;
                scaled.as_slice()
            };
            PackedB::pack(BView { data, k, n, stride_k, stride_n }).map_err(refused)
        })?;
        Ok(Self { b, transposed, tail: Tail::default() })
    }

    /// Depth of the sum.
    pub fn k(&self) -> usize {
        self.b.k()
    }

    /// Columns of the result.
    pub fn n(&self) -> usize {
        self.b.n()
    }

    /// Multiplies.
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let x = required(inputs, 0)?;
        let (k, n) = (self.b.k(), self.b.n());
        let data = x.get::<f32>().ok_or_else(|| OpError::dtype(Op::MatMul, x.dtype()))?;
        let wrong = || OpError::invalid(format!("cannot multiply shape {:?} by [{k}, {n}]", x.shape()));
        let (a, mut shape) = match x.shape() {
            &[rows, m] if self.transposed && rows == k => (AView { data, m, row_stride: 1, col_stride: m }, vec![m]),
            [lead @ .., last] if !self.transposed && *last == k => {
                let m = element_count(lead).ok_or_else(wrong)?;
                (AView { data, m, row_stride: k, col_stride: 1 }, lead.to_vec())
            }
            _ => return Err(wrong()),
        };
        shape.push(n);
        let mut y = env.pool.tensor(DType::F32, &shape)?;
        let epilogue = self.tail.epilogue(optional(inputs, 1), &shape, n)?;
        gemm(env.isa, a, &self.b, &epilogue, y.as_mut_slice()?, n, env.threads);
        Ok(y)
    }
}

/// MatMul of two run-time tensors of at least two dimensions.
pub(crate) fn matmul(inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
    let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
    let (Some(x), Some(w)) = (a.get::<f32>(), b.get::<f32>()) else {
        return Err(OpError::dtype(Op::MatMul, b.dtype()));
    };
    let (mut shape, [m, k, n]) = batch_shape(a.shape(), b.shape())?;
    let (a_lead, b_lead) = (&a.shape()[..a.rank() - 2], &b.shape()[..b.rank() - 2]);
    let batch = shape.clone();
    shape.extend([m, n]);
    let mut y = env.pool.tensor(DType::F32, &shape)?;
    if y.is_empty() {
        return Ok(y);
    }
    let out = y.as_mut_slice::<f32>()?;
    let (mut packed, mut packed_at) = (PackedB::default(), None);
    for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
        let (ia, ib) = (matrix_index(i, &batch, a_lead), matrix_index(i, &batch, b_lead));
        if packed_at != Some(ib) {
            let data = w.get(ib * k * n..).unwrap_or_default();
            packed.repack(BView { data, k, n, stride_k: n, stride_n: 1 }).map_err(refused)?;
            packed_at = Some(ib);
        }
        let view = AView { data: x.get(ia * m * k..).unwrap_or_default(), m, row_stride: k, col_stride: 1 };
        gemm(env.isa, view, &packed, &Epilogue::NONE, out, n, env.threads);
    }
    Ok(y)
}

/// The leading dimensions of a product of matrices `[…, m, k]` and `[…, k, n]`, broadcast, and m, k and n.
pub(crate) fn batch_shape(a: &[usize], b: &[usize]) -> Result<(Vec<usize>, [usize; 3]), OpError> {
    let wrong = || OpError::invalid(format!("cannot multiply shapes {a:?} and {b:?}"));
    let ([a_lead @ .., m, k], [b_lead @ .., k_b, n]) = (a, b) else { return Err(wrong()) };
    if k != k_b {
        return Err(wrong());
    }
    let rank = a_lead.len().max(b_lead.len());
    let mut shape = Vec::with_capacity(rank + 2);
    for i in 0..rank {
        let dim = |lead: &[usize]| (i + lead.len()).checked_sub(rank).map_or(1, |j| lead[j]);
        shape.push(match (dim(a_lead), dim(b_lead)) {
            (p, q) if p == q || q == 1 => p,
            (1, q) => q,
            _ => return Err(wrong()),
        });
    }
    Ok((shape, [*m, *k, *n]))
}

/// Which matrix of an operand with leading dimensions `lead` belongs to matrix `i` of the batch.
pub(crate) fn matrix_index(mut i: usize, batch: &[usize], lead: &[usize]) -> usize {
    let (mut index, mut stride) = (0, 1);
    for (j, &size) in batch.iter().enumerate().rev() {
        let at = i % size;
        i /= size;
        if let Some(&own) = (j + lead.len()).checked_sub(batch.len()).and_then(|d| lead.get(d)) {
            if own != 1 {
                index += at * stride;
            }
            stride *= own;
        }
    }
    index
}
