//! Sums and products of two tensors of codes, with numpy's broadcasting; and tables.

use super::Env;
use super::codes::{Codes, written};
use crate::ops::strides::{broadcast_shape, broadcast_strides, copy_view};
use crate::ops::{Inputs, OpError, required};
use quantal_kernels::eltwise::{self, Operand};
use quantal_kernels::lut::lut;
use quantal_tensor::arith;
use quantal_tensor::tensor::element_count;
use quantal_tensor::{DType, Tensor};

/// Which operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `a + b`, arith (4).
    Add,
    /// `a − b`, arith (4) with `−m_b`.
    Sub,
    /// `a · b`, arith (3) on the product.
    Mul,
}

/// One operation on two tensors.
#[derive(Clone, Copy, Debug)]
pub struct QEltwise {
    /// Which.
    pub kind: Kind,
    /// The left one.
    pub a: Codes,
    /// The right one.
    pub b: Codes,
    /// The result.
    pub y: Codes,
}

impl QEltwise {
    /// The factors of arith (4).
    pub(crate) fn multipliers(&self) -> (f32, f32) {
        let (m_a, m_b) = (self.a.affine.scale / self.y.affine.scale, self.b.affine.scale / self.y.affine.scale);
        (m_a, if self.kind == Kind::Sub { -m_b } else { m_b })
    }

    /// The factor of arith (3).
    pub(crate) fn multiplier(&self) -> f32 {
        arith::multiplier(self.a.affine.scale, self.b.affine.scale, self.y.affine.scale)
    }

    /// The result for one pair of codes: what the kernels compute.
    pub(crate) fn of_codes(&self, a: i32, b: i32) -> i32 {
        let (a, b) = (a - self.a.affine.zero_point, b - self.b.affine.zero_point);
        let arith::Affine { zero_point, qmin, qmax, .. } = self.y.affine;
        match self.kind {
            Kind::Add | Kind::Sub => {
                let (m_a, m_b) = self.multipliers();
                arith::add(a, m_a, b, m_b, zero_point, qmin, qmax)
            }
            Kind::Mul => arith::requantize(a * b, self.multiplier(), zero_point, qmin, qmax),
        }
    }

    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let (ta, tb) = (required(inputs, 0)?, required(inputs, 1)?);
        let shape = broadcast_shape(&[ta.shape(), tb.shape()])?;
        // The kernels let the right operand be the smaller one.
        let swap = ta.shape() != shape && tb.shape() == shape;
        let operand =
            |codes: &Codes, bytes| Operand { codes: bytes, signed: codes.signed, zero_point: codes.affine.zero_point };
        let (m_a, m_b) = self.multipliers();
        let ((wide, wide_codes, m_wide), (narrow, narrow_codes, m_narrow)) =
            if swap { ((tb, &self.b, m_b), (ta, &self.a, m_a)) } else { ((ta, &self.a, m_a), (tb, &self.b, m_b)) };
        let spread;
        let wide_bytes = if wide.shape() == shape {
            wide_codes.read(wide)?
        } else {
            spread = expand(wide_codes.read(wide)?, wide.shape(), &shape, env)?;
            spread.bytes()
        };
        let narrow_spread;
        let (narrow_bytes, cols) = if let Some(cols) = columns(narrow.shape(), &shape) {
            (narrow_codes.read(narrow)?, cols)
        } else {
            narrow_spread = expand(narrow_codes.read(narrow)?, narrow.shape(), &shape, env)?;
            (narrow_spread.bytes(), narrow_spread.len())
        };
        let (a, b) = (operand(wide_codes, wide_bytes), operand(narrow_codes, narrow_bytes));
        let out_codes = self.y.out();
        written(self.y, &shape, env, |out, env| match self.kind {
            Kind::Add | Kind::Sub => {
                eltwise::add(env.isa, a, m_wide, b, m_narrow, cols.max(1), out_codes, out, env.threads)
            }
            Kind::Mul => eltwise::mul(env.isa, a, b, self.multiplier(), cols.max(1), out_codes, out, env.threads),
        })
    }
}

/// If `narrow` against `wide` is `[rows / r, cols]` against `[rows, cols]`: its columns.
fn columns(narrow: &[usize], wide: &[usize]) -> Option<usize> {
    if element_count(narrow)? == 1 {
        return element_count(wide);
    }
    let dim = |i: usize| (i + narrow.len()).checked_sub(wide.len()).map_or(1, |j| narrow[j]);
    let mut i = wide.len();
    let mut cols = 1;
    while i > 0 && dim(i - 1) == wide[i - 1] {
        i -= 1;
        cols *= wide[i];
    }
    while i > 0 && dim(i - 1) == 1 {
        i -= 1;
    }
    (0..i).all(|j| dim(j) == wide[j]).then_some(cols)
}

/// The bytes of `x`, repeated to the shape that it is broadcast to.
fn expand(x: &[u8], from: &[usize], to: &[usize], env: &mut Env<'_>) -> Result<Tensor, OpError> {
    let mut out = env.pool.tensor(DType::U8, to)?;
    copy_view(x, 0, to, &broadcast_strides(from, to), out.as_mut_slice::<u8>()?);
    Ok(out)
}

/// A function of each code: a table of 256 entries, indexed by the byte.
#[derive(Debug)]
pub struct Lut {
    /// What it reads.
    pub x: Codes,
    /// What it writes.
    pub y: Codes,
    /// The entries.
    pub table: Box<[u8; 256]>,
}

impl Lut {
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let x = required(inputs, 0)?;
        let bytes = self.x.read(x)?;
        written(self.y, x.shape(), env, |out, env| lut(env.isa, &self.table, bytes, out, env.threads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_kernels_take_are_found() {
        assert_eq!(columns(&[5], &[2, 3, 4, 5]), Some(5));
        assert_eq!(columns(&[2, 1, 1, 5], &[2, 3, 4, 5]), Some(5));
        assert_eq!(columns(&[1, 1], &[2, 3]), Some(6));
        assert_eq!(columns(&[2, 3, 4, 5], &[2, 3, 4, 5]), Some(120));
        assert_eq!(columns(&[2, 1, 4, 1], &[2, 3, 4, 5]), None);
    }
}
