//! MatMul, Gemm, Einsum and the integer products, as the standard defines them.

pub mod einsum;
mod integer;

use super::number::{self, Number};
use super::strides::{broadcast_shape, count};
use super::walk::{Walk, broadcast_strides};
use super::{Context, Inputs, OpError, optional, required};
use einsum::Equation;
use quantal_ir::op::gemm::GemmAttrs;
use quantal_ir::{Node, Op};
use quantal_tensor::{DType, Element, Tensor};

/// A product of matrices, or of tensors.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Product {
    MatMul,
    Gemm(GemmAttrs),
    Einsum(Equation),
    MatMulInteger,
    QLinearMatMul,
    QGemm(GemmAttrs),
}

/// Calls a function generic over the element type for the types that products are defined on.
macro_rules! on_numbers {
    ($op:expr, $dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            DType::F32 => $f::<f32>($($arg),*),
            DType::F64 => $f::<f64>($($arg),*),
            DType::I32 => $f::<i32>($($arg),*),
            DType::I64 => $f::<i64>($($arg),*),
            DType::U32 => $f::<u32>($($arg),*),
            DType::U64 => $f::<u64>($($arg),*),
            other => Err(OpError::dtype($op, other)),
        }
    };
}
use on_numbers;

impl Product {
    /// Reads the attributes; an Einsum equation that cannot be parsed is refused here.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        Ok(match node.op {
            Op::Gemm => Self::Gemm(GemmAttrs::of(&node.attrs)?),
            Op::QGemm => Self::QGemm(GemmAttrs::of(&node.attrs)?),
            Op::Einsum => Self::Einsum(Equation::of(&node.attrs)?),
            Op::MatMulInteger => Self::MatMulInteger,
            Op::QLinearMatMul => Self::QLinearMatMul,
            _ => Self::MatMul,
        })
    }

    /// Multiplies.
    pub fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let y = match self {
            Self::MatMul => matmul(required(inputs, 0)?, required(inputs, 1)?, context)?,
            Self::Gemm(attrs) => gemm(attrs, inputs, context)?,
            Self::Einsum(equation) => equation.run(inputs, context)?,
            Self::MatMulInteger => integer::matmul(inputs, context)?,
            Self::QLinearMatMul => integer::qlinear_matmul(inputs, context)?,
            Self::QGemm(attrs) => integer::qgemm(attrs, inputs, context)?,
        };
        Ok(vec![y])
    }
}

/// Shapes of a numpy matmul: vectors become matrices, leading dimensions broadcast.
pub(super) struct Shapes {
    /// `a` as `[…, m, k]`.
    pub(super) a: Vec<usize>,
    /// `b` as `[…, k, n]`.
    pub(super) b: Vec<usize>,
    /// The result as `[batch…, m, n]`.
    pub(super) full: Vec<usize>,
    /// The result as handed out: without the dimension that a vector was given.
    pub(super) out: Vec<usize>,
    /// Rows, inner size, columns.
    pub(super) mkn: [usize; 3],
}

impl Shapes {
    pub(super) fn of(a: &[usize], b: &[usize]) -> Result<Self, OpError> {
        if a.is_empty() || b.is_empty() {
            return Err(OpError::invalid(format!("cannot multiply shapes {a:?} and {b:?}: a scalar is not a matrix")));
        }
        let (vector_a, vector_b) = (a.len() == 1, b.len() == 1);
        let a = if vector_a { vec![1, a[0]] } else { a.to_vec() };
        let b = if vector_b { vec![b[0], 1] } else { b.to_vec() };
        let (ra, rb) = (a.len() - 2, b.len() - 2);
        if a[ra + 1] != b[rb] {
            return Err(OpError::invalid(format!(
                "cannot multiply shapes {a:?} and {b:?}: {} and {} differ",
                a[ra + 1],
                b[rb]
            )));
        }
        let mkn = [a[ra], b[rb], b[rb + 1]];
        let mut out = broadcast_shape(&[&a[..ra], &b[..rb]])?;
        let mut full = out.clone();
        full.extend([mkn[0], mkn[2]]);
        if !vector_a {
            out.push(mkn[0]);
        }
        if !vector_b {
            out.push(mkn[2]);
        }
        Ok(Self { a, b, full, out, mkn })
    }

    /// For each matrix of the result, the element offsets of its factors in `a` and `b`.
    pub(super) fn matrices(&self) -> Result<impl Iterator<Item = (usize, usize)>, OpError> {
        let batch = &self.full[..self.full.len() - 2];
        let [m, k, n] = self.mkn;
        let step = |what, shape: &[usize], size: usize| -> Result<Walk, OpError> {
            let mut strides = broadcast_strides(what, &shape[..shape.len() - 2], batch)?;
            for s in &mut strides {
                *s *= size;
            }
            Ok(Walk::new(batch, &strides))
        };
        Ok(step("a", &self.a, count(&[m, k])?)?.zip(step("b", &self.b, count(&[k, n])?)?))
    }
}

fn matmul(a: &Tensor, b: &Tensor, context: &Context<'_>) -> Result<Tensor, OpError> {
    if a.dtype() != b.dtype() {
        return Err(OpError::invalid(format!("cannot multiply {} by {}", a.dtype(), b.dtype())));
    }
    let shapes = Shapes::of(a.shape(), b.shape())?;
    if matches!(a.dtype(), DType::F16 | DType::BF16) {
        let y =
            matmul_of::<f32>(&number::load_f32(Op::MatMul, a)?, &number::load_f32(Op::MatMul, b)?, &shapes, context)?;
        return number::store_as(y, a.dtype());
    }
    on_numbers!(Op::MatMul, a.dtype(), matmul_of(a, b, &shapes, context))
}

fn matmul_of<T: Number>(a: &Tensor, b: &Tensor, shapes: &Shapes, context: &Context<'_>) -> Result<Tensor, OpError> {
    let [m, k, n] = shapes.mkn;
    let mut y = Tensor::zeros(T::DTYPE, &shapes.full)?;
    if !y.is_empty() && k > 0 {
        let (av, bv) = (a.as_slice::<T>(), b.as_slice::<T>());
        for ((from_a, from_b), y) in shapes.matrices()?.zip(y.as_mut_slice::<T>()?.chunks_exact_mut(m * n)) {
            T::product(y, &av[from_a..][..m * k], &bv[from_b..][..k * n], [m, k, n], context)?;
        }
    }
    Ok(y.reshaped(&shapes.out)?)
}

/// A matrix as `[rows, columns]` after an optional transposition.
pub(super) fn transposed<T: Element>(what: &str, t: &Tensor, trans: bool) -> Result<Tensor, OpError> {
    let &[r, c] = t.shape() else {
        return Err(OpError::invalid(format!("{what} must be a matrix, found shape {:?}", t.shape())));
    };
    if trans { super::walk::gather::<T>(t.as_slice(), &[c, r], &[1, c]) } else { Ok(t.clone()) }
}

fn gemm(attrs: &GemmAttrs, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Tensor, OpError> {
    let (a, b, c) = (required(inputs, 0)?, required(inputs, 1)?, optional(inputs, 2));
    if a.dtype() != b.dtype() || c.is_some_and(|c| c.dtype() != a.dtype()) {
        let c = c.map_or(a.dtype(), Tensor::dtype);
        return Err(OpError::invalid(format!("cannot multiply {} by {} and add {c}", a.dtype(), b.dtype())));
    }
    if matches!(a.dtype(), DType::F16 | DType::BF16) {
        let load = |t| number::load_f32(Op::Gemm, t);
        let y = gemm_of::<f32>(attrs, &load(a)?, &load(b)?, c.map(load).transpose()?.as_ref(), context)?;
        return number::store_as(y, a.dtype());
    }
    on_numbers!(Op::Gemm, a.dtype(), gemm_of(attrs, a, b, c, context))
}

/// What Gemm needs besides sums of products: a factor given as f32.
trait Scaled: Number {
    fn scaled(self, factor: f32) -> Self;
}
impl Scaled for f32 {
    fn scaled(self, factor: f32) -> Self {
        self * factor
    }
}
impl Scaled for f64 {
    fn scaled(self, factor: f32) -> Self {
        self * f64::from(factor)
    }
}
macro_rules! scaled_integers {
    ($($t:ty),*) => { $(impl Scaled for $t {
        fn scaled(self, factor: f32) -> Self {
            if factor == 1.0 { self } else { (self as f64 * f64::from(factor)) as Self }
        }
    })* };
}
scaled_integers!(i32, i64, u32, u64);

fn gemm_of<T: Scaled>(
    attrs: &GemmAttrs,
    a: &Tensor,
    b: &Tensor,
    c: Option<&Tensor>,
    context: &Context<'_>,
) -> Result<Tensor, OpError> {
    let a = transposed::<T>("A", a, attrs.trans_a)?;
    let b = transposed::<T>("B", b, attrs.trans_b)?;
    let shapes = Shapes::of(a.shape(), b.shape())?;
    let c = c.map(|c| Ok::<_, OpError>((c, broadcast_strides("C", c.shape(), &shapes.out)?))).transpose()?;
    let mut y = matmul_of::<T>(&a, &b, &shapes, context)?;
    let out = y.as_mut_slice::<T>()?;
    if attrs.alpha != 1.0 {
        for v in out.iter_mut() {
            *v = v.scaled(attrs.alpha);
        }
    }
    if let Some((c, strides)) = c.filter(|_| attrs.beta != 0.0) {
        let (values, one) = (c.as_slice::<T>(), T::from_size(1));
        for (v, at) in out.iter_mut().zip(Walk::new(&shapes.out, &strides)) {
            *v = v.mac(values[at].scaled(attrs.beta), one);
        }
    }
    Ok(y)
}

#[cfg(test)]
mod tests;
