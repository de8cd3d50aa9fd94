//! Fuzz targets: each takes any bytes and must return. The runner beside this library (`cargo xtask fuzz`) and the
//! libFuzzer targets in `fuzz/libfuzzer` share them.

pub mod mutate;
pub mod seeds;
pub mod targets;

pub use targets::{TARGETS, Target};
