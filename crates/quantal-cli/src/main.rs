//! The `quantal` command.
fn main() {}
