//! Development only: graph builders, seeded data, bit-exact assertions.
#![allow(clippy::print_stderr)]

pub mod data;
pub mod graph;
pub mod names;

use std::path::PathBuf;

/// The folder of real models and data that the environment variable `QUANTAL_SHARED` names. Without it a test that
/// needs them says so and passes, unless `QUANTAL_REQUIRE_SHARED=1`.
///
/// # Panics
/// If the folder is required but missing.
pub fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("QUANTAL_SHARED").map(PathBuf::from);
    if folder.is_none() {
        assert!(std::env::var_os("QUANTAL_REQUIRE_SHARED").is_none_or(|v| v != "1"), "QUANTAL_SHARED is not set");
        eprintln!("skipped: QUANTAL_SHARED is not set");
    }
    folder
}
