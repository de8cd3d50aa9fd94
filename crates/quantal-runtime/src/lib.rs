//! Running: compiles a float or QDQ graph into a program of steps.
//!
//! [`compile()`] walks the nodes in order. Each becomes a step, goes into the step of another node, or is folded, and
//! [`Coverage`] says which; there is no silent path. A [`Session`] runs the program.

pub mod compile;
mod control;
pub mod coverage;
mod defaults;
pub mod error;
mod expand;
mod float;
pub mod fold;
mod fuse;
pub mod layout;
mod lower;
pub mod ops;
mod packings;
pub mod pool;
pub mod profile;
pub mod program;
pub mod session;
pub mod steps;
mod symbols;

pub use compile::{Mode, compile, compile_observed, survey};
pub use coverage::{Coverage, Reason, Status};
pub use error::{Error, Result};
pub use fold::fold_constants;
pub use layout::Layout;
pub use profile::{StepTime, Unit, Work};
pub use program::Program;
pub use session::Session;
