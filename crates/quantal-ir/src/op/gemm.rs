//! Gemm: `Y = alpha · A' · B' + beta · C`.

use crate::attrs::{AttrError, Attrs};

/// The attributes of Gemm.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GemmAttrs {
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of C.
    pub beta: f32,
    /// Whether A is given transposed.
    pub trans_a: bool,
    /// Whether B is given transposed.
    pub trans_b: bool,
}

impl GemmAttrs {
    /// Reads them.
    pub fn of(attrs: &Attrs) -> Result<Self, AttrError> {
        Ok(Self {
            alpha: attrs.float_or("alpha", 1.0)?,
            beta: attrs.float_or("beta", 1.0)?,
            trans_a: attrs.flag("transA", false)?,
            trans_b: attrs.flag("transB", false)?,
        })
    }
}
