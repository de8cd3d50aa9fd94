//! Functions of two values, element by element, in f32 and any layout; in place where nobody reads the first again.

use super::Env;
use crate::ops::{Context, Inputs, OpError, OpKernel, required};
use quantal_kernels::float::{self, Operand};
use quantal_tensor::{DType, Tensor};

/// A function of two tensors that are broadcast to each other.
#[derive(Debug)]
pub struct Binary {
    /// The function.
    pub function: float::Binary,
    /// The operator, for the ways to broadcast that the kernel does not know.
    pub general: OpKernel,
}

/// How the smaller side lies on the larger one.
enum Fit<'a> {
    Once(Operand<'a>),
    /// One row of values for each of `count` parts.
    PerPart {
        count: usize,
        values: &'a [f32],
    },
}

/// How `x` lies on a tensor of this shape; `None` if the kernel has no form for it.
fn fit<'a>(x: &'a Tensor, shape: &[usize]) -> Option<Fit<'a>> {
    let values = x.get::<f32>()?;
    if x.shape() == shape {
        return Some(Fit::Once(Operand::Full(values)));
    }
    if x.rank() > shape.len() {
        return None;
    }
    if let &[one] = values {
        return Some(Fit::Once(Operand::Scalar(one)));
    }
    let leading = x.shape().iter().take_while(|&&d| d == 1).count();
    let own = &x.shape()[leading..];
    if shape.ends_with(own) {
        return Some(Fit::Once(Operand::PerColumn(values)));
    }
    // [N, 1, 1, C] on [N, H, W, C]: a gate for each image.
    let (&[count, .., channels], &[n, .., c]) = (x.shape(), shape) else { return None };
    let gate = x.rank() == shape.len() && count == n && channels == c;
    let gate = gate && count > 0 && x.shape()[1..x.rank() - 1].iter().all(|&d| d == 1);
    gate.then_some(Fit::PerPart { count, values })
}

impl Binary {
    /// Applies it.
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        // A shape that both fit is the one of the larger side, or there is none here.
        for shape in [a.shape(), b.shape()] {
            if let (Some(p), Some(q)) = (fit(a, shape), fit(b, shape)) {
                let mut y = env.pool.tensor(DType::F32, shape)?;
                self.apply(&p, &q, y.as_mut_slice()?, env);
                return Ok(y);
            }
        }
        let results = self.general.run(inputs, &Context { isa: env.isa, threads: env.threads })?;
        results.into_iter().next().ok_or_else(|| OpError::invalid("the operator gave nothing"))
    }

    /// Applies it and writes the result over `x` if it has the same shape.
    pub(crate) fn run_in_place(
        &self,
        mut x: Tensor,
        inputs: &Inputs<'_>,
        env: &mut Env<'_>,
    ) -> Result<Tensor, OpError> {
        let b = required(inputs, 1)?;
        if x.dtype() == DType::F32
            && let Some(Fit::Once(operand)) = fit(b, x.shape())
        {
            float::binary_in_place(env.isa, self.function, x.as_mut_slice()?, operand, env.threads);
            return Ok(x);
        }
        let y = self.run(&[Some(&x), Some(b)], env)?;
        env.pool.count(&x);
        env.pool.give_back(x);
        Ok(y)
    }

    fn apply(&self, a: &Fit<'_>, b: &Fit<'_>, y: &mut [f32], env: &Env<'_>) {
        let parts = match (a, b) {
            (Fit::PerPart { count, .. }, _) | (_, Fit::PerPart { count, .. }) => *count,
            (Fit::Once(_), Fit::Once(_)) => 1,
        };
        let len = y.len() / parts;
        for (i, y) in y.chunks_exact_mut(len.max(1)).enumerate() {
            float::binary(env.isa, self.function, part(a, i, parts), part(b, i, parts), y, env.threads);
        }
    }
}

/// The side of part `i`.
fn part<'a>(side: &Fit<'a>, i: usize, parts: usize) -> Operand<'a> {
    let slice = |values: &'a [f32]| {
        let len = values.len() / parts;
        &values[i * len..(i + 1) * len]
    };
    match side {
        Fit::Once(Operand::Full(values)) => Operand::Full(slice(values)),
        Fit::Once(Operand::Scalar(v)) => Operand::Scalar(*v),
        Fit::Once(Operand::PerColumn(values)) => Operand::PerColumn(values),
        Fit::PerPart { values, .. } => Operand::PerColumn(slice(values)),
    }
}
