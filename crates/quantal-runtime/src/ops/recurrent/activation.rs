//! The activations that recurrent layers can name.

use super::OpError;

/// An activation with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Activation {
    Affine(f32, f32),
    Elu(f32),
    HardSigmoid(f32, f32),
    LeakyRelu(f32),
    Relu,
    ScaledTanh(f32, f32),
    Sigmoid,
    Softplus,
    Softsign,
    Tanh,
    ThresholdedRelu(f32),
}

/// Reads the names; each takes the next entries of `alpha` and `beta` if it has such a parameter.
pub(super) fn parse(names: &[&str], alpha: &[f32], beta: &[f32]) -> Result<Vec<Activation>, OpError> {
    let (mut alpha, mut beta) = (alpha.iter().copied(), beta.iter().copied());
    let mut a = |default: f32| alpha.next().unwrap_or(default);
    let mut b = |default: f32| beta.next().unwrap_or(default);
    names
        .iter()
        .map(|name| {
            Ok(match name.to_ascii_lowercase().as_str() {
                "affine" => Activation::Affine(a(1.0), b(0.0)),
                "elu" => Activation::Elu(a(1.0)),
                "hardsigmoid" => Activation::HardSigmoid(a(0.2), b(0.5)),
                "leakyrelu" => Activation::LeakyRelu(a(0.01)),
                "relu" => Activation::Relu,
                "scaledtanh" => Activation::ScaledTanh(a(1.0), b(1.0)),
                "sigmoid" => Activation::Sigmoid,
                "softplus" => Activation::Softplus,
                "softsign" => Activation::Softsign,
                "tanh" => Activation::Tanh,
                "thresholdedrelu" => Activation::ThresholdedRelu(a(1.0)),
                _ => return Err(OpError::Unsupported(format!("the activation `{}`", name.escape_debug()))),
            })
        })
        .collect()
}

impl Activation {
    pub(super) fn apply(self, x: f32) -> f32 {
        match self {
            Self::Affine(a, b) => a * x + b,
            Self::Elu(a) => {
                if x < 0.0 {
                    a * libm::expm1f(x)
                } else {
                    x
                }
            }
            Self::HardSigmoid(a, b) => (a * x + b).clamp(0.0, 1.0),
            Self::LeakyRelu(a) => {
                if x < 0.0 {
                    a * x
                } else {
                    x
                }
            }
            Self::Relu => x.max(0.0),
            Self::ScaledTanh(a, b) => a * libm::tanhf(b * x),
            Self::Sigmoid => 1.0 / (1.0 + libm::expf(-x)),
            Self::Softplus => x.max(0.0) + libm::log1pf(libm::expf(-x.abs())),
            Self::Softsign => x / (1.0 + x.abs()),
            Self::Tanh => libm::tanhf(x),
            Self::ThresholdedRelu(a) => {
                if x > a {
                    x
                } else {
                    0.0
                }
            }
        }
    }
}
