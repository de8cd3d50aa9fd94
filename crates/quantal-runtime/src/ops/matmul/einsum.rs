//! Einsum: sums of products by a formula over named axes, as numpy defines them.
//!
//! Factors are folded from the left. Before two are multiplied, each is summed over the axes that neither the other
//! one, nor a later one, nor the result has; the product itself is then a batch of matrix products.

use super::super::number::{self, Number};
use super::super::walk::{dense_strides, gather};
use super::super::{Context, Inputs, OpError, required};
use super::on_numbers;
use crate::ops::strides::count;
use quantal_ir::{Attrs, Op};
use quantal_tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// An axis: a letter of the equation, or a dimension of the ellipsis counted from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Dots(usize),
    Letter(u8),
}

/// One side of the equation: letters, and where among them the ellipsis stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    letters: Vec<u8>,
    dots: Option<usize>,
}

/// A parsed equation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equation {
    inputs: Vec<Term>,
    output: Option<Term>,
}

impl Term {
    fn parse(text: &str) -> Result<Self, OpError> {
        let wrong = |why: &str| OpError::invalid(format!("the einsum term `{}` {why}", text.escape_debug()));
        let (mut letters, mut dots) = (Vec::new(), None);
        let mut rest = text.as_bytes();
        while let Some((&c, tail)) = rest.split_first() {
            if let Some(tail) = rest.strip_prefix(b"...") {
                if dots.replace(letters.len()).is_some() {
                    return Err(wrong("has two ellipses"));
                }
                rest = tail;
            } else if c.is_ascii_alphabetic() {
                letters.push(c);
                rest = tail;
            } else {
                return Err(wrong("has more than letters and an ellipsis"));
            }
        }
        Ok(Self { letters, dots })
    }

    /// The axes of a tensor of `rank` dimensions.
    fn labels(&self, rank: usize) -> Result<Vec<Label>, OpError> {
        let hidden = match (rank.checked_sub(self.letters.len()), self.dots) {
            (Some(n), Some(_)) => n,
            (Some(0), None) => 0,
            _ => {
                let n = self.letters.len();
                return Err(OpError::invalid(format!("an einsum term names {n} axes of a tensor that has {rank}")));
            }
        };
        let at = self.dots.unwrap_or(0);
        let letters = |part: &[u8]| part.iter().map(|&c| Label::Letter(c)).collect::<Vec<_>>();
        let mut labels = letters(&self.letters[..at]);
        labels.extend((0..hidden).rev().map(Label::Dots));
        labels.extend(letters(&self.letters[at..]));
        Ok(labels)
    }
}

impl Equation {
    /// Reads `equation`.
    pub fn of(attrs: &Attrs) -> Result<Self, OpError> {
        let text = attrs.str("equation")?.ok_or(quantal_ir::attrs::AttrError::Missing("equation"))?;
        let text: String = text.chars().filter(|c| *c != ' ').collect();
        let (inputs, output) = match text.split_once("->") {
            Some((inputs, output)) => (inputs, Some(Term::parse(output)?)),
            None => (text.as_str(), None),
        };
        let inputs = inputs.split(',').map(Term::parse).collect::<Result<Vec<_>, _>>()?;
        if let Some(Term { letters, .. }) = &output {
            for (i, c) in letters.iter().enumerate() {
                if letters[..i].contains(c) || !inputs.iter().any(|t| t.letters.contains(c)) {
                    let why = "must name each axis once, and only axes of the inputs";
                    return Err(OpError::invalid(format!("the einsum result of `{}` {why}", text.escape_debug())));
                }
            }
        }
        Ok(Self { inputs, output })
    }

    /// The axes of the result, given those of the inputs.
    fn result(&self, inputs: &[Vec<Label>]) -> Vec<Label> {
        let hidden = inputs.iter().flatten().filter_map(|l| if let Label::Dots(i) = l { Some(i + 1) } else { None });
        let hidden = hidden.max().unwrap_or(0);
        let dots = (0..hidden).rev().map(Label::Dots);
        if let Some(Term { letters, dots: at }) = &self.output {
            let mut labels: Vec<_> = letters.iter().map(|&c| Label::Letter(c)).collect();
            if let Some(at) = *at {
                labels.splice(at..at, dots);
            }
            return labels;
        }
        let mut times = BTreeMap::new();
        for c in self.inputs.iter().flat_map(|t| &t.letters) {
            *times.entry(*c).or_insert(0_usize) += 1;
        }
        let once = times.into_iter().filter(|&(_, n)| n == 1).map(|(c, _)| Label::Letter(c));
        dots.chain(once).collect()
    }

    pub(super) fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Tensor, OpError> {
        if inputs.len() != self.inputs.len() {
            let n = self.inputs.len();
            return Err(OpError::invalid(format!("the equation has {n} terms, the node {} inputs", inputs.len())));
        }
        let factors = (0..inputs.len()).map(|i| required(inputs, i)).collect::<Result<Vec<_>, _>>()?;
        let dtype = factors[0].dtype();
        if let Some(t) = factors.iter().find(|t| t.dtype() != dtype) {
            return Err(OpError::invalid(format!("cannot multiply {dtype} by {}", t.dtype())));
        }
        if matches!(dtype, DType::F16 | DType::BF16) {
            let loaded = factors.iter().map(|t| number::load_f32(Op::Einsum, t)).collect::<Result<Vec<_>, _>>()?;
            return number::store_as(self.run_of::<f32>(&loaded, context)?, dtype);
        }
        let factors: Vec<Tensor> = factors.into_iter().cloned().collect();
        on_numbers!(Op::Einsum, dtype, run_equation(self, &factors, context))
    }

    fn run_of<T: Number>(&self, factors: &[Tensor], context: &Context<'_>) -> Result<Tensor, OpError> {
        let labels =
            self.inputs.iter().zip(factors).map(|(term, t)| term.labels(t.rank())).collect::<Result<Vec<_>, _>>()?;
        let mut sizes: BTreeMap<Label, usize> = BTreeMap::new();
        for (&label, &d) in labels.iter().zip(factors).flat_map(|(l, t)| l.iter().zip(t.shape())) {
            let size = sizes.entry(label).or_insert(d);
            if *size == 1 {
                *size = d;
            } else if d != 1 && d != *size {
                return Err(OpError::invalid(format!("an einsum axis is both {size} and {d} long")));
            }
        }
        let result = self.result(&labels);
        let mut done: Option<Factor> = None;
        for (i, (t, axes)) in factors.iter().zip(&labels).enumerate() {
            let later: Vec<Label> = labels[i + 1..].iter().flatten().chain(&result).copied().collect();
            let mut keep = later.clone();
            keep.extend(done.iter().flat_map(|f| &f.axes));
            let factor = Factor::new::<T>(t, axes, &keep, &sizes)?;
            done = Some(match done {
                None => factor,
                Some(f) => {
                    let mut keep = later.clone();
                    keep.extend(&factor.axes);
                    let f = f.summed::<T>(&keep, &sizes)?;
                    f.times::<T>(&factor, &later, &sizes, context)?
                }
            });
        }
        let done = done.ok_or_else(|| OpError::invalid("an einsum without inputs"))?.summed::<T>(&result, &sizes)?;
        done.arranged::<T>(&result, &sizes)
    }
}

fn run_equation<T: Number>(e: &Equation, factors: &[Tensor], context: &Context<'_>) -> Result<Tensor, OpError> {
    e.run_of::<T>(factors, context)
}

/// A tensor with a different label on each axis. An axis may be 1 long where the label's size is larger.
struct Factor {
    tensor: Tensor,
    axes: Vec<Label>,
}

fn distinct(labels: impl Iterator<Item = Label>) -> Vec<Label> {
    let mut seen = Vec::new();
    labels.for_each(|l| {
        if !seen.contains(&l) {
            seen.push(l);
        }
    });
    seen
}

impl Factor {
    /// An input with its diagonals taken and the axes that are not kept summed away.
    fn new<T: Number>(
        t: &Tensor,
        labels: &[Label],
        keep: &[Label],
        sizes: &BTreeMap<Label, usize>,
    ) -> Result<Self, OpError> {
        let axes = distinct(labels.iter().copied());
        let strides = dense_strides(t.shape());
        let repeats = axes.len() < labels.len();
        let diagonal: Vec<usize> = axes
            .iter()
            .map(|a| {
                labels
                    .iter()
                    .zip(&strides)
                    .zip(t.shape())
                    .filter(|((l, _), d)| *l == a && **d > 1)
                    .map(|((_, s), _)| s)
                    .sum()
            })
            .collect();
        let longest = |a: &Label| {
            let dims: Vec<usize> = labels.iter().zip(t.shape()).filter(|(l, _)| *l == a).map(|(_, &d)| d).collect();
            if dims.contains(&0) { 0 } else { dims.into_iter().max().unwrap_or(1) }
        };
        let shape: Vec<usize> = axes.iter().map(longest).collect();
        let tensor = if repeats { gather::<T>(t.as_slice(), &shape, &diagonal)? } else { t.clone() };
        Self { tensor, axes }.summed::<T>(keep, sizes)
    }

    /// Strides that read the axes named, 0 for those it does not have or that are 1 long.
    fn strides(&self, axes: &[Label]) -> Vec<usize> {
        let own = dense_strides(self.tensor.shape());
        axes.iter()
            .map(|a| {
                let i = self.axes.iter().position(|l| l == a);
                i.map_or(0, |i| if self.tensor.shape()[i] == 1 { 0 } else { own[i] })
            })
            .collect()
    }

    /// A dense tensor of the axes named, each in its full size; 1 long where neither size nor label says more.
    fn arranged<T: Number>(&self, axes: &[Label], sizes: &BTreeMap<Label, usize>) -> Result<Tensor, OpError> {
        let shape: Vec<usize> = axes.iter().map(|a| sizes.get(a).copied().unwrap_or(1)).collect();
        count(&shape)?;
        gather::<T>(self.tensor.as_slice(), &shape, &self.strides(axes))
    }

    /// Sums over the axes that are not kept.
    fn summed<T: Number>(self, keep: &[Label], sizes: &BTreeMap<Label, usize>) -> Result<Self, OpError> {
        let (kept, gone): (Vec<Label>, Vec<Label>) = self.axes.iter().partition(|a| keep.contains(a));
        if gone.is_empty() {
            return Ok(self);
        }
        let dim = |a: &Label| self.axes.iter().position(|l| l == a).map_or(1, |i| self.tensor.shape()[i]);
        let shape: Vec<usize> = kept.iter().map(dim).collect();
        let mut all = shape.clone();
        all.extend(gone.iter().map(dim));
        let mut axes = kept.clone();
        axes.extend(&gone);
        // An axis that is 1 long here but longer elsewhere counts as often as it is long.
        let times = gone.iter().map(|a| if dim(a) == 1 { sizes.get(a).copied().unwrap_or(1) } else { 1 });
        let times: T = times.fold(T::from_size(1), |n, k| T::default().mac(n, T::from_size(k)));
        let dense = gather::<T>(self.tensor.as_slice(), &all, &self.strides(&axes))?;
        let mut tensor = Tensor::zeros(T::DTYPE, &shape)?;
        if !dense.is_empty() {
            let run = dense.len() / tensor.len();
            for (y, row) in tensor.as_mut_slice::<T>()?.iter_mut().zip(dense.as_slice::<T>().chunks_exact(run)) {
                *y = T::default().mac(row.iter().fold(T::default(), |s, &v| s.mac(v, T::from_size(1))), times);
            }
        }
        Ok(Self { tensor, axes: kept })
    }

    /// The product with another factor, summed over shared axes that are not kept.
    fn times<T: Number>(
        &self,
        other: &Self,
        keep: &[Label],
        sizes: &BTreeMap<Label, usize>,
        context: &Context<'_>,
    ) -> Result<Self, OpError> {
        let (shared, left): (Vec<Label>, Vec<Label>) = self.axes.iter().partition(|a| other.axes.contains(a));
        let right: Vec<Label> = other.axes.iter().copied().filter(|a| !self.axes.contains(a)).collect();
        let (batch, inner): (Vec<Label>, Vec<Label>) = shared.iter().partition(|a| keep.contains(a));
        let join = |parts: [&[Label]; 3]| parts.concat();
        let a = self.arranged::<T>(&join([&batch, &left, &inner]), sizes)?;
        let b = other.arranged::<T>(&join([&batch, &inner, &right]), sizes)?;
        let size = |axes: &[Label]| count(&axes.iter().map(|a| sizes.get(a).copied().unwrap_or(1)).collect::<Vec<_>>());
        let [m, k, n] = [size(&left)?, size(&inner)?, size(&right)?];
        let axes = join([&batch, &left, &right]);
        let shape: Vec<usize> = axes.iter().map(|a| sizes.get(a).copied().unwrap_or(1)).collect();
        let mut y = Tensor::zeros(T::DTYPE, &shape)?;
        if !y.is_empty() && k > 0 {
            let (a, b) = (a.as_slice::<T>().chunks_exact(m * k), b.as_slice::<T>().chunks_exact(k * n));
            for (y, (a, b)) in y.as_mut_slice::<T>()?.chunks_exact_mut(m * n).zip(a.zip(b)) {
                T::product(y, a, b, [m, k, n], context)?;
            }
        }
        Ok(Self { tensor: y, axes })
    }
}
