//! Changing the element type: `Cast`, `CastLike`.
//!
//! Float to integer truncates; a value out of range takes the nearer end and NaN becomes 0 (ONNX leaves both open).
//! Integer to a narrower integer keeps the low bits. Anything to bool asks "is it not zero".

use super::dispatch::for_number;
use super::{Context, Inputs, OpError, required};
use half::{bf16, f16};
use quantal_ir::attrs::AttrError;
use quantal_ir::{Node, Op};
use quantal_tensor::{DType, Element, Tensor};

/// `Cast` and `CastLike`.
#[derive(Debug, Clone)]
pub struct CastTo {
    /// The target; `None` takes it from the second input.
    to: Option<DType>,
}

impl CastTo {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        if node.op == Op::CastLike {
            return Ok(Self { to: None });
        }
        let code = node.attrs.int("to")?.ok_or(AttrError::Missing("to"))?;
        let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
        let unknown = || AttrError::Invalid { name: "to", problem: format!("is {code}, which is no element type") };
        Ok(Self { to: Some(dtype.ok_or_else(unknown)?) })
    }

    /// Applies it.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let to = self.to.map_or_else(|| Ok(required(inputs, 1)?.dtype()), Ok::<_, OpError>)?;
        Ok(vec![cast(required(inputs, 0)?, to)?])
    }
}

/// The elements of `x` as elements of type `to`. A tensor that has the type already shares its bytes.
pub(crate) fn cast(x: &Tensor, to: DType) -> Result<Tensor, OpError> {
    if x.dtype() == to {
        return Ok(x.clone());
    }
    match x.dtype() {
        DType::F16 => from_float(x, to, |v: f16| v.to_f64()),
        DType::BF16 => from_float(x, to, |v: bf16| v.to_f64()),
        DType::F32 => from_float(x, to, |v: f32| f64::from(v)),
        DType::F64 => from_float(x, to, |v: f64| v),
        DType::U64 => from_integer(x, to, |v: u64| v as i64, |v| v as f64),
        DType::Bool | DType::U4 | DType::U2 => from_integer(x, to, |v: u8| v.into(), f64::from),
        DType::I4 | DType::I2 => from_integer(x, to, |v: i8| v.into(), f64::from),
        other => for_number!(other, Op::Cast, T => from_integer(x, to, |v: T| v as i64, |v: T| v as f64)),
    }
}

fn from_float<S: Element>(x: &Tensor, to: DType, wide: impl Fn(S) -> f64) -> Result<Tensor, OpError> {
    match to {
        DType::F16 => map(x, to, |v| f16::from_f64(wide(v))),
        DType::BF16 => map(x, to, |v| bf16::from_f64(wide(v))),
        DType::Bool => map(x, to, |v| u8::from(wide(v) != 0.0)),
        DType::U4 => map(x, to, |v| wide(v) as i64 as u8 & 0xf),
        DType::U2 => map(x, to, |v| wide(v) as i64 as u8 & 0x3),
        DType::I4 => map(x, to, |v| low_bits(wide(v) as i64, 4)),
        DType::I2 => map(x, to, |v| low_bits(wide(v) as i64, 2)),
        _ => for_number!(to, Op::Cast, T => map(x, to, |v| wide(v) as T)),
    }
}

fn from_integer<S: Element>(
    x: &Tensor,
    to: DType,
    wide: impl Fn(S) -> i64,
    float: impl Fn(S) -> f64,
) -> Result<Tensor, OpError> {
    match to {
        DType::F16 => map(x, to, |v| f16::from_f64(float(v))),
        DType::BF16 => map(x, to, |v| bf16::from_f64(float(v))),
        // From the integer itself: by way of f64 a large one would be rounded twice.
        DType::F32 if x.dtype() == DType::U64 => map(x, to, |v| wide(v) as u64 as f32),
        DType::F32 => map(x, to, |v| wide(v) as f32),
        DType::F64 => map(x, to, float),
        DType::Bool => map(x, to, |v| u8::from(wide(v) != 0)),
        DType::U4 => map(x, to, |v| wide(v) as u8 & 0xf),
        DType::U2 => map(x, to, |v| wide(v) as u8 & 0x3),
        DType::I4 => map(x, to, |v| low_bits(wide(v), 4)),
        DType::I2 => map(x, to, |v| low_bits(wide(v), 2)),
        _ => for_number!(to, Op::Cast, T => map(x, to, |v| wide(v) as T)),
    }
}

/// The low bits, as a signed number.
fn low_bits(v: i64, bits: u32) -> i8 {
    ((v as i8) << (8 - bits)) >> (8 - bits)
}

fn map<S: Element, D: Element>(x: &Tensor, to: DType, f: impl Fn(S) -> D) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(to, x.shape())?;
    for (o, &v) in out.as_mut_slice::<D>()?.iter_mut().zip(x.as_slice::<S>()) {
        *o = f(v);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_truncate_and_saturate() {
        let x = Tensor::from_slice(&[5], &[1.9_f32, -1.9, 300.0, f32::NAN, -0.5]).unwrap();
        assert_eq!(cast(&x, DType::I32).unwrap().as_slice::<i32>(), [1, -1, 300, 0, 0]);
        assert_eq!(cast(&x, DType::I8).unwrap().as_slice::<i8>(), [1, -1, 127, 0, 0]);
        assert_eq!(cast(&x, DType::Bool).unwrap().as_slice::<u8>(), [1, 1, 1, 1, 1]);
    }

    #[test]
    fn integers_keep_their_low_bits_and_large_ones_round_once() {
        let x = Tensor::from_slice(&[3], &[257_i64, -1, (1 << 60) + (1 << 36) + 1]).unwrap();
        assert_eq!(cast(&x, DType::U8).unwrap().as_slice::<u8>(), [1, 255, 1]);
        // 2^60 + 2^36 lies half way between two floats (steps of 2^37); the last bit decides upwards.
        assert_eq!(cast(&x, DType::F32).unwrap().as_slice::<f32>()[2], 2.0_f32.powi(60) + 2.0_f32.powi(37));
        assert_eq!(cast(&x, DType::I4).unwrap().as_slice::<i8>(), [1, -1, 1]);
    }

    #[test]
    fn what_cannot_be_cast_says_so() {
        let x = Tensor::from_slice(&[1], &[1.0_f32]).unwrap();
        assert!(matches!(cast(&x, DType::C64), Err(OpError::Unsupported(_))));
        assert!(matches!(cast(&x, DType::String), Err(OpError::Unsupported(_))));
    }
}
