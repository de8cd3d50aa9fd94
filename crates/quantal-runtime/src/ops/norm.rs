//! To be written: every operator of the family is refused.
use super::{Context, Inputs, OpError};
use quantal_ir::Node;
use quantal_tensor::Tensor;
/// Refuses.
#[derive(Debug, Clone)]
pub struct Normalization;
impl Normalization {
    /// Refuses.
    pub fn prepare(_: &Node, _: i64) -> Result<Self, OpError> {
        Ok(Self)
    }
    /// Refuses.
    pub fn run(&self, _: &Inputs<'_>, _: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        Err(OpError::Unsupported("operator".into()))
    }
}
