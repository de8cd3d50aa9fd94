//! Conv, ConvTranspose, Gemm, MatMul: which input holds the weights, and along which axis their channels lie.

use crate::graph::{Graph, Node, ValueId};
use crate::op::Op;

/// Where the weights of a node are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weighted {
    /// The data: input 0.
    pub data: ValueId,
    /// The weights: input 1, a constant or behind a DequantizeLinear.
    pub weight: ValueId,
    /// The bias: input 2, if given.
    pub bias: Option<ValueId>,
    /// The axis of the weights that runs along output channels; `None` where channels of a scale cannot be told apart
    /// (grouped transposed convolutions, weights of more than 2 dimensions in a MatMul).
    pub axis: Option<usize>,
}

impl Weighted {
    /// Reads them off a node, or `None` for any other operator. Whether the weight is constant is for the caller to ask.
    pub fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let (data, weight) = (node.input(0)?, node.input(1)?);
        let rank = graph.value(weight).rank();
        let axis = match node.op {
            Op::Conv => Some(0),
            Op::ConvTranspose => (node.attrs.int_or("group", 1).ok()? == 1).then_some(1),
            Op::Gemm => Some(usize::from(!node.attrs.flag("transB", false).ok()?)),
            Op::MatMul => (rank == Some(2)).then_some(1),
            _ => return None,
        };
        Some(Self { data, weight, bias: node.input(2), axis })
    }
}
