//! Integer lowering: one rule a pattern, each giving steps or the reason why not.

use crate::compile::Lowering;
use crate::coverage::Reason;
use crate::error::Result;
use quantal_ir::{NodeId, Op, ValueId};
use quantal_tensor::DType;

/// What a rule did.
pub(crate) enum Lowered {
    /// The node has its steps and its status, and so has every node that went into them.
    #[allow(dead_code)]
    Done,
    /// Nothing was done; the node runs in float.
    Refused(Reason),
}

/// Lowers one node to integer steps.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn integer(l: &mut Lowering<'_>, id: NodeId) -> Result<Lowered> {
    Ok(Lowered::Refused(refusal(l, id)))
}

/// Why a node that no rule knows runs in float: its first float input that nothing dequantizes, or the operator itself.
fn refusal(l: &Lowering<'_>, id: NodeId) -> Reason {
    let node = l.graph.node(id);
    let dequantized = |v: ValueId| {
        let producer = l.uses.producer(v).map(|p| l.graph.node(p).op);
        matches!(producer, Some(Op::DequantizeLinear | Op::MsDequantizeLinear))
    };
    let float = |v: &ValueId| l.graph.value(*v).dtype.is_none_or(DType::is_float);
    let open =
        node.inputs.iter().flatten().find(|&v| float(v) && l.graph.value(*v).constant.is_none() && !dequantized(*v));
    match open {
        Some(v) => Reason::InputNotQuantized { input: l.graph.value(*v).name.escape_debug().to_string() },
        None => Reason::NoIntegerForm { op: node.op_name() },
    }
}
