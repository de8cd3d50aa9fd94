//! Running: compiles a float or QDQ graph into a program of steps.
#![forbid(unsafe_code)]
