//! Functions of several inputs that stretch to a common shape.

use super::real::Real;
use super::{goes_through_f32, through_f32};
use crate::ops::cast::cast;
use crate::ops::dispatch::{cells, cells_mut, for_cell, for_number};
use crate::ops::strides::{Nest, broadcast_shape, broadcast_strides};
use crate::ops::{Context, Inputs, OpError, required};
use quantal_ir::{Node, Op};
use quantal_kernels::float::{self, Operand};
use quantal_tensor::tensor::element_count;
use quantal_tensor::{DType, Element, Tensor};

/// An operator of several inputs that stretch to a common shape.
#[derive(Debug, Clone)]
pub struct Broadcast {
    op: Op,
    function: Function,
}

#[derive(Debug, Clone, Copy)]
enum Function {
    Arithmetic(Arithmetic),
    /// From the left, any number of inputs; `mean` divides by their number at the end.
    Fold {
        step: Arithmetic,
        mean: bool,
    },
    Compare(Compare),
    Logic(Logic),
    Pow,
    PRelu,
    Where,
}

#[derive(Debug, Clone, Copy)]
enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    /// The remainder with the sign of the divisor.
    Mod,
    /// The remainder with the sign of the dividend.
    Fmod,
}

#[derive(Debug, Clone, Copy)]
enum Compare {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

#[derive(Debug, Clone, Copy)]
enum Logic {
    And,
    Or,
    Xor,
}

impl Broadcast {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        let function = match node.op {
            Op::Add => Function::Arithmetic(Arithmetic::Add),
            Op::Sub => Function::Arithmetic(Arithmetic::Sub),
            Op::Mul => Function::Arithmetic(Arithmetic::Mul),
            Op::Div => Function::Arithmetic(Arithmetic::Div),
            Op::Mod if node.attrs.flag("fmod", false)? => Function::Arithmetic(Arithmetic::Fmod),
            Op::Mod => Function::Arithmetic(Arithmetic::Mod),
            Op::Max => Function::Fold { step: Arithmetic::Max, mean: false },
            Op::Min => Function::Fold { step: Arithmetic::Min, mean: false },
            Op::Sum => Function::Fold { step: Arithmetic::Add, mean: false },
            Op::Mean => Function::Fold { step: Arithmetic::Add, mean: true },
            Op::Equal => Function::Compare(Compare::Equal),
            Op::Greater => Function::Compare(Compare::Greater),
            Op::GreaterOrEqual => Function::Compare(Compare::GreaterOrEqual),
            Op::Less => Function::Compare(Compare::Less),
            Op::LessOrEqual => Function::Compare(Compare::LessOrEqual),
            Op::And => Function::Logic(Logic::And),
            Op::Or => Function::Logic(Logic::Or),
            Op::Xor => Function::Logic(Logic::Xor),
            Op::Pow => Function::Pow,
            Op::PRelu => Function::PRelu,
            Op::Where => Function::Where,
            other => return Err(OpError::Unsupported(format!("{} with broadcasting", other.name()))),
        };
        Ok(Self { op: node.op, function })
    }

    /// Applies it.
    pub fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let out = match self.function {
            Function::Where => choose(required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?)?,
            Function::Fold { step, mean } => {
                let all = (0..inputs.len().max(1)).map(|i| required(inputs, i)).collect::<Result<Vec<_>, _>>()?;
                self.fold(step, mean, &all, context)?
            }
            Function::Pow => power(required(inputs, 0)?, required(inputs, 1)?)?,
            Function::Arithmetic(_) | Function::Compare(_) | Function::Logic(_) | Function::PRelu => {
                let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
                same_dtype(a, b)?;
                self.pair(a, b, context)?
            }
        };
        Ok(vec![out])
    }

    fn pair(&self, a: &Tensor, b: &Tensor, context: &Context<'_>) -> Result<Tensor, OpError> {
        let dtype = a.dtype();
        if goes_through_f32(dtype) {
            return through_f32(&[a, b], dtype, |wide| self.pair(wide[0], wide[1], context));
        }
        match self.function {
            Function::Arithmetic(f) => arithmetic(self.op, f, a, b, context),
            Function::Compare(f) => compare(self.op, f, a, b),
            Function::Logic(f) if dtype == DType::Bool => {
                let truth = |f: fn(bool, bool) -> bool| move |x: u8, y: u8| u8::from(f(x != 0, y != 0));
                match f {
                    Logic::And => zip(a, b, DType::Bool, truth(|x, y| x & y)),
                    Logic::Or => zip(a, b, DType::Bool, truth(|x, y| x | y)),
                    Logic::Xor => zip(a, b, DType::Bool, truth(|x, y| x ^ y)),
                }
            }
            Function::PRelu => {
                if broadcast_shape(&[a.shape(), b.shape()])? != a.shape() {
                    let text = format!("slope of shape {:?} does not stretch to {:?}", b.shape(), a.shape());
                    return Err(OpError::invalid(text));
                }
                for_number!(dtype, self.op, T => {
                    zip(a, b, dtype, |x: T, slope: T| if x < T::default() { Number::mul(x, slope) } else { x })
                })
            }
            Function::Logic(_) | Function::Fold { .. } | Function::Pow | Function::Where => {
                Err(OpError::dtype(self.op, dtype))
            }
        }
    }

    fn fold(&self, step: Arithmetic, mean: bool, inputs: &[&Tensor], context: &Context<'_>) -> Result<Tensor, OpError> {
        let first = inputs[0];
        for t in inputs {
            same_dtype(first, t)?;
        }
        if goes_through_f32(first.dtype()) {
            return through_f32(inputs, first.dtype(), |wide| self.fold(step, mean, wide, context));
        }
        // The whole shape first: an input that fits none of the later ones must not cost an allocation.
        broadcast_shape(&inputs.iter().map(|t| t.shape()).collect::<Vec<_>>())?;
        let mut total = first.clone();
        for t in &inputs[1..] {
            total = arithmetic(self.op, step, &total, t, context)?;
        }
        match (mean, first.dtype()) {
            (false, _) => Ok(total),
            (true, DType::F32) => {
                let n = inputs.len() as f32;
                total.as_mut_slice::<f32>()?.iter_mut().for_each(|v| *v /= n);
                Ok(total)
            }
            (true, DType::F64) => {
                let n = inputs.len() as f64;
                total.as_mut_slice::<f64>()?.iter_mut().for_each(|v| *v /= n);
                Ok(total)
            }
            (true, d) => Err(OpError::dtype(self.op, d)),
        }
    }
}

fn same_dtype(a: &Tensor, b: &Tensor) -> Result<(), OpError> {
    if a.dtype() == b.dtype() {
        return Ok(());
    }
    Err(OpError::invalid(format!("inputs are of different types, {} and {}", a.dtype(), b.dtype())))
}

/// `f` of each pair, stretched to the common shape; `to` is the type that `C` is stored as.
fn zip<A: Element, B: Element, C: Element>(
    a: &Tensor,
    b: &Tensor,
    to: DType,
    f: impl Fn(A, B) -> C,
) -> Result<Tensor, OpError> {
    let shape = broadcast_shape(&[a.shape(), b.shape()])?;
    let mut out = Tensor::zeros(to, &shape)?;
    if out.is_empty() {
        return Ok(out);
    }
    let strides = [a, b].map(|t| broadcast_strides(t.shape(), &shape));
    let nest = Nest::new(&shape, [&strides[0], &strides[1]]);
    let (n, [step_a, step_b]) = nest.inner();
    let (a, b) = (a.as_slice::<A>(), b.as_slice::<B>());
    let mut rows = out.as_mut_slice::<C>()?.chunks_exact_mut(n);
    nest.rows(|[at_a, at_b]| {
        let Some(row) = rows.next() else { return };
        match (step_a, step_b) {
            (1, 1) => {
                for ((o, &x), &y) in row.iter_mut().zip(&a[at_a..at_a + n]).zip(&b[at_b..at_b + n]) {
                    *o = f(x, y);
                }
            }
            (_, 0) => {
                let y = b[at_b];
                for (o, &x) in row.iter_mut().zip(&a[at_a..at_a + n]) {
                    *o = f(x, y);
                }
            }
            // Along an axis of the result that is not 1, one operand at least is not stretched.
            _ => {
                let x = a[at_a];
                for (o, &y) in row.iter_mut().zip(&b[at_b..at_b + n]) {
                    *o = f(x, y);
                }
            }
        }
    });
    Ok(out)
}

fn arithmetic(op: Op, function: Arithmetic, a: &Tensor, b: &Tensor, context: &Context<'_>) -> Result<Tensor, OpError> {
    let d = a.dtype();
    if d == DType::F32
        && let Some(out) = vectors(function, a, b, context)?
    {
        return Ok(out);
    }
    let divides = matches!(function, Arithmetic::Div | Arithmetic::Mod | Arithmetic::Fmod);
    for_number!(d, op, T => {
        if divides && T::IS_INTEGER && !a.is_empty() && b.as_slice::<T>().contains(&T::default()) {
            return Err(OpError::invalid(format!("{} of integers by zero", op.name())));
        }
        match function {
            Arithmetic::Add => zip(a, b, d, <T as Number>::add),
            Arithmetic::Sub => zip(a, b, d, <T as Number>::sub),
            Arithmetic::Mul => zip(a, b, d, <T as Number>::mul),
            Arithmetic::Div => zip(a, b, d, <T as Number>::div),
            Arithmetic::Max => zip(a, b, d, |x: T, y: T| if x > y || x != x { x } else { y }),
            Arithmetic::Min => zip(a, b, d, |x: T, y: T| if x < y || x != x { x } else { y }),
            Arithmetic::Mod => zip(a, b, d, <T as Number>::floor_mod),
            Arithmetic::Fmod => zip(a, b, d, <T as Number>::rem),
        }
    })
}

/// The f32 kernels, where there is one and each side is whole, one value or one row.
fn vectors(function: Arithmetic, a: &Tensor, b: &Tensor, context: &Context<'_>) -> Result<Option<Tensor>, OpError> {
    let kernel = match function {
        Arithmetic::Add => float::Binary::Add,
        Arithmetic::Sub => float::Binary::Sub,
        Arithmetic::Mul => float::Binary::Mul,
        Arithmetic::Div => float::Binary::Div,
        Arithmetic::Max => float::Binary::Max,
        Arithmetic::Min => float::Binary::Min,
        Arithmetic::Mod | Arithmetic::Fmod => return Ok(None),
    };
    let shape = broadcast_shape(&[a.shape(), b.shape()])?;
    let (Some(left), Some(right)) = (operand(a, &shape), operand(b, &shape)) else { return Ok(None) };
    let mut out = Tensor::zeros(DType::F32, &shape)?;
    if !out.is_empty() {
        float::binary(context.isa, kernel, left, right, out.as_mut_slice()?, context.threads);
    }
    Ok(Some(out))
}

/// How a tensor stretches to `shape`, if in one of the ways of the kernels.
fn operand<'a>(t: &'a Tensor, shape: &[usize]) -> Option<Operand<'a>> {
    let values = t.as_slice::<f32>();
    let row = &t.shape()[t.shape().iter().take_while(|&&d| d == 1).count()..];
    match values {
        // As many values as the result has: nothing is repeated, though leading dimensions of 1 may be missing.
        _ if element_count(shape) == Some(values.len()) => Some(Operand::Full(values)),
        [one] => Some(Operand::Scalar(*one)),
        _ if shape.ends_with(row) => Some(Operand::PerColumn(values)),
        _ => None,
    }
}

fn compare(op: Op, function: Compare, a: &Tensor, b: &Tensor) -> Result<Tensor, OpError> {
    fn all<T: Element>(function: Compare, a: &Tensor, b: &Tensor) -> Result<Tensor, OpError> {
        let to = DType::Bool;
        match function {
            Compare::Equal => zip(a, b, to, |x: T, y: T| u8::from(x == y)),
            Compare::Greater => zip(a, b, to, |x: T, y: T| u8::from(x > y)),
            Compare::GreaterOrEqual => zip(a, b, to, |x: T, y: T| u8::from(x >= y)),
            Compare::Less => zip(a, b, to, |x: T, y: T| u8::from(x < y)),
            Compare::LessOrEqual => zip(a, b, to, |x: T, y: T| u8::from(x <= y)),
        }
    }
    match (function, a.dtype()) {
        (Compare::Equal, DType::Bool) => all::<u8>(function, a, b),
        (_, d) => for_number!(d, op, T => all::<T>(function, a, b)),
    }
}

/// `x` to the power `e`, in the type of `x`; the exponent may be of another type.
fn power(x: &Tensor, e: &Tensor) -> Result<Tensor, OpError> {
    let d = x.dtype();
    match d {
        DType::F16 | DType::BF16 => cast(&power(&cast(x, DType::F32)?, e)?, d),
        DType::F32 => {
            let e = cast(e, DType::F32)?;
            // Squares and cubes by products: exact where the product is, and not a call for each element.
            match (e.as_slice::<f32>(), e.rank() <= x.rank()) {
                ([2.0], true) => zip(x, &e, d, |x: f32, _: f32| x * x),
                ([3.0], true) => zip(x, &e, d, |x: f32, _: f32| x * x * x),
                _ => zip(x, &e, d, <f32 as Real>::pow),
            }
        }
        DType::F64 => zip(x, &cast(e, DType::F64)?, d, <f64 as Real>::pow),
        _ if e.dtype().is_float() => {
            let e = cast(e, DType::F64)?;
            for_number!(d, Op::Pow, T => zip(x, &e, d, |x: T, e: f64| libm::pow(x as f64, e) as T))
        }
        _ => {
            let e = cast(e, DType::I64)?;
            for_number!(d, Op::Pow, T => zip(x, &e, d, <T as Number>::power))
        }
    }
}

/// `a` where the condition holds, else `b`.
fn choose(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor, OpError> {
    same_dtype(a, b)?;
    if condition.dtype() != DType::Bool {
        return Err(OpError::invalid(format!("the condition must be bool, found {}", condition.dtype())));
    }
    let shape = broadcast_shape(&[condition.shape(), a.shape(), b.shape()])?;
    let mut out = Tensor::zeros(a.dtype(), &shape)?;
    if out.is_empty() {
        return Ok(out);
    }
    let strides = [condition, a, b].map(|t| broadcast_strides(t.shape(), &shape));
    let nest = Nest::new(&shape, [&strides[0], &strides[1], &strides[2]]);
    let (n, steps) = nest.inner();
    let steps = steps.map(|s| s as usize);
    let condition = condition.as_slice::<u8>();
    for_cell!(a.dtype().size(), T => {
        let (a, b) = (cells::<T>(a), cells::<T>(b));
        let mut rows = cells_mut::<T>(&mut out)?.chunks_exact_mut(n);
        nest.rows(|[at_c, at_a, at_b]| {
            for (j, o) in rows.next().into_iter().flatten().enumerate() {
                let yes = condition[at_c + j * steps[0]] != 0;
                *o = if yes { a[at_a + j * steps[1]] } else { b[at_b + j * steps[2]] };
            }
        });
    });
    Ok(out)
}

/// Arithmetic that never stops: integers wrap, and a division by zero was refused before.
trait Number: Element {
    const IS_INTEGER: bool;
    fn add(self, y: Self) -> Self;
    fn sub(self, y: Self) -> Self;
    fn mul(self, y: Self) -> Self;
    fn div(self, y: Self) -> Self;
    fn rem(self, y: Self) -> Self;
    fn floor_mod(self, y: Self) -> Self;
    fn power(self, e: i64) -> Self;
}

macro_rules! integers {
    ($($t:ty)*) => { $(#[allow(unused_comparisons)] impl Number for $t {
        const IS_INTEGER: bool = true;
        fn add(self, y: Self) -> Self { self.wrapping_add(y) }
        fn sub(self, y: Self) -> Self { self.wrapping_sub(y) }
        fn mul(self, y: Self) -> Self { self.wrapping_mul(y) }
        fn div(self, y: Self) -> Self { if y == 0 { 0 } else { self.wrapping_div(y) } }
        fn rem(self, y: Self) -> Self { if y == 0 { 0 } else { self.wrapping_rem(y) } }
        fn floor_mod(self, y: Self) -> Self {
            let r = Number::rem(self, y);
            if r != 0 && (r < 0) != (y < 0) { r.wrapping_add(y) } else { r }
        }
        fn power(self, e: i64) -> Self {
            if e < 0 {
                // 1 / x^|e|, truncated.
                return match self {
                    1 => 1,
                    _ if self.wrapping_add(1) == 0 && (self < 0) => if e % 2 == 0 { 1 } else { self },
                    _ => 0,
                };
            }
            let (mut base, mut left, mut out) = (self, e, 1);
            while left > 0 {
                if left & 1 == 1 { out = <$t>::wrapping_mul(out, base); }
                base = base.wrapping_mul(base);
                left >>= 1;
            }
            out
        }
    })* };
}
integers!(i8 i16 i32 i64 u8 u16 u32 u64);

macro_rules! floats {
    ($($t:ty)*) => { $(impl Number for $t {
        const IS_INTEGER: bool = false;
        fn add(self, y: Self) -> Self { self + y }
        fn sub(self, y: Self) -> Self { self - y }
        fn mul(self, y: Self) -> Self { self * y }
        fn div(self, y: Self) -> Self { self / y }
        fn rem(self, y: Self) -> Self { self % y }
        fn floor_mod(self, y: Self) -> Self {
            let r = self % y;
            if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
        }
        fn power(self, e: i64) -> Self { Real::pow(self, e as $t) }
    })* };
}
floats!(f32 f64);
