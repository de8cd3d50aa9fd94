//! What a graph becomes: steps over slots.

use crate::coverage::Coverage;
use crate::defaults::Defaults;
use crate::layout::Layout;
use crate::steps::Step;
use crate::symbols::Symbols;
use quantal_ir::{Dim, NodeId, ValueId};
use quantal_kernels::Isa;
use quantal_tensor::{DType, Tensor};
use std::sync::Arc;

/// A slot of a [`Program`]: one run-time tensor, written by one step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SlotId(pub u32);

/// One run-time tensor.
#[derive(Clone, Debug)]
pub struct Slot {
    /// How it lies in memory.
    pub layout: Layout,
    /// Number of dimensions, where known.
    pub rank: Option<usize>,
    /// Its contents, if they are known when compiling.
    pub constant: Option<Arc<Tensor>>,
}

/// A step with its slots.
#[derive(Debug)]
pub struct StepRow {
    /// What is done.
    pub step: Step,
    /// The node that it stands for.
    pub node: NodeId,
    /// The node's name, for errors and profiles.
    pub name: Arc<str>,
    /// The node's operator.
    pub op: Arc<str>,
    /// What it reads.
    pub inputs: Vec<Option<SlotId>>,
    /// What it writes, in the order of the step's results; `None` for a result that nobody wants.
    pub outputs: Vec<Option<SlotId>>,
    /// Slots that nobody reads after this step.
    pub frees: Vec<SlotId>,
    /// The input that is such a slot and that the result is written over.
    pub overwrites: Option<usize>,
}

/// An input of a program.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: Arc<str>,
    /// Where it goes.
    pub slot: SlotId,
    /// Element type, where declared.
    pub dtype: Option<DType>,
    /// Dimensions, where declared.
    pub shape: Option<Vec<Dim>>,
}

/// An output of a program, in the standard layout.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its name.
    pub name: Arc<str>,
    /// Where it comes from.
    pub slot: SlotId,
    /// Element type, where declared.
    pub dtype: Option<DType>,
    /// Dimensions, where declared.
    pub shape: Option<Vec<Dim>>,
}

/// A compiled graph, ready for a [`crate::Session`].
#[derive(Debug)]
pub struct Program {
    /// The steps, in the order in which they run.
    pub steps: Vec<StepRow>,
    /// The run-time tensors.
    pub slots: Vec<Slot>,
    /// What is fed.
    pub inputs: Vec<Input>,
    /// What is handed out.
    pub outputs: Vec<Output>,
    /// What each node became.
    pub coverage: Coverage,
    /// The instruction set that it was compiled for.
    pub isa: Isa,
    /// Values that can be observed, with their slots and how they lie there.
    pub(crate) taps: Vec<(ValueId, SlotId, Layout)>,
    /// Inputs that have a default; `None` if there are none.
    pub(crate) defaults: Option<Box<Defaults>>,
    /// The graph, where the names of its dimensions may turn out not to hold.
    pub(crate) symbols: Option<Box<Symbols>>,
    /// In a subprogram: the slots of what it reads from the program around it, in the order of the step's inputs.
    pub(crate) captures: Vec<SlotId>,
}
