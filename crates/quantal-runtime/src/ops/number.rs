//! The number types that operators compute in: floats read as f32, integers as i32, sums in the type itself.

use super::{Context, OpError};
use crate::steps::codes::refused;
use half::{bf16, f16};
use quantal_ir::Op;
use quantal_kernels::float::{self, AView, BView, Epilogue, PackedB};
use quantal_tensor::{DType, Element, Tensor};
use std::borrow::Cow;

/// A type with sums of products. Integers wrap around, as accumulators do.
pub(super) trait Number: Element {
    /// `self + a · b`: for floats a product and a sum, each rounded.
    #[must_use]
    fn mac(self, a: Self, b: Self) -> Self;
    /// A size as a number of this type.
    fn from_size(n: usize) -> Self;

    /// `y = a · b` for row-major `[m, k]`, `[k, n]` and `[m, n]`. In f32 each sum is a chain of fused multiply-adds,
    /// with the same bits on every instruction set; in other types, a chain of products and sums.
    fn product(
        y: &mut [Self],
        a: &[Self],
        b: &[Self],
        [m, k, n]: [usize; 3],
        _context: &Context<'_>,
    ) -> Result<(), OpError> {
        y.fill(Self::default());
        if m == 0 || k == 0 || n == 0 {
            return Ok(());
        }
        for (row, a) in y.chunks_exact_mut(n).zip(a.chunks_exact(k)).take(m) {
            for (&u, b) in a.iter().zip(b.chunks_exact(n)) {
                for (v, &w) in row.iter_mut().zip(b) {
                    *v = v.mac(u, w);
                }
            }
        }
        Ok(())
    }
}

impl Number for f32 {
    #[inline]
    fn mac(self, a: Self, b: Self) -> Self {
        self + a * b
    }

    fn from_size(n: usize) -> Self {
        n as Self
    }

    fn product(
        y: &mut [Self],
        a: &[Self],
        b: &[Self],
        [m, k, n]: [usize; 3],
        context: &Context<'_>,
    ) -> Result<(), OpError> {
        if m == 0 || k == 0 || n == 0 {
            y.fill(0.0);
            return Ok(());
        }
        let b = PackedB::pack(BView { data: b, k, n, stride_k: n, stride_n: 1 }).map_err(refused)?;
        let a = AView { data: a, m, row_stride: k, col_stride: 1 };
        float::gemm(context.isa, a, &b, &Epilogue::NONE, y, n, context.threads);
        Ok(())
    }
}

macro_rules! numbers {
    ($($t:ty: $acc:ident, $a:ident, $b:ident => $e:expr;)*) => {
        $(impl Number for $t {
            #[inline]
            fn mac(self, $a: Self, $b: Self) -> Self { let $acc = self; $e }
            fn from_size(n: usize) -> Self { n as Self }
        })*
    };
}
numbers! {
    f64: acc, a, b => acc + a * b;
    i32: acc, a, b => acc.wrapping_add(a.wrapping_mul(b));
    i64: acc, a, b => acc.wrapping_add(a.wrapping_mul(b));
    u32: acc, a, b => acc.wrapping_add(a.wrapping_mul(b));
    u64: acc, a, b => acc.wrapping_add(a.wrapping_mul(b));
}

/// A float tensor's elements as f32.
pub(super) fn floats(op: Op, t: &Tensor) -> Result<Cow<'_, [f32]>, OpError> {
    match t.get::<f32>() {
        Some(values) => Ok(Cow::Borrowed(values)),
        None if t.dtype().is_float() => t.to_f32_vec().map(Cow::Owned).ok_or_else(|| OpError::dtype(op, t.dtype())),
        None => Err(OpError::dtype(op, t.dtype())),
    }
}

/// An f32 tensor in another float type: what an operator that computes in f32 hands out.
pub(super) fn store_as(t: Tensor, dtype: DType) -> Result<Tensor, OpError> {
    fn each<T: Element>(t: &Tensor, f: impl Fn(f32) -> T) -> Result<Tensor, OpError> {
        let mut out = Tensor::zeros(T::DTYPE, t.shape())?;
        for (y, &x) in out.as_mut_slice::<T>()?.iter_mut().zip(t.as_slice::<f32>()) {
            *y = f(x);
        }
        Ok(out)
    }
    match dtype {
        DType::F32 => Ok(t),
        DType::F64 => each(&t, f64::from),
        DType::F16 => each(&t, f16::from_f32),
        DType::BF16 => each(&t, bf16::from_f32),
        other => Err(OpError::Unsupported(format!("results of {other}"))),
    }
}

/// A float tensor in f32: itself, or a converted copy.
pub(super) fn load_f32(op: Op, t: &Tensor) -> Result<Tensor, OpError> {
    match t.dtype() {
        DType::F32 => Ok(t.clone()),
        _ => Ok(Tensor::from_slice(t.shape(), &floats(op, t)?)?),
    }
}

/// The codes of an integer tensor of at most 32 bits, as i32.
pub(super) fn codes(op: Op, t: &Tensor) -> Result<Tensor, OpError> {
    fn each<T: Element + Into<i32>>(t: &Tensor) -> Result<Tensor, OpError> {
        let mut out = Tensor::zeros(DType::I32, t.shape())?;
        for (y, &x) in out.as_mut_slice::<i32>()?.iter_mut().zip(t.as_slice::<T>()) {
            *y = x.into();
        }
        Ok(out)
    }
    match t.dtype() {
        DType::I32 => Ok(t.clone()),
        DType::U8 | DType::U4 | DType::U2 => each::<u8>(t),
        DType::I8 | DType::I4 | DType::I2 => each::<i8>(t),
        DType::U16 => each::<u16>(t),
        DType::I16 => each::<i16>(t),
        other => Err(OpError::dtype(op, other)),
    }
}

/// Codes that fit `dtype` as a tensor of it.
pub(super) fn store_codes(codes: &Tensor, dtype: DType) -> Result<Tensor, OpError> {
    fn each<T: Element>(t: &Tensor, dtype: DType, f: impl Fn(i32) -> T) -> Result<Tensor, OpError> {
        let mut out = Tensor::zeros(dtype, t.shape())?;
        for (y, &x) in out.as_mut_slice::<T>()?.iter_mut().zip(t.as_slice::<i32>()) {
            *y = f(x);
        }
        Ok(out)
    }
    match dtype {
        DType::I32 => Ok(codes.clone()),
        DType::U8 | DType::U4 | DType::U2 => each(codes, dtype, |v| v as u8),
        DType::I8 | DType::I4 | DType::I2 => each(codes, dtype, |v| v as i8),
        DType::U16 => each(codes, dtype, |v| v as u16),
        DType::I16 => each(codes, dtype, |v| v as i16),
        other => Err(OpError::Unsupported(format!("codes of {other}"))),
    }
}

/// The only element of an f32 tensor, for scales and thresholds; `what` names it in errors.
pub(super) fn one_f32(what: &str, t: &Tensor) -> Result<f32, OpError> {
    match (t.len(), t.dtype().is_float().then(|| t.to_f32_vec()).flatten()) {
        (1, Some(values)) => Ok(values[0]),
        (n, _) => Err(OpError::invalid(format!("{what} must be one float, found {n} of {}", t.dtype()))),
    }
}

/// The only element of an integer tensor.
pub(super) fn one_int(what: &str, t: &Tensor) -> Result<i64, OpError> {
    match (t.len(), (!t.dtype().is_float()).then(|| t.to_i64_vec()).flatten()) {
        (1, Some(values)) => Ok(values[0]),
        (n, _) => Err(OpError::invalid(format!("{what} must be one integer, found {n} of {}", t.dtype()))),
    }
}
