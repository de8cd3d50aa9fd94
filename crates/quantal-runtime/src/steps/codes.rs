//! 8-bit codes at run time, and how a sum ends: as codes or as floats.

use super::Env;
use super::join::Columns;
use crate::ops::OpError;
use quantal_kernels::KernelError;
use quantal_kernels::eltwise::OutCodes;
use quantal_kernels::gemm::{Epilogue, Residual};
use quantal_tensor::arith::{self, Affine};
use quantal_tensor::{DType, OutOfMemory, Tensor, TensorError};

/// How a tensor of 8-bit codes is to be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Codes {
    /// Scale, zero point and the codes in use.
    pub affine: Affine,
    /// Whether they are s8 rather than u8.
    pub signed: bool,
}

impl Codes {
    /// The tensor type.
    pub fn dtype(&self) -> DType {
        if self.signed { DType::I8 } else { DType::U8 }
    }

    /// What a kernel writes.
    pub fn out(&self) -> OutCodes {
        OutCodes { zero_point: self.affine.zero_point, qmin: self.affine.qmin, qmax: self.affine.qmax }
    }

    /// The bytes of a tensor of such codes.
    pub(crate) fn read<'a>(&self, tensor: &'a Tensor) -> Result<&'a [u8], OpError> {
        if tensor.dtype() == self.dtype() {
            Ok(tensor.bytes())
        } else {
            Err(OpError::invalid(format!("expects codes of {}, found {}", self.dtype(), tensor.dtype())))
        }
    }

    /// The same, to write.
    pub(crate) fn write<'a>(&self, tensor: &'a mut Tensor) -> Result<&'a mut [u8], OpError> {
        Ok(if self.signed {
            bytemuck::cast_slice_mut(tensor.as_mut_slice::<i8>()?)
        } else {
            tensor.as_mut_slice::<u8>()?
        })
    }
}

/// A shape that a kernel cannot serve, in the words of an operator.
pub(crate) fn refused(e: KernelError) -> OpError {
    match e {
        KernelError::OutOfMemory { bytes } => TensorError::OutOfMemory(OutOfMemory::now(bytes)).into(),
        other => OpError::Invalid(other.to_string()),
    }
}

/// A result of `codes`, written by `fill`.
pub(crate) fn written(
    codes: Codes,
    shape: &[usize],
    env: &mut Env<'_>,
    fill: impl FnOnce(&mut [u8], &Env<'_>) -> Result<(), KernelError>,
) -> Result<Tensor, OpError> {
    let mut y = env.pool.tensor(codes.dtype(), shape)?;
    fill(codes.write(&mut y)?, env).map_err(refused)?;
    Ok(y)
}

/// What becomes of the accumulators of a convolution or product.
#[derive(Debug)]
pub enum End {
    /// Codes by arith (3).
    Codes(Box<CodesEnd>),
    /// Floats: `f32(acc) · scale`, with `scale` = `s_x · s_w[c]`.
    F32 {
        /// One, or one for each column.
        scale: Vec<f32>,
    },
}

/// An end in codes.
#[derive(Debug)]
pub struct CodesEnd {
    /// arith (3), one or one for each column.
    pub multiplier: Vec<f32>,
    /// What the sum is rounded to.
    pub sum: Codes,
    /// Another tensor of codes that is added, and what the whole is rounded to: arith (4). Fused from an Add.
    pub add: Option<(Codes, Codes)>,
    /// A function of the code, and the type of its results. Fused from a table.
    pub table: Option<(Box<[u8; 256]>, Codes)>,
    /// The columns of a wider tensor that the codes are written to, where they get no tensor of their own.
    pub columns: Option<Columns>,
}

impl CodesEnd {
    /// The codes that leave.
    pub fn codes(&self) -> Codes {
        let added = self.add.as_ref().map(|a| a.1);
        self.table.as_ref().map(|t| t.1).or(added).unwrap_or(self.sum)
    }
}

impl End {
    /// The columns of a wider tensor that a result goes to.
    pub(crate) fn columns(&self) -> Option<Columns> {
        match self {
            Self::Codes(end) => end.columns,
            Self::F32 { .. } => None,
        }
    }

    /// The input of a step with this end that its result can be written over: a wider tensor that was begun before, or the
    /// one that is added.
    pub(crate) fn under(&self) -> Option<usize> {
        match self {
            Self::Codes(end) => match (&end.columns, &end.add) {
                (Some(columns), _) => columns.begun.then_some(0),
                (None, Some((added, _))) => (added.dtype() == end.codes().dtype()).then_some(1),
                (None, None) => None,
            },
            Self::F32 { .. } => None,
        }
    }

    /// A result of `shape` whose last axis are the `n` columns, or the wider tensor that it goes into; `under` is the
    /// [input that it is written over](Self::under). `run` computes with the epilogue.
    pub(crate) fn finish(
        &self,
        bias: Option<&[i32]>,
        residual: Option<&Tensor>,
        shape: &[usize],
        under: Option<Tensor>,
        env: &mut Env<'_>,
        run: impl FnOnce(Epilogue<'_>, &Env<'_>) -> Result<(), KernelError>,
    ) -> Result<Tensor, OpError> {
        let n = shape.last().copied().unwrap_or(1);
        let end = match self {
            Self::F32 { scale } => {
                let mut y = env.pool.tensor(DType::F32, shape)?;
                let out = y.as_mut_slice::<f32>()?;
                run(Epilogue::F32 { bias, scale, bias_f32: None, out, ldc: n }, env).map_err(refused)?;
                return Ok(y);
            }
            Self::Codes(end) => end,
        };
        let over = under.as_ref().filter(|_| end.columns.is_none());
        let add = match &end.add {
            None => None,
            Some((x, y)) => {
                let added = residual.or(over).ok_or_else(|| OpError::invalid("the tensor to be added is missing"))?;
                if added.shape() != shape {
                    return Err(OpError::invalid(format!("cannot add shape {:?} to {shape:?}", added.shape())));
                }
                x.read(added)?;
                Some(Residual {
                    codes: residual.map(Tensor::bytes),
                    signed: x.signed,
                    ld: n,
                    zero_point: x.affine.zero_point,
                    multiplier: x.affine.scale / y.affine.scale,
                    sum_multiplier: end.sum.affine.scale / y.affine.scale,
                    out_zero_point: y.affine.zero_point,
                    qmin: y.affine.qmin,
                    qmax: y.affine.qmax,
                })
            }
        };
        let (mut y, first, ldc) = match (end.columns, under) {
            (Some(columns), under) => (columns.whole(end.codes(), shape, under, env)?, columns.first, columns.of),
            (None, Some(added)) => (added, 0, n),
            (None, None) => (env.pool.tensor(end.codes().dtype(), shape)?, 0, n),
        };
        let Affine { zero_point, qmin, qmax, .. } = end.sum.affine;
        let table = end.table.as_ref().map(|t| &*t.0);
        let multiplier = &end.multiplier;
        // An empty tensor has no column to begin at.
        let out = end.codes().write(&mut y)?.get_mut(first..).unwrap_or_default();
        run(Epilogue::Codes { bias, multiplier, zero_point, qmin, qmax, add, table, out, ldc }, env)
            .map_err(refused)?;
        Ok(y)
    }
}

/// The multipliers of arith (3) for each weight scale.
pub(crate) fn multipliers(scale_x: f32, scale_w: &[f32], scale_y: f32) -> Vec<f32> {
    scale_w.iter().map(|&w| arith::multiplier(scale_x, w, scale_y)).collect()
}
