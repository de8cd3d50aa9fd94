//! The steps of a program: what each kind computes from its input tensors.

use crate::control::{Branches, Turns};
use crate::layout::{Layout, moved};
use crate::ops::{Context, OpError, OpKernel};
use crate::pool::Pool;
use quantal_kernels::{Isa, Threads};
use quantal_tensor::Tensor;

/// What a step runs on.
pub struct Env<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The threads.
    pub threads: &'a Threads,
    /// Where results get their memory from.
    pub pool: &'a mut Pool,
}

/// One kind of work.
#[derive(Debug)]
pub enum Step {
    /// An operator as ONNX defines it, on tensors in the standard layout, or in any layout if it works element by
    /// element or its axes were rewritten.
    Op(Box<OpKernel>),
    /// The same tensor in this layout.
    Move(Layout),
    /// Control flow: one of two subprograms.
    If(Box<Branches>),
    /// Control flow: a subprogram, turn after turn.
    Loop(Box<Turns>),
}

impl Step {
    /// What profiles call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Op(_) => "op",
            Self::Move(Layout::ChannelsLast) => "to_channels_last",
            Self::Move(Layout::Standard) => "to_standard",
            Self::If(_) => "if",
            Self::Loop(_) => "loop",
        }
    }

    /// Runs a step without subprograms.
    pub(crate) fn run(&self, inputs: &[Option<&Tensor>], env: &mut Env<'_>) -> Result<Vec<Tensor>, OpError> {
        match self {
            Self::Op(kernel) => kernel.run(inputs, &Context { isa: env.isa, threads: env.threads }),
            Self::Move(to) => Ok(vec![moved(crate::ops::required(inputs, 0)?, *to, env.pool)?]),
            Self::If(_) | Self::Loop(_) => Err(OpError::invalid("control flow is run by the session")),
        }
    }
}
