//! Contents of small tensors as far as they are known: what Shape gives and what shapes are computed from.

use crate::graph::Dim;
use crate::op::Op;
use quantal_tensor::{DType, Tensor};
use std::sync::Arc;

/// Most elements that are followed. Shapes, pads, slices and scales are far below it.
pub(super) const MAX_ELEMENTS: usize = 64;

/// One element.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Entry {
    /// An integer or a truth value.
    Int(i64),
    /// A float32.
    Float(f32),
    /// A symbolic dimension: at least 0.
    Symbol(Arc<str>),
    /// Nothing is known.
    Unknown,
}

impl Entry {
    /// A dimension as an element of what Shape gives.
    pub(super) fn of_dim(dim: &Dim) -> Self {
        match dim {
            Dim::Known(n) => i64::try_from(*n).map_or(Self::Unknown, Self::Int),
            Dim::Symbol(s) => Self::Symbol(Arc::clone(s)),
            Dim::Unknown => Self::Unknown,
        }
    }

    /// The integer, if it is one.
    pub(super) fn int(&self) -> Option<i64> {
        if let Self::Int(v) = self { Some(*v) } else { None }
    }

    /// The element as a dimension; a negative one is unknown.
    pub(super) fn to_dim(&self) -> Dim {
        match self {
            Self::Int(v) => usize::try_from(*v).map_or(Dim::Unknown, Dim::Known),
            Self::Symbol(s) => Dim::Symbol(Arc::clone(s)),
            Self::Float(_) | Self::Unknown => Dim::Unknown,
        }
    }
}

/// The elements of a small tensor, row-major.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Contents {
    pub(super) shape: Vec<usize>,
    pub(super) entries: Vec<Entry>,
}

impl Contents {
    /// One element, no dimensions.
    pub(super) fn scalar(entry: Entry) -> Self {
        Self { shape: Vec::new(), entries: vec![entry] }
    }

    /// One dimension; `None` if it is too long.
    pub(super) fn list(entries: Vec<Entry>) -> Option<Self> {
        (entries.len() <= MAX_ELEMENTS).then(|| Self { shape: vec![entries.len()], entries })
    }

    /// What a constant holds, if it is small and of a type that is followed.
    pub(super) fn of_tensor(tensor: &Tensor) -> Option<Self> {
        if tensor.len() > MAX_ELEMENTS {
            return None;
        }
        let entries = match tensor.dtype() {
            DType::F32 => tensor.as_slice::<f32>().iter().map(|&v| Entry::Float(v)).collect(),
            dtype if followed(dtype) => tensor.to_i64_vec()?.into_iter().map(Entry::Int).collect(),
            _ => return None,
        };
        Some(Self { shape: tensor.shape().to_vec(), entries })
    }

    /// The integers, if all are known.
    pub(super) fn ints(&self) -> Option<Vec<i64>> {
        self.entries.iter().map(Entry::int).collect()
    }

    /// The same elements under another shape; `None` if the count differs.
    pub(super) fn reshaped(mut self, shape: Vec<usize>) -> Option<Self> {
        (quantal_tensor::tensor::element_count(&shape)? == self.entries.len()).then(|| {
            self.shape = shape;
            self
        })
    }

    /// A tensor of `shape` whose element at each index is the one of `self` at `source(index)`. `None` if it is too
    /// large or an index falls outside.
    pub(super) fn select(&self, shape: Vec<usize>, source: impl Fn(&[usize]) -> Option<Vec<usize>>) -> Option<Self> {
        let count = quantal_tensor::tensor::element_count(&shape).filter(|&n| n <= MAX_ELEMENTS)?;
        let mut index = vec![0; shape.len()];
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let from = source(&index)?;
            let mut flat = 0;
            for (&i, &n) in from.iter().zip(&self.shape) {
                flat = (i < n).then_some(flat * n + i)?;
            }
            entries.push(self.entries.get(flat)?.clone());
            for (i, &n) in index.iter_mut().zip(&shape).rev() {
                *i += 1;
                if *i < n {
                    break;
                }
                *i = 0;
            }
        }
        Some(Self { shape, entries })
    }

    /// The same repeated along dimensions of size 1, as broadcasting does.
    pub(super) fn broadcast(&self, shape: &[usize]) -> Option<Self> {
        let skip = shape.len().checked_sub(self.shape.len())?;
        self.select(shape.to_vec(), |index| {
            Some(index[skip..].iter().zip(&self.shape).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect())
        })
    }
}

/// Whether elements of this type are followed as integers.
fn followed(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::Bool) || dtype.int_range().is_some()
}

/// Integers that the type cannot hold would wrap at run time; they count as unknown.
fn fit(entry: Entry, dtype: Option<DType>) -> Entry {
    match (&entry, dtype.and_then(DType::int_range)) {
        (Entry::Int(v), Some((low, high))) if !(low as i64..=high as i64).contains(v) => Entry::Unknown,
        _ => entry,
    }
}

/// An operator of one input, element by element; `dtype` is the output's.
pub(super) fn unary(op: Op, x: &Contents, dtype: Option<DType>) -> Contents {
    let apply = |e: &Entry| match (op, e) {
        (Op::Cast | Op::CastLike, e) => cast(e, dtype),
        (Op::Neg, Entry::Int(v)) => v.checked_neg().map_or(Entry::Unknown, Entry::Int),
        (Op::Neg, Entry::Float(v)) => Entry::Float(-v),
        (Op::Abs, Entry::Int(v)) => v.checked_abs().map_or(Entry::Unknown, Entry::Int),
        (Op::Abs, Entry::Float(v)) => Entry::Float(v.abs()),
        (Op::Floor, Entry::Float(v)) => Entry::Float(v.floor()),
        (Op::Ceil, Entry::Float(v)) => Entry::Float(v.ceil()),
        (Op::Round, Entry::Float(v)) => Entry::Float(v.round_ties_even()),
        (Op::Sqrt, Entry::Float(v)) => Entry::Float(v.sqrt()),
        (Op::Not, Entry::Int(v)) => Entry::Int((*v == 0).into()),
        (Op::Abs | Op::Identity | Op::Dropout, Entry::Symbol(_)) | (Op::Identity | Op::Dropout, _) => e.clone(),
        _ => Entry::Unknown,
    };
    let entries = x.entries.iter().map(|e| fit(apply(e), dtype)).collect();
    Contents { shape: x.shape.clone(), entries }
}

fn cast(e: &Entry, to: Option<DType>) -> Entry {
    match (to, e) {
        (Some(DType::F32), Entry::Int(v)) => Entry::Float(*v as f32),
        (Some(DType::F32), Entry::Float(_)) => e.clone(),
        (Some(DType::Bool), Entry::Int(v)) => Entry::Int((*v != 0).into()),
        (Some(DType::Bool), Entry::Float(v)) => Entry::Int((*v != 0.0).into()),
        // 2^63 is the first float that does not fit.
        (Some(t), Entry::Float(v)) if followed(t) && v.abs() < 9.2e18 => Entry::Int(*v as i64),
        // A dimension beyond 2^31 is none that a tensor here can have.
        (Some(DType::I64 | DType::I32), e @ Entry::Symbol(_)) => e.clone(),
        (Some(t), Entry::Int(_)) if followed(t) => e.clone(),
        _ => Entry::Unknown,
    }
}

/// An operator of broadcast inputs, folded from the left; `dtype` is the output's.
pub(super) fn folded(op: Op, inputs: &[Contents], dtype: Option<DType>, truncated_mod: bool) -> Option<Contents> {
    let shape = inputs.iter().try_fold(Vec::new(), |shape, x| broadcast_sizes(&shape, &x.shape))?;
    let mut wide = inputs.iter().map(|x| x.broadcast(&shape));
    let mut total = wide.next()??;
    for x in wide {
        for (a, b) in total.entries.iter_mut().zip(x?.entries) {
            *a = fit(binary(op, a, &b, truncated_mod), dtype);
        }
    }
    Some(total)
}

fn broadcast_sizes(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
    let join = |i| match (at(a, i), at(b, i)) {
        (1, n) | (n, 1) => Some(n),
        (m, n) => (m == n).then_some(m),
    };
    (0..rank).map(join).collect()
}

fn binary(op: Op, a: &Entry, b: &Entry, truncated_mod: bool) -> Entry {
    match (a, b) {
        (Entry::Int(x), Entry::Int(y)) => ints(op, *x, *y, truncated_mod).map_or(Entry::Unknown, Entry::Int),
        (Entry::Float(x), Entry::Float(y)) => floats(op, *x, *y),
        (Entry::Symbol(s), Entry::Int(n)) => symbol_and_int(op, s, *n, false),
        (Entry::Int(n), Entry::Symbol(s)) => symbol_and_int(op, s, *n, true),
        (Entry::Symbol(s), Entry::Symbol(t)) if s == t => match op {
            Op::Equal | Op::GreaterOrEqual | Op::LessOrEqual => Entry::Int(1),
            Op::Sub | Op::Less | Op::Greater => Entry::Int(0),
            Op::Max | Op::Min => a.clone(),
            _ => Entry::Unknown,
        },
        _ => Entry::Unknown,
    }
}

fn ints(op: Op, x: i64, y: i64, truncated_mod: bool) -> Option<i64> {
    Some(match op {
        Op::Add | Op::Sum => x.checked_add(y)?,
        Op::Sub => x.checked_sub(y)?,
        Op::Mul => x.checked_mul(y)?,
        Op::Div => x.checked_div(y)?,
        Op::Mod => {
            let r = x.checked_rem(y)?;
            // Without fmod the result has the sign of the divisor.
            if !truncated_mod && r != 0 && (r < 0) != (y < 0) { r + y } else { r }
        }
        Op::Pow => x.checked_pow(u32::try_from(y).ok()?)?,
        Op::Max => x.max(y),
        Op::Min => x.min(y),
        Op::Equal => (x == y).into(),
        Op::Greater => (x > y).into(),
        Op::GreaterOrEqual => (x >= y).into(),
        Op::Less => (x < y).into(),
        Op::LessOrEqual => (x <= y).into(),
        Op::And => (x != 0 && y != 0).into(),
        Op::Or => (x != 0 || y != 0).into(),
        Op::Xor => ((x != 0) != (y != 0)).into(),
        _ => return None,
    })
}

fn floats(op: Op, x: f32, y: f32) -> Entry {
    match op {
        Op::Add | Op::Sum => Entry::Float(x + y),
        Op::Sub => Entry::Float(x - y),
        Op::Mul => Entry::Float(x * y),
        Op::Div => Entry::Float(x / y),
        Op::Max if !x.is_nan() && !y.is_nan() => Entry::Float(x.max(y)),
        Op::Min if !x.is_nan() && !y.is_nan() => Entry::Float(x.min(y)),
        Op::Equal => Entry::Int((x == y).into()),
        Op::Greater => Entry::Int((x > y).into()),
        Op::GreaterOrEqual => Entry::Int((x >= y).into()),
        Op::Less => Entry::Int((x < y).into()),
        Op::LessOrEqual => Entry::Int((x <= y).into()),
        _ => Entry::Unknown,
    }
}

/// A symbol is at least 0, and the neutral elements leave it as it is.
fn symbol_and_int(op: Op, symbol: &Arc<str>, n: i64, int_first: bool) -> Entry {
    match (op, n, int_first) {
        (Op::Add | Op::Sum, 0, _) | (Op::Mul, 1, _) | (Op::Sub, 0, false) | (Op::Div, 1, false) => {
            Entry::Symbol(Arc::clone(symbol))
        }
        (Op::Max, ..=0, _) => Entry::Symbol(Arc::clone(symbol)),
        (Op::Min, ..=0, _) => Entry::Int(n),
        (Op::Mul, 0, _)
        | (Op::Equal, ..0, _)
        | (Op::Less | Op::LessOrEqual, ..0, false)
        | (Op::Greater | Op::GreaterOrEqual, ..0, true) => Entry::Int(0),
        (Op::Greater | Op::GreaterOrEqual, ..0, false) | (Op::Less | Op::LessOrEqual, ..0, true) => Entry::Int(1),
        _ => Entry::Unknown,
    }
}

/// Where: an unknown condition decides nothing unless both sides agree.
pub(super) fn choose(condition: &Contents, x: &Contents, y: &Contents) -> Option<Contents> {
    let shape = broadcast_sizes(&broadcast_sizes(&condition.shape, &x.shape)?, &y.shape)?;
    let (c, x, y) = (condition.broadcast(&shape)?, x.broadcast(&shape)?, y.broadcast(&shape)?);
    let pick = |(c, (x, y)): (Entry, (Entry, Entry))| match c {
        Entry::Int(0) => y,
        Entry::Int(_) => x,
        _ if x == y => x,
        _ => Entry::Unknown,
    };
    let entries = c.entries.into_iter().zip(x.entries.into_iter().zip(y.entries)).map(pick).collect();
    Some(Contents { shape, entries })
}
