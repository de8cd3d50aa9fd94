//! From an element type known while running to the Rust type that a loop is compiled for.

use quantal_tensor::{Tensor, TensorError};

/// Runs `$body` with `$t` standing for the Rust type of `$dtype`; for the types that have no arithmetic of their own
/// here (booleans, 16-bit floats, sub-byte types) the result is an error that names `$op`.
macro_rules! for_number {
    ($dtype:expr, $op:expr, $t:ident => $body:expr) => {{
        use quantal_tensor::DType;
        macro_rules! arm {
            ($rust:ty) => {{
                type $t = $rust;
                $body
            }};
        }
        match $dtype {
            DType::F32 => arm!(f32),
            DType::F64 => arm!(f64),
            DType::I64 => arm!(i64),
            DType::I32 => arm!(i32),
            DType::I16 => arm!(i16),
            DType::I8 => arm!(i8),
            DType::U64 => arm!(u64),
            DType::U32 => arm!(u32),
            DType::U16 => arm!(u16),
            DType::U8 => arm!(u8),
            other => Err($crate::ops::OpError::dtype($op, other)),
        }
    }};
}

/// Runs `$body` with `$t` standing for plain bits of `$size` bytes: moving elements needs no more than their size.
macro_rules! for_cell {
    ($size:expr, $t:ident => $body:expr) => {{
        macro_rules! arm {
            ($rust:ty) => {{
                type $t = $rust;
                $body
            }};
        }
        match $size {
            2 => arm!(u16),
            4 => arm!(u32),
            8 => arm!(u64),
            16 => arm!([u64; 2]),
            _ => arm!(u8),
        }
    }};
}

pub(crate) use {for_cell, for_number};

/// The elements as bits of their size; `T` comes from [`for_cell`].
pub(crate) fn cells<T: bytemuck::Pod>(tensor: &Tensor) -> &[T] {
    bytemuck::cast_slice(tensor.bytes())
}

/// The same, writable.
pub(crate) fn cells_mut<T: bytemuck::Pod>(tensor: &mut Tensor) -> Result<&mut [T], TensorError> {
    Ok(bytemuck::cast_slice_mut(tensor.bytes_mut()?))
}
