//! Float kernels: for the f32 baseline, calibration, steps that fall back, and training.
//!
//! Every function gives the same bits on every instruction set and for every number of threads. Lanes run across
//! outputs, and each output is one chain of fused multiply-adds over its inputs in order; true reductions (norms,
//! softmax, means over a row) use sixteen virtual lanes folded in a fixed order. An algorithm is chosen by
//! shape, never by instruction set. (One thing is left to the CPU: which payload a NaN made from two NaNs has.)
//!
//! Functions panic where a slice is shorter than the shapes say or a geometry is not
//! [valid](crate::ConvGeometry::valid): callers check what comes from files.
// A body is compiled for an instruction set by being inlined into a function that has it; its lanes are indices.
#![allow(clippy::inline_always, clippy::needless_range_loop)]
// Intrinsics come by the hundred.
#![allow(clippy::wildcard_imports)]

mod binary;
mod calibrate;
mod conv;
mod conv_dw;
mod conv_transpose;
mod dwconv;
mod gather;
mod gemm;
mod lanes;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod pack;
mod peak;
mod pooling;
mod reduce;
mod rows;
mod scratch;
#[cfg(test)]
mod test_data;
mod tile;
mod unary;
mod winograd;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use binary::{Binary, Operand, binary, binary_in_place};
pub use calibrate::{Survey, add_moments, bin, survey};
pub use conv::{PackedConv, conv};
pub use conv_dw::{Stage, conv_dw};
pub use conv_transpose::{PackedConvTranspose, conv_transpose, valid_transposed};
pub use dwconv::{PackedDw, dwconv};
pub use gemm::{AView, Epilogue, Residual, gemm};
pub use norm::{LayerNorm, layer_norm, softmax};
pub use pack::{BView, PackedB};
pub use peak::fma_loop;
pub use pooling::{Pool, pool};
pub use reduce::{Reduce, reduce};
pub use unary::{Unary, unary, unary_in_place};
