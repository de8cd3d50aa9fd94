//! Deciding: which values are held in integers, and with what numbers.
//!
//! [`place()`] chooses the values, [`calibrate()`] runs the float model over samples and lets an [`Observer`] propose a range
//! for each, [`weights`] scales the weights; [`quantize()`] does all of it and writes the QDQ graph. Only graph weights
//! and the [`quantal_ir::QuantPlan`] are edited here.

mod adaround;
pub mod balance;
pub mod bias_correction;
pub mod blocks;
pub mod calibrate;
pub mod channel_reach;
pub mod constants;
pub mod equalize;
pub mod error;
mod gptq;
pub mod histogram;
pub mod observer;
pub mod orders;
pub mod place;
pub mod product_rows;
pub mod progress;
pub mod quantize;
pub mod recipe;
pub mod rounding;
pub mod sampling;
pub mod second_moment;
pub mod sensitivity;
pub mod smooth_quant;
pub mod spread;
pub mod watch;
pub mod weight_rows;
pub mod weights;

pub use calibrate::{Calibration, calibrate};
pub use constants::check_weights;
pub use error::{Error, Result};
pub use observer::{Observer, Range, Statistics};
pub use place::{Decision, IdleOverride, Placement, Verdict, idle_overrides, place};
pub use progress::{Progress, Silent};
pub use quantize::{CalibrationSummary, Prepared, Quantized, Rearranged, RoundedWeight, prepare, quantize};
pub use recipe::Recipe;
pub use sampling::{Covered, Sampled, Tracked, sample, tracked};
pub use sensitivity::{Effect, NodeEffect, Sensitivity, sensitivity};
pub use watch::{Hole, Looked, Runs, Samples, Stream};
