//! Float lowering: what runs when no integer rule takes a node.
//!
//! Each rule says whether it took the node. What no rule takes runs as its operator, in the standard layout.

mod activation;
mod axes;
mod conv;
mod elementwise;
mod norm;
mod pool;
mod product;
mod residual;

use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::error::Result;
use crate::layout::Layout;
use crate::lower;
use crate::ops::OpKernel;
use crate::program::SlotId;
use crate::steps::Step;
use crate::steps::tail::Tail;
use quantal_ir::{Graph, Node, NodeId, Op, QuantClass, ValueId};

/// Lowers one node to float steps. `reason` says why it does not run in integers.
pub(crate) fn lower(l: &mut Lowering<'_>, id: NodeId, reason: Reason) -> Result<()> {
    if lower::edge::lower(l, id)? {
        return Ok(());
    }
    let done = match l.graph.node(id).op {
        Op::Conv => conv::lower(l, id, &reason)?,
        Op::MatMul | Op::Gemm => product::lower(l, id, &reason)?,
        _ => false,
    };
    let done = done
        || activation::lower(l, id, &reason)?
        || residual::lower(l, id)?
        || elementwise::lower(l, id, &reason)?
        || pool::lower(l, id, &reason)?
        || norm::lower(l, id, &reason)?
        || axes::lower(l, id, &reason)?;
    if done { Ok(()) } else { plain(l, id, reason) }
}

/// The node as its operator, on tensors in the standard layout.
fn plain(l: &mut Lowering<'_>, id: NodeId, reason: Reason) -> Result<()> {
    let node = l.graph.node(id);
    let kernel = prepare(l, node)?;
    let inputs = standard_inputs(l, id)?;
    let outputs = node.outputs.iter().map(|v| v.map(|v| l.define(v, Layout::Standard, None))).collect();
    l.emit(id, Step::Op(Box::new(kernel)), inputs, outputs);
    l.set(id, status(node.op, reason));
    Ok(())
}

/// The slots of all inputs in the standard layout.
fn standard_inputs(l: &mut Lowering<'_>, id: NodeId) -> Result<Vec<Option<SlotId>>> {
    let node = l.graph.node(id);
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for v in &node.inputs {
        inputs.push(v.map(|v| l.slot(v, Layout::Standard)).transpose()?);
    }
    Ok(inputs)
}

/// An operator with its attributes read.
pub(crate) fn prepare(l: &Lowering<'_>, node: &Node) -> Result<OpKernel> {
    OpKernel::prepare(node, opset(l.graph, node.op)).map_err(|e| l.error(e))
}

/// The version that an operator's nodes are written in.
pub(crate) fn opset(graph: &Graph, op: Op) -> i64 {
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

/// The tail of the step that makes `v`, with the slot and its layout, if the step has one and `v` need not exist by
/// itself: all its readers are in `readers`.
fn open_tail<'a>(l: &'a mut Lowering<'_>, v: ValueId, readers: &[NodeId]) -> Option<(&'a mut Tail, SlotId, Layout)> {
    if l.is_kept(v) || !l.uses.readers(v).iter().all(|r| readers.contains(r)) {
        return None;
    }
    let layout = l.layout(v);
    let slot = l.own_slot(v, layout)?;
    let tail = match &mut l.step_mut(slot)?.step {
        Step::Conv(conv) => &mut conv.tail,
        Step::Product(product) => &mut product.tail,
        _ => return None,
    };
    Some((tail, slot, layout))
}

/// The only element of a constant.
fn scalar(l: &mut Lowering<'_>, v: Option<ValueId>) -> Result<Option<f32>> {
    let Some(v) = v else { return Ok(None) };
    Ok(l.constant(v)?.and_then(|t| match t.get::<f32>() {
        Some(&[x]) => Some(x),
        _ => None,
    }))
}
