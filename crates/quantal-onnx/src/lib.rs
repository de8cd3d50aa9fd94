//! The ONNX file format: reads and writes, understands no operator.
//!
//! A model is mapped, not read: large data stay windows of the map. What this crate does not know it keeps: unknown
//! fields leave as the bytes that came in, and a message whose `origin` is intact is written verbatim.
//!
//! ```no_run
//! # fn main() -> Result<(), quantal_onnx::Error> {
//! let model = quantal_onnx::Model::open(std::path::Path::new("model.onnx"))?;
//! for initializer in &model.graph().initializer {
//!     let tensor = model.tensor(initializer)?;
//!     assert_eq!(tensor.rank(), initializer.dims.len());
//! }
//! # Ok(()) }
//! ```

pub mod atomic;
mod decode;
mod encode;
mod error;
mod external;
pub mod file;
mod message;
pub mod save;
pub mod schema;
mod sniff;
mod sparse;
mod wire;

pub use atomic::{save_atomic, save_atomic_with};
pub use encode::tensor_proto;
pub use error::{Error, quote};
pub use file::Model;
pub use message::{Message, Packed, Raw};
pub use save::{encode, save, save_checked, write_to};
pub use schema::*;
