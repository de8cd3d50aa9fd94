//! The machine: integer and float kernels for each instruction set, all giving the same bits.
//!
//! Kernels work on slices and strides; they know neither tensors nor graphs, and never allocate in their loops. All
//! `unsafe` of the project lives here (and in two files of `quantal-tensor`): the public face is safe whole operations,
//! bounds are asserted once at that edge, and raw pointers are used only behind it.
#![allow(unsafe_code, reason = "what this crate is for")]
// Intrinsics inline only into functions compiled for their instruction set, so every layer between must vanish.
#![allow(clippy::inline_always)]

pub(crate) mod arena;
pub(crate) mod chunks;
pub mod conv;
pub mod dwconv;
pub mod eltwise;
pub mod error;
pub mod float;
pub mod gemm;
pub mod geometry;
pub mod isa;
pub mod kernel;
pub mod layer_norm;
pub mod lut;
pub mod pack;
pub mod planes;
pub mod pooling;
pub mod prelu;
pub mod quantize;
pub mod row_quantize;
pub(crate) mod simd;
pub mod softmax;
#[cfg(test)]
pub(crate) mod testing;
pub mod threads;
pub mod transpose;
pub(crate) mod winograd;

pub use error::KernelError;
pub use geometry::ConvGeometry;
pub use isa::{Isa, Level};
pub use threads::Threads;
