//! The same elements under another shape. Outputs share the bytes of the input.

use crate::ops::strides::{axis, axis_flags, count, integers};
use crate::ops::{Context, Inputs, OpError, optional, required};
use quantal_ir::{Node, Op};
use quantal_tensor::{DType, Tensor};

/// An operator whose first output has the elements of its first input, in order.
#[derive(Debug, Clone)]
pub enum Reshaping {
    /// As it is.
    Identity,
    /// To the shape that the second input spells out.
    Reshape {
        /// A 0 in the wanted shape is an empty dimension; else it stands for the input's own.
        allow_zero: bool,
    },
    /// To two dimensions.
    Flatten {
        /// The first axis of the second dimension; from the end if negative.
        axis: i64,
    },
    /// Without dimensions of 1.
    Squeeze,
    /// With more dimensions of 1.
    Unsqueeze,
    /// As it is: this runtime infers, it does not train.
    Dropout {
        /// Whether the second output is there to be filled.
        mask: bool,
    },
}

impl Reshaping {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        Ok(match node.op {
            Op::Identity => Self::Identity,
            Op::Reshape => Self::Reshape { allow_zero: node.attrs.flag("allowzero", false)? },
            Op::Flatten => Self::Flatten { axis: node.attrs.int_or("axis", 1)? },
            Op::Squeeze => Self::Squeeze,
            Op::Unsqueeze => Self::Unsqueeze,
            Op::Dropout => Self::Dropout { mask: node.outputs.len() > 1 },
            other => return Err(OpError::Unsupported(format!("{} as a change of shape", other.name()))),
        })
    }

    /// Applies it.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = required(inputs, 0)?;
        let shape = match self {
            Self::Identity => x.shape().to_vec(),
            Self::Reshape { allow_zero } => {
                reshaped(x.shape(), &integers(required(inputs, 1)?, "the shape")?, *allow_zero)?
            }
            Self::Flatten { axis: at } => {
                let rank = x.rank();
                let at = if *at == rank as i64 { rank } else { axis(*at, rank)? };
                // Counted by halves: one half may be huge where the other is empty.
                vec![count(&x.shape()[..at])?, count(&x.shape()[at..])?]
            }
            Self::Squeeze => squeezed(x.shape(), optional(inputs, 1))?,
            Self::Unsqueeze => unsqueezed(x.shape(), &integers(required(inputs, 1)?, "axes")?)?,
            Self::Dropout { mask } => return dropout(x, optional(inputs, 1), optional(inputs, 2), *mask),
        };
        Ok(vec![x.clone().reshaped(&shape)?])
    }
}

/// The shape that `wanted` means for a tensor of `shape`: −1 is what remains.
fn reshaped(shape: &[usize], wanted: &[i64], allow_zero: bool) -> Result<Vec<usize>, OpError> {
    let fails = |why: &str| OpError::invalid(format!("shape {shape:?} does not become {wanted:?}: {why}"));
    let mut out = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, &w) in wanted.iter().enumerate() {
        out.push(match w {
            -1 if open.replace(i).is_some() => return Err(fails("more than one -1")),
            -1 => 1,
            0 if !allow_zero => *shape.get(i).ok_or_else(|| fails("a 0 beyond the input's dimensions"))?,
            w => usize::try_from(w).map_err(|_| fails("a negative dimension"))?,
        });
    }
    let (have, known) = (count(shape)?, count(&out)?);
    if let Some(i) = open {
        if known == 0 {
            return Err(fails("-1 beside an empty dimension could be anything"));
        }
        if !have.is_multiple_of(known) {
            return Err(fails("-1 would not be a whole number"));
        }
        out[i] = have / known;
    } else if have != known {
        return Err(fails("the number of elements differs"));
    }
    Ok(out)
}

fn squeezed(shape: &[usize], axes: Option<&Tensor>) -> Result<Vec<usize>, OpError> {
    let Some(axes) = axes else {
        return Ok(shape.iter().copied().filter(|&d| d != 1).collect());
    };
    let named = axis_flags(&integers(axes, "axes")?, shape.len())?;
    if let Some((i, d)) = shape.iter().enumerate().find(|&(i, d)| named[i] && *d != 1) {
        return Err(OpError::invalid(format!("axis {i} is {d}, only a dimension of 1 can be squeezed")));
    }
    Ok(shape.iter().zip(named).filter(|(_, named)| !named).map(|(&d, _)| d).collect())
}

fn unsqueezed(shape: &[usize], axes: &[i64]) -> Result<Vec<usize>, OpError> {
    let mut rest = shape.iter();
    let named = axis_flags(axes, shape.len() + axes.len())?;
    Ok(named.iter().map(|&new| if new { 1 } else { rest.next().copied().unwrap_or(1) }).collect())
}

fn dropout(x: &Tensor, ratio: Option<&Tensor>, training: Option<&Tensor>, mask: bool) -> Result<Vec<Tensor>, OpError> {
    let training = training.and_then(Tensor::to_i64_vec).is_some_and(|v| v.first().is_some_and(|&t| t != 0));
    let ratio = ratio.and_then(Tensor::to_f32_vec).and_then(|v| v.first().copied()).unwrap_or(0.5);
    if training && ratio != 0.0 {
        return Err(OpError::Unsupported("Dropout in training mode".to_owned()));
    }
    let mut outputs = vec![x.clone()];
    if mask {
        let mut kept = Tensor::zeros(DType::Bool, x.shape())?;
        kept.as_mut_slice::<u8>()?.fill(1);
        outputs.push(kept);
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_copy_and_one_dimension_is_inferred() {
        assert_eq!(reshaped(&[2, 3, 4], &[0, -1], false).unwrap(), [2, 12]);
        assert_eq!(reshaped(&[2, 3, 4], &[4, 2, 3], false).unwrap(), [4, 2, 3]);
        assert_eq!(reshaped(&[0, 3], &[3, 0], true).unwrap(), [3, 0]);
        assert_eq!(reshaped(&[1], &[], false).unwrap(), [0_usize; 0]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for wanted in [&[-1, -1][..], &[5, -1], &[0, 0, 0, 0], &[-2, 12], &[i64::MAX, i64::MAX], &[7]] {
            assert!(reshaped(&[2, 3, 4], wanted, false).is_err(), "{wanted:?}");
        }
        assert!(reshaped(&[2, 3], &[0, -1], true).is_err());
    }

    #[test]
    fn dimensions_of_one_come_and_go() {
        let axes = |a: &[i64]| Tensor::from_slice(&[a.len()], a).unwrap();
        assert_eq!(squeezed(&[1, 3, 1], Some(&axes(&[-1]))).unwrap(), [1, 3]);
        assert_eq!(squeezed(&[1, 3, 1], None).unwrap(), [3]);
        assert!(squeezed(&[1, 3, 1], Some(&axes(&[1]))).is_err());
        assert_eq!(unsqueezed(&[3, 4], &[-1, 0]).unwrap(), [1, 3, 4, 1]);
        assert!(unsqueezed(&[3], &[0, -3]).is_err() && unsqueezed(&[3], &[5]).is_err());
    }
}
