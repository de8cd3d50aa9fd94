//! MatMulInteger, QLinearMatMul and com.microsoft's QGemm: exact 32-bit accumulators, requantized as `arith (3)`.

use super::super::conv::byte_range;
use super::super::number::{self, Number};
use super::super::walk::{Walk, broadcast_strides};
use super::super::{Context, Inputs, OpError, optional, required};
use super::{Shapes, transposed};
use quantal_ir::Op;
use quantal_ir::op::gemm::GemmAttrs;
use quantal_tensor::{DType, Tensor, arith};

/// Which side of a product a tensor of parameters belongs to: a vector of them runs along the rows of the left factor
/// and along the columns of the right one.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// The shape that parameters of shape `s` have next to matrices.
fn parameter_shape(s: &[usize], side: Side) -> Vec<usize> {
    match (side, s) {
        (Side::Left, &[n]) if n != 1 => vec![n, 1],
        // A scalar may come with any number of ones.
        _ if s.iter().all(|&d| d == 1) => Vec::new(),
        _ => s.to_vec(),
    }
}

/// Codes of a factor less their zero points, in the shape `[…, rows, columns]`.
fn centred(op: Op, t: &Tensor, shape: &[usize], zero: Option<&Tensor>, side: Side) -> Result<Tensor, OpError> {
    byte_range(op, t.dtype())?;
    let mut out = number::codes(op, t)?.reshaped(shape)?;
    if let Some(zero) = zero {
        if zero.dtype() != t.dtype() {
            return Err(OpError::invalid(format!("a zero point of {} for a factor of {}", zero.dtype(), t.dtype())));
        }
        let strides = broadcast_strides("the zero point", &parameter_shape(zero.shape(), side), shape)?;
        let zeros = number::codes(op, zero)?;
        let zeros = zeros.as_slice::<i32>();
        for (v, at) in out.as_mut_slice::<i32>()?.iter_mut().zip(Walk::new(shape, &strides)) {
            *v -= zeros[at];
        }
    }
    Ok(out)
}

/// The accumulators `[batch…, m, n]` of two factors of codes.
fn accumulate(
    op: Op,
    (a, zero_a): (&Tensor, Option<&Tensor>),
    (b, zero_b): (&Tensor, Option<&Tensor>),
    context: &Context<'_>,
) -> Result<(Shapes, Tensor), OpError> {
    let shapes = Shapes::of(a.shape(), b.shape())?;
    let a = centred(op, a, &shapes.a, zero_a, Side::Left)?;
    let b = centred(op, b, &shapes.b, zero_b, Side::Right)?;
    let [m, k, n] = shapes.mkn;
    let mut acc = Tensor::zeros(DType::I32, &shapes.full)?;
    if !acc.is_empty() && k > 0 {
        let (a, b) = (a.as_slice::<i32>(), b.as_slice::<i32>());
        for ((from_a, from_b), y) in shapes.matrices()?.zip(acc.as_mut_slice::<i32>()?.chunks_exact_mut(m * n)) {
            i32::product(y, &a[from_a..][..m * k], &b[from_b..][..k * n], [m, k, n], context)?;
        }
    }
    Ok((shapes, acc))
}

/// MatMulInteger.
pub(super) fn matmul(inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Tensor, OpError> {
    let a = (required(inputs, 0)?, optional(inputs, 2));
    let b = (required(inputs, 1)?, optional(inputs, 3));
    let (shapes, acc) = accumulate(Op::MatMulInteger, a, b, context)?;
    Ok(acc.reshaped(&shapes.out)?)
}

/// QLinearMatMul.
pub(super) fn qlinear_matmul(inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Tensor, OpError> {
    let op = Op::QLinearMatMul;
    let zero = required(inputs, 7)?;
    let (qmin, qmax) = byte_range(op, zero.dtype())?;
    let a = (required(inputs, 0)?, optional(inputs, 2));
    let b = (required(inputs, 3)?, optional(inputs, 5));
    let (shapes, mut acc) = accumulate(op, a, b, context)?;
    let (t_a, t_b, t_y) = (required(inputs, 1)?, required(inputs, 4)?, required(inputs, 6)?);
    let (s_a, s_b, s_y) = (number::floats(op, t_a)?, number::floats(op, t_b)?, number::floats(op, t_y)?);
    let walk = |what, t: &Tensor, side| -> Result<Walk, OpError> {
        let strides = broadcast_strides(what, &parameter_shape(t.shape(), side), &shapes.full)?;
        Ok(Walk::new(&shapes.full, &strides))
    };
    let scales = walk("a_scale", t_a, Side::Left)?.zip(walk("b_scale", t_b, Side::Right)?);
    let zeros = number::codes(op, zero)?;
    let zeros = zeros.as_slice::<i32>();
    let out = walk("y_scale", t_y, Side::Left)?.zip(walk("y_zero_point", zero, Side::Left)?);
    for ((v, (i, j)), (y, z)) in acc.as_mut_slice::<i32>()?.iter_mut().zip(scales).zip(out) {
        *v = arith::requantize(*v, arith::multiplier(s_a[i], s_b[j], s_y[y]), zeros[z], qmin, qmax);
    }
    Ok(number::store_codes(&acc, zero.dtype())?.reshaped(&shapes.out)?)
}

/// QGemm: `alpha · A' · B' + C` with C in codes of scale `s_a · s_b`; float out where no output scale is given.
pub(super) fn qgemm(attrs: &GemmAttrs, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Tensor, OpError> {
    fn plain(what: &str, t: &Tensor, trans: bool) -> Result<Tensor, OpError> {
        if t.dtype() == DType::I8 { transposed::<i8>(what, t, trans) } else { transposed::<u8>(what, t, trans) }
    }
    let op = Op::QGemm;
    let (a, b) = (required(inputs, 0)?, required(inputs, 3)?);
    byte_range(op, a.dtype()).and(byte_range(op, b.dtype()))?;
    let (a, b) = (plain("A", a, attrs.trans_a)?, plain("B", b, attrs.trans_b)?);
    let (shapes, mut acc) = accumulate(op, (&a, optional(inputs, 2)), (&b, optional(inputs, 5)), context)?;
    if let Some(c) = optional(inputs, 6) {
        let values = c.get::<i32>().ok_or_else(|| OpError::dtype(op, c.dtype()))?;
        let strides = broadcast_strides("C", c.shape(), &shapes.out)?;
        for (v, at) in acc.as_mut_slice::<i32>()?.iter_mut().zip(Walk::new(&shapes.out, &strides)) {
            *v = v.wrapping_add(values[at]);
        }
    }
    let s_a = attrs.alpha * number::one_f32("a_scale", required(inputs, 1)?)?;
    let t_b = required(inputs, 4)?;
    let s_b = number::floats(op, t_b)?;
    let strides = broadcast_strides("b_scale", &parameter_shape(t_b.shape(), Side::Right), &shapes.out)?;
    let scales = Walk::new(&shapes.out, &strides).map(|at| s_b[at]);
    let Some(s_y) = optional(inputs, 7) else {
        let mut y = Tensor::zeros(DType::F32, &shapes.out)?;
        for ((y, &v), s) in y.as_mut_slice::<f32>()?.iter_mut().zip(acc.as_slice::<i32>()).zip(scales) {
            *y = v as f32 * (s_a * s);
        }
        return Ok(y);
    };
    let s_y = number::one_f32("y_scale", s_y)?;
    let zero = optional(inputs, 8);
    let dtype = zero.map_or(a.dtype(), Tensor::dtype);
    let (qmin, qmax) = byte_range(op, dtype)?;
    let z = zero.map_or(Ok(0), |z| number::one_int("y_zero_point", z))? as i32;
    for (v, s) in acc.as_mut_slice::<i32>()?.iter_mut().zip(scales) {
        *v = arith::requantize(*v, arith::multiplier(s_a, s, s_y), z, qmin, qmax);
    }
    number::store_codes(&acc, dtype)
}
