//! What a weighted step does to a sum before it stores it.

use crate::ops::OpError;
use quantal_kernels::float::{Epilogue, Residual, Unary};
use quantal_tensor::Tensor;

/// `clamp(activation(sum + bias + residual))`, grown by fusion while compiling.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    /// One value per output channel.
    pub bias: Option<Vec<f32>>,
    /// Whether the step's second input is added: a tensor of the output's shape.
    pub residual: bool,
    /// A function of each element.
    pub activation: Option<Unary>,
    /// The range that results are held to.
    pub clamp: Option<(f32, f32)>,
}

impl Tail {
    /// Applies `function` after what is there; false if that is not possible.
    pub(crate) fn then(&mut self, function: Unary) -> bool {
        match function {
            Unary::Relu => self.then_clamp(0.0, f32::INFINITY),
            _ if self.activation.is_none() && self.clamp.is_none() => {
                self.activation = Some(function);
                true
            }
            _ => false,
        }
    }

    /// Clamps after what is there; false if the ends are not in order.
    pub(crate) fn then_clamp(&mut self, low: f32, high: f32) -> bool {
        if low > high || low.is_nan() || high.is_nan() {
            return false;
        }
        let (a, b) = self.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        self.clamp = Some((a.max(low).min(high), b.max(low).min(high)));
        true
    }

    /// Whether a tensor or a bias can still be added: nothing follows the sum yet.
    pub(crate) fn is_open(&self) -> bool {
        self.activation.is_none() && self.clamp.is_none() && !self.residual
    }

    /// The kernels' form of it, for an output of this shape and rows of `n`.
    pub(crate) fn epilogue<'a>(
        &'a self,
        residual: Option<&'a Tensor>,
        shape: &[usize],
        n: usize,
    ) -> Result<Epilogue<'a>, OpError> {
        let residual = match residual.filter(|_| self.residual) {
            Some(r) if r.shape() == shape => {
                let data =
                    r.get::<f32>().ok_or_else(|| OpError::invalid(format!("cannot add {} to float32", r.dtype())))?;
                Some(Residual { data, row_stride: n })
            }
            Some(r) => {
                return Err(OpError::invalid(format!("cannot add shape {:?} to {shape:?} in place", r.shape())));
            }
            None => None,
        };
        let clamp = self.clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        Ok(Epilogue { bias: self.bias.as_deref(), residual, activation: self.activation, clamp })
    }
}
