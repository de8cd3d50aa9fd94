//! Functions of one input: activations, rounding, signs, tests.

use super::real::Real;
use super::{goes_through_f32, through_f32};
use crate::ops::dispatch::for_number;
use crate::ops::{Context, Inputs, OpError, optional, required};
use quantal_ir::attrs::AttrError;
use quantal_ir::{Node, Op};
use quantal_kernels::float;
use quantal_tensor::{DType, Element, Tensor};

/// An operator of one input that treats each element alone.
#[derive(Debug, Clone)]
pub struct Unary {
    op: Op,
    function: Function,
}

#[derive(Debug, Clone)]
enum Function {
    Abs,
    Neg,
    Sign,
    Relu,
    Clip,
    Not,
    IsNan,
    IsInf { negative: bool, positive: bool },
    Smooth(Smooth),
}

/// A function of real numbers.
#[derive(Debug, Clone, Copy)]
enum Smooth {
    Ceil,
    Cos,
    Elu { alpha: f32 },
    Erf,
    Exp,
    Floor,
    Gelu,
    GeluTanh,
    HardSigmoid { alpha: f32, beta: f32 },
    HardSwish,
    LeakyRelu { alpha: f32 },
    Log,
    Mish,
    Reciprocal,
    Round,
    Sigmoid,
    Sin,
    Softplus,
    Sqrt,
    Swish { alpha: f32 },
    Tanh,
}

impl Unary {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        let smooth = match node.op {
            Op::Ceil => Smooth::Ceil,
            Op::Cos => Smooth::Cos,
            Op::Elu => Smooth::Elu { alpha: attrs.float_or("alpha", 1.0)? },
            Op::Erf => Smooth::Erf,
            Op::Exp => Smooth::Exp,
            Op::Floor => Smooth::Floor,
            Op::Gelu => match attrs.str_or("approximate", "none")? {
                "none" => Smooth::Gelu,
                "tanh" => Smooth::GeluTanh,
                other => {
                    let problem = format!("is \"{}\", must be \"none\" or \"tanh\"", other.escape_debug());
                    return Err(AttrError::Invalid { name: "approximate", problem }.into());
                }
            },
            Op::MsGelu => Smooth::Gelu,
            Op::FastGelu if node.input(1).is_some() => {
                return Err(OpError::Unsupported("FastGelu with a bias".to_owned()));
            }
            Op::FastGelu => Smooth::GeluTanh,
            Op::QuickGelu => Smooth::Swish { alpha: attrs.float_or("alpha", 1.702)? },
            Op::HardSigmoid => {
                Smooth::HardSigmoid { alpha: attrs.float_or("alpha", 0.2)?, beta: attrs.float_or("beta", 0.5)? }
            }
            Op::HardSwish => Smooth::HardSwish,
            Op::LeakyRelu => Smooth::LeakyRelu { alpha: attrs.float_or("alpha", 0.01)? },
            Op::Log => Smooth::Log,
            Op::Mish => Smooth::Mish,
            Op::Reciprocal => Smooth::Reciprocal,
            Op::Round => Smooth::Round,
            Op::Sigmoid => Smooth::Sigmoid,
            Op::Sin => Smooth::Sin,
            Op::Softplus => Smooth::Softplus,
            Op::Sqrt => Smooth::Sqrt,
            Op::Swish => Smooth::Swish { alpha: attrs.float_or("alpha", 1.0)? },
            Op::Tanh => Smooth::Tanh,
            _ => return Self::prepare_exact(node),
        };
        Ok(Self { op: node.op, function: Function::Smooth(smooth) })
    }

    /// The functions that exist for integers or booleans too.
    fn prepare_exact(node: &Node) -> Result<Self, OpError> {
        let function = match node.op {
            Op::Abs => Function::Abs,
            Op::Neg => Function::Neg,
            Op::Sign => Function::Sign,
            Op::Relu => Function::Relu,
            Op::Clip => Function::Clip,
            Op::Not => Function::Not,
            Op::IsNaN => Function::IsNan,
            Op::IsInf => Function::IsInf {
                negative: node.attrs.flag("detect_negative", true)?,
                positive: node.attrs.flag("detect_positive", true)?,
            },
            other => return Err(OpError::Unsupported(format!("{} as a function of one element", other.name()))),
        };
        Ok(Self { op: node.op, function })
    }

    /// Applies it.
    pub fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = required(inputs, 0)?;
        let out = if matches!(self.function, Function::Clip) {
            clip(x, optional(inputs, 1), optional(inputs, 2))?
        } else if goes_through_f32(x.dtype()) {
            through_f32(&[x], x.dtype(), |wide| self.apply(wide[0], context))?
        } else {
            self.apply(x, context)?
        };
        Ok(vec![out])
    }

    /// The vector kernel for f32, where there is one.
    fn kernel(&self) -> Option<float::Unary> {
        Some(match self.function {
            Function::Abs => float::Unary::Abs,
            Function::Neg => float::Unary::Neg,
            Function::Relu => float::Unary::Relu,
            Function::Smooth(smooth) => match smooth {
                Smooth::Elu { alpha } => float::Unary::Elu { alpha },
                Smooth::Erf => float::Unary::Erf,
                Smooth::Exp => float::Unary::Exp,
                Smooth::Gelu => float::Unary::Gelu,
                Smooth::GeluTanh => float::Unary::GeluTanh,
                Smooth::HardSigmoid { alpha, beta } => float::Unary::HardSigmoid { alpha, beta },
                Smooth::HardSwish => float::Unary::HardSwish,
                Smooth::LeakyRelu { alpha } => float::Unary::LeakyRelu { slope: alpha },
                Smooth::Log => float::Unary::Ln,
                Smooth::Reciprocal => float::Unary::Reciprocal,
                Smooth::Sigmoid => float::Unary::Sigmoid,
                Smooth::Softplus => float::Unary::Softplus,
                Smooth::Sqrt => float::Unary::Sqrt,
                Smooth::Swish { alpha: 1.0 } => float::Unary::Silu,
                Smooth::Tanh => float::Unary::Tanh,
                Smooth::Ceil
                | Smooth::Cos
                | Smooth::Floor
                | Smooth::Mish
                | Smooth::Round
                | Smooth::Sin
                | Smooth::Swish { .. } => return None,
            },
            Function::Sign | Function::Clip | Function::Not | Function::IsNan | Function::IsInf { .. } => return None,
        })
    }

    fn apply(&self, x: &Tensor, context: &Context<'_>) -> Result<Tensor, OpError> {
        if let (Some(kernel), DType::F32) = (self.kernel(), x.dtype()) {
            let mut out = Tensor::zeros(DType::F32, x.shape())?;
            float::unary(context.isa, kernel, x.as_slice(), out.as_mut_slice()?, context.threads);
            return Ok(out);
        }
        if let (Function::Smooth(Smooth::Swish { alpha }), DType::F32) = (&self.function, x.dtype()) {
            return swish(*alpha, x, context);
        }
        match (&self.function, x.dtype()) {
            (Function::Smooth(f), DType::F32) => smooth::<f32>(*f, x),
            (Function::Smooth(f), DType::F64) => smooth::<f64>(*f, x),
            (Function::Not, DType::Bool) => map(x, DType::Bool, |v: u8| u8::from(v == 0)),
            (Function::IsNan, DType::F32) => map(x, DType::Bool, |v: f32| u8::from(v.is_nan())),
            (Function::IsNan, DType::F64) => map(x, DType::Bool, |v: f64| u8::from(v.is_nan())),
            (Function::IsInf { negative, positive }, DType::F32 | DType::F64) => {
                let (low, high) = (*negative, *positive);
                let test = |v: f64| u8::from((low && v == f64::NEG_INFINITY) || (high && v == f64::INFINITY));
                if x.dtype() == DType::F32 {
                    map(x, DType::Bool, |v: f32| test(v.into()))
                } else {
                    map(x, DType::Bool, test)
                }
            }
            (Function::Abs, d) => for_number!(d, self.op, T => map(x, d, <T as Signs>::abs)),
            (Function::Sign, d) => for_number!(d, self.op, T => map(x, d, <T as Signs>::sign)),
            (Function::Neg, d) if is_signed(d) => for_number!(d, self.op, T => map(x, d, <T as Signs>::neg)),
            (Function::Relu, d) if is_signed(d) => {
                for_number!(d, self.op, T => map(x, d, |v: T| if v < T::default() { T::default() } else { v }))
            }
            (_, d) => Err(OpError::dtype(self.op, d)),
        }
    }
}

/// `x · sigmoid(alpha · x)` by the vector kernel of the sigmoid.
fn swish(alpha: f32, x: &Tensor, context: &Context<'_>) -> Result<Tensor, OpError> {
    let scaled = map(x, DType::F32, |v: f32| alpha * v)?;
    let mut out = Tensor::zeros(DType::F32, x.shape())?;
    float::unary(context.isa, float::Unary::Sigmoid, scaled.as_slice(), out.as_mut_slice()?, context.threads);
    out.as_mut_slice::<f32>()?.iter_mut().zip(x.as_slice::<f32>()).for_each(|(y, &v)| *y *= v);
    Ok(out)
}

fn is_signed(dtype: DType) -> bool {
    !matches!(dtype, DType::U8 | DType::U16 | DType::U32 | DType::U64)
}

fn map<S: Element, D: Element>(x: &Tensor, to: DType, f: impl Fn(S) -> D) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(to, x.shape())?;
    for (o, &v) in out.as_mut_slice::<D>()?.iter_mut().zip(x.as_slice::<S>()) {
        *o = f(v);
    }
    Ok(out)
}

fn smooth<T: Real>(function: Smooth, x: &Tensor) -> Result<Tensor, OpError> {
    let f = |v: f32| T::of(v.into());
    let (zero, half, one) = (f(0.0), f(0.5), f(1.0));
    let to = T::DTYPE;
    match function {
        Smooth::Ceil => map(x, to, T::ceil),
        Smooth::Cos => map(x, to, T::cos),
        Smooth::Elu { alpha } => map(x, to, |v: T| if v < zero { f(alpha) * v.exp_m1() } else { v }),
        Smooth::Erf => map(x, to, T::erf),
        Smooth::Exp => map(x, to, T::exp),
        Smooth::Floor => map(x, to, T::floor),
        Smooth::Gelu => {
            let root = T::of(std::f64::consts::FRAC_1_SQRT_2);
            map(x, to, |v: T| half * v * (one + (v * root).erf()))
        }
        Smooth::GeluTanh => {
            let (scale, cubic) = (T::of((2.0 / std::f64::consts::PI).sqrt()), T::of(0.044_715));
            map(x, to, |v: T| half * v * (one + (scale * (v + cubic * v * v * v)).tanh()))
        }
        Smooth::HardSigmoid { alpha, beta } => map(x, to, |v: T| (f(alpha) * v + f(beta)).between(zero, one)),
        Smooth::HardSwish => {
            let sixth = T::of(1.0 / 6.0);
            map(x, to, |v: T| v * (v * sixth + half).between(zero, one))
        }
        Smooth::LeakyRelu { alpha } => map(x, to, |v: T| if v < zero { f(alpha) * v } else { v }),
        Smooth::Log => map(x, to, T::ln),
        Smooth::Mish => map(x, to, |v: T| v * v.softplus().tanh()),
        Smooth::Reciprocal => map(x, to, |v: T| one / v),
        Smooth::Round => map(x, to, T::round_even),
        Smooth::Sigmoid => map(x, to, T::sigmoid),
        Smooth::Sin => map(x, to, T::sin),
        Smooth::Softplus => map(x, to, T::softplus),
        Smooth::Sqrt => map(x, to, T::sqrt),
        Smooth::Swish { alpha } => map(x, to, |v: T| v * (f(alpha) * v).sigmoid()),
        Smooth::Tanh => map(x, to, T::tanh),
    }
}

/// `min(max(x, low), high)`; an end left out does not bound, and NaN stays NaN.
fn clip(x: &Tensor, low: Option<&Tensor>, high: Option<&Tensor>) -> Result<Tensor, OpError> {
    for (end, name) in [(low, "min"), (high, "max")] {
        if let Some(end) = end
            && (end.dtype() != x.dtype() || end.len() != 1)
        {
            let found = format!("{} {:?}", end.dtype(), end.shape());
            return Err(OpError::invalid(format!("{name} must be one {}, found {found}", x.dtype())));
        }
    }
    if goes_through_f32(x.dtype()) {
        let all: Vec<&Tensor> = [Some(x), low, high].into_iter().flatten().collect();
        return through_f32(&all, x.dtype(), |wide| {
            let high = high.and_then(|_| wide.last().copied());
            clip(wide[0], low.map(|_| wide[1]), high)
        });
    }
    for_number!(x.dtype(), Op::Clip, T => {
        let end = |t: Option<&Tensor>| t.and_then(|t| t.as_slice::<T>().first().copied());
        match (end(low), end(high)) {
            (None, None) => Ok(x.clone()),
            (Some(low), None) => map(x, T::DTYPE, |v: T| if v < low { low } else { v }),
            (None, Some(high)) => map(x, T::DTYPE, |v: T| if v > high { high } else { v }),
            (Some(low), Some(high)) => map(x, T::DTYPE, |v: T| {
                let v = if v < low { low } else { v };
                if v > high { high } else { v }
            }),
        }
    })
}

/// What depends on a number's sign. Negating the smallest integer gives itself, as in numpy.
trait Signs {
    fn abs(self) -> Self;
    fn neg(self) -> Self;
    fn sign(self) -> Self;
}

macro_rules! signs {
    (signed $($t:ty)*) => { $(impl Signs for $t {
        fn abs(self) -> Self { self.wrapping_abs() }
        fn neg(self) -> Self { self.wrapping_neg() }
        fn sign(self) -> Self { self.signum() }
    })* };
    (unsigned $($t:ty)*) => { $(impl Signs for $t {
        fn abs(self) -> Self { self }
        fn neg(self) -> Self { self.wrapping_neg() }
        fn sign(self) -> Self { self.min(1) }
    })* };
    (float $($t:ty)*) => { $(impl Signs for $t {
        fn abs(self) -> Self { <$t>::abs(self) }
        fn neg(self) -> Self { -self }
        fn sign(self) -> Self { if self > 0.0 { 1.0 } else if self < 0.0 { -1.0 } else { self } }
    })* };
}
signs!(signed i8 i16 i32 i64);
signs!(unsigned u8 u16 u32 u64);
signs!(float f32 f64);
