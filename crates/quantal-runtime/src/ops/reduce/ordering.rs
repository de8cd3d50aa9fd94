//! Operators along one axis whose result depends on order: the place of an extreme, the largest few, running sums.

use crate::ops::cast::cast;
use crate::ops::dispatch::for_number;
use crate::ops::strides::{axis, count, integer};
use crate::ops::{Context, Inputs, OpError, required};
use quantal_ir::{Node, Op};
use quantal_tensor::{DType, Element, Tensor};
use std::cmp;

/// An operator along one axis.
#[derive(Debug, Clone)]
pub struct Ordering {
    op: Op,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Extreme { axis: i64, keep_dims: bool, last: bool, largest: bool },
    CumSum { exclusive: bool, reverse: bool },
    TopK { axis: i64, largest: bool },
}

impl Ordering {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        let kind = match node.op {
            Op::ArgMax | Op::ArgMin => Kind::Extreme {
                axis: attrs.int_or("axis", 0)?,
                keep_dims: attrs.flag("keepdims", true)?,
                last: attrs.flag("select_last_index", false)?,
                largest: node.op == Op::ArgMax,
            },
            Op::CumSum => {
                Kind::CumSum { exclusive: attrs.flag("exclusive", false)?, reverse: attrs.flag("reverse", false)? }
            }
            // Sorted or not is up to us: the order of an unsorted result is not defined, so it is always sorted.
            Op::TopK => Kind::TopK { axis: attrs.int_or("axis", -1)?, largest: attrs.flag("largest", true)? },
            other => return Err(OpError::Unsupported(format!("{} along an axis", other.name()))),
        };
        Ok(Self { op: node.op, kind })
    }

    /// Applies it.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = required(inputs, 0)?;
        let dtype = x.dtype();
        if matches!(dtype, DType::F16 | DType::BF16) {
            let wide = cast(x, DType::F32)?;
            let mut outputs = self.along(&wide, inputs)?;
            for out in outputs.iter_mut().filter(|t| t.dtype() == DType::F32) {
                *out = cast(out, dtype)?;
            }
            return Ok(outputs);
        }
        self.along(x, inputs)
    }

    fn along(&self, x: &Tensor, inputs: &Inputs<'_>) -> Result<Vec<Tensor>, OpError> {
        let (op, d) = (self.op, x.dtype());
        match self.kind {
            Kind::Extreme { axis, keep_dims, last, largest } => {
                let lanes = Lanes::of(x, axis)?;
                for_number!(d, op, T => extreme::<T>(x, &lanes, keep_dims, last, largest).map(|t| vec![t]))
            }
            Kind::CumSum { exclusive, reverse } => {
                let lanes = Lanes::of(x, integer(required(inputs, 1)?, "the axis")?)?;
                for_number!(d, op, T => {
                    running_sum(x, &lanes, exclusive, reverse, <T as Plus>::plus).map(|t| vec![t])
                })
            }
            Kind::TopK { axis, largest } => {
                let lanes = Lanes::of(x, axis)?;
                let k = integer(required(inputs, 1)?, "k")?;
                let k = usize::try_from(k).ok().filter(|&k| k <= lanes.size);
                let k = k.ok_or_else(|| {
                    OpError::invalid(format!("k must lie between 0 and the {} elements of the axis", lanes.size))
                })?;
                for_number!(d, op, T => top_k::<T>(x, &lanes, k, largest))
            }
        }
    }
}

/// A tensor as lanes along one axis: element `i` of a lane is `i · inner` after its first.
struct Lanes {
    axis: usize,
    size: usize,
    inner: usize,
}

impl Lanes {
    fn of(x: &Tensor, at: i64) -> Result<Self, OpError> {
        let axis = axis(at, x.rank())?;
        // Without elements there is nothing to walk, and the other dimensions may be too large to count.
        let inner = if x.is_empty() { 1 } else { count(&x.shape()[axis + 1..])? };
        Ok(Self { axis, size: x.shape()[axis], inner })
    }

    /// The offsets of the first elements, in row-major order of what remains without the axis.
    fn starts(&self, len: usize) -> impl Iterator<Item = usize> + use<> {
        let (inner, slab) = (self.inner, self.inner * self.size);
        let slabs = len.checked_div(slab).unwrap_or(0);
        (0..slabs).flat_map(move |s| (0..inner).map(move |i| s * slab + i))
    }
}

/// Smaller to larger; NaN comes after all numbers, so that this is an order.
fn compare<T: PartialOrd>(a: &T, b: &T) -> cmp::Ordering {
    a.partial_cmp(b).unwrap_or_else(|| is_nan(a).cmp(&is_nan(b)))
}

/// Whether a value has no order, not even with itself.
fn is_nan<T: PartialOrd>(v: &T) -> bool {
    v.partial_cmp(v).is_none()
}

fn extreme<T: Element>(
    x: &Tensor,
    lanes: &Lanes,
    keep_dims: bool,
    last: bool,
    largest: bool,
) -> Result<Tensor, OpError> {
    let mut shape = x.shape().to_vec();
    if keep_dims {
        shape[lanes.axis] = 1;
    } else {
        shape.remove(lanes.axis);
    }
    let mut out = Tensor::zeros(DType::I64, &shape)?;
    if lanes.size == 0 && !out.is_empty() {
        return Err(OpError::invalid(format!("axis {} is empty, it has no extreme", lanes.axis)));
    }
    let x = x.as_slice::<T>();
    for (o, start) in out.as_mut_slice::<i64>()?.iter_mut().zip(lanes.starts(x.len())) {
        let (mut best, mut place) = (x[start], 0);
        for i in 1..lanes.size {
            let v = x[start + i * lanes.inner];
            // As in numpy, NaN wins in either direction.
            let order = if largest || is_nan(&v) || is_nan(&best) { compare(&v, &best) } else { compare(&best, &v) };
            if order == cmp::Ordering::Greater || (last && order == cmp::Ordering::Equal) {
                (best, place) = (v, i);
            }
        }
        *o = place as i64;
    }
    Ok(out)
}

fn running_sum<T: Element>(
    x: &Tensor,
    lanes: &Lanes,
    exclusive: bool,
    reverse: bool,
    plus: impl Fn(T, T) -> T,
) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(x.dtype(), x.shape())?;
    let (x, sums) = (x.as_slice::<T>(), out.as_mut_slice::<T>()?);
    for start in lanes.starts(x.len()) {
        let mut sum = T::default();
        for i in 0..lanes.size {
            let at = start + if reverse { lanes.size - 1 - i } else { i } * lanes.inner;
            let next = plus(sum, x[at]);
            sums[at] = if exclusive { sum } else { next };
            sum = next;
        }
    }
    Ok(out)
}

/// The `k` largest (or smallest) of each lane, best first, and where they were; of equals the one that comes first.
fn top_k<T: Element>(x: &Tensor, lanes: &Lanes, k: usize, largest: bool) -> Result<Vec<Tensor>, OpError> {
    let mut shape = x.shape().to_vec();
    shape[lanes.axis] = k;
    let mut values = Tensor::zeros(x.dtype(), &shape)?;
    let mut places = Tensor::zeros(DType::I64, &shape)?;
    if !values.is_empty() {
        let x = x.as_slice::<T>();
        let (v, p) = (values.as_mut_slice::<T>()?, places.as_mut_slice::<i64>()?);
        let mut ranked: Vec<usize> = Vec::new();
        for (lane, start) in lanes.starts(x.len()).enumerate() {
            let at = |i: usize| &x[start + i * lanes.inner];
            let better = |&a: &usize, &b: &usize| {
                let order = if largest { compare(at(b), at(a)) } else { compare(at(a), at(b)) };
                order.then(a.cmp(&b))
            };
            ranked.clear();
            ranked.extend(0..lanes.size);
            if k < lanes.size {
                ranked.select_nth_unstable_by(k, better);
            }
            ranked[..k].sort_unstable_by(better);
            let to = lane / lanes.inner * lanes.inner * k + lane % lanes.inner;
            for (j, &i) in ranked[..k].iter().enumerate() {
                v[to + j * lanes.inner] = *at(i);
                p[to + j * lanes.inner] = i as i64;
            }
        }
    }
    Ok(vec![values, places])
}

/// A sum that wraps where it leaves an integer type.
trait Plus {
    fn plus(self, y: Self) -> Self;
}

macro_rules! plus {
    ($($t:ty)*) => { $(impl Plus for $t {
        fn plus(self, y: Self) -> Self { self.wrapping_add(y) }
    })* };
}
plus!(i8 i16 i32 i64 u8 u16 u32 u64);

impl Plus for f32 {
    fn plus(self, y: Self) -> Self {
        self + y
    }
}

impl Plus for f64 {
    fn plus(self, y: Self) -> Self {
        self + y
    }
}

#[cfg(test)]
mod tests;
