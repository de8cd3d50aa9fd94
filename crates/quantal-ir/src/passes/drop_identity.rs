//! Takes out nodes that pass their input through: Identity, Dropout at inference, Cast to the type that is there
//! already.

use super::PassError;
use crate::graph::{Graph, NodeId};
use crate::op::Op;
use quantal_tensor::DType;

#[expect(clippy::unnecessary_wraps, reason = "one signature for all passes")]
pub(super) fn rewrite(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
    if !matches!(node.op, Op::Identity | Op::Dropout | Op::Cast) {
        return Ok(false);
    }
    let idle = match node.op {
        Op::Identity => true,
        Op::Dropout => {
            let mask = node.output(1).is_some_and(|m| graph.read_count(m) > 0 || graph.is_output(m));
            let trains = node.input(2).is_some_and(|t| graph.constant(Some(t)).is_none_or(|t| t.bytes() != [0]));
            !mask && !trains
        }
        Op::Cast => {
            let to = node.attrs.int("to").ok().flatten().and_then(|to| DType::from_onnx(to as i32));
            to.is_some() && to == graph.value(x).dtype
        }
        _ => false,
    };
    // A value cannot both come in and go out, or be a constant that goes out, without a node between.
    if !idle || (graph.is_output(y) && (graph.producer(x).is_none() || graph.is_output(x))) {
        return Ok(false);
    }
    graph.remove_node(id);
    if graph.is_output(y) {
        graph.rename_output(x, y);
    } else {
        graph.replace_value(y, x);
    }
    Ok(true)
}
