//! Float lowering: what runs when no integer rule takes a node.

use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::error::Result;
use crate::layout::Layout;
use crate::ops::OpKernel;
use crate::steps::Step;
use quantal_ir::{Node, NodeId, Op, QuantClass};

/// Lowers one node to float steps. `reason` says why it does not run in integers.
pub(crate) fn lower(l: &mut Lowering<'_>, id: NodeId, reason: Reason) -> Result<()> {
    let node = l.graph.node(id);
    let kernel = prepare(l, node)?;
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for v in &node.inputs {
        inputs.push(v.map(|v| l.slot(v, Layout::Standard)).transpose()?);
    }
    let outputs = node.outputs.iter().map(|v| v.map(|v| l.define(v, Layout::Standard, None))).collect();
    l.emit(id, Step::Op(Box::new(kernel)), inputs, outputs);
    l.set(id, status(node.op, reason));
    Ok(())
}

/// An operator with its attributes read.
pub(crate) fn prepare(l: &Lowering<'_>, node: &Node) -> Result<OpKernel> {
    OpKernel::prepare(node, opset(l.graph, node.op)).map_err(|e| l.error(e))
}

/// The version that an operator's nodes are written in.
pub(crate) fn opset(graph: &quantal_ir::Graph, op: Op) -> i64 {
    graph.opsets.get(op.domain()).copied().unwrap_or(1)
}

/// What becomes of a node that runs as it is.
pub(crate) fn status(op: Op, reason: Reason) -> Status {
    if moves(op) { Status::Moves } else { Status::Float { reason } }
}

/// Whether an operator only moves elements, works on shapes or conditions, or converts between codes and floats.
fn moves(op: Op) -> bool {
    match op.quant_class() {
        QuantClass::Shape => true,
        QuantClass::SameScale => {
            !matches!(op, Op::MaxPool | Op::GlobalMaxPool | Op::ReduceMax | Op::ReduceMin | Op::Resize | Op::Upsample)
        }
        QuantClass::Quant => {
            matches!(op, Op::QuantizeLinear | Op::DequantizeLinear | Op::MsQuantizeLinear | Op::MsDequantizeLinear)
        }
        QuantClass::Weighted | QuantClass::Integer | QuantClass::Table | QuantClass::Float => false,
    }
}
