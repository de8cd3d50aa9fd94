//! INT8 quantization of ONNX models that truly run in INT8.
//!
//! The jobs behind the `quantal` command, as functions: one file a verb.
//!
//! ```no_run
//! use quantal::{Engine, Model};
//!
//! # fn main() -> Result<(), quantal::Error> {
//! let model = Model::open("model.onnx".as_ref())?;
//! let feeds = quantal::data::npz::read_npz("input.npz".as_ref())?;
//! for (name, tensor) in quantal::run(&model, &feeds, Engine::detect(1)?)? {
//!     println!("{name}: {} {:?}", tensor.dtype(), tensor.shape());
//! }
//! # Ok(()) }
//! ```

pub mod bench;
mod budget;
mod check_data;
mod closeness;
mod compare;
mod engine;
mod error;
mod eval;
mod explain;
mod guard;
mod inspect;
mod judge;
mod model;
mod prepare;
mod quantize;
mod quickstart;
mod run;
mod sensitivity;
mod variations;
mod warnings;

pub use budget::{Budget, FailedRung, HeldOut, Ladder, Rung, quantize_within};
pub use check_data::{
    AgainstRow, Classes, DataCheck, Distribution, FigureRow, GrowthRow, LEAST_SAMPLES, Problem, RangeRow, StretchRow,
    check_data,
};
pub use compare::{Comparison, LayerRow, compare};
pub use engine::Engine;
pub use error::Error;
pub use eval::{Evaluation, check_labelled, evaluate};
pub use explain::{Explanation, ExplanationRow, explain};
pub use inspect::{Inspection, OpRow, QuantizedValue, ValueRow, inspect, survey};
pub use judge::Outcome;
pub use model::{Model, save_npz, save_text};
pub use quantal_data as data;
pub use quantal_ptq::{IdleOverride, Progress, Recipe, Silent};
pub use quantal_runtime::{Coverage, Mode, Reason, Session, Status, coverage};
pub use quantal_tensor::{DType, Tensor, bytes::set_memory_limit};
pub use quantize::{
    DecisionRow, EqualizedRow, FallbackRow, HoleRow, Quantization, Report, RoundedRow, SmoothedRow, load_recipe,
    quantize,
};
pub use quickstart::{Quickstart, quickstart};
pub use run::run;
pub use sensitivity::{EffectRow, NodeRow, SensitivityReport, sensitivity};
pub use warnings::{Warning, of_sizes as size_warning};
