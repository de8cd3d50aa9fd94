//! Softmax and LogSoftmax along one axis.

use super::number;
use super::{Context, Inputs, OpError, required};
use crate::ops::strides::count;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{Node, Op};
use quantal_kernels::float;
use quantal_tensor::{DType, Tensor};

/// Softmax, or its logarithm.
#[derive(Debug, Clone)]
pub struct Soft {
    op: Op,
    axis: i64,
    /// Before version 13 all axes from `axis` on count as one.
    coerced: bool,
}

impl Soft {
    /// Reads the axis.
    pub fn prepare(node: &Node, opset: i64) -> Result<Self, OpError> {
        let coerced = opset < 13;
        let axis = node.attrs.int_or("axis", if coerced { 1 } else { -1 })?;
        Ok(Self { op: node.op, axis, coerced })
    }

    /// Normalizes.
    pub fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = required(inputs, 0)?;
        let (n, inner) = extent(x.shape(), self.axis, self.coerced)?;
        let log = self.op == Op::LogSoftmax;
        if inner == 1 && n > 0 {
            let values = number::floats(self.op, x)?;
            let mut y = Tensor::zeros(DType::F32, x.shape())?;
            float::softmax(context.isa, &values, n, log, y.as_mut_slice()?, context.threads);
            return Ok(vec![number::store_as(y, x.dtype())?]);
        }
        let mut y = number::load_f32(self.op, x)?;
        softmax(y.as_mut_slice::<f32>()?, n, inner, log);
        Ok(vec![number::store_as(y, x.dtype())?])
    }
}

/// How many elements are normalized together, and the distance between them.
pub(super) fn extent(shape: &[usize], axis: i64, coerced: bool) -> Result<(usize, usize), OpError> {
    let rank = shape.len();
    let allowed = if coerced && axis == rank as i64 { rank } else { normalize_axis(axis, rank.max(1))? };
    let at = |i: usize| shape.get(i..).map_or(Ok(1), count);
    if coerced { Ok((at(allowed)?, 1)) } else { Ok((shape.get(allowed).copied().unwrap_or(1), at(allowed + 1)?)) }
}

/// Softmax in place over runs of `n` elements that lie `inner` apart.
pub(super) fn softmax(values: &mut [f32], n: usize, inner: usize, log: bool) {
    if n == 0 || inner == 0 {
        return;
    }
    for block in values.chunks_exact_mut(n * inner) {
        for i in 0..inner {
            let max = block[i..].iter().step_by(inner).copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0_f64;
            for v in block[i..].iter_mut().step_by(inner) {
                *v -= max;
                let e = libm::expf(*v);
                sum += f64::from(e);
                if !log {
                    *v = e;
                }
            }
            let (divisor, shift) = (sum as f32, libm::log(sum) as f32);
            for v in block[i..].iter_mut().step_by(inner) {
                *v = if log { *v - shift } else { *v / divisor };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, f32s, run};
    use super::*;
    use quantal_ir::{Attr, Attrs};

    #[test]
    fn softmax_runs_along_its_axis_and_survives_large_values() {
        let x = f32s(&[2, 2], &[1000., 0., 1000., 2f32.ln()]);
        let y = run(Op::Softmax, Attrs::new().with("axis", Attr::Int(0)), 13, &[Some(&x)]).unwrap();
        assert_near(y[0].as_slice::<f32>(), &[0.5, 1. / 3., 0.5, 2. / 3.]);
        let y = run(Op::LogSoftmax, Attrs::new(), 13, &[Some(&x)]).unwrap();
        assert_near(y[0].as_slice::<f32>(), &[0., -1000., 0., 2f32.ln() - 1000.]);
    }

    #[test]
    fn the_old_form_takes_all_axes_from_the_first_on() {
        let x = f32s(&[1, 2, 2], &[0.; 4]);
        let y = run(Op::Softmax, Attrs::new(), 11, &[Some(&x)]).unwrap();
        assert_near(y[0].as_slice::<f32>(), &[0.25; 4]);
    }
}
