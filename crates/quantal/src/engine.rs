//! What a job runs on.

use crate::error::Error;
use quantal_kernels::Isa;

/// The instruction set and the number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engine {
    /// The instruction set.
    pub isa: Isa,
    /// Threads, the calling one included; at least 1.
    pub threads: usize,
}

impl Engine {
    /// The best instruction set of this CPU, capped by `QUANTAL_ISA`, on `threads` threads.
    pub fn detect(threads: usize) -> Result<Self, Error> {
        Ok(Self { isa: Isa::detect()?, threads: threads.max(1) })
    }
}
