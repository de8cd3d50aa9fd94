//! Operators that read or write the places that an index tensor names. An index out of range is an error, never
//! clamped.

mod blocks;
mod indexed;
mod nd;
mod scattered;

use super::dispatch::{cells, cells_mut, for_cell};
use super::strides::{axis, count};
use super::{Context, Inputs, OpError, required};
use quantal_ir::attrs::AttrError;
use quantal_ir::{Node, Op};
use quantal_tensor::{DType, Tensor};
use scattered::Combine;

/// An operator that selects or replaces elements by index.
#[derive(Debug, Clone)]
pub struct Selection(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Gather { axis: i64 },
    GatherElements { axis: i64 },
    GatherNd { batch_dims: i64 },
    Blocks(blocks::Blocks),
    NonZero,
    OneHot { axis: i64 },
    ScatterElements { axis: i64, combine: Combine },
    ScatterNd { combine: Combine },
}

impl Selection {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        let combine = || -> Result<Combine, OpError> {
            Ok(match attrs.str_or("reduction", "none")? {
                "none" => Combine::Replace,
                "add" => Combine::Add,
                "mul" => Combine::Mul,
                "max" => Combine::Max,
                "min" => Combine::Min,
                other => {
                    let problem = format!("is \"{}\", must be one of none, add, mul, max, min", other.escape_debug());
                    return Err(AttrError::Invalid { name: "reduction", problem }.into());
                }
            })
        };
        Ok(Self(match node.op {
            Op::Gather => Kind::Gather { axis: attrs.int_or("axis", 0)? },
            Op::GatherElements => Kind::GatherElements { axis: attrs.int_or("axis", 0)? },
            Op::GatherND => Kind::GatherNd { batch_dims: attrs.int_or("batch_dims", 0)? },
            Op::GatherBlockQuantized => Kind::Blocks(blocks::Blocks::of(attrs)?),
            Op::NonZero => Kind::NonZero,
            Op::OneHot => Kind::OneHot { axis: attrs.int_or("axis", -1)? },
            Op::ScatterElements => Kind::ScatterElements { axis: attrs.int_or("axis", 0)?, combine: combine()? },
            Op::ScatterND => Kind::ScatterNd { combine: combine()? },
            other => return Err(OpError::Unsupported(format!("{} as a selection", other.name()))),
        }))
    }

    /// Applies it.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = required(inputs, 0)?;
        let out = match self.0 {
            Kind::Blocks(ref b) => b.gather(inputs)?,
            Kind::Gather { axis } => indexed::gather(x, required(inputs, 1)?, axis)?,
            Kind::GatherElements { axis } => indexed::gather_elements(x, required(inputs, 1)?, axis)?,
            Kind::GatherNd { batch_dims } => nd::gather_nd(x, required(inputs, 1)?, batch_dims)?,
            Kind::NonZero => non_zero(x)?,
            Kind::OneHot { axis } => one_hot(x, required(inputs, 1)?, required(inputs, 2)?, axis)?,
            Kind::ScatterElements { axis, combine } => {
                indexed::scatter_elements(x, required(inputs, 1)?, required(inputs, 2)?, axis, combine)?
            }
            Kind::ScatterNd { combine } => nd::scatter_nd(x, required(inputs, 1)?, required(inputs, 2)?, combine)?,
        };
        Ok(vec![out])
    }
}

/// The positions of the elements that are not zero, `[rank, count]`, in row-major order.
fn non_zero(x: &Tensor) -> Result<Tensor, OpError> {
    let flags = super::cast::cast(x, DType::Bool)?;
    let flags = flags.as_slice::<u8>();
    let found = flags.iter().filter(|&&f| f != 0).count();
    let mut out = Tensor::zeros(DType::I64, &[x.rank(), found])?;
    if out.is_empty() {
        return Ok(out);
    }
    let places = out.as_mut_slice::<i64>()?;
    for (n, (place, _)) in flags.iter().enumerate().filter(|(_, f)| **f != 0).enumerate() {
        let mut rest = place;
        for (a, &d) in x.shape().iter().enumerate().rev() {
            places[a * found + n] = (rest % d) as i64;
            rest /= d;
        }
    }
    Ok(out)
}

/// `values` holds off and on; an index outside of `[-depth, depth − 1]` is on nowhere.
fn one_hot(indices: &Tensor, depth: &Tensor, values: &Tensor, at: i64) -> Result<Tensor, OpError> {
    let depth = match depth.to_i64_vec().as_deref() {
        Some(&[d]) if d >= 0 => d,
        _ => return Err(OpError::invalid("the depth must be one number, at least 0")),
    };
    if values.len() != 2 {
        return Err(OpError::invalid(format!("values must be [off, on], found shape {:?}", values.shape())));
    }
    let at = axis(at, indices.rank() + 1)?;
    let list = indices.to_i64_vec().ok_or_else(|| OpError::dtype(Op::OneHot, indices.dtype()))?;
    let mut shape = indices.shape().to_vec();
    shape.insert(at, depth as usize);
    let mut out = Tensor::zeros(values.dtype(), &shape)?;
    if out.is_empty() {
        return Ok(out);
    }
    let inner = count(&shape[at + 1..])?;
    for_cell!(values.dtype().size(), T => {
        let &[off, on] = cells::<T>(values) else { return Err(OpError::invalid("values must be [off, on]")) };
        let out = cells_mut::<T>(&mut out)?;
        out.fill(off);
        for (block, indices) in out.chunks_exact_mut(depth as usize * inner).zip(list.chunks_exact(inner)) {
            for (i, &index) in indices.iter().enumerate() {
                let from_start = if index < 0 { index + depth } else { index };
                if (0..depth).contains(&from_start) {
                    block[from_start as usize * inner + i] = on;
                }
            }
        }
    });
    Ok(out)
}

#[cfg(test)]
mod tests;
