//! A tensor: element type, shape and bytes, row-major and aligned.

use crate::bytes::{Bytes, OutOfMemory};
use crate::dtype::DType;
use half::{bf16, f16};
use std::borrow::Cow;

/// What can be wrong with a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The shape asks for more elements than can be counted.
    #[error("shape {0:?} has too many elements")]
    TooLarge(Vec<usize>),
    /// Bytes and shape do not fit each other.
    #[error("shape {shape:?} of {dtype} needs {needed} bytes, found {found}")]
    Length {
        /// The claimed shape.
        shape: Vec<usize>,
        /// The claimed type.
        dtype: DType,
        /// Bytes that they imply.
        needed: usize,
        /// Bytes at hand.
        found: usize,
    },
    /// The element type cannot be held in memory.
    #[error("tensors of {0} are not supported")]
    Unsupported(DType),
    /// No memory for it.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// A Rust type that tensor elements can be read as.
pub trait Element: bytemuck::Pod + PartialEq + PartialOrd + Default + Send + Sync + std::fmt::Debug {
    /// The tensor type made from this Rust type.
    const DTYPE: DType;
    /// Whether a tensor of `dtype` can be read as this type: sub-byte types and bool are held as bytes.
    fn reads(dtype: DType) -> bool {
        dtype == Self::DTYPE
    }
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
elements!(f32 => F32, f64 => F64, f16 => F16, bf16 => BF16, i16 => I16, u16 => U16, i32 => I32, u32 => U32, i64 => I64, u64 => U64);

impl Element for u8 {
    const DTYPE: DType = DType::U8;
    fn reads(dtype: DType) -> bool {
        dtype.size() == 1 && !matches!(dtype, DType::I8 | DType::I4 | DType::I2)
    }
}

impl Element for i8 {
    const DTYPE: DType = DType::I8;
    fn reads(dtype: DType) -> bool {
        matches!(dtype, DType::I8 | DType::I4 | DType::I2)
    }
}

/// The number of elements of a shape, or `None` if it overflows.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    // A zero anywhere makes the tensor empty even where the other dimensions overflow.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d))
}

/// A dense row-major tensor. Cloning shares the bytes; writing to a shared one copies first.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl Tensor {
    /// All elements zero.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self, TensorError> {
        let len = byte_len(dtype, shape)?;
        Ok(Self { dtype, shape: shape.to_vec(), bytes: Bytes::zeroed(len)? })
    }

    /// Elements from a slice whose length is the shape's element count.
    pub fn from_slice<T: Element>(shape: &[usize], values: &[T]) -> Result<Self, TensorError> {
        Self::from_bytes(T::DTYPE, shape, Bytes::copy_from(bytemuck::cast_slice(values))?)
    }

    /// A tensor of one element and no dimensions.
    pub fn scalar<T: Element>(value: T) -> Result<Self, TensorError> {
        Self::from_slice(&[], &[value])
    }

    /// Booleans.
    pub fn from_bools(shape: &[usize], values: &[bool]) -> Result<Self, TensorError> {
        let bytes: Vec<u8> = values.iter().map(|&b| u8::from(b)).collect();
        Self::from_bytes(DType::Bool, shape, Bytes::copy_from(&bytes)?)
    }

    /// Raw bytes in memory layout. Copied if they are not aligned for the type; either way they count against the memory
    /// limit, those of a mapped file as well.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: Bytes) -> Result<Self, TensorError> {
        let needed = byte_len(dtype, shape)?;
        if bytes.len() != needed {
            return Err(TensorError::Length { shape: shape.to_vec(), dtype, needed, found: bytes.len() });
        }
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(dtype.size().min(8));
        let bytes = if aligned {
            bytes.claimed()?
        } else {
            let copy = Bytes::copy_from(&bytes)?;
            bytes.let_go();
            copy
        };
        Ok(Self { dtype, shape: shape.to_vec(), bytes })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        if self.dtype.size() == 0 { 0 } else { self.bytes.len() / self.dtype.size() }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes, in memory layout.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, writable, whatever the type; a shared or mapped tensor is copied first.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], TensorError> {
        Ok(self.bytes.make_mut()?)
    }

    /// Gives the storage back, for reuse.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The elements, or `None` if they are of another type.
    pub fn get<T: Element>(&self) -> Option<&[T]> {
        T::reads(self.dtype).then(|| bytemuck::cast_slice(&self.bytes))
    }

    /// The elements.
    ///
    /// # Panics
    /// If the tensor is of another type: callers have checked [`Tensor::dtype`].
    pub fn as_slice<T: Element>(&self) -> &[T] {
        self.get().unwrap_or_else(|| panic!("tensor holds {}, read as {}", self.dtype, T::DTYPE))
    }

    /// The elements, writable; a shared or mapped tensor is copied first.
    ///
    /// # Panics
    /// If the tensor is of another type.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], TensorError> {
        assert!(T::reads(self.dtype), "tensor holds {}, written as {}", self.dtype, T::DTYPE);
        Ok(bytemuck::cast_slice_mut(self.bytes.make_mut()?))
    }

    /// The same elements under another shape of the same count.
    pub fn reshaped(mut self, shape: &[usize]) -> Result<Self, TensorError> {
        let needed = byte_len(self.dtype, shape)?;
        if needed != self.bytes.len() {
            let (dtype, found) = (self.dtype, self.bytes.len());
            return Err(TensorError::Length { shape: shape.to_vec(), dtype, needed, found });
        }
        self.shape = shape.to_vec();
        Ok(self)
    }

    /// Elements of the integer types (bool included) as i64, those of the float types truncated; `None` for the rest.
    pub fn to_i64_vec(&self) -> Option<Vec<i64>> {
        Some(match self.dtype {
            DType::I64 => self.as_slice::<i64>().to_vec(),
            DType::I32 => self.as_slice::<i32>().iter().map(|&v| v.into()).collect(),
            DType::I16 => self.as_slice::<i16>().iter().map(|&v| v.into()).collect(),
            DType::U16 => self.as_slice::<u16>().iter().map(|&v| v.into()).collect(),
            DType::U32 => self.as_slice::<u32>().iter().map(|&v| v.into()).collect(),
            DType::U64 => self.as_slice::<u64>().iter().map(|&v| v as i64).collect(),
            DType::I8 | DType::I4 | DType::I2 => self.as_slice::<i8>().iter().map(|&v| v.into()).collect(),
            DType::U8 | DType::U4 | DType::U2 | DType::Bool => {
                self.as_slice::<u8>().iter().map(|&v| v.into()).collect()
            }
            DType::F32 => self.as_slice::<f32>().iter().map(|&v| v as i64).collect(),
            DType::F64 => self.as_slice::<f64>().iter().map(|&v| v as i64).collect(),
            _ => return None,
        })
    }

    /// The elements of a tensor of any float type as f32, those of float64 rounded; `None` for other types.
    pub fn floats(&self) -> Option<Cow<'_, [f32]>> {
        match self.get::<f32>() {
            Some(values) => Some(Cow::Borrowed(values)),
            None if self.dtype.is_float() => self.to_f32_vec().map(Cow::Owned),
            None => None,
        }
    }

    /// Elements of any numeric type as f32; `None` for types that are not numbers.
    pub fn to_f32_vec(&self) -> Option<Vec<f32>> {
        Some(match self.dtype {
            DType::F32 => self.as_slice::<f32>().to_vec(),
            DType::F64 => self.as_slice::<f64>().iter().map(|&v| v as f32).collect(),
            DType::F16 => self.as_slice::<f16>().iter().map(|v| v.to_f32()).collect(),
            DType::BF16 => self.as_slice::<bf16>().iter().map(|v| v.to_f32()).collect(),
            _ => self.to_i64_vec()?.into_iter().map(|v| v as f32).collect(),
        })
    }
}

fn byte_len(dtype: DType, shape: &[usize]) -> Result<usize, TensorError> {
    if dtype.size() == 0 {
        return Err(TensorError::Unsupported(dtype));
    }
    element_count(shape).and_then(|n| n.checked_mul(dtype.size())).ok_or_else(|| TensorError::TooLarge(shape.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_overflows_or_does_not_fit_is_refused() {
        assert!(matches!(Tensor::zeros(DType::F32, &[1 << 40, 1 << 40]), Err(TensorError::TooLarge(_))));
        assert!(matches!(Tensor::from_slice(&[3], &[1.0_f32]), Err(TensorError::Length { needed: 12, found: 4, .. })));
    }

    #[test]
    fn misaligned_bytes_are_copied_into_place() {
        let raw = Bytes::copy_from(&[0, 0, 0, 128, 63, 0, 0, 0]).unwrap().slice(1..5).unwrap();
        assert_eq!(Tensor::from_bytes(DType::F32, &[1], raw).unwrap().as_slice::<f32>(), [1.0]);
    }

    #[test]
    fn types_are_checked_on_reading() {
        let t = Tensor::from_bools(&[2], &[true, false]).unwrap();
        assert_eq!(t.as_slice::<u8>(), [1, 0]);
        assert!(t.get::<i8>().is_none() && t.get::<f32>().is_none());
    }
}
