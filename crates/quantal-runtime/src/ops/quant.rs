//! QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear and com.microsoft's operators on codes.
//!
//! Every integer result is an equation of [`arith`]; these steps are its literal reading.

mod qlinear;

use super::number;
use super::{Context, Inputs, OpError, optional, required};
use crate::ops::strides::count;
use half::{bf16, f16};
use qlinear::QLinear;
use quantal_ir::op::quant::granularity;
use quantal_ir::{Attrs, Node, Op};
use quantal_tensor::{DType, Element, Granularity, Tensor, arith};

/// An operator that quantizes, dequantizes or works on codes.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Quantizing {
    Quantize { attrs: Attrs, to: Option<DType> },
    Dequantize { attrs: Attrs, to: Option<DType> },
    Dynamic,
    Codes(QLinear),
}

impl Quantizing {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        let attrs = node.attrs.clone();
        Ok(match node.op {
            Op::QuantizeLinear | Op::MsQuantizeLinear => Self::Quantize { to: output_type(&attrs)?, attrs },
            Op::DequantizeLinear | Op::MsDequantizeLinear => Self::Dequantize { to: output_type(&attrs)?, attrs },
            Op::DynamicQuantizeLinear => Self::Dynamic,
            _ => Self::Codes(QLinear::of(node)?),
        })
    }

    /// Applies it.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        match self {
            Self::Quantize { attrs, to } => Ok(vec![quantize(attrs, *to, inputs)?]),
            Self::Dequantize { attrs, to } => Ok(vec![dequantize(attrs, *to, inputs)?]),
            Self::Dynamic => dynamic(required(inputs, 0)?),
            Self::Codes(op) => Ok(vec![op.run(inputs)?]),
        }
    }
}

fn output_type(attrs: &Attrs) -> Result<Option<DType>, OpError> {
    let code = attrs.int_or("output_dtype", 0)?;
    if code == 0 {
        return Ok(None);
    }
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
    dtype.map(Some).ok_or_else(|| OpError::invalid(format!("`output_dtype` is {code}, which is no element type")))
}

/// The code range of the types that floats can be quantized to.
fn range(op: Op, dtype: DType) -> Result<(i32, i32), OpError> {
    dtype.int_range().filter(|_| dtype != DType::I32).ok_or_else(|| OpError::dtype(op, dtype))
}

/// Where the parameters of an element lie: elements in runs of `inner`, runs along `axis`, `block` runs to an entry.
struct Placing {
    inner: usize,
    axis: usize,
    block: usize,
    /// Entries along the axis; for blocks, each with `inner` parameters.
    entries: usize,
    blocked: bool,
}

impl Placing {
    /// Checks the scale, and the zero point if given, against the data.
    fn of(attrs: &Attrs, data: &Tensor, scale: &Tensor, zero: Option<&Tensor>) -> Result<Self, OpError> {
        let (x, s) = (data.shape(), scale.shape());
        if let Some(z) = zero.filter(|z| z.shape() != s && (z.len() != 1 || scale.len() != 1)) {
            return Err(OpError::invalid(format!("scale has shape {s:?}, zero point {:?}", z.shape())));
        }
        let inner = |axis: usize| count(&x[axis + 1..]);
        match granularity(attrs, x.len(), s)? {
            Granularity::PerChannel { axis } => {
                if s != [x[axis]] {
                    let text = format!(
                        "axis {axis} of the data of shape {x:?} needs a scale of shape [{}], found {s:?}",
                        x[axis]
                    );
                    return Err(OpError::invalid(text));
                }
                Ok(Self { inner: inner(axis)?, axis: x[axis], block: 1, entries: x[axis], blocked: false })
            }
            Granularity::PerBlock { axis, size } => {
                let mut wanted = x.to_vec();
                wanted[axis] = x[axis].div_ceil(size);
                if s != wanted {
                    let text = format!(
                        "blocks of {size} on axis {axis} of {x:?} need a scale of shape {wanted:?}, found {s:?}"
                    );
                    return Err(OpError::invalid(text));
                }
                Ok(Self { inner: inner(axis)?, axis: x[axis], block: size, entries: wanted[axis], blocked: true })
            }
            Granularity::PerTensor | Granularity::PerToken => {
                Ok(Self { inner: data.len().max(1), axis: 1, block: 1, entries: 1, blocked: false })
            }
        }
    }

    /// Calls `f(first element, elements, first parameter, whether each element has its own)` for each run.
    fn runs(&self, len: usize, mut f: impl FnMut(usize, usize, usize, bool)) {
        if len == 0 {
            return;
        }
        for (i, at) in (0..len).step_by(self.inner).enumerate() {
            let (outer, entry) = (i / self.axis, i % self.axis / self.block);
            if self.blocked {
                f(at, self.inner, (outer * self.entries + entry) * self.inner, true);
            } else {
                f(at, self.inner, entry, false);
            }
        }
    }
}

fn quantize(attrs: &Attrs, to: Option<DType>, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
    let op = Op::QuantizeLinear;
    let (x, scale, zero) = (required(inputs, 0)?, required(inputs, 1)?, optional(inputs, 2));
    let dtype = match (zero.map(Tensor::dtype), to) {
        (Some(z), Some(to)) if z != to => {
            return Err(OpError::invalid(format!("zero point of {z} with `output_dtype` {to}")));
        }
        (z, to) => z.or(to).unwrap_or(DType::U8),
    };
    let (qmin, qmax) = range(op, dtype)?;
    let placing = Placing::of(attrs, x, scale, zero)?;
    let values = match x.dtype() {
        DType::I32 => x.to_f32_vec().map(Into::into).ok_or_else(|| OpError::dtype(op, x.dtype()))?,
        _ => number::floats(op, x)?,
    };
    let scales = number::floats(op, scale)?;
    let zeros = zero.map(|z| number::codes(op, z)).transpose()?;
    let zeros = zeros.as_ref().map(Tensor::as_slice::<i32>);
    let zero = |p: usize| zeros.map_or(0, |z| z[p]);
    match precision(attrs)? {
        DType::F16 => {
            let round = |v| f16::from_f32(v).to_f32();
            // A quotient of halves that is rounded to float32 first rounds to the same half.
            let quotient = |i: usize, p: usize| round(round(values[i]) / round(scales[p]));
            fill(dtype, x.shape(), |i, p| arith::quantize(quotient(i, p), 1.0, zero(p), qmin, qmax), &placing)
        }
        DType::BF16 => {
            let round = |v| bf16::from_f32(v).to_f32();
            let quotient = |i: usize, p: usize| round(round(values[i]) / round(scales[p]));
            fill(dtype, x.shape(), |i, p| arith::quantize(quotient(i, p), 1.0, zero(p), qmin, qmax), &placing)
        }
        _ => fill(dtype, x.shape(), |i, p| arith::quantize(values[i], scales[p], zero(p), qmin, qmax), &placing),
    }
}

/// The type in which QuantizeLinear divides by the scale: float32, but where `precision` says otherwise.
fn precision(attrs: &Attrs) -> Result<DType, OpError> {
    match attrs.int_or("precision", 0)? {
        0 => Ok(DType::F32),
        code => match i32::try_from(code).ok().and_then(DType::from_onnx) {
            Some(dtype @ (DType::F32 | DType::F16 | DType::BF16)) => Ok(dtype),
            _ => Err(OpError::invalid(format!("`precision` is {code}, which is no float of 16 or 32 bits"))),
        },
    }
}

/// Codes from `f(element, parameter)`.
fn fill(dtype: DType, shape: &[usize], f: impl Fn(usize, usize) -> i32, placing: &Placing) -> Result<Tensor, OpError> {
    fn each<T: Element>(y: &mut Tensor, placing: &Placing, f: impl Fn(usize, usize) -> T) -> Result<(), OpError> {
        let out = y.as_mut_slice::<T>()?;
        placing.runs(out.len(), |at, n, p, own| {
            for (i, v) in out[at..at + n].iter_mut().enumerate() {
                *v = f(at + i, if own { p + i } else { p });
            }
        });
        Ok(())
    }
    let mut y = Tensor::zeros(dtype, shape)?;
    match dtype {
        DType::U16 => each::<u16>(&mut y, placing, |i, p| f(i, p) as u16)?,
        DType::I16 => each::<i16>(&mut y, placing, |i, p| f(i, p) as i16)?,
        DType::I8 | DType::I4 | DType::I2 => each::<i8>(&mut y, placing, |i, p| f(i, p) as i8)?,
        _ => each::<u8>(&mut y, placing, |i, p| f(i, p) as u8)?,
    }
    Ok(y)
}

fn dequantize(attrs: &Attrs, to: Option<DType>, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
    let op = Op::DequantizeLinear;
    let (x, scale, zero) = (required(inputs, 0)?, required(inputs, 1)?, optional(inputs, 2));
    if let Some(z) = zero.filter(|z| z.dtype() != x.dtype()) {
        return Err(OpError::invalid(format!("codes of {} with a zero point of {}", x.dtype(), z.dtype())));
    }
    let placing = Placing::of(attrs, x, scale, zero)?;
    let scales = number::floats(op, scale)?;
    let zeros = zero.map(|z| number::codes(op, z)).transpose()?;
    let zeros = zeros.as_ref().map(Tensor::as_slice::<i32>);
    let codes = number::codes(op, x)?;
    let codes = codes.as_slice::<i32>();
    let mut y = Tensor::zeros(DType::F32, x.shape())?;
    let out = y.as_mut_slice::<f32>()?;
    placing.runs(out.len(), |at, n, p, own| {
        for i in 0..n {
            let p = if own { p + i } else { p };
            out[at + i] = arith::dequantize(codes[at + i], scales[p], zeros.map_or(0, |z| z[p]));
        }
    });
    number::store_as(y, to.unwrap_or(scale.dtype()))
}

/// Codes in u8, scale and zero point of the tensor's own range, arith (9). NaN does not count.
fn dynamic(x: &Tensor) -> Result<Vec<Tensor>, OpError> {
    let values = number::floats(Op::DynamicQuantizeLinear, x)?;
    let (min, max) = values.iter().fold((0.0_f32, 0.0_f32), |(a, b), &v| (a.min(v), b.max(v)));
    // The standard goes on with a range that is not finite; by IEEE rules its scale is infinite.
    let (scale, zero) = arith::dynamic_qparams(min, max).unwrap_or((f32::INFINITY, 0));
    let mut y = Tensor::zeros(DType::U8, x.shape())?;
    for (q, &v) in y.as_mut_slice::<u8>()?.iter_mut().zip(values.iter()) {
        *q = arith::quantize(v, scale, zero, 0, 255) as u8;
    }
    Ok(vec![y, Tensor::scalar(scale)?, Tensor::scalar(zero as u8)?])
}

#[cfg(test)]
mod tests;
