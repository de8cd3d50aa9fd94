//! Operators about shapes: those that only rename dimensions, and those that make a tensor from a shape or a number.

mod generator;
mod reshaping;

pub use generator::Generator;
pub use reshaping::Reshaping;
