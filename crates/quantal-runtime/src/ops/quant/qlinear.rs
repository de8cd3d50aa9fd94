//! com.microsoft's QLinear operators: functions of codes to codes, each side with a scale and a zero point.

use super::super::conv::byte_range;
use super::super::number;
use super::super::pool::Windows;
use super::super::softmax;
use super::super::strides::{broadcast_shape, count};
use super::super::walk::{Walk, broadcast_strides, dense_strides, gather};
use super::super::{Inputs, OpError, optional, required};
use quantal_ir::op::pool::PoolAttrs;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{Node, Op};
use quantal_tensor::arith::{self, Affine};
use quantal_tensor::{DType, Tensor};

/// An operator on 8-bit codes.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum QLinear {
    Add,
    Mul,
    Sigmoid,
    LeakyRelu { alpha: f32 },
    Softmax { axis: i64, coerced: bool },
    Concat { axis: i64 },
    Where,
    AveragePool { attrs: PoolAttrs, channels_last: bool },
    GlobalAveragePool { channels_last: bool },
}

impl QLinear {
    pub(super) fn of(node: &Node) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        Ok(match node.op {
            Op::QLinearAdd => Self::Add,
            Op::QLinearMul => Self::Mul,
            Op::QLinearSigmoid => Self::Sigmoid,
            Op::QLinearLeakyRelu => Self::LeakyRelu { alpha: attrs.float_or("alpha", 0.01)? },
            Op::QLinearSoftmax => {
                Self::Softmax { axis: attrs.int_or("axis", -1)?, coerced: attrs.int_or("opset", 13)? < 13 }
            }
            Op::QLinearConcat => {
                let axis = attrs.int("axis")?.ok_or(quantal_ir::attrs::AttrError::Missing("axis"))?;
                Self::Concat { axis }
            }
            Op::QLinearWhere => Self::Where,
            Op::QLinearAveragePool => {
                Self::AveragePool { attrs: PoolAttrs::of(attrs)?, channels_last: attrs.flag("channels_last", false)? }
            }
            Op::QLinearGlobalAveragePool => {
                Self::GlobalAveragePool { channels_last: attrs.flag("channels_last", false)? }
            }
            other => return Err(OpError::Unsupported(format!("operator {}", other.name()))),
        })
    }

    fn op(&self) -> Op {
        match self {
            Self::Add => Op::QLinearAdd,
            Self::Mul => Op::QLinearMul,
            Self::Sigmoid => Op::QLinearSigmoid,
            Self::LeakyRelu { .. } => Op::QLinearLeakyRelu,
            Self::Softmax { .. } => Op::QLinearSoftmax,
            Self::Concat { .. } => Op::QLinearConcat,
            Self::Where => Op::QLinearWhere,
            Self::AveragePool { .. } => Op::QLinearAveragePool,
            Self::GlobalAveragePool { .. } => Op::QLinearGlobalAveragePool,
        }
    }

    pub(super) fn run(&self, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
        let op = self.op();
        let first = required(inputs, 0)?;
        // The parameters of a value whose scale is input `i` and whose zero point follows.
        let params = |i: usize, dtype: DType| affine(op, inputs, i, dtype);
        match self {
            Self::Add | Self::Mul => {
                let b = required(inputs, 3)?;
                same_type(op, first, b)?;
                let (p, q, r) = (params(1, first.dtype())?, params(4, b.dtype())?, params(6, first.dtype())?);
                let f = |a: i32, b: i32| {
                    let (a, b) = (a - p.zero_point, b - q.zero_point);
                    if matches!(self, Self::Mul) {
                        let m = arith::multiplier(p.scale, q.scale, r.scale);
                        return arith::requantize(a * b, m, r.zero_point, r.qmin, r.qmax);
                    }
                    let (m_a, m_b) = (p.scale / r.scale, q.scale / r.scale);
                    arith::add(a, m_a, b, m_b, r.zero_point, r.qmin, r.qmax)
                };
                let shape = broadcast_shape(&[first.shape(), b.shape()])?;
                let walk =
                    |t: &Tensor| Ok::<_, OpError>(Walk::new(&shape, &broadcast_strides("input", t.shape(), &shape)?));
                let (ca, cb) = (number::codes(op, first)?, number::codes(op, b)?);
                let (ca, cb) = (ca.as_slice::<i32>(), cb.as_slice::<i32>());
                let mut y = Tensor::zeros(first.dtype(), &shape)?;
                write(&mut y, walk(first)?.zip(walk(b)?).map(|(i, j)| f(ca[i], cb[j])))?;
                Ok(y)
            }
            Self::Sigmoid => {
                let f = |x: f64| 1.0 / (1.0 + libm::exp(-x));
                looked_up(first, &arith::table(f, params(1, first.dtype())?, params(3, first.dtype())?))
            }
            Self::LeakyRelu { alpha } => {
                let f = |x: f64| if x < 0.0 { x * f64::from(*alpha) } else { x };
                looked_up(first, &arith::table(f, params(1, first.dtype())?, params(3, first.dtype())?))
            }
            Self::Softmax { axis, coerced } => {
                let (p, r) = (params(1, first.dtype())?, params(3, first.dtype())?);
                let (n, inner) = softmax::extent(first.shape(), *axis, *coerced)?;
                let codes = number::codes(op, first)?;
                let mut real = Tensor::zeros(DType::F32, first.shape())?;
                for (v, &q) in real.as_mut_slice::<f32>()?.iter_mut().zip(codes.as_slice::<i32>()) {
                    *v = arith::dequantize(q, p.scale, p.zero_point);
                }
                softmax::softmax(real.as_mut_slice()?, n, inner, false);
                let mut y = Tensor::zeros(first.dtype(), first.shape())?;
                let q = |&v: &f32| arith::quantize(v, r.scale, r.zero_point, r.qmin, r.qmax);
                write(&mut y, real.as_slice::<f32>().iter().map(q))?;
                Ok(y)
            }
            Self::Concat { axis } => concat(inputs, *axis),
            Self::Where => {
                let (x, b) = (required(inputs, 1)?, required(inputs, 4)?);
                same_type(op, x, b)?;
                if first.dtype() != DType::Bool {
                    return Err(OpError::dtype(op, first.dtype()));
                }
                let to = params(7, x.dtype())?;
                let x1 = looked_up(x, &requantized(params(2, x.dtype())?, to))?;
                let b1 = looked_up(b, &requantized(params(5, b.dtype())?, to))?;
                let shape = broadcast_shape(&[first.shape(), x.shape(), b.shape()])?;
                let walk =
                    |t: &Tensor| Ok::<_, OpError>(Walk::new(&shape, &broadcast_strides("input", t.shape(), &shape)?));
                let mut y = Tensor::zeros(x.dtype(), &shape)?;
                let (yes, no, when) = (number::codes(op, &x1)?, number::codes(op, &b1)?, first.as_slice::<u8>());
                let (yes, no) = (yes.as_slice::<i32>(), no.as_slice::<i32>());
                let picked = walk(first)?.zip(walk(x)?.zip(walk(b)?));
                write(&mut y, picked.map(|(c, (i, j))| if when[c] == 0 { no[j] } else { yes[i] }))?;
                Ok(y)
            }
            Self::AveragePool { channels_last, .. } | Self::GlobalAveragePool { channels_last } => {
                let (p, r) = (params(1, first.dtype())?, params(3, first.dtype())?);
                if first.rank() < 3 {
                    return Err(OpError::invalid(format!("{} on shape {:?}", op.name(), first.shape())));
                }
                if !channels_last {
                    return self.pooled(first, p, r);
                }
                let y = self.pooled(&moved(first, true)?, p, r)?;
                moved(&y, false)
            }
        }
    }

    /// Means of windows of `[N, C, …]`, as `arith (5)`.
    fn pooled(&self, x: &Tensor, p: Affine, r: Affine) -> Result<Tensor, OpError> {
        let (op, sizes) = (self.op(), &x.shape()[2..]);
        let plane = count(sizes)?;
        let codes = number::codes(op, x)?;
        let codes = codes.as_slice::<i32>();
        let mean = |sum: i32, n: usize| {
            let m = arith::mean_multiplier(p.scale, r.scale, n);
            arith::requantize(sum, m, r.zero_point, r.qmin, r.qmax)
        };
        let Self::AveragePool { attrs, .. } = self else {
            let mut shape = x.shape().to_vec();
            shape[2..].fill(1);
            let mut y = Tensor::zeros(x.dtype(), &shape)?;
            if plane == 0 && !y.is_empty() {
                return Err(OpError::invalid(format!("cannot pool over nothing: the input has shape {:?}", x.shape())));
            }
            let sums = codes.chunks_exact(plane.max(1));
            let centred = |c: &[i32]| c.iter().fold(0_i32, |s, &q| s.wrapping_add(q - p.zero_point));
            write(&mut y, sums.map(|c| mean(centred(c), plane)))?;
            return Ok(y);
        };
        let windows = Windows::new(&attrs.window, sizes, attrs.ceil_mode)?;
        let shape = [&x.shape()[..2], &windows.out].concat();
        let mut acc = Tensor::zeros(DType::I32, &shape)?;
        if !acc.is_empty() {
            let plane_out = count(&windows.out)?;
            for (c, out) in acc.as_mut_slice::<i32>()?.chunks_exact_mut(plane_out).enumerate() {
                let image = &codes[c * plane..][..plane];
                windows.each(|o, padded, positions| {
                    let (mut sum, mut n) = (0_i32, 0);
                    for at in positions {
                        sum = sum.wrapping_add(image[at] - p.zero_point);
                        n += 1;
                    }
                    out[o] = mean(sum, if attrs.count_include_pad { padded } else { n });
                });
            }
        }
        number::store_codes(&acc, x.dtype())
    }
}

/// Scale, zero point and range of a value of 8-bit codes; a zero point left out is 0.
fn affine(op: Op, inputs: &Inputs<'_>, i: usize, dtype: DType) -> Result<Affine, OpError> {
    let (qmin, qmax) = byte_range(op, dtype)?;
    let scale = number::one_f32(&format!("the scale in input {i}"), required(inputs, i)?)?;
    let zero_point = match optional(inputs, i + 1) {
        Some(z) if z.dtype() == dtype => number::one_int(&format!("the zero point in input {}", i + 1), z)? as i32,
        Some(z) => return Err(OpError::invalid(format!("codes of {dtype} with a zero point of {}", z.dtype()))),
        None => 0,
    };
    Ok(Affine { scale, zero_point, qmin, qmax })
}

fn same_type(op: Op, a: &Tensor, b: &Tensor) -> Result<(), OpError> {
    if a.dtype() == b.dtype() {
        return Ok(());
    }
    Err(OpError::invalid(format!("{} of {} and {}", op.name(), a.dtype(), b.dtype())))
}

/// The table from codes of one scale to codes of another.
fn requantized(from: Affine, to: Affine) -> [u8; 256] {
    if from == to {
        return std::array::from_fn(|byte| byte as u8);
    }
    arith::table(|x| x, from, to)
}

fn looked_up(x: &Tensor, table: &[u8; 256]) -> Result<Tensor, OpError> {
    let mut y = Tensor::zeros(x.dtype(), x.shape())?;
    write(&mut y, x.bytes().iter().map(|&q| i32::from(table[usize::from(q)])))?;
    Ok(y)
}

/// Writes codes to an 8-bit tensor; the low byte of each is the same for u8 and s8.
fn write(y: &mut Tensor, codes: impl Iterator<Item = i32>) -> Result<(), OpError> {
    if y.dtype() == DType::I8 {
        y.as_mut_slice::<i8>()?.iter_mut().zip(codes).for_each(|(v, q)| *v = q as i8);
    } else {
        y.as_mut_slice::<u8>()?.iter_mut().zip(codes).for_each(|(v, q)| *v = q as u8);
    }
    Ok(())
}

fn concat(inputs: &Inputs<'_>, axis: i64) -> Result<Tensor, OpError> {
    let op = Op::QLinearConcat;
    let zero = required(inputs, 1)?;
    let to = affine(op, inputs, 0, zero.dtype())?;
    if inputs.len() < 5 || !(inputs.len() - 2).is_multiple_of(3) {
        return Err(OpError::invalid(format!(
            "{} takes triples after its first two inputs, found {}",
            op.name(),
            inputs.len()
        )));
    }
    let mut parts = Vec::new();
    for i in (2..inputs.len()).step_by(3) {
        let part = required(inputs, i)?;
        same_type(op, part, zero)?;
        parts.push(looked_up(part, &requantized(affine(op, inputs, i + 1, part.dtype())?, to))?);
    }
    let mut shape = parts[0].shape().to_vec();
    let axis = normalize_axis(axis, shape.len())?;
    let mut total = 0_usize;
    for p in &parts {
        let fits = p.rank() == shape.len() && (0..shape.len()).all(|i| i == axis || p.shape()[i] == shape[i]);
        let sum = total.checked_add(if fits { p.shape()[axis] } else { 0 }).filter(|_| fits);
        total = sum.ok_or_else(|| {
            OpError::invalid(format!("cannot join shapes {shape:?} and {:?} on axis {axis}", p.shape()))
        })?;
    }
    shape[axis] = total;
    let inner = count(&shape[axis + 1..])?;
    let mut y = Tensor::zeros(zero.dtype(), &shape)?;
    if y.is_empty() {
        return Ok(y);
    }
    let rows = y.len() / (total * inner);
    let runs: Vec<usize> = parts.iter().map(|p| p.shape()[axis] * inner).collect();
    let codes = parts.iter().map(|p| number::codes(op, p)).collect::<Result<Vec<_>, _>>()?;
    let joined = (0..rows).flat_map(|r| {
        codes.iter().zip(&runs).flat_map(move |(t, &n)| t.as_slice::<i32>()[r * n..][..n].iter().copied())
    });
    write(&mut y, joined)?;
    Ok(y)
}

/// Channels moved from last to second place, or back.
fn moved(t: &Tensor, forward: bool) -> Result<Tensor, OpError> {
    let rank = t.rank();
    let order: Vec<usize> = if forward {
        [0, rank - 1].into_iter().chain(1..rank - 1).collect()
    } else {
        std::iter::once(0).chain(2..rank).chain([1]).collect()
    };
    let strides = dense_strides(t.shape());
    let shape: Vec<usize> = order.iter().map(|&i| t.shape()[i]).collect();
    let strides: Vec<usize> = order.iter().map(|&i| strides[i]).collect();
    if t.dtype() == DType::I8 {
        gather::<i8>(t.as_slice(), &shape, &strides)
    } else {
        gather::<u8>(t.as_slice(), &shape, &strides)
    }
}
