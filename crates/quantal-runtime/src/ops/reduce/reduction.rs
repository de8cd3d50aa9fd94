//! `Reduce…`: sums, products and extremes over axes.
//!
//! Neighbouring axes of f32 go to the kernels. Other sums of floats are collected in f64 and rounded once, in a fixed
//! order; sums of integers wrap in 64 bits.

use crate::ops::cast::cast;
use crate::ops::dispatch::for_number;
use crate::ops::strides::{Nest, axis_flags, contiguous, integers};
use crate::ops::{Context, Inputs, OpError, optional, required};
use quantal_ir::{Node, Op};
use quantal_kernels::float;
use quantal_tensor::{DType, Element, Tensor};

/// A reduction over axes.
#[derive(Debug, Clone)]
pub struct Reduction {
    op: Op,
    kind: Kind,
    axes: Option<Vec<i64>>,
    keep_dims: bool,
    /// No axes mean none, not all.
    empty_is_none: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    L1,
    L2,
    LogSum,
    LogSumExp,
    Max,
    Mean,
    Min,
    Prod,
    Sum,
    SumSquare,
}

impl Reduction {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        let kind = match node.op {
            Op::ReduceL1 => Kind::L1,
            Op::ReduceL2 => Kind::L2,
            Op::ReduceLogSum => Kind::LogSum,
            Op::ReduceLogSumExp => Kind::LogSumExp,
            Op::ReduceMax => Kind::Max,
            Op::ReduceMean => Kind::Mean,
            Op::ReduceMin => Kind::Min,
            Op::ReduceProd => Kind::Prod,
            Op::ReduceSum => Kind::Sum,
            Op::ReduceSumSquare => Kind::SumSquare,
            other => return Err(OpError::Unsupported(format!("{} as a reduction", other.name()))),
        };
        Ok(Self {
            op: node.op,
            kind,
            axes: node.attrs.ints("axes")?.map(<[i64]>::to_vec),
            keep_dims: node.attrs.flag("keepdims", true)?,
            empty_is_none: node.attrs.flag("noop_with_empty_axes", false)?,
        })
    }

    /// Applies it.
    pub fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = required(inputs, 0)?;
        let axes = match optional(inputs, 1) {
            Some(t) => integers(t, "axes")?,
            None => self.axes.clone().unwrap_or_default(),
        };
        let reduced = if axes.is_empty() { vec![!self.empty_is_none; x.rank()] } else { axis_flags(&axes, x.rank())? };
        let dims = || x.shape().iter().zip(&reduced);
        let kept: Vec<usize> = dims().map(|(&d, &r)| if r { 1 } else { d }).collect();
        let shape: Vec<usize> =
            if self.keep_dims { kept.clone() } else { dims().filter(|(_, r)| !**r).map(|(&d, _)| d).collect() };
        if let (Some(kernel), DType::F32, Some(axes)) = (self.kernel(), x.dtype(), neighbours(x.shape(), &reduced)) {
            let mut out = Tensor::zeros(DType::F32, &shape)?;
            float::reduce(context.isa, kernel, x.as_slice(), axes, out.as_mut_slice()?, context.threads);
            return Ok(vec![out]);
        }
        let plan = Plan::new(x.shape(), &reduced, &kept);
        let out = match x.dtype() {
            DType::F16 | DType::BF16 => cast(&self.reduce(&cast(x, DType::F32)?, &shape, &plan)?, x.dtype())?,
            _ => self.reduce(x, &shape, &plan)?,
        };
        Ok(vec![out])
    }

    fn kernel(&self) -> Option<float::Reduce> {
        match self.kind {
            Kind::Max => Some(float::Reduce::Max),
            Kind::Mean => Some(float::Reduce::Mean),
            Kind::Min => Some(float::Reduce::Min),
            Kind::Prod => Some(float::Reduce::Product),
            Kind::Sum => Some(float::Reduce::Sum),
            Kind::L1 | Kind::L2 | Kind::LogSum | Kind::LogSumExp | Kind::SumSquare => None,
        }
    }

    fn reduce(&self, x: &Tensor, shape: &[usize], plan: &Plan) -> Result<Tensor, OpError> {
        let d = x.dtype();
        match (self.kind, d) {
            (Kind::Max, DType::Bool) => plan.extreme(x, shape, 0_u8, |a, b| a | b),
            (Kind::Min, DType::Bool) => plan.extreme(x, shape, 1_u8, |a, b| a & b),
            (Kind::Max, _) => for_number!(d, self.op, T => {
                plan.extreme(x, shape, <T as Bounded>::LOWEST, |a: T, b: T| if b > a || b != b { b } else { a })
            }),
            (Kind::Min, _) => for_number!(d, self.op, T => {
                plan.extreme(x, shape, <T as Bounded>::HIGHEST, |a: T, b: T| if b < a || b != b { b } else { a })
            }),
            (Kind::L2 | Kind::LogSum | Kind::LogSumExp, _) => self.reduce_real(x, shape, plan),
            (Kind::L1 | Kind::Mean | Kind::Prod | Kind::Sum | Kind::SumSquare, DType::F32 | DType::F64) => {
                self.reduce_real(x, shape, plan)
            }
            (Kind::L1 | Kind::Mean | Kind::Prod | Kind::Sum | Kind::SumSquare, _) => {
                for_number!(d, self.op, T => self.reduce_integer(x, shape, plan, |v: T| v as i64))
            }
        }
    }

    fn reduce_real(&self, x: &Tensor, shape: &[usize], plan: &Plan) -> Result<Tensor, OpError> {
        match x.dtype() {
            DType::F32 => cast(&self.reduce_f64(x, shape, plan, |v: f32| v.into())?, DType::F32),
            DType::F64 => self.reduce_f64(x, shape, plan, |v: f64| v),
            d => for_number!(d, self.op, T => cast(&self.reduce_f64(x, shape, plan, |v: T| v as f64)?, d)),
        }
    }

    fn reduce_f64<T: Element>(
        &self,
        x: &Tensor,
        shape: &[usize],
        plan: &Plan,
        wide: impl Fn(T) -> f64 + Copy,
    ) -> Result<Tensor, OpError> {
        let mut out = Tensor::zeros(DType::F64, shape)?;
        let x = x.as_slice::<T>();
        let sums = out.as_mut_slice::<f64>()?;
        match self.kind {
            Kind::Sum | Kind::LogSum | Kind::Mean => plan.sum(x, sums, wide),
            Kind::L1 => plan.sum(x, sums, |v| wide(v).abs()),
            Kind::L2 | Kind::SumSquare => plan.sum(x, sums, |v| wide(v) * wide(v)),
            Kind::Prod => {
                sums.fill(1.0);
                plan.fold(x, sums, |p, v| p * wide(v));
            }
            Kind::LogSumExp => {
                let mut tops = Tensor::zeros(DType::F64, shape)?;
                let tops = tops.as_mut_slice::<f64>()?;
                tops.fill(f64::NEG_INFINITY);
                plan.fold(x, tops, |top, v| if wide(v) > top { wide(v) } else { top });
                // exp(∞ − ∞) would be NaN: lanes with an infinite top are summed as they are.
                tops.iter_mut().filter(|t| t.is_infinite()).for_each(|t| *t = 0.0);
                plan.fold_beside(x, sums, tops, |sum, v, top| sum + libm::exp(wide(v) - top));
                sums.iter_mut().zip(tops).for_each(|(s, top)| *s = libm::log(*s) + *top);
            }
            Kind::Max | Kind::Min => return Err(OpError::dtype(self.op, T::DTYPE)),
        }
        match self.kind {
            Kind::Mean => sums.iter_mut().for_each(|s| *s /= plan.lane as f64),
            Kind::L2 => sums.iter_mut().for_each(|s| *s = s.sqrt()),
            Kind::LogSum => sums.iter_mut().for_each(|s| *s = libm::log(*s)),
            Kind::L1 | Kind::LogSumExp | Kind::Max | Kind::Min | Kind::Prod | Kind::Sum | Kind::SumSquare => {}
        }
        Ok(out)
    }

    /// In 64 bits that wrap, then to the width of `T`: the bits are those of sums that wrap in `T`.
    fn reduce_integer<T: Element>(
        &self,
        x: &Tensor,
        shape: &[usize],
        plan: &Plan,
        wide: impl Fn(T) -> i64,
    ) -> Result<Tensor, OpError> {
        let mut out = Tensor::zeros(DType::I64, shape)?;
        let (dtype, x) = (x.dtype(), x.as_slice::<T>());
        let sums = out.as_mut_slice::<i64>()?;
        match self.kind {
            Kind::L1 if dtype != DType::U64 => plan.fold(x, sums, |s, v| s.wrapping_add(wide(v).wrapping_abs())),
            Kind::SumSquare => plan.fold(x, sums, |s, v| s.wrapping_add(wide(v).wrapping_mul(wide(v)))),
            Kind::Prod => {
                sums.fill(1);
                plan.fold(x, sums, |p, v| p.wrapping_mul(wide(v)));
            }
            _ => plan.fold(x, sums, |s, v| s.wrapping_add(wide(v))),
        }
        if self.kind == Kind::Mean && !sums.is_empty() {
            if plan.lane == 0 {
                return Err(OpError::invalid("the mean of no integers"));
            }
            let n = plan.lane as i64;
            for s in sums {
                *s = if dtype == DType::U64 { (*s as u64 / n as u64) as i64 } else { *s / n };
            }
        }
        cast(&out, dtype)
    }
}

/// `[outer, axis, inner]` if the axes that go lie next to each other and there is something to reduce.
fn neighbours(shape: &[usize], reduced: &[bool]) -> Option<[usize; 3]> {
    if shape.contains(&0) {
        return None;
    }
    // Dimensions of 1 belong to either side.
    let mut parts = [1, 1, 1];
    let mut part = 0;
    for (&d, &goes) in shape.iter().zip(reduced).filter(|(d, _)| **d != 1) {
        part = match (part, goes) {
            (0, false) => 0,
            (0 | 1, true) => 1,
            (1 | 2, false) => 2,
            _ => return None,
        };
        parts[part] *= d;
    }
    Some(parts)
}

/// How a reduction walks its input: the second operand is the output, at rest along the axes that go.
struct Plan {
    nest: Nest<2>,
    /// Elements that go into one output.
    lane: usize,
}

impl Plan {
    fn new(shape: &[usize], reduced: &[bool], kept: &[usize]) -> Self {
        let mut to = contiguous(kept);
        for (s, _) in to.iter_mut().zip(reduced).filter(|(_, r)| **r) {
            *s = 0;
        }
        let lanes = shape.iter().zip(reduced).filter(|(_, r)| **r).map(|(&d, _)| d);
        let lane = if lanes.clone().any(|d| d == 0) { 0 } else { lanes.fold(1, usize::saturating_mul) };
        Self { nest: Nest::new(shape, [&contiguous(shape), &to]), lane }
    }

    fn fold<T: Copy, A: Copy>(&self, x: &[T], out: &mut [A], f: impl Fn(A, T) -> A) {
        let (n, [_, step]) = self.nest.inner();
        self.nest.rows(|[from, to]| {
            let x = &x[from..from + n];
            if step == 0 {
                out[to] = x.iter().fold(out[to], |a, &v| f(a, v));
            } else {
                out[to..to + n].iter_mut().zip(x).for_each(|(a, &v)| *a = f(*a, v));
            }
        });
    }

    /// The same with a second value for each output.
    fn fold_beside<T: Copy>(&self, x: &[T], out: &mut [f64], beside: &[f64], f: impl Fn(f64, T, f64) -> f64) {
        let (n, [_, step]) = self.nest.inner();
        self.nest.rows(|[from, to]| {
            for (j, &v) in x[from..from + n].iter().enumerate() {
                let to = to + j * step as usize;
                out[to] = f(out[to], v, beside[to]);
            }
        });
    }

    /// Sums in eight strands that are joined at the end: they need not wait for each other.
    fn sum<T: Copy>(&self, x: &[T], out: &mut [f64], f: impl Fn(T) -> f64) {
        let (n, [_, step]) = self.nest.inner();
        if step != 0 {
            return self.fold(x, out, |a, v| a + f(v));
        }
        self.nest.rows(|[from, to]| {
            let (eights, rest) = x[from..from + n].as_chunks::<8>();
            let mut strands = [0.0; 8];
            for eight in eights {
                strands.iter_mut().zip(eight).for_each(|(s, &v)| *s += f(v));
            }
            let rest: f64 = rest.iter().map(|&v| f(v)).sum();
            let [a, b, c, d, e, g, h, i] = strands;
            out[to] += ((a + b) + (c + d)) + ((e + g) + (h + i)) + rest;
        });
    }

    fn extreme<T: Element>(
        &self,
        x: &Tensor,
        shape: &[usize],
        start: T,
        f: impl Fn(T, T) -> T,
    ) -> Result<Tensor, OpError> {
        let mut out = Tensor::zeros(x.dtype(), shape)?;
        let extremes = out.as_mut_slice::<T>()?;
        extremes.fill(start);
        self.fold(x.as_slice::<T>(), extremes, f);
        Ok(out)
    }
}

/// The ends of a type: what the maximum and the minimum of nothing are.
trait Bounded {
    const LOWEST: Self;
    const HIGHEST: Self;
}

macro_rules! bounded {
    ($($t:ty: $low:ident $high:ident),*) => { $(impl Bounded for $t {
        const LOWEST: Self = <$t>::$low;
        const HIGHEST: Self = <$t>::$high;
    })* };
}
bounded!(f32: NEG_INFINITY INFINITY, f64: NEG_INFINITY INFINITY, i8: MIN MAX, i16: MIN MAX, i32: MIN MAX, i64: MIN MAX,
    u8: MIN MAX, u16: MIN MAX, u32: MIN MAX, u64: MIN MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use quantal_ir::{Attr, Attrs};

    fn reduce(op: Op, attrs: Attrs, x: &Tensor, axes: &[i64]) -> Result<Tensor, OpError> {
        let node = Node::new(op, "n", Vec::new(), Vec::new(), attrs);
        let axes = Tensor::from_slice(&[axes.len()], axes).unwrap();
        let threads = quantal_kernels::Threads::new(1);
        let context = Context { isa: quantal_kernels::Isa::detect().unwrap(), threads: &threads };
        Reduction::prepare(&node, 18)?.run(&[Some(x), Some(&axes)], &context).map(|mut out| out.remove(0))
    }

    fn counted() -> Tensor {
        Tensor::from_slice(&[2, 3, 2], &(1..=12).map(|v| v as f32).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn sums_over_outer_inner_and_several_axes() {
        let x = counted();
        let sum = |axes: &[i64]| reduce(Op::ReduceSum, Attrs::new(), &x, axes).unwrap();
        assert_eq!(sum(&[0]).as_slice::<f32>(), [8.0, 10.0, 12.0, 14.0, 16.0, 18.0]);
        assert_eq!(sum(&[-1]).as_slice::<f32>(), [3.0, 7.0, 11.0, 15.0, 19.0, 23.0]);
        assert_eq!(sum(&[0, 2]).as_slice::<f32>(), [18.0, 26.0, 34.0]);
        assert_eq!((sum(&[1]).as_slice::<f32>(), sum(&[1]).shape()), (&[9.0, 12.0, 27.0, 30.0][..], &[2, 1, 2][..]));
        assert_eq!((sum(&[]).as_slice::<f32>(), sum(&[]).shape()), (&[78.0][..], &[1, 1, 1][..]));
    }

    #[test]
    fn no_axes_can_mean_none_and_still_apply_the_function() {
        let attrs = Attrs::new().with("noop_with_empty_axes", Attr::Int(1));
        let x = Tensor::from_slice(&[2], &[-3.0_f32, 2.0]).unwrap();
        assert_eq!(reduce(Op::ReduceSumSquare, attrs, &x, &[]).unwrap().as_slice::<f32>(), [9.0, 4.0]);
    }

    #[test]
    fn reductions_of_nothing_give_the_neutral_element() {
        let x = Tensor::zeros(DType::F32, &[2, 0]).unwrap();
        let of = |op| reduce(op, Attrs::new(), &x, &[1]).unwrap().as_slice::<f32>().to_vec();
        assert_eq!(of(Op::ReduceMax), [f32::NEG_INFINITY; 2]);
        assert_eq!(of(Op::ReduceMin), [f32::INFINITY; 2]);
        assert_eq!(of(Op::ReduceProd), [1.0; 2]);
        assert_eq!(of(Op::ReduceLogSumExp), [f32::NEG_INFINITY; 2]);
        assert!(of(Op::ReduceMean).iter().all(|v| v.is_nan()));
        let x = Tensor::zeros(DType::I32, &[2, 0]).unwrap();
        assert_eq!(reduce(Op::ReduceMax, Attrs::new(), &x, &[1]).unwrap().as_slice::<i32>(), [i32::MIN; 2]);
        assert!(reduce(Op::ReduceMean, Attrs::new(), &x, &[1]).is_err());
    }

    #[test]
    fn large_exponents_do_not_overflow_and_nan_spreads() {
        let x = Tensor::from_slice(&[2], &[1000.0_f32, 1000.0]).unwrap();
        let y = reduce(Op::ReduceLogSumExp, Attrs::new(), &x, &[0]).unwrap();
        assert!((y.as_slice::<f32>()[0] - 1_000.693_1).abs() < 1e-3);
        let x = Tensor::from_slice(&[3], &[1.0_f32, f32::NAN, 2.0]).unwrap();
        assert!(reduce(Op::ReduceMax, Attrs::new(), &x, &[0]).unwrap().as_slice::<f32>()[0].is_nan());
        assert!(reduce(Op::ReduceMin, Attrs::new(), &x, &[0]).unwrap().as_slice::<f32>()[0].is_nan());
    }

    #[test]
    fn integer_means_truncate_and_sums_wrap() {
        let x = Tensor::from_slice(&[2], &[-3_i32, 0]).unwrap();
        assert_eq!(reduce(Op::ReduceMean, Attrs::new(), &x, &[0]).unwrap().as_slice::<i32>(), [-1]);
        let x = Tensor::from_slice(&[2], &[200_u8, 100]).unwrap();
        assert_eq!(reduce(Op::ReduceSum, Attrs::new(), &x, &[0]).unwrap().as_slice::<u8>(), [44]);
    }

    #[test]
    fn axes_that_are_not_there_are_errors() {
        assert!(reduce(Op::ReduceSum, Attrs::new(), &counted(), &[3]).is_err());
        assert!(reduce(Op::ReduceSum, Attrs::new(), &counted(), &[0, -3]).is_err());
    }
}
