//! The machine: integer and float kernels for each instruction set, all giving the same bits.
//!
//! Kernels work on slices and strides; they know neither tensors nor graphs, and never allocate in their loops. All
//! `unsafe` of the project lives here (and in one file of `quantal-tensor`): the public face is safe whole operations,
//! bounds are asserted once at that edge, and raw pointers are used only behind it.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]

pub mod float;
pub mod geometry;
pub mod isa;
pub mod threads;

pub use geometry::ConvGeometry;
pub use isa::{Isa, Level};
pub use threads::Threads;
