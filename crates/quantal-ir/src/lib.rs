//! The graph: imports, infers, rewrites and exports ONNX models; never runs them.
//!
//! A [`Graph`] is an overlay on the file it came from: nodes and values have ids, and each remembers the message that
//! it was read from, so that what nobody touched is written back byte for byte.

pub mod attrs;
pub mod contrib;
pub mod cost;
pub mod export;
pub mod graph;
pub mod import;
pub mod infer;
pub mod op;
pub mod passes;
pub mod qdq;
pub mod quant_plan;
pub mod section;
pub mod upgrade;

pub use attrs::{Attr, Attrs};
pub use export::export;
pub use graph::{Dim, Graph, Node, NodeId, Value, ValueId};
pub use import::{ImportError, import};
pub use op::{Op, QuantClass};
pub use qdq::{extract_qdq, insert_qdq};
pub use quant_plan::{Encoding, Params, QuantPlan};
