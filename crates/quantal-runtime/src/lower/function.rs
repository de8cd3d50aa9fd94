//! Functions of one number: what an element-wise operator computes, in f64, for tables of codes.

use super::{Rule, attr};
use crate::compile::Lowering;
use crate::coverage::Reason;
use quantal_ir::{Node, Op, ValueId};

/// A function of one number.
pub(super) type Function = Box<dyn Fn(f64) -> f64>;

/// The function of a unary node, with its attributes read.
pub(super) fn of_node(l: &mut Lowering<'_>, node: &Node) -> Rule<Function> {
    let float = |name: &str, default: f32| node.attrs.float_or(name, default);
    Ok(match node.op {
        Op::Relu => Box::new(|x| x.max(0.0)),
        Op::Clip => {
            let lo = scalar(l, node.input(1), f64::NEG_INFINITY)?;
            let hi = scalar(l, node.input(2), f64::INFINITY)?;
            Box::new(move |x| x.max(lo).min(hi))
        }
        Op::LeakyRelu => {
            let alpha = f64::from(attr(l, float("alpha", 0.01))?);
            Box::new(move |x| if x < 0.0 { alpha * x } else { x })
        }
        Op::PRelu => {
            let slope = scalar(l, node.input(1), 0.0)?;
            Box::new(move |x| if x < 0.0 { slope * x } else { x })
        }
        Op::Elu => {
            let alpha = f64::from(attr(l, float("alpha", 1.0))?);
            Box::new(move |x| if x < 0.0 { alpha * libm::expm1(x) } else { x })
        }
        Op::HardSigmoid => {
            let (alpha, beta) = (attr(l, float("alpha", 0.2))?, attr(l, float("beta", 0.5))?);
            Box::new(move |x| (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0))
        }
        Op::HardSwish => Box::new(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        Op::Swish => {
            let alpha = f64::from(attr(l, float("alpha", 1.0))?);
            Box::new(move |x| x * sigmoid(alpha * x))
        }
        Op::Gelu | Op::MsGelu => {
            let tanh = attr(l, node.attrs.str_or("approximate", "none"))? == "tanh";
            if tanh { Box::new(gelu_tanh) } else { Box::new(gelu) }
        }
        Op::FastGelu if node.input(1).is_none() => Box::new(gelu_tanh),
        Op::QuickGelu => {
            let alpha = f64::from(attr(l, float("alpha", 1.702))?);
            Box::new(move |x| x * sigmoid(alpha * x))
        }
        Op::Sigmoid => Box::new(sigmoid),
        Op::Tanh => Box::new(libm::tanh),
        Op::Softplus => Box::new(softplus),
        Op::Mish => Box::new(|x| x * libm::tanh(softplus(x))),
        Op::Erf => Box::new(libm::erf),
        Op::Exp => Box::new(libm::exp),
        Op::Log => Box::new(libm::log),
        Op::Sqrt => Box::new(f64::sqrt),
        Op::Reciprocal => Box::new(|x| 1.0 / x),
        Op::Neg => Box::new(|x| -x),
        Op::Abs => Box::new(f64::abs),
        Op::Sign => Box::new(|x| if x == 0.0 { 0.0 } else { x.signum() }),
        Op::Floor => Box::new(f64::floor),
        Op::Ceil => Box::new(f64::ceil),
        Op::Round => Box::new(f64::round_ties_even),
        Op::Sin => Box::new(libm::sin),
        Op::Cos => Box::new(libm::cos),
        _ => return Err(Reason::NoIntegerForm { op: node.op_name() }.into()),
    })
}

/// The function of a binary operator with a constant on one side.
pub(super) fn with_constant(op: Op, c: f64, constant_first: bool) -> Option<Function> {
    Some(match (op, constant_first) {
        (Op::Add, _) => Box::new(move |x| x + c),
        (Op::Mul, _) => Box::new(move |x| x * c),
        (Op::Sub, false) => Box::new(move |x| x - c),
        (Op::Sub, true) => Box::new(move |x| c - x),
        (Op::Div, false) => Box::new(move |x| x / c),
        (Op::Div, true) => Box::new(move |x| c / x),
        (Op::Pow, false) => Box::new(move |x| libm::pow(x, c)),
        (Op::Pow, true) => Box::new(move |x| libm::pow(c, x)),
        _ => return None,
    })
}

fn scalar(l: &mut Lowering<'_>, v: Option<ValueId>, absent: f64) -> Rule<f64> {
    let Some(v) = v else { return Ok(absent) };
    let value = l.constant(v)?.and_then(|t| t.to_f32_vec()).filter(|t| t.len() == 1).map(|t| f64::from(t[0]));
    value.ok_or_else(|| Reason::Attribute("its bounds are computed while running".into()).into())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + libm::tanh(inner))
}
