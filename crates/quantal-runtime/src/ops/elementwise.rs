//! Functions of each element: one input in [`unary`], several with broadcasting in [`broadcast`].

pub mod broadcast;
mod real;
pub mod unary;

pub use broadcast::Broadcast;
pub use unary::Unary;

use super::OpError;
use super::cast::cast;
use quantal_tensor::{DType, Tensor};

/// Whether a type is computed by way of f32 and rounded back once.
fn goes_through_f32(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// Runs `f` on the inputs as f32 and rounds its result to `dtype`.
fn through_f32(
    inputs: &[&Tensor],
    dtype: DType,
    f: impl FnOnce(&[&Tensor]) -> Result<Tensor, OpError>,
) -> Result<Tensor, OpError> {
    let wide = inputs.iter().map(|t| cast(t, DType::F32)).collect::<Result<Vec<_>, _>>()?;
    let out = f(&wide.iter().collect::<Vec<_>>())?;
    if out.dtype() == DType::F32 { cast(&out, dtype) } else { Ok(out) }
}

#[cfg(test)]
mod tests;
