//! The numbers: data types, tensors, and the normative quantization arithmetic.
//!
//! This crate knows no graph and no file format. [`arith`] defines what quantization *means*; every kernel, the
//! simulator and the writer of models cite its equations.

pub mod arith;
#[allow(unsafe_code, reason = "maps files")]
pub mod bytes;
pub mod dtype;
#[doc(hidden)]
pub mod fence;
pub mod scheme;
#[allow(unsafe_code, reason = "maps memory")]
pub mod slab;
pub mod stats;
pub mod tensor;

pub use bytes::{Bytes, OutOfMemory};
pub use dtype::DType;
pub use scheme::{Granularity, QParams, Scheme, Storage};
pub use tensor::{Element, Tensor, TensorError};
