//! Tensors made from attributes, from a shape or from a few numbers.

use crate::ops::cast::cast;
use crate::ops::dispatch::{cells, cells_mut, for_cell};
use crate::ops::strides::{dims_from, integers};
use crate::ops::{Context, Inputs, OpError, required};
use quantal_ir::attrs::AttrError;
use quantal_ir::{Attrs, Node, Op};
use quantal_tensor::{DType, Element, Tensor};
use std::sync::Arc;

/// An operator that reads at most the shape or a few numbers of its inputs.
#[derive(Debug, Clone)]
pub enum Generator {
    /// Always the same.
    Constant(Arc<Tensor>),
    /// One value in every place of the shape that the input spells out.
    ConstantOfShape(Arc<Tensor>),
    /// Ones on a diagonal of a matrix.
    EyeLike {
        /// The element type; the input's if not given.
        dtype: Option<DType>,
        /// Which diagonal: above the main one if positive.
        diagonal: i64,
    },
    /// Numbers from a start in equal steps up to a limit, which is left out.
    Range,
    /// The dimensions of the input from `start` to `end`.
    Shape {
        /// The first axis, clamped; from the end if negative.
        start: i64,
        /// The axis after the last one; `None` for all.
        end: Option<i64>,
    },
    /// The number of elements.
    Size,
}

impl Generator {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        Ok(match node.op {
            Op::Constant => Self::Constant(constant(attrs)?),
            Op::ConstantOfShape => Self::ConstantOfShape(match attrs.tensor("value")? {
                None => Arc::new(Tensor::scalar(0.0_f32)?),
                Some(t) if t.len() == 1 => Arc::clone(t),
                Some(t) => {
                    let problem = format!("has shape {:?}, must hold one number", t.shape());
                    return Err(AttrError::Invalid { name: "value", problem }.into());
                }
            }),
            Op::EyeLike => {
                let known = |code: i64| {
                    let problem = format!("is {code}, which is no element type");
                    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
                    dtype.ok_or(AttrError::Invalid { name: "dtype", problem })
                };
                Self::EyeLike { dtype: attrs.int("dtype")?.map(known).transpose()?, diagonal: attrs.int_or("k", 0)? }
            }
            Op::Range => Self::Range,
            Op::Shape => Self::Shape { start: attrs.int_or("start", 0)?, end: attrs.int("end")? },
            Op::Size => Self::Size,
            other => return Err(OpError::Unsupported(format!("{} as a source of tensors", other.name()))),
        })
    }

    /// Applies it.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let out = match self {
            Self::Constant(tensor) => Tensor::clone(tensor),
            Self::ConstantOfShape(value) => filled(value, &dims_from(&integers(required(inputs, 0)?, "the shape")?)?)?,
            Self::EyeLike { dtype, diagonal } => eye(required(inputs, 0)?, *dtype, *diagonal)?,
            Self::Range => range(required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?)?,
            Self::Shape { start, end } => {
                let x = required(inputs, 0)?;
                let rank = x.rank() as i64;
                let clamped = |a: i64| (if a < 0 { a + rank } else { a }).clamp(0, rank) as usize;
                let (start, end) = (clamped(*start), clamped(end.unwrap_or(rank)));
                let dims: Vec<i64> = x.shape()[start..end.max(start)].iter().map(|&d| d as i64).collect();
                Tensor::from_slice(&[dims.len()], &dims)?
            }
            Self::Size => Tensor::scalar(required(inputs, 0)?.len() as i64)?,
        };
        Ok(vec![out])
    }
}

/// The value of a `Constant` node, in whichever attribute it is.
fn constant(attrs: &Attrs) -> Result<Arc<Tensor>, OpError> {
    if let Some(t) = attrs.tensor("value")? {
        return Ok(Arc::clone(t));
    }
    let tensor = if let Some(v) = attrs.float("value_float")? {
        Tensor::scalar(v)?
    } else if let Some(v) = attrs.int("value_int")? {
        Tensor::scalar(v)?
    } else if let Some(v) = attrs.floats("value_floats")? {
        Tensor::from_slice(&[v.len()], v)?
    } else if let Some(v) = attrs.ints("value_ints")? {
        Tensor::from_slice(&[v.len()], v)?
    } else if let Some(other) =
        ["sparse_value", "value_string", "value_strings"].iter().find(|n| attrs.get(n).is_some())
    {
        return Err(OpError::Unsupported(format!("Constant with `{other}`")));
    } else {
        return Err(AttrError::Missing("value").into());
    };
    Ok(Arc::new(tensor))
}

/// The one element of `value` in every place of `shape`.
fn filled(value: &Tensor, shape: &[usize]) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(value.dtype(), shape)?;
    // Fresh memory is zero already, and left untouched it costs nothing.
    if value.bytes().iter().any(|&b| b != 0) {
        for_cell!(value.dtype().size(), T => {
            let one = cells::<T>(value)[0];
            cells_mut::<T>(&mut out)?.fill(one);
        });
    }
    Ok(out)
}

fn eye(like: &Tensor, dtype: Option<DType>, diagonal: i64) -> Result<Tensor, OpError> {
    let &[rows, columns] = like.shape() else {
        return Err(OpError::invalid(format!("the input must be a matrix, found shape {:?}", like.shape())));
    };
    let one = cast(&Tensor::scalar(1_i64)?, dtype.unwrap_or(like.dtype()))?;
    let mut out = Tensor::zeros(one.dtype(), like.shape())?;
    for_cell!(one.dtype().size(), T => {
        let one = cells::<T>(&one)[0];
        for (i, row) in cells_mut::<T>(&mut out)?.chunks_exact_mut(columns.max(1)).enumerate().take(rows) {
            let column = (i as i64).checked_add(diagonal).and_then(|c| usize::try_from(c).ok());
            if let Some(place) = column.and_then(|c| row.get_mut(c)) {
                *place = one;
            }
        }
    });
    Ok(out)
}

/// `max(ceil((limit − start) / step), 0)` numbers `start + i · step`.
fn range(start: &Tensor, limit: &Tensor, step: &Tensor) -> Result<Tensor, OpError> {
    let dtype = start.dtype();
    for t in [start, limit, step] {
        if t.dtype() != dtype || t.len() != 1 {
            let found = format!("{} {:?}", t.dtype(), t.shape());
            return Err(OpError::invalid(format!("start, limit and step must each be one {dtype}, found {found}")));
        }
    }
    let integers = [start, limit, step].map(|t| t.to_i64_vec().and_then(|v| v.first().copied()));
    match (dtype, integers) {
        (DType::F16 | DType::BF16, _) => {
            let [start, limit, step] = [start, limit, step].map(|t| cast(t, DType::F32));
            cast(&range(&start?, &limit?, &step?)?, dtype)
        }
        (DType::F32, _) => {
            let [start, limit, step] = [start, limit, step].map(|t| f64::from(t.as_slice::<f32>()[0]));
            fill_range(dtype, steps_between(start, limit, step)?, |i| (start + i as f64 * step) as f32)
        }
        (DType::F64, _) => {
            let [start, limit, step] = [start, limit, step].map(|t| t.as_slice::<f64>()[0]);
            fill_range(dtype, steps_between(start, limit, step)?, |i| start + i as f64 * step)
        }
        (DType::I64 | DType::I32 | DType::I16, [Some(start), Some(limit), Some(step)]) => {
            if step == 0 {
                return Err(OpError::invalid("the step is 0"));
            }
            let span = (i128::from(limit) - i128::from(start)) * i128::from(step.signum());
            let count = span.max(0).unsigned_abs().div_ceil(u128::from(step.unsigned_abs()));
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            let at = |i: usize| start.wrapping_add((i as i64).wrapping_mul(step));
            match dtype {
                DType::I64 => fill_range(dtype, count, at),
                DType::I32 => fill_range(dtype, count, |i| at(i) as i32),
                _ => fill_range(dtype, count, |i| at(i) as i16),
            }
        }
        _ => Err(OpError::dtype(Op::Range, dtype)),
    }
}

fn steps_between(start: f64, limit: f64, step: f64) -> Result<usize, OpError> {
    let steps = ((limit - start) / step).ceil();
    if step == 0.0 || steps.is_nan() {
        return Err(OpError::invalid(format!("there is no way from {start} to {limit} in steps of {step}")));
    }
    // Saturates: a number of steps that cannot be counted is refused as a shape.
    Ok(steps.max(0.0) as usize)
}

fn fill_range<T: Element>(dtype: DType, count: usize, at: impl Fn(usize) -> T) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(dtype, &[count])?;
    out.as_mut_slice::<T>()?.iter_mut().enumerate().for_each(|(i, o)| *o = at(i));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar<T: Element>(v: T) -> Tensor {
        Tensor::scalar(v).unwrap()
    }

    #[test]
    fn ranges_leave_the_limit_out() {
        let r = range(&scalar(10_i64), &scalar(4_i64), &scalar(-2_i64)).unwrap();
        assert_eq!(r.as_slice::<i64>(), [10, 8, 6]);
        let r = range(&scalar(1.0_f32), &scalar(5.0_f32), &scalar(2.0_f32)).unwrap();
        assert_eq!(r.as_slice::<f32>(), [1.0, 3.0]);
        assert_eq!(range(&scalar(5_i32), &scalar(5_i32), &scalar(1_i32)).unwrap().shape(), [0]);
    }

    #[test]
    fn ranges_that_cannot_be_are_errors() {
        assert!(range(&scalar(0_i64), &scalar(1_i64), &scalar(0_i64)).is_err());
        assert!(range(&scalar(i64::MIN), &scalar(i64::MAX), &scalar(1_i64)).is_err());
        assert!(range(&scalar(0.0_f32), &scalar(f32::INFINITY), &scalar(1.0_f32)).is_err());
        assert!(range(&scalar(0.0_f32), &scalar(f32::NAN), &scalar(1.0_f32)).is_err());
    }

    #[test]
    fn a_diagonal_may_lie_outside() {
        let like = Tensor::zeros(DType::I32, &[2, 3]).unwrap();
        assert_eq!(eye(&like, None, 1).unwrap().as_slice::<i32>(), [0, 1, 0, 0, 0, 1]);
        assert_eq!(eye(&like, Some(DType::F32), -1).unwrap().as_slice::<f32>(), [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(eye(&like, None, i64::MAX).unwrap().as_slice::<i32>(), [0; 6]);
        assert!(eye(&Tensor::zeros(DType::I32, &[0, 0]).unwrap(), None, 0).unwrap().is_empty());
    }
}
